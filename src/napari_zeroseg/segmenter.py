"""What a model is (Segmenter), what it makes of a picture (Embedding) and what it answers (Prediction)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_zeroseg.tiling import Field

if TYPE_CHECKING:
    from napari_zeroseg.prompts import Prompt
    from napari_zeroseg.registry import ModelSpec

Patch = tuple[slice, slice, NDArray[np.bool_]]
"""Rows, columns and the (h, w) bool mask inside them: an object without the empty rest of its plane."""


class Frame(Protocol):
    """How a network's low-resolution answer lies on the picture that was encoded."""

    def patch(self, logits: NDArray[np.float32]) -> Patch:
        """Threshold one (h, w) answer at the picture's resolution, inside the object's bounding box only."""
        ...


@dataclass(frozen=True, eq=False)
class Embedding:
    """What a network made of one picture; prompts are answered from it.

    Attributes
    ----------
    tensors : Mapping of str to array
        The network's own tensors (SAM: "image", 1 x 256 x 64 x 64).
    image_shape : tuple of int
        (H, W) of the picture that was encoded.
    model_key : str
        Weights' hash and version of the preprocessing; another model refuses it.
    field : Field
        Which window of its plane the picture was.
    picture : (H, W) or (H, W, 3) uint8 array or None
        Kept when the plane is too large for one look, so that windows of it can be encoded when prompts ask.
    memo : dict
        What a model derived from the tensors and wants to find again.
    """

    tensors: Mapping[str, Any]
    image_shape: tuple[int, int]
    model_key: str
    field: Field
    picture: NDArray[np.uint8] | None = None
    memo: dict[str, Any] = dataclass_field(default_factory=dict, repr=False)

    def on(self, window: Field) -> Embedding:
        """The same embedding, known as that of `window` of a plane."""
        return replace(self, field=window, picture=None)


@dataclass(frozen=True, eq=False)
class Prediction:
    """The answer to one prompt: K candidate masks, in pixels of the plane.

    Attributes
    ----------
    scores : (K,) float32 array
        IoU that the network predicts for each candidate.
    logits : (K, h, w) float32 array
        The network's answer as it gave it, at its own low resolution.
    frame : Frame
        How `logits` lie on the encoded picture.
    shape : tuple of int
        (H, W) of the plane.
    field : Field
        Which window of the plane was encoded.
    choice : int or None
        Candidate to prefer over that with the highest score.
    """

    scores: NDArray[np.float32]
    logits: NDArray[np.float32]
    frame: Frame
    shape: tuple[int, int]
    field: Field
    choice: int | None = None
    _patches: dict[int, Patch] = dataclass_field(default_factory=dict, repr=False)

    @property
    def best(self) -> int:
        """Index of the candidate with the highest predicted IoU, unless another one is preferred."""
        return int(np.argmax(self.scores)) if self.choice is None else self.choice

    @property
    def order(self) -> list[int]:
        """Indices of the candidates, best first."""
        ranked = [int(k) for k in np.argsort(-self.scores, kind="stable")]
        return [self.best, *(k for k in ranked if k != self.best)]

    def patch(self, k: int | None = None) -> Patch:
        """Mask of candidate `k` (the best if None) inside its bounding box: rows, columns, (h, w) bool.

        Only this box is brought to the plane's resolution, which is what makes a click cheap on a large plane.
        """
        k = self.best if k is None else k
        if k not in self._patches:
            rows, columns, mask = self.frame.patch(self.logits[k])
            r0, c0 = self.field.r0, self.field.c0
            self._patches[k] = (
                slice(rows.start + r0, rows.stop + r0),
                slice(columns.start + c0, columns.stop + c0),
                mask,
            )
        return self._patches[k]

    def extent(self, k: int | None = None) -> tuple[int, int, int, int] | None:
        """Bounding box (row0, column0, row1, column1) of candidate `k`, last pixels included; None if it is empty."""
        rows, columns, mask = self.patch(k)
        if not mask.any():
            return None
        return rows.start, columns.start, rows.stop - 1, columns.stop - 1

    @cached_property
    def masks(self) -> NDArray[np.bool_]:
        """All candidates at the plane's resolution, (K, H, W) bool."""
        return np.stack([self._full(k) for k in range(len(self.scores))])

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """The best candidate at the plane's resolution, (H, W) bool."""
        return self._full(self.best)

    def _full(self, k: int) -> NDArray[np.bool_]:
        full = np.zeros(self.shape, bool)
        rows, columns, mask = self.patch(k)
        full[rows, columns] = mask
        return full

    def on(self, window: Field, shape: tuple[int, int]) -> Prediction:
        """The same answer, known as that of `window` of a plane of `shape` (H, W)."""
        return replace(self, field=window, shape=shape, _patches={})


@runtime_checkable
class Segmenter(Protocol):
    """A model: stateless between calls, so it can be cached, shared by threads and trained."""

    @property
    def spec(self) -> ModelSpec:
        """The row of the model list that this model was loaded from."""
        ...

    @property
    def model_key(self) -> str:
        """Weights' hash, precision and version of the preprocessing: equal keys give equal embeddings."""
        ...

    def encode(self, image: ArrayLike) -> Embedding:
        """Encode a picture (H, W) or (H, W, 3) of any real dtype; uint8 passes unchanged."""
        ...

    def predict(self, embedding: Embedding, prompts: Sequence[Prompt], multimask: bool = False) -> list[Prediction]:
        """Answer each prompt, in pixels of the encoded picture; `multimask` gives three candidates, else one."""
        ...


def predict_each(
    model: Segmenter, embeddings: Sequence[Embedding], prompts: Sequence[Prompt], multimask: bool = False
) -> list[Prediction]:
    """Answer prompts, each from an embedding of its own, in as few batches as the model can.

    Parameters
    ----------
    model : Segmenter
        Where it has a method of this name, its batches go across the embeddings; else each embedding is a batch.
    embeddings : sequence of Embedding
        One a prompt.
    prompts : sequence of Prompt
    multimask : bool
        As for :meth:`Segmenter.predict`.

    Returns
    -------
    list of Prediction
        One a prompt, in order.
    """
    own = getattr(model, "predict_each", None)
    if own is not None:
        found: list[Prediction] = own(embeddings, prompts, multimask)
        return found
    answers: dict[int, Prediction] = {}
    for first in {id(embedding): embedding for embedding in embeddings}.values():
        members = [i for i, embedding in enumerate(embeddings) if embedding is first]
        predictions = model.predict(first, [prompts[i] for i in members], multimask)
        answers.update(zip(members, predictions, strict=True))
    return [answers[i] for i in range(len(prompts))]

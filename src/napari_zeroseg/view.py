"""View: one plane as a model sees it, encoded where its prompts ask for it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg import tiling
from napari_zeroseg.embeddings import EmbeddingStore, as_kept, content_key
from napari_zeroseg.errors import InputError
from napari_zeroseg.planes import is_flat
from napari_zeroseg.prompts import Prompt
from napari_zeroseg.segmenter import Embedding, Prediction, Segmenter, predict_each
from napari_zeroseg.tiling import Field

if TYPE_CHECKING:
    from napari_zeroseg.jobs import CancelToken

FieldChoice = Literal["auto", "plane"] | int
"""Window to encode: chosen by the prompt, the whole plane, or a side in pixels."""

_EVERYTHING = 0.8
"""Part of its window that a candidate must not fill to be preferred for a click (docs/benchmarks.md)."""

_TRUSTED = 0.5
"""Predicted IoU above which a candidate may be preferred to one that fills its window."""

_CLOSER_IS_BETTER = 0.05
"""Predicted IoU by which an answer from farther away must be better to be preferred (docs/benchmarks.md)."""

_SURE = 0.9
"""Predicted IoU from which an answer from near is given without a look from afar (docs/benchmarks.md)."""


@dataclass(frozen=True, eq=False)
class Asked:
    """A prompt in the pixels of a window of the plane, and whether three candidates are wanted."""

    field: Field
    prompt: Prompt
    multimask: bool


class View:
    """One plane as a model sees it.

    Parameters
    ----------
    model : Segmenter
    picture : (H, W) or (H, W, 3) uint8 array
        The plane with its contrast as on the screen.
    store : EmbeddingStore, optional
        Where embeddings are looked for and kept; left out, they live as long as the view.
    whole_embedding : Embedding, optional
        Of the whole plane, if it is there already.
    """

    def __init__(
        self,
        model: Segmenter,
        picture: NDArray[np.uint8],
        store: EmbeddingStore | None = None,
        whole_embedding: Embedding | None = None,
    ) -> None:
        self.model = model
        self.picture = picture
        self.shape: tuple[int, int] = (picture.shape[0], picture.shape[1])
        self.store = store if store is not None else EmbeddingStore()
        self.seconds_encoding = 0.0
        self._whole = whole_embedding
        self._keys: dict[Field, str] = {}

    @property
    def fields(self) -> list[Field]:
        """Windows that this view has looked at."""
        return list(self._keys)

    def embedding(self, field: Field) -> Embedding:
        """Return the embedding of a window: from the store, or encoded now."""
        if self._whole is not None and field == tiling.whole(self.shape):
            return self._whole.on(field)
        key = self._key(field)
        found = self.store.get(key, field.shape, self.model.model_key)
        if found is None:
            found = self._encode(field)
            self.store.put(key, found)
        return found.on(field)

    def prepare(self, field: Field) -> int:
        """Have a window's embedding in the store for later, on its disk alone where it has one.

        Returns
        -------
        int
            Bytes that it takes there.
        """
        key = self._key(field)
        if not self.store.holds(key):
            self.store.put(key, self._encode(field), in_memory=False)
        return self.store.size_of(key)

    def _encode(self, field: Field) -> Embedding:
        start = time.perf_counter()
        embedding = as_kept(self.model.encode(self.picture[field.slices])).on(field)
        self.seconds_encoding += time.perf_counter() - start
        return embedding

    def is_encoded(self, field: Field) -> bool:
        """Whether the window's embedding need not be made."""
        return (self._whole is not None and field == tiling.whole(self.shape)) or self.store.holds(self._key(field))

    def _key(self, field: Field) -> str:
        if field not in self._keys:
            self._keys[field] = content_key(self.picture[field.slices], self.model.model_key)
        return self._keys[field]

    def predict(
        self,
        prompts: Sequence[Prompt],
        multimask: bool | None = False,
        field: FieldChoice = "auto",
        cancel: CancelToken | None = None,
    ) -> list[Prediction]:
        """Answer prompts, each in the window that suits it, all together in as few batches as the model can.

        Parameters
        ----------
        prompts : sequence of Prompt
            (row, column) in pixels of the plane.
        multimask : bool or None
            Three candidates a prompt, or one; None gives three where the prompt is a single click.
        field : "auto", "plane" or int
            "auto" chooses the window by the prompt: around a box or a mask, at least twice as wide. A click does not
            tell the size of its object, so it is looked at from near (512 pixels) and, unless the network is sure of
            what it sees there, from afar (the whole plane, or 1024 pixels of a large one), and the answer that it
            trusts more is given. Where the window cuts the object, a wider one is taken. Models that were made for
            whole pictures (MedSAM, LiteMedSAM) see the plane. "plane" always encodes the whole plane; a number is a
            window's side in pixels.
        cancel : CancelToken, optional
            Looked at between two encodings.

        Returns
        -------
        list of Prediction
            One a prompt, in order, in pixels of the plane.

        Raises
        ------
        InputError
            If a prompt lies outside the plane or `field` is not a choice.
        """
        for prompt in prompts:
            prompt.check_on(self.shape)
        looks = [self._looks(prompt, field) for prompt in prompts]
        found = self._look(prompts, [fields[-1:] for fields in looks], multimask, cancel)
        unsure = [i for i, fields in enumerate(looks) if len(fields) > 1 and not self._is_sure(found[i][-1])]
        from_afar = self._look([prompts[i] for i in unsure], [looks[i][:-1] for i in unsure], multimask, cancel)
        for i, farther in zip(unsure, from_afar, strict=True):
            found[i] = farther + found[i]
        answers = [self._choose(each) for each in found]
        if field == "auto":
            self._widen(answers, prompts, multimask, cancel)
        return answers

    def ahead(self, centre: tuple[float, float] | None = None) -> list[Field]:
        """Return the windows that first clicks need, nearest to `centre` (row, column) first, to encode them ahead."""
        if self.model.spec.whole_picture:
            return [tiling.whole(self.shape)]
        row, column = centre if centre is not None else (self.shape[0] / 2, self.shape[1] / 2)
        large = max(self.shape) > tiling.LARGE_PLANE
        levels = [2 * tiling.SMALLEST_SIDE] if large else [max(self.shape)]
        if levels[0] > tiling.SMALLEST_SIDE:
            levels.append(tiling.SMALLEST_SIDE)
        fields: list[Field] = []
        for side in levels:
            near = tiling.tiles(self.shape, side)
            fields += sorted(near, key=lambda f: abs(f.r0 + f.r1 - 2 * row) + abs(f.c0 + f.c1 - 2 * column))
        return [field for field in fields if not is_flat(self.picture[field.slices])]

    def _looks(self, prompt: Prompt, choice: FieldChoice) -> list[Field]:
        """Windows in which to look for what `prompt` means, wider ones first."""
        extent = prompt.extent()
        if choice == "auto" and self.model.spec.whole_picture:
            choice = "plane"
        if choice == "plane" or extent is None:
            return [tiling.whole(self.shape)]
        extent = _clipped(extent, self.shape)
        if isinstance(choice, int):
            if choice < tiling.NARROWEST:
                raise InputError(f"A field of view is at least {tiling.NARROWEST} pixels wide; got {choice}.")
            return [self._not_flat(tiling.window_for(self.shape, extent, at_least=choice), extent)]
        if choice != "auto":
            raise InputError(f"A field of view is 'auto', 'plane' or a number of pixels; got {choice!r}.")
        close = self._not_flat(tiling.window_for(self.shape, extent), extent)
        if prompt.box is not None or prompt.mask is not None:
            return [close]
        # a click does not say how large its object is: look from afar and from near
        if max(self.shape) <= tiling.LARGE_PLANE:
            far = tiling.whole(self.shape)
        else:
            far = self._not_flat(tiling.window_for(self.shape, extent, 2 * tiling.SMALLEST_SIDE), extent)
        return [far] if far == close else [far, close]

    def _is_sure(self, found: Prediction) -> bool:
        """Whether no look from farther away is worth its time."""
        return self._trust(found) >= _SURE

    def _trust(self, found: Prediction) -> float:
        """IoU that the network predicts of an answer; -1 where its window does not show the object whole."""
        extent = found.extent()
        if extent is None or _is_cut(extent, found.field, self.shape):
            return -1.0
        return float(found.scores[found.best])

    def _choose(self, found: Sequence[Prediction]) -> Prediction:
        """The answer that the network trusts most, among those that their window shows whole; the closest in doubt."""
        if len(found) == 1:
            return found[0]
        merits = [self._trust(answer) for answer in found]
        merits = [merit + _CLOSER_IS_BETTER * look * (merit >= 0) for look, merit in enumerate(merits)]
        return found[max(range(len(found)), key=merits.__getitem__)]

    def _widen(
        self, answers: list[Prediction], prompts: Sequence[Prompt], multimask: bool | None, cancel: CancelToken | None
    ) -> None:
        """Look again from farther away where the window cuts the object, until it does not or is no longer seen."""
        vanished: set[int] = set()
        while True:
            wider: dict[int, Field] = {}
            for i, answer in enumerate(answers):
                extent = answer.extent()
                if i not in vanished and extent is not None and _is_cut(extent, answer.field, self.shape):
                    together = _clipped(_union(extent, prompts[i].extent() or extent), self.shape)
                    wider[i] = tiling.window_for(self.shape, together, at_least=max(answer.field.shape) + 1)
            if not wider:
                return
            found = self._look([prompts[i] for i in wider], [[field] for field in wider.values()], multimask, cancel)
            for i, (prediction,) in zip(wider, found, strict=True):
                if prediction.extent() is None:
                    vanished.add(i)
                else:
                    answers[i] = prediction

    def _look(
        self,
        prompts: Sequence[Prompt],
        looks: Sequence[Sequence[Field]],
        multimask: bool | None,
        cancel: CancelToken | None,
    ) -> list[list[Prediction]]:
        """Answer each prompt in each of its windows."""
        places = [(i, field) for i, fields in enumerate(looks) for field in fields]
        asked = [
            Asked(field, _moved(prompts[i], field), prompts[i].is_ambiguous if multimask is None else multimask)
            for i, field in places
        ]
        answers = {places[place]: _not_everything(found) for place, found in self.answers(asked, cancel)}
        return [[answers[i, field] for field in fields] for i, fields in enumerate(looks)]

    def answers(self, asked: Sequence[Asked], cancel: CancelToken | None = None) -> Iterator[tuple[int, Prediction]]:
        """Answer prompts in windows that are given; the decoder's batches go across the windows.

        Each window is encoded once, and no more of them are held than the prompts of a batch need.

        Parameters
        ----------
        asked : sequence of Asked
        cancel : CancelToken, optional
            Looked at between two encodings, and between the decoder's batches.

        Yields
        ------
        tuple of int and Prediction
            Place in `asked`, and the answer in pixels of the plane; window by window.
        """
        # without batches across windows, to wait for more prompts would hold embeddings for nothing
        at_once = getattr(self.model, "prompts_at_once", 1) if hasattr(self.model, "predict_each") else 1
        members: dict[Field, list[int]] = {}
        for place, one in enumerate(asked):
            members.setdefault(one.field, []).append(place)
        waiting: dict[bool, list[tuple[int, Embedding]]] = {False: [], True: []}
        for number, (field, places) in enumerate(members.items(), 1):
            if cancel is not None:
                cancel.raise_if_cancelled()
            embedding = self.embedding(field)
            for place in places:
                waiting[asked[place].multimask].append((place, embedding))
            for multimask, those in waiting.items():
                ready = len(those) if number == len(members) else len(those) - len(those) % at_once
                batch = at_once if at_once > 1 else max(ready, 1)
                for start in range(0, ready, batch):
                    if start and cancel is not None:
                        cancel.raise_if_cancelled()
                    yield from self._answered(asked, those[start : min(start + batch, ready)], multimask)
                del those[:ready]

    def _answered(
        self, asked: Sequence[Asked], those: Sequence[tuple[int, Embedding]], multimask: bool
    ) -> Iterator[tuple[int, Prediction]]:
        prompts = [asked[place].prompt for place, _ in those]
        found = predict_each(self.model, [embedding for _, embedding in those], prompts, multimask)
        for (place, _), prediction in zip(those, found, strict=True):
            yield place, prediction.on(asked[place].field, self.shape)

    def _not_flat(self, field: Field, extent: tuple[float, float, float, float]) -> Field:
        """A window of one single value tells nothing: look at a wider one."""
        while field != tiling.whole(self.shape) and is_flat(self.picture[field.slices]):
            field = tiling.window_for(self.shape, extent, at_least=max(field.shape) + 1)
        return field


def _not_everything(prediction: Prediction) -> Prediction:
    """Prefer a candidate that is an object: one that fills the window is trusted most, but seldom meant by a click."""
    if len(prediction.scores) == 1:
        return prediction
    height, width = prediction.shape
    # a look at the low resolution spares bringing all candidates to the plane's; its padding is background
    suspicious = (prediction.logits > 0).mean((1, 2)) > _EVERYTHING * min(height, width) / max(height, width) - 0.05
    objects = [
        k
        for k, doubt in enumerate(suspicious)
        if not doubt or np.count_nonzero(prediction.patch(k)[2]) < _EVERYTHING * height * width
    ]
    if prediction.best in objects:
        return prediction
    objects = [k for k in objects if prediction.scores[k] > _TRUSTED and prediction.patch(k)[2].any()]
    if not objects:
        return prediction
    return replace(prediction, choice=max(objects, key=lambda k: float(prediction.scores[k])))


def _is_cut(found: tuple[int, int, int, int], field: Field, shape: tuple[int, int]) -> bool:
    """Whether an object touches a side of the window that is not a side of the plane."""
    return (
        (found[0] <= field.r0 and field.r0 > 0)
        or (found[1] <= field.c0 and field.c0 > 0)
        or (found[2] >= field.r1 - 1 and field.r1 < shape[0])
        or (found[3] >= field.c1 - 1 and field.c1 < shape[1])
    )


def _clipped(extent: tuple[float, ...], shape: tuple[int, int]) -> tuple[float, float, float, float]:
    """What lies on the plane of a box that may stick out of it."""
    (r0, r1), (c0, c1) = (
        (min(max(first, 0), length - 1), min(max(last, 0), length - 1))
        for first, last, length in zip(extent[:2], extent[2:], shape, strict=True)
    )
    return r0, c0, r1, c1


def _union(a: tuple[float, ...], b: tuple[float, ...]) -> tuple[float, float, float, float]:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def _moved(prompt: Prompt, field: Field) -> Prompt:
    """The same prompt in the window's own pixels; what sticks out of the window is cut."""
    origin = np.array([field.r0, field.c0], np.float32)
    height, width = field.shape
    points, labels = prompt.points - origin, prompt.labels
    if len(points):
        inside = ((points >= -0.5) & (points <= np.array([height - 0.5, width - 0.5]))).all(1)
        points, labels = points[inside], labels[inside]
    box = None
    if prompt.box is not None:
        box = prompt.box - np.tile(origin, 2)
    mask = None if prompt.mask is None else prompt.mask[field.slices]
    return Prompt(points, labels, box, mask, prompt.text)

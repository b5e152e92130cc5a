"""CLIPSeg behind the Segmenter protocol: what a phrase names, wherever it is on a picture.

Lüddecke and Ecker, "Image segmentation using text and image prompts", CVPR 2022.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from napari_zeroseg.catalogue import CLIPSEG
from napari_zeroseg.devices import is_out_of_memory, memory_error, release
from napari_zeroseg.errors import InputError
from napari_zeroseg.models.calls import check_call, check_kinds
from napari_zeroseg.models.clipseg_conditions import highlighted_pixels_of, mix, pixels_of
from napari_zeroseg.models.clipseg_convert import convert_original, has_clip, is_original
from napari_zeroseg.models.clipseg_network import ClipSegNetwork, build_module
from napari_zeroseg.models.clipseg_taught import TaughtConditions
from napari_zeroseg.models.clipseg_text import PhraseMemory, Vocabulary, find_vocabulary
from napari_zeroseg.models.pipelines import seen
from napari_zeroseg.models.probability_frame import ProbabilityFrame, at_threshold, heat_map
from napari_zeroseg.segmenter import Embedding, Prediction
from napari_zeroseg.tiling import whole
from napari_zeroseg.weights import Weights, locate, weights_of
from napari_zeroseg.weights.reading import FOLDER_FILES, read_file

if TYPE_CHECKING:
    from napari_zeroseg.prompts import Prompt
    from napari_zeroseg.registry import ModelSpec
    from napari_zeroseg.weights import Found

__all__ = ["ClipSegSegmenter", "at_threshold", "build", "heat_map", "mix"]

_log = logging.getLogger(__name__)

BATCH = {"cpu": 16, "cuda": 64, "mps": 16}
_PREPROCESSING = "clipseg-1"


def build(spec: ModelSpec, weights: Weights, device: torch.device, dtype: torch.dtype) -> ClipSegSegmenter:
    """Build CLIPSeg from transformers' layout or from a file of its authors' repository, strictly.

    A file that holds the decoder alone takes CLIP from a CLIPSeg that lies beside it or is on this machine already.

    Raises
    ------
    WeightsError
        If the weights are another model's, or there is no CLIP for a decoder alone.
    """
    vocabulary = find_vocabulary(weights.folder)
    if vocabulary is None:  # it is the same for every CLIPSeg
        vocabulary = find_vocabulary(*(found.path.parent for _, found in _on_this_machine()))
    tensors, folder, name = official(weights)
    module = build_module(tensors, folder, spec.title)
    return ClipSegSegmenter(spec, module, name, vocabulary, device, dtype)


def official(weights: Weights) -> tuple[Mapping[str, Tensor], Path | None, str]:
    """Return tensors under transformers' names, where their configuration may lie, and what tells them from others.

    Raises
    ------
    WeightsError
        If there is no CLIP for a decoder alone.
    """
    name = weights.sha256[:16]
    if not is_original(weights.tensors):
        return weights.tensors, weights.folder, name
    beside = None if has_clip(weights.tensors) else _other_clipseg(weights.folder)
    tensors = convert_original(weights.tensors, beside.tensors if beside else None)
    # what configuration lies there is of other weights
    return tensors, None, f"{name}-{beside.sha256[:8]}" if beside else name


def _on_this_machine() -> list[tuple[ModelSpec, Found]]:
    """CLIPSegs that need no download, and where they are."""
    return [(spec, found) for spec in CLIPSEG if (found := locate(spec)) is not None]


def _other_clipseg(folder: Path | None) -> Weights | None:
    """A CLIPSeg under transformers' names: beside the file that is loaded, else any that is on this machine."""
    beside = [folder / name for name in FOLDER_FILES] if folder is not None else []
    for path in beside:
        if path.is_file():
            return read_file(path)
    candidates = (weights_of(spec) for spec, _ in _on_this_machine())
    return next((found for found in candidates if not is_original(found.tensors)), None)


class ClipSegSegmenter:
    """CLIPSeg, ready on one device.

    Parameters
    ----------
    spec : ModelSpec
    module : torch.nn.Module
        transformers' CLIPSegForImageSegmentation, in float32, with its weights.
    weights_name : str
        What tells the weights from any others.
    vocabulary : Path or None
        Folder of CLIP's tokenizer; without it, only pictures can be looked for.
    device, dtype
        Where and in what precision it runs; words are read in float32.
    """

    def __init__(
        self,
        spec: ModelSpec,
        module: nn.Module,
        weights_name: str,
        vocabulary: Path | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.spec = spec
        self.device = device
        self.dtype = dtype
        self.vocabulary = vocabulary
        self.model_key = f"{weights_name}-{_PREPROCESSING}-{str(dtype).removeprefix('torch.')}"
        self.network = ClipSegNetwork(module, device, dtype)
        length = int(self.network.config.text_config.max_position_embeddings)
        self._phrases = PhraseMemory(Vocabulary(vocabulary, spec.title, length), self.network.text_conditions)
        self._taught = TaughtConditions(self.model_key, int(self.network.config.projection_dim))

    def with_decoder(self, decoder: nn.Module) -> ClipSegSegmenter:
        """Return the same model with another decoder; embeddings are good for both, and all else is shared.

        Words that were taught to the one are not asked for by their fitted vectors in :meth:`predict_conditions`.
        """
        other = copy.copy(self)
        other.network = self.network.with_decoder(decoder)
        return other

    def encode(self, image: ArrayLike) -> Embedding:
        """Encode a picture.

        Parameters
        ----------
        image : (H, W) or (H, W, 3) array_like
            Any real dtype; uint8 passes unchanged, anything else is brought to uint8 between its 0.1 and 99.9
            percentiles.

        Returns
        -------
        Embedding
            "activations": what the decoder reads, (3, 485, 768) for the published models.

        Raises
        ------
        InputError, InputTypeError
            If the picture is empty, constant, all NaN, complex, bool or of other dimensions.
        DeviceMemoryError
            If the device's memory is not enough.
        """
        picture = seen(image)
        activations = self.network.activations(pixels_of(picture))
        shape = (picture.shape[0], picture.shape[1])
        return Embedding({"activations": activations}, shape, self.model_key, whole(shape))

    def predict(self, embedding: Embedding, prompts: Sequence[Prompt], multimask: bool = False) -> list[Prediction]:
        """Find what each prompt's phrase names; one that was taught to this model is asked for by its fitted vector.

        Parameters
        ----------
        embedding : Embedding
            From :meth:`encode` of this model.
        prompts : sequence of Prompt
            Each with a text, which is one phrase, commas or not (:func:`napari_zeroseg.phrases.split_phrases` splits
            a line); its box, if it has one, restricts the mask.
        multimask : bool
            Has no meaning here: there is one candidate.

        Returns
        -------
        list of Prediction
            One a prompt, in order. `logits` are (1, 352, 352); the mask is where the probability is above one half
            (:func:`at_threshold` changes that, :func:`heat_map` shows all of it); the score is the mean probability
            inside the mask, which tells answers to one phrase apart, and is no IoU.

        Raises
        ------
        InputError
            If the embedding is another model's, a prompt has no text or lies outside.
        WeightsError
            If the vocabulary is not beside the weights.
        """
        check_call(embedding, prompts, self.model_key)
        for prompt in prompts:
            check_kinds(self.spec, prompt)
            prompt.check_on(embedding.image_shape)
        texts = [_text_of(prompt, self.spec.title) for prompt in prompts]
        phrases = list(dict.fromkeys(texts))
        if not phrases:
            return []
        logits = self._logits(embedding, self._conditions_of(phrases))
        of_phrase = dict(zip(phrases, logits, strict=True))
        return [_prediction(embedding, of_phrase[t], p.box) for t, p in zip(texts, prompts, strict=True)]

    def predict_conditions(self, embedding: Embedding, conditions: ArrayLike) -> list[Prediction]:
        """Find what conditions of words, of examples, or mixed of both stand for.

        Parameters
        ----------
        embedding : Embedding
            From :meth:`encode` of this model.
        conditions : (N, P) array_like of float
            From :meth:`text_conditions`, :meth:`picture_condition` and :func:`mix`; P is 512 for the published models.

        Returns
        -------
        list of Prediction
            N, as those of :meth:`predict`.

        Raises
        ------
        InputError
            If the embedding is another model's or the conditions are not finite numbers of that shape.
        """
        self._check_own(embedding)
        array = np.asarray(conditions, np.float32)
        width = int(self.network.config.projection_dim)
        if array.ndim != 2 or array.shape[1] != width or not np.isfinite(array).all():
            raise InputError(
                f"Conditions are finite numbers of shape (N, {width}), as this model's own methods give them; got "
                f"shape {array.shape}."
            )
        return [_prediction(embedding, logits, None) for logits in self._logits(embedding, array)]

    def text_conditions(self, phrases: Sequence[str], *, bare: bool = False) -> NDArray[np.float32]:
        """Return CLIP's (N, P) float32 embeddings of N phrases, not normalised; each is computed once.

        Parameters
        ----------
        phrases : sequence of str
            In place of CLIP's embedding, those that were taught to this model give their fitted vectors.
        bare : bool
            CLIP's embeddings of these too.

        Raises
        ------
        InputError
            If a phrase is empty.
        WeightsError
            If the vocabulary is not beside the weights.
        """
        if not all(phrase.strip() for phrase in phrases):
            raise InputError("A phrase is empty: name what to find, for example 'lung'.")
        if not phrases:
            return np.zeros((0, int(self.network.config.projection_dim)), np.float32)
        return self._conditions_of([phrase.strip() for phrase in phrases], bare)

    def is_taught(self, phrase: str) -> bool:
        """Whether a phrase was taught to this model, so that it is asked for by its fitted vector."""
        return self._taught(phrase) is not None

    def picture_condition(self, image: ArrayLike, mask: ArrayLike | None = None) -> NDArray[np.float32]:
        """Return CLIP's (P,) float32 embedding of an example, not normalised.

        Parameters
        ----------
        image : (H, W) or (H, W, 3) array_like
            As for :meth:`encode`.
        mask : (H, W) array_like of bool, optional
            The object on it, which is shown close, with its surroundings blurred and dimmed. Left out, the whole
            picture is the example.

        Raises
        ------
        InputError, InputTypeError
            If the picture cannot be worked with, or the mask is empty or of another shape.
        """
        picture = seen(image)
        pixels = pixels_of(picture) if mask is None else highlighted_pixels_of(picture, _example(mask, picture))
        with memory_watched(self.device, "looking at an example"), torch.inference_mode():
            condition = self.network.picture_conditions(pixels)[0].cpu()
        return np.asarray(condition.numpy())

    def cut(self, phrase: str) -> str:
        """Return the end of a phrase that the model has no room to read, "" if it reads all of it."""
        return "" if self.is_taught(phrase) else self._phrases.cut(phrase.strip())

    def activations_of(self, embedding: Embedding) -> Tensor:
        """Return the decoder's inputs, (blocks, patches + 1, channels), on the device and brought there once."""
        name = f"activations on {self.device}"
        if name not in embedding.memo:
            held = torch.as_tensor(embedding.tensors["activations"])
            embedding.memo[name] = held.to(self.device, self.dtype)
        there: Tensor = embedding.memo[name]
        return there

    def _check_own(self, embedding: Embedding) -> None:
        if embedding.model_key != self.model_key:
            raise InputError("This embedding was made by another model: encode the picture with this one first.")

    def _conditions_of(self, phrases: Sequence[str], bare: bool = False) -> NDArray[np.float32]:
        taught = {} if bare else {phrase: self._taught(phrase) for phrase in phrases}
        found = {phrase: condition for phrase, condition in taught.items() if condition is not None}
        missing = [phrase for phrase in dict.fromkeys(phrases) if phrase not in found]
        if missing:
            with memory_watched(self.device, f"reading {len(missing)} phrases"):
                found.update(zip(missing, self._phrases.conditions(missing), strict=True))
        return np.stack([found[phrase] for phrase in phrases])

    def _logits(self, embedding: Embedding, conditions: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """(N, P) conditions to N answers of (352, 352), a batch at a time."""
        size = BATCH[self.device.type]
        answers: list[NDArray[np.float32]] = []
        while len(answers) < len(conditions):
            batch = torch.from_numpy(conditions[len(answers) : len(answers) + size])
            try:
                with torch.inference_mode():
                    answers += list(self.network.decode(self.activations_of(embedding), batch).cpu().numpy())
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(batch) == 1:
                    raise memory_error(self.device, "looking for a phrase") from error
                size = len(batch) // 2
                release(self.device)
                _log.info("%s is short of memory: phrases are looked for %d at a time.", self.device, size)
        return answers


@contextmanager
def memory_watched(device: torch.device, doing: str) -> Iterator[None]:
    """Say in a sentence that the device's memory is not enough.

    Raises
    ------
    DeviceMemoryError
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise memory_error(device, doing) from error
        raise


def _example(mask: ArrayLike, picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    marked = np.asarray(mask).astype(bool)
    if marked.shape != picture.shape[:2]:
        raise InputError(
            f"The mask has shape {marked.shape} but the example has {picture.shape[:2]}: give one of its own shape."
        )
    if not marked.any():
        raise InputError("The mask of the example is empty: mark the object on it.")
    return marked


def _text_of(prompt: Prompt, title: str) -> str:
    if prompt.text is None:
        raise InputError(
            f"{title} finds what words name, and a box only restricts where: give a text with the box, for example "
            "'lung'."
        )
    return prompt.text


def _prediction(embedding: Embedding, logits: NDArray[np.float32], box: NDArray[np.float32] | None) -> Prediction:
    if box is None:
        frame = ProbabilityFrame(embedding.image_shape)
    else:
        r0, c0, r1, c1 = (float(side) for side in box)
        frame = ProbabilityFrame(embedding.image_shape, (r0, c0, r1, c1))
    scores = np.array([frame.score(logits)], np.float32)
    return Prediction(scores, logits[None], frame, embedding.image_shape, embedding.field)

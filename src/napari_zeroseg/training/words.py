"""CLIPSeg's decoder, trained on words: CLIP stays as it is, and what it sees of a window is kept.

Lüddecke and Ecker, "Image segmentation using text and image prompts", CVPR 2022. As there, a part of the phrases names
what is not on the picture, and the answer to those is nothing.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_zeroseg.cascade.heat import blended, windows
from napari_zeroseg.embeddings import EmbeddingStore
from napari_zeroseg.errors import InputError
from napari_zeroseg.metrics import Counts
from napari_zeroseg.models.clipseg import ClipSegSegmenter, official
from napari_zeroseg.models.clipseg_conditions import SIDE
from napari_zeroseg.models.clipseg_fit import target_of
from napari_zeroseg.models.clipseg_text import VOCABULARY_FILES
from napari_zeroseg.models.probability_frame import heat_map
from napari_zeroseg.planes import is_flat
from napari_zeroseg.registry import load_model
from napari_zeroseg.tiling import Field
from napari_zeroseg.training.bases import check_base, form_of
from napari_zeroseg.training.config import TrainingConfig
from napari_zeroseg.training.data import IGNORE, TrainingData, TrainingObject
from napari_zeroseg.training.losses import mask_loss
from napari_zeroseg.training.patches import Patch, Patches
from napari_zeroseg.training.processes import ALONE, Processes
from napari_zeroseg.training.prompts import Mask
from napari_zeroseg.training.split import Region
from napari_zeroseg.training.validation import MaskScores
from napari_zeroseg.view import View
from napari_zeroseg.weights import weights_of

NOWHERE = ("a cat", "the sky", "a street", "a bicycle", "a house", "a tree", "a cup", "a shoe", "a boat", "letters")
"""Everyday words for what is on no picture of this kind."""

NOWHERE_SHARE = 0.2
"""Part of the phrases of a step that are of these, as in the paper."""

ASKED = 3
"""Words at most that are asked for on one window in one step."""

_DECODER = "decoder."


class WordNetwork:
    """CLIPSeg with a decoder in float32 that has gradients.

    Parameters
    ----------
    config : TrainingConfig

    Raises
    ------
    InputError, UnknownModelError, WeightsError
        If there is no such base, its weights or its vocabulary are not here, or it cannot be trained.
    """

    trains_encoder = False

    def __init__(self, config: TrainingConfig) -> None:
        spec = check_base(config.base, config.what, config.words)
        self.form = form_of(spec, config.what)
        loaded = load_model(config.base, device=config.device, precision=config.precision)
        assert isinstance(loaded, ClipSegSegmenter)
        self.model = loaded
        weights = weights_of(spec)
        self.base_sha256 = weights.sha256
        tensors, _, _ = official(weights)
        self.base_tensors: Mapping[str, Tensor] = {
            name: tensor for name, tensor in tensors.items() if not name.endswith(".position_ids")
        }
        self.modules = self._decoder_of(self.base_tensors).float().requires_grad_(True)
        phrases = list(dict.fromkeys([*config.words, *NOWHERE]))
        # what was taught to the base is no longer meant once the decoder has changed
        read = loaded.text_conditions(phrases, bare=True)
        self.conditions = dict(zip(phrases, read, strict=True))

    def encoder_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """None: CLIP stays as it is."""
        yield from ()

    def decoder_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Trained parameters of the decoder."""
        for name, parameter in self.modules.named_parameters():
            yield _DECODER + name, parameter

    def rate_of(self, name: str) -> float:
        """Learning rate of a trained parameter as part of the configuration's."""
        return 1.0

    def activations(self, patches: Patches, patch: Patch, store: EmbeddingStore) -> Tensor:
        """(blocks, places, channels) float32 with the digits that a file keeps, so that a resumed run sees the same."""
        held = patches.encoded(patch, self.model, store).tensors["activations"]
        return torch.as_tensor(held).half().float().to(self.model.device)

    def logits(self, activations: Tensor, phrases: Sequence[str]) -> Tensor:
        """(N, 352, 352) float32 answers to N phrases on one patch."""
        conditions = torch.from_numpy(np.stack([self.conditions[phrase] for phrase in phrases])).to(activations)
        expanded = [layer.expand(len(phrases), -1, -1) for layer in activations]
        answer: Tensor = self.modules(expanded, conditions).logits
        return answer.reshape(len(phrases), SIDE, SIDE)

    def changed(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors under their official names, from trained parameters by name."""
        return {name: value.detach().float().cpu().contiguous() for name, value in values.items()}

    def model_with(self, changed: Mapping[str, Tensor], name: str) -> ClipSegSegmenter:
        """The model with another decoder; its embeddings are the base's."""
        return self.model.with_decoder(self._decoder_of(changed))

    def lay_beside(self, folder: Path) -> None:
        """Write what has to lie beside the weights: their sizes and CLIP's vocabulary."""
        sizes = {**json.loads(self.model.network.config.to_json_string(use_diff=False)), "model_type": "clipseg"}
        (folder / "config.json").write_text(json.dumps(sizes, indent=2), encoding="utf-8")
        for name in (name for files in VOCABULARY_FILES for name in files):
            if self.model.vocabulary is not None and (self.model.vocabulary / name).is_file():
                shutil.copyfile(self.model.vocabulary / name, folder / name)

    def _decoder_of(self, tensors: Mapping[str, Tensor]) -> nn.Module:
        decoder: nn.Module = copy.deepcopy(self.model.network.decoder).float()
        own = {name: tensor for name, tensor in tensors.items() if name.startswith(_DECODER)}
        decoder.load_state_dict({name.removeprefix(_DECODER): tensor.float() for name, tensor in own.items()})
        return decoder.to(self.model.device)


class Named:
    """Which pixels of labelled planes the words name.

    Parameters
    ----------
    config : TrainingConfig
    data : TrainingData
    """

    def __init__(self, config: TrainingConfig, data: TrainingData) -> None:
        self.words = config.words
        self._labels: dict[int, dict[int, int]] = {}
        for one in data.objects:
            self._labels.setdefault(one.plane, {})[one.number] = one.label

    def on(self, word: str, plane: int, objects: NDArray[np.int32]) -> Mask:
        """(H, W) bool where numbered objects of a plane are of a word."""
        labels = self.words[word]
        known = self._labels.get(plane, {})
        mask: Mask = np.isin(objects, [number for number, label in known.items() if not labels or label in labels])
        return mask

    def counts(self, plane: int, objects: NDArray[np.int32]) -> Mask:
        """(H, W) bool: neither to be ignored nor of an object that was left out for its size."""
        mask: Mask = np.isin(objects, [0, *self._labels.get(plane, {})])
        return mask

    def of(self, one: TrainingObject) -> str:
        """The first word that names an object; that of the first word where none does."""
        naming = (word for word, labels in self.words.items() if not labels or one.label in labels)
        return next(naming, next(iter(self.words)))


class WordTask:
    """What words name, on windows of all training planes.

    Parameters
    ----------
    config : TrainingConfig
    network : WordNetwork
    patches : Patches
    planes : sequence of int
    store : EmbeddingStore
    processes : Processes
        Who share each step.
    """

    def __init__(
        self,
        config: TrainingConfig,
        network: WordNetwork,
        patches: Patches,
        planes: Sequence[int],
        store: EmbeddingStore,
        processes: Processes = ALONE,
    ) -> None:
        self._processes = processes
        self._config, self._network, self._patches, self._store = config, network, patches, store
        self._named = Named(config, patches.data)
        self._loss = mask_loss(config.loss)
        self._windows = [(plane, field) for plane in planes for field in windows(patches.data.planes[plane].shape)]
        self._windows = [(plane, field) for plane, field in self._windows if not self._is_flat(plane, field)]
        if not self._windows:
            raise InputError(
                "All planes to learn the words from are of one single value: choose pictures that show something."
            )
        self._at_once = max(1, config.batch // (ASKED + 1))

    def steps(self) -> int:
        """How many steps show every window once."""
        return max(1, round(len(self._windows) / self._at_once))

    def trained(self) -> Iterable[nn.Module]:
        """The decoder."""
        return [self._network.modules]

    def windows(self) -> Iterable[tuple[int, Field]]:
        """Windows of planes that the encoder is run on."""
        return self._windows

    def step(self, number: int, part: float = 1.0) -> float:
        """Learn the windows of step `number`, counted over all epochs."""
        total = 0.0
        for place in self._processes.share(range(number * self._at_once, (number + 1) * self._at_once)):
            epoch, index = divmod(place, len(self._windows))
            order = np.random.default_rng([self._config.seed, 3, epoch]).permutation(len(self._windows))
            plane, field = self._windows[order[index]]
            rng = np.random.default_rng([self._config.seed, 5, place])
            loss = self._loss_of(Patch(plane, field, int(rng.integers(self._config.variants))), rng) / self._at_once
            loss.backward()
            total += float(loss.detach())
        return total

    def _loss_of(self, patch: Patch, rng: np.random.Generator) -> Tensor:
        seen = self._patches.see(patch)
        phrases = self._asked(rng)
        masks = [
            self._named.on(phrase, patch.plane, seen.objects)
            if phrase in self._named.words
            else np.zeros(seen.shape, bool)
            for phrase in phrases
        ]
        device = self._network.model.device
        target = torch.stack([target_of(mask) for mask in masks]).to(device)
        # cells that lie in part on what is to be ignored do not count
        weight = (target_of(self._named.counts(patch.plane, seen.objects)) > 1 - 1e-4).float().to(device)
        logits = self._network.logits(self._network.activations(self._patches, patch, self._store), phrases)
        return self._loss(logits, target, weight.expand_as(target)).mean()

    def _asked(self, rng: np.random.Generator) -> list[str]:
        """Some of the words, and now and then one for what is nowhere."""
        words = sorted(self._named.words)
        asked = [words[int(i)] for i in rng.permutation(len(words))[:ASKED]]
        if rng.random() < len(asked) * NOWHERE_SHARE / (1 - NOWHERE_SHARE):
            others = [word for word in NOWHERE if word not in self._named.words]
            asked.append(others[int(rng.integers(len(others)))])
        return asked

    def _is_flat(self, plane: int, field: Field) -> bool:
        picture, _ = self._patches.data.read(plane)
        return is_flat(picture[field.slices])


class WordJudge:
    """Scores CLIPSeg by its words on held-back planes.

    Parameters
    ----------
    config : TrainingConfig
    data : TrainingData
    network : WordNetwork
        Whose conditions stand for the words.
    held : sequence of Region
        Where only parts of planes are held back, those.
    """

    def __init__(
        self, config: TrainingConfig, data: TrainingData, network: WordNetwork, held: Sequence[Region] = ()
    ) -> None:
        self._data, self._held = data, held
        self._named = Named(config, data)
        self._conditions = {word: network.conditions[word] for word in config.words}

    def score(
        self,
        model: ClipSegSegmenter,
        objects: Sequence[TrainingObject],
        all_kinds: bool,
        store: EmbeddingStore,
        step: Callable[[], None],
    ) -> dict[str, MaskScores]:
        """IoU and Dice of each word on each plane that holds one of the objects.

        A plane without the word counts too: 1 if nothing is found there, else 0. A word that is on none of them is
        left out, since nothing can be told of it.
        """
        planes = sorted({one.plane for one in objects})
        found: dict[str, list[Counts]] = {word: [] for word in self._conditions}
        for plane in planes:
            step()
            picture, numbers = self._data.read(plane)
            counted = self._counted(plane, numbers)
            for word, heat in zip(found, self._heat(model, picture, list(found), store), strict=True):
                drawn, true = (heat > 0.5) & counted, self._named.on(word, plane, numbers) & counted
                found[word].append(Counts(*(int(np.count_nonzero(mask)) for mask in (drawn & true, drawn, true))))
        # in quotes: a word may be called as a kind of prompt is
        return {
            f"'{word}'": MaskScores(np.array([one.iou for one in counts]), np.array([one.dice for one in counts]))
            for word, counts in found.items()
            if any(one.truth for one in counts)
        }

    def answers(
        self, model: ClipSegSegmenter, objects: Sequence[TrainingObject], store: EmbeddingStore
    ) -> list[NDArray[np.bool_]]:
        """(H, W) bool of what the word of each object is found to name."""
        pictures = [self._data.read(one.plane)[0] for one in objects]
        return [
            self._heat(model, picture, [self._named.of(one)], store)[0] > 0.5
            for one, picture in zip(objects, pictures, strict=True)
        ]

    def truth(self, one: TrainingObject, numbers: NDArray[np.int32]) -> Mask:
        """(H, W) bool of what the word of an object names."""
        return self._named.on(self._named.of(one), one.plane, numbers)

    def _counted(self, plane: int, numbers: NDArray[np.int32]) -> Mask:
        counted: Mask = self._named.counts(plane, numbers) & (numbers != IGNORE)
        held = [region for region in self._held if region[0] == plane]
        if held:
            inside = np.zeros(counted.shape, bool)
            for _, r0, c0, r1, c1 in held:
                inside[r0:r1, c0:c1] = True
            counted &= inside
        return counted

    def _heat(
        self, model: ClipSegSegmenter, picture: NDArray[np.uint8], words: Sequence[str], store: EmbeddingStore
    ) -> NDArray[np.float16]:
        """(words, H, W) probabilities."""
        view = View(model, picture, store)
        conditions = np.stack([self._conditions[word] for word in words])

        def look(field: Field) -> Iterator[NDArray[np.float32]]:
            return (heat_map(answer) for answer in model.predict_conditions(view.embedding(field), conditions))

        return blended(picture, len(words), look)

"""What one step learns: answers to prompts, and the class without any. Both say their units of work and give a loss."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from napari_zeroseg.embeddings import EmbeddingStore
from napari_zeroseg.errors import InputError
from napari_zeroseg.models.prompt_embedding import SparsePrompts
from napari_zeroseg.planes import is_flat
from napari_zeroseg.prompts import Prompt
from napari_zeroseg.tiling import Field
from napari_zeroseg.training.classes import ClassHead, cells_of, class_loss, fields_of, maps_of, picture_of, targets_of
from napari_zeroseg.training.config import TrainingConfig
from napari_zeroseg.training.data import IGNORE, TrainingObject
from napari_zeroseg.training.decoding import Decoding, Prompter, TrainableDecoding
from napari_zeroseg.training.losses import NEEDS_NEIGHBOURS, iou_loss, mask_loss
from napari_zeroseg.training.networks import Network
from napari_zeroseg.training.patches import Patch, Patches, Seen, far, near, prompt_on
from napari_zeroseg.training.processes import ALONE, Processes
from napari_zeroseg.training.prompts import Mask, corrected, draw, usable
from napari_zeroseg.training.sampling import sampled

NEAR_SHARE = 2 / 3
"""Part of the clicks that are learnt in the window from near; inference prefers it in doubt."""

OTHERS = 0.3
"""Weight of the mean loss of a click's candidates beside that of the best one, and of the single answer. The labels say
what every click means, so that whichever candidate is chosen should show it; the best one leads all the same."""

CLASS_BATCH = 4
"""Windows a step for the class."""


def variant_of(config: TrainingConfig, drawn: int, epoch: int) -> int:
    """Number of a window's variant in an epoch, from a drawn one below `config.variants`.

    What the encoder made of a variant is kept while the encoder stays as it is, so there are only as many as were
    asked for. Where it is trained nothing is kept, and each epoch has new ones; 0 is the plain window.
    """
    return drawn + epoch * (config.variants - 1) if drawn and config.trains_encoder else drawn


_MOST_CHUNKS = 1_000_000
"""Of an epoch; makes a chunk's number tell its epoch."""

PROMPTS_AT_ONCE = 8
"""Prompts of one window that are answered together."""


@dataclass(frozen=True)
class Chunk:
    """Objects of one patch that are learnt together; `number` makes their prompts differ between epochs."""

    patch: Patch
    objects: tuple[TrainingObject, ...]
    kinds: tuple[str, ...]
    number: int


class Task(Protocol):
    """One thing to learn."""

    def steps(self) -> int:
        """How many steps show everything once."""
        ...

    def step(self, number: int, part: float = 1.0) -> float:
        """Add the gradients of this process's share of a step's units and return their part of the mean loss.

        Parameters
        ----------
        number : int
            Of the step, counted over all epochs.
        part : float
            How much of the run is behind, 0 to 1.
        """
        ...

    def trained(self) -> Iterable[nn.Module]:
        """Modules with parameters of this task alone."""
        ...

    def windows(self) -> Iterable[tuple[int, Field]]:
        """Planes and windows of them that are looked at."""
        ...


class MaskTask:
    """Answers to prompts.

    Parameters
    ----------
    config : TrainingConfig
    network : Network
    patches : Patches
    objects : sequence of TrainingObject
    store : EmbeddingStore
    processes : Processes
        Who share the chunks of a step.
    """

    def __init__(
        self,
        config: TrainingConfig,
        network: Network,
        patches: Patches,
        objects: Sequence[TrainingObject],
        store: EmbeddingStore,
        processes: Processes = ALONE,
    ) -> None:
        self._processes = processes
        self._config = config
        self._network = network
        self._patches = patches
        self._objects = list(objects)
        self._store = store
        self._prompts = usable(config.prompts, network.model.spec.accepts)
        self._loss = mask_loss(config.loss)
        self._prompter = Prompter(network.modules.prompt_encoder, network.model.device)
        self._planned: tuple[int, list[list[Chunk]]] | None = None
        self._part = 1.0
        self.at_once = min(PROMPTS_AT_ONCE, network.model.prompts_at_once)
        self.samples = config.loss not in NEEDS_NEIGHBOURS

    def steps(self) -> int:
        """How many steps show every object once."""
        return max(1, round(len(self._objects) / self._config.batch))

    def trained(self) -> Iterable[nn.Module]:
        """The mask decoder."""
        return [self._network.modules.mask_decoder]

    def windows(self) -> Iterable[tuple[int, Field]]:
        """Each object from near and from afar."""
        return [(one.plane, field) for one in self._objects for field in (self._near(one), self._far(one))]

    def _near(self, one: TrainingObject) -> Field:
        return near(self._patches.data, one, self._network.model.spec.whole_picture)

    def _far(self, one: TrainingObject) -> Field:
        return far(self._patches.data, one, self._network.model.spec.whole_picture)

    def step(self, number: int, part: float = 1.0) -> float:
        """Learn the objects of step `number`, counted over all epochs."""
        self._part = part
        chunks = self._of_step(number)
        count = sum(len(chunk.objects) for chunk in chunks)
        with self._network.passes():
            return sum(self._learn(chunk, count) for chunk in self._processes.share(chunks)) / count

    def _of_step(self, number: int) -> list[Chunk]:
        epoch, place = divmod(number, self.steps())
        if self._planned is None or self._planned[0] != epoch:
            self._planned = epoch, self._plan(epoch)
        return self._planned[1][place]

    def _plan(self, epoch: int) -> list[list[Chunk]]:
        """Every object once, each in a window and a variant; objects that share these are answered together."""
        config = self._config
        rng = np.random.default_rng([config.seed, 1, epoch])
        groups: dict[Patch, list[tuple[TrainingObject, str]]] = {}
        for one in self._objects:
            kind = draw(self._prompts, rng)
            from_near = kind in ("box", "loose_box", "mask") or rng.random() < NEAR_SHARE
            field = self._near(one) if from_near else self._far(one)
            drawn = int(rng.integers(config.variants))
            if config.trains_encoder:  # which is run on a window once for all objects there
                shared = np.random.default_rng([config.seed, 5, epoch, one.plane, *field])
                drawn = int(shared.integers(config.variants))
            patch = Patch(one.plane, field, variant_of(config, drawn, epoch))
            groups.setdefault(patch, []).append((one, kind))
        chunks: list[Chunk] = []
        for patch, members in groups.items():
            for first in range(0, len(members), PROMPTS_AT_ONCE):
                objects, kinds = zip(*members[first : first + PROMPTS_AT_ONCE], strict=True)
                chunks.append(Chunk(patch, objects, kinds, epoch * _MOST_CHUNKS + len(chunks)))
        order = rng.permutation(len(chunks))
        steps: list[list[Chunk]] = [[] for _ in range(self.steps())]
        sizes = np.zeros(len(steps))
        for place in order:
            emptiest = int(sizes.argmin())
            steps[emptiest].append(chunks[place])
            sizes[emptiest] += len(chunks[place].objects)
        return self._without_empty(steps)

    @staticmethod
    def _without_empty(steps: list[list[Chunk]]) -> list[list[Chunk]]:
        """With large chunks a step may get none: it then repeats another's."""
        full = [step for step in steps if step]
        return [step or full[i % len(full)] for i, step in enumerate(steps)]

    def _learn(self, chunk: Chunk, count: int) -> float:
        """Add a chunk's gradients, each `count`-th, and return the sum of its losses."""
        seen = self._patches.see(chunk.patch)
        image = self._network.embed(self._patches, chunk.patch, self._store)
        # the encoder's graph is gone through once, with what all parts of the chunk have gathered here
        leaf = image.detach().requires_grad_(image.requires_grad)
        rng = np.random.default_rng([self._config.seed, 2, chunk.patch.plane, chunk.number])
        pairs = list(zip(chunk.objects, chunk.kinds, strict=True))
        total = 0.0
        for first in range(0, len(pairs), self.at_once):
            loss = self._loss_of(pairs[first : first + self.at_once], seen, leaf, rng, chunk)
            if loss is not None:
                (loss / count).backward()
                total += float(loss.detach())
        if leaf.grad is not None:
            image.backward(leaf.grad)
        return total

    def _loss_of(
        self,
        pairs: Sequence[tuple[TrainingObject, str]],
        seen: Seen,
        image: Tensor,
        rng: np.random.Generator,
        chunk: Chunk,
    ) -> Tensor | None:
        """Sum of the losses of objects that are answered together; None if the window shows none of them."""
        decoding = self._network.decoding(seen)
        shown = [(kind, seen.objects == one.number) for one, kind in pairs]
        shown = [(kind, mask) for kind, mask in shown if mask.any()]
        if not shown:
            return None
        prompts = [self._prompt(kind, mask, rng, seen, image, decoding) for kind, mask in shown]
        sparse = self._prompter(prompts, self._network.model.pipeline.frame(seen.shape))
        seed = int(rng.integers(2**62))  # drawn from the same chance as the prompts, so that a resumed run has the same
        return self._judged(decoding, image, sparse, prompts, [mask for _, mask in shown], seen, seed)

    def _judged(
        self,
        decoding: Decoding,
        image: Tensor,
        sparse: SparsePrompts,
        prompts: Sequence[Prompt],
        masks: Sequence[Mask],
        seen: Seen,
        seed: int,
    ) -> Tensor:
        """Sum of the losses of B prompts: a click is answered by three candidates, anything else by the single mask."""
        assert isinstance(decoding, TrainableDecoding)
        device = self._network.model.device
        cells = cells_of(self._network.model, seen.shape)
        target = torch.stack([cells.shrunk(mask) for mask in masks])
        weight = cells.weight(seen.objects).expand_as(target)
        sample = sampled(target, weight, seed) if self.samples else None
        if sample is not None:
            target, weight = sample.of(target), sample.of(weight) * sample.weight
        target, weight = target.to(device), weight.to(device)
        logits, scores = decoding.answer(image, sparse, None if sample is None else sample.places.to(device))
        clicked = torch.tensor([one.is_ambiguous for one in prompts], device=logits.device)
        single = self._loss(logits[:, 0], target, weight)
        trust = iou_loss(scores[:, 0], logits[:, 0], target, weight)
        total = (torch.where(clicked, OTHERS, 1.0) * single).sum() + (torch.where(clicked, 0.25, 1.0) * trust).sum()
        if not bool(clicked.any()):
            return total
        some, true, counted, trusted = logits[clicked], target[clicked], weight[clicked], scores[clicked]
        three = torch.stack([self._loss(some[:, k], true, counted) for k in (1, 2, 3)], 1)
        trust = torch.stack([iou_loss(trusted[:, k], some[:, k], true, counted) for k in (1, 2, 3)], 1)
        return total + (three.min(1).values + OTHERS * three.mean(1) + 0.25 * trust.sum(1)).sum()

    def _prompt(
        self,
        kind: str,
        mask: np.ndarray[tuple[int, int], np.dtype[np.bool_]],
        rng: np.random.Generator,
        seen: Seen,
        image: Tensor,
        decoding: Decoding,
    ) -> Prompt:
        if kind != "correction":
            return prompt_on(kind, mask, rng, self._config.box_margin)
        first = prompt_on(kind, mask, rng)
        frame = self._network.model.pipeline.frame(seen.shape)
        with torch.no_grad():
            logits = decoding.first(image, self._prompter([first], frame))
        rows, columns, part = frame.patch(logits.float().cpu().numpy())
        drawn = np.zeros(mask.shape, bool)
        drawn[rows, columns] = part
        return corrected(first, mask, drawn & (seen.objects != IGNORE))


class ClassTask:
    """The class without prompts, on windows of all training planes, those without objects as well.

    Parameters
    ----------
    config, network, patches, store
        As for :class:`MaskTask`.
    head : ClassHead
    side : int
        Of the windows.
    planes : sequence of int
    processes : Processes
        Who share the windows of a step.
    """

    def __init__(
        self,
        config: TrainingConfig,
        network: Network,
        patches: Patches,
        store: EmbeddingStore,
        head: ClassHead,
        side: int,
        planes: Sequence[int],
        processes: Processes = ALONE,
    ) -> None:
        self._processes = processes
        self._config = config
        self._network = network
        self._patches = patches
        self._store = store
        self._head = head
        self.side = side
        data = patches.data
        self._windows = [(plane, field) for plane in planes for field in fields_of(data.planes[plane].shape, side)]
        self._windows = [(plane, field) for plane, field in self._windows if not _is_flat(patches, plane, field)]
        if not self._windows:
            raise InputError(
                "All planes to learn the class from are of one single value: choose pictures that show something."
            )

    def steps(self) -> int:
        """How many steps show every window once."""
        return max(1, round(len(self._windows) / CLASS_BATCH))

    def trained(self) -> Iterable[nn.Module]:
        """The class head."""
        return [self._head]

    def windows(self) -> Iterable[tuple[int, Field]]:
        """All that are not flat."""
        return self._windows

    def step(self, number: int, part: float = 1.0) -> float:
        """Learn the windows of step `number`, counted over all epochs."""
        total = 0.0
        device = self._network.model.device
        for place in self._processes.share(range(number * CLASS_BATCH, (number + 1) * CLASS_BATCH)):
            epoch, index = divmod(place, len(self._windows))
            rng = np.random.default_rng([self._config.seed, 3, epoch])
            plane, field = self._windows[rng.permutation(len(self._windows))[index]]
            drawn = int(rng.integers(self._config.variants, size=len(self._windows))[index])
            patch = Patch(plane, field, variant_of(self._config, drawn, epoch))
            seen = self._patches.see(patch)
            target, weight = targets_of(seen, cells_of(self._network.model, seen.shape))
            image = self._network.embed(self._patches, patch, self._store)
            picture = picture_of(self._network.model.pipeline.pixels(np.ascontiguousarray(seen.picture)))
            maps = maps_of(self._head, image, picture.to(device), self._network.dtype)
            loss = class_loss(maps, target[None].to(device), weight[None].to(device))
            (loss / CLASS_BATCH).backward()
            total += float(loss.detach())
        return total / CLASS_BATCH


def _is_flat(patches: Patches, plane: int, field: Field) -> bool:
    picture, _ = patches.data.read(plane)
    return is_flat(picture[field.slices])

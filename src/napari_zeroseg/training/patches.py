"""What the network sees of labelled planes: the windows that inference would use, their embeddings, their targets."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from napari_zeroseg import tiling
from napari_zeroseg.embeddings import EmbeddingStore, content_key
from napari_zeroseg.models.pipelines import LOW_RES_SIDE
from napari_zeroseg.models.sam import SamSegmenter
from napari_zeroseg.prompts import Prompt
from napari_zeroseg.segmenter import Embedding, Segmenter
from napari_zeroseg.tiling import Field
from napari_zeroseg.training.augment import varied
from napari_zeroseg.training.data import IGNORE, TrainingData, TrainingObject
from napari_zeroseg.training.prompts import Mask, extent_of, simulate
from napari_zeroseg.training.split import Region

_REMEMBERED = 256 * 2**20
"""Bytes of variants that are kept at hand: each is needed again in every epoch."""


@dataclass(frozen=True)
class Patch:
    """A window of a plane, and which variant of it; 0 is the plain one."""

    plane: int
    field: Field
    variant: int = 0


@dataclass(frozen=True)
class Seen:
    """A patch as it is used: picture and numbered objects, both as the variant has them."""

    picture: NDArray[np.uint8]
    objects: NDArray[np.int32]

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return self.picture.shape[0], self.picture.shape[1]

    @property
    def size(self) -> int:
        """Bytes."""
        return self.picture.nbytes + self.objects.nbytes


def near(data: TrainingData, one: TrainingObject, whole_picture: bool = False) -> Field:
    """The window in which inference looks at an object from near, or for a box around it.

    A model for `whole_picture` sees the plane.
    """
    shape = data.planes[one.plane].shape
    return tiling.whole(shape) if whole_picture else tiling.window_for(shape, one.box)


def far(data: TrainingData, one: TrainingObject, whole_picture: bool = False) -> Field:
    """The window in which inference looks at a click from afar."""
    shape = data.planes[one.plane].shape
    if whole_picture or max(shape) <= tiling.LARGE_PLANE:
        return tiling.whole(shape)
    return tiling.window_for(shape, one.box, at_least=2 * tiling.SMALLEST_SIDE)


class Patches:
    """Reads, varies and encodes patches.

    Parameters
    ----------
    data : TrainingData
    seed : int
        Of the variants.
    held : tuple of Region
        Parts of training planes that must not be learnt from.
    any_orientation : bool
        Whether variants are turned by any angle and flipped.
    """

    def __init__(
        self, data: TrainingData, seed: int, held: tuple[Region, ...] = (), any_orientation: bool = True
    ) -> None:
        self._any_orientation = any_orientation
        self.data = data
        self._seed = seed
        self._held = held
        self._variants: OrderedDict[Patch, Seen] = OrderedDict()
        self._bytes = 0

    def see(self, patch: Patch) -> Seen:
        """Read a patch, or vary it as :func:`varied` does; parts that are held back are ignored."""
        if patch.variant and patch in self._variants:
            self._variants.move_to_end(patch)
            return self._variants[patch]
        picture, objects = self.data.read(patch.plane)
        held = [region for region in self._held if region[0] == patch.plane]
        if held:
            objects = objects.copy()
            for _, r0, c0, r1, c1 in held:
                objects[r0:r1, c0:c1] = IGNORE
        if patch.variant == 0:
            return Seen(picture[patch.field.slices], objects[patch.field.slices])
        rng = np.random.default_rng([self._seed, patch.plane, *patch.field, patch.variant])
        self._keep(patch, Seen(*varied(picture, objects, patch.field, rng, self._any_orientation)))
        return self._variants[patch]

    def _keep(self, patch: Patch, seen: Seen) -> None:
        self._variants[patch] = seen
        self._bytes += seen.size
        while self._bytes > _REMEMBERED and len(self._variants) > 1:
            self._bytes -= self._variants.popitem(last=False)[1].size

    def encoded(self, patch: Patch, model: Segmenter, store: EmbeddingStore) -> Embedding:
        """What a model makes of a patch: kept, or computed and kept."""
        picture = np.ascontiguousarray(self.see(patch).picture)
        key = content_key(picture, model.model_key)
        found = store.get(key, (picture.shape[0], picture.shape[1]), model.model_key)
        if found is None:
            found = model.encode(picture)
            store.put(key, found)
        return found

    def is_encoded(self, patch: Patch, model: Segmenter, store: EmbeddingStore) -> bool:
        """Whether what a model makes of a patch is kept."""
        return store.holds(content_key(np.ascontiguousarray(self.see(patch).picture), model.model_key))

    def embedding(self, patch: Patch, model: SamSegmenter, store: EmbeddingStore) -> Tensor:
        """(1, 256, 64, 64) float32 with the digits that a file keeps, so that a resumed run finds the same."""
        image = torch.as_tensor(self.encoded(patch, model, store).tensors["image"])
        # and in the order of a file: what comes straight from an encoder may lie otherwise, and sums differ then
        return image.half().float().contiguous().to(model.device)


@dataclass(frozen=True)
class Cells:
    """Where a window lies among the cells of an answer, 256 x 256 unless another side is given."""

    rows: int
    columns: int
    side: int = LOW_RES_SIDE

    def shrunk(self, mask: Mask) -> Tensor:
        """(H, W) bool to (side, side): the covered part of each cell."""
        small = Image.fromarray(mask.astype(np.uint8) * 255)
        small = small.resize((self.columns, self.rows), Image.Resampling.BOX)
        out = torch.zeros((self.side, self.side))
        out[: self.rows, : self.columns] = torch.from_numpy(np.asarray(small, np.float32) / 255)
        return out

    def weight(self, objects: NDArray[np.int32]) -> Tensor:
        """(side, side): 1 where a cell counts, 0 in the padding and where labels are to be ignored."""
        out = torch.zeros((self.side, self.side))
        out[: self.rows, : self.columns] = 1
        ignored = objects == IGNORE
        if ignored.any():
            out[self.shrunk(ignored) > 0] = 0
        return out


def prompt_on(kind: str, mask: Mask, rng: np.random.Generator, margin: tuple[float, float] = (0.0, 0.0)) -> Prompt:
    """Simulate a prompt on a large window by looking at the object's surroundings alone.

    Parameters
    ----------
    kind, mask, rng, margin
        As for :func:`~napari_zeroseg.training.prompts.simulate`.
    """
    if kind == "mask":
        return simulate(kind, mask, rng, margin)
    box = extent_of(mask)
    reach = max(box[2] - box[0], box[3] - box[1]) + 1
    out = math.ceil(max(margin[1], 0) * reach) + 8
    r0, c0 = max(0, box[0] - out), max(0, box[1] - out)
    prompt = simulate(kind, mask[r0 : box[2] + out + 1, c0 : box[3] + out + 1], rng, margin)
    if prompt.box is not None:
        return Prompt(box=prompt.box + np.array([r0, c0, r0, c0], np.float32))
    return Prompt(prompt.points + np.array([r0, c0], np.float32), prompt.labels)

"""The segmenter of a class: a light decoder on the same embedding that finds all objects of a plane without a prompt.

It gives three maps of 256 x 256: foreground, borders of objects, and depth inside them (1 in the middle, 0 at the
border), from which a watershed makes the objects; the depth is what separates those that touch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from napari_zeroseg import tiling
from napari_zeroseg.errors import InputError
from napari_zeroseg.models.pipelines import LOW_RES_SIDE
from napari_zeroseg.models.sam import SamSegmenter
from napari_zeroseg.segmenter import Segmenter
from napari_zeroseg.tiling import Field
from napari_zeroseg.training.data import TrainingData, TrainingObject
from napari_zeroseg.training.lengths import Proportions, without_bands
from napari_zeroseg.training.losses import bce, dice
from napari_zeroseg.training.networks import with_tensors
from napari_zeroseg.training.patches import Cells, Seen
from napari_zeroseg.view import View
from napari_zeroseg.weights import weights_of
from napari_zeroseg.weights.cards import CLASS_HEAD, model_folder
from napari_zeroseg.weights.resting import joined

ENCODER_PREFIX = "image_encoder."
"""Before the official names of the encoder's tensors."""

PICTURE_SIDE = 512
"""Side at which the head sees the picture itself, for borders finer than the embedding's 64 cells."""

_MIDDLE = 0.5
"""Depth above which a pixel belongs to the middle of an object, from which watershed starts."""


class ClassHead(nn.Module):
    """(B, 256, 64, 64) embeddings and (B, 3, 512, 512) pictures to (B, 3, 256, 256) maps."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Sequential(nn.Conv2d(256, 96, 1), nn.GroupNorm(8, 96), nn.GELU(), nn.Conv2d(96, 96, 3, 1, 1))
        self.wide = nn.Sequential(nn.GroupNorm(8, 96), nn.GELU(), nn.Conv2d(96, 48, 3, 1, 1), nn.GroupNorm(8, 48))
        self.stem = nn.Sequential(
            nn.Conv2d(12, 24, 3, 1, 1), nn.GELU(), nn.Conv2d(24, 24, 3, 1, 1), nn.GroupNorm(8, 24)
        )
        self.join = nn.Sequential(
            nn.GELU(), nn.Conv2d(72, 32, 3, 1, 1), nn.GELU(), nn.Conv2d(32, 32, 3, 1, 1), nn.GELU(), nn.Conv2d(32, 3, 1)
        )

    def forward(self, image: Tensor, picture: Tensor) -> Tensor:
        """Logits of foreground, border and depth."""
        image, picture = (x.contiguous(memory_format=torch.channels_last) for x in (image, picture))
        x = F.interpolate(self.narrow(image), scale_factor=2, mode="bilinear", align_corners=False)
        x = F.interpolate(self.wide(x), scale_factor=2, mode="bilinear", align_corners=False)
        fine = self.stem(F.pixel_unshuffle(picture, 2))
        out: Tensor = self.join(torch.cat([x, fine], 1))
        return out


def maps_of(head: ClassHead, image: Tensor, picture: Tensor, dtype: torch.dtype) -> Tensor:
    """The head's maps in float32, computed in `dtype`."""
    with torch.autocast(image.device.type, dtype, enabled=dtype != torch.float32):
        maps: Tensor = head(image, picture)
    return maps.float()


def picture_of(pixels: Tensor) -> Tensor:
    """A family's normalised (1, 3, side, side) as the head sees it, (1, 3, 512, 512)."""
    return F.interpolate(pixels.float(), (PICTURE_SIDE, PICTURE_SIDE), mode="area")


def targets_of(seen: Seen, cells: Cells) -> tuple[Tensor, Tensor]:
    """(3, 256, 256) foreground, border and depth, and the (256, 256) weight, of a patch."""
    small = _nearest(seen.objects, cells)
    inside = small > 0
    depth = np.zeros(small.shape, np.float32)
    border = np.zeros(small.shape, bool)
    for number, box in enumerate(ndimage.find_objects(np.maximum(small, 0)), 1):
        if box is None:
            continue
        mask = np.pad(small[box] == number, 1)
        distance = ndimage.distance_transform_edt(mask)[1:-1, 1:-1]
        mask = mask[1:-1, 1:-1]
        depth[box][mask] = (distance / distance.max())[mask]
        border[box] |= mask & (distance <= 1)
    # a cell beyond the border belongs to it as well, so that it is two cells wide
    border |= inside & ndimage.binary_dilation(border) & (depth < _MIDDLE)
    target = torch.zeros((3, LOW_RES_SIDE, LOW_RES_SIDE))
    target[:, : cells.rows, : cells.columns] = torch.from_numpy(np.stack([inside, border, depth]).astype(np.float32))
    return target, cells.weight(seen.objects)


def class_loss(maps: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Dice + BCE of the foreground, half the BCE of borders, and the absolute error of the depth inside objects.

    The mean BCE of the tenth of the pixels where it is highest is added (as in nnU-Net's top-k loss, Isensee
    et al., Nature Methods 2021): things that look like the class and are none are few, and would be outvoted.
    """
    foreground = dice(maps[:, 0], target[:, 0], weight) + bce(maps[:, 0], target[:, 0], weight)
    foreground = foreground + _hardest(maps[:, 0], target[:, 0], weight)
    border = bce(maps[:, 1], target[:, 1], weight)
    inside = weight * target[:, 0]
    depth = (inside * (maps[:, 2].sigmoid() - target[:, 2]).abs()).sum((-2, -1)) / inside.sum((-2, -1)).clamp_min(1)
    return (foreground + 0.5 * border + depth).mean()


def _hardest(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean BCE, (N,), of the tenth of the pixels where it is highest."""
    losses = weight * F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    flat = losses.flatten(1)
    return flat.topk(max(1, flat.shape[1] // 10), 1).values.mean(1)


def side_for(data: TrainingData, objects: list[TrainingObject]) -> int:
    """Side of the windows in which most objects of the class are seen with their surroundings; 0 is the whole plane."""
    sizes = [max(one.box[2] - one.box[0], one.box[3] - one.box[1]) + 1 for one in objects]
    wanted = tiling.CONTEXT * float(np.quantile(sizes, 0.9))
    longest = max(max(plane.shape) for plane in data.planes)
    return next((side for side in tiling.sides((longest, longest)) if wanted <= side < longest), 0)


def fields_of(shape: tuple[int, int], side: int) -> list[Field]:
    """Windows of a plane in which the class is looked for."""
    if side == 0 or side >= max(shape):
        return [tiling.whole(shape)]
    return list(tiling.tiles(shape, side))


@dataclass(frozen=True, eq=False)
class ClassMap:
    """Where a class is on a plane.

    Attributes
    ----------
    probability : (H, W) float32
        Of the class, 0 to 1.
    instances : (H, W) int32
        Its objects, numbered from 1.
    """

    probability: NDArray[np.float32]
    instances: NDArray[np.int32]


@dataclass(frozen=True)
class ClassSegmenter:
    """A class head with the windows that it was trained on.

    Attributes
    ----------
    head : ClassHead
    side : int
        Of the windows in pixels; 0 is the whole plane.
    encoder : SamSegmenter or None
        What encodes for the head, if it was trained with an encoder of its own; it answers no prompts.
    changed : mapping of str to Tensor
        Official names and tensors in which that encoder differs from the model's; of LoRA, its matrices.
    proportions : Proportions
        Which bands are too long to be an object of the class.
    """

    head: ClassHead
    side: int
    encoder: SamSegmenter | None = None
    changed: Mapping[str, Tensor] = field(default_factory=dict)
    proportions: Proportions = field(default_factory=Proportions)

    def segment(self, model: SamSegmenter, view: View, told: Callable[[int, int], None] | None = None) -> ClassMap:
        """Find the class on a plane.

        Parameters
        ----------
        model : SamSegmenter
            The one that learnt the class.
        view : View
            The plane.
        told : callable, optional
            Called with (windows done, windows in all).
        """
        maps = np.zeros((3, *view.shape), np.float32)
        weights = np.zeros(view.shape, np.float32)
        fields = fields_of(view.shape, self.side)
        if self.encoder is not None:
            model, view = self.encoder, View(self.encoder, view.picture, view.store)
        for number, window in enumerate(fields, 1):
            part = self._look(model, view, window)
            weight = _tent(window.shape)
            maps[(slice(None), *window.slices)] += part * weight
            weights[window.slices] += weight
            if told is not None:
                told(number, len(fields))
        maps /= weights
        instances = instances_of(maps)
        probability = without_bands(maps[0], instances, self.proportions)
        if probability is not maps[0]:
            instances[probability <= 0.5] = 0
        return ClassMap(probability, instances)

    def _look(self, model: SamSegmenter, view: View, field: Field) -> NDArray[np.float32]:
        picture = view.picture[field.slices]
        if (picture == picture.flat[0]).all():
            return np.zeros((3, *field.shape), np.float32)
        image = torch.as_tensor(view.embedding(field).tensors["image"]).to(model.device).float()
        # out of inference mode's tensors, whatever made the embedding
        with torch.inference_mode():
            fine = picture_of(model.pipeline.pixels(picture)).to(model.device)
            maps = maps_of(self.head.to(model.device), image, fine, model.dtype)
            cells = cells_of(model, field.shape)
            maps = maps[:, :, : cells.rows, : cells.columns].sigmoid()
            maps = F.interpolate(maps, field.shape, mode="bilinear", align_corners=False)
        found: NDArray[np.float32] = maps[0].cpu().numpy()
        return found


def segment_class(model: Segmenter, view: View) -> ClassMap:
    """Find all objects of the class that a fine-tuned model has learnt, without a prompt.

    Parameters
    ----------
    model : Segmenter
        From :func:`napari_zeroseg.load_model`, that was trained on a class.
    view : View
        The plane, made with the same model.

    Returns
    -------
    ClassMap

    Raises
    ------
    InputError
        If the model has learnt no class.
    """
    if not isinstance(model, SamSegmenter):
        raise InputError(f"{model.spec.title} has learnt no class: train a model of the SAM family on one.")
    return class_segmenter_of(model).segment(model, view)


def class_segmenter_of(model: SamSegmenter) -> ClassSegmenter:
    """Load what a fine-tuned model has learnt of its class; kept as long as the model is.

    Raises
    ------
    InputError
        If it has learnt none.
    """
    path = model_folder(model.spec.key) / CLASS_HEAD
    if not path.is_file():
        raise InputError(f"{model.spec.title} has learnt no class: train one with --what class or class+all.")
    changed_at = path.stat().st_mtime_ns
    kept = _LOADED.get(model)
    if kept is None or kept[0] != changed_at:
        kept = _LOADED[model] = changed_at, _load_class(model, path)
    return kept[1]


_LOADED: WeakKeyDictionary[SamSegmenter, tuple[int, ClassSegmenter]] = WeakKeyDictionary()
"""What was loaded, and when its file had changed; an encoder of its own takes seconds to build."""


def _load_class(model: SamSegmenter, path: Path) -> ClassSegmenter:
    tensors = load_file(path)
    changed = {name: tensor for name, tensor in tensors.items() if name.startswith(ENCODER_PREFIX)}
    head = ClassHead()
    head.load_state_dict({name: tensor for name, tensor in tensors.items() if name not in changed})
    with safe_open(path, "pt") as file:
        told_of = file.metadata() or {}
    side = int(told_of.get("side", "0"))
    proportions = Proportions(float(told_of.get("longest", "inf")), float(told_of.get("long", "inf")))
    encoder = None
    if changed:
        name = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        encoder = with_tensors(model, joined(weights_of(model.spec).tensors, changed), name)
    return ClassSegmenter(head.eval().requires_grad_(False), side, encoder, changed, proportions)


def save_class(segmenter: ClassSegmenter, path: Path) -> None:
    """Write a class head, and what its own encoder has learnt, into one file."""
    known = segmenter.proportions
    told = {"side": str(segmenter.side), "longest": repr(known.longest), "long": repr(known.long)}
    save_file({**segmenter.head.state_dict(), **segmenter.changed}, path, told)


def instances_of(maps: NDArray[np.float32]) -> NDArray[np.int32]:
    """Objects of (3, H, W) foreground, border and depth, by watershed of the depth from the middles of objects."""
    from skimage.segmentation import watershed

    foreground = maps[0] > 0.5
    middles, _ = ndimage.label(foreground & (maps[2] > _MIDDLE) & (maps[1] < 0.5))
    # an object too thin to have a middle is one all the same
    parts, count = ndimage.label(foreground)
    without = np.setdiff1d(np.arange(1, count + 1), np.unique(parts[middles > 0]))
    extra = np.isin(parts, without)
    middles[extra] = parts[extra] + middles.max()
    found: NDArray[np.int32] = watershed(-maps[2], middles, mask=foreground).astype(np.int32)
    return found


def cells_of(model: SamSegmenter, shape: tuple[int, int]) -> Cells:
    """Which of an answer's cells lie on a picture of `shape`."""
    rows, columns = model.pipeline.frame(shape).cells  # type: ignore[attr-defined]
    return Cells(rows, columns)


def _nearest(objects: NDArray[np.int32], cells: Cells) -> NDArray[np.int32]:
    rows = ((np.arange(cells.rows) + 0.5) * objects.shape[0] / cells.rows).astype(int)
    columns = ((np.arange(cells.columns) + 0.5) * objects.shape[1] / cells.columns).astype(int)
    small: NDArray[np.int32] = objects[rows[:, None], columns]
    return small


def _tent(shape: tuple[int, int]) -> NDArray[np.float32]:
    """Weights that fall towards the sides of a window, where it knows least of the surroundings."""
    rows, columns = (1 - np.abs(np.linspace(-1, 1, n + 2, dtype=np.float32))[1:-1] + 1e-3 for n in shape)
    return np.outer(rows, columns).astype(np.float32)

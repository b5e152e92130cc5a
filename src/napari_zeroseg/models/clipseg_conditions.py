"""What CLIPSeg sees of a picture, and of the object in a picture that it shall look for."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor

from napari_zeroseg.errors import InputError
from napari_zeroseg.tiling import Field

SIDE = 352
MEAN = np.array((0.485, 0.456, 0.406), np.float32)
STD = np.array((0.229, 0.224, 0.225), np.float32)

BLUR_SIGMA = 3.0
BLUR_RADIUS = 7
BACKGROUND = 0.1
"""Part of the background's contrast that is left around an example."""

CONTEXT = 0.1
"""Part of an example's height and width that is shown on each side of it."""


def pixels_of(picture: NDArray[np.uint8]) -> Tensor:
    """Stretch a picture (H, W) or (H, W, 3) uint8 to 1 x 3 x 352 x 352 float32, whatever its aspect.

    Bilinear as Pillow does it on uint8, then ImageNet's mean and deviation.
    """
    stretched = np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    return _as_batch(_normalised(stretched))


def highlighted_pixels_of(picture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> Tensor:
    """Cut out an object with its blurred, dimmed surroundings: 1 x 3 x 352 x 352 float32.

    The recipe that CLIPSeg's authors found best for examples (Lüddecke and Ecker, "Image segmentation using text and
    image prompts", CVPR 2022, visual prompt engineering). Here it works at the picture's own resolution, so that a
    small object in a large plane keeps its details.

    Parameters
    ----------
    picture : (H, W) or (H, W, 3) uint8 array
    mask : (H, W) bool array
        The object; not empty.
    """
    crop = _surroundings(mask)
    around = Field(
        max(crop.r0 - BLUR_RADIUS, 0),
        max(crop.c0 - BLUR_RADIUS, 0),
        min(crop.r1 + BLUR_RADIUS, mask.shape[0]),
        min(crop.c1 + BLUR_RADIUS, mask.shape[1]),
    )
    seen = _normalised(picture[around.slices])
    highlighted = np.where(mask[around.slices][..., None], seen, BACKGROUND * _blurred(seen))
    inner = Field(crop.r0 - around.r0, crop.c0 - around.c0, crop.r1 - around.r0, crop.c1 - around.c0)
    return _as_batch(_nearest(_square(highlighted[inner.slices])))


def mix(a: ArrayLike, b: ArrayLike, weight: float = 0.5) -> NDArray[np.float32]:
    """Mix two conditions, of words or of examples, linearly.

    Parameters
    ----------
    a, b : (P,) array_like of float
    weight : float
        Part of `b`, from 0 to 1; the rest is of `a`.

    Returns
    -------
    (P,) float32 array

    Raises
    ------
    InputError
        If the weight is not from 0 to 1 or the conditions have not one length.
    """
    first, second = np.asarray(a, np.float32), np.asarray(b, np.float32)
    if not 0 <= weight <= 1:
        raise InputError(f"The weight of a mixture is from 0 to 1; got {weight}.")
    if first.shape != second.shape:
        raise InputError(f"Conditions of shapes {first.shape} and {second.shape} cannot be mixed: use one model's.")
    mixed: NDArray[np.float32] = np.float32(1 - weight) * first + np.float32(weight) * second
    return mixed


def _normalised(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(H, W) or (H, W, 3) uint8 to (H, W, 3) float32."""
    colour = np.repeat(picture[..., None], 3, -1) if picture.ndim == 2 else picture
    return (colour.astype(np.float32) / np.float32(255) - MEAN) / STD


def _as_batch(picture: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None]


def _surroundings(mask: NDArray[np.bool_]) -> Field:
    """The mask's bounding box and a tenth of its sides around it, inside the picture."""
    spans = []
    for axis in (0, 1):
        filled = np.flatnonzero(mask.any(1 - axis))
        first, last = int(filled[0]), int(filled[-1]) + 1
        margin = CONTEXT * (last - first)
        spans.append((int(max(0, first - margin)), int(min(mask.shape[axis], last + margin))))
    (r0, r1), (c0, c1) = spans
    return Field(r0, c0, r1, c1)


def _blurred(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    from scipy.ndimage import gaussian_filter

    blurred: NDArray[np.float32] = gaussian_filter(
        picture, (BLUR_SIGMA, BLUR_SIGMA, 0), mode="mirror", truncate=BLUR_RADIUS / BLUR_SIGMA
    )
    return blurred


def _square(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Zeros on both sides of the shorter axis."""
    side = max(picture.shape[:2])
    missing = [side - length for length in picture.shape[:2]]
    return np.pad(picture, [*((gap // 2, gap - gap // 2) for gap in missing), (0, 0)])


def _nearest(square: NDArray[np.float32]) -> NDArray[np.float32]:
    index = np.arange(SIDE) * square.shape[0] // SIDE
    picked: NDArray[np.float32] = square[index][:, index]
    return picked

"""Variants of a window: other ways in which the same objects might have been seen.

What is done is the field's usual: turns and flips, scale, elastic deformation, contrast, blur and noise. The geometry
and the filters are scikit-image's; one set of coordinates moves the picture and its labels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import gaussian
from skimage.transform import warp

from napari_zeroseg.tiling import Field
from napari_zeroseg.training.data import IGNORE

_CONTRAST = 0.2
"""Gain and gamma of a variant lie within 1 ± this (gamma as a power of 2 within ± twice this)."""

_NOISE = 6.0
"""Largest standard deviation of a variant's noise, in grey values."""

_BLUR = 1.2
"""Largest standard deviation of a variant's blur, in pixels."""

_BLURRED = 0.3
"""Part of the variants that are blurred."""

_SCALE = 1.25
"""Largest factor of size, up or down, for each axis by itself."""

_BENDS = 32
"""Distance in pixels over which elastic deformation changes."""

_SHIFT = 3.0
"""Standard deviation of that deformation in pixels."""


_TILT = np.pi / 18
"""Largest angle by which a variant is turned where left, right, up and down have to stay."""


def varied(
    picture: NDArray[np.uint8],
    objects: NDArray[np.int32],
    field: Field,
    rng: np.random.Generator,
    any_orientation: bool = True,
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Return another view of a window of a plane: turned by any angle, flipped, scaled, bent, of other contrast.

    Parameters
    ----------
    picture : (H, W) or (H, W, 3) uint8 array
        The whole plane: what comes in from beyond the window is real as far as the plane goes, then reflected.
    objects : (H, W) int32 array
        Numbered objects; what is to be ignored moves along, and beyond the plane everything is ignored.
    field : Field
        The window.
    rng : numpy.random.Generator
        The same state gives the same variant.
    any_orientation : bool
        False flips nothing and turns by up to 10 degrees only.

    Returns
    -------
    tuple of array
        Picture and objects of the window's size.
    """
    places = _places(field, rng, any_orientation)
    # only what is looked at: a plane may be large
    ends = [
        (max(0, int(axis.min()) - 2), min(side, int(axis.max()) + 3))
        for axis, side in zip(places, objects.shape, strict=True)
    ]
    around = tuple(slice(first, last) for first, last in ends)
    picture, objects = picture[around], objects[around]
    places -= np.array([first for first, _ in ends])[:, None, None]
    seen = _moved(picture, places, 1, "reflect", 0)
    if rng.random() < _BLURRED:
        seen = gaussian(seen, rng.uniform(0, _BLUR), channel_axis=-1 if seen.ndim == 3 else None, preserve_range=True)
    return _of_other_contrast(seen, rng), _moved(objects, places, 0, "constant", IGNORE).astype(np.int32)


def _places(field: Field, rng: np.random.Generator, any_orientation: bool) -> NDArray[np.float64]:
    """Where on the plane each pixel of the window comes from, (2, h, w)."""
    shape = field.shape
    middle = np.array([field.r0 + field.r1 - 1, field.c0 + field.c1 - 1])[:, None, None] / 2
    grid = np.mgrid[field.r0 : field.r1, field.c0 : field.c1] - middle
    angle, flip = rng.uniform(0, 2 * np.pi), rng.choice([-1.0, 1.0])
    if not any_orientation:
        angle, flip = _TILT * (angle / np.pi - 1), 1.0
    scales = np.exp(rng.uniform(-np.log(_SCALE), np.log(_SCALE), 2))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    places = np.einsum("ij,jhw->ihw", turn @ np.diag([flip, 1.0] / scales), grid) + middle
    coarse = tuple(max(2, side // _BENDS + 2) for side in shape)
    factors = [n / c for n, c in zip(shape, coarse, strict=True)]
    for axis in range(2):
        places[axis] += ndimage.zoom(rng.normal(0, _SHIFT, coarse), factors, order=3)
    return np.asarray(places)


def _moved(array: NDArray[Any], places: NDArray[np.float64], order: int, mode: str, beyond: float) -> NDArray[Any]:
    """Values at other places; `order` 0 takes the nearest, 1 interpolates."""
    planes = [array] if array.ndim == 2 else [array[..., channel] for channel in range(array.shape[2])]
    how = {"order": order, "mode": mode, "cval": beyond, "preserve_range": True}
    moved = [warp(plane.astype(np.float64), places, **how) for plane in planes]
    return moved[0] if array.ndim == 2 else np.stack(moved, -1)


def _of_other_contrast(picture: NDArray[Any], rng: np.random.Generator) -> NDArray[np.uint8]:
    values = np.asarray(picture, np.float32) / 255
    values **= 2 ** rng.uniform(-2 * _CONTRAST, 2 * _CONTRAST)
    values = (values - 0.5) * rng.uniform(1 - _CONTRAST, 1 + _CONTRAST) + 0.5 + rng.uniform(-0.1, 0.1)
    # one noise for all channels: that of a colour picture is mostly brightness
    noise = rng.normal(0, rng.uniform(0, _NOISE) / 255, picture.shape[:2]).astype(np.float32)
    values += noise if picture.ndim == 2 else noise[..., None]
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)

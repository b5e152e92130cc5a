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

_CONTRAST = 0.2
"""Gain and gamma of a variant lie within 1 ± this (gamma as a power of 2 within ± twice this)."""

_NOISE = 6.0
"""Largest standard deviation of a variant's noise, in grey values."""

_BLUR = 1.2
"""Largest standard deviation of a variant's blur, in pixels."""

_BLURRED = 0.3
"""Part of the variants that are blurred."""

_ZOOM = 1.25
"""Largest factor of size, for each axis by itself. A window is never made to show more than it does: there is nothing
beyond it."""

_BENDS = 32
"""Distance in pixels over which elastic deformation changes."""

_SHIFT = 3.0
"""Standard deviation of that deformation in pixels."""


def varied(
    picture: NDArray[np.uint8], objects: NDArray[np.int32], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Return another view of the same objects.

    Parameters
    ----------
    picture : (H, W) or (H, W, 3) uint8 array
    objects : (H, W) int32 array
        Numbered objects; what is to be ignored moves along.
    rng : numpy.random.Generator
        The same state gives the same variant.

    Returns
    -------
    tuple of array
        Picture and objects; their sides change places where they are turned by a right angle.
    """
    turn = int(rng.integers(1, 8))
    picture, objects = _turned(picture, turn), _turned(objects, turn)
    places = _places(objects.shape, rng)
    seen = _moved(picture, places, 1)
    if rng.random() < _BLURRED:
        seen = gaussian(seen, rng.uniform(0, _BLUR), channel_axis=-1 if seen.ndim == 3 else None, preserve_range=True)
    return _of_other_contrast(seen, rng), _moved(objects, places, 0).astype(np.int32)


def _turned(array: NDArray[Any], turn: int) -> NDArray[Any]:
    turned = np.rot90(array, turn % 4, axes=(0, 1))
    return np.ascontiguousarray(turned[:, ::-1] if turn >= 4 else turned)


def _places(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """Where each pixel comes from, (2, H, W): a part of the window, somewhere in it, bent."""
    coarse = tuple(max(2, side // _BENDS + 2) for side in shape)
    places = np.empty((2, *shape))
    for axis, side in enumerate(shape):
        shown = (side - 1) / rng.uniform(1, _ZOOM)
        first = rng.uniform(0, side - 1 - shown)
        line = np.linspace(first, first + shown, side)
        factors = [n / c for n, c in zip(shape, coarse, strict=True)]
        bends = ndimage.zoom(rng.normal(0, _SHIFT, coarse), factors, order=3)
        places[axis] = np.clip((line[:, None] if axis == 0 else line[None]) + bends, 0, side - 1)
    return places


def _moved(array: NDArray[Any], places: NDArray[np.float64], order: int) -> NDArray[Any]:
    """Values at other places; `order` 0 takes the nearest, 1 interpolates."""
    planes = [array] if array.ndim == 2 else [array[..., channel] for channel in range(array.shape[2])]
    moved = [warp(plane.astype(np.float64), places, order=order, mode="edge", preserve_range=True) for plane in planes]
    return moved[0] if array.ndim == 2 else np.stack(moved, -1)


def _of_other_contrast(picture: NDArray[Any], rng: np.random.Generator) -> NDArray[np.uint8]:
    values = np.asarray(picture, np.float32) / 255
    values **= 2 ** rng.uniform(-2 * _CONTRAST, 2 * _CONTRAST)
    values = (values - 0.5) * rng.uniform(1 - _CONTRAST, 1 + _CONTRAST) + 0.5 + rng.uniform(-0.1, 0.1)
    # one noise for all channels: that of a colour picture is mostly brightness
    noise = rng.normal(0, rng.uniform(0, _NOISE) / 255, picture.shape[:2]).astype(np.float32)
    values += noise if picture.ndim == 2 else noise[..., None]
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)

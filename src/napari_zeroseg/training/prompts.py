"""Prompts that a user might have given for an object whose mask is known. Imports no torch.

Kinds of points follow studies that compared where simulated clicks should lie: anywhere in the mask or in its box, near
the middle with Gaussian weights, the middle of the box, of mass, or that farthest from the border.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_zeroseg.prompts import Prompt, PromptKind
from napari_zeroseg.training.config import PROMPT_KINDS

Mask = NDArray[np.bool_]
Point = tuple[float, float]

NEEDS = {
    **dict.fromkeys(PROMPT_KINDS, PromptKind.POINTS),
    "box": PromptKind.BOX,
    "loose_box": PromptKind.BOX,
    "mask": PromptKind.MASK,
}
"""What a model must accept for each kind to be of use."""

_SPREAD = 4.0
"""A Gaussian-weighted point has a standard deviation of the box's side divided by this."""


def usable(prompts: Mapping[str, float], accepts: frozenset[PromptKind]) -> dict[str, float]:
    """Kinds that a model takes, with weights that add up to 1; tight boxes where none is left."""
    left = {kind: weight for kind, weight in prompts.items() if weight > 0 and NEEDS[kind] in accepts}
    if not left:
        left = {"box": 1.0} if PromptKind.BOX in accepts else {"point": 1.0}
    total = sum(left.values())
    return {kind: weight / total for kind, weight in left.items()}


def draw(prompts: Mapping[str, float], rng: np.random.Generator) -> str:
    """Draw a kind by weight."""
    kinds = sorted(prompts)
    return str(rng.choice(kinds, p=[prompts[kind] for kind in kinds]))


def simulate(kind: str, mask: Mask, rng: np.random.Generator, margin: tuple[float, float] = (0.0, 0.0)) -> Prompt:
    """Return a prompt for an object.

    Parameters
    ----------
    kind : str
        One of :data:`~napari_zeroseg.training.config.PROMPT_KINDS`. "correction" is a point near the middle: the first
        one, which :func:`corrected` adds to once there is an answer.
    mask : (H, W) bool
        The object; not empty.
    rng : numpy.random.Generator
        What chance there is in the kind comes from here.
    margin : tuple of float
        Least and greatest shift of each side of a "loose_box", outwards, as part of the object's size.

    Returns
    -------
    Prompt
        In pixels of `mask`, inside it.
    """
    if kind in ("box", "loose_box"):
        return Prompt(box=_box(mask, rng, margin if kind == "loose_box" else (0.0, 0.0)))
    if kind == "mask":
        return Prompt(mask=_rough(mask, rng))
    if kind == "corner":
        return Prompt(points=[centre_of(mask), _corner(mask, rng)], labels=[True, False])
    return Prompt(points=[_POINTS[kind](mask, rng)])


def corrected(asked: Prompt, mask: Mask, seen: Mask) -> Prompt:
    """Return a prompt with one more point, in the middle of the largest part that an answer to it got wrong.

    Parameters
    ----------
    asked : Prompt
        Points.
    mask, seen : (H, W) bool
        The object, and the answer.

    Returns
    -------
    Prompt
        The new point is on the object where that was missed, on background where too much was drawn; `asked` itself
        where nothing is wrong.
    """
    wrong = mask != seen
    if not wrong.any():
        return asked
    r0, c0, r1, c1 = extent_of(wrong)
    parts, _ = ndimage.label(wrong[r0 : r1 + 1, c0 : c1 + 1])
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    row, column = centre_of(parts == int(sizes.argmax()))
    row, column = row + r0, column + c0
    return Prompt([*asked.points, (row, column)], [*asked.labels, mask[int(row), int(column)]])


def centre_of(mask: Mask) -> Point:
    """Pixel of a mask that lies farthest from its border; of a set of such pixels the first."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(row), float(column)


def extent_of(mask: Mask) -> tuple[int, int, int, int]:
    """Tight box (row0, column0, row1, column1) of a mask, last pixels included."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(columns[0]), int(rows[-1]), int(columns[-1])


def _box(mask: Mask, rng: np.random.Generator, margin: tuple[float, float]) -> tuple[float, float, float, float]:
    r0, c0, r1, c1 = extent_of(mask)
    height, width = r1 - r0 + 1, c1 - c0 + 1
    out = rng.uniform(margin[0], margin[1], 4) * (height, width, height, width)
    bottom, right = mask.shape[0] - 0.5, mask.shape[1] - 0.5
    # the borders of pixels, not their centres: a box of one pixel has an area
    box = (r0 - 0.5 - out[0], c0 - 0.5 - out[1], r1 + 0.5 + out[2], c1 + 0.5 + out[3])
    return max(box[0], -0.5), max(box[1], -0.5), min(box[2], bottom), min(box[3], right)


def _anywhere(mask: Mask, rng: np.random.Generator) -> Point:
    places = np.argwhere(mask)
    row, column = places[rng.integers(len(places))]
    return float(row), float(column)


def _in_box(mask: Mask, rng: np.random.Generator) -> Point:
    r0, c0, r1, c1 = extent_of(mask)
    return float(rng.integers(r0, r1 + 1)), float(rng.integers(c0, c1 + 1))


def _gaussian(mask: Mask, rng: np.random.Generator) -> Point:
    places = np.argwhere(mask)
    weights = _weights(places, mask)
    row, column = places[rng.choice(len(places), p=weights / weights.sum())]
    return float(row), float(column)


def _weights(places: NDArray[np.intp], mask: Mask) -> NDArray[np.float64]:
    r0, c0, r1, c1 = extent_of(mask)
    sigma = np.maximum(np.array([r1 - r0 + 1, c1 - c0 + 1]) / _SPREAD, 0.5)
    weights: NDArray[np.float64] = np.exp(-0.5 * (((places - places.mean(0)) / sigma) ** 2).sum(1)) + 1e-12
    return weights


def _box_centre(mask: Mask, rng: np.random.Generator) -> Point:
    r0, c0, r1, c1 = extent_of(mask)
    return (r0 + r1) / 2, (c0 + c1) / 2


def _mass_centre(mask: Mask, rng: np.random.Generator) -> Point:
    row, column = np.argwhere(mask).mean(0)
    return float(row), float(column)


def _gaussian_centre(mask: Mask, rng: np.random.Generator) -> Point:
    """Mean place with Gaussian weights: as the centre of mass, but far arms count for little."""
    places = np.argwhere(mask)
    row, column = np.average(places, axis=0, weights=_weights(places, mask))
    return float(row), float(column)


def _corner(mask: Mask, rng: np.random.Generator) -> Point:
    """A corner of the box that is background, or the background pixel nearest to one."""
    r0, c0, r1, c1 = extent_of(mask)
    corners = [(r0, c0), (r0, c1), (r1, c0), (r1, c1)]
    row, column = corners[int(rng.integers(4))]
    if mask[row, column]:
        outside = np.argwhere(~mask)
        if len(outside):
            row, column = outside[((outside - (row, column)) ** 2).sum(1).argmin()]
    return float(row), float(column)


def _rough(mask: Mask, rng: np.random.Generator) -> Mask:
    """The mask as a quick hand would draw it: grown or shrunk by up to a tenth of its size."""
    r0, c0, r1, c1 = extent_of(mask)
    steps = int(rng.integers(0, max(2, min(r1 - r0, c1 - c0) // 10 + 1)))
    change = ndimage.binary_erosion if rng.random() < 0.5 else ndimage.binary_dilation
    rough: Mask = change(mask, iterations=steps) if steps else mask
    return rough if rough.any() else mask


_POINTS: dict[str, Callable[[Mask, np.random.Generator], Point]] = {
    "point": _anywhere,
    "point_in_box": _in_box,
    "gaussian_point": _gaussian,
    "box_centre": _box_centre,
    "mass_centre": _mass_centre,
    "gaussian_centre": _gaussian_centre,
    "centre": lambda mask, rng: centre_of(mask),
    "correction": _gaussian,
}

"""Pictures of held-back parts: truth, base and present answer as outlines, of objects and of a class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from napari_zeroseg.embeddings import EmbeddingStore
from napari_zeroseg.models.sam import SamSegmenter
from napari_zeroseg.tiling import Field
from napari_zeroseg.training.classes import ClassSegmenter, fields_of
from napari_zeroseg.training.data import IGNORE, TrainingData, TrainingObject
from napari_zeroseg.training.split import Region
from napari_zeroseg.view import View

TRUTH, BASE, NOW = (80, 220, 100), (250, 170, 40), (90, 160, 255)
"""Colours of the outlines."""

_SIDE = 224
"""Pixels of one preview."""

_PANELS = 4
"""Planes at most on which the class is shown."""

_STRIPES = 8
"""Distance in pixels of the stripes over what does not count."""

_CROSS = ndimage.generate_binary_structure(2, 1)

Colours = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def of_objects(
    data: TrainingData,
    objects: Sequence[TrainingObject],
    truth: Callable[[TrainingObject, NDArray[np.int32]], Mask],
    before: Sequence[Mask],
    now: Sequence[Mask],
) -> list[Colours]:
    """Return a panel of each object: truth green, base orange, present blue.

    `truth` gives the (H, W) mask of what is asked for, from an object and the numbered objects of its plane.
    """
    panels = []
    for one, base, answer in zip(objects, before, now, strict=True):
        picture, numbers = data.read(one.plane)
        size = max(one.box[2] - one.box[0], one.box[3] - one.box[1]) + 1
        half = max(48, size)
        row, column = (int(place) for place in one.centre)
        part = slice(max(0, row - half), row + half), slice(max(0, column - half), column + half)
        colour = enlarged(coloured(picture[part]), (_SIDE, _SIDE))
        for mask, line in ((truth(one, numbers), TRUTH), (base, BASE), (answer, NOW)):
            colour[outline(enlarged(mask[part], (_SIDE, _SIDE)))] = line
        panels.append(colour)
    return panels


def of_class(
    data: TrainingData,
    objects: Sequence[TrainingObject],
    head: ClassSegmenter,
    model: SamSegmenter,
    store: EmbeddingStore,
    held: Sequence[Region] = (),
) -> list[Colours]:
    """Return a panel of each of a few planes with such objects: truth green, what is found without a prompt blue.

    Each shows the window of the plane that has most of them; stripes lie over what the figures leave out.
    """
    panels = []
    for plane, field in _windows(data, objects, head.side):
        picture, numbers = data.read(plane)
        window = np.ascontiguousarray(picture[field.slices])
        found = head.segment(model, View(model, window, store)).probability > 0.5
        left_out = ((numbers == IGNORE) | _outside(plane, numbers.shape, held))[field.slices]
        colour = striped(enlarged(coloured(window), (_SIDE, _SIDE)), enlarged(left_out, (_SIDE, _SIDE)))
        colour[borders(enlarged(numbers[field.slices], (_SIDE, _SIDE)))] = TRUTH
        colour[outline(enlarged(found, (_SIDE, _SIDE)))] = NOW
        panels.append(colour)
    return panels


def _windows(data: TrainingData, objects: Sequence[TrainingObject], side: int) -> list[tuple[int, Field]]:
    """Of a few planes, evenly taken, the window that shows most of the objects."""
    found = []
    for plane in evenly(sorted({one.plane for one in objects}), _PANELS):
        boxes = [one.box for one in objects if one.plane == plane]
        fields = fields_of(data.planes[plane].shape, side)
        shown = [sum(field.holds(box) for box in boxes) for field in fields]
        found.append((plane, fields[int(np.argmax(shown))]))
    return found


def save(path: Path, *rows: Sequence[Colours]) -> None:
    """Write one PNG with the panels of each row beside one another, black where a row is shorter."""
    longest = max((len(row) for row in rows), default=0)
    if not longest:
        return
    nothing = np.zeros((_SIDE, _SIDE, 3), np.uint8)
    full = [[*row, *[nothing] * (longest - len(row))] for row in rows if row]
    Image.fromarray(np.concatenate([np.concatenate(row, 1) for row in full])).save(path)


# Parts of a picture


def evenly(things: Sequence[Any], most: int) -> list[Any]:
    """At most so many of them, evenly taken from all."""
    if len(things) <= most:
        return list(things)
    return [things[int((i + 0.5) * len(things) / most)] for i in range(most)]


def coloured(picture: NDArray[np.uint8]) -> Colours:
    """(H, W, 3) of a grey or coloured picture; a copy."""
    return np.repeat(picture[..., None], 3, -1) if picture.ndim == 2 else picture.copy()


def enlarged(array: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """The nearest values at another (H, W)."""
    rows = (np.arange(shape[0]) * array.shape[0] // shape[0])[:, None]
    columns = np.arange(shape[1]) * array.shape[1] // shape[1]
    larger: NDArray[Any] = array[rows, columns]
    return larger


def outline(mask: Mask, width: int = 1) -> Mask:
    """The outermost pixels of a mask."""
    out: Mask = mask & ~ndimage.binary_erosion(mask, iterations=width)
    return out


def borders(numbers: NDArray[np.int32]) -> Mask:
    """The outermost pixels of each numbered object, also where two of them touch."""
    least = ndimage.minimum_filter(numbers, footprint=_CROSS)
    most = ndimage.maximum_filter(numbers, footprint=_CROSS)
    out: Mask = (numbers > 0) & (least != most)
    return out


def striped(colour: Colours, where: Mask) -> Colours:
    """A copy that is greyed and hatched where it does not count."""
    out = colour.copy()
    grey = out[where].mean(-1, keepdims=True) * 0.5 + 64
    out[where] = np.rint(grey).astype(np.uint8)
    rows, columns = np.indices(where.shape)
    out[where & ((rows + columns) % _STRIPES < 1)] = 190
    return out


def _outside(plane: int, shape: tuple[int, ...], held: Sequence[Region]) -> Mask:
    """Where a plane of which a part is held back is learnt from."""
    parts = [region for region in held if region[0] == plane]
    outside = np.full(shape, bool(parts))
    for _, r0, c0, r1, c1 in parts:
        outside[r0:r1, c0:c1] = False
    return outside

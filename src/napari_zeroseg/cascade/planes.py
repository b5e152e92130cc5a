"""A plane as the rooms of the cascade take it, and what two masks of a plane share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from napari_zeroseg.errors import InputError
from napari_zeroseg.intensity import to_uint8
from napari_zeroseg.planes import check_picture
from napari_zeroseg.segmenter import Patch, Segmenter
from napari_zeroseg.view import View

if TYPE_CHECKING:
    from napari_zeroseg.embeddings import EmbeddingStore

Progress = Callable[[int, int], None]
"""Called with what is done and what there is to do."""


def as_view(model: Segmenter, picture: ArrayLike | View, store: EmbeddingStore | None = None) -> View:
    """Return a picture as `model` sees it.

    Raises
    ------
    InputError, InputTypeError
        If the picture cannot be looked at, or a view is another model's.
    """
    if isinstance(picture, View):
        if picture.model.model_key != model.model_key:
            raise InputError("This view is of another model: make one of the model that draws.")
        return picture
    array = np.asarray(picture)
    check_picture(array)
    return View(model, to_uint8(array[..., :3] if array.ndim == 3 else array), store)


def patch_of(mask: ArrayLike) -> Patch:
    """Return a mask (H, W) inside its bounding box.

    Raises
    ------
    InputError
        If it is no plane, or empty.
    """
    array = np.asarray(mask)
    if array.ndim != 2 or not array.any():
        raise InputError(f"A mask is a plane (H, W) with at least one pixel marked; got shape {array.shape}.")
    rows, columns = (np.flatnonzero(array.any(axis)) for axis in (1, 0))
    box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    return (*box, array[box].astype(bool))


def shared_pixels(first: Patch, second: Patch) -> int:
    """Pixels that two masks of a plane share."""
    spans = [slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(first[:2], second[:2], strict=True)]
    if any(span.start >= span.stop for span in spans):
        return 0
    parts = [
        mask[tuple(slice(span.start - s.start, span.stop - s.start) for span, s in zip(spans, own, strict=True))]
        for *own, mask in (first, second)
    ]
    return int(np.count_nonzero(parts[0] & parts[1]))


def patch_iou(first: Patch, second: Patch) -> float:
    """Intersection over union of two masks of a plane."""
    both = shared_pixels(first, second)
    return both / (int(np.count_nonzero(first[2])) + int(np.count_nonzero(second[2])) - both) if both else 0.0


def overlap(first: Patch, second: Patch) -> float:
    """Part of the smaller of two masks that lies in the other one."""
    both = shared_pixels(first, second)
    return both / min(int(np.count_nonzero(first[2])), int(np.count_nonzero(second[2]))) if both else 0.0

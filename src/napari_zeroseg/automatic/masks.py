"""What segment-everything finds: masks with their scores, as labels, and which of them are wanted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_zeroseg import instances
from napari_zeroseg.errors import InputError
from napari_zeroseg.instances import OverlapPolicy
from napari_zeroseg.segmenter import Patch
from napari_zeroseg.tiling import Field

OnTop = Literal["area", "predicted_iou", "stability_score"]
"""Which of overlapping masks is seen: the smaller one, the one the network trusts more, or the more stable one."""


@dataclass(frozen=True, eq=False)
class AutomaticMask:
    """One mask of a plane.

    Attributes
    ----------
    patch : tuple of (rows, columns, mask)
        Where it is, as from :meth:`Prediction.patch`.
    area : int
        Pixels.
    box : tuple of int
        (row0, column0, row1, column1), last pixels included.
    predicted_iou : float
        IoU with the true mask that the network predicts.
    stability_score : float
        IoU of the mask thresholded a little higher and a little lower; 1 is as stable as can be.
    point : tuple of float
        (row, column) of the click that it answers.
    crop_box : Field
        Window in which it was found.
    """

    patch: Patch
    area: int
    box: tuple[int, int, int, int]
    predicted_iou: float
    stability_score: float
    point: tuple[float, float]
    crop_box: Field

    def with_patch(self, patch: Patch) -> AutomaticMask:
        """The same with other pixels, of which there is at least one."""
        rows, columns, mask = patch
        box = (rows.start, columns.start, rows.stop - 1, columns.stop - 1)
        return replace(self, patch=patch, area=int(np.count_nonzero(mask)), box=box)


def to_labels(
    masks: Sequence[AutomaticMask], shape: tuple[int, int], on_top: OnTop = "area", first: int = 1
) -> NDArray[np.int32]:
    """Draw masks as instance labels.

    Parameters
    ----------
    masks : sequence of AutomaticMask
        The mask with index i gets the label ``first + i``.
    shape : tuple of int
        (H, W) of the plane.
    on_top : "area", "predicted_iou" or "stability_score"
        Where masks overlap, the smaller one is seen, or that with the higher score.
    first : int
        Label of the first mask.

    Returns
    -------
    (H, W) int32 array
        0 is background. A mask that others cover fully is not seen.

    Raises
    ------
    InputError
        If `on_top` is not a choice, or int32 does not hold the labels.
    """
    values: Mapping[str, Callable[[AutomaticMask], float]] = {
        "area": lambda mask: -mask.area,
        "predicted_iou": lambda mask: mask.predicted_iou,
        "stability_score": lambda mask: mask.stability_score,
    }
    if on_top not in values:
        raise InputError(f"on_top is 'area', 'predicted_iou' or 'stability_score'; got {on_top!r}.")
    labels = np.zeros(shape, np.int32)
    for i in sorted(range(len(masks)), key=lambda i: values[on_top](masks[i])):
        instances.write(labels, masks[i].patch, first + i, OverlapPolicy.REPLACE)
    return labels


def filter_area(
    masks: Sequence[AutomaticMask],
    least: float | None = None,
    most: float | None = None,
    spacing: tuple[float, float] | None = None,
) -> list[AutomaticMask]:
    """Keep masks whose area lies within a range, ends included.

    Parameters
    ----------
    masks : sequence of AutomaticMask
    least, most : float, optional
        In pixels, or with `spacing` in its unit squared; left out, there is no such limit.
    spacing : tuple of float, optional
        Distance of neighbouring (rows, columns).

    Raises
    ------
    InputError
        If the range is empty, or a spacing is not above 0.
    """
    if least is not None and most is not None and least > most:
        raise InputError(f"No area is at least {least:g} and at most {most:g}: the smaller number comes first.")
    if spacing is not None and not all(step > 0 for step in spacing):
        raise InputError(f"A spacing is the distance of rows and of columns, both above 0; got {spacing!r}.")
    pixel = 1.0 if spacing is None else spacing[0] * spacing[1]
    low, high = -np.inf if least is None else least, np.inf if most is None else most
    return [mask for mask in masks if low <= mask.area * pixel <= high]


def filter_class(
    masks: Sequence[AutomaticMask],
    classes: ArrayLike | Callable[[AutomaticMask], int],
    keep: int | Collection[int],
) -> list[AutomaticMask]:
    """Keep masks of given classes.

    Parameters
    ----------
    masks : sequence of AutomaticMask
    classes : (H, W) array_like of int, or callable
        A class for each pixel of the plane, of which a mask gets that of most of its pixels (the lower of equally
        many); or what tells the class of a mask.
    keep : int or collection of int
        Classes that are wanted.

    Raises
    ------
    InputError
        If the map is not whole numbers from 0, or smaller than the plane.
    """
    wanted = {keep} if isinstance(keep, int) else set(keep)
    if callable(classes):
        return [mask for mask in masks if classes(mask) in wanted]
    plane = np.asarray(classes)
    if plane.ndim != 2 or plane.dtype.kind not in "biu" or (plane.size and plane.min() < 0):
        raise InputError(
            f"Classes are a plane (H, W) of whole numbers from 0; got {plane.dtype} of shape {plane.shape}."
        )
    return [mask for mask in masks if _majority(plane, mask.patch) in wanted]


def _majority(plane: NDArray[np.integer], patch: Patch) -> int:
    rows, columns, mask = patch
    if rows.stop > plane.shape[0] or columns.stop > plane.shape[1]:
        raise InputError(
            f"The map of classes {plane.shape} is smaller than the plane of the masks: give one of its size."
        )
    values, counts = np.unique(plane[rows, columns][mask], return_counts=True)
    return int(values[counts.argmax()])

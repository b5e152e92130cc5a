"""Which of overlapping boxes stay: non-maximum suppression."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray


def box_iou(box: ArrayLike, others: ArrayLike) -> NDArray[np.float64]:
    """IoU of one box (4,) with others (N, 4), as (row0, column0, row1, column1) with sides of row1 - row0.

    Where both have no area, as a line of pixels has none in this measure, it is NaN.
    """
    a, b = np.asarray(box, np.float64), np.asarray(others, np.float64).reshape(-1, 4)
    shared = np.clip(np.minimum(a[2:], b[:, 2:]) - np.maximum(a[:2], b[:, :2]), 0, None).prod(1)
    with np.errstate(invalid="ignore"):
        iou: NDArray[np.float64] = shared / ((a[2:] - a[:2]).prod() + (b[:, 2:] - b[:, :2]).prod(1) - shared)
    return iou


def suppress(
    boxes: ArrayLike,
    scores: ArrayLike,
    threshold: float,
    is_good: Callable[[int], bool] | None = None,
    exact_box: Callable[[int], ArrayLike] | None = None,
) -> list[int]:
    """Non-maximum suppression: of boxes that overlap, that with the highest score stays.

    Parameters
    ----------
    boxes : (N, 4) array_like
        (row0, column0, row1, column1).
    scores : (N,) array_like
        Of equal ones, the earlier box comes first.
    threshold : float
        A box goes if its IoU with one that stays is above it.
    is_good : callable, optional
        Asked with the index of each box that would stay; one for which it is False goes and suppresses nothing. What
        is costly to find out is so found out for few.
    exact_box : callable, optional
        Gives the box of an index where `boxes` are right to within a pixel or so and that may decide.

    Returns
    -------
    list of int
        Indices of the boxes that stay, highest score first.
    """
    array = np.array(boxes, np.float64).reshape(-1, 4)
    doubt = (1 / (array[:, 2:] - array[:, :2] + 1)).sum(1)  # a pixel of each side
    stays = []
    waiting = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    while len(waiting):
        first, waiting = int(waiting[0]), waiting[1:]
        if is_good is None or is_good(first):
            stays.append(first)
            if exact_box is not None:
                iou = box_iou(array[first], array[waiting])
                near = waiting[np.abs(iou - threshold) < doubt[first] + doubt[waiting]]
                for i in {first, *near.tolist()} if len(near) else ():
                    array[i], doubt[i] = exact_box(i), 0
            waiting = waiting[~(box_iou(array[first], array[waiting]) > threshold)]
    return stays

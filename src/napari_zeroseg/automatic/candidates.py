"""Candidate masks at the network's own resolution: how stable, where, and only in the end which pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg.segmenter import Frame, Patch, Prediction

Box = tuple[float, float, float, float]
"""(row0, column0, row1, column1) in pixels, last pixels included."""

_MARGIN = 4
"""Cells kept around a mask: three that an interpolation of an interpolation can reach, and one to be safe."""

_BACKGROUND = -1e4
"""Logit of the cells that are not kept."""

_DOUBT = 0.03
"""Stability counted in cells differs from that in pixels by less, for masks without much boundary."""

_DOUBT_AT_BOUNDARY = 1.5
"""And by this times area**(-3/4): as many cells as the square root of those on the boundary, of all."""


@runtime_checkable
class CellFrame(Protocol):
    """A :class:`Frame` of an answer in logits that says which of its cells lie on the picture."""

    @property
    def cells(self) -> tuple[int, int]:
        """(rows, columns) of the answer, from its first, that lie on the picture."""
        ...

    def patch(self, logits: NDArray[np.float32]) -> Patch:
        """Threshold at the logit 0 in the picture's pixels."""
        ...


@dataclass(frozen=True, eq=False)
class Candidate:
    """One mask that a click has brought, not yet in pixels.

    Attributes
    ----------
    point : tuple of float
        (row, column) of the click, in pixels of the window.
    score : float
        Predicted IoU.
    stability : float
        Counted in cells, within 0 to 1.
    box : Box
        In pixels of the window, to within about one.
    is_doubtful : bool
        Whether the stability in pixels may lie on the other side of the threshold.
    frame : Frame
    logits : (h, w) float16 array
        The cells around the mask.
    corner : tuple of int
        Where they begin in the whole answer.
    shape : tuple of int
        (rows, columns) of the whole answer.
    """

    point: tuple[float, float]
    score: float
    stability: float
    box: Box
    is_doubtful: bool
    frame: Frame
    logits: NDArray[np.float16]
    corner: tuple[int, int]
    shape: tuple[int, int]

    @cached_property
    def patch(self) -> Patch:
        """The mask in pixels of the window."""
        return self._patch(0.0)

    @property
    def exact_box(self) -> Box:
        """The box of these pixels; one without area if there are none."""
        rows, columns, mask = self.patch
        if not mask.any():
            return self.box[0], self.box[1], self.box[0], self.box[1]
        return rows.start, columns.start, rows.stop - 1, columns.stop - 1

    def _patch(self, offset: float) -> Patch:
        whole = np.full(self.shape, _BACKGROUND, np.float32)
        (row, column), (height, width) = self.corner, self.logits.shape
        whole[row : row + height, column : column + width] = self.logits
        return self.frame.patch(whole - np.float32(offset))

    def exact_stability(self, offset: float) -> float:
        """Stability counted in pixels."""
        return _stability(self._patch(offset), self._patch(-offset))


def candidates_of(
    prediction: Prediction, point: tuple[float, float], offset: float, threshold: float
) -> Iterator[Candidate]:
    """Look at all masks of a click at the network's resolution, and give those that may be stable enough.

    Parameters
    ----------
    prediction : Prediction
        Of one window.
    point : tuple of float
        The click, (row, column).
    offset, threshold : float
        As in :class:`AutomaticOptions`.
    """
    frame = prediction.frame
    for score, logits in zip(prediction.scores, prediction.logits, strict=True):
        if isinstance(frame, CellFrame):
            found = _in_cells(frame, logits, prediction.shape, offset, threshold)
        else:
            found = _in_pixels(frame, logits, offset, threshold)
        if found is None:
            continue
        stability, box, is_doubtful = found
        corner, kept = _around(logits, -offset)
        yield Candidate(point, float(score), stability, box, is_doubtful, frame, kept, corner, logits.shape)


Look = tuple[float, Box, bool]
"""Stability, box, and whether the former is doubtful."""


def _in_cells(
    frame: CellFrame, logits: NDArray[np.float32], shape: tuple[int, int], offset: float, threshold: float
) -> Look | None:
    rows, columns = frame.cells
    on_picture = logits[:rows, :columns]
    outer = int(np.count_nonzero(on_picture > -offset))
    if outer == 0:
        return None
    stability = float(np.count_nonzero(on_picture > offset) / outer)
    pixels = outer * min(1.0, shape[0] * shape[1] / (rows * columns))  # of a small picture they are the coarser
    doubt = _DOUBT + _DOUBT_AT_BOUNDARY * pixels**-0.75
    if threshold > 0 and stability < threshold - doubt:
        return None
    reaches = [_reach(on_picture.max(1 - axis), shape[axis]) for axis in (0, 1)]
    if reaches[0] is None or reaches[1] is None:
        return None
    (r0, r1), (c0, c1) = reaches[0], reaches[1]
    return stability, (r0, c0, r1, c1), threshold > 0 and stability < threshold + doubt


def _in_pixels(frame: Frame, logits: NDArray[np.float32], offset: float, threshold: float) -> Look | None:
    """Where nothing is known about the cells: slower, and nothing is left in doubt."""
    rows, columns, mask = frame.patch(logits)
    if not mask.any():
        return None
    stability = _stability(frame.patch(logits - np.float32(offset)), frame.patch(logits + np.float32(offset)))
    if threshold > 0 and stability < threshold:
        return None
    return stability, (rows.start, columns.start, rows.stop - 1, columns.stop - 1), False


def _stability(inner: Patch, outer: Patch) -> float:
    """IoU of two masks of which the first lies inside the second."""
    total = int(np.count_nonzero(outer[2]))
    return int(np.count_nonzero(inner[2])) / total if total else 0.0


def _reach(highest: NDArray[np.float32], length: int) -> tuple[float, float] | None:
    """First and last pixel of an axis of `length` pixels; `highest` is the highest logit in each of its cells."""
    inside = np.flatnonzero(highest > 0)
    if not len(inside):
        return None
    first, last = int(inside[0]), int(inside[-1])
    pixels = length / len(highest)
    # where the interpolated logit passes 0, between the middles of two cells
    start = 0.0 if first == 0 else np.ceil((_zero(highest[first - 1], highest[first]) + first - 0.5) * pixels - 0.5)
    stop = length - 1.0
    if last < len(highest) - 1:
        stop = np.floor((last + 0.5 + 1 - _zero(highest[last + 1], highest[last])) * pixels - 0.5)
    middle = (first + last + 1) / 2 * pixels - 0.5
    return float(min(start, middle)), float(max(stop, middle))


def _zero(below: np.float32, above: np.float32) -> float:
    """How far from the lower to the higher of two neighbours the line between them passes 0."""
    return float(-below / (above - below))


def _around(logits: NDArray[np.float32], lowest: float) -> tuple[tuple[int, int], NDArray[np.float16]]:
    """The cells above `lowest` with a margin, and where they begin."""
    above = logits > lowest
    spans = []
    for axis in (0, 1):
        inside = np.flatnonzero(above.any(1 - axis))
        spans.append((max(0, int(inside[0]) - _MARGIN), int(inside[-1]) + _MARGIN + 1) if len(inside) else (0, 0))
    (r0, r1), (c0, c1) = spans
    return (r0, c0), logits[r0:r1, c0:c1].astype(np.float16)

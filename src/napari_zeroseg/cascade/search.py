"""Where on a plane something looks like the examples, and the masks that the model draws there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_zeroseg import tiling
from napari_zeroseg.cascade.features import Cells, Descriptor, PlaneFeatures
from napari_zeroseg.cascade.options import SimilarOptions
from napari_zeroseg.cascade.prototypes import Prototypes
from napari_zeroseg.prompts import Prompt
from napari_zeroseg.segmenter import Patch, Prediction
from napari_zeroseg.tiling import Field
from napari_zeroseg.view import FieldChoice

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_zeroseg.jobs import CancelToken

NOWHERE = -10.0
"""Score of cells in windows of one single value."""

_OFFSET = 1.0
"""By how much the threshold of a mask is moved for its stability, as in segment-anything."""

_AT_ONCE = 64
"""Prompts whose answers are held at once, 50 MB."""

_SPACING = 0.5
"""Distance of points, in parts of the width of a disc of the examples' area."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A mask that may be one of the rest.

    Attributes
    ----------
    plane : int
    patch : tuple of (rows, columns, mask)
    prompt : Prompt
        What the model was asked.
    predicted_iou, stability : float
    descriptor : Descriptor
    given : float or None
        How certain whoever looked for it says it is, 0 to 1; None if its likeness to the examples says so.
    """

    plane: int
    patch: Patch
    prompt: Prompt
    predicted_iou: float
    stability: float
    descriptor: Descriptor
    given: float | None = None


def similarity(
    features: PlaneFeatures,
    prototypes: Sequence[Prototypes],
    cancel: CancelToken | None = None,
    tick: Callable[[], None] | None = None,
) -> Cells:
    """Score a plane for each class, (classes, rows, columns) float32 in cells of ``features.step`` pixels.

    Where windows overlap, that counts more in which the cell is farther from a side.
    """
    shape = features.view.shape
    grid = tuple(max(1, int(np.ceil(length / features.step))) for length in shape)
    total = np.zeros((len(prototypes), *grid), np.float32)
    weights = np.zeros(grid, np.float32)
    centres = [(np.arange(count, dtype=np.float64) + 0.5) * features.step for count in grid]
    for window in features.windows(cancel):
        tones = features.tones_in(window)
        spans = [
            _inside(centre, first, last if last < length else np.inf)
            for centre, (first, last), length in zip(centres, _ends(window.field), shape, strict=True)
        ]
        at = np.meshgrid(
            *(
                (centre[span] - first) / window.step - 0.5
                for centre, span, first in zip(centres, spans, window.field[:2], strict=True)
            ),
            indexing="ij",
        )
        weight = _tent(window.field, shape, [centre[span] for centre, span in zip(centres, spans, strict=True)])
        weights[spans[0], spans[1]] += weight
        for i, one in enumerate(prototypes):
            scores = ndimage.map_coordinates(one.map(window.values, tones), at, order=1, mode="nearest")
            total[i][spans[0], spans[1]] += weight * scores
        if tick is not None:
            tick()
    seen = weights > 0
    total[:, seen] /= weights[seen]
    total[:, ~seen] = NOWHERE
    return total


def _ends(field: Field) -> tuple[tuple[int, int], tuple[int, int]]:
    return (field.r0, field.r1), (field.c0, field.c1)


def _inside(centres: NDArray[np.floating], first: float, last: float) -> slice:
    """Those of rising positions that lie in a window."""
    start, stop = np.searchsorted(centres, (first, last))
    return slice(int(start), int(stop))


def _tent(field: Field, shape: tuple[int, int], at: Sequence[NDArray[np.floating]]) -> Cells:
    weights = []
    for centres, (first, last), length in zip(at, _ends(field), shape, strict=True):
        rises = np.inf if first == 0 else centres - first
        falls = np.inf if last == length else last - centres
        weights.append(np.clip(np.minimum(rises, falls) / (last - first) * 2, 1e-3, 1) * np.ones(len(centres)))
    tent: Cells = np.outer(*weights).astype(np.float32)
    return tent


def prompts_for(
    scores: Cells, step: float, shape: tuple[int, int], prototypes: Prototypes, options: SimilarOptions
) -> list[Prompt]:
    """Points on what is similar, the most similar first, and boxes around similar regions."""
    smooth = ndimage.gaussian_filter(scores, 0.5, mode="nearest")
    width = 2 * np.sqrt(np.exp(prototypes.log_area) / np.pi)
    most = max(8, round(options.points_per_plane * shape[0] * shape[1] / 1e6))
    prompts = [
        Prompt([_on_plane((row + 0.5, column + 0.5), step, shape)])
        for row, column in _spaced(smooth, prototypes.threshold, max(1.0, _SPACING * width / step), most)
    ]
    if options.boxes:
        prompts += [Prompt(box=box) for box in _boxes(smooth, step, shape, prototypes)]
    return prompts


def _on_plane(cells: tuple[float, float], step: float, shape: tuple[int, int]) -> tuple[float, float]:
    """A place counted in cells from the first pixel's corner, in pixels of the plane."""
    row, column = (min(place * step - 0.5, length - 1) for place, length in zip(cells, shape, strict=True))
    return row, column


def _spaced(scores: Cells, threshold: float, distance: float, most: int) -> Iterator[tuple[int, int]]:
    """Cells above a threshold, the highest first, none nearer than `distance` cells to one before."""
    free = scores > threshold
    reach = int(np.ceil(distance))
    disc = np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1]) < distance
    order = np.argsort(-scores, axis=None, kind="stable")
    for row, column in zip(*np.unravel_index(order[: np.count_nonzero(free)], scores.shape), strict=True):
        if not free[row, column]:
            continue
        yield int(row), int(column)
        most -= 1
        if most == 0:
            return
        top, left = max(0, row - reach), max(0, column - reach)
        near = free[top : row + reach + 1, left : column + reach + 1]
        near &= ~disc[top - row + reach :, left - column + reach :][: near.shape[0], : near.shape[1]]


def _boxes(scores: Cells, step: float, shape: tuple[int, int], prototypes: Prototypes) -> Iterator[tuple[float, ...]]:
    """Boxes around regions above the threshold whose area would not surprise."""
    named, _ = ndimage.label(scores > prototypes.threshold)
    for number, (rows, columns) in enumerate(ndimage.find_objects(named), start=1):
        area = np.count_nonzero(named[rows, columns] == number) * step**2
        if abs(np.log(area) - prototypes.log_area) < 2 * prototypes.area_width:
            first = (rows.start * step - 0.5, columns.start * step - 0.5)
            last = _on_plane((rows.stop, columns.stop), step, shape)
            yield (*first, *last)


def candidates(
    features: PlaneFeatures,
    plane: int,
    prompts: Sequence[Prompt],
    options: SimilarOptions,
    cancel: CancelToken | None = None,
) -> list[Candidate]:
    """Have the model draw all prompts of a plane, and describe what it draws."""
    view = features.view
    if not prompts:
        return []
    field: FieldChoice = "plane" if features.side >= max(view.shape) else features.side
    patches: list[Patch] = []
    told: list[tuple[Prompt, float, float]] = []
    for first in range(0, len(prompts), _AT_ONCE):
        batch = prompts[first : first + _AT_ONCE]
        for prompt, answer in zip(batch, view.predict(batch, None, field, cancel), strict=True):
            for k in _worth_drawing(answer, options.least_predicted_iou):
                patches.append(answer.patch(k))
                told.append((prompt, float(answer.scores[k]), _stability(answer.logits[k])))
    described = features.describe(patches, cancel)
    return [Candidate(plane, patch, *one, what) for patch, one, what in zip(patches, told, described, strict=True)]


def _worth_drawing(answer: Prediction, least: float) -> list[int]:
    """Candidates that are trusted, not empty, and not cut by their window."""
    return [
        k
        for k, score in enumerate(answer.scores)
        if score >= least and answer.extent(k) is not None and not _is_cut(answer, k)
    ]


def _stability(logits: NDArray[np.float32]) -> float:
    outer = int(np.count_nonzero(logits > -_OFFSET))
    return int(np.count_nonzero(logits > _OFFSET)) / outer if outer else 0.0


def _is_cut(answer: Prediction, k: int) -> bool:
    """Whether a mask ends at a side of its window that is no side of the plane."""
    rows, columns, _ = answer.patch(k)
    return any(
        (span.start <= first and first > 0) or (span.stop >= last and last < length)
        for span, (first, last), length in zip((rows, columns), _ends(answer.field), answer.shape, strict=True)
    )


def side_for(shape: tuple[int, int], patches: Sequence[Patch], options: SimilarOptions) -> int:
    """Return the side of windows in which examples are seen well."""
    if options.field == "plane":
        return max(shape)
    if options.field != "auto":
        return min(int(options.field), max(shape))
    widest = max(max(span.stop - span.start for span in patch[:2]) for patch in patches)
    offered = tiling.sides(shape)
    return next((side for side in offered if side >= tiling.CONTEXT * widest), offered[-1])

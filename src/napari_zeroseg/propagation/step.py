"""One step: objects of one plane found on the next, all of them in one go of the decoder."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg import tiling
from napari_zeroseg.errors import InputError
from napari_zeroseg.planes import is_flat
from napari_zeroseg.prompts import Prompt, PromptKind
from napari_zeroseg.propagation import masks
from napari_zeroseg.propagation.motion import motion_in, plane_shift
from napari_zeroseg.propagation.result import PropagationOptions
from napari_zeroseg.segmenter import Patch, Prediction
from napari_zeroseg.tiling import Field
from napari_zeroseg.view import Asked, View

if TYPE_CHECKING:
    from napari_zeroseg.jobs import CancelToken

_SMALLEST = 12
"""Pixels below which an object is not followed: SAM's answer has cells of several pixels."""

_SLOPE = 0.5
"""Pixels by which an outline moves per pixel of distance between planes, as for a membrane at 63 degrees to them."""

_LEAST_OVERLAP = 0.4
"""Part of the overlap to be expected that a candidate must have to be the same object."""

_LEAST_OVERLAP_AGAIN = 0.7
"""The same for an object that the plane before did not show: what lies where it was is more often something else."""

_LEAST_SCORE = 0.94
"""Part of the predicted IoU of an object's own outline that it must have on the next plane. What a network thinks of
its masks differs from model to model and from object to object, so no fixed figure says that one is gone."""

_OVERLAP_COUNTS = 0.25
"""Weight of the overlap against the predicted IoU in the choice of a candidate."""

_TIGHTEST = 0.05
"""Predicted IoU added to the first of three candidates. With a box all three are one object, and the first is the
tightest; what the others take of a neighbour is carried on to all planes behind (docs/benchmarks.md)."""


@dataclass(frozen=True)
class Found:
    """An object on the next plane: its mask, the predicted IoU, and the IoU with where motion had put it."""

    patch: Patch
    score: float
    overlap: float


@dataclass(frozen=True)
class _Asked:
    """An object where motion puts it, the window around it, and the one in which the model looks for it."""

    expected: Patch
    near: Field
    field: Field


def advance(
    view: View,
    before: NDArray[np.uint8],
    objects: Mapping[int, Patch],
    options: PropagationOptions,
    planes: int = 1,
    usual: Mapping[int, float] | None = None,
    cancel: CancelToken | None = None,
    missed: Collection[int] = (),
) -> dict[int, Found | None]:
    """Find objects of one plane on another; they may overlap.

    Parameters
    ----------
    view : View
        The plane to look at.
    before : (H, W) or (H, W, 3) uint8 array
        The plane that `objects` are on.
    objects : Mapping of int to Patch
        By label.
    options : PropagationOptions
    planes : int
        Distance of both planes; more than 1 over a gap.
    usual : Mapping of int to float, optional
        Predicted IoU of the objects where they were outlined, from :func:`own_scores`.
    cancel : CancelToken, optional
        Looked at between windows.
    missed : collection of int
        Labels of objects that planes between both were searched for in vain.

    Returns
    -------
    dict of int to Found or None
        None where an object is not there any more. Objects around which nothing is to be seen, because a tile of the
        plane is of one single value, are left out.
    """
    asked = _asked(view, before, objects, cancel)
    found: dict[int, Found | None] = dict.fromkeys(objects)
    unseen = _on_missing_tiles(view, asked)
    for label in unseen:
        del found[label]
    for label, answer in _answers(view, asked, unseen, cancel):
        least = _LEAST_OVERLAP_AGAIN if label in missed else _LEAST_OVERLAP
        one = _chosen(answer, asked[label].expected, options.step * planes, least)
        floor = _LEAST_SCORE * (usual or {}).get(label, 0.0)
        found[label] = one if one is not None and one.score >= floor else None
    return found


def own_scores(
    view: View, objects: Mapping[int, Patch], options: PropagationOptions, cancel: CancelToken | None = None
) -> dict[int, float]:
    """Predicted IoU of objects on the plane where they are known, asked in the way of :func:`advance`.

    Parameters
    ----------
    view : View
    objects : Mapping of int to Patch
        By label.
    options : PropagationOptions
    cancel : CancelToken, optional
        Looked at between windows.

    Returns
    -------
    dict of int to float
        0 where the network finds something else, or nothing is to be seen.
    """
    there = {
        label: _in_window(view, patch, tiling.window_for(view.shape, masks.extent(patch)))
        for label, patch in objects.items()
        if masks.area(patch) >= _SMALLEST
    }
    scores = dict.fromkeys(objects, 0.0)
    for label, answer in _answers(view, there, _on_missing_tiles(view, there), cancel):
        one = _chosen(answer, objects[label], options.step)
        scores[label] = 0.0 if one is None else one.score
    return scores


def _in_window(view: View, expected: Patch, near: Field) -> _Asked:
    """Look in the window around the object; with a model that was made for whole pictures, on the whole plane."""
    return _Asked(expected, near, tiling.whole(view.shape) if view.model.spec.whole_picture else near)


def _asked(
    view: View, before: NDArray[np.uint8], objects: Mapping[int, Patch], cancel: CancelToken | None
) -> dict[int, _Asked]:
    """Where motion puts the objects; those that have left the plane are left out."""
    shift = plane_shift(before, view.picture) if objects else (0, 0)
    aligned = {label: masks.moved(patch, shift, view.shape) for label, patch in objects.items()}
    fields = {
        label: tiling.window_for(view.shape, masks.extent(patch))
        for label, patch in aligned.items()
        if masks.area(patch)
    }
    asked = {}
    for field in dict.fromkeys(fields.values()):
        if cancel is not None:
            cancel.raise_if_cancelled()  # the flow of a window takes a quarter of a second
        motion = motion_in(field, before, view.picture, shift)
        for label in (label for label, own in fields.items() if own == field):
            expected = motion.carried(aligned[label])
            if masks.area(expected) >= _SMALLEST:
                asked[label] = _in_window(view, expected, field)
    return asked


def _on_missing_tiles(view: View, asked: Mapping[int, _Asked]) -> set[int]:
    """Objects around which nothing is to be seen: a tile of the plane is of one single value."""
    flat = {field for field in {one.near for one in asked.values()} if is_flat(view.picture[field.slices])}
    return {label for label, one in asked.items() if one.near in flat}


def _answers(
    view: View, asked: Mapping[int, _Asked], unseen: Collection[int], cancel: CancelToken | None = None
) -> Iterator[tuple[int, Prediction]]:
    """Three candidates for each object that may be seen, all objects of the plane together."""
    labels = [label for label in asked if label not in unseen]
    accepts = view.model.spec.accepts
    prompts = [
        Asked(asked[label].field, _prompt(accepts, asked[label].expected, asked[label].field), True) for label in labels
    ]
    for place, answer in view.answers(prompts, cancel):
        yield labels[place], answer


def _prompt(accepts: frozenset[PromptKind], expected: Patch, field: Field) -> Prompt:
    """What to ask about one object, of all that the model takes, in the window's own pixels."""
    origin = np.array([field.r0, field.c0], np.float32)
    box = np.array(masks.extent(expected), np.float32) - np.tile(origin, 2) + np.array([-1, -1, 1, 1], np.float32)
    depth = masks.depth(expected)
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    point = np.array([[expected[0].start + row - 1, expected[1].start + column - 1]], np.float32) - origin
    return Prompt(
        points=point if PromptKind.POINTS in accepts else None,
        box=box if PromptKind.BOX in accepts else None,
        mask=masks.crop(expected, *field.slices) if PromptKind.MASK in accepts else None,
    )


def _chosen(answer: Prediction, expected: Patch, step: float, least: float = _LEAST_OVERLAP) -> Found | None:
    """The best candidate by predicted IoU and overlap, or None if none is the object.

    `least` is the part of the overlap to be expected that it must have.
    """
    usual = _usual_overlap(expected, step)
    best: tuple[float, Found] | None = None
    for k, score in enumerate(answer.scores):
        patch = answer.patch(k)
        overlap = masks.iou(patch, expected)
        if masks.area(patch) < _SMALLEST or overlap < least * usual:
            continue
        merit = float(score) + _OVERLAP_COUNTS * min(overlap / usual, 1.0) + _TIGHTEST * (k == 0)
        if best is None or merit > best[0]:
            best = merit, Found(patch, float(score), overlap)
    return None if best is None else best[1]


def _usual_overlap(expected: Patch, step: float) -> float:
    """IoU to be expected of an object with itself `step` pixels deeper, from its area and the length of its outline."""
    size = masks.area(expected)
    outline = 2 * np.sqrt(np.pi * size)
    return float(size / (size + outline * min(_SLOPE * step, np.sqrt(size) / 4)))


def apart(
    found: Mapping[int, Found | None], shape: tuple[int, int], protected: NDArray[np.integer] | None = None
) -> dict[int, Found | None]:
    """Give each pixel that several want to the one with the best score; those with other labels are no one's.

    Parameters
    ----------
    found : Mapping of int to Found or None
        All objects of the plane, wherever they come from.
    shape : tuple of int
        (H, W) of the plane.
    protected : (H, W) integer array, optional
        Labels that stay: an object gets no pixel that has another one.
    """
    found = dict(found)
    taken = np.zeros(shape, bool)
    order = sorted((label for label, one in found.items() if one is not None), key=lambda label: -_score(found[label]))
    for label in order:
        one = found[label]
        assert one is not None
        rows, columns, _ = one.patch
        patch = masks.without(one.patch, taken)
        if protected is not None and masks.area(patch):
            kept = np.asarray(protected[patch[0], patch[1]])
            patch = masks.trimmed(patch[0], patch[1], patch[2] & ((kept == 0) | (kept == label)))
        found[label] = replace(one, patch=patch) if masks.area(patch) >= _SMALLEST else None
        taken[rows, columns] |= one.patch[2]
    return found


def _score(one: Found | None) -> float:
    return 0.0 if one is None else one.score


def check_model(accepts: frozenset[PromptKind], title: str) -> None:
    """Raise if a model cannot be asked about an object by its box or its mask.

    Raises
    ------
    InputError
    """
    if not accepts & {PromptKind.BOX, PromptKind.POINTS}:
        raise InputError(
            f"{title} takes neither boxes nor points, which following objects needs: choose another model."
        )

"""Segment everything: a grid of clicks over a plane, and of all masks that they bring those that are good and new."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from napari_zeroseg.automatic.candidates import Box, Candidate, candidates_of
from napari_zeroseg.automatic.masks import AutomaticMask
from napari_zeroseg.automatic.options import AutomaticOptions
from napari_zeroseg.automatic.overlap import suppress
from napari_zeroseg.automatic.regions import without_small_regions
from napari_zeroseg.automatic.windows import Window, windows_of
from napari_zeroseg.errors import InputError
from napari_zeroseg.intensity import to_uint8
from napari_zeroseg.planes import check_picture, is_flat
from napari_zeroseg.prompts import Prompt, PromptKind
from napari_zeroseg.segmenter import Embedding, Prediction, Segmenter
from napari_zeroseg.tiling import Field
from napari_zeroseg.view import View

if TYPE_CHECKING:
    from napari_zeroseg.jobs import CancelToken


@runtime_checkable
class PredictsAbove(Protocol):
    """A model that can leave out what it does not trust before it has made it."""

    @property
    def prompts_at_once(self) -> int:
        """How many prompts it answers in one go."""
        ...

    def predict_above(self, embedding: Embedding, prompts: Sequence[Prompt], threshold: float) -> list[Prediction]:
        """Of three candidates a prompt, those alone whose predicted IoU is above the threshold."""
        ...


def segment_everything(
    model: Segmenter,
    picture: ArrayLike | View,
    options: AutomaticOptions | None = None,
    *,
    cancel: CancelToken | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[AutomaticMask]:
    """Find all objects of a plane without a prompt.

    With the field "plane", or "auto" on planes up to 1280 pixels, the masks are those of segment-anything's
    ``SamAutomaticMaskGenerator`` with the same options, up to rounding. On larger planes see
    :attr:`AutomaticOptions.field`.

    Parameters
    ----------
    model : Segmenter
        One that takes points.
    picture : (H, W) or (H, W, 3) array_like, or View
        Any real dtype; uint8 is taken as it is, anything else is brought to uint8 between its 0.1 and 99.9
        percentiles. A view brings its own embeddings.
    options : AutomaticOptions, optional
    cancel : CancelToken, optional
        Looked at between batches of clicks.
    progress : callable, optional
        Called with the clicks answered and the clicks in all.

    Returns
    -------
    list of AutomaticMask
        In pixels of the plane; masks may overlap.

    Raises
    ------
    InputError, InputTypeError
        If the model takes no points, or the picture cannot be looked at.
    CancelledError
        If `cancel` was raised.
    """
    options = options or AutomaticOptions()
    check_takes_points(model)
    view = picture if isinstance(picture, View) else _view(model, picture)
    windows = windows_of(view.shape, options)
    tick = _counting(progress, sum(len(window.points) for window in windows))
    found: list[tuple[Field, Candidate]] = []
    for window in windows:
        found += [(window.field, one) for one in _search(view, window, options, cancel, tick)]
    if len(windows) > 1:
        found = _without_repeats(found, options)
    masks = [mask for mask in (_drawn(field, candidate) for field, candidate in found) if mask is not None]
    if options.min_mask_region_area:
        alike = max(options.box_nms_thresh, options.crop_nms_thresh)
        masks = without_small_regions(masks, options.min_mask_region_area, alike)
    return masks


def _counting(progress: Callable[[int, int], None] | None, total: int) -> Callable[[int], None]:
    """What adds clicks up and tells how many of all have been answered."""
    done = 0

    def tick(clicks: int) -> None:
        nonlocal done
        done += clicks
        if progress is not None:
            progress(done, total)

    return tick


def check_takes_points(model: Segmenter) -> None:
    """Raise if a model cannot search a plane.

    Raises
    ------
    InputError
        If it takes no points.
    """
    if PromptKind.POINTS not in model.spec.accepts:
        raise InputError(
            f"{model.spec.title} takes {', '.join(sorted(model.spec.accepts))} prompts only, and a plane is searched "
            "by points: choose a model that takes points, such as mobile_sam."
        )


def _view(model: Segmenter, picture: ArrayLike) -> View:
    array = np.asarray(picture)
    check_picture(array)
    return View(model, to_uint8(array[..., :3] if array.ndim == 3 else array))


def _search(
    view: View,
    window: Window,
    options: AutomaticOptions,
    cancel: CancelToken | None,
    tick: Callable[[int], None],
) -> list[Candidate]:
    """All masks of one window that are good and not alike, the most trusted first."""
    if is_flat(view.picture[window.field.slices]):  # nothing to see, and no model encodes it
        tick(len(window.points))
        return []
    if cancel is not None:
        cancel.raise_if_cancelled()
    embedding = view.embedding(window.field)
    found: list[Candidate] = []
    for points in _batches(view.model, window, options):
        if cancel is not None:
            cancel.raise_if_cancelled()
        for point, prediction in zip(points, _answers(view.model, embedding, points, options), strict=True):
            several = candidates_of(prediction, point, options.stability_score_offset, options.stability_score_thresh)
            found += [one for one in several if not window.cuts(_on_plane(one.box, window.field), view.shape)]
        tick(len(points))

    def is_stable(i: int) -> bool:
        if found[i].is_doubtful:
            exact = found[i].exact_stability(options.stability_score_offset)
            found[i] = replace(found[i], stability=exact, is_doubtful=False)
        return found[i].stability >= options.stability_score_thresh

    stays = suppress(
        [one.box for one in found],
        [one.score for one in found],
        options.box_nms_thresh,
        is_stable,
        lambda i: found[i].exact_box,
    )
    return [found[i] for i in stays]


def _batches(model: Segmenter, window: Window, options: AutomaticOptions) -> Iterator[list[tuple[float, float]]]:
    size = options.points_per_batch
    if isinstance(model, PredictsAbove):
        size = min(size, model.prompts_at_once)
    points = [(float(row), float(column)) for row, column in window.points]
    for start in range(0, len(points), size):
        yield points[start : start + size]


def _answers(
    model: Segmenter, embedding: Embedding, points: Sequence[tuple[float, float]], options: AutomaticOptions
) -> list[Prediction]:
    """For each click the masks that the network trusts enough, in pixels of the window."""
    prompts = [Prompt(points=[point]) for point in points]
    threshold = options.pred_iou_thresh if options.pred_iou_thresh > 0 else -np.inf
    if isinstance(model, PredictsAbove):
        return model.predict_above(embedding, prompts, threshold)
    answers = []
    for answer in model.predict(embedding, prompts, multimask=True):
        trusted = answer.scores > threshold
        answers.append(
            replace(answer, scores=answer.scores[trusted], logits=answer.logits[trusted], choice=None, _patches={})
        )
    return answers


def _without_repeats(
    found: Sequence[tuple[Field, Candidate]], options: AutomaticOptions
) -> list[tuple[Field, Candidate]]:
    """Of masks that several windows have found, those of the smaller window; it draws finer."""
    sizes = [-field.shape[0] * field.shape[1] for field, _ in found]
    boxes = [_on_plane(candidate.box, field) for field, candidate in found]
    return [found[i] for i in suppress(boxes, sizes, options.crop_nms_thresh)]


def _on_plane(box: Box, field: Field) -> Box:
    return box[0] + field.r0, box[1] + field.c0, box[2] + field.r0, box[3] + field.c0


def _drawn(field: Field, candidate: Candidate) -> AutomaticMask | None:
    """A candidate in the plane's pixels; None if it lies between them."""
    rows, columns, mask = candidate.patch
    if not mask.any():
        return None
    r0, c0 = field.r0, field.c0
    patch = (slice(rows.start + r0, rows.stop + r0), slice(columns.start + c0, columns.stop + c0), mask)
    point = (candidate.point[0] + r0, candidate.point[1] + c0)
    blank = AutomaticMask(patch, 0, (0, 0, 0, 0), candidate.score, candidate.stability, point, field)
    return blank.with_patch(patch)

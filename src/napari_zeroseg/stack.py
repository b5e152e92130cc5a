"""Planes to labels: prompts on the planes of a stack, one plane in memory at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from dataclasses import field as dataclass_field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg import instances
from napari_zeroseg.automatic import AutomaticOptions, filter_area, segment_everything, to_labels
from napari_zeroseg.automatic.class_filter import ClassFilter, Filter
from napari_zeroseg.automatic.masks import OnTop
from napari_zeroseg.automatic.search import check_takes_points
from napari_zeroseg.embeddings import EmbeddingStore
from napari_zeroseg.errors import InputError, InputTypeError, ReadError
from napari_zeroseg.instances import OverlapPolicy
from napari_zeroseg.intensity import to_uint8
from napari_zeroseg.planes import Planes, check_picture, is_flat
from napari_zeroseg.prompts import Prompt
from napari_zeroseg.segmenter import Segmenter
from napari_zeroseg.view import FieldChoice, View

if TYPE_CHECKING:
    from napari_zeroseg.jobs import CancelToken


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seed:
    """A prompt and the label that its object gets.

    Attributes
    ----------
    label : int
        From 1; 0 is background.
    prompt : Prompt

    Raises
    ------
    InputError
        If the label is none that int32 holds.
    """

    label: int
    prompt: Prompt

    def __post_init__(self) -> None:
        if not 1 <= self.label <= np.iinfo(np.int32).max:
            raise InputError(
                f"Objects are numbered from 1 to {np.iinfo(np.int32).max}, and 0 is background; got {self.label}."
            )


Prompts = Sequence[Prompt | Seed] | Mapping[int, Sequence[Prompt | Seed]]
"""The same prompts on every plane, or those of each plane by its number."""


@dataclass(frozen=True)
class ObjectReport:
    """What was written for one prompt: its label, the IoU that the network predicts, and its pixels."""

    label: int
    score: float
    area: int


@dataclass(frozen=True)
class FoundReport(ObjectReport):
    """What was found without a prompt: its stability and box besides, and the pixels of the whole mask as its area."""

    stability: float
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class PlaneReport:
    """What was done on one plane.

    Attributes
    ----------
    plane : int
        Running number of the plane.
    objects : tuple of ObjectReport
    seconds : float
        For reading, encoding and predicting.
    fault : str
        Why the plane could not be looked at and was left empty, in a sentence; empty if all went well.
    """

    plane: int
    objects: tuple[ObjectReport, ...]
    seconds: float
    fault: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PlaneReport:
        """The report that :meth:`as_dict` told."""
        return cls(**{**values, "objects": tuple(_object_report(item) for item in values["objects"])})


def _object_report(values: Mapping[str, Any]) -> ObjectReport:
    return FoundReport(**{**values, "box": tuple(values["box"])}) if "box" in values else ObjectReport(**values)


@dataclass(frozen=True)
class StackOptions:
    """How planes are looked at and written.

    Attributes
    ----------
    limits : tuple of float, optional
        (black, white) in pixel values; left out, uint8 is taken as it is and anything else between its percentiles.
    field : "auto", "plane" or int
        As for :meth:`View.predict`.
    policy : OverlapPolicy
        What later objects do to pixels of earlier ones.
    """

    limits: tuple[float, float] | None = None
    field: FieldChoice = "auto"
    policy: OverlapPolicy = OverlapPolicy.KEEP


def segment_stack(
    stack: object,
    model: Segmenter,
    prompts: Prompts,
    *,
    planes: Sequence[int] | None = None,
    options: StackOptions | None = None,
    store: EmbeddingStore | None = None,
    progress: Callable[[PlaneReport], None] | None = None,
    cancel: CancelToken | None = None,
) -> NDArray[np.int32]:
    """Segment the planes of a stack by prompts.

    Parameters
    ----------
    stack : array_like or Planes
        (..., H, W) or (..., H, W, 3), lazily read; one plane is in memory at a time.
    model : Segmenter
    prompts : sequence of Prompt or Seed, or mapping of int to such
        For every plane, or by the plane's number. Without :class:`Seed`, objects are numbered in order, above the
        labels of seeds: a prompt for every plane has the same number on each, those of single planes are numbered on.
    planes : sequence of int, optional
        Numbers of the planes to do; left out, all that have prompts.
    options : StackOptions, optional
    store : EmbeddingStore, optional
        Where embeddings are looked for and kept.
    progress : callable, optional
        Called with a :class:`PlaneReport` after each plane.
    cancel : CancelToken, optional
        Looked at between planes and between encodings.

    Returns
    -------
    (Z, H, W) int32 array
        0 is background; Z counts all planes of the stack, also those that were not done, and is 1 for one picture. A
        plane that could not be looked at stays 0, with a logged sentence.

    Raises
    ------
    InputError, InputTypeError
        If a plane does not exist or a prompt does not lie on its plane; before anything is computed.
    CancelledError
        If `cancel` was raised.
    """
    series = stack if isinstance(stack, Planes) else Planes.of(stack)
    labels = np.zeros((len(series), *series.plane_shape), np.int32)
    for report, plane in segment_planes(
        series, model, seeds_by_plane(prompts, len(series), planes), options or StackOptions(), store, cancel
    ):
        labels[report.plane] = plane
        if report.fault:
            _log.warning("Plane %d was left empty: %s", report.plane, report.fault)
        if progress is not None:
            progress(report)
    return labels


def seeds_by_plane(prompts: Prompts, count: int, planes: Sequence[int] | None = None) -> dict[int, list[Seed]]:
    """Return the seeds of each plane to be done, in order.

    Parameters
    ----------
    prompts, planes
        As for :func:`segment_stack`.
    count : int
        Number of planes of the stack.

    Raises
    ------
    InputError
        If a plane does not exist.
    InputTypeError
        If something else than prompts is given.
    """
    if not isinstance(prompts, (Sequence, Mapping)):
        raise InputTypeError(f"A list of prompts, or one for each plane, was expected; got {type(prompts).__name__}.")
    if isinstance(prompts, Mapping):
        chosen = set(prompts if planes is None else planes)
        given = {plane: list(prompts[plane]) for plane in sorted(prompts)}
    else:
        chosen = set(range(count) if planes is None else planes)
        given = {plane: list(prompts) for plane in sorted(chosen)}
    for plane in sorted({*chosen, *given}):
        if not 0 <= plane < count:
            raise InputError(f"There is no plane {plane}: planes are counted from 0 to {count - 1}.")
    taken = max((one.label for several in given.values() for one in several if isinstance(one, Seed)), default=0)
    last = taken
    result: dict[int, list[Seed]] = {}
    for plane, several in given.items():
        if not isinstance(prompts, Mapping):
            last = taken
        result[plane] = []
        for one in several:
            last += not isinstance(one, Seed)
            result[plane].append(_seed(one, last))
    return {plane: seeds for plane, seeds in result.items() if plane in chosen and seeds}


def _seed(one: object, number: int) -> Seed:
    if isinstance(one, Seed):
        return one
    if isinstance(one, Prompt):
        return Seed(number, one)
    raise InputTypeError(
        f"A Prompt or Seed was expected, not {type(one).__name__}: write Prompt(points=[(row, column)])."
    )


def segment_planes(
    series: Planes,
    model: Segmenter,
    seeds: Mapping[int, Sequence[Seed]],
    options: StackOptions,
    store: EmbeddingStore | None = None,
    cancel: CancelToken | None = None,
) -> Iterator[tuple[PlaneReport, NDArray[np.int32]]]:
    """Yield the report and the (H, W) int32 labels of each plane of `seeds`.

    A plane that is constant or cannot be read is reported and left empty; the others are done.
    """
    store = store if store is not None else EmbeddingStore()
    for seed in (seed for several in seeds.values() for seed in several):
        seed.prompt.check_on(series.plane_shape)  # not after hours
    for number, wanted in seeds.items():

        def segment(picture: NDArray[np.uint8], wanted: Sequence[Seed] = wanted) -> Answer:
            return _segment_plane(View(model, picture, store), wanted, options, cancel)

        yield _one_plane(series, number, partial(_picture, series, number, options.limits), segment, cancel)


@dataclass(frozen=True)
class Search:
    """What is looked for on planes without prompts, and how it is drawn.

    Attributes
    ----------
    options : AutomaticOptions
    least, most : float, optional
        Area of masks that are kept, in pixels or in the unit of `spacing` squared.
    spacing : tuple of float, optional
        Distance of neighbouring (rows, columns).
    on_top : "area", "predicted_iou" or "stability_score"
        As for :func:`to_labels`.
    """

    options: AutomaticOptions = dataclass_field(default_factory=AutomaticOptions)
    least: float | None = None
    most: float | None = None
    spacing: tuple[float, float] | None = None
    on_top: OnTop = "area"

    def __post_init__(self) -> None:
        filter_area((), self.least, self.most, self.spacing)  # not after hours


def search_planes(
    series: Planes,
    model: Segmenter,
    numbers: Sequence[int],
    search: Search,
    options: StackOptions,
    *,
    classes: ClassFilter | None = None,
    first: int = 1,
    store: EmbeddingStore | None = None,
    cancel: CancelToken | None = None,
) -> Iterator[tuple[PlaneReport, NDArray[np.int32]]]:
    """Find everything on planes; yield the report and the (H, W) int32 labels of each.

    Parameters
    ----------
    series : Planes
    model : Segmenter
        One that takes points.
    numbers : sequence of int
        Planes to do.
    search : Search
    options : StackOptions
        Of which the limits count.
    classes : ClassFilter, optional
        Objects of which classes are kept; left out, all.
    first : int
        Label of the first object; those of later planes follow, so that no label is there twice.
    store, cancel
        As for :func:`segment_stack`.

    Raises
    ------
    InputError
        If the model takes no points. A plane that is constant or cannot be read, or whose classes cannot, is reported
        and left empty.
    CancelledError
        If `cancel` was raised.
    """
    check_takes_points(model)
    store = store if store is not None else EmbeddingStore()
    filter_on = _all_on if classes is None else classes.on
    for number in numbers:

        def look(number: int = number) -> tuple[NDArray[np.uint8], Filter]:
            return _picture(series, number, options.limits), filter_on(number)

        def segment(seen: tuple[NDArray[np.uint8], Filter], first: int = first) -> Answer:
            picture, keep = seen
            return _search_plane(View(model, picture, store), search, keep, first, cancel)

        report, labels = _one_plane(series, number, look, segment, cancel)
        first += len(report.objects)
        yield report, labels


Answer = tuple[tuple[ObjectReport, ...], NDArray[np.int32]]
"""The objects of a plane, and its labels."""

Seen = TypeVar("Seen")
"""What there is to be seen of a plane."""


def _all_on(plane: int) -> Filter:
    return list


def _one_plane(
    series: Planes,
    number: int,
    look: Callable[[], Seen],
    segment: Callable[[Seen], Answer],
    cancel: CancelToken | None,
) -> tuple[PlaneReport, NDArray[np.int32]]:
    if cancel is not None:
        cancel.raise_if_cancelled()
    start = time.perf_counter()
    try:
        seen = look()
    except (InputError, ReadError) as error:
        return PlaneReport(number, (), time.perf_counter() - start, str(error)), np.zeros(series.plane_shape, np.int32)
    objects, labels = segment(seen)
    return PlaneReport(number, objects, time.perf_counter() - start), labels


def _picture(series: Planes, number: int, limits: tuple[float, float] | None) -> NDArray[np.uint8]:
    plane = series.read(number)
    check_picture(plane)
    picture = to_uint8(plane, limits)
    if is_flat(picture):
        raise InputError(
            f"All pixels look the same with contrast limits {limits}: give black and white as pixel values that the "
            "plane has."
        )
    return picture


def _segment_plane(view: View, seeds: Sequence[Seed], options: StackOptions, cancel: CancelToken | None) -> Answer:
    predictions = view.predict([seed.prompt for seed in seeds], None, options.field, cancel)
    labels = np.zeros(view.shape, np.int32)
    reports = []
    for seed, prediction in zip(seeds, predictions, strict=True):
        area = instances.write(labels, prediction.patch(), seed.label, options.policy)
        reports.append(ObjectReport(seed.label, float(prediction.scores[prediction.best]), area))
    return tuple(reports), labels


def _search_plane(view: View, search: Search, keep: Filter, first: int, cancel: CancelToken | None) -> Answer:
    found = segment_everything(view.model, view, search.options, cancel=cancel)
    masks = keep(filter_area(found, search.least, search.most, search.spacing))
    reports = tuple(
        FoundReport(first + i, mask.predicted_iou, mask.area, mask.stability_score, mask.box)
        for i, mask in enumerate(masks)
    )
    return reports, to_labels(masks, view.shape, search.on_top, first)

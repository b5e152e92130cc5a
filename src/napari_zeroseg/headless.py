"""One file in, labels out: what `zeroseg segment` does, resumable and with its provenance."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any

from napari_zeroseg import provenance
from napari_zeroseg.automatic import AutomaticOptions, write_table
from napari_zeroseg.automatic.class_filter import ClassFilter
from napari_zeroseg.automatic.masks import OnTop
from napari_zeroseg.automatic.table import checked_table, row
from napari_zeroseg.errors import InputError
from napari_zeroseg.instances import OverlapPolicy
from napari_zeroseg.io.label_files import labels_on
from napari_zeroseg.io.picture import Picture
from napari_zeroseg.io.read import open_image
from napari_zeroseg.io.targets import check_apart, checked_target
from napari_zeroseg.io.write import LabelsWriter, is_growing, taken_up
from napari_zeroseg.locks import only_run_on
from napari_zeroseg.planes import Planes, planes_of
from napari_zeroseg.seeds import GivenPrompts, class_names, gather_seeds
from napari_zeroseg.segmenter import Segmenter
from napari_zeroseg.stack import FoundReport, PlaneReport, Search, StackOptions
from napari_zeroseg.tasks import ByPrompts, ClassMap, Everything, Here, PlaneTask, Runner, keep, kept, read_report
from napari_zeroseg.view import FieldChoice

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SegmentRun:
    """What to segment and how.

    Attributes
    ----------
    source : Path
        A picture or stack that :func:`open_image` opens.
    out : Path
        Where the labels go; its ending is the format.
    prompts : GivenPrompts
    planes : str, optional
        "3", "0:20", "0:20:2" or "1,4,7"; left out, all.
    contrast : tuple of float, optional
        Pixel values that are black and white; left out, what the file says, else as for :func:`to_uint8`.
    field : "auto", "plane" or int
        As for :meth:`View.predict`.
    overlap : OverlapPolicy
    overwrite : bool
        Replace `out` if it is there, and the planes of another unfinished run.
    automatic : AutomaticRun, optional
        Look for everything instead of what prompts point at.
    """

    source: Path
    out: Path
    prompts: GivenPrompts = dataclass_field(default_factory=GivenPrompts)
    planes: str | None = None
    contrast: tuple[float, ...] | None = None
    field: FieldChoice = "auto"
    overlap: OverlapPolicy = OverlapPolicy.KEEP
    overwrite: bool = False
    automatic: AutomaticRun | None = None


@dataclass(frozen=True)
class AutomaticRun:
    """What to look for where nothing is pointed at.

    Attributes
    ----------
    options : AutomaticOptions
    least, most : float, optional
        Area of objects that are kept.
    is_physical : bool
        These areas are in the unit of the picture's spacing squared; else in pixels.
    on_top : "area", "predicted_iou" or "stability_score"
        As for :func:`to_labels`.
    table : Path, optional
        Where the table of objects goes; left out, beside the labels.
    class_map : Path, optional
        Labels that :func:`open_labels` opens, of the picture's planes: a class for each pixel.
    keep : tuple of int
        Classes in that map whose objects are kept.
    """

    options: AutomaticOptions = dataclass_field(default_factory=AutomaticOptions)
    least: float | None = None
    most: float | None = None
    is_physical: bool = False
    on_top: OnTop = "area"
    table: Path | None = None
    class_map: Path | None = None
    keep: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Work:
    """What is done with which planes, and what is told of it.

    Attributes
    ----------
    planes : list of int
    task : PlaneTask
    table : callable or None
        Writes a table of all objects, from the reports of the planes in order. Where there is one, the objects are
        told there and not in the provenance: there may be more than fit into memory.
    """

    planes: list[int]
    task: PlaneTask
    table: Callable[[Iterable[PlaneReport]], object] | None = None


def segment_file(
    job: SegmentRun,
    load: Callable[[], Segmenter],
    bar: Callable[[int, int], Any],
    spread: Callable[[Path], Runner] | None = None,
) -> dict[str, Any]:
    """Segment ``job.source`` into ``job.out``, with the provenance as JSON beside it.

    Planes that an interrupted run of the same settings has done are not done again. Each plane is safe, with its
    report, once it is done.

    Parameters
    ----------
    job : SegmentRun
    load : callable
        Loads the model; called once the input and the prompts are known to be good.
    bar : callable
        Makes a progress bar from (planes in all, planes already done).
    spread : callable, optional
        Makes, from the path of the input, what does the planes elsewhere; `load` is not called then.

    Returns
    -------
    dict
        The report on all planes with the provenance, as it is in the JSON.

    Raises
    ------
    InputError, ReadError, WriteError, WeightsError
    """
    out = checked_target(job.out)
    source = job.source.expanduser()
    check_apart(out, source)
    with only_run_on(out):
        picture = open_image(source)
        series = picture.planes()
        planes = planes_of(job.planes, len(series))
        options = StackOptions(_limits(job, picture), job.field, job.overlap)
        table = None if job.automatic is None else checked_table(job.automatic.table or _beside(out))
        everything = None if job.automatic is None else _everything(job.automatic, picture, series, options, out)
        seeds = {} if everything is not None else gather_seeds(job.prompts, series, planes)
        runner = Here(series, load()) if spread is None else spread(source)
        automatic = None if everything is None else _told(everything, planes)
        classes = class_names(job.prompts) if job.prompts.by_class else None
        run, settings = provenance.run_of(source, runner.model, seeds, options, automatic, classes)
        if out.exists() and not job.overwrite and not is_growing(out):
            return provenance.there_already(out, run, table)
        begun = {"out": str(out), "run": run, "settings": settings, "started": provenance.now()}
        if classes is not None:
            begun["classes"] = classes
        if everything is None:
            work = _Work(list(seeds), ByPrompts(seeds, options))
        else:
            assert table is not None
            begun["table"] = str(table)
            work = _Work(planes, everything, lambda reports: write_table(table, _rows(reports, picture)))
        shape = (len(series), *series.plane_shape) if series.index_shape else series.plane_shape
        return _write(taken_up(out, shape, picture, run, job.overwrite), work, runner, bar, begun)


def _everything(
    automatic: AutomaticRun, picture: Picture, series: Planes, options: StackOptions, out: Path
) -> Everything:
    search, classes = _search(automatic, picture), None
    if automatic.class_map is not None:
        path = automatic.class_map.expanduser().absolute()  # workers may stand in another folder
        check_apart(out, path)
        ClassFilter(labels_on(path, series), automatic.keep).on(0)  # not after hours
        classes = ClassMap(path, automatic.keep)
    return Everything(search, options, classes)


def _told(everything: Everything, planes: list[int]) -> dict[str, Any]:
    """What is searched for, as plain values."""
    told = {**asdict(everything.search), "planes": planes}
    if everything.classes is not None:
        told["class_map"] = provenance.identity_of(everything.classes.path)
        told["keep_class"] = list(everything.classes.keep)
    return told


def _search(automatic: AutomaticRun, picture: Picture) -> Search:
    spacing = _spacing(picture) if automatic.is_physical else None
    if automatic.is_physical and spacing is None:
        raise InputError(
            f"{picture.name} does not say how large its pixels are: give areas in pixels, or a picture with a spacing."
        )
    return Search(automatic.options, automatic.least, automatic.most, spacing, automatic.on_top)


def _spacing(picture: Picture) -> tuple[float, float] | None:
    known = picture.spacing
    return (known["Y"], known["X"]) if {"Y", "X"} <= known.keys() else None


def _rows(reports: Iterable[PlaneReport], picture: Picture) -> Iterable[dict[str, Any]]:
    """The table of all objects; their area is also told in the picture's unit, where it is known."""
    spacing, unit = _spacing(picture), picture.units.get("Y", "unit")
    for report in reports:
        for one in report.objects:
            if isinstance(one, FoundReport):
                told = row(one.label, report.plane, one.area, (one.score, one.stability), one.box)
                yield told if spacing is None else {**told, f"area_{unit}2": one.area * spacing[0] * spacing[1]}


def _beside(out: Path) -> Path:
    return out.with_name(out.name + ".csv")


def _write(
    writer: LabelsWriter, work: _Work, runner: Runner, bar: Callable[[int, int], Any], begun: dict[str, Any]
) -> dict[str, Any]:
    """Do the planes that are left, and write the labels and their provenance."""
    start = time.perf_counter()
    tally = _Tally(work.table is not None, by_class="classes" in begun)
    for plane in sorted(writer.done.intersection(work.planes)):
        if report := kept(writer.folder, plane):
            tally.add(report)
    before = sorted(tally.reports)
    left = [plane for plane in work.planes if plane not in tally.reports]
    try:
        with bar(len(work.planes), len(before)) as progress:
            for report, labels in runner.run(work.task, left, tally.last_label + 1, writer):
                if labels is not None:
                    keep(writer, report, labels)
                tally.add(report)
                _log.debug("Plane %d: %d objects, %.2f s.", report.plane, len(report.objects), report.seconds)
                progress.update()
        _raise_if_nothing([tally.reports[plane] for plane in work.planes])
    except BaseException:
        if all(report.fault for report in tally.reports.values()):
            writer.discard()  # nothing to take up, so nothing that stands in the way of other settings
        raise
    if work.table is not None:
        work.table(read_report(writer.folder, plane) for plane in work.planes)
    told = {
        **begun,
        "summary": _summary(writer.path, tally, before, time.perf_counter() - start),
        "planes": [tally.told(plane) for plane in work.planes],
        "planes_done_before": before,
    }
    return provenance.finish(writer, told, start)


class _Tally:
    """What has been done on all planes; of the objects their number alone, where there may be very many.

    Parameters
    ----------
    is_short : bool
        Keep only how many objects there are.
    by_class : bool
        Labels are classes, so that they do not tell objects apart.
    """

    def __init__(self, is_short: bool, by_class: bool = False) -> None:
        self.reports: dict[int, PlaneReport] = {}
        self.last_label = 0
        self.nothing = 0
        self._is_short = is_short
        self._by_class = by_class
        self._counts: dict[int, int] = {}
        self._labels: set[int] = set()

    @property
    def objects(self) -> int:
        """How many objects there are; one on several planes is one."""
        return sum(self._counts.values()) if self._is_short or self._by_class else len(self._labels)

    def add(self, report: PlaneReport) -> None:
        """Count a plane."""
        self.last_label = max([self.last_label, *(item.label for item in report.objects)])
        self.nothing += sum(not item.area for item in report.objects)
        self._counts[report.plane] = len(report.objects)
        if self._is_short:
            report = replace(report, objects=())
        else:
            self._labels.update(item.label for item in report.objects if item.area)
        self.reports[report.plane] = report

    def told(self, plane: int) -> dict[str, Any]:
        """The report of a plane as plain values."""
        values = self.reports[plane].as_dict()
        return {**values, "objects": self._counts[plane]} if self._is_short else values


def _raise_if_nothing(reports: Sequence[PlaneReport]) -> None:
    """A run that could not look at a single plane has failed."""
    if all(report.fault for report in reports):
        first = reports[0]
        many = f"None of {len(reports)} planes could be segmented. Plane {first.plane}: " if len(reports) > 1 else ""
        raise InputError(many + first.fault)


def _summary(out: Path, tally: _Tally, before: Sequence[int], seconds: float) -> str:
    done = sum(not report.fault for report in tally.reports.values())
    told = f"{out}: {_count(tally.objects, 'object')} on {_count(done, 'plane')} in {seconds:.1f} s."
    if before:
        told += f" {_count(len(before), 'plane')} had been done by the run before."
    if tally.nothing:
        told += f" {_count(tally.nothing, 'prompt')} found nothing."
    return told


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _limits(job: SegmentRun, picture: Picture) -> tuple[float, float] | None:
    given = job.contrast or picture.metadata.get("contrast_limits")
    return None if given is None else (float(given[0]), float(given[1]))

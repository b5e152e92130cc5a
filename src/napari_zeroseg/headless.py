"""One file in, labels out: what `zeroseg segment` does, resumable and with its provenance."""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_zeroseg import provenance
from napari_zeroseg.embeddings import default_store
from napari_zeroseg.errors import InputError, WriteError
from napari_zeroseg.instances import OverlapPolicy
from napari_zeroseg.io.picture import Picture
from napari_zeroseg.io.read import open_image
from napari_zeroseg.io.targets import checked_target, remove
from napari_zeroseg.io.write import LabelsWriter
from napari_zeroseg.locks import only_run_on
from napari_zeroseg.seeds import GivenPrompts, gather_seeds, planes_of
from napari_zeroseg.segmenter import Segmenter
from napari_zeroseg.stack import PlaneReport, Seed, StackOptions, segment_planes
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
    """

    source: Path
    out: Path
    prompts: GivenPrompts
    planes: str | None = None
    contrast: tuple[float, ...] | None = None
    field: FieldChoice = "auto"
    overlap: OverlapPolicy = OverlapPolicy.KEEP
    overwrite: bool = False


def segment_file(job: SegmentRun, load: Callable[[], Segmenter], bar: Callable[[int, int], Any]) -> dict[str, Any]:
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
    _check_apart(source, out)
    with only_run_on(out):
        picture = open_image(source)
        series = picture.planes()
        options = StackOptions(_limits(job, picture), job.field, job.overlap)
        seeds = gather_seeds(job.prompts, series, planes_of(job.planes, len(series)))
        model = load()
        run, settings = provenance.run_of(source, model, seeds, options)
        if out.exists() and not job.overwrite:
            return _there_already(out, run)
        begun = {"out": str(out), "run": run, "settings": settings, "started": provenance.now()}
        shape = (len(series), *series.plane_shape) if series.index_shape else series.plane_shape
        segment = functools.partial(segment_planes, series, model, options=options, store=default_store())
        return _write(_writer(job, out, shape, picture, run), seeds, segment, bar, begun)


def _there_already(out: Path, run: str) -> dict[str, Any]:
    found = provenance.read(out)
    if found.get("run") == run:
        return {**found, "summary": f"{out} is already there from the same run: nothing to do."}
    raise WriteError(
        f"{out} is already there and is not from this run: choose another name, or add --overwrite to replace it."
    )


def _write(
    writer: LabelsWriter,
    seeds: dict[int, list[Seed]],
    segment: Callable[[dict[int, list[Seed]]], Iterable[tuple[PlaneReport, Any]]],
    bar: Callable[[int, int], Any],
    begun: dict[str, Any],
) -> dict[str, Any]:
    """Do the planes that are left, and write the labels and their provenance."""
    start = time.perf_counter()
    reports = {plane: report for plane in writer.done & seeds.keys() if (report := _kept(writer, plane))}
    before = sorted(reports)
    left = {plane: several for plane, several in seeds.items() if plane not in reports}
    try:
        with bar(len(seeds), len(before)) as progress:
            for report, labels in segment(left):
                # the plane comes last: it counts as done when it is there
                provenance.write_json(_report_file(writer, report.plane), report.as_dict())
                writer.write(report.plane, labels)
                reports[report.plane] = report
                _log.debug("Plane %d: %d objects, %.2f s.", report.plane, len(report.objects), report.seconds)
                progress.update()
        told = [reports[plane] for plane in seeds]
        _raise_if_nothing(told)
    except BaseException:
        if all(report.fault for report in reports.values()):
            writer.discard()  # nothing to take up, so nothing that stands in the way of other settings
        raise
    seconds = time.perf_counter() - start
    result = {
        **begun,
        "summary": _summary(writer.path, told, before, seconds),
        "planes": [report.as_dict() for report in told],
        "planes_done_before": before,
        "seconds": round(seconds, 3),
        "finished": provenance.now(),
        **provenance.environment(),
    }
    provenance.prepare(writer.path, result)
    writer.close()
    provenance.commit(writer.path)
    return result


def _check_apart(source: Path, out: Path) -> None:
    """Labels must never take the place of the picture, nor become a plane of it."""
    inside = source.resolve()
    if inside == out.resolve():
        raise InputError(f"{out} is the picture itself: choose another name for the labels.")
    if source.is_dir() and inside in out.resolve().parents:
        raise InputError(f"{out} lies inside the picture {source}: choose another folder for the labels.")


def _writer(job: SegmentRun, out: Path, shape: Sequence[int], picture: Picture, run: str) -> LabelsWriter:
    make = functools.partial(LabelsWriter, out, shape, spacing=picture.spacing, units=picture.units, run=run)
    try:
        return make()
    except WriteError:
        # planes of another run wait there: they go if the user says so, or if there are none
        waiting = out.with_name(f".{out.name}.partial")
        if not waiting.is_dir() or (any(waiting.glob("*.tif")) and not job.overwrite):
            raise
        remove(waiting)
        return make()


def _report_file(writer: LabelsWriter, plane: int) -> Path:
    return writer.folder / f"{plane:06d}.json"


def _kept(writer: LabelsWriter, plane: int) -> PlaneReport | None:
    """The report of a plane that was done before; None if it is to be done again."""
    try:
        report = PlaneReport.from_dict(json.loads(_report_file(writer, plane).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return None if report.fault else report  # what could not be read then may be readable now


def _raise_if_nothing(reports: Sequence[PlaneReport]) -> None:
    """A run that could not look at a single plane has failed."""
    if all(report.fault for report in reports):
        first = reports[0]
        many = f"None of {len(reports)} planes could be segmented. Plane {first.plane}: " if len(reports) > 1 else ""
        raise InputError(many + first.fault)


def _summary(out: Path, reports: Sequence[PlaneReport], before: Sequence[int], seconds: float) -> str:
    objects = {item.label for report in reports for item in report.objects if item.area}
    nothing = sum(not item.area for report in reports for item in report.objects)
    empty = sum(bool(report.fault) for report in reports)
    told = f"{out}: {_count(len(objects), 'object')} on {_count(len(reports) - empty, 'plane')} in {seconds:.1f} s."
    if before:
        told += f" {_count(len(before), 'plane')} had been done by the run before."
    if nothing:
        told += f" {_count(nothing, 'prompt')} found nothing."
    return told


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _limits(job: SegmentRun, picture: Picture) -> tuple[float, float] | None:
    given = job.contrast or picture.metadata.get("contrast_limits")
    return None if given is None else (float(given[0]), float(given[1]))

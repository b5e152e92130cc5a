"""One file in, labels out: what `zeroseg segment` does, resumable and with its provenance."""

from __future__ import annotations

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
from napari_zeroseg.io.write import LabelsWriter
from napari_zeroseg.seeds import GivenPrompts, gather_seeds, planes_of
from napari_zeroseg.segmenter import Segmenter
from napari_zeroseg.stack import PlaneReport, StackOptions, segment_planes
from napari_zeroseg.view import FieldChoice


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
        Replace `out` if it is there from another run.
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
    """Segment ``job.source`` into ``job.out``.

    Planes that an interrupted run of the same settings has done are not done again.

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
        The report, ready for JSON.

    Raises
    ------
    InputError, ReadError, WriteError, WeightsError
    """
    picture = open_image(job.source)
    series = picture.planes()
    seeds = gather_seeds(job.prompts, series, planes_of(job.planes, len(series)))
    settings = StackOptions(_limits(job, picture), job.field, job.overlap)
    model = load()
    run, described = provenance.run_of(job.source, model.model_key, seeds, settings)
    out = job.out.expanduser()
    if out.exists() and not job.overwrite:
        if provenance.read_run(out) == run:
            return _report(out, run, [], seeds, set(seeds), f"{out} is already there from the same run: nothing to do.")
        raise WriteError(
            f"{out} is already there and is not from this run: choose another name, or add --overwrite to replace it."
        )
    shape = (len(series), *series.plane_shape) if series.index_shape else series.plane_shape
    writer = LabelsWriter(out, shape, spacing=picture.spacing, units=picture.units, run=run)
    done = writer.done
    reports: list[PlaneReport] = []
    left = {plane: several for plane, several in seeds.items() if plane not in done}
    start = time.perf_counter()
    with writer, bar(len(seeds), len(seeds) - len(left)) as progress:
        for report, labels in segment_planes(series, model, left, settings, default_store()):
            writer.write(report.plane, labels)
            reports.append(report)
            progress.update()
        _raise_if_nothing(reports, done)
    seconds = time.perf_counter() - start
    objects = len({item.label for report in reports for item in report.objects if item.area})
    summary = f"{out}: {objects} objects on {len(reports)} planes in {seconds:.1f} s."
    if len(left) < len(seeds):
        summary += f" {len(seeds) - len(left)} planes were there from the run before."
    result = _report(out, run, reports, seeds, done, summary)
    provenance.write_json(
        provenance.path_beside(out),
        {**result, "settings": described, "seconds": round(seconds, 3), **provenance.environment()},
    )
    return result


def _raise_if_nothing(reports: Sequence[PlaneReport], done: set[int]) -> None:
    """A run that could not look at a single plane has failed."""
    faults = [report.fault for report in reports if report.fault]
    if faults and len(faults) == len(reports) and not done:
        raise InputError(faults[0].split(" was left empty. ", 1)[-1])


def _report(
    out: Path, run: str, reports: Sequence[PlaneReport], wanted: Iterable[int], done: set[int], summary: str
) -> dict[str, Any]:
    return {
        "out": str(out),
        "run": run,
        "planes_wanted": list(wanted),
        "planes_done_before": sorted(done),
        "planes": [report.as_dict() for report in reports],
        "faults": [report.fault for report in reports if report.fault],
        "summary": summary,
    }


def _limits(job: SegmentRun, picture: Picture) -> tuple[float, float] | None:
    given = job.contrast or picture.metadata.get("contrast_limits")
    return None if given is None else (float(given[0]), float(given[1]))

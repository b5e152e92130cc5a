"""One stack and its outlines in, labels of all planes out: what `zeroseg propagate` does, resumable."""

from __future__ import annotations

import base64
import functools
import json
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_zeroseg import provenance
from napari_zeroseg.automatic.table import checked_table, write_table
from napari_zeroseg.embeddings import default_store
from napari_zeroseg.errors import InputError, ReadError, WriteError
from napari_zeroseg.io.label_files import open_labels
from napari_zeroseg.io.picture import Picture
from napari_zeroseg.io.read import open_image
from napari_zeroseg.io.targets import check_apart, checked_target
from napari_zeroseg.io.write import LabelsWriter, discard, is_growing, journal_of
from napari_zeroseg.locks import only_run_on
from napari_zeroseg.planes import planes_of
from napari_zeroseg.propagation import (
    Direction,
    Propagation,
    PropagationOptions,
    Record,
    StepRecord,
    propagation_of,
)
from napari_zeroseg.propagation.masks import Packed
from napari_zeroseg.segmenter import Segmenter

if TYPE_CHECKING:
    from napari_zeroseg.jobs import CancelToken


@dataclass(frozen=True)
class PropagateRun:
    """What to propagate and how.

    Attributes
    ----------
    source : Path
        A stack that :func:`open_image` opens.
    seeds : Path
        Labels of the same planes; those without labels are to be filled, the others stay as they are.
    out : Path
        Where the labels go; its ending is the format.
    planes : str, optional
        "0:20"; left out, all. Neighbours only. Others are left empty, whatever labels they have.
    contrast : tuple of float, optional
        Pixel values that are black and white; left out, what the file says, else as for :func:`to_uint8`.
    options : PropagationOptions
        `limits` are those of `contrast`; where `spacing` is left out, the file's is taken.
    table : Path, optional
        CSV with one row for each object on each plane.
    overwrite : bool
        Replace `out` if it is there, and what another unfinished run has done.
    """

    source: Path
    seeds: Path
    out: Path
    planes: str | None = None
    contrast: tuple[float, ...] | None = None
    options: PropagationOptions = field(default_factory=PropagationOptions)
    table: Path | None = None
    overwrite: bool = False


class FileJournal:
    """Keeps each step of a propagation as a small file, so that a kill loses at most one plane.

    Parameters
    ----------
    folder : Path
        Folder of the unfinished run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.taken_up = 0

    def get(self, sweep: int, plane: int) -> StepRecord | None:
        """What an earlier run kept; None if there is nothing that can be read, or the plane could not be."""
        try:
            values = json.loads(self._file(sweep, plane).read_text(encoding="utf-8"))
            found = {int(label): _record(told) for label, told in values.items()}
        except (OSError, ValueError, TypeError, KeyError):
            return None
        self.taken_up += 1
        return StepRecord(found)

    def put(self, sweep: int, plane: int, step: StepRecord) -> None:
        """Keep a step; a plane that could not be read is tried again next time, since it may be readable then."""
        if not step.fault:
            told = {str(label): _told(record) for label, record in step.found.items()}
            provenance.write_json(self._file(sweep, plane), told)

    def _file(self, sweep: int, plane: int) -> Path:
        return self._folder / f"sweep{sweep}-{plane:06d}.json"


class _Drawing:
    """Writes planes as they are known, and leaves those as they are that an earlier run of the same has drawn already.

    Steps of that run are gone through again without drawing: what is known in the midst of them is less than what is
    there.

    Parameters
    ----------
    run : Propagation
    writer : LabelsWriter
    """

    def __init__(self, run: Propagation, writer: LabelsWriter) -> None:
        self._run, self._writer = run, writer
        self._there = writer.done
        self._sums: dict[int, int | None] = {}  # of planes as they are written
        self._waiting: set[int] = set()

    def outlines(self) -> list[int]:
        """Planes with outlines that are to be drawn at first, so that a viewer shows them from the beginning."""
        outlined = {plane for label in self._run.outlines.labels for plane in self._run.outlines.planes_of(label)}
        return sorted(outlined - self._there)

    def draw(self, plane: int) -> None:
        """Write a plane, unless it is there as it should be."""
        labels = self._run.labels(plane)
        sum_ = zlib.crc32(labels.data)
        if plane in self._there and plane not in self._sums:
            self._sums[plane] = self._kept(plane)
        if self._sums.get(plane) != sum_:
            self._writer.write(plane, labels)
            self._sums[plane] = sum_

    def later(self, plane: int) -> None:
        """Look at a plane once all steps of the earlier run are known."""
        self._waiting.add(plane)

    def catch_up(self, cancel: CancelToken | None, *, to_the_end: bool = False) -> None:
        """Draw what the earlier run knew and had not drawn; to the end, also what it had drawn otherwise."""
        for plane in sorted(self._waiting if to_the_end else self._waiting - self._there):
            if cancel is not None:
                cancel.raise_if_cancelled()
            self._waiting.discard(plane)
            self.draw(plane)

    def _kept(self, plane: int) -> int | None:
        try:
            return zlib.crc32(np.ascontiguousarray(self._writer.read(plane)).data)
        except ReadError:
            return None  # it is damaged, and drawn anew


def propagate_file(
    job: PropagateRun,
    load: Callable[[], Segmenter],
    bar: Callable[[int, int], Any],
    cancel: CancelToken | None = None,
) -> dict[str, Any]:
    """Propagate ``job.seeds`` through ``job.source`` into ``job.out``, with the provenance as JSON beside it.

    What an interrupted run of the same settings has done is not done again.

    Parameters
    ----------
    job : PropagateRun
    load : callable
        Loads the model; called once the input is known to be good.
    bar : callable
        Makes a progress bar from (planes or steps in all, those already done): one for the planes with outlines, and
        one for the steps.
    cancel : CancelToken, optional
        Looked at between planes and between windows; what is done is kept for the next run.

    Returns
    -------
    dict
        The report on all planes with the provenance, as it is in the JSON.

    Raises
    ------
    InputError, ReadError, WriteError, WeightsError
    CancelledError
        If `cancel` was raised.
    """
    out = checked_target(job.out)
    source, seeds = job.source.expanduser(), job.seeds.expanduser()
    table = None if job.table is None else checked_table(job.table)
    check_apart(out, source, seeds)
    with only_run_on(out):
        picture = open_image(source)
        series, labels = picture.planes(), open_labels(seeds)
        planes = _neighbours(planes_of(job.planes, len(series)))
        options = _options(job, picture)
        model = load()
        run_id, settings = _identity(source, seeds, model, planes, options)
        if out.exists() and not job.overwrite and not is_growing(out):
            return provenance.there_already(out, run_id, table)
        begun = {"out": str(out), "run": run_id, "settings": settings, "started": provenance.now()}
        journal = FileJournal(journal_of(out))
        run = propagation_of(
            series,
            model,
            labels.data,
            planes=planes,
            options=options,
            keep=labels.data,
            store=default_store(),
            journal=journal,
            cancel=cancel,
        )
        # only now, so that what cannot be done leaves nothing behind
        shape = (len(series), *series.plane_shape) if series.index_shape else series.plane_shape
        make = functools.partial(LabelsWriter, out, shape, spacing=picture.spacing, units=picture.units, run=run_id)
        writer = _writer(make, out, job.overwrite)
        return _write(run, writer, journal, bar, begun, table, cancel)


def _write(
    run: Propagation,
    writer: LabelsWriter,
    journal: FileJournal,
    bar: Callable[[int, int], Any],
    begun: dict[str, Any],
    table: Path | None,
    cancel: CancelToken | None,
) -> dict[str, Any]:
    """Do what is left, and write the labels, the table and the provenance."""
    start = time.perf_counter()
    _draw(run, _Drawing(run, writer), journal, bar, cancel)
    reports = [run.plane(plane).as_dict() for plane in run.planes]
    if table is not None:
        write_table(table, _rows(run))
    told = {
        **begun,
        "summary": f"{writer.path}: {run.words()}",
        "objects": {
            str(label): dict(zip(("first", "last"), run.ends(label), strict=True))
            for label in run.outlines.labels
            if run.is_somewhere(label)
        },
        "flags": [flag._asdict() for flag in run.flags],
        "planes": reports,
        "steps_done_before": journal.taken_up,
    }
    return provenance.finish(writer, told, start)


def _draw(
    run: Propagation,
    drawing: _Drawing,
    journal: FileJournal,
    bar: Callable[[int, int], Any],
    cancel: CancelToken | None,
) -> None:
    """Do what is left, and write each plane as it is done."""
    outlined = drawing.outlines()
    with bar(len(outlined), 0) as progress:
        for plane in outlined:
            if cancel is not None:
                cancel.raise_if_cancelled()
            drawing.draw(plane)
            progress.update(1)
    with bar(0, 0) as progress:

        def step(done: int, total: int) -> None:
            progress.total = total
            progress.update(done - progress.n)

        taken_up = journal.taken_up
        for found in run.run(step, cancel):
            if journal.taken_up > taken_up:
                taken_up = journal.taken_up
                drawing.later(found.plane)
                continue
            drawing.catch_up(cancel)
            drawing.draw(found.plane)
        drawing.catch_up(cancel, to_the_end=True)


def _rows(run: Propagation) -> Iterable[dict[str, Any]]:
    flags: dict[int, dict[int, str]] = {}
    for flag in run.flags:
        flags.setdefault(flag.plane, {})[flag.label] = str(flag.reason)
    for plane in run.planes:
        flagged = flags.get(plane, {})
        for one in run.plane(plane).objects:
            certainty = "" if one.certainty is None else round(one.certainty, 4)
            yield {
                "label": one.label,
                "plane": plane,
                "area": one.area,
                "predicted_iou": round(one.score, 4),
                "certainty": certainty,
                "outlined": int(one.outlined),
                "flag": flagged.get(one.label, ""),
            }


def _options(job: PropagateRun, picture: Picture) -> PropagationOptions:
    given = job.contrast or picture.metadata.get("contrast_limits")
    limits = None if given is None else (float(given[0]), float(given[1]))
    spacing = job.options.spacing
    if spacing is None and {"Z", "Y", "X"} <= picture.spacing.keys():
        spacing = (picture.spacing["Z"], picture.spacing["Y"], picture.spacing["X"])
    return replace(job.options, limits=limits, spacing=spacing)


def _identity(
    source: Path, seeds: Path, model: Segmenter, planes: range, options: PropagationOptions
) -> tuple[str, dict[str, Any]]:
    """A hash of everything that the result depends on, and these things themselves."""
    settings: dict[str, Any] = {
        "input": provenance.identity_of(source),
        "seeds": provenance.identity_of(seeds),
        "model": model.spec.key,
        "model_hash": model.model_key,
        "planes": [planes.start, planes.stop],
        "propagation": {**asdict(options), "direction": str(Direction(options.direction))},
        "version": version("napari-zeroseg"),
    }
    return provenance.hash_of(settings), settings


def _neighbours(planes: list[int]) -> range:
    chosen = range(planes[0], planes[-1] + 1)
    if len(chosen) != len(planes):
        raise InputError("Objects are followed from each plane to the next: give --planes without gaps, such as 0:20.")
    return chosen


def _writer(make: Callable[[], LabelsWriter], out: Path, overwrite: bool) -> LabelsWriter:
    try:
        return make()
    except WriteError:
        if not overwrite or not journal_of(out).is_dir():
            raise
        discard(out)
        return make()


def _told(record: Record | None) -> dict[str, Any] | None:
    if record is None:
        return None
    mask = record.mask
    return {
        "corner": mask.corner,
        "shape": mask.shape,
        "bits": base64.b64encode(mask.bits).decode("ascii"),
        "score": record.score,
        "overlap": record.overlap,
    }


def _record(told: dict[str, Any] | None) -> Record | None:
    if told is None:
        return None
    (row, column), (height, width) = told["corner"], told["shape"]
    packed = Packed((row, column), (height, width), base64.b64decode(told["bits"]))
    return Record(packed, float(told["score"]), float(told["overlap"]))

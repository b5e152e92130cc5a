"""Files in, labels out: the rest of what is labelled, what words name, and the votes of masks over a map."""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from napari_zeroseg import provenance
from napari_zeroseg.cascade_ways import FindRun, Found, Sight, Way, labels_of, way_of
from napari_zeroseg.errors import InputError, InputTypeError, ReadError, WriteError, ZerosegError
from napari_zeroseg.io.heat_maps import HeatWriter, checked_heat_path
from napari_zeroseg.io.picture import Picture
from napari_zeroseg.io.read import open_image
from napari_zeroseg.io.targets import check_apart, checked_target
from napari_zeroseg.io.write import LabelsWriter, is_growing, taken_up
from napari_zeroseg.locks import only_run_on
from napari_zeroseg.planes import Planes, planes_of
from napari_zeroseg.prompts import PromptKind
from napari_zeroseg.segmenter import Segmenter
from napari_zeroseg.weights.cards import CLASS_HEAD, has_class, model_folder
from napari_zeroseg.word_files import LONGEST, folder_of, words_folder


def find_file(
    job: FindRun,
    load: Callable[[], Segmenter],
    load_reader: Callable[[], Any],
    bar: Callable[[int, int], Any],
) -> dict[str, Any]:
    """Label ``job.source`` in ``job.out``, with the provenance as JSON beside it.

    Planes that an interrupted run of the same settings has done are not done again.

    Parameters
    ----------
    job : FindRun
    load, load_reader : callable
        Load the model that draws, and the one that reads phrases, or the detector; each is called if it is needed.
    bar : callable
        Makes a progress bar from (planes in all, planes already done).

    Returns
    -------
    dict
        The report on all planes with the provenance.

    Raises
    ------
    InputError, ReadError, WriteError, WeightsError
    """
    out = checked_target(job.out)
    if job.examples is not None and _is_same(job.examples, job.source):
        job = replace(job, examples=None)  # its labels are the picture's own
    sources = [path.expanduser() for path in (job.source, job.like, job.vote, job.examples) if path is not None]
    check_apart(out, *sources)
    heat_path = None if job.heat is None else checked_heat_path(job.heat.expanduser())
    if heat_path is not None:
        check_apart(heat_path, *sources, out)
    with only_run_on(out), nullcontext() if heat_path is None else only_run_on(heat_path):
        picture = open_image(sources[0])
        series = picture.planes()
        planes = planes_of(job.planes, len(series))
        model = load()
        readers: list[Any] = []

        def reader() -> Any:
            readers.append(load_reader())
            return readers[0]

        see = Sight(series, picture, job.contrast, model)
        way = way_of(job, model, reader, see)
        settings = _settings(job, model, readers, planes)
        run = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        if out.exists() and not job.overwrite and not is_growing(out):
            return _there_already(out, run, heat_path)
        classes = _classes(job, model, readers)
        heat = _heat_writer(job, heat_path, picture, series, run)
        writer = taken_up(out, _shape(series), picture, run, job.overwrite)
        if heat is not None and heat.is_taken:
            heat.forget()  # --overwrite says so, and the labels of this run can be written
        begun = {"out": str(writer.path), "run": run, "settings": settings}
        if classes:
            begun["classes"] = classes
        return _write(job, writer, heat, begun, see, planes, way, bar)


def _is_same(one: Path, other: Path) -> bool:
    return one.expanduser().resolve() == other.expanduser().resolve()


def _classes(job: FindRun, model: Segmenter, readers: Sequence[Any]) -> dict[str, int]:
    """Numbers of the phrases or of the detector's classes, none where labels number objects."""
    if job.detector is not None:
        names = readers[0].asked(job.text) if job.by_class else []
    else:
        names = job.text if job.by_class or PromptKind.TEXT in model.spec.accepts else ()
    return {name: number for number, name in enumerate(names, 1)}


def _there_already(out: Path, run: str, heat: Path | None) -> dict[str, Any]:
    found = provenance.there_already(out, run)
    if heat is not None and not heat.exists():
        raise WriteError(
            f"{out} is already there but its heat maps {heat} are not: add --overwrite to make both again."
        )
    if heat is not None and not _is_same(heat, Path(found.get("heat", ""))):
        raise WriteError(
            f"{out} is already there, and its heat maps are {found.get('heat')}: {heat} is something else. Give that "
            "name to --heat, or add --overwrite to make both again."
        )
    return found


def _heat_writer(job: FindRun, path: Path | None, picture: Picture, series: Planes, run: str) -> HeatWriter | None:
    """Take up the maps that a run of the same settings has left; those of another run stay here."""
    if path is None:
        return None
    writer = HeatWriter(path, _shape(series), picture.spacing, picture.units, run)
    if not job.overwrite:
        if path.exists() and not writer.is_begun:
            raise WriteError(f"{path} is already there: choose another name, or add --overwrite to replace it.")
        writer.check_free()
    return writer


def _shape(series: Planes) -> tuple[int, ...]:
    return (len(series), *series.plane_shape) if series.index_shape else series.plane_shape


def _write(
    job: FindRun,
    writer: LabelsWriter,
    heat: HeatWriter | None,
    begun: dict[str, Any],
    see: Sight,
    planes: Sequence[int],
    way: Way,
    bar: Callable[[int, int], Any],
) -> dict[str, Any]:
    start = time.perf_counter()
    done = writer.done if heat is None else writer.done & heat.done
    there = (_kept(writer.folder, plane) for plane in itertools.takewhile(done.__contains__, planes))
    reports = list(itertools.takewhile(lambda report: "fault" not in report, there))
    before = [report["plane"] for report in reports]
    lowest = 1 if job.like is None or job.examples is not None else 1 + _highest(labels_of(job.like, see.series))
    first = max([lowest, *(report["last"] + 1 for report in reports)])
    faults: list[ZerosegError] = []
    try:
        with bar(len(planes), len(reports)) as progress:
            for plane in planes[len(reports) :]:
                try:
                    found = way(see(plane), plane, first)
                except (InputError, InputTypeError, ReadError) as error:
                    faults.append(error)
                    found = Found(np.zeros(see.series.plane_shape, np.int32), {"objects": 0, "fault": str(error)})
                report = {"plane": plane, **found.told, "last": int(found.labels.max())}
                if heat is not None and found.heat:
                    heat.write(plane, found.heat)
                provenance.write_json(_report_file(writer.folder, plane), report)
                writer.write(plane, found.labels)  # it counts as done when its labels are there
                first = max(first, report["last"] + 1)
                reports.append(report)
                progress.update()
        if len(faults) == len(planes):
            raise faults[0]
        _write_the_others(job, see, planes, writer)
    except BaseException:
        if len(faults) == len(reports):
            writer.discard()  # nothing to take up
            if heat is not None:
                heat.forget()
        raise
    objects = sum(report["objects"] for report in reports)
    what = "masks voted" if job.vote is not None else "objects found"
    seconds = time.perf_counter() - start
    taken_up = f" {len(before)} plane(s) had been done by the run before." if before else ""
    told = {
        **begun,
        "summary": f"{writer.path}: {objects} {what} on {len(planes)} plane(s) in {seconds:.1f} s.{taken_up}",
        "planes": reports,
        "planes_done_before": before,
    }
    if heat is not None:
        heat.finish()
        told["heat"] = str(heat.path.absolute())
    result = provenance.finish(writer, told, start)
    if heat is not None:
        heat.forget()
    return result


def _write_the_others(job: FindRun, see: Sight, planes: Sequence[int], writer: LabelsWriter) -> None:
    """What the user has labelled on planes that were not searched stays in the result."""
    given = job.like or job.vote
    if given is None or job.examples is not None:
        return
    labels = labels_of(given, see.series)
    for plane in sorted(set(range(len(labels))) - set(planes)):
        here = np.asarray(labels.read(plane))
        if here.any():
            writer.write(plane, here)


def _kept(folder: Path, plane: int) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(_report_file(folder, plane).read_text(encoding="utf-8"))
    return told


def _report_file(folder: Path, plane: int) -> Path:
    return folder / f"{plane:06d}.json"


def _highest(labels: Planes) -> int:
    return max(int(labels.read(plane).max()) for plane in range(len(labels)))


def _settings(job: FindRun, model: Segmenter, readers: Sequence[Any], planes: Sequence[int]) -> dict[str, Any]:
    """All that the labels depend on."""
    asked = {" ".join(word.casefold().split()) for word in (*job.text, *([job.word] if job.word else []))}
    taught = {
        path.name: provenance.identity_of(path)["stamp"]
        for word in sorted(asked)
        if len(word) <= LONGEST and any(map(str.isalnum, word))
        for path in sorted(words_folder().glob(f"{folder_of(word).name}*"))
    }
    named = Path(job.detector or "").expanduser().resolve()
    detector = named if job.detector and named.is_dir() else None
    inputs = {
        name: provenance.identity_of(path.expanduser())
        for name, path in (
            ("input", job.source),
            ("like", job.like),
            ("vote", job.vote),
            ("examples", job.examples),
            ("detector_files", detector),
        )
        if path is not None
    }
    return {
        **inputs,
        "readers": [getattr(reader, "model_key", type(reader).__name__) for reader in readers],
        "taught": taught,
        "by_class": job.by_class,
        "heat": job.heat is not None,
        "word": job.word,
        "learnt": _hash_of_class(model.spec.key) if job.learnt else None,
        "text": list(job.text),
        "detector": job.detector if detector is None else str(detector),
        "detector_threshold": None if job.detector is None else job.detector_threshold,
        "model": model.spec.key,
        "model_hash": model.model_key,
        "planes": list(planes),
        "contrast": job.contrast,
        "similar": asdict(job.similar),
        "asking": asdict(job.words),
        "masks": asdict(job.masks),
        "version": version("napari-zeroseg"),
    }


def _hash_of_class(key: str) -> str | None:
    """sha256 of what a model has learnt of its class; None if it has learnt none."""
    return hashlib.sha256((model_folder(key) / CLASS_HEAD).read_bytes()).hexdigest() if has_class(key) else None

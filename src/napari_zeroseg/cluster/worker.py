"""What a worker process does: load the model once, do blocks of planes, keep each as soon as it is done."""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dask

from napari_zeroseg.catalogue import ModelSpec
from napari_zeroseg.embeddings import default_store
from napari_zeroseg.encode_ahead import EncodedPlane, encode_stack
from napari_zeroseg.errors import ClusterError, InputError, ReadError, WriteError
from napari_zeroseg.io.plane_files import read_plane, write_plane
from napari_zeroseg.io.read import open_image
from napari_zeroseg.io.targets import explained
from napari_zeroseg.io.write import LabelsWriter
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.planes import Planes
from napari_zeroseg.propagate_file import PropagateRun, propagate_file
from napari_zeroseg.provenance import write_json
from napari_zeroseg.registry import load_model
from napari_zeroseg.segmenter import Segmenter
from napari_zeroseg.stack import PlaneReport
from napari_zeroseg.tasks import PlaneTask, keep, kept

_ASK_AGAIN = 0.5
"""Seconds between two questions to the scheduler whether the run was stopped."""


@dataclass(frozen=True)
class Recipe:
    """How a worker gets the model: as for :func:`load_model`.

    Attributes
    ----------
    key : str
    weights : str, optional
        A file where every worker sees it, or a hub's name.
    device, precision : str
    threads : int, optional
        Threads that a worker computes with; left out, as it was started.
    """

    key: str
    weights: str | None = None
    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None


@dataclass(frozen=True)
class Known:
    """The model as the workers have it."""

    spec: ModelSpec
    model_key: str


@dataclass(frozen=True)
class Block:
    """What all blocks of a run have in common.

    Attributes
    ----------
    source : Path
    recipe : Recipe
    model_key : str
        Of the model that the run began with; a worker that has another one does nothing.
    stop : str
        Name of the event that stops the run.
    writer : LabelsWriter or None
        Where planes go.
    """

    source: Path
    recipe: Recipe
    model_key: str
    stop: str
    writer: LabelsWriter | None = None


busy = threading.Lock()
_loaded: dict[Recipe, Segmenter] = {}


def describe(recipe: Recipe) -> Known:
    """Load the model and tell which it is."""
    with busy:
        model = _model(recipe)
        return Known(model.spec, model.model_key)


def do_block(block: Block, task: PlaneTask, planes: Sequence[int]) -> list[PlaneReport]:
    """Do planes and keep them; those that an earlier try has done are not done again."""
    writer = _writer_of(block)
    done = writer.done
    reports = {plane: report for plane in planes if plane in done and (report := kept(writer.folder, plane))}
    with _working(block) as (series, model, cancel):
        left = [plane for plane in planes if plane not in reports]
        for report, labels in task.run(series, model, left, 1, cancel):
            keep(writer, report, labels)
            reports[report.plane] = report
    return [reports[plane] for plane in planes]


def find_block(block: Block, task: PlaneTask, planes: Sequence[int]) -> list[PlaneReport]:
    """Find objects whose numbers depend on the planes before: each plane is kept aside, with numbers from 1."""
    writer = _writer_of(block)
    aside = aside_of(writer)
    with explained(writer.path):
        aside.mkdir(exist_ok=True)
    reports = []
    with _working(block) as (series, model, cancel):
        for plane in planes:
            report = kept(aside, plane)
            if report is None or not _file(aside, plane).exists():
                ((report, labels),) = task.run(series, model, [plane], 1, cancel)
                write_json(aside / f"{plane:06d}.json", report.as_dict())
                with explained(writer.path):
                    write_plane(_file(aside, plane), labels)
            reports.append(report)
    return reports


def number_block(block: Block, offsets: Mapping[int, int], reports: Sequence[PlaneReport]) -> list[PlaneReport]:
    """Give planes that were kept aside their numbers in the stack."""
    writer = _writer_of(block)
    told = []
    for report in reports:
        offset = offsets[report.plane]
        labels = read_plane(_file(aside_of(writer), report.plane))
        labels[labels > 0] += offset
        report = replace(report, objects=tuple(replace(one, label=one.label + offset) for one in report.objects))
        keep(writer, report, labels)
        told.append(report)
    return told


def embed_block(block: Block, options: Mapping[str, Any], planes: Sequence[int]) -> list[EncodedPlane]:
    """Encode planes into this worker's cache folder."""
    store = default_store()
    if store.folder is None:
        raise InputError(
            "Embeddings are kept on disk, and ZEROSEG_DISK_CACHE is 0 at a worker: set it to the room that they may "
            "take."
        )
    with _working(block) as (series, model, cancel):
        return list(encode_stack(series, model, store, planes=planes, cancel=cancel, **options))


def propagate_on_worker(block: Block, job: PropagateRun) -> dict[str, Any]:
    """Follow objects through all planes, one after the other, as one process does."""
    with _working(block) as (_, model, cancel):
        return propagate_file(job, lambda: model, lambda total, done: _Watched(cancel), cancel)


class _Watched:
    """A progress bar that nobody sees, at which a run stops that is no longer wanted."""

    def __init__(self, cancel: CancelToken) -> None:
        self.n = self.total = 0
        self._cancel = cancel

    def __enter__(self) -> _Watched:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, steps: int = 1) -> None:
        self.n += steps
        self._cancel.raise_if_cancelled()


def aside_of(writer: LabelsWriter) -> Path:
    """Where planes wait for their numbers."""
    return writer.folder / "found"


def _file(aside: Path, plane: int) -> Path:
    return aside / f"{plane:06d}.tif"


def _writer_of(block: Block) -> LabelsWriter:
    assert block.writer is not None
    return seen(block.writer)


def seen(writer: LabelsWriter) -> LabelsWriter:
    """Return a writer of the run, if this worker sees where it writes."""
    if not writer.folder.is_dir():
        raise WriteError(
            f"{writer.folder} is not seen from the worker on {platform.node()}: write where every worker sees it."
        )
    return writer


@contextmanager
def _working(block: Block) -> Iterator[tuple[Planes, Segmenter, CancelToken]]:
    """One block at a time in a process, so that one model and one plane are in memory."""
    with busy:
        model = _model(block.recipe)
        if model.model_key != block.model_key:
            raise ClusterError(
                f"The worker on {platform.node()} has another model ({model.model_key}) than the first one "
                f"({block.model_key}): give all workers the same weights, and choose --device and --precision."
            )
        with reading(lambda: open_image(block.source).planes(), block.stop) as (series, stop):
            yield series, model, stop


@contextmanager
def reading(planes: Callable[[], Planes], stop: str) -> Iterator[tuple[Planes, CancelToken]]:
    """Open planes at this worker, with what tells when the run of that event is stopped."""
    try:
        series = planes()
        token = Stop(stop)
        # Planes that dask reads lazily are read here, and not sent for to other workers. After the token, whose way to
        # the scheduler makes that the default.
        with dask.config.set(scheduler="synchronous"):
            yield series, token
    except ReadError as error:
        raise ReadError(f"On the worker {platform.node()}: {error}") from error


def _model(recipe: Recipe) -> Segmenter:
    if recipe not in _loaded:
        _loaded.clear()  # one model a process
        if recipe.threads is not None:
            import torch

            torch.set_num_threads(recipe.threads)
        _loaded[recipe] = load_model(
            recipe.key, weights=recipe.weights, device=recipe.device, precision=recipe.precision
        )
    return _loaded[recipe]


class Stop(CancelToken):
    """Raised by whoever started the run, through the scheduler; also where the scheduler is gone."""

    def __init__(self, name: str) -> None:
        from distributed import Event, get_client

        super().__init__()
        self._stop = Event(name, get_client())
        self._asked = 0.0

    @property
    def cancelled(self) -> bool:
        """Whether the work should stop."""
        now = time.monotonic()
        if not self._event.is_set() and now - self._asked > _ASK_AGAIN:
            self._asked = now
            try:
                stopped = bool(self._stop.is_set())
            except OSError:
                stopped = True  # nobody is left to tell
            if stopped:
                self.cancel()
        return self._event.is_set()

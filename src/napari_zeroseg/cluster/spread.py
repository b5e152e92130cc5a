"""What starts a run on a cluster and collects its reports."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import find_objects

from napari_zeroseg import tiling
from napari_zeroseg.cluster.futures import RETRIES, Tasks, blocks_of, result_of
from napari_zeroseg.cluster.worker import (
    Block,
    Known,
    Recipe,
    aside_of,
    describe,
    do_block,
    embed_block,
    find_block,
    number_block,
    propagate_on_worker,
)
from napari_zeroseg.embeddings import default_store
from napari_zeroseg.encode_ahead import EncodedPlane
from napari_zeroseg.io.label_files import open_labels
from napari_zeroseg.io.read import open_image
from napari_zeroseg.io.write import LabelsWriter, is_growing
from napari_zeroseg.planes import planes_of
from napari_zeroseg.propagate_file import PropagateRun
from napari_zeroseg.stack import PlaneReport
from napari_zeroseg.tasks import Done, PlaneTask, kept, read_report
from napari_zeroseg.tiling import Field

if TYPE_CHECKING:
    from distributed import Client


class Spread:
    """The workers of a cluster do a task; see :class:`napari_zeroseg.tasks.Runner`.

    Parameters
    ----------
    client : distributed.Client
    recipe : Recipe
    source : Path
        The picture, where every worker sees it.

    Raises
    ------
    ClusterError
        If no worker can load the model because the cluster is gone or lacks this package.
    """

    def __init__(self, client: Client, recipe: Recipe, source: Path) -> None:
        self._client = client
        self._recipe = recipe
        self._source = source.absolute()
        future = client.submit(describe, recipe, pure=False, retries=RETRIES)
        self.model: Known = result_of(future)

    def run(self, task: PlaneTask, planes: Sequence[int], first: int, writer: LabelsWriter) -> Iterator[Done]:
        """Do planes of the task; yield a report for each, without labels, which the workers have written.

        Where objects are numbered through all planes, a plane gets its numbers as soon as it is known how many
        objects all planes before it have: those that one process would have given.
        """
        block = self._block(writer)
        chunks = blocks_of(planes, self._workers)
        work = self._numbered(block, task, chunks) if task.numbers_on else self._done(block, task, chunks)
        for report in work:
            yield report, None

    def embed(self, planes: Sequence[int], options: Mapping[str, Any]) -> Iterator[EncodedPlane]:
        """Encode planes into the workers' cache folder; what room there is is shared out by planes."""
        chunks = blocks_of(planes, self._workers)
        room = options.get("budget_bytes")
        if room is None:
            room = default_store().capacity
        block = self._block(None)
        with Tasks(self._client, block.stop) as tasks:
            for chunk in chunks:
                mine = dict(options, budget_bytes=room * len(chunk) // len(planes))
                tasks.add(embed_block, block, mine, chunk)
            for _, reports in tasks:
                yield from reports

    def propagate(self, job: PropagateRun, bar: Callable[[int, int], Any]) -> dict[str, Any]:
        """Propagate on a cluster: all workers encode, then one of them follows the objects.

        An object's place on a plane is known from the plane before, so the planes are followed one after the other, all
        objects of a plane in one batch: the result is that of one process. What takes nearly all of the time is
        encoding, and that is shared out: on each plane the windows in which the outlined objects lie. Where an object
        leaves its window, that worker encodes the next. The workers' cache folder is one that all of them see.

        Parameters
        ----------
        job : PropagateRun
        bar : callable
            Makes a progress bar of the planes to be encoded, from (planes in all, planes already done).

        Returns
        -------
        dict
            As of :func:`propagate_file`.
        """
        job = replace(
            job,
            source=job.source.absolute(),
            seeds=job.seeds.absolute(),
            out=job.out.absolute(),
            table=None if job.table is None else job.table.absolute(),
        )
        picture = open_image(job.source)
        planes = planes_of(job.planes, len(picture.planes()))
        limits = job.contrast or picture.metadata.get("contrast_limits")
        how = {
            "fields": self._fields_of(job.seeds, picture.planes().plane_shape),
            "limits": None if limits is None else (float(limits[0]), float(limits[1])),
        }
        is_there = job.out.exists() and not job.overwrite and not is_growing(job.out)
        if default_store().folder is not None and not is_there:
            with bar(len(planes), 0) as progress:
                for _ in self.embed(planes, how):
                    progress.update()
        block = self._block(None)
        with Tasks(self._client, block.stop) as tasks:
            tasks.add(propagate_on_worker, block, job)
            ((_, report),) = tasks
        told: dict[str, Any] = report
        return told

    def _fields_of(self, seeds: Path, shape: tuple[int, int]) -> list[Field]:
        """The windows that following looks through."""
        return [tiling.whole(shape)] if self.model.spec.whole_picture else _fields_of(seeds, shape)

    @property
    def _workers(self) -> int:
        return max(1, len(self._client.nthreads()))

    def _block(self, writer: LabelsWriter | None) -> Block:
        return Block(self._source, self._recipe, self.model.model_key, f"zeroseg-stop-{uuid.uuid4().hex}", writer)

    def _done(self, block: Block, task: PlaneTask, chunks: Sequence[list[int]]) -> Iterator[PlaneReport]:
        with Tasks(self._client, block.stop) as tasks:
            for chunk in chunks:
                tasks.add(do_block, block, task.on(chunk), chunk)
            for _, reports in tasks:
                yield from reports

    def _numbered(self, block: Block, task: PlaneTask, chunks: Sequence[list[int]]) -> Iterator[PlaneReport]:
        assert block.writer is not None
        numbers = _Numbers(block.writer, chunks)
        with Tasks(self._client, block.stop) as tasks:
            for chunk in chunks:
                tasks.add(find_block, block, task.on(chunk), chunk)
            for function, reports in tasks:
                if function is number_block:
                    yield from reports
                    continue
                for ready, offsets in numbers.add(reports):
                    tasks.add(number_block, block, offsets, ready, priority=1)


class _Numbers:
    """Counts the objects of planes, in order, whatever order they come in.

    A plane that could not be read by an earlier run, and can be now, comes behind those that were numbered without it,
    as it does where one process takes up the run.
    """

    def __init__(self, writer: LabelsWriter, chunks: Sequence[list[int]]) -> None:
        wanted = set(itertools.chain(*chunks))
        done = writer.done - wanted
        self._counts = dict.fromkeys(done, 0)
        self._counts |= {plane: len(report.objects) for plane in done if (report := kept(writer.folder, plane))}
        last = max(done, default=-1)
        late = {plane for plane in wanted if plane < last and _failed_before(writer, plane)}

        def turn(plane: int) -> tuple[int, int]:
            return (1 if plane in late else 0 if plane <= last else 2), plane

        self._order = sorted(done | wanted, key=turn)
        self._offsets: dict[int, int] = {}
        self._total = 0
        self._waiting: dict[int, list[PlaneReport]] = {}

    def add(self, reports: list[PlaneReport]) -> Iterator[tuple[list[PlaneReport], dict[int, int]]]:
        """Take a block's reports, and give the blocks that can be numbered now, with what to add on each plane."""
        self._waiting[reports[0].plane] = reports
        self._counts.update({report.plane: len(report.objects) for report in reports})
        while len(self._offsets) < len(self._order) and self._order[len(self._offsets)] in self._counts:
            plane = self._order[len(self._offsets)]
            self._offsets[plane] = self._total
            self._total += self._counts[plane]
        for first in sorted(self._waiting):
            if all(report.plane in self._offsets for report in self._waiting[first]):
                ready = self._waiting.pop(first)
                yield ready, {report.plane: self._offsets[report.plane] for report in ready}


def _failed_before(writer: LabelsWriter, plane: int) -> bool:
    """Whether an earlier run has reported that a plane cannot be read, on which the numbers behind it rest."""
    for folder in (writer.folder, aside_of(writer)):
        with suppress(OSError, ValueError, TypeError, KeyError):
            if read_report(folder, plane).fault:
                return True
    return False


def _fields_of(seeds: Path, shape: tuple[int, int]) -> list[Field]:
    """The windows in which outlined objects lie; one plane of labels is in memory at a time."""
    series = open_labels(seeds).planes()
    fields: dict[Field, None] = {}
    for plane in range(len(series)):
        labels = series.read(plane)
        present, numbered = np.unique(labels, return_inverse=True)  # the largest label may be very large
        for found in find_objects(numbered.reshape(labels.shape) + int(present[0] != 0)):
            if found is not None:
                rows, columns = found
                extent = (rows.start, columns.start, rows.stop - 1, columns.stop - 1)
                fields.setdefault(tiling.window_for(shape, extent))
    return list(fields)

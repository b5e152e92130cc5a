"""Planes linked by the workers of a cluster, in blocks: what they do, and who tells them.

What is known of a block goes through small files in the journal of the run, and not through the scheduler. So a run
that is taken up finds there what an earlier one has done.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from zipfile import BadZipFile

import numpy as np

from napari_zeroseg.cluster.futures import Tasks, blocks_of
from napari_zeroseg.cluster.worker import busy, reading, seen
from napari_zeroseg.errors import WriteError
from napari_zeroseg.io.label_files import open_labels
from napari_zeroseg.io.targets import explained, remove
from napari_zeroseg.io.write import LabelsWriter
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.link import LinkedObject, Linker, LinkOptions, Links, join_links, solve
from napari_zeroseg.link.holes import Hollows, VolumeHoles, hollows_of, join_hollows
from napari_zeroseg.link.planes import stack_of
from napari_zeroseg.link.solve import Numbers
from napari_zeroseg.planes import Planes
from napari_zeroseg.provenance import write_json

if TYPE_CHECKING:
    from distributed import Client

_CUT = "blocks.json"

T = TypeVar("T", Links, Hollows, Numbers, VolumeHoles)


@dataclass(frozen=True)
class Linking:
    """What all blocks of a run have in common.

    Attributes
    ----------
    source : Path
        The labels.
    options : LinkOptions
    stop : str
        Name of the event that stops the run.
    writer : LabelsWriter
        Where planes go; its journal takes what is known of blocks.
    """

    source: Path
    options: LinkOptions
    stop: str
    writer: LabelsWriter


def link_block(run: Linking, block: range) -> int:
    """Find the sections of a block of planes and what links them, also to the planes before that a link can reach."""
    with _working(run) as (series, cancel):
        begin = max(0, block.start - run.options.gap - 1)
        linker = Linker(run.options, begin)
        for plane in range(begin, block.stop):
            cancel.raise_if_cancelled()
            linker.add(series.read(plane))
        _keep(run.writer, block, linker.links())
    return len(block)


def hollow_block(run: Linking, block: range) -> int:
    """Find what may be holes of the volume in a block of planes that are linked, and the plane before it."""
    with _working(run) as (series, cancel):
        numbers = _wanted(Numbers, run.writer, block)
        planes = range(max(0, block.start - 1), block.stop)
        linked = (numbers.apply(plane, series.read(plane), run.options) for plane in _until(cancel, planes))
        _keep(run.writer, block, hollows_of(linked))
    return len(block)


def relabel_block(run: Linking, block: range) -> int:
    """Write the objects of a block of planes; those that an earlier try has written are not written again."""
    with _working(run) as (series, cancel):
        numbers = _wanted(Numbers, run.writer, block)
        holes = _wanted(VolumeHoles, run.writer, block) if run.options.fills_volume else None
        done = run.writer.done
        for plane in _until(cancel, [plane for plane in block if plane not in done]):
            labels = numbers.apply(plane, series.read(plane), run.options)
            run.writer.write(plane, labels if holes is None else holes.fill(plane, labels))
    return len(block)


class SpreadLinks:
    """The workers of a cluster link planes; see :class:`napari_zeroseg.link_file.LinkRunner`.

    Each pass over the planes is done in blocks. Between two of them this process joins what is known of the blocks,
    tables of sections and no pixels, and decides: so the objects and their numbers are those of one process.

    Parameters
    ----------
    client : distributed.Client
    source : Path
        The labels, where every worker sees them.
    """

    def __init__(self, client: Client, source: Path) -> None:
        self._client = client
        self._source = source.absolute()

    def run(self, options: LinkOptions, writer: LabelsWriter, bar: Callable[[int, int], Any]) -> Sequence[LinkedObject]:
        """Link all planes into the writer's journal, and return the objects."""
        run = Linking(self._source, options, f"zeroseg-stop-{uuid.uuid4().hex}", writer)
        blocks = _cut(writer, max(1, len(self._client.nthreads())), options.gap + 1)
        with bar((3 if options.fills_volume else 2) * writer.count, 0) as progress:
            links = join_links(self._found(link_block, Links, run, blocks, progress))
            relabelling = solve(links, options)
            for block in blocks:
                # one plane more, since holes go on from the plane before
                _keep(writer, block, relabelling.numbers(max(0, block.start - 1), block.stop))
            if options.fills_volume:
                hollows = join_hollows(self._found(hollow_block, Hollows, run, blocks, progress))
                holes = VolumeHoles.of(hollows, options.max_hole_volume / options.voxel)
                for block in blocks:
                    _keep(writer, block, holes.part(block.start, block.stop))
            self._each(relabel_block, run, blocks, progress)
        return relabelling.objects

    def _found(
        self, function: Callable[..., int], kind: type[T], run: Linking, blocks: Sequence[range], progress: Any
    ) -> list[T]:
        """What a pass finds in each block; blocks of which an earlier run has kept it are not looked at again."""
        left = [block for block in blocks if _kept(kind, run.writer, block) is None]
        progress.update(run.writer.count - sum(map(len, left)))
        self._each(function, run, left, progress)
        return [_wanted(kind, run.writer, block) for block in blocks]

    def _each(self, function: Callable[..., int], run: Linking, blocks: Sequence[range], progress: Any) -> None:
        with Tasks(self._client, run.stop) as tasks:
            for block in blocks:
                tasks.add(function, run, block)
            for _, planes in tasks:
                progress.update(planes)


@contextmanager
def _working(run: Linking) -> Iterator[tuple[Planes, CancelToken]]:
    """One block at a time in a process, so that the planes of one are in memory."""
    with busy, reading(lambda: stack_of(open_labels(run.source).data), run.stop) as opened:
        seen(run.writer)
        yield opened


def _until(cancel: CancelToken, planes: Sequence[int]) -> Iterator[int]:
    for plane in planes:
        cancel.raise_if_cancelled()
        yield plane


def _cut(writer: LabelsWriter, workers: int, least: int) -> list[range]:
    """Cut the planes into blocks; a run that is taken up has those that it began with, whoever works now."""
    file = writer.folder / _CUT
    with suppress(OSError, ValueError, TypeError, KeyError):
        return [range(*block) for block in json.loads(file.read_text(encoding="utf-8"))["blocks"]]
    size = max(least, len(blocks_of(range(writer.count), workers)[0]))  # shorter ones would read planes over and over
    blocks = [range(start, min(start + size, writer.count)) for start in range(0, writer.count, size)]
    write_json(file, {"blocks": [[block.start, block.stop] for block in blocks]})
    return blocks


def _keep(writer: LabelsWriter, block: range, known: T) -> None:
    """Note what is known of a block, as arrays in a file that is renamed when it is whole."""
    file = _file(type(known), writer, block)
    temporary = file.with_name(f"{file.stem}.{uuid.uuid4().hex[:8]}.tmp")
    with explained(writer.path):
        try:
            with temporary.open("wb") as stream:
                np.savez(stream, **{field.name: getattr(known, field.name) for field in fields(known)})
            temporary.replace(file)
        finally:
            remove(temporary)


def _kept(kind: type[T], writer: LabelsWriter, block: range) -> T | None:
    """What was noted of a block; None if nothing was, or it cannot be read."""
    try:
        with _file(kind, writer, block).open("rb") as stream, np.load(stream) as arrays:
            values: dict[str, Any] = {field.name: arrays[field.name] for field in fields(kind)}
    except (OSError, ValueError, KeyError, BadZipFile):
        return None
    values |= {name: int(array) for name, array in values.items() if not array.ndim}
    return kind(**values)


def _wanted(kind: type[T], writer: LabelsWriter, block: range) -> T:
    known = _kept(kind, writer, block)
    if known is None:
        raise WriteError(
            f"{_file(kind, writer, block)} is missing or damaged: repeat the run, which makes it again, where every "
            "worker sees the folder."
        )
    return known


def _file(kind: type[Any], writer: LabelsWriter, block: range) -> Path:
    return writer.folder / f"{kind.__name__.lower()}-{block.start:06d}.npz"

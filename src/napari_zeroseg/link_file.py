"""Labels of planes in, objects of the volume out: what `zeroseg link` does, here or on a cluster, resumable."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from napari_zeroseg import provenance
from napari_zeroseg.errors import InputError, WriteError
from napari_zeroseg.io.label_files import open_labels
from napari_zeroseg.io.picture import Picture
from napari_zeroseg.io.targets import checked_target
from napari_zeroseg.io.write import LabelsWriter, discard, is_growing, journal_of, planes_in
from napari_zeroseg.link import LinkedObject, LinkOptions, link_planes
from napari_zeroseg.link.planes import stack_of
from napari_zeroseg.locks import only_run_on
from napari_zeroseg.planes import Planes


@dataclass(frozen=True)
class LinkRun:
    """What to link and how.

    Attributes
    ----------
    source : Path
        Labels that :func:`open_labels` opens.
    out : Path
        Where the objects go; its ending is the format.
    options : LinkOptions
        Their spacing is that of the file, where it has one.
    overwrite : bool
        Replace `out` if it is there, and the planes of another unfinished run.
    """

    source: Path
    out: Path
    options: LinkOptions = field(default_factory=LinkOptions)
    overwrite: bool = False


class LinkRunner(Protocol):
    """Who links the planes: this process, or the workers of a cluster."""

    def run(self, options: LinkOptions, writer: LabelsWriter, bar: Callable[[int, int], Any]) -> Sequence[LinkedObject]:
        """Link all planes into the writer's journal, and return the objects."""
        ...


@dataclass(frozen=True)
class LinkHere:
    """Planes are linked in this process, one after the other."""

    series: Planes

    def run(self, options: LinkOptions, writer: LabelsWriter, bar: Callable[[int, int], Any]) -> Sequence[LinkedObject]:
        """Link all planes into the writer's journal, and return the objects."""
        done = writer.done
        with bar(2 * writer.count, len(done)) as progress:
            linked = link_planes(self.series.data, options, lambda *_: progress.update())
            for plane in sorted(set(range(writer.count)) - done):
                writer.write(plane, linked.plane(plane))
                progress.update()
        return linked.objects


def link_file(
    job: LinkRun, bar: Callable[[int, int], Any], spread: Callable[[Path], LinkRunner] | None = None
) -> dict[str, Any]:
    """Link the planes of ``job.source`` into ``job.out``.

    Planes that an interrupted run with the same options has written are not written again.

    Parameters
    ----------
    job : LinkRun
    bar : callable
        Makes a progress bar from (planes in all, planes already done); each pass over the planes counts.
    spread : callable, optional
        Makes, from the path of the labels, what does it elsewhere.

    Returns
    -------
    dict
        "out", the number of "planes", and the "objects".

    Raises
    ------
    InputError, ReadError, WriteError
    """
    out = checked_target(job.out)
    source = job.source.expanduser()
    if source.resolve() == out.resolve():
        raise InputError(f"{out} is the input itself: choose another name for the linked labels.")
    with only_run_on(out):
        if out.exists() and not job.overwrite and not is_growing(out):
            raise WriteError(f"{out} is already there: choose another name, or add --overwrite to replace it.")
        labels = open_labels(source)
        series = stack_of(labels.data)
        step = labels.spacing
        options = replace(job.options, spacing=(step.get("Z", 1.0), step.get("Y", 1.0), step.get("X", 1.0)))
        runner = LinkHere(series) if spread is None else spread(source)
        writer = _writer(job, out, series, labels, _identity(source, options))
        try:
            objects = runner.run(options, writer, bar)
        except BaseException as error:
            begun = any(writer.folder.glob("*.npz")) and not isinstance(error, InputError)
            if not writer.done and not begun:
                writer.discard()  # nothing to take up, so nothing that stands in the way of other options
            raise
        writer.close()
        return {"out": str(out), "planes": len(series), "objects": [asdict(one) for one in objects]}


def _identity(source: Path, options: LinkOptions) -> str:
    """A hash of everything that the result depends on."""
    deciding = {
        "input": provenance.identity_of(source)["stamp"],
        "link": {**asdict(options), "branches": str(options.branches)},
        "version": version("napari-zeroseg"),
    }
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:16]


def _writer(job: LinkRun, out: Path, series: Planes, labels: Picture, run: str) -> LabelsWriter:
    shape = (len(series), *series.plane_shape)
    make = functools.partial(LabelsWriter, out, shape, spacing=labels.spacing, units=labels.units, run=run)
    try:
        return make()
    except WriteError:
        # planes of another run wait there: they go if the user says so, or if there are none
        waiting = journal_of(out)
        if not waiting.is_dir() or (planes_in(waiting) and not job.overwrite):
            raise
        discard(out)
        return make()

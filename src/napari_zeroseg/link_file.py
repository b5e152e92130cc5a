"""Labels of planes in, objects of the volume out: what `zeroseg link` does, here or on a cluster, resumable."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from napari_zeroseg import provenance
from napari_zeroseg.errors import InputError
from napari_zeroseg.io.label_files import open_labels
from napari_zeroseg.io.targets import check_apart, checked_target
from napari_zeroseg.io.write import LabelsWriter, is_growing, taken_up
from napari_zeroseg.link import LinkedObject, LinkOptions, link_planes
from napari_zeroseg.link.planes import stack_of
from napari_zeroseg.locks import only_run_on
from napari_zeroseg.planes import Planes

_log = logging.getLogger(__name__)


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
    """Link the planes of ``job.source`` into ``job.out``, with the provenance as JSON beside it.

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
        The number of "planes" and the "objects" with the provenance, as it is in the JSON.

    Raises
    ------
    InputError, ReadError, WriteError
    """
    out = checked_target(job.out)
    source = job.source.expanduser()
    check_apart(out, source)
    with only_run_on(out):
        if is_growing(source):
            _log.warning("%s is not finished: planes that are not done are empty, and are linked as such.", source)
        labels = open_labels(source)
        series = stack_of(labels.data)
        step = labels.spacing
        options = replace(job.options, spacing=(step.get("Z", 1.0), step.get("Y", 1.0), step.get("X", 1.0)))
        settings = _settings(source, options)
        run = provenance.hash_of(settings)
        if out.exists() and not job.overwrite and not is_growing(out):
            return provenance.there_already(out, run)
        runner = LinkHere(series) if spread is None else spread(source)
        begun = {"out": str(out), "run": run, "settings": settings, "started": provenance.now()}
        writer = taken_up(out, (len(series), *series.plane_shape), labels, run, job.overwrite)
        return _write(writer, options, runner, bar, begun)


def _write(
    writer: LabelsWriter,
    options: LinkOptions,
    runner: LinkRunner,
    bar: Callable[[int, int], Any],
    begun: dict[str, Any],
) -> dict[str, Any]:
    """Link the planes, and write the labels and their provenance."""
    start = time.perf_counter()
    try:
        objects = runner.run(options, writer, bar)
    except BaseException as error:
        has_blocks = any(writer.folder.glob("*.npz")) and not isinstance(error, InputError)
        if not writer.done and not has_blocks:
            writer.discard()  # nothing to take up, so nothing that stands in the way of other options
        raise
    told = {
        **begun,
        "summary": f"{writer.path}: {len(objects)} object{'s' * (len(objects) != 1)} on {writer.count} planes.",
        "planes": writer.count,
        "objects": [asdict(one) for one in objects],
    }
    return provenance.finish(writer, told, start)


def _settings(source: Path, options: LinkOptions) -> dict[str, Any]:
    """All that the result depends on."""
    told = {name: "inf" if value == math.inf else value for name, value in asdict(options).items()}
    return {
        "input": provenance.identity_of(source),
        "link": {**told, "branches": str(options.branches)},
        "version": version("napari-zeroseg"),
    }

"""What is done with a plane, in a form that can be sent to another process; and the journal of what was done."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from napari_zeroseg.automatic.class_filter import ClassFilter
from napari_zeroseg.embeddings import default_store
from napari_zeroseg.io.label_files import open_labels
from napari_zeroseg.io.write import LabelsWriter
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.planes import Planes
from napari_zeroseg.provenance import KnownModel, write_json
from napari_zeroseg.segmenter import Segmenter
from napari_zeroseg.stack import PlaneReport, Search, Seed, StackOptions, search_planes, segment_planes

_HELD_IN_MEMORY = 16 * 2**20
"""Bytes of embeddings that a run keeps in memory: it is done with a plane's windows when it leaves the plane."""

Done = tuple[PlaneReport, NDArray[Any] | None]
"""A plane's report and its labels; None where they are written already."""


class PlaneTask(Protocol):
    """What is done with each plane, without looking at others."""

    @property
    def numbers_on(self) -> bool:
        """Whether objects are numbered through all planes: a plane's labels follow those of the planes before."""
        ...

    def on(self, planes: Sequence[int]) -> PlaneTask:
        """The part of it that some planes need."""
        ...

    def run(
        self, series: Planes, model: Segmenter, planes: Sequence[int], first: int, cancel: CancelToken | None
    ) -> Iterator[tuple[PlaneReport, NDArray[Any]]]:
        """Do planes, in order; `first` is the first label that is free."""
        ...


@dataclass(frozen=True)
class ByPrompts:
    """The objects that prompts point at.

    Attributes
    ----------
    seeds : mapping of int to sequence of Seed
        By plane.
    options : StackOptions
    """

    seeds: Mapping[int, Sequence[Seed]]
    options: StackOptions
    numbers_on: bool = False

    def on(self, planes: Sequence[int]) -> ByPrompts:
        """The prompts on some planes."""
        return ByPrompts({plane: self.seeds[plane] for plane in planes}, self.options)

    def run(
        self, series: Planes, model: Segmenter, planes: Sequence[int], first: int, cancel: CancelToken | None
    ) -> Iterator[tuple[PlaneReport, NDArray[Any]]]:
        """Do planes, in order; labels are those of the seeds."""
        return segment_planes(
            series, model, self.on(planes).seeds, self.options, default_store(_HELD_IN_MEMORY), cancel
        )


@dataclass(frozen=True)
class ClassMap:
    """A file with a map of classes, which is opened where it is used, and the classes that are wanted.

    Attributes
    ----------
    path : Path
        Labels of the picture's planes, where every worker sees them.
    keep : tuple of int
    """

    path: Path
    keep: tuple[int, ...]

    @cached_property
    def filter(self) -> ClassFilter:
        """What keeps objects of these classes."""
        return ClassFilter(open_labels(self.path).planes(), self.keep)


@dataclass(frozen=True)
class Everything:
    """Whatever is found without prompts.

    Attributes
    ----------
    search : Search
    options : StackOptions
    classes : ClassMap, optional
        Objects of which classes are kept; left out, all.
    """

    search: Search
    options: StackOptions
    classes: ClassMap | None = None
    numbers_on: bool = True

    def on(self, planes: Sequence[int]) -> Everything:
        """The same: it is what is done on every plane."""
        return self

    def run(
        self, series: Planes, model: Segmenter, planes: Sequence[int], first: int, cancel: CancelToken | None
    ) -> Iterator[tuple[PlaneReport, NDArray[Any]]]:
        """Do planes, in order; objects are numbered from `first` through all of them."""
        classes = None if self.classes is None else self.classes.filter
        store = default_store(_HELD_IN_MEMORY)
        return search_planes(
            series, model, planes, self.search, self.options, classes=classes, first=first, store=store, cancel=cancel
        )


class Runner(Protocol):
    """Who does a task: this process, or the workers of a cluster."""

    @property
    def model(self) -> KnownModel:
        """The model that is asked."""
        ...

    def run(self, task: PlaneTask, planes: Sequence[int], first: int, writer: LabelsWriter) -> Iterable[Done]:
        """Do planes of the task; what comes without labels is in `writer`'s journal already."""
        ...


@dataclass(frozen=True)
class Here:
    """The task is done in this process, plane by plane."""

    series: Planes
    model: Segmenter

    def run(self, task: PlaneTask, planes: Sequence[int], first: int, writer: LabelsWriter) -> Iterable[Done]:
        """Do planes; the caller keeps them."""
        return task.run(self.series, self.model, planes, first, None)


def keep(writer: LabelsWriter, report: PlaneReport, labels: NDArray[Any]) -> None:
    """Note a plane as done. Its labels come last: it counts as done when they are there.

    Raises
    ------
    WriteError
        If the disk is full or the folder is gone.
    """
    write_json(_report_file(writer.folder, report.plane), report.as_dict())
    writer.write(report.plane, labels)


def read_report(folder: Path, plane: int) -> PlaneReport:
    """Return the report of a plane as it was kept.

    Raises
    ------
    OSError, ValueError, TypeError, KeyError
        If there is none, or it is damaged.
    """
    return PlaneReport.from_dict(json.loads(_report_file(folder, plane).read_text(encoding="utf-8")))


def kept(folder: Path, plane: int) -> PlaneReport | None:
    """Return the report of a plane that was done before; None if it is to be done again."""
    try:
        report = read_report(folder, plane)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return None if report.fault else report  # what could not be read then may be readable now


def _report_file(folder: Path, plane: int) -> Path:
    return folder / f"{plane:06d}.json"

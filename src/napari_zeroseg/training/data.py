"""Labelled planes and the objects on them, checked; imports no torch."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_zeroseg.errors import InputError, ReadError
from napari_zeroseg.intensity import to_uint8
from napari_zeroseg.io.label_files import open_labels
from napari_zeroseg.io.read import open_image
from napari_zeroseg.planes import Planes, check_picture, planes_of
from napari_zeroseg.training.config import TrainingConfig, TrainingPair

IGNORE = -1
"""In a plane's objects: neither object nor background."""

FEWEST_OBJECTS = 10
"""Objects from which training starts."""

PARTS_OF_A_CLASS = 1.5
"""Connected parts a label and plane from which labels are taken for classes: objects seldom come in pieces."""

_BYTES_HELD = 500_000_000
"""Of planes and their objects held in memory at a time; the last one stays in any case."""

Box = tuple[int, int, int, int]
"""(row0, column0, row1, column1), last pixels included."""


@dataclass(frozen=True)
class LabelledPlane:
    """Where one plane is.

    Attributes
    ----------
    pair, index : int
        Which pair, and which plane of its picture.
    shape : tuple of int
        (H, W) in pixels.
    stack : str
        What it is a plane of: a file, a layer that it was copied from, or the pair's own array.
    number : int
        Which plane of that.
    """

    pair: int
    index: int
    shape: tuple[int, int]
    stack: str = ""
    number: int = 0

    def distance(self, other: LabelledPlane) -> float:
        """How many planes lie between the two, plus one; infinite for planes of other stacks."""
        return abs(self.number - other.number) if self.stack == other.stack else np.inf


@dataclass(frozen=True)
class TrainingObject:
    """One object on one plane: its number in the plane's objects, its box, its pixels, and the label that it has."""

    plane: int
    number: int
    box: Box
    pixels: int
    label: int = 0

    @property
    def centre(self) -> tuple[float, float]:
        """(row, column) of the box's middle."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


class TrainingData:
    """All labelled planes of a run; pixels are read when they are needed.

    Parameters
    ----------
    config : TrainingConfig
        Paths in its pairs must be absolute, or arrays.

    Raises
    ------
    ReadError, InputError
        If a file cannot be read, or its labels do not fit: each with a sentence.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self._config = config
        self._pictures: list[Planes] = []
        self._labels: list[Planes] = []
        self._limits: list[tuple[float, float] | None] = []
        self._fingerprint = ""
        self._held: OrderedDict[int, tuple[NDArray[np.uint8], NDArray[np.int32]]] = OrderedDict()
        self.planes: list[LabelledPlane] = []
        for number, pair in enumerate(config.pairs):
            self._open(number, pair)
        self._as_classes = self._decide()
        self.objects = self._scan()

    @property
    def as_classes(self) -> bool:
        """Whether labels are taken for classes whose connected parts are the objects."""
        return self._as_classes

    def read(self, plane: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """Picture (H, W) or (H, W, 3) uint8, and objects (H, W): 0 background, -1 ignored, else an object's number."""
        if plane not in self._held:
            where = self.planes[plane]
            pixels = self._pictures[where.pair].read(where.index)
            check_picture(pixels)
            picture = to_uint8(pixels, self._limits[where.pair])
            self._held[plane] = picture, self._objects_of(plane)
            while len(self._held) > 1 and self._size() > _BYTES_HELD:
                self._held.popitem(last=False)
        self._held.move_to_end(plane)
        return self._held[plane]

    def _size(self) -> int:
        return sum(array.nbytes for both in self._held.values() for array in both)

    def of_plane(self, plane: int) -> list[TrainingObject]:
        """Objects on one plane."""
        return [one for one in self.objects if one.plane == plane]

    def role(self, plane: int) -> str:
        """Role of the pair that a plane belongs to."""
        return self._config.pairs[self.planes[plane].pair].role

    def fingerprint(self) -> str:
        """Hash of all pixels and labels that the run can see; made once."""
        if not self._fingerprint:
            self._fingerprint = self._hashed()
        return self._fingerprint

    def _hashed(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for plane in range(len(self.planes)):
            picture, objects = self.read(plane)
            digest.update(repr((picture.shape, objects.shape)).encode())
            digest.update(np.ascontiguousarray(picture).data)
            digest.update(np.ascontiguousarray(objects).data)
        return digest.hexdigest()

    def _open(self, number: int, pair: TrainingPair) -> None:
        picture, limits = _planes_of(pair.image, "picture")
        labels, _ = _planes_of(pair.labels, "labels")
        _check_fit(pair, picture, labels)
        self._pictures.append(picture)
        self._labels.append(labels)
        self._limits.append(pair.contrast or limits)
        if pair.numbers and len(pair.numbers) != len(picture):
            raise InputError(
                f"{pair.title} has {_several(len(picture))} and numbers for {_several(len(pair.numbers))}: give as "
                "many numbers as planes, or none."
            )
        chosen = planes_of(pair.planes.strip() or None, len(picture))
        stack = pair.origin or _stack_of(number, pair, picture)
        for index in chosen:
            values = self._values(number, index)
            if not pair.planes and not self._wanted(values).any():
                continue  # a plane that nobody has labelled says nothing, unless it was named
            told = pair.numbers[index] if pair.numbers else index
            self.planes.append(LabelledPlane(number, index, picture.plane_shape, stack, told))

    def _values(self, pair: int, index: int) -> NDArray[Any]:
        """One plane of labels as whole numbers."""
        values = self._labels[pair].read(index)
        if values.dtype.kind == "b":
            return values.astype(np.uint8)
        if values.dtype.kind == "f":
            title = self._config.pairs[pair].title
            if not np.isfinite(values).all() or (values != np.rint(values)).any():
                raise InputError(
                    f"The labels of {title} hold fractions such as {_a_fraction(values)}: labels are whole numbers, 0 "
                    "for background. Threshold a probability map first, or choose the right layer."
                )
            return values.astype(np.int64)
        if values.dtype.kind not in "iu":
            raise InputError(f"The labels are {values.dtype}, and whole numbers were expected.")
        return values

    def _wanted(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        config = self._config
        found = np.isin(values, config.classes) if config.classes else values != 0
        if config.ignore is not None:
            found &= values != config.ignore
        return found

    def _decide(self) -> bool:
        if self._config.labels_are != "auto":
            return self._config.labels_are == "classes"
        parts: list[int] = []
        for where in self.planes[:: max(1, len(self.planes) // 16)]:
            values = self._values(where.pair, where.index)
            wanted = self._wanted(values)
            for label in np.unique(values[wanted])[:64]:
                connected, count = ndimage.label(values == label)
                sizes = np.bincount(connected.ravel(), minlength=count + 1)[1:]
                # specks that a brush or an earlier segmentation left are no parts
                parts.append(int((sizes >= self._config.min_pixels).sum()))
        parts = [count for count in parts if count]
        return bool(parts) and float(np.mean(parts)) > PARTS_OF_A_CLASS

    def _objects_of(self, plane: int) -> NDArray[np.int32]:
        where = self.planes[plane]
        values = self._values(where.pair, where.index)
        wanted = self._wanted(values)
        objects = np.zeros(values.shape, np.int32)
        if self._as_classes:
            last = 0
            for label in np.unique(values[wanted]):
                connected, count = ndimage.label(values == label)
                objects[connected > 0] = connected[connected > 0] + last
                last += count
        elif wanted.any():
            # huge ids become small numbers
            objects[wanted] = np.unique(values[wanted], return_inverse=True)[1].reshape(-1) + 1
        if self._config.ignore is not None:
            objects[values == self._config.ignore] = IGNORE
        return objects

    def _scan(self) -> list[TrainingObject]:
        found: list[TrainingObject] = []
        for plane in range(len(self.planes)):
            objects = self._objects_of(plane)
            where = self.planes[plane]
            values = self._values(where.pair, where.index)
            positive = np.maximum(objects, 0)
            sizes = np.bincount(positive.ravel())
            for number, box in enumerate(ndimage.find_objects(positive), 1):
                if box is not None and sizes[number] >= self._config.min_pixels:
                    rows, columns = box
                    corners = (rows.start, columns.start, rows.stop - 1, columns.stop - 1)
                    label = int(values[box][objects[box] == number][0])
                    found.append(TrainingObject(plane, number, corners, int(sizes[number]), label))
        return found


def check_enough(data: TrainingData, config: TrainingConfig) -> None:
    """Raise, with a sentence, if there is too little to learn from.

    Raises
    ------
    InputError
        Without labels, with fewer than ten objects, if every plane is one single object, or if a word names none.
    """
    if not data.planes or not data.objects:
        which = f"of the classes {', '.join(map(str, config.classes))} " if config.classes else ""
        small = " of at least {config.min_pixels} pixels" if data.planes else ""
        raise InputError(
            f"The labels hold no object {which}to learn from{small.format(config=config)}: draw at least "
            f"{FEWEST_OBJECTS} objects, or choose other planes or classes."
        )
    full = [one for one in data.objects if one.pixels > 0.95 * np.prod(data.planes[one.plane].shape)]
    if len(full) == len(data.objects):
        raise InputError(
            "Every labelled plane is one single object from side to side, so there is nothing to tell apart: check "
            "that the labels, and not the picture or a mask of the whole, were chosen."
        )
    if len(data.objects) < FEWEST_OBJECTS:
        count = len(data.objects)
        raise InputError(
            f"There {'is 1 object' if count == 1 else f'are {count} objects'} of at least {config.min_pixels} pixels, "
            f"and {FEWEST_OBJECTS} are needed to start: draw {FEWEST_OBJECTS - count} more"
            + ("." if data.as_classes else ", or say that labels are classes if each connected part is an object.")
        )
    _check_words(data, config)


def _check_words(data: TrainingData, config: TrainingConfig) -> None:
    there = {one.label for one in data.objects}
    for word, labels in config.words.items():
        if labels and not there & set(labels):
            raise InputError(
                f"No object has a label of {word!r} ({', '.join(map(str, labels))}): label some, or give the numbers "
                f"that the labels have, such as {', '.join(map(str, sorted(there)[:5]))}."
            )


def _planes_of(source: Any, what: str) -> tuple[Planes, tuple[float, float] | None]:
    if not isinstance(source, (str, Path)):
        return Planes.of(source, rgb=False if what == "labels" else None), None
    try:
        picture = open_labels(source) if what == "labels" else open_image(source)
    except ReadError as error:
        raise ReadError(f"The {what} of this run cannot be read. {error}") from error
    limits = picture.metadata.get("contrast_limits")
    return picture.planes(), None if limits is None else (float(limits[0]), float(limits[1]))


def _check_fit(pair: TrainingPair, picture: Planes, labels: Planes) -> None:
    if labels.is_colour:
        raise InputError(f"The labels of {pair.title} are a colour picture: labels are one whole number a pixel.")
    if picture.plane_shape != labels.plane_shape:
        raise InputError(
            f"The labels of {pair.title} have {_by(labels.plane_shape)} pixels and its planes "
            f"{_by(picture.plane_shape)}: choose the labels that were drawn on this picture."
        )
    if len(picture) != len(labels):
        raise InputError(
            f"The labels of {pair.title} have {_several(len(labels))} and the picture {_several(len(picture))}: choose "
            "the labels that belong to it, or the same part of both."
        )


def _several(count: int) -> str:
    return "1 plane" if count == 1 else f"{count} planes"


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _a_fraction(values: NDArray[Any]) -> str:
    odd = values[~np.isfinite(values) | (values != np.rint(values))]
    return f"{float(odd.flat[0]):g}"


def _stack_of(number: int, pair: TrainingPair, picture: Planes) -> str:
    """What the planes of a pair are planes of; the same for two pairs whose pictures are the same."""
    if isinstance(pair.image, (str, Path)):
        return str(Path(pair.image).expanduser().resolve())
    return origin_of(len(picture), picture.plane_shape, picture.read) or f"pair {number}"


def origin_of(count: int, shape: tuple[int, int], read: Callable[[int], NDArray[Any]]) -> str:
    """A name that another copy of a stack has too; "" where its pixels do not tell it from others."""
    digest = hashlib.blake2b(repr((count, shape)).encode(), digest_size=16)
    has_content = False
    for index in sorted({0, count // 2, count - 1}):
        pixels = np.ascontiguousarray(read(index))
        has_content |= bool((pixels != pixels.flat[0]).any())
        digest.update(pixels.tobytes())
    return f"copy {digest.hexdigest()}" if has_content else ""

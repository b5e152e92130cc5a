"""Objects as the user outlined them, by plane and label; and labels of a plane that stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg.errors import InputError, InputTypeError
from napari_zeroseg.planes import Planes
from napari_zeroseg.propagation import masks
from napari_zeroseg.propagation.masks import Packed
from napari_zeroseg.segmenter import Patch

if TYPE_CHECKING:
    from napari_zeroseg.jobs import CancelToken


class Outlines:
    """Masks of objects on the planes where they are known; an empty one says that the object is not there.

    Parameters
    ----------
    shape : tuple of int
        (H, W) of a plane.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self._masks: dict[int, dict[int, Packed]] = {}

    @classmethod
    def gather(cls, seeds: object, series: Planes, planes: range, cancel: CancelToken | None = None) -> Outlines:
        """Take objects from labels.

        Parameters
        ----------
        seeds : Mapping of int to (H, W) array, or (Z, H, W) array_like
            Labels by plane, or of all planes, read one at a time; those without any label know nothing.
        series : Planes
            The stack.
        planes : range
            Others are left out.
        cancel : CancelToken, optional
            Looked at between planes.

        Raises
        ------
        InputError, InputTypeError
            If the labels have another shape than the stack, are no whole numbers, or there are none.
        """
        outlines = cls(series.plane_shape)
        if isinstance(seeds, Mapping):
            for plane in seeds:
                if not 0 <= int(plane) < len(series):
                    raise InputError(f"There is no plane {plane}: planes are counted from 0 to {len(series) - 1}.")
            for plane in seeds:
                if cancel is not None:
                    cancel.raise_if_cancelled()
                if int(plane) in planes:
                    outlines.add_plane(int(plane), np.asarray(seeds[plane]))
        else:
            source = labels_of_planes(seeds, series)
            for plane in planes:
                if cancel is not None:
                    cancel.raise_if_cancelled()
                outlines.add_plane(plane, source.read(plane))
        if not outlines.labels:
            raise InputError("There is no object to follow: outline at least one on one of the planes.")
        return outlines

    @property
    def labels(self) -> list[int]:
        """Numbers of all objects, sorted."""
        return sorted(self._masks)

    def of_plane(self, labels: NDArray[np.integer]) -> dict[int, Patch]:
        """Objects of one plane (H, W) of labels.

        Raises
        ------
        InputError, InputTypeError
            If it is not a plane of whole numbers of the stack's shape.
        """
        array = check_labels(np.asarray(labels), self.shape)
        return masks.of_labels(array)

    def add_plane(self, plane: int, labels: NDArray[np.integer]) -> None:
        """Take all objects of one plane of labels."""
        for label, patch in self.of_plane(labels).items():
            self.put(plane, label, patch)

    def put(self, plane: int, label: int, patch: Patch) -> None:
        """Take one object on one plane."""
        self._masks.setdefault(label, {})[plane] = Packed.of(patch)

    def get(self, plane: int, label: int) -> Patch | None:
        """The outline of an object on a plane, empty where it is known not to be there; None if nothing is known."""
        packed = self._masks.get(label, {}).get(plane)
        return None if packed is None else packed.patch

    def on_plane(self, plane: int) -> dict[int, Patch]:
        """Outlines on a plane by label."""
        found = {label: known[plane].patch for label, known in self._masks.items() if plane in known}
        return {label: patch for label, patch in found.items() if masks.area(patch)}

    def planes_of(self, label: int) -> list[int]:
        """Planes on which an object was outlined, sorted."""
        return self.starts_of(label)

    def starts_of(self, label: int) -> list[int]:
        """Planes from which an object can be followed, sorted."""
        return sorted(plane for plane, packed in self._masks.get(label, {}).items() if packed.shape[0])

    def is_start(self, label: int, plane: int) -> bool:
        """Whether an object can be followed from a plane."""
        return plane in self.starts_of(label)

    def ends_at(self, label: int, plane: int) -> bool:
        """Whether it was said that the object is not on this plane."""
        known = self._masks.get(label, {})
        return plane in known and not known[plane].shape[0]

    def neighbours(self, label: int, plane: int) -> tuple[int | None, int | None]:
        """The nearest planes before and behind `plane` on which something is known of an object."""
        known = self._masks.get(label, {})
        before = [p for p in known if p < plane]
        after = [p for p in known if p > plane]
        return (max(before) if before else None), (min(after) if after else None)

    def starts_around(self, label: int, plane: int) -> tuple[int | None, int | None]:
        """As :meth:`neighbours`, but None where the object is known not to be there."""
        before, after = self.neighbours(label, plane)
        return (
            before if before is not None and self.is_start(label, before) else None,
            after if after is not None and self.is_start(label, after) else None,
        )


class Protected:
    """Labels that stay, read one plane at a time.

    Parameters
    ----------
    labels : Mapping of int to (H, W) array, (Z, H, W) array_like or None
    series : Planes
        The stack whose labels they are.

    Raises
    ------
    InputError
        If they have another shape.
    """

    def __init__(self, labels: object, series: Planes) -> None:
        self._shape = series.plane_shape
        self._by_plane: Mapping[int, Any] | None = labels if isinstance(labels, Mapping) else None
        self._source = labels_of_planes(labels, series) if labels is not None and self._by_plane is None else None

    def __call__(self, plane: int) -> NDArray[np.integer] | None:
        """(H, W) labels of a plane; None where nothing is protected."""
        if self._by_plane is not None:
            given = self._by_plane.get(plane)
            return None if given is None else check_labels(np.asarray(given), self._shape)
        return None if self._source is None else check_labels(self._source.read(plane), self._shape)


def labels_of_planes(labels: object, series: Planes) -> Planes:
    """Labels of all planes as a series, one plane of labels for each of the stack.

    Raises
    ------
    InputError
        If the numbers of planes or their shapes differ.
    """
    source = Planes.of(labels, rgb=False)
    if source.plane_shape != series.plane_shape or len(source) != len(series):
        raise InputError(
            f"Labels of {len(series)} planes of {series.plane_shape} were expected, as the stack has; got "
            f"{len(source)} of {source.plane_shape}."
        )
    return source


def check_labels(labels: NDArray[Any], shape: tuple[int, int]) -> NDArray[np.integer]:
    """Return a plane of labels as it is, or raise.

    Raises
    ------
    InputError, InputTypeError
        If it has another shape, or holds something else than whole numbers from 0 that int32 holds.
    """
    if labels.dtype.kind not in "iub":
        raise InputTypeError(f"Labels are whole numbers, 0 for background; got {labels.dtype}.")
    if labels.shape != shape:
        raise InputError(f"A plane of labels of shape {shape} was expected; got {labels.shape}.")
    if labels.size and (labels.min() < 0 or labels.max() > np.iinfo(np.int32).max):
        raise InputError(f"Labels go from 0 to {np.iinfo(np.int32).max}; got {labels.min()} to {labels.max()}.")
    return labels.astype(np.uint8) if labels.dtype.kind == "b" else labels

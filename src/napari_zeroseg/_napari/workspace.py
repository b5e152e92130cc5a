"""The layers that one viewer segments with: chosen, made at first use, watched, let go when removed. No Qt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels, Points, Shapes
from psygnal import Signal

from napari_zeroseg._napari import prompt_layers
from napari_zeroseg._napari.engine import PictureRef
from napari_zeroseg._napari.layers import OBJECT, ShownPlane, camera_of, drawn_points, drawn_shapes, shown_plane
from napari_zeroseg._napari.marks import Drawn
from napari_zeroseg._napari.output import Output
from napari_zeroseg.errors import InputError

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer

_PICTURE_EVENTS = ("contrast_limits", "gamma", "colormap", "data")
_PLACE_EVENTS = ("scale", "translate", "rotate", "shear", "affine")
_MARK_EVENTS = ("data", "features", *_PLACE_EVENTS)


@dataclass
class _Set:
    """The layers that were chosen for an image, found again when the user comes back to it."""

    points: Points | None = None
    shapes: Shapes | None = None
    labels: Labels | None = None
    largest: int | None = None


class Workspace:
    """Image, prompt layers and output of one viewer."""

    marks_changed = Signal()
    """What was drawn, or the plane on the screen, may have changed."""
    picture_changed = Signal()
    """The picture looks different: contrast, gamma, colours or data."""
    tool_changed = Signal()
    """Another tool of a prompt layer is used."""
    shapes_added = Signal(object)
    """Shapes were drawn or added: a range of their rows."""
    chosen = Signal()
    """Another layer is used, or one has another name."""

    def __init__(self, viewer: ViewerModel) -> None:
        self.viewer = viewer
        self.image: Image | None = None
        self.points: Points | None = None
        self.shapes: Shapes | None = None
        self.output: Output | None = None
        self._sets: dict[object, _Set] = {}
        self._version = 0
        self._shapes_before = 0
        viewer.layers.events.removed.connect(self._on_removed)
        for name in ("point", "order", "ndisplay", "ndim"):
            getattr(viewer.dims.events, name).connect(self._on_dims)

    def close(self) -> None:
        """Stop watching."""
        self.viewer.layers.events.removed.disconnect(self._on_removed)
        for name in ("point", "order", "ndisplay", "ndim"):
            getattr(self.viewer.dims.events, name).disconnect(self._on_dims)
        self._let_go()

    @property
    def labels(self) -> Labels | None:
        """The output layer."""
        return None if self.output is None else self.output.layer

    @property
    def has_prompt_layers(self) -> bool:
        """Whether the user has begun with this image."""
        return self.points is not None or self.shapes is not None

    # What is on the screen

    def plane(self) -> ShownPlane:
        """Return the image's plane on the screen.

        Raises
        ------
        InputError
            If there is no image or no plane of it; the sentence says what to do.
        """
        if self.image is None:
            raise InputError("Open an image, or choose one above.")
        return shown_plane(self.image, self.viewer.dims)

    def picture(self, plane: ShownPlane) -> PictureRef:
        """Refer to that plane of the image as the screen shows it; nothing is read here."""
        assert self.image is not None
        return picture_of(self.image, plane, self._version)

    def drawn(self, plane: ShownPlane) -> list[Drawn]:
        """All points and shapes on the plane, in pixels."""
        dims = self.viewer.dims
        found: list[Drawn] = []
        if self.points is not None:
            found += drawn_points(self.points, plane, dims)
        if self.shapes is not None:
            # napari has no public name for "the last shape is still being drawn".
            unfinished = len(self.shapes.data) - 1 if getattr(self.shapes, "_is_creating", False) else None
            found += [d for d in drawn_shapes(self.shapes, plane, dims) if d.row != unfinished]
        return found

    def place(self, plane: ShownPlane) -> tuple[object, ...]:
        """What a label that was picked up there belongs to: the image, the output and the plane."""
        image, labels = self.image, self.labels
        return (image and image.unique_id, labels and labels.unique_id, plane.key)

    def elsewhere(self, plane: ShownPlane) -> set[tuple[int, ...]]:
        """Positions along the image's sliders where there are marks, but for this plane's."""
        found: set[tuple[int, ...]] = set()
        dims = self.viewer.dims
        if self.points is not None and len(self.points.data):
            found |= plane.indices(self.points, np.asarray(self.points.data, float), dims)
        if self.shapes is not None and len(self.shapes.data):
            first = [np.asarray(vertices, float)[0] for vertices in self.shapes.data]
            found |= plane.indices(self.shapes, np.stack(first), dims)
        return found - {tuple(plane.index[axis] for axis in plane.others)}

    def centre(self, plane: ShownPlane) -> tuple[float, float]:
        """(row, column) of the plane's pixel in the middle of the view, kept inside the plane."""
        world = np.array(plane.point, float)
        world[list(self.viewer.dims.displayed)] = np.asarray(camera_of(self.viewer).center)[-2:]
        return plane.pixel_at(world)

    def highest_object(self) -> int:
        """Largest object number among all marks, on any plane."""
        numbers = [0]
        for layer in (self.points, self.shapes):
            if layer is not None and len(layer.data) and OBJECT in layer.features:
                values = np.asarray(layer.features[OBJECT], dtype=float)
                numbers.append(int(np.nanmax(values, initial=0)))
        return max(numbers)

    # Choosing layers

    def choose_image(self, image: Image | None) -> None:
        """Work on that image, with the layers that were used with it before."""
        if image is self.image:
            return
        self._let_go()
        self.image = image
        if image is not None:
            self._connect(image, _PICTURE_EVENTS, self._on_picture)
            self._connect(image, _PLACE_EVENTS, self._on_marks)
            image.events.name.connect(self._on_name)
            known = self._sets.get(image.unique_id, _Set())
            self._use(points=known.points, shapes=known.shapes, labels=known.labels, largest=known.largest)
        self._announce()

    def choose_points(self, layer: Points | None) -> None:
        """Take prompts from that Points layer; None makes a new one at the next use."""
        if layer is not self.points:
            if layer is not None:
                prompt_layers.adopt_points(layer)
            self._use(points=layer, shapes=self.shapes, labels=self.labels, largest=self._largest())
            self._announce()

    def choose_shapes(self, layer: Shapes | None) -> None:
        """Take prompts from that Shapes layer; None makes a new one at the next use."""
        if layer is not self.shapes:
            if layer is not None:
                prompt_layers.adopt_shapes(layer)
            self._use(points=self.points, shapes=layer, labels=self.labels, largest=self._largest())
            self._announce()

    def choose_labels(self, layer: Labels | None) -> None:
        """Write into that Labels layer; None makes a new one at the next use."""
        if layer is not self.labels:
            self._use(points=self.points, shapes=self.shapes, labels=layer, largest=None)
            self._announce()

    def make_points(self) -> Points | None:
        """Return the Points layer, made now if there is none; None without an image."""
        if self.image is not None and self.points is None:
            points = prompt_layers.new_points(self.image)
            self._insert(points, len(self.viewer.layers))
            self.choose_points(points)
        return self.points

    def make_shapes(self) -> Shapes | None:
        """Return the Shapes layer, made now if there is none, below the points; None without an image."""
        if self.image is not None and self.shapes is None:
            shapes = prompt_layers.new_shapes(self.image)
            layers = self.viewer.layers
            self._insert(shapes, layers.index(self.points) if self.points in layers else len(layers))
            self.choose_shapes(shapes)
        return self.shapes

    def make_labels(self) -> Labels | None:
        """Return the output layer, made now if there is none, right above the image; None without an image.

        Raises
        ------
        WriteError
            If it is too large for the memory, and there is no room on disk.
        """
        if self.image is not None and self.output is None:
            labels = prompt_layers.new_labels(self.image)
            self._insert(labels, self.viewer.layers.index(self.image) + 1)
            self._use(points=self.points, shapes=self.shapes, labels=labels, largest=0)
            self.chosen.emit()
        return self.labels

    def _insert(self, layer: Layer, index: int) -> None:
        active = self.viewer.layers.selection.active
        self.viewer.layers.insert(index, layer)
        # A new layer becomes the active one, but the user goes on in theirs.
        self.viewer.layers.selection.active = active

    def _use(self, *, points: Points | None, shapes: Shapes | None, labels: Labels | None, largest: int | None) -> None:
        """Watch these layers instead of the present ones."""
        for layer, old in ((points, self.points), (shapes, self.shapes)):
            if layer is not old:
                self._disconnect(old, _MARK_EVENTS, self._on_marks)
                self._disconnect(old, ("mode",), self._on_mode)
                if layer is not None:
                    self._connect(layer, _MARK_EVENTS, self._on_marks)
                    self._connect(layer, ("mode",), self._on_mode)
        if shapes is not self.shapes:
            self._disconnect(self.shapes, ("data",), self._on_shapes)
            self._shapes_before = 0 if shapes is None else len(shapes.data)
            if shapes is not None:
                self._connect(shapes, ("data",), self._on_shapes)
        self.points, self.shapes = points, shapes
        if labels is not self.labels:
            if self.output is not None:
                self.output.close()
            self.output = None if labels is None else Output(labels, largest, self._announce)
        if self.image is not None:
            self._sets[self.image.unique_id] = _Set(points, shapes, labels, largest)
            if labels is not None:
                labels.metadata[prompt_layers.IMAGE_OF] = self.image.unique_id

    def _largest(self) -> int | None:
        return None if self.output is None else self.output.largest

    def _let_go(self) -> None:
        image = self.image
        if image is not None:
            self._disconnect(image, _PICTURE_EVENTS, self._on_picture)
            self._disconnect(image, _PLACE_EVENTS, self._on_marks)
            image.events.name.disconnect(self._on_name)
            # Nobody watches the labels meanwhile, so they are counted again at the return.
            held = _Set(self.points, self.shapes, self.labels)
            self.image = None
            self._use(points=None, shapes=None, labels=None, largest=None)
            self._sets[image.unique_id] = held

    @staticmethod
    def _connect(layer: Layer, names: tuple[str, ...], callback: Callable[..., None]) -> None:
        for name in names:
            getattr(layer.events, name).connect(callback)

    @staticmethod
    def _disconnect(layer: Layer | None, names: tuple[str, ...], callback: Callable[..., None]) -> None:
        if layer is not None:
            for name in names:
                getattr(layer.events, name).disconnect(callback)

    # What happens to layers

    def _announce(self) -> None:
        self.chosen.emit()
        self.marks_changed.emit()

    def _on_name(self) -> None:
        self.chosen.emit()

    def _on_mode(self) -> None:
        self.tool_changed.emit()

    def _on_marks(self) -> None:
        self.marks_changed.emit()

    def _on_shapes(self, event: Any) -> None:
        """Tell which shapes are new; napari only says "the last one", however many there are."""
        if self.shapes is None:
            return
        count, action = len(self.shapes.data), str(getattr(event.action, "value", event.action))
        fresh = range(self._shapes_before, count)
        if action == "adding":
            self._shapes_before = count
        elif action == "added":
            self._shapes_before = count
            if fresh:
                self.shapes_added.emit(fresh)

    def _on_dims(self) -> None:
        self.marks_changed.emit()

    def _on_picture(self, event: Any = None) -> None:
        if getattr(event, "type", "") == "data":
            self._version += 1
        self.picture_changed.emit()

    def _on_removed(self, event: Any) -> None:
        layer = event.value
        for held in self._sets.values():
            held.points = None if held.points is layer else held.points
            held.shapes = None if held.shapes is layer else held.shapes
            held.labels = None if held.labels is layer else held.labels
        if layer is self.image:
            self.choose_image(None)
        elif layer is self.points:
            self.choose_points(None)
        elif layer is self.shapes:
            self.choose_shapes(None)
        elif layer is self.labels:
            self.choose_labels(None)


def picture_of(image: Image, plane: ShownPlane, version: int = 0) -> PictureRef:
    """Refer to a plane of an image as the screen shows it; `version` tells one state of its data from another."""
    data = image.data[0] if image.multiscale else image.data
    low, high = image.contrast_limits
    limits, gamma, inverted = (float(low), float(high)), float(image.gamma), False
    if image.rgb:
        # napari draws colours as they are and offers no contrast for them.
        limits, gamma = (0.0, _full_scale(data.dtype)), 1.0
    else:
        ends = np.asarray(image.colormap.colors)[[0, -1], :3].sum(1)
        inverted = bool(ends[0] > ends[1])
    key = (image.unique_id, version, plane.key, limits, gamma, inverted)
    return PictureRef(data, bool(image.rgb), plane.axes, plane.index, limits, gamma, inverted, key)


def _full_scale(dtype: Any) -> float:
    return float(np.iinfo(dtype).max) if np.issubdtype(dtype, np.integer) else 1.0

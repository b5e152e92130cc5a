"""Layers and pixels: which plane of an image is on the screen, and where the marks of other layers lie on it. No Qt."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.transforms import Affine
from numpy.typing import NDArray

from napari_zeroseg._napari.marks import Drawn
from napari_zeroseg.errors import InputError
from napari_zeroseg.instances import number_classes

if TYPE_CHECKING:
    from napari.components import Camera, Dims, ViewerModel
    from napari.layers import Layer, Points, Shapes

Matrix = NDArray[np.floating[Any]]
"""Homogeneous transform of a layer's data coordinates to the world, (D + 1, D + 1)."""

SIGN, OBJECT, TEXT, CLASS, SCORE = "sign", "object", "text", "class", "score"
"""Features that say of a mark whether it is on its object, which object that is, what to look for inside it, of which
class the object is, and how sure that is."""

CLASS_NAMES = "napari-zeroseg classes"
"""Metadata of a Shapes layer whose classes are names: the number of each, which stays when shapes are taken out."""

CLASS_NUMBERS = "napari-zeroseg class numbers"
"""Metadata of a Shapes layer: numbers that mean something already, so that no new name gets them."""

POSITIVE, NEGATIVE = "positive", "negative"


@dataclass(frozen=True)
class ShownPlane:
    """The plane of a layer that is on the screen.

    Attributes
    ----------
    axes : tuple of int
        The layer's axes that are rows and columns on the screen, in this order.
    index : tuple of int
        Position along each axis of the layer; 0 along `axes`.
    shape : tuple of int
        (H, W) in pixels.
    to_world : (D + 1, D + 1) array
        From the layer's data coordinates to the world.
    point : tuple of float
        World position of the viewer's sliders, one number for each axis of the world.
    steps : tuple of float
        Distance of neighbouring positions of each slider.
    """

    axes: tuple[int, int]
    index: tuple[int, ...]
    shape: tuple[int, int]
    to_world: Matrix
    point: tuple[float, ...]
    steps: tuple[float, ...]

    @property
    def ndim(self) -> int:
        """Number of the layer's axes."""
        return len(self.index)

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for the same plane of the same layer, seen the same way round."""
        return (self.axes, self.index, self.shape)

    @property
    def others(self) -> tuple[int, ...]:
        """The layer's axes that have a slider."""
        return tuple(axis for axis in range(self.ndim) if axis not in self.axes)

    @property
    def name(self) -> str:
        """What people call it: "plane 12", "plane 2, 12" with two sliders, or "picture" where there is none."""
        return f"plane {', '.join(str(self.index[axis]) for axis in self.others)}" if self.others else "picture"

    def pixels(self, layer: Layer, coordinates: NDArray[Any], dims: Dims) -> tuple[Matrix, NDArray[np.bool_]]:
        """Map data coordinates of any layer to pixels of this plane.

        Parameters
        ----------
        layer : Layer
            Whose coordinates they are. Axes are aligned at the last one, as napari does.
        coordinates : (N, d) array
        dims : Dims
            The viewer's.

        Returns
        -------
        (N, 2) array of float and (N,) array of bool
            (row, column), and whether each lies on this plane.
        """
        world = self._world(layer, coordinates, dims)
        on_plane = np.ones(len(world), bool)
        for axis in range(len(self.point) - self.ndim):
            # An axis that this layer does not have: the mark counts where its slider stands.
            on_plane &= np.abs(world[:, axis] - self.point[axis]) <= 0.5 * self.steps[axis]
        own = _apply(np.linalg.inv(self.to_world), world[:, -self.ndim :])
        for axis in self.others:
            on_plane &= np.floor(own[:, axis] + 0.5) == self.index[axis]
        return own[:, list(self.axes)], on_plane

    def coordinates(self, layer: Layer, pixels: NDArray[Any], dims: Dims) -> Matrix:
        """Map pixels of this plane, (N, 2), to data coordinates of any layer, (N, d): :meth:`pixels` backwards."""
        own = np.tile(np.array(self.index, float), (len(pixels), 1))
        own[:, list(self.axes)] = pixels
        world = np.tile(np.asarray(self.point, float), (len(pixels), 1))
        world[:, -self.ndim :] = _apply(self.to_world, own)
        return _apply(np.linalg.inv(world_matrix(layer, dims)), world[:, -layer.ndim :])

    def locate(self, world: Sequence[float]) -> tuple[int, int] | None:
        """(row, column) of the pixel at a world position; None if that is not on this plane."""
        own = _apply(np.linalg.inv(self.to_world), np.asarray(world, float)[None, -self.ndim :])[0]
        if not np.isfinite(own).all():
            return None
        place = [int(x) for x in np.floor(own + 0.5)]
        pixel = (place[self.axes[0]], place[self.axes[1]])
        is_here = all(place[axis] == self.index[axis] for axis in self.others)
        return pixel if is_here and all(0 <= i < n for i, n in zip(pixel, self.shape, strict=True)) else None

    def indices(self, layer: Layer, coordinates: NDArray[Any], dims: Dims) -> set[tuple[int, ...]]:
        """Positions along the axes with a slider at which data coordinates (N, d) of any layer lie."""
        world = self._world(layer, coordinates, dims)
        own = _apply(np.linalg.inv(self.to_world), world[:, -self.ndim :])[:, list(self.others)]
        return {tuple(map(int, place)) for place in np.floor(own + 0.5) if np.isfinite(place).all()}

    def _world(self, layer: Layer, coordinates: NDArray[Any], dims: Dims) -> Matrix:
        count, d = coordinates.shape
        world = np.tile(np.asarray(self.point, float), (count, 1))
        if d > world.shape[1]:
            world = np.zeros((count, d))
        world[:, world.shape[1] - d :] = _apply(world_matrix(layer, dims), coordinates)
        return world

    def pixel_at(self, world: NDArray[Any]) -> tuple[float, float]:
        """(row, column) of a world position, kept inside the plane."""
        own = _apply(np.linalg.inv(self.to_world), np.asarray(world, float)[None, -self.ndim :])[0, list(self.axes)]
        row, column = np.clip(np.nan_to_num(own), 0, np.array(self.shape) - 1)
        return float(row), float(column)

    def corner(self, row: float, column: float) -> NDArray[np.floating[Any]]:
        """Data coordinates (D,) of a pixel of this plane."""
        position = np.array(self.index, float)
        position[list(self.axes)] = row, column
        return position

    def pixel_map(self, other: ShownPlane) -> Matrix:
        """Matrix (2, 3) that takes (row, column, 1) of this plane to (row, column) of another layer's plane."""
        origin = self._seen_by(other, 0, 0)
        rows = self._seen_by(other, 1, 0) - origin
        columns = self._seen_by(other, 0, 1) - origin
        return np.stack([rows, columns, origin], axis=1)

    def _seen_by(self, other: ShownPlane, row: float, column: float) -> NDArray[np.floating[Any]]:
        own = _apply(self.to_world, self.corner(row, column)[None])[0]
        world = np.array(self.point, float)
        world[-self.ndim :] = own
        seen = _apply(np.linalg.inv(other.to_world), world[None, -other.ndim :])[0]
        return np.asarray(seen[list(other.axes)])


def shown_plane(layer: Layer, dims: Dims, *, nearest: bool = False) -> ShownPlane:
    """Find the plane of an image or labels layer that is on the screen; if `nearest`, else the one next to it.

    Raises
    ------
    InputError
        If there is none: in 3-D display, beyond the layer's ends, or where the screen cuts across its planes.
    """
    if dims.ndisplay != 2:
        raise InputError("Prompts need a plane: switch to 2-D display (the square button below the layer list).")
    shape = data_shape(layer)
    ndim = len(shape)
    missing = dims.ndim - ndim
    axes = tuple(int(axis) - missing for axis in tuple(dims.order)[-2:])
    if min(axes) < 0:
        raise InputError(
            f"'{layer.name}' does not have one of the displayed axes: roll the axes (Ctrl-E) until it is seen."
        )
    to_world = world_matrix(layer, dims)
    from_world = np.linalg.inv(to_world)
    others = [axis for axis in range(ndim) if axis not in axes]
    if others and np.abs(from_world[np.ix_(others, axes)]).max() > 1e-6 * np.abs(from_world[:ndim, :ndim]).max():
        raise InputError(
            f"'{layer.name}' is rotated out of the plane of the screen, which cuts across its planes: "
            "reset its rotation or display the two axes of a plane."
        )
    point = np.asarray(dims.point, float)
    own = _apply(from_world, point[None, -ndim:])[0]
    index = [0] * ndim
    for axis in others:
        index[axis] = int(np.floor(own[axis] + 0.5))
        if nearest:
            index[axis] = min(max(index[axis], 0), shape[axis] - 1)
        if not 0 <= index[axis] < shape[axis]:
            raise InputError(f"'{layer.name}' has no plane here: move the slider until it is seen.")
    steps = tuple(float(step) for _, _, step in dims.range)
    plane_shape = (shape[axes[0]], shape[axes[1]])
    return ShownPlane((axes[0], axes[1]), tuple(index), plane_shape, to_world, tuple(point.tolist()), steps)


def camera_of(viewer: ViewerModel) -> Camera:
    """Return the viewer's camera, which napari 0.9 moved into its scene."""
    return getattr(viewer, "scene", viewer).camera


def data_shape(layer: Layer) -> tuple[int, ...]:
    """Length of each axis of an image or labels layer, without colour, at the finest level."""
    data = layer.data[0] if layer.multiscale else layer.data
    shape = tuple(int(n) for n in data.shape)
    return shape[:-1] if getattr(layer, "rgb", False) else shape


def world_matrix(layer: Layer, dims: Dims) -> Matrix:
    """Homogeneous matrix from a layer's data coordinates to the world, in the viewer's units."""
    physical = Affine(
        scale=layer.scale, translate=layer.translate, rotate=layer.rotate, shear=layer.shear, ndim=layer.ndim
    )
    matrix: Matrix = layer.affine.affine_matrix @ physical.affine_matrix
    return _unit_factors(layer, dims) @ matrix


def _unit_factors(layer: Layer, dims: Dims) -> Matrix:
    """What napari multiplies a layer's coordinates with so that nanometres and micrometres agree."""
    factors = np.ones(layer.ndim + 1)
    # Before 0.7, napari drew all units as if they were the same; the marks must lie where they are drawn.
    world_units = getattr(dims, "units", None)
    if world_units is not None and len(world_units) >= layer.ndim:
        for axis, (own, world) in enumerate(zip(layer.units, world_units[-layer.ndim :], strict=True)):
            if own != world:
                factors[axis] = (1 * own).to(world).magnitude
    return np.diag(factors)


def _apply(matrix: Matrix, coordinates: NDArray[Any]) -> Matrix:
    d = matrix.shape[0] - 1
    return np.asarray(coordinates @ matrix[:d, :d].T + matrix[:d, d], float)


def drawn_points(layer: Points, plane: ShownPlane, dims: Dims) -> Iterator[Drawn]:
    """Yield the points that lie on the plane, each with its sign and object."""
    if not len(layer.data):
        return
    pixels, on_plane = plane.pixels(layer, np.asarray(layer.data, float), dims)
    signs, objects = _feature(layer, SIGN, POSITIVE), _feature(layer, OBJECT, 1)
    shown = np.broadcast_to(np.asarray(layer.shown, bool), on_plane.shape)
    for i in map(int, np.flatnonzero(on_plane & shown)):
        yield Drawn("point", i, _as_number(objects[i], 1), pixels[i : i + 1], is_positive(signs[i]))


def drawn_shapes(layer: Shapes, plane: ShownPlane, dims: Dims) -> Iterator[Drawn]:
    """Yield the shapes whose corners all lie on the plane."""
    if not len(layer.data):
        return
    objects, texts, kinds = _feature(layer, OBJECT, 1), _feature(layer, TEXT, ""), list(layer.shape_type)
    classes, scores = class_numbers(layer), _feature(layer, SCORE, np.inf)
    corners = [np.asarray(vertices, float) for vertices in layer.data]
    pixels, on_plane = plane.pixels(layer, np.concatenate(corners), dims)
    ends = np.cumsum([len(vertices) for vertices in corners])
    for i, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        if on_plane[start:end].all():
            text = texts[i] if isinstance(texts[i], str) else ""
            number = _as_number(objects[i], 1)
            yield Drawn(str(kinds[i]), i, number, pixels[start:end], True, text, classes[i], _as_score(scores[i]))


def class_numbers(layer: Shapes) -> list[int]:
    """Number of the class of each shape, 0 where it has none.

    Names are numbered in the order in which they come, from the first number that is free (see :func:`keep_classes`),
    and keep their numbers: they are written into the layer's metadata.
    """
    values = ["" if value is None else str(value) for value in _feature(layer, CLASS, 0)]
    numbers, names = number_classes(values, layer.metadata.get(CLASS_NAMES), layer.metadata.get(CLASS_NUMBERS, ()))
    if names:
        layer.metadata[CLASS_NAMES] = names
    return numbers


def keep_classes(layer: Shapes, names: Mapping[str, int], numbers: Iterable[int]) -> None:
    """Let names that come keep off numbers that mean something already.

    Parameters
    ----------
    layer : Shapes
    names : mapping of str and int
        Names that have numbers elsewhere; those that the layer numbers itself, or whose number it gave away, are left
        out.
    numbers : iterable of int
        What no new name gets, instead of what was said before.
    """
    own: dict[str, int] = dict(layer.metadata.get(CLASS_NAMES, {}))
    for name, number in names.items():
        if name not in own and number not in own.values():
            own[name] = number
    if own:
        layer.metadata[CLASS_NAMES] = own
    layer.metadata[CLASS_NUMBERS] = sorted(numbers)


def name_classes(layer: Shapes, wanted: Mapping[str, int]) -> dict[str, str]:
    """Number names before their shapes come.

    Parameters
    ----------
    layer : Shapes
    wanted : mapping of str and int
        The number that each name gets if the layer does not know it and nothing else has that number.

    Returns
    -------
    dict of str and str
        What to write as class for each: the spelling that the layer knows, and what would read as a number as a name.
    """
    taken = {*class_numbers(layer), *layer.metadata.get(CLASS_NUMBERS, ())}
    names: dict[str, int] = dict(layer.metadata.get(CLASS_NAMES, {}))
    taken.update(names.values())
    known = {name.casefold(): name for name in names}
    spelt = {}
    for name, number in sorted(wanted.items(), key=lambda item: item[1]):
        bare = name.strip() if number_classes([name])[1] else f"class {name.strip()}"
        own = spelt[name] = known.setdefault(bare.casefold(), bare)
        if own not in names:
            names[own] = number if number not in taken else free_number(taken)
            taken.add(names[own])
    layer.metadata[CLASS_NAMES] = names
    return spelt


def free_number(taken: Iterable[int]) -> int:
    """Lowest number from 1 that is not among those."""
    used = set(taken)
    return next(number for number in itertools.count(1) if number not in used)


def _feature(layer: Points | Shapes, name: str, default: object) -> Sequence[Any]:
    if name in layer.features:
        return list(layer.features[name])
    return [default] * len(layer.data)


def is_positive(sign: object) -> bool:
    """Read a sign as people and programs write it."""
    return str(sign).strip().lower() not in (NEGATIVE, "-", "-1", "-1.0", "0", "0.0", "false", "background")


def _as_number(value: object, otherwise: int) -> int:
    try:
        return int(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        # An empty cell of the features table.
        return otherwise


def _as_score(value: object) -> float:
    try:
        score = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return np.inf
    return np.inf if np.isnan(score) else score

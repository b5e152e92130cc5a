"""What a plane looks like, cell by cell: image embeddings of its windows, and brightness and texture beside them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_zeroseg import tiling
from napari_zeroseg.errors import InputError
from napari_zeroseg.planes import is_flat
from napari_zeroseg.segmenter import Patch
from napari_zeroseg.tiling import Field
from napari_zeroseg.view import View

if TYPE_CHECKING:
    from napari_zeroseg.jobs import CancelToken

Cells = NDArray[np.float32]

TENSOR = "image"
"""Name of the tensor of an embedding that is a map of features, (1, C, h, w)."""

_DIMENSIONS = 4

CELLS = 64
"""Cells along the longer side of a window, in which similarity is told."""

_SURROUNDINGS = 2
"""Cells around a mask that count as its surroundings: next to it, and not the next object."""

_MOSTLY = 0.5
"""Part of a cell that an object must fill for the cell to show what the object looks like."""

_TEXTURE = 4.0 / 512
"""Width of the blur over which brightness and texture are taken, in parts of a window's side: half a cell."""


@dataclass(frozen=True, eq=False)
class WindowCells:
    """The cells of one window.

    Attributes
    ----------
    field : Field
        The window.
    step : float
        Side of a cell, in pixels of the plane.
    values : (h, w, C) float32 array
        The embedding in each cell that lies on the plane, of length 1.
    """

    field: Field
    step: float
    values: Cells

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of cells."""
        return self.values.shape[0], self.values.shape[1]

    def cover(self, patch: Patch) -> Cells:
        """Say which part of each cell a mask of the plane covers, (h, w) float32 within 0 to 1."""
        inside = np.zeros(self.field.shape, bool)
        (r0, r1), (c0, c1) = (
            (max(span.start, first), min(span.stop, last))
            for span, first, last in zip(patch[:2], self.field[:2], self.field[2:], strict=True)
        )
        if r0 < r1 and c0 < c1:
            own = patch[2][r0 - patch[0].start : r1 - patch[0].start, c0 - patch[1].start : c1 - patch[1].start]
            inside[r0 - self.field.r0 : r1 - self.field.r0, c0 - self.field.c0 : c1 - self.field.c0] = own
        return mean_in_cells(inside, self.shape, self.step)


@dataclass(frozen=True, eq=False)
class Descriptor:
    """What one object looks like: all that ranking needs, so that it needs no model.

    Attributes
    ----------
    inside, outside : (C,) float32 array
        Mean embedding of its cells, and of those around it.
    tone : (3 * channels,) float32 array
        Mean brightness, mean texture (standard deviation over some pixels), and the standard deviation of all its
        pixels, 0 to 255.
    area : int
        Pixels.
    """

    inside: NDArray[np.float32]
    outside: NDArray[np.float32]
    tone: NDArray[np.float32]
    area: int


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What the planes of the examples look like as a whole.

    Attributes
    ----------
    centre : (C,) float32 array
        Mean embedding.
    tone_spread : (3 * channels,) float32 array
        Standard deviation of brightness and of texture over the planes; the last third is that of texture again.
    """

    centre: NDArray[np.float32]
    tone_spread: NDArray[np.float32]


class PlaneFeatures:
    """The features of one plane at one scale.

    Parameters
    ----------
    view : View
        Of a model whose embeddings are maps; they come from its store, or are made.
    side : int
        Side of the windows, in pixels, as :func:`napari_zeroseg.tiling.sides` offers it.
    """

    def __init__(self, view: View, side: int) -> None:
        self.view = view
        self.side = side
        self.fields = list(tiling.tiles(view.shape, side))
        self.step = max(self.fields[0].shape) / CELLS
        self._tones: NDArray[np.float32] | None = None

    @property
    def tones(self) -> NDArray[np.float32]:
        """Brightness and texture (its standard deviation) around each pixel, (H, W, 2 * channels) float32."""
        if self._tones is None:
            self._tones = _tones(self.view.picture, max(1.0, self.side * _TEXTURE))
        return self._tones

    def windows(self, cancel: CancelToken | None = None) -> Iterator[WindowCells]:
        """Yield the cells of each window that is not of one single value."""
        for field in self.fields:
            if cancel is not None:
                cancel.raise_if_cancelled()
            if not is_flat(self.view.picture[field.slices]):
                yield self.window(field)

    def window(self, field: Field) -> WindowCells:
        """Return the cells of one window.

        Raises
        ------
        InputError
            If the model's embeddings are no maps.
        """
        tensors = self.view.embedding(field).tensors
        if TENSOR not in tensors or len(tensors[TENSOR].shape) != _DIMENSIONS:
            raise InputError(
                f"{self.view.model.spec.title} keeps no map of what it has seen, by which objects could be compared: "
                "choose a model of the SAM family, such as mobile_sam."
            )
        values = _as_numpy(tensors[TENSOR])
        side = values.shape[0]
        step = max(field.shape) / side
        rows, columns = (min(side, math.ceil(length / step)) for length in field.shape)
        values = values[:rows, :columns]
        lengths = np.linalg.norm(values, axis=-1, keepdims=True)
        return WindowCells(field, step, values / np.maximum(lengths, 1e-12))

    def best_window(self, patch: Patch) -> Field:
        """Return the window whose centre is nearest to an object's."""
        centre = tuple((span.start + span.stop - 1) / 2 for span in patch[:2])
        return tiling.window(self.view.shape, (centre[0], centre[1]), self.side)

    def describe(self, patches: Sequence[Patch], cancel: CancelToken | None = None) -> list[Descriptor]:
        """Describe objects, each by the window whose centre is nearest."""
        found: dict[int, Descriptor] = {}
        by_field: dict[Field, list[int]] = {}
        for i, patch in enumerate(patches):
            by_field.setdefault(self.best_window(patch), []).append(i)
        for field, members in by_field.items():
            if cancel is not None:
                cancel.raise_if_cancelled()
            cells = self.window(field)
            for i in members:
                found[i] = self._described(cells, patches[i])
        return [found[i] for i in range(len(patches))]

    def tones_in(self, window: WindowCells) -> Cells:
        """Return the means of brightness and texture in the cells of a window, (h, w, 2 * channels) float32."""
        tones = self.tones[window.field.slices]
        return np.stack([mean_in_cells(tones[..., k], window.shape, window.step) for k in range(tones.shape[-1])], -1)

    def cells_of(self, patch: Patch) -> tuple[Cells, Cells]:
        """Return the embeddings and the tones of the cells that an object fills for the most part, at least of one."""
        window = self.window(self.best_window(patch))
        cover = window.cover(patch)
        within = cover >= min(_MOSTLY, float(cover.max()))
        return window.values[within], self.tones_in(window)[within]

    def _described(self, cells: WindowCells, patch: Patch) -> Descriptor:
        rows, columns, inside = patch
        cover = cells.cover(patch)
        around = (ndimage.maximum_filter(cover, 2 * _SURROUNDINGS + 1) > 0) & (cover == 0)
        held = self.tones[rows, columns][inside]
        tone = np.concatenate([held.mean(0), self.view.picture[rows, columns][inside].reshape(len(held), -1).std(0)])
        return Descriptor(
            _weighted(cells.values, cover),
            _weighted(cells.values, around.astype(np.float32)),
            tone.astype(np.float32),
            int(np.count_nonzero(inside)),
        )


def surroundings_of(planes: Sequence[PlaneFeatures], cancel: CancelToken | None = None) -> Surroundings:
    """Look at planes as a whole."""
    means = [window.values.mean((0, 1)) for features in planes for window in features.windows(cancel)]
    spreads = [features.tones.std((0, 1)) for features in planes]
    spread = np.mean(spreads, 0)
    return Surroundings(np.mean(means, 0), np.concatenate([spread, spread[len(spread) // 2 :]]).astype(np.float32))


def _weighted(values: Cells, weights: Cells) -> NDArray[np.float32]:
    total = float(weights.sum())
    if total <= 0:
        return np.zeros(values.shape[-1], np.float32)
    mean: NDArray[np.float32] = np.tensordot(weights, values, 2) / np.float32(total)
    return mean


def mean_in_cells(pixels: NDArray[Any], shape: tuple[int, int], step: float) -> Cells:
    """Mean of (h, w) pixels over `shape` cells of `step` pixels, from the first pixel on, float32."""
    totals = np.zeros((pixels.shape[0] + 1, pixels.shape[1] + 1))
    totals[1:, 1:] = pixels.cumsum(0, dtype=np.float64).cumsum(1)
    edges = [
        np.minimum(np.rint(np.arange(count + 1) * step).astype(int), length)
        for count, length in zip(shape, pixels.shape, strict=True)
    ]
    # where cells are smaller than pixels, each still has one
    starts = [np.minimum(edge[:-1], edge[-1] - 1) for edge in edges]
    stops = [np.maximum(edge[1:], start + 1) for edge, start in zip(edges, starts, strict=True)]
    sums = sum(
        sign * totals[np.ix_(rows, columns)]
        for sign, rows, columns in (
            (1, stops[0], stops[1]),
            (-1, starts[0], stops[1]),
            (-1, stops[0], starts[1]),
            (1, starts[0], starts[1]),
        )
    )
    mean: Cells = (sums / np.outer(stops[0] - starts[0], stops[1] - starts[1])).astype(np.float32)
    return mean


def _tones(picture: NDArray[np.uint8], sigma: float) -> NDArray[np.float32]:
    channels = np.atleast_3d(picture).astype(np.float32)
    blur = (sigma, sigma, 0)
    mean = ndimage.gaussian_filter(channels, blur)
    texture = np.sqrt(ndimage.gaussian_filter((channels - mean) ** 2, blur))
    tones: NDArray[np.float32] = np.concatenate([mean, texture], -1)
    return tones


def _as_numpy(tensor: Any) -> Cells:
    """(1, C, h, w) of any library to (h, w, C) float32."""
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().float().cpu().numpy()
    values: Cells = np.asarray(tensor, np.float32)[0].transpose(1, 2, 0)
    return values

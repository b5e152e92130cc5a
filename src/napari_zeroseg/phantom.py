"""A stack that looks like electron microscopy and whose truth is known, for demos and tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from napari_zeroseg.errors import InputError

_SMALLEST = 64
_AREA_OF_ONE = 512 * 512 / 16  # pixels of plane for each mitochondrion
_SHOT_NOISE = 11.0

Plane = NDArray[np.float64]


def em_like_stack(planes: int = 8, size: int = 512, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Generate cells with membranes, textured cytoplasm, vesicles and mitochondria that drift through the planes.

    Parameters
    ----------
    planes : int
        Number of planes, at least 1.
    size : int
        Rows and columns, at least 64.
    seed : int
        Same number, same stack.

    Returns
    -------
    raw : (planes, size, size) uint8
        The picture.
    truth : (planes, size, size) int32
        Mitochondria, each with one number from 1 through all planes; 0 elsewhere.

    Raises
    ------
    InputError
        If there are no planes or they are too small.
    """
    if planes < 1 or size < _SMALLEST:
        raise InputError(f"At least 1 plane of {_SMALLEST} x {_SMALLEST} is needed, not {planes} of {size} x {size}.")
    rng = np.random.default_rng(seed)
    cells = _Cells(rng, planes, size)
    mitochondria = _placed(rng, planes, size, cells)
    raw = np.empty((planes, size, size), np.uint8)
    truth = np.zeros((planes, size, size), np.int32)
    for z in range(planes):
        plane = cells.draw(z, rng)
        for number, mitochondrion in enumerate(mitochondria, start=1):
            mitochondrion.draw(z, plane, truth[z], number)
        plane = ndimage.gaussian_filter(plane, 0.8)
        plane += rng.normal(0, _SHOT_NOISE, plane.shape) * np.sqrt(np.clip(plane, 10, 255) / 150)
        raw[z] = np.clip(np.rint(plane), 0, 255)
    return raw, truth


def _noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> Plane:
    """Smooth noise of mean 0 and standard deviation 1."""
    field = ndimage.gaussian_filter(rng.normal(size=shape), sigma, mode="wrap")
    normal: Plane = (field - field.mean()) / field.std()
    return normal


class _Cells:
    """Cells as the regions nearest to random seeds, seen through a smooth warp that changes slowly along z."""

    def __init__(self, rng: np.random.Generator, planes: int, size: int) -> None:
        count = max(8, round(size * size / 5500))
        self._start = rng.uniform(-0.1 * size, 1.1 * size, (count, 2))
        self._drift = rng.normal(0, 1.2, (count, 2))
        self._brightness = rng.normal(166, 9, count)
        self._warp = [[_noise(rng, (size, size), 16) * 8 for _ in "rc"] for _ in range(2)]
        self._planes = planes
        self._grid = np.mgrid[:size, :size].astype(np.float64)

    def borders(self, z: int) -> tuple[Plane, NDArray[np.intp]]:
        """Distance to the border with the nearest neighbour, roughly in pixels, and the cell of each pixel."""
        share = z / max(1, self._planes - 1)
        warp = np.stack([(1 - share) * a + share * b for a, b in zip(*self._warp, strict=True)])
        where = np.moveaxis(self._grid + warp, 0, -1).reshape(-1, 2)
        seeds = self._start + self._drift * z
        distance, nearest = cKDTree(seeds).query(where, k=4)
        # The nearest border need not be that with the second nearest seed.
        apart = np.linalg.norm(seeds[nearest[:, 1:]] - seeds[nearest[:, :1]], axis=2)
        border = ((distance[:, 1:] ** 2 - distance[:, :1] ** 2) / (2 * apart)).min(1)
        shape = self._grid.shape[1:]
        return border.reshape(shape), nearest[:, 0].reshape(shape)

    def draw(self, z: int, rng: np.random.Generator) -> Plane:
        """Cytoplasm with its grain, vesicles, and the dark double membrane around each cell."""
        border, cell = self.borders(z)
        grain = 9 * _noise(rng, border.shape, 1.3) + 7 * _noise(rng, border.shape, 4)
        plane: Plane = self._brightness[cell] + grain
        self._draw_vesicles(plane, border, rng)
        thickness = np.clip(1.5 + 0.3 * _noise(rng, border.shape, 9), 1.0, 2.2)
        plane -= 105 * np.exp(-(((border - 1.6) / thickness) ** 2))
        return plane

    @staticmethod
    def _draw_vesicles(plane: Plane, border: Plane, rng: np.random.Generator) -> None:
        """Bright dots with a dark rim, away from the borders."""
        size = len(plane)
        for row, column in rng.integers(8, size - 8, (size * size // 900, 2)):
            if border[row, column] < 7:
                continue
            window = np.s_[row - 7 : row + 8, column - 7 : column + 8]
            r, c = np.mgrid[-7:8, -7:8]
            away, radius = np.hypot(r, c), rng.uniform(1.8, 3.6)
            plane[window] += 14 * (away < radius - 1) - 55 * np.exp(-(((away - radius) / 0.9) ** 2))


@dataclass(frozen=True)
class _Mitochondrion:
    """An ellipse with a wavy outline that drifts, turns and swells from plane to plane."""

    centre: tuple[float, float]
    drift: tuple[float, float]
    axes: tuple[float, float]
    angle: float
    turn: float
    waves: tuple[tuple[float, float], ...]  # (amplitude, phase) of 2, 3, ... waves around
    cristae: float  # period in pixels
    phase: float
    shade: float
    middle: float  # plane where it is largest
    reach: float  # planes from there to where it ends

    def place(self, z: float) -> tuple[float, float]:
        away = z - self.middle
        return self.centre[0] + self.drift[0] * away, self.centre[1] + self.drift[1] * away

    def swelling(self, z: float) -> float:
        """Factor of its size in plane z; 0 behind its ends."""
        return float(np.sqrt(max(0.0, 1 - ((z - self.middle) / self.reach) ** 2)))

    @property
    def radius(self) -> float:
        return max(self.axes) * 1.25

    def draw(self, z: int, plane: Plane, truth: NDArray[np.int32], number: int) -> None:
        """Darken `plane` and write `number` into `truth`."""
        swelling = self.swelling(z)
        if swelling < 0.45:
            return
        row, column = self.place(z)
        low = [max(0, int(at - self.radius - 3)) for at in (row, column)]
        high = [min(len(plane), int(at + self.radius + 4)) for at in (row, column)]
        if low[0] >= high[0] or low[1] >= high[1]:
            return
        window = np.s_[low[0] : high[0], low[1] : high[1]]
        r, c = np.mgrid[window].astype(np.float64)
        angle = self.angle + self.turn * (z - self.middle)
        along = (r - row) * np.sin(angle) + (c - column) * np.cos(angle)
        across = (r - row) * np.cos(angle) - (c - column) * np.sin(angle)
        inside = self._depth(along / swelling, across / swelling) * swelling
        filled = inside > 0
        stripes = np.sin(2 * np.pi * (along / self.cristae + 0.12 * np.sin(across / 4)) + self.phase + 0.5 * z)
        matrix = self.shade + 17 * stripes * np.clip((inside - 3) / 2, 0, 1)
        rim = 48 * np.exp(-(((inside - 1.2) / 1.1) ** 2)) - 22 * np.exp(-(((inside - 3.4) / 0.9) ** 2))
        plane[window] = np.where(filled, matrix - rim + 0.25 * (plane[window] - 165), plane[window])
        truth[window][filled] = number

    def _depth(self, along: Plane, across: Plane) -> Plane:
        """Distance inwards from the outline, roughly in pixels; negative outside."""
        around = np.arctan2(across / self.axes[1], along / self.axes[0])
        outline = 1 + sum(size * np.cos(n * around + at) for n, (size, at) in enumerate(self.waves, start=2))
        depth: Plane = (outline - np.hypot(along / self.axes[0], across / self.axes[1])) * min(self.axes)
        return depth


def _placed(rng: np.random.Generator, planes: int, size: int, cells: _Cells) -> list[_Mitochondrion]:
    """Scatter mitochondria over the cells, clear of one another in every plane."""
    wanted = max(2, round(size * size / _AREA_OF_ONE))
    border, _ = cells.borders(planes // 2)
    found: list[_Mitochondrion] = []
    for _ in range(2000 * wanted):
        if len(found) == wanted:
            break
        one = _any_mitochondrion(rng, planes, size)
        row, column = (int(at) for at in one.centre)
        if border[row, column] < min(one.axes) * 0.9:
            continue
        clear = (
            np.hypot(*np.subtract(one.place(z), other.place(z))) > one.radius + other.radius + 4
            for other in found
            for z in range(planes)
        )
        if all(clear):
            found.append(one)
    return found


def _any_mitochondrion(rng: np.random.Generator, planes: int, size: int) -> _Mitochondrion:
    short = rng.uniform(11, 17)
    margin = min(30.0, size / 5)
    centre = rng.uniform(margin, size - margin, 2)
    drift = rng.normal(0, 1.0, 2)
    return _Mitochondrion(
        centre=(float(centre[0]), float(centre[1])),
        drift=(float(drift[0]), float(drift[1])),
        axes=(short * rng.uniform(1.2, 2.1), short),
        angle=rng.uniform(0, np.pi),
        turn=rng.normal(0, 0.04),
        waves=tuple((rng.normal(0, 0.05), rng.uniform(0, 2 * np.pi)) for _ in range(3)),
        cristae=rng.uniform(6, 9),
        phase=rng.uniform(0, 2 * np.pi),
        shade=rng.normal(104, 6),
        middle=rng.uniform(0, planes),
        reach=planes * rng.uniform(0.9, 1.8) + 2,
    )

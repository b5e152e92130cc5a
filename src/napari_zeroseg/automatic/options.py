"""What segment-everything can be told; names and defaults are segment-anything's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg.errors import InputError
from napari_zeroseg.tiling import NARROWEST
from napari_zeroseg.view import FieldChoice


@dataclass(frozen=True)
class AutomaticOptions:
    """How a plane is searched for objects.

    Names, meanings and defaults are those of segment-anything's ``SamAutomaticMaskGenerator``, except for `field`.

    Attributes
    ----------
    points_per_side : int or None
        Clicks along each side of a square grid; None where `point_grids` are given.
    points_per_batch : int
        Clicks that are answered before what came of them is looked at; cancelling waits for one batch at most.
    pred_iou_thresh : float
        Masks whose predicted IoU is not above it are never made.
    stability_score_thresh : float
        Masks that are less stable are dropped. Stability is the IoU of the mask thresholded at the logits
        `stability_score_offset` and `-stability_score_offset`.
    stability_score_offset : float
    box_nms_thresh : float
        Of two masks of one window whose boxes overlap with a higher IoU, that with the lower predicted IoU is dropped.
    crop_n_layers : int
        Layers of crops besides the whole plane; layer i has 2**i by 2**i of them.
    crop_nms_thresh : float
        As `box_nms_thresh`, between windows; the mask of the smaller window stays.
    crop_overlap_ratio : float
        Part of the plane's shorter side by which crops of the first layer overlap.
    crop_n_points_downscale_factor : int
        Layer i has `points_per_side` divided by this factor to the power of i.
    point_grids : sequence of sequence of (float, float), optional
        For each layer its clicks as (row, column) in parts of the crop, 0 to 1, in place of `points_per_side`.
    min_mask_region_area : int
        Holes and separate regions of a mask with fewer pixels are filled and removed; 0 leaves all.
    field : "auto", "plane" or int
        "plane" encodes the whole plane, and its crops if `crop_n_layers` says so, as segment-anything does. A number
        is the side in pixels of windows over the plane, each of which is searched as a picture of its own, besides
        windows of twice the side and so on up to the whole plane, so that neither small nor large objects are lost.
        "auto" is "plane" for planes up to 1280 pixels and where crops or grids are given, else windows of 1024 pixels.

    Raises
    ------
    InputError
        If a value is none that can be worked with.
    """

    points_per_side: int | None = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    point_grids: Sequence[Sequence[tuple[float, float]]] | None = None
    min_mask_region_area: int = 0
    field: FieldChoice = "auto"

    def __post_init__(self) -> None:
        if (self.points_per_side is None) == (self.point_grids is None):
            raise InputError("Give either points_per_side or point_grids, and None for the other.")
        least = {
            "points_per_side": 1,
            "points_per_batch": 1,
            "crop_n_layers": 0,
            "crop_n_points_downscale_factor": 1,
            "min_mask_region_area": 0,
        }
        for name, lowest in least.items():
            value = getattr(self, name)
            if value is not None and (not isinstance(value, (int, np.integer)) or value < lowest):
                raise InputError(f"{name} is a whole number from {lowest}; got {value!r}.")
        for name in ("pred_iou_thresh", "stability_score_thresh", "box_nms_thresh", "crop_nms_thresh"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is a number from 0 to 1; got {getattr(self, name)!r}.")
        if not (math.isfinite(self.stability_score_offset) and self.stability_score_offset > 0):
            raise InputError(f"stability_score_offset is a number above 0; got {self.stability_score_offset!r}.")
        if not 0 <= self.crop_overlap_ratio < 1:
            raise InputError(
                f"crop_overlap_ratio is a part of the plane, from 0 to 1; got {self.crop_overlap_ratio!r}."
            )
        self._check_field()
        for grid in self.point_grids or ():
            _checked_grid(grid)
        if self.point_grids is not None and len(self.point_grids) <= self.crop_n_layers:
            raise InputError(
                f"point_grids needs a grid for the plane and one for each layer of crops, {self.crop_n_layers + 1} in "
                f"all; got {len(self.point_grids)}."
            )

    def _check_field(self) -> None:
        if isinstance(self.field, int):
            if self.field < NARROWEST:
                raise InputError(f"A field of view is at least {NARROWEST} pixels wide; got {self.field}.")
            if self.crop_n_layers or self.point_grids is not None:
                raise InputError("Crops and grids are for the field 'plane': leave the side of windows out.")
        elif self.field not in ("auto", "plane"):
            raise InputError(f"A field of view is 'auto', 'plane' or a number of pixels; got {self.field!r}.")

    def grid(self, layer: int) -> NDArray[np.float64]:
        """(N, 2) clicks of a layer of crops, as parts of the rows and columns, row by row."""
        if self.point_grids is not None:
            return _checked_grid(self.point_grids[layer])
        assert self.points_per_side is not None
        return square_grid(max(1, self.points_per_side // self.crop_n_points_downscale_factor**layer))

    def as_dict(self) -> dict[str, Any]:
        """The options as plain values, for JSON."""
        return asdict(self)


def square_grid(count: int) -> NDArray[np.float64]:
    """(count**2, 2) points, each in the middle of one of `count` by `count` cells of the unit square, row by row."""
    return rectangular_grid(count, count)


def rectangular_grid(rows: int, columns: int) -> NDArray[np.float64]:
    """(rows * columns, 2) points, each in the middle of a cell of the unit square, row by row."""
    across = [(np.arange(count) + 0.5) / count for count in (rows, columns)]
    return np.stack(np.meshgrid(*across, indexing="ij"), -1).reshape(-1, 2)


def _checked_grid(grid: Sequence[tuple[float, float]]) -> NDArray[np.float64]:
    points = np.asarray(grid, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points) or not ((points >= 0) & (points <= 1)).all():
        raise InputError("Each of point_grids is a list of (row, column), both in parts of the crop from 0 to 1.")
    return points

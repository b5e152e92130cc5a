"""Which places of the image a loss is computed on: all near the object, and a drawn part of the others.

Drawing the masks of all 64 x 64 places takes half of a step, and most of them are background far from the object. As
with the points of PointRend (Kirillov et al., CVPR 2020) and Mask2Former (Cheng et al., CVPR 2022, section 3.3) a
sample does. What is drawn weighs as much as what it stands for, so that sums over cells, and with them the losses, are
those of the whole window on average.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_zeroseg.models.prompt_embedding import SIDE

MOST = 1024
"""Places of a window that are drawn, where the object and its surroundings take no more."""

_FEWEST_FAR = 256
"""Of them at least so many lie elsewhere."""

_REACH = 4
"""Places around the object that are always drawn."""

_WORTH_IT = 3072
"""With so many places it is simpler to draw all."""

_CELLS = 4
"""Cells along each side of a place."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Places of B windows, and what the cells of each stand for.

    Attributes
    ----------
    places : (B, P) int64
        Counted row by row.
    weight : (B, P, 1) float32
        How many places a place stands for.
    """

    places: Tensor
    weight: Tensor

    def of(self, maps: Tensor) -> Tensor:
        """(B, 256, 256) maps to (B, P, 16), the cells of each place row by row."""
        cells = _by_place(maps)
        return cells.gather(1, self.places[..., None].expand(-1, -1, cells.shape[-1]))


def sampled(target: Tensor, weight: Tensor, seed: int) -> Sample | None:
    """Choose places for each of B objects.

    Parameters
    ----------
    target : (B, 256, 256) float32
        How far each cell is covered by the object.
    weight : (B, 256, 256) float32
        0 where a cell does not count.
    seed : int

    Returns
    -------
    Sample or None
        None where nearly all places would be chosen: draw all.
    """
    counts = _by_place(weight).amax(-1) > 0
    covered = F.max_pool2d(target[:, None], _CELLS)
    near = (F.max_pool2d(covered, 2 * _REACH + 1, 1, _REACH) > 0).flatten(1) & counts
    most = max(MOST, int(near.sum(1).max()) + _FEWEST_FAR)
    if most >= _WORTH_IT:
        return None
    chance = torch.rand(near.shape, generator=torch.Generator().manual_seed(seed)).to(near.device)
    # those near first, then others by chance, at last those that do not count
    places = (chance + 2 * near + counts).topk(most).indices
    others = (counts & ~near).sum(1)
    drawn = (most - near.sum(1)).minimum(others)
    each = torch.where(near.gather(1, places), 1.0, (others / drawn.clamp_min(1))[:, None])
    return Sample(places, each[..., None])


def _by_place(maps: Tensor) -> Tensor:
    """(B, 256, 256) to (B, 4096, 16)."""
    cells = maps.view(len(maps), SIDE, _CELLS, SIDE, _CELLS).transpose(2, 3)
    return cells.reshape(len(maps), SIDE * SIDE, _CELLS * _CELLS)

"""Objects of blocks of planes, linked where the blocks share planes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg.errors import InputError
from napari_zeroseg.link.options import LinkOptions
from napari_zeroseg.link.sections import sections_of
from napari_zeroseg.link.solve import connected, ranked, renamed
from napari_zeroseg.link.tidy import Labels, pieces
from napari_zeroseg.metrics import Ids, overlaps


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """What linking needs to know of a block of planes; small enough to be sent between processes.

    Of the planes that two blocks share, the earlier block keeps the first half, and the middle one of an odd number.

    Attributes
    ----------
    start, stop : int
        The planes of the block.
    before, after : int
        How many of them it shares with the block before and after it.
    label, first : (N,) int64
        The objects, and the index of the first voxel of each in the flattened stack, among the planes that the block
        keeps; −1 where it has none there.
    head, tail : (before, H, W) and (after, H, W) integer arrays
        The labels of the shared planes.
    """

    start: int
    stop: int
    before: int
    after: int
    label: Ids
    first: Ids
    head: Labels
    tail: Labels

    @classmethod
    def of(cls, labels: Labels, start: int = 0, before: int = 0, after: int = 0) -> Block:
        """Describe a block.

        Parameters
        ----------
        labels : (n, H, W) integer array
            Objects of the block, numbered as it likes; 0 is background.
        start : int
            Number of its first plane in the stack.
        before, after : int
            Planes that it shares with its neighbours.

        Raises
        ------
        InputError
            If it shares more planes than it has.
        """
        if labels.ndim != 3 or before < 0 or after < 0 or before + after > len(labels):
            raise InputError(
                f"A block is (planes, rows, columns) and shares other planes with the block before than with the one "
                f"after; got shape {labels.shape} and {before} + {after} planes."
            )
        block = cls(
            start,
            start + len(labels),
            before,
            after,
            sections_of(labels)[0],
            np.zeros(0, np.int64),
            labels[:before],
            labels[len(labels) - after :],
        )
        own = block.planes
        kept, first, _ = sections_of(labels[own.start - start : own.stop - start])
        places = np.full(len(block.label), -1, np.int64)
        places[np.searchsorted(block.label, kept)] = first + own.start * labels[0].size
        object.__setattr__(block, "first", places)
        return block

    @property
    def planes(self) -> range:
        """The planes that the block keeps."""
        return range(self.start + (self.before + 1) // 2, self.stop - self.after // 2)


@dataclass(frozen=True, slots=True, eq=False)
class BlockLabels:
    """The numbers of a block's objects in the whole stack.

    Attributes
    ----------
    planes : range
        The planes that the block writes.
    label : (N,) int64
        Numbers in the block, ascending.
    new : (N,) int32
        Numbers in the stack.
    """

    planes: range
    label: Ids
    new: NDArray[np.int32]

    def apply(self, labels: Labels) -> NDArray[np.int32]:
        """Give labels of the block, of any shape, the numbers of the stack.

        Raises
        ------
        InputError
            If there is a label that the block did not have.
        """
        return renamed(labels, self.label, self.new)


def link_blocks(blocks: Sequence[Block], options: LinkOptions | None = None) -> list[BlockLabels]:
    """Link the objects of blocks through the planes that they share.

    Two objects are one if a piece of one and a piece of the other have an IoU of at least ``options.high`` on a shared
    plane, or at least ``options.inside`` of the smaller piece lies on the larger one; a piece is what is connected
    through faces in that plane. Where blocks agree on the shared planes, this is what one process would have found with
    a rule that looks no further than the shared planes. Objects are numbered by their first voxel.

    Labels of planes that :func:`link_planes` has still to link want :func:`join_links` instead, which is exact for
    chains of any length.

    Parameters
    ----------
    blocks : sequence of Block
        In any order.
    options : LinkOptions, optional

    Returns
    -------
    list of BlockLabels
        One for each block, in the order given.

    Raises
    ------
    InputError
        If neighbours do not share the planes that they say they share, or share none.
    """
    options = options or LinkOptions()
    order = sorted(range(len(blocks)), key=lambda index: blocks[index].start)
    offsets = dict(
        zip(order, itertools.accumulate((len(blocks[index].label) for index in order), initial=0), strict=False)
    )
    above: list[Ids] = [np.zeros(0, np.int64)]
    below: list[Ids] = [np.zeros(0, np.int64)]
    for one, other in itertools.pairwise(order):
        a, b = _same_objects(blocks[one], blocks[other], options)
        above.append(a + offsets[one])
        below.append(b + offsets[other])
    first = np.concatenate([np.zeros(0, np.int64), *(blocks[index].first for index in order)])
    which = connected(len(first), np.concatenate(above), np.concatenate(below))
    new = _numbered(which, first)
    result = []
    for index, block in enumerate(blocks):
        own = new[offsets[index] : offsets[index] + len(block.label)]
        result.append(BlockLabels(block.planes, block.label, own))
    return result


def _numbered(which: Ids, first: Ids) -> NDArray[np.int32]:
    """Number objects by their first voxel; those that no block keeps a voxel of get 0."""
    kept = np.isin(which, which[first >= 0])
    new = np.zeros(len(which), np.int32)
    place = np.where(first >= 0, first, np.iinfo(np.int64).max)
    new[kept] = ranked(np.unique(which[kept], return_inverse=True)[1], place[kept]) + 1
    return new


def _same_objects(one: Block, other: Block, options: LinkOptions) -> tuple[Ids, Ids]:
    """Indices of the objects of both blocks that are the same."""
    shared = one.stop - other.start
    if shared < 1 or shared != one.after or shared != other.before or one.tail.shape != other.head.shape:
        raise InputError(
            f"Blocks are linked by the planes that they share; planes {one.start} to {one.stop - 1} and {other.start} "
            f"to {other.stop - 1} share {max(0, shared)}, but are said to share {one.after} and {other.before}."
        )
    pairs = []
    for a, b in zip(one.tail, other.head, strict=True):
        pieces_a, pieces_b = pieces(a)[0], pieces(b)[0]
        common = overlaps(pieces_a, pieces_b).of_objects()
        size_a, size_b = np.bincount(pieces_a.ravel())[common.first], np.bincount(pieces_b.ravel())[common.second]
        iou = common.count / (size_a + size_b - common.count)
        inside = common.count / np.minimum(size_a, size_b)
        same = (iou >= options.high) | (inside >= options.inside)
        pairs.append(
            np.stack([_label_of(pieces_a, a)[common.first[same]], _label_of(pieces_b, b)[common.second[same]]])
        )
    labels = np.unique(np.concatenate(pairs, axis=1), axis=1)
    return np.searchsorted(one.label, labels[0]), np.searchsorted(other.label, labels[1])


def _label_of(which: Ids, labels: Labels) -> Ids:
    """Label of each piece."""
    result = np.zeros(int(which.max(initial=0)) + 1, np.int64)
    result[which.ravel()] = labels.ravel()
    return result

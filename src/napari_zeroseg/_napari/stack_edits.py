"""What the inference thread finds to be changed in labels: objects linked, results taken over. No Qt, no napari."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg._napari.stack_place import LabelStack, StackPlace
from napari_zeroseg._napari.stack_work import Change, Changes, Progressed, Tell
from napari_zeroseg.errors import InputError
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.link import LinkOptions, link_planes


def link(data: Any, place: StackPlace, options: LinkOptions, token: CancelToken, tell: Tell) -> None:
    """Link labels of planes into objects; tell all changes at the end, or none."""
    labels = LabelStack(data, place)
    linked = link_planes(labels, options, lambda done, total: tell(Progressed(done, 2 * total)), token)
    parts = []
    for plane in range(place.count):
        token.raise_if_cancelled()
        parts += _changed(place, plane, labels.plane(plane), linked.plane(plane), labels.dtype)
        tell(Progressed(place.count + plane + 1, 2 * place.count))
    count = len(linked.objects)
    tell(Changes(parts, f"{count} object{'s' * (count != 1)} linked through {place.count} planes."))


def take_over(
    found: LabelStack,
    data: Any,
    place: StackPlace,
    renumber: bool,
    token: CancelToken,
    tell: Tell,
) -> None:
    """Find what of `found` falls on empty pixels of labels; tell all changes at the end, or none.

    Parameters
    ----------
    found : LabelStack
    data : array_like
        Of the labels layer.
    place : StackPlace
        Its planes.
    renumber : bool
        Whether numbers of `found` have nothing to do with those of the labels, and go on behind them.
    """
    labels, first = LabelStack(data, place), 0
    total = place.count * (1 + renumber)
    for plane in range(place.count if renumber else 0):
        token.raise_if_cancelled()
        first = max(first, int(labels.plane(plane).max(initial=0)))
        tell(Progressed(plane + 1, total))
    parts = []
    for plane in range(place.count):
        token.raise_if_cancelled()
        own, new = labels.plane(plane), found.plane(plane).astype(np.int64)
        fresh = (own == 0) & (new != 0)
        highest = int(new.max(initial=0)) + first  # not in numpy: unsigned and signed ids would meet as floats
        if fresh.any() and highest > np.iinfo(labels.dtype).max:
            raise InputError(
                f"These labels go to {highest} and the layer holds {np.iinfo(labels.dtype).max} at most: choose labels "
                "with a wider data type."
            )
        after = own.copy()
        after[fresh] = (new[fresh] + first).astype(own.dtype)
        parts += _changed(place, plane, own, after, labels.dtype)
        tell(Progressed(total - place.count + plane + 1, total))
    pixels = sum(int(np.count_nonzero(part.after != part.before)) for part in parts)
    tell(Changes(parts, f"{pixels:,} pixels on {len(parts)} planes taken over; labels that were there stay."))


def _changed(
    place: StackPlace, plane: int, before: NDArray[Any], after: NDArray[Any], dtype: np.dtype[Any]
) -> list[Change]:
    """The smallest box around what is different, in the order of the layer's axes."""
    differs = before != after
    rows, columns = np.flatnonzero(differs.any(1)), np.flatnonzero(differs.any(0))
    if not len(rows):
        return []
    if after.max() > np.iinfo(dtype).max:
        raise InputError(
            f"These labels go to {after.max()} and the layer holds {np.iinfo(dtype).max} at most: choose labels with a "
            "wider data type."
        )
    box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    one, other = (np.array(place.turned(pixels[box]), dtype) for pixels in (before, after))
    return [Change(plane, place.box(plane, *box), one, other)]

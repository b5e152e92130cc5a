"""From masks to labels: ids and what happens where objects overlap."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg.errors import InputError
from napari_zeroseg.segmenter import Patch

_NONE = ("", "none", "<na>", "nan")
_NO_NAMES = ("true", "false")


class OverlapPolicy(StrEnum):
    """What a new object does to pixels that have a label already."""

    KEEP = "keep"
    """Pixels of other objects stay theirs; those of its own an object may lose when it is drawn again."""
    REPLACE = "replace"
    """The object takes all of its pixels, whoever had them."""
    EMPTY = "empty"
    """Only empty pixels are filled: nothing that has a label changes, not even the object's own."""


def number_classes(
    values: Sequence[str], known: Mapping[str, int] | None = None, taken: Iterable[int] = ()
) -> tuple[list[int], dict[str, int]]:
    """Turn what people write as classes into numbers.

    Parameters
    ----------
    values : sequence of str
        Whole numbers from 1, or names; "" is none, and so is what :func:`check_class` refuses. Names are numbered in
        the order in which they come, from the first number that nothing else has.
    known : mapping of str and int, optional
        Numbers that names have already.
    taken : iterable of int, optional
        Numbers that no new name gets.

    Returns
    -------
    list of int
        Number of each, 0 for none.
    dict of str and int
        The names and their numbers.
    """
    names = dict(known or {})
    numbers = [_whole(value) for value in values]
    used = {*(number for number in numbers if number), *names.values(), *taken}
    for value, number in zip(values, numbers, strict=True):
        name = value.strip()
        if number is None and name not in names:
            names[name] = next(free for free in itertools.count(1) if free not in used)
            used.add(names[name])
    return [names[v.strip()] if n is None else n for v, n in zip(values, numbers, strict=True)], names


def check_class(text: str, where: str = "") -> None:
    """Raise if what somebody wrote as a class is neither a whole number from 1 nor a name.

    Parameters
    ----------
    text : str
        "" is none, and passes.
    where : str
        The place that it was read from, such as "boxes.csv, line 2, column class".

    Raises
    ------
    InputError
    """
    if _whole(text) == 0 and text.strip().casefold() not in _NONE:
        raise InputError(
            f"{f'{where}: a' if where else 'A'} class is a name or a whole number from 1, as 0 is background; got "
            f"'{text.strip()}'."
        )


def _whole(text: str) -> int | None:
    """The number that a text is, 0 where it is none of use, None where it is a name."""
    try:
        value = float(text)
    except ValueError:
        return 0 if text.strip().casefold() in (*_NONE, *_NO_NAMES) else None
    return int(value) if value >= 1 and value.is_integer() else 0


def changes(labels: NDArray[np.integer], patch: Patch, label: int, policy: OverlapPolicy) -> NDArray[np.bool_]:
    """Say which pixels of a plane to write so that an object gets the pixels of `patch`.

    Parameters
    ----------
    labels : (H, W) integer array
        The plane as it is; 0 is background.
    patch : tuple of (rows, columns, mask)
        Where the object is, as from :meth:`Prediction.patch`.
    label : int
        The object's id, or its class.
    policy : OverlapPolicy

    Returns
    -------
    (h, w) bool array
        Of the patch's box: the pixels whose label changes. What the object had before outside the mask is left to
        :func:`erasure`.

    Raises
    ------
    InputError
        If the labels' type cannot hold `label`.
    """
    most = np.iinfo(labels.dtype).max
    if label > most:  # numpy would wrap it to another object's id
        raise InputError(f"{labels.dtype} labels hold ids up to {most}; got {label}: use labels of a wider type.")
    rows, columns, mask = patch
    present = np.asarray(labels[rows, columns])
    return np.asarray(mask & ((present != label) if policy is OverlapPolicy.REPLACE else (present == 0)))


def erasure(labels: NDArray[np.integer], patch: Patch, label: int) -> NDArray[np.bool_]:
    """Say which pixels of object `label` lie outside `patch`, (H, W) bool, to be emptied when it is drawn again.

    Parameters
    ----------
    labels : (H, W) integer array
    patch : tuple of (rows, columns, mask)
        The object's new shape.
    label : int
    """
    rows, columns, mask = patch
    outside = np.asarray(labels) == label
    outside[rows, columns] &= ~mask
    return np.asarray(outside)


def write(labels: NDArray[np.integer], patch: Patch, label: int, policy: OverlapPolicy) -> int:
    """Write an object into a plane in place and return the number of pixels that changed.

    Parameters
    ----------
    labels : (H, W) integer array
    patch, label, policy
        As for :func:`changes`.
    """
    changed = changes(labels, patch, label, policy)
    labels[patch[0], patch[1]][changed] = label
    return int(np.count_nonzero(changed))

"""Heat maps of phrases, and the places in them that are worth a prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_zeroseg import tiling
from napari_zeroseg.cascade.planes import Progress, patch_iou
from napari_zeroseg.errors import InputError
from napari_zeroseg.models.probability_frame import heat_map
from napari_zeroseg.planes import is_flat
from napari_zeroseg.prompts import Prompt
from napari_zeroseg.segmenter import Patch, Segmenter
from napari_zeroseg.tiling import Field
from napari_zeroseg.view import View

if TYPE_CHECKING:
    from napari_zeroseg.jobs import CancelToken

_TILE = 2 * tiling.SMALLEST_SIDE
"""Side of windows over a large plane: a cell of CLIPSeg's 22 x 22 is then 47 pixels wide."""

_MOST_HELD = 2**30
"""Pixels of all maps of a plane together, 6 GB while they are made."""

_NEGATIVES = 2
"""Clicks on background for a region: one nearby on what is coldest, one on what another phrase names."""

_MARGIN = 0.25
"""Part of a region's sides around it in which these are looked for."""


@runtime_checkable
class _CanBeTaught(Protocol):
    """A model of words to which some may have been taught."""

    def is_taught(self, phrase: str) -> bool:
        """Whether this one was."""
        ...


@dataclass(frozen=True, eq=False)
class Region:
    """A connected part of a heat map, and the prompts that it makes.

    Attributes
    ----------
    label : int
        Running number of its phrase, from 1.
    patch : tuple of (rows, columns, mask)
    peak : tuple of int
        (row, column) of its highest probability, averaged over its surroundings.
    heat : float
        Probability there.
    background : (N, 2) array
        (row, column) of clicks on background nearby.
    """

    label: int
    patch: Patch
    peak: tuple[int, int]
    heat: float
    background: NDArray[np.float32]

    @cached_property
    def click(self) -> Prompt:
        """A click on the peak, and clicks on background."""
        points = np.concatenate([np.array([self.peak], np.float32), self.background])
        return Prompt(points, [True, *[False] * len(self.background)])

    @cached_property
    def boxed(self) -> Prompt:
        """The box around the region."""
        rows, columns, _ = self.patch
        return Prompt(box=(rows.start - 0.5, columns.start - 0.5, rows.stop - 0.5, columns.stop - 0.5))

    def iou(self, patch: Patch) -> float:
        """IoU of a mask with the region."""
        return patch_iou(self.patch, patch)


def heat_of(
    text_model: Segmenter,
    picture: NDArray[np.uint8] | View,
    phrases: Sequence[str],
    templates: Sequence[str] = ("{}",),
    tile: int | None = None,
    cancel: CancelToken | None = None,
    progress: Progress | None = None,
) -> NDArray[np.float16]:
    """Return the probability of each phrase at each pixel.

    Parameters
    ----------
    text_model : Segmenter
        One that answers text with probabilities.
    picture : (H, W) or (H, W, 3) uint8 array, or View
        A view of the text model brings its own embeddings.
    phrases, templates : sequence of str
        Each phrase is put into each template; the probabilities are averaged. Those that were taught to the model
        are asked for without.
    tile : int, optional
        Side of windows in pixels; left out, the whole plane up to 1280 pixels, else 1024.
    cancel, progress : optional
        As for :func:`segment_text`.

    Returns
    -------
    (phrases, H, W) float16 array
        0 to 1. Where windows overlap, that counts more whose side is farther away.
    """
    sentences = [_sentences(text_model, phrase, templates) for phrase in phrases]
    height, width = picture.shape[:2]
    if len(phrases) * height * width > _MOST_HELD:
        most = max(1, _MOST_HELD // (height * width))
        raise InputError(
            f"{len(phrases)} phrases on a plane of {height} x {width} pixels take more memory than there may be: ask "
            f"for at most {most} at once."
        )
    pixels = picture.picture if isinstance(picture, View) else picture

    def look(field: Field) -> Iterator[NDArray[np.float32]]:
        embedding = picture.embedding(field) if isinstance(picture, View) else text_model.encode(pixels[field.slices])
        for each in sentences:
            answers = text_model.predict(embedding, [Prompt(text=sentence) for sentence in each])
            yield np.mean([heat_map(answer) for answer in answers], 0)

    return blended(pixels, len(phrases), look, tile, cancel, progress)


def _sentences(text_model: Segmenter, phrase: str, templates: Sequence[str]) -> list[str]:
    """A phrase in its templates; one that was taught is its vector, not the words around it."""
    if is_taught(text_model, phrase):
        return [phrase]
    return [template.replace("{}", phrase) for template in templates]


def is_taught(text_model: Segmenter, phrase: str) -> bool:
    """Whether a phrase was taught to a model of words."""
    return isinstance(text_model, _CanBeTaught) and text_model.is_taught(phrase)


def blended(
    picture: NDArray[np.uint8],
    count: int,
    look: Callable[[Field], Iterable[NDArray[np.float32]]],
    tile: int | None = None,
    cancel: CancelToken | None = None,
    progress: Progress | None = None,
) -> NDArray[np.float16]:
    """Look at a plane window by window, and return one map of what was seen.

    Parameters
    ----------
    picture : (H, W) or (H, W, 3) uint8 array
    count : int
        Maps of a window.
    look : callable
        Gives `count` maps (h, w) of probabilities of a window.
    tile, cancel, progress : optional
        As for :func:`heat_of`.

    Returns
    -------
    (count, H, W) float16 array
    """
    shape = (picture.shape[0], picture.shape[1])
    fields = windows(shape, tile)
    total = np.zeros((count, *shape), np.float16 if len(fields) == 1 else np.float32)
    weights = np.zeros(shape, np.float32)
    for done, field in enumerate(fields):
        if cancel is not None:
            cancel.raise_if_cancelled()
        weight = _tent(field, shape)
        weights[field.slices] += weight
        if not is_flat(picture[field.slices]):
            for i, one in enumerate(look(field)):
                total[i][field.slices] += weight * one
        if progress is not None:
            progress(done + 1, len(fields))
    if len(fields) > 1:
        total /= weights
    return total.astype(np.float16)


def windows(shape: tuple[int, int], tile: int | None = None) -> list[Field]:
    """Return the windows in which a model of words looks at a plane of `shape` (H, W).

    Raises
    ------
    InputError
        If `tile` is too small.
    """
    if tile is not None and tile < tiling.NARROWEST:
        raise InputError(f"A tile is at least {tiling.NARROWEST} pixels wide; got {tile}.")
    if tile is None and max(shape) <= tiling.LARGE_PLANE:
        return [tiling.whole(shape)]
    return list(tiling.tiles(shape, tile or _TILE))


def _tent(field: Field, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Weights of a window's pixels: 1 in its middle, falling towards those sides that are not the plane's; above 0."""
    if field == tiling.whole(shape):
        return np.ones(shape, np.float32)
    spans = []
    for first, last, length in ((field.r0, field.r1, shape[0]), (field.c0, field.c1, shape[1])):
        inside = np.arange(first, last, dtype=np.float32) + 0.5
        rises = np.inf if first == 0 else inside - first
        falls = np.inf if last == length else last - inside
        spans.append(np.minimum(np.minimum(rises, falls) / ((last - first) / 2), 1) * np.ones(len(inside)))
    tent: NDArray[np.float32] = np.outer(*spans).astype(np.float32)
    return tent


def regions_of(heat: NDArray[np.float16], wanted: int, threshold: float, min_area: int) -> list[Region]:
    """Find the regions where a phrase is more probable than a threshold and than all other phrases.

    Parameters
    ----------
    heat : (N, H, W) array
        From :func:`heat_of`.
    wanted : int
        The first so many phrases are looked for; the others only take places from them.
    threshold : float
    min_area : int
        Pixels from which a region counts.

    Returns
    -------
    list of Region
        The hottest first.
    """
    return regions_in(heat[:wanted], heat.argmax(0), heat.max(0) > threshold, min_area)


def regions_in(
    heat: NDArray[np.float16], likeliest: NDArray[np.integer], above: NDArray[np.bool_], min_area: int
) -> list[Region]:
    """Find the connected parts of what each phrase has.

    Parameters
    ----------
    heat : (N, H, W) array
        Probability of each phrase that is looked for.
    likeliest : (H, W) integer array
        Which phrase is the most probable, from 0; others than the N take places from them.
    above : (H, W) bool array
        Where that is probable enough.
    min_area : int
        Pixels from which a region counts.

    Returns
    -------
    list of Region
        The hottest first.
    """
    found = []
    for phrase in range(len(heat)):
        named, count = ndimage.label((likeliest == phrase) & above)
        sizes = np.bincount(named.ravel(), minlength=count + 1)
        for number, box in enumerate(ndimage.find_objects(named), start=1):
            if sizes[number] >= min_area:
                mask = named[box] == number
                found.append(_region(heat, phrase, (box[0], box[1], mask), likeliest))
    return sorted(found, key=lambda region: -region.heat)


def _region(heat: NDArray[np.float16], phrase: int, patch: Patch, likeliest: NDArray[np.integer]) -> Region:
    rows, columns, mask = patch
    own = heat[phrase, rows, columns].astype(np.float32)
    # how deep inside, too: of the many pixels of a plateau the middle is meant
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(np.where(mask, own * depth, -1).argmax()), mask.shape)
    peak = (rows.start + int(row), columns.start + int(column))
    background = _background(heat[phrase], patch, likeliest == phrase)
    return Region(phrase + 1, patch, peak, float(own[row, column]), background)


def _background(own: NDArray[np.float16], patch: Patch, is_own: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Clicks on what is coldest around a region, and on what another phrase names there; none where all is warm."""
    around = []
    for span, length in zip(patch[:2], own.shape, strict=True):
        margin = max(2, round(_MARGIN * (span.stop - span.start)))
        around.append(slice(max(0, span.start - margin), min(length, span.stop + margin)))
    near = own[tuple(around)].astype(np.float32)
    warmest = float(own[patch[0], patch[1]][patch[2]].max())
    points: list[tuple[int, int]] = []
    for allowed in (np.ones(near.shape, bool), ~is_own[tuple(around)]):
        values = np.where(allowed, near, np.inf)
        row, column = np.unravel_index(int(values.argmin()), near.shape)
        point = (around[0].start + int(row), around[1].start + int(column))
        if values[row, column] < warmest / 2 and point not in points:
            points.append(point)
    return np.array(points[:_NEGATIVES], np.float32).reshape(-1, 2)

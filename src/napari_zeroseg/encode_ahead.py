"""Encode the planes of a stack before anybody asks: the current one first, then outwards, one window at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg import tiling
from napari_zeroseg.embeddings import EmbeddingStore
from napari_zeroseg.errors import InputError, InputTypeError, ReadError, WriteError
from napari_zeroseg.intensity import to_uint8
from napari_zeroseg.planes import Planes, check_picture, is_flat
from napari_zeroseg.segmenter import Segmenter
from napari_zeroseg.tiling import Field
from napari_zeroseg.view import FieldChoice, View

if TYPE_CHECKING:
    from napari_zeroseg.jobs import CancelToken

_LOOK_AGAIN = 0.1
"""Seconds after which a paused walk looks whether it was cancelled meanwhile."""


class Gate(Protocol):
    """What lets the walk go on, such as a :class:`threading.Event`: set, it may run; cleared, it waits."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the gate is open, or so many seconds; tell whether it is."""
        ...


@dataclass(frozen=True)
class EncodedPlane:
    """What was done for one plane.

    Attributes
    ----------
    plane : int
        Running number of the plane.
    windows : int
        How many windows it has to be looked at through.
    looked : int
        How many of them the walk came to: fewer where a budget ended in the midst of them.
    encoded : int
        How many of these were encoded now; the others were in the store.
    size : int
        Bytes of all its embeddings in the store.
    seconds : float
        For reading and encoding, without pauses.
    left : float or None
        Estimated seconds for the planes that are left; None before anything was encoded.
    fault : str
        Why the plane was skipped, in a sentence; empty if all went well.
    """

    plane: int
    windows: int
    looked: int
    encoded: int
    size: int
    seconds: float
    left: float | None
    fault: str = ""

    @property
    def is_ended(self) -> bool:
        """Whether nothing of it is left, be it that it was skipped."""
        return self.looked == self.windows


@dataclass(frozen=True)
class AheadProgress:
    """Where the walk is: after each window.

    Attributes
    ----------
    plane : int
        In work.
    window, windows : int
        Windows of it that are done, and all.
    planes_done, planes : int
        Planes that are done, and all that were asked for.
    left : float or None
        Estimated seconds for the rest; None before anything was encoded.
    """

    plane: int
    window: int
    windows: int
    planes_done: int
    planes: int
    left: float | None


def outwards(planes: Sequence[int], around: int | None) -> list[int]:
    """Return the planes, the nearest to `around` first; of two as near the later one. None leaves their order."""
    unique = list(dict.fromkeys(planes))
    return unique if around is None else sorted(unique, key=lambda plane: (abs(plane - around), -plane))


def encode_stack(
    stack: object,
    model: Segmenter,
    store: EmbeddingStore,
    *,
    planes: Sequence[int] | None = None,
    around: int | None = None,
    limits: tuple[float, float] | None = None,
    show: Callable[[NDArray[Any]], NDArray[np.uint8]] | None = None,
    field: FieldChoice = "auto",
    centre: tuple[float, float] | None = None,
    windows: int | None = None,
    fields: Sequence[Field] | None = None,
    budget_bytes: int | None = None,
    budget_seconds: float | None = None,
    progress: Callable[[AheadProgress], None] | None = None,
    cancel: CancelToken | None = None,
    gate: Gate | None = None,
) -> Iterator[EncodedPlane]:
    """Encode planes into `store`, and yield a report after each.

    An embedding is found by the pixels of its window, so what is there already is not made again: a walk that was
    killed goes on where it was, and after an edit to one plane only that one is encoded anew. One plane is in memory
    at a time, and embeddings go to the store's disk without pushing out what it holds in memory.

    Parameters
    ----------
    stack : array_like or Planes
        (..., H, W) or (..., H, W, 3), lazily read.
    model : Segmenter
    store : EmbeddingStore
        With a folder, what is encoded outlives the process; without, it is held in memory.
    planes : sequence of int, optional
        Numbers of the planes; left out, all.
    around : int, optional
        Plane to begin with; the others follow outwards. Left out, they come in their order.
    limits : tuple of float, optional
        Pixel values that are black and white, as for :func:`to_uint8`. An embedding is found again only if the plane
        is shown the same way then.
    show : callable, optional
        Brings a plane to uint8 as the screen shows it, in place of `limits`.
    field : "auto", "plane" or int
        Windows to encode: those that first clicks look through, the whole plane, or the grid's of that side in pixels.
    centre : tuple of float, optional
        (row, column) in pixels: windows near it first; left out, the middle of the plane.
    windows : int, optional
        Windows of a plane at most; left out, all.
    fields : sequence of Field, optional
        The windows themselves, in place of `field`.
    budget_bytes : int, optional
        Stop before the embeddings of these planes, those in the store included, take more. Never more than the store
        keeps, or the last planes would throw out the first ones.
    budget_seconds : float, optional
        Stop after so many seconds, pauses not counted.
    progress : callable, optional
        Called with an :class:`AheadProgress` after each window.
    cancel : CancelToken, optional
        Looked at before each window, and while it waits at the gate.
    gate : Gate, optional
        Waited at before each window, so that the walk pauses while the user works.

    Yields
    ------
    EncodedPlane
        A plane that cannot be read or looked at is skipped, and its `fault` says why. The last one may be unfinished
        where a budget ended; it then has fewer embeddings than windows.

    Raises
    ------
    InputError
        If a plane or `field` does not exist.
    WriteError
        If the store's disk has become full or read-only.
    CancelledError
        If `cancel` was raised.
    """
    series = stack if isinstance(stack, Planes) else Planes.of(stack)
    order = outwards(range(len(series)) if planes is None else planes, around)
    for plane in order:
        series.index(plane)  # raises before anything is computed
    if isinstance(field, int) and field < tiling.NARROWEST:
        raise InputError(f"A field of view is at least {tiling.NARROWEST} pixels wide; got {field}.")
    budget = store.capacity if budget_bytes is None else min(budget_bytes, store.capacity)
    walk = _Walk(len(order), budget, budget_seconds, progress, cancel, gate)

    def picture(plane: int) -> NDArray[np.uint8]:
        pixels = series.read(plane)
        check_picture(pixels)
        return to_uint8(pixels, limits) if show is None else show(pixels)

    def choose(view: View) -> list[Field]:
        if fields is None:
            return _windows(view, field, centre)[:windows]
        return [one for one in fields if not is_flat(view.picture[one.slices])][:windows]

    return _planes(order, picture, model, store, choose, walk)


def _planes(
    order: Sequence[int],
    picture: Callable[[int], NDArray[np.uint8]],
    model: Segmenter,
    store: EmbeddingStore,
    choose: Callable[[View], list[Field]],
    walk: _Walk,
) -> Iterator[EncodedPlane]:
    for plane in order:
        walk.wait()
        walk.begin(plane)
        try:
            view = View(model, picture(plane), store)
        except (InputError, InputTypeError, ReadError) as error:
            yield walk.end(str(error))
            continue
        fields = choose(view)
        walk.windows = len(fields)
        for field in fields:
            walk.wait()
            before = view.seconds_encoding
            had_folder = store.folder is not None
            walk.add(view.prepare(field), view.seconds_encoding - before)
            if had_folder and store.folder is None:
                raise WriteError(
                    f"Embeddings cannot be kept on disk any more, at plane {plane}: make room, or set "
                    "ZEROSEG_CACHE_DIR to another folder. Those that are there are used."
                )
            if walk.is_spent:
                break
        yield walk.end()
        if walk.is_spent:
            return


def _windows(view: View, field: FieldChoice, centre: tuple[float, float] | None) -> list[Field]:
    if field == "auto":
        return view.ahead(centre)
    if field == "plane":
        return [tiling.whole(view.shape)]
    row, column = centre if centre is not None else (view.shape[0] / 2, view.shape[1] / 2)
    side = next((side for side in tiling.sides(view.shape) if side >= field), max(view.shape))
    near = [field for field in tiling.tiles(view.shape, side) if not is_flat(view.picture[field.slices])]
    return sorted(near, key=lambda f: abs(f.r0 + f.r1 - 2 * row) + abs(f.c0 + f.c1 - 2 * column))


class _Stopwatch:
    """Seconds of work: it stands still at the gate."""

    def __init__(self) -> None:
        self.total = 0.0
        self._since: float | None = None

    def start(self) -> None:
        self._since = time.perf_counter()

    def stop(self) -> None:
        if self._since is not None:
            self.total += time.perf_counter() - self._since
        self._since = None


class _Walk:
    """Counts what was done, what it took and what is left."""

    def __init__(
        self,
        planes: int,
        budget_bytes: int,
        budget_seconds: float | None,
        progress: Callable[[AheadProgress], None] | None,
        cancel: CancelToken | None,
        gate: Gate | None,
    ) -> None:
        self._planes, self._done = planes, 0
        self._budget_bytes, self._budget_seconds = budget_bytes, budget_seconds
        self._progress, self._cancel, self._gate = progress, cancel, gate
        self._watch = _Stopwatch()
        self._bytes, self._largest = 0, 0  # of all embeddings, and of one
        self._encoded, self._encoding = 0, 0.0  # windows that were encoded, and seconds for them
        self._seen: list[int] = []  # windows of the planes that have some
        self._plane, self._started, self._window, self._new, self._size = -1, 0.0, 0, 0, 0
        self.windows = 0

    def begin(self, plane: int) -> None:
        """Go to the next plane."""
        self._plane, self._started = plane, self._watch.total
        self.windows = self._window = self._new = self._size = 0

    def wait(self) -> None:
        """Wait at the gate; the time there counts for nothing."""
        self._watch.stop()
        while True:
            if self._cancel is not None:
                self._cancel.raise_if_cancelled()
            if self._gate is None or self._gate.wait(_LOOK_AGAIN):
                break
        self._watch.start()

    def add(self, size: int, encoding: float) -> None:
        """Count a window: its bytes, and the seconds for encoding it if it had to be."""
        self._window += 1
        self._size += size
        self._bytes += size
        self._largest = max(self._largest, size)
        if encoding:
            self._new += 1
            self._encoded += 1
            self._encoding += encoding
        if self._progress is not None:
            self._progress(
                AheadProgress(self._plane, self._window, self.windows, self._done, self._planes, self._left())
            )

    @property
    def is_spent(self) -> bool:
        """Whether one window more would be over a budget."""
        self._watch.stop()
        self._watch.start()
        too_long = self._budget_seconds is not None and self._watch.total >= self._budget_seconds
        return too_long or self._bytes + self._largest > self._budget_bytes

    def end(self, fault: str = "") -> EncodedPlane:
        """Return the plane's report."""
        self._watch.stop()
        self._done += 1
        if self.windows:
            self._seen.append(self.windows)
        seconds = self._watch.total - self._started
        left = self._left(ended=True)
        return EncodedPlane(self._plane, self.windows, self._window, self._new, self._size, seconds, left, fault)

    def _left(self, ended: bool = False) -> float | None:
        """Seconds for the rest, as if nothing of it were encoded yet."""
        if not self._encoded:
            return None
        in_work = 0 if ended else 1
        seen = [*self._seen, *[self.windows] * in_work]
        of_a_plane = sum(seen) / len(seen)
        here = (self.windows - self._window) * in_work
        return self._encoding / self._encoded * (here + of_a_plane * (self._planes - self._done - in_work))

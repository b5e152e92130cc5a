"""What the inference thread does for the window: read a plane, load a model, answer marks. No Qt, no napari.

Everything here runs in the one inference thread, so it needs no locks. Nothing here imports torch before a model is
asked for.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import logging
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg import tiling
from napari_zeroseg._napari.marks import Marks, needs_words
from napari_zeroseg._napari.phrase_map import PhraseMap, look_for
from napari_zeroseg.cascade.heat import windows as windows_of_words
from napari_zeroseg.embeddings import EmbeddingStore, default_store
from napari_zeroseg.errors import UnknownModelError
from napari_zeroseg.intensity import to_uint8
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.planes import Planes, check_picture
from napari_zeroseg.prompts import Prompt
from napari_zeroseg.registry import DEFAULT_MODEL, find_model, load_model
from napari_zeroseg.segmenter import Patch, Prediction, Segmenter
from napari_zeroseg.tiling import Field
from napari_zeroseg.view import FieldChoice, View

_log = logging.getLogger(__name__)

K = TypeVar("K")
V = TypeVar("V")

_VIEWS = 4
_MODELS = 4
_LARGE = 1_000_000_000
"""Bytes of memory from which a model counts as large: all but MobileSAM and LiteMedSAM."""
_AHEAD = 10
"""Windows that are encoded ahead at most: all that a plane of 1024 pixels has, the nearest of a larger one."""


@dataclass(frozen=True)
class ModelChoice:
    """A model, and where and how exactly it computes."""

    key: str = DEFAULT_MODEL
    device: str = "auto"
    precision: str = "auto"


@dataclass(frozen=True, eq=False)
class PictureRef:
    """One plane of an image layer as it is on the screen; taken in the window's thread, read in this one.

    Attributes
    ----------
    data : array_like
        The layer's data, finest level; only a reference.
    rgb : bool
        Whether the last axis is colour.
    axes : tuple of int
        Row and column axis.
    index : tuple of int
        Position along every axis.
    limits, gamma, inverted
        How the screen shows pixel values.
    key : tuple
        Equal where the picture is.
    """

    data: Any
    rgb: bool
    axes: tuple[int, int]
    index: tuple[int, ...]
    limits: tuple[float, float]
    gamma: float
    inverted: bool
    key: tuple[object, ...]

    def read(self) -> NDArray[np.uint8]:
        """Read the plane and show it to the model as the screen does.

        Raises
        ------
        InputError, InputTypeError
            If no model can make anything of it.
        """
        planes = Planes(self.data, self.axes, channel_axis=-1 if self.rgb else None)
        plane = planes.read(tuple(self.index[axis] for axis in planes.index_axes))
        check_picture(plane)
        picture = to_uint8(plane, self.limits, self.gamma)
        return 255 - picture if self.inverted else picture


@dataclass(frozen=True, eq=False)
class Request:
    """A question about one plane; frozen, so that nothing in it changes while it waits."""

    generation: int
    picture: PictureRef
    model: ModelChoice
    marks: tuple[Marks, ...]
    field: FieldChoice = "auto"
    templates: tuple[str, ...] = ("{}",)


@dataclass(frozen=True, eq=False)
class Answered:
    """One object of an answer: candidates, best first, each as a patch of the plane."""

    marks: Marks
    patches: tuple[Patch, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Answer:
    """What came of a request.

    Attributes
    ----------
    generation : int
        The request's, by which a stale answer is known.
    objects : tuple of Answered
    seconds : float
        From the start of the work to its end, in the inference thread.
    encoding : float
        The part of it that went into encoding.
    device : str
    phrases : PhraseMap or None
        Where phrases were asked for; `objects` is empty then.
    """

    generation: int
    objects: tuple[Answered, ...]
    seconds: float
    encoding: float
    device: str
    phrases: PhraseMap | None = None


@dataclass(frozen=True)
class Encoded:
    """A window of a plane was encoded ahead, or found in the store (0 seconds); `left` of `total` are missing."""

    seconds: float
    device: str
    left: int
    total: int


@dataclass
class Engine:
    """Models and views that stay at hand between two clicks; shared by all viewers of the process."""

    store: EmbeddingStore = field(default_factory=default_store)
    keeps_several: bool = False
    """Whether several large models may be loaded at once."""
    _models: OrderedDict[ModelChoice, Segmenter] = field(default_factory=OrderedDict)
    _views: OrderedDict[tuple[object, ...], View] = field(default_factory=OrderedDict)
    _ahead: tuple[object, list[Field]] = field(default=(None, []))

    def model(self, choice: ModelChoice) -> Segmenter:
        """Return a model, loaded now if it is not at hand; a large one takes the place of another large one.

        Raises
        ------
        UnknownModelError, WeightsError, DeviceError
            Each with a sentence that says what to do.
        """
        if choice not in self._models:
            _preload_torch()
            self.make_room(choice.key)
            start = time.perf_counter()
            model = load_model(choice.key, device=choice.device, precision=choice.precision)
            _log.info("Loaded %s in %.1f s.", choice.key, time.perf_counter() - start)
            self._models[choice] = model
        self._models.move_to_end(choice)
        while len(self._models) > _MODELS:
            self.unload([next(iter(self._models))])
        return self._models[choice]

    def make_room(self, key: str) -> None:
        """Let go of large models before another large one is loaded, unless the user wants several."""
        if not self.keeps_several and is_large(key):
            self.unload([held for held in self._models if is_large(held.key)])

    def unload(self, choices: Iterable[ModelChoice] | None = None) -> list[str]:
        """Let go of loaded models (all of them if None) and give their memory back; return their keys."""
        gone = [choice for choice in (list(self._models) if choices is None else choices) if choice in self._models]
        for choice in gone:
            del self._models[choice]
        for key in [key for key in self._views if key[1] in gone]:
            del self._views[key]
        self._ahead = (None, [])
        if gone:
            release_memory()
        return [choice.key for choice in gone]

    def forget(self, key: str) -> None:
        """Let go of a model whose files have changed or are gone."""
        self.unload([choice for choice in self._models if choice.key == key])

    def view(self, picture: PictureRef, choice: ModelChoice) -> View:
        """Return the plane as that model sees it."""
        key = (picture.key, choice)
        if key not in self._views:
            self._views[key] = View(self.model(choice), picture.read(), self.store)
        return _kept(self._views, key, _VIEWS)

    def encode_ahead(
        self,
        picture: PictureRef,
        choice: ModelChoice,
        field: FieldChoice,
        centre: tuple[float, float],
        cancel: CancelToken,
    ) -> Encoded:
        """Encode the next of the windows that first clicks near `centre` (row, column) would need; one a call."""
        view = self.view(picture, choice)
        cancel.raise_if_cancelled()
        windows = self._windows(view, (picture.key, choice), field, centre)
        missing = [window for window in windows if not view.is_encoded(window)]
        before = view.seconds_encoding
        if missing:
            view.embedding(missing[0])
        return Encoded(view.seconds_encoding - before, _device(view.model), max(0, len(missing) - 1), len(windows))

    def _windows(self, view: View, seen: object, field: FieldChoice, centre: tuple[float, float]) -> list[Field]:
        if field == "plane":
            return [tiling.whole(view.shape)]
        if needs_words(view.model.spec.accepts):
            return windows_of_words(view.shape, None if field == "auto" else field)[:_AHEAD]
        if isinstance(field, int):
            return [tiling.window_for(view.shape, (*centre, *centre), at_least=field)]
        # Not the view itself: another one may come to lie at the place of one that was let go.
        key = (seen, centre)
        if self._ahead[0] != key:
            self._ahead = (key, view.ahead(centre)[:_AHEAD])
        return self._ahead[1]

    def answer(self, request: Request, cancel: CancelToken) -> Answer:
        """Answer all marks of a request: phrases by a map, clicks that may mean several things by candidates."""
        start = time.perf_counter()
        view = self.view(request.picture, request.model)
        before = view.seconds_encoding
        objects: tuple[Answered, ...] = ()
        phrases = None
        if any(marks.phrase for marks in request.marks):
            phrases = look_for(view, request.marks, request.field, request.templates, cancel)
        else:
            objects = _objects(view, request, cancel)
        encoding = view.seconds_encoding - before
        took = time.perf_counter() - start
        return Answer(request.generation, objects, took, encoding, _device(view.model), phrases)


def _objects(view: View, request: Request, cancel: CancelToken) -> tuple[Answered, ...]:
    prompts = [marks.prompt(view.shape, view.model.spec.accepts) for marks in request.marks]
    predictions: dict[int, Prediction] = {}
    for ambiguous in (True, False):
        members = [i for i, prompt in enumerate(prompts) if prompt.is_ambiguous is ambiguous]
        cancel.raise_if_cancelled()
        if members:
            asked: list[Prompt] = [prompts[i] for i in members]
            found = view.predict(asked, multimask=ambiguous, field=request.field, cancel=cancel)
            predictions.update(zip(members, found, strict=True))
    return tuple(_answered(marks, predictions[i]) for i, marks in enumerate(request.marks))


@cache
def shared_engine() -> Engine:
    """Return the engine of the process, so that two viewers share one copy of a model."""
    return Engine()


def largest_label(data: Any, cancel: CancelToken) -> int:
    """Find the largest label of an array of any kind and size, one slab at a time."""
    largest = 0
    slabs = range(data.shape[0]) if len(data.shape) > 2 else [slice(None)]
    for slab in slabs:
        cancel.raise_if_cancelled()
        largest = max(largest, int(np.max(np.asarray(data[slab]), initial=0)))
    return largest


def compose(patches: list[Patch], top_first: Sequence[int]) -> tuple[int, int, NDArray[np.uint8 | np.uint16]] | None:
    """Lay patches into the smallest array that holds them all, numbered from 1.

    Parameters
    ----------
    patches : list of Patch
    top_first : sequence of int
        Their places in the list, the one that is seen where several meet first.

    Returns
    -------
    (row, column, array) or None
        Where the array's first pixel is on the plane; None if all patches are empty.
    """
    filled = [(i + 1, patches[i]) for i in reversed(top_first) if patches[i][2].any()]
    if not filled:
        return None
    r0 = min(rows.start for _, (rows, _, _) in filled)
    c0 = min(columns.start for _, (_, columns, _) in filled)
    r1 = max(rows.stop for _, (rows, _, _) in filled)
    c1 = max(columns.stop for _, (_, columns, _) in filled)
    together: NDArray[Any] = np.zeros((r1 - r0, c1 - c0), np.uint8 if len(patches) < 256 else np.uint16)
    for number, (rows, columns, mask) in filled:
        window = together[rows.start - r0 : rows.stop - r0, columns.start - c0 : columns.stop - c0]
        window[mask] = number
    return r0, c0, together


def _answered(marks: Marks, prediction: Prediction) -> Answered:
    order = prediction.order
    return Answered(marks, tuple(prediction.patch(k) for k in order), tuple(float(prediction.scores[k]) for k in order))


def is_large(key: str) -> bool:
    """Whether a model takes so much memory that one of its kind is enough at a time."""
    try:
        return find_model(key).memory_bytes >= _LARGE
    except UnknownModelError:
        return False


def release_memory() -> None:
    """Give the memory of what was let go back to the machine and its devices."""
    gc.collect()
    if "torch" in sys.modules:
        import torch

        from napari_zeroseg.devices import release

        for kind, there in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())):
            if there:
                release(torch.device(kind))


def device_names() -> tuple[tuple[str, str], ...]:
    """Return what there is besides the CPU as (device, description); imports torch, so in the inference thread only."""
    import torch

    from napari_zeroseg.devices import OPENVINO, has_openvino

    found = []
    for i in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(i)
        found.append((f"cuda:{i}", f"{about.name}, {about.total_memory / 1e9:.0f} GB"))
    if torch.backends.mps.is_available():
        found.append(("mps", "Apple's GPU"))
    if has_openvino():
        found.append((OPENVINO, "The processor, through OpenVINO"))
    return tuple(found)


def _device(model: Segmenter) -> str:
    return str(getattr(model, "device", "")) or "cpu"


def _kept(held: OrderedDict[K, V], key: K, limit: int) -> V:
    """Mark as newest and let the oldest go."""
    held.move_to_end(key)
    while len(held) > limit:
        held.popitem(last=False)
    return held[key]


def _preload_torch() -> None:
    """Map torch's libraries without holding Python's lock, which its import would hold for a fifth of a second.

    That is how long the window would stand still. A foreign call releases the lock; Windows' torch does so itself.
    """
    if "torch" in sys.modules or sys.platform == "win32":
        return
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return
    ending = "dylib" if sys.platform == "darwin" else "so"
    dlopen = ctypes.CDLL(None).dlopen
    dlopen.restype, dlopen.argtypes = ctypes.c_void_p, (ctypes.c_char_p, ctypes.c_int)
    for name in ("c10", "torch_cpu", "torch", "torch_python"):
        # A library that cannot be mapped here is left to the import, which says what is wrong.
        dlopen(os.fsencode(Path(found.origin).parent / "lib" / f"lib{name}.{ending}"), os.RTLD_LAZY)

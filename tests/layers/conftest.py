"""A viewer without a window, a bridge that the test pumps by hand, and a small model that needs no torch."""

from __future__ import annotations

import importlib
import queue as queues
import time
from dataclasses import dataclass

import numpy as np
import pytest
from napari.components import ViewerModel
from skimage.segmentation import flood

from napari_zeroseg._napari.engine import Engine
from napari_zeroseg._napari.session import Session
from napari_zeroseg.embeddings import EmbeddingStore
from napari_zeroseg.errors import WeightsError
from napari_zeroseg.jobs import InferenceQueue
from napari_zeroseg.prompts import PromptKind
from napari_zeroseg.registry import ModelSpec
from napari_zeroseg.segmenter import Embedding, Prediction
from napari_zeroseg.tiling import whole
from napari_zeroseg.weights import WeightsSource

SPEC = ModelSpec(
    "flood", "Flood", "Test", "BSD-3-Clause", frozenset(PromptKind) - {PromptKind.TEXT}, WeightsSource("", "", 0), ""
)


class Pixels:
    """Logits that already have the picture's resolution."""

    def patch(self, logits):
        rows, columns = np.nonzero(logits > 0)
        if not len(rows):
            return slice(0, 0), slice(0, 0), np.zeros((0, 0), bool)
        r, c = slice(int(rows.min()), int(rows.max()) + 1), slice(int(columns.min()), int(columns.max()) + 1)
        return r, c, logits[r, c] > 0


@dataclass
class FloodModel:
    """Fills from positive points, stops at other grey values and takes away what negative points fill."""

    spec: ModelSpec = SPEC
    model_key: str = "flood-1"
    device: str = "cpu"
    encoded: int = 0
    asked: int = 0
    slowness: float = 0.0

    def encode(self, image):
        self.encoded += 1
        return Embedding({"image": image}, image.shape[:2], self.model_key, whole(image.shape[:2]))

    def predict(self, embedding, prompts, multimask=False):
        self.asked += 1
        time.sleep(self.slowness)
        picture = np.asarray(embedding.tensors["image"], float)
        picture = picture.mean(2) if picture.ndim == 3 else picture
        return [self._one(picture, prompt, (10, 60, 255) if multimask else (10,)) for prompt in prompts]

    def _one(self, picture, prompt, tolerances):
        found = np.zeros((len(tolerances), *picture.shape), bool)
        for k, tolerance in enumerate(tolerances):
            for point, label in zip(prompt.points, prompt.labels, strict=True):
                place = tuple(np.clip(np.rint(point).astype(int), 0, np.array(picture.shape) - 1))
                filled = flood(picture, place, tolerance=tolerance)
                found[k] = found[k] | filled if label else found[k] & ~filled
            if prompt.box is not None and not len(prompt.points):
                r0, c0, r1, c1 = np.rint(prompt.box).astype(int)
                found[k, max(r0, 0) : r1 + 1, max(c0, 0) : c1 + 1] = True
            if prompt.mask is not None:
                found[k] |= prompt.mask
        scores = np.linspace(0.9, 0.5, len(tolerances)).astype(np.float32)
        return Prediction(scores, found.astype(np.float32), Pixels(), picture.shape, whole(picture.shape))


class FloodEngine(Engine):
    """The engine with that model under every name but "broken"."""

    def __init__(self):
        super().__init__(store=EmbeddingStore())
        self.loaded = FloodModel()

    def model(self, choice):
        if choice.device == "cuda":
            raise WeightsError("The weights are damaged: download them again.")
        return self.loaded


class ToyEngine(Engine):
    """The engine with the toys, loaded without reading weights that they do not have."""

    def __init__(self):
        super().__init__(store=EmbeddingStore())
        self.toys = {}

    def model(self, choice):
        if choice.key == "mobile_sam":
            raise WeightsError("The weights are damaged: download them again.")
        if choice.key not in self.toys:
            module = importlib.import_module("zeroseg_toys")
            spec = {spec.key: spec for spec in (module.WORDS, module.FLOOD, module.BOXES)}[choice.key]
            self.toys[choice.key] = getattr(module, spec.factory.partition(":")[2])(spec, None, "cpu", None)
        return self.toys[choice.key]


class HandBridge:
    """Holds calls until the test lets them happen."""

    def __init__(self):
        self.posted: queues.Queue = queues.Queue()
        self.waiting: dict[str, object] = {}
        self.errors: list[Exception] = []
        self.closed = False

    def post(self, call):
        self.posted.put(call)

    def later(self, name, seconds, call):
        self.waiting[name] = call

    def report(self, error):
        self.errors.append(error)

    def close(self):
        self.closed = True
        self.waiting.clear()

    def turn(self):
        """One turn of an event loop: everything that is due, at once."""
        due, self.waiting = self.waiting, {}
        for call in due.values():
            call()
        while not self.posted.empty():
            self.posted.get()()


@dataclass
class Desk:
    """A session and what is around it."""

    viewer: ViewerModel
    bridge: HandBridge
    queue: InferenceQueue
    engine: FloodEngine
    session: Session

    @property
    def workspace(self):
        return self.session.workspace

    def settle(self, timeout=10.0):
        """Let everything happen that is under way."""
        end = time.monotonic() + timeout
        while self.bridge.waiting or not self.queue.is_idle or not self.bridge.posted.empty():
            assert time.monotonic() < end, "it does not come to rest"
            self.bridge.turn()
            time.sleep(0.001)

    def open(self, data, **options):
        """Add an image, begin, and come to rest."""
        image = self.viewer.add_image(data, **options)
        self.workspace.choose_image(image)
        self.session.begin("points")
        self.settle()
        return image

    def click(self, *position):
        self.workspace.points.add(np.array(position, float))
        self.settle()

    def shown(self):
        """The preview's layer as (world corner, masks)."""
        layer = self.session.preview.layer
        return None if layer is None or not layer.visible else (np.array(layer.data_to_world([0] * layer.ndim)), layer)


@pytest.fixture
def make_desk():
    desks = []

    def make(viewer=None, queue=None, engine=None):
        bridge, queue, engine = HandBridge(), queue or InferenceQueue(), engine or FloodEngine()
        viewer = ViewerModel() if viewer is None else viewer
        desk = Desk(viewer, bridge, queue, engine, Session(viewer, bridge, queue, engine))
        desks.append(desk)
        return desk

    yield make
    for desk in desks:
        desk.session.close()
        desk.queue.close(5)
        assert desk.bridge.posted.empty() or desk.bridge.closed


@pytest.fixture
def desk(make_desk):
    return make_desk()


def draw_squares(planes=3, size=64):
    """Two squares a plane, at rows 8-23: grey 100 at columns 8-23, 200 at columns 40-55; ground 20."""
    stack = np.full((planes, size, size), 20, np.uint8)
    stack[:, 8:24, 8:24] = 100
    stack[:, 8:24, 40:56] = 200
    stack[:, 0, 0] = 255
    return stack


@pytest.fixture
def squares():
    return draw_squares()


@pytest.fixture
def toy_desk(toys, make_desk, squares):
    """A session with the toys on the first plane of the image with two squares."""
    desk = make_desk(engine=ToyEngine())
    desk.session.models.zoo.look()
    desk.settle()
    desk.workspace.choose_image(desk.viewer.add_image(squares))
    desk.viewer.dims.set_current_step(0, 0)
    desk.settle()
    return desk

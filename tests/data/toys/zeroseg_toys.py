"""Models of another package, small and quick: words for grey values, a flood fill, and one to be downloaded."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from skimage.segmentation import flood

from napari_zeroseg.catalogue import MOBILE_SAM, ModelSpec
from napari_zeroseg.models.probability_frame import ProbabilityFrame
from napari_zeroseg.prompts import PromptKind
from napari_zeroseg.segmenter import Embedding, Prediction
from napari_zeroseg.tiling import whole
from napari_zeroseg.weights import WeightsSource


def _spec(key: str, title: str, *accepts: PromptKind, **more: object) -> ModelSpec:
    bare = replace(MOBILE_SAM, key=key, title=title, family="Toys", accepts=frozenset(accepts), memory_bytes=0)
    return replace(bare, factory=f"zeroseg_toys:build_{key}", description=f"{title}, for tests.", **more)


WORDS = _spec("toy_words", "Grey words", PromptKind.TEXT, PromptKind.BOX)
FLOOD = _spec("toy_flood", "Flood", PromptKind.POINTS, PromptKind.BOX)
BOXES = _spec("toy_boxes", "Box filler", PromptKind.BOX)
AFAR = _spec(
    "toy_afar",
    "Flood from afar",
    PromptKind.POINTS,
    weights=WeightsSource("https://models.example.org/toy_afar.safetensors", "", 0),
    licence="CC-BY-4.0",
    licence_note="Its authors ask to be cited.",
    about_bytes=1_200_000,
)
HERE = _spec("toy_brought", "Flood to be brought", PromptKind.POINTS, weights=WeightsSource("bring:flood.safetensors"))


class Toy:
    """What the toys share: the picture is its own embedding."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec, self.model_key, self.device = spec, f"{spec.key}-1", "cpu"
        self.encoded = self.asked = 0

    def encode(self, image):
        self.encoded += 1
        picture = np.asarray(image)
        return Embedding({"image": picture}, picture.shape[:2], self.model_key, whole(picture.shape[:2]))

    def predict(self, embedding, prompts, multimask=False):
        self.asked += 1
        picture = np.asarray(embedding.tensors["image"], np.float32)
        picture = picture.mean(2) if picture.ndim == 3 else picture
        return [self._one(picture, prompt) for prompt in prompts]


class Words(Toy):
    """The word "bright" is as probable as a pixel is bright, "dark" as it is dark, all others one per cent."""

    def _one(self, picture, prompt):
        probable = {"bright": picture / 255, "dark": 1 - picture / 255}.get(prompt.text, np.full_like(picture, 0.01))
        logits = np.log(np.clip(probable, 1e-6, 1 - 1e-6) / (1 - np.clip(probable, 1e-6, 1 - 1e-6)))
        box = None if prompt.box is None else tuple(float(side) for side in prompt.box)
        frame = ProbabilityFrame(picture.shape, box)
        scores = np.array([frame.score(logits)], np.float32)
        return Prediction(scores, logits[None].astype(np.float32), frame, picture.shape, whole(picture.shape))


@dataclass(frozen=True)
class Pixels:
    """Logits that already have the picture's resolution."""

    def patch(self, logits):
        rows, columns = np.nonzero(logits > 0)
        if not len(rows):
            return slice(0, 0), slice(0, 0), np.zeros((0, 0), bool)
        r, c = slice(int(rows.min()), int(rows.max()) + 1), slice(int(columns.min()), int(columns.max()) + 1)
        return r, c, logits[r, c] > 0


class Flood(Toy):
    """Fills from points, and boxes as they are."""

    def _one(self, picture, prompt):
        found = np.zeros(picture.shape, bool)
        if prompt.box is not None:
            r0, c0, r1, c1 = np.clip(np.rint(prompt.box).astype(int), 0, None)
            found[r0 : r1 + 1, c0 : c1 + 1] = True
        for point, label in zip(prompt.points, prompt.labels, strict=True):
            filled = flood(picture, tuple(np.rint(point).astype(int)), tolerance=10)
            found = found | filled if label else found & ~filled
        logits = found.astype(np.float32)[None]
        return Prediction(np.array([0.75], np.float32), logits, Pixels(), picture.shape, whole(picture.shape))


def build_toy_words(spec, weights, device, dtype):
    return Words(spec)


def build_toy_flood(spec, weights, device, dtype):
    return Flood(spec)


build_toy_boxes = build_toy_afar = build_toy_brought = build_toy_flood

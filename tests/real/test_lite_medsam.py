"""LiteMedSAM's published weights on radiographs: the numbers of the published code, and lungs in their boxes."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from skimage.io import imread

from napari_zeroseg import Prompt, Segmenter, load_model

pytestmark = pytest.mark.real

with (Path(__file__).parents[1] / "data" / "lite_medsam_radiographs.csv").open(encoding="utf-8", newline="") as _file:
    PUBLISHED = [
        (
            line["picture"],
            tuple(int(line[name]) for name in ("r0", "c0", "r1", "c1")),
            int(line["step"]),
            float(line["predicted_iou"]),
            int(line["pixels"]),
        )
        for line in csv.DictReader(_file)
    ]
    """Picture, tight box of a lung, every how many-th pixel is taken; predicted IoU and pixels of the mask."""


@pytest.fixture(scope="module")
def model(shared: Path) -> Segmenter:
    return load_model("lite_medsam", weights=shared / "weights" / "lite_medsam.pth", device="cpu")


def _radiograph(shared: Path, name: str, step: int = 1) -> np.ndarray:
    picture = imread(shared / "data" / "cxr" / "images" / f"{name}.png")
    return np.ascontiguousarray((picture if picture.ndim == 2 else picture[..., 0])[::step, ::step])


@pytest.mark.parametrize(("name", "box", "step", "score", "pixels"), PUBLISHED)
def test_numbers_of_the_published_code(shared, model, name, box, step, score, pixels):
    (answer,) = model.predict(model.encode(_radiograph(shared, name, step)), [Prompt(box=box)])
    assert answer.scores[0] == pytest.approx(score, abs=1e-3)
    assert answer.mask.sum() == pytest.approx(pixels, rel=1e-3)


def test_contrast_decides_on_a_flat_radiograph(shared, model):
    """A burnt-in mark is its only white: lungs are found once that is beyond the contrast limits."""
    picture, (rows, columns) = _radiograph(shared, "1676410"), (slice(74, 634), slice(82, 466))
    truth = imread(shared / "data" / "cxr" / "lungs" / "1676410.png") == 255
    inside = np.zeros_like(truth)
    inside[rows, columns] = truth[rows, columns]
    low, high = np.percentile(picture[picture > 0], (0.5, 99.5))
    stretched = np.clip((picture - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    dice = []
    for seen in (picture, stretched):
        (answer,) = model.predict(model.encode(seen), [Prompt(box=(74, 82, 633, 465))])
        dice.append(2 * (answer.mask & inside).sum() / (answer.mask.sum() + inside.sum()))
    assert dice[0] < 0.5
    assert dice[1] > 0.9

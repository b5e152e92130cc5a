"""Segment everything on real pictures, against the same search done slowly: each click alone, at full resolution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from scipy import ndimage
from skimage.io import imread
from torch.nn import functional as F

from napari_zeroseg import AutomaticOptions, Prompt, load_model, segment_everything
from napari_zeroseg.metrics import iou

pytestmark = pytest.mark.real

PER_SIDE = 8
SAME = 0.9


@pytest.fixture(scope="module")
def pictures(shared: Path) -> dict[str, np.ndarray]:
    em = tifffile.imread(shared / "data" / "em_vnc" / "raw.tif", key=8)
    radiograph = imread(sorted((shared / "data" / "cxr" / "images").glob("*.png"))[0])
    return {"em": em[256:768, :512], "radiograph": radiograph[100:900, :700]}


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(mask)
    return rows.min(), columns.min(), rows.max(), columns.max()


def _box_iou(a, b) -> float:
    area = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared / (area[0] + area[1] - shared) if shared else 0.0


def _at_full_resolution(logits: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Logits as the published code brings them to the picture: to 1024, without the padding, to the picture."""
    scale = 1024 / max(shape)
    inner = [int(length * scale + 0.5) for length in shape]
    large = F.interpolate(torch.from_numpy(logits)[None, None], (1024, 1024), mode="bilinear", align_corners=False)
    large = F.interpolate(large[..., : inner[0], : inner[1]], shape, mode="bilinear", align_corners=False)
    return large[0, 0].numpy()


def _slowly(model, picture: np.ndarray, options: AutomaticOptions) -> list[np.ndarray]:
    embedding = model.encode(picture)
    found = []
    for i in range(PER_SIDE):
        for j in range(PER_SIDE):
            point = ((i + 0.5) / PER_SIDE * picture.shape[0], (j + 0.5) / PER_SIDE * picture.shape[1])
            (answer,) = model.predict(embedding, [Prompt([point])], multimask=True)
            for score, logits in zip(answer.scores, answer.logits, strict=True):
                if score <= options.pred_iou_thresh:
                    continue
                full = _at_full_resolution(logits, picture.shape[:2])
                stability = np.count_nonzero(full > 1) / max(1, np.count_nonzero(full > -1))
                if stability >= options.stability_score_thresh and (full > 0).any():
                    found.append((float(score), full > 0))
    found.sort(key=lambda one: -one[0])
    kept: list[np.ndarray] = []
    for _, mask in found:
        if all(_box_iou(_box(mask), _box(other)) <= options.box_nms_thresh for other in kept):
            kept.append(mask)
    return kept


def _full(found, shape) -> np.ndarray:
    mask = np.zeros(shape, bool)
    rows, columns, inside = found.patch
    mask[rows, columns] = inside
    return mask


@pytest.mark.slow
@pytest.mark.parametrize("name", ["em", "radiograph"])
def test_the_masks_are_those_of_the_slow_search(pictures, name):
    """In float32: thresholds are crossed either way by masks that lie on them where both sides round differently."""
    picture = pictures[name]
    model = load_model(precision="float32", device="cpu")
    # of few clicks few masks are stable: a lower bar leaves enough to compare
    options = AutomaticOptions(points_per_side=PER_SIDE, pred_iou_thresh=0.8, stability_score_thresh=0.9)
    ours = segment_everything(model, picture, options)
    masks = [_full(found, picture.shape[:2]) for found in ours]
    theirs = _slowly(model, picture, options)
    assert len(theirs) >= 4
    for ones, others in ((theirs, masks), (masks, theirs)):
        best = [max(iou(one, other) for other in others) for one in ones]
        assert np.mean([value >= SAME for value in best]) >= 0.95, np.sort(best)[:5]
    for found, mask in zip(ours, masks, strict=True):
        assert found.area == np.count_nonzero(mask)
        assert found.box == _box(mask)


@pytest.mark.slow
def test_small_objects_of_a_large_plane_are_not_lost(shared):
    """Windows against the whole plane squeezed four times, with as many clicks."""
    chosen = (0, 3, 5, 8, 10, 12, 15, 18)
    raw = tifffile.imread(shared / "data" / "em_vnc" / "raw.tif", key=chosen)
    truth = tifffile.imread(shared / "data" / "em_vnc" / "mitochondria.tif", key=chosen) > 0
    plane = np.concatenate(raw[:, :512, :512], 1)
    objects, count = ndimage.label(np.concatenate(truth[:, :512, :512], 1))
    model = load_model(device="cpu")
    thresholds = {"pred_iou_thresh": 0.8, "stability_score_thresh": 0.9}
    grid = [((row + 0.5) / 7, (column + 0.5) / 56) for row in range(7) for column in range(56)]
    ways = {
        "windows": AutomaticOptions(points_per_side=12, **thresholds),
        "whole": AutomaticOptions(points_per_side=None, point_grids=[grid], **thresholds),
    }
    means = {}
    for name, options in ways.items():
        found = segment_everything(model, plane, options)
        sizes = [np.count_nonzero(objects == number) for number in range(1, count + 1)]
        best = [
            max(_iou(mask, objects == number, size) for mask in found)
            for number, size in enumerate(sizes, 1)
            if size >= 300
        ]
        assert len(best) > 30
        means[name] = np.mean(best)
    assert means["windows"] > means["whole"] + 0.1, means


def _iou(found, truth: np.ndarray, size: int) -> float:
    rows, columns, mask = found.patch
    shared = np.count_nonzero(truth[rows, columns] & mask)
    return shared / (found.area + size - shared)

"""What is asked of a model on held-back objects is what a user would ask, a correction included."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

import napari_zeroseg as zs
from napari_zeroseg._napari.train_watch import RunWatch
from napari_zeroseg.cli_train import _SENTENCES
from napari_zeroseg.embeddings import EmbeddingStore
from napari_zeroseg.prompts import PromptKind
from napari_zeroseg.training import fitting
from napari_zeroseg.training.config import TrainingConfig
from napari_zeroseg.training.data import TrainingData
from napari_zeroseg.training.folder import RunFolder
from napari_zeroseg.training.run import train
from napari_zeroseg.training.validation import MaskJudge, kinds_to_score, score_masks
from napari_zeroseg.weights.cards import model_folder

pytestmark = pytest.mark.usefixtures("kept_cache", "no_dry_steps")

Short = Callable[..., TrainingConfig]


def _iou(drawn: np.ndarray, true: np.ndarray) -> float:
    return float((drawn & true).sum() / (drawn | true).sum())


def _deepest(mask: np.ndarray) -> tuple[int, int]:
    """Pixel of the mask that is farthest from its border."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    return int(row), int(column)


@pytest.mark.parametrize("ignored", [False, True])
def test_a_correction_is_a_second_click_where_the_first_answer_is_most_wrong(
    short: Short, stack: tuple[np.ndarray, np.ndarray], ignored: bool
) -> None:
    """Two calls of the public API per object give the same figures to the bit."""
    raw, truth = stack[0][4], stack[1][4].copy()
    # of every other object only the middle was labelled, so that answers to a click draw too much
    truth[(truth % 2 == 0) & ~ndimage.binary_erosion(truth > 0, iterations=3)] = 0
    if ignored:
        truth[:, :64] = 99
        truth[::3, 64:] = np.where(truth[::3, 64:] > 0, truth[::3, 64:], 99)
    data = TrainingData(short(pairs=((raw[None], truth[None]),), ignore=99))
    model = zs.load_model(device="cpu", precision="float32")
    store = EmbeddingStore()
    kinds = ["centre", "box", "correction"]
    scores = score_masks(model, data, data.objects, kinds, store, 0, (0.0, 0.0))
    assert list(scores) == kinds
    alone = score_masks(model, data, data.objects, ["correction"], store, 0, (0.0, 0.0))
    np.testing.assert_array_equal(alone["correction"].iou, scores["correction"].iou)
    view, counts, signs = zs.View(model, data.read(0)[0], store), truth != 99, set()
    for i, one in enumerate(data.objects):
        true = truth == one.label
        first = _deepest(true)
        (seen,) = view.predict([zs.Prompt([first])], multimask=None)
        assert scores["centre"].iou[i] == pytest.approx(_iou(seen.mask & counts, true), abs=1e-12)
        parts, _ = ndimage.label(true != (seen.mask & counts))
        second = _deepest(parts == np.bincount(parts.ravel())[1:].argmax() + 1)
        signs.add(bool(true[second]))
        (answer,) = view.predict([zs.Prompt([first, second], [True, true[second]])], multimask=None)
        assert scores["correction"].iou[i] == pytest.approx(_iou(answer.mask & counts, true), abs=1e-12)
    assert signs == {True, False}  # both ways of being wrong were there


@pytest.mark.slow
def test_blocks_held_back_in_turn_are_shown_as_they_learn(
    short: Short, stack: tuple[np.ndarray, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has a curve and previews of its own; the figures are those at their ends, as without."""
    monkeypatch.setattr(fitting, "_FEWEST_BETWEEN", 1)
    watch = RunWatch(RunFolder(tmp_path / "run"))
    shown: list[tuple[str, int, bool, bool]] = []
    told: list[dict[str, Any]] = []

    def listen(event: dict[str, Any]) -> None:
        told.append(event)
        watch.look()
        if event["event"] in ("baseline", "validation"):
            curve = watch.scores.get("iou", {}).get("centre", [])
            shown.append((watch.held_back, len(curve), "centre" in watch.bases["iou"], bool(watch.picture)))

    pairs = ((stack[0][:3], stack[1][:3]),)
    trained = train(short(pairs=pairs, batch=4, gap=0, name="mine"), out=tmp_path / "run", listener=listen)
    blocks = [f"block {number} of 3" for number in (1, 2, 3)]
    assert shown == [(block, count, True, count > 0) for block in blocks for count in range(4)]
    assert watch.figures.startswith("Block 3 of 3, held back from a training of its own:\none click in its middle: IoU")
    ends = [event for event in told if event["event"] == "validation" and event["step"] == 3]
    assert [event["held_back"] for event in ends] == blocks
    for kind, entry in trained.card["masks"].items():
        assert entry["iou_after"] == pytest.approx(np.mean([event[f"iou_{kind}"] for event in ends]), abs=1e-5)
    tables = sorted((tmp_path / "run").glob("metrics*.csv"))
    assert [path.name for path in tables] == [f"metrics_block{number}.csv" for number in (1, 2, 3)]
    with tables[1].open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    assert float(rows[2]["iou_centre"]) == pytest.approx(ends[1]["iou_centre"], abs=1e-5)
    previews = sorted(path.name for path in (tmp_path / "run" / "previews").iterdir())
    assert previews == [f"block{number}_step00000{step}.png" for number in (1, 2, 3) for step in (1, 2)]
    assert trained.card["curve"] == []  # of the model itself, from which nothing is held back
    assert [block["held_back"] for block in trained.card["blocks"]] == blocks
    for block, table in zip(trained.card["blocks"], tables, strict=True):
        assert [row["step"] for row in block["curve"]] == [1, 2, 3]
        assert block["curve"][2]["iou_centre"] == pytest.approx(ends[tables.index(table)]["iou_centre"], abs=1e-5)
    kept = [*(path.name for path in tables), *(f"block{number}_step000002.png" for number in (1, 2, 3))]
    assert trained.card["files"] == sorted(kept)
    assert all((model_folder("mine") / name).is_file() for name in kept)
    assert _SENTENCES["validation"](ends[1]).startswith("Step 3, block 2 of 3 held back: IoU")


def test_corrections_are_judged_where_they_are_trained_and_taken() -> None:
    clicks, boxes = frozenset({PromptKind.POINTS, PromptKind.BOX}), frozenset({PromptKind.BOX})
    prompts = ["correction", "loose_box", "centre"]
    assert kinds_to_score(prompts, clicks, False) == ["centre", "box", "correction"]
    assert kinds_to_score(prompts, clicks, True) == ["centre", "box", "correction", "loose_box"]
    assert kinds_to_score(["box"], clicks, True) == ["centre", "box"]
    assert kinds_to_score(prompts, boxes, True) == ["box", "loose_box"]


def test_kinds_of_weight_0_are_not_trained_and_not_judged(short: Short) -> None:
    config = short(prompts={"box": 1, "correction": 0, "point": 0})
    data, model = TrainingData(config), zs.load_model(device="cpu", precision="float32")
    judge = MaskJudge(config, data)
    for all_kinds in (False, True):
        assert list(judge.score(model, data.objects[:1], all_kinds, EmbeddingStore(), lambda: None)) == [
            "centre",
            "box",
        ]


@pytest.mark.slow
def test_a_run_tells_of_corrections_everywhere(short: Short, tmp_path: Path) -> None:
    trained = train(short(prompts={"box": 1, "correction": 1}, batch=12, validation_objects=2), out=tmp_path / "run")
    assert list(trained.card["masks"]) == ["centre", "box", "correction"]
    folder = RunFolder(tmp_path / "run")
    with folder.metrics.open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert 0 < float(row["iou_correction"]) <= 1
    assert 0 < float(row["base_iou_correction"]) <= 1
    watch = RunWatch(folder)
    watch.look()
    assert f"click and correction: IoU {float(row['iou_correction']):.3f} (base" in watch.figures
    assert "| click and correction | 4 |" in zs.training.card.as_text(trained.card)

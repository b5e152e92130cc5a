"""The figures of a run: intervals, which planes count, and those of a block that are kept on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_zeroseg.errors import WriteError
from napari_zeroseg.training.config import TrainingConfig
from napari_zeroseg.training.data import TrainingData
from napari_zeroseg.training.figures import Figures, figures_of, keep_figures, kept_figures
from napari_zeroseg.training.sections import sections_of
from napari_zeroseg.training.validation import ClassCounts, MaskScores, compared, interval, pooled_interval, some_planes


def _figures(seed: int) -> Figures:
    rng = np.random.default_rng(seed)
    before, after = ({"box": MaskScores(rng.random(3), rng.random(3))} for _ in range(2))
    return Figures(before, after, [ClassCounts(seed + 1, 9, 8, 40), ClassCounts(0, 5, 0, 40)])


def test_figures_of_a_block_come_back_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, made_of = tmp_path / "block1.json", {"steps": 3, "held": [1, 2]}
    assert kept_figures(path, made_of) is None
    keep_figures(path, made_of, _figures(0))
    kept = kept_figures(path, made_of)
    assert kept is not None
    assert figures_of([kept, _figures(1)]) == figures_of([_figures(0), _figures(1)])
    assert kept_figures(path, {**made_of, "steps": 4}) is None

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(WriteError, match="make room"):
            keep_figures(path, made_of, _figures(2))
    assert kept_figures(path, made_of) is not None
    assert [one.name for one in tmp_path.iterdir()] == ["block1.json"]
    path.write_text(path.read_text()[:50])
    assert kept_figures(path, made_of) is None


def test_the_class_has_an_interval_over_planes() -> None:
    counts = [ClassCounts(*one, 200) for one in ((80, 90, 95), (10, 40, 30), (60, 70, 60), (0, 20, 0))]
    low, high = pooled_interval(counts)
    _, found = figures_of([Figures(found=counts)])
    assert found is not None
    assert found["planes"] == 4
    assert found["guess"] == (95 + 30 + 60) / 800
    assert 0 < low < found["iou"] < high < 1
    assert found["iou_interval"] == [low, high]
    assert pooled_interval(counts[:1]) == (0.0, 1.0)


def test_planes_to_judge_the_class_by_are_spread_and_never_all_empty() -> None:
    assert some_planes(range(4), {1}, 6) == [0, 1, 2, 3]
    assert some_planes(range(0, 22, 2), set(range(22)), 6) == [0, 4, 8, 12, 16, 20]
    chosen = some_planes(range(60), {30, 31}, 6)
    assert len(chosen) == 6
    assert {30, 31} & set(chosen)
    assert max(chosen) == 59


def test_sections_of_one_object_are_drawn_together() -> None:
    """Ten sections of each object say no more of others than one does."""
    rng = np.random.default_rng(0)
    objects = rng.normal(0.1, 0.2, 12)
    once = interval(objects)
    groups = np.repeat(np.arange(12), 10)
    assert interval(np.repeat(objects, 10), groups=groups) == pytest.approx(once)
    low, high = interval(np.repeat(objects, 10))
    assert high - low < 0.5 * (once[1] - once[0])
    one = MaskScores(np.full(10, 0.5), np.full(10, 0.6), np.zeros(10, np.int64))
    other = MaskScores(np.full(10, 0.7), np.full(10, 0.8), np.zeros(10, np.int64))
    figures = compared(one, other)
    assert (figures["objects"], figures["independent"]) == (10, 1)
    assert figures["gain_interval"] == [-1.0, 1.0]


def test_sections_are_found_by_what_lies_over_each_other() -> None:
    labels = np.zeros((4, 64, 64), np.int32)
    labels[:, 4:14, 4:14] = 1  # on all planes
    labels[:2, 30:40, 30:40] = 2
    labels[2:, 30:40, 44:54] = 2  # the same class somewhere else
    labels[3, 50:60, 4:14] = 1
    picture = (np.arange(labels.size) % 251).astype(np.uint8).reshape(labels.shape)
    for labels_are, expected in (("classes", 4), ("instances", 3)):
        config = TrainingConfig("a", ((picture, labels),), labels_are=labels_are)
        data = TrainingData(config)
        groups = sections_of(data, data.objects)
        assert len(np.unique(groups)) == expected
        whole = [groups[i] for i, one in enumerate(data.objects) if one.box[:2] == (4, 4)]
        assert len(set(whole)) == 1
    apart = TrainingData(TrainingConfig("a", ((picture[::2], labels[::2]), (picture[1::2], labels[1::2]))))
    assert len(np.unique(sections_of(apart, apart.objects))) > 4

"""The figures of a run: intervals, which planes count, and those of a block that are kept on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_zeroseg.errors import WriteError
from napari_zeroseg.metrics import Counts
from napari_zeroseg.training.figures import Figures, figures_of, keep_figures, kept_figures
from napari_zeroseg.training.validation import MaskScores, pooled_interval, some_planes


def _figures(seed: int) -> Figures:
    rng = np.random.default_rng(seed)
    before, after = ({"box": MaskScores(rng.random(3), rng.random(3))} for _ in range(2))
    return Figures(before, after, [Counts(seed + 1, 9, 8), Counts(0, 5, 0)])


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
    counts = [Counts(80, 90, 95), Counts(10, 40, 30), Counts(60, 70, 60), Counts(0, 20, 0)]
    low, high = pooled_interval(counts)
    _, found = figures_of([Figures(found=counts)])
    assert found is not None
    assert found["planes"] == 4
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

"""All objects of a learnt class: clicks on its map, masks with its certainty, the queue that answers teach; CLI."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

import napari_zeroseg as zs
from napari_zeroseg.cascade import SimilarOptions
from napari_zeroseg.cascade.features import Descriptor, Surroundings
from napari_zeroseg.cascade.search import Candidate
from napari_zeroseg.cli import main
from napari_zeroseg.errors import InputError
from napari_zeroseg.training import class_search
from napari_zeroseg.training.classes import ClassHead, ClassMap, ClassSegmenter
from napari_zeroseg.training.config import TrainingConfig
from napari_zeroseg.training.run import train

pytestmark = pytest.mark.usefixtures("kept_cache", "no_dry_steps")

OPTIONS = SimilarOptions(least_certainty=0.2)


def test_clicks_are_on_the_rises_of_the_map() -> None:
    rows, columns = np.mgrid[:200, :300]
    far = np.minimum(np.hypot(rows - 50, columns - 60), np.hypot(rows - 150, columns - 220))
    probability = np.exp(-((far / 15) ** 2)).astype(np.float32)
    places = sorted(tuple(one.points[0]) for one in class_search.clicks_on(probability, 8.0, 500))
    assert np.allclose(places, [(50, 60), (150, 220)], atol=2)
    assert not class_search.clicks_on(np.full((64, 64), 0.05, np.float32), 8.0, 500)
    assert len(class_search.clicks_on(np.random.default_rng(0).random((256, 256), np.float32), 2.0, 500)) <= 33


class Told(ClassSegmenter):
    """A segmenter of a class that knows the truth of the plane: what the network would say if it had learnt all."""

    def __init__(self, truth: np.ndarray) -> None:
        super().__init__(ClassHead(), 0)
        object.__setattr__(self, "truth", truth)

    def segment(self, model, view, told=None):  # type: ignore[no-untyped-def]
        """Give the truth as a map."""
        if told is not None:
            told(1, 1)
        truth = self.truth * (view.picture.max() > view.picture.min())
        return ClassMap(np.where(truth > 0, 0.95, 0.02).astype(np.float32), truth)


@pytest.fixture
def queue(stack: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> zs.cascade.Queue:
    """Proposals on a plane of which the map is perfect."""
    raw, truth = stack
    monkeypatch.setattr(class_search, "learnt_class", lambda _: Told(truth[4]))
    return zs.find_class(zs.load_model(device="cpu"), raw[4], options=OPTIONS)


def test_masks_are_as_certain_as_the_class_is_probable_in_them(queue, stack) -> None:
    truth = stack[1][4]
    assert [one.certainty for one in queue] == sorted((one.certainty for one in queue), reverse=True)
    for one in queue:
        inside = np.where(truth[one.patch[:2]][one.patch[2]] > 0, 0.95, 0.02).mean()
        assert one.certainty == pytest.approx(inside * min(one.predicted_iou, 1.0), abs=1e-3)
    found = queue.to_labels() > 0
    assert (found & (truth > 0)).sum() / (found | (truth > 0)).sum() > 0.5


def test_a_first_plane_without_anything_to_see(
    stack: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, truth = stack
    model = zs.load_model(device="cpu")
    monkeypatch.setattr(class_search, "learnt_class", lambda _: Told(truth[4]))
    queue = zs.find_class(model, [zs.View(model, np.zeros_like(raw[4])), raw[4]], options=OPTIONS)
    queue.reject(0)
    assert len(queue)
    assert np.isfinite([one.certainty for one in queue]).all()
    with pytest.raises(InputError, match="at least one picture"):
        zs.find_class(model, [])


def test_models_of_boxes_are_asked_by_boxes() -> None:
    instances = np.zeros((40, 50), np.int32)
    instances[5:15, 8:30], instances[20:30, 1:4], instances[35, 40] = 1, 3, 4
    assert [tuple(one.box) for one in class_search.boxes_on(instances)] == [(5, 8, 14, 29), (20, 1, 29, 3)]


def test_what_is_like_a_rejected_one_sinks() -> None:
    rng = np.random.default_rng(0)
    kinds = np.eye(8, dtype=np.float32)
    square = np.ones((10, 10), bool)
    found = []
    for number, (kind, given) in enumerate([(0, 0.9)] * 6 + [(1, 0.6)] * 2):
        inside = kinds[kind] + rng.normal(0, 0.02, 8).astype(np.float32)
        told = Descriptor(inside, kinds[7], np.zeros(3, np.float32), 100)
        patch = (slice(0, 10), slice(20 * number, 20 * number + 10), square)
        found.append(Candidate(0, patch, zs.Prompt([(5, 20 * number + 5)]), 0.9, 0.9, told, given))
    around = Surroundings(kinds[7] / 2, np.ones(3, np.float32))
    queue = class_search.class_queue(found, around, [(10, 200)], SimilarOptions(least_certainty=0.1))
    assert [one.certainty for one in queue] == pytest.approx([0.9] * 6 + [0.6] * 2)
    queue.reject(6)
    assert [one.certainty for one in queue[:6]] == pytest.approx([0.9] * 6)
    assert len(queue) == 6 or queue[6].certainty < 0.5
    queue.take_back()
    assert [one.certainty for one in queue] == pytest.approx([0.9] * 6 + [0.6] * 2)
    assert len(class_search.class_queue([], around, [(10, 200)], SimilarOptions())) == 0


def test_a_model_without_a_class_says_so(stack, tmp_path: Path, capsys) -> None:
    with pytest.raises(InputError, match="--what class"):
        zs.find_class(zs.load_model(device="cpu"), stack[0][4])
    tifffile.imwrite(tmp_path / "in.tif", stack[0][4])
    assert main(["find", str(tmp_path / "in.tif"), "--learnt", "-o", str(tmp_path / "out.tif"), "--device", "cpu"]) == 1
    assert "--what class" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["find", "in.tif", "--learnt", "--text", "cell", "-o", "out.tif"])
    assert "two ways" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_line_finds_a_learnt_class(
    short: Callable[..., TrainingConfig], stack: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    train(short(what="class", epochs=15))
    raw, truth = stack
    tifffile.imwrite(tmp_path / "in.tif", raw[3:], photometric="minisblack")
    command = ["segment", str(tmp_path / "in.tif"), "--learnt", "--model", "mine", "-o", str(tmp_path / "out.tif")]
    command += ["--device", "cpu", "--quiet"]
    assert main(command) == 0
    found = tifffile.imread(tmp_path / "out.tif")
    report = json.loads((tmp_path / "out.tif.json").read_text())
    assert [plane["objects"] for plane in report["planes"]] == [len(np.unique(one[one > 0])) for one in found]
    assert found.any()
    assert (found > 0)[truth[3:] > 0].mean() > 2 * (found > 0)[truth[3:] == 0].mean()

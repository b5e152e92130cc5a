"""Choosing among models and comparing them; without a window."""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save

from napari_zeroseg._napari import engine as engines
from napari_zeroseg._napari.engine import Engine, ModelChoice
from napari_zeroseg.embeddings import EmbeddingStore
from napari_zeroseg.registry import find_model

FLOOD, BOXES, WORDS = "toy_flood", "toy_boxes", "toy_words"


@pytest.fixture
def bench(toy_desk):
    """A session with the flood toy, a click in the left square and a box around the lower half of it."""
    desk = toy_desk
    desk.session.set_model(ModelChoice(FLOOD))
    desk.session.begin("points")
    desk.settle()
    desk.workspace.points.add([0, 10, 10])
    corners = [(0, r, c) for r, c in ((16, 8), (16, 23), (23, 23), (23, 8))]
    desk.workspace.make_shapes().add_rectangles(np.array(corners))
    desk.settle()
    return desk


def compare(desk, *keys):
    desk.session.comparing.start(keys)
    desk.settle()
    return desk.session.comparing.candidates


class TestComparing:
    def test_the_same_prompts_through_several(self, bench):
        flood, boxes = compare(bench, FLOOD, BOXES)
        assert (flood.title, flood.pixels, flood.problem) == ("Flood", 256, "")
        assert (boxes.title, boxes.pixels) == ("Box filler", 128)
        assert flood.score == pytest.approx(0.75)
        assert not bench.session.comparing.is_running

    def test_agreement(self, bench):
        compare(bench, FLOOD, BOXES)
        assert np.allclose(bench.session.comparing.agreement(), [[1, 0.5], [0.5, 1]])

    def test_the_window_holds_all_masks(self, bench):
        compare(bench, FLOOD, BOXES)
        rows, columns = bench.session.comparing.window()
        assert rows.start < 8
        assert rows.stop > 24
        assert columns == rows

    def test_a_model_that_cannot_answer_says_why(self, bench):
        words, sam, boxes = compare(bench, WORDS, "mobile_sam", BOXES)
        assert "Type what to find" in words.problem
        assert "damaged" in sam.problem
        assert boxes.pixels == 128
        assert np.isnan(bench.session.comparing.agreement()[0]).all()

    def test_picking_shows_it_and_changes_the_model(self, bench):
        compare(bench, FLOOD, BOXES)
        asked = bench.engine.toys[BOXES].asked
        bench.session.comparing.pick(bench.session.comparing.candidates[1])
        bench.settle()
        assert bench.session.model.key == BOXES
        assert bench.session.preview.layer.data.sum() == 128
        assert bench.engine.toys[BOXES].asked == asked
        bench.session.accept()
        bench.settle()
        assert (bench.workspace.labels.data == 1).sum() == 128

    def test_after_a_change_of_the_prompts_it_is_not_picked(self, bench):
        compare(bench, FLOOD, BOXES)
        bench.workspace.points.add([0, 10, 45])
        bench.settle()
        bench.session.comparing.pick(bench.session.comparing.candidates[1])
        assert "compare again" in str(bench.bridge.errors[-1])
        assert bench.session.model.key == FLOOD

    def test_it_can_be_stopped(self, bench):
        bench.session.comparing.start([FLOOD, BOXES, FLOOD])
        bench.session.comparing.cancel()
        bench.settle()
        assert bench.session.comparing.candidates == []
        assert not bench.session.comparing.is_running

    def test_nothing_chosen(self, bench):
        compare(bench)
        assert "Choose the models" in str(bench.bridge.errors[-1])

    def test_words_through_models_of_words_only(self, bench):
        bench.session.wording.enter("bright")
        bench.settle()
        flood, words = compare(bench, FLOOD, WORDS)
        assert flood.pixels == 256
        assert words.pixels == 0  # the box has only the left square's grey, which is not bright enough


class TestChoosing:
    def test_one_that_is_not_here_is_not_loaded(self, bench):
        wanted = []
        bench.session.models.wanted.connect(wanted.append)
        bench.session.set_model(ModelChoice("toy_afar"))
        bench.settle()
        assert wanted == ["toy_afar"]
        assert bench.session.model.key == FLOOD
        assert "Flood from afar needs a download (about 1 MB)" in bench.session.status.text
        bench.session.set_model(ModelChoice("toy_brought"))
        assert "needs a file that only you can get" in bench.session.status.text

    def test_it_takes_over_when_it_has_come(self, bench, tmp_path, monkeypatch):
        bench.session.set_model(ModelChoice("toy_brought"))
        bench.settle()
        (tmp_path / "flood.safetensors").write_bytes(save({"numbers": np.zeros(3)}))
        monkeypatch.setenv("ZEROSEG_MODELS", str(tmp_path))
        bench.session.models.zoo.look()
        bench.bridge.turn()
        assert bench.session.loading == ModelChoice("toy_brought")

    def test_one_that_is_removed_gives_way_to_the_default(self, bench):
        sys.path[:] = [folder for folder in sys.path if not folder.endswith("toys")]
        importlib.invalidate_caches()
        bench.session.models.zoo.look()
        bench.settle()
        assert bench.session.model.key == "mobile_sam"
        assert len(bench.workspace.points.data) == 1


class TestMemory:
    @pytest.fixture
    def engine(self, monkeypatch):
        """The engine with stand-ins for models whose memory this machine may not have."""
        monkeypatch.setattr(engines, "load_model", lambda key, **_: SimpleNamespace(spec=find_model(key)))
        return Engine(store=EmbeddingStore())

    def test_one_large_model_at_a_time(self, engine):
        for key in ("mobile_sam", "sam_vit_b", "sam_vit_h"):
            engine.model(ModelChoice(key))
        assert engine.unload() == ["mobile_sam", "sam_vit_h"]

    def test_several_if_the_user_wants_that(self, engine):
        engine.keeps_several = True
        for key in ("sam_vit_b", "sam_vit_h"):
            engine.model(ModelChoice(key))
        assert engine.unload() == ["sam_vit_b", "sam_vit_h"]
        assert engine.unload() == []

    def test_what_was_unloaded_is_loaded_again(self, engine):
        first = engine.model(ModelChoice())
        engine.unload([ModelChoice()])
        assert engine.model(ModelChoice()) is not first

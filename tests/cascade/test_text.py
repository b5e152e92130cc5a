"""Words to instances: a model of words whose heat is known, and the embedded model that draws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from napari_zeroseg.cascade import TextOptions, segment_text
from napari_zeroseg.cascade.heat import heat_of
from napari_zeroseg.errors import CancelledError, InputError
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.metrics import iou
from napari_zeroseg.models.probability_frame import heat_map
from napari_zeroseg.prompts import Prompt, PromptKind


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Two bright discs and a dark square on grey, with some noise."""
    y, x = np.mgrid[:300, :300]
    plane = np.full((300, 300), 110.0)
    plane[np.hypot(y - 80, x - 90) < 35] = 230
    plane[np.hypot(y - 210, x - 200) < 25] = 230
    plane[190:250, 40:100] = 10
    plane += np.random.default_rng(0).normal(0, 4, plane.shape)
    return np.clip(ndimage.gaussian_filter(plane, 0.7), 0, 255).astype(np.uint8)


@pytest.fixture
def words(toys):
    import zeroseg_toys

    return zeroseg_toys.Words(zeroseg_toys.WORDS)


@pytest.fixture
def result(picture, words, model):
    return segment_text(picture, "bright, dark, unicorn", words, model, TextOptions(0.7))


def test_each_phrase_finds_its_objects(result, picture):
    assert result.phrases == ("bright", "dark", "unicorn")
    classes = result.to_labels("class")
    assert iou(classes == 1, picture > 180) > 0.9
    assert iou(classes == 2, picture < 60) > 0.9
    numbers = result.to_labels()
    assert sorted(np.unique(numbers)) == [0, 1, 2, 3]
    assert sorted(one.label for one in result.instances) == [1, 1, 2]
    assert {one.phrase for one in result.instances} == {"bright", "dark"}


def test_every_stage_is_there(result):
    assert result.heat.shape == (3, 300, 300)
    assert len(result.regions) == 3
    assert len(result.prompts) == 6
    for region, click, box in zip(result.regions, result.prompts[:3], result.prompts[3:], strict=True):
        assert click.kinds == {PromptKind.POINTS}
        assert box.kinds == {PromptKind.BOX}
        assert tuple(click.points[0]) == region.peak
        rows, columns, mask = region.patch
        assert mask[region.peak[0] - rows.start, region.peak[1] - columns.start]
        assert box.box.tolist() == [rows.start - 0.5, columns.start - 0.5, rows.stop - 0.5, columns.stop - 0.5]
    for one in result.instances:
        assert any(one.prompt is prompt for prompt in result.prompts)


def test_what_is_found_nowhere_is_said(result):
    (note,) = result.notes
    assert "'unicorn' is nowhere more probable than 0.7" in note
    assert "0.01" in note


def test_no_peaks_at_all(picture, words, model):
    nothing = segment_text(picture, ["unicorn"], words, model)
    assert (nothing.regions, nothing.prompts, nothing.instances) == ([], [], [])
    assert not nothing.to_labels().any()
    assert len(nothing.notes) == 1
    assert nothing.heat.max() == pytest.approx(0.01, abs=0.002)


def test_a_negative_phrase_takes_its_places(picture, words, model):
    options = TextOptions(0.3, negatives=["dark"])
    result = segment_text(picture, "bright", words, model, options)
    assert {one.label for one in result.instances} == {1}
    assert not result.to_labels("class")[195:245, 45:95].any()
    assert result.heat.shape[0] == 1


def test_templates_are_averaged(picture, words):
    plain = heat_of(words, picture, ["bright"])
    half = heat_of(words, picture, ["bright"], ["{}", "a photo of a {}"])  # of which this model knows the first
    np.testing.assert_allclose(half, (plain + np.float16(0.01)) / 2, atol=2e-3)


def test_tiles_of_a_pixelwise_model_change_nothing(picture, words):
    seen = []
    whole = heat_of(words, picture, ["dark"])
    tiled = heat_of(words, picture, ["dark"], tile=128, progress=lambda *told: seen.append(told))
    np.testing.assert_allclose(tiled, whole, atol=2e-3)
    assert seen[-1][0] == seen[-1][1] == len(seen) > 4
    (answer,) = words.predict(words.encode(picture), [Prompt(text="dark")])
    np.testing.assert_allclose(whole[0], heat_map(answer), atol=2e-3)


def test_a_later_plane_may_be_flat_in_parts(words):
    plane = np.zeros((200, 200), np.uint8)
    plane[150:, 150:] = 255
    heat = heat_of(words, plane, ["bright"], tile=100)
    assert heat[0, 190, 190] > 0.9
    assert heat[0, :40, :40].max() < 0.1


class TestBadInput:
    @pytest.mark.parametrize("nothing", ["", " , ", []])
    def test_no_phrase(self, picture, words, model, nothing):
        with pytest.raises(InputError, match="no phrase"):
            segment_text(picture, nothing, words, model)

    def test_an_empty_phrase(self, picture, words, model):
        with pytest.raises(InputError, match="phrase is empty"):
            segment_text(picture, ["lung", " "], words, model)

    def test_too_many(self, picture, words, model):
        with pytest.raises(InputError, match="500 phrases are too many"):
            segment_text(picture, [f"thing {number}" for number in range(500)], words, model)

    def test_models_in_each_other_s_place(self, picture, words, model):
        with pytest.raises(InputError, match="takes no text"):
            segment_text(picture, "lung", model, model)
        with pytest.raises(InputError, match="by points"):
            segment_text(picture, "lung", words, words)

    @pytest.mark.parametrize(
        ("wrong", "named"),
        [
            ({"threshold": 1}, "threshold"),
            ({"templates": ["a photo"]}, "template"),
            ({"templates": ()}, "template"),
            ({"negatives": "sky"}, "list"),
            ({"least_agreement": 3}, "least_agreement"),
        ],
    )
    def test_options(self, wrong, named):
        with pytest.raises(InputError, match=named):
            TextOptions(**wrong)

    def test_a_tile_too_small(self, picture, words):
        with pytest.raises(InputError, match="tile"):
            heat_of(words, picture, ["dark"], tile=3)

    def test_labels_by_nothing_known(self, result):
        with pytest.raises(InputError, match="by 'instance'"):
            result.to_labels("area")

    def test_cancelled(self, picture, words, model):
        cancel = CancelToken()
        cancel.cancel()
        with pytest.raises(CancelledError):
            segment_text(picture, "bright", words, model, cancel=cancel)

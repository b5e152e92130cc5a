"""Views: which windows are looked at, what is encoded and when, which answer is given.

The model here is a simple one with known truth: it answers with the bright region under the prompt, inside the window
that it was shown. So every mask can be compared with the picture, and every encoding is counted.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from napari_zeroseg import CancelToken, EmbeddingStore, Prompt, View
from napari_zeroseg.errors import CancelledError, InputError
from napari_zeroseg.registry import MOBILE_SAM, find_model
from napari_zeroseg.segmenter import Embedding, Prediction
from napari_zeroseg.tiling import Field, whole
from napari_zeroseg.view import Asked


class _Box:
    """Frame of answers in the picture's own resolution."""

    def patch(self, logits):
        filled = logits > 0
        rows, columns = np.flatnonzero(filled.any(1)), np.flatnonzero(filled.any(0))
        if not len(rows):
            return slice(0, 0), slice(0, 0), np.zeros((0, 0), bool)
        inside = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
        return (*inside, filled[inside])


class Regions:
    """Bright region under a prompt. `scores` are what it predicts of its answers, by the window's longest side."""

    spec = MOBILE_SAM
    model_key = "regions-1"

    def __init__(self, scores=None, blind_from=10**9) -> None:
        self.encoded: list[tuple[int, ...]] = []
        self.batches: list[int] = []
        self.scores = scores or {}
        self.blind_from = blind_from
        """Longest side from which on it sees nothing."""

    def encode(self, image) -> Embedding:
        self.encoded.append(image.shape)
        regions, _ = ndimage.label(np.asarray(image) > 100)
        return Embedding({"image": regions.astype(np.float32)}, image.shape, self.model_key, whole(image.shape))

    def predict(self, embedding, prompts, multimask=False):
        self.batches.append(len(prompts))
        regions = embedding.tensors["image"]
        found = []
        for prompt in prompts:
            prompt.check_on(embedding.image_shape)
            r0, c0, r1, c1 = (round(float(x)) for x in prompt.extent())
            inside = regions[max(r0, 0) : r1 + 1, max(c0, 0) : c1 + 1]
            region = inside.max()
            mask = (regions == region) if region else np.zeros(regions.shape, bool)
            if max(regions.shape) >= self.blind_from:
                mask[:] = False
            score = self.scores.get(max(regions.shape), 0.9)
            count = 3 if multimask else 1
            logits = np.where(mask, 5.0, -5.0).astype(np.float32)[None].repeat(count, 0)
            scores = np.array([score, 0, 0][:count], np.float32)
            found.append(Prediction(scores, logits, _Box(), embedding.image_shape, embedding.field))
        return found


def _plane(side: int, *boxes) -> np.ndarray:
    plane = np.random.default_rng(0).integers(0, 50, (side, side)).astype(np.uint8)
    for r0, c0, r1, c1 in boxes:
        plane[r0:r1, c0:c1] = 200
    return plane


SMALL = (1000, 1500, 1030, 1540)
ACROSS = (300, 200, 340, 2500)
"""A long object, wider than any small window."""


@pytest.fixture
def plane() -> np.ndarray:
    return _plane(3000, SMALL, ACROSS)


def _truth(plane, box):
    truth = np.zeros(plane.shape, bool)
    truth[box[0] : box[2], box[1] : box[3]] = True
    return truth


def _box_prompt(box):
    return Prompt(box=(box[0], box[1], box[2] - 1, box[3] - 1))


def test_a_box_is_answered_in_a_small_window_in_pixels_of_the_plane(plane):
    model = Regions()
    (found,) = View(model, plane).predict([_box_prompt(SMALL)])
    assert model.encoded == [(512, 512)]
    assert found.masks.shape == (1, *plane.shape)
    np.testing.assert_array_equal(found.mask, _truth(plane, SMALL))


def test_a_click_is_looked_at_from_near_and_from_afar(plane):
    model = Regions()
    view = View(model, plane)
    (found,) = view.predict([Prompt([(1010, 1510)])])
    assert sorted(model.encoded) == [(512, 512), (1024, 1024)]
    np.testing.assert_array_equal(found.mask, _truth(plane, SMALL))
    assert found.field.shape == (512, 512)  # in doubt the closer look


@pytest.mark.parametrize(("far", "near", "side"), [(0.95, 0.8, 1024), (0.9, 0.88, 512), (0.8, 0.95, 512)])
def test_the_answer_that_the_network_trusts_more_is_given(plane, far, near, side):
    (found,) = View(Regions({1024: far, 512: near}), plane).predict([Prompt([(1010, 1510)])])
    assert max(found.field.shape) == side


def test_a_plane_of_moderate_size_is_looked_at_whole(plane):
    model = Regions()
    View(model, plane[:1200, :1280]).predict([Prompt([(320, 600)])])
    assert (1200, 1280) in model.encoded


def test_a_small_plane_is_encoded_once():
    model = Regions()
    View(model, _plane(300, (10, 10, 20, 20))).predict([Prompt([(15, 15)])])
    assert model.encoded == [(300, 300)]


@pytest.mark.parametrize("prompt", [Prompt([(320, 1200)]), Prompt([(320, 210)]), Prompt([(320, 1200), (320, 1300)])])
def test_an_object_that_the_window_cuts_is_looked_at_from_farther_away(plane, prompt):
    (found,) = View(Regions(), plane).predict([prompt])
    np.testing.assert_array_equal(found.mask, _truth(plane, ACROSS))


def test_what_is_no_longer_seen_from_afar_is_answered_from_near(plane):
    (found,) = View(Regions(blind_from=2000), plane).predict([Prompt([(320, 1200)])])
    assert found.mask.any()
    assert not (found.mask & ~_truth(plane, ACROSS)).any()


def test_the_same_prompt_again_encodes_nothing(plane):
    model = Regions()
    view = View(model, plane)
    prompts = [Prompt([(1010, 1510)]), _box_prompt(ACROSS)]
    first = view.predict(prompts)
    count = len(model.encoded)
    seconds = view.seconds_encoding
    again = view.predict(prompts)
    assert len(model.encoded) == count
    assert view.seconds_encoding == seconds > 0
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.mask, b.mask)


def test_prompts_of_one_window_are_one_batch():
    boxes = [(1000 + 30 * i, 1500, 1020 + 30 * i, 1520) for i in range(6)]
    plane = _plane(3000, *boxes)
    model = Regions()
    found = View(model, plane).predict([_box_prompt(box) for box in boxes])
    assert sum(model.batches) == 6
    assert len(model.batches) == len(model.encoded) <= 2
    for box, prediction in zip(boxes, found, strict=True):
        np.testing.assert_array_equal(prediction.mask, _truth(plane, box))


class RegionsTogether(Regions):
    """The same with batches that go across windows."""

    prompts_at_once = 4

    def predict_each(self, embeddings, prompts, multimask=False):
        found = [self.predict(one, [prompt], multimask)[0] for one, prompt in zip(embeddings, prompts, strict=True)]
        self.batches[-len(prompts) :] = [len(prompts)]
        return found


def test_all_prompts_of_a_plane_fill_batches_across_its_windows():
    boxes = [(r, c, r + 12, c + 15) for r in range(60, 2900, 700) for c in range(60, 2900, 1400)]
    boxes.append((100, 100, 112, 115))
    plane = _plane(3000, *boxes)
    model = RegionsTogether()
    found = View(model, plane).predict([_box_prompt(box) for box in boxes])
    assert len(model.encoded) > 8
    assert sum(model.batches) == len(boxes)
    assert all(size % 4 == 0 for size in model.batches[:-1])
    assert len(model.batches) == -(-len(boxes) // 4)
    for box, prediction in zip(boxes, found, strict=True):
        np.testing.assert_array_equal(prediction.mask, _truth(plane, box))


def test_clicks_and_boxes_of_a_window_are_answered_from_one_encoding():
    boxes = [(100, 100, 112, 115), (100, 2800, 112, 2815)]
    model = RegionsTogether()
    view = View(model, _plane(3000, *boxes), store=EmbeddingStore(None, 1))
    asked = [
        Asked(field, prompt, several)
        for field in (Field(0, 0, 512, 512), Field(0, 2488, 512, 3000))
        for prompt, several in ((Prompt(box=(100, 100, 112, 115)), False), (Prompt([(105, 105)]), True))
    ]
    answers = dict(view.answers(asked))
    assert len(model.encoded) == 2
    assert [len(answers[i].scores) for i in range(4)] == [1, 3, 1, 3]
    assert model.batches == [2, 2]


def test_prompts_all_over_the_plane_come_back_in_order():
    rng = np.random.default_rng(1)
    boxes = [(r, c, r + 12, c + 15) for r in range(60, 2900, 400) for c in rng.integers(0, 2900, 1)]
    plane = _plane(3000, *boxes)
    order = rng.permutation(len(boxes))
    found = View(Regions(), plane).predict([_box_prompt(boxes[i]) for i in order])
    for i, prediction in zip(order, found, strict=True):
        np.testing.assert_array_equal(prediction.mask, _truth(plane, boxes[i]))


def test_clicks_get_three_candidates_and_boxes_one_where_the_prompt_decides(plane):
    found = View(Regions(), plane).predict([Prompt([(1010, 1510)]), _box_prompt(SMALL)], multimask=None)
    assert [len(prediction.scores) for prediction in found] == [3, 1]


@pytest.mark.parametrize(
    ("field", "shape"),
    [("plane", (3000, 3000)), (512, (512, 512)), (700, (1024, 1024)), (2048, (2048, 2048)), (10**9, (3000, 3000))],
)
def test_the_field_can_be_chosen(plane, field, shape):
    model = Regions()
    View(model, plane).predict([Prompt([(1010, 1510)])], field=field)
    assert model.encoded == [shape]


@pytest.mark.parametrize("field", [3, 0, -5, "near", None])
def test_a_field_that_is_no_choice(plane, field):
    with pytest.raises(InputError, match="A field of view is"):
        View(Regions(), plane).predict([Prompt([(1010, 1510)])], field=field)


def test_a_prompt_outside_is_named_before_anything_is_encoded(plane):
    model = Regions()
    with pytest.raises(InputError, match="row 3000, column 5 lies outside the picture of 3000 rows"):
        View(model, plane).predict([_box_prompt(SMALL), Prompt([(3000, 5)])])
    assert model.encoded == []


def test_a_box_that_sticks_out_is_for_what_lies_on_the_plane():
    plane = _plane(3000, (0, 0, 40, 60))
    model = Regions()
    (found,) = View(model, plane).predict([Prompt(box=(-300, -200, 41, 61))])
    assert model.encoded == [(512, 512)]
    np.testing.assert_array_equal(found.mask, _truth(plane, (0, 0, 40, 60)))


def test_a_window_without_any_contrast_is_not_encoded():
    plane = np.zeros((3000, 3000), np.uint8)
    plane[2500:2600, 2500:2600] = 200
    model = Regions()
    View(model, plane).predict([Prompt([(1000, 1000)])])
    assert model.encoded
    assert (512, 512) not in model.encoded
    assert all(not (plane[f.slices] == 0).all() for f in View(model, plane).ahead())


def test_mask_prompts_are_cut_to_the_window(plane):
    mask = _truth(plane, SMALL)
    (found,) = View(Regions(), plane).predict([Prompt(mask=mask)])
    np.testing.assert_array_equal(found.mask, mask)


def test_background_clicks_outside_the_window_do_not_matter(plane):
    model = Regions()
    (found,) = View(model, plane).predict(
        [Prompt([(1010, 1510), (2900, 20)], [True, False], box=_box_prompt(SMALL).box)]
    )
    assert model.encoded == [(512, 512)]
    np.testing.assert_array_equal(found.mask, _truth(plane, SMALL))


def test_the_next_view_of_the_same_pixels_finds_its_embeddings(plane, tmp_path):
    prompts = [Prompt([(1010, 1510)]), _box_prompt(ACROSS)]
    first = View(Regions(), plane, EmbeddingStore(tmp_path)).predict(prompts)
    model = Regions()
    view = View(model, plane.copy(), EmbeddingStore(tmp_path))
    assert all(view.is_encoded(prediction.field) for prediction in first)
    again = view.predict(prompts)
    assert model.encoded == []
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.mask, b.mask)


def test_changed_pixels_and_other_models_find_nothing(plane, tmp_path):
    prompt = _box_prompt(SMALL)
    View(Regions(), plane, EmbeddingStore(tmp_path)).predict([prompt])
    changed = plane.copy()
    changed[SMALL[0], SMALL[1]] ^= 1
    other = Regions()
    other.model_key = "regions-2"
    for model, picture in ((Regions(), changed), (other, plane)):
        View(model, picture, EmbeddingStore(tmp_path)).predict([prompt])
        assert model.encoded == [(512, 512)]


def test_pixels_changed_elsewhere_do_not_matter(plane, tmp_path):
    View(Regions(), plane, EmbeddingStore(tmp_path)).predict([_box_prompt(SMALL)])
    changed = plane.copy()
    changed[2900:, 2900:] += 5
    model = Regions()
    View(model, changed, EmbeddingStore(tmp_path)).predict([_box_prompt(SMALL)])
    assert model.encoded == []


def test_a_view_holds_no_more_embeddings_than_its_store_may():
    plane = _plane(3000, *[(r, c, r + 9, c + 9) for r in range(40, 2990, 250) for c in range(40, 2990, 250)])
    store = EmbeddingStore(memory_bytes=2 * 4 * 512 * 512 * 3)
    model = Regions()
    view = View(model, plane, store)
    prompts = [Prompt(box=(r, c, r + 9, c + 9)) for r in range(40, 2990, 250) for c in range(40, 2990, 250)]
    view.predict(prompts)
    held = [field for field in view.fields if view.is_encoded(field)]
    assert len(view.fields) > 50
    assert len(held) == 3
    (found,) = view.predict(prompts[:1])  # made again
    assert found.mask.sum() == 81


def test_cancelling_stops_between_two_encodings(plane):
    token = CancelToken()
    model = Regions()
    encode = model.encode

    def then_cancel(image):
        token.cancel()
        return encode(image)

    model.encode = then_cancel
    view = View(model, plane)
    with pytest.raises(CancelledError):
        view.predict([Prompt([(1010, 1510)])], cancel=token)
    assert len(model.encoded) == 1
    assert view.predict([Prompt([(1010, 1510)])])[0].mask.any()


def test_a_given_embedding_of_the_whole_plane_is_used(plane):
    model = Regions()
    embedding = model.encode(plane)
    view = View(model, plane, whole_embedding=embedding)
    assert view.is_encoded(whole(view.shape))
    view.predict([Prompt([(1010, 1510)])], field="plane")
    assert model.encoded == [plane.shape]


def test_ahead_starts_where_the_user_is(plane):
    fields = View(Regions(), plane).ahead((2000, 2000))
    assert len(fields) == len(set(fields))
    assert fields[0].shape == (1024, 1024)
    assert fields[0].holds((2000, 2000, 2000, 2000))
    near = next(field for field in fields if field.shape == (512, 512))
    assert near.holds((2000, 2000, 2000, 2000))
    assert View(Regions(), _plane(300, (3, 3, 9, 9))).ahead() == [Field(0, 0, 300, 300)]


def test_after_encoding_ahead_a_click_waits_for_nothing(plane):
    model = Regions()
    view = View(model, plane)
    place = (1010, 1510)
    for field in view.ahead(place)[:1]:
        view.embedding(field)
    near = [field for field in view.ahead(place) if field.shape == (512, 512)]
    view.embedding(near[0])
    count = len(model.encoded)
    view.predict([Prompt([place])])
    assert len(model.encoded) == count


class TestSureFromNear:
    """A plane of 2048 pixels: near are 512 pixels, far 1024."""

    def look(self, score):
        plane = np.zeros((2048, 2048), np.uint8)
        plane[300:340, 300:340] = 200
        model = Regions({512: score, 1024: 0.99})
        (found,) = View(model, plane).predict([Prompt([(320, 320)])])
        assert found.mask.sum() == 1600
        return model.encoded

    def test_then_it_is_not_looked_at_from_afar(self):
        assert self.look(0.95) == [(512, 512)]

    def test_else_it_is(self):
        assert self.look(0.85) == [(512, 512), (1024, 1024)]


def test_models_for_whole_pictures_see_the_plane():
    plane = np.zeros((2048, 1500), np.uint8)
    plane[300:340, 300:340] = 200
    model = Regions()
    model.spec = find_model("medsam_vit_b")
    view = View(model, plane)
    assert [field.shape for field in view.ahead()] == [(2048, 1500)]
    (found,) = view.predict([Prompt(box=(299, 299, 340, 340))])
    assert model.encoded == [(2048, 1500)]
    assert found.mask.sum() == 1600
    view.predict([Prompt(box=(299, 299, 340, 340))], field=512)
    assert model.encoded[1:] == [(512, 512)]


def test_a_model_without_batches_across_windows_holds_no_embeddings(plane):
    """How many prompts it answers at once tells nothing then."""
    model = Regions()
    model.prompts_at_once = 16
    fields = [Field(0, 0, 1024, 1024), Field(1000, 1000, 2024, 2024)]
    answers = View(model, plane).answers([Asked(field, Prompt(points=[[20, 20]]), False) for field in fields])
    assert next(answers)[0] == 0
    assert len(model.encoded) == 1


def test_the_decoder_is_stopped_between_batches(plane):
    class Across(Regions):
        prompts_at_once = 2

        def predict_each(self, embeddings, prompts, multimask=False):
            return self.predict(embeddings[0], prompts, multimask)

    model, token = Across(), CancelToken()
    asked = [Asked(Field(0, 0, 1024, 1024), Prompt(points=[[20, 20]]), False)] * 5
    assert [place for place, _ in View(model, plane).answers(asked, token)] == [0, 1, 2, 3, 4]
    assert model.batches == [2, 2, 1]
    answers = View(model, plane).answers(asked, token)
    next(answers)
    token.cancel()
    with pytest.raises(CancelledError):
        list(answers)
    assert model.batches == [2, 2, 1, 2]

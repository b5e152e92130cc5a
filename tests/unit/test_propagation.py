"""Propagation: objects outlined on one plane of a stack with known truth, found on the others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import napari_zeroseg as zs
from napari_zeroseg.embeddings import EmbeddingStore
from napari_zeroseg.errors import CancelledError, InputError, InputTypeError, ReadError
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.metrics import iou
from napari_zeroseg.phantom import em_like_stack
from napari_zeroseg.propagation import (
    Direction,
    FlagReason,
    Propagation,
    PropagationOptions,
    masks,
    propagate,
    propagation_of,
    repropagate,
    step,
    tracking,
)
from napari_zeroseg.propagation.step import Found, advance, apart, own_scores
from napari_zeroseg.registry import load_model
from napari_zeroseg.tiling import whole
from napari_zeroseg.view import View

SEED = 2
PLANES = 6
ONE_WAY = PropagationOptions(check=False)


class Counting:
    """The real model, and how many prompts it answered on which picture."""

    def __init__(self, model) -> None:
        self._model = model
        self.spec, self.model_key = model.spec, model.model_key
        self.prompts = 0
        self.calls = 0

    def encode(self, image):
        return self._model.encode(image)

    def predict(self, embedding, prompts, multimask=False):
        self.prompts += len(prompts)
        self.calls += 1
        return self._model.predict(embedding, prompts, multimask)


@pytest.fixture(scope="module")
def model():
    return load_model(device="cpu")


@pytest.fixture(scope="module")
def store():
    """One for all tests, so that each plane is encoded once."""
    return EmbeddingStore()


@pytest.fixture(scope="module")
def stack():
    """Six planes with four objects that drift, turn and change their size."""
    raw, truth = em_like_stack(PLANES, 256, seed=3)
    return raw, truth


@pytest.fixture(scope="module")
def both_ways(stack, model, store) -> Propagation:
    return propagate(stack[0], model, {SEED: stack[1][SEED]}, store=store)


def ious(labels: np.ndarray, truth: np.ndarray) -> dict[int, float]:
    return {int(n): iou(labels == n, truth == n) for n in np.unique(truth) if n}


def one_object(truth: np.ndarray, plane: int, label: int = 2) -> dict[int, np.ndarray]:
    return {plane: np.where(truth[plane] == label, label, 0)}


class TestFollowing:
    def test_objects_are_found_on_all_planes(self, both_ways, stack):
        for plane in range(PLANES):
            found = ious(both_ways.labels(plane), stack[1][plane])
            assert len(found) == 4
            assert np.mean(list(found.values())) > 0.8

    def test_better_than_copying(self, both_ways, stack):
        truth = stack[1]
        copied = np.mean([*ious(truth[SEED], truth[0]).values(), *ious(truth[SEED], truth[-1]).values()])
        volume = both_ways.volume()
        followed = np.mean([*ious(volume[0], truth[0]).values(), *ious(volume[-1], truth[-1]).values()])
        assert followed > copied + 0.03

    def test_what_was_outlined_stays(self, both_ways, stack):
        np.testing.assert_array_equal(both_ways.labels(SEED), stack[1][SEED])
        assert all(one.outlined and one.certainty == 1 for one in both_ways.plane(SEED).objects)

    def test_certainty_is_the_agreement_of_both_ways(self, both_ways):
        curve = both_ways.curve()
        assert set(curve) == {0, 1, 3, 4, 5}
        assert all(0.8 < value <= 1 for value in curve.values())
        assert both_ways.curve(1)[SEED] == 1
        assert both_ways.plane(PLANES - 1).final

    def test_the_farthest_plane_agrees_with_itself_only_after_a_step_back(self, stack, model, store):
        """The end of the way there is the start of the way back, so there is nothing to compare it with."""
        run = propagate(stack[0], model, one_object(stack[1], SEED), store=store)
        assert run.plane(PLANES - 1).objects[0].certainty == run.plane(PLANES - 2).objects[0].certainty

    def test_all_objects_of_a_window_are_one_batch(self, stack, model, store):
        counted = Counting(model)
        propagate(stack[0], counted, {SEED: stack[1][SEED]}, options=ONE_WAY, store=store)
        # and once for each way on the outlined plane itself
        assert (counted.calls, counted.prompts) == (PLANES + 1, 4 * (PLANES + 1))

    @pytest.mark.parametrize(("direction", "planes"), [("forwards", {2, 3, 4, 5}), ("backwards", {0, 1, 2})])
    def test_one_direction(self, stack, model, store, direction, planes):
        options = PropagationOptions(direction=Direction(direction), check=False)
        volume = propagate(stack[0], model, one_object(stack[1], SEED), options=options, store=store).volume()
        assert {z for z in range(PLANES) if volume[z].any()} == planes

    def test_a_range_of_planes_and_labels_of_all_planes(self, stack, model, store):
        raw, truth = stack
        seeds = np.zeros_like(truth)
        seeds[SEED] = truth[SEED] == 2
        run = propagate(raw, model, seeds, planes=range(1, 4), options=ONE_WAY, store=store)
        volume = run.volume()
        assert {z for z in range(PLANES) if volume[z].any()} == {1, 2, 3}
        assert run.ends(1) == (1, 3)

    def test_the_public_name(self):
        assert zs.propagate is propagate


@pytest.mark.slow
def test_objects_in_several_windows_are_one_batch(model, monkeypatch):
    raw, truth = em_like_stack(2, 1100, seed=3)
    objects = masks.of_labels(truth[0])
    view = View(model, raw[1])
    sizes = []
    batch = model._predict_batch
    monkeypatch.setattr(model, "_predict_batch", lambda *args: sizes.append(len(args[1])) or batch(*args))
    found = advance(view, raw[0], objects, ONE_WAY)
    assert len(view.fields) > 1
    assert all(size == model.prompts_at_once for size in sizes[:-1])
    assert sum(sizes) == len(found) == len(objects)


class TestLooksAtTheToken:
    """Work in one window may take a second, so that nothing goes on to the next without a look."""

    @pytest.fixture
    def large(self):
        raw, truth = em_like_stack(2, 1100, seed=3)
        return raw, masks.of_labels(truth[0])

    @pytest.fixture
    def spent(self):
        token = CancelToken()
        token.cancel()
        return token

    def test_motion(self, large, model, spent, monkeypatch):
        raw, objects = large
        monkeypatch.setattr(step, "motion_in", lambda *_: pytest.fail("it went on"))
        with pytest.raises(CancelledError):
            advance(View(model, raw[1]), raw[0], objects, ONE_WAY, cancel=spent)

    def test_the_plane_where_they_are_outlined(self, large, model, spent):
        raw, objects = large
        view = View(model, raw[0])
        with pytest.raises(CancelledError):
            own_scores(view, objects, ONE_WAY, spent)
        assert not view.seconds_encoding

    def test_outlines_of_a_whole_stack(self, stack, model, spent):
        with pytest.raises(CancelledError):
            propagation_of(stack[0], model, stack[1], cancel=spent)

    def test_a_run_hands_its_token_on(self, stack, model, monkeypatch):
        token = CancelToken()
        seen = []
        monkeypatch.setattr(tracking, "own_scores", lambda *args: seen.append(args[-1]) or own_scores(*args))
        propagation_of(stack[0], model, one_object(stack[1], SEED), options=ONE_WAY).finish(cancel=token)
        assert seen
        assert all(one is token for one in seen)


@pytest.mark.slow
def test_models_for_whole_pictures_see_the_plane(model, store):
    raw, truth = em_like_stack(2, 1100, seed=3)
    counted = Counting(model)
    counted.spec = replace(model.spec, whole_picture=True)
    objects = masks.of_labels(truth[0])
    for view, ask in (
        (View(counted, raw[1], store), lambda view: advance(view, raw[0], objects, ONE_WAY)),
        (View(counted, raw[0], store), lambda view: own_scores(view, objects, ONE_WAY)),
    ):
        ask(view)
        assert view.fields == [whole(raw.shape[1:])]


class TestOverlaps:
    """The better score has the pixel."""

    def found(self, score: float, columns: slice) -> Found:
        return Found((slice(0, 10), columns, np.ones((10, columns.stop - columns.start), bool)), score, 1.0)

    def test_whatever_plane_they_come_from(self, stack, model, store, monkeypatch):
        """An object that was lost for a plane is looked for from another plane than the others."""
        raw, truth = stack
        seeds = {0: np.where(truth[0] == 1, 1, 0), 1: np.where(truth[1] == 2, 2, 0)}
        at = {1: self.found(0.95, slice(0, 20)), 2: self.found(0.99, slice(10, 30))}

        def advanced(view, before, objects, *_):
            return {label: None if view.picture[0, 0] == raw[1][0, 0] else at[label] for label in objects}

        monkeypatch.setattr(tracking, "advance", advanced)
        raw = raw.copy()
        raw[1][0, 0] = 255 - raw[2][0, 0]
        options = PropagationOptions(check=False, direction=Direction.FORWARDS)
        run = propagate(raw, model, seeds, planes=range(3), options=options, store=store)
        assert {one.label for one in run.plane(2).objects} == {1, 2}
        patches = run.plane(2).patches
        assert not (full(patches[1]) & full(patches[2])).any()
        assert masks.area(patches[2]) == 200

    def test_protected_labels(self):
        protected = np.zeros((256, 256), np.uint8)
        protected[:, :5] = 9
        kept = apart({1: self.found(0.9, slice(0, 20)), 2: None}, (256, 256), protected)
        assert kept[2] is None
        assert masks.area(kept[1].patch) == 150


def full(patch) -> np.ndarray:
    there = np.zeros((256, 256), bool)
    there[patch[0], patch[1]] = patch[2]
    return there


class TestPlanesAsTheyCome:
    def test_each_is_told_first_without_and_then_with_certainty(self, stack, model, store):
        run = propagation_of(stack[0], model, one_object(stack[1], SEED), store=store)
        steps: list[tuple[int, int]] = []
        told = list(run.run(lambda done, most: steps.append((done, most))))
        forwards = told[:3]
        assert [result.plane for result in forwards] == [3, 4, 5]
        assert not any(result.final for result in forwards)
        assert {result.plane for result in told if result.final} == set(range(PLANES))  # the outlined one on the way
        assert all(result.objects[0].label == 2 and 2 in result.patches for result in told)
        assert steps[-1][0] == steps[-1][1]
        assert "1 object followed through 5 planes of 0 to 5." in run.words()

    def test_cancelled_between_planes(self, stack, model, store):
        token = CancelToken()
        run = propagation_of(stack[0], model, one_object(stack[1], SEED), options=ONE_WAY, store=store)
        with pytest.raises(CancelledError):
            run.finish(lambda *_: token.cancel(), token)
        assert [z for z in range(PLANES) if run.labels(z).any()] == [SEED, SEED + 1]
        run.finish()
        assert all(run.labels(z).any() for z in range(PLANES))


class TestEnds:
    def test_an_object_that_vanishes_ends(self, stack, model, store):
        raw, truth = stack[0].copy(), stack[1]
        rows, columns = np.nonzero((truth[SEED:] == 2).any(0))
        r0, r1, c0, c1 = rows.min() - 6, rows.max() + 7, columns.min() - 6, columns.max() + 7
        empty = next(
            (r, c)
            for r in range(0, 256 - (r1 - r0), 4)
            for c in range(0, 256 - (c1 - c0), 4)
            if not truth[:, r : r + r1 - r0, c : c + c1 - c0].any()
        )
        for plane in (4, 5):
            raw[plane, r0:r1, c0:c1] = raw[plane, empty[0] : empty[0] + r1 - r0, empty[1] : empty[1] + c1 - c0]
        run = propagate(raw, model, one_object(truth, SEED), planes=range(SEED, PLANES), store=store)
        assert run.ends(2) == (SEED, 3)
        assert (4, 2, FlagReason.ENDED, 0.0) in run.flags
        assert not run.labels(4).any()

    def test_an_object_that_leaves_the_field_of_view_ends(self, stack, model, store):
        raw, truth = stack[0][SEED], stack[1][SEED]
        drifting = np.stack([raw[:, 20 * z : 20 * z + 176] for z in range(4)])
        label = min(ious(truth, truth), key=lambda n: np.nonzero(truth == n)[1].max())
        last_column = np.nonzero(truth == label)[1].max()
        assert last_column < 3 * 20  # it is beyond the edge on the last plane
        seed = np.where(truth[:, :176] == label, label, 0)
        run = propagate(drifting, model, {0: seed}, options=ONE_WAY, store=store)
        assert iou(run.labels(1) == label, truth[:, 20:196] == label) > 0.8
        assert run.ends(label)[1] in (1, 2)


class TestDamage:
    @pytest.mark.parametrize("damage", ["constant", "unreadable"])
    def test_a_broken_plane_is_skipped_and_bridged(self, stack, model, store, damage):
        raw, truth = stack[0].copy(), stack[1]
        raw[3] = 7
        source = raw if damage == "constant" else Unreadable(raw, 3)
        run = propagate(source, model, one_object(truth, SEED), options=ONE_WAY, store=store)
        assert list(run.faults) == [3]
        assert ("same value" if damage == "constant" else "disk on fire") in run.faults[3]
        assert not run.labels(3).any()
        assert iou(run.labels(4) == 2, truth[4] == 2) > 0.75
        assert run.next_flag(SEED) == (3, 0, FlagReason.BROKEN, 0.0)
        assert "Skipped: plane 3." in run.words()

    @pytest.mark.slow
    def test_a_missing_tile_is_bridged_for_those_that_it_hides(self, stack, model):
        """The windows of a large plane are looked at one by one, and one without anything cannot be encoded."""
        raw, truth = np.random.default_rng(0).integers(90, 160, (5, 800, 800), np.uint8), np.zeros((5, 800, 800), int)
        for corner in (0, 544):
            inside = slice(None), slice(corner, corner + 256), slice(corner, corner + 256)
            raw[inside] = stack[0][:5]
            truth[inside] = np.where(stack[1][:5] == 2, 1 + (corner > 0), 0)
        raw[2, :530, :530] = 0
        for seed in (1, 2):  # before the tile, and on it
            run = propagate(raw, model, {seed: truth[seed]}, options=ONE_WAY)
            assert not run.faults
            for plane in (0, 1, 3, 4):
                assert iou(run.labels(plane) == 1, truth[plane] == 1) > 0.7, (seed, plane)
                assert iou(run.labels(plane) == 2, truth[plane] == 2) > 0.7, (seed, plane)
            assert iou(run.labels(2) == 2, truth[2] == 2) > 0.7
            assert ((2, 1, FlagReason.UNSURE, 0.0) in run.flags) is (seed == 1)

    def test_a_shifted_plane_is_followed(self, stack, model, store):
        raw, truth = stack
        moved, true = raw.copy(), truth.copy()
        for z in (3, 4):
            moved[z], true[z] = np.roll(raw[z], (28, -22), (0, 1)), np.roll(truth[z], (28, -22), (0, 1))
        label = 3  # stays on the plane, away from what comes in at its other side
        run = propagate(moved, model, one_object(truth, SEED, label), options=ONE_WAY, store=store)
        assert min(iou(run.labels(z) == label, true[z] == label) for z in (3, 4, 5)) > 0.7


class Unreadable:
    """An array of which one plane cannot be read, as with a broken page of a file."""

    def __init__(self, data: np.ndarray, broken: int) -> None:
        self._data, self._broken = data, broken
        self.shape, self.dtype = data.shape, data.dtype

    def __getitem__(self, key):
        if key[0] == self._broken:
            raise OSError("disk on fire")
        return self._data[key]


class TestWhatIsThere:
    def test_other_labels_keep_their_pixels(self, stack, model, store):
        raw, truth = stack
        keep = np.zeros_like(truth)
        rows, _ = np.nonzero(truth[3] == 2)
        keep[3, rows.min() : int(rows.mean()), :] = 9
        keep[SEED] = np.where(truth[SEED] == 1, 1, 0)
        run = propagate(raw, model, one_object(truth, SEED), keep=keep, options=ONE_WAY, store=store)
        volume = run.volume()
        assert (volume[keep > 0] == keep[keep > 0]).all()
        assert (volume[3] == 2).any()
        assert not (run.plane(3).patches[2][2] & (keep[3] == 9)[run.plane(3).patches[2][:2]]).any()

    def test_labels_of_a_narrow_type_with_outlines_of_large_numbers(self, stack, model, store):
        raw, truth = stack
        keep = np.zeros(truth.shape, np.uint8)
        keep[1, :5] = 9
        seeds = {plane: np.where(truth[plane] == 2, 300, 0) for plane in (0, 1)}
        seeds[0] += np.where(truth[0] == 1, 1, 0)
        run = propagate(raw, model, seeds, planes=range(3), keep=keep, options=ONE_WAY, store=store)
        assert iou(run.labels(2) == 300, truth[2] == 2) > 0.7
        assert (run.labels(1)[:5] == 9).all()

    def test_objects_do_not_overlap(self, both_ways):
        for plane in range(PLANES):
            total = np.zeros((256, 256), int)
            for rows, columns, mask in both_ways.plane(plane).patches.values():
                total[rows, columns] += mask
            assert total.max() == 1


class TestBetweenOutlines:
    def test_filled_from_both_sides(self, stack, model, store):
        raw, truth = stack
        counted = Counting(model)
        run = propagate(raw, counted, {**one_object(truth, 0), **one_object(truth, 5)}, options=ONE_WAY, store=store)
        assert counted.prompts == 2 * (4 + 1)
        for plane in range(1, 5):
            (one,) = run.plane(plane).objects
            assert one.certainty > 0.8
            assert iou(run.labels(plane) == 2, truth[plane] == 2) > 0.8


class TestCorrection:
    def test_only_what_depends_on_it_is_done_again(self, stack, model, store):
        raw, truth = stack
        seeds = {SEED: np.where(np.isin(truth[SEED], (1, 2)), truth[SEED], 0)}
        counted = Counting(model)
        run = propagate(raw, counted, seeds, store=store)
        before = run.volume()
        corrected = run.labels(4)
        corrected[corrected == 2] = 0
        corrected[100:120, 100:130] = np.where(corrected[100:120, 100:130] == 0, 2, corrected[100:120, 100:130])
        counted.prompts = 0
        again = [result.plane for result in run.correct(4, corrected)]
        after = run.volume()
        # the plane between both outlines from both sides, the one behind there and back from nowhere
        assert counted.prompts <= 8
        assert set(again) == {3, 4, 5}
        np.testing.assert_array_equal(after == 1, before == 1)
        np.testing.assert_array_equal(after[:3], before[:3])
        np.testing.assert_array_equal(after[4], corrected)

    def test_equals_a_run_that_knew_it_from_the_start(self, stack, model, store):
        raw, truth = stack
        run = propagate(raw, model, one_object(truth, SEED), store=store)
        repropagate(run, 4, one_object(truth, 4)[4])
        fresh = propagate(raw, model, {**one_object(truth, SEED), **one_object(truth, 4)}, store=store)
        np.testing.assert_array_equal(run.volume(), fresh.volume())
        assert run.curve() == fresh.curve()

    def test_taken_away_it_ends_there(self, stack, model, store):
        raw, truth = stack
        run = propagate(raw, model, one_object(truth, SEED), store=store)
        repropagate(run, 4, np.zeros((256, 256), int))
        assert run.ends(2) == (0, 3)
        assert not run.labels(5).any()
        assert not any(flag.reason is FlagReason.ENDED for flag in run.flags)  # the user said so

    def test_what_was_kept_can_be_corrected_too(self, stack, model, store):
        raw, truth = stack
        outlined = one_object(truth, SEED)[SEED]
        keep = np.zeros_like(truth)
        keep[SEED] = outlined
        run = propagate(raw, model, {SEED: outlined}, keep=keep, store=store)
        smaller = run.labels(SEED)
        smaller[: int(np.nonzero(smaller)[0].mean())] = 0
        repropagate(run, SEED, smaller)
        np.testing.assert_array_equal(run.labels(SEED), smaller)

    def test_erased_from_its_only_outline_it_is_nowhere(self, stack, model, store):
        raw, truth = stack
        keep = np.zeros_like(truth)
        keep[SEED] = one_object(truth, SEED)[SEED]
        run = propagate(raw, model, one_object(truth, SEED), keep=keep, store=store)
        repropagate(run, SEED, np.zeros((256, 256), int))
        assert not run.volume().any()
        assert run.flags == []
        assert run.words().startswith("0 objects")
        assert not run.is_somewhere(2)
        with pytest.raises(InputError, match="on no plane any more"):
            run.ends(2)

    def test_elsewhere_is_refused(self, both_ways):
        with pytest.raises(InputError, match="Plane 6 is not among those"):
            list(both_ways.correct(6, np.zeros((256, 256), int)))


class TestFlags:
    def test_from_one_to_the_next(self, stack, model, store):
        options = PropagationOptions(threshold=1.0)
        run = propagate(stack[0], model, one_object(stack[1], SEED), options=options, store=store)
        unsure = [flag.plane for flag in run.flags if flag.certainty < 1]
        assert unsure
        assert run.next_flag(-1).plane == unsure[0]
        assert run.next_flag(PLANES, -1).plane == unsure[-1]
        assert run.next_flag(unsure[-1]) is None


class TestBadInput:
    def test_what_does_not_fit_is_said(self, stack, model):
        raw, truth = stack
        with pytest.raises(InputError, match="no object to follow"):
            propagate(raw, model, np.zeros_like(truth))
        with pytest.raises(InputError, match="Labels of 6 planes"):
            propagate(raw, model, truth[:3])
        with pytest.raises(InputError, match=r"shape \(256, 256\)"):
            propagate(raw, model, {1: truth[1, :100]})
        with pytest.raises(InputError, match="no plane 8"):
            propagate(raw, model, {8: truth[1]})
        with pytest.raises(InputTypeError, match="whole numbers"):
            propagate(raw, model, {1: truth[1].astype(float)})
        with pytest.raises(InputError, match="are neighbours"):
            propagate(raw, model, {2: truth[2]}, planes=range(0, 6, 2))
        with pytest.raises(InputError, match="threshold"):
            PropagationOptions(threshold=2)
        with pytest.raises(InputError, match="three positive distances"):
            PropagationOptions(spacing=(1, 0, 1))

    def test_a_plane_that_cannot_be_read_is_an_error_where_the_labels_lie(self, stack, model):
        with pytest.raises(ReadError, match="disk on fire"):
            propagate(stack[0], model, Unreadable(stack[1], 1))

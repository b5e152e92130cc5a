"""Find the rest on generated planes, with the embedded model."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from napari_zeroseg.cascade import Example, SimilarOptions, examples_of, find_similar
from napari_zeroseg.errors import CancelledError, InputError
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.metrics import iou

OPTIONS = SimilarOptions(points_per_plane=150, boxes=False)


def full(proposal, shape) -> np.ndarray:
    mask = np.zeros(shape, bool)
    rows, columns, inside = proposal.patch
    mask[rows, columns] = inside
    return mask


def hits(proposals, truth, known=()) -> tuple[int, int]:
    """How many proposals are an object of the truth, and how many objects there are."""
    wanted = [label for label in np.unique(truth[truth > 0]) if label not in known]
    masks = [full(one, truth.shape) for one in proposals]
    return sum(any(iou(mask, truth == label) >= 0.5 for mask in masks) for label in wanted), len(wanted)


@pytest.fixture(scope="module")
def labels_shown(scene) -> list[int]:
    return [int(scene.truth[0][mask][0]) for mask in scene.masks(0, 2)]


@pytest.fixture(scope="module")
def found(model, scene):
    return find_similar(model, scene.views, [Example(mask) for mask in scene.masks(0, 2)], options=OPTIONS)


@pytest.fixture
def queue(found):
    """A copy of its own, since answers change a queue."""
    return copy.deepcopy(found)


def test_the_rest_is_found_on_this_plane_and_the_next(queue, scene, labels_shown):
    here, next_one = ([one for one in queue if one.plane == plane] for plane in (0, 1))
    count, wanted = hits(here, scene.truth[0], labels_shown)
    assert count >= 0.6 * wanted
    assert count >= 0.6 * len(here)
    count, wanted = hits(next_one, scene.truth[1])
    assert count >= 0.6 * wanted


def test_ranked_by_certainty_and_apart(queue, scene):
    certain = [one.certainty for one in queue]
    assert certain == sorted(certain, reverse=True)
    assert min(certain) >= OPTIONS.least_certainty
    for plane in (0, 1):
        masks = [full(one, scene.truth[0].shape) for one in queue if one.plane == plane]
        for i, mask in enumerate(masks):
            for other in masks[:i]:
                assert (mask & other).sum() <= OPTIONS.overlap * min(mask.sum(), other.sum())


def test_what_is_described_is_what_is_drawn(queue, scene):
    labels = queue.to_labels(1, first=10)
    mine = [one for one in queue if one.plane == 1]
    assert labels.max() == 10 + len(mine) - 1
    assert ((labels == 10) == full(mine[0], labels.shape)).all()
    assert mine[0].area == (labels == 10).sum()
    assert set(np.unique(queue.to_classes(1))) == {0, 1}
    with pytest.raises(InputError, match="no plane 2"):
        queue.to_labels(2)


def test_examples_are_not_proposed_again(queue, scene):
    examples = scene.masks(0, 2)
    for one in queue:
        if one.plane == 0:
            assert max(iou(full(one, examples[0].shape), mask) for mask in examples) < 0.5


def test_what_is_labelled_is_not_proposed(model, scene):
    again = find_similar(model, scene.views[0], scene.masks(0, 2), labels=scene.truth[0], options=OPTIONS)
    assert hits(again, scene.truth[0]) == (0, len(np.unique(scene.truth[0])) - 1)


def test_an_answer_takes_the_place_and_ranks_anew_without_the_model(queue, scene, monkeypatch):
    for view in scene.views:
        monkeypatch.setattr(view, "predict", None)  # whoever asked the model now would fail
        monkeypatch.setattr(view, "embedding", None)
    before = {id(one.patch[2]): one.certainty for one in queue}
    length = len(queue)
    first = queue[0]
    assert queue.accept(0) == first
    assert queue.accepted == [first]
    assert len(queue) < length + 1
    assert all(one.patch is not first.patch for one in queue)
    assert any(before.get(id(one.patch[2]), one.certainty) != one.certainty for one in queue)
    assert (queue.to_labels(first.plane) > 0)[full(first, scene.truth[0].shape)].all()


def test_what_looks_like_a_rejected_one_sinks(queue):
    last = queue[len(queue) - 1]
    before = {id(one.patch[2]): one.certainty for one in queue}
    assert queue.reject(-1) == last
    assert queue.rejected == [last]
    assert all(one.patch is not last.patch for one in queue)
    for one in queue:
        assert one.certainty <= before.get(id(one.patch[2]), 1.0) + 1e-6


def test_accepting_all_is_one_answer(queue):
    ranked = queue[:]
    least = ranked[2].certainty
    chosen = [one for one in ranked if one.certainty >= least]
    assert queue.accept_all(least) == chosen == queue.accepted
    assert not {id(one.patch) for one in chosen} & {id(one.patch) for one in queue}
    assert queue.take_back() == chosen
    assert queue.accepted == []
    assert [one.certainty for one in queue] == [one.certainty for one in ranked]
    assert queue.accept_all(1.1) == []
    with pytest.raises(InputError, match="no answer"):
        queue.take_back()


def test_answers_are_taken_back_in_turn(queue):
    states = []
    for answer in (queue.accept, queue.reject, queue.accept):
        states.append([(id(one.patch), one.certainty) for one in queue])
        answer(0)
    for state in reversed(states):
        (proposal,) = queue.take_back()
        assert [(id(one.patch), one.certainty) for one in queue] == state
        assert id(proposal.patch) == state[0][0]
    assert queue.accepted == queue.rejected == []


def test_negatives_are_as_good_as_rejecting(queue, model, scene):
    worst = next(one for one in reversed(queue[:]) if one.plane == 1)
    mask = full(worst, scene.truth[0].shape)
    examples = [Example(mask, picture=scene.views[0]) for mask in scene.masks(0, 2)]
    told = find_similar(model, scene.views[1], examples, negatives=[mask], options=OPTIONS)
    queue.reject(queue[:].index(worst))
    certain = {one.area: one.certainty for one in queue if one.plane == 1}
    shared = [one for one in told if one.area in certain]
    assert shared
    assert [one.certainty for one in shared] == pytest.approx([certain[one.area] for one in shared], abs=0.02)


def test_classes(model, scene):
    """A mitochondrion, and a piece of cytoplasm that was taken as an example of another class."""
    other = np.zeros(scene.truth[0].shape, bool)
    other[5:40, 5:40] = scene.truth[0][5:40, 5:40] == 0
    examples = [Example(scene.masks(0, 1)[0], label=3), Example(other, label=8)]
    queue = find_similar(model, scene.views[0], examples, options=OPTIONS)
    own = [one for one in queue if one.label == 3]
    assert {one.label for one in queue} <= {3, 8}
    count, wanted = hits(own, scene.truth[0])
    assert count >= 0.4 * wanted


def test_an_example_of_another_picture(model, scene):
    example = Example(scene.masks(0, 1)[0], picture=scene.views[0])
    queue = find_similar(model, scene.views[1].picture, [example], options=OPTIONS)
    count, wanted = hits(queue, scene.truth[1])
    assert count >= 0.4 * wanted


def test_examples_of_labels():
    labels = np.array([[0, 4], [9, 9]])
    examples = examples_of(labels, plane=2, classes={4: 1, 9: 5})
    assert [(one.plane, one.label, np.asarray(one.mask).sum()) for one in examples] == [(2, 1, 1), (2, 5, 2)]


def test_progress_and_cancel(model, scene):
    told = []
    few = SimilarOptions(points_per_plane=1)
    find_similar(model, scene.views, scene.masks(0, 1), options=few, progress=lambda *step: told.append(step))
    assert told[-1][0] == told[-1][1] == len(told)
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(CancelledError):
        find_similar(model, scene.views, scene.masks(0, 1), cancel=cancel)


def test_absence(queue, model, scene):
    assert queue.absence(0) == pytest.approx(1 - max(one.certainty for one in queue if one.plane == 0))
    queue.accept(0)
    assert queue.absence(queue.accepted[0].plane) == 0
    noise = np.random.default_rng(0).normal(128, 20, (256, 256)).clip(0, 255).astype(np.uint8)
    example = Example(scene.masks(0, 1)[0], picture=scene.views[0])
    assert find_similar(model, noise, [example], options=OPTIONS).absence() > 0.5


class TestBadInput:
    def test_no_example(self, model, scene):
        with pytest.raises(InputError, match="no example"):
            find_similar(model, scene.views, [])

    def test_an_empty_example(self, model, scene):
        with pytest.raises(InputError, match="at least one pixel"):
            find_similar(model, scene.views, [np.zeros(scene.truth[0].shape, bool)])

    def test_another_shape(self, model, scene):
        with pytest.raises(InputError, match="its plane has"):
            find_similar(model, scene.views, [np.ones((5, 5), bool)])

    def test_another_plane(self, model, scene):
        with pytest.raises(InputError, match="on plane 4"):
            find_similar(model, scene.views, [Example(scene.masks(0, 1)[0], plane=4)])

    def test_labels_of_another_shape_or_count(self, model, scene):
        examples = scene.masks(0, 1)
        with pytest.raises(InputError, match="2 planes but labels for 1"):
            find_similar(model, scene.views, examples, labels=[None])
        with pytest.raises(InputError, match="Labels have shape"):
            find_similar(model, scene.views, examples, labels=[np.ones((3, 3), int), None])

    @pytest.mark.parametrize(
        ("wrong", "named"),
        [
            ({"least_certainty": 2}, "least_certainty"),
            ({"points_per_plane": 0}, "points_per_plane"),
            ({"field": 3}, "field of view"),
            ({"overlap": float("nan")}, "overlap"),
        ],
    )
    def test_options(self, wrong, named):
        with pytest.raises(InputError, match=named):
            SimilarOptions(**wrong)

    def test_a_model_without_a_map(self, toys, scene):
        import zeroseg_toys

        flood = zeroseg_toys.Flood(zeroseg_toys.FLOOD)
        with pytest.raises(InputError, match="keeps no map"):
            find_similar(flood, scene.views[0].picture, scene.masks(0, 1))

    def test_a_model_without_points(self, toys, scene):
        import zeroseg_toys

        with pytest.raises(InputError, match="by points"):
            find_similar(zeroseg_toys.Words(zeroseg_toys.WORDS), scene.views[0].picture, scene.masks(0, 1))

    def test_a_flat_plane(self, model):
        with pytest.raises(InputError, match="same value"):
            find_similar(model, np.zeros((80, 80), np.uint8), [np.ones((80, 80), bool)])


def test_no_such_proposal(queue):
    with pytest.raises(InputError, match="no proposal"):
        queue.accept(len(queue))

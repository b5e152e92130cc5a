"""Cells of a plane, their prototypes, and the points that they bring."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from napari_zeroseg.cascade import Example, SimilarOptions, find_similar
from napari_zeroseg.cascade.features import Descriptor, PlaneFeatures, Surroundings, mean_in_cells
from napari_zeroseg.cascade.planes import overlap, patch_iou, patch_of
from napari_zeroseg.cascade.prototypes import learn
from napari_zeroseg.cascade.search import NOWHERE, prompts_for, similarity
from napari_zeroseg.view import View


class TestCells:
    @pytest.mark.parametrize(("shape", "cells", "step"), [((20, 12), (5, 3), 4.0), ((10, 7), (4, 3), 2.5)])
    def test_means_by_hand(self, shape, cells, step):
        pixels = np.random.default_rng(0).random(shape)
        rows, columns = ([round(i * step) for i in range(count + 1)] for count in cells)
        slow = [
            [pixels[r0 : min(r1, shape[0]), c0 : min(c1, shape[1])].mean() for c0, c1 in itertools.pairwise(columns)]
            for r0, r1 in itertools.pairwise(rows)
        ]
        np.testing.assert_allclose(mean_in_cells(pixels, cells, step), slow, atol=1e-6)

    def test_cells_smaller_than_pixels(self):
        pixels = np.array([[0.0, 1.0], [2.0, 3.0]])
        means = mean_in_cells(pixels, (4, 4), 0.5)
        assert means[0, 0] == 0
        assert means[3, 3] == 3
        assert np.isfinite(means).all()

    def test_what_is_outside_of_a_window_does_not_count(self, scene):
        features = PlaneFeatures(scene.views[0], 256)
        window = features.window(features.fields[0])
        mask = np.zeros(scene.views[0].shape, bool)
        mask[240:300, 250:300] = True
        cover = window.cover(patch_of(mask))
        assert cover.sum() * window.step**2 == pytest.approx(16 * 6)


class TestPatches:
    def test_shared_pixels(self):
        a, b = np.zeros((2, 20, 20), bool)
        a[2:10, 2:10] = True
        b[5:15, 5:9] = True
        both = (a & b).sum()
        assert patch_iou(patch_of(a), patch_of(b)) == pytest.approx(both / (a | b).sum())
        assert overlap(patch_of(a), patch_of(b)) == pytest.approx(both / b.sum())
        b[:] = False
        b[12:, 12:] = True
        assert patch_iou(patch_of(a), patch_of(b)) == overlap(patch_of(a), patch_of(b)) == 0


def described(direction, area=100) -> Descriptor:
    inside = np.zeros(8, np.float32)
    inside[direction] = 1
    return Descriptor(inside, np.zeros(8, np.float32), np.array([100, 10, 15], np.float32), area)


AROUND = Surroundings(np.zeros(8, np.float32), np.array([20, 5, 5], np.float32))
GOOD = np.array([[0.9, 0.95]] * 2, np.float32)


class TestPrototypes:
    def test_what_is_alike_is_more_certain(self):
        learnt = learn(1, [described(0)] * 3, AROUND)
        same, other = learnt.certainty([described(0), described(1)], GOOD)
        assert same > 0.8 > other

    def test_a_surprising_area_is_less_certain(self):
        learnt = learn(1, [described(0)] * 3, AROUND)
        usual, huge = learnt.certainty([described(0, 120), described(0, 3000)], GOOD)
        assert usual > huge

    def test_many_examples_of_two_kinds_have_a_prototype_each(self):
        learnt = learn(1, [described(0)] * 8 + [described(3)] * 8, AROUND)
        certain = learnt.certainty([described(0), described(3)], GOOD)
        assert len(learnt.directions) >= 2
        assert certain.min() > 0.8

    def test_what_was_rejected_sinks(self):
        before = learn(1, [described(0)] * 3, AROUND).certainty([described(0), described(1)], GOOD)
        after = learn(1, [described(0)] * 3, AROUND, [described(1)]).certainty([described(0), described(1)], GOOD)
        assert after[0] == pytest.approx(before[0])
        assert after[1] < before[1]


class TestSearch:
    def test_points_are_apart_and_the_most_similar_first(self):
        scores = np.random.default_rng(1).random((40, 30)).astype(np.float32)
        learnt = learn(1, [described(0, 600)], AROUND, threshold=0.4)
        prompts = prompts_for(scores, 4.0, (160, 120), learnt, SimilarOptions())
        points = np.array([prompt.points[0] for prompt in prompts])
        width = 2 * np.sqrt(600 / np.pi)
        apart = np.linalg.norm(points[:, None] - points[None], axis=-1)[np.triu_indices(len(points), 1)]
        assert apart.min() >= width / 2 - 1e-3
        assert (points >= 0).all()
        assert (points <= (159, 119)).all()

    def test_nothing_similar_no_points(self):
        learnt = learn(1, [described(0)], AROUND, threshold=0.4)
        assert prompts_for(np.zeros((9, 9), np.float32), 4.0, (36, 36), learnt, SimilarOptions(boxes=True)) == []

    def test_boxes_hold_similar_regions(self):
        scores = np.zeros((20, 20), np.float32)
        scores[5:10, 8:14] = 1
        learnt = learn(1, [described(0, 500)], AROUND, threshold=0.5)
        prompts = prompts_for(scores, 4.0, (80, 80), learnt, SimilarOptions(boxes=True))
        (box,) = [prompt.box for prompt in prompts if prompt.box is not None]
        np.testing.assert_allclose(box, [19.5, 31.5, 39.5, 55.5])


def test_several_windows_find_what_one_does(model, scene):
    """Windows of 256 pixels over 384: overlapping ones, and the plane's last cells."""
    queue = find_similar(
        model,
        scene.views[0],
        [Example(mask) for mask in scene.masks(0, 2)],
        options=SimilarOptions(field=256, points_per_plane=150),
    )
    truth = scene.truth[0]
    hits = [
        max((truth == label)[one.patch[0], one.patch[1]][one.patch[2]].mean() for label in np.unique(truth) if label)
        for one in queue
    ]
    assert len(hits) >= 2
    assert np.mean(np.array(hits) > 0.5) >= 0.6


def test_a_flat_part_is_nowhere(model):
    picture = np.full((300, 200), 128, np.uint8)
    picture[:90, :90] = np.random.default_rng(0).integers(0, 255, (90, 90))
    features = PlaneFeatures(View(model, picture), 100)
    learnt = learn(
        1,
        features.describe([patch_of(picture != 128)]),
        Surroundings(np.zeros(256, np.float32), np.ones(3, np.float32)),
    )
    scores = similarity(features, [learnt])[0]
    assert scores.shape == (192, 128)
    assert (scores[160:, 100:] == NOWHERE).all()
    assert (scores[:50, :50] > NOWHERE).all()

"""Patches, and how they move from plane to plane."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from napari_zeroseg.phantom import em_like_stack
from napari_zeroseg.propagation import masks
from napari_zeroseg.propagation.masks import Packed
from napari_zeroseg.propagation.motion import motion_in, plane_shift
from napari_zeroseg.tiling import Field, whole


def disc(row: float, column: float, radius: float, shape=(64, 64)) -> np.ndarray:
    r, c = np.mgrid[: shape[0], : shape[1]]
    return np.hypot(r - row, c - column) <= radius


def patch_of(mask: np.ndarray) -> masks.Patch:
    return masks.trimmed(slice(0, mask.shape[0]), slice(0, mask.shape[1]), mask)


def full(patch: masks.Patch, shape=(64, 64)) -> np.ndarray:
    return masks.crop(patch, slice(0, shape[0]), slice(0, shape[1]))


class TestMasks:
    def test_there_and_back(self):
        mask = disc(20, 30, 9)
        patch = patch_of(mask)
        assert masks.extent(patch) == (11, 21, 29, 39)
        assert masks.area(patch) == mask.sum()
        np.testing.assert_array_equal(full(patch), mask)
        np.testing.assert_array_equal(full(Packed.of(patch).patch), mask)
        assert masks.area(Packed.of(masks.EMPTY).patch) == 0

    @pytest.mark.parametrize("other", [disc(24, 33, 7), disc(50, 50, 4), np.zeros((64, 64), bool)])
    def test_iou_is_that_of_whole_planes(self, other):
        mask = disc(20, 30, 9)
        expected = (mask & other).sum() / (mask | other).sum()
        assert masks.iou(patch_of(mask), patch_of(other)) == expected
        assert masks.iou(masks.EMPTY, masks.EMPTY) == 1

    def test_moved_beyond_the_edge(self):
        mask = disc(20, 30, 9)
        np.testing.assert_array_equal(full(masks.moved(patch_of(mask), (5, -4), (64, 64))), disc(25, 26, 9))
        np.testing.assert_array_equal(full(masks.moved(patch_of(mask), (-16, 0), (64, 64))), disc(4, 30, 9))
        assert masks.area(masks.moved(patch_of(mask), (60, 0), (64, 64))) == 0

    def test_blended_lies_between(self):
        small, large = patch_of(disc(30, 30, 6)), patch_of(disc(30, 30, 12))
        assert masks.iou(masks.blended(small, large, 0.5), patch_of(disc(30, 30, 9))) > 0.9
        assert masks.iou(masks.blended(small, large, 0), small) == 1
        assert masks.iou(masks.blended(small, large, 1), large) == 1

    def test_objects_of_a_plane(self):
        labels = disc(20, 30, 9) * 7 + disc(50, 50, 5) * 2_000_000_000
        found = masks.of_labels(labels)
        assert list(found) == [7, 2_000_000_000]
        np.testing.assert_array_equal(full(found[7]), labels == 7)


@pytest.fixture(scope="module")
def planes():
    return em_like_stack(2, 256, seed=5)


class TestMotion:
    @pytest.mark.parametrize("shift", [(0, 0), (31, -18), (-45, 7)])
    def test_a_shifted_plane_is_aligned(self, planes, shift):
        raw, _ = planes
        assert np.abs(np.subtract(plane_shift(raw[0], np.roll(raw[1], shift, (0, 1))), shift)).max() <= 2

    def test_a_shift_that_explains_nothing_is_not_believed(self):
        rng = np.random.default_rng(0)
        noise = rng.integers(0, 256, (2, 128, 128)).astype(np.uint8)
        assert plane_shift(noise[0], noise[1]) == (0, 0)

    def test_an_outline_is_carried_along_by_the_flow(self, planes):
        raw, truth = planes
        rows, columns = np.mgrid[:256, :256].astype(float)
        swirl = [4 * np.sin(columns / 40), 3 * np.cos(rows / 50)]
        places = [rows + swirl[0], columns + swirl[1]]
        bent = ndimage.map_coordinates(raw[0].astype(float), places, order=1, mode="nearest").astype(np.uint8)
        motion = motion_in(whole((256, 256)), raw[0], bent, (0, 0))
        for label, patch in masks.of_labels(truth[0]).items():
            true = patch_of(ndimage.map_coordinates((truth[0] == label).astype(float), places, order=1) > 0.5)
            assert masks.iou(motion.carried(patch), true) > max(0.85, masks.iou(patch, true))

    def test_nothing_is_carried_where_there_is_nothing(self, planes):
        raw, _ = planes
        motion = motion_in(Field(0, 0, 64, 64), raw[0], raw[1], (0, 0))
        assert masks.area(motion.carried(masks.EMPTY)) == 0
        flat = np.full((64, 64), 9, np.uint8)
        assert not motion_in(Field(0, 0, 64, 64), flat, flat, (0, 0)).flow.any()

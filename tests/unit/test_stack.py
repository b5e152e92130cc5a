"""segment_stack: any array in, labels out, one plane at a time."""

from __future__ import annotations

import logging

import dask.array as da
import numpy as np
import pytest

from napari_zeroseg.embeddings import EmbeddingStore
from napari_zeroseg.errors import CancelledError, InputError, InputTypeError
from napari_zeroseg.instances import OverlapPolicy
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.metrics import iou
from napari_zeroseg.phantom import em_like_stack
from napari_zeroseg.prompts import Prompt
from napari_zeroseg.registry import load_model
from napari_zeroseg.stack import PlaneReport, Seed, StackOptions, seeds_by_plane, segment_stack


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture(scope="module")
def store():
    """One for all tests, so that each plane is encoded once."""
    return EmbeddingStore()


@pytest.fixture(scope="module")
def stack():
    return em_like_stack(3, 256)


def prompts_of(truth: np.ndarray) -> list[Prompt]:
    """A box around each object of a plane."""
    found = []
    for label in np.unique(truth[truth > 0]):
        rows, columns = np.nonzero(truth == label)
        found.append(Prompt(box=(rows.min(), columns.min(), rows.max(), columns.max())))
    return found


class TestShapes:
    def test_a_stack(self, stack, model, store):
        raw, truth = stack
        labels = segment_stack(raw, model, {z: prompts_of(truth[z])[:1] for z in range(3)}, store=store)
        assert (labels.shape, labels.dtype) == ((3, 256, 256), np.int32)
        assert [iou(labels[z] == z + 1, truth[z] == 1) > 0.8 for z in range(3)] == [True] * 3

    def test_a_plane_and_a_colour_picture_are_stacks_of_one(self, stack, model, store):
        raw, truth = stack
        grey = segment_stack(raw[1], model, prompts_of(truth[1]), store=store)
        colour = segment_stack(np.dstack([raw[1]] * 3), model, prompts_of(truth[1]), store=store)
        assert grey.shape == colour.shape == (1, 256, 256)
        assert iou(grey[0] > 0, colour[0] > 0) > 0.95

    def test_only_planes_that_are_asked_for_are_computed(self, stack, model, store):
        raw, truth = stack
        computed = []

        def read(block, block_info=None):
            if block_info:
                computed.append(block_info[0]["chunk-location"][0])
            return block

        lazy = da.from_array(raw, chunks=(1, 256, 256)).map_blocks(read, dtype=raw.dtype, meta=raw[:0])
        labels = segment_stack(lazy, model, prompts_of(truth[1]), planes=[1], store=store)
        assert computed == [1]
        assert [plane.any() for plane in labels] == [False, True, False]

    def test_more_axes_are_planes_in_a_row(self, stack, model, store):
        raw, truth = stack
        labels = segment_stack(raw[None], model, prompts_of(truth[2]), planes=[2], store=store)
        assert labels.shape == (3, 256, 256)


class TestSeeds:
    box = Prompt(box=(1, 2, 3, 4))
    point = Prompt(points=[(5, 6)])

    def numbers(self, prompts, count=4, planes=None):
        return {z: [seed.label for seed in seeds] for z, seeds in seeds_by_plane(prompts, count, planes).items()}

    def test_prompts_for_every_plane_have_one_number(self):
        assert self.numbers([self.box, self.point], 2) == {0: [1, 2], 1: [1, 2]}
        assert self.numbers([self.box], 4, [3, 1]) == {1: [1], 3: [1]}

    def test_prompts_of_single_planes_are_numbered_on(self):
        prompts = {2: [self.box], 0: [self.point, self.box], 1: []}
        assert self.numbers(prompts) == {0: [1, 2], 2: [3]}
        assert self.numbers(prompts, planes=[2, 3]) == {2: [3]}

    def test_labels_of_seeds_are_kept_and_not_given_again(self):
        assert self.numbers([self.box, Seed(1, self.point), self.point], 1) == {0: [2, 1, 3]}
        assert self.numbers({0: [self.box], 1: [Seed(7, self.box)], 2: [self.box]}) == {0: [8], 1: [7], 2: [9]}

    def test_written_as_they_are(self, stack, model, store):
        raw, truth = stack
        (first, *_) = prompts_of(truth[1])
        labels = segment_stack(raw, model, {1: [Seed(40, first)]}, store=store)
        assert set(np.unique(labels)) == {0, 40}

    @pytest.mark.parametrize("label", [0, -1, 2**31])
    def test_labels_that_are_none(self, label):
        with pytest.raises(InputError, match="Objects are numbered from 1 to"):
            Seed(label, self.box)

    @pytest.mark.parametrize("prompts", [{4: [box]}, {-1: [box]}])
    def test_planes_that_are_none(self, prompts):
        with pytest.raises(InputError, match=r"There is no plane -?\d: planes are counted from 0 to 3"):
            self.numbers(prompts)
        with pytest.raises(InputError, match="There is no plane 9"):
            self.numbers([self.box], planes=[9])

    @pytest.mark.parametrize("prompts", [box, [(5, 6)], {0: [None]}, 3])
    def test_what_is_no_prompt(self, prompts):
        with pytest.raises(InputTypeError, match="expected"):
            self.numbers(prompts)


class TestRunning:
    def test_reports(self, stack, model, store):
        raw, truth = stack
        reports = []
        labels = segment_stack(raw, model, {1: prompts_of(truth[1])[:2]}, store=store, progress=reports.append)
        (report,) = reports
        assert report.plane == 1
        assert [item.area for item in report.objects] == [np.count_nonzero(labels == 1), np.count_nonzero(labels == 2)]
        assert PlaneReport.from_dict(report.as_dict()) == report

    def test_a_prompt_outside_is_told_before_anything_is_computed(self, stack, model):
        reports = []
        prompts = {0: [Prompt(points=[(5, 5)])], 2: [Prompt(points=[(5, 256)])]}
        with pytest.raises(InputError, match="lies outside the picture"):
            segment_stack(stack[0], model, prompts, progress=reports.append)
        assert reports == []

    def test_a_plane_that_says_nothing_is_left_empty_and_told(self, stack, model, store, caplog):
        raw, truth = stack
        floats = raw.astype(np.float32)
        floats[0] = np.nan
        reports = []
        with caplog.at_level(logging.WARNING, logger="napari_zeroseg"):
            labels = segment_stack(floats[:2], model, prompts_of(truth[1])[:1], store=store, progress=reports.append)
        assert caplog.messages[0].startswith("Plane 0 was left empty: The plane holds no number")
        assert [bool(report.fault) for report in reports] == [True, False]
        assert [plane.any() for plane in labels] == [False, True]

    def test_a_plane_that_cannot_be_read_is_left_empty(self, stack, model, store, caplog):
        raw, truth = stack

        def read(block, block_info=None):
            if block_info and block_info[0]["chunk-location"][0] == 0:
                raise OSError("the disk of the picture is away")
            return block

        lazy = da.from_array(raw, chunks=(1, 256, 256)).map_blocks(read, dtype=raw.dtype, meta=raw[:0])
        labels = segment_stack(lazy, model, prompts_of(truth[1])[:1], planes=[0, 1], store=store)
        assert "the disk of the picture is away" in caplog.text
        assert [plane.any() for plane in labels] == [False, True, False]

    def test_a_plane_that_the_contrast_makes_flat_is_left_empty(self, stack, model, store):
        raw, truth = stack
        dark = raw.copy()
        dark[0] //= 10
        reports = []
        options = StackOptions(limits=(100.0, 200.0))
        prompts = prompts_of(truth[1])[:1]
        segment_stack(dark[:2], model, prompts, options=options, store=store, progress=reports.append)
        assert reports[0].fault.startswith("All pixels look the same with contrast limits (100.0, 200.0)")
        assert not reports[1].fault

    def test_cancel(self, stack, model, store):
        raw, truth = stack
        token = CancelToken()
        reports = []

        def progress(report):
            reports.append(report)
            token.cancel()

        with pytest.raises(CancelledError):
            segment_stack(raw, model, prompts_of(truth[1]), store=store, progress=progress, cancel=token)
        assert len(reports) == 1

    def test_options(self, stack, model, store):
        raw, truth = stack
        twice = prompts_of(truth[1])[:1] * 2
        options = StackOptions(limits=(20.0, 230.0), field="plane", policy=OverlapPolicy.REPLACE)
        labels = segment_stack(raw, model, {1: twice}, options=options, store=store)
        assert set(np.unique(labels)) == {0, 2}

"""Segment everything: the grid, the windows, which masks stay, and what is made of them."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest

from napari_zeroseg.automatic import (
    AutomaticMask,
    AutomaticOptions,
    filter_area,
    filter_class,
    segment_everything,
    table,
    to_labels,
    write_table,
)
from napari_zeroseg.automatic.candidates import candidates_of
from napari_zeroseg.automatic.class_filter import ClassFilter, classes_of
from napari_zeroseg.automatic.overlap import suppress
from napari_zeroseg.automatic.regions import mask_without_small_regions, without_small_regions
from napari_zeroseg.automatic.windows import windows_of
from napari_zeroseg.errors import CancelledError, InputError, WriteError
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.metrics import iou
from napari_zeroseg.models.pipelines import SamFrame, inner_shape
from napari_zeroseg.phantom import em_like_stack
from napari_zeroseg.planes import Planes
from napari_zeroseg.prompts import PromptKind
from napari_zeroseg.registry import load_model
from napari_zeroseg.segmenter import Prediction
from napari_zeroseg.tiling import Field, whole
from napari_zeroseg.view import View


def mask_at(rows: slice, columns: slice, pixels=None, **scores) -> AutomaticMask:
    pixels = np.ones((rows.stop - rows.start, columns.stop - columns.start), bool) if pixels is None else pixels
    given = {"predicted_iou": 0.9, "stability_score": 0.95, **scores}
    blank = AutomaticMask((rows, columns, pixels), 0, (0, 0, 0, 0), point=(0, 0), crop_box=Field(0, 0, 9, 9), **given)
    return blank.with_patch(blank.patch)


def brute_suppress(boxes, scores, threshold):
    """All pairs, pixel areas by hand."""
    stays = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        for j in stays:
            a, b = boxes[i], boxes[j]
            height, width = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            shared = height * width if height > 0 and width > 0 else 0
            areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
            if shared and shared / (sum(areas) - shared) > threshold:
                break
        else:
            stays.append(i)
    return stays


class TestSuppress:
    @pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
    @pytest.mark.parametrize("seed", range(5))
    def test_equals_all_pairs(self, threshold, seed):
        rng = np.random.default_rng(seed)
        corners = rng.integers(0, 40, (80, 2))
        boxes = np.concatenate([corners, corners + rng.integers(0, 25, (80, 2))], 1)  # some have no area
        scores = rng.integers(0, 20, 80) / 20  # with ties
        assert suppress(boxes, scores, threshold) == brute_suppress(boxes.tolist(), scores.tolist(), threshold)

    def test_nothing(self):
        assert suppress([], [], 0.5) == []

    def test_what_is_not_good_suppresses_nothing_and_what_is_suppressed_is_not_asked(self):
        boxes = [(0, 0, 10, 10), (0, 0, 10, 11), (0, 0, 11, 10), (50, 50, 60, 60)]
        asked = []

        def is_good(i):
            asked.append(i)
            return i != 0

        assert suppress(boxes, [4, 3, 2, 1], 0.5, is_good) == [1, 3]
        assert asked == [0, 1, 3]

    def test_boxes_that_decide_are_looked_at_exactly(self):
        exact = [(0, 0, 100, 100), (0, 0, 100, 71), (0, 0, 100, 69), (0, 0, 20, 20)]
        rough = [(0, 0, 100, 100), (0, 0, 100, 69), (0, 0, 100, 71), (0, 0, 20, 20)]
        asked = set()

        def exact_box(i):
            asked.add(i)
            return exact[i]

        assert suppress(rough, [4, 3, 2, 1], 0.7) == [0, 1, 3]
        assert suppress(rough, [4, 3, 2, 1], 0.7, exact_box=exact_box) == [0, 2, 3]
        assert 3 not in asked


class TestOptions:
    @pytest.mark.parametrize(
        ("wrong", "named"),
        [
            ({"points_per_side": 0}, "points_per_side"),
            ({"points_per_side": None}, "points_per_side or point_grids"),
            ({"points_per_side": 2.5}, "points_per_side"),
            ({"pred_iou_thresh": 1.2}, "pred_iou_thresh"),
            ({"stability_score_thresh": float("nan")}, "stability_score_thresh"),
            ({"stability_score_offset": 0}, "stability_score_offset"),
            ({"crop_overlap_ratio": 1}, "crop_overlap_ratio"),
            ({"min_mask_region_area": -1}, "min_mask_region_area"),
            ({"field": "window"}, "field of view"),
            ({"field": 8}, "field of view"),
            ({"field": 512, "crop_n_layers": 1}, "Crops"),
            ({"points_per_side": None, "point_grids": [[(0.5, 1.5)]]}, "point_grids"),
            ({"points_per_side": None, "point_grids": [[(0.5, 0.5)]], "crop_n_layers": 1}, "point_grids"),
        ],
    )
    def test_values_that_make_no_sense(self, wrong, named):
        with pytest.raises(InputError, match=named):
            AutomaticOptions(**wrong)


class TestWindows:
    def test_a_plane_of_moderate_size_is_one_window_with_a_square_grid(self):
        (window,) = windows_of((600, 1200), AutomaticOptions(points_per_side=4))
        assert window.field == Field(0, 0, 600, 1200)
        assert window.points[0].tolist() == [75, 150]
        assert window.points[1].tolist() == [75, 450]  # row by row
        assert len(window.points) == 16

    def test_crops_are_those_of_segment_anything(self):
        """Worked out by hand: overlap int(0.25 * 300) = 75, then int(0.25 * 300 / 2) = 37."""
        options = AutomaticOptions(points_per_side=8, crop_n_layers=2, crop_overlap_ratio=0.25)
        windows = windows_of((300, 401), options)
        fields = [window.field for window in windows]
        assert len(fields) == 1 + 4 + 16
        assert fields[0] == Field(0, 0, 300, 401)
        assert fields[1:5] == [
            Field(0, 0, 188, 238),
            Field(113, 0, 300, 238),
            Field(0, 163, 188, 401),
            Field(113, 163, 300, 401),
        ]
        assert fields[5] == Field(0, 0, math.ceil((37 * 3 + 300) / 4), math.ceil((37 * 3 + 401) / 4))

    def test_each_layer_may_have_fewer_clicks(self):
        options = AutomaticOptions(points_per_side=8, crop_n_layers=2, crop_n_points_downscale_factor=2)
        counts = [len(window.points) for window in windows_of((300, 300), options)]
        assert counts == [64, *[16] * 4, *[4] * 16]

    def test_own_grids(self):
        options = AutomaticOptions(points_per_side=None, point_grids=[[(0.25, 0.5), (1, 1)]])
        (window,) = windows_of((100, 200), options)
        assert window.points.tolist() == [[25, 100], [99.5, 199.5]]

    @pytest.mark.parametrize("shape", [(4096, 4096), (1500, 1100), (3000, 700)])
    def test_a_large_plane_is_searched_at_several_scales_and_each_click_once(self, shape):
        options = AutomaticOptions(points_per_side=16)
        windows = windows_of(shape, options)
        by_side: dict[int, list[np.ndarray]] = {}
        for window in windows:
            points = window.points + np.array(window.field[:2])
            assert (window.points >= 0).all()
            assert (window.points <= np.array(window.field.shape) - 0.5).all()
            by_side.setdefault(max(window.field.shape), []).append(points)
        assert windows[0].field == whole(shape)
        assert min(by_side) == 1024
        for side, several in by_side.items():
            clicks = np.concatenate(several)
            assert len(np.unique(clicks, axis=0)) == len(clicks)
            assert len(clicks) == round(shape[0] * 16 / side) * round(shape[1] * 16 / side)

    def test_what_a_window_cuts(self):
        windows = {window.field: window for window in windows_of((2048, 2048), AutomaticOptions(points_per_side=4))}
        corner = windows[Field(0, 0, 1024, 1024)]
        assert not corner.cuts((0, 0, 500, 500), (2048, 2048))  # at the sides of the plane
        assert corner.cuts((0, 0, 1010, 500), (2048, 2048))
        assert not windows[Field(0, 0, 2048, 2048)].cuts((0, 0, 2047, 2047), (2048, 2048))


class TestCandidates:
    """Low resolution against the pixels."""

    @pytest.mark.parametrize("shape", [(1024, 1024), (700, 1024), (300, 220), (90, 128), (3000, 2000)])
    def test_boxes_and_stability_in_cells_are_near_those_in_pixels(self, shape):
        inner = inner_shape(*shape, 1024)
        frame = SamFrame(shape, inner)
        rng = np.random.default_rng(0)
        y, x = np.mgrid[:256, :256]
        logits = []
        for _ in range(30):
            row, column = rng.uniform(0, frame.cells[0]), rng.uniform(0, frame.cells[1])
            radius, slope = rng.uniform(4, 80), rng.uniform(0.3, 4)
            logits.append(slope * (radius - np.hypot(y - row, (x - column) * rng.uniform(0.6, 1.6))))
        prediction = Prediction(np.ones(30, np.float32), np.array(logits, np.float32), frame, shape, whole(shape))
        found = list(candidates_of(prediction, (0.0, 0.0), 1.0, 0.0))
        assert len(found) == 30
        pixel = max(1.0, max(shape) / 1024)
        for number, candidate in enumerate(found):
            assert prediction.extent(number) == candidate.exact_box
            np.testing.assert_allclose(candidate.box, candidate.exact_box, atol=1.5 * pixel)
            kept, whole_mask = candidate.patch, prediction.patch(number)
            assert kept[:2] == whole_mask[:2]
            assert iou(kept[2], whole_mask[2]) > 0.999
        exact = {candidate.box: candidate.exact_stability(1.0) for candidate in found}
        for threshold in (0.5, 0.8, 0.95):
            passed = {one.box: one.is_doubtful for one in candidates_of(prediction, (0.0, 0.0), 1.0, threshold)}
            for box, stability in exact.items():
                if stability >= threshold:
                    assert box in passed
                else:
                    assert passed.get(box, True)  # dropped, or to be looked at exactly

    def test_what_lies_on_the_padding_alone_is_nothing(self):
        shape = (500, 1000)
        logits = np.full((1, 256, 256), -5, np.float32)
        logits[0, 200:] = 5
        prediction = Prediction(np.ones(1), logits, SamFrame(shape, inner_shape(*shape, 1024)), shape, whole(shape))
        assert list(candidates_of(prediction, (0.0, 0.0), 1.0, 0.95)) == []


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture(scope="module")
def stack():
    return em_like_stack(1, 256)


OPTIONS = AutomaticOptions(points_per_side=8, pred_iou_thresh=0.8, stability_score_thresh=0.9)


@pytest.fixture(scope="module")
def found(model, stack):
    return segment_everything(model, stack[0][0], OPTIONS)


class Plain:
    """The same model through the plain protocol alone, its answers in a frame that says nothing of its cells."""

    def __init__(self, model) -> None:
        self.model, self.spec, self.model_key = model, model.spec, model.model_key

    def encode(self, image):
        return self.model.encode(image)

    def predict(self, embedding, prompts, multimask=False):
        answers = self.model.predict(embedding, prompts, multimask)
        return [Prediction(a.scores, a.logits, _Opaque(a.frame), a.shape, a.field) for a in answers]


class _Opaque:
    def __init__(self, frame) -> None:
        self._frame = frame

    def patch(self, logits):
        return self._frame.patch(logits)


class TestSearch:
    def test_the_objects_of_a_phantom_are_found(self, found, stack):
        truth = stack[1][0]
        best = []
        for label in np.unique(truth[truth > 0]):
            best.append(max(iou(to_labels([mask], truth.shape) > 0, truth == label) for mask in found))
        assert np.mean(best) > 0.8

    def test_masks_are_described_rightly(self, found, stack):
        shape = stack[0][0].shape
        for mask in found:
            rows, columns = np.nonzero(to_labels([mask], shape))
            assert mask.area == len(rows)
            assert mask.box == (rows.min(), columns.min(), rows.max(), columns.max())
            assert mask.predicted_iou > 0.8
            assert 0.9 <= mask.stability_score <= 1
            assert mask.crop_box == whole(shape)

    def test_another_package_s_model_gives_the_same(self, model, found, stack):
        slowly = segment_everything(Plain(model), stack[0][0], OPTIONS)
        assert len(slowly) == pytest.approx(len(found), abs=1)
        boxes = {mask.box for mask in found}
        assert np.mean([mask.box in boxes for mask in slowly]) >= 0.9

    def test_a_view_and_colour_and_progress(self, model, found, stack):
        told = []
        view = View(model, stack[0][0])
        again = segment_everything(model, view, OPTIONS, progress=lambda done, total: told.append((done, total)))
        assert [mask.box for mask in again] == [mask.box for mask in found]
        assert told[-1] == (64, 64)
        assert [done for done, _ in told] == sorted({done for done, _ in told})
        coloured = segment_everything(model, np.dstack([stack[0][0]] * 3), OPTIONS)
        assert len(coloured) == pytest.approx(len(found), abs=2)

    def test_crops_find_more_and_repeat_nothing(self, model, stack):
        crops = AutomaticOptions(
            points_per_side=4, pred_iou_thresh=0.7, stability_score_thresh=0.8, crop_n_layers=1, field="plane"
        )
        found = segment_everything(model, stack[0][0], crops)
        assert {mask.crop_box for mask in found} - {whole((256, 256))}
        boxes = [mask.box for mask in found]
        assert sorted(suppress(boxes, np.ones(len(boxes)), 0.75)) == list(range(len(boxes)))

    def test_windows_of_a_chosen_side(self, model, stack):
        windows = AutomaticOptions(points_per_side=4, pred_iou_thresh=0.7, stability_score_thresh=0.8, field=128)
        found = segment_everything(model, stack[0][0], windows)
        assert {mask.crop_box.shape for mask in found} >= {(128, 128)}
        assert all(0 <= mask.box[0] <= mask.box[2] < 256 for mask in found)

    def test_a_window_without_contrast_is_passed_over(self, model):
        picture = np.zeros((64, 128), np.uint8)
        picture[10:40, 80:110] = 200
        assert segment_everything(model, picture, AutomaticOptions(points_per_side=4, field=64)) is not None

    def test_cancelling(self, model, stack):
        token = CancelToken()
        asked = []

        def stop(done, total):
            asked.append(done)
            token.cancel()

        with pytest.raises(CancelledError):
            segment_everything(model, stack[0][0], OPTIONS, cancel=token, progress=stop)
        assert asked == [model.prompts_at_once]

    def test_a_model_for_boxes_alone_says_so(self, model, stack):
        from dataclasses import replace

        class Boxes(Plain):
            def __init__(self, model) -> None:
                super().__init__(model)
                self.spec = replace(model.spec, accepts=frozenset({PromptKind.BOX}))

        with pytest.raises(InputError, match="choose a model that takes points"):
            segment_everything(Boxes(model), stack[0][0])

    def test_a_constant_picture(self, model):
        with pytest.raises(InputError):
            segment_everything(model, np.zeros((64, 64), np.uint8))


class TestLabels:
    big = mask_at(slice(0, 8), slice(0, 8), predicted_iou=0.99)
    small = mask_at(slice(2, 4), slice(2, 5), predicted_iou=0.9)

    def test_the_smaller_one_is_seen(self):
        labels = to_labels([self.small, self.big], (10, 10))
        assert labels.dtype == np.int32
        assert np.count_nonzero(labels == 1) == 6
        assert np.count_nonzero(labels == 2) == 58

    def test_or_the_one_that_the_network_trusts(self):
        labels = to_labels([self.small, self.big], (10, 10), on_top="predicted_iou", first=5)
        assert np.unique(labels).tolist() == [0, 6]

    def test_a_choice_that_is_none(self):
        with pytest.raises(InputError, match="on_top"):
            to_labels([self.big], (10, 10), on_top="size")

    def test_areas(self):
        assert filter_area([self.big, self.small], least=6, most=6) == [self.small]
        assert filter_area([self.big, self.small], least=15.9, spacing=(0.5, 0.5)) == [self.big]
        with pytest.raises(InputError, match="smaller number"):
            filter_area([], 5, 4)

    def test_classes(self):
        classes = np.zeros((10, 10), np.uint8)
        classes[2:4, 2:4] = 3
        assert filter_class([self.big, self.small], classes, 3) == [self.small]
        assert filter_class([self.big, self.small], classes, {0, 3}) == [self.big, self.small]
        assert filter_class([self.big, self.small], lambda mask: mask.area, [64]) == [self.big]
        with pytest.raises(InputError, match="smaller than the plane"):
            filter_class([self.big], classes[:5], 3)
        with pytest.raises(InputError, match="whole numbers"):
            filter_class([self.big], classes / 2, 3)

    def test_classes_of_planes(self):
        maps = np.zeros((3, 10, 10))
        maps[1, 2:4, 2:4] = 3
        maps[2] = -1
        small = ClassFilter(Planes.of(maps), (3,))
        assert small.on(0)([self.big, self.small]) == []
        assert small.on(1)([self.big, self.small]) == [self.small]
        maps[0, 9, 9], maps[1] = np.inf, maps[1] + 0.5
        for plane in range(3):
            with pytest.raises(InputError, match=f"whole numbers from 0, and plane {plane}"):
                small.on(plane)
        with pytest.raises(InputError, match="No class is wanted"):
            ClassFilter(Planes.of(maps), ())

    def test_numbers_of_classes(self):
        assert classes_of(" 3, 1,3") == (1, 3)
        for text in ("", "1,", "-1", "1.5", "one", "²"):
            with pytest.raises(InputError, match=r"such as 1,3"):
                classes_of(text)

    def test_the_table(self, tmp_path):
        rows = table([self.small, self.big], plane=7, first=3)
        assert [row["label"] for row in rows] == [3, 4]
        assert rows[0]["area"] == 6
        written = write_table(tmp_path / "objects.csv", rows)
        with written.open(newline="") as file:
            read = list(csv.DictReader(file))
        assert [{key: float(value) for key, value in row.items()} for row in read] == rows
        assert [path.name for path in tmp_path.iterdir()] == ["objects.csv"]

    def test_a_table_of_nothing_has_its_columns(self, tmp_path):
        assert write_table(tmp_path / "none.csv", []).read_text().startswith("label,plane,area")

    @pytest.mark.parametrize("name", ["objects.txt", "missing/objects.csv"])
    def test_a_table_that_cannot_be_written(self, tmp_path, name):
        with pytest.raises(WriteError):
            write_table(tmp_path / name, [])


class TestSmallRegions:
    def test_holes_and_parts(self):
        pixels = np.ones((12, 20), bool)
        pixels[:, 10:15] = False
        pixels[2:4, 2:4] = False  # a hole of 4
        pixels[6:9, 2:8] = False  # a hole of 18
        pixels[:, 15:] = False
        pixels[0, 19] = True  # a part of 1
        rows, columns, cleaned = mask_without_small_regions((slice(5, 17), slice(3, 23), pixels), 10)
        assert (rows, columns) == (slice(5, 17), slice(3, 13))
        assert cleaned[2:4, 2:4].all()
        assert not cleaned[6:9, 2:8].any()

    def test_a_mask_of_small_parts_keeps_the_largest(self):
        pixels = np.zeros((5, 9), bool)
        pixels[0, 0], pixels[2:4, 5:8] = True, True
        rows, columns, cleaned = mask_without_small_regions((slice(0, 5), slice(0, 9), pixels), 100)
        assert (rows, columns, cleaned.all()) == (slice(2, 4), slice(5, 8), True)

    def test_of_masks_that_have_become_alike_the_untouched_one_stays(self):
        holed = np.ones((20, 20), bool)
        holed[5, 5] = False
        touched = mask_at(slice(0, 20), slice(0, 20), holed, predicted_iou=0.99)
        clean = mask_at(slice(0, 20), slice(0, 20))
        assert without_small_regions([touched, clean], 4, 0.7) == [clean]
        (filled,) = without_small_regions([touched], 4, 0.7)
        assert (filled.area, filled.predicted_iou) == (400, 0.99)

    def test_a_gap_open_to_the_side_is_no_hole(self):
        pixels = np.ones((6, 6), bool)
        pixels[2, 0:2] = False
        patch = (slice(0, 6), slice(0, 6), pixels)
        assert mask_without_small_regions(patch, 5) is patch

"""A prediction against the truth: figures counted by hand, and oracles that do it the slow way."""

from __future__ import annotations

import csv
import json
import math

import dask.array as da
import numpy as np
import pytest
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from skimage.metrics import adapted_rand_error, variation_of_information

import napari_zeroseg as zs
from napari_zeroseg.errors import CancelledError, InputError, InputTypeError
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.metrics import iou
from napari_zeroseg.phantom import em_like_stack

THRESHOLDS = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]


def blobs(seed: int, shape: tuple[int, ...], count: int) -> np.ndarray:
    """Labels as random as they come: the nearest of some points, with holes and with background between them."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 1, (count, len(shape))) * shape
    where = np.stack(np.indices(shape), -1)
    away = np.linalg.norm(where[..., None, :] - points, axis=-1)
    labels = away.argmin(-1) + 1
    labels[away.min(-1) > 0.3 * max(shape) / count ** (1 / len(shape)) + 1] = 0
    labels[rng.uniform(size=shape) < 0.02] = 0
    return labels


def disturbed(labels: np.ndarray, seed: int) -> np.ndarray:
    """The same objects with other numbers, moved a little, some lost, some joined."""
    rng = np.random.default_rng(seed)
    numbers = np.r_[0, rng.permutation(labels.max()) + 3]
    numbers[rng.integers(1, len(numbers))] = 0
    if len(numbers) > 3:
        numbers[rng.integers(1, len(numbers))] = numbers[rng.integers(1, len(numbers))]
    return np.roll(numbers[labels], rng.integers(-1, 2, 2), (-2, -1))


def test_masks_counted_by_hand():
    truth = np.zeros((4, 6), int)
    truth[1:3, 1:5] = 1  # 8 pixels
    prediction = np.zeros((4, 6), int)
    prediction[1:4, 2:4] = 1  # 6, of which 4 are true
    row = zs.evaluate(prediction, truth).foreground
    assert (row.truth_size, row.prediction_size) == (8, 6)
    assert (row.iou, row.dice, row.precision, row.recall) == (4 / 10, 8 / 14, 4 / 6, 4 / 8)


def test_distances_by_hand_with_a_spacing():
    """Two points, 3 rows of 2 and 4 columns of 0.5 apart: 6 and 2, so the square root of 40."""
    truth, prediction = np.zeros((8, 8), int), np.zeros((8, 8), int)
    truth[1, 1] = prediction[4, 5] = 1
    row = zs.evaluate(prediction, truth, (2, 0.5)).foreground
    assert row.assd == pytest.approx(math.sqrt(40))
    assert row.hd95 == pytest.approx(math.sqrt(40))
    assert row.nsd == 0
    assert zs.evaluate(prediction, truth, (2, 0.5), tolerance=math.sqrt(40)).foreground.nsd == 1


def test_objects_counted_by_hand():
    truth = np.zeros((1, 40), int)
    truth[0, 0:10] = 1
    truth[0, 10:20] = 2
    truth[0, 30:34] = 3
    prediction = np.zeros((1, 40), int)
    prediction[0, 0:10] = 7  # exact
    prediction[0, 14:20] = 8  # 6 of 10: IoU 0.6
    prediction[0, 36:40] = 9  # nothing there
    report = zs.evaluate(prediction, truth)
    scores = report.instances
    assert report.mode == "instances"
    assert [(at.tp, at.fp, at.fn) for at in scores.thresholds] == [(2, 1, 1)] * 3 + [(1, 2, 2)] * 7
    assert (scores.thresholds[0].f1, scores.thresholds[0].ap) == (4 / 6, 2 / 4)
    assert (scores.thresholds[0].precision, scores.thresholds[0].recall) == (2 / 3, 2 / 3)
    assert scores.mean_ap == pytest.approx((3 * 2 / 4 + 7 * 1 / 5) / 10)
    assert scores.mean_iou == pytest.approx((1 + 0.6 + 0) / 3)
    assert scores.mean_dice == pytest.approx((1 + 12 / 16 + 0) / 3)
    assert (scores.sq, scores.rq) == (pytest.approx(0.8), pytest.approx(2 / 3))
    assert scores.pq == pytest.approx(0.8 * 2 / 3)
    assert scores.sbd == pytest.approx((1 + 12 / 16) / 3)
    assert [(row.kind, row.label, row.match, row.matched) for row in report.objects] == [
        ("object", 1, 7, True),
        ("object", 2, 8, True),
        ("object", 3, 0, False),
        ("extra", 9, 0, False),
    ]


@pytest.mark.parametrize(("pixels", "thresholds"), [(10, 1), (11, 2), (12, 3)])
def test_an_iou_equal_to_the_threshold_is_a_match(pixels, thresholds):
    """10, 11 and 12 of 20 pixels: the divisions come out as exactly 0.50, 0.55 and 0.60."""
    truth, prediction = np.zeros((2, 20), int), np.zeros((2, 20), int)
    truth[0] = 1
    truth[1, 0] = prediction[1, 0] = 2  # so that these are objects, not a mask
    prediction[0, :pixels] = 1
    found = [at.tp for at in zs.evaluate(prediction, truth).instances.thresholds]
    assert found == [2] * thresholds + [1] * (10 - thresholds)


def test_an_object_in_two_halves_is_one_match():
    truth, prediction = np.zeros((1, 30), int), np.zeros((1, 30), int)
    truth[0, :20] = 1
    truth[0, 25] = prediction[0, 25] = 5
    prediction[0, :10], prediction[0, 10:20] = 1, 2
    for one, other in ((prediction, truth), (truth, prediction)):
        at = zs.evaluate(one, other).instances.thresholds[0]
        assert (at.tp, at.fp + at.fn) == (2, 1)


def slow_matches(prediction: np.ndarray, truth: np.ndarray, threshold: float) -> tuple[int, int, int]:
    """StarDist's: the assignment with most pairs at or above the threshold."""
    true, predicted = ([n for n in np.unique(labels) if n] for labels in (truth, prediction))
    ious = np.array([[iou(prediction == p, truth == t) for p in predicted] for t in true])
    ious = ious.reshape(len(true), len(predicted))
    good = ious >= threshold
    rows, columns = linear_sum_assignment(good + ious / (2 * max(1, min(ious.shape))), maximize=True)
    tp = int(good[rows, columns].sum())
    return tp, len(predicted) - tp, len(true) - tp


@pytest.mark.parametrize("shape", [(24, 30), (5, 14, 16)])
@pytest.mark.parametrize("seed", range(4))
def test_matches_are_those_of_the_best_assignment(seed, shape):
    truth = blobs(seed, shape, 9)
    prediction = disturbed(truth, seed)
    scores = zs.evaluate(prediction, truth, boundaries=False).instances
    for at in scores.thresholds:
        assert (at.tp, at.fp, at.fn) == slow_matches(prediction, truth, at.threshold)
    assert [at.threshold for at in scores.thresholds] == THRESHOLDS


@pytest.mark.parametrize("seed", range(4))
def test_rand_error_and_information_are_those_of_scikit_image(seed):
    truth = blobs(seed, (5, 18, 20), 8)
    prediction = disturbed(truth, seed)
    scores = zs.evaluate(prediction, truth, boundaries=False).instances
    assert scores.arand == pytest.approx(adapted_rand_error(truth, prediction)[0])
    split, merge = variation_of_information(truth, prediction, ignore_labels=[0])
    assert (scores.voi_split, scores.voi_merge) == (pytest.approx(split), pytest.approx(merge))


def slow_distances(prediction: np.ndarray, truth: np.ndarray, spacing: tuple[float, ...]) -> list[np.ndarray]:
    """MONAI's: the pixels that erosion takes, and a distance transform of the whole picture, both ways."""
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (prediction, truth)]
    return [
        ndimage.distance_transform_edt(~b, sampling=spacing)[a] for a, b in ((edges[0], edges[1]), (edges[1], edges[0]))
    ]


@pytest.mark.parametrize(("shape", "spacing"), [((30, 34), (0.7, 1.3)), ((7, 15, 17), (4.0, 0.9, 1.1))])
@pytest.mark.parametrize("seed", range(3))
def test_distances_are_those_of_a_distance_transform(seed, shape, spacing):
    truth = blobs(seed, shape, 6)
    prediction = disturbed(truth, seed)
    report = zs.evaluate(prediction, truth, spacing, tolerance=1.0)
    cases = [(report.foreground, prediction > 0, truth > 0)]
    cases += [(row, prediction == row.match, truth == row.label) for row in report.objects if row.matched]
    assert len(cases) > 1
    for row, predicted, true in cases:
        there, back = slow_distances(predicted, true, spacing)
        both = np.r_[there, back]
        assert row.assd == pytest.approx(both.mean())
        assert row.hd95 == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
        assert row.nsd == pytest.approx((both <= 1.0).mean())


def test_the_phantom_against_itself_shifted():
    _, truth = em_like_stack(6, 128, seed=3)
    same = zs.evaluate(truth, truth)
    assert same.foreground.iou == same.foreground.dice == same.foreground.nsd == 1
    assert same.foreground.assd == same.foreground.hd95 == 0
    assert same.instances.mean_ap == same.instances.pq == same.instances.sbd == 1
    assert same.instances.arand == pytest.approx(0)
    shifted = zs.evaluate(np.roll(truth, 2, 2), truth, (50, 4, 4))
    assert 0 < shifted.foreground.assd <= 8
    assert shifted.foreground.iou < 1
    assert all(row.matched for row in shifted.objects)
    assert all(row.hd95 <= 8 for row in shifted.objects)


def test_the_numbers_of_objects_do_not_matter_and_the_sides_are_mirrored():
    truth = blobs(1, (4, 20, 22), 7)
    prediction = disturbed(truth, 5)
    one = zs.evaluate(prediction, truth)
    numbers = np.r_[0, np.random.default_rng(0).permutation(60) + 2**40]
    other = zs.evaluate(numbers[prediction], numbers[truth])
    assert other.instances == one.instances
    assert other.foreground == one.foreground
    mirrored = zs.evaluate(truth, prediction)
    assert (mirrored.foreground.precision, mirrored.foreground.recall) == (
        one.foreground.recall,
        one.foreground.precision,
    )
    assert mirrored.foreground.assd == pytest.approx(one.foreground.assd)
    assert [at.f1 for at in mirrored.instances.thresholds] == [at.f1 for at in one.instances.thresholds]


def test_classes_by_their_numbers():
    truth = np.array([[1, 1, 2, 2], [1, 1, 2, 0]])
    prediction = np.array([[1, 2, 2, 2], [1, 1, 0, 3]])
    report = zs.evaluate(prediction, truth, mode="semantic")
    assert [(row.label, row.iou, row.precision, row.recall) for row in report.classes] == [
        (1, 3 / 4, 1, 3 / 4),
        (2, 2 / 4, 2 / 3, 2 / 3),
        (3, 0, 0, pytest.approx(math.nan, nan_ok=True)),
    ]
    assert report.mean_class_iou == pytest.approx((3 / 4 + 2 / 4) / 3)
    assert report.foreground.iou == 6 / 8  # of whatever class
    assert report.classes[0].assd == pytest.approx((3 * 0 + 3 * 0 + 1) / 7)
    assert report.instances is None


def test_classes_on_each_plane():
    truth = np.stack([np.full((3, 3), 1), np.full((3, 3), 2)])
    prediction = np.stack([np.full((3, 3), 1), np.full((3, 3), 1)])
    report = zs.evaluate(prediction, truth, mode="semantic", per_plane=True)
    found = {(row.plane, row.label): (row.iou, row.nsd) for row in report.planes if row.kind == "class on plane"}
    assert found == {(0, 1): (1, 1), (0, 2): (1, 1), (1, 1): (0, 0), (1, 2): (0, 0)}
    assert [row.iou for row in report.classes] == [9 / 18, 0]
    assert report.classes[0].nsd == 0.5
    assert report.classes[1].nsd == 0  # plane 0 has nothing of it to measure


def test_masks_with_other_numbers_are_one_class():
    truth = blobs(0, (20, 20), 4) > 0
    report = zs.evaluate(np.where(truth, 255, 0).astype(np.uint8), truth)
    assert report.mode == "semantic"
    assert [row.iou for row in report.classes] == [1]
    assert "255 (prediction) and 1 (truth), taken as one class" in report.notes[0]
    named = zs.evaluate(np.where(truth, 255, 0), truth, mode="semantic")
    assert [row.iou for row in named.classes] == [0, 0]


def test_a_mask_against_objects_is_told():
    truth = blobs(0, (20, 20), 4)
    report = zs.evaluate(truth > 0, truth)
    assert report.mode == "instances"
    assert any("The prediction has one label and the truth has several" in note for note in report.notes)


def test_planes_that_stand_for_themselves_add_up():
    truth = blobs(2, (5, 20, 22), 8)
    prediction = disturbed(truth, 2)
    together = zs.evaluate(prediction, truth, (9, 1, 1), per_plane=True)
    alone = [zs.evaluate(p, t, mode="instances") for p, t in zip(prediction, truth, strict=True)]
    for i, at in enumerate(together.instances.thresholds):
        sums = [sum(getattr(one.instances.thresholds[i], name) for one in alone) for name in ("tp", "fp", "fn")]
        assert [at.tp, at.fp, at.fn] == sums
    for row, one in zip(together.planes, alone, strict=True):
        assert (row.iou, row.assd, row.hd95, row.nsd) == pytest.approx(
            (one.foreground.iou, one.foreground.assd, one.foreground.hd95, one.foreground.nsd)
        )
    assert together.foreground.assd == pytest.approx(np.mean([one.foreground.assd for one in alone]))
    assert [(row.plane, row.label) for row in together.objects if row.kind == "object"] == [
        (plane, row.label) for plane, one in enumerate(alone) for row in one.objects if row.kind == "object"
    ]


def test_a_plane_that_only_one_has_is_left_out_of_the_mean_and_told():
    truth, prediction = np.zeros((2, 9, 9), int), np.zeros((2, 9, 9), int)
    truth[0, 2:4, 2:4] = prediction[0, 2:4, 2:4] = 1
    truth[1, 5, 5] = 1
    report = zs.evaluate(prediction, truth, per_plane=True)
    assert (report.foreground.assd, report.foreground.nsd) == (0, 0.5)
    assert report.planes[1].assd == math.inf
    assert any("On 1 planes only one of both" in note for note in report.notes)


def test_chosen_planes_keep_their_numbers():
    truth = blobs(3, (8, 16, 16), 8)
    prediction = disturbed(truth, 3)
    chosen = zs.evaluate(prediction, truth, planes=range(3, 6))
    cut = zs.evaluate(prediction[3:6], truth[3:6])
    assert chosen.instances == cut.instances
    assert chosen.foreground == cut.foreground
    assert chosen.shape == (3, 16, 16)
    assert [row.plane for row in chosen.planes] == [3, 4, 5]
    assert [row.plane for row in chosen.objects] == [row.plane + 3 for row in cut.objects]
    assert len(zs.evaluate(prediction, truth, planes=[1, 6], per_plane=True).planes) == 2
    with pytest.raises(InputError, match="without a gap"):
        zs.evaluate(prediction, truth, planes=[1, 6])
    with pytest.raises(InputError, match="There is no plane 8"):
        zs.evaluate(prediction, truth, planes=[7, 8])


def test_ignored_pixels_count_nowhere():
    truth = blobs(4, (20, 24), 6)
    prediction = disturbed(truth, 4)
    cut = truth.copy()
    cut[:, 12:] = -1
    report = zs.evaluate(prediction, cut, ignore=-1)
    left = zs.evaluate(prediction[:, :12], truth[:, :12])
    assert report.instances == left.instances
    assert report.foreground == left.foreground
    assert zs.evaluate(prediction, np.where(cut < 0, 99, cut), ignore=99).instances == left.instances


@pytest.mark.parametrize("shape", [(6, 7), (3, 6, 7)])
@pytest.mark.parametrize("mode", ["auto", "instances", "semantic"])
def test_empty_pictures(shape, mode):
    nothing, something = np.zeros(shape, int), np.zeros(shape, int)
    something[..., 2:4, 2:4] = 1
    both = zs.evaluate(nothing, nothing, mode=mode)
    row = both.foreground
    assert (row.iou, row.dice, row.precision, row.recall, row.nsd) == (1, 1, 1, 1, 1)
    assert math.isnan(row.assd)
    assert math.isnan(row.hd95)
    for prediction, truth in ((nothing, something), (something, nothing)):
        report = zs.evaluate(prediction, truth, mode=mode)
        row = report.foreground
        assert (row.iou, row.dice, row.nsd, row.assd, row.hd95) == (0, 0, 0, math.inf, math.inf)
        assert math.isnan(row.precision if prediction is nothing else row.recall)
        assert "There are no labels in the" in report.notes[0]
        json.dumps(report.as_dict(), allow_nan=False)
        assert str(report)
        if mode == "instances":
            assert report.instances.mean_ap == report.instances.pq == report.instances.sbd == 0
    if mode == "instances":
        assert both.instances.mean_ap == both.instances.pq == both.instances.sbd == 1
        assert math.isnan(both.instances.mean_iou)
    assert "–" in str(both)


def test_places_lie_in_their_objects_where_they_are_largest():
    truth = blobs(5, (6, 25, 25), 9)
    truth[2, 5:20, 5:20] = 50
    truth[2, 7:18, 7:18] = 0  # a ring, whose centroid is outside of it
    prediction = disturbed(truth, 9)
    prediction[5, 20:, 20:] = 77
    for row in zs.evaluate(prediction, truth).objects:
        labels = truth if row.kind == "object" else prediction
        assert labels[row.plane, row.row, row.column] == row.label
        assert np.count_nonzero(labels[row.plane] == row.label) == (labels == row.label).sum((1, 2)).max()


def test_every_plane_is_read_once_and_in_order():
    truth = blobs(6, (7, 12, 12), 5)
    read = []

    def plane(block, block_info=None):
        read.append(block_info[0]["chunk-location"][0])
        return block

    lazy = da.from_array(truth, chunks=(1, 12, 12)).map_blocks(plane, dtype=truth.dtype, meta=truth[:0])
    read.clear()
    seen = []
    report = zs.evaluate(lazy, truth, progress=lambda done, total: seen.append((done, total)))
    assert read == list(range(7))
    assert seen == [(i + 1, 7) for i in range(7)]
    assert report.instances.mean_ap == 1


def test_intervals_are_seeded_and_hold_the_figure():
    truth = blobs(7, (40, 60), 25)
    prediction = disturbed(truth, 7)
    one, again, other = (zs.evaluate(prediction, truth, boundaries=False, seed=seed) for seed in (0, 0, 1))
    assert one.intervals == again.intervals != other.intervals
    scores = one.instances
    figures = {
        "mean_iou": scores.mean_iou,
        "mean_dice": scores.mean_dice,
        "f1": scores.thresholds[0].f1,
        "ap": scores.thresholds[0].ap,
        "mean_ap": scores.mean_ap,
    }
    assert figures.keys() == one.intervals.keys()
    for name, figure in figures.items():
        low, high = one.intervals[name]
        assert low < figure < high
    # As wide as the normal approximation of the mean's error has it.
    ious = [row.iou for row in one.objects if row.kind == "object"]
    expected = 2 * 1.96 * np.std(ious) / math.sqrt(len(ious))
    low, high = one.intervals["mean_iou"]
    assert high - low == pytest.approx(expected, rel=0.15)
    assert not zs.evaluate(prediction, truth, boundaries=False, resamples=0).intervals


def test_intervals_over_planes_of_a_mask():
    truth = blobs(8, (12, 20, 20), 20) > 0
    prediction = truth.copy()
    prediction[::2, :10] = False
    report = zs.evaluate(prediction, truth, boundaries=False)
    low, high = report.intervals["iou"]
    assert low < report.foreground.iou < high
    few = zs.evaluate(prediction[:2], truth[:2], boundaries=False)
    assert any("come from 2 planes and are rough" in note for note in few.notes)


def test_rows_csv_and_json(tmp_path):
    truth = blobs(9, (3, 20, 20), 6)
    report = zs.evaluate(disturbed(truth, 9), truth, (2, 1, 1), unit="um")
    rows = report.rows()
    assert [row["kind"] for row in rows[:5]] == ["foreground", "plane", "plane", "plane", "object"]
    path = report.to_csv(tmp_path / "rows.csv")
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.csv"]
    with path.open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert len(read) == len(rows)
    for text, row in zip(read, rows, strict=True):
        assert text["kind"] == row["kind"]
        assert text["iou"] == f"{row['iou']:.6g}"
        assert text["label"] == ("" if row["label"] is None else str(row["label"]))
    figures = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert figures["instances"]["thresholds"][0]["f1"] == report.instances.thresholds[0].f1
    assert figures["foreground"]["iou"] == report.foreground.iou
    with pytest.raises(zs.ZerosegError, match="not there any more"):
        report.to_csv(tmp_path / "none" / "rows.csv")


def test_the_table_to_read():
    truth = blobs(9, (3, 20, 20), 6)
    report = zs.evaluate(disturbed(truth, 9), truth, (2, 1, 1), unit="um")
    text = str(report)
    assert text.startswith("3 planes of 20 x 20 pixels, 2 x 1 x 1 um apart; labels are objects, through all planes.")
    for word in ("Foreground", "Plane 2", "mean AP", "Match from IoU", "0.95", "To look at", "missed", "ASSD (um)"):
        assert word in text
    assert report.summary.startswith(f"Foreground IoU {report.foreground.iou:.3f}, Dice ")
    long = zs.evaluate(np.ones((40, 8, 8)), np.ones((40, 8, 8)))
    assert "(40 planes: see the rows, or the CSV.)" in str(long)


ZEROS = np.zeros((3, 6, 6), int)


@pytest.mark.parametrize(
    ("prediction", "truth", "options", "error", "sentence"),
    [
        (ZEROS, ZEROS[:2], {}, InputError, r"must have one shape; got \(3, 6, 6\) and \(2, 6, 6\)"),
        (ZEROS + 0.5, ZEROS, {}, InputError, "prediction must hold whole numbers.*plane 0 has 0.5"),
        (ZEROS, ZEROS * np.nan, {}, InputError, "truth must hold whole numbers.*has nan"),
        (ZEROS - 1, ZEROS, {}, InputError, "plane 0 of the prediction has -1"),
        (ZEROS, ZEROS - 2, {"ignore": -1}, InputError, "plane 0 of the truth has -2"),
        (ZEROS.astype(np.uint64) + 2**63, ZEROS, {}, InputError, "above 2"),
        (ZEROS.astype(complex), ZEROS, {}, InputTypeError, "must hold whole numbers"),
        (ZEROS.astype(str), ZEROS, {}, InputTypeError, "must hold whole numbers"),
        (
            np.zeros((2, 3, 4, 5), int),
            np.zeros((2, 3, 4, 5), int),
            {},
            InputError,
            "one time or channel after the other",
        ),
        (np.zeros(5, int), np.zeros(5, int), {}, InputError, "must be a plane"),
        (np.zeros((0, 5), int), np.zeros((0, 5), int), {}, InputError, "must be a plane"),
        (ZEROS, ZEROS, {"spacing": (1, 1)}, InputError, r"each of the axes \(plane, row, column\); got \(1.0, 1.0\)"),
        (ZEROS[0], ZEROS[0], {"spacing": (1, 0)}, InputError, r"each of the axes \(row, column\)"),
        (ZEROS, ZEROS, {"mode": "objects"}, InputError, "auto, instances or semantic"),
        (ZEROS, ZEROS, {"tolerance": -1}, InputError, "a distance from 0"),
    ],
)
def test_bad_input(prediction, truth, options, error, sentence):
    with pytest.raises(error, match=sentence):
        zs.evaluate(prediction, truth, **options)


def test_leading_axes_of_one_are_no_matter():
    truth = blobs(9, (20, 20), 6)
    report = zs.evaluate(truth[None], truth[None, None], (1, 1))
    assert report.shape == (20, 20)
    assert zs.evaluate(truth[None].astype(np.float32), truth.astype(np.uint8)).instances.mean_ap == 1


def test_it_can_be_cancelled():
    token = CancelToken()
    with pytest.raises(CancelledError):
        zs.evaluate(ZEROS, ZEROS, cancel=token, progress=lambda done, total: token.cancel())

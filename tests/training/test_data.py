"""Labelled planes: what is taken for an object, what is held back, and what is refused with a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_zeroseg.errors import InputError, ReadError, ZerosegError
from napari_zeroseg.planes import planes_of
from napari_zeroseg.training.config import TrainingConfig, TrainingPair
from napari_zeroseg.training.data import IGNORE, TrainingData, check_enough
from napari_zeroseg.training.split import folds, split_for
from napari_zeroseg.training.untold import check_words_held, untold

RNG = np.random.default_rng(0)


def squares(planes: int, count: int, side: int = 64) -> np.ndarray:
    """(planes, side, side) labels with `count` squares of 6 x 6 in each plane, numbered through."""
    labels = np.zeros((planes, side, side), np.int32)
    for z in range(planes):
        for i in range(count):
            row, column = 10 * (i // 6), 10 * (i % 6)
            labels[z, row : row + 6, column : column + 6] = i + 1
    return labels


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, np.uint8)


def data_of(labels: np.ndarray, **settings: object) -> TrainingData:
    values = {"min_pixels": 10, **settings}
    return TrainingData(TrainingConfig("a", ((noise(*labels.shape), labels),), **values))  # type: ignore[arg-type]


def test_instances_and_classes_are_told_apart() -> None:
    labels = squares(3, 8)
    assert not data_of(labels).as_classes
    semantic = data_of((labels > 0).astype(np.uint8) * 255)
    assert semantic.as_classes
    assert len(semantic.objects) == len(data_of(labels).objects) == 24


def test_planes_without_labels_are_left_out_unless_named() -> None:
    labels = squares(4, 6)
    labels[1] = 0
    assert [plane.index for plane in data_of(labels).planes] == [0, 2, 3]
    named = TrainingData(TrainingConfig("a", (TrainingPair(noise(4, 64, 64), labels, "0:2"),)))
    assert [plane.index for plane in named.planes] == [0, 1]


def test_ignored_pixels_are_neither_object_nor_background() -> None:
    labels = squares(1, 12)
    labels[0, :, 60:] = 99
    data = data_of(labels, ignore=99)
    _, objects = data.read(0)
    assert (objects[:, 60:] == IGNORE).all()
    assert {one.number for one in data.objects} == set(range(1, 13))


def test_classes_are_chosen() -> None:
    data = data_of(squares(2, 12), classes=(2, 3))
    assert len(data.objects) == 4
    _, objects = data.read(0)
    assert int((objects > 0).sum()) == 72


def test_huge_numbers_become_small_ones() -> None:
    labels = squares(1, 12).astype(np.uint64)
    labels[labels > 0] += 2**62
    data = data_of(labels)
    assert sorted(one.number for one in data.objects) == list(range(1, 13))
    assert data.objects[0].box == (0, 0, 5, 5)


def test_whole_floats_are_labels() -> None:
    assert len(data_of(squares(1, 12).astype(np.float32)).objects) == 12


@pytest.mark.parametrize(
    ("image", "labels", "word"),
    [
        (noise(64, 64), squares(1, 12)[0] * 0.5, "fractions"),
        (noise(64, 64), np.full((64, 64), np.nan), "fractions"),
        (noise(64, 64), squares(3, 12), "3 planes and the picture 1 plane"),
        (noise(64, 65), squares(1, 12)[0], "64 x 64 pixels and its planes 64 x 65"),
        (noise(64, 64), np.zeros((64, 64), int), "no object"),
        (noise(64, 64), squares(1, 1)[0], "is 1 object"),
        (noise(64, 64), squares(1, 9)[0], "draw 1 more"),
        (noise(12, 64, 64), np.ones((12, 64, 64), int), "from side to side"),
        (noise(64, 64), np.full((64, 64), "a"), "whole numbers"),
    ],
)
def test_labels_that_do_not_fit_are_told(image: np.ndarray, labels: np.ndarray, word: str) -> None:
    config = TrainingConfig("a", ((image, labels),), min_pixels=10)
    with pytest.raises(ZerosegError, match=word):
        check_enough(TrainingData(config), config)


def test_a_missing_class_is_told() -> None:
    labels = squares(2, 12)
    config = TrainingConfig("a", ((noise(2, 64, 64), labels),), classes=(77,))
    with pytest.raises(InputError, match="classes 77"):
        check_enough(TrainingData(config), config)


def test_a_class_missing_in_validation_is_told() -> None:
    labels = squares(2, 12)
    pairs = (
        TrainingPair(noise(64, 64), labels[0]),
        TrainingPair(noise(64, 64), np.where(labels[1] == 1, 1, 0), role="validation"),
    )
    config = TrainingConfig("a", pairs, classes=(2, 3), min_pixels=10)
    with pytest.raises(InputError, match="named for validation hold no object"):
        split_for(TrainingData(config), config)


def test_a_class_on_one_side_only_is_told() -> None:
    labels = (squares(8, 12) > 0).astype(np.uint8)
    labels[:2][:, :20] *= 2  # only on planes that are learnt from
    labels[-1][:, 30:] *= 3  # only on one that is held back
    data = data_of(labels, labels_are="classes")
    config = TrainingConfig("a", ((labels, labels),), min_pixels=10)
    told = untold(data, split_for(data, config), config)
    assert [sentence.split(" is ")[0] for sentence in told] == ["Class 2", "Class 3"]
    assert "on none of the planes that are held back" in told[0]
    assert "only on planes that are held back" in told[1]
    instances = data_of(squares(8, 12), labels_are="instances")
    assert untold(instances, split_for(instances, config), config) == []


def test_a_word_or_a_chosen_label_on_one_side_only_is_told() -> None:
    """Left and right lungs are single objects, and yet what is asked for by name."""
    labels = squares(8, 12)
    labels[-2:][labels[-2:] == 1] = 13
    words = {"first": (1,), "second": (2, 3), "last": (13,), "any": ()}
    for settings, names in (
        ({"words": words}, ["The word 'first'", "The word 'last'"]),
        ({"classes": (1, 2, 13)}, ["Class 1", "Class 13"]),
    ):
        data = data_of(labels, labels_are="instances", **settings)
        config = TrainingConfig("a", ((labels, labels),), min_pixels=10, **settings)  # type: ignore[arg-type]
        assert [one.split(" is ")[0] for one in untold(data, split_for(data, config), config)] == names


def test_several_classes_on_one_side_are_told_in_one_sentence() -> None:
    labels = squares(8, 12)
    labels[-2:][np.isin(labels[-2:], (1, 2, 3))] += 12
    settings = {"classes": (1, 2, 3, 4, 13, 14, 15)}
    data = data_of(labels, labels_are="instances", **settings)
    config = TrainingConfig("a", ((labels, labels),), min_pixels=10, **settings)  # type: ignore[arg-type]
    unjudged, unlearnt = untold(data, split_for(data, config), config)
    assert unjudged.startswith("Classes 1, 2 and 3 are on none of the planes that are held back")
    assert unlearnt.startswith(
        "Classes 13, 14 and 15 are only on planes that are held back, and not learnt: label them"
    )


def test_words_that_name_nothing_held_back_are_refused() -> None:
    labels = squares(8, 12)
    labels[-2:][labels[-2:] == 1] = 13
    config = TrainingConfig("a", ((labels, labels),), min_pixels=10, words={"first": (1,)}, labels_are="instances")
    data = TrainingData(config)
    with pytest.raises(InputError, match="None of the words names anything on what is held back"):
        check_words_held(data, split_for(data, config), config)


def test_a_file_that_is_gone_is_told(tmp_path: Path) -> None:
    config = TrainingConfig("a", ((tmp_path / "x.tif", tmp_path / "y.tif"),))
    with pytest.raises(ReadError, match=r"picture of this run cannot be read.*x\.tif"):
        TrainingData(config)


def test_a_block_is_held_back_with_a_gap() -> None:
    data = data_of(squares(20, 12))
    split = split_for(data, TrainingConfig("a", (("x", "y"),), gap=1))
    choose = {data.objects[i].plane for i in split.choose}
    report = {data.objects[i].plane for i in split.report}
    learnt = {data.objects[i].plane for i in split.train}
    assert learnt == set(split.train_planes)
    assert not split.chosen_on_itself
    for one, other in ((learnt, choose), (choose, report), (learnt, report)):
        assert min(abs(a - b) for a in one for b in other) > 1
    assert 0.15 < len(choose | report) / 20 < 0.4
    assert max(learnt) < min(choose) < min(report)


def test_held_back_planes_without_an_object_are_held_back_too() -> None:
    labels = squares(20, 12)
    labels[[16, 19]] = 0
    config = TrainingConfig(
        "a", (TrainingPair(np.zeros(labels.shape, np.uint8), labels, planes="0:20"),), min_pixels=10
    )
    split = split_for(TrainingData(config), config)
    assert set(split.choose_planes) | set(split.report_planes) >= {16, 19}
    assert not set(split.train_planes) & {16, 19}
    small = squares(8, 3)
    small[7] = 0
    config = TrainingConfig("a", (TrainingPair(np.zeros(small.shape, np.uint8), small, planes="0:8"),), min_pixels=10)
    data = TrainingData(config)
    turns = folds(data, config, split_for(data, config))
    assert sorted(plane for turn in turns for plane in turn.report_planes) == list(range(8))


def test_planes_of_one_file_are_kept_apart_whichever_pair_they_are_in(tmp_path: Path) -> None:
    """The same stack to learn from and to validate on."""
    labels = squares(12, 12)
    tifffile.imwrite(tmp_path / "raw.tif", noise(12, 64, 64), photometric="minisblack")
    tifffile.imwrite(tmp_path / "labels.tif", labels, photometric="minisblack")
    files = (tmp_path / "raw.tif", tmp_path / "labels.tif")
    pairs = (TrainingPair(*files, "0:12"), TrainingPair(*files, "9:12", role="validation"))
    config = TrainingConfig("a", pairs, min_pixels=10, gap=1)
    data = TrainingData(config)
    split = split_for(data, config)
    assert {data.planes[plane].index for plane in split.train_planes} == set(range(8))
    assert {data.planes[plane].pair for plane in split.train_planes} == {0}
    assert "3 planes that were named for it, 4 of the same stack left out" in split.sentence
    config = TrainingConfig("a", (TrainingPair(*files, "9:12"), pairs[1]), min_pixels=10)
    with pytest.raises(InputError, match="no object is left to learn from"):
        split_for(TrainingData(config), config)


def test_a_single_plane_is_parted_by_a_strip() -> None:
    data = data_of(squares(1, 36))
    split = split_for(data, TrainingConfig("a", (("x", "y"),)))
    ((plane, r0, _, r1, _),) = split.held
    assert (plane, r1) == (0, 64)
    assert all(data.objects[i].box[2] < r0 for i in split.train)
    assert all(data.objects[i].box[0] >= r0 for i in split.report)
    assert split.train
    assert split.report


@pytest.mark.parametrize("count", [2, 3])
def test_a_few_neighbouring_planes_are_parted_by_a_strip_through_all(count: int) -> None:
    """Holding back a whole one, and its neighbours as the gap, would leave one of three or none to learn from."""
    data = data_of(squares(count, 36))
    config = TrainingConfig("a", (("x", "y"),))
    split = split_for(data, config)
    assert split.train_planes == split.report_planes == tuple(range(count))
    assert [region[0] for region in split.held] == list(range(count))
    assert 2 * len(split.train) > len(data.objects)
    for plane, r0, _, r1, _ in split.held:
        assert r1 == 64
        assert all(data.objects[i].box[2] < r0 for i in split.train if data.objects[i].plane == plane)
        assert all(data.objects[i].box[0] >= r0 for i in split.report if data.objects[i].plane == plane)
    assert f"the lower part of all {count} planes, which lie too close together" in split.sentence


def test_planes_whose_objects_go_through_are_held_back_whole_where_a_strip_parts_nothing() -> None:
    labels = np.zeros((3, 64, 64), np.int32)
    for i in range(4):
        labels[:, :, 16 * i : 16 * i + 8] = i + 1
    split = split_for(data_of(labels), TrainingConfig("a", (("x", "y"),)))
    assert (split.train_planes, split.report_planes, split.held) == ((0,), (2,), ())
    with pytest.raises(InputError, match="are 2 labelled planes, close together, and the objects cannot be parted"):
        split_for(data_of(labels[:2]), TrainingConfig("a", (("x", "y"),)))


def test_planes_far_from_each_other_are_held_back_whole() -> None:
    labels = squares(60, 36)
    labels[[i for i in range(60) if i not in (0, 30, 59)]] = 0
    data = data_of(labels)
    split = split_for(data, TrainingConfig("a", (("x", "y"),)))
    assert not split.held
    assert split.train_planes == (0, 1)
    assert split.sentence == "the last 1 plane"


def test_small_sets_on_few_planes_hold_back_each_strip_in_turn() -> None:
    labels = squares(2, 36)
    labels[:, :, 20:] = 0  # two a row, six rows
    data = data_of(labels)
    config = TrainingConfig("a", (("x", "y"),))
    turns = folds(data, config, split_for(data, config))
    assert [turn.sentence for turn in turns] == [f"strip {number} of 4" for number in (1, 2, 3, 4)]
    reported = [i for turn in turns for i in turn.report]
    assert sorted(reported) == list(range(len(data.objects)))
    for turn in turns:
        assert not set(turn.train) & set(turn.report)
        (first, r0, _, r1, _), second = turn.held
        assert (first, second[0], second[1], second[3]) == (0, 1, r0, r1)
        for i in turn.train:
            assert data.objects[i].box[2] < r0 or data.objects[i].box[0] >= r1


def test_a_plane_to_learn_from_beside_what_is_held_back_is_left_out() -> None:
    image, labels = noise(12, 64, 64), squares(12, 24)
    pairs = (TrainingPair(image, labels, "0:12", "train"), TrainingPair(image, labels, "4:12"))
    config = TrainingConfig("a", pairs, min_pixels=10)
    data = TrainingData(config)
    split = split_for(data, config)
    held = {data.planes[plane].number for plane in split.report_planes + split.choose_planes}
    assert all(abs(data.planes[plane].number - one) > 1 for plane in split.train_planes for one in held)


def test_small_sets_hold_back_each_block_in_turn() -> None:
    data = data_of(squares(8, 3))
    config = TrainingConfig("a", (("x", "y"),))
    turns = folds(data, config, split_for(data, config))
    assert sorted(i for turn in turns for i in turn.report) == list(range(24))
    for turn in turns:
        held = {data.objects[i].plane for i in turn.report}
        assert all(abs(data.objects[i].plane - plane) > 1 for i in turn.train for plane in held)


def test_planes_are_chosen_as_elsewhere() -> None:
    assert planes_of(None, 3) == [0, 1, 2]
    assert planes_of("1, 5:9:2", 10) == [1, 5, 7]
    for wrong in ("a", "12", "5:5", "1:2:0"):
        with pytest.raises(InputError):
            planes_of(wrong, 10)


def test_the_fingerprint_follows_pixels_and_labels() -> None:
    labels, image = squares(1, 12), noise(1, 64, 64)
    config = TrainingConfig("a", ((image, labels),), min_pixels=10)
    first = TrainingData(config).fingerprint()
    assert TrainingData(config).fingerprint() == first
    image[0, 5, 5] ^= 1
    assert TrainingData(config).fingerprint() != first

"""Labelled planes from layers: only those that are used are copied, and it stays known what they are planes of."""

from __future__ import annotations

import numpy as np
import psutil
import pytest
from napari.components import ViewerModel

from napari_zeroseg._napari.train_gather import Gathering, PairChoice, Wanted
from napari_zeroseg.errors import CancelledError, InputError
from napari_zeroseg.phantom import em_like_stack
from napari_zeroseg.training.config import TrainingConfig
from napari_zeroseg.training.data import TrainingData
from napari_zeroseg.training.split import split_for

PLANES, LABELS = em_like_stack(8, 128, seed=1)


@pytest.fixture
def viewer() -> ViewerModel:
    """A stack of eight planes, and its labels."""
    model = ViewerModel()
    model.add_image(PLANES, name="em")
    model.add_labels(LABELS.astype(np.int64), name="mito")
    return model


def quiet(_: str) -> None:
    pass


def gathering(viewer: ViewerModel, image: str, labels: str, planes: str = "", role: str = "auto", **wanted):
    pair = PairChoice(viewer.layers[image], viewer.layers[labels], planes, role)
    return Gathering(pair, viewer.dims, Wanted(**wanted))


def test_only_labelled_planes_are_copied_with_their_numbers(viewer: ViewerModel) -> None:
    far = np.zeros_like(LABELS)
    far[[1, 6]] = LABELS[[1, 6]]
    viewer.add_labels(far, name="far")
    pair = gathering(viewer, "em", "far").gather(quiet)
    assert pair.numbers == (1, 6)
    assert pair.image.shape == (2, 128, 128)
    np.testing.assert_array_equal(pair.labels, far[[1, 6]])
    assert pair.labels.dtype == np.uint8
    data = TrainingData(TrainingConfig("a", (pair,)))
    assert [one.number for one in data.planes] == [1, 6]


def test_planes_without_a_chosen_class_are_no_examples_of_nothing(viewer: ViewerModel) -> None:
    labels = (LABELS > 0).astype(np.uint8)
    labels[3:] *= 2
    viewer.add_labels(labels, name="classes")
    assert gathering(viewer, "em", "classes", classes=(2,)).gather(quiet).numbers == (3, 4, 5, 6, 7)
    assert gathering(viewer, "em", "classes", ignore=2).gather(quiet).numbers == (0, 1, 2)
    # planes that are named are shown to the network whatever is on them
    assert gathering(viewer, "em", "classes", "2:4", classes=(2,)).gather(quiet).numbers == (2, 3)
    with pytest.raises(InputError, match="no labels of the classes 7"):
        gathering(viewer, "em", "classes", classes=(7,)).gather(quiet)


@pytest.mark.parametrize("image", ["em", "em copy"])
def test_the_same_stack_in_two_rows_is_kept_apart(viewer: ViewerModel, image: str) -> None:
    viewer.add_image(PLANES.copy(), name="em copy", contrast_limits=(20, 200))
    pairs = (
        gathering(viewer, "em", "mito").gather(quiet),
        gathering(viewer, image, "mito", "6:8", "validation").gather(quiet),
    )
    config = TrainingConfig("a", pairs, gap=1)
    data = TrainingData(config)
    assert [data.planes[plane].number for plane in split_for(data, config).train_planes] == [0, 1, 2, 3, 4]


def test_other_stacks_of_the_same_size_are_other_stacks(viewer: ViewerModel) -> None:
    other, labels = em_like_stack(8, 128, seed=2)
    viewer.add_image(other, name="other")
    viewer.add_labels(labels, name="other mito")
    pairs = (
        gathering(viewer, "em", "mito").gather(quiet),
        gathering(viewer, "other", "other mito", "6:8", "validation").gather(quiet),
    )
    config = TrainingConfig("a", pairs)
    data = TrainingData(config)
    assert len(split_for(data, config).train_planes) == 8


def test_it_is_stopped_between_planes(viewer: ViewerModel) -> None:
    said = []

    def told(text: str) -> None:
        said.append(text)
        if "Copying" in text:
            raise CancelledError("Stopped.")

    with pytest.raises(CancelledError):
        gathering(viewer, "em", "mito").gather(told)
    assert said == ["Looking for labels on plane 1 of 8 …", "Copying plane 1 of 8 …"]


def test_without_room_for_the_copy_a_sentence_says_so(viewer: ViewerModel, monkeypatch: pytest.MonkeyPatch) -> None:
    little = psutil.virtual_memory()._replace(available=100_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: little)
    with pytest.raises(
        InputError, match=r"copy of the 8 labelled planes takes 0\.0 GB, and of memory 0\.0 GB are free"
    ):
        gathering(viewer, "em", "mito").gather(quiet)

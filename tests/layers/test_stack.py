"""The Stack dock's session without a window: runs over a stack, corrections, edits of labels, cancelling, removing."""

from __future__ import annotations

import csv
import errno
import time
from dataclasses import dataclass

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_zeroseg import open_image
from napari_zeroseg._napari import prompt_layers, stack_task, turns
from napari_zeroseg._napari.engine import Engine
from napari_zeroseg._napari.layers import camera_of
from napari_zeroseg._napari.stack_results import OneEdit
from napari_zeroseg._napari.stack_session import StackSession
from napari_zeroseg._napari.stack_work import Change, PlaneDone
from napari_zeroseg.automatic import AutomaticOptions
from napari_zeroseg.embeddings import EmbeddingStore
from napari_zeroseg.errors import InputError, WriteError
from napari_zeroseg.jobs import InferenceQueue
from napari_zeroseg.link import Branches
from napari_zeroseg.metrics import iou
from napari_zeroseg.phantom import em_like_stack
from napari_zeroseg.propagation import Direction

from .conftest import FloodEngine, HandBridge, ToyEngine

PLANES, SIZE, SEED = 5, 192, 2
SEARCH = AutomaticOptions(points_per_side=6, pred_iou_thresh=0.7, stability_score_thresh=0.8)


@pytest.fixture(scope="module")
def engine():
    """The embedded model, and what it made of the planes."""
    return Engine(store=EmbeddingStore())


@pytest.fixture(scope="module")
def phantom():
    return em_like_stack(PLANES, SIZE, seed=3)


@dataclass
class Bench:
    """A session and what is around it."""

    viewer: ViewerModel
    bridge: HandBridge
    queue: InferenceQueue
    session: StackSession

    @property
    def runner(self):
        return self.session.runner

    @property
    def found(self):
        return self.session.results.layer.data

    def until(self, condition, timeout=240.0):
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, self.runner.log
            self.bridge.turn()
            time.sleep(0.001)

    def settle(self):
        self.until(lambda: not self.runner.is_busy)
        self.until(lambda: self.queue.is_idle and self.bridge.posted.empty())
        self.bridge.turn()

    def log(self):
        return "\n".join(self.runner.log)


@pytest.fixture
def make_bench(monkeypatch):
    monkeypatch.setattr(turns, "STEP", 0.0)
    benches = []

    def make(engine):
        viewer, bridge, queue = ViewerModel(), HandBridge(), InferenceQueue()
        benches.append(Bench(viewer, bridge, queue, StackSession(viewer, bridge, queue, engine)))
        return benches[-1]

    yield make
    for bench in benches:
        bench.session.close()
        bench.queue.close(30)


@pytest.fixture
def bench(make_bench, engine):
    bench = make_bench(engine)
    bench.session.set_choices(search=SEARCH)
    return bench


@pytest.fixture
def seeded(bench, phantom):
    """The phantom, with the objects of its middle plane outlined."""
    raw, truth = phantom
    image = bench.viewer.add_image(raw, name="em")
    own = np.zeros(truth.shape, np.uint16)
    own[SEED] = truth[SEED]
    labels = bench.viewer.add_labels(own, name="own")
    bench.viewer.dims.set_current_step(0, SEED)
    bench.session.choose_image(image)
    bench.session.choose_labels(labels)
    return bench


class FullDisk(np.ndarray):
    """Labels of which the first rows can still be written."""

    def __setitem__(self, key, value):
        if (np.asarray(value) != np.asarray(self[key])).any():
            super().__setitem__((*key[:-2], slice(20)), np.asarray(value)[:20])
            if np.asarray(value)[20:].any():
                raise OSError(errno.ENOSPC, "No space left on device")


def mean_iou(found, truth):
    return np.mean([iou(found == n, truth == n) for n in np.unique(truth) if n])


class TestPropagate:
    def test_objects_are_drawn_into_a_layer_of_their_own(self, seeded, phantom):
        own = seeded.session.labels.data.copy()
        active = seeded.viewer.layers.selection.active
        seeded.session.propagate()
        seeded.settle()
        assert seeded.session.results.layer.name == "em – propagated"
        assert all(mean_iou(seeded.found[plane], phantom[1][plane]) > 0.7 for plane in range(PLANES))
        np.testing.assert_array_equal(seeded.session.labels.data, own)
        assert seeded.viewer.layers.selection.active is active
        assert set(seeded.runner.curve) == {0, 1, 3, 4}
        assert list(seeded.runner.survey.outlined) == [SEED]
        assert "followed through" in seeded.log()

    def test_labels_too_large_for_the_memory_lie_on_disk(self, seeded, monkeypatch, tmp_path):
        seeded.session.propagate()
        seeded.settle()
        held = np.array(seeded.found)
        monkeypatch.setenv("ZEROSEG_DATA_DIR", str(tmp_path))
        monkeypatch.setattr(prompt_layers, "in_memory", lambda: 0)
        seeded.viewer.layers.remove(seeded.session.results.layer)
        seeded.session.propagate()
        seeded.settle()
        (file,) = (tmp_path / "labels").iterdir()
        assert file.name.startswith("em-propagated-")
        np.testing.assert_array_equal(open_image(file).data[:], held)

    def test_planes_are_drawn_one_at_a_time(self, seeded, phantom, monkeypatch):
        """All of a large stack at once would fill the memory, and stop the window."""
        seeded.session.labels.data[:] = phantom[1]
        seeded.session.set_choices(everywhere=True, whole=False, first=1, last=3)
        monkeypatch.setattr(turns, "STEP", 60.0)
        drawn = []
        step = turns.Turns.step

        def watched(turn):
            told = step(turn)
            drawn.append([event.plane for event in told if isinstance(event, PlaneDone)])
            return told

        monkeypatch.setattr(turns.Turns, "step", watched)
        seeded.session.propagate()
        seeded.settle()
        assert [planes for planes in drawn if planes][:3] == [[1], [2], [3]]
        assert max(map(len, drawn)) == 1

    def test_masks_vote_on_a_map_of_classes(self, seeded, phantom):
        """What a threshold finds has rough outlines and specks; the masks' are smooth."""
        raw, truth = phantom
        rough = np.zeros(truth.shape, np.uint8)
        rough[SEED] = np.where((raw[SEED] < 110) & (truth[SEED] > 0), 3, 0)
        classes = seeded.viewer.add_labels(rough, name="classes")
        seeded.session.choose_labels(classes)
        seeded.session.vote()
        seeded.settle()
        assert seeded.session.results.layer.name == "em – voted"
        found = seeded.found[SEED]
        assert set(np.unique(found)) <= {0, 3}
        assert iou(found == 3, truth[SEED] > 0) > iou(rough[SEED] == 3, truth[SEED] > 0) + 0.05
        assert not any(seeded.found[plane].any() for plane in range(PLANES) if plane != SEED)
        np.testing.assert_array_equal(classes.data, rough)
        assert "pixels changed" in seeded.log()

    def test_planes_of_a_range_in_one_direction(self, seeded):
        seeded.session.set_choices(whole=False, first=1, last=3, direction=Direction.FORWARDS)
        seeded.session.propagate()
        seeded.settle()
        assert [plane for plane in range(PLANES) if seeded.found[plane].any()] == [2, 3]

    def test_any_order_of_axes(self, seeded, phantom):
        raw, truth = (np.moveaxis(one, 0, 2) for one in phantom)
        image = seeded.viewer.add_image(raw, name="rolled")
        own = np.zeros(truth.shape, np.uint16)
        own[..., SEED] = truth[..., SEED]
        seeded.session.choose_image(image)
        seeded.session.choose_labels(seeded.viewer.add_labels(own))
        seeded.viewer.dims.order = (2, 1, 0)
        seeded.viewer.dims.set_current_step(2, SEED)
        seeded.session.set_choices(whole=False, first=SEED, last=SEED + 1)
        seeded.session.propagate()
        seeded.settle()
        assert mean_iou(seeded.found[..., SEED + 1], truth[..., SEED + 1]) > 0.7

    def test_labels_that_are_there_stay(self, seeded, phantom):
        _, truth = phantom
        number = int(truth[SEED].max())
        seeded.session.labels.data[3][truth[3] == number] = 60
        seeded.session.propagate()
        seeded.settle()
        assert (seeded.found[3][truth[3] == number] == 60).all()

    def test_a_correction_changes_what_depends_on_it(self, seeded, phantom):
        seeded.session.propagate()
        seeded.settle()
        number = int(seeded.found[3].max())
        before = seeded.found.copy()
        seeded.found[3][before[3] == number] = 0
        seeded.session.propagate_again()
        seeded.settle()
        assert not (seeded.found[3:] == number).any()
        np.testing.assert_array_equal(seeded.found[:3], before[:3])
        assert "Plane 3 was corrected" in seeded.log()
        assert 3 in seeded.runner.survey.outlined

    def test_two_corrections_at_once(self, seeded, phantom):
        seeded.session.propagate()
        seeded.settle()
        truth = phantom[1]
        number = int(truth[SEED].max())
        for plane in (1, 4):
            seeded.found[plane][seeded.found[plane] == number] = 0
            seeded.found[plane][truth[plane] == number] = number
        corrected = seeded.found[[1, 4]] == number
        seeded.session.propagate_again()
        seeded.settle()
        np.testing.assert_array_equal(seeded.found[[1, 4]] == number, corrected)
        assert {1, SEED, 4} == set(seeded.runner.survey.outlined)
        assert "edited meanwhile" not in seeded.log()

    def test_nothing_is_outlined(self, seeded):
        seeded.viewer.dims.set_current_step(0, 0)
        seeded.session.propagate()
        seeded.settle()
        assert "no labelled object on plane 0" in seeded.runner.status.text
        assert len(seeded.bridge.errors) == 1

    def test_labels_of_another_shape(self, seeded):
        seeded.session.choose_labels(seeded.viewer.add_labels(np.ones((3, 20, 20), int)))
        seeded.session.propagate()
        assert "choose labels of the image's shape" in seeded.runner.status.text
        assert not seeded.runner.is_busy


class TestStopping:
    def test_cancel_keeps_what_was_found_and_again_goes_on(self, seeded, phantom):
        seeded.session.propagate()
        seeded.until(lambda: seeded.found[3].any())
        seeded.runner.cancel()
        assert seeded.runner.task is None
        assert "cancelled after" in seeded.log()
        seeded.settle()
        assert seeded.found[3].any()
        seeded.session.propagate_again()
        seeded.settle()
        assert all(mean_iou(seeded.found[plane], phantom[1][plane]) > 0.7 for plane in range(PLANES))

    def test_pause_and_resume(self, seeded):
        seeded.session.propagate()
        seeded.until(lambda: seeded.runner.task.progress.done > 0)
        seeded.runner.pause()
        seeded.until(lambda: seeded.queue.is_idle and seeded.bridge.posted.empty())
        done = seeded.runner.task.progress.done
        for _ in range(20):
            seeded.bridge.turn()
            time.sleep(0.005)
        assert seeded.runner.task.progress.done == done
        assert "paused" in seeded.runner.status.text
        seeded.runner.pause()
        seeded.settle()
        assert set(seeded.runner.curve) == {0, 1, 3, 4}

    def test_a_plane_that_is_edited_meanwhile_stays(self, seeded):
        seeded.session.propagate()
        seeded.until(lambda: seeded.found[3].any())
        seeded.found[3] = 7
        seeded.settle()
        assert (seeded.found[3] == 7).all()
        assert "was edited meanwhile" in seeded.log()

    def test_no_room_for_results(self, seeded, phantom):
        """Labels that are too large for the memory lie on a disk, which may become full."""
        seeded.session.propagate()
        seeded.until(lambda: seeded.found[3].any())
        layer, held = seeded.session.results.layer, np.array(seeded.found)
        data = layer.data
        full = data.view(FullDisk)
        layer._data = full
        seeded.settle()
        (error,) = seeded.bridge.errors
        assert isinstance(error, WriteError)
        assert "could not be written ([Errno 28] No space left on device): make room" in str(error)
        assert str(error) in seeded.log()
        np.testing.assert_array_equal(np.asarray(full), held)
        layer._data = data
        seeded.session.propagate_again()
        seeded.settle()
        assert all(mean_iou(seeded.found[plane], phantom[1][plane]) > 0.7 for plane in range(PLANES))
        assert "edited meanwhile" not in seeded.log()

    @pytest.mark.parametrize("which", ["em", "own", "em – propagated"])
    def test_removing_a_layer(self, seeded, which):
        seeded.session.propagate()
        seeded.until(lambda: seeded.runner.task.progress.done > 0)
        seeded.viewer.layers.remove(which)
        seeded.settle()
        assert seeded.bridge.errors == []
        assert ("was removed" in seeded.log()) == (which != "own")
        seeded.session.next_flag()
        seeded.session.jump(0)

    def test_another_image_and_another_plane(self, seeded, phantom):
        seeded.session.propagate()
        seeded.until(lambda: seeded.runner.task.progress.done > 0)
        layer = seeded.session.results.layer
        other = seeded.viewer.add_image(phantom[0][:, ::-1], name="other")
        seeded.session.choose_image(other)
        seeded.viewer.dims.set_current_step(0, 4)
        seeded.viewer.dims.ndisplay = 3
        seeded.settle()
        assert seeded.session.results.layer is layer
        assert mean_iou(layer.data[4], phantom[1][4]) > 0.7
        assert seeded.bridge.errors == []

    def test_closing(self, seeded):
        seeded.session.propagate()
        seeded.until(lambda: seeded.runner.task.progress.done > 0)
        seeded.session.close()
        seeded.session.close()
        seeded.until(lambda: seeded.queue.is_idle)
        assert seeded.bridge.errors == []

    def test_one_thing_at_a_time(self, seeded):
        seeded.session.propagate()
        seeded.session.encode_ahead()
        assert "under way" in seeded.runner.status.text
        seeded.runner.cancel()


class TestSearch:
    def test_this_plane_then_another(self, seeded, tmp_path):
        seeded.session.search()
        seeded.settle()
        layer, first = seeded.session.results.layer, seeded.found[SEED].copy()
        assert layer.name == "em – everything"
        assert len(np.unique(first)) > 3
        assert not seeded.found[[0, 1, 3, 4]].any()
        seeded.viewer.dims.set_current_step(0, 0)
        seeded.session.search()
        seeded.settle()
        assert seeded.session.results.layer is layer
        numbers = set(np.unique(seeded.found[0])) - {0}
        assert numbers
        assert not numbers & set(np.unique(first))
        assert set(layer.features["index"]) >= numbers
        seeded.session.save_table(tmp_path / "objects.csv")
        seeded.settle()
        with (tmp_path / "objects.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert {row["plane"] for row in rows} == {"0", str(SEED)}
        assert {int(row["label"]) for row in rows} >= numbers

    def test_areas(self, seeded):
        seeded.session.search()
        seeded.settle()
        areas = sorted(row["area"] for row in seeded.session.results.table)
        middle = areas[len(areas) // 2]
        seeded.session.set_choices(least_area=middle, most_area=middle)
        seeded.session.search()
        seeded.settle()
        assert {row["area"] for row in seeded.session.results.table} == {middle}

    @pytest.fixture
    def halves(self, seeded):
        """A map of classes: 1 on the left, 2 on the right."""
        halves = np.ones((PLANES, SIZE, SIZE), np.uint8)
        halves[:, :, SIZE // 2 :] = 2
        seeded.session.set_choices(class_map=seeded.viewer.add_labels(halves, name="halves"))
        return seeded

    def test_objects_of_a_class(self, halves):
        halves.session.set_choices(keep="2")
        halves.session.search()
        halves.settle()
        right = halves.session.results.table
        halves.session.set_choices(keep="1,2")
        halves.session.search()
        halves.settle()
        everything = halves.session.results.table
        assert 0 < len(right) < len(everything)
        clear = [row for row in everything if row["column0"] >= SIZE // 2]
        assert {row["area"] for row in clear} <= {row["area"] for row in right}
        assert all(row["column1"] >= SIZE // 2 for row in right)

    def test_a_map_of_classes_that_goes(self, halves):
        """The run that needs it ends, and later ones keep everything."""
        halves.session.search()
        halves.until(lambda: halves.runner.task.progress.done > 0)
        halves.viewer.layers.remove("halves")
        assert halves.session.choices.class_map is None
        halves.settle()
        assert "'halves' was removed" in halves.log()
        halves.session.search()
        halves.settle()
        assert halves.found[SEED].any()

    def test_no_map_and_no_class(self, halves):
        halves.session.set_choices(keep="left")
        halves.session.search()
        assert "such as 1,3, were expected, not 'left'" in halves.runner.status.text
        small = halves.viewer.add_labels(np.ones((3, 20, 20), int), name="small")
        halves.session.set_choices(class_map=small, keep="1")
        halves.session.search()
        assert "choose labels of the image's shape" in halves.runner.status.text
        assert not halves.runner.is_busy
        assert halves.session.results is None

    def test_a_plane_without_anything_is_skipped(self, seeded, phantom):
        raw = phantom[0].copy()
        raw[1] = 9
        seeded.session.choose_image(seeded.viewer.add_image(raw, name="gap", contrast_limits=(0, 255)))
        seeded.session.set_choices(on_range=True, whole=False, first=1, last=2)
        seeded.session.search()
        seeded.settle()
        assert "Plane 1 was skipped" in seeded.log()
        assert seeded.found[2].any()


class TestEdits:
    @pytest.fixture
    def sections(self, seeded, phantom):
        """Labels of the truth, numbered anew on each plane."""
        _, truth = phantom
        data = np.where(truth > 0, truth + 20 * np.arange(PLANES)[:, None, None], 0).astype(np.uint16)
        seeded.session.choose_labels(seeded.viewer.add_labels(data, name="sections"))
        return seeded

    def test_link_is_one_step_of_undo(self, sections, phantom):
        layer, before = sections.session.labels, sections.session.labels.data.copy()
        sections.session.link()
        sections.settle()
        objects = [np.unique(layer.data[phantom[1] == n]) for n in np.unique(phantom[1]) if n]
        assert all(len(numbers) == 1 for numbers in objects)
        layer.undo()
        np.testing.assert_array_equal(layer.data, before)
        layer.redo()
        assert not np.array_equal(layer.data, before)

    @pytest.mark.parametrize(("branches", "objects"), [("join", 1), ("cut", 2)])
    def test_link_where_objects_branch(self, seeded, branches, objects):
        """A section that lies under two of the next plane."""
        data = np.zeros((PLANES, SIZE, SIZE), np.uint16)
        data[0, 10:20, 10:50] = 1
        data[1, 10:20, 10:32], data[1, 10:20, 35:50] = 2, 3
        layer = seeded.viewer.add_labels(data)
        seeded.session.choose_labels(layer)
        seeded.session.set_choices(branches=Branches(branches))
        seeded.session.link()
        seeded.settle()
        assert len(np.unique(layer.data)) == 1 + objects

    def test_link_removes_specks_and_fills_holes(self, sections):
        layer = sections.session.labels
        number = int(layer.data[0].max())
        rows, columns = np.nonzero(layer.data[0] == number)
        hole = (0, int(rows.mean()), int(columns.mean()))
        assert layer.data[hole] == number
        layer.data[hole] = 0
        empty = layer.data[0] == 0
        empty[hole[1:]] = False
        speck = (0, *(int(axis[0]) for axis in np.nonzero(empty)))
        layer.data[speck] = 77
        sections.session.set_choices(specks=10, holes=4)
        sections.session.link()
        sections.settle()
        assert layer.data[speck] == 0
        assert layer.data[hole] == layer.data[0, int(rows[0]), int(columns[0])] > 0
        layer.undo()
        assert (layer.data[speck], layer.data[hole]) == (77, 0)

    def test_link_leaves_labels_that_were_edited_meanwhile(self, sections):
        layer = sections.session.labels
        sections.session.link()
        sections.until(lambda: sections.runner.task.progress.done >= PLANES)
        layer.data[PLANES - 1, :40, :40] = 99
        edited = layer.data.copy()
        sections.settle()
        np.testing.assert_array_equal(layer.data, edited)
        assert "link them again" in sections.log()

    def test_an_edit_is_all_or_nothing(self, sections):
        layer = sections.session.labels
        first, second = layer.data[0, :9, :9].copy(), layer.data[1, :9, :9].copy()
        edit = OneEdit(layer)
        edit.put(Change(0, (0, slice(0, 9), slice(0, 9)), first, first + 1))
        assert (layer.data[0, :9, :9] == first + 1).all()
        with pytest.raises(InputError, match="was edited on plane 1 meanwhile"):
            edit.put(Change(1, (1, slice(0, 9), slice(0, 9)), second + 1, second))
        edit.revert()
        np.testing.assert_array_equal(layer.data[0, :9, :9], first)

    def test_take_over_fills_what_is_empty(self, seeded, phantom):
        layer = seeded.session.labels
        seeded.session.propagate()
        seeded.settle()
        layer.data[3] = 50
        before = layer.data.copy()
        seeded.session.take_over()
        seeded.settle()
        assert (layer.data[3] == 50).all()
        np.testing.assert_array_equal(layer.data[1], seeded.found[1])
        layer.undo()
        np.testing.assert_array_equal(layer.data, before)

    def test_numbers_of_everything_go_on_behind_those_there(self, seeded):
        layer = seeded.session.labels
        own = layer.data[SEED].copy()
        seeded.session.search()
        seeded.settle()
        seeded.session.take_over()
        seeded.settle()
        np.testing.assert_array_equal(layer.data[SEED][own > 0], own[own > 0])
        fresh = np.unique(layer.data[SEED][own == 0])
        assert fresh[fresh > 0].min() > own.max()


class TestOther:
    def test_words_on_all_planes(self, toys, make_bench, squares):
        bench = make_bench(ToyEngine())
        bench.session.zoo.look()
        assert not bench.session.takes_text
        bench.session.set_model("toy_words")
        assert bench.session.takes_text
        bench.session.choose_image(bench.viewer.add_image(squares, name="squares"))
        bench.session.set_choices(line="bright, dark")
        bench.session.look_for_words()
        bench.settle()
        assert bench.session.results.layer.name == "squares – words"
        assert (bench.found[:, 10, 45] == 1).all()
        assert (bench.found[:, 40, 40] == 2).all()
        assert "1 bright, 2 dark" in bench.log()

    def test_encode_ahead(self, seeded, engine, monkeypatch):
        monkeypatch.setattr(engine, "store", EmbeddingStore())
        seeded.session.set_choices(whole=False, first=SEED, last=SEED + 1)
        seeded.session.encode_ahead()
        seeded.settle()
        assert "2 of 2 planes encoded: 2 windows." in seeded.log()
        seeded.session.encode_ahead()
        seeded.settle()
        assert seeded.runner.log[-1].endswith("2 of 2 planes encoded: 0 windows, 2 were there already.")

    def test_encoding_tells_what_was_not_done(self, make_bench, squares):
        """A plane without anything is skipped, and where the room ends the others are left."""
        squares[1], squares[2, 0, 9] = 7, 90
        bench = make_bench(FloodEngine())
        bench.session.choose_image(bench.viewer.add_image(squares))
        bench.viewer.dims.set_current_step(0, 1)
        bench.session.encode_ahead()
        bench.settle()
        assert bench.runner.log[-1].endswith("2 of 3 planes encoded: 2 windows. 1 plane was skipped.")
        bench.session._channel.engine().store = EmbeddingStore(memory_bytes=1)
        bench.session.encode_ahead()
        bench.settle()
        assert "1 of 3 planes encoded: 1 window. 1 plane was skipped. The room" in bench.runner.log[-1]
        assert "give more by ZEROSEG_MEMORY_CACHE" in bench.runner.log[-1]

    def test_encoding_ends_with_the_room_that_was_chosen(self, make_bench, squares):
        squares[1:, 0, 1] = 7, 9
        bench = make_bench(FloodEngine())
        bench.session.choose_image(bench.viewer.add_image(squares))
        bench.session.set_choices(room=1e-6)
        bench.session.encode_ahead()
        bench.settle()
        assert "1 of 3 planes encoded: 1 window. The room for embeddings is used up" in bench.log()
        assert bench.runner.log[-1].endswith("give more under More, at Room.")
        bench.session.set_choices(room=0.0)
        bench.session.encode_ahead()
        bench.settle()
        assert bench.runner.log[-1].endswith("3 of 3 planes encoded: 2 windows, 1 was there already.")

    @pytest.mark.parametrize("move", ["step", "center", "zoom"])
    def test_encoding_waits_while_the_user_works(self, seeded, engine, monkeypatch, move):
        """It is looked at by the clock that the task goes by, which the test stops."""
        now = [100.0]
        monkeypatch.setattr(stack_task, "monotonic", lambda: now[0])
        monkeypatch.setattr(engine, "store", EmbeddingStore())
        seeded.session.encode_ahead()
        if move == "step":
            seeded.viewer.dims.set_current_step(0, 0)
        else:
            camera = camera_of(seeded.viewer)
            setattr(camera, move, {"center": (0.0, 31.0, 17.0), "zoom": 3.0 * camera.zoom}[move])
        seeded.until(lambda: "stack" in seeded.bridge.waiting or not seeded.runner.is_busy)
        assert seeded.runner.is_busy
        done = seeded.runner.task.progress.done
        for _ in range(20):
            seeded.bridge.turn()
            time.sleep(0.005)
        assert seeded.runner.task.progress.done == done < PLANES
        now[0] += stack_task.QUIET
        seeded.settle()
        assert f"{PLANES} of {PLANES} planes encoded" in seeded.log()

    def test_jump_and_next_flag(self, seeded):
        seeded.session.set_choices(threshold=1.0)
        seeded.session.propagate()
        seeded.settle()
        flags = [flag.plane for flag in seeded.session.flags]
        assert flags
        seeded.session.jump(4)
        assert seeded.viewer.dims.current_step[0] == 4
        seeded.session.next_flag()
        assert seeded.viewer.dims.current_step[0] == min(flags)
        seeded.session.flag_before()
        assert seeded.viewer.dims.current_step[0] == max(flags)
        assert "unsure" in seeded.runner.status.text

    def test_jump_in_a_scaled_stack(self, seeded):
        for layer in seeded.viewer.layers:
            layer.scale, layer.translate = (45.0, 4.6, 4.6), (90.0, 0, 0)
        seeded.viewer.dims.set_current_step(0, SEED)
        seeded.session.set_choices(whole=False, first=SEED, last=SEED + 1)
        seeded.session.propagate()
        seeded.settle()
        seeded.session.jump(4)
        assert seeded.viewer.dims.current_step[0] == 4

"""The window never freezes: measured while a 2048 x 2048 plane is encoded, clicked and accepted, in one attempt.

- Every call into this package from the window's thread (its keys and buttons, its timers, what the inference thread
  posts, what napari's events set off) is timed: the thread's own work, since on a machine that runs more programs than
  it has cores the clock on the wall tells how many they are, and the clock on the wall, for a call that waits for the
  model, a lock or a file works little.
- The event loop is asked for a tick every 5 ms, and the gaps between ticks are noted by the clock on the wall while
  the plane is encoded. Their 95th percentile is looked at, each gap counting by its length: napari's own drawing and
  other programs stop the loop now and then, and neither is ours to promise.

Aimed at are 50 ms (`AIM`). How long a machine takes is not what a test can promise, so what is measured is logged
(``pytest --log-cli-level=INFO``; docs/benchmarks.md has figures), and what fails here is a window that froze: several
times that.
"""

from __future__ import annotations

import functools
import logging
import time

import numpy as np
import pytest
from qtpy.QtCore import QTimer

from napari_zeroseg._napari import bridge as bridges
from napari_zeroseg._napari.session import Session
from napari_zeroseg._napari.workspace import Workspace
from napari_zeroseg.jobs import shared_queue
from napari_zeroseg.phantom import em_like_stack

_log = logging.getLogger(__name__)

AIM = 0.050
FROZEN = 0.5
SESSION_SLOTS = ("accept", "discard", "undo", "next_candidate", "next_object", "toggle_sign", "set_options", "refine")
WORKSPACE_SLOTS = ("_on_marks", "_on_dims", "_on_picture", "_on_shapes", "_on_mode")


class Slots:
    """Notes how long each call into the package from the window's thread takes; the outermost one of those nested."""

    def __init__(self, monkeypatch):
        self.worked: list[tuple[float, str]] = []
        self.taken: list[tuple[float, str]] = []
        self._inside = False
        for owner, names in (
            (Session, SESSION_SLOTS),
            (Workspace, WORKSPACE_SLOTS),
            (bridges.QtBridge, ("_call", "_fire")),
        ):
            for name in names:
                monkeypatch.setattr(owner, name, self._timed(getattr(owner, name)))

    def _timed(self, slot):
        @functools.wraps(slot)
        def timed(*args, **kwargs):
            if self._inside:
                return slot(*args, **kwargs)
            self._inside, start, work = True, time.perf_counter(), time.thread_time()
            try:
                return slot(*args, **kwargs)
            finally:
                self._inside = False
                what = f"{slot.__name__}{args[1:2]}"
                self.worked.append((time.thread_time() - work, what))
                self.taken.append((time.perf_counter() - start, what))

        return timed

    def clear(self):
        self.worked.clear()
        self.taken.clear()

    def check(self):
        work, slot = max(self.worked)
        longest = f"{1e3 * work:.0f} ms of work, aim {1e3 * AIM:.0f} ms: {slot[:60]}"
        _log.info("Longest of %d calls: %s", len(self.worked), longest)
        assert work < FROZEN / 2, slot
        assert max(self.taken) < (FROZEN, "")


class Watch:
    """Notes every gap between two ticks of the event loop."""

    def __init__(self):
        self.gaps: list[float] = []
        self._last = time.perf_counter()
        self._timer = QTimer()
        self._timer.setInterval(5)
        self._timer.timeout.connect(self._tick)
        self._timer.start()

    def _tick(self):
        now = time.perf_counter()
        self.gaps.append(now - self._last)
        self._last = now

    def start(self):
        self.gaps.clear()
        self._last = time.perf_counter()

    def usual(self):
        """95th percentile of the gaps, each weighted by its length: a moment of the run falls into no longer one."""
        gaps = np.sort(self.gaps)
        return float(gaps[np.searchsorted(np.cumsum(gaps), 0.95 * gaps.sum())])

    def close(self):
        self._timer.stop()


@pytest.fixture(scope="module")
def plane():
    small, _ = em_like_stack(planes=1, size=512, seed=2)
    return np.tile(small[0], (4, 4))


@pytest.fixture
def slots(monkeypatch):
    return Slots(monkeypatch)


@pytest.fixture
def watched(slots, bench, plane):
    stack = np.stack([plane, plane[::-1], plane[:, ::-1]])
    bench.viewer.add_image(stack, name="large")
    bench.viewer.dims.set_current_step(0, 0)
    bench.begin()
    bench.rest()
    slots.clear()
    watch = Watch()
    yield bench, slots, watch
    watch.close()


def test_while_a_plane_is_encoded_and_clicked(watched, shared_memory):
    bench, slots, watch = watched
    shared_memory.store.clear_memory()
    shared_memory._views.clear()
    watch.start()
    bench.workspace.points.add(np.array([[0, 300, 300.0]]))
    bench.until(lambda: bench.session.asking.answer is not None)
    assert bench.session.asking.answer.encoding > 0
    _log.info("95th percentile of the gaps: %.0f ms, aim %.0f ms", 1e3 * watch.usual(), 1e3 * AIM)
    assert watch.usual() < FROZEN / 2
    bench.qtbot.wait(20)
    slots.check()


def test_while_masks_are_accepted_and_taken_back(watched):
    bench, slots, _ = watched
    bench.click(0, 700, 900)
    bench.until(lambda: bench.session.asking.answer is not None)
    bench.session.accept()
    bench.qtbot.wait(20)
    assert bench.workspace.labels.data[0].any()
    bench.session.undo()
    bench.settle()
    bench.session.accept()
    bench.settle()
    bench.workspace.labels.selected_label = 1
    bench.session.set_options(semantic=True)
    bench.session.refine()
    bench.settle()
    assert bench.session.asking.picked is not None
    bench.session.discard()
    bench.settle()
    slots.check()


def test_while_the_slider_moves_and_the_contrast_changes(watched):
    bench, slots, _ = watched
    bench.click(0, 700, 900)
    bench.click(1, 700, 900)
    for z in (1, 0):
        bench.viewer.dims.set_current_step(0, z)
        bench.qtbot.wait(60)
    for high in (200, 180, 255):
        bench.workspace.image.contrast_limits = (0, high)
        bench.qtbot.wait(20)
    bench.until(lambda: shared_queue().is_idle)
    bench.settle()
    slots.check()


def test_while_candidates_are_cycled_and_options_change(watched):
    bench, slots, _ = watched
    bench.click(0, 700, 900)
    bench.until(lambda: bench.session.asking.answer is not None)
    for _ in range(3):
        bench.session.next_candidate()
        bench.qtbot.wait(15)
    bench.session.toggle_sign()
    bench.session.next_object()
    bench.session.set_options(batched=True)
    bench.qtbot.wait(20)
    bench.session.set_options(batched=False)
    bench.settle()
    slots.check()


def test_while_a_whole_plane_is_accepted(open_models, toys, watched):
    bench, slots, _ = watched
    bench.until(lambda: "toy_flood" in bench.session.models.zoo.entries)
    bench.dock.model.picked.emit("toy_flood")
    bench.until(lambda: bench.session.model.key == "toy_flood")
    corners = [(0, 0), (0, 2047), (2047, 2047), (2047, 0)]
    bench.dock.kinds.buttons["box"].click()
    bench.workspace.shapes.add_rectangles(np.array([[0, *corner] for corner in corners], float))
    bench.until(lambda: bench.session.asking.answer is not None)
    bench.settle()
    bench.session.accept()
    bench.settle()
    assert bench.workspace.labels.data[0].all()
    bench.session.undo()
    bench.settle()
    assert not bench.workspace.labels.data.any()
    slots.check()


def test_while_many_boxes_are_accepted_at_once(open_models, toys, watched):
    bench, slots, _ = watched
    bench.until(lambda: "toy_flood" in bench.session.models.zoo.entries)
    bench.dock.model.picked.emit("toy_flood")
    bench.until(lambda: bench.session.model.key == "toy_flood")
    bench.session.set_options(batched=True)
    bench.dock.kinds.buttons["box"].click()
    places = [(r, c) for r in range(100, 1900, 300) for c in range(100, 1900, 300)]
    boxes = [[[0, r, c], [0, r, c + 90], [0, r + 90, c + 90], [0, r + 90, c]] for r, c in places]
    bench.workspace.shapes.add_rectangles(np.array(boxes, float))
    bench.until(lambda: bench.session.asking.answer is not None)
    bench.settle()
    bench.session.accept()
    bench.settle()
    assert len(np.unique(bench.workspace.labels.data[0])) == len(places) + 1
    bench.session.undo()
    bench.settle()
    assert not bench.workspace.labels.data.any()
    slots.check()


def test_while_what_phrases_name_is_accepted(open_models, toys, watched):
    bench, slots, _ = watched
    bench.until(lambda: "toy_words" in bench.session.models.zoo.entries)
    bench.dock.model.picked.emit("toy_words")
    bench.until(lambda: bench.session.model.key == "toy_words")
    bench.settle()
    bench.dock.text.line.setText("bright, dark")
    bench.dock.text.line.returnPressed.emit()
    bench.until(lambda: all(label.text() for label in bench.dock.text.legend.figures))
    bench.settle()
    bench.session.accept()
    bench.settle()
    assert set(np.unique(bench.workspace.labels.data[0])) == {1, 2}
    bench.session.undo()
    bench.settle()
    assert not bench.workspace.labels.data.any()
    slots.check()

"""The window never freezes: the event loop is watched while a 2048 x 2048 plane is encoded, clicked and accepted."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from qtpy.QtCore import QTimer

from napari_zeroseg.jobs import shared_queue
from napari_zeroseg.phantom import em_like_stack

LIMIT = 0.050
ATTEMPTS = 4
SCHEDSTAT = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")


def delayed() -> float:
    """Seconds for which this thread was ready to run and the machine ran another; 0 where that is not told."""
    try:
        return int(SCHEDSTAT.read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


class Watch:
    """Notes the longest pause between two ticks of the event loop.

    What the thread waited for a processor that other programs used is not the window's doing and is left out; what
    it waited for Python's lock, for locks of ours or for its own work is in.
    """

    def __init__(self):
        self._timer = QTimer()
        self._timer.setInterval(5)
        self._timer.timeout.connect(self._tick)
        self.start()
        self._timer.start()

    def _tick(self):
        now, delay = time.perf_counter(), delayed()
        self.worst = max(self.worst, (now - self._last) - (delay - self._delay))
        self._last, self._delay = now, delay

    def start(self):
        self.worst, self._last, self._delay = 0.0, time.perf_counter(), delayed()

    def close(self):
        self._timer.stop()


@pytest.fixture(scope="module")
def plane():
    small, _ = em_like_stack(planes=1, size=512, seed=2)
    return np.tile(small[0], (4, 4))


@pytest.fixture
def watched(bench, plane):
    stack = np.stack([plane, plane[::-1], plane[:, ::-1]])
    bench.viewer.add_image(stack, name="large")
    bench.viewer.dims.set_current_step(0, 0)
    bench.begin()
    bench.rest()
    watch = Watch()
    yield bench, watch
    watch.close()


def at_best(scene, watch, settle):
    """Longest pause of the calmest attempt: what another process takes from this machine is not the window's doing."""
    pauses = []
    for attempt in range(ATTEMPTS):
        settle()
        watch.start()
        scene(attempt)
        pauses.append(watch.worst)
        if pauses[-1] < LIMIT:
            break
    return min(pauses)


def test_while_a_plane_is_encoded_and_clicked(watched, shared_memory):
    bench, watch = watched

    def scene(attempt):
        shared_memory.store.clear_memory()
        shared_memory._views.clear()
        bench.workspace.points.add(np.array([[0, 300 + 40 * attempt, 300.0]]))
        bench.qtbot.wait(10)
        bench.until(lambda: bench.session.asking.answer is not None)
        bench.qtbot.wait(20)

    assert at_best(scene, watch, bench.rest) < LIMIT
    assert bench.session.asking.answer.encoding > 0


def test_while_masks_are_accepted_and_taken_back(watched):
    bench, watch = watched

    def scene(attempt):
        bench.session.accept()
        bench.qtbot.wait(20)
        assert bench.workspace.labels.data[0].any()
        bench.session.undo()
        bench.qtbot.wait(20)

    def click():
        bench.session.discard()
        bench.click(0, 700, 900)
        bench.until(lambda: bench.session.asking.answer is not None)
        bench.rest()

    assert at_best(scene, watch, click) < LIMIT


def test_while_the_slider_moves_and_the_contrast_changes(watched):
    bench, watch = watched
    bench.click(0, 700, 900)
    bench.click(1, 700, 900)

    def scene(attempt):
        for z in (1, 0):
            bench.viewer.dims.set_current_step(0, z)
            bench.qtbot.wait(60)
        for high in (200, 180, 255):
            bench.workspace.image.contrast_limits = (0, high)
            bench.qtbot.wait(20)
        bench.until(lambda: shared_queue().is_idle)

    assert at_best(scene, watch, bench.rest) < LIMIT


def test_while_candidates_are_cycled_and_options_change(watched):
    bench, watch = watched
    bench.click(0, 700, 900)
    bench.until(lambda: bench.session.asking.answer is not None)

    def scene(attempt):
        for _ in range(3):
            bench.session.next_candidate()
            bench.qtbot.wait(15)
        bench.session.toggle_sign()
        bench.session.next_object()
        bench.session.set_options(batched=True)
        bench.qtbot.wait(20)
        bench.session.set_options(batched=False)
        bench.settle()

    assert at_best(scene, watch, bench.rest) < LIMIT

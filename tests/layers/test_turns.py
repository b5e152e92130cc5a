"""Long work in steps: it goes on only while somebody waits for it, and can be left at any time."""

from __future__ import annotations

import threading
import time

import pytest

from napari_zeroseg._napari import turns
from napari_zeroseg._napari.turns import Turns
from napari_zeroseg.errors import InputError


@pytest.fixture(autouse=True)
def short_steps(monkeypatch):
    monkeypatch.setattr(turns, "STEP", 0.0)


def count_to(number):
    def work(token, tell):
        for i in range(number):
            token.raise_if_cancelled()
            tell(i)

    return work


def rest(turn):
    """Wait until its thread is gone."""
    turn._thread.join(10)
    assert not turn._thread.is_alive()


def test_each_look_ends_a_step():
    turn = Turns(count_to(3))
    steps = []
    while not turn.has_ended:
        steps.append(turn.step())
    assert steps == [[], [0], [1], [2]]
    assert turn.step() == []
    rest(turn)


def test_it_stands_still_between_steps():
    here, seen = threading.current_thread(), []

    def work(token, tell):
        while True:
            seen.append(threading.current_thread() is not here)
            token.raise_if_cancelled()

    turn = Turns(work)
    turn.step()
    turn.step()
    count = len(seen)
    time.sleep(0.05)
    assert len(seen) == count == 2
    assert all(seen)
    turn.cancel()
    rest(turn)


def test_a_long_step_goes_on_over_many_looks(monkeypatch):
    monkeypatch.setattr(turns, "STEP", 60.0)
    turn = Turns(count_to(5))
    assert turn.step() == [0, 1, 2, 3, 4]
    assert turn.has_ended


def test_errors_come_out_of_the_step():
    def work(token, tell):
        token.raise_if_cancelled()
        raise InputError("Give something else.")

    turn = Turns(work)
    turn.step()
    with pytest.raises(InputError, match="something else"):
        turn.step()
    assert turn.has_ended


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_cancelling_lets_the_thread_go(steps):
    left = threading.Event()

    def work(token, tell):
        try:
            count_to(100)(token, tell)
        finally:
            left.set()

    turn = Turns(work)
    for _ in range(steps):
        turn.step()
    turn.cancel()
    assert turn.has_ended
    assert turn.step() == []
    if steps:
        assert left.wait(10)
        rest(turn)
    else:
        assert turn._thread is None


def test_cancelling_during_a_step():
    begun = threading.Event()

    def work(token, tell):
        begun.set()
        while True:
            time.sleep(0.001)
            if not token.cancelled:
                continue
            token.raise_if_cancelled()

    turn = Turns(work)
    told = []
    waiting = threading.Thread(target=lambda: told.append(turn.step()))
    waiting.start()
    assert begun.wait(10)
    turn.cancel()
    waiting.join(10)
    assert told == [[]]
    rest(turn)


def test_what_is_large_ends_a_step(monkeypatch):
    monkeypatch.setattr(turns, "STEP", 60.0)
    turn = Turns(count_to(5), lambda one: one in (1, 2))
    assert [turn.step(), turn.step(), turn.step()] == [[0, 1], [2], [3, 4]]
    assert turn.has_ended

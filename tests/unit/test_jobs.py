"""One inference thread: order, newest wins, cancellation, shutdown."""

from __future__ import annotations

import threading
import time

import pytest

from napari_zeroseg.errors import CancelledError
from napari_zeroseg.jobs import CancelToken, InferenceQueue, Priority


class Recorder:
    """Submits jobs and remembers what came back, in order."""

    def __init__(self, queue: InferenceQueue) -> None:
        self.queue = queue
        self.results: list[object] = []
        self.errors: list[Exception] = []
        self.threads: set[str] = set()

    def submit(self, work, key="key", owner=None, priority=Priority.CLICK):
        return self.queue.submit(
            work,
            owner=self if owner is None else owner,
            key=key,
            done=self._done,
            failed=self.errors.append,
            priority=priority,
        )

    def _done(self, result):
        self.threads.add(threading.current_thread().name)
        self.results.append(result)

    def wait(self, timeout=5.0):
        end = time.monotonic() + timeout
        while not self.queue.is_idle:
            assert time.monotonic() < end, "the queue did not become idle"
            time.sleep(0.002)


@pytest.fixture
def queue():
    queue = InferenceQueue("test-inference")
    yield queue
    queue.close(5)


@pytest.fixture
def recorder(queue):
    return Recorder(queue)


@pytest.fixture
def gate(recorder):
    """A job that holds the thread until the gate is opened."""
    started, opened = threading.Event(), threading.Event()

    def hold(token):
        started.set()
        assert opened.wait(5)
        return "gate"

    recorder.submit(hold, key="gate", owner=opened)
    assert started.wait(5)
    yield opened
    opened.set()


def test_result_comes_from_the_one_thread(recorder):
    recorder.submit(lambda token: 1, key="a")
    recorder.submit(lambda token: 2, key="b")
    recorder.wait()
    assert recorder.results == [1, 2]
    assert recorder.threads == {"test-inference"}


def test_the_newest_of_a_key_wins(recorder, gate):
    for number in range(5):
        recorder.submit(lambda token, number=number: number)
    gate.set()
    recorder.wait()
    assert recorder.results == ["gate", 4]


def test_a_running_job_is_overtaken_and_reports_nothing(recorder):
    started = threading.Event()

    def slow(token):
        started.set()
        while not token.cancelled:
            time.sleep(0.001)
        return "stale"

    recorder.submit(slow)
    assert started.wait(5)
    recorder.submit(lambda token: "new")
    recorder.wait()
    assert recorder.results == ["new"]


def test_clicks_go_before_work_ahead(recorder, gate):
    recorder.submit(lambda token: "ahead", key="ahead", priority=Priority.AHEAD)
    recorder.submit(lambda token: "load", key="load", priority=Priority.LOAD)
    recorder.submit(lambda token: "click", key="click")
    gate.set()
    recorder.wait()
    assert recorder.results == ["gate", "click", "load", "ahead"]


def test_owners_do_not_cancel_each_other(recorder, gate):
    one, other = object(), object()
    recorder.submit(lambda token: "one", owner=one)
    recorder.submit(lambda token: "other", owner=other)
    recorder.queue.cancel(one)
    gate.set()
    recorder.wait()
    assert recorder.results == ["gate", "other"]


def test_cancel_of_one_key_leaves_the_rest(recorder, gate):
    owner = object()
    recorder.submit(lambda token: "a", key="a", owner=owner)
    recorder.submit(lambda token: "b", key="b", owner=owner)
    recorder.queue.cancel(owner, "a")
    gate.set()
    recorder.wait()
    assert recorder.results == ["gate", "b"]


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), MemoryError("device"), ValueError("odd")])
def test_every_error_is_delivered_and_the_thread_lives_on(recorder, error):
    def fail(token):
        raise error

    recorder.submit(fail)
    recorder.wait()
    assert recorder.errors == [error]
    recorder.submit(lambda token: "after")
    recorder.wait()
    assert recorder.results == ["after"]


def test_an_error_after_a_cancellation_is_nobodys(recorder, gate):
    started = threading.Event()

    def fail(token):
        started.set()
        while not token.cancelled:
            time.sleep(0.001)
        raise RuntimeError("the input went away")

    token = recorder.submit(fail)
    gate.set()
    assert started.wait(5)
    token.cancel()
    recorder.wait()
    assert recorder.errors == []


def test_a_report_that_fails_is_logged(queue, recorder, caplog):
    def broken(result):
        raise RuntimeError("window is gone")

    queue.submit(lambda token: 1, owner=recorder, key="k", done=broken, failed=recorder.errors.append)
    recorder.wait()
    recorder.submit(lambda token: 2)
    recorder.wait()
    assert recorder.results == [2]
    assert "could not be delivered" in caplog.text


def test_close_ends_the_thread_and_a_later_job_starts_it_again(recorder):
    recorder.submit(lambda token: 1)
    recorder.wait()
    recorder.queue.close(5)
    assert "test-inference" not in {thread.name for thread in threading.enumerate()}
    recorder.submit(lambda token: 2)
    recorder.wait()
    assert recorder.results == [1, 2]


def test_close_during_a_job_never_makes_a_second_thread(recorder, gate):
    recorder.submit(lambda token: "dropped", key="dropped")
    recorder.queue.close()
    recorder.submit(lambda token: "after", key="after")
    assert [thread.name for thread in threading.enumerate()].count("test-inference") == 1
    gate.set()
    recorder.wait()
    assert recorder.results == ["after"]


def test_token():
    token = CancelToken()
    token.raise_if_cancelled()
    token.cancel()
    assert token.cancelled
    with pytest.raises(CancelledError):
        token.raise_if_cancelled()

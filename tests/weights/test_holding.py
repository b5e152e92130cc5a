"""A model's folder is worked on by one process at a time."""

from __future__ import annotations

import threading

from napari_zeroseg import locks
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.weights.cards import LOCK
from napari_zeroseg.weights.holding import if_free, one_at_a_time


def test_an_empty_folder_goes_and_one_with_files_stays(tmp_path):
    folder = tmp_path / "model"
    with one_at_a_time(folder, CancelToken()):
        assert folder.is_dir()
    assert not folder.exists()
    with one_at_a_time(folder, CancelToken()):
        (folder / "file").touch()
    assert (folder / "file").exists()


def test_a_lock_that_its_owner_removed_before_it_was_locked_holds_nobody(tmp_path, monkeypatch):
    """The one who waited has the old file open, the next one makes a new one: they would not see each other."""
    folder = tmp_path / "model"
    lock, removed = locks._lock, []

    def late(handle: int) -> None:
        if not removed:
            removed.append((folder / LOCK).unlink())
        lock(handle)

    monkeypatch.setattr(locks, "_lock", late)
    with one_at_a_time(folder, CancelToken()), if_free(folder) as is_free:
        assert removed
        assert not is_free


def test_who_waits_goes_on_in_a_new_folder(tmp_path):
    folder = tmp_path / "model"
    entered, leave = threading.Event(), threading.Event()

    def wait() -> None:
        with one_at_a_time(folder, CancelToken()):
            entered.set()
            leave.wait(20)

    waiting = threading.Thread(target=wait)
    with one_at_a_time(folder, CancelToken()):
        waiting.start()
        assert not entered.wait(0.1)
    assert entered.wait(20)
    with if_free(folder) as is_free:
        assert not is_free
    leave.set()
    waiting.join()
    assert not folder.exists()

"""The store of embeddings: memory, disk, faults of both, several processes."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from napari_zeroseg.embeddings import EmbeddingStore, content_key, default_store
from napari_zeroseg.segmenter import Embedding
from napari_zeroseg.tiling import whole

SHAPE = (40, 30)
MODEL = "model-1"


def _embedding(seed: int = 0) -> Embedding:
    tensor = np.random.default_rng(seed).normal(size=(1, 16, 8, 8)).astype(np.float32)
    return Embedding({"image": tensor}, SHAPE, MODEL, whole(SHAPE))


SIZE = 2 * 1 * 16 * 8 * 8 * 4
"""What one of them counts for in memory, with what a model derives of it."""


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _get(store: EmbeddingStore, key: str) -> Embedding | None:
    return store.get(key, SHAPE, MODEL)


def test_the_key_is_of_the_pixels_and_the_model():
    picture = np.random.default_rng(0).integers(0, 255, (20, 30)).astype(np.uint8)
    key = content_key(picture, MODEL)
    assert key == content_key(picture.copy(), MODEL) == content_key(np.asfortranarray(picture), MODEL)
    changed = picture.copy()
    changed[7, 7] ^= 1
    others = [
        content_key(changed, MODEL),
        content_key(picture, "model-2"),
        content_key(picture.reshape(30, 20), MODEL),
        content_key(picture.reshape(20, 10, 3), MODEL),
    ]
    assert len({key, *others}) == 5


def test_memory_gives_back_the_same(tmp_path):
    store = EmbeddingStore()
    kept = _embedding()
    store.put("a", kept)
    assert _get(store, "a") is kept
    assert _get(store, "b") is None
    assert store.holds("a")
    assert not store.holds("b")
    store.clear_memory()
    assert _get(store, "a") is None


def test_the_least_recently_used_leaves_first():
    store = EmbeddingStore(memory_bytes=3 * SIZE)
    for key in "abc":
        store.put(key, _embedding())
    _get(store, "a")
    store.put("d", _embedding())
    assert [key for key in "abcd" if store.holds(key)] == ["a", "c", "d"]


def test_one_embedding_is_held_however_small_the_limit():
    store = EmbeddingStore(memory_bytes=1)
    store.put("a", _embedding())
    store.put("b", _embedding())
    assert [key for key in "ab" if store.holds(key)] == ["b"]


def test_next_week_it_is_on_disk_in_half_precision(tmp_path):
    kept = _embedding()
    EmbeddingStore(tmp_path).put("abc", kept)
    (path,) = _files(tmp_path)
    assert load_file(path)["image"].dtype == np.float16
    found = _get(EmbeddingStore(tmp_path), "abc")
    assert found is not None
    assert found.image_shape == SHAPE
    assert found.model_key == MODEL
    assert found.tensors["image"].dtype == np.float32
    np.testing.assert_array_equal(found.tensors["image"], kept.tensors["image"].astype(np.float16).astype(np.float32))


def test_what_left_memory_comes_back_from_disk(tmp_path):
    store = EmbeddingStore(tmp_path, memory_bytes=SIZE)
    for key in "abc":
        store.put(key * 3, _embedding())
    assert all(_get(store, key * 3) is not None for key in "abc")


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "header"])
def test_a_damaged_file_is_made_again(tmp_path, caplog, damage):
    EmbeddingStore(tmp_path).put("abc", _embedding())
    (path,) = _files(tmp_path)
    whole_file = path.read_bytes()
    broken = {
        "truncated": whole_file[:-9],
        "empty": b"",
        "text": b"not tensors",
        "header": b"\xff" * 8 + whole_file[8:],
    }
    path.write_bytes(broken[damage])
    store = EmbeddingStore(tmp_path)
    assert _get(store, "abc") is None
    assert "damaged and is made again" in caplog.text
    store.put("abc", _embedding())
    assert _get(EmbeddingStore(tmp_path), "abc") is not None
    assert _files(tmp_path) == [path]


def test_no_temporary_file_is_left_and_a_killed_ones_is_removed(tmp_path):
    store = EmbeddingStore(tmp_path)
    store.put("abc", _embedding())
    left = tmp_path / "ab" / "killed.tmp"
    working = tmp_path / "ab" / "working.tmp"
    left.write_bytes(b"x")
    working.write_bytes(b"x")
    last_week = time.time() - 7 * 86400
    os.utime(left, (last_week, last_week))
    EmbeddingStore(tmp_path).put("abd", _embedding())
    assert [path.name for path in _files(tmp_path)] == ["abc.safetensors", "abd.safetensors", "working.tmp"]


def test_the_disk_limit_is_held_and_the_oldest_leave(tmp_path):
    EmbeddingStore(tmp_path).put("aa", _embedding())
    size = _files(tmp_path)[0].stat().st_size
    store = EmbeddingStore(tmp_path, memory_bytes=1, disk_bytes=3 * size)
    for age, key in enumerate(["aa", "bb", "cc"]):
        store.put(key, _embedding())
        then = time.time() - 1000 + age
        os.utime(tmp_path / key / f"{key}.safetensors", (then, then))
    _get(store, "aa")  # used now
    store.put("dd", _embedding())
    assert [path.stem for path in _files(tmp_path)] == ["aa", "cc", "dd"]
    for i in range(20):
        store.put(f"e{i}", _embedding())
        assert sum(path.stat().st_size for path in _files(tmp_path)) <= 3 * size


def test_a_limit_of_nothing_switches_the_disk_off(tmp_path):
    EmbeddingStore(tmp_path / "none", disk_bytes=0).put("a", _embedding())
    assert not (tmp_path / "none").exists()


def test_a_file_in_place_of_the_folder_is_reported_once(tmp_path, caplog):
    blocked = tmp_path / "cache"
    blocked.write_text("a file")
    store = EmbeddingStore(blocked)
    assert _get(store, "a") is None
    for key in "abc":
        store.put(key, _embedding())
    assert all(_get(store, key) is not None for key in "abc")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "Make room, or set ZEROSEG_CACHE_DIR" in caplog.text


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 100 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "none", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small file system needs Linux and root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_reported_and_memory_goes_on(small_disk, caplog):
    store = EmbeddingStore(small_disk)
    keys = [f"k{i:02}" for i in range(80)]
    for i, key in enumerate(keys):
        store.put(key, _embedding(i))
    assert store.folder is None
    assert all(_get(store, key) is not None for key in keys)
    assert caplog.text.count("No space left") == 1
    kept = _files(small_disk)
    assert 0 < len(kept) < len(keys)
    assert all(path.suffix == ".safetensors" for path in kept)
    again = EmbeddingStore(small_disk)
    assert all(_get(again, path.stem) is not None for path in kept)


def test_a_read_only_folder_is_still_read(small_disk, caplog):
    EmbeddingStore(small_disk).put("abc", _embedding())
    EmbeddingStore(small_disk).put("abd", _embedding())
    (small_disk / "ab" / "abd.safetensors").write_bytes(b"damaged")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    store = EmbeddingStore(small_disk)
    assert _get(store, "abc") is not None
    assert _get(store, "abd") is None
    store.put("abe", _embedding())
    assert _get(store, "abe") is not None
    assert "Read-only file system" in caplog.text


_WORKER = """
import sys
from pathlib import Path
import numpy as np
from napari_zeroseg.embeddings import EmbeddingStore
from napari_zeroseg.segmenter import Embedding
folder, limit, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
rng = np.random.default_rng(seed)
store = EmbeddingStore(folder, memory_bytes=1, disk_bytes=limit)
for number in rng.integers(0, 40, 300):
    key = f"{number:02}"
    found = store.get(key, (4, 4), "m")
    if found is None:
        store.put(key, Embedding({"image": np.full((1, 16, 8, 8), number, np.float32)}, (4, 4), "m", (0, 0, 4, 4)))
    else:
        assert (found.tensors["image"] == number).all(), key
assert store.folder is not None
"""


@pytest.mark.parametrize("limit", [10**9, 20_000], ids=["all fit", "they throw each other out"])
def test_several_processes_share_a_folder(tmp_path, limit):
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _WORKER, str(tmp_path), str(limit), str(seed)], stderr=subprocess.PIPE, text=True
        )
        for seed in range(3)
    ]
    reports = [worker.communicate(timeout=120)[1] for worker in workers]
    assert reports == [""] * 3
    assert [worker.returncode for worker in workers] == [0] * 3
    assert all(path.suffix == ".safetensors" for path in _files(tmp_path))
    store = EmbeddingStore(tmp_path, disk_bytes=limit)
    for path in _files(tmp_path):
        found = _get(store, path.stem)
        assert found is not None
        assert (found.tensors["image"] == int(path.stem)).all()


def test_threads_share_a_store(tmp_path):
    store = EmbeddingStore(tmp_path, memory_bytes=3 * SIZE)
    faults = []

    def work(seed):
        try:
            for number in np.random.default_rng(seed).integers(0, 12, 150):
                found = _get(store, f"{number:03}")
                if found is None:
                    store.put(f"{number:03}", _embedding(int(number)))
                else:
                    expected = _embedding(int(number)).tensors["image"]
                    np.testing.assert_allclose(found.tensors["image"], expected, atol=2e-3)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults


def test_the_default_store_follows_the_settings(monkeypatch, tmp_path):
    monkeypatch.setenv("ZEROSEG_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("ZEROSEG_MEMORY_CACHE", "2MB")
    monkeypatch.setenv("ZEROSEG_DISK_CACHE", "3MB")
    store = default_store()
    assert (store.folder, store.memory_bytes, store.disk_bytes) == (tmp_path / "embeddings", 2 * 10**6, 3 * 10**6)
    monkeypatch.setenv("ZEROSEG_DISK_CACHE", "0")
    assert default_store().folder is None

"""Encoding ahead: order, what is skipped, pauses, budgets and faults, with a model that is quick."""

from __future__ import annotations

import logging
import threading

import numpy as np
import pytest

from napari_zeroseg.embeddings import EmbeddingStore
from napari_zeroseg.encode_ahead import AheadProgress, encode_stack, outwards
from napari_zeroseg.errors import CancelledError, InputError, ReadError, WriteError
from napari_zeroseg.intensity import to_uint8
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.registry import MOBILE_SAM
from napari_zeroseg.segmenter import Embedding
from napari_zeroseg.tiling import Field, whole
from napari_zeroseg.view import View

SIZE = 2 * 64 * 64  # bytes of one embedding on disk, without its header


class Model:
    """Its embedding is a small picture of the mean."""

    spec = MOBILE_SAM
    model_key = "mean-1"

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def encode(self, image):
        self.seen.append(image.shape)
        return Embedding({"image": np.full((64, 64), image.mean(), np.float32)}, image.shape, self.model_key, None)


class Reads:
    """A stack that notes which planes are read, and whose plane 2 can be broken."""

    def __init__(self, data, broken=()):
        self.data, self.broken, self.read = data, broken, []
        self.shape, self.dtype = data.shape, data.dtype

    def __getitem__(self, key):
        self.read.append(key[0])
        if key[0] in self.broken:
            raise OSError("the tape is torn")
        return self.data[key]


@pytest.fixture
def stack() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (5, 80, 90), np.uint8)


@pytest.fixture
def model() -> Model:
    return Model()


def numbers(reports) -> list[int]:
    return [report.plane for report in reports]


def test_the_current_plane_comes_first_then_outwards():
    assert outwards(range(6), 3) == [3, 4, 2, 5, 1, 0]
    assert outwards([7, 1, 3], None) == [7, 1, 3]
    assert outwards([0, 9, 9, 4], 8) == [9, 4, 0]


def test_one_plane_is_read_at_a_time_and_none_twice(stack, model, tmp_path):
    lazy = Reads(stack)
    walk = encode_stack(lazy, model, EmbeddingStore(tmp_path), planes=[0, 1, 2, 4], around=2)
    assert next(walk).plane == 2
    assert lazy.read == [2]
    assert numbers(walk) == [1, 4, 0]
    assert lazy.read == [2, 1, 4, 0]


def test_an_edit_to_one_plane_encodes_one_plane(stack, model, tmp_path):
    first = list(encode_stack(stack, model, EmbeddingStore(tmp_path)))
    assert [report.encoded for report in first] == [1] * 5
    stack[3, 10, 10] ^= 1
    again = list(encode_stack(stack, model, EmbeddingStore(tmp_path), around=3))
    assert {report.plane: report.encoded for report in again} == {0: 0, 1: 0, 2: 0, 3: 1, 4: 0}
    assert len(model.seen) == 6
    assert all(report.size >= SIZE and not report.fault for report in again)


def test_what_is_encoded_is_what_a_view_asks_for(stack, model, tmp_path):
    store = EmbeddingStore(tmp_path)
    deep = stack.astype(np.uint16) * 10
    list(encode_stack(deep, model, store, limits=(100, 2000)))
    assert View(model, to_uint8(deep[1], (100, 2000)), store).is_encoded(whole((80, 90)))
    assert not View(model, to_uint8(deep[1], (100, 2001)), store).is_encoded(whole((80, 90)))
    list(encode_stack(deep, model, store, show=lambda plane: 255 - to_uint8(plane, (100, 2000))))
    assert View(model, 255 - to_uint8(deep[1], (100, 2000)), store).is_encoded(whole((80, 90)))


def test_memory_is_left_to_what_is_in_use(stack, model, tmp_path):
    held = 2 * 4 * 64 * 64
    store = EmbeddingStore(tmp_path, memory_bytes=2 * held)
    in_use = View(model, stack[0], store)
    in_use.embedding(whole((80, 90)))
    list(encode_stack(stack, model, store))
    store.folder = None  # only memory is asked now
    assert in_use.is_encoded(whole((80, 90)))
    assert not View(model, stack[1], store).is_encoded(whole((80, 90)))


def test_without_a_disk_it_is_held_in_memory_as_far_as_that_goes(stack, model):
    held = 2 * 4 * 64 * 64
    store = EmbeddingStore(memory_bytes=3 * held)
    assert numbers(encode_stack(stack, model, store, around=2)) == [2, 3, 1]
    assert all(View(model, stack[plane], store).is_encoded(whole((80, 90))) for plane in (2, 3, 1))


def test_a_budget_counts_what_is_there_already(stack, model, tmp_path):
    store = EmbeddingStore(tmp_path)
    one = next(iter(encode_stack(stack, model, store))).size
    for _ in range(2):  # the same command again does the same planes
        assert numbers(encode_stack(stack, model, store, budget_bytes=3 * one)) == [0, 1, 2]
    assert len(model.seen) == 3


def test_no_more_than_the_store_keeps(stack, model, tmp_path):
    one = next(iter(encode_stack(stack, model, EmbeddingStore(tmp_path / "first")))).size
    store = EmbeddingStore(tmp_path / "second", disk_bytes=2 * one)
    assert numbers(encode_stack(stack, model, store)) == [0, 1]


def test_a_budget_that_ends_in_the_midst_of_a_plane(model, tmp_path):
    large = np.random.default_rng(0).integers(0, 255, (1500, 1500), np.uint8)
    store = EmbeddingStore(tmp_path)
    (first,) = encode_stack(large, model, store, windows=1)
    (report,) = encode_stack(large, model, store, budget_bytes=2 * first.size)
    assert report.windows > report.looked == 2
    assert (report.encoded, report.is_ended) == (1, False)
    assert first.is_ended


def test_a_budget_of_time(stack, model, tmp_path):
    assert numbers(encode_stack(stack, model, EmbeddingStore(tmp_path), budget_seconds=0)) == [0]


def test_windows(model, tmp_path):
    large = np.random.default_rng(0).integers(0, 255, (1, 1300, 1400), np.uint8)
    store = EmbeddingStore(tmp_path)
    (report,) = encode_stack(large, model, store, windows=3, centre=(0, 0))
    assert (report.windows, report.encoded) == (3, 3)
    assert View(model, large[0], store).is_encoded(View(model, large[0]).ahead((0, 0))[0])
    (report,) = encode_stack(large, model, store, field="plane")
    assert report.windows == 1
    assert model.seen[-1] == (1300, 1400)
    (report,) = encode_stack(large, model, store, field=600)
    assert model.seen[-1] == (1024, 1024)
    with pytest.raises(InputError, match="at least 64 pixels"):
        encode_stack(large, model, store, field=10)


def test_windows_in_which_nothing_is_to_be_seen_are_left_out(model, tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (600, 1100), np.uint8)
    picture[:, 580:] = 7
    (report,) = encode_stack(picture[None], model, EmbeddingStore(tmp_path / "side"), field=512)
    assert not report.fault
    assert report.encoded == report.windows > 1
    chosen = [Field(0, 0, 600, 560), Field(0, 600, 500, 1100)]
    (report,) = encode_stack(picture[None], model, EmbeddingStore(tmp_path / "given"), fields=chosen)
    assert (report.fault, report.windows, report.encoded) == ("", 1, 1)
    assert model.seen[-1] == (600, 560)


def test_planes_that_do_not_exist_are_told_before_anything_is_computed(stack, model, tmp_path):
    with pytest.raises(InputError, match="There is no plane 5"):
        encode_stack(stack, model, EmbeddingStore(tmp_path), planes=[0, 5])
    assert not model.seen


def test_broken_and_empty_planes_are_skipped_and_named(stack, model, tmp_path):
    stack[1] = 7
    reports = list(encode_stack(Reads(stack, broken=[3]), model, EmbeddingStore(tmp_path)))
    assert numbers(reports) == list(range(5))
    assert {report.plane: report.encoded for report in reports} == {0: 1, 1: 0, 2: 1, 3: 0, 4: 1}
    assert "All pixels of the plane have the same value" in reports[1].fault
    assert "the tape is torn" in reports[3].fault


def test_errors_of_a_picture_are_told_in_its_words(stack, model, tmp_path):
    def show(_):
        raise ReadError("The cable is out.")

    assert {report.fault for report in encode_stack(stack, model, EmbeddingStore(tmp_path), show=show)} == {
        "The cable is out."
    }


def test_progress_and_time_left(stack, model, tmp_path):
    told: list[AheadProgress] = []
    reports = list(encode_stack(stack, model, EmbeddingStore(tmp_path), progress=told.append))
    assert [(at.plane, at.window, at.windows, at.planes_done, at.planes) for at in told] == [
        (plane, 1, 1, plane, 5) for plane in range(5)
    ]
    left = [at.left for at in told]
    assert left[-1] == 0
    assert all(seconds is not None and seconds > 0 for seconds in left[:-1])
    assert reports[-1].left == 0
    told.clear()
    list(encode_stack(stack, model, EmbeddingStore(tmp_path), progress=told.append))
    assert all(at.left is None for at in told)  # nothing was encoded, so nothing is known


def test_cancelled_between_windows(stack, model, tmp_path):
    cancel = CancelToken()
    walk = encode_stack(stack, model, EmbeddingStore(tmp_path), cancel=cancel)
    next(walk)
    cancel.cancel()
    with pytest.raises(CancelledError):
        next(walk)
    assert len(model.seen) == 1


def test_pauses_at_the_gate_and_can_be_cancelled_there(stack, model, tmp_path):
    gate, cancel, done = threading.Event(), CancelToken(), []
    gate.set()

    def pause(at: AheadProgress) -> None:
        if at.plane == 1:
            gate.clear()

    def work() -> None:
        try:
            for report in encode_stack(
                stack, model, EmbeddingStore(tmp_path), progress=pause, cancel=cancel, gate=gate
            ):
                done.append(report.plane)
        except CancelledError:
            done.append("cancelled")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(0.5)
    assert thread.is_alive()
    assert done == [0, 1]
    gate.set()
    thread.join(10)
    assert done == [0, 1, 2, 3, 4]
    gate.clear()
    thread = threading.Thread(target=work)
    thread.start()
    cancel.cancel()
    thread.join(10)
    assert done[5:] == ["cancelled"]


def test_a_disk_that_fails_ends_the_walk(stack, model, tmp_path, caplog):
    (tmp_path / "file").write_text("not a folder")
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(WriteError, match="cannot be kept on disk any more, at plane 0"),
    ):
        list(encode_stack(stack, model, EmbeddingStore(tmp_path / "file")))
    assert len(model.seen) == 1

"""The embedded model on two worker processes, one of which is killed: what comes is what one process makes."""

from __future__ import annotations

import functools
import json
import os
import signal
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from napari_zeroseg.automatic import AutomaticOptions
from napari_zeroseg.cli import main
from napari_zeroseg.cluster import Recipe, Spread
from napari_zeroseg.headless import AutomaticRun, SegmentRun, segment_file
from napari_zeroseg.io.read import open_image
from napari_zeroseg.phantom import em_like_stack
from napari_zeroseg.registry import load_model
from napari_zeroseg.seeds import GivenPrompts

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def one_thread():
    """Sums of as many parts are equal to the last bit: each worker computes with one thread too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def stack(tmp_path_factory) -> Path:
    """Twelve planes."""
    path = tmp_path_factory.mktemp("pictures") / "stack.npy"
    np.save(path, em_like_stack(12, 128)[0])
    return path


@contextmanager
def no_bar(total: int, done: int):
    yield SimpleNamespace(update=lambda: None)


def never():
    raise AssertionError("the model was loaded in this process")


def planes(report: dict) -> list[tuple]:
    return [(told["plane"], told["fault"], told["objects"]) for told in report["planes"]]


def test_a_worker_is_killed_in_the_middle(client, one_thread, stack, tmp_path):
    prompts = GivenPrompts(boxes=[(20, 20, 60, 70), (70, 40, 110, 110)])
    workers = client.run(os.getpid)
    assert len(set(workers.values())) == 2
    told = []

    def kill_one() -> None:
        told.append(None)
        if len(told) == 3:
            os.kill(min(workers.values()), signal.SIGKILL)

    @contextmanager
    def bar(total: int, done: int):
        yield SimpleNamespace(update=kill_one)

    spread = functools.partial(Spread, client, Recipe("mobile_sam", threads=1))
    out = tmp_path / "cluster.ome.zarr"
    report = segment_file(SegmentRun(stack, out, prompts), never, bar, spread)
    assert len(told) == 12
    alone = segment_file(SegmentRun(stack, tmp_path / "alone.ome.zarr", prompts), load_model, no_bar)
    assert report["run"] == alone["run"]
    assert planes(report) == planes(alone)
    found = open_image(out).data[:]
    np.testing.assert_array_equal(found, open_image(tmp_path / "alone.ome.zarr").data[:])
    assert set(np.unique(found)) == {0, 1, 2}
    again = segment_file(SegmentRun(stack, out, prompts), never, no_bar, spread)
    assert "nothing to do" in again["summary"]


def test_everything_on_a_cluster_has_the_numbers_of_one_process(client, one_thread, stack, tmp_path):
    automatic = AutomaticRun(AutomaticOptions(points_per_side=4, pred_iou_thresh=0.5, stability_score_thresh=0.5))
    job = SegmentRun(stack, tmp_path / "cluster.tif", planes="0:3", automatic=automatic)
    spread = functools.partial(Spread, client, Recipe("mobile_sam", threads=1))
    report = segment_file(job, never, no_bar, spread)
    alone = segment_file(
        SegmentRun(stack, tmp_path / "alone.tif", planes="0:3", automatic=automatic), load_model, no_bar
    )
    assert planes(report) == planes(alone)
    found = np.asarray(open_image(tmp_path / "cluster.tif").data)
    np.testing.assert_array_equal(found, np.asarray(open_image(tmp_path / "alone.tif").data))
    assert found[2].max() > found[0].max() > 1
    assert (tmp_path / "cluster.tif.csv").read_text() == (tmp_path / "alone.tif.csv").read_text()


def test_commands(stack, tmp_path, capsys):
    """Both commands with processes of their own; embeddings of the first serve the second."""
    assert main(["embed", str(stack), "--planes", "0:2", "--workers", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert sorted(plane["plane"] for plane in told["planes"]) == [0, 1]
    out = tmp_path / "out.npy"
    options = ["segment", str(stack), "--box", "20,20,60,70", "--planes", "0:2", "--workers", "2", "-o", str(out)]
    assert main(options) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"{out}: 1 object on 2 planes in ")
    assert said.err == ""
    assert np.load(out)[:2].any()

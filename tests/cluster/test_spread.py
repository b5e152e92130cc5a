"""Blocks of planes on two worker processes: numbers, deaths, failures, stops; with tasks that are quick."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile

from napari_zeroseg import tiling
from napari_zeroseg.automatic import AutomaticOptions
from napari_zeroseg.cluster import Spread, connected, threads_of, worker
from napari_zeroseg.cluster.futures import blocks_of
from napari_zeroseg.cluster.worker import Known
from napari_zeroseg.errors import ClusterError, InputError, ReadError, WriteError
from napari_zeroseg.io.read import open_image
from napari_zeroseg.io.write import LabelsWriter
from napari_zeroseg.propagate_file import PropagateRun, propagate_file
from napari_zeroseg.registry import MOBILE_SAM, load_model
from napari_zeroseg.stack import Search, StackOptions
from napari_zeroseg.tasks import ClassMap, Everything, keep

from .conftest import TOYS

SHAPE = (9, 64, 80)
PATIENCE = 60.0
"""Seconds that are waited for what must come, however busy the machine is."""


@pytest.fixture
def bright(toys, tmp_path):
    """Make the task, which notes what it did in a file."""
    from zeroseg_toy_tasks import Bright

    return lambda **options: Bright(tmp_path / "log.txt", **options)


@pytest.fixture
def spread(client, recipe, source) -> Spread:
    return Spread(client, recipe, source)


@contextmanager
def no_bar(total: int, done: int):
    yield SimpleNamespace(n=0, total=total, update=lambda steps=1: None)


def done(log: Path) -> Counter[int]:
    """How often each plane was done."""
    return Counter(int(line.split()[1]) for line in log.read_text().splitlines())


def until(condition) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def here(task, source) -> np.ndarray:
    """What one process makes of it."""
    series = open_image(source).planes()
    return np.stack([labels for _, labels in task.run(series, None, range(9), 1, None)])


def test_blocks():
    assert blocks_of(range(5), 2) == [[0], [1], [2], [3], [4]]
    assert [len(block) for block in blocks_of(range(40), 2)] == [5] * 8
    assert max(len(block) for block in blocks_of(range(10_000), 2)) == 16
    assert [plane for block in blocks_of([3, 9, 1], 8) for plane in block] == [3, 9, 1]


def test_numbers_go_on_through_all_planes_as_in_one_process(spread, bright, source, tmp_path):
    task = bright()
    out = tmp_path / "out.ome.zarr"
    with LabelsWriter(out, SHAPE) as writer:
        reports = [report for report, labels in spread.run(task, range(9), 1, writer)]
        assert sorted(report.plane for report in reports) == list(range(9))
        assert [report.fault for report in reports if report.plane == 4] == ["It is dark."]
    assert done(task.log) == Counter(range(9))
    np.testing.assert_array_equal(open_image(out).data[:], here(task, source))
    found = [item.label for report in sorted(reports, key=lambda r: r.plane) for item in report.objects]
    assert found == list(range(1, len(found) + 1))


def test_taken_up_where_another_process_has_done_some(spread, bright, source, tmp_path):
    task, out = bright(), tmp_path / "out.tif"
    writer = LabelsWriter(out, SHAPE)
    for report, labels in task.run(open_image(source).planes(), None, range(3), 1, None):
        keep(writer, report, labels)
    task.log.unlink()
    assert len(list(spread.run(task, range(3, 9), 99, writer))) == 6
    assert done(task.log) == Counter(range(3, 9))
    writer.close()
    np.testing.assert_array_equal(open_image(out).data[:], here(task, source))


def test_a_plane_that_is_readable_again_is_numbered_behind_those_that_are_done(spread, bright, source, tmp_path):
    """Its objects share no number with others, and all have those that one process would give."""
    task, out = bright(), tmp_path / "out.tif"
    raw = tifffile.imread(source)
    writer = LabelsWriter(out, SHAPE)
    for report, labels in task.run(open_image(source).planes(), None, range(7), 1, None):
        keep(writer, report, labels)
    raw[4] = raw[3]
    tifffile.imwrite(source, raw, compression="zlib")
    first = 1 + max(int(writer.read(plane).max()) for plane in range(7))
    series = open_image(source).planes()
    alone = {report.plane: labels for report, labels in task.run(series, None, [4, 7, 8], first, None)}
    reports = [report for report, _ in spread.run(task, [4, 7, 8], first, writer)]
    assert sorted(report.plane for report in reports) == [4, 7, 8]
    assert alone[4].any()
    for plane, labels in alone.items():
        np.testing.assert_array_equal(writer.read(plane), labels)


def test_a_task_that_kills_its_worker_is_given_up_with_a_sentence(bright, recipe, source, tmp_path):
    """What another worker does meanwhile, which would take longer than the test waits, is stopped."""
    task = bright(dies_on=3, slow=2 * PATIENCE, slow_from=4, numbers_on=False)
    writer = LabelsWriter(tmp_path / "out.tif", SHAPE)
    with connected(workers=2) as client:
        run = Spread(client, recipe, source).run(task, range(5), 1, writer)
        with pytest.raises(ClusterError, match="given up because the workers that had it died"):
            list(run)
        until(lambda: not any(client.run(lambda: worker.busy.locked()).values()))
    assert done(task.log)[3] > 1  # others have tried


def test_an_error_comes_as_it_is_and_ends_the_run(spread, bright, tmp_path):
    writer = LabelsWriter(tmp_path / "out.tif", SHAPE)
    with pytest.raises(InputError, match="not liked"):
        list(spread.run(bright(fails_on=2, slow=0.2), range(9), 1, writer))


def test_left_early_the_workers_stop(client, spread, bright, tmp_path):
    """Both leave the plane in work, which would take longer than the test waits, and begin no other."""
    task = bright(slow=2 * PATIENCE, slow_from=1, numbers_on=False)
    run = spread.run(task, range(9), 1, LabelsWriter(tmp_path / "out.tif", SHAPE))
    next(run)
    until(lambda: done(task.log).total() == 3)
    run.close()
    until(lambda: not any(client.run(lambda: worker.busy.locked()).values()))
    assert done(task.log).total() == 3


def test_what_workers_do_not_see_is_told(client, recipe, source, bright, tmp_path):
    spread = Spread(client, recipe, source)
    writer = LabelsWriter(tmp_path / "out.tif", SHAPE)
    source.unlink()
    with pytest.raises(ReadError, match=r"On the worker .*: There is no file"):
        list(spread.run(bright(), range(9), 1, writer))
    writer = LabelsWriter(tmp_path / "other.tif", SHAPE)
    writer.discard()
    with pytest.raises(WriteError, match="write where every worker sees it"):
        list(spread.run(bright(), range(9), 1, writer))


def test_names_are_those_of_the_folder_where_the_run_began(client, recipe, source, bright, tmp_path, monkeypatch):
    """Workers stand in another one."""
    monkeypatch.chdir(tmp_path)
    task = bright()
    with LabelsWriter("out.ome.zarr", SHAPE) as writer:
        assert len(list(Spread(client, recipe, Path(source.name)).run(task, range(9), 1, writer))) == 9
    np.testing.assert_array_equal(open_image(tmp_path / "out.ome.zarr").data[:], here(task, source))


def test_the_map_of_classes_is_opened_by_the_workers(client, recipe, source, toys, tmp_path):
    raw = np.full(SHAPE, 20, np.uint8)
    raw[:, 8:24, 8:24], raw[:, 8:24, 40:56] = 100, 200
    tifffile.imwrite(source, raw + np.arange(9, dtype=np.uint8)[:, None, None], compression="zlib")
    classes = np.where(raw == 200, 2, 1).astype(np.uint8)
    classes[5] = 1
    tifffile.imwrite(tmp_path / "classes.tif", classes, compression="zlib")
    options = AutomaticOptions(points_per_side=6, pred_iou_thresh=0, stability_score_thresh=0)
    task = Everything(Search(options), StackOptions(), ClassMap(tmp_path / "classes.tif", (2,)))
    out, model = tmp_path / "out.ome.zarr", load_model("toy_flood")
    with LabelsWriter(out, SHAPE) as writer:
        assert len(list(Spread(client, recipe, source).run(task, range(9), 1, writer))) == 9
    found = open_image(out).data[:]
    alone = task.run(open_image(source).planes(), model, range(9), 1, None)
    np.testing.assert_array_equal(found, np.stack([labels for _, labels in alone]))
    np.testing.assert_array_equal(found > 0, classes == 2)
    gone = Everything(Search(options), StackOptions(), ClassMap(tmp_path / "gone.tif", (2,)))
    with pytest.raises(ReadError, match=r"On the worker .*: There is no file .*gone.tif"):
        list(Spread(client, recipe, source).run(gone, range(9), 1, LabelsWriter(tmp_path / "other.tif", SHAPE)))


def test_embeddings_are_shared(client, recipe, source):
    spread = Spread(client, recipe, source)
    first = list(spread.embed(range(9), {"field": "plane"}))
    assert sorted(report.plane for report in first) == list(range(9))
    assert {report.plane: report.encoded for report in first} == {plane: int(plane != 4) for plane in range(9)}
    assert all(report.encoded == 0 for report in spread.embed(range(9), {"field": "plane"}))
    some = list(spread.embed(range(9), {"field": "plane", "budget_bytes": 1}))
    assert 0 < len(some) <= 9


def test_propagated_as_by_one_process(client, recipe, toys, source, tmp_path):
    rows, columns = np.indices(SHAPE[1:])
    raw = np.stack([100 + 80 * (np.hypot(rows - 30, columns - 35 - z) < 12) for z in range(9)]).astype(np.uint8)
    raw += np.random.default_rng(0).integers(0, 3, raw.shape, np.uint8)
    tifffile.imwrite(source, raw, compression="zlib")
    seeds = np.zeros(SHAPE, np.int32)
    seeds[3] = 7 * (raw[3] > 140)
    tifffile.imwrite(tmp_path / "seeds.tif", seeds)
    outs = [tmp_path / "cluster.tif", tmp_path / "alone.tif"]
    jobs = [PropagateRun(source, tmp_path / "seeds.tif", out) for out in outs]
    report = Spread(client, recipe, source).propagate(jobs[0], no_bar)
    alone = propagate_file(jobs[1], lambda: load_model("toy_flood"), no_bar)
    assert (report["run"], report["planes"], report["flags"]) == (alone["run"], alone["planes"], alone["flags"])
    found, expected = (np.asarray(open_image(out).data) for out in outs)
    np.testing.assert_array_equal(found, expected)
    assert (found == 7).any((1, 2)).sum() > 3
    again = Spread(client, recipe, source).propagate(jobs[0], no_bar)
    assert "nothing to do" in again["summary"]


def test_models_for_whole_pictures_encode_the_plane(tmp_path):
    seeds = np.zeros((1, 2000, 2000), np.uint8)
    seeds[0, 100:120, 100:120] = 1
    np.save(tmp_path / "seeds.npy", seeds)
    spread, plane = Spread.__new__(Spread), tiling.whole((2000, 2000))
    for is_whole in (True, False):
        spread.model = Known(replace(MOBILE_SAM, whole_picture=is_whole), "key")
        fields = spread._fields_of(tmp_path / "seeds.npy", (2000, 2000))
        assert (fields == [plane]) is is_whole


class TestConnection:
    def test_neither_and_both(self):
        for options in ({}, {"scheduler": "tcp://127.0.0.1:1", "workers": 2}):
            with pytest.raises(InputError, match="and not both"), connected(**options):
                pass
        with pytest.raises(InputError, match="At least 1 worker"), connected(workers=0):
            pass

    def test_threads_fill_the_machine(self):
        assert threads_of(1) >= threads_of(2) >= threads_of(10_000) == 1

    def test_not_installed(self, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ClusterError, match=r"pip install 'napari-zeroseg\[cluster\]'"), connected(workers=1):
            pass

    @pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense://x"])
    def test_nobody_answers(self, address):
        import dask

        with (
            dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
            pytest.raises(ClusterError, match=f"No scheduler answers at {address}: check the address"),
            connected(scheduler=address),
        ):
            pass


@pytest.mark.slow
def test_the_scheduler_goes_away_and_comes_back(bright, recipe, source, tmp_path, monkeypatch):
    """A scheduler and a worker started by hand, as on a cluster."""
    import dask

    monkeypatch.setenv("PYTHONPATH", str(TOYS))
    address, processes = tmp_path / "scheduler.json", []

    def begin(program: str, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{program}", "--scheduler-file", str(address), *options]
        processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        return processes[-1]

    def cluster() -> subprocess.Popen[bytes]:
        address.unlink(missing_ok=True)
        scheduler = begin("scheduler", "--port", "0", "--no-dashboard")
        end = time.monotonic() + 60
        while not address.exists():
            assert time.monotonic() < end
            time.sleep(0.1)
        begin("worker", "--nthreads", "1", "--no-nanny", "--no-dashboard", "--death-timeout", "20")
        return scheduler

    def tcp() -> str:
        return json.loads(address.read_text())["address"]

    task = bright(slow=0.3)
    writer = LabelsWriter(tmp_path / "out.tif", SHAPE)
    try:
        scheduler = cluster()
        with dask.config.set({"distributed.comm.timeouts.connect": "3s"}), connected(scheduler=tcp()) as client:
            run = Spread(client, recipe, source).run(task, range(9), 1, writer)
            next(run)
            next(run)
            scheduler.kill()
            with pytest.raises(ClusterError, match=r"The scheduler is gone\. Planes that are done are kept"):
                list(run)
        before = writer.done
        assert 1 < len(before) < 9
        cluster()
        with connected(scheduler=tcp()) as client:
            left = [plane for plane in range(9) if plane not in before]
            assert len(list(Spread(client, recipe, source).run(task, left, 1, writer))) == len(left)
        writer.close()
    finally:
        for process in processes:
            process.kill()
            process.wait()
    np.testing.assert_array_equal(open_image(tmp_path / "out.tif").data[:], here(bright(), source))

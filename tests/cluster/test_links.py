"""Planes linked in blocks on two worker processes, one of which is killed: the objects are those of one process."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from napari_zeroseg.cluster import SpreadLinks, connected
from napari_zeroseg.errors import ClusterError, InputError, ReadError
from napari_zeroseg.io.label_files import open_labels
from napari_zeroseg.io.write import journal_of
from napari_zeroseg.link import LinkOptions, link_planes
from napari_zeroseg.link_file import LinkRun, link_file

PLANES = 24
OPTIONS = LinkOptions(
    high=0.6, gap=2, min_planes=2, min_area=20, max_hole_area=30, max_hole_volume=500, branches="cut", preserve=True
)


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    """Drifting discs with other numbers on each plane, planes without some of them, and holes."""
    rng = np.random.default_rng(3)
    rows, columns = np.indices((256, 240))
    centres = rng.uniform(20, 220, (60, 2))
    result = np.zeros((PLANES, 256, 240), np.int32)
    for plane in result:
        centres += rng.normal(0, 2.5, centres.shape)
        names = rng.permutation(500) + 1
        for name, (row, column) in zip(names, centres, strict=False):
            if rng.uniform() < 0.9:
                plane[np.hypot(rows - row, columns - column) < rng.uniform(9, 14)] = name
        plane[rng.uniform(size=plane.shape) < 0.01] = 0
    return result


@pytest.fixture
def source(tmp_path, labels) -> Path:
    path = tmp_path / "planes.npy"
    np.save(path, labels)
    return path


@contextmanager
def no_bar(total: int, done: int):
    yield SimpleNamespace(update=lambda steps=1: None)


def same_as_alone(out: Path, report: dict, labels: np.ndarray, options: LinkOptions) -> None:
    alone = link_planes(labels, options)
    np.testing.assert_array_equal(np.asarray(open_labels(out).data[:]), alone.array())
    assert report["objects"] == [asdict(one) for one in alone.objects]
    assert len(alone.objects) > 20


@pytest.mark.parametrize("options", [LinkOptions(), LinkOptions(gap=3), OPTIONS])
def test_objects_are_those_of_one_process(client, source, labels, tmp_path, options):
    out = tmp_path / "out.ome.zarr"
    report = link_file(LinkRun(source, out, options), no_bar, lambda path: SpreadLinks(client, path))
    same_as_alone(out, report, labels, options)
    assert not journal_of(out).exists()


@pytest.mark.slow
@pytest.mark.parametrize("pass_over_planes", [0, 1, 2])
def test_a_worker_is_killed_in_the_middle(source, labels, tmp_path, pass_over_planes):
    """In the middle of each pass in turn, on a cluster of its own: the links, the holes, the planes written."""
    told, killed = [0], []

    @contextmanager
    def bar(total: int, done: int):
        assert total == 3 * PLANES

        def update(steps: int) -> None:
            middle = pass_over_planes * PLANES + 3
            if told[0] < middle <= told[0] + steps:
                os.kill(victim, signal.SIGKILL)
                killed.append(victim)
            told[0] += steps

        yield SimpleNamespace(update=update)

    out = tmp_path / "out.tif"
    with connected(workers=2) as client:
        workers = client.run(os.getpid)
        assert len(set(workers.values())) == 2
        victim = min(workers.values())
        report = link_file(LinkRun(source, out, OPTIONS), bar, lambda path: SpreadLinks(client, path))
    assert killed == [victim]
    assert told == [3 * PLANES]
    same_as_alone(out, report, labels, OPTIONS)


def test_stopped_and_taken_up_with_other_workers(client, source, labels, tmp_path):
    """What is known of blocks and written of planes is not done again, and this process goes on with it as well."""
    out = tmp_path / "out.ome.zarr"

    @contextmanager
    def stopped(total: int, done: int):
        told = [0]

        def update(steps: int) -> None:
            told[0] += steps
            if told[0] > 2 * PLANES + 4:
                raise KeyboardInterrupt

        yield SimpleNamespace(update=update)

    with pytest.raises(KeyboardInterrupt):
        link_file(LinkRun(source, out, OPTIONS), stopped, lambda path: SpreadLinks(client, path))
    time.sleep(1)  # what was being computed ends at its next plane
    kept = {file.name: file.stat().st_mtime_ns for file in journal_of(out).glob("*.*")}
    assert sum(name.startswith("links-") for name in kept) == sum(name.startswith("hollows-") for name in kept) > 2
    assert any(name.endswith(".done") for name in kept)
    seen = {}

    class Watched(SpreadLinks):
        def run(self, options, writer, bar):
            objects = super().run(options, writer, bar)
            seen.update({file.name: file.stat().st_mtime_ns for file in writer.folder.glob("*.*")})
            return objects

    report = link_file(LinkRun(source, out, OPTIONS), no_bar, lambda path: Watched(client, path))
    same_as_alone(out, report, labels, OPTIONS)
    again = [name for name in kept if seen[name] != kept[name]]
    assert all(name.startswith(("numbers-", "volumeholes-")) for name in again), again


def test_one_process_takes_up_what_a_cluster_began(client, source, labels, tmp_path):
    out = tmp_path / "out.tif"

    @contextmanager
    def stopped(total: int, done: int):
        def update(steps: int) -> None:
            told.append(steps)
            if sum(told) > PLANES + 8:
                raise KeyboardInterrupt

        told: list[int] = []
        yield SimpleNamespace(update=update)

    with pytest.raises(KeyboardInterrupt):
        link_file(LinkRun(source, out), stopped, lambda path: SpreadLinks(client, path))
    report = link_file(LinkRun(source, out), no_bar)
    same_as_alone(out, report, labels, LinkOptions())


def test_what_goes_wrong_is_told_in_a_sentence(client, source, labels, tmp_path):
    out = tmp_path / "out.ome.zarr"
    wrong = labels.copy()
    wrong[20, 0, 0] = -1
    np.save(tmp_path / "wrong.npy", wrong)
    with pytest.raises(InputError, match="Labels go from 0"):
        link_file(LinkRun(tmp_path / "wrong.npy", out), no_bar, lambda path: SpreadLinks(client, path))
    with pytest.raises(ReadError, match=r"On the worker .*: There is no file"):
        link_file(LinkRun(source, out), no_bar, lambda path: SpreadLinks(client, path.with_name("unseen.npy")))
    assert not out.exists()
    assert not journal_of(out).exists()


def test_a_damaged_note_is_made_again(client, source, labels, tmp_path):
    out = tmp_path / "out.tif"

    @contextmanager
    def stopped(total: int, done: int):
        def update(steps: int) -> None:
            told.append(steps)
            if sum(told) > PLANES:
                raise ClusterError("The scheduler is gone.")

        told: list[int] = []
        yield SimpleNamespace(update=update)

    with pytest.raises(ClusterError):
        link_file(LinkRun(source, out), stopped, lambda path: SpreadLinks(client, path))
    notes = sorted(journal_of(out).glob("links-*.npz"))
    notes[1].write_bytes(notes[1].read_bytes()[:100])
    report = link_file(LinkRun(source, out), no_bar, lambda path: SpreadLinks(client, path))
    same_as_alone(out, report, labels, LinkOptions())

"""Free memory, of the machine and of the control groups of Linux that this process is in."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from napari_zeroseg import memory
from napari_zeroseg.errors import DeviceMemoryError
from napari_zeroseg.memory import check_room_to_read, free_memory

MB = 10**6


def group(folder: Path, *values: object, version: int = 2) -> None:
    """Write what a group says of itself: limit, use, and what of that is pages of files that can be let go."""
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, values, strict=False):
        (folder / name).write_text(f"{value}\n")
    entry = "inactive_file" if version == 2 else "total_inactive_file"
    (folder / "memory.stat").write_text(f"anon 7\n{entry} {values[2]}\n")


def test_the_limit_of_a_container(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("0::/a/b\n")
    group(tmp_path / "a" / "b", 900 * MB, 500 * MB, 100 * MB)
    assert free_memory(tmp_path / "cgroup", tmp_path) == 500 * MB
    group(tmp_path / "a", 1000 * MB, 800 * MB, 0)  # the whole group above it has less left
    assert free_memory(tmp_path / "cgroup", tmp_path) == 200 * MB
    group(tmp_path / "a" / "b", "max", 500 * MB, 0)
    group(tmp_path / "a", 100 * MB, 300 * MB, 0)
    assert free_memory(tmp_path / "cgroup", tmp_path) == 0


def test_the_first_version_and_a_group_that_is_not_shown_here(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("3:cpu,cpuacct:/x\n2:memory:/docker/123\n0::/\n")
    group(tmp_path / "memory", 700 * MB, 300 * MB, 50 * MB, version=1)
    assert free_memory(tmp_path / "cgroup", tmp_path) == 450 * MB
    group(tmp_path / "memory", 2**63 - 4096, 300 * MB, 0, version=1)  # as no limit is written
    assert free_memory(tmp_path / "cgroup", tmp_path) > 450 * MB


def test_without_groups_the_machine_counts(tmp_path: Path) -> None:
    found = free_memory(tmp_path / "nothing", tmp_path)
    assert found == pytest.approx(psutil.virtual_memory().available, rel=0.2)


def test_a_file_that_is_larger_than_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 1200 * MB)
    check_room_to_read(1100 * MB, "sam.pth")
    with pytest.raises(
        DeviceMemoryError, match=r"To read sam\.pth takes about 2\.6 GB of memory, and 1\.2 GB are free"
    ):
        check_room_to_read(2564 * MB, "sam.pth")

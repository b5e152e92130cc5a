"""A small stack with known truth, and `zeroseg` itself: in this process where that is enough, else as a child."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tifffile

from napari_zeroseg.cli import main
from napari_zeroseg.phantom import em_like_stack

SIZE = 256


class Result(NamedTuple):
    code: int
    out: str
    err: str

    def error(self) -> str:
        """The one line on stderr of a command that failed."""
        assert self.code == 1, self
        return self._line("zeroseg: error: ")

    def usage_error(self) -> str:
        assert self.code == 2, self
        return self._line("zeroseg")

    def _line(self, start: str) -> str:
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith(start)
        assert not self.out
        return lines[0].removeprefix(start)


class Stack(NamedTuple):
    path: Path
    raw: np.ndarray
    truth: np.ndarray

    def box(self, label: int, plane: int) -> tuple[int, int, int, int]:
        rows, columns = np.nonzero(self.truth[plane] == label)
        return int(rows.min()), int(columns.min()), int(rows.max()), int(columns.max())

    def centre(self, label: int, plane: int) -> tuple[int, int]:
        rows, columns = np.nonzero(self.truth[plane] == label)
        return round(rows.mean()), round(columns.mean())


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("embeddings")


@pytest.fixture(autouse=True)
def one_cache(own_folders, shared_cache, monkeypatch) -> None:
    """Encode each plane once for all tests; a test of the cache sets one of its own."""
    monkeypatch.setenv("ZEROSEG_CACHE_DIR", str(shared_cache))


@pytest.fixture(scope="session")
def stack(tmp_path_factory) -> Stack:
    """Three planes in ImageJ's TIFF, 50 nm apart, with pixels of 4 x 5 nm."""
    raw, truth = em_like_stack(3, SIZE)
    path = tmp_path_factory.mktemp("pictures") / "stack.tif"
    tifffile.imwrite(
        path, raw, imagej=True, resolution=(200, 250), metadata={"axes": "ZYX", "spacing": 0.05, "unit": "um"}
    )
    return Stack(path, raw, truth)


@pytest.fixture(scope="session")
def plane(stack, tmp_path_factory) -> Path:
    """The middle plane alone."""
    path = tmp_path_factory.mktemp("pictures") / "plane.tif"
    tifffile.imwrite(path, stack.raw[1])
    return path


@pytest.fixture
def zeroseg(capsys) -> Callable[..., Result]:
    """Run a command in this process."""

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Result(code, said.out, said.err)

    return run


def command(arguments: Sequence[object]) -> list[str]:
    return [sys.executable, "-m", "napari_zeroseg", *map(str, arguments)]


@pytest.fixture
def child(tmp_path) -> Callable[..., Result]:
    """Run a command as a user does, in a process of its own."""

    def run(*arguments: object, **options) -> Result:
        done = subprocess.run(
            command(arguments), capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120, **options
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def start(tmp_path):
    """Begin a command in a process of its own that embeds anew; what still runs at the end of the test is killed."""
    children: list[subprocess.Popen[str]] = []

    def begin(*arguments: object) -> subprocess.Popen[str]:
        environment = {**os.environ, "ZEROSEG_DISK_CACHE": "0"}
        children.append(
            subprocess.Popen(
                command(arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
            )
        )
        return children[-1]

    yield begin
    for process in children:
        process.kill()
        process.communicate()

"""Builds of the package, made once and without the network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_LEFT_OUT = shutil.ignore_patterns(".*", "build", "dist", "_build", "__pycache__", "napari_zeroseg.egg-info")


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command away from this checkout and return what it wrote to stdout."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Environment:
    """A fresh virtual environment that borrows the libraries, but not this package, of the running one."""

    folder: Path

    @classmethod
    def create(cls, folder: Path) -> Environment:
        """Make the environment; a .pth file appends the borrowed folder, whose own .pth files stay unread."""
        run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
        environment = cls(folder)
        borrowed = environment.site_packages / "borrowed.pth"
        borrowed.write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
        return environment

    @property
    def python(self) -> Path:
        """The interpreter."""
        return self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    @property
    def site_packages(self) -> Path:
        """Where packages are installed."""
        paths = {"base": str(self.folder), "platbase": str(self.folder)}
        return Path(sysconfig.get_path("purelib", "venv", vars=paths))

    def install(self, *what: str | Path) -> None:
        """Install with the running environment's pip and build backend, offline."""
        options = ["--no-deps", "--no-build-isolation", "--no-index", "--ignore-installed", "--quiet"]
        run(sys.executable, "-m", "pip", "--python", self.python, "install", *options, *what, cwd=self.folder)

    def ask(self, code: str) -> str:
        """Run Python code in the environment and return what it printed."""
        return run(self.python, "-c", code, cwd=self.folder)


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy of the checkout, so that building leaves no trace in it."""
    folder = tmp_path_factory.mktemp("sources") / "project"
    shutil.copytree(ROOT, folder, ignore=_LEFT_OUT)
    (folder / "src" / "napari_zeroseg" / "napari.yaml").unlink(missing_ok=True)
    return folder


@pytest.fixture(scope="session")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheel built from the checkout."""
    return _build(sources, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def sdist(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Source distribution built from the checkout."""
    return _build(sources, "sdist", tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="session")
def wheel_of_sdist(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheel built from the unpacked source distribution, as pip does where no wheel is at hand."""
    folder = tmp_path_factory.mktemp("unpacked")
    shutil.unpack_archive(sdist, folder, filter="data")
    return _build(next(folder.iterdir()), "wheel", tmp_path_factory.mktemp("wheel_of_sdist"))


def _build(sources: Path, kind: str, into: Path) -> Path:
    run(sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", into, cwd=sources)
    return next(into.iterdir())

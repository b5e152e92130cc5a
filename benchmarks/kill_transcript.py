"""What a terminal shows of long runs that are killed (SIGKILL) in the middle and go on.

The `stack` part looks for everything on the ten validation planes of the SBEM block, the `training` part fine-tunes the
embedded model's decoder on its training planes; each also runs without a stop, and the two results are compared.

    python benchmarks/kill_transcript.py [stack|training]
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
from _common import arguments


class Terminal:
    """Runs `zeroseg` in a folder and prints what a reader would see, the bars left out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._environment = {**os.environ, "ZEROSEG_DATA_DIR": str(folder), "ZEROSEG_CACHE_DIR": str(folder / "cache")}

    def run(self, *arguments: str, kill_when: Callable[[], bool] | None = None, shown: bool = True) -> None:
        if shown:
            print(f"$ zeroseg {' '.join(arguments)}")
        child = subprocess.Popen(
            [sys.executable, "-m", "napari_zeroseg", *arguments],
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        while kill_when is not None and child.poll() is None:
            if kill_when():
                child.kill()
            time.sleep(0.05)
        said, complained = child.communicate()
        if not shown:
            return
        told = [line for line in (said + complained).splitlines() if line.strip() and "\r" not in line]
        print("\n".join(told[:40] + (["Killed"] if kill_when is not None else [])), end="\n\n")


def stack(folder: Path, data: Path) -> None:
    (folder / "stack.tif").symlink_to(data / "validation_raw.tif")
    terminal = Terminal(folder)
    partial = folder / ".labels.tif.partial"
    question = ("segment", "stack.tif", "--auto", "--points-per-side", "12")
    terminal.run(*question, "-o", "labels.tif", kill_when=lambda: len(list(partial.glob("*.tif"))) >= 4)
    terminal.run(*question, "-o", "labels.tif")
    terminal.run(*question, "-o", "labels.tif")
    terminal.run(*question, "-o", "whole.tif", shown=False)
    same = np.array_equal(tifffile.imread(folder / "labels.tif"), tifffile.imread(folder / "whole.tif"))
    print(f"The same pixels as without the kill: {'yes' if same else 'NO'}.")


def training(folder: Path, data: Path) -> None:
    for name in ("raw", "mitochondria"):
        planes = tifffile.imread(data / f"train_{name}.tif")[:4]
        tifffile.imwrite(folder / f"{name}.tif", planes, photometric="minisblack")  # four planes are no colours
    terminal = Terminal(folder)

    def question(name: str) -> tuple[str, ...]:
        files = ("--images", "raw.tif", "--labels", "mitochondria.tif")
        return ("train", *files, "--name", name, "--epochs", "3", "--device", "cpu", "--out", f"runs/{name}")

    def has_learnt() -> bool:
        return (folder / "runs" / "first" / "last.pt").is_file()

    terminal.run(*question("first"), kill_when=has_learnt)
    terminal.run("train", "runs/first", "--resume")
    terminal.run(*question("second"), shown=False)
    hashes = [
        hashlib.sha256((folder / "runs" / name / "best.safetensors").read_bytes()).hexdigest()
        for name in ("first", "second")
    ]
    print(
        f"The same weights as without the kill: {'yes' if len(set(hashes)) == 1 else 'NO'} (sha256 {hashes[0][:12]})."
    )


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", choices=("stack", "training"))
    options = parser.parse_args()
    data = (options.shared / "data" / "em_sbem").resolve()
    for name, show in (("stack", stack), ("training", training)):
        if options.part in (None, name):
            with tempfile.TemporaryDirectory() as place:
                show(Path(place), data)


if __name__ == "__main__":
    main()

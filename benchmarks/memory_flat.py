"""Peak memory of `zeroseg segment` on few and on many planes: it must not grow with the stack.

Each run is a process of its own, from nothing: its picture is generated, its cache is empty. The figure is the largest
resident set that the system saw, pages of mapped files included.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile
from _common import arguments, load, machine, table

from napari_zeroseg.phantom import em_like_stack

TARGET = 1.1


def write_stack(folder: Path, planes: int, side: int) -> Path:
    """Write a generated stack whose planes all differ; half of them as the other half, shifted."""
    few, _ = em_like_stack(min(planes, 5), side)
    path = folder / f"{planes}.tif"
    with tifffile.TiffWriter(path) as tif:
        for plane in range(planes):
            tif.write(np.roll(few[plane % len(few)], 17 * (plane // len(few)), 1), contiguous=True)
    return path


def peak(command: list[str], environment: dict[str, str]) -> float:
    """Megabytes at most of a command's resident set."""
    child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{' '.join(command)} failed.")
    return usage.ru_maxrss / (1e3 if sys.platform == "linux" else 1e6)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--planes", type=int, nargs=2, default=(10, 40), help="of the smaller and the larger stack")
    parser.add_argument("--side", type=int, default=1024, help="rows and columns of a plane")
    parser.add_argument("--box", action="store_true", help="a box on every plane instead of --auto")
    parser.add_argument("--points-per-side", type=int, default=8, help="of --auto: it has no part in what grows")
    parser.add_argument("--endings", nargs="+", default=[".ome.zarr", ".tif"], help="formats of the labels")
    options = parser.parse_args()
    if not hasattr(os, "wait4"):
        sys.exit("This system does not tell the peak memory of a process.")
    print(machine())
    how = ["--auto", "--points-per-side", str(options.points_per_side)]
    if options.box:
        how = ["--box", "100,100,300,300"]
    rows = []
    for ending in options.endings:
        peaks = []
        for planes in options.planes:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                stack = write_stack(folder, planes, options.side)
                environment = {**os.environ, "ZEROSEG_CACHE_DIR": str(folder / "cache")}
                if options.threads:
                    environment["OMP_NUM_THREADS"] = str(options.threads)
                command = ["-m", "napari_zeroseg", "segment", str(stack), *how, "-o", str(folder / f"out{ending}")]
                peaks.append(peak([sys.executable, *command], environment))
        few, many = peaks
        rows.append([ending, f"{few:.0f}", f"{many:.0f}", f"{many / few:.3f}", f"{TARGET}"])
    few, many = options.planes
    print(table(["labels", f"MB, {few} planes", f"MB, {many} planes", "ratio", "at most"], rows))
    print(load())


if __name__ == "__main__":
    main()

"""Run a Python script on a virtual display where there is no real one: with_display.py SCRIPT [ARGUMENT ...]."""

from __future__ import annotations

import os
import subprocess
import sys

from pyvirtualdisplay.display import Display


def main() -> int:
    """Run the script given on the command line and return its exit status."""
    command = [sys.executable, *sys.argv[1:]]
    if sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return subprocess.call(command)
    with Display(backend="xvfb", size=(1920, 1200), color_depth=24):
        return subprocess.call(command)


if __name__ == "__main__":
    sys.exit(main())

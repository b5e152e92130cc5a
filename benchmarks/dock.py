"""What starting costs: importing the package, listing the models, reading the manifest, opening the dock in napari.

Each measurement is a process of its own, and each says which of the heavy packages it brought in. The dock is opened
as the menu does it, in a viewer that is up and shows a picture. On a machine without a display:
``python scripts/with_display.py benchmarks/dock.py``.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys

from _common import arguments, load, machine, table

START = "import sys, time, json\nstart = time.perf_counter()\n"
END = """
taken = time.perf_counter() - start
print(json.dumps([taken, [name for name in ("torch", "napari", "qtpy") if name in sys.modules]]))
"""
STEPS = {
    "import napari_zeroseg": START + "import napari_zeroseg" + END,
    "list the models": START + "import napari_zeroseg as zs; zs.list_models()[0].state" + END,
    "read the manifest": (
        START + "from npe2 import PluginManifest; PluginManifest.from_distribution('napari-zeroseg')" + END
    ),
    "open the dock (napari is up)": """
import os, sys, time, json
os.environ["NAPARI_CONFIG"] = ""
import numpy as np
import napari
viewer = napari.Viewer()
viewer.add_image(np.random.default_rng(0).integers(0, 255, (2048, 2048), dtype=np.uint8), name="plane")
from qtpy.QtWidgets import QApplication
QApplication.processEvents()
start = time.perf_counter()
viewer.window.add_plugin_dock_widget("napari-zeroseg", "Segment")
QApplication.processEvents()
taken = time.perf_counter() - start
print(json.dumps([taken, [name for name in ("torch",) if name in sys.modules]]), flush=True)
viewer.close()
os._exit(0)
""",
}
TARGETS = {"open the dock (napari is up)": "0.5 s"}


def main() -> None:
    options = arguments(__doc__.splitlines()[0]).parse_args()
    print(machine())
    rows = []
    for name, code in STEPS.items():
        taken, brought = [], set()
        for _ in range(min(options.rounds, 5)):
            ran = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False
            )
            if not ran.stdout.strip():
                sys.exit(f"'{name}' gave no answer: {ran.stderr[-2000:]}")
            seconds, modules = json.loads(ran.stdout.strip().splitlines()[-1])
            taken.append(seconds)
            brought.update(modules)
        rows.append(
            [name, f"{statistics.median(taken):.3f}", ", ".join(sorted(brought)) or "none", TARGETS.get(name, "")]
        )
    print(table(["step", "seconds", "of torch, napari and Qt it imports", "at most"], rows))
    print(load())


if __name__ == "__main__":
    main()

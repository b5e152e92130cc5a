"""When a click needs no look from afar: mean IoU by the predicted IoU from which the answer from near is enough.

Clicks on the innermost pixel of objects, on pictures that benchmarks/accuracy.py does not report on: planes 2, 10 and
18 of the VNC stack (and the first of them four times side by side, every fourth object), planes 0, 7 and 14 of the
SBEM training block, and twelve radiographs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from _common import arguments, machine, places, table, vnc
from accuracy import pictures
from scipy import ndimage

from napari_zeroseg import Prompt, View, load_model
from napari_zeroseg import view as views
from napari_zeroseg.metrics import iou

THRESHOLDS = (2.0, 0.95, 0.9, 0.85, 0.8, 0.0)


def sets(shared: Path) -> dict[str, tuple[list[tuple[np.ndarray, np.ndarray]], int]]:
    """Pictures with truth, and each how many-th object is clicked."""
    raw, truth = vnc(shared)
    folder = shared / "data" / "em_sbem"
    sbem, marked = (tifffile.imread(folder / f"train_{kind}.tif") for kind in ("raw", "mitochondria"))
    return {
        "VNC": ([(raw[z], truth[z]) for z in (2, 10, 18)], 1),
        "VNC, 2048²": ([(np.tile(raw[2], (2, 2)), np.tile(truth[2], (2, 2)))], 4),
        "SBEM": ([(sbem[z], marked[z] > 0) for z in (0, 7, 14)], 1),
        "CXR": (pictures(shared, "all CXR")[12:24], 1),
    }


def main() -> None:
    options = arguments(__doc__.splitlines()[0]).parse_args()
    model = load_model(device="cpu")
    print(machine())
    rows = []
    for name, (found, step) in sets(options.shared).items():
        near: list[float] = []
        scores: dict[float, list[float]] = {threshold: [] for threshold in THRESHOLDS}
        for picture, truth in found:
            labels, _ = ndimage.label(truth)
            view = View(model, picture)
            for place, _ in places(truth, 10**9)[::step]:
                prompt = Prompt([place])
                ((close,),) = view._look([prompt], [view._looks(prompt, "auto")[-1:]], True, None)
                near.append(view._trust(close))
                for threshold in THRESHOLDS:
                    views._SURE = threshold
                    (answer,) = view.predict([prompt], multimask=True)
                    scores[threshold].append(iou(answer.mask, labels == labels[place]))
        for threshold in THRESHOLDS:
            once = f"{np.mean(np.array(near) >= threshold):.0%}"
            rows.append([name, str(len(near)), f"{threshold}", f"{np.mean(scores[threshold]):.4f}", once])
    print(table(["pictures", "clicks", "enough from", "mean IoU", "looked at once"], rows))


if __name__ == "__main__":
    main()

"""How well single prompts find objects, by the window that is encoded for them; nothing here is trained.

Truth: mitochondria of the VNC stack (planes 0, 4, 8, 12, 16) and of the SBEM block (its validation planes), lungs of
radiographs. One click on the object's innermost pixel (the best of three candidates by predicted IoU), or its tight
box.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import tifffile
from _common import arguments, machine, places, table, vnc
from scipy import ndimage
from skimage.io import imread

from napari_zeroseg import Prompt, View, load_model
from napari_zeroseg.metrics import iou

FIELDS = ("plane", 512, "auto")


def pictures(shared: Path, name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Planes of one set with their truth."""
    if name == "VNC":
        raw, truth = vnc(shared)
        return [(raw[z], truth[z]) for z in (0, 4, 8, 12, 16)]
    if name == "SBEM":
        folder = shared / "data" / "em_sbem"
        raw, truth = (tifffile.imread(folder / f"validation_{kind}.tif") for kind in ("raw", "mitochondria"))
        return [(raw[z], truth[z] > 0) for z in (0, 3, 6, 9)]
    folder = shared / "data" / "cxr"
    found = []
    for path in sorted((folder / "images").glob("*.png"))[:12]:
        image = imread(path)
        found.append((image if image.ndim == 2 else image[..., :3], imread(folder / "lungs" / path.name) == 255))
    return found


def main() -> None:
    options = arguments(__doc__.splitlines()[0]).parse_args()
    model = load_model(device="cpu")
    print(machine())
    rows = []
    for name in ("VNC", "SBEM", "CXR"):
        scores: dict[tuple[str, object], list[float]] = defaultdict(list)
        for picture, truth in pictures(options.shared, name):
            labels, _ = ndimage.label(truth)
            view = View(model, picture)
            found = places(truth, 10**9)
            masks = [labels == labels[place] for place, _ in found]
            for field in FIELDS:
                for kind, prompts in (
                    ("point", [Prompt([place]) for place, _ in found]),
                    ("box", [Prompt(box=box) for _, box in found]),
                ):
                    answers = view.predict(prompts, multimask=kind == "point", field=field)
                    scores[kind, field] += [iou(a.mask, mask) for a, mask in zip(answers, masks, strict=True)]
        for kind in ("point", "box"):
            means = [f"{np.mean(scores[kind, field]):.3f}" for field in FIELDS]
            rows.append([name, kind, str(len(scores[kind, "auto"])), *means])
    print(table(["pictures", "prompt", "objects", "whole plane", "512 px", "auto"], rows))


if __name__ == "__main__":
    main()

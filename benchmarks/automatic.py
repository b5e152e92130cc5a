"""Segment everything, against segment-anything's own SamAutomaticMaskGenerator on the same weights and settings.

Both search the same three pictures (a plane of each EM stack and a radiograph) with the generator's defaults, in turn,
one after the other in one process each, so that the peak of memory is that of the search. Two masks are the same if
their IoU is at least 0.9. ``--points-per-side 8`` is a look at it in minutes; the figures are those of 32.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
from _common import arguments, load, machine, reference_predictor, segment_anything, table, torch
from skimage.io import imread

TARGET_TIME, TARGET_MEMORY, TARGET_SAME = 0.18, 0.5, 0.95
SAME = 0.9
WAYS = ("reference", "auto", "float32")


def pictures(shared: Path) -> dict[str, np.ndarray]:
    """(H, W) or (H, W, 3) uint8, three of different kinds."""
    data = shared / "data"
    radiograph = imread(sorted((data / "cxr" / "images").glob("*.png"))[0])
    return {
        "em_vnc": tifffile.imread(data / "em_vnc" / "raw.tif", key=8),
        "em_sbem": tifffile.imread(data / "em_sbem" / "validation_raw.tif", key=3),
        "cxr": radiograph[..., :3] if radiograph.ndim == 3 else radiograph,
    }


def batched_nms(boxes, scores, idxs, iou_threshold):
    """torchvision's function of that name for one category, which is all that the generator uses."""
    corners = boxes.numpy().astype(np.float64)
    areas = (corners[:, 2:] - corners[:, :2]).prod(1)
    order = np.argsort(-scores.numpy(), kind="stable")
    stays = []
    while len(order):
        first, order = order[0], order[1:]
        stays.append(first)
        sides = np.minimum(corners[first, 2:], corners[order, 2:]) - np.maximum(corners[first, :2], corners[order, :2])
        shared = np.clip(sides, 0, None).prod(1)
        with np.errstate(invalid="ignore"):
            order = order[~(shared / (areas[first] + areas[order] - shared) > iou_threshold)]
    return torch.as_tensor(np.array(stays, np.int64))


def reference(shared: Path, per_side: int):
    """What searches a picture as published."""
    package = segment_anything(shared)
    package.automatic_mask_generator.batched_nms = batched_nms
    generator = package.SamAutomaticMaskGenerator(reference_predictor(shared).model, points_per_side=per_side)

    def search(picture: np.ndarray) -> list[np.ndarray]:
        colour = picture if picture.ndim == 3 else np.stack([picture] * 3, -1)
        return [found["segmentation"] for found in generator.generate(colour)]

    return search


def ours(precision: str, per_side: int):
    """What searches a picture our way."""
    from napari_zeroseg import AutomaticOptions, load_model, segment_everything
    from napari_zeroseg.automatic import to_labels

    model = load_model(device="cpu", precision=precision)

    def search(picture: np.ndarray) -> list[np.ndarray]:
        found = segment_everything(model, picture, AutomaticOptions(points_per_side=per_side))
        return [to_labels([mask], picture.shape[:2]) > 0 for mask in found]

    return search


def child(way: str, name: str, options: argparse.Namespace) -> None:
    """Search one picture in this process; its masks go into a file, what it took to stdout."""
    picture = pictures(options.shared)[name]
    make = reference(options.shared, options.points_per_side) if way == "reference" else None
    search = make or ours(way, options.points_per_side)
    wall, cpu = time.perf_counter(), time.process_time()
    masks = search(picture)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 / (1024 if sys.platform == "darwin" else 1)
    np.save(options.child_out, np.packbits(np.array(masks).reshape(len(masks), -1), 1))
    print(json.dumps({"wall": wall, "cpu": cpu, "peak": peak}))


def measured(way: str, name: str, options: argparse.Namespace, folder: Path) -> dict:
    """Run a child."""
    out = folder / f"{name}_{way}.npy"
    command = [sys.executable, __file__, "--shared", str(options.shared), "--child", way, name]
    command += ["--child-out", str(out), "--points-per-side", str(options.points_per_side)]
    command += [] if options.threads is None else ["--threads", str(options.threads)]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ)
    return {**json.loads(ran.stdout.splitlines()[-1]), "masks": np.load(out)}


def agreement(theirs: np.ndarray, found: np.ndarray) -> tuple[float, float]:
    """Part of the reference's masks that we have, and of ours that it has."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1).astype(np.int32)
    iou = np.zeros((len(theirs), len(found)))
    for i, one in enumerate(theirs):
        for j, other in enumerate(found):
            iou[i, j] = bits[one & other].sum() / max(1, bits[one | other].sum())
    return float((iou.max(1, initial=0) >= SAME).mean()), float((iou.max(0, initial=0) >= SAME).mean())


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--points-per-side", type=int, default=32, help="clicks along a side (default: 32)")
    parser.add_argument("--only", choices=("em_vnc", "em_sbem", "cxr"), help="one picture instead of three")
    parser.add_argument("--child", nargs=2, metavar=("WAY", "PICTURE"), help=argparse.SUPPRESS)
    parser.add_argument("--child-out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child, options)
        return
    print(machine())
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in pictures(options.shared):
            if options.only not in (None, name):
                continue
            taken = {way: measured(way, name, options, Path(folder)) for way in WAYS}
            theirs = taken["reference"]
            for way in WAYS[1:]:
                mine = taken[way]
                kept, known = agreement(theirs["masks"], mine["masks"])
                rows.append(
                    [name, way, f"{len(mine['masks'])} of {len(theirs['masks'])}", f"{kept:.3f}", f"{known:.3f}"]
                )
                rows[-1] += [f"{mine['wall']:.0f} : {theirs['wall']:.0f}", f"{mine['wall'] / theirs['wall']:.2f}"]
                rows[-1] += [f"{mine['cpu'] / theirs['cpu']:.2f}", f"{mine['peak']:.0f} : {theirs['peak']:.0f}"]
                rows[-1] += [f"{mine['peak'] / theirs['peak']:.2f}"]
                print(" ".join(rows[-1]), file=sys.stderr, flush=True)
    head = [
        "picture",
        "precision",
        "masks",
        "theirs found",
        "ours known",
        "s",
        "ratio",
        "ratio of CPU time",
        "MB",
        "ratio",
    ]
    print(table(head, rows))
    print(f"At most {TARGET_TIME} of the time, {TARGET_MEMORY} of the memory, at least {TARGET_SAME} found; {load()}")


if __name__ == "__main__":
    main()

"""Objects outlined on one plane and followed through its neighbours: mean IoU by distance, against two baselines.

Seeds are the true masks of the middle plane: components of the truth with at least 300 pixels. The truth says only
where mitochondria are, so each object is followed through it: on the next plane it is all components that share more
than a tenth (of the smaller of both) with it. Where such a component is shared by two objects they have merged, and
neither is counted any more; where there is none the object is gone, and is counted apart: how many of those that are
gone are still drawn. An object that is there and not drawn counts as IoU 0.

The baselines: the mask of the middle plane as it is; and the box around the last mask as the only prompt of the next
plane, with the same windows and the same model.
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import tifffile
from _common import arguments, machine, table, vnc
from scipy import ndimage

from napari_zeroseg import EmbeddingStore, Prompt, View, load_model, tiling
from napari_zeroseg.metrics import iou
from napari_zeroseg.propagation import PropagationOptions, propagate

LEAST = 300
SHARED = 0.1


def block(shared: Path, name: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Planes, truth and the middle plane of one set."""
    if name == "vnc":
        raw, truth = vnc(shared)
    else:
        part = name.removeprefix("sbem-")
        folder = shared / "data" / "em_sbem"
        raw, truth = (tifffile.imread(folder / f"{part}_{kind}.tif") for kind in ("raw", "mitochondria"))
    return raw, truth > 0, len(raw) // 2


def followed(truth: np.ndarray, middle: int, planes: range) -> tuple[np.ndarray, dict[tuple[int, int], object]]:
    """Seeds (H, W) and, by (plane, label), the object's true mask, "gone" or "merged"."""
    components, count = ndimage.label(truth[middle])
    sizes = np.bincount(components.ravel())
    wanted = [n for n in range(1, count + 1) if sizes[n] >= LEAST]
    told: dict[tuple[int, int], object] = {}
    for step in (1, -1):
        masks = {n: components == n for n in range(1, count + 1)}
        fate = dict.fromkeys(masks, "gone")
        plane = middle + step
        while plane in planes:
            following, number = ndimage.label(truth[plane])
            size = np.bincount(following.ravel(), minlength=number + 1)
            owners = defaultdict(list)
            for n, mask in masks.items():
                common = np.bincount(following[mask], minlength=number + 1)
                for part in np.flatnonzero(common > SHARED * np.minimum(size, mask.sum())):
                    if part:
                        owners[int(part)].append(n)
            parts = {n: [part for part, several in owners.items() if n in several] for n in masks}
            merged = {n for several in owners.values() if len(several) > 1 for n in several}
            fate |= dict.fromkeys(merged, "merged")
            masks = {n: np.isin(following, parts[n]) for n in masks if parts[n] and n not in merged}
            told |= {(plane, n): masks.get(n, fate[n]) for n in wanted}
            plane += step
    return np.where(np.isin(components, wanted), components, 0), told


def by_box(raw: np.ndarray, model: object, seeds: np.ndarray, middle: int, planes: range, store: EmbeddingStore):
    """Labels by plane where the box around the last mask is the only prompt of the next plane."""
    found = {}
    for step in (1, -1):
        boxes = dict(enumerate(ndimage.find_objects(seeds), 1))
        boxes = {n: (r.start, c.start, r.stop - 1, c.stop - 1) for n, at in boxes.items() if at for r, c in [at]}
        plane = middle + step
        while plane in planes:
            view = View(model, raw[plane], store)
            labels = np.zeros(raw[plane].shape, np.int32)
            following = {}
            for field in {tiling.window_for(view.shape, box) for box in boxes.values()}:
                here = [n for n, box in boxes.items() if tiling.window_for(view.shape, box) == field]
                moved = [Prompt(box=np.array(boxes[n], float) - np.tile(field[:2], 2)) for n in here]
                for n, answer in zip(here, model.predict(view.embedding(field), moved), strict=True):
                    rows, columns, mask = answer.on(field, view.shape).patch()
                    labels[rows, columns][mask] = n
                    extent = answer.on(field, view.shape).extent()
                    if extent is not None and extent[2] > extent[0] and extent[3] > extent[1]:
                        following[n] = extent
            found[plane] = labels
            boxes = following
            plane += step
    return found


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument(
        "--sets", nargs="+", default=["vnc", "sbem-validation"], help="vnc, sbem-train, sbem-validation"
    )
    parser.add_argument("--distance", type=int, default=3, help="planes on either side of the middle one")
    parser.add_argument("--embeddings", type=Path, help="folder where embeddings are kept")
    parser.add_argument("--no-check", action="store_true", help="without the second pass, so without certainty")
    parser.add_argument("--limit", type=int, help="every so many objects only")
    options = parser.parse_args()
    model = load_model(device="cpu")
    print(machine(), flush=True)
    for name in options.sets:
        raw, truth, middle = block(options.shared, name)
        planes = range(max(0, middle - options.distance), min(len(raw), middle + options.distance + 1))
        seeds, told = followed(truth, middle, planes)
        if options.limit:
            labels = np.unique(seeds)[1:][:: options.limit]
            seeds = np.where(np.isin(seeds, labels), seeds, 0)
            told = {(plane, n): what for (plane, n), what in told.items() if n in labels}
        store = EmbeddingStore(options.embeddings)
        run = propagate(
            raw,
            model,
            {middle: seeds},
            planes=planes,
            options=PropagationOptions(check=not options.no_check),
            store=store,
        )
        ways = {
            "copy": dict.fromkeys(planes, seeds),
            "box only": by_box(raw, model, seeds, middle, planes, store),
            "propagate": {plane: run.labels(plane) for plane in planes},
        }
        report(name, ways, told, middle, planes)
        if not options.no_check:
            report_certainty(run, ways["propagate"], told)


def report(name: str, ways: dict, told: dict, middle: int, planes: range) -> None:
    """Print the means by distance, and what became of objects that are gone."""
    rows = []
    scores = defaultdict(list)
    for distance in range(1, max(planes.stop - 1 - middle, middle - planes.start) + 1):
        here = {key: what for key, what in told.items() if abs(key[0] - middle) == distance}
        there = {key: what for key, what in here.items() if isinstance(what, np.ndarray)}
        gone = [key for key, what in here.items() if isinstance(what, str) and what == "gone"]
        merged = len(here) - len(there) - len(gone)
        means = []
        for way, labels in ways.items():
            values = [iou(labels[plane] == n, mask) for (plane, n), mask in there.items()]
            scores[way] += values
            means.append(f"{np.mean(values):.3f}")
        drawn = [sum(bool((ways[way][plane] == n).any()) for plane, n in gone) for way in ("box only", "propagate")]
        lost = sum(not (ways["propagate"][plane] == n).any() for plane, n in there)
        rows.append(
            [name, str(distance), str(len(there)), *means, str(lost), str(len(gone)), *map(str, drawn), str(merged)]
        )
    rows.append([name, "all", str(len(scores["copy"])), *(f"{np.mean(v):.3f}" for v in scores.values()), *[""] * 5])
    head = ["block", "distance", "objects", *ways, "lost", "gone", "drawn by box only", "drawn by propagate", "merged"]
    print(table(head, rows), flush=True)
    since = planes_since_gone(told, middle)
    rows = []
    for count in sorted(set(since.values())):
        keys = [key for key, planes in since.items() if planes == count]
        drawn = [sum(bool((ways[way][plane] == n).any()) for plane, n in keys) for way in ("box only", "propagate")]
        rows.append([name, str(count), str(len(keys)), *map(str, drawn)])
    print(table(["block", "planes since gone", "objects", "drawn by box only", "drawn by propagate"], rows), flush=True)


def planes_since_gone(told: dict, middle: int) -> dict[tuple[int, int], int]:
    """For each plane and object that is gone there: how many planes on end it has been gone, this one included."""
    since = {}
    for plane, n in told:
        count, at, step = 0, plane, 1 if plane > middle else -1
        while isinstance(told.get((at, n)), str) and told[at, n] == "gone":
            count, at = count + 1, at - step
        if count:
            since[plane, n] = count
    return since


def report_certainty(run, labels: dict, told: dict) -> None:
    """Print how well certainty tells good masks from bad ones."""
    pairs = []
    for plane in labels:
        for one in run.plane(plane).objects:
            what = told.get((plane, one.label))
            if not one.outlined and one.certainty is not None and not (isinstance(what, str) and what == "merged"):
                true = iou(labels[plane] == one.label, what) if isinstance(what, np.ndarray) else 0.0
                pairs.append((one.certainty, true))
    sure, true = np.array(pairs).T
    rows = []
    for low, high in ((0, 0.6), (0.6, 0.8), (0.8, 0.9), (0.9, 1.01)):
        inside = (sure >= low) & (sure < high)
        mean = f"{true[inside].mean():.3f}" if inside.any() else ""
        rows.append([f"{low} to {min(high, 1)}", str(inside.sum()), mean, str((true[inside] < 0.5).sum())])
    print(table(["certainty", "masks", "mean IoU with truth", "of these below 0.5"], rows))
    print(f"Correlation of certainty and IoU: {np.corrcoef(sure, true)[0, 1]:.2f}", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    main()

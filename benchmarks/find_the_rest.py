"""Find the rest: from three clicked mitochondria of a plane to all others, there and five planes on.

Three mitochondria are clicked on their innermost pixel; the masks are the model's answers, not the truth. Those that a
user would not accept (IoU below 0.5) are not among them. Precision, recall and F1 are of the rest of that plane, and of
all mitochondria five planes on, at IoU >= 0.5, as means over several draws of three. The baseline is what
segment-everything finds (its defaults), with an area within the examples' own times 0.5 to 2, the best-trusted of
overlapping ones.

Whatever was chosen was chosen on the set "train" alone.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import tifffile
from _common import arguments, machine, table
from scipy import ndimage

from napari_zeroseg import AutomaticOptions, EmbeddingStore, Prompt, View, load_model, segment_everything
from napari_zeroseg.automatic import filter_area, to_labels
from napari_zeroseg.cascade import Example, SimilarOptions, find_similar
from napari_zeroseg.cascade.planes import overlap
from napari_zeroseg.metrics import iou, overlaps

SETS = {
    "train": ("em_sbem", "train_", (0, 10)),
    "validation": ("em_sbem", "validation_", (0, 4)),
    "vnc": ("em_vnc", "", (0, 10)),
}
LATER = 5
SMALLEST = 50
"""Pixels from which a connected part of the truth counts."""


class Plane:
    """A plane with its truth, one label an object."""

    def __init__(self, model, folder: Path, prefix: str, plane: int, store: EmbeddingStore) -> None:
        self.view = View(model, tifffile.imread(folder / f"{prefix}raw.tif", key=plane), store)
        labels, count = ndimage.label(tifffile.imread(folder / f"{prefix}mitochondria.tif", key=plane) > 0)
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        labels[(sizes < SMALLEST)[labels]] = 0
        self.truth = labels
        self.ids = [i for i in range(1, count + 1) if sizes[i] >= SMALLEST]

    def clicked(self, label: int) -> np.ndarray:
        """The model's answer to a click on the innermost pixel of an object."""
        depth = ndimage.distance_transform_edt(np.pad(self.truth == label, 1))[1:-1, 1:-1]
        place = np.unravel_index(depth.argmax(), depth.shape)
        return self.view.predict([Prompt([place])], None)[0].mask


def draw(plane: Plane, rng: np.random.Generator) -> dict[int, np.ndarray]:
    """Three objects whose click a user accepts."""
    chosen: dict[int, np.ndarray] = {}
    for label in rng.permutation(plane.ids):
        mask = plane.clicked(label)
        if iou(mask, plane.truth == label) >= 0.5:
            chosen[int(label)] = mask
        if len(chosen) == 3:
            break
    return chosen


def scores(found: np.ndarray, plane: Plane, known: list[int]) -> tuple[float, float, float]:
    """Precision, recall and F1 of labels at IoU >= 0.5; what is known counts on neither side."""
    wanted = [i for i in plane.ids if i not in known]
    shared = overlaps(found, plane.truth)
    sizes = np.bincount(found.ravel()), np.bincount(plane.truth.ravel())
    both = {(a, b): n for a, b, n in zip(shared.first, shared.second, shared.count, strict=True) if a and b}
    good = {a: b for (a, b), n in both.items() if n / (sizes[0][a] + sizes[1][b] - n) >= 0.5}
    again = [a for a, b in good.items() if b in known]
    count = len(np.unique(found[found > 0])) - len(again)
    hits = len({b for b in good.values() if b in wanted})
    precision, recall = hits / max(1, count), hits / max(1, len(wanted))
    return precision, recall, 2 * hits / max(1, count + len(wanted))


def baseline(everything, examples: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Everything, filtered by the examples' area."""
    areas = [int(mask.sum()) for mask in examples]
    kept = []
    for one in sorted(filter_area(everything, min(areas) / 2, 2 * max(areas)), key=lambda one: -one.predicted_iou):
        if all(overlap(one.patch, other.patch) <= 0.5 for other in kept):
            kept.append(one)
    return to_labels(kept, shape, "predicted_iou")


def without(labels: np.ndarray, examples: list[np.ndarray]) -> np.ndarray:
    """Labels less those that are an example."""
    for mask in examples:
        values, counts = np.unique(labels[mask], return_counts=True)
        for value, count in zip(values, counts, strict=True):
            if value and count > 0.5 * min(mask.sum(), (labels == value).sum()):
                labels = np.where(labels == value, 0, labels)
    return labels


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--set", choices=SETS, action="append", help="may be repeated (default: validation and vnc)")
    parser.add_argument("--draws", type=int, default=5, help="draws of three objects on each plane")
    parser.add_argument("--planes", type=int, nargs="*", help="other planes than the set's own")
    parser.add_argument("--cache", type=Path, help="folder for embeddings, to look again quickly")
    parser.add_argument("--no-baseline", action="store_true", help="leave segment-everything out")
    parser.add_argument("--sweep", action="store_true", help="F1 by the least certainty")
    options = parser.parse_args()
    model = load_model(device="cpu")
    store = EmbeddingStore(options.cache, 3 * 10**8) if options.cache else EmbeddingStore(memory_bytes=3 * 10**8)
    rows = []
    for name in options.set or ("validation", "vnc"):
        folder, prefix, planes = SETS[name]
        results: dict[str, list[tuple[float, float, float]]] = {}
        for number in options.planes or planes:
            pair = [Plane(model, options.shared / "data" / folder, prefix, z, store) for z in (number, number + LATER)]
            everything = None
            if not options.no_baseline:
                everything = [segment_everything(model, one.view, AutomaticOptions()) for one in pair]
            for seed in range(options.draws):
                chosen = draw(pair[0], np.random.default_rng(seed))
                examples = list(chosen.values())
                start = time.perf_counter()
                least = 0.1 if options.sweep else SimilarOptions().least_certainty
                queue = find_similar(
                    model,
                    [one.view for one in pair],
                    [Example(mask) for mask in examples],
                    options=SimilarOptions(least_certainty=least),
                )
                seconds = time.perf_counter() - start
                for z, (where, one) in enumerate(zip(("that plane", f"plane + {LATER}"), pair, strict=True)):
                    known = list(chosen) if z == 0 else []
                    proposed = [p for p in queue if p.plane == z]
                    for cut in np.arange(0.2, 0.75, 0.05) if options.sweep else [least]:
                        labels = np.zeros(one.view.shape, np.int32)
                        for i, p in enumerate((p for p in proposed if p.certainty >= cut), start=1):
                            part = labels[p.patch[0], p.patch[1]]
                            part[p.patch[2] & (part == 0)] = i
                        key = f"{where}, find the rest" + (f" >= {cut:.2f}" if options.sweep else "")
                        results.setdefault(key, []).append(scores(labels, one, known))
                    if everything is not None:
                        labels = baseline(everything[z], examples, one.view.shape)
                        labels = without(labels, examples) if z == 0 else labels
                        results.setdefault(f"{where}, everything by area", []).append(scores(labels, one, known))
                print(f"{name} {number} draw {seed}: {seconds:.1f} s, {len(queue)} proposals", file=sys.stderr)
        for key, several in results.items():
            mean, lowest = np.mean(several, 0), np.min(several, 0)[2]
            rows.append([name, key, *(f"{value:.3f}" for value in (*mean, lowest))])
    print(machine())
    print(table(["set", "what", "precision", "recall", "F1", "lowest F1"], rows))


if __name__ == "__main__":
    main()

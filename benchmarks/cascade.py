"""Words to instances on pictures of named shapes: plain CLIPSeg beside the cascade, and words that are taught.

A small CLIPSeg is trained on generated scenes first (benchmarks/_shapes.py; minutes on one core), since the published
weights are not part of the project. IoU is of all pixels of a phrase with all that it names on a scene, as the mean
over held-out scenes that show it; "others" is the IoU with all other shapes there, which should be low.

    python benchmarks/cascade.py --scenes 20
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _shapes as shapes
import numpy as np
from _common import arguments, machine, table

from napari_zeroseg import View, load_model
from napari_zeroseg.cascade import TextOptions, segment_text
from napari_zeroseg.cascade.taught import TaughtPhrase, teach_phrase
from napari_zeroseg.metrics import iou

TAUGHT = range(500, 512)
"""Scenes from which a word is taught, a quarter of them held out."""


def compare(reader: Any, drawer: Any, scenes: Sequence[shapes.Scene]) -> dict[str, np.ndarray]:
    """Ask for each name on each scene that shows it.

    Returns
    -------
    dict of str to (2, 2) array
        For each name, of plain CLIPSeg above one half and of the cascade: mean IoU with what is asked for, and with
        all other shapes.
    """
    found: dict[str, list[list[tuple[float, float]]]] = {}
    for one in scenes:
        view = View(drawer, one.picture)
        there = [name for name in shapes.NAMES if one.truth[name].any()]
        for name in there:
            result = segment_text(view, [name], reader, drawer, TextOptions())
            own = one.truth[name] > 0
            rest = np.any([one.truth[other] > 0 for other in shapes.SORTS if other != name], 0)
            masks = result.heat[0] > 0.5, result.to_labels() > 0
            found.setdefault(name, []).append([(iou(mask, own), iou(mask, rest)) for mask in masks])
    return {name: np.mean(several, 0) for name, several in found.items()}


def taught(reader: Any, word: str, sort: str) -> TaughtPhrase:
    """Teach the reader that a word is the name of a sort of shapes."""
    scenes = [one for one in map(shapes.scene, TAUGHT) if one.truth[sort].any()]
    return teach_phrase(word, reader, [one.picture for one in scenes], [one.truth[sort] for one in scenes])


def main() -> None:
    parser = arguments((__doc__ or "").splitlines()[0])
    parser.add_argument("--scenes", type=int, default=20, help="held-out scenes")
    parser.add_argument(
        "--trained", type=Path, help="folder of a network that shapes.train made, not to train it again"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:  # its vocabulary is read when the first phrase comes
        report(options.trained or shapes.train(Path(made)), options.scenes)


def report(folder: Path, count: int) -> None:
    """Print both tables for a trained network."""
    reader = load_model("clipseg_rd64", weights=folder, device="cpu", precision="float32")
    drawer = load_model("mobile_sam", device="cpu")
    compared = compare(reader, drawer, [shapes.scene(seed) for seed in range(count)])
    compared["mean"] = np.mean(list(compared.values()), 0)
    rows = [[name, *(f"{value:.2f}" for value in values.ravel())] for name, values in compared.items()]
    print(machine())
    print(table(["phrase", "plain CLIPSeg, IoU", "others", "cascade, IoU", "others"], rows))
    rows = []
    for sort in shapes.SORTS:
        trial = taught(reader, "blorp", sort).trial
        rows.append([f"blorp, for {sort}", *(f"{v:.2f}" for v in (trial.before, trial.after, trial.absence))])
    print()
    print(table(["taught", "IoU before", "IoU after", "absent"], rows))


if __name__ == "__main__":
    main()

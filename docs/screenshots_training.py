"""Make the pictures of the pages on the Train and Evaluate docks: as they open, in the middle of a run, and after it.

The pictures in docs/images show the generated EM-like stack. With ``--data FOLDER`` the same is done on a real EM stack
(FOLDER/em_sbem/train_raw.tif and train_mitochondria.tif) whose licence keeps its pictures out of the project:
build/screenshots.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtWidgets import QScrollArea
from screenshots import BUILD, IMAGES, WINDOW, Tour, cut_below, grabbed, save
from tifffile import imread

from napari_zeroseg._napari.widgets import Folded
from napari_zeroseg.phantom import em_like_stack

WAIT = 3600
PLANES, SIZE = 12, 512


class TrainTour(Tour):
    """A viewer with one of the docks."""

    def open_dock(self, name: str = "Train") -> None:
        _, self.dock = self.viewer.window.add_plugin_dock_widget("napari-zeroseg", name)
        self.settle()


def opened(tour: TrainTour) -> None:
    """The dock as it opens, with the settings that one rarely needs."""
    tour.open_dock()
    tour.wait(tour.dock.train.isEnabled)
    more = next(part for part in tour.dock.findChildren(Folded) if part.heading.text() == "More")
    more.heading.setChecked(True)
    tour.viewer.window.resize(WINDOW[0], 1000)
    tour.settle()
    save(cut_below(grabbed(tour.dock)), tour.out / "train_dock.png")
    more.heading.setChecked(False)


def trained(tour: TrainTour, minutes: float) -> None:
    """Photograph a run that is past its third look at held-back objects, and what came of it."""
    tour.out.mkdir(parents=True, exist_ok=True)
    session = tour.dock.session
    session.set_choices(minutes=minutes)
    tour.dock.train.click()

    def is_in_the_middle() -> bool:
        watch = session.watch
        return watch is not None and (len(watch.scores.get("iou", {}).get("box", ())) > 2 or not watch.is_live)

    tour.wait(is_in_the_middle, WAIT)
    tour.viewer.window.resize(WINDOW[0], 1000)
    save(grabbed(tour.viewer.window._qt_window), tour.out / "train_running.png")
    tour.wait(lambda: not session.watch.is_live, WAIT)
    tour.dock.card_part.heading.setChecked(True)
    tour.settle(1)
    print(tour.status, tour.dock.figures.text(), sep="\n")
    tour.settle()
    # not the dock itself: it is higher than the display, and would be scrolled
    save(cut_below(grabbed(tour.dock.findChild(QScrollArea).widget())), tour.out / "train_done.png")


def evaluated(tour: TrainTour, truth: np.ndarray, layer: Any) -> None:
    """Compare labels that are a little off with the truth, and go to the worst object."""
    prediction = np.roll(truth, 2, axis=2)
    prediction[prediction == np.unique(truth)[2]] = 0
    tour.viewer.add_labels(prediction, name="found", scale=layer.scale, units=layer.units)
    layer.name = "truth"
    tour.open_dock("Evaluate")
    tour.wait(tour.dock.run.isEnabled)
    tour.dock.run.click()
    tour.wait(lambda: tour.dock.report is not None, WAIT)
    tour.dock.table.selectRow(1)
    tour.dock.jump(tour.dock.rows.row_at(1))
    tour.viewer.window.resize(*WINDOW)
    tour.shoot("evaluate")


def main() -> None:
    """Make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with em_sbem, for pictures that are not shared")
    parser.add_argument("--minutes", type=float, default=2, help="how long to train")
    parser.add_argument("--only", choices=("dock", "train", "evaluate"), help="one of these")
    options = parser.parse_args()
    tour = TrainTour(IMAGES if options.data is None else BUILD)
    if options.data is None:
        raw, truth = em_like_stack(PLANES, SIZE, seed=2)
    else:
        raw = imread(options.data / "em_sbem" / "train_raw.tif")
        truth = imread(options.data / "em_sbem" / "train_mitochondria.tif").astype(np.uint16)
    size = {"scale": (0.05, 0.01, 0.01), "units": ("um", "um", "um")}
    tour.viewer.add_image(raw, name="em", **size)
    layer = tour.viewer.add_labels(truth, name="mitochondria", opacity=0.4, **size)
    tour.viewer.dims.set_current_step(0, len(raw) // 2)
    if options.only != "evaluate":
        opened(tour)
        if options.only != "dock":
            trained(tour, options.minutes)
        tour.viewer.window.remove_dock_widget("all")
    if options.only in (None, "evaluate"):
        evaluated(tour, truth, layer)
    tour.close()


if __name__ == "__main__":
    main()

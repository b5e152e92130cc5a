"""Make the pictures of the page on the Stack dock: objects of one plane carried through the others, and their curve.

The pictures in docs/images show the generated EM-like stack. With ``--data FOLDER`` the same is done on a real EM stack
(FOLDER/em_vnc/raw.tif and mitochondria.tif) whose licence keeps its pictures out of the project: build/screenshots.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage
from screenshots import BUILD, IMAGES, WINDOW, Tour, cut_below, grabbed, save
from tifffile import imread

from napari_zeroseg._napari.widgets import Folded

MOST_OBJECTS = 6
WAIT = 1800


class StackTour(Tour):
    """A viewer with the Stack dock."""

    def open_dock(self) -> None:
        _, self.dock = self.viewer.window.add_plugin_dock_widget("napari-zeroseg", "Stack")
        self.settle()

    @property
    def runner(self) -> Any:
        return self.dock.session.runner


def outlined(truth: np.ndarray) -> np.ndarray:
    """The largest objects of a plane of labels, numbered from 1."""
    numbers, areas = np.unique(truth[truth > 0], return_counts=True)
    largest = numbers[np.argsort(-areas)][:MOST_OBJECTS]
    return sum((n + 1) * (truth == number) for n, number in enumerate(largest))


def propagated(tour: StackTour, image: Any, truth: np.ndarray, plane: int, reach: int) -> None:
    """Outline the objects of one plane, propagate them, and show a plane that is to be looked at."""
    data = np.zeros(image.data.shape, np.uint16)
    data[plane] = outlined(truth)
    tour.viewer.add_labels(data, name="outlined", scale=image.scale, units=image.units, opacity=0.5)
    tour.viewer.dims.set_current_step(0, plane)
    tour.open_dock()
    session = tour.dock.session
    session.set_choices(whole=False, first=max(0, plane - reach), last=min(len(data) - 1, plane + reach))
    tour.wait(tour.dock.propagate.isEnabled)
    tour.dock.propagate.click()
    tour.wait(lambda: tour.runner.task is not None and tour.runner.task.progress.done > reach, WAIT)
    if tour.out == BUILD:
        tour.shoot("stack_under_way")
    tour.wait(lambda: not tour.runner.is_busy, WAIT)
    if session.flags:
        session.next_flag()
    else:
        session.jump(plane + reach)
    tour.viewer.layers["outlined"].visible = False
    tour.viewer.window.resize(WINDOW[0], 900)
    tour.shoot("stack_propagated")
    print(*tour.runner.log, sep="\n")


def unfolded(tour: StackTour) -> None:
    """The dock alone, with everything in it."""
    for part in tour.dock.findChildren(Folded):
        part.heading.setChecked(True)
    tour.viewer.window.resize(WINDOW[0], 1180)
    tour.settle()
    save(cut_below(grabbed(tour.dock)), tour.out / "stack_dock.png")


def main() -> None:
    """Make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with em_vnc/raw.tif, for pictures that are not shared")
    parser.add_argument("--reach", type=int, default=3, help="planes to either side")
    options = parser.parse_args()
    tour = StackTour(IMAGES if options.data is None else BUILD)
    if options.data is None:
        tour.viewer.open_sample("napari-zeroseg", "em_like")
        truth = np.asarray(tour.viewer.layers["EM-like truth"].data)
        tour.viewer.layers.remove("EM-like truth")
        plane, image = len(truth) // 2, tour.viewer.layers["EM-like"]
        propagated(tour, image, truth[plane], plane, options.reach)
    else:
        (image,) = tour.viewer.open(str(options.data / "em_vnc" / "raw.tif"), plugin="napari-zeroseg")
        plane = len(image.data) // 2
        mitochondria = imread(options.data / "em_vnc" / "mitochondria.tif", key=plane)
        propagated(tour, image, ndimage.label(mitochondria)[0], plane, options.reach)
    unfolded(tour)
    tour.close()


if __name__ == "__main__":
    main()

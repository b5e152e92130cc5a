"""Make the pictures of the page on the Stack dock: objects carried through the planes, and the rest of some of them.

The pictures in docs/images show the generated EM-like stack. With ``--data FOLDER`` the same is done on real EM stacks
(FOLDER/em_vnc/raw.tif and mitochondria.tif, FOLDER/em_sbem/validation_*.tif) whose licences keep their pictures out of
the project: build/screenshots.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from napari.utils.colormaps import CyclicLabelColormap
from qtpy.QtWidgets import QScrollArea
from scipy import ndimage
from screenshots import BUILD, IMAGES, WINDOW, Tour, cut_below, grabbed, save
from tifffile import imread

from napari_zeroseg import Prompt, View, load_model
from napari_zeroseg._napari.widgets import Folded
from napari_zeroseg.metrics import iou

MOST_OBJECTS, EXAMPLES = 6, 3
WAIT = 1800


class StackTour(Tour):
    """A viewer with the Stack dock."""

    def open_dock(self) -> None:
        _, self.dock = self.viewer.window.add_plugin_dock_widget("napari-zeroseg", "Stack")
        self.settle()

    @property
    def runner(self) -> Any:
        return self.dock.session.runner


def outlined(truth: np.ndarray, most: int = MOST_OBJECTS) -> np.ndarray:
    """The largest objects of a plane of labels, numbered from 1."""
    numbers, areas = np.unique(truth[truth > 0], return_counts=True)
    largest = numbers[np.argsort(-areas)][:most]
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


def clicked(picture: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Three objects of ordinary size as the model draws them from one click in their middle, numbered from 1.

    A click that a user would not accept (IoU with the truth below 0.7) is not taken.
    """
    view, labels, count = View(load_model(), picture), np.zeros(truth.shape, np.uint16), 0
    numbers, areas = np.unique(truth[truth > 0], return_counts=True)
    for number in numbers[np.argsort(np.abs(areas - np.quantile(areas, 0.7)))]:
        mask = truth == number
        middle = np.unravel_index(ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1].argmax(), mask.shape)
        (answer,) = view.predict([Prompt([middle])])
        if iou(answer.mask, mask) >= 0.7:
            count += 1
            labels[answer.mask & (labels == 0)] = count
        if count == EXAMPLES:
            break
    return labels


def rest_proposed(tour: StackTour, image: Any, truth: np.ndarray, plane: int) -> None:
    """Click three objects of a plane, find the rest of it, and show what is asked first."""
    data = np.zeros(image.data.shape, np.uint16)
    data[plane] = clicked(np.asarray(image.data[plane]), truth)
    green = CyclicLabelColormap(colors=["#00000000", "#2ecc71"])
    placed = {"scale": image.scale, "units": image.units}
    tour.viewer.add_labels(data, name="mitochondria", colormap=green, opacity=0.5, **placed)
    tour.viewer.dims.set_current_step(0, plane)
    tour.open_dock()
    tour.wait(tour.dock.finding.start.isEnabled)
    tour.dock.finding.start.click()
    tour.wait(lambda: tour.dock.session.finder.inquiry is not None, WAIT)
    tour.viewer.window.resize(WINDOW[0], 1000)
    tour.dock.session.finder.inquiry.select(0)
    tour.settle()
    tour.viewer.reset_view()
    tour.shoot("find_the_rest")
    print(*tour.runner.log, sep="\n")


def unfolded(tour: StackTour) -> None:
    """The dock alone, with everything in it."""
    for part in tour.dock.findChildren(Folded):
        part.heading.setChecked(True)
    tour.settle()
    # Not the dock itself: it is higher than the display, and would be scrolled.
    save(cut_below(grabbed(tour.dock.findChild(QScrollArea).widget())), tour.out / "stack_dock.png")


def propagation(options: argparse.Namespace) -> None:
    """The pictures of a propagation, and of the dock."""
    tour = StackTour(IMAGES if options.data is None else BUILD)
    if options.data is None:
        image, truth = sample(tour)
        plane = len(truth) // 2
        propagated(tour, image, truth[plane], plane, options.reach)
    else:
        (image,) = tour.viewer.open(str(options.data / "em_vnc" / "raw.tif"), plugin="napari-zeroseg")
        plane = len(image.data) // 2
        mitochondria = imread(options.data / "em_vnc" / "mitochondria.tif", key=plane)
        propagated(tour, image, ndimage.label(mitochondria)[0], plane, options.reach)
    unfolded(tour)
    tour.close()


def rest(options: argparse.Namespace) -> None:
    """The picture of the rest of what was labelled."""
    tour = StackTour(IMAGES if options.data is None else BUILD)
    if options.data is None:
        image, truth = sample(tour)
        plane = len(truth) // 2
        rest_proposed(tour, image, truth[plane], plane)
    else:
        (image,) = tour.viewer.open(str(options.data / "em_sbem" / "validation_raw.tif"), plugin="napari-zeroseg")
        plane = len(image.data) // 2
        mitochondria = imread(options.data / "em_sbem" / "validation_mitochondria.tif", key=plane)
        rest_proposed(tour, image, ndimage.label(mitochondria)[0], plane)
    tour.close()


def sample(tour: StackTour) -> tuple[Any, np.ndarray]:
    """The generated stack, and its truth."""
    tour.viewer.open_sample("napari-zeroseg", "em_like")
    truth = np.asarray(tour.viewer.layers["EM-like truth"].data)
    tour.viewer.layers.remove("EM-like truth")
    return tour.viewer.layers["EM-like"], truth


def main() -> None:
    """Make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with em_vnc and em_sbem, for pictures that are not shared")
    parser.add_argument("--reach", type=int, default=3, help="planes to either side")
    parser.add_argument("--rest", action="store_true", help="the picture of the rest alone")
    options = parser.parse_args()
    if not options.rest:
        propagation(options)
    rest(options)


if __name__ == "__main__":
    main()

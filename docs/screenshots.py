"""Make the pictures of the documentation: drive the Segment dock as a user does, and photograph the window.

Run it by `make screenshots`; it needs a display, real or virtual. The pictures in docs/images show only the generated
EM-like stack and the radiograph of pydicom-data, which may be shared. With ``--data FOLDER`` the same tour is made
over a real EM stack (FOLDER/em_vnc/raw.tif and mitochondria.tif), and those pictures go to build/screenshots, which is
not part of the project.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Both are read at import: no settings of the user in the pictures, no cache of the user in the figures.
os.environ["NAPARI_CONFIG"] = ""
os.environ.setdefault("ZEROSEG_CACHE_DIR", tempfile.mkdtemp())
os.environ["ZEROSEG_DATA_DIR"] = tempfile.mkdtemp()

import napari
import numpy as np
from PIL import Image, ImageColor, ImageDraw
from qtpy.QtGui import QImage
from qtpy.QtWidgets import QApplication, QWidget
from scipy import ndimage
from tifffile import imread

from napari_zeroseg import Prompt, View, load_model
from napari_zeroseg._napari.widgets import Folded
from napari_zeroseg.metrics import iou
from napari_zeroseg.phantom import em_like_stack

IMAGES = Path(__file__).parent / "images"
BUILD = Path(__file__).parents[1] / "build" / "screenshots"
WINDOW = (1280, 800)
GREYS, COLOURS = 56, 180
MARKS = ("#2ecc71", "#ff4d4d", "#38bdf8")
"""Colours of points and boxes: small, so they are not left to chance."""
COLOURED = 16
"""Difference of the channels from which a pixel is coloured."""
PLANE = 3
LUNG = (110.0, 150.0, 1490.0, 810.0)
CHEST_CLICK, CHEST_BACKGROUND = (620.0, 470.0), (900.0, 900.0)
PANEL, CLOSE = 300, 96
"""Pixels of a panel of the picture of the fields of view, and pixels of the plane that a close one shows."""


class Tour:
    """A viewer with the Segment dock, and what a user does with it."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.viewer = napari.Viewer(show=True)
        self.viewer.window.resize(*WINDOW)
        self.dock: Any = None

    def open_dock(self) -> None:
        """Open it through the manifest, as the Plugins menu does."""
        _, self.dock = self.viewer.window.add_plugin_dock_widget("napari-zeroseg", "Segment")
        self.settle()

    def begin(self, kind: str) -> None:
        """Press one of the buttons Points, Box, Outline and wait until the plane is encoded."""
        self.dock.kinds.buttons[kind].click()
        self.wait(lambda: self.preview is not None and "ncoding" not in self.status)

    def layer(self, ending: str) -> Any:
        """The layer of the dock whose name ends so."""
        return next(layer for layer in self.viewer.layers if layer.name.endswith(f"– {ending}"))

    @property
    def preview(self) -> Any:
        return next((layer for layer in self.viewer.layers if layer.name == "ZeroSeg preview"), None)

    @property
    def status(self) -> str:
        return str(self.dock.status.text())

    def click(self, *points: tuple[float, ...], positive: bool = True) -> None:
        """Add points and wait for the preview."""
        if not positive:
            self.dock.sign.click()
        layer = self.layer("points")
        layer.add(np.array(points))
        layer.selected_data = set()
        self.answered()

    def draw_box(self, plane: tuple[int, ...], r0: float, c0: float, r1: float, c1: float) -> None:
        """Add a rectangle and wait for the preview."""
        layer = self.layer("shapes")
        layer.add_rectangles(np.array([(*plane, r, c) for r, c in ((r0, c0), (r0, c1), (r1, c1), (r1, c0))]))
        layer.selected_data = set()
        self.answered()

    def answered(self) -> None:
        """Wait until the preview of the newest marks is there."""
        self.settle()
        self.wait(lambda: "Segmenting" not in self.status and self.preview.visible)

    def press(self, button: str) -> None:
        """Press accept, discard, next, undo or refine."""
        getattr(self.dock, button).click()
        self.wait(lambda: self.dock.accept.isEnabled() is False or button not in ("accept", "discard"))

    def look_at(self, row: float, column: float, zoom: float) -> None:
        """Centre the camera there, in world coordinates, and magnify by `zoom` from the whole picture."""
        self.viewer.reset_view()
        camera = getattr(self.viewer, "scene", self.viewer).camera  # its place until napari 0.9
        camera.center = (0.0, row, column)
        camera.zoom *= zoom
        self.settle()

    def settle(self, seconds: float = 0.4) -> None:
        """Let the window do what it has put off."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            QApplication.processEvents()
            time.sleep(0.01)

    def wait(self, ready: Callable[[], bool], seconds: float = 120) -> None:
        """Let the window live until something has happened."""
        end = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > end:
                raise TimeoutError(f"The dock still says: {self.status}")
            QApplication.processEvents()
            time.sleep(0.01)
        self.settle()

    def shoot(self, name: str) -> None:
        """Photograph the whole window."""
        self.settle()
        save(grabbed(self.viewer.window._qt_window), self.out / f"{name}.png")

    def canvas(self) -> Image.Image:
        """The canvas as it is."""
        self.settle()
        return Image.fromarray(self.viewer.screenshot(canvas_only=True, flash=False)).convert("RGB")

    def close(self) -> None:
        self.viewer.close()
        self.settle()


def grabbed(widget: QWidget) -> Image.Image:
    """Return what a widget shows."""
    image = widget.grab().toImage().convertToFormat(QImage.Format.Format_RGB888)
    buffer = np.frombuffer(image.constBits(), np.uint8).reshape(image.height(), image.bytesPerLine())
    return Image.fromarray(buffer[:, : image.width() * 3].reshape(image.height(), image.width(), 3).copy())


def save(picture: Image.Image, path: Path) -> None:
    """Write a small PNG of 240 colours: a third for greys, the rest for what is coloured, however little that is."""
    pixels = np.asarray(picture.convert("RGB")).reshape(1, -1, 3)
    coloured = pixels[:, np.ptp(pixels[0].astype(int), axis=1) > COLOURED]
    palette = np.repeat(np.linspace(0, 255, GREYS).round().astype(np.uint8), 3).tolist()
    palette += [channel for mark in MARKS for channel in ImageColor.getrgb(mark)]
    if coloured.size:
        palette += Image.fromarray(coloured).quantize(COLOURS, method=Image.Quantize.MEDIANCUT).getpalette()
    holder = Image.new("P", (1, 1))
    holder.putpalette(palette)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.convert("RGB").quantize(palette=holder, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def beside(pictures: list[Image.Image], gap: int = 6) -> Image.Image:
    """Lay pictures of one height side by side."""
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    row = Image.new("RGB", (width, pictures[0].height), "white")
    x = 0
    for picture in pictures:
        row.paste(picture, (x, 0))
        x += picture.width + gap
    return row


def middles(truth: np.ndarray, smallest: int) -> dict[int, tuple[float, float]]:
    """The pixel of each object that lies deepest inside, (row, column), the largest objects first."""
    numbers, areas = np.unique(truth[truth > 0], return_counts=True)
    found = {}
    for number in numbers[np.argsort(-areas)][: np.count_nonzero(areas >= smallest)]:
        depth = ndimage.distance_transform_edt(np.pad(truth == number, 1))[1:-1, 1:-1]
        row, column = np.unravel_index(depth.argmax(), depth.shape)
        found[int(number)] = (float(row), float(column))
    return found


def box_of(mask: np.ndarray, margin: float) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return rows[0] - margin, columns[0] - margin, rows[-1] + margin, columns[-1] + margin


def tour_of_stack(tour: Tour, truth: np.ndarray, scale: tuple[float, float]) -> None:
    """Click, box, several at once, accept, the next plane; `truth` (H, W) numbers the objects of plane PLANE."""
    tour.open_dock()
    tour.viewer.dims.set_current_step(0, PLANE)
    tour.shoot("dock_opened")
    tour.begin("points")
    inside = middles(truth, 150)
    largest, _, *others = inside.values()
    tour.click((PLANE, *largest))
    tour.shoot("click")
    tour.look_at(largest[0] * scale[0], largest[1] * scale[1], 4)
    tour.shoot("click_near")
    tour.viewer.reset_view()
    tour.press("accept")
    tour.begin("box")
    number = list(inside)[1]
    tour.draw_box((PLANE,), *box_of(truth == number, 3))
    tour.shoot("box")
    tour.press("accept")
    tour.dock.batched.setChecked(True)
    tour.begin("points")
    tour.click(*((PLANE, *middle) for middle in others))
    tour.shoot("batched")
    tour.press("accept")
    tour.dock.batched.setChecked(False)
    tour.shoot("accepted")


def tour_of_chest(tour: Tour) -> None:
    """A box around a lung; then a click, what it may mean, and a click on background that says more."""
    tour.open_dock()
    tour.begin("box")
    tour.draw_box((), *LUNG)
    tour.shoot("chest_box")
    tour.press("discard")
    tour.begin("points")
    tour.layer("points").canvas_size_limits = (20, 24)  # these pictures are shown at half their size
    tour.click(CHEST_CLICK)
    views = []
    for _ in range(3):
        views.append(middle_of(tour.canvas(), 400))
        print("  ", tour.dock.candidates.text.text())
        tour.dock.candidates.button.click()
    save(beside(views), tour.out / "candidates.png")
    before = views[0]
    tour.click(CHEST_BACKGROUND, positive=False)
    save(beside([before, middle_of(tour.canvas(), 400)]), tour.out / "background.png")


def middle_of(picture: Image.Image, side: int) -> Image.Image:
    """The middle square of a picture, `side` pixels wide."""
    whole = min(picture.size)
    left, top = (picture.width - whole) // 2, (picture.height - whole) // 2
    square = picture.crop((left, top, left + whole, top + whole))
    return square.resize((side, side), Image.Resampling.LANCZOS)


def unfolded(tour: Tour) -> None:
    """The dock alone, with everything in it."""
    for part in tour.dock.findChildren(Folded):
        part.heading.setChecked(True)
    tour.viewer.window.resize(WINDOW[0], 1100)
    tour.settle()
    save(cut_below(grabbed(tour.dock)), tour.out / "dock.png")


def models_dock(tour: Tour) -> None:
    """The Models dock, at the question that comes before a download."""
    tour.dock.open_models("clipseg_rd64_refined")
    models = next(dock for name, dock in tour.viewer.window.dock_widgets.items() if name.startswith("Models"))
    tour.wait(lambda: all(entry.state for entry in models.zoo.entries.values()))
    models.download.click()
    tour.settle()
    save(cut_below(grabbed(models)), tour.out / "models_dock.png")


def cut_below(picture: Image.Image) -> Image.Image:
    """The picture without the empty part below what is written."""
    pixels = np.asarray(picture).astype(int)
    written = np.flatnonzero((np.abs(pixels - pixels[-1, -1]) > COLOURED).any((1, 2)))
    return picture.crop((0, 0, picture.width, written[-1] + 12))


def field_of_view(out: Path) -> None:
    """The same click in three windows of a large plane, as the network sees each of them."""
    raw, truth = em_like_stack(1, 2048)
    model = load_model()
    view = View(model, raw[0])
    row, column = sorted(middles(truth[0], 300).values(), key=lambda at: abs(at[0] - 880) + abs(at[1] - 960))[0]
    prompt = Prompt(points=[(row, column)])
    scale = PANEL / 2048
    plane = Image.fromarray(raw[0]).resize((PANEL, PANEL), Image.Resampling.LANCZOS).convert("RGB")
    panels, draw = [plane], ImageDraw.Draw(plane)
    for choice, colour in (("plane", "#ff7b54"), (1024, "#ffd21f"), (512, "#38bdf8")):
        (prediction,) = view.predict([prompt], True, choice)
        field = prediction.field
        draw.rectangle(tuple(scale * at for at in (field.c0, field.r0, field.c1 - 1, field.r1 - 1)), None, colour, 3)
        panels.append(as_seen(raw[0], prediction, (row, column), colour))
        truth_here = truth[0] == truth[0][int(row), int(column)]
        print(f"  {choice}: predicted IoU {prediction.scores.max():.2f}, IoU {iou(prediction.mask, truth_here):.2f}")
    draw.ellipse((column * scale - 4, row * scale - 4, column * scale + 4, row * scale + 4), "#2ecc71", "white")
    save(beside(panels), out / "field_of_view.png")


def as_seen(plane: np.ndarray, prediction: Any, at: tuple[float, float], colour: str) -> Image.Image:
    """A window's pixels around `at` as the network gets them, and the outline of its answer."""
    field, half = prediction.field, CLOSE / 2
    picture = Image.fromarray(plane[field.slices])
    factor = 1024 / max(field.shape)
    small = picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.Resampling.BILINEAR)
    r, c = (at[0] - field.r0) * factor, (at[1] - field.c0) * factor
    box = tuple(int(n) for n in (c - half * factor, r - half * factor, c + half * factor, r + half * factor))
    panel = small.crop(box).resize((PANEL, PANEL), Image.Resampling.NEAREST).convert("RGB")
    around = tuple(int(n) for n in (at[1] - half, at[0] - half, at[1] + half, at[0] + half))
    inside = Image.fromarray(prediction.mask).crop(around)
    mask = np.asarray(inside.resize((PANEL, PANEL), Image.Resampling.NEAREST))
    outline = ndimage.binary_dilation(mask, iterations=2) & ~ndimage.binary_erosion(mask, iterations=1)
    panel.paste(Image.new("RGB", panel.size, colour), mask=Image.fromarray(outline))
    ImageDraw.Draw(panel).rectangle((0, 0, PANEL - 1, PANEL - 1), None, colour, 4)
    return panel


def shared_pictures() -> None:
    """The pictures that are part of the documentation."""
    tour = Tour(IMAGES)
    tour.viewer.open_sample("napari-zeroseg", "em_like")
    truth = np.asarray(tour.viewer.layers["EM-like truth"].data[PLANE])
    tour.viewer.layers.remove("EM-like truth")
    tour_of_stack(tour, truth, (1.0, 1.0))
    unfolded(tour)
    models_dock(tour)
    tour.close()
    tour = Tour(IMAGES)
    tour.viewer.open_sample("napari-zeroseg", "chest_cr")
    tour_of_chest(tour)
    tour.close()
    field_of_view(IMAGES)


def real_pictures(data: Path) -> None:
    """The tour over a real EM stack, whose licence keeps its pictures out of the project."""
    tour = Tour(BUILD)
    (image,) = tour.viewer.open(str(data / "em_vnc" / "raw.tif"), plugin="napari-zeroseg")
    mitochondria = imread(data / "em_vnc" / "mitochondria.tif", key=PLANE)
    tour_of_stack(tour, ndimage.label(mitochondria)[0], tuple(image.scale[-2:]))
    tour.close()


def main() -> None:
    """Make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with em_vnc/raw.tif, for pictures that are not shared")
    options = parser.parse_args()
    if options.data is None:
        shared_pictures()
    else:
        real_pictures(options.data)


if __name__ == "__main__":
    main()

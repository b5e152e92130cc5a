"""Make the pictures of the documentation that need other models than the one in the package: words, comparing, states.

Run it by `make screenshots`. The small models of the tests take the place of large ones, and a server on this machine
that of the publishers; the pages say so.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from scipy import ndimage
from screenshots import IMAGES, PLANE, Tour, cut_below, grabbed, middles, save

TOYS = Path(__file__).parents[1] / "tests" / "data" / "toys"


def tour_of_words(tour: Tour) -> None:
    """Phrases in the text line: a legend, a threshold, a heat map; asked of a toy that calls bright pixels bright."""
    image = tour.viewer.layers["EM-like"]
    image.data = ndimage.gaussian_filter(np.asarray(image.data), (0, 2, 2))  # noise is neither bright nor dark
    tour.open_dock()
    tour.viewer.dims.set_current_step(0, PLANE)
    tour.wait(lambda: "toy_words" in tour.dock.session.models.zoo.entries)
    tour.dock.model.picked.emit("toy_words")
    tour.wait(lambda: tour.dock.session.model.key == "toy_words")
    text = tour.dock.text
    text.line.setText("bright, dark")
    text.line.returnPressed.emit()
    tour.wait(lambda: tour.dock.session.asking.answer is not None)
    text.threshold.setValue(68)
    text.legend.heat[1].click()
    tour.wait(lambda: text.legend.heat[1].isChecked())
    tour.shoot("words")
    text.legend.heat[1].click()
    tour.press("discard")


def outlined(tour: Tour) -> None:
    """What a word has found, as boxes and clicks that MobileSAM answers."""
    text = tour.dock.text
    text.line.setText("dark")
    text.line.returnPressed.emit()
    text.threshold.setValue(55)
    tour.wait(lambda: tour.dock.session.asking.answer is not None and text.outline.isEnabled())
    text.outline.click()
    tour.wait(lambda: tour.dock.session.model.key == "mobile_sam" and tour.dock.session.asking.answer is not None)
    tour.shoot("outlined")
    tour.press("discard")


def comparison(tour: Tour, at: tuple[float, float]) -> None:
    """The window that compares models, with one that takes no points among them."""
    tour.dock.model.picked.emit("mobile_sam")
    tour.wait(lambda: tour.dock.session.model.key == "mobile_sam")
    text = tour.dock.text.line
    text.clear()
    text.returnPressed.emit()
    tour.begin("points")
    tour.click((PLANE, *at))
    tour.dock.open_compare()
    window = tour.dock._compare
    window.choose(["mobile_sam", "toy_flood", "toy_boxes"])
    window.run.click()
    tour.wait(lambda: len(window.picks) == 2 and not tour.dock.session.comparing.is_running)
    save(grabbed(window), tour.out / "compare.png")
    window.close()


def states_of_models(tour: Tour) -> None:
    """The Models dock with a model in each state: one is being downloaded, and for one the server has no file."""
    tour.dock.open_models()
    models = next(dock for name, dock in tour.viewer.window.dock_widgets.items() if name.startswith("Models"))
    tour.wait(lambda: all(entry.state for entry in models.zoo.entries.values()))
    with slow_server() as address:
        os.environ["ZEROSEG_MIRROR"] = address
        for key in ("sam_vit_b", "toy_afar"):
            models.show_model(key)
            models.download.click()
            models.question.yes.click()
            tour.settle()
        tour.wait(lambda: models.progress.value() > 400 and "sam_vit_b" in models.zoo.faults)
        save(cut_below(grabbed(models)), tour.out / "models_states.png")
        models.stop.click()
        tour.wait(lambda: not models.zoo.errands)
        del os.environ["ZEROSEG_MIRROR"]


@contextmanager
def slow_server() -> Iterator[str]:
    """A mirror on this machine that has one file and takes its time."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            if "toy_afar" not in self.path:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", "1200000")
            self.end_headers()
            try:
                for _ in range(120):
                    self.wfile.write(bytes(10_000))
                    time.sleep(0.1)
            except OSError:
                pass  # the download was stopped

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def pictures_with_toys() -> None:
    """What needs other models than the one in the package; those of the tests take their place."""
    sys.path.insert(0, str(TOYS))
    importlib.invalidate_caches()
    tour = Tour(IMAGES)
    tour.viewer.open_sample("napari-zeroseg", "em_like")
    truth = np.asarray(tour.viewer.layers["EM-like truth"].data[PLANE])
    tour.viewer.layers.remove("EM-like truth")
    tour_of_words(tour)
    outlined(tour)
    comparison(tour, next(iter(middles(truth, 150).values())))
    states_of_models(tour)
    tour.close()


if __name__ == "__main__":
    pictures_with_toys()

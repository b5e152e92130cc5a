"""The window that compares models, with the embedded one and toys."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def bench(open_models, toys, open_bench, stack, middle):
    """The Segment dock with a click on a mitochondrion and the window open."""
    opened = open_bench()
    opened.viewer.add_image(stack[0])
    opened.viewer.dims.set_current_step(0, 1)
    opened.until(lambda: "toy_words" in opened.session.models.zoo.entries)
    opened.begin()
    opened.click(1, *middle[0])
    opened.until(lambda: opened.session.asking.answer is not None)
    opened.dock.compare.click()
    opened.qtbot.wait(30)
    return opened


def run(bench, *keys):
    window = bench.dock._compare
    window.choose(list(keys))
    window.run.click()
    bench.until(lambda: len(bench.session.comparing.candidates) == len(keys) and not bench.session.comparing.is_running)
    return window


def test_only_ready_models_are_offered(bench):
    window = bench.dock._compare
    listed = [window.models.item(i).text().partition("  ")[0] for i in range(window.models.count())]
    assert listed == ["MobileSAM", "Grey words", "Flood", "Box filler"]


def test_side_by_side_then_pick(bench, middle):
    window = run(bench, "mobile_sam", "toy_flood", "toy_boxes")
    sam, toy, boxes = bench.session.comparing.candidates
    assert sam.answer is not None
    assert "takes no points" in boxes.problem
    assert len(window.picks) == 2
    grid = window._grid
    assert grid.itemAtPosition(1, 2).widget().text() == f"{bench.session.comparing.agreement()[0, 1]:.2f}"
    window.picks[1].click()
    bench.settle()
    assert bench.session.model.key == "toy_flood"
    full = np.zeros(bench.session.asking.plane.shape, bool)
    for rows, columns, mask in bench.session.asking.patches:
        full[rows, columns] |= mask
    assert np.array_equal(full, toy.mask)
    assert len(bench.workspace.points.data) == 1
    bench.until(lambda: bench.dock.model.currentText() == "Flood · ready")


def test_closing_the_window_stops(bench):
    window = bench.dock._compare
    window.choose(["mobile_sam", "toy_flood", "toy_boxes", "toy_words"])
    window.run.click()
    window.close()
    assert not bench.session.comparing.is_running
    bench.rest()
    assert len(bench.session.comparing.candidates) < 4

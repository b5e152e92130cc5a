"""Boxes for numbers, as all docks have them: what is typed counts once it is whole."""

from __future__ import annotations

from typing import Any, TypeVar

from qtpy.QtWidgets import QDoubleSpinBox, QSpinBox

Box = TypeVar("Box", QSpinBox, QDoubleSpinBox)


def whole_number(least: int, most: int, about: str, unit: str = "", nothing: str = "") -> QSpinBox:
    """A box for a whole number; `nothing` is what the least one is called."""
    made = QSpinBox()
    made.setRange(least, most)
    return _told(made, about, unit, nothing)


def number(least: float, most: float, about: str, unit: str = "", nothing: str = "") -> QDoubleSpinBox:
    """A box for a number; `nothing` is what the least one is called."""
    made = QDoubleSpinBox()
    made.setRange(least, most)
    made.setDecimals(1)
    return _told(made, about, unit, nothing)


def fraction(about: str) -> QDoubleSpinBox:
    """A box for a number from 0 to 1."""
    made = QDoubleSpinBox()
    made.setRange(0, 1)
    made.setSingleStep(0.01)
    return _told(made, about)


def show_number(box: Any, value: float, most: float | None = None) -> None:
    """Show a number in a box, and let it go up to `most`; tells nobody."""
    box.blockSignals(True)
    if most is not None:
        box.setMaximum(most)
    box.setValue(value)
    box.blockSignals(False)


def _told(box: Box, about: str, unit: str = "", nothing: str = "") -> Box:
    box.setKeyboardTracking(False)
    box.setToolTip(about)
    box.setSuffix(unit)
    box.setSpecialValueText(nothing)
    return box

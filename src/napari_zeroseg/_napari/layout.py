"""How the docks lay things out: buttons, rows, forms, and the style that they share."""

from __future__ import annotations

from collections.abc import Iterable

from napari.utils.theme import get_theme
from qtpy.QtWidgets import QBoxLayout, QFormLayout, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_zeroseg._napari.widgets import keep_keys_free


def button(text: str, explanation: str) -> QPushButton:
    """A button that leaves the keyboard with the canvas."""
    made = QPushButton(text)
    made.setToolTip(explanation)
    keep_keys_free(made)
    return made


def row(*widgets: QWidget) -> QWidget:
    """Widgets beside each other."""
    return _lined_up(QHBoxLayout(), 4, widgets)


def column(*widgets: QWidget) -> QWidget:
    """Widgets below one another, each as wide as all."""
    return _lined_up(QVBoxLayout(), 6, widgets)


def _lined_up(layout: QBoxLayout, gap: int, widgets: Iterable[QWidget]) -> QWidget:
    made = QWidget()
    made.setLayout(layout)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(gap)
    for widget in widgets:
        layout.addWidget(widget)
    return made


def form(*rows: tuple[str, QWidget]) -> QWidget:
    """Put widgets below one another, each beside its name; one without a name has the whole width."""
    part = QWidget()
    layout = QFormLayout(part)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setHorizontalSpacing(8)
    layout.setVerticalSpacing(5)
    # In a narrow dock a wide row goes below its name instead of being cut off.
    layout.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)
    layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    for name, widget in rows:
        if not name:
            layout.addRow(widget)
            continue
        heading = QLabel(name)
        heading.setMinimumWidth(60)
        layout.addRow(heading, widget)
    return part


def style_of(theme_name: str) -> str:
    """Style sheet of the docks in one of napari's themes."""
    theme = get_theme(theme_name)
    return f"""
        QLabel#zeroseg_status {{ background: {theme.background}; border: 1px solid {theme.primary};
            border-radius: 4px; padding: 4px 6px; }}
        QLabel#zeroseg_key {{ border: 1px solid {theme.secondary}; border-radius: 3px; padding: 1px 6px; }}
        QLabel#zeroseg_heading {{ color: {theme.secondary}; }}
        QLabel#zeroseg_figures {{ color: {theme.icon}; font-size: 11px; }}
        QLabel#zeroseg_title {{ font-weight: bold; font-size: 14px; }}
        QLabel:disabled {{ color: {theme.secondary}; }}
        QFrame#zeroseg_question {{ background: {theme.background}; border: 1px solid {theme.current};
            border-radius: 4px; }}
        QPushButton {{ padding: 4px 6px; }}
        QPushButton#zeroseg_segment {{ padding: 4px 2px; }}
        QPushButton:checked {{ background: {theme.current}; color: {theme.text}; }}
        QPushButton#zeroseg_accept {{ padding: 7px; font-weight: bold; }}
        QPushButton#zeroseg_accept:enabled {{ background: #1f8a4c; color: white; }}
        QPushButton#zeroseg_accept:enabled:hover {{ background: #27a35b; }}
        QToolButton {{ border: none; background: transparent; text-align: left; }}
        QTreeWidget {{ border: 1px solid {theme.primary}; border-radius: 4px; padding: 2px; }}
        QListWidget {{ border: 1px solid {theme.primary}; border-radius: 4px; padding: 2px; }}
        QListView#zeroseg_proposals::item {{ padding: 3px 4px; }}
        QProgressBar {{ border: 1px solid {theme.primary}; border-radius: 4px; text-align: center; height: 18px; }}
        QProgressBar::chunk {{ background: {theme.current}; border-radius: 3px; }}
        """


def icon_colour(theme_name: str) -> str:
    """Colour of what is drawn as an icon in one of napari's themes."""
    return str(get_theme(theme_name).icon)

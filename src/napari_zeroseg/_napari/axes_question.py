"""Asking in a dialog what the axes of a file are, where neither the file nor the user has said it yet."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtWidgets import QApplication, QInputDialog


def ask_axes(file: Path, question: str) -> str | None:
    """Return the letters that the user types, or None: no answer, or no window to ask in.

    Parameters
    ----------
    file : Path
    question : str
        Why it is asked, in a sentence.
    """
    window = next((one for one in QApplication.topLevelWidgets() if one.isVisible() and one.isWindow()), None)
    if window is None:
        return None
    text, accepted = QInputDialog.getText(
        window,
        f"Axes of {file.name}",
        f"{question}\n\nA letter for each axis, in the file's order, such as TZCYX (Y rows, X columns):",
    )
    return text.strip() if accepted and text.strip() else None

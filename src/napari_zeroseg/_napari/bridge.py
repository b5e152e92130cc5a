"""The bridge: results into the window's thread, calls put off, errors to napari's notifications."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from napari.utils.notifications import show_error, show_warning
from qtpy.QtCore import QObject, Qt, QTimer, Signal

from napari_zeroseg._napari.channel import sentence
from napari_zeroseg.errors import InputError, InputTypeError, ZerosegError


class QtBridge(QObject):
    """Lives in the window's thread; :meth:`post` may be used from any.

    Parameters
    ----------
    parent : QObject, optional
        With which it goes away.
    """

    _posted = Signal(object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._closed = False
        self._timers: dict[str, QTimer] = {}
        self._calls: dict[str, Callable[[], None]] = {}
        self._posted.connect(self._call, Qt.ConnectionType.QueuedConnection)

    def post(self, call: Callable[[], None]) -> None:
        """Call in the window's thread soon; nothing happens once the window is gone."""
        if self._closed:
            return
        try:
            self._posted.emit(call)
        except RuntimeError:
            # Qt has deleted this object while the inference thread was at work.
            self._closed = True

    def later(self, name: str, seconds: float, call: Callable[[], None]) -> None:
        """Call after that time, unless another call of that name takes its place."""
        if self._closed:
            return
        if name not in self._timers:
            timer = self._timers[name] = QTimer(self)
            timer.setSingleShot(True)
            timer.timeout.connect(partial(self._fire, name))
        self._calls[name] = call
        self._timers[name].start(round(1000 * seconds))

    def report(self, error: Exception) -> None:
        """Show the error's sentence: what the user can mend as a warning, everything else as an error."""
        if isinstance(error, (InputError, InputTypeError)):
            show_warning(sentence(error))
        elif isinstance(error, ZerosegError):
            show_error(sentence(error))
        else:
            show_error(f"Something unexpected went wrong ({type(error).__name__}: {error}). Your layers are untouched.")

    def close(self) -> None:
        """Drop all calls that have not been made."""
        self._closed = True
        self._calls.clear()
        try:
            for timer in self._timers.values():
                timer.stop()
        except RuntimeError:
            # Qt was quicker, and a deleted timer does not fire.
            pass

    def _fire(self, name: str) -> None:
        call = self._calls.pop(name, None)
        if call is not None and not self._closed:
            call()

    def _call(self, call: Callable[[], None]) -> None:
        if not self._closed:
            call()

"""Encoding ahead: the plane on the screen is encoded while the user still looks at it, so that the click is fast."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from napari_zeroseg._napari.channel import Channel, sentence
from napari_zeroseg._napari.engine import Encoded, ModelChoice
from napari_zeroseg.errors import ZerosegError
from napari_zeroseg.jobs import CancelToken, Priority
from napari_zeroseg.view import FieldChoice

if TYPE_CHECKING:
    from napari_zeroseg._napari.layers import ShownPlane
    from napari_zeroseg._napari.workspace import Workspace


class Ahead:
    """Encodes one window after another, each a job of its own so that a click never waits for more than one.

    Parameters
    ----------
    workspace : Workspace
    channel : Channel
    say : callable
        Told a sentence and its tone.
    """

    def __init__(self, workspace: Workspace, channel: Channel, say: Callable[[str, str], None]) -> None:
        self._workspace = workspace
        self._channel = channel
        self._say = say
        self._seconds = 0.0

    def soon(self, seconds: float, plane: ShownPlane | None, model: ModelChoice, field: FieldChoice) -> None:
        """Begin after so many seconds of quiet; only for someone who has begun, so that opening the dock is free."""
        self.cancel()
        self._seconds = 0.0
        if plane is not None and self._workspace.has_prompt_layers:
            self._channel.later("ahead", seconds, partial(self._encode, plane, model, field))

    def cancel(self) -> None:
        """Encode nothing more, and say nothing of what is being encoded."""
        self._channel.cancel("ahead")
        self._channel.later("ahead", 0, _nothing)

    def _encode(self, plane: ShownPlane, model: ModelChoice, field: FieldChoice) -> None:
        if not self._is_shown(plane):
            return
        picture, centre = self._workspace.picture(plane), self._workspace.centre(plane)

        def work(token: CancelToken) -> Encoded:
            return self._channel.engine().encode_ahead(picture, model, field, centre, token)

        done = partial(self._done, plane, model, field)
        self._channel.submit("ahead", Priority.AHEAD, work, done, lambda error: self._say(sentence(error), "warning"))
        if not self._seconds:
            self._say(f"Encoding {plane.name} …", "busy")

    def _done(self, plane: ShownPlane, model: ModelChoice, field: FieldChoice, encoded: Encoded) -> None:
        if not self._is_shown(plane):
            return
        self._seconds += encoded.seconds
        if encoded.left:
            following = encoded.total - encoded.left + 1
            self._say(f"Encoding {plane.name}, window {following} of {encoded.total} …", "busy")
            self._channel.later("ahead", 0, partial(self._encode, plane, model, field))
        else:
            took = f"{self._seconds:.1f} s" if self._seconds else "from the cache"
            self._say(f"{plane.name.capitalize()} encoded, {took}, {encoded.device}", "good")

    def _is_shown(self, plane: ShownPlane) -> bool:
        """Whether the plane is still the one on the screen: in 3-D display there is none."""
        try:
            return self._workspace.plane().key == plane.key
        except ZerosegError:
            return False


def _nothing() -> None:
    """Takes the place of a call that is no longer wanted."""

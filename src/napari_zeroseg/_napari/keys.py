"""The keys, and where they hold: at the viewer, below whatever napari's active layer needs for editing. No Qt.

napari asks the active layer's keys first and the viewer's last, so a key bound at the viewer can never take one from a
layer. Enter and Escape are the exception that Shapes and Labels need for drawing: there, a binding on our own layer
passes them on while something is being drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from app_model.types import KeyBinding, KeyCode, KeyMod

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Labels, Layer, Shapes

    from napari_zeroseg._napari.session import Session

ENTER, ESCAPE = KeyBinding.from_int(KeyCode.Enter), KeyBinding.from_int(KeyCode.Escape)
UNDO = KeyBinding.from_int(KeyMod.CtrlCmd | KeyCode.KeyZ)


class Key(NamedTuple):
    """One row of the table in the dock."""

    key: KeyBinding
    name: str
    does: str
    method: str


KEYS = (
    Key(KeyBinding.from_int(KeyCode.KeyT), "T", "sign of the next point (Shapes: draw a path)", "toggle_sign"),
    Key(KeyBinding.from_int(KeyCode.KeyM), "M", "next candidate (Labels: new label)", "next_candidate"),
    Key(ENTER, "Enter", "accept; first finishes a shape that is being drawn", "accept"),
    Key(ESCAPE, "Escape", "discard; first ends a shape that is being drawn", "discard"),
    Key(KeyBinding.from_int(KeyCode.KeyN), "N", "next object; a second box does so by itself", "next_object"),
    Key(UNDO, "Ctrl-Z", "take back the last accept or discard (Labels: napari's own undo)", "undo"),
)

STACK_KEYS = (
    Key(KeyBinding.from_int(KeyCode.KeyG), "G", "next plane to look at", "next_flag"),
    Key(KeyBinding.from_int(KeyMod.Shift | KeyCode.KeyG), "Shift-G", "the plane to look at before", "flag_before"),
)

FIND_KEYS = (
    Key(KeyBinding.from_int(KeyCode.KeyA), "A", "accept the proposal (Points, Shapes: select all)", "accept"),
    Key(KeyBinding.from_int(KeyCode.KeyR), "R", "reject the proposal (Shapes: draw a rectangle)", "reject"),
    Key(UNDO, "Ctrl-Z", "take back the last answer (Labels: napari's own undo, which does the same)", "take_back"),
)
"""Hold while there are proposals."""


def bind_all(viewer: ViewerModel, session: object, keys: Sequence[Key]) -> Callable[[], None]:
    """Bind keys at the viewer where nobody has bound them before; return what gives them back."""
    bound: list[tuple[KeyBinding, Callable[..., None]]] = []
    for key in keys:
        if key.key not in viewer.keymap:
            call = _calls(session, key.method)
            viewer.bind_key(key.key, call)
            bound.append((key.key, call))

    def free() -> None:
        while bound:
            binding, call = bound.pop()
            if viewer.keymap.get(binding) is call:
                viewer.bind_key(binding, None)

    return free


class Keys:
    """Binds the keys of one session, and unbinds them."""

    def __init__(self, viewer: ViewerModel, session: Session) -> None:
        self._session = session
        self._bound: list[tuple[Any, KeyBinding, Callable[..., None]]] = []
        self._layers: list[Layer] = []
        for key in KEYS:
            self._bind(viewer, key.key, _calls(session, key.method))
        session.workspace.chosen.connect(self.follow)
        self.follow()

    def close(self) -> None:
        """Give all keys back."""
        self._session.workspace.chosen.disconnect(self.follow)
        for owner in [owner for owner, _, _ in self._bound]:
            self._unbind(owner)

    def follow(self) -> None:
        """Bind Enter, Escape and Ctrl-Z on the Shapes and Labels layers in use, and give back those of others."""
        workspace = self._session.workspace
        used: list[Any] = [layer for layer in (workspace.shapes, workspace.labels) if layer is not None]
        for layer in [layer for layer in self._layers if layer not in used]:
            self._unbind(layer)
            self._layers.remove(layer)
        for layer in [layer for layer in used if layer not in self._layers]:
            self._layers.append(layer)
            busy = _draws_shape if layer is workspace.shapes else _draws_label
            for key, call in ((ENTER, self._session.accept), (ESCAPE, self._session.discard)):
                self._bind(layer, key, _unless(busy, key, call))
            if layer is workspace.labels:
                self._bind(layer, UNDO, _calls(self._session, "undo_in_labels"))

    def _bind(self, owner: Any, key: KeyBinding, call: Callable[..., None]) -> None:
        # Whoever bound the key before us, the user or another plugin, keeps it.
        if key not in owner.keymap:
            owner.bind_key(key, call)
            self._bound.append((owner, key, call))

    def _unbind(self, meant: Any) -> None:
        for entry in [entry for entry in self._bound if entry[0] is meant]:
            owner, key, call = entry
            if owner.keymap.get(key) is call:
                owner.bind_key(key, None)
            self._bound.remove(entry)


def _calls(session: object, method: str) -> Callable[[Any], None]:
    def pressed(_: Any) -> None:
        getattr(session, method)()

    return pressed


def _unless(busy: Callable[[Any], bool], key: KeyBinding, call: Callable[[], None]) -> Callable[[Any], None]:
    """Let napari have the key while the layer needs it."""

    def pressed(layer: Any) -> None:
        own = type(layer).class_keymap.get(key)
        if busy(layer) and own is not None:
            own(layer)
        else:
            call()

    return pressed


def _draws_shape(layer: Shapes) -> bool:
    # napari has no public name for "a polygon has been begun".
    return bool(getattr(layer, "_is_creating", False))


def _draws_label(layer: Labels) -> bool:
    return str(layer.mode) not in ("pan_zoom", "transform", "pick")

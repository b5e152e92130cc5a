"""Encoding planes ahead for the Stack dock, and what came of it in words. No Qt, no napari."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from napari_zeroseg._napari.stack_work import PlaneDone, Progressed, Stack, Tell, Told
from napari_zeroseg.encode_ahead import AheadProgress, EncodedPlane, encode_stack
from napari_zeroseg.jobs import CancelToken


def encode(stack: Stack, centre: tuple[float, float], token: CancelToken, tell: Tell) -> None:
    """Encode planes, that on the screen first, windows near `centre` (row, column) first."""
    engine = stack.engine()
    looked: dict[int, int] = {}

    def on_window(progress: AheadProgress) -> None:
        looked[progress.plane] = progress.window
        tell(Progressed(progress.planes_done + progress.window / progress.windows, progress.planes))

    done = []
    for one in encode_stack(
        stack.shown.series(),
        engine.model(stack.model),
        engine.store,
        planes=stack.planes,
        around=stack.place.current,
        centre=centre,
        progress=on_window,
        cancel=token,
    ):
        done.append(one)
        if one.fault:
            tell(PlaneDone(one.plane, None, fault=one.fault))
    room = "ZEROSEG_MEMORY_CACHE" if engine.store.folder is None else "ZEROSEG_DISK_CACHE"
    tell(Told(_encoded(done, looked, len(stack.planes), room)))


def _encoded(done: Sequence[EncodedPlane], looked: Mapping[int, int], planes: int, room: str) -> str:
    """What a walk over so many planes has done, in a sentence or two.

    `looked` is how many windows of a plane it has come to: the room for embeddings may end in the middle of one.
    """
    whole = [one for one in done if not one.fault and looked.get(one.plane, 0) == one.windows]
    skipped = sum(bool(one.fault) for one in done)
    encoded = sum(one.encoded for one in done)
    told = f"{len(whole)} of {planes} planes encoded: {encoded} window{'s' * (encoded != 1)}"
    if there := sum(looked.values()) - encoded:
        told += f", {there} were there already"
    told += "."
    if skipped:
        told += f" {skipped} plane{'s were' if skipped > 1 else ' was'} skipped."
    if len(whole) + skipped < planes:
        told += f" The room for embeddings is used up: give more by {room}."
    return told

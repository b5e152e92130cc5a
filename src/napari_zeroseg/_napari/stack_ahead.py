"""Encoding planes ahead for the Stack dock, and what came of it in words. No Qt, no napari."""

from __future__ import annotations

from collections.abc import Sequence

from napari_zeroseg._napari.stack_work import PlaneDone, Progressed, Stack, Tell, Told
from napari_zeroseg.encode_ahead import AheadProgress, EncodedPlane, encode_stack
from napari_zeroseg.jobs import CancelToken


def encode(stack: Stack, centre: tuple[float, float], budget: int | None, token: CancelToken, tell: Tell) -> None:
    """Encode planes, that on the screen first, windows near `centre` (row, column) first.

    `budget` is the room in bytes that their embeddings may take; None is all that the store has.
    """
    engine = stack.engine()

    def on_window(progress: AheadProgress) -> None:
        tell(Progressed(progress.planes_done + progress.window / progress.windows, progress.planes))

    done = []
    for one in encode_stack(
        stack.shown.series(),
        engine.model(stack.model),
        engine.store,
        planes=stack.planes,
        around=stack.place.current,
        centre=centre,
        budget_bytes=budget,
        progress=on_window,
        cancel=token,
    ):
        done.append(one)
        if one.fault:
            tell(PlaneDone(one.plane, None, fault=one.fault))
    if budget is not None and budget < engine.store.capacity:
        more = "under More, at Room"
    else:
        more = "by ZEROSEG_MEMORY_CACHE" if engine.store.folder is None else "by ZEROSEG_DISK_CACHE"
    tell(Told(_encoded(done, len(stack.planes), more)))


def _encoded(done: Sequence[EncodedPlane], planes: int, more: str) -> str:
    """What a walk over so many planes has done, in a sentence or two; `more` is where more room is given."""
    ended = sum(one.is_ended for one in done)
    skipped = sum(bool(one.fault) for one in done)
    encoded = sum(one.encoded for one in done)
    told = f"{ended - skipped} of {planes} planes encoded: {encoded} window{'s' * (encoded != 1)}"
    if there := sum(one.looked for one in done) - encoded:
        told += f", {there} {'was' if there == 1 else 'were'} there already"
    told += "."
    if skipped:
        told += f" {skipped} plane{'s were' if skipped > 1 else ' was'} skipped."
    if ended < planes:
        told += f" The room for embeddings is used up: give more {more}."
    return told

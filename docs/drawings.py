"""Draw docs/images/house.svg: the floors of the package, who may import whom, and the path of one click.

Run it by ``python docs/drawings.py`` after a change of FLOORS or CLICK; a test compares both with the code. The colours
follow the theme of the page where the drawing is part of one, and the reader's system elsewhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

PATH = Path(__file__).parent / "images" / "house.svg"


class Floor(NamedTuple):
    """Rooms that may know each other; they import from the floors below them only."""

    name: str
    rooms: tuple[str, ...]


class Stop(NamedTuple):
    """A station of a click: where it is, in which thread, and what happens."""

    room: str
    in_window: bool
    first: str
    second: str


FLOORS = (
    Floor(
        "Window and terminal",
        (
            "_napari",
            "cli",
            "cli_models",
            "cli_axes",
            "cli_evaluate",
            "cli_link",
            "cli_segment",
            "cli_propagate",
            "cli_embed",
            "cli_train",
            "cli_cascade",
            "cli_options",
            "cli_terminal",
            "demo",
        ),
    ),
    Floor(
        "Runs over files and stacks",
        (
            "teach_file",
            "headless",
            "propagate_file",
            "link_file",
            "cascade_file",
            "cascade_ways",
            "cluster",
            "tasks",
            "seeds",
            "provenance",
            "stack",
            "encode_ahead",
            "evaluation",
            "training",
        ),
    ),
    Floor("Masks to labels", ("automatic", "propagation", "cascade", "link", "instances", "precision")),
    Floor("Networks", ("models",)),
    Floor("One plane as a model sees it", ("view",)),
    Floor("What there is, and what is kept", ("registry", "catalogue", "weights", "embeddings")),
    Floor("Words all models share; files; devices", ("segmenter", "tiling", "io", "devices")),
    Floor(
        "Ground: no torch, no window",
        (
            "prompts",
            "phrases",
            "planes",
            "intensity",
            "jobs",
            "memory",
            "metrics",
            "settings",
            "errors",
            "locks",
            "phantom",
            "word_files",
        ),
    ),
)
OUTDOORS = ("__init__", "__main__")
"""Modules that only open a door: the lazy public names, and ``python -m napari_zeroseg``."""

CLICK = (
    Stop("_napari", True, "A point is added. The session takes the marks", "on the plane and numbers the request."),
    Stop(
        "jobs", True, "The newest request waits for the one inference", "thread; an older one is dropped or cancelled."
    ),
    Stop(
        "planes", False, "The plane is read and brought to 8 bits by", "the contrast limits of the screen; then kept."
    ),
    Stop("view", False, "Windows are chosen for the prompt:", "a click is looked at from afar and from near."),
    Stop(
        "embeddings",
        False,
        "Each window is found by its content, in memory",
        "or on disk; if it is new, the model encodes it.",
    ),
    Stop(
        "models", False, "The decoder answers the prompts of a window", "in one batch; the view keeps the better look."
    ),
    Stop("segmenter", False, "Only the box around each mask is brought", "to the resolution of the plane."),
    Stop("_napari", True, "Back in the window: an answer with an old", "number is dropped, else the preview shows it."),
    Stop("instances", True, "Accept writes the changed pixels by the Labels", "layer's own edit, so that undo works."),
)

HOUSE, LEGEND, WIDTH = 590, 640, 1025
ROW_HEIGHT, HEAD, GAP, TOP = 32, 30, 6, 54
PER_ROW = 5

STYLE = """
.house { --ink: #1f2933; --quiet: #5b6775; --wall: #f3f5f8; --room: #ffffff; --edge: #c3ccd6;
  --window: #2563b0; --thread: #b4530a; font-family: system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
@media (prefers-color-scheme: dark) { .house { --ink: #e6ebf0; --quiet: #9aa7b5; --wall: #1d232b; --room: #2b333d;
  --edge: #4a5562; --window: #3f86dd; --thread: #d97a2b; } }
html[data-theme="light"] .house { --ink: #1f2933; --quiet: #5b6775; --wall: #f3f5f8; --room: #ffffff; --edge: #c3ccd6;
  --window: #2563b0; --thread: #b4530a; }
html[data-theme="dark"] .house { --ink: #e6ebf0; --quiet: #9aa7b5; --wall: #1d232b; --room: #2b333d; --edge: #4a5562;
  --window: #3f86dd; --thread: #d97a2b; }
.house text { fill: var(--ink); font-size: 14px; }
.house .title { font-size: 16px; font-weight: 600; }
.house .quiet { fill: var(--quiet); font-size: 12px; }
.house .room { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: 13px; text-anchor: middle; }
.house .number { fill: #ffffff; font-size: 11px; font-weight: 700; text-anchor: middle; }
.house rect.floor { fill: var(--wall); stroke: var(--edge); }
.house rect.cell { fill: var(--room); stroke: var(--edge); }
.house .window { fill: var(--window); } .house .thread { fill: var(--thread); }
.house path { fill: none; stroke: var(--quiet); stroke-width: 1.5; }
"""


def text(x: float, y: float, words: str, kind: str = "") -> str:
    """Return a line of text with its baseline at `y`."""
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:g}" y="{y:g}"{style}>{escape(words)}</text>'


def badge(x: float, y: float, number: int, in_window: bool) -> str:
    """Return the number of a stop on a disc in the colour of its thread."""
    kind = "window" if in_window else "thread"
    return f'<circle cx="{x:g}" cy="{y:g}" r="9.5" class="{kind}"/>' + text(x, y + 4, str(number), "number")


def floor(y: float, height: float, one: Floor) -> list[str]:
    """Return a floor: its name at the top, its rooms below, each with the stops of a click in it."""
    parts = [f'<rect class="floor" x="28" y="{y}" width="{HOUSE - 28}" height="{height}" rx="6"/>']
    parts.append(text(40, y + 18, one.name, "quiet"))
    inner = HOUSE - 28 - 24
    for i, room in enumerate(one.rooms):
        columns = min(PER_ROW, len(one.rooms))
        width = (inner - 8 * (columns - 1)) / columns
        x, top = 40 + (i % PER_ROW) * (width + 8), y + 26 + (i // PER_ROW) * ROW_HEIGHT
        parts.append(f'<rect class="cell" x="{x:g}" y="{top:g}" width="{width:g}" height="27" rx="4"/>')
        parts.append(text(x + width / 2, top + 18, room, "room"))
        stops = [(n, stop) for n, stop in enumerate(CLICK, start=1) if stop.room == room]
        for k, (number, stop) in enumerate(stops):
            parts.append(badge(x + width - 13 - 22 * (len(stops) - 1 - k), top + 13.5, number, stop.in_window))
    return parts


def drawing() -> str:
    """Return the whole drawing."""
    y, parts = (
        TOP,
        [text(28, 34, "The house", "title"), text(136, 34, "a room imports from lower floors only", "quiet")],
    )
    for one in FLOORS:
        height = HEAD + ROW_HEIGHT * -(-len(one.rooms) // PER_ROW)
        parts += floor(y, height, one)
        y += height + GAP
    parts.append(f'<path d="M 12 {TOP + 8} V {y - 18} M 6 {y - 26} L 12 {y - 16} L 18 {y - 26}"/>')
    parts += legend()
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="house" viewBox="0 0 {WIDTH} {y + 4}" width="100%" role="img" '
        f'aria-label="Floors of the package and the path of one click"><style>{STYLE}</style>'
        + "\n".join(parts)
        + "</svg>\n"
    )


def legend() -> list[str]:
    """Return the stops of a click, in words."""
    parts = [text(LEGEND, 34, "One click", "title")]
    for x, words, in_window in ((LEGEND + 106, "window's thread", True), (LEGEND + 236, "inference thread", False)):
        kind = "window" if in_window else "thread"
        parts += [f'<circle cx="{x}" cy="30" r="6" class="{kind}"/>', text(x + 11, 34, words, "quiet")]
    for number, stop in enumerate(CLICK, start=1):
        top = TOP + 14 + (number - 1) * 57
        parts += [badge(LEGEND + 10, top, number, stop.in_window), text(LEGEND + 30, top + 4, stop.first)]
        parts.append(text(LEGEND + 30, top + 22, stop.second))
    return parts


if __name__ == "__main__":
    PATH.write_text(drawing(), encoding="utf-8")

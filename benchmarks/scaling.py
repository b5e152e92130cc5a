"""The figures of docs/scaling.md: counts windows and clicks, and multiplies what was measured; no model is needed.

What was measured elsewhere stands at the top, with the script that it comes from. What linking takes is measured here,
unless --no-links is given.
"""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from _common import arguments, machine, table

from napari_zeroseg.automatic import AutomaticOptions
from napari_zeroseg.automatic.windows import windows_of
from napari_zeroseg.link import Linker, Links, join_links, solve
from napari_zeroseg.link.holes import hollows_of

PLANES, SIDE = 10_000, 10_000
WORKERS = 64

# docs/benchmarks.md, two cores, bf16
ENCODE = {"MobileSAM": 0.409, "SAM ViT-B": 1.96}  # seconds a window: benchmarks/encode.py, benchmarks/vit.py
PROMPT = 1.12 / 64  # seconds a prompt, up to its mask: benchmarks/boxes.py
# published, images a second on an A100
PUBLISHED = {"SAM ViT-B, bf16": (37, 40), "SAM ViT-B, compiled, batched": (92, 95), "SAM ViT-H, the same": (23, 23)}
# counted
GFLOP = {"MobileSAM": 77.5, "SAM ViT-B": 972.0}
PROMPT_GFLOP = 3.6
EMBEDDING = 256 * 64 * 64 * 2  # bytes, fp16
# measured on a plane of 4096², which had few objects and every pixel labelled
SMALLER = {"few objects": 480, "every pixel": 55}


class Plane(NamedTuple):
    """What is asked on a plane."""

    windows: int
    clicks: int
    sides: Counter[int]


def searched(side: int, points: int, field: int | None = None) -> Plane:
    """Count the windows and clicks of `--auto` on a square plane."""
    options = AutomaticOptions(points_per_side=points, **({} if field is None else {"field": field}))
    windows = windows_of((side, side), options)
    clicks = sum(len(window.points) for window in windows)
    return Plane(len(windows), clicks, Counter(max(window.field.shape) for window in windows))


def show(head: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    print(table(tuple(head), [tuple(map(str, row)) for row in rows]))


def hours(seconds: float) -> str:
    return f"{seconds / 3600:,.0f} h" if seconds > 36_000 else f"{seconds / 3600:.1f} h"


def between(low: str, high: str) -> str:
    return low if low == high else f"{low}–{high}"


def windows() -> None:
    rows = []
    for side, points, field in ((SIDE, 32, None), (SIDE, 16, None), (SIDE, 8, None), (SIDE, 32, 512), (5000, 16, None)):
        plane = searched(side, points, field)
        sides = ", ".join(f"{count} of {length}" for length, count in sorted(plane.sides.items()))
        rows.append((f"{side}²", field or "auto", points, plane.windows, sides, f"{plane.clicks / plane.windows:.0f}"))
    show(("plane", "--field", "points a side", "windows", "of them", "clicks a window"), rows)


def encoding() -> None:
    all_of = searched(SIDE, 32)
    counts = [PLANES * all_of.sides[1024], PLANES * all_of.windows]
    rates = {f"{name}, 2 cores": (1 / each, 1 / each) for name, each in ENCODE.items()}
    rates |= {f"{name}, {WORKERS} workers": (WORKERS / each,) * 2 for name, each in ENCODE.items()}
    rates |= {f"{name}, A100": pair for name, pair in PUBLISHED.items()}
    rows = [
        (name, between(f"{low:.3g}", f"{high:.3g}"), *(between(hours(n / high), hours(n / low)) for n in counts))
        for name, (low, high) in rates.items()
    ]
    show(("encoder", "windows/s", *(f"{count / 1e6:.2f} million" for count in counts)), rows)


def decoding() -> None:
    rows = []
    for points in (32, 16, 8):
        plane = searched(SIDE, points)
        each = plane.clicks / plane.windows
        work = [f"{each * PROMPT_GFLOP / GFLOP[name]:.2f}" for name in GFLOP]
        time_ = [f"{each * PROMPT / ENCODE[name]:.2f}" for name in ENCODE]
        total = PLANES * plane.clicks * PROMPT
        rows.append(
            (points, f"{each:.0f}", f"{each * PROMPT_GFLOP:.0f}", *work, *time_, hours(total), hours(total / WORKERS))
        )
    head = ("points a side", "clicks a window", "GFLOP", *(f"beside {name}" for name in GFLOP))
    show((*head, *(f"time beside {name}" for name in ENCODE), "2 cores", f"{WORKERS} workers"), rows)


def together() -> None:
    """Planes a second and megabytes a second that workers read while they segment."""
    rows = []
    for name, each in ENCODE.items():
        boxes = searched(SIDE, 32).sides[1024] * each + 10_000 / 10 * PROMPT  # 1000 objects a plane
        rows.append((name, "boxes for 1000 objects", *_speed(boxes)))
        for points in (32, 16, 8):
            plane = searched(SIDE, points)
            rows.append((name, f"--auto, {points} points", *_speed(plane.windows * each + plane.clicks * PROMPT)))
    show(("encoder", "asked", "s a plane", "all, 2 cores", f"all, {WORKERS} workers", "MB/s read"), rows)


def _speed(seconds: float) -> tuple[str, ...]:
    read = WORKERS / seconds * SIDE**2 / 1e6
    return f"{seconds:.0f}", hours(PLANES * seconds), hours(PLANES * seconds / WORKERS), f"{read:.1f}"


def storage() -> None:
    every, small = searched(SIDE, 32), searched(SIDE, 32, 512)
    volume, labels = PLANES * SIDE**2, 4 * SIDE**2
    kept = {
        "volume": volume,
        "embeddings, windows of 1024": PLANES * every.sides[1024] * EMBEDDING,
        "embeddings, all windows of --auto": PLANES * every.windows * EMBEDDING,
        "embeddings, with --field 512": PLANES * small.windows * EMBEDDING,
        "labels, raw": PLANES * labels,
        **{f"labels, {name}": PLANES * labels / ratio for name, ratio in SMALLER.items()},
    }
    print(
        table(("what", "GB", "of the volume"), [(n, f"{b / 1e9:,.1f}", f"{b / volume:.3f}") for n, b in kept.items()])
    )


def links(planes: int = 2000, sections: int = 1000, side: int = 4096) -> None:
    """What linking takes: passes over a plane on a worker, and joining blocks in the process that waits for them."""
    before, begin = _peak(), time.process_time()
    relabelling = solve(join_links([_chain(max(0, at - 1), at + 16, sections) for at in range(0, planes, 16)]))
    assert len(relabelling.objects) == sections
    what = f"join {planes * sections / 1e6:.0f} million sections"
    rows = [(what, f"{time.process_time() - begin:.1f}", f"{_peak() - before:.0f}")]
    cells = side // 128
    plane = np.arange(1, cells**2 + 1, dtype=np.int32).reshape(cells, cells).repeat(128, 0).repeat(128, 1)
    plane *= np.tile(np.pad(np.ones((100, 100), np.int32), (0, 28)), (cells, cells))
    linker = Linker()
    linker.add(plane)
    begin = time.process_time()
    linker.add(plane)
    rows.append((f"link a plane of {side}²", f"{time.process_time() - begin:.1f}", f"{_peak() - before:.0f}"))
    relabelling = solve(linker.links())
    begin = time.process_time()
    labels = relabelling.apply(0, plane)
    rows.append((f"renumber a plane of {side}²", f"{time.process_time() - begin:.1f}", "no more"))
    begin = time.process_time()
    hollows_of([labels, labels])
    rows.append(
        (f"find holes on a plane of {side}²", f"{(time.process_time() - begin) / 2:.1f}", f"{_peak() - before:.0f}")
    )
    print(machine())
    show(("what", "s of CPU", "MB"), rows)


def _chain(start: int, stop: int, sections: int) -> Links:
    """Planes of a block with as many sections each, each linked to the next."""
    count = (stop - start) * sections
    plane, label = np.divmod(np.arange(count), sections)
    above = np.arange(count - sections)
    area, iou = np.full(count, 100), np.full(len(above), 0.6)
    return Links(start, stop, 1, plane + start, label + 1, area, label, above, above + sections, iou)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--no-links", action="store_true", help="do not measure linking")
    options = parser.parse_args()
    for part in (windows, encoding, decoding, together, storage):
        part()
        print()
    if not options.no_links:
        links()


if __name__ == "__main__":
    main()

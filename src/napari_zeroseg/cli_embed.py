"""``zeroseg embed``: encode the planes of a stack, so that clicks and later runs on them are quick."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_zeroseg.cli_options import (
    add_cluster_options,
    add_model_options,
    cluster_of,
    field_of_view,
    load_chosen,
    numbers,
    plane_bar,
    plane_numbers,
)
from napari_zeroseg.cli_terminal import print_out, told_to_stop
from napari_zeroseg.errors import CancelledError, InputError

if TYPE_CHECKING:
    from napari_zeroseg.cluster import Spread
    from napari_zeroseg.embeddings import EmbeddingStore
    from napari_zeroseg.encode_ahead import EncodedPlane
    from napari_zeroseg.planes import Planes
    from napari_zeroseg.provenance import KnownModel
    from napari_zeroseg.segmenter import Segmenter

_log = logging.getLogger(__name__)


def add_command(commands: Any) -> None:
    """Add the command to the parser's `commands`."""
    parser = commands.add_parser(
        "embed",
        help="encode the planes of a stack ahead",
        description="Encode planes into the cache, from which napari and the other commands take them. What is there "
        "already is not encoded again: stopped or killed, the same command goes on from there.",
    )
    parser.add_argument(
        "input", type=Path, metavar="IN", help="TIFF, folder of TIFFs, OME-Zarr, DICOM, PNG, JPEG, .npy"
    )
    add_model_options(parser)
    add_cluster_options(parser)
    looks = parser.add_argument_group("what to encode")
    looks.add_argument(
        "--planes", type=plane_numbers, metavar="0:20", help="planes: 3, 0:20, 0:20:2 or 1,4,7 (default: all)"
    )
    looks.add_argument("--around", type=int, metavar="PLANE", help="begin with this plane and go outwards")
    looks.add_argument("--contrast", type=numbers(2), metavar="LOW,HIGH", help="pixel values shown black and white")
    looks.add_argument(
        "--field",
        type=field_of_view,
        default="auto",
        metavar="auto|plane|PIXELS",
        help="windows to encode (default: auto, those that clicks look through)",
    )
    looks.add_argument("--windows", type=int, metavar="N", help="windows of a plane at most, the middle ones first")
    looks.add_argument("--budget", metavar="SIZE", help="room that the embeddings may take, such as 2GB")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(command=_embed)


def _embed(options: argparse.Namespace) -> None:
    try:
        with told_to_stop():
            report = _encoded(options)
    except KeyboardInterrupt:
        raise CancelledError("Stopped. What is encoded is kept: the same command goes on from there.") from None
    if options.json:
        print_out(json.dumps(report, indent=2))
        return
    for plane in report["planes"]:
        if plane["fault"]:
            _log.warning("Plane %d was skipped: %s", plane["plane"], plane["fault"])
    if not options.quiet:
        print_out(report["summary"])


def _encoded(options: argparse.Namespace) -> dict[str, Any]:
    from napari_zeroseg.embeddings import default_store
    from napari_zeroseg.encode_ahead import outwards
    from napari_zeroseg.io.read import open_image
    from napari_zeroseg.planes import planes_of
    from napari_zeroseg.settings import parse_bytes

    budget = None if options.budget is None else parse_bytes(options.budget)
    if options.windows is not None and options.windows < 1:
        raise InputError(f"--windows is at least 1; got {options.windows}.")
    store = default_store()
    if store.folder is None:
        raise InputError(
            "Embeddings are kept on disk, and ZEROSEG_DISK_CACHE is 0: set it to the room that they may take."
        )
    folder = store.folder
    picture = open_image(options.input)
    series = picture.planes()
    planes = planes_of(options.planes, len(series))
    if options.around is not None:
        series.index(options.around)
    limits = options.contrast or picture.metadata.get("contrast_limits")
    how = {
        "limits": None if limits is None else (float(limits[0]), float(limits[1])),
        "field": options.field,
        "windows": options.windows,
        "budget_bytes": budget,
    }
    done: list[EncodedPlane] = []
    with cluster_of(options) as spread:
        model, walk = _begun(options, series, store, outwards(planes, options.around), how, spread)
        with plane_bar(options.quiet, len(planes), 0) as bar:
            for report in walk:
                done.append(report)
                bar.update()
    if all(report.fault for report in done):
        raise InputError(f"None of {len(done)} planes could be encoded. Plane {done[0].plane}: {done[0].fault}")
    return {
        "summary": _summary(done, len(planes), folder),
        "folder": str(folder),
        "model": model.spec.key,
        "model_hash": model.model_key,
        "planes": [asdict(report) for report in done],
        "planes_left": len(planes) - sum(report.is_ended for report in done),
    }


def _begun(
    options: argparse.Namespace,
    series: Planes,
    store: EmbeddingStore,
    planes: list[int],
    how: dict[str, Any],
    spread: Callable[[Path], Spread] | None,
) -> tuple[KnownModel, Iterator[EncodedPlane]]:
    """The model, and the walk over the planes: here, or on a cluster."""
    if spread is not None:
        begun = spread(options.input)
        return begun.model, begun.embed(planes, how)
    from napari_zeroseg.encode_ahead import encode_stack

    model: Segmenter = load_chosen(options)
    return model, encode_stack(series, model, store, planes=planes, **how)


def _summary(done: list[EncodedPlane], planes: int, folder: Path) -> str:
    windows = sum(one.windows for one in done)
    encoded = sum(one.encoded for one in done)
    size = sum(one.size for one in done)
    seconds = sum(one.seconds for one in done)
    ended = sum(one.is_ended for one in done)
    told = (
        f"{ended} of {planes} planes: {encoded} of {windows} windows encoded in {seconds:.1f} s, "
        f"{size / 1e6:.0f} MB in {folder}."
    )
    if there := sum(one.looked for one in done) - encoded:
        told += f" {there} {'was' if there == 1 else 'were'} there already."
    if ended < planes:
        told += " The room for embeddings is used up: give more by --budget or ZEROSEG_DISK_CACHE."
    return told

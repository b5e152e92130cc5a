"""``zeroseg link``: labels of planes to objects of a volume."""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_zeroseg.cli_options import add_cluster_options, labels_path, links_on, plane_bar
from napari_zeroseg.cli_terminal import print_out, told_to_stop
from napari_zeroseg.errors import CancelledError

if TYPE_CHECKING:
    from napari_zeroseg.link import LinkOptions


def add_command(commands: Any) -> None:
    """Add the command to the parser's `commands`."""
    parser = commands.add_parser(
        "link",
        help="link the labels of planes to objects of a volume",
        description="Link the labels of planes to objects of a volume, numbered anew. Sizes are in the unit of the "
        "file's voxel size, else in pixels. Stopped or killed, the same command goes on from there. What is linked: "
        "docs/linking.md.",
    )
    parser.add_argument("input", type=Path, metavar="LABELS", help="TIFF, folder of TIFFs, OME-Zarr, .npy, NIfTI")
    parser.add_argument("-o", "--out", type=labels_path, required=True, help="labels: .tif, .ome.zarr, .npy or .nii.gz")
    links = parser.add_argument_group("what is one object")
    links.add_argument("--high", type=float, default=0.5, metavar="IOU", help="a sure link (default: %(default)s)")
    links.add_argument("--low", type=float, default=0.25, metavar="IOU", help="a possible link (default: %(default)s)")
    links.add_argument("--branches", choices=("join", "cut"), default="join", help="objects may branch, or not")
    links.add_argument("--gap", type=int, default=0, metavar="N", help="planes that an object may be missing from")
    links.add_argument("--preserve", action="store_true", help="keep the number that most pixels of an object had")
    tidy = parser.add_argument_group("what goes")
    tidy.add_argument("--min-planes", type=int, default=1, metavar="N", help="objects on fewer planes")
    tidy.add_argument("--min-area", type=float, default=0, metavar="A", help="smaller pieces of a section")
    tidy.add_argument("--min-volume", type=float, default=0, metavar="V", help="smaller objects")
    tidy.add_argument("--max-hole-area", type=float, default=0, metavar="A", help="holes in a plane up to this size")
    tidy.add_argument("--max-hole-volume", type=float, default=0, metavar="V", help="holes in the volume")
    add_cluster_options(parser, with_model=False)
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is there, or begun by another run")
    parser.add_argument("--json", action="store_true", help="print the report with the objects as JSON")
    parser.set_defaults(command=_link)


def _link(options: argparse.Namespace) -> None:
    from napari_zeroseg.link_file import LinkRun, link_file

    job = LinkRun(options.input, options.out, _how(options), options.overwrite)
    try:
        with told_to_stop(), links_on(options) as spread:
            report = link_file(job, functools.partial(plane_bar, options.quiet), spread)
    except KeyboardInterrupt:
        raise CancelledError(
            "Stopped. Planes that are done are kept: the same command goes on with the others."
        ) from None
    if options.json:
        print_out(json.dumps(report, indent=2))
    elif not options.quiet:
        print_out(report["summary"])


def _how(options: argparse.Namespace) -> LinkOptions:
    from napari_zeroseg.link import LinkOptions

    return LinkOptions(
        options.high,
        options.low,
        branches=options.branches,
        gap=options.gap,
        min_planes=options.min_planes,
        min_area=options.min_area,
        min_volume=options.min_volume,
        max_hole_area=options.max_hole_area,
        max_hole_volume=options.max_hole_volume,
        preserve=options.preserve,
    )

"""``zeroseg link``: labels of planes to objects of a volume."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_zeroseg.cli_options import labels_path, plane_bar
from napari_zeroseg.cli_terminal import print_out, told_to_stop
from napari_zeroseg.errors import CancelledError, InputError, WriteError

if TYPE_CHECKING:
    from napari_zeroseg.io.picture import Picture
    from napari_zeroseg.link import LinkOptions


def add_command(commands: Any) -> None:
    """Add the command to the parser's `commands`."""
    parser = commands.add_parser(
        "link",
        help="link the labels of planes to objects of a volume",
        description="Link the labels of planes to objects of a volume, numbered anew. Sizes are in the unit of the "
        "file's voxel size, else in pixels. What is linked, and why: docs/linking.md.",
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
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is there")
    parser.add_argument("--json", action="store_true", help="print the objects as JSON")
    parser.set_defaults(command=_link)


def _link(options: argparse.Namespace) -> None:
    from napari_zeroseg.io.label_files import open_labels
    from napari_zeroseg.io.targets import checked_target
    from napari_zeroseg.io.write import LabelsWriter, discard
    from napari_zeroseg.link import link_planes
    from napari_zeroseg.locks import only_run_on

    out = checked_target(options.out)
    source = options.input.expanduser()
    if source.resolve() == out.resolve():
        raise InputError(f"{out} is the input itself: choose another name for the linked labels.")
    if out.exists() and not options.overwrite:
        raise WriteError(f"{out} is already there: choose another name, or add --overwrite to replace it.")
    labels = open_labels(source)
    count = len(labels.planes())
    try:
        with only_run_on(out), told_to_stop(), plane_bar(options.quiet, 2 * count, 0) as bar:
            linked = link_planes(labels.data, _how(options, labels), progress=lambda done, _: bar.update(done - bar.n))
            if options.overwrite:
                discard(out)
            shape = (
                (count, *labels.planes().plane_shape) if labels.planes().index_shape else labels.planes().plane_shape
            )
            writer = LabelsWriter(out, shape, spacing=labels.spacing, units=labels.units, run="link")
            try:
                for number, plane in enumerate(linked):
                    writer.write(number, plane)
                    bar.update()
                writer.close()
            except BaseException:
                writer.discard()
                raise
    except KeyboardInterrupt:
        raise CancelledError("Stopped; nothing was written: linking begins anew the next time.") from None
    if options.json:
        print_out(json.dumps({"out": str(out), "objects": [asdict(one) for one in linked.objects]}, indent=2))
    elif not options.quiet:
        print_out(f"{out}: {len(linked.objects)} objects on {count} planes.")


def _how(options: argparse.Namespace, labels: Picture) -> LinkOptions:
    from napari_zeroseg.link import LinkOptions

    step = labels.spacing
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
        spacing=(step.get("Z", 1.0), step.get("Y", 1.0), step.get("X", 1.0)),
        preserve=options.preserve,
    )

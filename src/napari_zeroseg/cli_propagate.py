"""``zeroseg propagate``: objects outlined on a few planes, followed through the others."""

from __future__ import annotations

import argparse
import functools
import json
import logging
from pathlib import Path
from typing import Any

from napari_zeroseg.cli_options import (
    add_cluster_options,
    add_model_options,
    cluster_of,
    labels_path,
    load_chosen,
    numbers,
    plane_bar,
    plane_numbers,
)
from napari_zeroseg.cli_terminal import print_out, told_to_stop
from napari_zeroseg.errors import CancelledError

_log = logging.getLogger(__name__)


def add_command(commands: Any) -> None:
    """Add the command to the parser's `commands`."""
    parser = commands.add_parser(
        "propagate",
        help="follow objects outlined on a few planes through the others",
        description="Follow objects through the planes of a stack. Planes of LABELS that have labels stay as they are; "
        "the others are filled from them, and between two of them from both. Stopped or killed, the same command goes "
        "on from there.",
    )
    parser.add_argument("input", type=Path, metavar="IN", help="TIFF, folder of TIFFs, OME-Zarr, DICOM, .npy")
    parser.add_argument(
        "--seeds",
        type=Path,
        required=True,
        metavar="LABELS",
        help="labels of the same planes, 0 where nothing is known",
    )
    parser.add_argument("-o", "--out", type=labels_path, required=True, help="labels: .tif, .ome.zarr, .npy or .nii.gz")
    add_model_options(parser)
    add_cluster_options(parser)
    looks = parser.add_argument_group("how to follow")
    looks.add_argument(
        "--planes", type=plane_numbers, metavar="0:20", help="planes to fill; others stay empty (default: all)"
    )
    looks.add_argument(
        "--direction",
        choices=("both", "forwards", "backwards"),
        default="both",
        help="where to go from the outlined planes (default: both)",
    )
    looks.add_argument("--contrast", type=numbers(2), metavar="LOW,HIGH", help="pixel values shown black and white")
    looks.add_argument(
        "--spacing",
        type=numbers(3),
        metavar="Z,Y,X",
        help="distance of planes, rows and columns in one unit (default: what the file says)",
    )
    looks.add_argument("--no-check", action="store_true", help="go one way only: twice as quick, without certainty")
    looks.add_argument(
        "--threshold",
        type=float,
        default=0.8,
        metavar="T",
        help="certainty below which a plane is flagged (default: %(default)s)",
    )
    parser.add_argument("--table", type=Path, metavar="FILE", help="CSV with a row for each object on each plane")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is there, or begun by another run")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(command=_propagate)


def _propagate(options: argparse.Namespace) -> None:
    from napari_zeroseg.propagate_file import PropagateRun, propagate_file
    from napari_zeroseg.propagation import Direction, PropagationOptions

    how = PropagationOptions(
        direction=Direction(options.direction),
        spacing=options.spacing,
        check=not options.no_check,
        threshold=options.threshold,
    )
    job = PropagateRun(
        options.input,
        options.seeds,
        options.out,
        options.planes,
        options.contrast,
        how,
        options.table,
        options.overwrite,
    )
    try:
        bar = functools.partial(plane_bar, options.quiet)
        with told_to_stop(), cluster_of(options) as spread:
            if spread is None:
                report = propagate_file(job, lambda: load_chosen(options), bar)
            else:
                report = spread(job.source).propagate(job, bar)
    except KeyboardInterrupt:
        raise CancelledError("Stopped. Planes that are done are kept: the same command goes on from there.") from None
    if options.json:
        print_out(json.dumps(report, indent=2))
        return
    for plane in report.get("planes", ()):
        if plane["fault"]:
            _log.warning("Plane %d was skipped: %s", plane["plane"], plane["fault"])
    if not options.quiet:
        print_out(report["summary"])

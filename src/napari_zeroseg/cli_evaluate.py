"""``zeroseg evaluate``: a prediction against the truth."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_zeroseg.cli_options import plane_bar, plane_numbers
from napari_zeroseg.cli_terminal import print_out, told_to_stop
from napari_zeroseg.errors import WriteError

if TYPE_CHECKING:
    from napari_zeroseg.io.picture import Picture

_log = logging.getLogger(__name__)

_CLOSE = 0.01  # relative difference of two voxel sizes that comes from rounding in files


def add_command(commands: Any) -> None:
    """Add the command to the parser's `commands`."""
    parser = commands.add_parser(
        "evaluate",
        help="compare labels with true labels",
        description="Compare labels with true labels: IoU, Dice, precision, recall, distances of boundaries; for "
        "objects also F1 and average precision. What each figure means: docs/evaluate.md.",
    )
    kinds = "labels: TIFF, folder of TIFFs, OME-Zarr, PNG, .npy, NIfTI"
    parser.add_argument("prediction", type=Path, metavar="PREDICTION", help=kinds)
    parser.add_argument("truth", type=Path, metavar="TRUTH", help="the same of the truth")
    parser.add_argument(
        "--mode",
        choices=("auto", "instances", "semantic"),
        default="auto",
        help="whether a label is an object or a class; auto takes masks as one class and all else as objects",
    )
    parser.add_argument(
        "--planes", type=plane_numbers, metavar="0:20", help="planes to compare: 3, 0:20 or 1,4,7 (default: all)"
    )
    parser.add_argument("--per-plane", action="store_true", help="each plane for itself, its objects and distances too")
    parser.add_argument("--ignore", type=int, metavar="N", help="value of TRUTH whose pixels do not count")
    parser.add_argument(
        "--spacing",
        type=_spacing,
        metavar="Z,Y,X",
        help="distance of neighbours, in the unit of the files, else micrometres (default: what the files say)",
    )
    parser.add_argument(
        "--tolerance", type=_distance, metavar="D", help="distance of boundaries that still agrees (default: one pixel)"
    )
    parser.add_argument(
        "--no-distances", action="store_true", help="leave the distances out, which take time and memory"
    )
    parser.add_argument("--csv", type=_csv_path, metavar="FILE", help="write a row for each class, plane and object")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(command=_evaluate)


def _spacing(text: str) -> tuple[float, ...]:
    try:
        steps = tuple(float(part) for part in text.split(","))
    except ValueError:
        steps = ()
    if len(steps) not in (2, 3) or not all(0 < step < float("inf") for step in steps):
        raise argparse.ArgumentTypeError(f"2 or 3 numbers above 0 with commas between them were expected, not {text!r}")
    return steps


def _distance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"a distance from 0 was expected, not {text!r}")
    return value


def _csv_path(text: str) -> Path:
    # Any other ending might be one of the pictures themselves.
    if not text.lower().endswith(".csv"):
        raise argparse.ArgumentTypeError(f"a name that ends in .csv was expected, not {text!r}")
    return Path(text)


def _evaluate(options: argparse.Namespace) -> None:
    from napari_zeroseg.evaluation.evaluate import evaluate
    from napari_zeroseg.io.label_files import open_labels
    from napari_zeroseg.planes import planes_of

    if options.csv is not None and not options.csv.expanduser().absolute().parent.is_dir():
        raise WriteError(f"The folder of {options.csv} does not exist: create it, or choose another place.")
    prediction, truth = open_labels(options.prediction), open_labels(options.truth)
    spacing, unit = _steps(options, prediction, truth)
    count = len(truth.planes())
    planes = None if options.planes is None else planes_of(options.planes, count)
    with told_to_stop(), plane_bar(options.quiet, count if planes is None else len(planes), 0) as bar:
        report = evaluate(
            prediction.data,
            truth.data,
            spacing,
            mode=options.mode,
            planes=planes,
            per_plane=options.per_plane,
            ignore=options.ignore,
            tolerance=options.tolerance,
            boundaries=not options.no_distances,
            unit=unit,
            progress=lambda done, _: bar.update(done - bar.n),
        )
    if options.csv is not None:
        report.to_csv(options.csv)
    if options.json:
        files = {"prediction": str(options.prediction), "truth": str(options.truth)}
        print_out(json.dumps({"files": files, **report.as_dict()}, indent=2))
    elif not options.quiet:
        print_out(str(report))


def _steps(options: argparse.Namespace, prediction: Picture, truth: Picture) -> tuple[tuple[float, ...] | None, str]:
    """Spacing and its unit: as given, else as the truth's file says, else the prediction's, else pixels."""
    ndim = max(2, sum(length > 1 for length in truth.data.shape[:-2]) + 2)
    axes = "ZYX"[3 - ndim :]
    said = [
        (tuple(file.spacing[axis] for axis in axes), file.units.get("X", "micrometer"))
        for file in (truth, prediction)
        if all(axis in file.spacing for axis in axes)
    ]
    if options.spacing is not None:
        return options.spacing, said[0][1] if said else "micrometer"
    if not said:
        return None, "px"
    if len(said) == 2 and _differ(*said):
        _log.warning("The files say different voxel sizes; that of the truth, %s %s, is taken.", *said[0])
    return said[0]


def _differ(one: tuple[tuple[float, ...], str], other: tuple[tuple[float, ...], str]) -> bool:
    return one[1] != other[1] or any(abs(a - b) > _CLOSE * a for a, b in zip(one[0], other[0], strict=True))

"""``zeroseg segment``: a picture or a stack by prompts, or everything on it."""

from __future__ import annotations

import argparse
import functools
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from napari_zeroseg.cli_cascade import add_finding, check_stands_alone, find, wants_finding
from napari_zeroseg.cli_options import (
    add_cluster_options,
    add_model_options,
    class_numbers,
    cluster_of,
    field_of_view,
    labels_path,
    load_chosen,
    numbers,
    plane_bar,
    plane_numbers,
)
from napari_zeroseg.cli_terminal import print_out, told_to_stop
from napari_zeroseg.errors import CancelledError

if TYPE_CHECKING:
    from napari_zeroseg.headless import AutomaticRun

_log = logging.getLogger(__name__)


class _Flag(NamedTuple):
    """An option of the search by its name in AutomaticOptions."""

    name: str
    kind: type[int] | type[float]
    default: str
    help: str


_SEARCH = (
    _Flag("points_per_side", int, "32", "clicks along each side of the grid"),
    _Flag("points_per_batch", int, "64", "clicks answered at once, at most"),
    _Flag("pred_iou_thresh", float, "0.88", "IoU that the network must predict for a mask"),
    _Flag("stability_score_thresh", float, "0.95", "how stable a mask must be"),
    _Flag("stability_score_offset", float, "1.0", "by how much the threshold is moved for that"),
    _Flag("box_nms_thresh", float, "0.7", "IoU of boxes from which two masks are the same"),
    _Flag("crop_n_layers", int, "0", "layers of crops besides the whole plane"),
    _Flag("crop_nms_thresh", float, "0.7", "the same IoU between crops or windows"),
    _Flag("crop_overlap_ratio", float, "512/1500", "how much crops overlap"),
    _Flag("crop_n_points_downscale_factor", int, "1", "how many times fewer clicks in each layer"),
    _Flag("min_mask_region_area", int, "0", "pixels from which holes and separate parts stay"),
)

_FILTERS = ("min_area", "max_area", "area_unit", "on_top", "class_map", "keep_class", "table")
"""What is kept of what was found, and how it is told."""


def add_command(commands: Any) -> None:
    """Add the command to the parser's `commands`."""
    parser = commands.add_parser(
        "segment",
        help="segment a picture or the planes of a stack by points, boxes, words or examples, or everything on it",
        description="Segment a picture or the planes of a stack. Each point and each box is an object of its own, "
        "unless --one-object is given or a file has a column 'object'. A prompt without a plane is for all of "
        "--planes. With --text, --like, --word, --vote or --detector, objects are found by words or by likeness; with "
        "--auto, everything is looked for that a grid of clicks finds.",
    )
    parser.add_argument(
        "input", type=Path, metavar="IN", help="TIFF, folder of TIFFs, OME-Zarr, DICOM, PNG, JPEG, .npy"
    )
    parser.add_argument("-o", "--out", type=labels_path, required=True, help="labels: .tif, .ome.zarr, .npy or .nii.gz")
    _add_prompts(parser)
    add_finding(parser)
    _add_search(parser)
    add_model_options(parser)
    add_cluster_options(parser)
    looks = parser.add_argument_group("how to look")
    looks.add_argument(
        "--planes", type=plane_numbers, metavar="0:20", help="planes to do: 3, 0:20, 0:20:2 or 1,4,7 (default: all)"
    )
    looks.add_argument("--contrast", type=numbers(2), metavar="LOW,HIGH", help="pixel values shown black and white")
    looks.add_argument(
        "--field",
        type=field_of_view,
        default="auto",
        metavar="auto|plane|PIXELS",
        help="window to encode (default: auto)",
    )
    looks.add_argument(
        "--overlap",
        choices=("keep", "replace", "empty"),
        help="what later objects do to earlier ones (default: keep; with --classes they lie over them)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is there, or begun by another run")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(command=_segment, complain=parser.error)


def _add_prompts(parser: argparse.ArgumentParser) -> None:
    prompts = parser.add_argument_group("prompts")
    prompts.add_argument(
        "--box", action="append", default=[], type=numbers(4), metavar="R0,C0,R1,C1", help="may be repeated"
    )
    prompts.add_argument("--point", action="append", default=[], type=numbers(2), metavar="R,C", help="may be repeated")
    prompts.add_argument(
        "--negative",
        action="append",
        default=[],
        type=numbers(2),
        metavar="R,C",
        help="a point on background; may be repeated",
    )
    prompts.add_argument("--points", type=Path, metavar="FILE", help="CSV that napari saved for a Points layer")
    prompts.add_argument(
        "--boxes",
        type=Path,
        metavar="FILE",
        help="CSV that napari saved for a Shapes layer, or with the columns row0, column0, row1, column1 (and plane); "
        "a column 'class' is for --classes",
    )
    prompts.add_argument("--one-object", action="store_true", help="all prompts of a plane describe one object")


def _add_search(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("everything", "named as in segment-anything's SamAutomaticMaskGenerator")
    group.add_argument("--auto", action="store_true", help="look for everything, without prompts")
    for flag in _SEARCH:
        group.add_argument(
            "--" + flag.name.replace("_", "-"),
            type=flag.kind,
            metavar="N" if flag.kind is int else "X",
            help=f"{flag.help} (default: {flag.default})",
        )
    group.add_argument("--min-area", type=float, metavar="A", help="smaller objects are left out")
    group.add_argument("--max-area", type=float, metavar="A", help="larger objects are left out")
    group.add_argument(
        "--area-unit", choices=("pixels", "physical"), help="of these areas: physical is the file's unit squared"
    )
    group.add_argument(
        "--on-top",
        choices=("area", "predicted_iou", "stability_score"),
        help="which of overlapping objects is seen: the smaller, or that with the higher score (default: area)",
    )
    group.add_argument("--class-map", type=Path, metavar="MAP", help="labels: the class of each pixel of all planes")
    group.add_argument(
        "--keep-class", type=class_numbers, metavar="1,2", help="objects are kept whose pixels are mostly of these"
    )
    group.add_argument("--table", type=Path, metavar="FILE.csv", help="table of the objects (default: OUT.csv)")


def _segment(options: argparse.Namespace) -> None:
    from napari_zeroseg.headless import SegmentRun, segment_file
    from napari_zeroseg.instances import OverlapPolicy
    from napari_zeroseg.seeds import GivenPrompts

    has_prompts = any((options.box, options.point, options.negative, options.points, options.boxes))
    if wants_finding(options):
        _check_finds_alone(options, has_prompts)
        find(options)
        return
    check_stands_alone(options)
    if options.auto and has_prompts:
        options.complain("--auto looks for everything: leave points and boxes out, or --auto")
    if not options.auto and not has_prompts:
        options.complain(
            "there is nothing to look for: give --point, --box, --points FILE, --boxes FILE, --text, --like or --auto"
        )
    prompts = GivenPrompts(
        options.box,
        options.point,
        options.negative,
        options.points,
        options.boxes,
        options.one_object,
        options.classes,
    )
    if options.classes and options.overlap is not None:
        options.complain("--overlap is for objects, and classes lie over each other by score or order: leave one out")
    overlap = options.overlap or ("replace" if options.classes else "keep")
    job = SegmentRun(
        options.input,
        options.out,
        prompts,
        options.planes,
        options.contrast,
        options.field,
        OverlapPolicy(overlap),
        options.overwrite,
        _automatic(options),
    )
    try:
        with told_to_stop(), cluster_of(options) as spread:
            bar = functools.partial(plane_bar, options.quiet)
            report = segment_file(job, lambda: load_chosen(options), bar, spread)
    except KeyboardInterrupt:
        raise CancelledError("Stopped. Planes that are done are kept: the same command goes on from there.") from None
    if options.json:
        print_out(json.dumps(report, indent=2))
        return
    for plane in report["planes"]:
        if plane["fault"]:
            _log.warning("Plane %d was left empty: %s", plane["plane"], plane["fault"])
    if not options.quiet:
        print_out(report["summary"])


def _check_finds_alone(options: argparse.Namespace, has_prompts: bool) -> None:
    """Options of other ways to segment are a mistake with words and likeness."""
    search = [flag.name for flag in _SEARCH if flag.name != "points_per_side"]
    foreign = [*_FILTERS, "scheduler", "workers", *search]
    given = [f"--{name.replace('_', '-')}" for name in foreign if getattr(options, name) is not None]
    given += ["--auto"] * options.auto + ["--one-object"] * options.one_object
    given += ["--field"] * (options.field != "auto") + ["--overlap"] * (options.overlap is not None)
    if has_prompts:
        given.insert(0, "a point or box")
    if given:
        options.complain(f"{given[0]} does not go with --text, --like, --word, --vote or --detector: leave one out")


def _automatic(options: argparse.Namespace) -> AutomaticRun | None:
    """What to search for, or None; options of the search without it are a mistake."""
    given = [name for name in (*(flag.name for flag in _SEARCH), *_FILTERS) if getattr(options, name) is not None]
    if not options.auto:
        if given:
            options.complain(f"--{given[0].replace('_', '-')} is for --auto: add that, or leave it out")
        return None
    if options.one_object or options.overlap is not None:
        name = "--one-object" if options.one_object else "--overlap"
        options.complain(f"{name} is for points and boxes: leave it out, or --auto")
    if (options.class_map is None) != (options.keep_class is None):
        options.complain("--class-map and --keep-class belong together: give both, or leave both out")
    from napari_zeroseg.automatic import AutomaticOptions
    from napari_zeroseg.headless import AutomaticRun

    chosen = {flag.name: getattr(options, flag.name) for flag in _SEARCH if flag.name in given}
    return AutomaticRun(
        AutomaticOptions(**chosen, field=options.field),
        options.min_area,
        options.max_area,
        options.area_unit == "physical",
        options.on_top or "area",
        options.table,
        options.class_map,
        options.keep_class or (),
    )

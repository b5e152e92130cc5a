"""``zeroseg find`` and ``zeroseg teach``: the rest of a few objects, words, and votes over a map."""

from __future__ import annotations

import argparse
import functools
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from napari_zeroseg.cli_options import (
    add_model_options,
    labels_path,
    load_chosen,
    numbers,
    plane_bar,
    plane_numbers,
)
from napari_zeroseg.cli_terminal import print_out, told_to_stop
from napari_zeroseg.errors import CancelledError

_log = logging.getLogger(__name__)


def add_commands(commands: Any) -> None:
    """Add the commands to the parser's `commands`."""
    _add_find(commands)
    _add_teach(commands)


def _add_find(commands: Any) -> None:
    parser = commands.add_parser(
        "find",
        help="find the rest of a few labelled objects, what words name, or refine a map of classes",
        description="Find objects: all that look like those of LABELS, those of a taught word, or what phrases name. "
        "Or give a map of classes the outlines of masks, by majority vote.",
    )
    parser.add_argument("input", type=Path, metavar="IN", help="TIFF, folder of TIFFs, OME-Zarr, DICOM, PNG, .npy")
    parser.add_argument("-o", "--out", type=labels_path, required=True, help="labels: .tif, .ome.zarr, .npy or .nii.gz")
    what = parser.add_argument_group("what to find").add_mutually_exclusive_group(required=True)
    what.add_argument("--like", type=Path, metavar="LABELS", help="labels of the same planes, 0 where nothing is known")
    what.add_argument("--word", help="a word that `zeroseg teach` has taught")
    what.add_argument("--text", metavar='"A, B"', help="phrases with commas between them")
    what.add_argument("--vote", type=Path, metavar="MAP", help="map of classes of the same planes to refine")
    add_model_options(parser)
    looks = parser.add_argument_group("how to look")
    looks.add_argument("--planes", type=plane_numbers, metavar="0:20", help="planes to search (default: all)")
    looks.add_argument("--contrast", type=numbers(2), metavar="LOW,HIGH", help="pixel values shown black and white")
    looks.add_argument("--certainty", type=float, metavar="X", help="of --like and --word: least (default: 0.45)")
    looks.add_argument("--threshold", type=float, metavar="X", help="of --text: least probability (default: 0.5)")
    looks.add_argument("--without", metavar='"A, B"', help="of --text: phrases for what is not wanted")
    looks.add_argument("--template", action="append", help="of --text: such as 'a photo of a {}'; may be repeated")
    looks.add_argument("--text-model", default="clipseg_rd64", metavar="KEY", help="default: %(default)s")
    looks.add_argument("--points-per-side", type=int, metavar="N", help="of --vote: clicks of the grid (default: 32)")
    looks.add_argument("--classes", action="store_true", help="of --text: write the phrase's number for each pixel")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is there")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(command=_find, complain=parser.error)


def _add_teach(commands: Any) -> None:
    parser = commands.add_parser(
        "teach",
        help="teach a word from labelled planes, for `zeroseg find --word`",
        description="Teach a word from labelled planes. A quarter of them is held out to tell how well it does.",
    )
    parser.add_argument("word", help="one or a few words")
    parser.add_argument("--images", type=Path, required=True, metavar="IN", help="a picture or stack")
    parser.add_argument("--labels", type=Path, required=True, metavar="LABELS", help="of the same planes")
    parser.add_argument("--contrast", type=numbers(2), metavar="LOW,HIGH", help="pixel values shown black and white")
    parser.add_argument("--text-model", metavar="KEY", help="compare with what the bare word finds by this model")
    add_model_options(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(command=_teach)


def _find(options: argparse.Namespace) -> None:
    from napari_zeroseg.automatic import AutomaticOptions
    from napari_zeroseg.cascade import SimilarOptions, TextOptions
    from napari_zeroseg.cascade.text import checked_phrases
    from napari_zeroseg.cascade_file import FindRun, find_file

    _check_belongs(options)
    similar = SimilarOptions() if options.certainty is None else SimilarOptions(least_certainty=options.certainty)
    words = TextOptions(
        0.5 if options.threshold is None else options.threshold,
        tuple(checked_phrases(options.without or "", may_be_none=True)),
        tuple(options.template or ("{}",)),
    )
    job = FindRun(
        options.input,
        options.out,
        options.like,
        options.word,
        () if options.text is None else tuple(checked_phrases(options.text)),
        options.vote,
        options.planes,
        options.contrast,
        similar,
        words,
        AutomaticOptions() if options.points_per_side is None else AutomaticOptions(options.points_per_side),
        options.classes,
        options.overwrite,
    )
    bar = functools.partial(plane_bar, options.quiet)
    try:
        with told_to_stop():
            report = find_file(job, lambda: load_chosen(options), lambda: _text_model(options), bar)
    except KeyboardInterrupt:
        raise CancelledError("Stopped. Nothing was written.") from None
    if options.json:
        print_out(json.dumps(report, indent=2))
        return
    for plane in report["planes"]:
        for note in plane.get("notes", ()):
            _log.warning("Plane %d: %s", plane["plane"], note)
        if not plane["objects"] and "absence" in plane:
            _log.warning("Plane %d: nothing found; absent with %.2f.", plane["plane"], plane["absence"])
    if not options.quiet:
        print_out(report["summary"])


def _check_belongs(options: argparse.Namespace) -> None:
    """Options of one way of finding are a mistake with another one."""
    if options.text is None:
        for name in ("threshold", "without", "template", "classes"):
            if getattr(options, name):
                options.complain(f"--{name} is for --text: add that, or leave it out")
    if options.points_per_side is not None and options.vote is None:
        options.complain("--points-per-side is for --vote: add that, or leave it out")
    if options.certainty is not None and options.like is None and options.word is None:
        options.complain("--certainty is for --like and --word: add one of them, or leave it out")


def _text_model(options: argparse.Namespace) -> Any:
    from napari_zeroseg.registry import load_model

    return load_model(options.text_model, device=options.device, precision=options.precision)


def _teach(options: argparse.Namespace) -> None:
    from napari_zeroseg.cascade_file import teach_file

    load_text = None if options.text_model is None else lambda: _text_model(options)
    word, folder = teach_file(
        options.word, options.images, options.labels, lambda: load_chosen(options), load_text, options.contrast
    )
    if options.json:
        told = {"word": word.word, "folder": str(folder), "side": word.side, **asdict(word.trial)}
        print_out(json.dumps(told, indent=2))
        return
    if not options.quiet:
        print_out(_sentence(word, folder))


def _sentence(word: Any, folder: Path) -> str:
    trial = word.trial
    told = f"{word.word!r} is taught ({folder})."
    if trial.after is None:
        return told + " One plane is labelled, so none was held out to try it on."
    before = "" if trial.before is None else f", {trial.before:.2f} by the bare word"
    return told + f" IoU on {trial.planes} plane(s) held out: {trial.after:.2f}{before}; absent: {trial.absence:.2f}."

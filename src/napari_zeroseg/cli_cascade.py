"""Words, examples, detectors and votes in ``zeroseg segment`` and ``zeroseg find``, and ``zeroseg teach``."""

from __future__ import annotations

import argparse
import functools
import json
import logging
from collections.abc import Sequence
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

_WAYS = ("text", "like", "word", "vote", "detector", "learnt")
"""Options that each say what to find."""

_BELONGS = {
    "threshold": ("text", "detector"),
    "classes": ("text", "detector"),
    "without": ("text",),
    "template": ("text",),
    "text_model": ("text",),
    "heat": ("text",),
    "examples": ("like",),
    "certainty": ("like", "word", "text", "learnt"),
    "points_per_side": ("vote",),
}
"""To which of these the other options belong."""

_NOTES = 5
"""Sentences of a plane that are printed; all of them are in the report."""

_READER = "clipseg_rd64"
"""Model that reads phrases unless another one is named."""


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
    add_finding(parser)
    add_model_options(parser)
    looks = parser.add_argument_group("how to look")
    looks.add_argument("--planes", type=plane_numbers, metavar="0:20", help="planes to search (default: all)")
    looks.add_argument("--contrast", type=numbers(2), metavar="LOW,HIGH", help="pixel values shown black and white")
    looks.add_argument("--points-per-side", type=int, metavar="N", help="of --vote: clicks of the grid (default: 32)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is there")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(command=find, complain=parser.error)


def add_finding(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what to find by words or by likeness."""
    what = parser.add_argument_group("by words or by likeness")
    what.add_argument("--text", metavar='"A, B"', help="what phrases, or taught words, name; commas between them")
    what.add_argument("--like", type=Path, metavar="LABELS", help="all that is like these labels of the same planes")
    what.add_argument("--examples", type=Path, metavar="PICTURE", help="of --like: what LABELS belong to, if not IN")
    what.add_argument("--word", help="what a word names that `zeroseg teach` has taught")
    what.add_argument("--vote", type=Path, metavar="MAP", help="outlines for a map of classes of the same planes")
    what.add_argument(
        "--detector",
        metavar="FOLDER",
        help="what a detector finds: a folder that transformers saved, or a repository in the hub's cache; --text "
        "names phrases for it, or those of its classes that are wanted",
    )
    what.add_argument(
        "--learnt",
        action="store_const",
        const=True,
        help="all objects of the class that --model was trained on (zeroseg train --what class or class+all)",
    )
    what.add_argument(
        "--certainty", type=float, metavar="X", help="of --like, --learnt and taught words: least (default: 0.45)"
    )
    what.add_argument("--threshold", type=float, metavar="X", help="least probability (default: 0.5; a detector: 0.3)")
    what.add_argument("--without", metavar='"A, B"', help="of --text: phrases for what is not wanted")
    what.add_argument("--template", action="append", help="of --text: such as 'a photo of a {}'; may be repeated")
    what.add_argument(
        "--text-model",
        metavar="KEY",
        help="of --text: the model that reads, while --model draws (default: clipseg_rd64; none if --model reads)",
    )
    what.add_argument(
        "--heat",
        type=Path,
        metavar="FILE",
        help="of --text: how probable each phrase is at each pixel, a channel each: .tif or .ome.zarr",
    )
    what.add_argument("--classes", action="store_true", help="write for each pixel the number of the phrase or class")


def wants_finding(options: argparse.Namespace) -> bool:
    """Whether any of these options says what to find."""
    return any(getattr(options, name) is not None for name in _WAYS)


def _add_teach(commands: Any) -> None:
    parser = commands.add_parser(
        "teach",
        help="teach a word from labelled planes, for --text and `zeroseg find --word`",
        description="Teach a word from labelled planes. A quarter of them is held out to tell how well it does. "
        "A model that draws learns what the objects look like; for one that reads (--model clipseg_rd64) the vector "
        "that stands for the word is fitted.",
    )
    parser.add_argument("word", help="one or a few words")
    parser.add_argument("--images", type=Path, required=True, metavar="IN", help="a picture or stack")
    parser.add_argument("--labels", type=Path, required=True, metavar="LABELS", help="of the same planes")
    parser.add_argument("--contrast", type=numbers(2), metavar="LOW,HIGH", help="pixel values shown black and white")
    parser.add_argument("--text-model", metavar="KEY", help="compare with what the bare word finds by this model")
    add_model_options(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(command=_teach)


def find(options: argparse.Namespace) -> None:
    """Do what the options of :func:`add_finding` say."""
    from napari_zeroseg.automatic import AutomaticOptions
    from napari_zeroseg.cascade import SimilarOptions, TextOptions
    from napari_zeroseg.cascade.text import checked_phrases
    from napari_zeroseg.cascade_file import find_file
    from napari_zeroseg.cascade_ways import FindRun
    from napari_zeroseg.phrases import parted

    _check_belongs(options)
    similar = SimilarOptions() if options.certainty is None else SimilarOptions(least_certainty=options.certainty)
    wanted, minus = ([], []) if options.text is None else parted(checked_phrases(options.text))
    words = TextOptions(
        0.5 if options.threshold is None or options.detector is not None else options.threshold,
        (*checked_phrases(options.without or "", may_be_none=True), *minus),
        tuple(options.template or ("{}",)),
    )
    job = FindRun(
        options.input,
        options.out,
        options.like,
        options.word,
        tuple(wanted),
        options.vote,
        options.planes,
        options.contrast,
        similar,
        words,
        AutomaticOptions() if options.points_per_side is None else AutomaticOptions(options.points_per_side),
        options.classes,
        options.overwrite,
        options.detector,
        0.3 if options.threshold is None else options.threshold,
        options.heat,
        options.examples,
        bool(options.learnt),
        tuple(name for name in _BELONGS if getattr(options, name) not in (None, False)),
    )
    bar = functools.partial(plane_bar, options.quiet)
    try:
        with told_to_stop():
            report = find_file(job, lambda: load_chosen(options), lambda: _reader(options), bar)
    except KeyboardInterrupt:
        raise CancelledError("Stopped. Planes that are done are kept: the same command goes on from there.") from None
    if options.json:
        print_out(json.dumps(report, indent=2))
        return
    for plane in report["planes"]:
        if "fault" in plane:
            _log.warning("Plane %d was left empty: %s", plane["plane"], plane["fault"])
        notes = plane.get("notes", ())
        for note in notes[:_NOTES]:
            _log.warning("Plane %d: %s", plane["plane"], note)
        if len(notes) > _NOTES:
            _log.warning("Plane %d: %d more of these, see the report.", plane["plane"], len(notes) - _NOTES)
        if not plane["objects"] and "absence" in plane:
            _log.warning("Plane %d: nothing found; absent with %.2f.", plane["plane"], plane["absence"])
    if not options.quiet:
        print_out(report["summary"])


def _check_belongs(options: argparse.Namespace) -> None:
    """Options of one way of finding are a mistake with another one."""
    ways = [name for name in _WAYS if getattr(options, name) is not None]
    if not ways:
        options.complain(f"there is nothing to look for: give one of {_named(_WAYS)}")
    if len(ways) > 1 and set(ways) != {"text", "detector"}:
        options.complain(f"--{ways[0]} and --{ways[1]} are two ways of finding: leave one of them out")
    for name, belongs in _BELONGS.items():
        # with both, the text is what the detector is asked
        if getattr(options, name) not in (None, False) and ways[-1] not in belongs:
            options.complain(f"--{name.replace('_', '-')} is for {_named(belongs)}: add that, or leave it out")


def check_stands_alone(options: argparse.Namespace) -> None:
    """Options of finding are a mistake where nothing is found by words or likeness."""
    for name in _BELONGS:
        if name == "classes" and options.boxes is not None:
            continue  # those of the boxes
        if name != "points_per_side" and getattr(options, name) not in (None, False):
            options.complain(f"--{name.replace('_', '-')} is for {_named(_BELONGS[name])}: add that, or leave it out")


def _named(options: Sequence[str]) -> str:
    return " or ".join(f"--{name}" for name in options)


def _reader(options: argparse.Namespace) -> Any:
    """The detector, or the model that reads."""
    if getattr(options, "detector", None) is not None:
        from napari_zeroseg.cascade import load_detector

        return load_detector(options.detector, device=options.device)
    from napari_zeroseg.registry import load_model

    return load_model(options.text_model or _READER, device=options.device, precision=options.precision)


def _teach(options: argparse.Namespace) -> None:
    from napari_zeroseg.teach_file import teach_file

    load_text = None if options.text_model is None else lambda: _reader(options)
    word, folder = teach_file(
        options.word, options.images, options.labels, lambda: load_chosen(options), load_text, options.contrast
    )
    if options.json:
        told = {"word": word.word, "folder": str(folder), **asdict(word.trial)}
        told |= {name: getattr(word, name) for name in ("side", "steps") if hasattr(word, name)}
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

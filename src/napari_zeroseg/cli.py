"""``zeroseg``: the library from a terminal. Exit codes: 0 done, 1 failed, 2 wrong usage."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from napari_zeroseg import cli_models
from napari_zeroseg.cli_terminal import nobody_reads, print_out, told_to_stop
from napari_zeroseg.errors import CancelledError, UnknownModelError, WriteError, ZerosegError
from napari_zeroseg.tiling import NARROWEST

Command = Callable[[argparse.Namespace], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = _parser()
    options = parser.parse_args(_joined(sys.argv[1:] if arguments is None else arguments))
    command: Command | None = options.command
    if command is None:
        parser.print_help()
        return 2
    with _one_line_messages(options):
        try:
            command(options)
        except BrokenPipeError:
            return nobody_reads()
        except Exception as error:
            if options.verbose and not isinstance(error, ZerosegError):
                raise
            return _failed(_sentence(error))
        except KeyboardInterrupt:
            return _failed("Stopped.")
    return 0


def _joined(arguments: Sequence[str]) -> list[str]:
    """Tie numbers below 0 to their option, as in --box -5,10,40,60; argparse would take them for options."""
    joined: list[str] = []
    for text in arguments:
        if joined and re.fullmatch("--(box|point|negative|contrast|planes)", joined[-1]) and re.match(r"-[\d.:]", text):
            joined[-1] += f"={text}"
        else:
            joined.append(text)
    return joined


def _sentence(error: Exception) -> str:
    if isinstance(error, ZerosegError):
        return str(error)
    if isinstance(error, MemoryError):
        return "There is not enough memory: close other programs, or do fewer planes at a time (--planes)."
    return (
        f"This should not have happened ({type(error).__name__}: {error}): run again with --verbose and report what it "
        "prints."
    )


def _failed(message: str) -> int:
    sys.stderr.write(f"zeroseg: error: {' '.join(message.split())}\n")
    return 1


@contextlib.contextmanager
def _one_line_messages(options: argparse.Namespace) -> Iterator[None]:
    """Send log records and warnings to stderr, one line each: everything with --verbose, no notes with --quiet."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("zeroseg: %(message)s"))
    # What other packages log has no line of its own: whatever matters in it comes as an error.
    others = logging.NullHandler()
    logger = logging.getLogger("napari_zeroseg")
    logger.addHandler(handler)
    logging.getLogger().addHandler(others)
    logger.setLevel(logging.DEBUG if options.verbose else logging.WARNING if options.quiet else logging.INFO)
    try:
        with warnings.catch_warnings():
            if not options.verbose:
                warnings.simplefilter("ignore")
            yield
    finally:
        logger.removeHandler(handler)
        logging.getLogger().removeHandler(others)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with code 2 and one sentence."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="zeroseg",
        description="Segment scientific pictures by points and boxes, on this machine.",
        epilog="Rows come before columns, and both are counted from 0. Documentation: docs/cli.md.",
    )
    parser.add_argument("--version", action="version", version=f"zeroseg {version('napari-zeroseg')}")
    parser.set_defaults(command=None, verbose=False, quiet=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_demo(commands)
    cli_models.add_commands(commands)
    _add_segment(commands)
    for command in commands.choices.values():
        how_much = command.add_mutually_exclusive_group()
        how_much.add_argument("--verbose", action="store_true", help="print what is done, and errors in full")
        how_much.add_argument("--quiet", action="store_true", help="print warnings and errors only")
    return parser


def _add_demo(commands: Any) -> None:
    parser = commands.add_parser(
        "demo",
        help="segment sample pictures, or your own, and look at the result",
        description="Segment a chest radiograph and a generated EM-like stack with known truth, or your own picture.",
    )
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="your own picture instead of the samples")
    parser.add_argument(
        "--out", type=Path, default=Path("zeroseg-demo"), metavar="DIR", help="where results go (default: %(default)s)"
    )
    parser.add_argument("--gui", action="store_true", help="open napari with the dock, the layers and the prompts")
    _add_model_options(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(command=_demo)


def _add_segment(commands: Any) -> None:
    parser = commands.add_parser(
        "segment",
        help="segment a picture or the planes of a stack by points and boxes",
        description="Segment a picture or the planes of a stack. Each point and each box is an object of its own, "
        "unless --one-object is given or a file has a column 'object'. A prompt without a plane is for all of "
        "--planes.",
    )
    parser.add_argument(
        "input", type=Path, metavar="IN", help="TIFF, folder of TIFFs, OME-Zarr, DICOM, PNG, JPEG, .npy"
    )
    parser.add_argument(
        "-o", "--out", type=_labels_path, required=True, help="labels: .tif, .ome.zarr, .npy or .nii.gz"
    )
    prompts = parser.add_argument_group("prompts")
    prompts.add_argument(
        "--box", action="append", default=[], type=_numbers(4), metavar="R0,C0,R1,C1", help="may be repeated"
    )
    prompts.add_argument(
        "--point", action="append", default=[], type=_numbers(2), metavar="R,C", help="may be repeated"
    )
    prompts.add_argument(
        "--negative",
        action="append",
        default=[],
        type=_numbers(2),
        metavar="R,C",
        help="a point on background; may be repeated",
    )
    prompts.add_argument("--points", type=Path, metavar="FILE", help="CSV that napari saved for a Points layer")
    prompts.add_argument("--boxes", type=Path, metavar="FILE", help="CSV that napari saved for a Shapes layer")
    prompts.add_argument("--one-object", action="store_true", help="all prompts of a plane describe one object")
    _add_model_options(parser)
    looks = parser.add_argument_group("how to look")
    looks.add_argument(
        "--planes", type=_planes, metavar="0:20", help="planes to do: 3, 0:20, 0:20:2 or 1,4,7 (default: all)"
    )
    looks.add_argument("--contrast", type=_numbers(2), metavar="LOW,HIGH", help="pixel values shown black and white")
    looks.add_argument(
        "--field", type=_field, default="auto", metavar="auto|plane|PIXELS", help="window to encode (default: auto)"
    )
    looks.add_argument(
        "--overlap", choices=("keep", "replace", "empty"), default="keep", help="what later objects do to earlier ones"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is there, or begun by another run")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(command=_segment, complain=parser.error)


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        default="mobile_sam",
        type=_model_key,
        metavar="KEY",
        help="see `zeroseg models` (default: %(default)s)",
    )
    group.add_argument("--weights", type=Path, metavar="FILE", help="another checkpoint of that model")
    group.add_argument("--device", default="auto", type=_device, help="auto, cpu, cuda, cuda:1 or mps (default: auto)")
    group.add_argument("--precision", default="auto", choices=("auto", "float32", "bf16", "fp16"), help="default: auto")


def _numbers(count: int) -> Callable[[str], tuple[float, ...]]:
    def parse(text: str) -> tuple[float, ...]:
        try:
            values = tuple(float(part) for part in text.split(","))
        except ValueError:
            values = ()
        if len(values) != count:
            raise argparse.ArgumentTypeError(f"{count} numbers with commas between them were expected, not {text!r}")
        return values

    return parse


def _planes(text: str) -> str:
    if not re.fullmatch(r"[-\d\s:,]+", text):
        raise argparse.ArgumentTypeError(f"3, 0:20, 0:20:2 or 1,4,7 was expected, not {text!r}")
    return text


def _field(text: str) -> str | int:
    if text in ("auto", "plane"):
        return text
    if not text.isdecimal() or int(text) < NARROWEST:
        raise argparse.ArgumentTypeError(
            f"auto, plane or a number of pixels from {NARROWEST} was expected, not {text!r}"
        )
    return int(text)


def _model_key(text: str) -> str:
    from napari_zeroseg.registry import find_model

    try:
        return find_model(text).key
    except UnknownModelError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    except ZerosegError:
        return text  # settings that cannot be read are no fault of this option; the command will say so


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"auto, cpu, cuda, cuda:1 or mps was expected, not {text!r}")
    return text


def _labels_path(text: str) -> Path:
    from napari_zeroseg.io.label_formats import label_format

    try:
        label_format(Path(text))
    except WriteError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return Path(text)


def _demo(options: argparse.Namespace) -> None:
    from napari_zeroseg import demo

    model = _load(options)
    report = demo.run(options.file, options.out, model)
    if options.json or not options.quiet:
        print_out(json.dumps(report, indent=2) if options.json else demo.as_text(report))
    if options.gui:
        demo.show(demo.em_like() if options.file is None else demo.own(options.file, model))


def _segment(options: argparse.Namespace) -> None:
    from napari_zeroseg.headless import SegmentRun, segment_file
    from napari_zeroseg.instances import OverlapPolicy
    from napari_zeroseg.seeds import GivenPrompts

    if not any((options.box, options.point, options.negative, options.points, options.boxes)):
        options.complain("there is nothing to look for: give --point, --box, --points FILE or --boxes FILE")
    prompts = GivenPrompts(
        options.box, options.point, options.negative, options.points, options.boxes, options.one_object
    )
    job = SegmentRun(
        options.input,
        options.out,
        prompts,
        options.planes,
        options.contrast,
        options.field,
        OverlapPolicy(options.overlap),
        options.overwrite,
    )
    try:
        with told_to_stop():
            report = segment_file(job, lambda: _load(options), functools.partial(_bar, options.quiet))
    except KeyboardInterrupt:
        raise CancelledError("Stopped. Planes that are done are kept: the same command goes on from there.") from None
    if options.json:
        print_out(json.dumps(report, indent=2))
        return
    for plane in report["planes"]:
        if plane["fault"]:
            logging.getLogger(__name__).warning("Plane %d was left empty: %s", plane["plane"], plane["fault"])
    if not options.quiet:
        print_out(report["summary"])


def _load(options: argparse.Namespace) -> Any:
    from napari_zeroseg.registry import load_model

    return load_model(options.model, weights=options.weights, device=options.device, precision=options.precision)


def _bar(quiet: bool, total: int, done: int) -> Any:
    """Return a progress bar on stderr, which hides itself where nobody looks."""
    from tqdm import tqdm

    return tqdm(total=total, initial=done, unit="plane", disable=quiet or not sys.stderr.isatty(), leave=False)

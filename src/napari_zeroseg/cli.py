"""``zeroseg``: the library from a terminal. Exit codes: 0 done, 1 failed, 2 wrong usage."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from napari_zeroseg import (
    cli_axes,
    cli_cascade,
    cli_embed,
    cli_evaluate,
    cli_link,
    cli_models,
    cli_propagate,
    cli_segment,
    cli_train,
)
from napari_zeroseg.cli_options import add_model_options, load_chosen
from napari_zeroseg.cli_terminal import nobody_reads, print_out
from napari_zeroseg.errors import InputError, UnknownAxesError, ZerosegError

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
            _run(command, options)
        except BrokenPipeError:
            return nobody_reads()
        except Exception as error:
            if options.verbose and not isinstance(error, ZerosegError):
                raise
            return _failed(_sentence(error))
        except KeyboardInterrupt:
            return _failed("Stopped.")
    return 0


def _run(command: Command, options: argparse.Namespace) -> None:
    """Run a command; where a file does not say what its axes are, ask the person at the terminal and run it again."""
    while True:
        try:
            return command(options)
        except UnknownAxesError as error:
            if error.file is None or not (sys.stdin.isatty() and sys.stderr.isatty()):
                raise
            _ask_axes(error, error.file)


def _ask_axes(error: UnknownAxesError, file: Path) -> None:
    """Ask until the answer fits the file, and remember it; no answer is the error."""
    from napari_zeroseg.io.read import open_as

    question = str(error)
    while True:
        sys.stderr.write(f"{question}\nIts axes, a letter for each, such as TZCYX (nothing: stop): ")
        sys.stderr.flush()
        axes = sys.stdin.readline().strip()
        if not axes:
            raise error
        try:
            open_as(file, axes)
            return
        except InputError as wrong:
            question = str(wrong)


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
    cli_axes.add_command(commands)
    cli_evaluate.add_command(commands)
    cli_link.add_command(commands)
    cli_segment.add_command(commands)
    cli_embed.add_command(commands)
    cli_propagate.add_command(commands)
    cli_train.add_commands(commands)
    cli_cascade.add_commands(commands)
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
    add_model_options(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(command=_demo)


def _demo(options: argparse.Namespace) -> None:
    from napari_zeroseg import demo

    model = load_chosen(options)
    report = demo.run(options.file, options.out, model)
    if options.json or not options.quiet:
        print_out(json.dumps(report, indent=2) if options.json else demo.as_text(report))
    if options.gui:
        demo.show(demo.em_like() if options.file is None else demo.own(options.file, model))

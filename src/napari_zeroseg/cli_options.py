"""What the options of several ``zeroseg`` commands mean: models, planes, numbers, windows."""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_zeroseg.errors import InputError, UnknownModelError, WriteError, ZerosegError
from napari_zeroseg.tiling import NARROWEST

if TYPE_CHECKING:
    from napari_zeroseg.cluster import Spread, SpreadLinks


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add which model, which weights, where and how exactly."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        default="mobile_sam",
        type=_model_key,
        metavar="KEY",
        help="see `zeroseg models` (default: %(default)s)",
    )
    group.add_argument(
        "--weights", metavar="FILE|OWNER/NAME", help="another checkpoint of that model: a file, a folder or a hub's"
    )
    devices = "auto, cpu, openvino, cuda, cuda:1 or mps (default: auto)"
    group.add_argument("--device", default="auto", type=_device, help=devices)
    group.add_argument("--precision", default="auto", choices=("auto", "float32", "bf16", "fp16"), help="default: auto")


def add_cluster_options(parser: argparse.ArgumentParser, with_model: bool = True) -> None:
    """Add where the planes are done: here, in several processes, or on a Dask cluster."""
    group = parser.add_argument_group("several processes (needs napari-zeroseg[cluster])")
    where = group.add_mutually_exclusive_group()
    each = ", each with the model" if with_model else ""
    where.add_argument("--workers", type=_processes, metavar="N", help=f"processes of this machine{each}")
    where.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask scheduler, such as tcp://10.0.0.1:8786")


@contextlib.contextmanager
def cluster_of(options: argparse.Namespace) -> Iterator[Callable[[Path], Spread] | None]:
    """Return what begins on the cluster that the options name, or None; it is left at the end."""
    if options.workers is None and options.scheduler is None:
        yield None
        return
    from napari_zeroseg.cluster import Recipe, Spread, connected, threads_of

    threads = None if options.workers is None else threads_of(options.workers)
    weights = options.weights
    if weights is not None and Path(weights).expanduser().exists():
        weights = str(Path(weights).expanduser().absolute())  # workers may stand in another folder
    recipe = Recipe(options.model, weights, options.device, options.precision, threads)
    with contextlib.ExitStack() as stack:

        def begin(source: Path) -> Spread:
            return Spread(stack.enter_context(connected(options.scheduler, options.workers)), recipe, source)

        yield begin


@contextlib.contextmanager
def links_on(options: argparse.Namespace) -> Iterator[Callable[[Path], SpreadLinks] | None]:
    """Return what begins to link planes on the cluster that the options name, or None; it is left at the end."""
    if options.workers is None and options.scheduler is None:
        yield None
        return
    from napari_zeroseg.cluster import SpreadLinks, connected

    with contextlib.ExitStack() as stack:
        yield lambda source: SpreadLinks(stack.enter_context(connected(options.scheduler, options.workers)), source)


def numbers(count: int) -> Callable[[str], tuple[float, ...]]:
    """Return what reads so many numbers with commas between them."""

    def parse(text: str) -> tuple[float, ...]:
        try:
            values = tuple(float(part) for part in text.split(","))
        except ValueError:
            values = ()
        if len(values) != count:
            raise argparse.ArgumentTypeError(f"{count} numbers with commas between them were expected, not {text!r}")
        return values

    return parse


def class_numbers(text: str) -> tuple[int, ...]:
    """Read numbers of classes with commas between them, for argparse."""
    from napari_zeroseg.automatic.class_filter import classes_of

    try:
        return classes_of(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _processes(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a number of processes from 1 was expected, not {text!r}")
    return int(text)


def plane_numbers(text: str) -> str:
    """Check how planes are named; which there are is known once the picture is open."""
    if not re.fullmatch(r"[-\d\s:,]+", text):
        raise argparse.ArgumentTypeError(f"3, 0:20, 0:20:2 or 1,4,7 was expected, not {text!r}")
    return text


def field_of_view(text: str) -> str | int:
    """Read a field of view: auto, plane or a window's side in pixels."""
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
    if not re.fullmatch(r"auto|cpu|openvino|mps|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"auto, cpu, openvino, cuda, cuda:1 or mps was expected, not {text!r}")
    return text


def load_chosen(options: argparse.Namespace) -> Any:
    """Load the model that the options name."""
    from napari_zeroseg.registry import load_model

    return load_model(options.model, weights=options.weights, device=options.device, precision=options.precision)


def plane_bar(quiet: bool, total: int, done: int) -> Any:
    """Return a progress bar on stderr, which hides itself where nobody looks."""
    from tqdm import tqdm

    return tqdm(total=total, initial=done, unit="plane", disable=quiet or not sys.stderr.isatty(), leave=False)


def labels_path(text: str) -> Path:
    """Return a name for labels, for argparse."""
    from napari_zeroseg.io.label_formats import label_format

    try:
        label_format(Path(text))
    except WriteError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return Path(text)

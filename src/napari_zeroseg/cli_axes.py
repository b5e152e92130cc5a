"""``zeroseg axes``: what the axes of a file are."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from napari_zeroseg.cli_terminal import print_out


def add_command(commands: Any) -> None:
    """Add the command to the parser's `commands`."""
    parser = commands.add_parser(
        "axes",
        help="show or say what the axes of a file are",
        description="Show what the axes of a file are taken for, or say it: from then on it is opened so, here and in "
        "napari. The file itself is not changed.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a picture or stack")
    parser.add_argument(
        "axes", nargs="?", metavar="AXES", help="a letter for each axis in the file's order, such as TZYX; Y are rows"
    )
    parser.add_argument("--forget", action="store_true", help="take the axes for what the file says again")
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    parser.set_defaults(command=_axes, complain=parser.error)


def _axes(options: argparse.Namespace) -> None:
    from napari_zeroseg.io.axes import remembered_axes
    from napari_zeroseg.io.read import open_as, open_image

    if options.forget and options.axes is not None:
        options.complain("--forget and AXES say different things: leave one of them out")
    if options.forget or options.axes is not None:
        picture = open_as(options.file, None if options.forget else options.axes)
    else:
        picture = open_image(options.file)
    axes = picture.axes.replace("S", "")
    shape = list(picture.data.shape)
    told = {"file": str(options.file), "axes": axes, "shape": shape, "said": remembered_axes(options.file)}
    if options.json:
        print_out(json.dumps(told, indent=2))
    elif not options.quiet:
        sizes = ", ".join(f"{axis} {size}" for axis, size in zip(axes, shape, strict=False))
        colour = " and colours" if picture.rgb else ""
        print_out(f"{options.file}: {sizes}{colour}{', as you said' if told['said'] else ''}.")

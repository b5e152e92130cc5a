"""Sphinx directives that take tables and help texts from the code, so that the pages cannot drift from it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from unittest.mock import patch

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

WIDTH = {"COLUMNS": "100"}


def help_of(command: str) -> str:
    """Return what ``zeroseg COMMAND --help`` prints."""
    from napari_zeroseg import cli

    parser = cli._parser()
    if command:
        (commands,) = (action for action in parser._actions if getattr(action, "choices", None))
        parser = commands.choices[command]
    with patch.dict("os.environ", WIDTH):  # argparse wraps to the terminal
        return parser.format_help()


def key_rows() -> list[tuple[str, str]]:
    """Return the name of each key of the Segment dock, and what it does."""
    from napari_zeroseg._napari.keys import KEYS

    return [(key.name, key.does) for key in KEYS]


def model_rows() -> list[tuple[str, ...]]:
    """Return key, title, prompts, size and licence of each model of this package."""
    from napari_zeroseg.registry import BUILT_IN
    from napari_zeroseg.weights.folder import size_in_words

    return [
        (spec.key, spec.title, ", ".join(sorted(spec.accepts)), size_in_words(spec), spec.licence) for spec in BUILT_IN
    ]


def error_rows() -> list[tuple[str, str, str]]:
    """Return each kind of error, the builtin that it also is, and when it is raised."""
    from napari_zeroseg import errors

    kinds = [kind for kind in vars(errors).values() if inspect.isclass(kind) and kind.__module__ == errors.__name__]
    return [
        (
            kind.__name__,
            next((base.__name__ for base in kind.__bases__ if base.__module__ == "builtins"), ""),
            kind.__doc__,
        )
        for kind in kinds
    ]


def table(head: Iterable[str], rows: Iterable[Iterable[str]], first: type[nodes.Element]) -> nodes.table:
    """Return a table whose first column is of the kind `first`, such as nodes.literal."""
    titles = list(head)
    group = nodes.tgroup(cols=len(titles))
    group += [nodes.colspec(colwidth=1) for _ in titles]
    header = nodes.thead()
    header += _row(titles, nodes.inline)
    body = nodes.tbody()
    body += [_row(cells, first) for cells in rows]
    group += [header, body]
    whole = nodes.table()
    whole += group
    return whole


def _row(cells: Iterable[str], first: type[nodes.Element]) -> nodes.row:
    row = nodes.row()
    for i, cell in enumerate(cells):
        text = (first if i == 0 else nodes.inline)(cell, cell)
        entry, paragraph = nodes.entry(), nodes.paragraph()
        paragraph += text
        entry += paragraph
        row += entry
    return row


class Help(Directive):
    """``zeroseg-help``: the help text of a command, or of the program where none is named."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        told = help_of(self.arguments[0] if self.arguments else "")
        return [nodes.literal_block(told, told, language="text")]


class KeyTable(Directive):
    """``zeroseg-keys``: the table of keys."""

    def run(self) -> list[nodes.Node]:
        return [table(("Key", "What it does"), key_rows(), nodes.literal)]


class ModelTable(Directive):
    """``zeroseg-models``: the built-in models."""

    def run(self) -> list[nodes.Node]:
        return [table(("Key", "Model", "Prompts", "Size", "Licence of the weights"), model_rows(), nodes.literal)]


class ErrorTable(Directive):
    """``zeroseg-errors``: the kinds of error."""

    def run(self) -> list[nodes.Node]:
        return [table(("Error", "Is also a", "When"), error_rows(), nodes.literal)]


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directives."""
    app.add_directive("zeroseg-help", Help)
    app.add_directive("zeroseg-keys", KeyTable)
    app.add_directive("zeroseg-models", ModelTable)
    app.add_directive("zeroseg-errors", ErrorTable)
    return {"parallel_read_safe": True}

"""What the pages tell people to type does run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest

from napari_zeroseg.cli import main

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "docs/first_five_minutes.md",
    "docs/cli.md",
    "docs/api.md",
    "docs/evaluate.md",
    "docs/find_the_rest.md",
    "docs/linking.md",
    "docs/segment_everything.md",
    "docs/through_the_planes.md",
)
_BLOCK = re.compile(r"^```(?P<kind>[^\n]*)\n(?P<body>.*?)^```", re.MULTILINE | re.DOTALL)
_CAPTION = re.compile(r":caption: (\S+\.csv)\n")


class Block(NamedTuple):
    kind: str
    body: str


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [Block(match["kind"].strip(), match["body"]) for match in _BLOCK.finditer(text)]


def run_python(body: str, names: dict[str, object]) -> None:
    exec(compile(body, "<snippet>", "exec"), names)


def run_console(body: str) -> None:
    for line in body.splitlines():
        assert line.startswith("$ "), line
        program, *arguments = shlex.split(line.removeprefix("$ "))
        assert program == "zeroseg"
        assert main(arguments) == 0, line


@pytest.fixture
def examples(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the two files that the pages work on, made as docs/cli.md says; encoded once for all pages."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZEROSEG_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "docs-cache"))
    run_python(next(block.body for block in blocks("docs/cli.md") if block.kind == "python"), {})
    assert Path("stack.tif").is_file()
    assert Path("chest.dcm").is_file()


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.usefixtures("examples")
def test_what_a_page_says_runs(page: str) -> None:
    names: dict[str, object] = {}
    for kind, body in blocks(page):
        if kind == "python":
            run_python(body, names)
        elif kind == "console":
            run_console(body)
        elif kind == "{code-block} text":
            (name,) = _CAPTION.findall(body)
            Path(name).write_text(_CAPTION.sub("", body), encoding="utf-8")


def test_pages_have_something_to_run() -> None:
    kinds = {page: {block.kind for block in blocks(page)} for page in PAGES}
    assert "python" in kinds["README.md"] & kinds["docs/api.md"]
    assert "console" in kinds["README.md"] & kinds["docs/cli.md"]

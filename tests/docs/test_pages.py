"""The pages say what the code does: the drawing, the settings, the controls, the pictures."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "napari_zeroseg"
LARGEST_PICTURE = 300_000


def text_of(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def drawings() -> ModuleType:
    spec = importlib.util.spec_from_file_location("drawings", DOCS / "drawings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def room_of(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(file: Path) -> set[str]:
    """Rooms that a file imports when it runs; what only a type checker sees does not count."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("napari_zeroseg.")}


def test_the_drawing_shows_every_room(drawings: ModuleType) -> None:
    rooms = {room_of(file) for file in SOURCE.rglob("*.py")} - set(drawings.OUTDOORS)
    drawn = [room for floor in drawings.FLOORS for room in floor.rooms]
    assert sorted(drawn) == sorted(rooms)


def test_rooms_import_downwards_only(drawings: ModuleType) -> None:
    level = {room: -i for i, floor in enumerate(drawings.FLOORS) for room in floor.rooms}
    for file in SOURCE.rglob("*.py"):
        room = room_of(file)
        if room not in drawings.OUTDOORS:
            upwards = {other for other in imported_rooms(file) & level.keys() if level[other] > level[room]}
            assert not upwards, f"{file.name} imports from a higher floor"


def test_the_drawing_is_the_one_that_the_script_makes(drawings: ModuleType) -> None:
    assert drawings.PATH.read_text(encoding="utf-8") == drawings.drawing(), "run: python docs/drawings.py"


def test_every_setting_is_told() -> None:
    known = set(re.findall(r"ZEROSEG_[A-Z_]+", (SOURCE / "settings.py").read_text(encoding="utf-8")))
    assert known == set(re.findall(r"ZEROSEG_[A-Z_]+", text_of("cache_and_settings.md")))


def test_every_message_in_the_table_exists() -> None:
    sources = " ".join(file.read_text(encoding="utf-8") for file in SOURCE.rglob("*.py"))
    joined = re.sub(r'"\s*\n\s*f?"', "", sources)
    for begins in re.findall(r"^\| ([A-Z…][^|]+?) \|", text_of("faults.md"), re.MULTILINE):
        if begins.startswith(("Message", "Error")):
            continue
        for part in re.split(r"…| N ", begins):
            assert part.strip() in joined, begins


def test_pictures_are_there_small_and_used() -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in [*DOCS.glob("*.md"), ROOT / "README.md"])
    used = set(re.findall(r"images/([\w.]+)", pages))
    pictures = {file.name: file.stat().st_size for file in (DOCS / "images").iterdir()}
    assert used == set(pictures)
    assert max(pictures.values()) < LARGEST_PICTURE


def test_every_control_of_the_dock_is_told() -> None:
    for sources, page in (
        (("segment", "text", "detector_part", "compare"), "segment_dock.md"),
        (("models",), "models_dock.md"),
        (("stack",), "stack_dock.md"),
    ):
        text = text_of(page)
        for source in sources:
            dock = (SOURCE / "_napari" / f"{source}.py").read_text(encoding="utf-8")
            names = re.findall(r'\bbutton\("([A-Z]\w+(?: \w+)*)', dock)
            assert names
            for name in names:
                assert f"**{name}" in text or f"{name}," in text or f", {name}" in text, name

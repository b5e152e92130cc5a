"""However the package is installed, napari finds its manifest and the model is inside."""

from __future__ import annotations

import email
import email.message
import hashlib
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from .conftest import Environment

pytestmark = pytest.mark.packaging

WEIGHTS_SHA256 = "5b909383cb8a7a05f37fcce8dc6f0b22e76b6848ca0932f79b7a85e342f739ca"
ASSETS = "napari_zeroseg/assets"

ASK_NPE2 = """
import json
from importlib.util import find_spec
from npe2 import PluginManager
manager = PluginManager()
manager.discover()
manifest = manager.get_manifest("napari-zeroseg")
print(json.dumps({
    "display_name": manifest.display_name,
    "version": manifest.package_version,
    "widgets": [widget.display_name for widget in manifest.contributions.widgets],
    "home": find_spec("napari_zeroseg").submodule_search_locations[0],
}))
"""


def found_by_npe2(environment: Environment) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(environment.ask(ASK_NPE2))
    return found


@pytest.mark.parametrize("kind", ["wheel", "wheel_of_sdist"])
def test_npe2_finds_the_manifest_of_a_wheel(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    environment = Environment.create(tmp_path / "venv")
    environment.install(request.getfixturevalue(kind))
    found = found_by_npe2(environment)
    assert found["display_name"] == "ZeroSeg"
    assert "Segment" in found["widgets"]
    assert Path(found["home"]) == environment.site_packages / "napari_zeroseg"


def test_npe2_finds_the_manifest_of_an_editable_install_and_its_edits(tmp_path: Path, sources: Path) -> None:
    environment = Environment.create(tmp_path / "venv")
    environment.install("--editable", sources)
    assert Path(found_by_npe2(environment)["home"]) == sources / "src" / "napari_zeroseg"

    link = sources / "src" / "napari_zeroseg" / "napari.yaml"
    manifest = sources / "napari.yaml"
    written = manifest.read_text(encoding="utf-8")
    assert link.read_text(encoding="utf-8") == written
    if not link.is_symlink():
        return  # an OS that refuses links got a copy
    manifest.write_text(written.replace("display_name: ZeroSeg", "display_name: Edited"), encoding="utf-8")
    try:
        assert found_by_npe2(environment)["display_name"] == "Edited"
    finally:
        manifest.write_text(written, encoding="utf-8")


def test_an_environment_without_the_package_finds_nothing(tmp_path: Path) -> None:
    """The tests above could not fail if the borrowed libraries brought this package along."""
    environment = Environment.create(tmp_path / "venv")
    assert environment.ask("from importlib.util import find_spec; print(find_spec('napari_zeroseg'))").strip() == "None"


def test_wheel_holds_model_types_and_licences_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        weights = archive.read(f"{ASSETS}/mobile_sam_fp16.safetensors")
        notice = archive.read(f"{ASSETS}/NOTICE").decode()
        licence = archive.read(f"{ASSETS}/LICENSE-Apache-2.0.txt").decode()
    assert hashlib.sha256(weights).hexdigest() == WEIGHTS_SHA256
    assert "MobileSAM" in notice
    assert "Apache License" in licence
    assert len(names) == len(set(names))
    assert names.count("napari_zeroseg/napari.yaml") == 1
    assert "napari_zeroseg/py.typed" in names
    licences = {name.partition(".dist-info/licenses/")[2] for name in names if ".dist-info/licenses/" in name}
    assert {"LICENSE", "NOTICE"} <= licences
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"napari_zeroseg"}


def test_metadata_of_the_wheel(wheel: Path) -> None:
    metadata = read_metadata(wheel)
    assert metadata["License-Expression"] == "BSD-3-Clause AND Apache-2.0"
    assert "Framework :: napari" in metadata.get_all("Classifier", [])
    base = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert any(line.startswith("napari") for line in base)
    unwanted = ("pyside", "pyqt", "torchvision", "napari[")
    assert not [line for line in base if line.lower().startswith(unwanted)]


def test_sdist_holds_what_a_rebuild_and_the_tests_need(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"napari.yaml", "hatch_build.py", "LICENSE", "NOTICE", "README.md"} <= names
    assert {"tests/conftest.py", "constraints/dev.txt", "scripts/setup.sh"} <= names
    assert "src/napari_zeroseg/napari.yaml" not in names


def read_metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))

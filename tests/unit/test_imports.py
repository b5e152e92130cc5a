"""What importing brings in, seen from a new process."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import napari_zeroseg

HEAVY = {"torch", "torchvision", "segment_anything", "napari", "qtpy", "PySide6", "PyQt6", "magicgui", "vispy", "scipy"}


def _modules_after(code: str) -> set[str]:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.partition(".")[0] for name in json.loads(ran.stdout.splitlines()[-1])}


@pytest.mark.parametrize(
    "code",
    [
        "import napari_zeroseg",
        "import napari_zeroseg as zs; assert zs.list_models()[0].key == 'mobile_sam'; zs.list_models()[0].state",
        "import napari_zeroseg as zs; zs.Prompt(points=[(1, 2)]); zs.EmbeddingStore(); zs.View",
    ],
)
def test_the_package_comes_without_torch_and_without_a_window(code):
    assert not _modules_after(code) & HEAVY


def test_loading_the_model_brings_no_window_and_no_foreign_names():
    after = _modules_after("import napari_zeroseg as zs; zs.load_model()")
    assert not after & (HEAVY - {"torch", "scipy"})


def test_every_public_name_is_there():
    for name in napari_zeroseg.__all__:
        assert getattr(napari_zeroseg, name) is not None
    assert set(napari_zeroseg.__all__) <= set(dir(napari_zeroseg))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'segment_nothing'"):
        _ = napari_zeroseg.segment_nothing

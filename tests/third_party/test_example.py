"""The example package of the docs, installed by pip into a folder of its own: in list, CLI, API and docks."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from napari_zeroseg import Prompt, list_models, load_model
from napari_zeroseg._napari.zoo import Zoo
from napari_zeroseg.cli import main
from napari_zeroseg.phantom import em_like_stack
from napari_zeroseg.segmenter import Segmenter

EXAMPLE = Path(__file__).parents[2] / "examples" / "zeroseg_threshold_model"
KEY = "strict_sam"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Install it as a user does, without the network."""
    source, target = tmp_path_factory.mktemp("source") / "example", tmp_path_factory.mktemp("target")
    shutil.copytree(EXAMPLE, source)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", target]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [sys.executable, "-m", "pip", "install", *map(str, options), str(source)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(autouse=True)
def on_path(installed, monkeypatch):
    monkeypatch.syspath_prepend(str(installed))
    importlib.invalidate_caches()
    yield
    sys.modules.pop("zeroseg_threshold_model", None)


def test_it_is_listed():
    (spec,) = [spec for spec in list_models() if spec.key == KEY]
    assert (spec.title, spec.family, spec.state) == ("Strict MobileSAM", "Examples", "ready")


def test_it_segments_more_strictly():
    stack, truth = em_like_stack(planes=1, size=128, seed=1)
    strict, plain = load_model(KEY), load_model()
    assert isinstance(strict, Segmenter)
    rows, columns = (truth[0] > 0).nonzero()
    prompt = Prompt(points=[(rows[0] + 4, columns[0])])
    masks = [model.predict(model.encode(stack[0]), [prompt])[0].mask for model in (strict, plain)]
    assert 0 < masks[0].sum() < masks[1].sum()
    assert not (masks[0] & ~masks[1]).any()


def test_the_command_line_has_it(capsys, tmp_path, monkeypatch):
    assert main(["models", "--json"]) == 0
    rows = {row["key"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows[KEY]["accepts"] == ["box", "mask", "points"]
    assert main(["verify", KEY]) == 0


def test_the_docks_list_it():
    zoo = Zoo()
    zoo.look()
    assert zoo.entries[KEY].is_ready


def test_listing_it_imports_no_torch(installed):
    listed = "'strict_sam' in [spec.key for spec in zs.list_models()]"
    code = f"import sys, napari_zeroseg as zs; print({listed}, 'torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(installed), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


def test_it_is_as_short_as_the_docs_say():
    assert len((EXAMPLE / "zeroseg_threshold_model.py").read_text().splitlines()) <= 45

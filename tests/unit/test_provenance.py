"""Provenance: which runs are the same, and files that come in one piece."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest

from napari_zeroseg import provenance
from napari_zeroseg.errors import WriteError
from napari_zeroseg.prompts import Prompt
from napari_zeroseg.registry import load_model
from napari_zeroseg.stack import Seed, StackOptions


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "here" / "picture.npy"
    path.parent.mkdir()
    np.save(path, np.eye(9))
    return path


def seeds(*prompts):
    return {z: [Seed(n, prompt) for n, prompt in enumerate(prompts, start=1)] for z in range(3)}


class TestRuns:
    point = Prompt(points=[(1, 2)])

    def test_everything_that_decides_makes_another_run(self, picture, model):
        first, _ = provenance.run_of(picture, model, seeds(self.point), StackOptions())
        assert provenance.run_of(picture, model, seeds(self.point), StackOptions())[0] == first
        runs = {
            first,
            provenance.run_of(picture, model, seeds(Prompt(points=[(1, 3)])), StackOptions())[0],
            provenance.run_of(picture, model, seeds(Prompt(points=[(1, 2)], labels=[False])), StackOptions())[0],
            provenance.run_of(picture, model, seeds(self.point, self.point), StackOptions())[0],
            provenance.run_of(picture, model, {0: [Seed(1, self.point)]}, StackOptions())[0],
            provenance.run_of(picture, model, seeds(self.point), StackOptions(limits=(0, 9)))[0],
            provenance.run_of(picture, model, seeds(self.point), StackOptions(field=512))[0],
            provenance.run_of(picture, load_model(precision="float32"), seeds(self.point), StackOptions(field=64))[0],
        }
        np.save(picture, np.eye(10))
        runs.add(provenance.run_of(picture, model, seeds(self.point), StackOptions())[0])
        assert len(runs) == 9

    def test_prompts_are_told_once(self, picture, model):
        _, settings = provenance.run_of(picture, model, seeds(self.point, Prompt(box=(1, 2, 3, 4))), StackOptions())
        assert settings["prompts"] == [
            {"label": 1, "points": [[1, 2]], "signs": [True], "planes": [0, 1, 2]},
            {"label": 2, "box": [1, 2, 3, 4], "planes": [0, 1, 2]},
        ]
        assert json.loads(json.dumps(settings)) == settings


class TestIdentity:
    def test_of_a_file_that_moved(self, picture, tmp_path):
        copy = tmp_path / picture.name
        shutil.copy2(picture, copy)
        first, second = provenance.identity_of(picture), provenance.identity_of(copy)
        assert first["stamp"] == second["stamp"]
        assert first["path"] != second["path"]

    def test_of_a_file_that_changed_and_of_another_name(self, picture):
        before = provenance.identity_of(picture)["stamp"]
        os.utime(picture, ns=(0, 1))
        touched = provenance.identity_of(picture)["stamp"]
        renamed = provenance.identity_of(picture.rename(picture.with_name("other.npy")))["stamp"]
        assert len({before, touched, renamed}) == 3

    def test_of_a_folder(self, picture, monkeypatch):
        (picture.parent / "deeper").mkdir()
        shutil.copy2(picture, picture.parent / "deeper" / "two.npy")
        identity = provenance.identity_of(picture.parent)
        assert (identity["files"], identity["bytes"]) == (2, 2 * picture.stat().st_size)
        monkeypatch.chdir(picture.parent)
        assert provenance.identity_of(picture.parent.__class__(".")) == identity


class TestFiles:
    def test_nothing_there(self, tmp_path):
        assert provenance.read(tmp_path / "out.tif") == {}

    @pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
    def test_what_is_no_provenance(self, tmp_path, text):
        provenance.path_beside(tmp_path / "out.tif").write_text(text)
        assert provenance.read(tmp_path / "out.tif") == {}

    def test_prepared_and_committed(self, tmp_path):
        out = tmp_path / "out.tif"
        provenance.prepare(out, {"run": "a"})
        assert provenance.read(out) == {}
        out.touch()
        provenance.commit(out)
        assert provenance.read(out) == {"run": "a"}
        assert sorted(file.name for file in tmp_path.iterdir()) == ["out.tif", "out.tif.json"]

    @pytest.mark.parametrize(("age", "run"), [(-1, "old"), (0, "new"), (1, "new")])
    def test_a_kill_between_result_and_provenance(self, tmp_path, age, run):
        out = tmp_path / "out.tif"
        out.touch()
        provenance.write_json(provenance.path_beside(out), {"run": "old"})
        provenance.prepare(out, {"run": "new"})
        prepared = (tmp_path / ".out.tif.json").stat().st_mtime_ns
        os.utime(out, ns=(prepared + age, prepared + age))
        assert provenance.read(out)["run"] == run

    def test_where_nothing_can_be_written(self, tmp_path):
        with pytest.raises(WriteError, match="make room or choose another folder"):
            provenance.write_json(tmp_path / "nowhere" / "out.json", {})
        with pytest.raises(WriteError, match="repeat the run"):
            provenance.commit(tmp_path / "out.tif")

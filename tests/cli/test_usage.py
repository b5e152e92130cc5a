"""What the command line itself promises: exit codes, one line for each error, and outputs that go away."""

from __future__ import annotations

import json
import os
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from napari_zeroseg.registry import list_models

from .conftest import command


def test_models(zeroseg):
    listed = zeroseg("models")
    assert listed.code == 0
    assert [line.split()[0] for line in listed.out.splitlines()] == [spec.key for spec in list_models()]
    (row,) = [row for row in json.loads(zeroseg("models", "--json").out) if row["key"] == "mobile_sam"]
    assert (row["state"], row["licence"], row["accepts"]) == ("ready", "Apache-2.0", ["box", "mask", "points"])


def test_help_and_version(zeroseg):
    assert zeroseg("--version") == (0, f"zeroseg {version('napari-zeroseg')}\n", "")
    assert "segment a picture" in zeroseg("--help").out
    assert "R0,C0,R1,C1" in zeroseg("segment", "--help").out
    nothing = zeroseg()
    assert nothing.code == 2
    assert "commands:" in nothing.out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nonsense"], "invalid choice"),
        (["segment"], "required: IN, -o/--out"),
        (["segment", "in.tif", "--point", "1,2"], "required: -o/--out"),
        (["segment", "in.tif", "-o", "out.tif"], "there is nothing to look for: give --point"),
        (["segment", "in.tif", "-o", "out.tif", "--box", "1,2,3"], "4 numbers with commas"),
        (["segment", "in.tif", "-o", "out.tif", "--point", "1;2"], "2 numbers with commas"),
        (["segment", "in.tif", "-o", "out.tif", "--contrast", "dark,light"], "2 numbers with commas"),
        (["segment", "in.tif", "-o", "out.tif", "--planes", "all"], "3, 0:20, 0:20:2 or 1,4,7 was expected"),
        (["segment", "in.tif", "-o", "out.tif", "--field", "large"], "auto, plane or a number of pixels"),
        (["segment", "in.tif", "-o", "out.tif", "--overlap", "both"], "invalid choice"),
        (["models", "--quiet", "--verbose"], "not allowed with"),
    ],
)
def test_wrong_usage_is_2_and_one_line(zeroseg, arguments, sentence):
    said = zeroseg(*arguments).usage_error()
    assert sentence in said
    assert "--help)" in said


def test_a_reader_that_goes_away(tmp_path):
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(command(["models"]), stdout=theirs, stderr=subprocess.PIPE, text=True, check=False)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
def test_an_output_that_takes_nothing():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command(["models"]), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "zeroseg: error: The output could not be written (No space left on device): send it to another place.\n"
    )

"""The models from a terminal: consent, a stop and its resumption, verify, add, remove."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from napari_zeroseg.cli import main
from napari_zeroseg.registry import BUILT_IN, MOBILE_SAM
from napari_zeroseg.weights.cards import model_folder

from .conftest import Answer, Site, clipseg_file

KEY = "clipseg_rd16"
FOLDER = "/CIDAS/clipseg-rd16"


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def zeroseg(capsys):
    def run(*arguments: object) -> Result:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Result(code, said.out, said.err)

    return run


@pytest.fixture
def mirror(site, monkeypatch) -> Site:
    """Serve a model whose hash nobody publishes; its weights are a small file."""
    for name in ("config.json", "vocab.json", "merges.txt"):
        site.put(f"{FOLDER}/{name}", b"{}")
    site.put(f"{FOLDER}/model.safetensors", clipseg_file())
    monkeypatch.setenv("ZEROSEG_MIRROR", site.url)
    return site


def test_the_list(zeroseg, mirror):
    lines = zeroseg("models").out.splitlines()
    assert [line.split()[0] for line in lines] == [spec.key for spec in BUILT_IN]
    assert "ready" in lines[0]
    assert "20 MB" in lines[0]
    rows = {row["key"]: row for row in json.loads(zeroseg("models", "--json").out)}
    assert rows[KEY]["state"] == "needs download"
    assert "authors say" in rows[KEY]["licence_note"]
    assert rows["pa_sam_vit_b"]["state"] == "bring a file"


def test_the_licence_first(zeroseg, mirror):
    refused = zeroseg("download", KEY)
    assert refused.code == 1
    assert refused.err.startswith(
        "zeroseg: error: CLIPSeg rd16: about 603 MB from 127.0.0.1. Licence of the weights: A"
    )
    assert "--accept-licence" in refused.err
    assert len(refused.err.splitlines()) == 1
    assert not mirror.asked


def test_download_verify_remove(zeroseg, mirror):
    done = zeroseg("download", KEY, "--accept-licence", "--json")
    path = Path(json.loads(done.out)["path"])
    assert path.read_bytes() == clipseg_file()
    assert json.loads(zeroseg("download", KEY, "--json").out)["was_ready"]
    assert "is whole: sha256" in zeroseg("verify", KEY).out
    path.write_bytes(clipseg_file(seed=1))
    broken = zeroseg("verify", KEY, "--json")
    assert broken.code == 1
    assert json.loads(broken.out)["ok"] is False
    assert "has changed or is damaged" in broken.err
    assert "were removed from this machine" in zeroseg("remove", KEY).out
    assert zeroseg("verify", KEY).err.startswith("zeroseg: error: The weights of CLIPSeg rd16 are not on this machine")


def test_another_file_than_the_first_time(zeroseg, mirror):
    zeroseg("download", KEY, "--accept-licence")
    zeroseg("remove", KEY)
    mirror.put(f"{FOLDER}/model.safetensors", clipseg_file(seed=1))
    refused = zeroseg("download", KEY, "--accept-licence", "--quiet")
    assert (refused.code, refused.out) == (1, "")
    (digits,) = re.findall("--accept-change ([0-9a-f]{12})`", refused.err)
    assert zeroseg("download", KEY, "--accept-licence", "--accept-change", digits[::-1]).code == 1
    assert zeroseg("download", KEY, "--accept-licence", "--accept-change", digits).code == 0


def test_add(zeroseg, tmp_path):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(MOBILE_SAM.weights.path.read_bytes())
    assert "with --name" in zeroseg("add", copy).err
    assert zeroseg("add", copy, "--name", "again").out == "again is ready: use it as again.\n"
    assert zeroseg("models").out.splitlines()[-1].split()[0] == "again"
    assert zeroseg("add", tmp_path / "none.pth").code == 1
    assert "There is no model 'sam_9'" in zeroseg("add", copy, "--key", "sam_9").err


@pytest.mark.parametrize("command", ["download", "verify", "remove"])
def test_a_model_that_is_none(zeroseg, command):
    said = zeroseg(command, "sam_9")
    assert said.code == 1
    assert said.err.startswith("zeroseg: error: There is no model 'sam_9'; there are: mobile_sam, sam_vit_b")


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_and_gone_on(mirror, number):
    mirror.put(f"{FOLDER}/model.safetensors", clipseg_file(), Answer(pace=0.2))
    command = [sys.executable, "-m", "napari_zeroseg", "download", KEY, "--accept-licence"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    part = model_folder(KEY) / ".model.safetensors.part"
    end = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size > 50_000):
        assert time.monotonic() < end
        time.sleep(0.02)
    child.send_signal(number)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (1, "")
    assert err.splitlines()[-1] == (
        "zeroseg: error: Stopped. What has come is kept: the same command goes on from there."
    )
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert Path(done.stdout.partition(": ")[2].strip()).read_bytes() == clipseg_file()
    assert mirror.ranges(f"{FOLDER}/model.safetensors")[-1].startswith("bytes=")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
@pytest.mark.parametrize(("reply", "code"), [("y\n", 0), ("\n", 1), ("n\n", 1)])
def test_a_person_is_asked(mirror, reply, code):
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "napari_zeroseg", "download", KEY]
    child = subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(theirs)
    seen = b""
    while b"[y/N]" not in seen:
        seen += os.read(ours, 1000)
    assert b"Licence of the weights: Apache-2.0." in seen
    os.write(ours, reply.encode())
    out, _ = child.communicate(timeout=60)
    os.close(ours)
    assert child.returncode == code
    assert out.startswith("CLIPSeg rd16 is ready: ") == (code == 0)
    assert bool(mirror.asked) == (code == 0)

"""What a file's axes are: said once, remembered, and heeded wherever the file is opened."""

from __future__ import annotations

import io
import json
import sys

import numpy as np
import pytest
import tifffile

from napari_zeroseg import open_image
from napari_zeroseg.cli import main
from napari_zeroseg.errors import InputError
from napari_zeroseg.io.axes import remember_axes, remembered_axes


@pytest.fixture
def five() -> np.ndarray:
    """Five axes, of which no file format says what they are."""
    return np.arange(2 * 3 * 4 * 5 * 6, dtype=np.uint16).reshape(2, 3, 4, 5, 6)


def test_asked_once_and_remembered(tmp_path, five, capsys):
    np.save(tmp_path / "five.npy", five)
    assert main(["axes", str(tmp_path / "five.npy")]) == 1
    assert "say once what they are, such as `zeroseg axes FILE TZCYX`" in capsys.readouterr().err
    assert main(["axes", str(tmp_path / "five.npy"), "tzcyx"]) == 0
    assert "T 2, Z 3, C 4, Y 5, X 6, as you said" in capsys.readouterr().out
    for _ in range(2):
        picture = open_image(tmp_path / "five.npy")
        assert picture.axes == "TZCYX"
        assert (picture.planes().read(5) == five[0, 1, 1]).all()
    assert main(["axes", str(tmp_path / "five.npy"), "--forget", "--quiet"]) == 1
    assert remembered_axes(tmp_path / "five.npy") is None


@pytest.mark.parametrize("ending", ["npy", "tif", "zarr"])
def test_rows_and_columns_need_not_be_last(tmp_path, five, ending):
    volume, path = five[0, 0], tmp_path / f"volume.{ending}"
    if ending == "npy":
        np.save(path, volume)
    elif ending == "tif":
        tifffile.imwrite(path, volume, photometric="minisblack")
    else:
        import zarr

        zarr.save_array(path, volume)
    assert open_image(path).planes().read(1).shape == (5, 6)
    remember_axes(path, "YXZ")
    picture = open_image(path)
    assert picture.axes == "ZYX"
    assert (picture.planes().read(1) == volume[:, :, 1]).all()
    remember_axes(path, "XYT")
    assert (open_image(path).planes().read(1) == volume[:, :, 1].T).all()
    remember_axes(path, None)
    assert (open_image(path).planes().read(1) == volume[1]).all()


def test_a_file_that_says_it_wrong(tmp_path, five, capsys):
    path = tmp_path / "wrong.ome.tif"
    metadata = {"axes": "TYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25}
    tifffile.imwrite(path, five[0, 0], metadata=metadata, ome=True)
    assert open_image(path).axes == "TYX"
    assert main(["axes", str(path), "ZYX", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["axes"] == "ZYX"
    picture = open_image(path)
    assert picture.axes == "ZYX"
    assert picture.spacing["Y"] == 0.25
    assert picture.spacing["X"] == 0.5


def test_colours_are_no_axis(tmp_path):
    np.save(tmp_path / "rgb.npy", np.zeros((3, 8, 9, 3), np.uint8))
    remember_axes(tmp_path / "rgb.npy", "TYX")
    picture = open_image(tmp_path / "rgb.npy")
    assert (picture.axes, picture.rgb, picture.data.shape) == ("TYXS", True, (3, 8, 9, 3))


def test_a_folder_of_planes(tmp_path, five):
    for number, plane in enumerate(five[0, 0]):
        tifffile.imwrite(tmp_path / f"plane{number}.tif", plane)
    remember_axes(tmp_path, "TYX")
    assert open_image(tmp_path).axes == "TYX"


class _Terminal(io.StringIO):
    """What a person types."""

    def isatty(self) -> bool:
        return True


def test_a_person_at_the_terminal_is_asked_once(tmp_path, five, monkeypatch, capsys):
    np.save(tmp_path / "five.npy", five)
    monkeypatch.setattr(sys, "stdin", _Terminal("XYZ\nTZCYX\n"))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert main(["axes", str(tmp_path / "five.npy"), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["axes"] == "TZCYX"
    assert "XYZ names 3 axes. five.npy has 5 axes" in said.err
    assert main(["axes", str(tmp_path / "five.npy"), "--json"]) == 0  # from now on unasked
    np.save(tmp_path / "other.npy", five)
    monkeypatch.setattr(sys, "stdin", _Terminal("\n"))
    assert main(["axes", str(tmp_path / "other.npy")]) == 1
    assert remembered_axes(tmp_path / "other.npy") is None


@pytest.mark.parametrize("axes", ["ZY", "ZZYX", "Z", "Z-YX", ""])
def test_what_are_no_axes(tmp_path, five, axes):
    np.save(tmp_path / "a.npy", five)
    with pytest.raises(InputError, match="Axes are a letter for each"):
        remember_axes(tmp_path / "a.npy", axes)


def test_another_number_of_axes_is_not_kept(tmp_path, five, capsys):
    np.save(tmp_path / "a.npy", five[0])
    assert main(["axes", str(tmp_path / "a.npy"), "ZYX"]) == 1
    assert "has 4 axes, but ZYX names 3" in capsys.readouterr().err
    assert remembered_axes(tmp_path / "a.npy") is None
    assert open_image(tmp_path / "a.npy").axes == "TZYX"
    with pytest.raises(SystemExit):
        main(["axes", str(tmp_path / "a.npy"), "ZYX", "--forget"])


def test_a_damaged_memory_is_left_out_of_account(tmp_path, five, monkeypatch, caplog):
    np.save(tmp_path / "a.npy", five[0])
    monkeypatch.setenv("ZEROSEG_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "axes.json").write_text("[not json")
    assert open_image(tmp_path / "a.npy").axes == "TZYX"
    assert "left out of account" in caplog.text
    remember_axes(tmp_path / "a.npy", "ZCYX")
    assert open_image(tmp_path / "a.npy").axes == "ZCYX"

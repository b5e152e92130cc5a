"""Real pictures: two EM stacks, 16-bit TEM and chest X-rays."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import tifffile

from napari_zeroseg.intensity import to_uint8
from napari_zeroseg.io.read import open_image
from napari_zeroseg.planes import check_picture

pytestmark = pytest.mark.real


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("em_vnc/raw.tif", (20, 1024, 1024)),
        ("em_vnc/mitochondria.tif", (20, 1024, 1024)),
        ("em_sbem/train_raw.tif", (20, 1024, 1024)),
        ("em_sbem/validation_raw.tif", (10, 1024, 1024)),
    ],
)
def test_em_stacks(shared, name, shape):
    picture = open_image(shared / "data" / name)
    assert (picture.axes, picture.data.shape, picture.data.dtype) == ("ZYX", shape, np.uint8)
    planes = picture.planes()
    np.testing.assert_array_equal(planes.read(7), tifffile.imread(shared / "data" / name, key=7))
    if "raw" in name:
        check_picture(planes.read(7))


def test_sixteen_bit_tem(shared):
    picture = open_image(shared / "data" / "em_tem_16bit" / "raw.tif")
    assert (picture.data.shape, picture.data.dtype) == ((2, 888, 1336), np.uint16)
    plane = picture.planes().read(1)
    check_picture(plane)
    shown = to_uint8(plane)
    assert (shown.min(), shown.max()) == (0, 255)
    assert 60 < shown.mean() < 200


def test_chest_x_rays_and_lungs(shared):
    folder = shared / "data" / "cxr"
    with (folder / "index.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 30
    for path in sorted((folder / "images").glob("*.png")):
        picture = open_image(path)
        check_picture(picture.planes().read())
        lungs = open_image(folder / "lungs" / path.name)
        assert lungs.data.shape[:2] == picture.data.shape[:2]

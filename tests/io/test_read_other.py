"""PNG, JPEG, numpy, zarr, and what cannot be opened."""

from __future__ import annotations

import os
import zlib

import imagecodecs
import numpy as np
import pytest
import zarr
from PIL import Image

from napari_zeroseg.errors import InputError, InputTypeError, ReadError
from napari_zeroseg.io import raster
from napari_zeroseg.io.read import kind_of, open_image, open_images


@pytest.fixture
def grey() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (30, 41)).astype(np.uint8)


@pytest.fixture
def colour() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 255, (30, 41, 3)).astype(np.uint8)


class TestRaster:
    def test_grey_png(self, tmp_path, grey):
        Image.fromarray(grey).save(tmp_path / "a.png")
        picture = open_image(tmp_path / "a.png")
        assert (picture.axes, picture.rgb, picture.name) == ("YX", False, "a")
        np.testing.assert_array_equal(picture.data, grey)

    def test_sixteen_bits(self, tmp_path, grey):
        deep = grey.astype(np.uint16) * 257
        Image.fromarray(deep).save(tmp_path / "a.png")
        read = open_image(tmp_path / "a.png").data
        assert read.dtype == np.uint16
        np.testing.assert_array_equal(read, deep)

    def test_sixteen_bits_in_colour(self, tmp_path, colour):
        deep = colour.astype(np.uint16) * 200 + 3
        (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(deep))
        picture = open_image(tmp_path / "a.png")
        assert picture.rgb
        np.testing.assert_array_equal(picture.data, deep)

    def test_colour_and_alpha(self, tmp_path, colour, caplog):
        rgba = np.dstack([colour, colour[..., 0]])
        Image.fromarray(rgba).save(tmp_path / "a.png")
        with caplog.at_level("INFO"):
            picture = open_image(tmp_path / "a.png")
        assert (picture.axes, picture.rgb) == ("YXS", True)
        np.testing.assert_array_equal(picture.data, colour)
        assert "alpha channel" in caplog.text

    def test_grey_and_alpha(self, tmp_path, grey, caplog):
        Image.fromarray(np.dstack([grey, grey])).save(tmp_path / "a.png")
        with caplog.at_level("INFO"):
            np.testing.assert_array_equal(open_image(tmp_path / "a.png").data, grey)
        assert "alpha channel" in caplog.text

    def test_palette_and_one_bit(self, tmp_path, colour, grey):
        Image.fromarray(colour).quantize(16).save(tmp_path / "palette.png")
        assert open_image(tmp_path / "palette.png").data.shape == colour.shape
        Image.fromarray(grey > 99).save(tmp_path / "bits.png")
        np.testing.assert_array_equal(open_image(tmp_path / "bits.png").data, np.where(grey > 99, 255, 0))

    def test_jpeg(self, tmp_path, grey, colour):
        Image.fromarray(grey).save(tmp_path / "a.jpg")
        assert open_image(tmp_path / "a.jpg").data.shape == grey.shape
        Image.fromarray(colour).save(tmp_path / "b.jpeg")
        assert open_image(tmp_path / "b.jpeg").rgb
        Image.fromarray(colour).convert("CMYK").save(tmp_path / "c.jpg")
        assert open_image(tmp_path / "c.jpg").data.shape == colour.shape

    def test_a_hundred_thousand_pixels_wide(self, tmp_path):
        limit = Image.MAX_IMAGE_PIXELS
        wide = np.zeros((2000, 100_000), np.uint8)
        wide[:, ::1000] = 255
        (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(wide, level=1))
        assert wide.size > 2 * 89_478_485 or wide.size > limit  # beyond what Pillow warns about
        np.testing.assert_array_equal(open_image(tmp_path / "a.png").data, wide)
        assert limit == Image.MAX_IMAGE_PIXELS

    def test_a_picture_beyond_the_limit(self, tmp_path, grey):
        Image.fromarray(grey).save(tmp_path / "a.png")
        content = bytearray((tmp_path / "a.png").read_bytes())
        content[16:24] = (100_000).to_bytes(4) * 2
        content[29:33] = zlib.crc32(content[12:29]).to_bytes(4)
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(ReadError, match=f"{raster.MOST_PIXELS:,}.*tiled TIFF"):
            open_image(tmp_path / "a.png")

    @pytest.mark.parametrize("name", ["a.png", "a.jpg", "deep.png"])
    @pytest.mark.parametrize("share", [0.1, 0.6])
    def test_truncated(self, tmp_path, colour, name, share):
        if name == "deep.png":
            (tmp_path / name).write_bytes(imagecodecs.png_encode(colour.astype(np.uint16) * 257))
        else:
            Image.fromarray(colour).save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ReadError, match="damaged or truncated"):
            open_image(tmp_path / name)

    def test_a_folder_of_png(self, tmp_path, grey):
        for number in (1, 2, 10):
            Image.fromarray(grey // number).save(tmp_path / f"p{number}.png")
        picture = open_image(tmp_path)
        assert picture.axes == "ZYX"
        np.testing.assert_array_equal(picture.planes().read(2), grey // 10)

    def test_the_odd_one_in_a_folder_of_png(self, tmp_path, grey):
        Image.fromarray(grey).save(tmp_path / "1.png")
        Image.fromarray(grey[1:]).save(tmp_path / "2.png")
        with pytest.raises(InputError, match=r"2\.png is \(29, 41\)"):
            open_image(tmp_path).planes().read(1)


class TestNumpy:
    def test_memory_mapped(self, tmp_path):
        stack = np.random.default_rng(0).normal(size=(4, 20, 30)).astype(">f4")
        np.save(tmp_path / "a.npy", stack)
        picture = open_image(tmp_path / "a.npy")
        assert isinstance(picture.data, np.memmap)
        assert picture.axes == "ZYX"
        np.testing.assert_array_equal(picture.planes().read(3), stack[3])

    def test_colour(self, tmp_path):
        np.save(tmp_path / "a.npy", np.zeros((20, 30, 4), np.uint8))
        picture = open_image(tmp_path / "a.npy")
        assert (picture.rgb, picture.axes, picture.data.shape) == (True, "YXS", (20, 30, 3))

    @pytest.mark.parametrize(
        ("array", "error", "sentence"),
        [
            (np.zeros(5), InputError, "1 axes without names"),
            (np.zeros((1, 2, 3, 4, 5)), InputError, "5 axes without names"),
            (np.zeros((3, 3), complex), InputTypeError, "complex"),
            (np.full((3, 3), "a"), InputTypeError, "integers or floats was expected"),
            (np.zeros((0, 3)), ReadError, "no pixels"),
        ],
    )
    def test_arrays_that_are_no_pictures(self, tmp_path, array, error, sentence):
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(error, match=sentence):
            open_image(tmp_path / "a.npy")

    def test_objects_are_refused(self, tmp_path):
        np.save(tmp_path / "a.npy", np.array([[{}, {}]]), allow_pickle=True)
        with pytest.raises(ReadError, match="array of numbers"):
            open_image(tmp_path / "a.npy")

    @pytest.mark.parametrize("length", [8, 100, 200])
    def test_truncated(self, tmp_path, length):
        np.save(tmp_path / "a.npy", np.zeros((30, 40)))
        (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:length])
        with pytest.raises(ReadError, match=r"a\.npy could not be read"):
            open_image(tmp_path / "a.npy")


AXES = [
    {"name": "z", "type": "space", "unit": "micrometer"},
    {"name": "y", "type": "space", "unit": "nanometer"},
    {"name": "x", "type": "space", "unit": "nanometer"},
]


class TestZarr:
    def multiscale(self, path, stack, zarr_format):
        group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
        for level in range(2):
            part = stack[:, :: 2**level, :: 2**level]
            group.create_array(str(level), data=part, chunks=(1, 16, 16))
        datasets = [
            {
                "path": str(level),
                "coordinateTransformations": [{"type": "scale", "scale": [0.05, 4.6 * 2**level, 4.6 * 2**level]}],
            }
            for level in range(2)
        ]
        scales = [{"axes": AXES, "datasets": datasets, "version": "0.4"}]
        if zarr_format == 3:
            group.attrs["ome"] = {"version": "0.5", "multiscales": scales}
        else:
            group.attrs["multiscales"] = scales

    @pytest.mark.parametrize("zarr_format", [2, 3])
    def test_finest_level_with_spacing(self, tmp_path, zarr_format):
        stack = np.random.default_rng(0).integers(0, 60000, (4, 32, 48)).astype(np.uint16)
        self.multiscale(tmp_path / "a.ome.zarr", stack, zarr_format)
        picture = open_image(tmp_path / "a.ome.zarr")
        assert (picture.axes, picture.name) == ("ZYX", "a")
        assert picture.spacing == {"Z": 0.05, "Y": 0.0046, "X": 0.0046}
        assert picture.units == dict.fromkeys("ZYX", "micrometer")
        assert isinstance(picture.data, zarr.Array)
        np.testing.assert_array_equal(picture.planes().read(3), stack[3])

    @pytest.mark.parametrize("zarr_format", [2, 3])
    def test_plain_array(self, tmp_path, zarr_format):
        zarr.create_array(tmp_path / "a.zarr", data=np.ones((3, 20, 30), np.uint8), zarr_format=zarr_format)
        picture = open_image(tmp_path / "a.zarr")
        assert (picture.axes, picture.spacing) == ("ZYX", {})

    def test_group_with_one_array_and_with_two(self, tmp_path):
        group = zarr.open_group(tmp_path / "a.zarr", mode="w")
        group.create_array("raw", data=np.ones((20, 30)))
        assert open_image(tmp_path / "a.zarr").axes == "YX"
        group.create_array("other", data=np.ones((20, 30)))
        with pytest.raises(InputError, match="other, raw"):
            open_image(tmp_path / "a.zarr")

    def test_series_of_a_converter(self, tmp_path):
        root = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
        root.attrs["bioformats2raw.layout"] = 3
        self.multiscale(tmp_path / "a.zarr" / "0", np.ones((4, 32, 48), np.uint8), 2)
        assert open_image(tmp_path / "a.zarr").spacing["Z"] == 0.05

    def test_a_plate(self, tmp_path):
        root = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
        root.attrs["plate"] = {}
        with pytest.raises(InputError, match="plate of many pictures"):
            open_image(tmp_path / "a.zarr")

    @pytest.mark.parametrize("damage", ["axes", "path", "scale"])
    def test_damaged_metadata(self, tmp_path, damage):
        self.multiscale(tmp_path / "a.zarr", np.ones((4, 32, 48), np.uint8), 2)
        group = zarr.open_group(tmp_path / "a.zarr")
        (scale,) = group.attrs["multiscales"]
        if damage == "axes":
            scale["axes"] = scale["axes"][1:]
        elif damage == "path":
            scale["datasets"][0]["path"] = "nowhere"
        else:
            scale["datasets"][0]["coordinateTransformations"][0]["scale"] = [1, 2]
        group.attrs["multiscales"] = [scale]
        with pytest.raises(ReadError, match=r"OME metadata of a\.zarr is damaged"):
            open_image(tmp_path / "a.zarr")

    def test_garbage_instead_of_metadata(self, tmp_path):
        (tmp_path / "a.zarr").mkdir()
        (tmp_path / "a.zarr" / "zarr.json").write_text("{")
        with pytest.raises(ReadError, match="could not be read as zarr"):
            open_image(tmp_path / "a.zarr")

    def test_a_damaged_chunk_is_named(self, tmp_path):
        self.multiscale(tmp_path / "a.zarr", np.random.default_rng(0).integers(0, 255, (4, 32, 48)).astype(np.uint8), 3)
        chunk = tmp_path / "a.zarr" / "0" / "c" / "2" / "0" / "0"
        chunk.write_bytes(b"rubbish")
        planes = open_image(tmp_path / "a.zarr").planes()
        planes.read(1)
        with pytest.raises(ReadError, match=r"Plane \(2,\) of the picture could not be read"):
            planes.read(2)


class TestRefusals:
    def test_missing(self, tmp_path):
        with pytest.raises(ReadError, match="There is no file or folder"):
            open_image(tmp_path / "nothing.tif")

    @pytest.mark.parametrize("name", ["a.tif", "a.png", "a.npy", "a.dcm", "a"])
    def test_empty(self, tmp_path, name):
        (tmp_path / name).touch()
        with pytest.raises(ReadError, match=r"is empty \(0 bytes\)"):
            open_image(tmp_path / name)

    @pytest.mark.parametrize("name", ["a.tif", "a.TIFF", "a.png", "a.jpg", "a.npy", "a.dcm"])
    def test_text_under_another_name(self, tmp_path, name):
        (tmp_path / name).write_text("Dear reader, this is no picture. " * 9)
        with pytest.raises(ReadError, match="though its ending says so"):
            open_image(tmp_path / name)

    def test_unknown_ending(self, tmp_path):
        (tmp_path / "a.docx").write_bytes(b"PK\x03\x04")
        with pytest.raises(ReadError, match=r"no kind that is read: a TIFF \(\.tif"):
            open_image(tmp_path / "a.docx")

    def test_the_content_counts_not_the_name(self, tmp_path, grey):
        Image.fromarray(grey).save(tmp_path / "a.png")
        (tmp_path / "a.png").rename(tmp_path / "a.tif")
        np.testing.assert_array_equal(open_image(tmp_path / "a.tif").data, grey)

    def test_folders_without_pictures(self, tmp_path):
        with pytest.raises(ReadError, match="holds no picture"):
            open_image(tmp_path)
        (tmp_path / "notes.txt").write_text("nothing")
        with pytest.raises(ReadError, match="holds no picture"):
            open_image(tmp_path)

    def test_devices_and_pipes_do_not_hang(self):
        with pytest.raises(ReadError, match="neither a file nor a folder"):
            open_image(os.devnull)

    def test_files_of_two_kinds_are_no_stack(self, tmp_path, grey):
        Image.fromarray(grey).save(tmp_path / "a.png")
        np.save(tmp_path / "b.npy", grey)
        with pytest.raises(InputError, match="one kind"):
            open_images([tmp_path / "a.png", tmp_path / "b.npy"])
        with pytest.raises(InputError, match="at least one"):
            open_images([])

    def test_arrays_in_a_folder_are_not_joined(self, tmp_path, grey):
        np.save(tmp_path / "a.npy", grey)
        assert open_image(tmp_path).name == "a"
        np.save(tmp_path / "b.npy", grey)
        with pytest.raises(InputError, match="open one of them"):
            open_image(tmp_path)


def test_kinds_are_told_without_reading(tmp_path, grey):
    Image.fromarray(grey).save(tmp_path / "a.png")
    zarr.open_group(tmp_path / "b.zarr", mode="w")
    (tmp_path / "c.tif").write_text("text")
    (tmp_path / "d").mkdir()
    assert kind_of(tmp_path / "a.png") == "PNG"
    assert kind_of(tmp_path / "b.zarr") == "zarr"
    assert kind_of(tmp_path) == "folder"
    for name in ("c.tif", "d", "missing.tif", "https://example.org/a.tif"):
        assert kind_of(tmp_path / name) is None

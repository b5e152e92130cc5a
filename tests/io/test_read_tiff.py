"""TIFF of every kind, written by tifffile and read plane by plane."""

from __future__ import annotations

import contextlib
import os
import struct

import dask.array as da
import numpy as np
import pytest
import tifffile

from napari_zeroseg.errors import InputError, InputTypeError, ReadError
from napari_zeroseg.io.read import open_image


@pytest.fixture
def volume() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 250, (6, 40, 50)).astype(np.uint8)


def _read_all(path):
    planes = open_image(path).planes()
    for index in range(len(planes)):
        planes.read(index)


KINDS = {
    "plain": {},
    "no metadata": {"metadata": None},
    "zlib": {"compression": "zlib"},
    "lzw": {"compression": "lzw", "predictor": True},
    "tiled": {"tile": (16, 16), "compression": "zlib"},
    "BigTIFF": {"bigtiff": True},
    "big-endian": {"byteorder": ">"},
    "big-endian compressed": {"byteorder": ">", "compression": "zlib"},
    "ImageJ": {"imagej": True, "metadata": {"axes": "ZYX"}},
    "OME": {"ome": True, "metadata": {"axes": "ZYX"}},
    "strips": {"rowsperstrip": 7},
}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_planes(tmp_path, volume, kind, dtype):
    options = dict(KINDS[kind])
    if options.get("predictor") and dtype == "float32":
        options["predictor"] = None
    path = tmp_path / ("stack.ome.tif" if kind == "OME" else "stack.tif")
    tifffile.imwrite(path, volume.astype(dtype), photometric="minisblack", **options)
    picture = open_image(path)
    assert picture.axes == "ZYX"
    assert picture.name == "stack"
    assert not picture.rgb
    planes = picture.planes()
    assert len(planes) == 6
    for index in (5, 0, 3):
        np.testing.assert_array_equal(planes.read(index), volume[index].astype(dtype))
        assert planes.read(index).dtype.isnative


def test_compressed_stacks_are_lazy_and_others_mapped(tmp_path, volume):
    tifffile.imwrite(tmp_path / "a.tif", volume, compression="zlib")
    tifffile.imwrite(tmp_path / "b.tif", volume)
    lazy = open_image(tmp_path / "a.tif").data
    assert isinstance(lazy, da.Array)
    assert lazy.chunks[0] == (1,) * 6
    assert isinstance(open_image(tmp_path / "b.tif").data, np.memmap)


def test_only_the_page_asked_for_is_decoded(tmp_path, volume, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", volume, compression="zlib", metadata=None)
    planes = open_image(tmp_path / "a.tif").planes()
    decoded = []
    original = tifffile.TiffPage.asarray
    frame = tifffile.TiffFrame.asarray

    def counted(page, *args, **kwargs):
        decoded.append(page.index)
        return original(page, *args, **kwargs) if isinstance(page, tifffile.TiffPage) else frame(page, *args, **kwargs)

    monkeypatch.setattr(tifffile.TiffPage, "asarray", counted)
    monkeypatch.setattr(tifffile.TiffFrame, "asarray", counted)
    np.testing.assert_array_equal(planes.read(4), volume[4])
    assert set(decoded) == {4}


def test_slices_of_a_lazy_stack(tmp_path, volume):
    tifffile.imwrite(tmp_path / "a.tif", volume, compression="zlib")
    data = open_image(tmp_path / "a.tif").data
    np.testing.assert_array_equal(data[1:5:2, 3:9, ::-1], volume[1:5:2, 3:9, ::-1])
    np.testing.assert_array_equal(data[:, 7], volume[:, 7])
    np.testing.assert_array_equal(data, volume)


def test_many_threads_read_one_stack(tmp_path, volume):
    big = np.repeat(volume, 10, axis=0)
    tifffile.imwrite(tmp_path / "a.tif", big, compression="zlib")
    data = open_image(tmp_path / "a.tif").data
    np.testing.assert_array_equal(data.compute(scheduler="threads", num_workers=8), big)


@pytest.mark.parametrize(
    ("unit", "expected"),
    [("um", 1.0), ("\\u00B5m", 1.0), ("micron", 1.0), ("nm", 1e-3), ("mm", 1e3), ("cm", 1e4), ("inch", 25400.0)],
)
def test_imagej_voxel_size(tmp_path, volume, unit, expected):
    metadata = {"axes": "ZYX", "spacing": 4.5, "unit": unit}
    tifffile.imwrite(tmp_path / "a.tif", volume, imagej=True, resolution=(1 / 0.25, 1 / 0.5), metadata=metadata)
    picture = open_image(tmp_path / "a.tif")
    assert picture.spacing == pytest.approx({"Z": 4.5 * expected, "Y": 0.5 * expected, "X": 0.25 * expected}, rel=1e-6)
    assert picture.units == dict.fromkeys("ZYX", "micrometer")
    assert picture.planes().spacing == pytest.approx((0.5 * expected, 0.25 * expected), rel=1e-6)


def test_imagej_hyperstack_with_time(tmp_path, volume):
    stack = volume.reshape(3, 2, 40, 50)
    metadata = {"axes": "TCYX", "finterval": 2.5, "unit": "um"}
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, resolution=(10, 10), metadata=metadata)
    picture = open_image(tmp_path / "a.tif")
    assert picture.axes == "TCYX"
    assert picture.spacing == pytest.approx({"T": 2.5, "Y": 0.1, "X": 0.1})
    assert picture.units["T"] == "second"


def test_imagej_without_unit_has_no_spacing(tmp_path, volume):
    tifffile.imwrite(tmp_path / "a.tif", volume, imagej=True, metadata={"axes": "ZYX", "spacing": 3.0})
    assert open_image(tmp_path / "a.tif").spacing == {}


def test_ome_voxel_size(tmp_path, volume):
    metadata = {"axes": "ZYX"}
    for axis, (size, unit) in {"X": (4.6, "nm"), "Y": (4.6, "nm"), "Z": (0.045, "µm")}.items():
        metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": unit}
    tifffile.imwrite(tmp_path / "a.ome.tif", volume, metadata=metadata)
    picture = open_image(tmp_path / "a.ome.tif")
    assert picture.spacing == {"Z": 0.045, "Y": 0.0046, "X": 0.0046}
    assert picture.name == "a"


def test_resolution_of_a_microscope_counts_and_of_a_printer_does_not(tmp_path, volume):
    tifffile.imwrite(tmp_path / "fine.tif", volume[0], resolution=(2e6, 1e6), resolutionunit="CENTIMETER")
    tifffile.imwrite(tmp_path / "print.tif", volume[0], resolution=(300, 300), resolutionunit="INCH")
    assert open_image(tmp_path / "fine.tif").spacing == pytest.approx({"Y": 0.01, "X": 0.005})
    assert open_image(tmp_path / "print.tif").spacing == {}


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("shape", [(40, 50), (4, 40, 50)])
def test_colour(tmp_path, shape, compression, planar):
    picture = np.random.default_rng(1).integers(0, 255, (*shape, 3)).astype(np.uint8)
    stored = picture if planar == "contig" else np.moveaxis(picture, -1, -3)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planar, compression=compression)
    read = open_image(tmp_path / "a.tif")
    assert read.rgb
    assert read.axes == ("YXS" if len(shape) == 2 else "ZYXS")
    np.testing.assert_array_equal(read.data, picture)


def test_alpha_is_left_out(tmp_path, caplog):
    picture = np.random.default_rng(1).integers(0, 255, (20, 30, 4)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", picture, photometric="rgb", extrasamples=["unassalpha"])
    with caplog.at_level("INFO"):
        read = open_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(read.data, picture[..., :3])
    assert "alpha channel" in caplog.text


def test_samples_that_are_no_colours_are_channels(tmp_path):
    picture = np.random.default_rng(1).integers(0, 255, (20, 30, 5)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", picture, photometric="minisblack", planarconfig="contig")
    read = open_image(tmp_path / "a.tif")
    assert read.axes == "CYX"
    np.testing.assert_array_equal(read.data, np.moveaxis(picture, -1, 0))


def test_white_zero_is_turned_round(tmp_path):
    picture = np.arange(600, dtype=np.uint16).reshape(20, 30)
    tifffile.imwrite(tmp_path / "a.tif", picture, photometric="miniswhite")
    np.testing.assert_array_equal(open_image(tmp_path / "a.tif").data, 65535 - picture)


def test_volumes_inside_one_page(tmp_path):
    volume = np.random.default_rng(1).integers(0, 255, (32, 48, 64)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", volume, volumetric=True, tile=(16, 16, 16), compression="zlib")
    read = open_image(tmp_path / "a.tif")
    assert read.axes == "ZYX"
    np.testing.assert_array_equal(read.data, volume)


def test_one_plane_and_other_types(tmp_path):
    for dtype in ("int16", "int32", "float64", "bool"):
        plane = (np.arange(1200).reshape(30, 40) % 2).astype(dtype)
        tifffile.imwrite(tmp_path / "a.tif", plane)
        read = open_image(tmp_path / "a.tif")
        assert read.axes == "YX"
        np.testing.assert_array_equal(read.data, plane)


def test_four_axes_without_names_are_time_and_depth(tmp_path, volume):
    tifffile.imwrite(tmp_path / "a.tif", volume.reshape(2, 3, 40, 50), photometric="minisblack")
    picture = open_image(tmp_path / "a.tif")
    assert picture.axes == "TZYX"
    np.testing.assert_array_equal(picture.planes().read((1, 2)), volume[5])


def test_five_axes_need_names(tmp_path, volume):
    stack = volume.reshape(1, 2, 3, 40, 50).repeat(2, 0)
    tifffile.imwrite(tmp_path / "named.tif", stack, metadata={"axes": "TCZYX"}, ome=True, photometric="minisblack")
    assert open_image(tmp_path / "named.tif").axes == "TCZYX"
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    with pytest.raises(InputError, match="5 axes without names"):
        open_image(tmp_path / "a.tif")


def test_complex_pixels(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((20, 30), np.complex64))
    with pytest.raises(InputTypeError, match="complex"):
        open_image(tmp_path / "a.tif")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.03, 0.5, 0.98])
def test_truncated_files_say_so(tmp_path, volume, kind, share):
    whole = tmp_path / "whole.tif"
    tifffile.imwrite(whole, volume, photometric="minisblack", **KINDS[kind])
    cut = tmp_path / "cut.tif"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
    with pytest.raises(ReadError, match=r"cut\.tif (is truncated|is cut off|is a damaged|is not a TIFF|could not)"):
        _read_all(cut)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_damaged_plane_is_named_and_the_others_are_read(tmp_path, volume, compression):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        for plane in volume:
            tif.write(plane, contiguous=False, metadata=None, compression=compression)
    with tifffile.TiffFile(path) as tif:
        tag = tif.pages[3].tags["StripOffsets"]
        place = tag.offset + 8  # one strip: the value stands in the tag itself
    with path.open("r+b") as file:
        file.seek(place)
        file.write(struct.pack("<I", path.stat().st_size - 10))
    planes = open_image(path).planes()
    np.testing.assert_array_equal(planes.read(2), volume[2])
    np.testing.assert_array_equal(planes.read(5), volume[5])
    with pytest.raises(ReadError, match=r"Plane 3 of a\.tif is cut off"):
        planes.read(3)


def test_a_plane_that_does_not_decode_is_named(tmp_path, volume):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, volume, compression="zlib", metadata=None)
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages[2].dataoffsets[0]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\0" * 200)
    planes = open_image(path).planes()
    planes.read(1)
    with pytest.raises(ReadError, match=r"Plane 2 of a\.tif could not be decoded"):
        planes.read(2)


def imagej_with_one_directory(path, volume, planes):
    """As ImageJ writes more than 4 GB: all pixels behind one directory."""
    description = f"ImageJ=1.54f\nimages={len(volume)}\nslices={len(volume)}\nunit=um\nspacing=2.0\n"
    tifffile.imwrite(path, volume[0], metadata=None, description=description, resolution=(10, 10))
    with path.open("ab") as file:
        file.write(volume[1:planes].tobytes())


def test_imagej_with_one_directory_for_all_planes(tmp_path, volume):
    imagej_with_one_directory(tmp_path / "a.tif", volume, 6)
    picture = open_image(tmp_path / "a.tif")
    assert isinstance(picture.data, np.memmap)
    assert picture.spacing == pytest.approx({"Z": 2, "Y": 0.1, "X": 0.1})
    np.testing.assert_array_equal(picture.data, volume)
    imagej_with_one_directory(tmp_path / "a.tif", volume, 4)
    with pytest.raises(ReadError, match="it says that it has 6 planes"):
        open_image(tmp_path / "a.tif")


def test_one_directory_and_too_few_pixels(tmp_path, volume):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, volume, metadata={"axes": "ZYX", "truncate": True})
    assert open_image(path).data.shape == volume.shape
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(ReadError, match="truncated"):
        open_image(path)


OME_PLANE = '<TiffData FirstZ="{z}" IFD="0" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{uuid}</UUID></TiffData>'
OME = (
    '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
    'UUID="urn:uuid:{own}"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="50" '
    'SizeY="40" SizeZ="{count}" SizeC="1" SizeT="1" PhysicalSizeX="4" PhysicalSizeY="4" PhysicalSizeXUnit="nm" '
    'PhysicalSizeYUnit="nm">{planes}</Pixels></Image></OME>'
)


@pytest.mark.parametrize("missing", [None, 1])
def test_ome_stack_over_several_files(tmp_path, volume, missing):
    uuids = [f"00000000-0000-0000-0000-00000000000{z}" for z in range(3)]
    names = [f"p{z}.ome.tif" for z in range(3)]
    planes = "".join(
        OME_PLANE.format(z=z, name=name, uuid=uuid)
        for z, (name, uuid) in enumerate(zip(names, uuids, strict=True))
        if z != missing
    )
    for z, (name, uuid) in enumerate(zip(names, uuids, strict=True)):
        if z != missing:
            xml = OME.format(own=uuid, count=3, planes=planes)
            tifffile.imwrite(tmp_path / name, volume[z], description=xml, metadata=None, compression="zlib")
    for path in (tmp_path / "p0.ome.tif", tmp_path):
        picture = open_image(path)
        assert picture.axes == "ZYX"
        assert picture.spacing == {"Y": 0.004, "X": 0.004}
        expected = [volume[z] * (z != missing) for z in range(3)]
        for z in range(3):
            np.testing.assert_array_equal(picture.planes().read(z), expected[z])


def test_pages_in_a_circle_do_not_hang(tmp_path, volume):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        for plane in volume[:2]:
            tif.write(plane, contiguous=False, metadata=None)
    with tifffile.TiffFile(path) as tif:
        first, last = tif.pages[0].offset, tif.pages[1].offset
        entries = len(tif.pages[0].tags)
    with path.open("r+b") as file:
        file.seek(last + 2 + 12 * entries)
        file.write(struct.pack("<I", first))
    with pytest.raises(ReadError, match="circle"):
        open_image(path)


def test_a_file_that_goes_away(tmp_path, volume):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, volume, compression="zlib")
    planes = open_image(path).planes()
    path.unlink()
    with pytest.raises(ReadError, match="no longer there"):
        planes.read(0)


def test_random_damage_never_escapes_as_another_error(tmp_path, volume):
    whole = tmp_path / "whole.tif"
    tifffile.imwrite(whole, volume, compression="zlib", tile=(16, 16), ome=True)
    content = whole.read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "broken.tif"
    for _ in range(60):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content) if rng.random() < 0.5 else 400, 6):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(ReadError, InputError, InputTypeError):
            _read_all(path)


class TestFolder:
    def test_planes_in_natural_order(self, tmp_path, volume):
        for number, plane in zip((1, 2, 3, 10, 11, 20), volume, strict=True):
            tifffile.imwrite(tmp_path / f"plane{number}.tif", plane)
        (tmp_path / "Thumbs.db").write_bytes(b"\0" * 50)
        (tmp_path / "notes.txt").write_text("about the stack")
        (tmp_path / ".plane4.tif").write_bytes(b"hidden")
        picture = open_image(tmp_path)
        assert picture.axes == "ZYX"
        assert picture.name == tmp_path.name
        np.testing.assert_array_equal(picture.data, volume)
        np.testing.assert_array_equal(picture.planes().read(3), volume[3])

    def test_files_are_read_when_used(self, tmp_path, volume):
        for number, plane in enumerate(volume):
            tifffile.imwrite(tmp_path / f"{number}.tif", plane)
        planes = open_image(tmp_path).planes()
        os.remove(tmp_path / "4.tif")  # noqa: PTH107 - by the system, as a user would
        np.testing.assert_array_equal(planes.read(5), volume[5])
        with pytest.raises(ReadError, match=r"4\.tif is no longer there"):
            planes.read(4)

    def test_files_of_several_planes(self, tmp_path, volume):
        for number in range(2):
            part = volume[3 * number : 3 * number + 3]
            tifffile.imwrite(tmp_path / f"{number}.tif", part, photometric="minisblack", compression="zlib")
        picture = open_image(tmp_path)
        assert picture.axes == "TZYX"
        np.testing.assert_array_equal(picture.planes().read((1, 2)), volume[5])

    def test_voxel_size_comes_from_the_first(self, tmp_path, volume):
        for number, plane in enumerate(volume):
            tifffile.imwrite(
                tmp_path / f"{number}.tif", plane, imagej=True, resolution=(100, 100), metadata={"unit": "um"}
            )
        assert open_image(tmp_path).spacing == pytest.approx({"Y": 0.01, "X": 0.01})

    @pytest.mark.parametrize("odd", [np.zeros((40, 51), np.uint8), np.zeros((40, 50), np.uint16)])
    def test_the_odd_file_is_named(self, tmp_path, volume, odd):
        for number, plane in enumerate(volume):
            tifffile.imwrite(tmp_path / f"{number}.tif", plane if number != 4 else odd)
        with pytest.raises(InputError, match=r"4\.tif is 40 x 5\d uint\d+ but 0\.tif is 40 x 50 uint8"):
            open_image(tmp_path)

    def test_a_text_among_them_is_named(self, tmp_path, volume):
        tifffile.imwrite(tmp_path / "0.tif", volume[0])
        (tmp_path / "1.tif").write_text("not a picture")
        tifffile.imwrite(tmp_path / "2.tif", volume[2])
        planes = open_image(tmp_path).planes()
        np.testing.assert_array_equal(planes.read(2), volume[2])
        with pytest.raises(ReadError, match=r"Plane 1: 1\.tif is not a TIFF"):
            planes.read(1)

    def test_a_cut_file_is_named_when_its_plane_is_read(self, tmp_path, volume):
        for number, plane in enumerate(volume):
            tifffile.imwrite(tmp_path / f"{number}.tif", plane)
        path = tmp_path / "2.tif"
        path.write_bytes(path.read_bytes()[:-300])
        planes = open_image(tmp_path).planes()
        planes.read(1)
        with pytest.raises(ReadError, match=r"Plane 2: 2\.tif is cut off"):
            planes.read(2)


def test_nonsense_of_any_kind_is_a_damaged_file(tmp_path):
    """It leads behind the end of what a system can seek, or has tags of types that make no sense."""
    path, rng = tmp_path / "picture.tif", np.random.default_rng(0)
    tifffile.imwrite(path, np.zeros((64, 80), np.uint8), bigtiff=True)
    whole = path.read_bytes()
    path.write_bytes(whole[:8] + b"\xff" * 8 + whole[16:])
    with pytest.raises(ReadError, match="is truncated"):
        open_image(path)
    tifffile.imwrite(path, np.zeros((64, 80), np.uint8))
    whole = path.read_bytes()
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[8:200] = rng.permutation(np.frombuffer(whole[8:200], np.uint8)).tobytes()
        path.write_bytes(damaged)
        with contextlib.suppress(ReadError, InputError, InputTypeError):
            open_image(path)

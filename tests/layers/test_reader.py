"""The reader as napari finds it: through npe2 and into a viewer's layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from napari.components import ViewerModel
from npe2 import PluginManager, PluginManifest
from PIL import Image
from pydicom.data import get_testdata_file

from napari_zeroseg._napari import samples
from napari_zeroseg._napari.reader import get_reader
from napari_zeroseg.errors import ReadError
from napari_zeroseg.io.write import write_labels

MANIFEST = Path(__file__).parents[2] / "napari.yaml"


@pytest.fixture
def plugins() -> PluginManager:
    """Only our own manifest, straight from the checkout."""
    manager = PluginManager()
    manager.register(PluginManifest.from_file(MANIFEST))
    manager.activate("napari-zeroseg")
    return manager


@pytest.fixture
def volume() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 250, (6, 40, 50)).astype(np.uint8)


def opened(path):
    read = get_reader(path)
    assert read is not None
    viewer = ViewerModel()
    for layer_data in read(path):
        viewer._add_layer_from_data(*layer_data)
    (layer,) = viewer.layers
    return layer


def test_npe2_reads_a_stack_with_it(tmp_path, volume, plugins):
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, volume)
    (contribution,) = plugins.iter_compatible_readers([str(path)])
    assert contribution.plugin_name == "napari-zeroseg"
    read = contribution.exec(kwargs={"path": [str(path)], "stack": False}, _registry=plugins.commands)
    ((data, options, kind),) = read([str(path)], stack=False)
    assert (kind, options["name"]) == ("image", "stack")
    np.testing.assert_array_equal(data, volume)


def test_a_viewer_opens_it_by_name(tmp_path, volume):
    PluginManager.instance().discover()
    tifffile.imwrite(tmp_path / "stack.tif", volume, compression="zlib")
    viewer = ViewerModel()
    (layer,) = viewer.open(str(tmp_path / "stack.tif"), plugin="napari-zeroseg")
    assert layer.source.reader_plugin == "napari-zeroseg"
    np.testing.assert_array_equal(layer.data, volume)


def test_voxel_size_becomes_scale_and_units(tmp_path, volume):
    path = tmp_path / "stack.tif"
    metadata = {"axes": "ZYX", "spacing": 0.05, "unit": "um"}
    tifffile.imwrite(path, volume, imagej=True, resolution=(200, 250), metadata=metadata)
    layer = opened(str(path))
    np.testing.assert_allclose(layer.scale, (0.05, 0.004, 0.005))
    assert [str(unit) for unit in layer.units] == ["micrometer"] * 3
    assert layer.contrast_limits == [0, 255]
    assert layer.colormap.name == "gray"


def test_unknown_depth_is_drawn_in_pixels(tmp_path, volume):
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, volume, resolution=(2e6, 1e6), resolutionunit="CENTIMETER", metadata={"axes": "ZYX"})
    layer = opened(str(path))
    np.testing.assert_allclose(layer.scale, (1, 0.01, 0.005))
    assert [str(unit) for unit in layer.units] == ["pixel", "micrometer", "micrometer"]


def test_half_a_pixel_size_is_none(tmp_path, volume):
    path = tmp_path / "stack.ome.tif"
    tifffile.imwrite(path, volume, metadata={"axes": "ZYX", "PhysicalSizeX": 4.0, "PhysicalSizeZ": 2.0})
    np.testing.assert_allclose(opened(str(path)).scale, (2, 1, 1))


def test_sixteen_bits_get_the_percentiles_of_the_middle_plane(tmp_path, volume):
    deep = volume.astype(np.uint16) * 20 + 1000
    deep[0] = 65535
    tifffile.imwrite(tmp_path / "stack.tif", deep, compression="zlib")
    layer = opened(str(tmp_path / "stack.tif"))
    np.testing.assert_allclose(layer.contrast_limits, np.percentile(deep[3], (0.1, 99.9)))


def test_a_damaged_middle_plane_does_not_keep_the_stack_closed(tmp_path, volume):
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, volume.astype(np.uint16), compression="zlib", metadata=None)
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages[3].dataoffsets[0]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\0" * 200)
    ((data, options, _),) = get_reader(str(path))(str(path))
    assert "contrast_limits" not in options
    np.testing.assert_array_equal(data[1], volume[1])


def test_several_files_are_one_stack(tmp_path, volume):
    paths = []
    for number, plane in enumerate(volume):
        paths.append(str(tmp_path / f"{number}.tif"))
        tifffile.imwrite(paths[-1], plane)
    layer = opened(paths)
    np.testing.assert_array_equal(layer.data, volume)
    np.testing.assert_array_equal(opened(str(tmp_path)).data, volume)


def test_colour(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (3, 30, 40, 3)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", picture, photometric="rgb")
    layer = opened(str(tmp_path / "a.tif"))
    assert layer.rgb
    assert layer.ndim == 3


def test_zarr_is_not_read_whole(tmp_path, volume):
    write_labels(tmp_path / "a.ome.zarr", volume, (0.05, 0.004, 0.005))
    layer = opened(str(tmp_path / "a.ome.zarr"))
    assert isinstance(layer.data, zarr.Array)
    np.testing.assert_allclose(layer.scale, (0.05, 0.004, 0.005))


def test_dicom_has_its_window_and_millimetres():
    layer = opened(get_testdata_file("MR_small.dcm", download=False))
    np.testing.assert_allclose(layer.scale, (0.3125, 0.3125))
    assert [str(unit) for unit in layer.units] == ["millimeter"] * 2
    assert layer.contrast_limits == [-200, 1399]
    assert layer.metadata["zeroseg"]["modality"] == "MR"


def test_only_what_can_be_read_is_claimed(tmp_path, volume):
    Image.fromarray(volume[0]).save(tmp_path / "a.png")
    (tmp_path / "text.tif").write_text("not a picture")
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "folder").mkdir()
    for name in ("text.png", "folder", "missing.tif"):
        assert get_reader(str(tmp_path / name)) is None
    assert get_reader("https://example.org/a.tif") is None
    assert get_reader([]) is None
    assert get_reader([str(tmp_path / "a.png"), str(tmp_path / "text.tif")]) is None
    assert get_reader([str(tmp_path), str(tmp_path)]) is None
    assert get_reader([str(tmp_path / "a.png")]) is not None


@pytest.mark.parametrize("ending", [".tif", ".TIFF", ".dcm", ".dicom", ".npy"])
@pytest.mark.parametrize("content", ["", "not a picture"])
def test_a_file_that_is_not_what_its_ending_says_gets_a_sentence(tmp_path, ending, content):
    path = tmp_path / f"wrong{ending}"
    path.write_text(content)
    for paths in (str(path), [str(path)]):
        with pytest.raises(ReadError, match="empty" if not content else "not a|damaged|no kind"):
            get_reader(paths)(paths)


def test_a_folder_that_is_no_zarr_gets_a_sentence(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    with pytest.raises(ReadError):
        get_reader(str(tmp_path / "a.zarr"))(str(tmp_path / "a.zarr"))


def test_a_viewer_opens_a_wrong_file_with_our_sentence(tmp_path):
    PluginManager.instance().discover()
    (tmp_path / "text.tif").write_text("not a picture")
    with pytest.raises(ReadError, match="not a TIFF picture"):
        ViewerModel().open(str(tmp_path / "text.tif"), plugin="napari-zeroseg")


def test_faults_come_as_sentences(tmp_path, volume):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, volume)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ReadError, match="is truncated"):
        get_reader(str(path))(str(path))


def test_samples_open(plugins):
    viewer = ViewerModel()
    for layer_data in samples.em_like():
        viewer._add_layer_from_data(*layer_data)
    raw, truth = viewer.layers
    assert raw.data.shape == truth.data.shape == (8, 512, 512)
    assert not truth.visible
    keys = {sample.key for _, contributed in plugins.iter_sample_data() for sample in contributed}
    assert keys == {"em_like", "chest_cr"}


def test_the_chest_sample_opens():
    pytest.importorskip("data_store", reason="pydicom-data (the extra 'samples') is not installed")
    viewer = ViewerModel()
    for layer_data in samples.chest_radiograph():
        viewer._add_layer_from_data(*layer_data)
    (layer,) = viewer.layers
    assert layer.data.shape == (1955, 1841)
    assert layer.contrast_limits == [2768, 32767]

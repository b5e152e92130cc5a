"""DICOM: made by pydicom, and the real and the odd files that come with it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from napari_zeroseg.errors import InputError, InputTypeError, ReadError
from napari_zeroseg.io.read import kind_of, open_image
from napari_zeroseg.io.sample_files import chest_radiograph


def sample(name: str) -> Path:
    found = get_testdata_file(name, download=False)
    assert found, name
    return Path(found)


def make(path: Path, pixels: np.ndarray, **elements: object) -> Path:
    """Write a small DICOM file; elements override or, with None, remove."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.Modality = "CR"
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    if pixels.ndim == 3:
        dataset.NumberOfFrames = len(pixels)
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4000, (20, 30)).astype(np.uint16)


def test_a_plain_file(tmp_path, pixels):
    picture = open_image(make(tmp_path / "a.dcm", pixels, PixelSpacing=[0.4, 0.2]))
    assert (picture.axes, picture.name, picture.rgb) == ("YX", "a", False)
    assert picture.spacing == {"Y": 0.4, "X": 0.2}
    assert picture.units == {"Y": "millimeter", "X": "millimeter"}
    assert "contrast_limits" not in picture.metadata
    np.testing.assert_array_equal(picture.data, pixels)
    assert picture.data.dtype == np.uint16


@pytest.mark.parametrize("name", ["ImagerPixelSpacing", "NominalScannedPixelSpacing"])
def test_other_spacings_stand_in(tmp_path, pixels, name):
    picture = open_image(make(tmp_path / "a.dcm", pixels, **{name: [0.3, 0.1]}))
    assert picture.spacing == {"Y": 0.3, "X": 0.1}


def test_spacing_of_nothing_is_unknown_and_the_next_one_counts(tmp_path, pixels, caplog):
    path = make(tmp_path / "a.dcm", pixels, PixelSpacing=[0, 0], ImagerPixelSpacing=[0.3, 0.1])
    with caplog.at_level("INFO"):
        assert open_image(path).spacing == {"Y": 0.3, "X": 0.1}
    assert "taken as unknown" in caplog.text


def test_monochrome1_is_turned_round_with_its_window(tmp_path, pixels):
    path = make(
        tmp_path / "a.dcm",
        pixels,
        PhotometricInterpretation="MONOCHROME1",
        BitsStored=12,
        HighBit=11,
        WindowCenter=1000,
        WindowWidth=401,
    )
    picture = open_image(path)
    np.testing.assert_array_equal(picture.data, 4095 - pixels)
    assert picture.metadata["inverted"]
    assert "MONOCHROME1" in picture.metadata["note"]
    # 799.5 to 1199.5 before.
    assert picture.metadata["contrast_limits"] == (4095 - 1199.5, 4095 - 799.5)


def test_rescaled_to_hounsfield_units(tmp_path, pixels):
    path = make(
        tmp_path / "a.dcm", pixels, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=[40, 300], WindowWidth=[400, 9]
    )
    picture = open_image(path)
    np.testing.assert_array_equal(picture.data, pixels.astype(int) - 1024)
    assert picture.data.dtype == np.int32
    assert picture.metadata["contrast_limits"] == (40 - 0.5 - 199.5, 40 - 0.5 + 199.5)


def test_fractional_slope_and_turned_round(tmp_path, pixels):
    path = make(
        tmp_path / "a.dcm",
        pixels,
        RescaleSlope="0.5",
        RescaleIntercept="10",
        PhotometricInterpretation="MONOCHROME1",
        BitsStored=12,
        HighBit=11,
    )
    picture = open_image(path)
    assert picture.data.dtype == np.float32
    np.testing.assert_allclose(picture.data, (4095 - pixels) * 0.5 + 10)


def test_signed_pixels(tmp_path):
    pixels = np.arange(-300, 300, dtype=np.int16).reshape(20, 30)
    np.testing.assert_array_equal(open_image(make(tmp_path / "a.dcm", pixels)).data, pixels)
    turned = open_image(make(tmp_path / "b.dcm", pixels, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(turned.data, -1 - pixels.astype(int))


def test_bytes_stay_bytes(tmp_path):
    pixels = np.arange(200, dtype=np.uint8).reshape(10, 20)
    turned = open_image(make(tmp_path / "a.dcm", pixels, PhotometricInterpretation="MONOCHROME1"))
    assert turned.data.dtype == np.uint8
    np.testing.assert_array_equal(turned.data, 255 - pixels)


@pytest.mark.parametrize(("function", "limits"), [("LINEAR", (49.5, 148.5)), ("LINEAR_EXACT", (49.5, 149.5))])
def test_window_functions(tmp_path, pixels, function, limits):
    path = make(tmp_path / "a.dcm", pixels, WindowCenter="99.5", WindowWidth=100, VOILUTFunction=function)
    low, high = open_image(path).metadata["contrast_limits"]
    assert (low, high) == pytest.approx(limits, abs=1)
    assert high - low == (99 if function == "LINEAR" else 100)


def test_lookup_table_gives_the_window(tmp_path, pixels):
    item = Dataset()
    table = np.clip(np.arange(1000) - 200, 0, 500).astype(np.uint16)
    item.add_new("LUTDescriptor", "US", [1000, 50, 16])
    item.add_new("LUTData", "OW", table.tobytes())
    assert open_image(make(tmp_path / "a.dcm", pixels, VOILUTSequence=[item])).metadata["contrast_limits"] == (250, 750)


def test_frames_are_planes(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 999, (3, 20, 30)).astype(np.uint16)
    picture = open_image(make(tmp_path / "a.dcm", pixels, PixelSpacing=[0.4, 0.2], SpacingBetweenSlices=2.5))
    assert picture.axes == "ZYX"
    assert picture.spacing == {"Z": 2.5, "Y": 0.4, "X": 0.2}
    np.testing.assert_array_equal(picture.data, pixels)


def test_spacing_of_enhanced_files(tmp_path):
    pixels = np.zeros((2, 20, 30), np.uint16)
    measures, group = Dataset(), Dataset()
    measures.PixelSpacing, measures.SpacingBetweenSlices = [0.5, 0.25], 3
    group.PixelMeasuresSequence = [measures]
    picture = open_image(make(tmp_path / "a.dcm", pixels, SharedFunctionalGroupsSequence=[group]))
    assert picture.spacing == {"Z": 3.0, "Y": 0.5, "X": 0.25}


def test_without_suffix_and_without_preamble(tmp_path, pixels):
    path = make(tmp_path / "IM0001", pixels)
    assert kind_of(path) == "DICOM"
    assert open_image(path).name == "IM0001"
    bare = tmp_path / "1.2.840.99"
    bare.write_bytes(path.read_bytes()[132:])
    assert kind_of(bare) == "DICOM"
    picture = open_image(bare)
    assert picture.name == "1.2.840.99"
    np.testing.assert_array_equal(picture.data, pixels)


def test_a_preamble_that_is_also_a_tiff(tmp_path, pixels):
    path = make(tmp_path / "a.dcm", pixels)
    path.write_bytes(b"II*\0" + b"\0" * 124 + path.read_bytes()[128:])
    assert kind_of(path) == "DICOM"


@pytest.mark.parametrize("length", [140, 600, -300])
def test_truncated(tmp_path, pixels, length):
    path = make(tmp_path / "a.dcm", pixels)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises((ReadError, InputError), match=r"a\.dcm"):
        open_image(path)


def test_two_bytes_of_the_group_do_not_make_a_dicom(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"\x08\x00" * 200)
    assert kind_of(tmp_path / "a.bin") is None


class TestFilesOfPydicom:
    def test_ct(self):
        picture = open_image(sample("CT_small.dcm"))
        assert picture.spacing == {"Y": 0.661468, "X": 0.661468}
        assert (picture.data.min(), picture.data.max()) == (-896, 1167)

    def test_one_slice_in_five_encodings(self):
        reference = open_image(sample("MR_small.dcm"))
        assert reference.metadata["contrast_limits"] == (-200, 1399)
        for name in ("implicit", "bigendian", "expb", "RLE", "jp2klossless", "padded"):
            np.testing.assert_array_equal(open_image(sample(f"MR_small_{name}.dcm")).data, reference.data)

    def test_colour_and_palette(self):
        assert open_image(sample("SC_rgb_rle.dcm")).rgb
        palette = open_image(sample("examples_palette.dcm"))
        assert palette.rgb
        assert palette.data.dtype == np.uint8
        assert open_image(sample("ExplVR_BigEnd.dcm")).data.shape == (60, 80, 3)

    def test_files_without_pictures(self):
        for name in ("rtplan.dcm", "test-SR.dcm", "waveform_ecg.dcm"):
            with pytest.raises(InputError, match="without a picture"):
                open_image(sample(name))

    def test_truncated(self):
        with pytest.raises(ReadError, match=r"MR_truncated\.dcm are damaged or truncated"):
            open_image(sample("MR_truncated.dcm"))

    def test_missing_decoder(self):
        if importlib.util.find_spec("pylibjpeg") or importlib.util.find_spec("gdcm"):
            pytest.skip("a decoder for JPEG-LS is installed here")
        with pytest.raises(ReadError, match=r"JPEG-LS.*no decoder is installed.*pip install"):
            open_image(sample("MR_small_jpeg_ls_lossless.dcm"))

    def test_every_file_gives_a_picture_or_a_sentence(self):
        opened, said = [], []
        for path in sample("CT_small.dcm").parent.glob("*.dcm"):
            try:
                opened.append(open_image(path))
            except (ReadError, InputError, InputTypeError) as error:
                said.append((path.name, str(error)))
        assert len(opened) > 40
        assert all(picture.data.ndim == len(picture.axes) for picture in opened)
        assert all(name in sentence for name, sentence in said)


class TestChestRadiograph:
    @pytest.fixture(autouse=True)
    def _needs_the_sample(self):
        pytest.importorskip("data_store", reason="pydicom-data (the extra 'samples') is not installed")

    def test_bright_is_dense_and_the_window_follows(self):
        picture = open_image(chest_radiograph())
        assert picture.data.shape == (1955, 1841)
        assert picture.data.dtype == np.uint16
        assert picture.metadata["inverted"]
        assert picture.metadata["contrast_limits"] == (2768, 32767)
        # The spine in the middle is denser than the lung fields on both sides of it.
        spine, lungs = picture.data[700:1000, 880:960].mean(), picture.data[700:1000, [500, 1350]].mean()
        assert spine > lungs

    def test_zero_spacing_is_unknown(self):
        assert open_image(chest_radiograph()).spacing == {}

    def test_lossless_copy_is_the_same(self):
        np.testing.assert_array_equal(open_image(sample("RG1_J2KR.dcm")).data, open_image(chest_radiograph()).data)


def test_the_sample_says_what_to_install(monkeypatch):
    monkeypatch.setattr("pydicom.data.get_testdata_file", lambda *args, **kwargs: None)
    with pytest.raises(ReadError, match=r"pip install napari-zeroseg\[samples\]"):
        chest_radiograph()

"""segment_file as a library call; tests/cli runs it as users do."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from napari_zeroseg.errors import InputError, ReadError, WriteError
from napari_zeroseg.headless import SegmentRun, segment_file
from napari_zeroseg.io.read import open_image
from napari_zeroseg.io.write import write_labels
from napari_zeroseg.phantom import em_like_stack
from napari_zeroseg.registry import load_model
from napari_zeroseg.seeds import GivenPrompts

PROMPTS = GivenPrompts(points=[(30, 30)])


def no_bar(total, done):
    return nullcontext(SimpleNamespace(update=lambda: None))


def never():
    raise AssertionError("the model was loaded for a run that cannot be")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "picture.npy"
    np.save(path, em_like_stack(2, 64)[0])
    return path


def test_the_model_is_loaded_last(source, tmp_path):
    out = tmp_path / "labels.tif"
    outside = GivenPrompts(points=[(64, 5)])
    for job, error in (
        (SegmentRun(tmp_path / "nowhere.tif", out, PROMPTS), ReadError),
        (SegmentRun(source, tmp_path / "labels.png", PROMPTS), WriteError),
        (SegmentRun(source, source, PROMPTS), InputError),
        (SegmentRun(source, out, outside), InputError),
        (SegmentRun(source, out, PROMPTS, planes="7"), InputError),
    ):
        with pytest.raises(error):
            segment_file(job, never, no_bar)
    assert [file.name for file in tmp_path.iterdir()] == [source.name]


def test_progress_and_planes_of_four_axes(source, tmp_path):
    np.save(source, np.load(source)[None])
    calls = []

    def bar(total, done):
        calls.append((total, done))
        return nullcontext(SimpleNamespace(update=lambda: calls.append("plane")))

    job = SegmentRun(source, tmp_path / "labels.tif", PROMPTS)
    report = segment_file(job, load_model, bar)
    assert calls == [(2, 0), "plane", "plane"]
    assert open_image(job.out).data.shape == (2, 64, 64)
    assert len(report["planes"]) == 2


def test_old_labels_stay_until_the_new_ones_are_whole(source, tmp_path):
    out = write_labels(tmp_path / "labels.npy", np.full((2, 64, 64), 5))

    def bar(total, done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment_file(SegmentRun(source, out, PROMPTS, overwrite=True), load_model, bar)
    assert (np.load(out) == 5).all()
    assert sorted(file.name for file in tmp_path.iterdir()) == [out.name, source.name]


def test_the_window_of_the_file_is_what_the_model_sees(tmp_path):
    source = write_dicom(tmp_path / "picture.dcm", em_like_stack(1, 64)[0][0].astype(np.uint16) * 10)
    seen = []
    for name, contrast in (("a.npy", None), ("b.npy", (0.0, 2550.0))):
        report = segment_file(SegmentRun(source, tmp_path / name, PROMPTS, contrast=contrast), load_model, no_bar)
        seen.append(report["settings"]["contrast"])
    assert seen[0] == pytest.approx((700, 1700), abs=2)
    assert seen[1] == (0.0, 2550.0)


def write_dicom(path: Path, pixels: np.ndarray) -> Path:
    """Write a radiograph with a window from 700 to 1700."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    dataset.SOPInstanceUID = generate_uid()
    dataset.Modality = "CR"
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.SamplesPerPixel = 1
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.WindowCenter, dataset.WindowWidth = 1200, 1000
    dataset.PixelData = pixels.astype("<u2").tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return path

"""Masks in bf16 beside float32, with real weights on real pictures, and what "auto" makes of the outcome."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

import napari_zeroseg as zs
from napari_zeroseg import devices, precision
from napari_zeroseg.cli import main
from napari_zeroseg.errors import InputError
from napari_zeroseg.phantom import em_like_stack
from napari_zeroseg.precision import UNCHANGED, compare_precisions
from napari_zeroseg.registry import MOBILE_SAM
from napari_zeroseg.settings import Settings
from napari_zeroseg.weights import precisions

pytestmark = pytest.mark.real

BF16 = torch.bfloat16


@pytest.fixture
def computes_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any processor can compute in bf16, if slowly: as if this one did it best."""
    monkeypatch.setattr(devices, "_cpu_computes_bf16", lambda: True)
    monkeypatch.setenv("ZEROSEG_DEVICE", "cpu")


@pytest.mark.usefixtures("computes_bf16")
def test_the_embedded_model_draws_the_same(shared: Path) -> None:
    plane = tifffile.imread(shared / "data" / "em_vnc" / "raw.tif", key=3)[:512, :512]
    report = compare_precisions("mobile_sam", [plane])
    assert report.prompts >= 10
    assert report.unchanged
    assert report.mean_iou >= UNCHANGED > 0.98
    assert "the same masks in bf16" in report.sentence
    assert zs.load_model(device="cpu").dtype == BF16  # type: ignore[attr-defined]


@pytest.mark.usefixtures("computes_bf16")
def test_what_draws_other_masks_is_computed_in_float32_from_then_on(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """LiteMedSAM's masks of radiographs do change."""
    monkeypatch.setenv("ZEROSEG_MODELS", str(shared / "weights"))
    files = [str(path) for path in sorted((shared / "data" / "cxr" / "images").glob("*.png"))[:2]]
    arguments = [part for file in files for part in ("--picture", file)]
    assert main(["verify", "lite_medsam", "--json", *arguments]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ok"]
    assert told["masks"]["prompts"] == 72
    assert told["masks"]["unchanged"] is (told["masks"]["mean_iou"] >= UNCHANGED) is False
    # it does so for this model anyway, and not from now on
    assert told["masks"]["sentence"].endswith("For this model auto means float32 on every machine.")
    assert precisions.needs_float32(told["sha256"], "cpu", "bf16")
    assert not precisions.needs_float32(told["sha256"], "cuda", "bf16")


@pytest.mark.usefixtures("computes_bf16")
def test_auto_heeds_what_was_kept_and_a_choice_goes_before_it() -> None:
    precisions.keep(MOBILE_SAM.weights.sha256, "cpu", "bf16", unchanged=False)
    assert zs.load_model(device="cpu").dtype == torch.float32  # type: ignore[attr-defined]
    assert zs.load_model(device="cpu", precision="bf16").dtype == BF16  # type: ignore[attr-defined]
    precisions.keep(MOBILE_SAM.weights.sha256, "cpu", "bf16", unchanged=True)
    assert zs.load_model(device="cpu").dtype == BF16  # type: ignore[attr-defined]


@pytest.mark.usefixtures("computes_bf16")
def test_a_damaged_record_is_told_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    precisions.keep("0" * 64, "cpu", "bf16", unchanged=False)
    (path,) = Settings.from_environment().data_dir.glob("precisions.json")
    path.write_text("{")
    assert not precisions.needs_float32("0" * 64, "cpu", "bf16")
    assert "verify KEY --masks" in caplog.text


def test_nothing_to_compare_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_cpu_computes_bf16", lambda: False)
    report = compare_precisions("mobile_sam", [em_like_stack(1, 128)[0][0]], device="cpu")
    assert "nothing to compare" in report.sentence
    with pytest.raises(InputError, match="what is compared are clicks and boxes"):
        compare_precisions("clipseg_rd64", [np.eye(64)])


@pytest.mark.usefixtures("computes_bf16")
def test_pictures_on_which_nothing_is_found_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_MEANT", 1.5)  # no click is that sure
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="finds nothing"):
        compare_precisions("mobile_sam", [rng.normal(size=(80, 80)).astype(np.float32)])

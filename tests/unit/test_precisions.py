"""What was measured of precisions: how it is said, and that it is kept."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from napari_zeroseg.precision import PrecisionReport
from napari_zeroseg.weights import precisions


def test_it_is_said_with_what_auto_means():
    def said(mean_iou: float, by_default: bool = True) -> str:
        return PrecisionReport("It", "bf16", 9, mean_iou, 0.5, by_default).sentence

    assert said(1.0) == "It draws the same masks in bf16 as in float32: mean IoU 1.000, lowest 0.500, of 9 prompts."
    other = "It draws other masks in bf16 than in float32: mean IoU 0.500, lowest 0.500, of 9 prompts."
    assert said(0.5) == f"{other} From now on auto means float32 for these weights on this machine."
    for mean_iou in (0.5, 1.0):
        assert said(mean_iou, by_default=False).endswith("prompts. For this model auto means float32 on every machine.")


def test_what_several_measure_at_once_is_all_kept():
    def keep(first: int) -> None:
        for number in range(first, first + 20):
            precisions.keep(f"{number:064}", "cpu", "bf16", unchanged=False)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(keep, range(0, 80, 20)))
    assert all(precisions.needs_float32(f"{number:064}", "cpu", "bf16") for number in range(80))

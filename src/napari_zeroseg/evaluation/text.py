"""A report as text in columns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_zeroseg.evaluation.report import Report, Row
    from napari_zeroseg.evaluation.scores import InstanceScores

_MOST = 12


def as_text(report: Report) -> str:
    """Return what was compared, the figures with their intervals, and the worst objects."""
    parts = [_heading(report), _masks(report)]
    if report.instances is not None:
        parts += [_objects(report, report.instances), _thresholds(report.instances)]
        parts += _worst(report)
    if report.intervals:
        unit = "objects" if report.instances is not None else "planes, as if each were another picture"
        lines = [[name, _figure(low), _figure(high)] for name, (low, high) in report.intervals.items()]
        parts.append(f"95 % intervals over {unit}\n" + _table(["", "from", "to"], lines))
    parts += report.notes
    return "\n\n".join(parts)


def _heading(report: Report) -> str:
    size = " x ".join(map(str, report.shape[-2:]))
    planes = f"{report.shape[0]} planes of {size}" if len(report.shape) == 3 else f"One plane of {size}"
    what = "labels are objects" if report.mode == "instances" else "labels are classes"
    if len(report.shape) == 3:
        what += ", each plane for itself" if report.per_plane else ", through all planes"
    steps = " x ".join(f"{step:g}" for step in report.spacing)
    return f"{planes} pixels, {steps} {report.unit} apart; {what}."


def _masks(report: Report) -> str:
    rows = [("Foreground", report.foreground)]
    rows += [(f"Class {row.label}", row) for row in report.classes if len(report.classes) > 1]
    rows += [(f"Plane {row.plane}", row) for row in report.planes if row.kind == "plane" and len(report.planes) > 1]
    without_planes = 1 + len(report.classes) * (len(report.classes) > 1)
    shown = rows if len(rows) <= _MOST + without_planes else rows[:without_planes]
    head = ["", "IoU", "Dice", "precision", "recall", "true", "predicted", *_distance_heads(report)]
    table = _table(head, ([name, *_scores(row)] for name, row in shown))
    hidden = len(rows) - len(shown)
    return table + (f"\n({hidden} planes: see the rows, or the CSV.)" if hidden else "")


def _distance_heads(report: Report) -> list[str]:
    return [f"ASSD ({report.unit})", f"HD95 ({report.unit})", f"NSD at {report.tolerance:g}"]


def _scores(row: Row) -> list[str]:
    scores = [_figure(value) for value in (row.iou, row.dice, row.precision, row.recall)]
    return [*scores, str(row.truth_size), str(row.prediction_size), *_measured(row.assd, row.hd95, row.nsd)]


def _measured(assd: float, hd95: float, nsd: float) -> list[str]:
    return [_figure(assd, ".4g"), _figure(hd95, ".4g"), _figure(nsd)]


def _objects(report: Report, one: InstanceScores) -> str:
    head = ["Objects", "true", "predicted", "mean IoU", "mean Dice", "mean AP", "PQ", "SBD"]
    head += ["ARAND error", "VoI split", "VoI merge", *_distance_heads(report)]
    figures = (one.mean_iou, one.mean_dice, one.mean_ap, one.pq, one.sbd, one.arand, one.voi_split, one.voi_merge)
    values = [str(one.truth), str(one.prediction), *map(_figure, figures), *_measured(one.assd, one.hd95, one.nsd)]
    # Down the page: this many columns would not fit across it.
    return "\n".join(f"{name:<{max(map(len, head))}}  {value:>9}" for name, value in zip(head[1:], values, strict=True))


def _thresholds(one: InstanceScores) -> str:
    head = ["Match from IoU", *(f"{at.threshold:.2f}" for at in one.thresholds)]
    lines = [
        ["found", *(str(at.tp) for at in one.thresholds)],
        ["missed", *(str(at.fn) for at in one.thresholds)],
        ["extra", *(str(at.fp) for at in one.thresholds)],
        *(
            [name, *(_figure(getattr(at, field)) for at in one.thresholds)]
            for name, field in (("F1", "f1"), ("AP", "ap"))
        ),
    ]
    return _table(head, lines)


def _worst(report: Report) -> list[str]:
    """The true objects that fit worst, and the extra ones."""
    true = sorted((row for row in report.objects if row.kind == "object"), key=lambda row: row.iou)
    extra = sorted((row for row in report.objects if row.kind == "extra"), key=lambda row: -row.prediction_size)
    shown = [row for row in true if not row.matched][:_MOST] + extra[:_MOST]
    if not shown:
        return []
    head = ["To look at", "plane", "row", "column", "IoU", "true", "predicted"]
    lines = [
        [
            f"{'missed' if row.kind == 'object' else 'extra'} {row.label}",
            *(str(place) for place in (row.plane, row.row, row.column)),
            _figure(row.iou),
            str(row.truth_size),
            str(row.prediction_size),
        ]
        for row in shown
    ]
    return [_table(head, lines)]


def _figure(value: float, form: str = ".3f") -> str:
    if math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else format(value, form)


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    cells = [list(head), *map(list, lines)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    )

"""The final figures of a fit, and of several on different blocks together; those of a finished block are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from napari_zeroseg.metrics import Counts
from napari_zeroseg.training.folder import write_whole
from napari_zeroseg.training.validation import MaskScores, compared, pooled, pooled_interval


@dataclass(frozen=True, eq=False)
class Figures:
    """What a fit reached on what was held back from it; empty where other fits give the figures.

    Attributes
    ----------
    before, after : dict of str to MaskScores
        Of the base and of the trained model, by kind of prompt.
    found : list of Counts
        Of the class, one a plane.
    curve : list of dict
        What was seen on the way, a row a validation.
    """

    before: dict[str, MaskScores] = field(default_factory=dict)
    after: dict[str, MaskScores] = field(default_factory=dict)
    found: list[Counts] = field(default_factory=list)
    curve: list[dict[str, Any]] = field(default_factory=list)


def figures_of(fits: Sequence[Figures]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Figures of one fit, or of several on different blocks together."""
    masks = {}
    for kind in dict.fromkeys(kind for fit in fits for kind in fit.before):
        told = [fit for fit in fits if kind in fit.before]  # a word may be missing from a block
        masks[kind] = compared(*(_together([getattr(fit, when)[kind] for fit in told]) for when in ("before", "after")))
    counts = [one for fit in fits for one in fit.found]
    if not counts:
        return masks, None
    together = pooled(counts)
    found = {
        "planes": len(counts),
        "iou": together.iou,
        "iou_interval": list(pooled_interval(counts)),
        "dice": together.dice,
        "precision": together.precision,
        "recall": together.recall,
    }
    return masks, found


def _together(scores: Sequence[MaskScores]) -> MaskScores:
    return MaskScores(*(np.concatenate([getattr(one, name) for one in scores]) for name in ("iou", "dice")))


def keep_figures(path: Path, made_of: Mapping[str, Any], figures: Figures) -> None:
    """Write the figures of a block, to go on after it.

    Parameters
    ----------
    path : Path
    made_of : mapping
        What they depend on, as plain values.
    figures : Figures

    Raises
    ------
    WriteError
        If the disk is full or read-only.
    """
    scores = {
        when: {kind: [one.iou.tolist(), one.dice.tolist()] for kind, one in getattr(figures, when).items()}
        for when in ("before", "after")
    }
    told = {"made_of": made_of, **scores, "found": [astuple(one) for one in figures.found], "curve": figures.curve}
    write_whole(path, json.dumps(told) + "\n")


def kept_figures(path: Path, made_of: Mapping[str, Any]) -> Figures | None:
    """The figures that :func:`keep_figures` wrote; None where there are none, or of something else."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["made_of"] != made_of:
            return None
        before, after = (
            {kind: MaskScores(*(np.array(values, float) for values in both)) for kind, both in told[when].items()}
            for when in ("before", "after")
        )
        return Figures(before, after, [Counts(*one) for one in told["found"]], told["curve"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # what is missing or damaged is computed again

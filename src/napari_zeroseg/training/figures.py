"""The final figures of a fit, and of several on different blocks together; those of a finished block are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from napari_zeroseg.training.folder import write_whole
from napari_zeroseg.training.validation import ClassCounts, MaskScores, compared, pooled, pooled_interval


@dataclass(frozen=True, eq=False)
class Figures:
    """What a fit reached on what was held back from it; empty where other fits give the figures.

    Attributes
    ----------
    before, after : dict of str to MaskScores
        Of the base and of the trained model, by kind of prompt.
    found : list of ClassCounts
        Of the class, one a plane.
    curve : list of dict
        What was seen on the way, a row a validation.
    """

    before: dict[str, MaskScores] = field(default_factory=dict)
    after: dict[str, MaskScores] = field(default_factory=dict)
    found: list[ClassCounts] = field(default_factory=list)
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
        # what calling everything the class would score
        "guess": together.truth / pixels if (pixels := sum(one.pixels for one in counts)) else None,
        "iou": together.iou,
        "iou_interval": list(pooled_interval(counts)),
        "dice": together.dice,
        "precision": together.precision,
        "recall": together.recall,
    }
    return masks, found


def _together(scores: Sequence[MaskScores]) -> MaskScores:
    iou, dice = (np.concatenate([getattr(one, name) for one in scores]) for name in ("iou", "dice"))
    # numbers of objects are those of one block: the next one goes on from there
    starts = np.cumsum([0, *(1 + one.groups.max(initial=-1) for one in scores[:-1])])
    groups = np.concatenate([one.groups + start for one, start in zip(scores, starts, strict=True)])
    return MaskScores(iou, dice, groups if len(groups) == len(iou) else np.zeros(0, np.int64))


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
        when: {
            kind: [one.iou.tolist(), one.dice.tolist(), one.groups.tolist()]
            for kind, one in getattr(figures, when).items()
        }
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
            {
                kind: MaskScores(np.array(iou, float), np.array(dice, float), np.array(groups, np.int64))
                for kind, (iou, dice, groups) in told[when].items()
            }
            for when in ("before", "after")
        )
        return Figures(before, after, [ClassCounts(*one) for one in told["found"]], told["curve"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # what is missing or damaged is computed again


def beside_base(scores: dict[str, MaskScores], base: dict[str, MaskScores]) -> dict[str, float]:
    """Means by kind of prompt as a row of figures, and those of the base."""
    row: dict[str, float] = {}
    for kind, one in scores.items():
        row |= {f"iou_{kind}": float(one.iou.mean()), f"dice_{kind}": float(one.dice.mean())}
        row |= {f"base_iou_{kind}": float(base[kind].iou.mean()), f"base_dice_{kind}": float(base[kind].dice.mean())}
    return row


def means(scores: dict[str, MaskScores]) -> dict[str, dict[str, float]]:
    """Mean IoU and Dice by kind of prompt."""
    return {kind: {"iou": float(one.iou.mean()), "dice": float(one.dice.mean())} for kind, one in scores.items()}

"""The card of a trained model: what it was made of and how good it is, for people (Markdown) and programs (JSON)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from napari_zeroseg.errors import ReadError
from napari_zeroseg.training.events import plain
from napari_zeroseg.weights.cards import model_folder

JSON_FILE = "training.json"
TEXT_FILE = "training.md"

KIND_WORDS = {
    "box": "tight box",
    "loose_box": "box a little off",
    "point": "point anywhere on it",
    "point_in_box": "point anywhere in its box",
    "gaussian_point": "point near its middle",
    "box_centre": "middle of its box",
    "mass_centre": "centre of mass",
    "gaussian_centre": "weighted centre",
    "centre": "one click in its middle",
    "corner": "click, and one on background",
    "correction": "click and correction",
    "mask": "rough mask",
}


def read(key: str) -> dict[str, Any]:
    """Return the card of a trained model by its key.

    Raises
    ------
    ReadError
        If it has none, because it was not trained here.
    """
    path = model_folder(key) / JSON_FILE
    try:
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReadError(f"{key} has no card of a training: it was not trained here, or {path} is damaged.") from error
    return card


def write(folder: Path, card: Mapping[str, Any]) -> None:
    """Write both forms into a folder."""
    (folder / JSON_FILE).write_text(json.dumps(plain(dict(card)), indent=2) + "\n", encoding="utf-8")
    (folder / TEXT_FILE).write_text(as_text(plain(dict(card))), encoding="utf-8")


def as_text(card: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    base, data, split = card["base"], card["data"], card["split"]
    lines = [
        f"# {card['name']}",
        "",
        f"Trained on {card['date'][:10]} from {base['title']} (`{base['key']}`).",
        f"Licence of the base: {base['licence']}.",
        *([base["licence_note"]] if base.get("licence_note") else []),
        "",
        card["verdict"],
        "",
        "## Figures",
        "",
        f"From {split['held_back']}: {split['report_objects']} objects that were not learnt from. {split['note']}",
        "",
        *[line for sentence in split.get("untold", []) for line in (sentence, "")],
        *_mask_rows(card.get("masks", {}), bool(card["settings"].get("words"))),
        *_class_rows(card.get("class")),
        "## Data",
        "",
        f"{data['objects']} objects on {data['planes']} planes, {split['train_objects']} of them learnt from.",
        f"Fingerprint: `{data['fingerprint']}`.",
        "",
        *[f"- {pair['image']} with {pair['labels']}" for pair in data["pairs"]],
        "",
        "## Settings",
        "",
        f"Trained: {card['settings']['what']}. {card['steps']} steps in {card['seconds'] / 60:.1f} minutes on "
        f"{card['device']}.",
        "",
        "```json",
        json.dumps({name: value for name, value in card["settings"].items() if name != "pairs"}, indent=2),
        "```",
        "",
        "## Files",
        "",
        f"- base: sha256 `{base['sha256']}`",
        f"- made by napari-zeroseg {card['version']}",
        *([f"- curve and previews: {', '.join(card['files'])}"] if card.get("files") else []),
    ]
    return "\n".join(lines) + "\n"


class Verdict(NamedTuple):
    """Which model the figures speak for.

    Attributes
    ----------
    choice : str
        "trained" where it is better beyond chance for some kind of prompt or word and worse for none, or finds its
        class; "base" where that was as good or better; "unsure" where the figures do not tell, or speak for both.
    sentence : str
        Why, in a sentence or two.
    """

    choice: str
    sentence: str


def verdict(gains: Mapping[str, Mapping[str, Any]], found: Mapping[str, Any] | None, of_words: bool = False) -> Verdict:
    """Whether the trained model should be used instead of its base, and why.

    Parameters
    ----------
    gains : mapping of str to mapping
        From :func:`napari_zeroseg.training.validation.compared`, by kind of prompt.
    found : mapping or None
        Figures of the class segmenter. Its base finds no class, so there is nothing to be better than: where masks
        were trained, they alone decide.
    of_words : bool
        Whether the kinds are words, which are scored by planes.
    """
    of_class = _of_class(found) if found else Verdict("trained", "")
    if not gains:
        return of_class
    choice, text = _of_masks(gains, of_words, beside_class=bool(found))
    return Verdict(choice, f"{text} {of_class.sentence}".strip())


def choice_of(card: Mapping[str, Any]) -> str:
    """Which model a card speaks for, as :class:`Verdict` says it; cards of earlier versions say less."""
    return str(card.get("choice") or ("trained" if card.get("better", True) else "base"))


def _of_class(found: Mapping[str, Any]) -> Verdict:
    """The verdict on a class: it must be found better than by calling everything the class."""
    low, _ = found["iou_interval"]
    guess = found.get("guess")
    text = f"Finds its class without a prompt: {_reached(found)}."
    if guess is None or low > guess:
        return Verdict("trained", text)
    if found["iou"] > guess:
        if found["planes"] > 1:
            text += f" Calling everything the class would score {guess:.3f}, within that interval: label more planes."
        return Verdict("unsure", text)
    return Verdict(
        "unsure",
        f"Does not find its class: {_reached(found)}, and calling everything the class would score {guess:.3f}. Label "
        "more planes, or train longer.",
    )


def _of_masks(gains: Mapping[str, Mapping[str, Any]], of_words: bool, beside_class: bool) -> Verdict:
    """The verdict on answers to prompts or words."""
    mean = sum(entry["gain"] for entry in gains.values()) / len(gains)
    sure = [kind for kind, entry in gains.items() if entry["gain_interval"][0] > 0]
    worse = [kind for kind, entry in gains.items() if entry["gain_interval"][1] < 0]
    of_worse = f" Worse for {_kinds(worse)}." if worse else ""
    if mean <= 0:
        use = "use it for prompts" if beside_class else "use it"
        text = f"The base was as good or better on the planes held back: {use}, or label more and train longer."
        return Verdict("base", text + of_worse)
    over = "words" if of_words else "kinds of prompt"
    if not sure:
        units = "planes" if of_words else "objects"
        text = (
            f"No difference from its base beyond chance ({mean:+.3f} IoU on average over the {over}, all intervals "
            f"include 0): these {units} are too few to tell; label more to be sure, and keep the base until then."
        )
        return Verdict("unsure", text + of_worse)
    text = f"Better than its base by {mean:+.3f} IoU on average over the {over}."
    if len(sure) < len(gains):
        text += f" Beyond chance for {_kinds(sure)}"
        text += "; for the others the interval includes 0." if len(sure) + len(worse) < len(gains) else "."
    return Verdict("unsure" if worse else "trained", text + of_worse)


def _kinds(kinds: Sequence[str]) -> str:
    return ", ".join(KIND_WORDS.get(kind, kind) for kind in kinds)


def _mask_rows(masks: Mapping[str, Mapping[str, Any]], of_words: bool) -> list[str]:
    if not masks:
        return []
    asked = "| word | planes" if of_words else "| prompt | objects"
    rows = [f"{asked} | IoU base | IoU trained | gain (95 % interval) | Dice base | Dice trained |"]
    rows.append("| --- | --- | --- | --- | --- | --- | --- |")
    for kind, entry in masks.items():
        low, high = entry["gain_interval"]
        rows.append(
            f"| {KIND_WORDS.get(kind, kind)} | {entry['objects']} | {entry['iou_before']:.3f} "
            f"| {entry['iou_after']:.3f} | {entry['gain']:+.3f} ({low:+.3f} to {high:+.3f}) "
            f"| {entry['dice_before']:.3f} | {entry['dice_after']:.3f} |"
        )
    first = next(iter(masks.values()))
    count = first.get("independent", first["objects"])
    if count < first["objects"]:
        rows += [
            "",
            f"The outlines are sections of {count} object{'s' if count > 1 else ''}, which the intervals resample.",
        ]
    return [*rows, ""]


def _class_rows(found: Mapping[str, Any] | None) -> list[str]:
    if not found:
        return []
    return [f"Class without prompts: {_reached(found)}; Dice {found['dice']:.3f}.", ""]


def _reached(found: Mapping[str, Any]) -> str:
    low, high = found["iou_interval"]
    count = found["planes"]
    if count == 1:
        return f"foreground IoU {found['iou']:.3f} on 1 plane held back, which says nothing of how far others differ"
    return f"foreground IoU {found['iou']:.3f} on {count} planes held back (95 % interval {low:.3f} to {high:.3f})"

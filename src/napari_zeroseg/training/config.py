"""What a training run is to do: a frozen table that is read from and written to TOML. Imports no torch."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_zeroseg.errors import InputError, ReadError, ZerosegError
from napari_zeroseg.training.toml_text import as_toml

VERSION = 1
"""Of the table's form; a run of another one is refused with a sentence."""

ENCODER = ("lora", "blocks", "all")
"""How an encoder is trained: small matrices inside it (LoRA), its last blocks, all of it."""

WHAT = (
    "decoder",
    "class",
    "decoder+class",
    "adapter",
    *ENCODER,
    *(f"class+{part}" for part in ENCODER),
)
"""What can be trained: the mask decoder on kept embeddings; the segmenter of the class; both; PA-SAM's adapter with
parts of the decoder; the encoder in one of three ways, and the decoder with it; the segmenter of the class and an
encoder of its own, in the same three ways, while prompts are answered as before."""

PROMPT_KINDS = (
    "box",
    "loose_box",
    "point",
    "point_in_box",
    "gaussian_point",
    "box_centre",
    "mass_centre",
    "gaussian_centre",
    "centre",
    "corner",
    "correction",
    "mask",
)
"""Prompts that training can simulate, see :mod:`napari_zeroseg.training.prompts`."""

LOSSES = ("dice", "dice_bce", "dice_focal", "tversky", "boundary")

ROLES = ("auto", "train", "validation")

DEFAULT_PROMPTS = {"gaussian_point": 3.0, "centre": 2.0, "point": 1.0, "loose_box": 3.0, "box": 1.0, "correction": 1.0}
"""Half single clicks near the middle, as people click; boxes that are a little off; some corrections."""


@dataclass(frozen=True)
class TrainingPair:
    """A picture or stack, and the labels that belong to it.

    Attributes
    ----------
    image, labels : path or array_like
        Anything that :func:`napari_zeroseg.open_image` opens, or arrays; arrays are copied into the run's folder.
    planes : str
        Which planes, as in "0:12" or "1,4,7"; "" takes all planes that have labels.
    role : str
        "train", "validation", or "auto": the run holds back a block of it for validation.
    contrast : tuple of float or None
        Pixel values shown black and white; None as in the rest of this package (the file's own window, or percentiles).
    origin : str
        What the picture was copied from, where it is no file itself: pairs of one origin are parts of one stack.
    numbers : tuple of int
        For a copy of some planes, the number that each had in the stack; () where nothing was left out.
    """

    image: Any
    labels: Any
    planes: str = ""
    role: str = "auto"
    contrast: tuple[float, float] | None = None
    origin: str = ""
    numbers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", tuple(int(number) for number in self.numbers))
        if self.role not in ROLES:
            raise InputError(f"The role of a pair is {one_of(ROLES)}, not {self.role!r}.")
        if self.contrast is not None:
            object.__setattr__(self, "contrast", (float(self.contrast[0]), float(self.contrast[1])))

    @property
    def title(self) -> str:
        """Name of the picture for messages."""
        return Path(self.image).name if isinstance(self.image, (str, Path)) else "the picture"


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of one run; what is left out has a default that works.

    Attributes
    ----------
    name : str
        Under which the result is listed; letters, digits, '_', '-' and '.'.
    pairs : tuple of TrainingPair
        What to learn from; plain (image, labels) tuples will do.
    base : str
        Key of the model to start from.
    what : str
        One of :data:`WHAT`.
    words : mapping of str to tuple of int
        For a base that reads: each phrase, and the labels that it names, () for all. From a text such as
        "lung=1+2, heart=3" by :func:`words_of`.
    labels_are : str
        "instances" (each number is one object), "classes" (each number is a class, each connected part an object) or
        "auto": classes if a number has more than 1.5 parts a plane on average.
    classes : tuple of int
        Labels to learn; () is all but 0.
    ignore : int or None
        Label of pixels that count neither as object nor as background.
    min_pixels : int
        Smaller objects are left out.
    prompts : mapping of str to float
        Kinds of prompt to simulate and how often, relative to each other. Kinds that the base does not take fall away.
    box_margin : tuple of float
        Least and greatest shift of each side of a loose box, as part of the object's size; outwards is positive.
    loss : str
        One of :data:`LOSSES`, of the masks.
    epochs, minutes : int or None, float or None
        How long; an epoch shows every object once. With neither, as many as make 300 steps, at least 3 and at most 60.
        Minutes are turned into steps by the speed of the first ones.
    learning_rate, weight_decay, warm_up, clip, ema : float
        Of AdamW; part of the steps during which the rate rises; largest norm of the gradient; share of the running mean
        of weights that a step leaves (0 switches it off).
    encoder_rate : float
        Learning rate of the encoder as part of `learning_rate`; of a class's own encoder as part of the class's rate,
        which is five times as high.
    batch : int
        Prompts a step.
    blocks : int
        How many of the encoder's last blocks "blocks" trains.
    lora_rank : int
        Rank of the matrices that "lora" trains.
    variants : int
        Versions of each window (turned, flipped, scaled, bent, of other contrast, blurred, noisy) that the encoder is
        run on, the plain one included. Where the encoder is trained, one window of so many is plain and the others are
        new ones in each epoch.
    any_orientation : bool
        Whether these are turned by any angle and flipped. False keeps left, right, up and down, which differ in people:
        nothing is flipped, and turned by up to 10 degrees only.
    validation : float
        Part of the planes or pictures that is held back where no pair has that role.
    gap : int
        Planes between training and validation, and between two parts of the latter, used for neither.
    patience : int
        Validations without progress after which training stops; 0 never does.
    validation_objects : int
        Objects at most that are looked at during training; the final figures use all, up to 1000.
    seed : int
        Of everything random.
    device, precision : str
        As for :func:`napari_zeroseg.load_model`.
    checkpoint_seconds : float
        Least time between two savings of the state; a killed run loses no more than this, or one step.
    recompute : bool
        Gradient checkpointing: what the encoder's blocks held for the way back is computed again there. Takes less
        memory and a third more time; means nothing where the encoder is not trained.
    tensorboard : bool
        Write what happens for TensorBoard as well, into the run's folder.
    processes : int
        Processes that share the prompts of each step, each on a GPU of its own, or all on the CPU where `device` says
        so; more than one need accelerate. What is learnt is the same, to within rounding.
    """

    name: str
    pairs: tuple[TrainingPair, ...]
    base: str = "mobile_sam"
    what: str = "decoder"
    words: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    labels_are: str = "auto"
    classes: tuple[int, ...] = ()
    ignore: int | None = None
    min_pixels: int = 50
    prompts: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_PROMPTS))
    box_margin: tuple[float, float] = (-0.05, 0.15)
    loss: str = "dice_bce"
    epochs: int | None = None
    minutes: float | None = None
    learning_rate: float = 2e-4
    weight_decay: float = 0.01
    warm_up: float = 0.05
    clip: float = 1.0
    ema: float = 0.98
    encoder_rate: float = 0.1
    batch: int = 16
    blocks: int = 2
    lora_rank: int = 4
    variants: int = 2
    any_orientation: bool = True
    validation: float = 0.25
    gap: int = 1
    patience: int = 0
    validation_objects: int = 48
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    checkpoint_seconds: float = 30.0
    recompute: bool = False
    tensorboard: bool = False
    processes: int = 1

    def __post_init__(self) -> None:
        for entry in fields(self):
            if isinstance(value := getattr(self, entry.name), np.generic):
                object.__setattr__(self, entry.name, value.item())
        object.__setattr__(self, "pairs", tuple(_as_pair(pair) for pair in self.pairs))
        object.__setattr__(self, "classes", tuple(int(label) for label in self.classes))
        object.__setattr__(self, "prompts", {kind: float(weight) for kind, weight in self.prompts.items()})
        object.__setattr__(self, "words", words_of(self.words))
        low, high = self.box_margin
        object.__setattr__(self, "box_margin", (float(low), float(high)))
        _check(self)

    @property
    def trains_masks(self) -> bool:
        """Whether answers to prompts are trained."""
        return not self.what.startswith("class")

    @property
    def trains_class(self) -> bool:
        """Whether the segmenter of the class is trained."""
        return "class" in self.what

    @property
    def encoder_part(self) -> str:
        """One of :data:`ENCODER`, or "" if the encoder stays as it is."""
        part = self.what.rpartition("+")[2]
        return part if part in ENCODER else ""

    @property
    def trains_encoder(self) -> bool:
        """Whether embeddings change during training."""
        return bool(self.encoder_part)

    @classmethod
    def read(cls, path: str | Path) -> TrainingConfig:
        """Read a table that :meth:`write` wrote, or that was written by hand.

        Raises
        ------
        ReadError, InputError
            If it is missing, no TOML, of another version, or a value cannot be worked with.
        """
        path = Path(path).expanduser()
        if path.is_dir():
            known = f"it holds a run: go on with that (--resume), or give {path / 'run.toml'} to begin another like it"
            other = "give pictures and labels as --images and --labels"
            raise ReadError(
                f"{path} is a folder, and the TOML file of a training run was expected: "
                f"{known if (path / 'run.toml').is_file() else other}."
            )
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ReadError(f"There is no {path}: give the TOML file of a training run.") from error
        except (OSError, ValueError) as error:
            raise ReadError(f"{path} cannot be read as TOML: {error}.") from error
        return cls.from_table(table, path.parent)

    @classmethod
    def from_table(cls, table: Mapping[str, Any], folder: Path | None = None) -> TrainingConfig:
        """Make settings of a table; paths in it that are not absolute are meant from `folder`."""
        values = dict(table)
        version = values.pop("version", VERSION)
        if version != VERSION:
            raise InputError(
                f"This run was written by another version of napari-zeroseg (form {version}, here {VERSION}): "
                "finish it with that version, or start it anew."
            )
        known = {entry.name for entry in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise InputError(f"A training run has no setting {unknown[0]!r}; there are: {', '.join(sorted(known))}.")
        for needed in ("name", "pairs"):
            if needed not in values:
                raise InputError(f"The setting {needed!r} is missing from the training run.")
        try:
            values["pairs"] = tuple(_pair(entry, folder) for entry in values["pairs"])
            return cls(**values)
        except (TypeError, AttributeError, ValueError, IndexError) as error:
            if isinstance(error, ZerosegError):
                raise
            raise InputError(f"A setting of the training run has a value of the wrong kind: {error}.") from error

    def table(self) -> dict[str, Any]:
        """Settings as plain values; what is None is left out."""
        values: dict[str, Any] = {"version": VERSION}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name == "pairs":
                value = [_pair_table(pair) for pair in value]
            elif isinstance(value, tuple):
                value = list(value)
            if value is not None:
                values[entry.name] = value
        return values

    def write(self, path: Path) -> None:
        """Write the table as TOML; pairs must be files by then."""
        path.write_text(as_toml(self.table()), encoding="utf-8")

    def with_files(self, pairs: Sequence[TrainingPair]) -> TrainingConfig:
        """The same settings with other pairs."""
        return replace(self, pairs=tuple(pairs))


def _as_pair(pair: Any) -> TrainingPair:
    return pair if isinstance(pair, TrainingPair) else TrainingPair(*pair)


def _pair(entry: Any, folder: Path | None) -> TrainingPair:
    if isinstance(entry, TrainingPair):
        return entry
    if not isinstance(entry, Mapping):
        raise InputError("Each of the pairs is a table with 'image' and 'labels'.")
    values = dict(entry)
    for name in ("image", "labels"):
        if name not in values:
            raise InputError(
                f"A pair of the training run lacks {name!r}: give the paths of the picture and its labels."
            )
        if isinstance(values[name], (str, Path)):
            path = Path(values[name]).expanduser()
            values[name] = str(path if folder is None or path.is_absolute() else folder / path)
    return TrainingPair(**values)


def _pair_table(pair: TrainingPair) -> dict[str, Any]:
    table: dict[str, Any] = {"image": str(pair.image), "labels": str(pair.labels)}
    if pair.planes:
        table["planes"] = pair.planes
    if pair.role != "auto":
        table["role"] = pair.role
    if pair.contrast is not None:
        table["contrast"] = list(pair.contrast)
    if pair.origin:
        table["origin"] = pair.origin
    if pair.numbers:
        table["numbers"] = list(pair.numbers)
    return table


def words_of(words: str | Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """Return phrases and the labels that each of them names.

    Parameters
    ----------
    words : str or mapping
        As in "lung=1+2, heart=3"; a phrase without labels names all of them. A mapping is only checked.

    Raises
    ------
    InputError
        If a phrase is empty or a label is no whole number above 0.
    """
    if isinstance(words, str):
        parts = [part.partition("=") for part in words.split(",") if part.strip()]
        given: Iterable[tuple[str, Any]] = [
            (phrase, [label for label in labels.split("+") if label.strip()]) for phrase, _, labels in parts
        ]
    elif isinstance(words, Mapping):
        given = words.items()
    else:
        raise InputError(f"Words are a text such as 'lung=1+2, heart=3', or a table of phrases, not {words!r}.")
    checked: dict[str, tuple[int, ...]] = {}
    for phrase, labels in given:
        try:
            numbers = (0,) if isinstance(labels, str) else tuple(int(label) for label in labels)
            if any(not isinstance(label, str) and label != n for label, n in zip(labels, numbers, strict=False)):
                numbers = (0,)
        except (TypeError, ValueError):
            numbers = (0,)
        if not phrase.strip() or any(number < 1 for number in numbers):
            raise InputError(
                f"Words are phrases with the labels that they name, such as 'lung=1+2, heart=3', not {phrase!r} with "
                f"{labels!r}."
            )
        name = " ".join(phrase.split())
        if name in checked:
            raise InputError(f"The word {name!r} is there twice: give it once with all its labels, as in '{name}=1+2'.")
        checked[name] = numbers
    return checked


def one_of(names: Sequence[str]) -> str:
    """Names with commas and "or"."""
    return " or ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _check(config: TrainingConfig) -> None:
    if not config.pairs:
        raise InputError("There is nothing to learn from: give at least one picture with its labels.")
    for name, value, allowed in (
        ("what", config.what, WHAT),
        ("loss", config.loss, LOSSES),
        ("labels_are", config.labels_are, ("auto", "instances", "classes")),
    ):
        if value not in allowed:
            raise InputError(f"The setting {name!r} is {one_of(allowed)}, not {value!r}.")
    unknown = [kind for kind in config.prompts if kind not in PROMPT_KINDS]
    if unknown:
        raise InputError(f"There is no prompt {unknown[0]!r} to simulate; there are: {', '.join(PROMPT_KINDS)}.")
    if not sum(config.prompts.values()) > 0 or min(config.prompts.values()) < 0:
        raise InputError("The weights of the prompts to simulate must be positive numbers.")
    if config.box_margin[0] > config.box_margin[1] or config.box_margin[0] <= -0.5:
        raise InputError("The margin of loose boxes is (least, greatest), each above -0.5 of the object's size.")
    for name in ("recompute", "tensorboard", "any_orientation"):
        if not isinstance(getattr(config, name), bool):
            raise InputError(f"The setting {name!r} is true or false, not {getattr(config, name)!r}.")
    _check_numbers(config)


def _check_numbers(config: TrainingConfig) -> None:
    from_one = ("min_pixels", "batch", "blocks", "lora_rank", "variants", "validation_objects", "processes")
    from_zero = ("gap", "patience", "weight_decay", "warm_up", "ema", "checkpoint_seconds", "seed")
    at_least = dict.fromkeys(from_one, 1) | dict.fromkeys(from_zero, 0)
    if config.epochs is not None:
        at_least["epochs"] = 1
    for name, least in at_least.items():
        value = getattr(config, name)
        if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= least):
            raise InputError(f"The setting {name!r} is a number of at least {least}, not {value!r}.")
    positive = ["learning_rate", "clip", "encoder_rate", *(["minutes"] if config.minutes is not None else [])]
    for name in positive:
        value = getattr(config, name)
        if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
            raise InputError(f"The setting {name!r} is a positive number, not {value!r}.")
    if not 0 < config.validation <= 0.5:
        raise InputError(f"The part held back for validation is above 0 and at most 0.5, not {config.validation!r}.")
    for name in ("epochs", "batch", "blocks", "lora_rank", "variants", "seed", "processes"):
        value = getattr(config, name)
        if value is not None and not isinstance(value, int):
            raise InputError(f"The setting {name!r} is a whole number, not {value!r}.")
    if not config.ema < 1 or not config.warm_up < 1:
        raise InputError("The settings 'ema' and 'warm_up' are below 1.")

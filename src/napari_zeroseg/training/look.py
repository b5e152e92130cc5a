"""What the network will see of a run's labelled planes, before it is begun: a sheet of windows and their variants."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from napari_zeroseg.cascade.heat import windows
from napari_zeroseg.errors import InputError, WriteError
from napari_zeroseg.planes import is_flat
from napari_zeroseg.prompts import Prompt, PromptKind
from napari_zeroseg.tiling import Field
from napari_zeroseg.training.bases import check_base, reads_words
from napari_zeroseg.training.card import KIND_WORDS
from napari_zeroseg.training.classes import fields_of, side_for
from napari_zeroseg.training.config import TrainingConfig
from napari_zeroseg.training.data import IGNORE, TrainingData, TrainingObject, check_enough
from napari_zeroseg.training.folder import SNAPSHOT
from napari_zeroseg.training.patches import Patch, Patches, Seen, far, near, prompt_on
from napari_zeroseg.training.previews import TRUTH, Colours, borders, coloured, enlarged, evenly, outline, striped
from napari_zeroseg.training.prompts import draw, usable
from napari_zeroseg.training.split import folds, objects_of, split_for

ROWS = 6
"""Windows at most."""

COLUMNS = 5
"""Variants of each at most, the plain one included."""

_NEAR_KINDS = ("box", "loose_box", "mask")
"""Prompts that are learnt in the window from near alone."""

_SIDE, _GAP, _LINE = 300, 8, 18
"""Pixels of a window's longer side, between two of them, and of a line of text."""

_DARK, _PLAIN, _HEADING = (24, 26, 30), (170, 176, 184), (235, 238, 242)
_OTHERS, _ASKED, _BACKGROUND = (45, 170, 80), (255, 214, 10), (255, 80, 80)


@dataclass(frozen=True, eq=False)
class Glimpse:
    """A window in one of its variants.

    Attributes
    ----------
    seen : Seen
        Picture and numbered objects; what is ignored or held back is -1.
    asked : int
        Number of the object that the prompt is for; 0 where there is none.
    kind : str
        Of the prompt.
    prompt : Prompt or None
        In the window's pixels; None without an object, and where the variant does not show it.
    """

    seen: Seen
    asked: int = 0
    kind: str = ""
    prompt: Prompt | None = None


@dataclass(frozen=True, eq=False)
class Row:
    """A window with its variants, the plain one first, and what it is."""

    title: str
    glimpses: tuple[Glimpse, ...]


class Look:
    """Takes windows from a run's data as training will.

    Parameters
    ----------
    config : TrainingConfig

    Raises
    ------
    InputError, ReadError, UnknownModelError
        If the run would be refused.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self._config = config
        self._spec = check_base(config.base, config.what, config.words)
        self._data = data = TrainingData(config)
        check_enough(data, config)
        split = split_for(data, config)
        # of a small set the model itself learns from everything
        everything = bool(folds(data, config, split))
        self._objects = list(data.objects) if everything else objects_of(data, split.train)
        self._planes = sorted({one.plane for one in self._objects}) if everything else list(split.train_planes)
        self._patches = Patches(data, config.seed, () if everything else split.held, config.any_orientation)
        self._prompts = usable(config.prompts, self._spec.accepts)

    @property
    def summary(self) -> str:
        """What is learnt from, in a line."""
        planes = "1 plane" if len(self._planes) == 1 else f"{len(self._planes)} planes"
        new = "; new variants in each epoch" if self._config.trains_encoder else ""
        return f"{self._config.name}: {len(self._objects)} objects to learn from on {planes}{new}"

    def rows(self, most: int = ROWS) -> list[Row]:
        """Windows evenly taken over planes and objects, each in the variants that training will use."""
        if reads_words(self._spec):
            shapes = {plane: list(windows(self._data.planes[plane].shape)) for plane in self._planes}
            return list(self._of_windows(shapes, most, f"words: {', '.join(self._config.words)}"))
        found: list[Row] = []
        if self._config.trains_masks:
            found += self._of_objects(most // 2 if self._config.trains_class else most)
        if self._config.trains_class:
            side = side_for(self._data, self._objects)
            shapes = {plane: fields_of(self._data.planes[plane].shape, side) for plane in self._planes}
            found += self._of_windows(shapes, most - len(found), "for the class, without a prompt")
        return found

    def _of_objects(self, most: int) -> Iterator[Row]:
        """Objects with prompts: two from near, then one from afar, as clicks are learnt."""
        clicks = {kind: weight for kind, weight in self._prompts.items() if kind not in _NEAR_KINDS}
        for number, one in enumerate(evenly(self._objects, most)):
            from_afar = bool(clicks) and number % 3 == 2
            field = (far if from_afar else near)(self._data, one)
            kinds = _shares(clicks) if from_afar else self._prompts
            glimpses = [self._asked_for(one, Patch(one.plane, field, variant), kinds) for variant in self._variants()]
            label = f"an object of class {one.label}" if self._data.as_classes else f"object {one.label}"
            about = f"{label} from {'afar' if from_afar else 'near'}"
            yield Row(self._title(one.plane, field, about), tuple(glimpses))

    def _asked_for(self, one: TrainingObject, patch: Patch, kinds: Mapping[str, float]) -> Glimpse:
        seen = self._patches.see(patch)
        rng = np.random.default_rng([self._config.seed, 6, one.plane, one.number, patch.variant])
        kind = draw(kinds, rng)
        mask = seen.objects == one.number
        if not mask.any():
            return Glimpse(seen, one.number, kind)
        return Glimpse(seen, one.number, kind, prompt_on(kind, mask, rng, self._config.box_margin))

    def _of_windows(self, fields: Mapping[int, Sequence[Field]], most: int, about: str) -> Iterator[Row]:
        """Windows that show objects, and one that shows none where there is one."""
        every = [(plane, field) for plane, some in fields.items() for field in some]
        every = [(plane, field) for plane, field in every if not is_flat(self._data.read(plane)[0][field.slices])]
        full = [place for place in every if self._shows(*place)]
        empty = [place for place in every if place not in full]
        middle = empty[len(empty) // 2 :][:1]
        for plane, field in sorted(evenly(full, most - len(middle)) + middle):
            seen = [self._patches.see(Patch(plane, field, variant)) for variant in self._variants()]
            yield Row(self._title(plane, field, about), tuple(Glimpse(one) for one in seen))

    def _shows(self, plane: int, field: Field) -> bool:
        return any(one.plane == plane and field.holds(one.box) for one in self._objects)

    def _variants(self) -> range:
        return range(min(COLUMNS, self._config.variants))

    def _title(self, plane: int, field: Field, about: str) -> str:
        return f"{self._place(plane)}, {_by(field.shape)} pixels; {about}"

    def _place(self, plane: int) -> str:
        """Which plane; of pixels that were no file, counted among those with labels, since no other ones are there."""
        where = self._data.planes[plane]
        pair = self._config.pairs[where.pair]
        if isinstance(pair.image, (str, Path)) and Path(pair.image).parent.name != SNAPSHOT:
            return f"{pair.title}, plane {where.index}"
        picture = f"picture {where.pair + 1}, " if len(self._config.pairs) > 1 else ""
        if pair.numbers:
            return f"{picture}plane {where.number}"
        own = [number for number, one in enumerate(self._data.planes) if one.pair == where.pair]
        return f"{picture}labelled plane {own.index(plane) + 1} of {len(own)}"


def look(config: TrainingConfig, path: str | Path) -> list[Row]:
    """Write a PNG with what the network will see of a run's data; nothing is trained and no weights are read.

    Parameters
    ----------
    config : TrainingConfig
        Paths in its pairs must be absolute, or arrays.
    path : path
        Of the PNG; one that is there is replaced.

    Returns
    -------
    list of Row
        What is on it.

    Raises
    ------
    InputError, ReadError, UnknownModelError, WriteError
        If the run would be refused, or the file cannot be written.
    """
    path = Path(path).expanduser()
    check_target(path, config)
    taken = Look(config)
    rows = taken.rows()
    _write(path, sheet(rows, taken.summary))
    return rows


def check_target(path: Path, config: TrainingConfig) -> None:
    """Raise, with a sentence, if a sheet must not be written there.

    Raises
    ------
    InputError
        If it is no PNG, or one that the run learns from.
    """
    if path.suffix.lower() != ".png":
        raise InputError(f"The sheet is a PNG, and {path.name!r} does not end in .png: give it such a name.")
    if path.exists() and not _is_png(path):
        raise InputError(f"{path} is there and is no PNG, so it stays: choose another name for the sheet.")
    sources = [Path(one) for pair in config.pairs for one in (pair.image, pair.labels) if isinstance(one, (str, Path))]
    if any(path.resolve() in (one.resolve(), one.resolve() / path.name) for one in sources):
        raise InputError(f"{path} belongs to the pictures that are learnt from: choose another place for the sheet.")


def sheet(rows: Sequence[Row], summary: str) -> Colours:
    """Draw windows below one another, (H, W, 3), each with its variants beside it."""
    count = max(len(row.glimpses) for row in rows)
    width = _GAP + max(count * (_SIDE + _GAP), 2 * (_SIDE + _GAP))
    heights = [2 * _LINE + _GAP + max(_shape_of(one)[0] for one in row.glimpses) for row in rows]
    legend = _legend(rows)
    top = 2 * _LINE + _GAP
    page = Image.new("RGB", (width, top + sum(heights) + len(legend) * _LINE + _GAP), _DARK)
    pen = ImageDraw.Draw(page)
    _tell(pen, (_GAP, _GAP // 2), summary, _HEADING)
    for column in range(count):
        name = "plain" if column == 0 else f"variant {column}"
        _tell(pen, (_GAP + column * (_SIDE + _GAP), _GAP // 2 + _LINE), name, _PLAIN)
    for row, height in zip(rows, heights, strict=True):
        _tell(pen, (_GAP, top), row.title, _HEADING)
        for column, one in enumerate(row.glimpses):
            left = _GAP + column * (_SIDE + _GAP)
            shown = drawn(one)
            page.paste(Image.fromarray(shown), (left, top + _LINE))
            _tell(pen, (left, top + _LINE + shown.shape[0] + 1), _caption(one), _PLAIN)
        top += height
    for number, line in enumerate(legend):
        _tell(pen, (_GAP, top + number * _LINE), line, _PLAIN)
    return np.asarray(page)


def drawn(one: Glimpse) -> Colours:
    """Draw a window, (h, w, 3), with its longer side as on the sheet."""
    shape = _shape_of(one)
    picture = Image.fromarray(coloured(one.seen.picture)).resize(shape[::-1], Image.Resampling.BILINEAR)
    numbers = enlarged(one.seen.objects, shape)
    colour = striped(np.array(picture), numbers == IGNORE)
    edges = borders(numbers)
    colour[edges] = _OTHERS if one.asked else TRUTH
    if one.asked:
        colour[outline(numbers == one.asked, 2)] = TRUTH
    if one.prompt is None:
        return colour
    return _with_prompt(colour, one.prompt, shape[0] / one.seen.shape[0], shape[1] / one.seen.shape[1])


def _with_prompt(colour: Colours, prompt: Prompt, down: float, right: float) -> Colours:
    """Points as crosses, a box as a rectangle, a mask as its outline."""
    if prompt.mask is not None:
        colour[outline(enlarged(prompt.mask, colour.shape[:2]), 1)] = _ASKED
    image = Image.fromarray(colour)
    pen = ImageDraw.Draw(image)
    if prompt.box is not None:
        r0, c0, r1, c1 = ((float(place) + 0.5) for place in prompt.box)
        pen.rectangle((c0 * right, r0 * down, c1 * right - 1, r1 * down - 1), outline=_ASKED, width=2)
    for (row, column), is_inside in zip(prompt.points, prompt.labels, strict=True):
        x, y = (float(column) + 0.5) * right, (float(row) + 0.5) * down
        for ink, thick, arm in ((_DARK, 4, 8), (_ASKED if is_inside else _BACKGROUND, 2, 7)):
            pen.line((x - arm, y, x + arm, y), ink, thick)
            pen.line((x, y - arm, x, y + arm), ink, thick)
    return np.array(image)


def _caption(one: Glimpse) -> str:
    if one.asked and one.prompt is None:
        return "the object is out of sight here, and left out"
    return KIND_WORDS.get(one.kind, one.kind)


def _legend(rows: Sequence[Row]) -> list[str]:
    """What the colours mean, of those that are there."""
    every = [one for row in rows for one in row.glimpses]
    prompts = [one.prompt for one in every if one.prompt is not None]
    asked = any(one.asked for one in every)
    told = ["Green: labelled objects" + ("; bright: the one that is asked for." if asked else ".")]
    if prompts:
        told.append("Yellow: a prompt as it is simulated; each time that a window is shown it is another.")
    if any(not prompt.labels.all() for prompt in prompts if PromptKind.POINTS in prompt.kinds):
        told.append("Red: a click on background.")
    if any(one.kind == "correction" for one in every):
        told.append("The second click of a correction waits for the network's first answer.")
    if any((one.seen.objects == IGNORE).any() for one in every):
        told.append("Striped: to be ignored, held back for validation, or beyond the picture.")
    if max(len(row.glimpses) for row in rows) == 1:
        told.append("The setting 'variants' is 1, so windows are only seen as they are.")
    return told


def _shape_of(one: Glimpse) -> tuple[int, int]:
    height, width = one.seen.shape
    longest = max(height, width)
    return max(1, round(height * _SIDE / longest)), max(1, round(width * _SIDE / longest))


def _shares(weights: Mapping[str, float]) -> dict[str, float]:
    total = sum(weights.values())
    return {kind: weight / total for kind, weight in weights.items()}


def _tell(pen: ImageDraw.ImageDraw, place: tuple[int, int], text: str, ink: tuple[int, int, int]) -> None:
    pen.text(place, text, ink, ImageFont.load_default(13))


def _by(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"


def _is_png(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(8) == b"\x89PNG\r\n\x1a\n"
    except OSError:
        return False


def _write(path: Path, picture: NDArray[np.uint8]) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        Image.fromarray(picture).save(temporary, "PNG")
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise WriteError(
            f"The sheet {path} could not be written ({error.strerror or error}): make room or choose another folder."
        ) from error

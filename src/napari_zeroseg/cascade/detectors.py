"""Boxes from any detector that transformers offers, to masks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_zeroseg.automatic.overlap import suppress
from napari_zeroseg.cascade.boxes import segment_boxes
from napari_zeroseg.cascade.planes import as_view
from napari_zeroseg.cascade.text import checked_phrases
from napari_zeroseg.errors import InputError, WeightsError
from napari_zeroseg.segmenter import Segmenter
from napari_zeroseg.view import View

if TYPE_CHECKING:
    from napari_zeroseg.jobs import CancelToken


_BY_PHRASES = "zero-shot-object-detection"

_SAME = 0.8
"""IoU above which two boxes of a class are one object."""


@dataclass(frozen=True, eq=False)
class Detections:
    """Boxes that a detector has found.

    Attributes
    ----------
    boxes : (N, 4) float32 array
        (row0, column0, row1, column1) in pixels.
    names : list of str
        What each holds.
    classes : list of int
        The same as numbers, from 1: the place of the name in what was asked for, else among the detector's own.
    scores : list of float
        The detector's certainty, 0 to 1; the highest first.
    """

    boxes: NDArray[np.float32]
    names: list[str]
    classes: list[int]
    scores: list[float]


class Detector:
    """An object detector of transformers, with classes of its own or for any phrases.

    Parameters
    ----------
    pipeline : transformers.Pipeline
        For object detection, or for zero-shot object detection.
    title : str
    model_key : str, optional
        What tells its files from others; left out, the title.
    """

    def __init__(self, pipeline: Any, title: str, model_key: str = "") -> None:
        self._pipeline = pipeline
        self.title = title
        self.model_key = model_key or title
        """What tells its files from others."""
        self.takes_phrases = pipeline.task == _BY_PHRASES

    @property
    def names(self) -> list[str]:
        """Classes that it knows, in its own order; none where it takes phrases."""
        if self.takes_phrases:
            return []
        return [str(name) for _, name in sorted(self._pipeline.model.config.id2label.items())]

    def detect(
        self, picture: NDArray[np.uint8], phrases: Sequence[str] | str = (), threshold: float = 0.3
    ) -> Detections:
        """Find boxes. Of two boxes of a class that are nearly the same (IoU above 0.8), that of the higher score stays.

        Parameters
        ----------
        picture : (H, W) or (H, W, 3) uint8 array
        phrases : str or sequence of str
            What to look for; of a detector with classes of its own, which of these, all where it is empty.
        threshold : float
            Certainty from which a box is given, 0 to 1.

        Raises
        ------
        InputError
            If a detector for phrases got none, or one with classes does not know one of them.
        """
        from PIL import Image

        if not 0 <= threshold < 1:
            raise InputError(f"A detector's threshold is a number from 0 to below 1; got {threshold!r}.")
        asked = self.asked(phrases)
        rgb = Image.fromarray(picture).convert("RGB")
        if self.takes_phrases:
            found = self._pipeline(rgb, candidate_labels=asked, threshold=threshold)
        else:
            found = [one for one in self._pipeline(rgb, threshold=threshold) if one["label"] in asked]
        found = sorted(
            filter(_has_area, (_clipped(one, picture) for one in found)), key=lambda one: -float(one["score"])
        )
        # transformers gives the edges of a box as whole numbers of pixels, ours are pixel centres
        sides = [[one["box"][side] for side in ("ymin", "xmin", "ymax", "xmax")] for one in found]
        corners = np.array(sides, np.float32).reshape(-1, 4) - 0.5
        names = [str(one["label"]) for one in found]
        scores = [float(one["score"]) for one in found]
        kept = _once(corners, names, scores)
        return Detections(
            corners[kept],
            [names[i] for i in kept],
            [asked.index(names[i]) + 1 for i in kept],
            [scores[i] for i in kept],
        )

    def asked(self, phrases: Sequence[str] | str = ()) -> list[str]:
        """Return what it looks for, in the order of the classes' numbers.

        Parameters
        ----------
        phrases : str or sequence of str
            As for :meth:`detect`.

        Raises
        ------
        InputError
            As by :meth:`detect`.
        """
        asked = checked_phrases(phrases, may_be_none=True)
        if self.takes_phrases:
            if not asked:
                raise InputError(f"{self.title} finds what phrases name: give some, for example 'cell, nucleus'.")
            return asked
        by_word = {name.casefold(): name for name in self.names}
        unknown = [name for name in asked if name.casefold() not in by_word]
        if unknown:
            quoted = [f'"{name}"' if "," in name else name for name in self.names[:20]]
            known = ", ".join(quoted) + (", …" if len(self.names) > 20 else "")
            raise InputError(f"{self.title} does not know {unknown[0]!r}; its classes are: {known}.")
        return [by_word[name.casefold()] for name in asked] or self.names


def _once(boxes: NDArray[np.float32], names: Sequence[str], scores: Sequence[float]) -> list[int]:
    """Indices of the boxes that are no second one of the same object, in their order."""
    kept: list[int] = []
    for name in set(names):
        same = [i for i, other in enumerate(names) if other == name]
        kept += [same[k] for k in suppress(boxes[same], [scores[i] for i in same], _SAME)]
    return sorted(kept)


def _clipped(one: dict[str, Any], picture: NDArray[np.uint8]) -> dict[str, Any]:
    """A box cut at the picture's sides: some detectors see it padded to a square."""
    most = {"xmin": picture.shape[1], "xmax": picture.shape[1], "ymin": picture.shape[0], "ymax": picture.shape[0]}
    return {**one, "box": {side: min(max(one["box"][side], 0), most[side]) for side in most}}


def _has_area(one: dict[str, Any]) -> bool:
    box = one["box"]
    return box["xmax"] > box["xmin"] and box["ymax"] > box["ymin"] and bool(np.isfinite(one["score"]))


@contextmanager
def _without_bars() -> Iterator[None]:
    """No progress bars of transformers on the terminal, which is the caller's."""
    from transformers.utils import logging

    had = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if had:
            logging.enable_progress_bar()


def load_detector(source: str | Path, *, device: str = "auto") -> Detector:
    """Load a detector that is on this machine; imports torch and transformers.

    Parameters
    ----------
    source : path or str
        A folder that transformers saved (config, preprocessor, safetensors), or the id of a repository whose files are
        in the hub's cache already. Nothing is downloaded.
    device : str
        As for :func:`load_model`.

    Returns
    -------
    Detector

    Raises
    ------
    WeightsError
        If it is not there, is damaged, or is no detector.
    """
    import transformers
    from safetensors import SafetensorError
    from transformers.models.auto import modeling_auto

    from napari_zeroseg.devices import resolve_device

    folder = Path(source).expanduser().resolve()
    name = str(folder) if folder.is_dir() else str(source)
    try:
        config = transformers.AutoConfig.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(
            f"There is no detector {name} on this machine: give a folder that transformers saved, with config.json "
            "and model.safetensors, or download the repository first (`hf download NAME`)."
        ) from error
    kinds: dict[str, tuple[Any, Any]] = {
        _BY_PHRASES: (
            modeling_auto.MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES,
            transformers.AutoModelForZeroShotObjectDetection,
        ),
        "object-detection": (
            modeling_auto.MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES,
            transformers.AutoModelForObjectDetection,
        ),
    }
    task: Any = next((task for task, (types, _) in kinds.items() if config.model_type in types), None)
    if task is None:
        raise WeightsError(
            f"{name} is a model of type {config.model_type!r}, which is no detector: bring one for object detection, "
            "such as DETR, YOLOS, OWL-ViT or Grounding DINO."
        )
    models = kinds[task][1]
    here = {"local_files_only": True}
    try:
        # a pickle could run code, and transformers' processors for torchvision are not wanted
        with _without_bars():
            model = models.from_pretrained(name, use_safetensors=True, **here).eval()
        processor = transformers.AutoImageProcessor.from_pretrained(name, backend="pil", **here)
        words = {"tokenizer": transformers.AutoTokenizer.from_pretrained(name, **here)} if task == _BY_PHRASES else {}
        made = transformers.pipeline(
            task, model=model, image_processor=processor, device=resolve_device(device), **words
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(
            f"The detector {name} cannot be loaded ({reason}): save it anew with transformers."
        ) from error
    key = _key_of(folder) if folder.is_dir() else _commit_of(name)
    return Detector(made, Path(name).name, f"{Path(name).name}-{key}")


def _commit_of(name: str) -> str:
    """The commit of a repository in the hub's cache: the name of the folder of its files."""
    from transformers.utils import cached_file

    return Path(cached_file(name, "config.json", local_files_only=True)).parent.name


def _key_of(folder: Path) -> str:
    """Hash of the names, sizes and times of change of a folder's files."""
    told = [(str(file.relative_to(folder)), file.stat()) for file in sorted(folder.rglob("*")) if file.is_file()]
    lines = "".join(f"{name} {status.st_size} {status.st_mtime_ns}\n" for name, status in told)
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def segment_detected(
    model: Segmenter,
    picture: ArrayLike | View,
    detector: Detector,
    phrases: Sequence[str] | str = (),
    *,
    threshold: float = 0.3,
    by: str = "instance",
    cancel: CancelToken | None = None,
) -> tuple[NDArray[np.int32], Detections]:
    """Draw what a detector finds; where masks overlap, that of the higher score is seen.

    Parameters
    ----------
    model : Segmenter
        One that takes boxes.
    picture : (H, W) or (H, W, 3) array_like, or View
        As for :func:`segment_text`.
    detector : Detector
    phrases, threshold
        As for :meth:`Detector.detect`.
    by : str
        "instance" numbers the boxes from 1, the most certain first; "class" gives their class.
    cancel : CancelToken, optional

    Returns
    -------
    labels : (H, W) int32 array
    detections : Detections

    Raises
    ------
    InputError
    """
    if by not in ("instance", "class"):
        raise InputError(f"Labels are by 'instance' or by 'class'; got {by!r}.")
    view = as_view(model, picture)
    found = detector.detect(view.picture, phrases, threshold)
    numbers = found.classes if by == "class" else list(range(1, len(found.boxes) + 1))
    return segment_boxes(model, view, found.boxes, numbers, found.scores, cancel=cancel), found

"""Files in, a word out: taught to the model that draws by its looks, to one that reads by the vector of its phrase."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from napari_zeroseg.cascade.taught import TaughtPhrase, save_phrase, teach_phrase
from napari_zeroseg.cascade.words import Word, save_word, teach
from napari_zeroseg.cascade_ways import Sight, labels_of
from napari_zeroseg.errors import InputError
from napari_zeroseg.io.read import open_image
from napari_zeroseg.prompts import PromptKind
from napari_zeroseg.segmenter import Segmenter


def teach_file(
    word: str,
    source: Path,
    labels: Path,
    load: Callable[[], Segmenter],
    load_text: Callable[[], Segmenter] | None = None,
    contrast: tuple[float, ...] | None = None,
) -> tuple[Word | TaughtPhrase, Path]:
    """Teach a word from the labelled planes of a file, and keep it.

    Parameters
    ----------
    word : str
    source, labels : Path
        A picture or stack, and labels of the same planes.
    load, load_text : callable
        Load the model that learns it, and one that takes text to compare with.
    contrast : tuple of float, optional

    Returns
    -------
    tuple of (Word or TaughtPhrase, Path)
        The word, and its folder: prototypes, or a vector if the model takes text.

    Raises
    ------
    InputError, ReadError, WriteError, WeightsError
    """
    picture = open_image(source.expanduser())
    series = picture.planes()
    known = labels_of(labels, series)
    numbered = {plane: np.asarray(known.read(plane)) for plane in range(len(series))}
    chosen = [plane for plane, one in numbered.items() if one.any()]
    if not chosen:
        raise InputError(f"{labels} holds no label: mark at least one object.")
    model = load()
    reads = PromptKind.TEXT in model.spec.accepts
    if reads and load_text is not None:
        raise InputError(f"{model.spec.title} reads the bare word itself to compare with: leave --text-model out.")
    see = Sight(series, picture, contrast, model)
    views, given = [see(plane) for plane in chosen], [numbered[plane] for plane in chosen]
    if reads:
        phrase = teach_phrase(word, model, views, given)
        return phrase, save_phrase(phrase)
    learnt = teach(word, model, views, given, text_model=load_text() if load_text is not None else None)
    return learnt, save_word(learnt)

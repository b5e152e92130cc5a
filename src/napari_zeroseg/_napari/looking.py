"""What a file is that is to be added, as far as it tells; whose weights it holds, and what must be asked. No Qt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from napari_zeroseg.catalogue import ModelSpec
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.weights.cards import other_than_first
from napari_zeroseg.weights.reading import check_whole, file_of, read_file


@dataclass(frozen=True)
class Look:
    """What a file is.

    Attributes
    ----------
    path : Path
    candidates : tuple of str
        Keys of the models whose weights it can be.
    is_published : bool
        Whether it is a published file, to the bit.
    is_another : bool
        Whether another file of its name was downloaded first as one of the candidates.
    lacks_sam : bool
        Whether it is PA-SAM's decoder alone.
    exported : str
        The key of a model that was exported; "" for other files.
    """

    path: Path
    candidates: tuple[str, ...]
    is_published: bool = False
    is_another: bool = False
    lacks_sam: bool = False
    exported: str = ""


def look_at(path: Path, key: str, specs: Mapping[str, ModelSpec], cancel: CancelToken) -> Look:
    """Read a file and say what it is.

    Parameters
    ----------
    path : Path
    key : str
        The model that it is for, where the user has said so; else "".
    specs : mapping of str to ModelSpec
        All models by key.
    cancel : CancelToken
        Stops the reading.

    Raises
    ------
    WeightsError
        If it is none, or damaged.
    CancelledError
        If `cancel` was raised.
    """
    from napari_zeroseg.training.result import key_in
    from napari_zeroseg.weights.adding import whose

    path = path.expanduser()
    exported = key_in(path)
    if exported:
        return Look(path, (key,) if key else (), exported=exported)
    file = file_of(path, "the model").absolute()
    check_whole(file)
    weights = read_file(file, cancel=cancel)
    candidates = {key} if key else whose(file, weights, specs)
    published = {source.sha256 for spec in specs.values() for source in spec.sources if source.sha256}
    layout = weights.layout
    lacks_sam = layout is not None and (layout.family, layout.form) == ("pa_sam", "decoder")
    is_another = any(other_than_first(name, file.name, weights.sha256) is not None for name in candidates)
    return Look(path, tuple(sorted(candidates)), weights.sha256 in published, is_another, lacks_sam)

"""A PA-SAM decoder that comes alone: one file with the SAM that it was trained on."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from napari_zeroseg.errors import WeightsError, WriteError, ZerosegError
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.settings import Settings
from napari_zeroseg.weights.cards import read_card
from napari_zeroseg.weights.folder import locate, missing
from napari_zeroseg.weights.layouts import detect_layout
from napari_zeroseg.weights.reading import Weights, check_whole, file_of, read_file, shapes_of
from napari_zeroseg.weights.workplaces import JOINING, workplace


def sams_here() -> dict[str, Path]:
    """Return the keys of the published SAMs whose weights are on this machine, and their files."""
    from napari_zeroseg.catalogue import SAM

    return {spec.key: found.path for spec in SAM if (found := locate(spec)) is not None}


def sam_at(beside: str | Path) -> Path:
    """Return where a SAM's checkpoint is that is named by its path, or by its key in the list.

    Raises
    ------
    WeightsError
        If the SAM of that key is not on this machine.
    """
    from napari_zeroseg.catalogue import SAM

    path = Path(beside).expanduser()
    spec = next((spec for spec in SAM if spec.key == str(beside)), None)
    if spec is None or path.exists():
        return path
    here = sams_here()
    if spec.key not in here:
        raise missing(spec)
    return here[spec.key]


def sam_of(decoder: Path, key: str | None) -> Path | None:
    """Return where the SAM is that a PA-SAM decoder alone belongs to, if `key` tells its size and it is here.

    Raises
    ------
    WeightsError
        If the decoder's file cannot be read.
    """
    sam = sams_here().get((key or "").removeprefix("pa_"))
    if sam is None or key is None or not key.startswith("pa_"):
        return None
    file = file_of(decoder, "PA-SAM")
    check_whole(file)
    layout = detect_layout(shapes_of(file, file.name))
    is_alone = layout is not None and (layout.family, layout.form) == ("pa_sam", "decoder")
    return sam if is_alone else None


@contextmanager
def joined(decoder: Path, sam: Path, cancel: CancelToken | None = None) -> Iterator[tuple[Path, str]]:
    """Write a PA-SAM decoder and its SAM into one file for as long as the block lasts; give it and its origin.

    Raises
    ------
    WeightsError
        If one of them cannot be read, or is not what it should be.
    WriteError
        If there is no room.
    CancelledError
        If `cancel` was raised.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    merge = importlib.import_module("napari_zeroseg.models.pa_sam").merge
    parts = [read_file(file_of(path, "PA-SAM"), cancel=cancel) for path in (decoder, sam)]
    tensors = {name: tensor.contiguous() for name, tensor in merge(*(part.tensors for part in parts)).items()}
    _check_sam(sam, parts[1])
    try:
        with workplace(JOINING) as place:
            file = place / f"{decoder.stem}_with_{sam.stem}.safetensors"
            save_file(tensors, file)
            file.chmod(sam.stat().st_mode & 0o666 | 0o600)  # a new file of safetensors is its owner's alone
            yield file, f"{decoder} and {sam}"
    except (OSError, SafetensorError) as error:
        if isinstance(error, ZerosegError):
            raise
        folder = Settings.from_environment().models_dir
        raise WriteError(f"The joined file could not be written to {folder} ({error}): make room there.") from error


def _check_sam(path: Path, weights: Weights) -> None:
    """Refuse what is no SAM, or known to be MedSAM's: it has the same parameters, and sees pictures otherwise."""
    from napari_zeroseg.catalogue import SAM, model_of_hash, models_of_name

    give = f"Give that which it was trained on: {' or '.join(spec.weights.name for spec in SAM)}."
    if weights.layout is None or weights.layout.family != "sam":
        raise WeightsError(f"{path.name} is no SAM ({weights.layout or 'its entries are unknown here'}). {give}")
    card = read_card(path.parent.name) if path.parent.parent == Settings.from_environment().models_dir else None
    by_hash = model_of_hash(weights.sha256)
    told = {by_hash} if by_hash else {card.base} if card is not None else models_of_name(path.name)
    others = told - {spec.key for spec in SAM}
    if others:
        raise WeightsError(
            f"{path.name} holds the weights of {' or '.join(sorted(others))}, and PA-SAM's decoder was trained on SAM. "
            f"{give} If it is SAM's under a wrong name, give it another one."
        )

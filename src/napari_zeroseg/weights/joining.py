"""A PA-SAM decoder that comes alone: one file with the SAM that it was trained on."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from napari_zeroseg.errors import WriteError, ZerosegError
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.settings import Settings
from napari_zeroseg.weights.reading import file_of, read_file
from napari_zeroseg.weights.workplaces import JOINING, workplace


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
    parts = [read_file(file_of(path, "PA-SAM"), cancel=cancel).tensors for path in (decoder, sam)]
    tensors = {name: tensor.contiguous() for name, tensor in merge(*parts).items()}
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

"""Which weights draw other masks in a shorter type than in float32; measured by `napari_zeroseg.precision`."""

from __future__ import annotations

import json
import logging

from filelock import FileLock

from napari_zeroseg.errors import WriteError
from napari_zeroseg.settings import Settings

_log = logging.getLogger(__name__)

_FILE = "precisions.json"


def needs_float32(sha256: str, device: str, precision: str) -> bool:
    """Whether weights were seen to draw other masks in `precision` ("bf16", …) on a kind of device ("cpu", …)."""
    return _kept().get(_entry(sha256, device, precision)) is False


def keep(sha256: str, device: str, precision: str, *, unchanged: bool) -> None:
    """Keep for the next time whether masks were the same.

    Raises
    ------
    WriteError
        If the user's data folder cannot be written.
    """
    path = Settings.from_environment().data_dir / _FILE
    temporary = path.with_name(f".{_FILE}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{_FILE}.lock")):
            temporary.write_text(json.dumps({**_kept(), _entry(sha256, device, precision): unchanged}, indent=2) + "\n")
            temporary.replace(path)
    except OSError as error:
        raise WriteError(
            f"What was measured could not be kept in {path.parent} ({error.strerror}): make room there, or permit it."
        ) from error


def _entry(sha256: str, device: str, precision: str) -> str:
    return f"{sha256} {device} {precision}"


def _kept() -> dict[str, bool]:
    path = Settings.from_environment().data_dir / _FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        _log.warning(
            "%s cannot be read and is left out (%s): measure again by `zeroseg verify KEY --masks`.", path, error
        )
        return {}
    return found if isinstance(found, dict) else {}

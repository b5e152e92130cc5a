"""What the docks remember from one time to the next: small settings in one file of the data folder. No Qt."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from napari_zeroseg.errors import WriteError
from napari_zeroseg.locks import only_run_on
from napari_zeroseg.settings import Settings

_log = logging.getLogger(__name__)


def recall(name: str) -> str:
    """Return what was remembered under a name; "" if nothing was, or it cannot be read."""
    return _known().get(name, "")


def remember(name: str, value: str) -> None:
    """Keep a value under a name; where it cannot be written now, it is forgotten with this session."""
    file = _file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with only_run_on(file):
            temporary = file.with_name(f".{file.name}.tmp")
            temporary.write_text(json.dumps({**_known(), name: value}, indent=2) + "\n", encoding="utf-8")
            temporary.replace(file)
    except (OSError, WriteError) as error:
        _log.warning("%s cannot be written: %s", file, error)


def _file() -> Path:
    return Settings.from_environment().data_dir / "docks.json"


def _known() -> dict[str, str]:
    try:
        return {str(name): str(value) for name, value in json.loads(_file().read_text(encoding="utf-8")).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        _log.warning("%s cannot be read and is left out of account: %s", _file(), error)
        return {}

"""Provenance: beside every result, how it was made, so that it can be made again and a run can be taken up."""

from __future__ import annotations

import datetime
import hashlib
import json
import platform
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from napari_zeroseg.catalogue import ModelSpec
from napari_zeroseg.errors import WriteError
from napari_zeroseg.io.write import LabelsWriter
from napari_zeroseg.prompts import Prompt
from napari_zeroseg.stack import Seed, StackOptions


def identity_of(path: Path) -> dict[str, Any]:
    """Tell one input from another without reading it: name, bytes and time of change of the file or its files."""
    path = path.resolve()
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    size = 0
    for file in files:
        status = file.stat()
        size += status.st_size
        digest.update(f"{file.relative_to(path.parent)} {status.st_size} {status.st_mtime_ns}\n".encode())
    return {"path": str(path), "files": len(files), "bytes": size, "stamp": digest.hexdigest()[:16]}


def hash_of(settings: Mapping[str, Any]) -> str:
    """Return a hash of everything that a result depends on; of inputs it counts what they are, and not where.

    Another node of a cluster may see them elsewhere.
    """
    return hashlib.sha256(json.dumps(_deciding(settings), sort_keys=True).encode()).hexdigest()[:16]


def _deciding(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    is_input = value.keys() == {"path", "files", "bytes", "stamp"}
    return value["stamp"] if is_input else {name: _deciding(part) for name, part in value.items()}


def described(seeds: dict[int, list[Seed]]) -> list[dict[str, Any]]:
    """Prompts as plain values: equal ones on many planes are told once, with the planes."""
    told: dict[str, dict[str, Any]] = {}
    for plane, several in seeds.items():
        for seed in several:
            told.setdefault(_key(seed), {**_values(seed), "planes": []})["planes"].append(plane)
    return list(told.values())


def reordered(seeds: dict[int, list[Seed]]) -> dict[str, list[int]]:
    """Planes whose prompts come in another order than in :func:`described`, with their places there.

    The order decides which of two objects is seen where they overlap.
    """
    places: dict[str, int] = {}
    orders = {
        str(plane): [places.setdefault(_key(seed), len(places)) for seed in several] for plane, several in seeds.items()
    }
    return {plane: order for plane, order in orders.items() if order != sorted(order)}


def _values(seed: Seed) -> dict[str, Any]:
    return {"label": seed.label, **_prompt_values(seed.prompt)}


def _key(seed: Seed) -> str:
    return json.dumps(_values(seed), sort_keys=True)


def _prompt_values(prompt: Prompt) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if len(prompt.points):
        values["points"] = prompt.points.tolist()
        values["signs"] = prompt.labels.tolist()
    if prompt.box is not None:
        values["box"] = prompt.box.tolist()
    if prompt.text is not None:
        values["text"] = prompt.text
    return values


class KnownModel(Protocol):
    """A model by its name and its hash, wherever it is loaded."""

    @property
    def spec(self) -> ModelSpec:
        """Its row in the table of models."""
        ...

    @property
    def model_key(self) -> str:
        """Hash of its weights, and the version of its preprocessing."""
        ...


def run_of(
    source: Path,
    model: KnownModel,
    seeds: dict[int, list[Seed]],
    options: StackOptions,
    automatic: Mapping[str, Any] | None = None,
    classes: Mapping[str, int] | None = None,
) -> tuple[str, dict[str, Any]]:
    """Return a hash of everything that the result depends on, and these things themselves.

    `automatic` tells what is searched for without prompts, and on which planes; `classes` the numbers of names, where
    labels are classes and no objects.
    """
    settings: dict[str, Any] = {
        "input": identity_of(source),
        "model": model.spec.key,
        "model_hash": model.model_key,
        "prompts": described(seeds),
        "contrast": options.limits,
        "field": options.field,
        "overlap": str(options.policy),
        "version": version("napari-zeroseg"),
    }
    if order := reordered(seeds):
        settings["order"] = order
    if classes is not None:
        settings |= {"by_class": True, "classes": dict(classes)}
    if automatic is not None:
        settings["automatic"] = dict(automatic)
    return hash_of(settings), settings


def environment() -> dict[str, str]:
    """Versions and machine of this run."""
    return {"python": platform.python_version(), "system": platform.platform(), "torch": version("torch")}


def now() -> str:
    """The time in ISO 8601, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def path_beside(out: Path) -> Path:
    """Where the provenance of `out` lies."""
    return out.with_name(out.name + ".json")


def prepare(out: Path, values: dict[str, Any]) -> None:
    """Write the provenance of `out` under a hidden name, before `out` itself is written.

    With :func:`commit` after it, the result and its provenance cannot come apart: a kill between the two is recognised
    by :func:`read`, because the result is then younger than what was prepared.

    Raises
    ------
    WriteError
        If it cannot be written.
    """
    write_json(_prepared(out), values)


def commit(out: Path) -> None:
    """Give what was prepared its name, once `out` is there.

    Raises
    ------
    WriteError
        If that is not possible.
    """
    try:
        _prepared(out).replace(path_beside(out))
    except OSError as error:
        raise WriteError(f"{path_beside(out)} could not be written ({error.strerror}): repeat the run.") from error


def finish(writer: LabelsWriter, told: Mapping[str, Any], start: float) -> dict[str, Any]:
    """Finish labels, with their provenance beside them, and return that.

    Parameters
    ----------
    writer : LabelsWriter
    told : mapping
        What the run has to tell; how long it took, when it ended and where it ran are added.
    start : float
        When it began, by :func:`time.perf_counter`.

    Raises
    ------
    WriteError
        If either cannot be written.
    """
    seconds = round(time.perf_counter() - start, 3)
    result = {**told, "seconds": seconds, "finished": now(), **environment()}
    prepare(writer.path, result)
    writer.close()
    commit(writer.path)
    return result


def there_already(out: Path, run: str, table: Path | None = None) -> dict[str, Any]:
    """Return the provenance of what the same run has written, with a summary that says so.

    Raises
    ------
    WriteError
        If `out` is from another run, or its table is gone.
    """
    found = read(out)
    if found.get("run") != run:
        raise WriteError(
            f"{out} is already there and is not from this run: choose another name, or add --overwrite to replace it."
        )
    if table is not None and not table.exists():
        raise WriteError(f"{out} is already there but its table {table} is not: add --overwrite to make both again.")
    return {**found, "summary": f"{out} is already there from the same run: nothing to do."}


def read(out: Path) -> dict[str, Any]:
    """Return the provenance of `out`, empty if there is none that can be read."""
    prepared = _prepared(out)
    with suppress(FileNotFoundError):
        if out.stat().st_mtime_ns >= prepared.stat().st_mtime_ns:
            commit(out)
    try:
        values = json.loads(path_beside(out).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _prepared(out: Path) -> Path:
    return out.with_name(f".{out.name}.json")


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write JSON to a temporary name and rename it.

    Raises
    ------
    WriteError
        If it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise WriteError(
            f"{path} could not be written ({error.strerror}): make room or choose another folder."
        ) from error

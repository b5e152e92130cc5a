"""Plain values as TOML, which the standard library only reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np


def as_toml(table: Mapping[str, Any]) -> str:
    """Return plain values, one level of tables and lists of tables as TOML."""
    lines, tables = [], []
    for name, value in table.items():
        if isinstance(value, Mapping):
            tables += ["", f"[{name}]", *(f"{_toml_key(key)} = {_toml(inner)}" for key, inner in value.items())]
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for entry in value:
                tables += ["", f"[[{name}]]", *(f"{key} = {_toml(inner)}" for key, inner in entry.items())]
        else:
            lines.append(f"{name} = {_toml(value)}")
    return "\n".join(lines + tables) + "\n"


def _toml_key(name: str) -> str:
    return name if re.fullmatch("[A-Za-z0-9_-]+", name) else _toml(name)


def _toml(value: Any) -> str:
    if isinstance(value, np.generic):
        value = value.item()  # its repr would name numpy
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_toml(entry) for entry in value)}]"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text) + '"'

"""Folders and limits, and the environment that changes them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from napari_zeroseg.errors import InputError
from napari_zeroseg.settings import Settings, parse_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("500MB", 500 * 10**6),
        ("2 GB", 2 * 10**9),
        ("1e9", 10**9),
        ("0", 0),
        (" 1.5kb ", 1500),
        ("7B", 7),
        ("1TB", 10**12),
    ],
)
def test_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "much", "5 XB", "-1GB", "nan", "inf", "GB"])
def test_what_is_no_size_gets_a_sentence(text):
    with pytest.raises(InputError, match="is not a size: write for example '500MB'"):
        parse_bytes(text)


def test_everything_has_a_default(monkeypatch):
    monkeypatch.delenv("ZEROSEG_CACHE_DIR")
    monkeypatch.delenv("ZEROSEG_DATA_DIR")
    settings = Settings.from_environment()
    assert settings.cache_dir.is_absolute()
    assert settings.data_dir.is_absolute()
    assert settings.cache_dir != settings.data_dir
    assert (settings.memory_bytes, settings.disk_bytes, settings.device) == (10**9, 10**10, "auto")


def test_the_environment_decides(monkeypatch, tmp_path):
    monkeypatch.setenv("ZEROSEG_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("ZEROSEG_DATA_DIR", "~/models")
    monkeypatch.setenv("ZEROSEG_MEMORY_CACHE", "3MB")
    monkeypatch.setenv("ZEROSEG_DISK_CACHE", "0")
    monkeypatch.setenv("ZEROSEG_DEVICE", "cpu")
    monkeypatch.setenv("ZEROSEG_MODELS", os.pathsep.join(("~/lab", "", str(tmp_path))))
    monkeypatch.setenv("ZEROSEG_MIRROR", "https://server/models/")
    monkeypatch.setenv("ZEROSEG_OFFLINE", "true")
    settings = Settings.from_environment()
    assert settings == Settings(
        tmp_path,
        Path.home() / "models",
        3 * 10**6,
        0,
        "cpu",
        (Path.home() / "lab", tmp_path),
        "https://server/models",
        True,
    )
    assert settings.models_dir == Path.home() / "models" / "models"


def test_a_wrong_limit_is_named(monkeypatch):
    monkeypatch.setenv("ZEROSEG_DISK_CACHE", "plenty")
    with pytest.raises(InputError, match="'plenty' is not a size"):
        Settings.from_environment()

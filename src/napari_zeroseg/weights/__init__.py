"""Weights: where they come from, how they are kept, checked and read, and whose they are."""

from __future__ import annotations

from napari_zeroseg.weights.folder import Found, VerifyReport, locate, remove_model, verify, weights_of
from napari_zeroseg.weights.layouts import Layout, detect_layout
from napari_zeroseg.weights.reading import Weights, is_there, read_weights
from napari_zeroseg.weights.sources import EMBEDDED, WeightsSource

__all__ = [
    "EMBEDDED",
    "Found",
    "Layout",
    "VerifyReport",
    "Weights",
    "WeightsSource",
    "detect_layout",
    "is_there",
    "locate",
    "read_weights",
    "remove_model",
    "verify",
    "weights_of",
]

"""Segment everything: all objects of a plane without a prompt, and what to do with them."""

from __future__ import annotations

from napari_zeroseg.automatic.masks import AutomaticMask, filter_area, filter_class, to_labels
from napari_zeroseg.automatic.options import AutomaticOptions
from napari_zeroseg.automatic.search import segment_everything
from napari_zeroseg.automatic.table import table, write_table

__all__ = [
    "AutomaticMask",
    "AutomaticOptions",
    "filter_area",
    "filter_class",
    "segment_everything",
    "table",
    "to_labels",
    "write_table",
]

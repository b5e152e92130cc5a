"""Sample data for the File menu: a generated stack with known truth, and a real chest radiograph."""

from __future__ import annotations

from napari_zeroseg._napari.reader import LayerData, read_layers
from napari_zeroseg.io.sample_files import chest_radiograph as chest_radiograph_file
from napari_zeroseg.phantom import em_like_stack


def em_like() -> list[LayerData]:
    """Generate a stack like electron microscopy, and its mitochondria as a hidden labels layer."""
    raw, truth = em_like_stack()
    return [
        (raw, {"name": "EM-like", "colormap": "gray", "contrast_limits": (0, 255), "rgb": False}, "image"),
        (truth, {"name": "EM-like truth", "visible": False}, "labels"),
    ]


def chest_radiograph() -> list[LayerData]:
    """Open the chest radiograph of the package pydicom-data.

    Raises
    ------
    ReadError
        If that package is not installed.
    """
    return read_layers(str(chest_radiograph_file()))

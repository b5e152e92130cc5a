"""Heat maps: how probable a phrase is at each pixel, as an Image layer over the plane, on demand. No Qt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image
from napari.utils.colormaps import Colormap, ensure_colormap
from numpy.typing import NDArray

from napari_zeroseg._napari.layers import ShownPlane
from napari_zeroseg._napari.preview import Preview, lay_over

if TYPE_CHECKING:
    from napari.components import ViewerModel

_STEPS = 64
"""Colours between which those of the heat map are interpolated."""


class HeatMaps:
    """One layer for each phrase that the user wants to see; they stay where they are until they are asked for anew."""

    def __init__(self, viewer: ViewerModel, preview: Preview) -> None:
        self._viewer = viewer
        self._preview = preview
        self.layers: dict[str, Image] = {}

    def is_shown(self, phrase: str) -> bool:
        """Whether a phrase has a heat map on the screen."""
        layer = self.layers.get(phrase)
        return layer is not None and bool(layer.visible)

    def show(self, image: Image, plane: ShownPlane, phrase: str, probabilities: NDArray[np.float32]) -> None:
        """Show a map (H, W) on a plane of an image, in a layer that is made if there is none for the phrase."""
        layer = self.layers.get(phrase)
        if layer is not None and layer.ndim != image.ndim:
            self.hide(phrase)
            layer = None
        if layer is None:
            layer = Image(
                np.zeros((1,) * image.ndim, np.float32),
                name=f"ZeroSeg heat map – {phrase}",
                colormap=_colours(),
                contrast_limits=(0, 1),
                blending="translucent_no_depth",
                opacity=0.8,
            )
            self.layers[phrase] = layer
            layers = self._viewer.layers
            active = layers.selection.active
            below = self._preview.layer if self._preview.layer in layers else image
            layers.insert(layers.index(below) + 1, layer)
            layers.selection.active = active
        lay_over(layer, image, plane, 0, 0, probabilities)
        layer.visible = True

    def hide(self, phrase: str) -> None:
        """Take a phrase's layer away."""
        layer = self.layers.pop(phrase, None)
        if layer is not None and layer in self._viewer.layers:
            self._viewer.layers.remove(layer)

    def on_removed(self, layer: Any) -> None:
        """Forget a layer that the user took away."""
        self.layers = {phrase: held for phrase, held in self.layers.items() if held is not layer}


def _colours() -> Colormap:
    """Inferno, the less opaque the less probable: where a phrase is not, the picture is seen as it is."""
    steps = np.linspace(0, 1, _STEPS)
    colours = np.array(ensure_colormap("inferno").map(steps))
    colours[:, 3] = steps
    return Colormap(colours, name="ZeroSeg heat map")

"""The preview: a Labels layer as small as the object, laid over its place on the plane. No Qt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import CyclicLabelColormap
from napari.utils.transforms import Affine
from numpy.typing import NDArray

from napari_zeroseg._napari.layers import ShownPlane
from napari_zeroseg._napari.prompt_layers import placement

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer

NAME, PROPOSALS = "ZeroSeg preview", "ZeroSeg proposals"

# The first is what one object gets; none of them is a grey of the picture or one of the two signs.
COLOURS = ["#00000000", "#ffd21f", "#38bdf8", "#f472b6", "#a78bfa", "#fb923c", "#2dd4bf", "#facc15", "#60a5fa"]


def colour_of(number: int) -> str:
    """Colour in which the preview shows mask `number` (from 1); they come round again."""
    return COLOURS[1 + (number - 1) % (len(COLOURS) - 1)]


def is_preview(layer: Layer) -> bool:
    """Whether a layer only shows what may become an object."""
    return layer.name in (NAME, PROPOSALS)


class Preview:
    """Shows masks on one plane of an image; costs as much as the masks are large, not the plane."""

    def __init__(self, viewer: ViewerModel, name: str = NAME) -> None:
        self._viewer = viewer
        self._name = name
        self.layer: Labels | None = None

    def prepare(self, image: Image, below: Layer | None = None) -> None:
        """Make the layer, empty and hidden, if there is none for this image's number of axes."""
        if self.layer is not None and self.layer.ndim != image.ndim:
            self.remove()
        if self.layer is not None:
            return
        self.layer = Labels(
            np.zeros((1,) * image.ndim, np.uint8),
            name=self._name,
            colormap=CyclicLabelColormap(colors=COLOURS),
            opacity=0.55,
            visible=False,
            **placement(image),
        )
        layers = self._viewer.layers
        active = layers.selection.active
        layers.insert(layers.index(below) if below in layers else len(layers), self.layer)
        # A new layer becomes the active one, but the user goes on clicking in theirs.
        layers.selection.active = active

    def show(self, image: Image, plane: ShownPlane, row: int, column: int, masks: NDArray[Any]) -> None:
        """Show `masks` (h, w), numbered from 1, with the first pixel at (row, column) of the plane."""
        self.prepare(image)
        layer = self.layer
        assert layer is not None
        layer.visible = False  # One refresh at the end instead of one for each change.
        lay_over(layer, image, plane, row, column, masks)
        layer.visible = True

    def hide(self) -> None:
        """Show nothing; the layer stays for the next time."""
        if self.layer is not None and self.layer.visible:
            self.layer.visible = False

    @property
    def is_shown(self) -> bool:
        """Whether something is seen."""
        return self.layer is not None and bool(self.layer.visible)

    def remove(self) -> None:
        """Take the layer away."""
        layer, self.layer = self.layer, None
        if layer is not None and layer in self._viewer.layers:
            self._viewer.layers.remove(layer)


def lay_over(layer: Layer, image: Image, plane: ShownPlane, row: int, column: int, data: NDArray[Any]) -> None:
    """Give a layer the pixels `data` (h, w) and the place that they have on a plane of an image.

    Parameters
    ----------
    layer : Layer
        Of as many axes as the image.
    row, column : int
        Where the first pixel is on the plane.
    """
    physical = Affine(
        scale=image.scale, translate=image.translate, rotate=image.rotate, shear=image.shear, ndim=image.ndim
    )
    first, second = plane.axes
    shape = [1] * plane.ndim
    shape[first], shape[second] = data.shape
    layer.data = (data if first < second else data.T).reshape(shape)
    for name, value in placement(image).items():
        if name not in ("translate", "axis_labels") and not _same(getattr(layer, name), value):
            setattr(layer, name, value)
    layer.translate = physical(plane.corner(row, column))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Affine):
        one, other = one.affine_matrix, other.affine_matrix
    return bool(np.array_equal(np.asarray(one, dtype=object), np.asarray(other, dtype=object)))

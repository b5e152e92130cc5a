"""Examples of another image: which images and labels in the viewer go together, and their planes. No Qt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari.layers import Image, Labels

from napari_zeroseg._napari.find_work import Elsewhere
from napari_zeroseg._napari.layers import data_shape, shown_plane
from napari_zeroseg._napari.preview import is_preview
from napari_zeroseg._napari.stack_place import LabelStack, ShownStack, StackPlace, labels_place
from napari_zeroseg._napari.workspace import picture_of
from napari_zeroseg.errors import InputError

if TYPE_CHECKING:
    from napari.components import Dims, ViewerModel
    from napari.layers import Layer


@dataclass(frozen=True)
class Pair:
    """An image and what is labelled on it; `labels` is None where none are of its shape."""

    image: Image
    labels: Labels | None

    @property
    def name(self) -> str:
        """What people call it."""
        return self.image.name if self.labels is None else f"{self.image.name} · {self.labels.name}"

    def planes(self, dims: Dims) -> Elsewhere:
        """The planes with the examples, seen the way round that the screen shows.

        Raises
        ------
        InputError
            If there are no labels of the image's shape, or its rows and columns are not those of the screen.
        """
        image, labels = self.image, self.labels
        if labels is None:
            raise InputError(
                f"'{image.name}' has no labels of its shape {data_shape(image)}: label some of its objects, or "
                "take the examples from another image."
            )
        # the slider may stand beyond the planes of another image
        plane = shown_plane(image, dims, nearest=True)
        place = StackPlace.of_plane(image, plane)
        stack = LabelStack(labels.data, labels_place(labels, image, place))
        return Elsewhere(ShownStack(picture_of(image, plane), place), stack, place.count, self.name)


def pairs(viewer: ViewerModel, image: Image | None, labels: Labels | None) -> Iterator[Pair]:
    """Yield the other images of a viewer, each with the labels of its shape.

    Parameters
    ----------
    viewer : ViewerModel
    image, labels : Image and Labels
        Those that are searched, which are left out.
    """
    layers: list[Layer] = [one for one in reversed(viewer.layers) if not is_preview(one)]
    others = [one for one in layers if isinstance(one, Labels) and one is not labels and not one.multiscale]
    for other in (one for one in layers if isinstance(one, Image) and one is not image):
        fitting = [one for one in others if data_shape(one) == data_shape(other)]
        yield from (Pair(other, one) for one in fitting) if fitting else (Pair(other, None),)

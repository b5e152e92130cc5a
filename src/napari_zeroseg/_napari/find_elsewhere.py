"""Examples of another image: which images and labels in the viewer go together, and their planes. No Qt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari.layers import Image, Labels

from napari_zeroseg._napari.find_work import Elsewhere
from napari_zeroseg._napari.layers import data_shape, shown_plane
from napari_zeroseg._napari.preview import is_preview
from napari_zeroseg._napari.prompt_layers import IMAGE_OF, label_name
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

    The labels of another image are offered with it, even where they are those that are written into.

    Parameters
    ----------
    viewer : ViewerModel
    image, labels : Image and Labels
        Those that are searched and written into, which are left out.
    """
    layers: list[Layer] = [one for one in reversed(viewer.layers) if not is_preview(one)]
    others = [one for one in layers if isinstance(one, Labels) and not one.multiscale]
    owner = None if labels is None else owner_of(viewer, labels)
    for other in (one for one in layers if isinstance(one, Image) and one is not image):
        free = [one for one in others if one is not labels or owner is other]
        fitting = [one for one in free if data_shape(one) == data_shape(other)]
        yield from (Pair(other, one) for one in fitting) if fitting else (Pair(other, None),)


def owner_of(viewer: ViewerModel, labels: Labels) -> Image | None:
    """Image that labels were made for or used with, else the one whose name they bear; None where nothing tells."""
    images = [one for one in viewer.layers if isinstance(one, Image) and not is_preview(one)]
    made_for = next((one for one in images if one.unique_id == labels.metadata.get(IMAGE_OF)), None)
    if made_for is not None:
        return made_for
    named = [one for one in images if labels.name.startswith(label_name(one, ""))]
    return max(named, key=lambda one: len(one.name), default=None)


def labels_for(viewer: ViewerModel, image: Image, labels: Iterable[Labels]) -> Labels | None:
    """Choose the labels that go with an image: its own, else any of its shape that are no other image's."""
    fitting = [one for one in labels if not one.multiscale and data_shape(one) == data_shape(image)]
    owners = [owner_of(viewer, one) for one in fitting]
    return next((fitting[owners.index(owner)] for owner in (image, None) if owner in owners), None)

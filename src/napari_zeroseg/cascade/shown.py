"""What is shown: examples on their planes, and what is learnt of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_zeroseg.cascade.features import Cells, Descriptor, PlaneFeatures, Surroundings, surroundings_of
from napari_zeroseg.cascade.planes import as_view, patch_of
from napari_zeroseg.cascade.prototypes import Prototypes, learn
from napari_zeroseg.errors import InputError
from napari_zeroseg.segmenter import Patch, Segmenter
from napari_zeroseg.view import View

if TYPE_CHECKING:
    from napari_zeroseg.embeddings import EmbeddingStore
    from napari_zeroseg.jobs import CancelToken

_FEW = 0.1
"""Part of the examples' cells that may lie below the map's threshold: more places cost time, fewer lose objects."""


@dataclass(frozen=True, eq=False)
class Example:
    """An object that is known.

    Attributes
    ----------
    mask : (H, W) array_like of bool
        On its plane.
    plane : int
        Index of its plane among those that are searched.
    label : int
        Its class.
    picture : (H, W) or (H, W, 3) array_like, or View, optional
        Its plane where that is not searched.
    """

    mask: ArrayLike
    plane: int = 0
    label: int = 1
    picture: ArrayLike | View | None = None


def examples_of(labels: ArrayLike, plane: int = 0, classes: Mapping[int, int] | None = None) -> list[Example]:
    """Take each label of a plane as an example.

    Parameters
    ----------
    labels : (H, W) array_like of int
        0 is background.
    plane : int
        Index of the plane among those that are searched.
    classes : mapping of int to int, optional
        Class of each label; left out, all are of class 1.
    """
    array = np.asarray(labels)
    present = np.unique(array[array > 0]).tolist()
    return [Example(array == label, plane, 1 if classes is None else classes[label]) for label in present]


@dataclass(frozen=True, eq=False)
class Known:
    """An example on its plane."""

    view: View
    plane: int | None
    patch: Patch
    label: int

    @classmethod
    def of(
        cls, given: Example | NDArray[np.bool_], model: Segmenter, views: Sequence[View], store: EmbeddingStore | None
    ) -> Known:
        """Put an example on its plane.

        Raises
        ------
        InputError
            If there is no such plane, or the mask is empty or of another shape.
        """
        one = given if isinstance(given, Example) else Example(given)
        if one.picture is None and not 0 <= one.plane < len(views):
            raise InputError(f"An example is on plane {one.plane}, but there are {len(views)}, counted from 0.")
        view = views[one.plane] if one.picture is None else as_view(model, one.picture, store)
        mask = np.asarray(one.mask)
        if mask.shape != view.shape:
            raise InputError(
                f"The mask of an example has shape {mask.shape} but its plane has {view.shape}: give one of its shape."
            )
        return cls(view, one.plane if one.picture is None else None, patch_of(mask), one.label)


@dataclass(frozen=True, eq=False)
class Shown:
    """What was learnt of the examples.

    Attributes
    ----------
    prototypes : list of Prototypes
        One a class, with the threshold of its map.
    examples, rejected : dict of int to list of Descriptor
        By class.
    around : Surroundings
    """

    prototypes: list[Prototypes]
    examples: dict[int, list[Descriptor]]
    rejected: dict[int, list[Descriptor]]
    around: Surroundings


def learn_from(known: Sequence[Known], unwanted: Sequence[Known], side: int, cancel: CancelToken | None) -> Shown:
    """Look at the planes of the examples, and learn the classes."""
    views = {id(one.view): one.view for one in (*known, *unwanted)}
    planes = {key: PlaneFeatures(view, min(side, max(view.shape))) for key, view in views.items()}
    around = surroundings_of([planes[id(one.view)] for one in {id(one.view): one for one in known}.values()], cancel)
    examples: dict[int, list[Descriptor]] = {}
    cells: dict[int, list[tuple[Cells, Cells]]] = {}
    for one in known:
        features = planes[id(one.view)]
        examples.setdefault(one.label, []).extend(features.describe([one.patch], cancel))
        cells.setdefault(one.label, []).append(features.cells_of(one.patch))
    not_wanted: dict[int, list[Descriptor]] = {label: [] for label in examples}
    for one in unwanted:
        not_wanted.setdefault(one.label, []).extend(planes[id(one.view)].describe([one.patch], cancel))
    prototypes = []
    for label, several in examples.items():
        learnt = learn(label, several, around, not_wanted[label])
        scores = np.concatenate([learnt.map(*held) for held in cells[label]])
        # of a class that varies, the few lowest of many; but at most half of what its own cells are worth
        threshold = min(float(np.quantile(scores, _FEW)), float(np.median(scores)) / 2)
        prototypes.append(replace(learnt, threshold=threshold))
    return Shown(prototypes, examples, not_wanted, around)

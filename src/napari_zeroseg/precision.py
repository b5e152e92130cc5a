"""Whether a model draws the same masks in the shorter type that "auto" chooses as in float32, seen on pictures.

What a network's masks suffer from bf16 depends on its weights. It is measured here with those that are on this machine,
and where masks change, "auto" means float32 for them from then on.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_zeroseg.errors import InputError
from napari_zeroseg.intensity import to_uint8
from napari_zeroseg.metrics import iou
from napari_zeroseg.planes import check_picture
from napari_zeroseg.prompts import Prompt, PromptKind
from napari_zeroseg.registry import find_model, load_model
from napari_zeroseg.view import View
from napari_zeroseg.weights import precisions, weights_of

FLOAT32 = "float32"

UNCHANGED = 0.99
"""Mean IoU of masks from which they count as the same."""

_GRID = 6
"""Clicks, or boxes, a side of each picture."""

_MEANT = 0.8
"""Predicted IoU from which a click of the grid is on an object."""


@dataclass(frozen=True)
class PrecisionReport:
    """What :func:`compare_precisions` found.

    Attributes
    ----------
    title : str
        The model's.
    precision : str
        What the device computes in best, such as "bf16"; "float32" where there is nothing to compare.
    prompts : int
        Clicks and boxes that were answered twice.
    mean_iou, lowest_iou : float
        Of the masks in both types.
    by_default : bool
        Whether auto may mean `precision` for this model at all; if not, it means float32 whatever was found.
    """

    title: str
    precision: str
    prompts: int
    mean_iou: float
    lowest_iou: float
    by_default: bool = True

    @property
    def unchanged(self) -> bool:
        """Whether the shorter type may be the default."""
        return self.mean_iou >= UNCHANGED

    @property
    def sentence(self) -> str:
        """For people."""
        if self.precision == FLOAT32:
            return f"{self.title} is computed in float32 on this device: there is nothing to compare."
        found = f"mean IoU {self.mean_iou:.3f}, lowest {self.lowest_iou:.3f}, of {self.prompts} prompts"
        kind, than = ("the same", "as") if self.unchanged else ("other", "than")
        said = f"{self.title} draws {kind} masks in {self.precision} {than} in float32: {found}."
        if not self.by_default:
            return f"{said} For this model auto means float32 on every machine."
        return said if self.unchanged else f"{said} From now on auto means float32 for these weights on this machine."


def compare_precisions(
    key: str,
    pictures: Sequence[NDArray[np.generic]],
    *,
    device: str = "auto",
) -> PrecisionReport:
    """Answer the same prompts in float32 and in the type that the device computes in best, and keep the outcome.

    A model of which "auto" means float32 anyway is compared all the same, for whoever wants to choose the shorter type.

    Parameters
    ----------
    key : str
        A model of the SAM family whose weights are on this machine.
    pictures : sequence of (H, W) or (H, W, 3) array
        Such as the model is to be used on, of any real dtype.
    device : str
        As for :func:`napari_zeroseg.load_model`.

    Returns
    -------
    PrecisionReport

    Raises
    ------
    UnknownModelError, WeightsError, DeviceError, DeviceMemoryError, InputError
        If there is no such model, it answers no clicks or boxes, or finds nothing on these pictures.
    """
    from napari_zeroseg.devices import precision_name, resolve_device, resolve_precision

    spec = find_model(key)
    if PromptKind.TEXT in spec.accepts or not spec.accepts & {PromptKind.POINTS, PromptKind.BOX}:
        raise InputError(f"{spec.title} answers words, and what is compared are clicks and boxes.")
    kind = resolve_device(device).type
    short = precision_name(resolve_precision("auto", resolve_device(device)))
    if short == FLOAT32:
        return PrecisionReport(spec.title, short, 0, 1.0, 1.0)
    for picture in pictures:
        check_picture(picture)
    seen = [to_uint8(picture) for picture in pictures]
    exact = load_model(key, device=device, precision=FLOAT32)
    views = [View(exact, picture) for picture in seen]
    asked = [_prompts_on(view) for view in views]
    expected = [_masks(view, prompts) for view, prompts in zip(views, asked, strict=True)]
    del exact, views  # both would not fit beside each other everywhere
    gc.collect()
    model = load_model(key, device=device, precision=short)
    found = [_masks(View(model, picture), prompts) for picture, prompts in zip(seen, asked, strict=True)]
    values = [iou(a, b) for pair in zip(expected, found, strict=True) for a, b in zip(*pair, strict=True)]
    if not values:
        raise InputError(f"{spec.title} finds nothing on these pictures: give some with objects that it draws.")
    by_default = spec.auto_precision != FLOAT32
    report = PrecisionReport(spec.title, short, len(values), float(np.mean(values)), min(values), by_default)
    precisions.keep(weights_of(spec).sha256, kind, short, unchanged=report.unchanged)
    return report


def _prompts_on(view: View) -> list[Prompt]:
    """A click in the middle of each object that a grid of clicks finds, and a box around it.

    Models of boxes alone are asked for the boxes of the grid.
    """
    height, width = view.shape
    rows, columns = ((np.arange(_GRID) + 0.5) * side / _GRID for side in (height, width))
    if PromptKind.POINTS not in view.model.spec.accepts:
        half = np.array([height, width]) / _GRID / 2
        return [Prompt(box=(r - half[0], c - half[1], r + half[0], c + half[1])) for r in rows for c in columns]
    clicks = [Prompt([(float(r), float(c))]) for r in rows for c in columns]
    prompts: list[Prompt] = []
    taken = np.zeros(view.shape, bool)
    for one in sorted(view.predict(clicks, multimask=None), key=lambda one: -float(one.scores[one.best])):
        box = one.extent()
        if box is None or one.scores[one.best] < _MEANT or (taken & one.mask).any():
            continue
        taken |= one.mask
        depth = ndimage.distance_transform_edt(np.pad(one.mask, 1))[1:-1, 1:-1]
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        prompts.append(Prompt([(float(row), float(column))]))  # as people click: in the middle
        if PromptKind.BOX in view.model.spec.accepts:
            prompts.append(Prompt(box=box))
    return prompts


def _masks(view: View, prompts: Sequence[Prompt]) -> list[NDArray[np.bool_]]:
    return [one.mask for one in view.predict(prompts, multimask=None)]

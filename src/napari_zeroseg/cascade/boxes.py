"""Boxes with classes, of a user or of any detector, to labelled masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_zeroseg import instances
from napari_zeroseg.cascade.planes import as_view
from napari_zeroseg.errors import InputError
from napari_zeroseg.instances import OverlapPolicy
from napari_zeroseg.prompts import Prompt, PromptKind
from napari_zeroseg.segmenter import Segmenter
from napari_zeroseg.view import View

if TYPE_CHECKING:
    from napari_zeroseg.jobs import CancelToken


def segment_boxes(
    model: Segmenter,
    picture: ArrayLike | View,
    boxes: ArrayLike,
    classes: Sequence[int],
    scores: Sequence[float] | None = None,
    *,
    cancel: CancelToken | None = None,
) -> NDArray[np.int32]:
    """Draw what boxes hold, each as its class.

    Parameters
    ----------
    model : Segmenter
        One that takes boxes.
    picture : (H, W) or (H, W, 3) array_like, or View
        As for :func:`segment_text`.
    boxes : (N, 4) array_like of float
        (row0, column0, row1, column1) in pixels.
    classes : sequence of int
        Of each box, from 1.
    scores : sequence of float, optional
        Where masks overlap, that of the higher score is seen; left out, that of the later box.
    cancel : CancelToken, optional

    Returns
    -------
    (H, W) int32 array
        0 is background.

    Raises
    ------
    InputError
        If there is not one class, and one score, a box, or the model takes no boxes.
    """
    if PromptKind.BOX not in model.spec.accepts:
        raise InputError(f"{model.spec.title} takes no boxes: choose a model that does, such as mobile_sam.")
    corners = np.asarray(boxes, np.float32).reshape(-1, 4)
    if len(classes) != len(corners) or (scores is not None and len(scores) != len(corners)):
        raise InputError(f"There are {len(corners)} boxes: give one class, and one score if any, for each.")
    if len(classes) and min(classes) < 1:
        raise InputError("Classes are whole numbers from 1; 0 is background.")
    view = as_view(model, picture)
    answers = view.predict([Prompt(box=box) for box in corners], cancel=cancel) if len(corners) else []
    labels = np.zeros(view.shape, np.int32)
    order = range(len(corners)) if scores is None else np.argsort(np.asarray(scores, float), kind="stable").tolist()
    for i in order:
        instances.write(labels, answers[i].patch(), int(classes[i]), OverlapPolicy.REPLACE)
    return labels

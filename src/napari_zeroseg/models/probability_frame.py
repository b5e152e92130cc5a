"""How a map of probabilities lies on a picture that was stretched to a square, and what is above its threshold."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg.errors import InputError
from napari_zeroseg.models import resampling
from napari_zeroseg.segmenter import Patch, Prediction

HALF = 0.5


@dataclass(frozen=True)
class ProbabilityFrame:
    """A picture stretched to a square; *probabilities* are interpolated, and above a threshold is the object.

    Attributes
    ----------
    shape : tuple of int
        (H, W) of the picture.
    box : tuple of float or None
        (row0, column0, row1, column1) in pixels: the object is looked for among the pixels whose centres it holds.
    threshold : float
        Probability above which a pixel is the object's.
    """

    shape: tuple[int, int]
    box: tuple[float, float, float, float] | None = None
    threshold: float = HALF

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns in which the object is looked for."""
        if self.box is None:
            return slice(0, self.shape[0]), slice(0, self.shape[1])
        r0, c0, r1, c1 = self.box
        return _pixels(r0, r1, self.shape[0]), _pixels(c0, c1, self.shape[1])

    def patch(self, logits: NDArray[np.float32]) -> Patch:
        """Interpolate the probabilities to the picture's pixels and threshold them."""

        def matrix(axis: int, first: int, last: int) -> tuple[int, resampling.Matrix]:
            return resampling.bilinear(self.shape[axis], logits.shape[axis], first, last)

        return resampling.thresholded(resampling.sigmoid(logits), self.threshold, self.shape, matrix, self.window)

    def probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """(h, w) logits to the (H, W) probabilities on the picture, box or no box."""
        row, rows = resampling.bilinear(self.shape[0], logits.shape[0], 0, self.shape[0])
        column, columns = resampling.bilinear(self.shape[1], logits.shape[1], 0, self.shape[1])
        # of a picture smaller than the answer, the outermost cells are not used
        used = resampling.sigmoid(logits[row : row + rows.shape[1], column : column + columns.shape[1]])
        return np.asarray(rows @ used @ columns.T, np.float32)

    def score(self, logits: NDArray[np.float32]) -> float:
        """Mean probability inside the mask, over the network's own cells; 0 where the mask is empty."""
        cells = tuple(
            slice(int(span.start * side / length), math.ceil(span.stop * side / length))
            for span, side, length in zip(self.window, logits.shape, self.shape, strict=True)
        )
        inside = resampling.sigmoid(logits[cells])
        inside = inside[inside > self.threshold]
        return float(inside.mean()) if inside.size else 0.0


def at_threshold(prediction: Prediction, threshold: float) -> Prediction:
    """Return the same answer cut at another probability; the model does not run.

    Parameters
    ----------
    prediction : Prediction
        From a model that answers with probabilities.
    threshold : float
        Between 0 and 1; the mask is where the probability is above it.

    Raises
    ------
    InputError
        If the threshold is not between 0 and 1 or the model has none.
    """
    if not 0 < threshold < 1:
        raise InputError(f"A threshold is a probability between 0 and 1; got {threshold}.")
    frame = replace(_frame_of(prediction), threshold=float(threshold))
    scores = np.array([frame.score(logits) for logits in prediction.logits], np.float32)
    return replace(prediction, frame=frame, scores=scores, _patches={})


def heat_map(prediction: Prediction, k: int | None = None) -> NDArray[np.float32]:
    """Return the probability at each pixel of the plane.

    Parameters
    ----------
    prediction : Prediction
        From a model that answers with probabilities.
    k : int, optional
        The candidate; the best if left out.

    Returns
    -------
    (H, W) float32 array
        0 to 1; 0 outside the window that was encoded. A box that restricts the mask does not restrict the map.

    Raises
    ------
    InputError
        If the model does not answer with probabilities.
    """
    probabilities = _frame_of(prediction).probabilities(prediction.logits[prediction.best if k is None else k])
    if probabilities.shape == prediction.shape:
        return probabilities
    full = np.zeros(prediction.shape, np.float32)
    full[prediction.field.slices] = probabilities
    return full


def _frame_of(prediction: Prediction) -> ProbabilityFrame:
    if not isinstance(prediction.frame, ProbabilityFrame):
        raise InputError("This answer has no probabilities: only those of a model that takes text have.")
    return prediction.frame


def _pixels(first: float, last: float, length: int) -> slice:
    """Pixels whose centres lie between `first` and `last`, at least the one in the middle."""
    start, stop = math.ceil(first), math.floor(last) + 1
    if stop <= start:
        start = round((first + last) / 2)
        stop = start + 1
    start = min(max(start, 0), length - 1)
    return slice(start, min(max(stop, start + 1), length))

"""Fit CLIPSeg's condition to labelled pictures: the one vector that steers the decoder, and nothing else.

The decoder is modulated by a projection of CLIP's embedding of the phrase (FiLM; Lüddecke and Ecker, "Image
segmentation using text and image prompts", CVPR 2022, section 3). That embedding is all that a word is to the decoder,
so a better one teaches the word while every weight stays as it was published, and all other words with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from napari_zeroseg.errors import InputError
from napari_zeroseg.models.clipseg import ClipSegSegmenter, memory_watched
from napari_zeroseg.models.clipseg_conditions import SIDE

if TYPE_CHECKING:
    from napari_zeroseg.jobs import CancelToken
    from napari_zeroseg.segmenter import Embedding


@dataclass(frozen=True)
class FitOptions:
    """How a condition is fitted.

    Attributes
    ----------
    steps : int
        Steps of AdamW at most, but one round through the pictures at least.
    rate : float
        Learning rate, in units of the root mean square of the word's own vector.
    batch : int
        Pictures a step.
    patience : int
        Steps without a lower loss after which it ends.
    seed : int
        Order of the pictures; same number, same vector.

    Raises
    ------
    InputError
        If a value is none that can be worked with.
    """

    steps: int = 300
    rate: float = 0.1
    batch: int = 4
    patience: int = 60
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "patience"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is a whole number from 1; got {getattr(self, name)!r}.")
        if not 0 < self.rate <= 1:
            raise InputError(f"rate is a number above 0 and at most 1; got {self.rate!r}.")


class Fit(NamedTuple):
    """A fitted condition.

    Attributes
    ----------
    condition : (P,) float32 array
        The one with the lowest loss.
    losses : list of float
        Mean loss of each round through the pictures.
    steps : int
        Steps that were taken.
    """

    condition: NDArray[np.float32]
    losses: list[float]
    steps: int


def target_of(mask: NDArray[np.bool_]) -> Tensor:
    """(H, W) bool to the part of each of the network's pixels that is the object's, (352, 352) float32."""
    whole = torch.from_numpy(np.ascontiguousarray(mask, np.float32))[None, None]
    return F.interpolate(whole, (SIDE, SIDE), mode="area")[0, 0]


def fit_condition(
    model: ClipSegSegmenter,
    embeddings: Sequence[Embedding],
    targets: Sequence[Tensor],
    start: NDArray[np.float32],
    options: FitOptions | None = None,
    *,
    cancel: CancelToken | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Fit:
    """Fit a condition to pictures that are encoded already.

    The loss is the mean binary cross-entropy of a picture and 1 less its Dice coefficient.

    Parameters
    ----------
    model : ClipSegSegmenter
        Its weights stay as they are.
    embeddings : sequence of Embedding
        N, from this model.
    targets : sequence of (352, 352) float32 tensor
        From :func:`target_of`.
    start : (P,) float32 array
        Where it begins, such as the word's own text embedding.
    options : FitOptions, optional
    cancel : CancelToken, optional
        Looked at between steps.
    progress : callable, optional
        Called with the steps that were taken, and the most there can be.

    Raises
    ------
    CancelledError
    DeviceMemoryError
        If the device's memory is not enough.
    """
    options = options or FitOptions()
    condition = torch.tensor(start, device=model.device, requires_grad=True)
    rate = options.rate * max(float(np.sqrt(np.mean(np.square(start)))), 1e-6)
    optimizer = torch.optim.AdamW([condition], rate)
    order = torch.Generator().manual_seed(options.seed)
    best, lowest, since, taken = condition.detach().clone(), np.inf, 0, 0
    losses: list[float] = []
    steps_of_round = math.ceil(len(embeddings) / options.batch)
    while (taken == 0 or taken + steps_of_round <= options.steps) and since < options.patience:
        before, total = condition.detach().clone(), 0.0
        for chosen in torch.randperm(len(embeddings), generator=order).split(options.batch):
            if cancel is not None:
                cancel.raise_if_cancelled()
            several = [embeddings[i] for i in chosen.tolist()]
            loss, condition.grad = _gradient(model, several, [targets[i] for i in chosen.tolist()], condition)
            optimizer.step()
            total += loss * len(chosen) / len(embeddings)
            taken, since = taken + 1, since + 1
            if progress is not None:
                progress(taken, options.steps)
        losses.append(total)
        if total < lowest * 0.999:
            best, lowest, since = before if len(embeddings) <= options.batch else condition.detach().clone(), total, 0
    return Fit(best.cpu().numpy(), losses, taken)


def _gradient(
    model: ClipSegSegmenter, embeddings: Sequence[Embedding], targets: Sequence[Tensor], condition: Tensor
) -> tuple[float, Tensor]:
    """The loss over a few pictures, and its gradient with respect to the condition."""
    activations = torch.stack([model.activations_of(embedding) for embedding in embeddings], 1)
    wanted = torch.stack(list(targets)).to(model.device)
    with memory_watched(model.device, "teaching a word"), torch.enable_grad():
        loss = _loss(model.network.decode(activations, condition.expand(len(embeddings), -1)), wanted)
        (gradient,) = torch.autograd.grad(loss, [condition])
    return float(loss.detach()), gradient


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    p = logits.sigmoid()
    shared, areas = (p * targets).sum((1, 2)), (p + targets).sum((1, 2))
    dice = 1 - (2 * shared + 1) / (areas + 1)
    return dice.mean() + F.binary_cross_entropy_with_logits(logits, targets)

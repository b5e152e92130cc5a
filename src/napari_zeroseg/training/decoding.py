"""SAM's mask decoder for training: the order of work of :mod:`napari_zeroseg.models.mask_decoding`, with gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional as F

from napari_zeroseg.models.mask_decoding import MaskDecoding, with_image
from napari_zeroseg.models.pipelines import PromptFrame
from napari_zeroseg.models.prompt_embedding import SIDE, PromptEmbedding, SparsePrompts
from napari_zeroseg.prompts import Prompt


class Decoding(Protocol):
    """A mask decoder for one forward and backward pass."""

    def first(self, embedding: Tensor, prompts: SparsePrompts) -> Tensor:
        """The (256, 256) logits that answer the first prompt best, as the network trusts itself."""
        ...


class TrainableDecoding(MaskDecoding):
    """Evaluate a SAM mask decoder so that gradients reach its parameters; made anew whenever these have changed.

    What comes from the positions alone is computed once. Backward passes leave its gradients here, and :meth:`gather`
    gives them to the parameters after the last one.

    Parameters
    ----------
    prompt_encoder, mask_decoder : torch.nn.Module
        As for :class:`~napari_zeroseg.models.mask_decoding.MaskDecoding`.
    device, dtype
        Where, and in what type the image side is computed; parameters stay float32.
    """

    def __init__(self, prompt_encoder: Any, mask_decoder: Any, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(prompt_encoder, mask_decoder, device, dtype)
        # the inference form overwrites tensors that gradients need
        self._modules = mask_decoder.output_upscaling
        scores = [part.scores for block in self._blocks for part in (block.to_image, block.to_tokens)]
        self._of_positions = [(each, each.constant) for each in (*scores, self._final.scores)]
        for each, constant in self._of_positions:
            each.constant = constant.detach().float().requires_grad_(constant.requires_grad)

    def gather(self) -> None:
        """Give the parameters the gradients of all backward passes with respect to what comes from the positions."""
        met = [(constant, each.constant.grad) for each, constant in self._of_positions]
        met = [(constant, grad.to(constant.dtype)) for constant, grad in met if grad is not None]
        if met:
            torch.autograd.backward([constant for constant, _ in met], [grad for _, grad in met])

    def answer(self, embedding: Tensor, prompts: SparsePrompts, places: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """All four masks of each prompt.

        Parameters
        ----------
        embedding : (1, 256, 64, 64) float32
        prompts : SparsePrompts
            Of B prompts.
        places : (B, P) int64, optional
            Draw only these of the image's 64 x 64 places, counted row by row.

        Returns
        -------
        logits : (B, 4, 256, 256) or (B, 4, P, 16) float32
            0 is the single answer, 1 to 3 are the ambiguous three; of a place its 4 x 4 cells, row by row.
        scores : (B, 4) float32
            Predicted IoU.
        """
        queries, keys = self._attend(self.image_side(embedding), embedding, prompts)
        wanted = slice(0, 4)
        hyper, scores = self._hyper(queries, wanted), self._scores(queries, wanted)
        if places is None:
            cells = self._cells(keys, hyper).unflatten(2, (SIDE, SIDE)).permute(0, 1, 2, 4, 3, 5)
            return cells.reshape(*hyper.shape[:2], 4 * SIDE, 4 * SIDE).float(), scores
        return self._cells(_picked(keys, places), hyper).flatten(-2).float(), scores

    def first(self, embedding: Tensor, prompts: SparsePrompts) -> Tensor:
        """The (256, 256) logits of the best of a click's three candidates."""
        logits, scores = self.answer(embedding, prompts)
        return logits[0, 1 + int(scores[0, 1:].argmax())]

    def _cells(self, keys: Tensor, hyper: Tensor) -> Tensor:
        """(B, P, 256) places of the image and (B, K, 32) in, (B, K, P, 4, 4) out: the cells of each place."""
        first, norm, _, second, _ = self._modules
        batch, places = keys.shape[:2]
        x = F.linear(keys, _as_rows(first, self.dtype), first.bias.repeat(4).to(self.dtype))
        x = x.view(batch, places * 4, -1)
        x = F.layer_norm(x, x.shape[-1:], norm.weight.to(self.dtype), norm.bias.to(self.dtype), norm.eps)
        x = F.linear(F.gelu(x), _as_rows(second, self.dtype), second.bias.repeat(4).to(self.dtype))
        x = F.gelu(x.view(batch, places * 16, -1))
        masks = with_image(hyper.to(self.dtype), x.transpose(1, 2))
        # rows and columns of the first and of the second doubling
        masks = masks.view(batch, hyper.shape[1], places, 2, 2, 2, 2).transpose(-3, -2)
        return masks.reshape(*masks.shape[:3], 4, 4)


class Prompter:
    """Embeds prompts as the model does; nothing of it is trained.

    Parameters
    ----------
    prompt_encoder : torch.nn.Module
    device : torch.device
    """

    def __init__(self, prompt_encoder: Any, device: torch.device) -> None:
        self._embedding = PromptEmbedding(prompt_encoder, device)
        self._device = device

    def __call__(self, prompts: Sequence[Prompt], frame: PromptFrame) -> SparsePrompts:
        """Embed prompts in pixels of the picture that `frame` belongs to."""

        def tensor(values: ArrayLike) -> Tensor:
            return torch.as_tensor(np.asarray(values), device=self._device)

        with torch.no_grad():
            return self._embedding.embed(
                [tensor(frame.points(one.points)) for one in prompts],
                [tensor(one.labels.astype(np.int64)) for one in prompts],
                [None if one.box is None else tensor(frame.box(one.box)) for one in prompts],
                [None if one.mask is None else tensor(frame.mask(one.mask)) for one in prompts],
            )


def _picked(keys: Tensor, places: Tensor) -> Tensor:
    """(B, 4096, 256) and (B, P) in, (B, P, 256) out."""
    first = torch.arange(len(keys), device=keys.device)[:, None] * keys.shape[1]
    return keys.flatten(0, 1).index_select(0, (places + first).flatten()).view(*places.shape, -1)


def _as_rows(convolution: Any, dtype: torch.dtype) -> Tensor:
    """Kernel-2, stride-2 transposed convolution as a linear map to (2, 2, outputs)."""
    weight: Tensor = convolution.weight.permute(2, 3, 1, 0).reshape(-1, convolution.weight.shape[0])
    return weight.to(dtype)

"""SAM's prompt encoder for prompts of any mixture of kinds in one batch; (x, y) in the network's frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

CHANNELS = 256
SIDE = 64


@dataclass(frozen=True)
class SparsePrompts:
    """Prompts of one batch in the 1024 frame.

    Attributes
    ----------
    tokens : (B, N, 256) float32
        Embedded points and box corners, zero where `valid` is False.
    valid : (B, N) bool
        Which tokens are real; the others fill up the batch.
    masks : (B, 256, 64, 64) float32 or None
        Embedded mask prompts; None where no prompt of the batch has one.
    """

    tokens: Tensor
    valid: Tensor
    masks: Tensor | None


class PromptEmbedding:
    """Evaluate a SAM prompt encoder.

    Parameters
    ----------
    prompt_encoder : torch.nn.Module
        segment-anything's module with its weights, in float32 and eval mode.
    device : torch.device
    """

    def __init__(self, prompt_encoder: Any, device: torch.device) -> None:
        self.device = device
        self._encoder = prompt_encoder.to(device)

    def embed(
        self, points: list[Tensor], labels: list[Tensor], boxes: list[Tensor | None], masks: list[Tensor | None]
    ) -> SparsePrompts:
        """Embed prompts as one batch.

        Parameters
        ----------
        points : list of (N, 2) float32
            (x, y), one tensor a prompt.
        labels : list of (N,) int
            1 on the object, 0 on background.
        boxes : list of (4,) float32 or None
            (x0, y0, x1, y1).
        masks : list of (256, 256) float32 or None
            Low-resolution logits.
        """
        encoder = self._encoder
        rows = []
        for xy, label, box in zip(points, labels, boxes, strict=True):
            parts = []
            if len(xy):
                parts.append(encoder._embed_points(xy[None], label[None], pad=box is None)[0])
            if box is not None:
                parts.append(encoder._embed_boxes(box[None])[0])
            rows.append(torch.cat(parts) if parts else torch.zeros((0, CHANNELS), device=self.device))
        longest = max(len(row) for row in rows)
        tokens = torch.stack([F.pad(row, (0, 0, 0, longest - len(row))) for row in rows])
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        valid = torch.arange(longest, device=self.device)[None] < lengths[:, None]
        return SparsePrompts(tokens, valid, self._embed_masks(masks))

    def dense(self, prompts: SparsePrompts) -> Tensor:
        """What is added to the embedding: embedded masks, or the code of "no mask"; (B or 1, 256, 64, 64)."""
        return self._no_mask()[None] if prompts.masks is None else prompts.masks

    def _no_mask(self) -> Tensor:
        code: Tensor = self._encoder.no_mask_embed.weight
        return code.reshape(-1, 1, 1).expand(-1, SIDE, SIDE)

    def _embed_masks(self, masks: list[Tensor | None]) -> Tensor | None:
        if all(mask is None for mask in masks):
            return None
        return torch.stack(
            [self._no_mask() if mask is None else self._encoder._embed_masks(mask[None, None])[0] for mask in masks]
        )

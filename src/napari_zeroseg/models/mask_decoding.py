"""SAM's mask decoder, evaluated so that a click is quick; weights and results are those of segment-anything.

What differs from running the modules as they stand is only the order of the work:

- a projection of (keys + positions) is the projection of the keys plus that of the positions, and the latter is
  the same for every picture: it is computed once;
- before the first block the image side is the same for all prompts: it is computed once an embedding;
- prompts with different numbers of points share one batch, and attention leaves the filling out;
- the upscaling convolutions (kernel 2, stride 2) are plain matrix products on channels-last maps, and only the
  masks that are wanted are multiplied out.

Kirillov et al., "Segment Anything", ICCV 2023, section A. Coordinates here are (x, y) in the 1024 frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_zeroseg.models.prompt_embedding import SIDE, SparsePrompts

HEADS = 8
MASK_TOKENS = 4


@dataclass(frozen=True)
class ImageSide:
    """What the decoder needs of one embedding: `keys` (1, 4096, 256) and its projections for the first block."""

    keys: Tensor
    projected: Tensor


class MaskDecoding:
    """Evaluate a SAM mask decoder for inference.

    Parameters
    ----------
    prompt_encoder, mask_decoder : torch.nn.Module
        segment-anything's modules with their weights, in float32 and eval mode; of the former only the codes of
        places and of "no mask" are used.
    device : torch.device
    dtype : torch.dtype
        Of the image side; the few tokens stay float32.
    """

    def __init__(self, prompt_encoder: Any, mask_decoder: Any, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self.dtype = dtype
        self._decoder = mask_decoder.to(device)
        prompt_encoder.to(device)
        positions = prompt_encoder.get_dense_pe().flatten(2).transpose(1, 2)
        layers = mask_decoder.transformer.layers
        self._blocks = [_Block(layer, positions, dtype) for layer in layers]
        final = mask_decoder.transformer.final_attn_token_to_image
        self._final = _Projection([(final.k_proj, True), (final.v_proj, False)], positions, dtype)
        self._upscale = _Upscaling(mask_decoder.output_upscaling, dtype)
        self._output_tokens = torch.cat([mask_decoder.iou_token.weight, mask_decoder.mask_tokens.weight])
        self._no_mask = prompt_encoder.no_mask_embed.weight.reshape(1, 1, -1)

    def image_side(self, embedding: Tensor) -> ImageSide:
        """Prepare a (1, 256, 64, 64) embedding for prompts without masks."""
        keys = embedding.to(self.device, torch.float32).flatten(2).transpose(1, 2) + self._no_mask
        keys = keys.to(self.dtype)
        return ImageSide(keys, self._blocks[0].image.apply(keys))

    def decode(
        self, image: ImageSide, embedding: Tensor, prompts: SparsePrompts, wanted: slice
    ) -> tuple[Tensor, Tensor]:
        """Answer a batch of prompts.

        Parameters
        ----------
        image : ImageSide
            Of `embedding`.
        embedding : (1, 256, 64, 64)
        prompts : SparsePrompts
            Of B prompts.
        wanted : slice
            Which of the four mask tokens: 0 is the single answer, 1 to 3 are the ambiguous three.

        Returns
        -------
        logits : (B, K, 256, 256) float32
        scores : (B, K) float32
            Predicted IoU.
        """
        batch = len(prompts.tokens)
        query_pe = torch.cat([self._output_tokens.expand(batch, -1, -1), prompts.tokens], 1)
        outputs_valid = prompts.valid.new_ones((batch, len(self._output_tokens)))
        valid = torch.cat([outputs_valid, prompts.valid], 1)
        filling = None if bool(valid.all()) else torch.zeros_like(valid, dtype=torch.float32).masked_fill(~valid, -1e9)
        keys, projected = image.keys, image.projected
        if prompts.masks is not None:
            keys = embedding.to(self.device, torch.float32) + prompts.masks
            keys = keys.flatten(2).transpose(1, 2).to(self.dtype)
            projected = self._blocks[0].image.apply(keys)
        queries, keys = self._blocks[0](query_pe, keys, projected, query_pe, filling)
        for block in self._blocks[1:]:
            queries, keys = block(queries, keys, block.image.apply(keys), query_pe, filling)
        queries = self._attend_finally(queries, keys, query_pe)
        scores = self._decoder.iou_prediction_head(queries[:, 0])[:, wanted]
        heads = self._decoder.output_hypernetworks_mlps
        hyper = torch.stack([heads[i](queries[:, 1 + i]) for i in range(MASK_TOKENS)[wanted]], 1)
        return self._upscale.masks(keys, hyper), scores.float()

    def _attend_finally(self, queries: Tensor, keys: Tensor, query_pe: Tensor) -> Tensor:
        transformer = self._decoder.transformer
        attention = transformer.final_attn_token_to_image
        k, v = self._final.apply(keys).chunk(2, -1)
        attended = _tokens_to_image(attention.q_proj(queries + query_pe), k, v)
        out: Tensor = transformer.norm_final_attn(queries + attention.out_proj(attended))
        return out


class _Projection:
    """Several linear maps of the image side as one product; those of (keys + positions) have the latter built in."""

    def __init__(self, maps: list[tuple[Any, bool]], positions: Tensor, dtype: torch.dtype) -> None:
        self.weight = torch.cat([linear.weight for linear, _ in maps]).to(dtype)
        constants = [
            linear(positions) if with_positions else linear.bias.expand(1, positions.shape[1], -1)
            for linear, with_positions in maps
        ]
        self.constant = torch.cat(constants, -1).to(dtype)

    def apply(self, keys: Tensor) -> Tensor:
        """(B, 4096, 256) in, (B, 4096, sum of outputs) out."""
        return F.linear(keys, self.weight).add_(self.constant)


class _Block:
    """One two-way block: tokens among themselves, tokens to image, MLP, image to tokens."""

    def __init__(self, layer: Any, positions: Tensor, dtype: torch.dtype) -> None:
        self.layer = layer
        to_image, to_tokens = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
        self.image = _Projection(
            [(to_image.k_proj, True), (to_image.v_proj, False), (to_tokens.q_proj, True)], positions, dtype
        )
        self.out_weight = to_tokens.out_proj.weight.to(dtype)
        self.out_bias = to_tokens.out_proj.bias.to(dtype)
        self.norm_weight = layer.norm4.weight.to(dtype)
        self.norm_bias = layer.norm4.bias.to(dtype)

    def __call__(
        self, queries: Tensor, keys: Tensor, projected: Tensor, query_pe: Tensor, filling: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        layer = self.layer
        queries = self._attend_among_tokens(queries, query_pe, filling)
        k, v, image_q = projected.chunk(3, -1)
        attention = layer.cross_attn_token_to_image
        attended = _tokens_to_image(attention.q_proj(queries + query_pe), k, v)
        queries = layer.norm2(queries + attention.out_proj(attended))
        queries = layer.norm3(queries + layer.mlp(queries))
        attention = layer.cross_attn_image_to_token
        token_k, token_v = attention.k_proj(queries + query_pe), attention.v_proj(queries)
        attended = _image_to_tokens(image_q, token_k, token_v, filling)
        keys = F.linear(attended, self.out_weight, self.out_bias).add_(keys)
        keys = F.layer_norm(keys, keys.shape[-1:], self.norm_weight, self.norm_bias, layer.norm4.eps)
        return queries, keys

    def _attend_among_tokens(self, queries: Tensor, query_pe: Tensor, filling: Tensor | None) -> Tensor:
        layer, attention = self.layer, self.layer.self_attn
        first = layer.skip_first_layer_pe
        with_pe = queries if first else queries + query_pe
        q, k, v = attention.q_proj(with_pe), attention.k_proj(with_pe), attention.v_proj(queries)
        weights = _heads(q) @ _heads(k).transpose(-1, -2) / math.sqrt(q.shape[-1] // HEADS)
        if filling is not None:
            weights = weights + filling[:, None, None]
        attended = attention.out_proj(_join(weights.softmax(-1) @ _heads(v)))
        out: Tensor = layer.norm1(attended if first else queries + attended)
        return out


class _Upscaling:
    """The two transposed convolutions on channels-last maps, and the product with the hypernetworks' answer."""

    def __init__(self, modules: Any, dtype: torch.dtype) -> None:
        first, norm, _, second, _ = modules
        self.first, self.first_bias = _as_linear(first, dtype)
        self.second, self.second_bias = _as_linear(second, dtype)
        self.norm_weight, self.norm_bias = norm.weight.to(dtype), norm.bias.to(dtype)
        self.eps = norm.eps
        self.dtype = dtype

    def masks(self, keys: Tensor, hyper: Tensor) -> Tensor:
        """(B, 4096, 256) and (B, K, 32) in, (B, K, 256, 256) float32 out."""
        batch, wanted = hyper.shape[:2]
        x = F.linear(keys, self.first, self.first_bias).view(batch, SIDE * SIDE * 4, -1)
        x = F.layer_norm(x, x.shape[-1:], self.norm_weight, self.norm_bias, self.eps)
        x = F.linear(torch.ops.aten.gelu_(x), self.second, self.second_bias).view(batch, SIDE * SIDE * 16, -1)
        x = torch.ops.aten.gelu_(x) @ hyper.to(self.dtype).transpose(-1, -2)
        # rows and columns of the 64 x 64 map, then of the first and of the second doubling
        x = x.view(batch, SIDE, SIDE, 2, 2, 2, 2, wanted).permute(0, 7, 1, 3, 5, 2, 4, 6)
        logits: Tensor = x.reshape(batch, wanted, 4 * SIDE, 4 * SIDE).float()
        return logits


def _as_linear(convolution: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Kernel-2, stride-2 transposed convolution as a linear map to (2, 2, outputs)."""
    weight = convolution.weight.permute(2, 3, 1, 0)
    bias = convolution.bias.expand(2, 2, -1)
    return weight.reshape(-1, weight.shape[-1]).to(dtype).contiguous(), bias.reshape(-1).to(dtype).contiguous()


def _heads(x: Tensor) -> Tensor:
    """(B, N, C) to (B, heads, N, C/heads)."""
    parts: Tensor = x.unflatten(-1, (HEADS, -1))
    return parts.transpose(1, 2)


def _join(x: Tensor) -> Tensor:
    """(B, heads, N, C/heads) to (B, N, C)."""
    joined: Tensor = x.transpose(1, 2).flatten(2)
    return joined


def _tokens_to_image(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Few tokens look at 4096 places; (B, N, 128) float32 out."""
    scale = 1 / math.sqrt(q.shape[-1] // HEADS)
    weights = _heads((q * scale).to(k.dtype)) @ _heads(k).transpose(-1, -2)
    return _join(weights.float().softmax(-1).to(v.dtype) @ _heads(v)).float()


def _image_to_tokens(q: Tensor, k: Tensor, v: Tensor, filling: Tensor | None) -> Tensor:
    """4096 places look at few tokens; (B, 4096, 128) out in the image side's dtype."""
    scale = 1 / math.sqrt(q.shape[-1] // HEADS)
    weights = _heads(q) @ _heads((k * scale).to(q.dtype)).transpose(-1, -2)
    if filling is not None:
        weights = weights + filling[:, None, None].to(weights.dtype)
    return _join(weights.softmax(-1) @ _heads(v.to(q.dtype)))

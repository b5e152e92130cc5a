"""SAM's mask decoder, evaluated so that a click is quick; weights and results are those of segment-anything.

What differs from running the modules as they stand is only the order of the work:

- where tokens and the 4096 places of the image meet, a product q · (W k) is computed as (Wᵀ q) · k: the weights are
  multiplied with the few tokens, and no map of the image is projected at all;
- the part of such a product that comes from the positions is the same for every picture: W · positions is computed
  once;
- before the first block the image side is the same for all prompts: they share it;
- prompts with different numbers of points share one batch, and attention leaves the filling out;
- the upscaling convolutions (kernel 2, stride 2) are plain matrix products on channels-last maps, and only the
  masks that are wanted are multiplied out.

Kirillov et al., "Segment Anything", ICCV 2023, section A. Coordinates here are (x, y) in the 1024 frame.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_zeroseg.models.prompt_embedding import SIDE, SparsePrompts

HEADS = 8
MASK_TOKENS = 4


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
        self._final = _TokensToImage(final, positions, dtype)
        self._upscale = _Upscaling(mask_decoder.output_upscaling, dtype)
        self._output_tokens = torch.cat([mask_decoder.iou_token.weight, mask_decoder.mask_tokens.weight])
        self._no_mask = prompt_encoder.no_mask_embed.weight.reshape(1, 1, -1)

    def image_side(self, embedding: Tensor) -> Tensor:
        """Keys (1, 4096, 256) of a (1, 256, 64, 64) embedding, for prompts without masks."""
        keys: Tensor = embedding.to(self.device, torch.float32).flatten(2).transpose(1, 2) + self._no_mask
        return keys.to(self.dtype)

    def decode(self, keys: Tensor, embedding: Tensor, prompts: SparsePrompts, wanted: slice) -> tuple[Tensor, Tensor]:
        """Answer a batch of prompts.

        Parameters
        ----------
        keys : (1, 4096, 256)
            From :meth:`image_side` of `embedding`.
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
        queries, keys = self._attend(keys, embedding, prompts)
        return self._upscale.masks(keys, self._hyper(queries, wanted)), self._scores(queries, wanted)

    def decode_above(
        self, keys: Tensor, embedding: Tensor, prompts: SparsePrompts, wanted: slice, threshold: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Answer a batch of prompts by those masks alone whose predicted IoU is above a threshold.

        The network predicts it from the tokens, before it makes the masks: prompts without any such mask are not
        upscaled.

        Parameters
        ----------
        keys, embedding, prompts, wanted
            As for :meth:`decode`.
        threshold : float
            Predicted IoU that a mask must exceed.

        Returns
        -------
        chosen : (B, K) bool
        logits : (N, 256, 256) float32
            Of the N chosen masks, prompt by prompt.
        scores : (B, K) float32
            Predicted IoU of all.
        """
        queries, keys = self._attend(keys, embedding, prompts)
        scores = self._scores(queries, wanted)
        chosen = scores > threshold
        some = chosen.any(1)
        if not bool(some.any()):
            return chosen, scores.new_zeros((0, 4 * SIDE, 4 * SIDE)), scores
        logits = self._upscale.masks(keys[some], self._hyper(queries[some], wanted))
        return chosen, logits[chosen[some]], scores

    def _attend(self, keys: Tensor, embedding: Tensor, prompts: SparsePrompts) -> tuple[Tensor, Tensor]:
        """Tokens (B, 5 + N, 256) and image side (B, 4096, 256) once they have seen each other."""
        batch = len(prompts.tokens)
        query_pe = torch.cat([self._output_tokens.expand(batch, -1, -1), prompts.tokens], 1)
        outputs_valid = prompts.valid.new_ones((batch, len(self._output_tokens)))
        valid = torch.cat([outputs_valid, prompts.valid], 1)
        filling = None if bool(valid.all()) else torch.zeros_like(valid, dtype=torch.float32).masked_fill(~valid, -1e9)
        if prompts.masks is not None:
            keys = embedding.to(self.device, torch.float32) + prompts.masks
            keys = keys.flatten(2).transpose(1, 2).to(self.dtype)
        queries = query_pe
        for block in self._blocks:
            queries, keys = block(queries, keys, query_pe, filling)
        queries = self._decoder.transformer.norm_final_attn(queries + self._final(queries + query_pe, keys))
        return queries, keys

    def _scores(self, queries: Tensor, wanted: slice) -> Tensor:
        scores: Tensor = self._decoder.iou_prediction_head(queries[:, 0])[:, wanted]
        return scores.float()

    def _hyper(self, queries: Tensor, wanted: slice) -> Tensor:
        heads = self._decoder.output_hypernetworks_mlps
        return torch.stack([heads[i](queries[:, 1 + i]) for i in range(MASK_TOKENS)[wanted]], 1)


class _Scores:
    """How much tokens and places attend to each other: token · (W keys + W positions + b), head by head."""

    def __init__(self, linear: Any, positions: Tensor, dtype: torch.dtype) -> None:
        self.weight = linear.weight.unflatten(0, (HEADS, -1))
        self.constant = _heads(linear(positions))[0].transpose(-1, -2).to(dtype).contiguous()
        self.scale = 1 / math.sqrt(self.weight.shape[1])

    def __call__(self, tokens: Tensor, keys: Tensor) -> Tensor:
        """(B, N, 128) float32 and (B or 1, 4096, 256) in, (B, heads, N, 4096) out in the image side's dtype."""
        batch, count = tokens.shape[:2]
        heads = _heads(tokens * self.scale)
        of_positions = heads.transpose(0, 1).flatten(1, 2).to(keys.dtype) @ self.constant.to(keys.dtype)
        of_keys = with_image((heads @ self.weight).flatten(1, 2).to(keys.dtype), keys.transpose(1, 2))
        of_positions = of_positions.unflatten(1, (batch, count)).transpose(0, 1)
        scores: Tensor = of_keys.unflatten(1, (HEADS, count)).add_(of_positions)
        return scores


class _TokensToImage:
    """Attention of the few tokens to the 4096 places."""

    def __init__(self, attention: Any, positions: Tensor, dtype: torch.dtype) -> None:
        self.attention = attention
        self.scores = _Scores(attention.k_proj, positions, dtype)
        self.value_weight = attention.v_proj.weight.unflatten(0, (HEADS, -1)).transpose(-1, -2)

    def __call__(self, tokens: Tensor, keys: Tensor) -> Tensor:
        """(B, N, 256) float32 and (B or 1, 4096, 256) in, (B, N, 256) float32 out."""
        attention = self.attention
        weights = self.scores(attention.q_proj(tokens), keys).float().softmax(-1).to(keys.dtype)
        seen = with_image(weights.flatten(1, 2), keys).unflatten(1, (HEADS, -1)).float()
        # weights add up to 1, so the values' bias goes through them unchanged
        out: Tensor = attention.out_proj(_join(seen @ self.value_weight) + attention.v_proj.bias)
        return out


class _ImageToTokens:
    """Attention of the 4096 places to the few tokens, added to the places."""

    def __init__(self, attention: Any, positions: Tensor, dtype: torch.dtype) -> None:
        self.attention = attention
        self.scores = _Scores(attention.q_proj, positions, dtype)
        self.out_weight = attention.out_proj.weight.unflatten(1, (HEADS, -1)).permute(1, 2, 0)

    def __call__(self, queries: Tensor, query_pe: Tensor, keys: Tensor, filling: Tensor | None) -> Tensor:
        """(B, N, 256) float32 twice and (B or 1, 4096, 256) in, (B, 4096, 256) out."""
        attention = self.attention
        scores = self.scores(attention.k_proj(queries + query_pe), keys)
        if filling is not None:
            scores = scores + filling[:, None, :, None].to(scores.dtype)
        # the weights of each head add up to 1, so each brings its part of the bias
        values = _heads(attention.v_proj(queries)) @ self.out_weight + attention.out_proj.bias / HEADS
        weights = scores.softmax(2).flatten(1, 2).transpose(1, 2)
        return torch.baddbmm(keys, weights, values.flatten(1, 2).to(keys.dtype))


class _Block:
    """One two-way block: tokens among themselves, tokens to image, MLP, image to tokens."""

    def __init__(self, layer: Any, positions: Tensor, dtype: torch.dtype) -> None:
        self.layer = layer
        self.to_image = _TokensToImage(layer.cross_attn_token_to_image, positions, dtype)
        self.to_tokens = _ImageToTokens(layer.cross_attn_image_to_token, positions, dtype)
        self.norm_weight = layer.norm4.weight.to(dtype)
        self.norm_bias = layer.norm4.bias.to(dtype)

    def __call__(
        self, queries: Tensor, keys: Tensor, query_pe: Tensor, filling: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        layer = self.layer
        queries = self._attend_among_tokens(queries, query_pe, filling)
        queries = layer.norm2(queries + self.to_image(queries + query_pe, keys))
        queries = layer.norm3(queries + layer.mlp(queries))
        keys = self.to_tokens(queries, query_pe, keys, filling)
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
        x = with_image(hyper.to(self.dtype), torch.ops.aten.gelu_(x).transpose(1, 2))
        # rows and columns of the 64 x 64 map, then of the first and of the second doubling; the last two columns of
        # each place are moved as one number, since copying in so small pieces is what takes long
        pairs = x.view(torch.int32 if x.element_size() == 2 else torch.int64)
        pairs = pairs.view(batch, wanted, SIDE, SIDE, 2, 2, 2).permute(0, 1, 2, 4, 6, 3, 5)
        logits: Tensor = pairs.reshape(batch, wanted, 4 * SIDE, 2 * SIDE).view(self.dtype).float()
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


def with_image(rows: Tensor, image: Tensor) -> Tensor:
    """(B, R, M) @ (B or 1, M, N): prompts that share the image's side are one product."""
    product: Tensor
    if len(image) == 1:
        product = (rows.flatten(0, 1) @ image[0]).unflatten(0, (len(rows), -1))
    elif rows.device.type == "cpu":
        # there the batched product of transposed bf16 takes five times as long as one after the other
        product = _OneByOne.apply(rows, image)  # type: ignore[no-untyped-call]
    else:
        product = rows @ image
    return product


class _OneByOne(torch.autograd.Function):
    """(B, R, M) @ (B, M, N), each product into its place; gradients too, and in the order that their input has."""

    @staticmethod
    def forward(context: Any, rows: Tensor, image: Tensor) -> Tensor:
        context.save_for_backward(rows, image)
        product = rows.new_empty((*rows.shape[:2], image.shape[2]))
        for one, its, to in zip(rows, image, product, strict=True):
            torch.mm(one, its, out=to)
        return product

    @staticmethod
    def backward(context: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        rows, image = context.saved_tensors
        of_rows, of_image = torch.empty_like(rows), torch.empty_like(image)
        for i, grad in enumerate(grads[0]):
            torch.mm(grad, image[i].T, out=of_rows[i])
            torch.mm(rows[i].T, grad, out=of_image[i])
        return of_rows, of_image

"""PA-SAM's mask decoder: SAM's, with a guiding branch and a prompt adapter.

Xie et al., "PA-SAM: Prompt Adapter SAM for High-Quality Image Segmentation", ICME 2024, written from its published
description. The adapter finds where the coarse mask is uncertain and adds points there by itself. It is always computed
in float32: the cells it samples are chosen by differences of a few ten-thousandths.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_zeroseg.models import sam_modules
from napari_zeroseg.models.canny import canny
from napari_zeroseg.models.tiny_vit import LayerNorm2d

CHANNELS = 256
HEADS = 8
SAMPLED = 4
"""Cells sampled as points on the object, and as many as points on background."""
UNCERTAIN = 0.5
CANNY_THRESHOLDS = (10, 100)
GUIDING_SIDE = 256


@dataclass(frozen=True)
class PaAnswer:
    """What the decoder gives for B prompts.

    Attributes
    ----------
    logits : (B, 1, 256, 256)
        Of the mask.
    scores : (B, 4)
        Predicted IoU; index 0 is the mask's.
    uncertain : (B, 64, 64)
        Probability that a cell is drawn wrongly.
    coarse, refined : (B, 64, 64)
        Logits of the mask before and after refinement.
    positive, negative : (B, 4) int64
        Sampled cells, row * 64 + column, ascending; (B, 0) where none are sampled.
    """

    logits: Tensor
    scores: Tensor
    uncertain: Tensor
    coarse: Tensor
    refined: Tensor
    positive: Tensor
    negative: Tensor


class Mlp(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """(..., first size) in, (..., last size) out."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        out: Tensor = self.layers[-1](x)
        return out


class PromptAdapter(nn.Module):
    """Compares the coarse mask with a refined one where the former is uncertain, and samples points there."""

    def __init__(self) -> None:
        super().__init__()
        self.static_uncertain_token = nn.Embedding(1, CHANNELS)
        self.static_refined_token = nn.Embedding(1, CHANNELS)
        self.uncertain_mlp = Mlp(2 * CHANNELS, 64, 64, CHANNELS)
        self.refined_mlp = Mlp(2 * CHANNELS, 64, 64, CHANNELS)
        self.cross_attn_token_to_image = sam_modules.attention(CHANNELS, HEADS, downsample_rate=2)

    def forward(
        self, queries: Tensor, query_pe: Tensor, guided: Tensor, key_pe: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Look at the guided keys.

        Parameters
        ----------
        queries, query_pe : (B, N, 256)
        guided : (B, 4096, 256)
            Guiding features times keys.
        key_pe : (1, 4096, 256)

        Returns
        -------
        update : (B, N, 256)
            What the queries learn; the mask token's is the refined one.
        uncertain : (B, 4096)
            Logits; `coarse` and `refined` (B, 4096) logits follow.
        """
        seen = self.cross_attn_token_to_image(q=queries + query_pe, k=guided + key_pe, v=guided)
        mask_token = seen[:, 1]
        uncertain = self._with(self.static_uncertain_token, self.uncertain_mlp, mask_token)
        refined = self._with(self.static_refined_token, self.refined_mlp, mask_token)
        maps = [(guided @ token[..., None])[..., 0] for token in (uncertain, mask_token, refined)]
        update = torch.cat([seen[:, :1], refined[:, None], seen[:, 2:]], 1)
        return update, maps[0], maps[1], maps[2]

    @staticmethod
    def _with(static: nn.Embedding, mlp: Mlp, token: Tensor) -> Tensor:
        out: Tensor = mlp(torch.cat([static.weight.expand(len(token), -1), token], -1))
        return out


class PaMaskDecoder(nn.Module):
    """SAM's mask decoder with `guiding_conv` and `prompt_adapter`; parameters are named as in the checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer: Any
        self.iou_token: Any
        self.mask_tokens: Any
        self.output_upscaling: Any
        self.output_hypernetworks_mlps: Any
        self.iou_prediction_head: Any
        for name, child in sam_modules.mask_decoder().named_children():
            self.add_module(name, child)
        self.guiding_conv = nn.Sequential(
            nn.Conv2d(4, 64, 2, 2),
            LayerNorm2d(64),
            nn.GELU(),
            nn.Conv2d(64, CHANNELS, 2, 2),
            LayerNorm2d(CHANNELS),
            nn.GELU(),
            nn.Conv2d(CHANNELS, CHANNELS, 1),
        )
        self.prompt_adapter = PromptAdapter()

    @classmethod
    def grown_from(cls, decoder: nn.Module, seed: int) -> PaMaskDecoder:
        """Return SAM's mask decoder with a new guiding branch and adapter that change nothing yet.

        The guiding branch ends in a convolution of zeros, so that what it adds to the keys is 0, and the refined token
        begins as 0: as long as no cells are sampled, the mask is SAM's single answer.

        Parameters
        ----------
        decoder : torch.nn.Module
            segment-anything's module with its weights.
        seed : int
            Of the new parameters.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            grown = cls()
        grown.load_state_dict(decoder.state_dict(), strict=False)
        adapter = grown.prompt_adapter
        attention = adapter.cross_attn_token_to_image
        last: Any = [grown.guiding_conv[-1], adapter.refined_mlp.layers[-1]]
        for parameter in (*(p for layer in last for p in layer.parameters()), attention.v_proj.bias):
            nn.init.zeros_(parameter)
        nn.init.zeros_(attention.out_proj.bias)
        return grown

    def guide(self, guiding: Tensor) -> Tensor:
        """Guiding features (1, 4096, 256) of what :func:`guiding_input` makes of a picture."""
        features: Tensor = self.guiding_conv(guiding)
        return features.flatten(2).transpose(1, 2)

    def forward(
        self,
        image: Tensor,
        guide: Tensor,
        image_pe: Tensor,
        tokens: Tensor,
        valid: Tensor,
        dense: Tensor,
        point_embeddings: Tensor,
        noise: GumbelTopK | None = None,
        samples: bool = True,
    ) -> PaAnswer:
        """Answer B prompts, each for itself.

        Parameters
        ----------
        image : (1, 256, 64, 64)
            Embedding.
        guide : (1, 4096, 256)
            From :meth:`guide`.
        image_pe : (1, 256, 64, 64)
            Dense positional code.
        tokens : (B, N, 256)
            Embedded points and corners; where `valid` (B, N) is False they only fill the batch.
        dense : (B, 256, 64, 64)
            Embedded mask prompts, or what stands for none.
        point_embeddings : (2, 256)
            Of background points and of points on the object.
        noise : GumbelTopK, optional
            For training: cells are sampled with noise, and gradients pass.
        samples : bool
            For training: whether cells are sampled at all.
        """
        batch = len(tokens)
        outputs = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        query_pe = torch.cat([outputs.expand(batch, -1, -1), tokens], 1)
        filling = _filling(F.pad(valid, (len(outputs), 0), value=True))
        keys = (image + dense).flatten(2).transpose(1, 2)
        key_pe = image_pe.flatten(2).transpose(1, 2)
        transformer = self.transformer
        first, second = transformer.layers
        queries, keys = _plain_block(first, query_pe, keys, query_pe, key_pe, filling)
        state = _BlockState(queries, keys, query_pe, key_pe, filling)
        count = SAMPLED if samples else 0
        state, maps, cells = self._guided_block(second, state, guide, point_embeddings, count, noise)
        attended = _attend(
            transformer.final_attn_token_to_image, state.queries + state.query_pe, state.keys + key_pe, state.keys
        )
        queries = transformer.norm_final_attn(state.queries + attended)
        upscaled = self.output_upscaling(state.keys.transpose(1, 2).unflatten(2, (64, 64)))
        hyper = self.output_hypernetworks_mlps[0](queries[:, 1])
        logits = (hyper[:, None] @ upscaled.flatten(2)).unflatten(2, (256, 256))
        scores = self.iou_prediction_head(queries[:, 0])
        uncertain, coarse, refined = (one.unflatten(1, (64, 64)) for one in maps)
        return PaAnswer(logits, scores, uncertain.sigmoid(), coarse, refined, *cells)

    def _guided_block(
        self,
        layer: Any,
        state: _BlockState,
        guide: Tensor,
        point_embeddings: Tensor,
        count: int,
        noise: GumbelTopK | None,
    ) -> tuple[_BlockState, tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
        keys, query_pe, key_pe = state.keys, state.query_pe, state.key_pe
        queries = _self_attend(layer, state.queries, query_pe, state.filling)
        seen = _attend(layer.cross_attn_token_to_image, queries + query_pe, keys + key_pe, keys)
        guided = guide * keys
        update, uncertain, coarse, refined = self.prompt_adapter(queries, query_pe, guided, key_pe)
        keys = keys + guided
        score = uncertain.sigmoid() * (refined.sigmoid() - coarse.sigmoid())
        positive, contents, places = _sample(score, keys, key_pe, count, noise)
        negative, other_contents, other_places = _sample(-score, keys, key_pe, count, noise)
        sampled_pe = torch.cat([places + point_embeddings[1], other_places + point_embeddings[0]], 1)
        queries = torch.cat([queries + seen + update, contents, other_contents], 1)
        query_pe = torch.cat([query_pe, sampled_pe], 1)
        filling = None if state.filling is None else F.pad(state.filling, (0, 2 * count))
        queries = layer.norm2(queries)
        queries = layer.norm3(queries + layer.mlp(queries))
        keys = _update_keys(layer, queries, keys, query_pe, key_pe, filling)
        return (
            _BlockState(queries, keys, query_pe, key_pe, filling),
            (uncertain, coarse, refined),
            (positive, negative),
        )


@dataclass(frozen=True)
class _BlockState:
    queries: Tensor
    keys: Tensor
    query_pe: Tensor
    key_pe: Tensor
    filling: Tensor | None


class GumbelTopK:
    """Relaxed sampling of cells for training: Gumbel noise, rounds of a softmax that leaves out what was taken.

    Xie and Ermon, "Reparameterizable Subset Sampling via Continuous Relaxations", IJCAI 2019. In the forward pass
    the choice is hard; gradients are those of the soft one.

    Parameters
    ----------
    temperature : float
    generator : torch.Generator, optional
    """

    def __init__(self, temperature: float = 1.0, generator: torch.Generator | None = None) -> None:
        self.temperature = temperature
        self.generator = generator

    def weights(self, score: Tensor, count: int) -> Tensor:
        """(B, cells) scores in, (B, count, cells) one-hot weights with soft gradients out."""
        tiny = torch.finfo(score.dtype).tiny
        uniform = torch.rand(score.shape, generator=self.generator, device=score.device).clamp_min(tiny)
        logits = score - (-uniform.log()).clamp_min(tiny).log()
        rounds = []
        for _ in range(count):
            soft = (logits / self.temperature).softmax(-1)
            hard = F.one_hot(soft.argmax(-1), score.shape[-1]).to(soft)
            rounds.append(hard + soft - soft.detach())
            logits = logits + (1 - soft).clamp_min(tiny).log() - hard.detach() * 1e9
        return torch.stack(rounds, 1)


def guiding_input(pixels: Tensor) -> Tensor:
    """Normalised (1, 3, 1024, 1024) to (1, 4, 256, 256): the picture made small, and its edges as fourth channel.

    The edges are those of the *normalised* picture cast to bytes (cut to whole numbers, modulo 256), as the published
    weights were trained.
    """
    small = F.interpolate(pixels.float(), (GUIDING_SIDE, GUIDING_SIDE), mode="bilinear", align_corners=False)
    whole = small[0].permute(1, 2, 0).trunc().to(torch.int64).cpu().numpy()
    edges = canny((whole & 255).astype(np.uint8), *CANNY_THRESHOLDS)
    return torch.cat([small, torch.from_numpy(edges.astype(np.float32)).to(small)[None, None]], 1)


def _filling(valid: Tensor) -> Tensor | None:
    """Attention bias (B, N) that leaves the filling tokens out; None where there are none."""
    if bool(valid.all()):
        return None
    return torch.zeros_like(valid, dtype=torch.float32).masked_fill(~valid, -1e9)


def _attend(attention: Any, q: Tensor, k: Tensor, v: Tensor, filling: Tensor | None = None) -> Tensor:
    """segment-anything's attention with some keys left out."""
    heads = attention.num_heads
    q, k, v = (
        projection(x).unflatten(-1, (heads, -1)).transpose(1, 2)
        for projection, x in ((attention.q_proj, q), (attention.k_proj, k), (attention.v_proj, v))
    )
    weights = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if filling is not None:
        weights = weights + filling[:, None, None]
    out: Tensor = attention.out_proj((weights.softmax(-1) @ v).transpose(1, 2).flatten(2))
    return out


def _self_attend(layer: Any, queries: Tensor, query_pe: Tensor, filling: Tensor | None) -> Tensor:
    if layer.skip_first_layer_pe:
        out: Tensor = layer.norm1(_attend(layer.self_attn, queries, queries, queries, filling))
        return out
    q = queries + query_pe
    out = layer.norm1(queries + _attend(layer.self_attn, q, q, queries, filling))
    return out


def _update_keys(
    layer: Any, queries: Tensor, keys: Tensor, query_pe: Tensor, key_pe: Tensor, filling: Tensor | None
) -> Tensor:
    seen = _attend(layer.cross_attn_image_to_token, keys + key_pe, queries + query_pe, queries, filling)
    out: Tensor = layer.norm4(keys + seen)
    return out


def _plain_block(
    layer: Any, queries: Tensor, keys: Tensor, query_pe: Tensor, key_pe: Tensor, filling: Tensor | None
) -> tuple[Tensor, Tensor]:
    queries = _self_attend(layer, queries, query_pe, filling)
    seen = _attend(layer.cross_attn_token_to_image, queries + query_pe, keys + key_pe, keys)
    queries = layer.norm2(queries + seen)
    queries = layer.norm3(queries + layer.mlp(queries))
    return queries, _update_keys(layer, queries, keys, query_pe, key_pe, filling)


def _sample(
    score: Tensor, keys: Tensor, key_pe: Tensor, count: int, noise: GumbelTopK | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Cells with the highest score in raster order: their indices (B, n), contents and places (B, n, 256)."""
    if noise is not None and count:
        weights = noise.weights(score, count)
        cells = weights.argmax(-1)
        order = cells.argsort(-1)
        weights = weights.gather(1, order[..., None].expand_as(weights))
        return cells.gather(1, order), weights @ keys, weights @ key_pe.expand(len(keys), -1, -1)
    cells = score.topk(count, -1).indices.sort(-1).values
    index = cells[..., None].expand(-1, -1, keys.shape[-1])
    return cells, keys.gather(1, index), key_pe.expand(len(keys), -1, -1).gather(1, index)

"""SAM's ViT image encoder, evaluated so that no attention matrix is ever whole in memory.

The modules and their weights are segment-anything's; only the evaluation is ours: attention goes head by head and in
blocks of queries that fit into a processor's cache, with the decomposed relative positions (Li et al., "MViTv2",
CVPR 2022) added in place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_zeroseg.models import sam_modules
from napari_zeroseg.models.activation import with_gelu

QUERIES_AT_ONCE = 512
WINDOW_HEADS_AT_ONCE = 64


@dataclass(frozen=True)
class VitSize:
    """Width, depth and heads of an encoder, and the blocks that attend globally."""

    channels: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]


SIZES = {
    "vit_b": VitSize(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": VitSize(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": VitSize(1280, 32, 16, (7, 15, 23, 31)),
}


def image_encoder(size: VitSize) -> Any:
    """Build segment-anything's image encoder, untrained."""
    return sam_modules.modeling().ImageEncoderViT(
        depth=size.depth,
        embed_dim=size.channels,
        img_size=sam_modules.INPUT_SIDE,
        mlp_ratio=4,
        norm_layer=lambda channels: torch.nn.LayerNorm(channels, eps=1e-6),
        num_heads=size.heads,
        patch_size=16,
        qkv_bias=True,
        use_rel_pos=True,
        global_attn_indexes=size.global_blocks,
        window_size=14,
        out_chans=sam_modules.EMBEDDING_CHANNELS,
    )


def encode(encoder: Any, pixels: Tensor) -> Tensor:
    """Encode B x 3 x 1024 x 1024 into B x 256 x 64 x 64 for inference, in the encoder's dtype."""
    x = encoder.patch_embed(pixels) + encoder.pos_embed
    for block in encoder.blocks:
        x = x + _attend(block, block.norm1(x))
        x = x + _mlp(block.mlp, block.norm2(x))
    out: Tensor = encoder.neck(x.permute(0, 3, 1, 2))
    return out


def _mlp(mlp: Any, x: Tensor) -> Tensor:
    out: Tensor = mlp.lin2(with_gelu(mlp.lin1, x))
    return out


def _attend(block: Any, x: Tensor) -> Tensor:
    """Attention of one block over BHWC, in windows where the block has them."""
    if block.window_size == 0:
        return _attend_within(block.attn, x)
    batch, height, width, channels = x.shape
    side = block.window_size
    x = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
    rows, columns = x.shape[1] // side, x.shape[2] // side
    windows = x.view(batch, rows, side, columns, side, channels).transpose(2, 3).reshape(-1, side, side, channels)
    out = _attend_within(block.attn, windows)
    whole = out.view(batch, rows, columns, side, side, channels).transpose(2, 3)
    return whole.reshape(batch, rows * side, columns * side, channels)[:, :height, :width]


def _attend_within(attention: Any, x: Tensor) -> Tensor:
    """Attention over all places of each of N maps, N x H x W x C in and out."""
    count, height, width, channels = x.shape
    heads = attention.num_heads
    qkv = attention.qkv(x).view(count, height * width, 3, heads, channels // heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).flatten(1, 2)
    by_row, by_column = _position_terms(attention, q, (height, width))
    q, k, v = (q * attention.scale).contiguous(), k.contiguous(), v.contiguous()
    out = torch.empty_like(v)
    if height * width > QUERIES_AT_ONCE:
        for head in range(len(q)):
            keys = k[head].t()
            for first in range(0, height * width, QUERIES_AT_ONCE):
                rows = slice(first, first + QUERIES_AT_ONCE)
                weights = torch.mm(q[head, rows], keys)
                weights.unflatten(1, (height, width)).add_(by_row[head, rows]).add_(by_column[head, rows])
                torch.mm(weights.softmax(-1), v[head], out=out[head, rows])
    else:
        for first in range(0, len(q), WINDOW_HEADS_AT_ONCE):
            some = slice(first, first + WINDOW_HEADS_AT_ONCE)
            weights = torch.bmm(q[some], k[some].transpose(1, 2))
            weights.unflatten(2, (height, width)).add_(by_row[some]).add_(by_column[some])
            torch.bmm(weights.softmax(-1), v[some], out=out[some])
    joined = out.view(count, heads, height * width, -1).transpose(1, 2).reshape(count, height, width, channels)
    projected: Tensor = attention.proj(joined)
    return projected


def _position_terms(attention: Any, q: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """What each query (maps, H*W, C) adds to the attention of a key by its row and its column.

    Returns
    -------
    (maps, H*W, H, 1) and (maps, H*W, 1, W)
    """
    placed = q.unflatten(1, size)
    by_row = placed @ _table(attention.rel_pos_h, size[0]).transpose(-1, -2)
    by_column = (placed.transpose(1, 2) @ _table(attention.rel_pos_w, size[1]).transpose(-1, -2)).transpose(1, 2)
    return by_row.flatten(1, 2)[..., None], by_column.flatten(1, 2)[:, :, None]


def _table(relative: Tensor, length: int) -> Tensor:
    """(2 * length - 1, C) by offset to (length, length, C) by query and key."""
    index = torch.arange(length, device=relative.device)
    return relative[index[:, None] - index[None] + length - 1]

"""TinyViT-5M as MobileSAM's image encoder.

Wu et al., "TinyViT: Fast Pretraining Distillation for Small Vision Transformers", ECCV 2022;
Zhang et al., "Faster Segment Anything: Towards Lightweight SAM for Mobile Applications", 2023.
Tensors are BCHW; the attention blocks work on B x (H*W) x C, which is the same memory in channels-last order.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_zeroseg.models.activation import gelu, with_gelu

CHANNELS = (64, 128, 160, 320)
DEPTHS = (2, 2, 6, 2)
HEADS = (2, 4, 5, 10)
WINDOWS = (7, 7, 14, 7)
HEAD_SIZE = 32
NECK_CHANNELS = 256

STRIP_ROWS = 32
"""Rows of the first stage's map that the CPU takes at a time: its widest tensors then stay in the caches."""


class ConvBN(nn.Module):
    """Convolution without bias, then BatchNorm; after :meth:`fuse` one convolution with bias."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """BCHW in, BCHW out."""
        out: Tensor = self.bn(self.c(x))
        return out

    def with_gelu(self, x: Tensor) -> Tensor:
        """The same with GELU after it."""
        return with_gelu(self.c, x) if isinstance(self.bn, nn.Identity) else gelu(self(x))

    @torch.no_grad()
    def fuse(self) -> None:
        """Fold the BatchNorm's statistics into the convolution; for inference only."""
        bn = self.bn
        if not isinstance(bn, nn.BatchNorm2d) or bn.running_mean is None or bn.running_var is None:
            return
        scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)
        self.c.weight.copy_(self.c.weight * scale[:, None, None, None])
        self.c.bias = nn.Parameter(bn.bias - bn.running_mean * scale, requires_grad=False)
        self.bn = nn.Identity()


class MBConv(nn.Module):
    """Inverted bottleneck: expand, depthwise 3x3, project, residual."""

    def __init__(self, channels: int, expansion: int = 4) -> None:
        super().__init__()
        hidden = channels * expansion
        self.conv1 = ConvBN(channels, hidden)
        self.conv2 = ConvBN(hidden, hidden, 3, groups=hidden)
        self.conv3 = ConvBN(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """BCHW in, BCHW out."""
        hidden = self.conv2.with_gelu(self.conv1.with_gelu(x))
        return gelu(self.conv3(hidden) + x)


class Merging(nn.Module):
    """From one stage to the next: 1x1, depthwise 3x3 with a stride, 1x1."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvBN(inputs, outputs)
        self.conv2 = ConvBN(outputs, outputs, 3, stride, groups=outputs)
        self.conv3 = ConvBN(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """BCHW in, B x outputs x (H/stride) x (W/stride) out."""
        inner = x.to(self.conv1.c.weight.dtype)  # may be wider than the rest, see TinyViT.narrow
        out: Tensor = self.conv3(self.conv2.with_gelu(self.conv1.with_gelu(inner)))
        return out.to(x.dtype)


class WindowAttention(nn.Module):
    """Attention inside square windows, with one learnt bias a head and absolute offset."""

    bias_index: Tensor

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, heads * HEAD_SIZE * 3)
        self.proj = nn.Linear(heads * HEAD_SIZE, channels)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        row, column = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
        row, column = row.flatten(), column.flatten()
        index = (row[:, None] - row[None]).abs() * window + (column[:, None] - column[None]).abs()
        self.register_buffer("bias_index", index, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(windows, window*window, C) in and out."""
        count, tokens, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).view(count, tokens, self.heads, 3 * HEAD_SIZE).transpose(1, 2).chunk(3, -1)
        bias = self.attention_biases[:, self.bias_index]
        if x.device.type == "cpu":
            # for these small windows torch's fused CPU kernel takes twice as long as the plain product
            scores = (q * HEAD_SIZE**-0.5) @ k.transpose(-1, -2)
            scores = scores + bias if torch.is_grad_enabled() else scores.add_(bias)
            out = scores.softmax(-1).to(v.dtype) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
        projected: Tensor = self.proj(out.transpose(1, 2).reshape(count, tokens, -1))
        return projected


class Mlp(nn.Module):
    """LayerNorm, widen four times, GELU, back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) in and out."""
        out: Tensor = self.fc2(with_gelu(self.fc1, self.norm(x)))
        return out


class AttentionBlock(nn.Module):
    """Windowed attention, depthwise convolution on the map, MLP."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = WindowAttention(channels, heads, window)
        self.mlp = Mlp(channels)
        self.local_conv = ConvBN(channels, channels, 3, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """BCHW in, BCHW out."""
        x = x + self._attend(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = self.local_conv(x)
        out: Tensor = x + self.mlp(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return out

    def _attend(self, x: Tensor) -> Tensor:
        """Cut BHWC into whole windows (zeros pad the last ones), attend, put together."""
        batch, height, width, channels = x.shape
        side = self.window
        x = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
        rows, columns = x.shape[1] // side, x.shape[2] // side
        windows = x.view(batch, rows, side, columns, side, channels).transpose(2, 3)
        attended = self.attn(windows.reshape(-1, side * side, channels))
        whole = attended.view(batch, rows, columns, side, side, channels).transpose(2, 3)
        mapped: Tensor = whole.reshape(batch, rows * side, columns * side, channels)[:, :height, :width]
        return mapped


class Stage(nn.Module):
    """A row of blocks and the merging into the next stage."""

    def __init__(self, blocks: list[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """BCHW in, BCHW of the next stage out."""
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class LayerNorm2d(nn.Module):
    """LayerNorm over the channels of BCHW."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """BCHW in, BCHW out."""
        channels_last = x.permute(0, 2, 3, 1)
        normal = F.layer_norm(channels_last, (channels_last.shape[-1],), self.weight, self.bias, self.eps)
        return normal.permute(0, 3, 1, 2)


class PatchEmbedding(nn.Module):
    """Two convolutions: 3 channels to 64; with a stride of 2 each, at a quarter of the side."""

    def __init__(self, kernel: int = 3, stride: int = 2) -> None:
        super().__init__()
        half = CHANNELS[0] // 2
        self.seq = nn.Sequential(ConvBN(3, half, kernel, stride), nn.GELU(), ConvBN(half, CHANNELS[0], kernel, stride))

    def forward(self, x: Tensor) -> Tensor:
        """B x 3 x H x W in, B x 64 x H/stride^2 x W/stride^2 out."""
        first: Any = self.seq[0]
        out: Tensor = self.seq[2](first.with_gelu(x))
        return out


class TinyViT(nn.Module):
    """MobileSAM's image encoder; parameter names are those of the official checkpoint.

    `norm_head` and `head` belong to the checkpoint but not to the encoding.

    Parameters
    ----------
    stem_kernel, stem_stride : int
        Of the two convolutions at its start; 3 and 2 bring 1024 pixels to the 256 of the first stage.
    """

    def __init__(self, stem_kernel: int = 3, stem_stride: int = 2) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(stem_kernel, stem_stride)
        self.layers = nn.ModuleList([_stage(i) for i in range(len(CHANNELS))])
        self.norm_head = nn.LayerNorm(CHANNELS[-1])
        self.head = nn.Linear(CHANNELS[-1], 1000)
        self.neck = nn.Sequential(
            nn.Conv2d(CHANNELS[-1], NECK_CHANNELS, 1, bias=False),
            LayerNorm2d(NECK_CHANNELS),
            nn.Conv2d(NECK_CHANNELS, NECK_CHANNELS, 3, padding=1, bias=False),
            LayerNorm2d(NECK_CHANNELS),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Encode B x 3 x 1024 x 1024, normalised and padded, into B x 256 x 64 x 64."""
        x = self.patch_embed(x)
        if x.device.type == "cpu" and not torch.is_grad_enabled():
            x = _in_strips(self.layers[0], x)
        else:
            x = self.layers[0](x)
        for stage in self.layers[1:]:
            x = stage(x)
        out: Tensor = self.neck(x)
        return out

    def narrow(self, dtype: torch.dtype) -> None:
        """Compute in a shorter type, except for the merging after the second stage, which suffers most from it.

        In bf16 that makes embeddings of electron microscopy differ from float32 by 0.029 of their norm instead of
        0.062, at no time that can be measured.
        """
        exact = copy.deepcopy(self.layers[1].downsample)
        self.to(dtype)
        self.layers[1].downsample = exact

    def fuse(self) -> None:
        """Fold every BatchNorm into its convolution; for inference only."""
        for module in self.modules():
            if isinstance(module, ConvBN):
                module.fuse()


def _in_strips(stage: nn.Module, x: Tensor) -> Tensor:
    """Run the first stage (three 3x3 convolutions, the last with stride 2) strip by strip; the result is the same.

    Each strip is taken with four more rows on both sides, of which the convolutions use up three; where the strip
    touches the map's border, their own zero padding is the right one.
    """
    halo, height = 4, x.shape[2]
    strips = []
    for top in range(0, height, STRIP_ROWS):
        first, last = max(0, top - halo), min(height, top + STRIP_ROWS + halo)
        out = stage(x[:, :, first:last])
        skip = (top - first) // 2
        strips.append(out[:, :, skip : skip + STRIP_ROWS // 2])
    return torch.cat(strips, 2)


def _stage(index: int) -> Stage:
    channels = CHANNELS[index]
    blocks: list[nn.Module] = [
        AttentionBlock(channels, HEADS[index], WINDOWS[index]) if index else MBConv(channels)
        for _ in range(DEPTHS[index])
    ]
    last = index == len(CHANNELS) - 1
    # the last stage keeps 64 x 64, so that its map has the size of SAM's embedding
    stride = 1 if index == len(CHANNELS) - 2 else 2
    return Stage(blocks, None if last else Merging(channels, CHANNELS[index + 1], stride))

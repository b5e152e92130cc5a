"""GELU where no gradient is wanted: in place, or in one kernel with the layer before it."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def gelu(x: Tensor) -> Tensor:
    """GELU; in place where no gradient is wanted, because writing to fresh memory costs more than the function."""
    out: Tensor = F.gelu(x) if torch.is_grad_enabled() else torch.ops.aten.gelu_(x)
    return out


def with_gelu(layer: nn.Conv2d | nn.Linear, x: Tensor) -> Tensor:
    """GELU of what a layer gives: one kernel of oneDNN where it can be, since the map is then written once."""
    if x.device.type != "cpu" or torch.is_grad_enabled() or layer.bias is None or not _has_fused_gelu(x.dtype):
        return gelu(layer(x))
    out: Tensor
    if isinstance(layer, nn.Linear):
        out = torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, *_FUSED_GELU)
    else:
        geometry = layer.padding, layer.stride, layer.dilation, layer.groups
        out = torch.ops.mkldnn._convolution_pointwise(x, layer.weight, layer.bias, *geometry, *_FUSED_GELU)
    return out


_FUSED_GELU: tuple[str, list[float], str] = ("gelu", [], "none")


@cache
def _has_fused_gelu(dtype: torch.dtype) -> bool:
    """Whether these kernels, which torch keeps for its compiler, are there and give what the parts give."""
    if not torch.backends.mkldnn.is_available():
        return False
    x, weight, bias = torch.linspace(-3, 3, 12).reshape(3, 4), torch.eye(4), torch.full((4,), 0.1)
    right = F.gelu(x + 0.1)
    x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    image, kernel = x.reshape(1, 1, 3, 4), torch.ones(1, 1, 1, 1, dtype=dtype)
    try:
        linear = torch.ops.mkldnn._linear_pointwise(x, weight, bias, *_FUSED_GELU)
        one = (0, 0), (1, 1), (1, 1), 1
        convolved = torch.ops.mkldnn._convolution_pointwise(image, kernel, bias[:1], *one, *_FUSED_GELU)
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):
        return False
    near = 1e-5 if dtype is torch.float32 else 0.05
    return bool(max((linear - right).abs().max(), (convolved[0, 0] - right).abs().max()) < near)

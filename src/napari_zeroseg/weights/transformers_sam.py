"""SAM's weights as the transformers package names them, brought to the publisher's names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from napari_zeroseg.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

GAUSSIAN = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"

_SHARED = ("shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding")
"""One matrix under two names; a file may hold it under either or both."""

_END = r"(weight|bias)"
_RULES: tuple[tuple[str, str], ...] = (
    (r"vision_encoder\.pos_embed", r"image_encoder.pos_embed"),
    (rf"vision_encoder\.patch_embed\.projection\.{_END}", r"image_encoder.patch_embed.proj.\1"),
    (rf"vision_encoder\.layers\.(\d+)\.layer_norm([12])\.{_END}", r"image_encoder.blocks.\1.norm\2.\3"),
    (rf"vision_encoder\.layers\.(\d+)\.attn\.(qkv|proj)\.{_END}", r"image_encoder.blocks.\1.attn.\2.\3"),
    (r"vision_encoder\.layers\.(\d+)\.attn\.rel_pos_([hw])", r"image_encoder.blocks.\1.attn.rel_pos_\2"),
    (rf"vision_encoder\.layers\.(\d+)\.mlp\.lin([12])\.{_END}", r"image_encoder.blocks.\1.mlp.lin\2.\3"),
    (r"vision_encoder\.neck\.conv1\.weight", r"image_encoder.neck.0.weight"),
    (rf"vision_encoder\.neck\.layer_norm1\.{_END}", r"image_encoder.neck.1.\1"),
    (r"vision_encoder\.neck\.conv2\.weight", r"image_encoder.neck.2.weight"),
    (rf"vision_encoder\.neck\.layer_norm2\.{_END}", r"image_encoder.neck.3.\1"),
    (r"prompt_encoder\.point_embed\.([0-3])\.weight", r"prompt_encoder.point_embeddings.\1.weight"),
    (r"prompt_encoder\.(not_a_point|no_mask)_embed\.weight", r"prompt_encoder.\1_embed.weight"),
    (rf"prompt_encoder\.mask_embed\.conv1\.{_END}", r"prompt_encoder.mask_downscaling.0.\1"),
    (rf"prompt_encoder\.mask_embed\.layer_norm1\.{_END}", r"prompt_encoder.mask_downscaling.1.\1"),
    (rf"prompt_encoder\.mask_embed\.conv2\.{_END}", r"prompt_encoder.mask_downscaling.3.\1"),
    (rf"prompt_encoder\.mask_embed\.layer_norm2\.{_END}", r"prompt_encoder.mask_downscaling.4.\1"),
    (rf"prompt_encoder\.mask_embed\.conv3\.{_END}", r"prompt_encoder.mask_downscaling.6.\1"),
    (r"mask_decoder\.(iou_token|mask_tokens)\.weight", r"mask_decoder.\1.weight"),
    (
        rf"mask_decoder\.transformer\.layers\.([01])\.layer_norm([1-4])\.{_END}",
        r"mask_decoder.transformer.layers.\1.norm\2.\3",
    ),
    (
        rf"mask_decoder\.transformer\.layers\.([01])\.mlp\.lin([12])\.{_END}",
        r"mask_decoder.transformer.layers.\1.mlp.lin\2.\3",
    ),
    (
        r"mask_decoder\.transformer\.layers\.([01])\.(self_attn|cross_attn_token_to_image|cross_attn_image_to_token)"
        rf"\.(q|k|v|out)_proj\.{_END}",
        r"mask_decoder.transformer.layers.\1.\2.\3_proj.\4",
    ),
    (
        rf"mask_decoder\.transformer\.final_attn_token_to_image\.(q|k|v|out)_proj\.{_END}",
        r"mask_decoder.transformer.final_attn_token_to_image.\1_proj.\2",
    ),
    (rf"mask_decoder\.transformer\.layer_norm_final_attn\.{_END}", r"mask_decoder.transformer.norm_final_attn.\1"),
    (rf"mask_decoder\.upscale_conv1\.{_END}", r"mask_decoder.output_upscaling.0.\1"),
    (rf"mask_decoder\.upscale_layer_norm\.{_END}", r"mask_decoder.output_upscaling.1.\1"),
    (rf"mask_decoder\.upscale_conv2\.{_END}", r"mask_decoder.output_upscaling.3.\1"),
)

_PERCEPTRON = re.compile(
    r"mask_decoder\.(output_hypernetworks_mlps\.[0-3]|iou_prediction_head)\.(proj_in|proj_out|layers\.(\d+))"
    rf"\.{_END}"
)


def convert_transformers_sam(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename every parameter of transformers' ``SamModel``; the values stay as they are.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        A state dict of ``SamModel``, of any size.

    Returns
    -------
    dict of str to Tensor
        By the names of segment-anything.

    Raises
    ------
    WeightsError
        If a parameter is not one of ``SamModel``'s, or the two copies of the shared matrix differ.
    """
    converted = {}
    unknown = []
    for name, tensor in tensors.items():
        if name in _SHARED:
            continue
        official = _official_name(name, tensors)
        if official is None:
            unknown.append(name)
        else:
            converted[official] = tensor
    if unknown:
        raise WeightsError(
            f"These weights are nearly those of SAM in transformers' layout, but {len(unknown)} entries have no place "
            f"in it, first {', '.join(unknown[:3])}: save the model with its own save_pretrained."
        )
    shared = [tensors[name] for name in _SHARED if name in tensors]
    if len(shared) == 2 and not bool((shared[0] == shared[1]).all()):
        raise WeightsError(f"{_SHARED[0]} and {_SHARED[1]} must be one matrix but differ: the file is damaged.")
    if shared:
        converted[GAUSSIAN] = shared[0]
    return converted


def _official_name(name: str, tensors: Mapping[str, Tensor]) -> str | None:
    for pattern, official in _RULES:
        found = re.fullmatch(pattern, name)
        if found:
            return found.expand(official)
    found = _PERCEPTRON.fullmatch(name)
    if found is None:
        return None
    head, place, middle, end = found.groups()
    return f"mask_decoder.{head}.layers.{_position(head, place, middle, tensors)}.{end}"


def _position(head: str, place: str, middle: str | None, tensors: Mapping[str, Tensor]) -> int:
    """Number of a perceptron's layer: `proj_in` is the first, `proj_out` the last, those between are counted from 0."""
    if place == "proj_in":
        return 0
    if middle is not None:
        return int(middle) + 1
    inner = f"mask_decoder.{head}.layers."
    return 1 + sum(name.startswith(inner) and name.endswith(".weight") for name in tensors)

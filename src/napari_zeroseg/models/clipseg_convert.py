"""CLIPSeg's weights as its authors' repository names them, brought to the names of the transformers package."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from napari_zeroseg.errors import WeightsError

_MARK = "film_mul.weight"
_CLIP = "clip_model."
_UNUSED = ("model.", "reduce.")
"""A second copy of CLIP's image side, and a layer that no forward pass of the authors' goes through."""

_END = r"(weight|bias)"
_BLOCK = r"transformer\.resblocks\.(\d+)\."
_RULES: tuple[tuple[str, str], ...] = (
    (rf"(film_mul|film_add)\.{_END}", r"decoder.\1.\2"),
    (rf"reduces\.(\d+)\.{_END}", r"decoder.reduces.\1.\2"),
    (rf"trans_conv\.((?:\d+\.)?){_END}", r"decoder.transposed_convolution.\1\2"),
    (rf"blocks\.(\d+)\.linear([12])\.{_END}", r"decoder.layers.\1.mlp.fc\2.\3"),
    (rf"blocks\.(\d+)\.norm([12])\.{_END}", r"decoder.layers.\1.layer_norm\2.\3"),
    (rf"blocks\.(\d+)\.self_attn\.([qkv]_proj|out_proj)\.{_END}", r"decoder.layers.\1.self_attn.\2.\3"),
    (r"clip_model\.logit_scale", r"clip.logit_scale"),
    (r"clip_model\.token_embedding\.weight", r"clip.text_model.embeddings.token_embedding.weight"),
    (r"clip_model\.positional_embedding", r"clip.text_model.embeddings.position_embedding.weight"),
    (rf"clip_model\.ln_final\.{_END}", r"clip.text_model.final_layer_norm.\1"),
    (r"clip_model\.text_projection", r"clip.text_projection.weight"),
    (r"clip_model\.visual\.class_embedding", r"clip.vision_model.embeddings.class_embedding"),
    (r"clip_model\.visual\.conv1\.weight", r"clip.vision_model.embeddings.patch_embedding.weight"),
    (r"clip_model\.visual\.positional_embedding", r"clip.vision_model.embeddings.position_embedding.weight"),
    # the spelling is transformers' own
    (rf"clip_model\.visual\.ln_pre\.{_END}", r"clip.vision_model.pre_layrnorm.\1"),
    (rf"clip_model\.visual\.ln_post\.{_END}", r"clip.vision_model.post_layernorm.\1"),
    (r"clip_model\.visual\.proj", r"clip.visual_projection.weight"),
    *(
        rule
        for theirs, ours in ((r"clip_model\.", "text_model"), (r"clip_model\.visual\.", "vision_model"))
        for rule in (
            (rf"{theirs}{_BLOCK}ln_([12])\.{_END}", rf"clip.{ours}.encoder.layers.\1.layer_norm\2.\3"),
            (rf"{theirs}{_BLOCK}mlp\.c_fc\.{_END}", rf"clip.{ours}.encoder.layers.\1.mlp.fc1.\2"),
            (rf"{theirs}{_BLOCK}mlp\.c_proj\.{_END}", rf"clip.{ours}.encoder.layers.\1.mlp.fc2.\2"),
            (
                rf"{theirs}{_BLOCK}attn\.([qkv]_proj|out_proj)\.{_END}",
                rf"clip.{ours}.encoder.layers.\1.self_attn.\2.\3",
            ),
        )
    ),
)
_TRANSPOSED = frozenset({"clip_model.text_projection", "clip_model.visual.proj"})
"""Matrices that the authors multiply from the right."""


def is_original(names: Iterable[str]) -> bool:
    """Whether these are the names of the authors' repository."""
    return _MARK in set(names)


def has_clip(names: Iterable[str]) -> bool:
    """Whether a file of the authors' repository holds CLIP beside the decoder."""
    return any(name.startswith(_CLIP) for name in names)


def convert_original(tensors: Mapping[str, Tensor], clip: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Bring a file of the authors' repository to transformers' names.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        The decoder alone, as it is published, or the decoder with CLIP.
    clip : mapping of str to Tensor, optional
        A CLIPSeg under transformers' names, whose CLIP is taken where `tensors` has none.

    Returns
    -------
    dict of str to Tensor

    Raises
    ------
    WeightsError
        If there is an entry that has no place in CLIPSeg, or CLIP is missing.
    """
    if not is_original(tensors):
        raise WeightsError("These weights have not the names of CLIPSeg's own repository: film_mul.weight is missing.")
    parts = _without_packed({name: t for name, t in tensors.items() if not name.startswith(_UNUSED)})
    converted = {}
    unknown = []
    for name, tensor in parts.items():
        renamed = _renamed(name)
        if renamed is None:
            unknown.append(name)
        else:
            converted[renamed] = tensor.t().contiguous() if name in _TRANSPOSED else tensor
    if unknown:
        raise WeightsError(
            f"These weights hold {len(unknown)} entries that CLIPSeg does not have, first {', '.join(unknown[:3])}: "
            "choose the model that they belong to."
        )
    if has_clip(tensors):
        return converted
    theirs = {name: tensor for name, tensor in (clip or {}).items() if name.startswith("clip.")}
    if not theirs:
        raise WeightsError(
            "This file holds CLIPSeg's decoder alone, and CLIP is needed too: download clipseg_rd64_refined, or put "
            "the file into a folder with a CLIPSeg that transformers saved."
        )
    return theirs | converted


def _renamed(name: str) -> str | None:
    for theirs, ours in _RULES:
        match = re.fullmatch(theirs, name)
        if match is not None:
            return match.expand(ours)
    return None


def _without_packed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values lie in one matrix there and in three here."""
    parts = {}
    for name, tensor in tensors.items():
        packed = re.fullmatch(r"(.*attn\.)in_proj_(weight|bias)", name)
        if packed is None:
            parts[name] = tensor
            continue
        for letter, part in zip("qkv", torch.chunk(tensor, 3), strict=True):
            parts[f"{packed[1]}{letter}_proj.{packed[2]}"] = part
    return parts

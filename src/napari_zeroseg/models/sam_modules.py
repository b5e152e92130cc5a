"""segment-anything's own prompt encoder and mask decoder, without its top level.

The package `segment_anything` imports torchvision when it is imported; its `modeling` subpackage needs torch
alone. It is loaded here from its files under a name of ours, so that nothing half-imported is left in
`sys.modules` under the name `segment_anything`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from napari_zeroseg.errors import WeightsError

_PRIVATE_NAME = "napari_zeroseg.models._segment_anything_modeling"

EMBEDDING_CHANNELS = 256
EMBEDDING_SIDE = 64
INPUT_SIDE = 1024


@cache
def modeling() -> ModuleType:
    """Return segment-anything's `modeling` package.

    Raises
    ------
    WeightsError
        If segment-anything is not installed.
    """
    parent = importlib.util.find_spec("segment_anything")
    if parent is None or not parent.submodule_search_locations:
        raise WeightsError("The package segment-anything is missing: install it with `pip install segment-anything`.")
    folder = Path(next(iter(parent.submodule_search_locations))) / "modeling"
    spec = importlib.util.spec_from_file_location(
        _PRIVATE_NAME, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise WeightsError("segment-anything's modeling package cannot be found: reinstall segment-anything.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[_PRIVATE_NAME] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(_PRIVATE_NAME, None)
        raise
    return module


def prompt_encoder(input_side: int = INPUT_SIDE) -> Any:
    """Build SAM's prompt encoder with its published sizes, untrained; `input_side` is that of the prompts' frame."""
    return modeling().PromptEncoder(
        embed_dim=EMBEDDING_CHANNELS,
        image_embedding_size=(EMBEDDING_SIDE, EMBEDDING_SIDE),
        input_image_size=(input_side, input_side),
        mask_in_chans=16,
    )


def attention(channels: int, heads: int, downsample_rate: int) -> Any:
    """Build the attention layer of SAM's mask decoder, untrained."""
    modeling()
    # by its own name: whether the package knows its modules as attributes depends on who imported them first
    layers = importlib.import_module(f"{_PRIVATE_NAME}.transformer")
    return layers.Attention(channels, heads, downsample_rate=downsample_rate)


def mask_decoder() -> Any:
    """Build SAM's mask decoder with its published sizes, untrained."""
    package = modeling()
    return package.MaskDecoder(
        transformer_dim=EMBEDDING_CHANNELS,
        transformer=package.TwoWayTransformer(
            depth=2, embedding_dim=EMBEDDING_CHANNELS, num_heads=8, mlp_dim=2048, attention_downsample_rate=2
        ),
        num_multimask_outputs=3,
        iou_head_depth=3,
        iou_head_hidden_dim=256,
    )

"""MedSAM and LiteMedSAM: SAM's networks fine-tuned on medical pictures, each with its own way of seeing them.

Ma et al., "Segment anything in medical images", Nature Communications 2024. A box is the only prompt that they were
trained for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from napari_zeroseg.models.pipelines import LITE_SIDE, LiteMedSamPipeline, MedSamPipeline
from napari_zeroseg.models.sam import SamNetwork, SamSegmenter, load_strictly, vit_network
from napari_zeroseg.models.tiny_vit import TinyViT

if TYPE_CHECKING:
    from napari_zeroseg.registry import ModelSpec
    from napari_zeroseg.weights import Weights


def build_medsam(
    spec: ModelSpec, weights: Weights, device: torch.device, dtype: torch.dtype, *, openvino: bool = False
) -> SamSegmenter:
    """Build MedSAM of July 2023, strictly.

    Raises
    ------
    WeightsError
        If the weights are another model's.
    """
    network = vit_network(spec)
    load_strictly(network, weights.tensors, spec.title)
    return SamSegmenter(spec, network, MedSamPipeline(), weights.sha256, device, dtype, openvino=openvino)


def build_lite_medsam(
    spec: ModelSpec, weights: Weights, device: torch.device, dtype: torch.dtype, *, openvino: bool = False
) -> SamSegmenter:
    """Build LiteMedSAM, strictly.

    Raises
    ------
    WeightsError
        If the weights are another model's.
    """
    network = lite_network()
    load_strictly(network, weights.tensors, spec.title)
    return SamSegmenter(spec, network, LiteMedSamPipeline(), weights.sha256, device, dtype, openvino=openvino)


def lite_network() -> SamNetwork:
    """LiteMedSAM's network: TinyViT on 256 x 256 pixels, without a classifier, with 1 x 1 convolutions as stem."""
    encoder = TinyViT(stem_kernel=1, stem_stride=1)
    del encoder.norm_head, encoder.head
    return SamNetwork(encoder, LITE_SIDE)

"""PA-SAM's adapter: trained with parts of the mask decoder on kept embeddings, by losses of its own, in float32.

Xie et al., "PA-SAM: Prompt Adapter SAM for High-Quality Image Segmentation", ICME 2024: image encoder, prompt encoder
and the decoder's transformer stay as they are. A base without an adapter gets a new one that changes nothing at first.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from napari_zeroseg.catalogue import ModelSpec
from napari_zeroseg.models.pa_decoder import GumbelTopK, PaAnswer, PaMaskDecoder, guiding_input
from napari_zeroseg.models.pa_sam import PaSamSegmenter, build_network
from napari_zeroseg.models.pipelines import LOW_RES_SIDE, SAM_SIDE
from napari_zeroseg.models.prompt_embedding import SparsePrompts
from napari_zeroseg.models.sam import SamNetwork, SamSegmenter
from napari_zeroseg.prompts import Prompt
from napari_zeroseg.training.classes import cells_of
from napari_zeroseg.training.config import TrainingConfig
from napari_zeroseg.training.decoding import Decoding
from napari_zeroseg.training.losses import MaskLoss, bce, border_of, dice
from napari_zeroseg.training.networks import NEW_RATE, Network
from napari_zeroseg.training.patches import Cells, Seen
from napari_zeroseg.training.prompts import Mask
from napari_zeroseg.training.tasks import MaskTask

SAMPLES_FROM = 5 / 21
"""Part of a run after which cells are sampled: the paper's sixth epoch of 21."""

_BAND = 0.005
"""Width of the border in which a mask is taken for uncertain, as part of the diagonal."""

_TRAINED = ("mask_tokens", "output_upscaling", "guiding_conv", "prompt_adapter", "output_hypernetworks_mlps.0")
"""Parts of the decoder; of the four hypernetworks, the one that draws PA-SAM's only mask."""

_NEW = ("mask_decoder.guiding_conv.", "mask_decoder.prompt_adapter.")


class AdapterNetwork(Network):
    """A base with PA-SAM's decoder."""

    def rate_of(self, name: str) -> float:
        """Five times the configuration's, which is 1e-3 by default as in the paper, for all but SAM's own parts."""
        return NEW_RATE if name.startswith(_NEW) else 1.0

    def decoding(self, seen: Seen) -> AdapterDecoding:
        """The mask decoder as it is now, looking at a patch."""
        pixels = self.model.pipeline.pixels(np.ascontiguousarray(seen.picture))
        return AdapterDecoding(self.modules, guiding_input(pixels).to(self.model.device))

    def model_with(self, changed: Mapping[str, Tensor], name: str) -> PaSamSegmenter:
        """The model with some tensors replaced, on the base's encoder."""
        decoder = copy.deepcopy(self.modules.mask_decoder)
        state = {key.removeprefix("mask_decoder."): value for key, value in changed.items()}
        decoder.load_state_dict({**decoder.state_dict(), **state})
        return PaSamSegmenter.around(self.model, decoder)

    def _built(self, spec: ModelSpec, tensors: Mapping[str, Tensor], config: TrainingConfig) -> SamNetwork:
        if isinstance(self.model, PaSamSegmenter):
            modules = build_network(spec, tensors)
            # without memory of its own it was given the tensors themselves, which must stay the base's
            return copy.deepcopy(modules)
        modules = super()._built(spec, tensors, config)
        modules.mask_decoder = PaMaskDecoder.grown_from(modules.mask_decoder, config.seed)
        return modules

    def _open(self, config: TrainingConfig) -> None:
        for name, parameter in self.modules.mask_decoder.named_parameters():
            parameter.requires_grad_(name.startswith(_TRAINED))


class AdapterDecoding(Decoding):
    """PA-SAM's decoder on one patch, with gradients.

    Parameters
    ----------
    modules : SamNetwork
    guiding : (1, 4, 256, 256) float32
        From :func:`~napari_zeroseg.models.pa_decoder.guiding_input`.
    """

    def __init__(self, modules: SamNetwork, guiding: Tensor) -> None:
        self._decoder: PaMaskDecoder = modules.mask_decoder
        self._encoder = modules.prompt_encoder
        self._guiding = guiding
        signs = self._encoder.point_embeddings
        self._signs = torch.cat([signs[0].weight, signs[1].weight])

    def examine(
        self, embedding: Tensor, prompts: SparsePrompts, noise: GumbelTopK | None = None, samples: bool = True
    ) -> PaAnswer:
        """Everything that the decoder gives, as of :meth:`PaMaskDecoder.forward`."""
        no_mask = self._encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(1, -1, *embedding.shape[-2:])
        answer: PaAnswer = self._decoder(
            embedding,
            self._decoder.guide(self._guiding),
            self._encoder.get_dense_pe(),
            prompts.tokens,
            prompts.valid,
            no_mask if prompts.masks is None else prompts.masks,
            self._signs,
            noise,
            samples,
        )
        return answer

    def first(self, embedding: Tensor, prompts: SparsePrompts) -> Tensor:
        """The (256, 256) logits of the only mask."""
        return self.examine(embedding, prompts).logits[0, 0]


class AdapterTask(MaskTask):
    """Answers to prompts by a decoder with an adapter."""

    def _judged(
        self,
        decoding: Decoding,
        image: Tensor,
        sparse: SparsePrompts,
        prompts: Sequence[Prompt],
        masks: Sequence[Mask],
        seen: Seen,
        seed: int,
    ) -> Tensor:
        """Sum of the losses of B prompts; chance comes from `seed`, so that a resumed run draws the same."""
        assert isinstance(decoding, AdapterDecoding)
        device = self._network.model.device
        generator = torch.Generator(device).manual_seed(seed)
        samples = self._part >= SAMPLES_FROM
        answer = decoding.examine(image, sparse, GumbelTopK(generator=generator), samples)
        coarse, fine = cells_of(self._network.model, seen.shape), fine_cells(self._network.model, seen.shape)
        target, fine_target = (
            torch.stack([cells.shrunk(mask) for mask in masks]).to(device) for cells in (coarse, fine)
        )
        weight, fine_weight = (cells.weight(seen.objects).to(device) for cells in (coarse, fine))
        losses = mask_losses(self._loss, answer, fine_target, fine_weight.expand_as(fine_target))
        return (losses + adapter_losses(answer, target, weight.expand_as(target))).sum()


def fine_cells(model: SamSegmenter, shape: tuple[int, int]) -> Cells:
    """Where a picture of `shape` lies in the frame of 1024 x 1024."""
    rows, columns = model.pipeline.frame(shape).inner  # type: ignore[attr-defined]
    return Cells(rows, columns, SAM_SIDE)


def mask_losses(loss: MaskLoss, answer: PaAnswer, target: Tensor, weight: Tensor) -> Tensor:
    """Loss of the mask where it is compared in the paper, at (B, 1024, 1024); (B,)."""
    size = (SAM_SIDE, SAM_SIDE)
    return loss(F.interpolate(answer.logits, size, mode="bilinear", align_corners=False)[:, 0], target, weight)


def adapter_losses(answer: PaAnswer, target: Tensor, weight: Tensor) -> Tensor:
    """Losses of the adapter's three maps, brought to (B, 256, 256); (B,).

    BCE and Dice of the coarse mask where it is taken for certain, of the refined one elsewhere, and BCE of the
    uncertainty with a band inside the object's border of 0.005 of the diagonal.
    """
    size = (LOW_RES_SIDE, LOW_RES_SIDE)
    uncertain, coarse, refined = (
        F.interpolate(one[:, None], size, mode="bilinear", align_corners=False)[:, 0]
        for one in (answer.uncertain, answer.coarse, answer.refined)
    )
    doubted = (uncertain.detach() >= 0.5).to(weight)
    total = torch.zeros(len(target), device=target.device)
    for drawn, counted in ((coarse, weight * (1 - doubted)), (refined, weight * doubted)):
        total = total + dice(drawn, target, counted) + bce(drawn, target, counted)
    width = round(_BAND * LOW_RES_SIDE * 2**0.5)
    band = border_of((target > 0.5).to(target), 2 * width + 1)
    return total + bce(torch.logit(uncertain, 1e-6), band, weight)

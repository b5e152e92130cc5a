"""The network that is trained: which of its parameters, and how it becomes a model that answers."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from napari_zeroseg.catalogue import ModelSpec
from napari_zeroseg.embeddings import EmbeddingStore
from napari_zeroseg.models.medsam import lite_network
from napari_zeroseg.models.sam import SamNetwork, SamSegmenter, load_strictly, vit_network
from napari_zeroseg.models.tiny_vit import TinyViT
from napari_zeroseg.registry import load_model
from napari_zeroseg.segmenter import Segmenter
from napari_zeroseg.training.bases import check_base, form_of
from napari_zeroseg.training.config import TrainingConfig
from napari_zeroseg.training.decoding import Decoding, TrainableDecoding
from napari_zeroseg.training.patches import Patch, Patches, Seen
from napari_zeroseg.weights import weights_of
from napari_zeroseg.weights.resting import joined

_SAM_NETWORKS = {
    "napari_zeroseg.models.sam:build_mobile_sam": lambda spec: SamNetwork(TinyViT()),
    "napari_zeroseg.models.sam:build_sam_vit": lambda spec: vit_network(spec),
    "napari_zeroseg.models.medsam:build_medsam": lambda spec: vit_network(spec),
    "napari_zeroseg.models.medsam:build_lite_medsam": lambda spec: lite_network(),
}
"""Modules of the SAM family, by the factory of the model."""


def network_of(spec: ModelSpec) -> SamNetwork:
    """Return the modules of a model that can be trained, without its weights."""
    made: SamNetwork = _SAM_NETWORKS[spec.factory](spec)
    return made


def with_tensors(model: SamSegmenter, tensors: Mapping[str, Tensor], name: str) -> SamSegmenter:
    """Return the same model with other weights; `name` tells its embeddings from those of others."""
    network = network_of(model.spec)
    load_strictly(network, tensors, model.spec.title)
    return SamSegmenter(model.spec, network, model.pipeline, name.rjust(16, "-")[-16:], model.device, model.dtype)


class Learner(Protocol):
    """A base that is trained, whatever its family."""

    form: str
    """Key of the model whose variant the result is."""
    base_sha256: str

    @property
    def base_tensors(self) -> Mapping[str, Tensor]:
        """All weights of the base under their official names."""
        ...

    @property
    def model(self) -> Trained:
        """The base."""
        ...

    @property
    def modules(self) -> nn.Module:
        """What holds the trained parameters."""
        ...

    @property
    def trains_encoder(self) -> bool:
        """Whether embeddings change."""
        ...

    def encoder_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Trained parameters of the encoder."""
        ...

    def decoder_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Trained parameters of the decoder."""
        ...

    def rate_of(self, name: str) -> float:
        """Learning rate of a trained parameter as part of the configuration's."""
        ...

    def changed(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors under their official names that differ from the base's, from trained parameters by name."""
        ...

    def model_with(self, changed: Mapping[str, Tensor], name: str) -> Trained:
        """The model with some tensors replaced; `name` tells its embeddings from others where the encoder changed."""
        ...

    def lay_beside(self, folder: Path) -> None:
        """Write the files that have to lie beside the weights."""
        ...


class Trained(Segmenter, Protocol):
    """A model on a device."""

    device: torch.device


NEW_RATE = 5.0
"""What starts from nothing learns this many times faster than the decoder."""


class Network:
    """A base model, its modules in float32 with gradients where they are wanted, and the way back to a model.

    Parameters
    ----------
    config : TrainingConfig

    Raises
    ------
    InputError, UnknownModelError, WeightsError
        If there is no such base, its weights are not here, or it cannot be trained.
    """

    def __init__(self, config: TrainingConfig) -> None:
        spec = check_base(config.base, config.what, config.words)
        self.form = form_of(spec, config.what)
        loaded = load_model(config.base, device=config.device, precision=config.precision)
        assert isinstance(loaded, SamSegmenter)
        self.model = loaded
        weights = weights_of(spec)
        self.base_sha256 = weights.sha256
        self.base_tensors = weights.tensors
        self.modules = self._built(spec, weights.tensors, config)
        # statistics of BatchNorm stay those of the base: a few windows are no basis for others
        self.modules.eval().requires_grad_(False)
        self.modules.to(loaded.device)
        # half precision has too few digits for gradients without scaling the loss
        self.dtype = torch.float32 if loaded.dtype == torch.float16 else loaded.dtype
        self._part = config.encoder_part
        # an encoder that answers no prompts need not stay close to what the mask decoder knows
        self._encoder_rate = config.encoder_rate * (1.0 if config.trains_masks else NEW_RATE)
        self._decoding: TrainableDecoding | None = None
        self._open(config)
        if config.recompute and self.trains_encoder:
            self._recompute()

    @property
    def trains_encoder(self) -> bool:
        """Whether embeddings change."""
        return bool(self._part)

    def encoder_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Trained parameters of the encoder."""
        for name, parameter in self.modules.image_encoder.named_parameters():
            if parameter.requires_grad:
                yield f"image_encoder.{name}", parameter

    def decoder_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Trained parameters of the mask decoder."""
        for name, parameter in self.modules.mask_decoder.named_parameters():
            if parameter.requires_grad:
                yield f"mask_decoder.{name}", parameter

    def rate_of(self, name: str) -> float:
        """Learning rate of a trained parameter as part of the configuration's."""
        # the matrices of LoRA are new and small: they take the full rate
        return self._encoder_rate if name.startswith("image_encoder.") and self._part != "lora" else 1.0

    def decoding(self, seen: Seen) -> Decoding:
        """The mask decoder as it is now, for forward and backward passes on a patch; see :meth:`passes`."""
        if self._decoding is None:
            modules, device = self.modules, self.model.device
            self._decoding = TrainableDecoding(modules.prompt_encoder, modules.mask_decoder, device, self.dtype)
        return self._decoding

    @contextlib.contextmanager
    def passes(self) -> Iterator[None]:
        """Around all passes of a step: they share one decoding, which gives its gradients to the parameters behind."""
        self._forget_decoding()
        try:
            yield
            if self._decoding is not None:
                self._decoding.gather()
        finally:
            self._forget_decoding()

    def _forget_decoding(self) -> None:
        self._decoding = None

    def embed(self, patches: Patches, patch: Patch, store: EmbeddingStore) -> Tensor:
        """(1, 256, 64, 64) float32: kept ones where the encoder stays as it is, else computed with gradients."""
        if not self.trains_encoder:
            return patches.embedding(patch, self.model, store)
        picture = patches.see(patch).picture
        pixels = self.model.pipeline.pixels(picture).to(self.model.device)
        kind = self.model.device.type
        with torch.autocast(kind, self.dtype, enabled=self.dtype != torch.float32):
            image: Tensor = self.modules.image_encoder(pixels)
        return image.float()

    def lay_beside(self, folder: Path) -> None:
        """Nothing has to lie beside the weights of the SAM family."""

    def _recompute(self) -> None:
        """Let the encoder's blocks forget what they computed until the way back asks for it."""
        for block in _blocks(self.modules.image_encoder):
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)

    def changed(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors under their official names that differ from the base's, from trained parameters by name.

        Of LoRA they are its matrices: see :func:`napari_zeroseg.weights.resting.joined`.
        """
        return {name: value.detach().float().cpu().contiguous() for name, value in values.items()}

    def model_with(self, changed: Mapping[str, Tensor], name: str) -> SamSegmenter:
        """The model with some tensors replaced; `name` tells its embeddings from others where the encoder changed."""
        old = self.model
        if not any(key.startswith("image_encoder.") for key in changed):
            shell: Any = copy.copy(old._network)
            shell._modules = dict(old._network._modules)
            decoder = copy.deepcopy(self.modules.mask_decoder)
            state = {key.removeprefix("mask_decoder."): value for key, value in changed.items()}
            decoder.load_state_dict({**decoder.state_dict(), **state})
            shell._modules["mask_decoder"] = decoder
            model = copy.copy(old)
            model._network = shell
            decoder.requires_grad_(False)
            model._prepare_decoder(shell)
            return model
        return with_tensors(old, joined(self.base_tensors, changed), name)

    def _built(self, spec: ModelSpec, tensors: Mapping[str, Tensor], config: TrainingConfig) -> SamNetwork:
        """The base's modules with its weights."""
        modules = network_of(spec)
        load_strictly(modules, tensors, spec.title)
        # a network without memory of its own was given the tensors themselves, which must stay the base's
        return copy.deepcopy(modules)

    def _open(self, config: TrainingConfig) -> None:
        self.modules.mask_decoder.requires_grad_(config.trains_masks)
        encoder = self.modules.image_encoder
        if self.trains_encoder and isinstance(encoder, TinyViT):
            encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.encoder_part == "all":
            encoder.requires_grad_(True)
            for name in ("head", "norm_head"):  # parts of MobileSAM's checkpoint that encode nothing
                if hasattr(encoder, name):
                    getattr(encoder, name).requires_grad_(False)
        elif config.encoder_part == "blocks":
            for block in [*_blocks(encoder)[-config.blocks :], encoder.neck]:
                block.requires_grad_(True)
        elif config.encoder_part == "lora":
            self._add_lora(encoder, config)

    def _add_lora(self, encoder: nn.Module, config: TrainingConfig) -> None:
        generator = torch.Generator().manual_seed(config.seed)
        for name, module in list(encoder.named_modules()):
            if name.endswith(".qkv") and isinstance(module, nn.Linear):
                parent = encoder.get_submodule(name.rpartition(".")[0])
                parent.qkv = LoraLinear(module, config.lora_rank, generator).to(self.model.device)


class LoraLinear(nn.Module):
    """A linear layer that stays as it is, plus a product of two small matrices; Hu et al., ICLR 2022, equation 3.

    Parameters
    ----------
    linear : torch.nn.Linear
    rank : int
    generator : torch.Generator
        Of the first matrix; the second one is zero, so that training starts from the base.
    """

    def __init__(self, linear: nn.Linear, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        bound = 1 / math.sqrt(linear.in_features)
        start = (torch.rand((rank, linear.in_features), generator=generator) * 2 - 1) * bound
        self.lora_down = nn.Parameter(start)
        self.lora_up = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) in, (..., outputs) out."""
        return F.linear(x, self.weight, self.bias) + F.linear(F.linear(x, self.lora_down), self.lora_up)


def _blocks(encoder: Any) -> list[nn.Module]:
    """The encoder's blocks in order, whichever family."""
    if isinstance(encoder, TinyViT):
        stages: Any = encoder.layers
        return [block for stage in stages for block in stage.blocks]
    return list(encoder.blocks)

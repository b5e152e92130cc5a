"""PA-SAM behind the Segmenter protocol: SAM's encoder, and the decoder with guiding branch and prompt adapter."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from napari_zeroseg.errors import WeightsError
from napari_zeroseg.models import vit
from napari_zeroseg.models.pa_decoder import PaAnswer, PaMaskDecoder, guiding_input
from napari_zeroseg.models.pipelines import SamPipeline
from napari_zeroseg.models.prompt_embedding import SparsePrompts
from napari_zeroseg.models.sam import SamNetwork, SamSegmenter, load_strictly, shared
from napari_zeroseg.models.tiny_vit import TinyViT
from napari_zeroseg.segmenter import Embedding

if TYPE_CHECKING:
    from napari_zeroseg.registry import ModelSpec
    from napari_zeroseg.weights import Weights

_MARK = "prompt_adapter.static_uncertain_token.weight"
_PLAIN = "mask_decoder."
_ORIGINAL = "mask_decoder_ori."


def build(spec: ModelSpec, weights: Weights, device: torch.device, dtype: torch.dtype) -> PaSamSegmenter:
    """Build PA-SAM from one file that holds everything, strictly.

    Raises
    ------
    WeightsError
        If the weights are another model's, or the decoder's alone.
    """
    return PaSamSegmenter(spec, build_network(spec, weights.tensors), weights.sha256, device, dtype)


def build_network(spec: ModelSpec, tensors: Mapping[str, Tensor]) -> SamNetwork:
    """Build PA-SAM's network: the merged layout, in which SAM's own decoder lies beside under another name."""
    if _MARK in tensors:
        why = f"This file holds {spec.title}'s decoder alone: merge it with the SAM checkpoint of the same size first"
        raise WeightsError(f"{why} (zeroseg add DECODER --with SAM_CHECKPOINT).").said_in_dock(
            f"{why}, by Add a checkpoint in the Models dock."
        )
    if spec.size_name == "vit_t":
        network = SamNetwork(TinyViT())
        network.mask_decoder = PaMaskDecoder()
    else:
        with torch.device("meta"):
            network = SamNetwork(vit.image_encoder(vit.SIZES[spec.size_name]))
            network.mask_decoder = PaMaskDecoder()
    own = {key: tensor for key, tensor in tensors.items() if not key.startswith(_ORIGINAL)}
    load_strictly(network, own, spec.title)
    return network


def merge(decoder: Mapping[str, Tensor], sam: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join a decoder's file (152 keys without prefix) and a SAM checkpoint into the merged layout.

    Raises
    ------
    WeightsError
        If the first is no PA-SAM decoder.
    """
    if _MARK not in decoder:
        raise WeightsError(
            "The first file is no PA-SAM decoder: it lacks the prompt adapter. Check the order of files."
        )
    merged = {key: tensor for key, tensor in sam.items() if not key.startswith(_PLAIN)}
    merged |= {_ORIGINAL + key.removeprefix(_PLAIN): t for key, t in sam.items() if key.startswith(_PLAIN)}
    return merged | {_PLAIN + key: tensor for key, tensor in decoder.items()}


class PaSamSegmenter(SamSegmenter):
    """PA-SAM, ready on one device; everything after the encoder is computed in float32."""

    def __init__(
        self, spec: ModelSpec, network: SamNetwork, weights_hash: str, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__(spec, network, SamPipeline(), weights_hash, device, dtype)

    @classmethod
    def around(cls, model: SamSegmenter, decoder: PaMaskDecoder) -> PaSamSegmenter:
        """Return PA-SAM with the encoders of another model, which it shares, and a decoder.

        Parameters
        ----------
        model : SamSegmenter
            One that sees pictures as SAM does.
        decoder : PaMaskDecoder
        """
        made = cls.__new__(cls)
        made.__dict__.update(model.__dict__)
        shell: Any = copy.copy(model._network)
        shell._modules = {**model._network._modules, "mask_decoder": decoder.eval().requires_grad_(False)}
        made._network = shell
        if not isinstance(model, PaSamSegmenter):
            made.model_key = f"{model.model_key}-pa"  # its embeddings hold more
        made._prepare_decoder(shell)
        return made

    def _prepare_decoder(self, network: SamNetwork) -> None:
        self._decoder: PaMaskDecoder = network.mask_decoder.to(self.device)
        encoder = network.prompt_encoder
        self._image_pe: Tensor = encoder.get_dense_pe()
        self._signs = torch.cat([encoder.point_embeddings[0].weight, encoder.point_embeddings[1].weight])

    def _encode(self, pixels: Tensor) -> dict[str, Tensor]:
        return {**super()._encode(pixels), "guiding": guiding_input(pixels)}

    def _decode(
        self, embeddings: Sequence[Embedding], prompts: SparsePrompts, multimask: bool
    ) -> tuple[Tensor, Tensor]:
        """One mask a prompt: the adapter refines the single answer, so there are no other candidates."""
        answer = self.examine(embeddings, prompts)
        return answer.logits, answer.scores[:, :1]

    def _decode_above(
        self, embeddings: Sequence[Embedding], prompts: SparsePrompts, threshold: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        logits, scores = self._decode(embeddings, prompts, True)
        chosen = scores > threshold
        return chosen, logits[chosen], scores

    def examine(self, embeddings: Sequence[Embedding], prompts: SparsePrompts) -> PaAnswer:
        """Everything that the decoder gives, with its maps of uncertainty and the cells that it sampled."""
        guided = [self._guided(embedding) for embedding in embeddings]
        image, guide = (shared([both[part] for both in guided]) for part in (0, 1))
        answer: PaAnswer = self._decoder(
            image, guide, self._image_pe, prompts.tokens, prompts.valid, self._prompts.dense(prompts), self._signs
        )
        return answer

    def _guided(self, embedding: Embedding) -> tuple[Tensor, Tensor]:
        """The (1, 256, 64, 64) embedding and the guiding features."""
        name = f"guide on {self.device}"
        # decoders that were trained from one base share embeddings, and each guides in its own way
        kept: tuple[PaMaskDecoder, Tensor, Tensor] | None = embedding.memo.get(name)
        if kept is None or kept[0] is not self._decoder:
            image = torch.as_tensor(embedding.tensors["image"], device=self.device).float()
            guiding = torch.as_tensor(embedding.tensors["guiding"], device=self.device).float()
            kept = embedding.memo[name] = self._decoder, image, self._decoder.guide(guiding)
        return kept[1:]

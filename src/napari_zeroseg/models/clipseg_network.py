"""CLIPSeg's network, of the transformers package: built from weights alone, run part by part.

Lüddecke and Ecker, "Image segmentation using text and image prompts", CVPR 2022. The image side runs once a picture,
however many phrases are asked for.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from napari_zeroseg.errors import WeightsError
from napari_zeroseg.models.clipseg_conditions import SIDE
from napari_zeroseg.models.encoder_place import EncoderPlace
from napari_zeroseg.models.sam import load_strictly

if TYPE_CHECKING:
    from transformers import CLIPSegConfig

_HEAD = 64
"""Channels of one attention head, in every CLIP that was published."""


def configuration(tensors: Mapping[str, Tensor], folder: Path | None, title: str) -> CLIPSegConfig:
    """Return the sizes of a network: those of the folder's config.json, else those that the weights show.

    Raises
    ------
    WeightsError
        If config.json is damaged, or the weights are not CLIPSeg's.
    """
    from transformers import CLIPSegConfig

    written = folder / "config.json" if folder is not None else None
    if written is not None and written.is_file():
        try:
            content = json.loads(written.read_text(encoding="utf-8"))
            if content.get("model_type") == "clipseg":
                return CLIPSegConfig.from_dict(content)
        except Exception as error:  # transformers checks each entry in its own way
            raise WeightsError(
                f"{written} is damaged ({error}): get it again from where the weights came from."
            ) from error
    try:
        return CLIPSegConfig(**_sizes(tensors))
    except KeyError as error:
        raise WeightsError(
            f"These weights are not {title}'s: the file lacks {error.args[0]}. Choose the model that they belong to."
        ) from error


def _sizes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Sizes of a CLIPSeg of the published kind, from the shapes of its weights."""
    text, vision = "clip.text_model.", "clip.vision_model."
    words = tensors[f"{text}embeddings.token_embedding.weight"].shape
    patches = tensors[f"{vision}embeddings.patch_embedding.weight"].shape
    positions = tensors[f"{vision}embeddings.position_embedding.weight"].shape[0] - 1
    film = tensors["decoder.film_mul.weight"].shape
    return {
        "text_config": {
            **_tower(tensors, text, words[1]),
            "vocab_size": words[0],
            "max_position_embeddings": tensors[f"{text}embeddings.position_embedding.weight"].shape[0],
            # the end of a phrase is the last word of CLIP's vocabulary, its start the one before
            "bos_token_id": words[0] - 2,
            "eos_token_id": words[0] - 1,
            "pad_token_id": words[0] - 1,
        },
        "vision_config": {
            **_tower(tensors, vision, patches[0]),
            "patch_size": patches[2],
            "image_size": round(positions**0.5) * patches[2],
        },
        "projection_dim": film[1],
        "reduce_dim": film[0],
        "decoder_intermediate_size": tensors["decoder.layers.0.mlp.fc1.weight"].shape[0],
        "use_complex_transposed_convolution": "decoder.transposed_convolution.0.weight" in tensors,
    }


def _tower(tensors: Mapping[str, Tensor], prefix: str, width: int) -> dict[str, int]:
    layers = {name.split(".")[4] for name in tensors if name.startswith(f"{prefix}encoder.layers.")}
    return {
        "hidden_size": width,
        "intermediate_size": tensors[f"{prefix}encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": len(layers),
        "num_attention_heads": max(1, width // _HEAD),
    }


def build_module(tensors: Mapping[str, Tensor], folder: Path | None, title: str) -> nn.Module:
    """Build transformers' CLIPSegForImageSegmentation in float32 with these weights, strictly.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        Under transformers' names.
    folder : Path or None
        Where a config.json may lie.
    title : str
        The model's name, for messages.

    Raises
    ------
    WeightsError
        If the weights are another model's or damaged.
    """
    from transformers import CLIPSegForImageSegmentation

    # files of earlier versions of transformers hold these counts from 0 as well
    own = {name: tensor for name, tensor in tensors.items() if not name.endswith(".position_ids")}
    sizes = configuration(own, folder, title)
    blocks, last = sizes.vision_config.num_hidden_layers, max(sizes.extract_layers)
    if last >= blocks:
        raise WeightsError(
            f"These weights are not {title}'s: their image encoder has {blocks} blocks, and {last + 1} are needed. "
            "Choose the model that they belong to."
        )
    with torch.device("meta"):
        module = CLIPSegForImageSegmentation(sizes)
    load_strictly(module, own, title)
    for part in module.modules():
        if isinstance(part._buffers.get("position_ids"), Tensor):
            part.register_buffer("position_ids", torch.arange(part.position_ids.shape[-1])[None], persistent=False)
    built: nn.Module = module.eval().requires_grad_(False)
    return built


class ClipSegNetwork:
    """CLIPSeg's parts on one device: images and the decoder in `dtype`, words in float32.

    Words are few and their conditions are kept, so nothing is gained by reading them less exactly.

    Parameters
    ----------
    module : torch.nn.Module
        transformers' CLIPSegForImageSegmentation.
    device, dtype
        Where and in what precision it runs.
    """

    def __init__(self, module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self.dtype = dtype
        config: Any = module.config
        self.config = config
        clip: Any = module.clip
        self._vision: Any = clip.vision_model.to(device, dtype)
        self._place = EncoderPlace(self._vision, device)
        self._visual_projection: nn.Module = clip.visual_projection.to(device)
        self._text: Any = clip.text_model.to(device)
        self._text_projection: nn.Module = clip.text_projection.to(device)
        self.decoder: Any = module.decoder.to(device, dtype)
        self._extracted: tuple[int, ...] = tuple(config.extract_layers)
        # transformers 4 hands blocks a second mask; neither is wanted on the image side
        block = inspect.signature(self._vision.encoder.layers[0].forward).parameters
        self._no_masks = {name: None for name in ("attention_mask", "causal_attention_mask") if name in block}

    def with_decoder(self, decoder: nn.Module) -> ClipSegNetwork:
        """Return the same network with another decoder; all else is shared."""
        other = copy.copy(self)
        other.decoder = decoder.to(self.device, self.dtype).eval().requires_grad_(False)
        return other

    def activations(self, pixels: Tensor) -> Tensor:
        """1 x 3 x 352 x 352 float32 to the decoder's inputs, (blocks, patches + 1, channels).

        The blocks after the last one that the decoder reads are not run.

        Raises
        ------
        DeviceMemoryError
        """
        return self._place.compute(lambda device: self._activations(pixels.to(device, self.dtype)).to(self.device))

    def _activations(self, pixels: Tensor) -> Tensor:
        hidden = self._vision.pre_layrnorm(self._vision.embeddings(pixels))
        kept = {}
        for number, block in enumerate(self._vision.encoder.layers[: max(self._extracted) + 1]):
            answer = block(hidden, **self._no_masks)
            hidden = answer[0] if isinstance(answer, tuple) else answer
            kept[number] = hidden[0]
        return torch.stack([kept[number] for number in self._extracted])

    def picture_conditions(self, pixels: Tensor) -> Tensor:
        """N x 3 x 352 x 352 float32 to (N, P) float32, not normalised."""
        pooled = self._place.compute(
            lambda device: self._vision(pixels.to(device, self.dtype)).pooler_output.float().to(self.device),
            "looking at an example",
        )
        conditions: Tensor = self._visual_projection(pooled)
        return conditions

    def text_conditions(self, tokens: Tensor) -> Tensor:
        """(N, T) int64 to (N, P) float32, not normalised."""
        with torch.inference_mode():
            conditions: Tensor = self._text_projection(self._text(input_ids=tokens.to(self.device)).pooler_output)
        return conditions

    def decode(self, activations: Tensor, conditions: Tensor) -> Tensor:
        """The decoder's inputs and (N, P) conditions to (N, 352, 352) float32 logits.

        The inputs are those of one picture, for all conditions, or (blocks, N, patches + 1, channels) of N pictures.
        """
        count = len(conditions)
        expanded = [layer.expand(count, -1, -1) for layer in activations.to(self.device, self.dtype)]
        logits: Tensor = self.decoder(expanded, conditions.to(self.device, self.dtype)).logits
        return logits.float().reshape(count, SIDE, SIDE)

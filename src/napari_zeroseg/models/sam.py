"""The SAM family behind the Segmenter protocol: picture in, embedding, prompts, masks.

Kirillov et al., "Segment Anything", ICCV 2023; MobileSAM: Zhang et al., 2023.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from napari_zeroseg.devices import is_out_of_memory, memory_error, release
from napari_zeroseg.errors import WeightsError
from napari_zeroseg.models import sam_modules, vit
from napari_zeroseg.models.calls import check_call, check_kinds
from napari_zeroseg.models.encoder_place import EncoderPlace
from napari_zeroseg.models.mask_decoding import MaskDecoding
from napari_zeroseg.models.pipelines import Pipeline, PromptFrame, SamPipeline, seen
from napari_zeroseg.models.prompt_embedding import PromptEmbedding, SparsePrompts
from napari_zeroseg.models.tiny_vit import TinyViT
from napari_zeroseg.prompts import Prompt
from napari_zeroseg.segmenter import Embedding, Prediction
from napari_zeroseg.tiling import LARGE_PLANE, whole
from napari_zeroseg.view import View

if TYPE_CHECKING:
    from napari_zeroseg.registry import ModelSpec
    from napari_zeroseg.weights import Weights

_log = logging.getLogger(__name__)

BATCH = {"cpu": 4, "cuda": 64, "mps": 16}
"""Prompts that are answered in one go. On a CPU all of what a few need comes out of memory that the process has; larger
batches ask the system for fresh pages each time, which takes a third of the time, and leave holes between them."""


class SamNetwork(nn.Module):
    """Image encoder, prompt encoder and mask decoder under the official names.

    Parameters
    ----------
    image_encoder : torch.nn.Module
    input_side : int
        Pixels of the frame in which prompts are given.
    """

    def __init__(self, image_encoder: nn.Module, input_side: int = sam_modules.INPUT_SIDE) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = sam_modules.prompt_encoder(input_side)
        self.mask_decoder = sam_modules.mask_decoder()


def build_mobile_sam(
    spec: ModelSpec, weights: Weights, device: torch.device, dtype: torch.dtype, *, openvino: bool = False
) -> SamSegmenter:
    """Build MobileSAM from `weights`, strictly: every parameter must be there and no other.

    Raises
    ------
    WeightsError
        If the weights are another model's.
    """
    network = SamNetwork(TinyViT())
    load_strictly(network, weights.tensors, spec.title)
    return SamSegmenter(spec, network, SamPipeline(), weights.sha256, device, dtype, openvino=openvino)


def build_sam_vit(
    spec: ModelSpec, weights: Weights, device: torch.device, dtype: torch.dtype, *, openvino: bool = False
) -> SamSegmenter:
    """Build SAM with its ViT encoder of the spec's size, strictly.

    Raises
    ------
    WeightsError
        If the weights are another model's.
    """
    network = vit_network(spec)
    load_strictly(network, weights.tensors, spec.title)
    return SamSegmenter(spec, network, SamPipeline(), weights.sha256, device, dtype, openvino=openvino)


def vit_network(spec: ModelSpec) -> SamNetwork:
    """SAM's network of the size that the spec names, without memory behind it until weights are loaded."""
    with torch.device("meta"):
        return SamNetwork(vit.image_encoder(vit.SIZES[spec.size_name]))


def load_strictly(network: nn.Module, tensors: Mapping[str, Tensor], title: str) -> None:
    """Load `tensors` into `network` in float32; name the first keys that do not fit."""
    wanted = network.state_dict()
    missing = [key for key in wanted if key not in tensors]
    extra = [key for key in tensors if key not in wanted]
    other = [key for key in wanted if key in tensors and wanted[key].shape != tensors[key].shape]
    for what, keys in (("lacks", missing), ("has besides", extra), ("has in another shape", other)):
        if keys:
            raise WeightsError(
                f"These weights are not {title}'s: the file {what} {len(keys)} entries, first "
                f"{', '.join(keys[:3])}. Choose the model that they belong to."
            )
    whole = [k for k in wanted if wanted[k].is_floating_point() and not tensors[k].is_floating_point()]
    if whole:
        raise WeightsError(
            f"The parameters of {title} are floating-point numbers, but {len(whole)} entries hold "
            f"{str(tensors[whole[0]].dtype).removeprefix('torch.')}, first {', '.join(whole[:3])}: quantised weights "
            "are not read; give them in float32 or float16."
        )
    floats = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    bad = next((k for k, v in floats.items() if v.is_floating_point() and not torch.isfinite(v).all()), None)
    if bad is not None:
        raise WeightsError(f"These weights hold NaN or infinite numbers (in {bad}): get an undamaged file.")
    # a network without memory behind it takes the tensors themselves; another must not write into the caller's
    network.load_state_dict(floats, strict=True, assign=next(network.parameters()).is_meta)


def encoder_of(network: SamNetwork, device: torch.device, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Return the quickest way to evaluate a network's image encoder, in `dtype` on `device`."""
    encoder = network.image_encoder
    if isinstance(encoder, TinyViT):
        encoder.fuse()
        encoder.narrow(dtype)
        encoder.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return encoder
    return partial(vit.encode, encoder.to(device, dtype))


class SamSegmenter:
    """A SAM-family model, ready on one device.

    Parameters
    ----------
    spec : ModelSpec
    network : SamNetwork
        In float32, with its weights.
    pipeline : Pipeline
        How it sees a picture.
    weights_hash : str
        sha256 of the weights, hexadecimal.
    device, dtype
        Where and in what precision the image side is computed.
    openvino : bool
        Whether the image encoder is evaluated through OpenVINO, on the CPU.
    """

    def __init__(
        self,
        spec: ModelSpec,
        network: SamNetwork,
        pipeline: Pipeline,
        weights_hash: str,
        device: torch.device,
        dtype: torch.dtype,
        *,
        openvino: bool = False,
    ) -> None:
        self.spec = spec
        self.device = device
        self.dtype = dtype
        self.pipeline = pipeline
        self.model_key = f"{weights_hash[:16]}-{pipeline.version}-{str(dtype).removeprefix('torch.')}"
        network.eval().requires_grad_(False)
        self._network = network
        self._encoder = self._openvino_encoder(weights_hash) if openvino else encoder_of(network, device, dtype)
        self._place = EncoderPlace(network.image_encoder, device)
        self._prompts = PromptEmbedding(network.prompt_encoder, device)
        self._prepare_decoder(network)

    def _openvino_encoder(self, weights_hash: str) -> Callable[[Tensor], Tensor]:
        from napari_zeroseg.models.openvino_encoder import OpenvinoEncoder

        encoder = OpenvinoEncoder(self._network, weights_hash, self.dtype)
        self._network.image_encoder = nn.Identity()  # its weights are OpenVINO's now
        self.model_key += f"-{encoder.name}"
        return encoder

    @property
    def prompts_at_once(self) -> int:
        """How many prompts are answered in one go."""
        return BATCH[self.device.type]

    def _prepare_decoder(self, network: SamNetwork) -> None:
        self._decoding = MaskDecoding(network.prompt_encoder, network.mask_decoder, self.device, self.dtype)

    def encode(self, image: ArrayLike) -> Embedding:
        """Encode a picture.

        Parameters
        ----------
        image : (H, W) or (H, W, 3) array_like
            Any real dtype; uint8 passes unchanged, anything else is brought to uint8 between its 0.1 and 99.9
            percentiles.

        Returns
        -------
        Embedding
            Of the whole picture, 1 x 256 x 64 x 64. Of a picture with a side of more than 1280 pixels it keeps the
            pixels as well, so that :meth:`predict` can look at the windows that its prompts ask for.

        Raises
        ------
        InputError, InputTypeError
            If the picture is empty, constant, all NaN, complex, bool or of other dimensions.
        DeviceMemoryError
            If the device's memory is not enough.
        """
        picture = seen(image)
        pixels = self.pipeline.pixels(picture)
        tensors = self._place.compute(
            lambda device: {name: one.to(self.device) for name, one in self._encode(pixels.to(device)).items()}
        )
        shape = (picture.shape[0], picture.shape[1])
        large = max(shape) > LARGE_PLANE and not self.spec.whole_picture
        return Embedding(tensors, shape, self.model_key, whole(shape), picture if large else None)

    def predict(self, embedding: Embedding, prompts: Sequence[Prompt], multimask: bool = False) -> list[Prediction]:
        """Answer prompts in one batch.

        Parameters
        ----------
        embedding : Embedding
            From :meth:`encode` of this model.
        prompts : sequence of Prompt
            (row, column) in pixels of the encoded picture.
        multimask : bool
            Three candidates a prompt, for ambiguous ones, in the network's order; else the single answer.

        Returns
        -------
        list of Prediction
            One a prompt, in order.

        Raises
        ------
        InputError, InputTypeError
            If the embedding is another model's, or a prompt lies outside or is of a kind that the model does not take.
        """
        self._check(embedding, prompts)
        if embedding.picture is not None:
            view = embedding.memo.get("view")
            if view is None or view.model is not self:  # kept, so that a window is encoded once
                view = embedding.memo["view"] = View(self, embedding.picture, whole_embedding=embedding)
            found: list[Prediction] = view.predict(prompts, multimask)
            return found
        return self._in_batches([embedding] * len(prompts), prompts, multimask)

    def predict_each(
        self, embeddings: Sequence[Embedding], prompts: Sequence[Prompt], multimask: bool = False
    ) -> list[Prediction]:
        """Answer prompts on several windows, in batches that go across the windows.

        Parameters
        ----------
        embeddings : sequence of Embedding
            One a prompt, from :meth:`encode`; each is of one window, and a large picture is not looked at in others.
        prompts : sequence of Prompt
            (row, column) in pixels of the picture of its embedding.
        multimask : bool
            As for :meth:`predict`, and so are the errors.

        Returns
        -------
        list of Prediction
            One a prompt, in order.
        """
        for embedding, prompt in zip(embeddings, prompts, strict=True):
            self._check(embedding, [prompt])
        return self._in_batches(embeddings, prompts, multimask)

    def predict_above(self, embedding: Embedding, prompts: Sequence[Prompt], threshold: float) -> list[Prediction]:
        """Answer prompts with those of the three candidates alone whose predicted IoU is above a threshold.

        The others are never made. `embedding` is of one window: a large picture is not looked at in others. Errors are
        those of :meth:`predict`.

        Returns
        -------
        list of Prediction
            One a prompt, in order, with 0 to 3 candidates.
        """
        self._check(embedding, prompts)
        return self._in_batches([embedding] * len(prompts), prompts, True, threshold)

    def _in_batches(
        self,
        embeddings: Sequence[Embedding],
        prompts: Sequence[Prompt],
        multimask: bool,
        above: float | None = None,
    ) -> list[Prediction]:
        """Answer prompts in batches as large as the device's memory allows."""
        predictions: list[Prediction] = []
        size = self.prompts_at_once
        while len(predictions) < len(prompts):
            part = slice(len(predictions), len(predictions) + size)
            batch = prompts[part]
            try:
                predictions += self._predict_batch(embeddings[part], batch, multimask, above)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(batch) == 1:
                    raise memory_error(self.device, "answering a prompt") from error
                size = len(batch) // 2
                release(self.device)
                _log.info("%s is short of memory: prompts are answered %d at a time.", self.device, size)
        return predictions

    def _check(self, embedding: Embedding, prompts: Sequence[Prompt]) -> None:
        check_call(embedding, prompts, self.model_key)
        for prompt in prompts:
            check_kinds(self.spec, prompt)
            prompt.check_on(embedding.image_shape)

    def _encode(self, pixels: Tensor) -> dict[str, Tensor]:
        """1 x 3 x side x side float32 to the tensors of an embedding."""
        return {"image": self._encoder(pixels.to(self.dtype))}

    def _predict_batch(
        self, embeddings: Sequence[Embedding], prompts: Sequence[Prompt], multimask: bool, above: float | None
    ) -> list[Prediction]:
        frames = [self.pipeline.frame(embedding.image_shape) for embedding in embeddings]
        with torch.inference_mode():
            embedded = self._embed(prompts, frames, embeddings)
            if above is None:
                logits, scores = (part.cpu().numpy() for part in self._decode(embeddings, embedded, multimask))
                answers = list(zip(scores, logits, strict=True))
            else:
                parts = self._decode_above(embeddings, embedded, above)
                chosen, logits, scores = (part.cpu().numpy() for part in parts)
                each = np.split(logits, np.cumsum(chosen.sum(1))[:-1])
                answers = [(scores[i, chosen[i]], one) for i, one in enumerate(each)]
        return [
            Prediction(score, low_res, frame, embedding.image_shape, embedding.field)
            for (score, low_res), frame, embedding in zip(answers, frames, embeddings, strict=True)
        ]

    def _embed(
        self, prompts: Sequence[Prompt], frames: Sequence[PromptFrame], embeddings: Sequence[Embedding]
    ) -> SparsePrompts:
        def tensor(array: ArrayLike) -> Tensor:
            return torch.as_tensor(np.asarray(array), device=self.device)

        placed = list(zip(prompts, frames, embeddings, strict=True))
        return self._prompts.embed(
            [tensor(frame.points(prompt.points)) for prompt, frame, _ in placed],
            [tensor(prompt.labels.astype(np.int64)) for prompt in prompts],
            [
                None if p.box is None else tensor(frame.box(_inside(p.box, seen.image_shape)))
                for p, frame, seen in placed
            ],
            [None if prompt.mask is None else tensor(frame.mask(prompt.mask)) for prompt, frame, _ in placed],
        )

    def _decode(
        self, embeddings: Sequence[Embedding], prompts: SparsePrompts, multimask: bool
    ) -> tuple[Tensor, Tensor]:
        """(B, K, 256, 256) logits and (B, K) scores, float32."""
        image, side = self._sides(embeddings, prompts)
        return self._decoding.decode(side, image, prompts, slice(1, 4) if multimask else slice(0, 1))

    def _decode_above(
        self, embeddings: Sequence[Embedding], prompts: SparsePrompts, threshold: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, K) bool, (N, 256, 256) logits of these N, and (B, K) scores, float32."""
        image, side = self._sides(embeddings, prompts)
        return self._decoding.decode_above(side, image, prompts, slice(1, 4), threshold)

    def _sides(self, embeddings: Sequence[Embedding], prompts: SparsePrompts) -> tuple[Tensor, Tensor]:
        """The (1 or B, 256, 64, 64) embeddings, and as the decoder wants them.

        With masks the decoder looks at the former, else at the latter; the other one is that of the first prompt.
        """
        sides = [self._sides_of(embedding) for embedding in embeddings]
        image, side = sides[0]
        if prompts.masks is None:
            return image, shared([side for _, side in sides])
        return shared([image for image, _ in sides]), side

    def _sides_of(self, embedding: Embedding) -> tuple[Tensor, Tensor]:
        # the same model on another device may look at the same embedding
        name = f"side on {self.device}"
        if name not in embedding.memo:
            image = torch.as_tensor(embedding.tensors["image"]).to(self.device)
            embedding.memo[name] = image, self._decoding.image_side(image)
        sides: tuple[Tensor, Tensor] = embedding.memo[name]
        return sides


def shared(tensors: Sequence[Tensor]) -> Tensor:
    """One tensor (1, ...) for a batch whose prompts all have the same, else (B, ...) with each prompt's own."""
    first = tensors[0]
    return first if all(one is first for one in tensors) else torch.cat(list(tensors))


def _inside(box: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """A box may stick out of the picture; a network knows only what lies inside."""
    last = np.array(shape, np.float32) - 0.5
    inside: NDArray[np.float32] = np.clip(box.reshape(2, 2), -0.5, last).reshape(4)
    return inside

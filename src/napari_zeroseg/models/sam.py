"""The SAM family behind the Segmenter protocol: picture in, embedding, prompts, masks.

Kirillov et al., "Segment Anything", ICCV 2023. (row, column) outside, (x, y) in the 1024 frame inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor, nn

from napari_zeroseg.devices import memory_error
from napari_zeroseg.errors import InputError, InputTypeError, WeightsError
from napari_zeroseg.intensity import to_uint8
from napari_zeroseg.models import sam_modules
from napari_zeroseg.models.mask_decoding import MaskDecoding
from napari_zeroseg.models.tiny_vit import TinyViT
from napari_zeroseg.planes import check_picture
from napari_zeroseg.prompts import Prompt
from napari_zeroseg.segmenter import Embedding, Patch, Prediction
from napari_zeroseg.tiling import LARGE_PLANE, whole
from napari_zeroseg.view import View

if TYPE_CHECKING:
    from napari_zeroseg.registry import ModelSpec
    from napari_zeroseg.weights import Weights

INPUT_SIDE = sam_modules.INPUT_SIDE
LOW_RES_SIDE = 256
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)

MASK_PROMPT_LOGIT = 8.0
"""Logit that a sure pixel of a bool mask prompt stands for; SAM was trained on logits of its own answers."""

PREPROCESSING = "sam-1"
BATCH = {"cpu": 16, "cuda": 64, "mps": 16}


class SamNetwork(nn.Module):
    """Image encoder, prompt encoder and mask decoder under the official names."""

    def __init__(self, image_encoder: nn.Module) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = sam_modules.prompt_encoder()
        self.mask_decoder = sam_modules.mask_decoder()


def build_mobile_sam(spec: ModelSpec, weights: Weights, device: torch.device, dtype: torch.dtype) -> SamSegmenter:
    """Build MobileSAM from `weights`, strictly: every parameter must be there and no other.

    Raises
    ------
    WeightsError
        If the weights are another model's.
    """
    network = SamNetwork(TinyViT())
    load_strictly(network, weights.tensors, spec.title)
    return SamSegmenter(spec, network, weights.sha256, device, dtype)


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
    floats = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    bad = next((k for k, v in floats.items() if v.is_floating_point() and not torch.isfinite(v).all()), None)
    if bad is not None:
        raise WeightsError(f"These weights hold NaN or infinite numbers (in {bad}): get an undamaged file.")
    network.load_state_dict(floats, strict=True)


class SamSegmenter:
    """A SAM-family model, ready on one device.

    Parameters
    ----------
    spec : ModelSpec
    network : SamNetwork
        In float32, with its weights.
    weights_hash : str
        sha256 of the weights, hexadecimal.
    device, dtype
        Where and in what precision the image side is computed.
    """

    def __init__(
        self, spec: ModelSpec, network: SamNetwork, weights_hash: str, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.spec = spec
        self.device = device
        self.dtype = dtype
        self.model_key = f"{weights_hash[:16]}-{PREPROCESSING}-{str(dtype).removeprefix('torch.')}"
        network.eval().requires_grad_(False)
        encoder = network.image_encoder
        if isinstance(encoder, TinyViT):
            encoder.fuse()
            encoder.narrow(dtype)
        else:
            encoder.to(dtype)
        self._encoder = encoder.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._decoding = MaskDecoding(network.prompt_encoder, network.mask_decoder, device, dtype)

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
        array = np.asarray(image)
        check_picture(array)
        # an alpha channel is a mask of the layout, not part of what is seen
        picture = to_uint8(array[..., :3] if array.ndim == 3 else array)
        tensor = self._preprocess(picture)
        try:
            with torch.inference_mode():
                encoded = self._encoder(tensor)
        except torch.OutOfMemoryError as error:
            raise memory_error(self.device, "encoding a picture") from error
        shape = (picture.shape[0], picture.shape[1])
        large = max(shape) > LARGE_PLANE
        return Embedding({"image": encoded}, shape, self.model_key, whole(shape), picture if large else None)

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
            If the embedding is another model's, or a prompt lies outside or is of a kind that SAM does not take.
        """
        self._check(embedding, prompts)
        if embedding.picture is not None:
            view = embedding.memo.get("view")
            if view is None:  # kept, so that a window is encoded once
                view = embedding.memo["view"] = View(self, embedding.picture, whole_embedding=embedding)
            found: list[Prediction] = view.predict(prompts, multimask)
            return found
        predictions: list[Prediction] = []
        size = BATCH[self.device.type]
        for first in range(0, len(prompts), size):
            predictions += self._predict_batch(embedding, prompts[first : first + size], multimask)
        return predictions

    def _check(self, embedding: Embedding, prompts: Sequence[Prompt]) -> None:
        if not isinstance(embedding, Embedding):
            raise InputTypeError("predict needs what encode returned as its first argument: encode the picture first.")
        if embedding.model_key != self.model_key:
            raise InputError("This embedding was made by another model: encode the picture with this one first.")
        if isinstance(prompts, Prompt) or not all(isinstance(prompt, Prompt) for prompt in prompts):
            raise InputTypeError("predict needs a list of prompts, such as [Prompt(points=[(row, column)])].")
        for prompt in prompts:
            unknown = prompt.kinds - self.spec.accepts
            if unknown:
                raise InputError(
                    f"{self.spec.title} does not take {', '.join(sorted(unknown))} prompts; "
                    f"it takes {', '.join(sorted(self.spec.accepts))}."
                )
            prompt.check_on(embedding.image_shape)

    def _preprocess(self, picture: NDArray[np.uint8]) -> Tensor:
        """Resize to 1024, normalise, pad with zeros: (1, 3, 1024, 1024) on the device."""
        height, width = frame_shape(picture.shape[0], picture.shape[1])
        resized = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))
        pixels = torch.from_numpy(resized.copy()).to(self.device).float()
        channels = pixels.expand(3, -1, -1) if pixels.ndim == 2 else pixels.permute(2, 0, 1)
        mean = torch.tensor(PIXEL_MEAN, device=self.device)[:, None, None]
        std = torch.tensor(PIXEL_STD, device=self.device)[:, None, None]
        padded = torch.zeros((1, 3, INPUT_SIDE, INPUT_SIDE), dtype=self.dtype, device=self.device)
        padded = padded.contiguous(memory_format=torch.channels_last)
        padded[0, :, :height, :width] = ((channels - mean) / std).to(self.dtype)
        return padded

    def _image_side(self, embedding: Embedding) -> tuple[Tensor, Tensor]:
        if "side" not in embedding.memo:
            image = torch.as_tensor(embedding.tensors["image"])
            embedding.memo["side"] = image, self._decoding.image_side(image)
        found: tuple[Tensor, Tensor] = embedding.memo["side"]
        return found

    def _predict_batch(self, embedding: Embedding, prompts: Sequence[Prompt], multimask: bool) -> list[Prediction]:
        shape = embedding.image_shape
        frame = SamFrame(shape, frame_shape(*shape))
        try:
            with torch.inference_mode():
                image, side = self._image_side(embedding)
                sparse = self._decoding.embed_prompts(
                    [self._to_frame(p.points, frame) for p in prompts],
                    [torch.as_tensor(p.labels, dtype=torch.int64, device=self.device) for p in prompts],
                    [None if p.box is None else self._box_to_frame(p.box, frame) for p in prompts],
                    [None if p.mask is None else self._mask_to_frame(p.mask, frame) for p in prompts],
                )
                wanted = slice(1, 4) if multimask else slice(0, 1)
                logits, scores = self._decoding.decode(side, image, sparse, wanted)
        except torch.OutOfMemoryError as error:
            raise memory_error(self.device, f"answering {len(prompts)} prompts") from error
        low_res, predicted = logits.cpu().numpy(), scores.cpu().numpy()
        return [Prediction(predicted[i], low_res[i], frame, shape, embedding.field) for i in range(len(prompts))]

    def _to_frame(self, points: NDArray[np.float32], frame: SamFrame) -> Tensor:
        xy = points[:, ::-1] * np.array([frame.scale[1], frame.scale[0]])
        return torch.as_tensor(xy.astype(np.float32), device=self.device)

    def _box_to_frame(self, box: NDArray[np.float32], frame: SamFrame) -> Tensor:
        # a box may stick out of the picture; the network knows only what lies inside
        last = np.array(frame.shape, np.float32) - 0.5
        return self._to_frame(np.clip(box.reshape(2, 2), -0.5, last), frame).reshape(4)

    def _mask_to_frame(self, mask: NDArray[np.bool_], frame: SamFrame) -> Tensor:
        """Bool mask to the low-resolution logits that SAM takes; the padding is background."""
        height, width = frame.low_res
        small = Image.fromarray(mask.astype(np.uint8) * 255).resize((width, height), Image.Resampling.BOX)
        logits = np.full((LOW_RES_SIDE, LOW_RES_SIDE), -MASK_PROMPT_LOGIT, np.float32)
        logits[:height, :width] = (np.asarray(small, np.float32) / 127.5 - 1) * MASK_PROMPT_LOGIT
        return torch.as_tensor(logits, device=self.device)


def frame_shape(height: int, width: int) -> tuple[int, int]:
    """(rows, columns) of a picture whose longest side has been brought to 1024."""
    scale = INPUT_SIDE / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


@dataclass(frozen=True)
class SamFrame:
    """How SAM's 256 x 256 answer lies on a picture.

    SAM brings the answer to 1024 x 1024, cuts the padding off and brings the rest to the picture's size, both times
    bilinearly. Both steps are linear and separable, so here they are one matrix for rows and one for columns, and only
    the rows and columns around the object are computed.
    """

    shape: tuple[int, int]
    inner: tuple[int, int]

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the 1024 frame per pixel of the picture, (rows, columns)."""
        return self.inner[0] / self.shape[0], self.inner[1] / self.shape[1]

    @property
    def low_res(self) -> tuple[int, int]:
        """(rows, columns) of the 256 x 256 answer that lie on the picture."""
        cells = INPUT_SIDE // LOW_RES_SIDE
        return -(-self.inner[0] // cells), -(-self.inner[1] // cells)

    def patch(self, logits: NDArray[np.float32]) -> Patch:
        """Threshold (256, 256) logits at 0 in the picture's pixels, inside the object's bounding box."""
        rows_used, columns_used = self.low_res
        positive = logits[: rows_used + 1, : columns_used + 1] > 0
        spans = [_filled_span(np.flatnonzero(positive.any(1 - axis)), axis, self) for axis in (0, 1)]
        if spans[0] is None or spans[1] is None:
            return slice(0, 0), slice(0, 0), np.zeros((0, 0), bool)
        rows = _interpolation(self.shape[0], self.inner[0], *spans[0])
        columns = _interpolation(self.shape[1], self.inner[1], *spans[1])
        window = logits[rows[0] : rows[0] + rows[1].shape[1], columns[0] : columns[0] + columns[1].shape[1]]
        mask = (rows[1] @ window @ columns[1].T) > 0
        return _trimmed(mask, spans[0][0], spans[1][0])


def _filled_span(cells: NDArray[np.intp], axis: int, frame: SamFrame) -> tuple[int, int] | None:
    """First and past-the-last pixel of the picture that the filled low-resolution cells can reach."""
    if not len(cells):
        return None
    # two cells of margin: each of the two interpolations reaches one neighbour
    pixels = INPUT_SIDE // LOW_RES_SIDE / frame.scale[axis]
    first = int((cells[0] - 2) * pixels)
    last = int((cells[-1] + 3) * pixels) + 1
    return max(0, first), min(frame.shape[axis], last)


def _bilinear(positions: NDArray[np.int64], outputs: int, inputs: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Left neighbours and the weights of the right ones, for `positions` of `outputs` pixels made from `inputs`."""
    source = np.maximum((positions + 0.5) * (inputs / outputs) - 0.5, 0)
    left = np.minimum(source.astype(np.int64), inputs - 1)
    return left, (source - left).astype(np.float32)


def _interpolation(length: int, inner: int, first: int, last: int) -> tuple[int, NDArray[np.float32]]:
    """First low-resolution cell and the matrix that makes pixels `first` to `last` of one axis from cells."""
    wanted = np.arange(first, last)
    left, right_weight = _bilinear(wanted, length, inner)
    right = np.minimum(left + 1, inner - 1)
    fine = np.arange(left[0], right[-1] + 1)
    cell, cell_weight = _bilinear(fine, INPUT_SIDE, LOW_RES_SIDE)
    next_cell = np.minimum(cell + 1, LOW_RES_SIDE - 1)
    start = int(cell[0])
    to_fine = np.zeros((len(fine), int(next_cell[-1]) - start + 1), np.float32)
    index = np.arange(len(fine))
    np.add.at(to_fine, (index, cell - start), 1 - cell_weight)
    np.add.at(to_fine, (index, next_cell - start), cell_weight)
    matrix = to_fine[left - fine[0]] * (1 - right_weight)[:, None] + to_fine[right - fine[0]] * right_weight[:, None]
    return start, matrix


def _trimmed(mask: NDArray[np.bool_], first_row: int, first_column: int) -> Patch:
    """Cut the empty margin off."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return slice(0, 0), slice(0, 0), np.zeros((0, 0), bool)
    inside = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return (
        slice(first_row + int(rows[0]), first_row + int(rows[-1]) + 1),
        slice(first_column + int(columns[0]), first_column + int(columns[-1]) + 1),
        inside,
    )

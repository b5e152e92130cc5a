"""How each family sees a picture and how its answer lies on it: resizing, normalising, and the way back.

(row, column) on the side of the picture, (x, y) in the network's frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor

from napari_zeroseg.intensity import to_uint8
from napari_zeroseg.models import resampling, sam_modules
from napari_zeroseg.planes import check_picture
from napari_zeroseg.segmenter import Patch

SAM_SIDE = sam_modules.INPUT_SIDE
LITE_SIDE = 256
LOW_RES_SIDE = 256
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)

MASK_PROMPT_LOGIT = 8.0
"""Logit that a sure pixel of a bool mask prompt stands for; SAM was trained on logits of its own answers."""


class PromptFrame(Protocol):
    """Where a picture lies in a network's frame."""

    def points(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, 2) rows and columns to (N, 2) x and y."""
        ...

    def box(self, box: NDArray[np.float32]) -> NDArray[np.float32]:
        """(row0, column0, row1, column1) to (x0, y0, x1, y1)."""
        ...

    def mask(self, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        """(H, W) bool to the (256, 256) logits of a mask prompt."""
        ...

    def patch(self, logits: NDArray[np.float32]) -> Patch:
        """(256, 256) logits to a mask on the picture."""
        ...


class Pipeline(Protocol):
    """What a family does with a picture before its network."""

    @property
    def version(self) -> str:
        """Name in the model's key: another name where embeddings are not the same."""
        ...

    def pixels(self, picture: NDArray[np.uint8]) -> Tensor:
        """(H, W) or (H, W, 3) uint8 to 1 x 3 x side x side float32."""
        ...

    def frame(self, shape: tuple[int, int]) -> PromptFrame:
        """Where a picture of (H, W) lies."""
        ...


class SamPipeline:
    """SAM's: longest side 1024, ImageNet's mean and deviation, zeros right and below."""

    version = "sam-1"

    def pixels(self, picture: NDArray[np.uint8]) -> Tensor:
        """Resize bilinearly as Pillow does on uint8, normalise, pad."""
        height, width = inner_shape(picture.shape[0], picture.shape[1], SAM_SIDE)
        resized = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))
        padded = torch.zeros((1, 3, SAM_SIDE, SAM_SIDE)).contiguous(memory_format=torch.channels_last)
        channels = _three_channels(resized)
        mean, std = torch.tensor(PIXEL_MEAN)[:, None, None], torch.tensor(PIXEL_STD)[:, None, None]
        padded[0, :, :height, :width] = (channels - mean) / std
        return padded

    def frame(self, shape: tuple[int, int]) -> SamFrame:
        """The whole picture at one scale, in the upper left corner."""
        return SamFrame(shape, inner_shape(*shape, SAM_SIDE))


class MedSamPipeline:
    """MedSAM's of July 2023: stretched to 1024 x 1024, its own minimum and maximum as 0 and 1."""

    version = "medsam-1"

    def pixels(self, picture: NDArray[np.uint8]) -> Tensor:
        """Resize with splines of order 3 and anti-aliasing, cut to whole numbers, then minimum to maximum."""
        from skimage.transform import resize

        # grey is repeated before the splines, not after: they cross the channels too, and their last digit decides
        colour = np.repeat(picture[..., None], 3, -1) if picture.ndim == 2 else picture
        stretched = resize(
            colour,
            (SAM_SIDE, SAM_SIDE),
            order=3,
            preserve_range=True,
            anti_aliasing=True,
        ).astype(np.uint8)
        return _three_channels(_zero_to_one(stretched))[None]

    def frame(self, shape: tuple[int, int]) -> StretchedFrame:
        """Rows and columns each at their own scale."""
        return StretchedFrame(shape)


class LiteMedSamPipeline:
    """LiteMedSAM's: longest side 256 by area, its own minimum and maximum as 0 and 1, zeros right and below."""

    version = "lite-medsam-2"

    def pixels(self, picture: NDArray[np.uint8]) -> Tensor:
        """Resize, normalise, pad."""
        height, width = inner_shape(picture.shape[0], picture.shape[1], LITE_SIDE)
        padded = torch.zeros((1, 3, LITE_SIDE, LITE_SIDE)).contiguous(memory_format=torch.channels_last)
        padded[0, :, :height, :width] = _three_channels(_zero_to_one(resampling.area(picture, (height, width))))
        return padded

    def frame(self, shape: tuple[int, int]) -> LiteFrame:
        """The whole picture at one scale, in the upper left corner."""
        return LiteFrame(shape, inner_shape(*shape, LITE_SIDE))


@dataclass(frozen=True)
class SamFrame:
    """Longest side 1024; the answer is brought to 1024, cut, and brought to the picture, both times bilinearly.

    Both steps are linear and separable, so here they are one matrix for rows and one for columns, and only the rows and
    columns around the object are computed.
    """

    shape: tuple[int, int]
    inner: tuple[int, int]

    def points(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, 2) rows and columns to (N, 2) x and y in the 1024 frame."""
        return _to_xy(points, self.inner[0] / self.shape[0], self.inner[1] / self.shape[1])

    def box(self, box: NDArray[np.float32]) -> NDArray[np.float32]:
        """(row0, column0, row1, column1) to (x0, y0, x1, y1)."""
        return self.points(box.reshape(2, 2)).reshape(4)

    def mask(self, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Bool mask to logits; the padding is background."""
        return mask_logits(mask, self.cells)

    @property
    def cells(self) -> tuple[int, int]:
        """(rows, columns) of the 256 x 256 answer that lie on the picture."""
        size = SAM_SIDE // LOW_RES_SIDE
        return -(-self.inner[0] // size), -(-self.inner[1] // size)

    def patch(self, logits: NDArray[np.float32]) -> Patch:
        """Threshold at 0 in the picture's pixels."""
        # one more cell, where there is one: the last pixels are made from it as well
        rows, columns = (min(cells + 1, LOW_RES_SIDE) for cells in self.cells)

        def matrix(axis: int, first: int, last: int) -> tuple[int, resampling.Matrix]:
            return resampling.bilinear_twice(self.shape[axis], self.inner[axis], SAM_SIDE, LOW_RES_SIDE, first, last)

        return resampling.thresholded(logits[:rows, :columns], 0.0, self.shape, matrix)


@dataclass(frozen=True)
class StretchedFrame:
    """A picture stretched to 1024 x 1024; *probabilities* are interpolated, and above one half is the object."""

    shape: tuple[int, int]

    def points(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, 2) rows and columns to (N, 2) x and y in the 1024 frame, not rounded."""
        return _to_xy(points, SAM_SIDE / self.shape[0], SAM_SIDE / self.shape[1])

    def box(self, box: NDArray[np.float32]) -> NDArray[np.float32]:
        """(row0, column0, row1, column1) to (x0, y0, x1, y1)."""
        return self.points(box.reshape(2, 2)).reshape(4)

    def mask(self, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Bool mask to logits."""
        return mask_logits(mask, self.cells)

    @property
    def cells(self) -> tuple[int, int]:
        """(rows, columns) of the 256 x 256 answer that lie on the picture: all."""
        return LOW_RES_SIDE, LOW_RES_SIDE

    def patch(self, logits: NDArray[np.float32]) -> Patch:
        """Interpolate the probabilities to the picture's pixels and threshold them at one half."""

        def matrix(axis: int, first: int, last: int) -> tuple[int, resampling.Matrix]:
            return resampling.bilinear(self.shape[axis], LOW_RES_SIDE, first, last)

        return resampling.thresholded(resampling.sigmoid(logits), 0.5, self.shape, matrix)


@dataclass(frozen=True)
class LiteFrame:
    """Longest side 256; the answer's part that lies on the picture is interpolated as logits."""

    shape: tuple[int, int]
    inner: tuple[int, int]

    def points(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, 2) rows and columns to (N, 2) x and y in the 256 frame."""
        scale = LITE_SIDE / max(self.shape)
        return _to_xy(points, scale, scale)

    def box(self, box: NDArray[np.float32]) -> NDArray[np.float32]:
        """(row0, column0, row1, column1) to (x0, y0, x1, y1), cut to whole numbers."""
        return np.trunc(self.points(box.reshape(2, 2)).reshape(4))

    def mask(self, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Bool mask to logits; the padding is background."""
        return mask_logits(mask, self.cells)

    @property
    def cells(self) -> tuple[int, int]:
        """(rows, columns) of the 256 x 256 answer that lie on the picture."""
        return self.inner

    def patch(self, logits: NDArray[np.float32]) -> Patch:
        """Threshold at 0, which is a probability of one half."""

        def matrix(axis: int, first: int, last: int) -> tuple[int, resampling.Matrix]:
            return resampling.bilinear(self.shape[axis], self.inner[axis], first, last)

        return resampling.thresholded(logits[: self.inner[0], : self.inner[1]], 0.0, self.shape, matrix)


def seen(image: ArrayLike) -> NDArray[np.uint8]:
    """Any picture that can be worked with as (H, W) or (H, W, 3) uint8.

    Raises
    ------
    InputError, InputTypeError
        If the picture is empty, constant, all NaN, complex, bool or of other dimensions.
    """
    array = np.asarray(image)
    check_picture(array)
    # an alpha channel is a mask of the layout, not part of what is seen
    return to_uint8(array[..., :3] if array.ndim == 3 else array)


def inner_shape(height: int, width: int, side: int) -> tuple[int, int]:
    """(rows, columns) of a picture whose longest side has been brought to `side`."""
    scale = side / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def mask_logits(mask: NDArray[np.bool_], cells: tuple[int, int]) -> NDArray[np.float32]:
    """(H, W) bool to (256, 256) logits: `cells` of them lie on the picture, the rest is background."""
    small = Image.fromarray(mask.astype(np.uint8) * 255).resize((cells[1], cells[0]), Image.Resampling.BOX)
    logits = np.full((LOW_RES_SIDE, LOW_RES_SIDE), -MASK_PROMPT_LOGIT, np.float32)
    logits[: cells[0], : cells[1]] = (np.asarray(small, np.float32) / 127.5 - 1) * MASK_PROMPT_LOGIT
    return logits


def _three_channels(picture: NDArray[np.generic]) -> Tensor:
    """(H, W) or (H, W, 3) to (3, H, W) float32."""
    tensor = torch.from_numpy(np.ascontiguousarray(picture, np.float32))
    return tensor.expand(3, -1, -1) if tensor.ndim == 2 else tensor.permute(2, 0, 1)


def _zero_to_one(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """One global minimum to 0, one global maximum to 1."""
    low, high = int(picture.min()), int(picture.max())
    return (picture.astype(np.float64) - low) / max(high - low, 1e-8)


def _to_xy(points: NDArray[np.float32], row_scale: float, column_scale: float) -> NDArray[np.float32]:
    return (points.astype(np.float64) * (row_scale, column_scale))[:, ::-1].astype(np.float32)

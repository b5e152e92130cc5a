"""The segmenter of a class as a model of the BioImage Model Zoo: TorchScript that takes a window and gives maps.

Answers to clicks and boxes are left out: format 0.5 describes tensors, and has no place for prompts.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_zeroseg.errors import InputError
from napari_zeroseg.models.pipelines import PIXEL_MEAN, PIXEL_STD, SAM_SIDE, SamPipeline
from napari_zeroseg.models.sam import SamSegmenter, load_strictly
from napari_zeroseg.phantom import em_like_stack
from napari_zeroseg.registry import find_model, load_model
from napari_zeroseg.training import card as cards
from napari_zeroseg.training.archive import target_of, write_archive
from napari_zeroseg.training.class_search import learnt_class
from napari_zeroseg.training.classes import ClassHead, picture_of
from napari_zeroseg.training.networks import network_of
from napari_zeroseg.weights import weights_of
from napari_zeroseg.weights.resting import joined

FORMAT = "0.5.4"
"""Of the description; see https://github.com/bioimage-io/spec-bioimage-io."""

CITE = [
    {
        "text": "Zhang et al., Faster Segment Anything: Towards Lightweight SAM",
        "url": "https://arxiv.org/abs/2306.14289",
    },
    {"text": "Kirillov et al., Segment Anything, ICCV 2023", "url": "https://arxiv.org/abs/2304.02643"},
]
CHANNELS = ("foreground", "border", "depth")


class _Maps(nn.Module):
    """(1, 1, side, side) grey values from 0 to 255 in, (1, 3, side, side) maps from 0 to 1 out."""

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: nn.Module, head: ClassHead, side: int) -> None:
        super().__init__()
        self.encoder, self.head, self.side = encoder, head, side
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(PIXEL_STD)[:, None, None])

    def forward(self, image: Tensor) -> Tensor:
        """Encode, and ask the head."""
        x = torch.cat([image, image, image], 1)
        if self.side != SAM_SIDE:
            size = (SAM_SIDE, SAM_SIDE)
            x = F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=self.side > SAM_SIDE)
        x = (x - self.mean) / self.std
        maps = self.head(self.encoder(x), picture_of(x)).sigmoid()
        return F.interpolate(maps, (self.side, self.side), mode="bilinear", align_corners=False)


def export_bioimageio(key: str, path: str | Path, author: str, *, overwrite: bool = False) -> Path:
    """Write the class segmenter of a trained model as a package of the BioImage Model Zoo.

    Parameters
    ----------
    key : str
        A model trained on a class, from a base of SAM's pipeline, such as MobileSAM.
    path : path
        The file; ".zip" is added where it has no ending.
    author : str
        Who trained it: the format asks for a name.
    overwrite : bool
        Whether a file of that name may be replaced.

    Returns
    -------
    Path
        The file. Its network takes a grey window of the side that it was trained on, with the contrast of the screen
        as 0 to 255 (float32, axes batch, channel, y, x), and gives the probability of foreground and of borders, and
        the depth inside objects.

    Raises
    ------
    UnknownModelError, InputError, WeightsError, WriteError
        If there is no such model, it has learnt no class or sees pictures in another way, or the file cannot be
        written.
    """
    if not author.strip():
        raise InputError("The BioImage Model Zoo asks who trained a model: give a name as author.")
    path = target_of(path, overwrite)
    module = _module_of(key)
    files = _files_of(module)
    files["README.md"] = cards.as_text(cards.read(key)).encode()
    about = _description(key, author.strip(), module.side, files)
    files["rdf.yaml"] = json.dumps(about, indent=2).encode()  # which is YAML as well

    def fill(archive: zipfile.ZipFile) -> None:
        for name, content in files.items():
            archive.writestr(name, content)

    write_archive(path, fill, zipfile.ZIP_DEFLATED)
    return path


def _module_of(key: str) -> _Maps:
    """The encoder of the class and the class head of a trained model."""
    spec = find_model(key)
    model = load_model(key, device="cpu", precision="float32")
    segmenter = learnt_class(model)
    assert isinstance(model, SamSegmenter)
    if not isinstance(model.pipeline, SamPipeline):
        raise InputError(f"{spec.title} sees pictures in its own way, which this export does not know.")
    network = network_of(spec)
    load_strictly(network, joined(weights_of(spec).tensors, segmenter.changed), spec.title)
    module = _Maps(network.image_encoder, segmenter.head, segmenter.side or SAM_SIDE)
    module.eval().requires_grad_(False)
    return module


def _files_of(module: _Maps) -> dict[str, bytes]:
    """The traced network, and what it answers to a window."""
    window = em_like_stack(1, module.side, seed=0)[0][0].astype(np.float32)[None, None]
    weights = io.BytesIO()
    with warnings.catch_warnings():  # newer torch prefers another form, which the format has no place for yet
        warnings.simplefilter("ignore")
        with torch.enable_grad():  # without it, operations of this processor alone would be traced
            traced = torch.jit.trace(module, torch.from_numpy(window), check_trace=False)
            answer = traced(torch.from_numpy(window)).detach().numpy()
        torch.jit.save(traced, weights)
    return {"weights.pt": weights.getvalue(), "test_input.npy": _npy(window), "test_output.npy": _npy(answer)}


def _description(key: str, author: str, side: int, files: dict[str, bytes]) -> dict[str, Any]:
    spec = find_model(key)

    def tensor(name: str, channels: tuple[str, ...], about: str, file: str) -> dict[str, Any]:
        spaces = [{"type": "space", "id": axis, "size": side} for axis in ("y", "x")]
        return {
            "id": name,
            "description": about,
            "axes": [{"type": "batch", "size": 1}, {"type": "channel", "channel_names": list(channels)}, *spaces],
            "data": {"type": "float32"},
            "test_tensor": {"source": file, "sha256": _hash(files[file])},
        }

    return {
        "type": "model",
        "format_version": FORMAT,
        "name": f"{re.sub('[^a-zA-Z0-9_ -]', '-', key)} segmenter",
        "description": f"All objects of a class without prompts; trained by napari-zeroseg from {spec.base or key}.",
        "authors": [{"name": author}],
        "cite": CITE,
        "license": spec.licence,
        "tags": ["semantic-segmentation", "instance-segmentation", "napari-zeroseg"],
        "timestamp": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "documentation": {"source": "README.md", "sha256": _hash(files["README.md"])},
        "inputs": [tensor("window", ("grey",), "Grey values, black 0 and white 255", "test_input.npy")],
        "outputs": [tensor("maps", CHANNELS, "0 to 1; objects by watershed of the depth", "test_output.npy")],
        "weights": {
            "torchscript": {
                "source": "weights.pt",
                "sha256": _hash(files["weights.pt"]),
                "pytorch_version": torch.__version__.partition("+")[0],
            }
        },
    }


def _npy(array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

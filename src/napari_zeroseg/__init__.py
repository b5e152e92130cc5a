"""Segment scientific pictures by prompt, in napari or without it.

>>> import napari_zeroseg as zs
>>> model = zs.load_model("mobile_sam")
>>> embedding = model.encode(image)
>>> (prediction,) = model.predict(embedding, [zs.Prompt(points=[(120, 64)], labels=[True])], multimask=True)
>>> prediction.mask.shape == image.shape[:2]

Rows come before columns everywhere, and pixel centres are at whole numbers. Importing this package imports neither
torch nor Qt nor napari; each name is fetched when it is first used.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

_HOMES = {
    "CancelToken": "jobs",
    "Embedding": "segmenter",
    "EmbeddingStore": "embeddings",
    "ModelSpec": "registry",
    "OverlapPolicy": "instances",
    "Prediction": "segmenter",
    "Prompt": "prompts",
    "PromptKind": "prompts",
    "Seed": "stack",
    "Segmenter": "segmenter",
    "StackOptions": "stack",
    "View": "view",
    "ZerosegError": "errors",
    "list_models": "registry",
    "load_model": "registry",
    "open_image": "io.read",
    "segment_stack": "stack",
    "write_labels": "io.write",
}

if TYPE_CHECKING:
    __version__: str
    from napari_zeroseg.embeddings import EmbeddingStore
    from napari_zeroseg.errors import ZerosegError
    from napari_zeroseg.instances import OverlapPolicy
    from napari_zeroseg.io.read import open_image
    from napari_zeroseg.io.write import write_labels
    from napari_zeroseg.jobs import CancelToken
    from napari_zeroseg.prompts import Prompt, PromptKind
    from napari_zeroseg.registry import ModelSpec, list_models, load_model
    from napari_zeroseg.segmenter import Embedding, Prediction, Segmenter
    from napari_zeroseg.stack import Seed, StackOptions, segment_stack
    from napari_zeroseg.view import View

__all__ = [
    "CancelToken",
    "Embedding",
    "EmbeddingStore",
    "ModelSpec",
    "OverlapPolicy",
    "Prediction",
    "Prompt",
    "PromptKind",
    "Seed",
    "Segmenter",
    "StackOptions",
    "View",
    "ZerosegError",
    "__version__",
    "list_models",
    "load_model",
    "open_image",
    "segment_stack",
    "write_labels",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("napari-zeroseg")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "__version__"})

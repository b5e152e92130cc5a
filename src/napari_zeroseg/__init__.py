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
    "AutomaticMask": "automatic",
    "AutomaticOptions": "automatic",
    "CancelToken": "jobs",
    "Embedding": "segmenter",
    "EmbeddingStore": "embeddings",
    "ModelSpec": "registry",
    "OverlapPolicy": "instances",
    "Prediction": "segmenter",
    "Prompt": "prompts",
    "PromptKind": "prompts",
    "Report": "evaluation.report",
    "Seed": "stack",
    "Segmenter": "segmenter",
    "StackOptions": "stack",
    "TrainedModel": "training.result",
    "TrainingConfig": "training.config",
    "TrainingPair": "training.config",
    "View": "view",
    "ZerosegError": "errors",
    "encode_stack": "encode_ahead",
    "evaluate": "evaluation.evaluate",
    "export_model": "training.result",
    "find_class": "training.class_search",
    "find_similar": "cascade",
    "import_model": "training.result",
    "list_models": "registry",
    "load_model": "registry",
    "open_image": "io.read",
    "propagate": "propagation",
    "segment_class": "training.classes",
    "segment_everything": "automatic",
    "segment_stack": "stack",
    "segment_text": "cascade",
    "train": "training.run",
    "write_labels": "io.write",
}

if TYPE_CHECKING:
    __version__: str
    from napari_zeroseg.automatic import AutomaticMask, AutomaticOptions, segment_everything
    from napari_zeroseg.cascade import find_similar, segment_text
    from napari_zeroseg.embeddings import EmbeddingStore
    from napari_zeroseg.encode_ahead import encode_stack
    from napari_zeroseg.errors import ZerosegError
    from napari_zeroseg.evaluation.evaluate import evaluate
    from napari_zeroseg.evaluation.report import Report
    from napari_zeroseg.instances import OverlapPolicy
    from napari_zeroseg.io.read import open_image
    from napari_zeroseg.io.write import write_labels
    from napari_zeroseg.jobs import CancelToken
    from napari_zeroseg.prompts import Prompt, PromptKind
    from napari_zeroseg.propagation import propagate
    from napari_zeroseg.registry import ModelSpec, list_models, load_model
    from napari_zeroseg.segmenter import Embedding, Prediction, Segmenter
    from napari_zeroseg.stack import Seed, StackOptions, segment_stack
    from napari_zeroseg.training.class_search import find_class
    from napari_zeroseg.training.classes import segment_class
    from napari_zeroseg.training.config import TrainingConfig, TrainingPair
    from napari_zeroseg.training.result import TrainedModel, export_model, import_model
    from napari_zeroseg.training.run import train
    from napari_zeroseg.view import View

__all__ = [
    "AutomaticMask",
    "AutomaticOptions",
    "CancelToken",
    "Embedding",
    "EmbeddingStore",
    "ModelSpec",
    "OverlapPolicy",
    "Prediction",
    "Prompt",
    "PromptKind",
    "Report",
    "Seed",
    "Segmenter",
    "StackOptions",
    "TrainedModel",
    "TrainingConfig",
    "TrainingPair",
    "View",
    "ZerosegError",
    "__version__",
    "encode_stack",
    "evaluate",
    "export_model",
    "find_class",
    "find_similar",
    "import_model",
    "list_models",
    "load_model",
    "open_image",
    "propagate",
    "segment_class",
    "segment_everything",
    "segment_stack",
    "segment_text",
    "train",
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

"""From few hints to all objects: examples or words become prompts, prompts become masks, masks are ranked or vote."""

from __future__ import annotations

from napari_zeroseg.cascade.boxes import segment_boxes
from napari_zeroseg.cascade.detectors import Detections, Detector, load_detector, segment_detected
from napari_zeroseg.cascade.find import find_similar
from napari_zeroseg.cascade.options import SimilarOptions
from napari_zeroseg.cascade.queue import Proposal, Queue
from napari_zeroseg.cascade.shown import Example, examples_of
from napari_zeroseg.cascade.text import TextInstance, TextOptions, TextResult, segment_text
from napari_zeroseg.cascade.votes import vote

__all__ = [
    "Detections",
    "Detector",
    "Example",
    "Proposal",
    "Queue",
    "SimilarOptions",
    "TextInstance",
    "TextOptions",
    "TextResult",
    "examples_of",
    "find_similar",
    "load_detector",
    "segment_boxes",
    "segment_detected",
    "segment_text",
    "vote",
]

"""Where and how exactly a model computes, as a user chooses it."""

from __future__ import annotations

import sys

DEVICES = (
    ("auto", "auto", "A GPU if there is one, else the processor"),
    ("cpu", "cpu", "The processor"),
    *((("mps", "mps", "Apple's GPU"),) if sys.platform == "darwin" else (("cuda", "cuda", "An NVIDIA or AMD GPU"),)),
)
PRECISIONS = (
    ("auto", "auto", "What the device computes fastest with the same masks"),
    ("float32", "float32", "Full precision"),
    ("bf16", "bf16", "Half the memory; fast where the device has it"),
    ("fp16", "fp16", "Half the memory, GPUs only"),
)

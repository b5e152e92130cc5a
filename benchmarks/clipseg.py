"""Eight phrases on one picture: CLIPSeg here, against eight calls of transformers' own forward pass.

The weights are random, of the published size (rd64-refined): time does not depend on them. What bf16 changes is given
as the largest difference of probabilities; whether masks stay the same is a question to trained weights, not to these.

    python benchmarks/clipseg.py --rounds 5
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _common import alternate, arguments, load, machine, table
from scipy.special import expit
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

from napari_zeroseg.models.clipseg import ClipSegSegmenter
from napari_zeroseg.models.clipseg_conditions import pixels_of
from napari_zeroseg.registry import find_model

TEXTS = 8
TOKENS = 5


def random_module() -> Any:
    """CLIPSeg rd64-refined with random weights, the same at each call; each layer keeps the size of its numbers."""
    torch.manual_seed(0)
    sizes = CLIPSegConfig(vision_config={"patch_size": 16}, use_complex_transposed_convolution=True)
    module = CLIPSegForImageSegmentation(sizes).eval().requires_grad_(False)
    for name, weights in module.named_parameters():
        if weights.ndim > 1:
            weights.normal_(std=1.0 if name.endswith("embedding.weight") else (weights.numel() / len(weights)) ** -0.5)
    return module


def main() -> None:
    rounds = arguments(__doc__ or "").parse_args().rounds
    spec = find_model("clipseg_rd64_refined")
    usual = random_module()
    picture = np.random.default_rng(0).integers(0, 255, (1024, 1024, 3), np.uint8)
    words = torch.randint(1000, 40000, (TEXTS, TOKENS))
    words[:, 0], words[:, -1] = 49406, 49407

    def one_by_one() -> torch.Tensor:
        answers = []
        with torch.inference_mode():
            for row in words:
                answers.append(usual(input_ids=row[None], pixel_values=pixels_of(picture)).logits.reshape(352, 352))
        return torch.stack(answers)

    def all_at_once(model: ClipSegSegmenter, known: np.ndarray | None = None) -> Callable[[], np.ndarray]:
        def way() -> np.ndarray:
            conditions = known if known is not None else model.network.text_conditions(words).numpy()
            answers = model.predict_conditions(model.encode(picture), conditions)
            return np.stack([answer.logits[0] for answer in answers])

        return way

    def from_cache(model: ClipSegSegmenter, known: np.ndarray) -> Callable[[], object]:
        embedding = model.encode(picture)
        return lambda: model.predict_conditions(embedding, known)

    ways: dict[str, Callable[[], object]] = {f"transformers, {TEXTS} single calls, float32": one_by_one}
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        model = ClipSegSegmenter(spec, random_module(), "random", None, torch.device("cpu"), dtype)
        known = model.network.text_conditions(words).numpy()
        found[name] = all_at_once(model)()
        ways[f"here, new phrases, {name}"] = all_at_once(model)
        ways[f"here, known phrases, {name}"] = all_at_once(model, known)
        ways[f"here, known phrases, encoded picture, {name}"] = from_cache(model, known)
    reference = torch.sigmoid(one_by_one()).numpy()
    times = alternate(ways, rounds)
    first = next(iter(times.values()))
    rows = [
        [name, f"{t.wall:.2f}", f"{t.cpu:.2f}", f"{t.wall / first.wall:.3f}", f"{t.cpu / first.cpu:.3f}"]
        for name, t in times.items()
    ]
    print(f"{machine()}, {load()}\n")
    print(table([f"{TEXTS} phrases on one picture", "wall s", "CPU s", "of its wall", "of its CPU"], rows))
    for name, logits in found.items():
        difference = np.abs(expit(logits) - reference).max()
        print(f"\nlargest difference of probabilities to transformers' float32, {name}: {difference:.1e}")


if __name__ == "__main__":
    main()

"""The embedded model, its modules, and inputs that anyone can generate."""

from __future__ import annotations

import json
import math
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from napari_zeroseg import load_model
from napari_zeroseg.models.sam import SamNetwork, SamSegmenter, load_strictly
from napari_zeroseg.models.tiny_vit import TinyViT
from napari_zeroseg.registry import MOBILE_SAM
from napari_zeroseg.weights import read_weights

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="session")
def model() -> SamSegmenter:
    """MobileSAM in float32."""
    loaded = load_model(precision="float32", device="cpu")
    assert isinstance(loaded, SamSegmenter)
    return loaded


@pytest.fixture(scope="session")
def network() -> SamNetwork:
    """MobileSAM's modules as published, with their weights, nothing fused."""
    modules = SamNetwork(TinyViT())
    load_strictly(modules, read_weights(None, MOBILE_SAM.weights, MOBILE_SAM.title).tensors, MOBILE_SAM.title)
    return modules.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def reference() -> Callable[[str], dict[str, np.ndarray]]:
    """Numbers of the published code by file name, see tests/data/README.md."""

    def read(name: str) -> dict[str, np.ndarray]:
        with np.load(DATA / f"{name}_reference.npz") as file:
            return dict(file)

    return read


@pytest.fixture(scope="session")
def synthetic_picture() -> Callable[[int, int], np.ndarray]:
    """Gradients, a checkerboard, a striped ellipse and a dark diamond, (H, W, 3) uint8, in integer arithmetic."""

    def make(height: int, width: int) -> np.ndarray:
        y, x = np.mgrid[:height, :width].astype(np.int64)
        checks = ((x // 64 + y // 64) % 2) * 160 + 40
        picture = np.stack([x * 255 // (width - 1), y * 255 // (height - 1), checks], -1)
        centred = (x - width * 3 // 5) ** 2 * 4 + (y - height * 2 // 5) ** 2 * 9
        ellipse = centred < (min(height, width) * 7 // 10) ** 2
        picture[ellipse] = (220, 60, 30)
        picture[abs(x - width // 5) + abs(y - height * 3 // 4) < min(height, width) // 7] = (15, 25, 20)
        picture[((x + 2 * y) % 97 < 9) & ellipse] = (90, 200, 120)
        return picture.astype(np.uint8)

    return make


@pytest.fixture(scope="session")
def generated() -> Callable[[str, tuple[int, ...]], np.ndarray]:
    """Numbers of mean 0 and variance 1 that follow from a name and a shape, the same on every machine."""

    def make(name: str, shape: tuple[int, ...]) -> np.ndarray:
        uniform = np.random.RandomState(zlib.crc32(name.encode())).random_sample(math.prod(shape))
        return ((2 * uniform - 1) * math.sqrt(3)).reshape(shape).astype(np.float32)

    return make


@pytest.fixture(scope="session")
def weights_by_rule(
    generated: Callable[[str, tuple[int, ...]], np.ndarray],
) -> Callable[[dict[str, list[int]]], dict[str, torch.Tensor]]:
    """Weights that follow from the names and shapes of a checkpoint's entries, the same on every machine."""
    codes = (
        *("_token.weight", "_tokens.weight", "_embed.weight", "pos_embed", "gaussian_matrix"),
        *("token_embedding.weight", "position_embedding.weight"),
    )

    def make(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
        made = {}
        for key, shape in shapes.items():
            if not shape:  # BatchNorm's counters and CLIP's temperature
                made[key] = torch.tensor(2.6592 if key.endswith("logit_scale") else 0)
                continue
            drawn = generated(key, tuple(shape))
            if len(shape) == 1:
                drawn = 1 + 0.2 * drawn if key.endswith(".weight") else 0.1 * drawn
                if key.endswith("running_var"):
                    drawn = np.abs(drawn) + 0.5
            elif not (key.endswith(codes) or "point_embeddings." in key):
                drawn = drawn / math.sqrt(math.prod(shape) / shape[0])
                if ".prompt_adapter." in key and key.endswith(("_mlp.layers.2.weight", ".out_proj.weight")):
                    drawn = 0.25 * drawn
            made[key] = torch.from_numpy(drawn.astype(np.float32))
        return made

    return make


@pytest.fixture(scope="session")
def fill(
    weights_by_rule: Callable[[dict[str, list[int]]], dict[str, torch.Tensor]],
) -> Callable[[torch.nn.Module, str], None]:
    """Fill a module with generated weights, keyed by their names after a prefix."""

    def do(module: torch.nn.Module, prefix: str) -> None:
        shapes = {prefix + key: list(value.shape) for key, value in module.state_dict().items()}
        made = weights_by_rule(shapes)
        module.load_state_dict({key.removeprefix(prefix): tensor for key, tensor in made.items()})

    return do


@pytest.fixture(scope="session")
def published_keys() -> Callable[[str], dict[str, dict[str, list[int]]]]:
    """Names and shapes of the entries of published checkpoints, see tests/data/README.md."""

    def read(name: str) -> dict[str, dict[str, list[int]]]:
        return json.loads((DATA / f"{name}_keys.json").read_text())

    return read


@pytest.fixture(scope="session")
def wordy_clipseg(
    tmp_path_factory: pytest.TempPathFactory,
    clip_words: Path,
    weights_by_rule: Callable[[dict[str, list[int]]], dict[str, torch.Tensor]],
    published_keys: Callable[[str], dict[str, Any]],
) -> Path:
    """A folder as transformers saves it: a small CLIPSeg with generated weights and all of CLIP's words."""
    keys = published_keys("clipseg")
    folder = tmp_path_factory.mktemp("wordy")
    text = {**keys["tiny_config"]["text_config"], "vocab_size": 49408, "max_position_embeddings": 77}
    text |= {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
    shapes = dict(keys["tiny_plain"])
    shapes["clip.text_model.embeddings.token_embedding.weight"] = [49408, 32]
    shapes["clip.text_model.embeddings.position_embedding.weight"] = [77, 32]
    config = {**keys["tiny_config"], "text_config": text, "model_type": "clipseg"}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights_by_rule(shapes), folder / "model.safetensors")
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(clip_words / name, folder)
    return folder

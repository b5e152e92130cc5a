"""Pictures of named shapes, and a small CLIPSeg that is trained on them until the text decides what it segments.

CLIPSeg's published weights are not needed to see whether words decide: its architecture (Lüddecke and Ecker, "Image
segmentation using text and image prompts", CVPR 2022) is trained here from scratch in about a minute on one core of a
processor. As with the published one, the image encoder is trained first, here to tell the sorts of shapes apart, and
stays frozen while the decoder is trained to draw what a word names. The text encoder stays random, since all that is
asked of it is that other words give other vectors. The folder that comes out is as transformers saves it.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, get_cosine_schedule_with_warmup

from napari_zeroseg.models.clipseg_conditions import MEAN, SIDE, STD
from napari_zeroseg.models.clipseg_text import Vocabulary, padded

NAMES = ("disc", "square", "triangle", "ring")
UNNAMED = "cross"
"""A shape that is on the pictures too, and whose name the network is never told."""

SORTS = (*NAMES, UNNAMED)
OTHERS = ("sky", "lung", "cat", "membrane", "a tree", "house", "blorp", "water", "nucleus", "dog", "axon", "street")
"""Words for what is on no picture: the answer to them is nothing."""

PATCH, WIDTH, REDUCED, PROJECTED = 32, 96, 64, 32
SEEING, DRAWING = 400, 600
"""Steps of the image encoder and of the decoder."""

BATCH, CELL, POOL, LOOKS = 12, 4, 300, 960


class Scene(NamedTuple):
    """A picture, and what is on it.

    Attributes
    ----------
    picture : (H, W) uint8 array
    truth : dict of str to (H, W) int array
        For each name its objects, numbered from 1; 0 elsewhere.
    """

    picture: np.ndarray
    truth: dict[str, np.ndarray]


def _inside(name: str, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Whether points lie in a shape that fills the square from -1 to 1."""
    if name == "disc":
        return y * y + x * x < 1
    if name == "square":
        return np.maximum(abs(y), abs(x)) < 0.88
    if name == "triangle":
        return (y < 0.85) & (y > 2 * abs(x) - 1)
    if name == "ring":
        return abs(np.hypot(y, x) - 0.78) < 0.22
    return (np.minimum(abs(y), abs(x)) < 0.3) & (np.maximum(abs(y), abs(x)) < 1)


def scene(seed: int, names: Sequence[str] = SORTS, side: int = SIDE, count: tuple[int, int] = (5, 9)) -> Scene:
    """Draw shapes of random sorts, sizes and brightness on textured ground, none touching another.

    Parameters
    ----------
    seed : int
        Same number, same scene.
    names : sequence of str
        Sorts of shapes.
    side : int
        Rows and columns.
    count : tuple of int
        Least and most shapes; fewer where there is no room.
    """
    rng = np.random.default_rng(seed)
    ground = np.kron(rng.normal(0, 1, (side // 8, side // 8)), np.ones((8, 8)))
    ground = ndimage.uniform_filter(ground, 9)
    level = rng.uniform(50, 90)
    plane = level + 20 * ground
    truth = {name: np.zeros((side, side), np.int32) for name in SORTS}
    taken = np.zeros((side, side), bool)
    for _ in range(int(rng.integers(count[0], count[1] + 1))):
        name = names[int(rng.integers(len(names)))]
        for _ in range(20):
            radius = rng.uniform(0.08, 0.12) * side
            row, column = rng.uniform(radius + 2, side - radius - 2, 2)
            box = tuple(slice(int(c - radius) - 1, int(c + radius) + 3) for c in (row, column))
            wide = tuple(slice(max(0, span.start - 10), span.stop + 10) for span in box)
            if not taken[wide].any():
                break
        else:
            continue
        y, x = np.ogrid[box[0], box[1]]
        inside = _inside(name, (y - row) / radius, (x - column) / radius)
        taken[box] = True
        truth[name][box][inside] = truth[name].max() + 1
        plane[box][inside] = level + rng.uniform(80, 130) + 20 * ground[box][inside]
    plane = ndimage.gaussian_filter(plane, 0.8) + rng.normal(0, 5, plane.shape)
    return Scene(np.clip(np.rint(plane), 0, 255).astype(np.uint8), truth)


def write_vocabulary(folder: Path) -> None:
    """Write a vocabulary of CLIP's kind that knows letters and no words, 514 tokens."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(code) for code in printable] + [chr(256 + number) for number in range(256 - len(printable))]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")


def _module() -> Any:
    common = {"num_attention_heads": 4, "hidden_act": "quick_gelu"}
    config = CLIPSegConfig(
        text_config=common
        | {"vocab_size": 514, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
        | {"bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513, "max_position_embeddings": 77},
        vision_config=common
        | {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 4}
        | {"patch_size": PATCH, "image_size": SIDE},
        projection_dim=PROJECTED,
        extract_layers=[1, 2, 3],
        reduce_dim=REDUCED,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=2 * REDUCED,
    )
    module = CLIPSegForImageSegmentation(config)
    with torch.no_grad():
        for name, weights in module.named_parameters():
            if weights.ndim > 1:  # each layer keeps the size of its numbers
                fan_in = math.prod(weights.shape[1:])
                weights.normal_(std=1.0 if name.endswith("embedding.weight") and weights.ndim == 2 else fan_in**-0.5)
        embeddings = module.clip.vision_model.embeddings
        embeddings.position_embedding.weight[1:] = _places(SIDE // PATCH, WIDTH)
        embeddings.patch_embedding.weight[:] = _waves(PATCH, WIDTH)[:, None] / 3
        for block in module.clip.text_model.encoder.layers:  # or what all phrases share would outweigh their letters
            block.self_attn.out_proj.weight *= 6
    # it draws in cells of 4 x 4 pixels while it is trained
    module.decoder.transposed_convolution = nn.ConvTranspose2d(REDUCED, 1, PATCH // CELL, stride=PATCH // CELL)
    return module


def _places(grid: int, width: int) -> Tensor:
    """Sines and cosines of rows and columns, (grid², width): what is near is alike from the beginning."""
    rates = torch.arange(1, width // 4 + 1) * math.pi / grid / 2
    angles = torch.arange(grid)[:, None] * rates
    waves = torch.cat([angles.sin(), angles.cos()], 1)
    rows, columns = waves[:, None].expand(-1, grid, -1), waves[None].expand(grid, -1, -1)
    return 0.5 * torch.cat([rows, columns], -1).reshape(grid * grid, width)


def _waves(side: int, count: int) -> Tensor:
    """The lowest cosine waves on a square, (count, side, side): outlines are seen from the beginning, noise is not."""
    rates = sorted(((u, v) for u in range(side) for v in range(side)), key=lambda rate: (sum(rate), rate))[:count]
    places = (torch.arange(side) + 0.5) * math.pi / side
    waves = [torch.outer((u * places).cos(), (v * places).cos()) * (1 + u + v) for u, v in rates]
    return torch.stack(waves) / (side * 24 / 2)


def _activations(module: Any, pixels: Tensor) -> list[Tensor]:
    vision = module.clip.vision_model
    hidden = vision.pre_layrnorm(vision.embeddings(pixels))
    kept = []
    for number, block in enumerate(vision.encoder.layers):
        hidden = block(hidden, attention_mask=None)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        if number in module.config.extract_layers:
            kept.append(hidden)
    return kept


def train(
    folder: Path,
    shorter: int = 1,
    told: Callable[[str, int, float], None] | None = None,
    steps: tuple[int, int] = (SEEING, DRAWING),
) -> Path:
    """Train a small CLIPSeg on scenes and save it with its vocabulary; the same weights each time.

    Parameters
    ----------
    folder : Path
        Where it is saved.
    shorter : int
        By how many times less it is trained.
    told : callable, optional
        Called with what is trained, each step and its loss.
    steps : tuple of int
        Of the image encoder and of the decoder.
    """
    write_vocabulary(folder)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    module = _module()
    words = [*NAMES, *OTHERS]
    conditions = _apart(module, Vocabulary(folder, "CLIPSeg of shapes", 77), words)
    pool = [scene(1_000_000 + i) for i in range(POOL)]
    pictures = torch.from_numpy(np.stack([one.picture for one in pool]))
    sorts = torch.from_numpy(np.stack([_sorts(one) for one in pool]))

    head = nn.Linear(WIDTH, len(SORTS) + 1)
    weight = torch.tensor([1.0] * len(SORTS) + [0.1])

    def see() -> Tensor:
        """Which sorts of shapes a patch shows."""
        seen, there = _varied(rng, pictures, sorts)
        parts = F.one_hot(there.long(), len(SORTS) + 1).movedim(-1, 1).float()
        parts = F.avg_pool2d(parts, PATCH).flatten(2).transpose(1, 2)
        answer = head(_activations(module, _normalised(seen))[-1][:, 1:]).log_softmax(-1)
        return -(weight * parts * answer).sum() / (weight * parts).sum()

    encoder = [*module.clip.vision_model.parameters(), *head.parameters()]
    _optimize("seeing", encoder, 1e-3, steps[0] // shorter, see, told)
    with torch.no_grad():  # it stays as it is from here on, so it looks once
        known = [_varied(rng, pictures, sorts) for _ in range(-(-LOOKS // shorter // BATCH))]
        held = torch.cat([torch.stack(_activations(module, _normalised(seen)), 1) for seen, _ in known])
        shown = torch.cat([there for _, there in known])

    def draw() -> Tensor:
        """What a word names: a shape that is there, another one, and what is nowhere."""
        chosen = torch.from_numpy(rng.choice(len(held), BATCH, replace=False))
        asked = torch.from_numpy(_asked(rng, shown[chosen], len(words)))
        wanted = torch.where(asked < len(NAMES), asked, 254)  # 254 is no sort at all
        targets = (shown[chosen][:, None] == wanted[..., None, None]).flatten(0, 1).float()
        each = list(held[chosen].repeat_interleave(asked.shape[1], 0).unbind(1))
        return _loss(module.decoder(each, conditions[asked.flatten()]).logits, F.avg_pool2d(targets, CELL))

    _optimize("drawing", list(module.decoder.parameters()), 2e-3, steps[1] // shorter, draw, told)
    cells = module.decoder.transposed_convolution
    pixels = nn.ConvTranspose2d(REDUCED, 1, PATCH, stride=PATCH)
    pixels.weight.data = cells.weight.data.repeat_interleave(CELL, 2).repeat_interleave(CELL, 3)
    pixels.bias.data = cells.bias.data
    module.decoder.transposed_convolution = pixels
    module.eval().save_pretrained(folder)
    return folder


def _apart(module: Any, vocabulary: Vocabulary, words: Sequence[str]) -> Tensor:
    """Set the text projection so that these words' vectors are all but orthogonal, and return them, (N, P)."""
    with torch.no_grad():
        read = module.clip.text_model(input_ids=padded([vocabulary.tokens(word)[0] for word in words])).pooler_output
        wanted, _ = torch.linalg.qr(torch.randn(PROJECTED, len(words)))
        square = read.T @ read + 0.1 * torch.eye(read.shape[1])
        module.clip.text_projection.weight[:] = math.sqrt(PROJECTED) * wanted @ torch.linalg.solve(square, read.T).T
        conditions: Tensor = module.clip.text_projection(read)
    return conditions


def _optimize(
    name: str,
    trained: list[nn.Parameter],
    rate: float,
    steps: int,
    loss_of: Callable[[], Tensor],
    told: Callable[[str, int, float], None] | None,
) -> None:
    optimizer = torch.optim.AdamW(trained, rate, weight_decay=0.01)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    for step in range(steps):
        loss = loss_of()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        if told is not None:
            told(name, step, loss.item())


def _sorts(one: Scene) -> np.ndarray:
    """Which sort of shape each pixel is of, (H, W) uint8; the number after the last one is the ground."""
    found = np.full(one.picture.shape, len(SORTS), np.uint8)
    for number, name in enumerate(SORTS):
        found[one.truth[name] > 0] = number
    return found


def _varied(rng: np.random.Generator, pictures: Tensor, sorts: Tensor) -> tuple[Tensor, Tensor]:
    """Some of the scenes, each mirrored or not and moved around its edges."""
    seen, there = [], []
    for i in rng.choice(len(pictures), BATCH, replace=False):
        move = tuple(int(number) for number in rng.integers(0, SIDE, 2))
        for source, sink in ((pictures, seen), (sorts, there)):
            sink.append(torch.roll(source[i], move, (0, 1)))
        if rng.random() < 0.5:
            seen[-1], there[-1] = seen[-1].flip(1), there[-1].flip(1)
    return torch.stack(seen), torch.stack(there)


def _normalised(pictures: Tensor) -> Tensor:
    """(N, 352, 352) uint8 as the network is shown them, (N, 3, 352, 352) float32."""
    mean, std = (torch.from_numpy(value)[:, None, None] for value in (MEAN, STD))
    return (pictures[:, None].float() / 255 - mean) / std


def _asked(rng: np.random.Generator, there: Tensor, words: int) -> np.ndarray:
    """Which words are asked for on each scene, (N, 3): a shape that is there, another one, and what is nowhere."""
    names, chosen = len(NAMES), []
    for one in there:
        found = [number for number in one.unique().tolist() if number < names]
        first = int(rng.choice(found)) if found else 0
        second = int(rng.choice([number for number in range(names) if number != first]))
        chosen.append([first, second, int(rng.integers(names, words))])
    return np.array(chosen)


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy, and Dice over all pixels of the batch."""
    p = logits.sigmoid()
    dice = 1 - (2 * (p * targets).sum() + 1) / ((p + targets).sum() + 1)
    return 5 * F.binary_cross_entropy_with_logits(logits, targets) + dice


def main() -> None:
    """Train and save it with numbers of 16 bits, as in tests/data/shapes_clipseg."""
    parser = argparse.ArgumentParser(description="A small CLIPSeg that knows shapes by name, in 16 bits.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    train(folder)
    file = folder / "model.safetensors"
    halves = {name: each.half() if each.is_floating_point() else each for name, each in load_file(file).items()}
    save_file(halves, file, {"format": "pt"})


if __name__ == "__main__":
    main()

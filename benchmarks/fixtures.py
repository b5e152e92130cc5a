"""How far the models' numbers are from those of the published code: the largest difference of each quantity.

Weights follow from the names and shapes of a checkpoint's entries, by the rule in `--shared`/fixtures/fill_rule.py;
MobileSAM has its own, and so has LiteMedSAM, in the shared folder as its radiographs are. The published numbers are
those of tests/data. All in float32 on the CPU.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from _common import ROOT, arguments, machine, table, torch  # it sets torch up
from skimage.io import imread

from napari_zeroseg import Prompt, load_model
from napari_zeroseg.models import clipseg, medsam, sam_modules
from napari_zeroseg.models.clipseg_conditions import pixels_of
from napari_zeroseg.models.mask_decoding import MaskDecoding
from napari_zeroseg.models.pa_decoder import PaMaskDecoder, guiding_input
from napari_zeroseg.models.pipelines import MedSamPipeline, SamPipeline
from napari_zeroseg.models.prompt_embedding import PromptEmbedding
from napari_zeroseg.registry import find_model
from napari_zeroseg.weights import Weights

CPU = torch.device("cpu")
DATA = ROOT / "tests" / "data"
LOGITS = 2e-4
NO_HASH = "0" * 64


class Row(NamedTuple):
    """One quantity of one model."""

    model: str
    quantity: str
    difference: float
    tolerance: float


class Rule:
    """The rule of the shared fixtures, by its file."""

    def __init__(self, shared: Path) -> None:
        self.shared = shared
        file = shared / "fixtures" / "fill_rule.py"
        if not file.is_file():
            sys.exit(f"{file} is not there: give the shared folder by --shared.")
        spec = importlib.util.spec_from_file_location("_fill_rule", file)
        assert spec is not None
        assert spec.loader is not None
        self.module: ModuleType = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)

    def tensors(self, shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
        """Weights of these shapes; scalars are zero."""
        made = {key: self.module.weights(key, shape) for key, shape in shapes.items()}
        return {key: torch.zeros(()) if array is None else torch.from_numpy(array) for key, array in made.items()}

    def fill(self, module: torch.nn.Module, prefix: str) -> Any:
        """A module with generated weights, in eval mode."""
        self.module.fill(module, prefix)
        return module.eval().requires_grad_(False)

    def embedding(self) -> torch.Tensor:
        """What the decoders are given in place of a picture."""
        return torch.from_numpy(self.module.synthetic_tensor("fixture.image_embedding", (1, 256, 64, 64)))


def numbers(name: str) -> dict[str, np.ndarray]:
    with np.load(DATA / f"{name}_reference.npz") as file:
        return dict(file)


def keys(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / f"{name}_keys.json").read_text())
    return found


def largest(found: Any, expected: np.ndarray) -> float:
    found = np.asarray(found, np.float64)
    assert found.shape == expected.shape, (found.shape, expected.shape)
    return float(np.abs(found - expected).max())


def share(found: np.ndarray, bits: np.ndarray) -> float:
    """Share of pixels in which masks differ."""
    return float(np.mean(found.ravel() != np.unpackbits(bits, count=found.size).astype(bool)))


def mobile_sam(rule: Rule) -> Iterator[Row]:
    expected = numbers("mobile_sam")
    model = load_model(device="cpu", precision="float32")
    embedding = model.encode(rule.module.synthetic_image(600, 900))
    yield Row(
        "MobileSAM",
        "embedding",
        largest(embedding.tensors["image"][0, ::8, ::8, ::8], expected["embedding_s8"]),
        LOGITS,
    )
    box = (60, 350, 420, 730)
    prompts = {
        "point": (Prompt([(240, 540)]), True),
        "box": (Prompt(box=box), False),
        "both": (Prompt([(240, 540), (450, 180)], [True, False], box=box), True),
    }
    answers = {name: model.predict(embedding, [prompt], several)[0] for name, (prompt, several) in prompts.items()}
    logits = max(largest(found.logits[:, ::4, ::4], expected[f"{name}_low_res_s4"]) for name, found in answers.items())
    yield Row("MobileSAM", "logits", logits, 2e-3)
    scores = max(largest(found.scores, expected[f"{name}_iou"]) for name, found in answers.items())
    yield Row("MobileSAM", "predicted IoU", scores, LOGITS)
    masks = max(share(found.masks, expected[f"{name}_mask_bits"]) for name, found in answers.items())
    yield Row("MobileSAM", "masks, share of pixels", masks, 1e-3)


def sam_decoder(rule: Rule) -> Iterator[Row]:
    expected, title = numbers("sam_decoder"), "SAM, prompt encoder and decoder"
    encoder = rule.fill(sam_modules.prompt_encoder(), "prompt_encoder.")
    decoder = rule.fill(sam_modules.mask_decoder(), "mask_decoder.")
    decoding, embedding = MaskDecoding(encoder, decoder, CPU, torch.float32), rule.embedding()
    point, box = torch.tensor([[620.0, 310]]), torch.tensor([350.0, 130, 880, 490])
    none = torch.zeros((0, 2))
    prompts = {"point": (point, None), "box": (none, box), "both": (point, box)}
    found: dict[str, list[float]] = {"prompt tokens": [], "logits": [], "predicted IoU": []}
    for name, (points, its_box) in prompts.items():
        labels = torch.ones(len(points), dtype=torch.int64)
        embedded = PromptEmbedding(encoder, CPU).embed([points], [labels], [its_box], [None])
        found["prompt tokens"].append(largest(embedded.tokens[0], expected[f"{name}/sparse"]))
        for kind, wanted in (("single", slice(0, 1)), ("multi", slice(1, 4))):
            logits, scores = decoding.decode(decoding.image_side(embedding), embedding, embedded, wanted)
            found["logits"].append(largest(logits[0, :, ::2, ::2], expected[f"{name}/{kind}_low_res_s2"]))
            found["predicted IoU"].append(largest(scores[0], expected[f"{name}/{kind}_iou"]))
    for quantity, differences in found.items():
        yield Row(title, quantity, max(differences), LOGITS)


def med_sam(rule: Rule) -> Iterator[Row]:
    """The whole of SAM ViT-B is in this one: image encoder, prompt encoder and decoder."""
    expected, title = numbers("medsam"), "MedSAM, SAM ViT-B end to end"
    weights = Weights(rule.tensors(keys("sam")["sam_vit_b"]), NO_HASH)
    model = medsam.build_medsam(find_model("medsam_vit_b"), weights, CPU, torch.float32)
    pixels = MedSamPipeline().pixels(expected["image"])
    yield Row(title, "what the network sees", largest(pixels[0, :, ::8, ::8], expected["input_s8"]), 1e-6)
    embedding = model.encode(expected["image"])
    image = embedding.tensors["image"][0, ::4, ::4, ::4]
    yield Row(title, "embedding", largest(image, expected["image_embedding_s4"]), LOGITS)
    x0, y0, x1, y1 = expected["box_xyxy"][0]
    (answer,) = model.predict(embedding, [Prompt(box=(y0, x0, y1, x1))])
    yield Row(title, "logits", largest(answer.logits[0], expected["low_res"]), LOGITS)
    yield Row(title, "predicted IoU", largest(answer.scores, expected["iou"].ravel()), LOGITS)
    yield Row(title, "mask, share of pixels", share(answer.mask, expected["seg_bits"]), 1e-3)


def lite_med_sam(rule: Rule) -> Iterator[Row]:
    model = load_model("lite_medsam", weights=rule.shared / "weights" / "lite_medsam.pth", device="cpu")
    with (DATA / "lite_medsam_radiographs.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    scores, pixels = [], []
    for line in lines:
        picture = imread(rule.shared / "data" / "cxr" / "images" / f"{line['picture']}.png")
        step, box = int(line["step"]), tuple(int(line[name]) for name in ("r0", "c0", "r1", "c1"))
        seen = np.ascontiguousarray((picture if picture.ndim == 2 else picture[..., 0])[::step, ::step])
        (answer,) = model.predict(model.encode(seen), [Prompt(box=box)])
        scores.append(abs(float(answer.scores[0]) - float(line["predicted_iou"])))
        pixels.append(abs(int(answer.mask.sum()) / int(line["pixels"]) - 1))
    title = f"LiteMedSAM, {len(lines)} boxes on radiographs"
    yield Row(title, "predicted IoU, of four digits", max(scores), 1e-3)
    yield Row(title, "pixels of the mask, relative", max(pixels), 1e-3)


def pa_prompt(kind: str, expected: dict[str, np.ndarray]) -> tuple[Any, ...]:
    points, labels, box, mask = torch.zeros((0, 2)), torch.zeros(0), None, None
    if kind in ("point", "both"):
        points, labels = torch.tensor(expected["point_xy"]).float(), torch.ones(1)
    if kind == "points2":
        points, labels = torch.tensor(expected["points2_xy"]).float(), torch.tensor(expected["points2_labels"])
    if kind in ("box", "both"):
        box = torch.tensor(expected["box_xyxy"]).float()
    if kind == "mask":
        bits = np.unpackbits(expected["mask_bits"]).reshape(256, 256).astype(np.float32)
        mask = torch.from_numpy(bits * float(expected["mask_value"]))
    return points, labels, box, mask


def pa_decoder(rule: Rule) -> Iterator[Row]:
    expected, title = numbers("pa_sam"), "PA-SAM, guiding branch and decoder"
    decoder = rule.fill(PaMaskDecoder(), "mask_decoder.")
    encoder = rule.fill(sam_modules.prompt_encoder(), "prompt_encoder.")
    guiding = guiding_input(SamPipeline().pixels(rule.module.synthetic_image(1024, 1024)))
    yield Row(
        title, "what the guiding branch sees", largest(guiding[0, :, ::8, ::8], expected["guiding_input_s8"]), 1e-6
    )
    yield Row(title, "Canny's edges, share of pixels", share(guiding[0, 3].numpy() > 0, expected["canny_bits"]), 0.0)
    guide = decoder.guide(guiding)
    features = guide[0].T.reshape(256, 64, 64)[:, ::8, ::8]
    yield Row(title, "guiding features", largest(features, expected["guiding_s8"]), LOGITS)
    prompts = PromptEmbedding(encoder, CPU)
    signs = torch.cat([encoder.point_embeddings[0].weight, encoder.point_embeddings[1].weight])
    found: dict[str, list[float]] = {}
    for kind in ("point", "points2", "box", "both", "mask"):
        embedded = prompts.embed(*([part] for part in pa_prompt(kind, expected)))
        dense, places = prompts.dense(embedded), encoder.get_dense_pe()
        one = decoder(rule.embedding(), guide, places, embedded.tokens, embedded.valid, dense, signs, None)
        cells = [(one.positive, "pos_idx"), (one.negative, "neg_idx")]
        wrong = sum(np.count_nonzero(np.asarray(part[0]) != expected[f"{kind}/{name}"]) for part, name in cells)
        maps = max(
            largest(getattr(one, name)[0, ::2, ::2], expected[f"{kind}/{name}_64_s2"])
            for name in ("uncertain", "coarse", "refined")
        )
        for quantity, value in (
            ("logits", largest(one.logits[0, 0, ::2, ::2], expected[f"{kind}/low_res_s2"])),
            ("predicted IoU", largest(one.scores[0], expected[f"{kind}/iou_all4"])),
            ("uncertain, coarse and refined maps", maps),
            ("sampled cells, number that differ", float(wrong)),
        ):
            found.setdefault(quantity, []).append(value)
    for quantity, differences in found.items():
        yield Row(title, quantity, max(differences), 0.0 if quantity.startswith("sampled") else LOGITS)


def clip_seg(rule: Rule) -> Iterator[Row]:
    expected, shapes = numbers("clipseg"), keys("clipseg")
    seen = largest(pixels_of(expected["image"])[0, :, ::8, ::8], expected["pixel_values_s8"])
    yield Row("CLIPSeg, small", "what the network sees", seen, 1e-6)
    for kind in ("plain", "refined"):
        title = f"CLIPSeg, small, {kind}"
        with tempfile.TemporaryDirectory() as folder:
            refined = {"use_complex_transposed_convolution": kind == "refined", "model_type": "clipseg"}
            (Path(folder) / "config.json").write_text(json.dumps({**shapes["tiny_config"], **refined}))
            weights = Weights(rule.tensors(shapes[f"tiny_{kind}"]), NO_HASH, folder=Path(folder))
            model = clipseg.build(find_model("clipseg_rd64"), weights, CPU, torch.float32)
        texts = model.network.text_conditions(torch.from_numpy(expected["input_ids"])).numpy()
        yield Row(title, "conditions of texts", largest(texts, expected[f"{kind}/text_cond"]), LOGITS)
        embedding = model.encode(expected["image"])
        logits = np.stack([answer.logits[0] for answer in model.predict_conditions(embedding, texts)])
        yield Row(title, "logits of texts", largest(logits[:, ::2, ::2], expected[f"{kind}/text_logits_s2"]), LOGITS)
        example = model.picture_condition(expected["cond_image"])
        (answer,) = model.predict_conditions(embedding, example[None])
        difference = largest(answer.logits[:, ::2, ::2], expected[f"{kind}/image_logits_s2"])
        yield Row(title, "logits of an example", difference, LOGITS)


MODELS = (mobile_sam, sam_decoder, med_sam, lite_med_sam, pa_decoder, clip_seg)


def main() -> None:
    options = arguments(__doc__.splitlines()[0]).parse_args()
    rule = Rule(options.shared)
    with torch.inference_mode():
        rows = [row for model in MODELS for row in model(rule)]
    print(f"{machine()}\n")
    printed = [[row.model, row.quantity, f"{row.difference:.1e}", f"{row.tolerance:.0e}"] for row in rows]
    print(table(["model", "quantity", "largest difference", "tolerance"], printed))
    beyond = [f"{row.model}: {row.quantity}" for row in rows if not row.difference <= row.tolerance]
    if beyond:
        sys.exit(f"Beyond the tolerance: {'; '.join(beyond)}.")


if __name__ == "__main__":
    main()

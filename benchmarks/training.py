"""What fine-tuning brings on planes of another block, and what kept embeddings save.

    python benchmarks/training.py em_sbem --minutes 20
    python benchmarks/training.py em_sbem --what class --minutes 20
    python benchmarks/training.py em_sbem --what class+all --minutes 50
    python benchmarks/training.py em_vnc --minutes 20
    python benchmarks/training.py cxr --what all --minutes 20
    python benchmarks/training.py cached

The planes of the report are never seen by the training, which holds back a block of its own to choose the weights.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from _common import arguments, machine, table

from napari_zeroseg import tiling
from napari_zeroseg.embeddings import EmbeddingStore
from napari_zeroseg.metrics import Counts
from napari_zeroseg.registry import load_model
from napari_zeroseg.settings import Settings
from napari_zeroseg.training.class_search import find_class
from napari_zeroseg.training.classes import class_segmenter_of
from napari_zeroseg.training.config import ENCODER, WHAT, TrainingConfig, TrainingPair
from napari_zeroseg.training.data import IGNORE, TrainingData
from napari_zeroseg.training.decoding import TrainableDecoding
from napari_zeroseg.training.loop import Trainer
from napari_zeroseg.training.networks import Network
from napari_zeroseg.training.patches import Patch, Patches, prompt_on
from napari_zeroseg.training.run import train
from napari_zeroseg.training.sampling import Sample
from napari_zeroseg.training.sections import sections_of
from napari_zeroseg.training.split import split_for
from napari_zeroseg.training.tasks import MaskTask
from napari_zeroseg.training.validation import (
    MaskScores,
    compared,
    kinds_to_score,
    pooled,
    score_class,
    score_masks,
    some_of,
)
from napari_zeroseg.training.workbench import Workbench
from napari_zeroseg.view import View


@dataclass(frozen=True)
class Job:
    """What to learn from and what to report on."""

    learn: tuple[TrainingPair, ...]
    report: tuple[TrainingPair, ...]
    min_pixels: int = 300
    ignore: int | None = None


def em_sbem(shared: Path, planes: str, report: str) -> Job:
    folder = shared / "data" / "em_sbem"
    learn = TrainingPair(folder / "train_raw.tif", folder / "train_mitochondria.tif", planes)
    other = TrainingPair(folder / "validation_raw.tif", folder / "validation_mitochondria.tif", report)
    return Job((learn,), (other,))


def em_vnc(shared: Path, planes: str, report: str) -> Job:
    folder = shared / "data" / "em_vnc"
    files = (folder / "raw.tif", folder / "mitochondria.tif")
    return Job((TrainingPair(*files, planes or "0:12"),), (TrainingPair(*files, report or "15:20"),))


def cxr(shared: Path, planes: str, report: str) -> Job:
    folder = shared / "data" / "cxr"
    pairs = [TrainingPair(path, folder / "lungs" / path.name) for path in sorted((folder / "images").glob("*.png"))]
    chosen_by = tuple(TrainingPair(pair.image, pair.labels, role="validation") for pair in pairs[16:20])
    return Job((*pairs[:16], *chosen_by), tuple(pairs[20:]), 2000, 127)


JOBS = {"em_sbem": em_sbem, "em_vnc": em_vnc, "cxr": cxr}


def trained(options, job: Job) -> str:
    """Train in a folder of its own and return the model's key."""
    config = TrainingConfig(
        "benchmark",
        job.learn,
        what=options.what,
        labels_are="classes",
        ignore=job.ignore,
        min_pixels=job.min_pixels,
        minutes=options.minutes,
        variants=options.variants,
        batch=options.batch,
        learning_rate=options.rate,
        encoder_rate=options.encoder_rate,
        validation_objects=options.validation_objects,
    )

    def tell(event):
        if event["event"] in ("data", "plan", "baseline", "validation", "warning"):
            print(
                {name: value for name, value in event.items() if name not in ("event", "time", "picture")}, flush=True
            )

    start = time.time()
    result = train(options.out if options.resume else config, out=options.out, resume=options.resume, listener=tell)
    print(f"\n{result.verdict}\n{time.time() - start:.0f} s from start to end.\n", flush=True)
    return result.key


def report(options, job: Job, key: str) -> None:
    """Score the base and the trained model on the planes of the report."""
    data = TrainingData(
        TrainingConfig("report", job.report, labels_are="classes", ignore=job.ignore, min_pixels=job.min_pixels)
    )
    objects = some_of(data.objects, options.objects)
    base, model = load_model("mobile_sam"), load_model(key)
    store = EmbeddingStore(Settings.from_environment().cache_dir / "embeddings", 10**8)
    print(f"{len(objects)} of {len(data.objects)} objects on {len(data.planes)} planes of another block\n")
    if not options.what.startswith("class"):
        if options.what not in ENCODER:
            model.model_key = base.model_key  # the encoder is the same: its embeddings serve both
        kinds = kinds_to_score([], base.spec.accepts, False)
        scores = [score_masks(one, data, objects, kinds, store, 0, (0.0, 0.0)) for one in (base, model)]
        groups = sections_of(data, objects)
        print(f"They are sections of {len(np.unique(groups))} objects, which the intervals resample.\n")
        rows = [_row(f"{kind}, as napari asks", *(score[kind] for score in scores), groups) for kind in kinds]
        fields = {"whole plane": tiling.whole, "512 window": None}
        for name, field in fields.items():
            both = [_plain(one, data, objects, store, field) for one in (base, model)]
            rows += [_row(f"{kind}, {name}", *(score[kind] for score in both), groups) for kind in kinds]
        head = ["prompt", "IoU base", "IoU trained", "gain (95 % interval)", "Dice base", "Dice trained"]
        print(table(head, rows), flush=True)
    if "class" in options.what:
        counts = score_class(model, class_segmenter_of(model), data, range(len(data.planes)), store)
        print(
            f"\nClass without prompts: foreground IoU {pooled(counts).iou:.3f}, Dice {pooled(counts).dice:.3f}",
            flush=True,
        )
        counts = []
        for plane in range(len(data.planes)):
            picture, numbers = data.read(plane)
            drawn = find_class(model, View(model, picture, store)).to_labels() > 0
            true, drawn = numbers > 0, drawn & (numbers != IGNORE)
            counts.append(Counts(*(int(np.count_nonzero(mask)) for mask in (true & drawn, drawn, true))))
        print(f"Drawn by the mask decoder: foreground IoU {pooled(counts).iou:.3f}, Dice {pooled(counts).dice:.3f}")


def _row(name: str, before: MaskScores, after: MaskScores, groups: np.ndarray) -> list[str]:
    found = compared(*(replace(scores, groups=groups) for scores in (before, after)))
    low, high = found["gain_interval"]
    return [
        name,
        f"{found['iou_before']:.3f}",
        f"{found['iou_after']:.3f}",
        f"{found['gain']:+.3f} ({low:+.3f} to {high:+.3f})",
        f"{found['dice_before']:.3f}",
        f"{found['dice_after']:.3f}",
    ]


def _plain(model, data, objects, store, field) -> dict[str, MaskScores]:
    """Each object in one window only: the best of three by predicted IoU for a click, the single mask for a box."""
    patches = Patches(data, 0)
    found = {kind: ([], []) for kind in ("centre", "box")}
    for one in objects:
        shape = data.planes[one.plane].shape
        window = field(shape) if field else tiling.window_for(shape, one.box)
        seen = patches.see(Patch(one.plane, window))
        tensor = patches.embedding(Patch(one.plane, window), model, store)
        embedding = _embedding(tensor, seen.shape, model)
        mask = seen.objects == one.number
        for kind in found:
            prompt = prompt_on(kind, mask, np.random.default_rng(0))
            (answer,) = model.predict(embedding, [prompt], multimask=prompt.is_ambiguous)
            drawn = answer.mask & (seen.objects >= 0)
            counts = Counts(int((drawn & mask).sum()), int(drawn.sum()), int(mask.sum()))
            found[kind][0].append(counts.iou)
            found[kind][1].append(counts.dice)
    return {kind: MaskScores(np.array(a), np.array(b)) for kind, (a, b) in found.items()}


def _embedding(tensor, shape, model):
    from napari_zeroseg.segmenter import Embedding

    return Embedding({"image": tensor}, shape, model.model_key, tiling.whole(shape))


def cached(options) -> None:
    """Steps of the decoder on kept embeddings, beside the plain loop: what they take, and what both have learnt.

    The plain loop encodes for every object anew, one object at a time, with the published modules in float32, as a
    script does that was written by hand. Objects, prompts, losses, optimiser and seeds are the same; the loss is on all
    cells there, unless `--same-cells`.
    """
    job = em_sbem(options.shared, options.planes or "0:8", "")
    config = TrainingConfig(
        *("cached", job.learn),
        labels_are="classes",
        min_pixels=300,
        variants=1,
        validation_objects=10_000,
        seed=options.seed,
    )
    data = TrainingData(config)
    split = split_for(data, config)
    rows, scores = [], {}
    for name, made in (("kept embeddings", Workbench), ("encoding at every step", _PlainBench)):
        bench = made(config, data, split)
        for task in bench.tasks.values():
            task.samples = task.samples or options.same_cells
        start = time.perf_counter()
        for patch in bench.patches_ahead():
            bench.encode(patch)
        ahead = time.perf_counter() - start
        trainer = Trainer(config, bench.network, bench.tasks, None, options.steps)
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(options.steps):
            trainer.step()
        objects = options.steps * config.batch
        spent = (time.perf_counter() - wall) / objects, (time.process_time() - cpu) / objects
        model = bench.network.model_with(bench.network.changed(trainer.weights()), "trained")
        held = [data.objects[i] for i in (*split.choose, *split.report)]
        scores[name] = score_masks(model, data, held, ["centre", "box"], bench.store, 0, (0.0, 0.0))
        rows.append([name, *spent, ahead, *(float(scores[name][kind].iou.mean()) for kind in ("centre", "box"))])
        print(rows[-1], flush=True)
    (_, wall, cpu, *_), (_, plain_wall, plain_cpu, *_) = rows
    groups = sections_of(data, held)
    print(f"{len(held)} outlines are sections of {len(np.unique(groups))} objects, which the intervals resample.")
    for kind in ("centre", "box"):
        both = [replace(scores[name][kind], groups=groups) for name in ("encoding at every step", "kept embeddings")]
        difference = compared(*both)
        print(f"{kind}: difference {difference['gain']:+.3f}, 95 % interval {difference['gain_interval']}")
    print(f"{options.steps} steps of {config.batch} objects: {plain_wall / wall:.1f} times as quick,", end=" ")
    print(f"{plain_cpu / cpu:.1f} times by CPU time\n")
    head = ["way", "s an object", "CPU s an object", "s to encode ahead", "IoU by a click", "IoU by a box"]
    print(table(head, [[row[0], *(f"{value:.3f}" for value in row[1:])] for row in rows]))


class _PlainBench(Workbench):
    """Nothing is encoded ahead, and objects are answered one by one."""

    def _new_network(self) -> Network:
        return _PlainNetwork(self.config)

    def _make_tasks(self, planes):
        task = _PlainTask(self.config, self.network, self.patches, self.objects, self.store)
        task.at_once = 1
        task.samples = False
        return {"masks": task}

    def patches_ahead(self) -> list[Patch]:
        return []


class _PlainNetwork(Network):
    """The published modules in float32; the encoder is run for every object."""

    def decoding(self, seen):
        modules = self.modules
        return _PlainDecoding(modules.prompt_encoder, modules.mask_decoder, self.model.device, torch.float32)

    def embed(self, patches, patch, store):
        return torch.zeros(1)  # of no use: each object has its own

    def encode(self, patches, patch):
        pixels = self.model.pipeline.pixels(patches.see(patch).picture)
        encoder = self.modules.image_encoder
        with torch.no_grad():
            x = encoder.patch_embed(pixels)  # stage by stage: eager and unfused, as a training script has it
            for stage in encoder.layers:
                x = stage(x)
            return encoder.neck(x)


class _PlainTask(MaskTask):
    def _loss_of(self, pairs, seen, image, rng, chunk):
        return super()._loss_of(pairs, seen, self._network.encode(self._patches, chunk.patch), rng, chunk)


class _PlainDecoding(TrainableDecoding):
    """segment-anything's own forward pass."""

    def __init__(self, prompt_encoder, mask_decoder, device, dtype):
        super().__init__(prompt_encoder, mask_decoder, device, dtype)
        self.published_prompts = prompt_encoder

    def answer(self, embedding, prompts, places=None):
        encoder = self.published_prompts
        dense = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(len(prompts.tokens), -1, 64, 64)
        masks, scores = self._decoder.predict_masks(embedding, encoder.get_dense_pe(), prompts.tokens, dense)
        if places is None:
            return masks, scores
        (four,) = masks  # one object at a time
        return Sample(places.expand(len(four), -1), torch.ones(0)).of(four)[None], scores


def main() -> None:
    parser = arguments(__doc__.partition("\n")[0])
    parser.add_argument("job", choices=(*JOBS, "cached"))
    parser.add_argument("--what", default="decoder", choices=WHAT)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--planes", default="", help="to learn from")
    parser.add_argument("--report", default="", help="planes to report on")
    parser.add_argument("--steps", type=int, default=10, help="of cached")
    parser.add_argument("--seed", type=int, default=0, help="of cached")
    parser.add_argument("--same-cells", action="store_true", help="of cached: both ways draw a sample of the cells")
    parser.add_argument("--objects", type=int, default=10_000, help="to report on at most, evenly taken")
    parser.add_argument("--variants", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=2e-4, help="learning rate")
    parser.add_argument("--encoder-rate", type=float, default=0.1, help="of the encoder, as part of --rate")
    parser.add_argument("--validation-objects", type=int, default=48)
    parser.add_argument("--out", type=Path, help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    options = parser.parse_args()
    print(machine(), flush=True)
    if options.job == "cached":
        cached(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ZEROSEG_DATA_DIR"] = folder
        job = JOBS[options.job](options.shared, options.planes, options.report)
        report(options, job, trained(options, job))


if __name__ == "__main__":
    main()

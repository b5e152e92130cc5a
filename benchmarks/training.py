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
from dataclasses import dataclass
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
from napari_zeroseg.training.patches import Patch, Patches, prompt_on
from napari_zeroseg.training.run import train
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
        rows = [_row(f"{kind}, as napari asks", *(score[kind] for score in scores)) for kind in kinds]
        fields = {"whole plane": tiling.whole, "512 window": None}
        for name, field in fields.items():
            both = [_plain(one, data, objects, store, field) for one in (base, model)]
            rows += [_row(f"{kind}, {name}", *(score[kind] for score in both)) for kind in kinds]
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


def _row(name: str, before: MaskScores, after: MaskScores) -> list[str]:
    found = compared(before, after)
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
    """Steps of the decoder on kept embeddings, beside the plain loop that encodes for every object anew."""
    from napari_zeroseg.training.workbench import Workbench

    job = em_sbem(options.shared, "0:3", "")
    config = TrainingConfig("cached", job.learn, labels_are="classes", min_pixels=300, variants=1)
    data = TrainingData(config)
    bench = Workbench(config, data, split_for(data, config))
    for patch in bench.patches_ahead():
        bench.encode(patch)
    task = bench.tasks["masks"]
    assert isinstance(task, MaskTask)
    task.step(0)
    steps = 3
    start = time.process_time()
    for number in range(steps):
        task.step(number)
    ours = (time.process_time() - start) / steps / config.batch
    naive = _naive(bench, objects=4)
    rows = [["kept embeddings", f"{ours:.3f}", "1"], ["encoding at every step", f"{naive:.3f}", f"{naive / ours:.1f}"]]
    print(table(["way", "CPU seconds an object", "ratio"], rows))


def _naive(bench, objects: int) -> float:
    """CPU seconds an object of the usual loop: one a step, published modules, float32, the encoder every time."""
    modules = bench.network.modules
    decoder = modules.mask_decoder
    start = 0.0
    for number, one in enumerate(bench.objects[: objects + 1]):
        if number == 1:
            start = time.process_time()
        window = tiling.window_for(bench.data.planes[one.plane].shape, one.box)
        seen = bench.patches.see(Patch(one.plane, window))
        with torch.no_grad():
            # eager and unfused, as a training script has it
            x = bench.network.model.pipeline.pixels(seen.picture)
            image = modules.image_encoder.neck(_stages(modules.image_encoder, x))
            prompt = prompt_on("centre", seen.objects == one.number, np.random.default_rng(0))
            points = torch.as_tensor(bench.network.model.pipeline.frame(seen.shape).points(prompt.points))[None]
            sparse, dense = modules.prompt_encoder((points, torch.ones(1, 1)), None, None)
        logits, scores = decoder(image, modules.prompt_encoder.get_dense_pe(), sparse, dense, True)
        (logits.sigmoid().mean() + scores.mean()).backward()
    return (time.process_time() - start) / objects


def _stages(encoder, x):
    x = encoder.patch_embed(x)
    for stage in encoder.layers:
        x = stage(x)
    return x


def main() -> None:
    parser = arguments(__doc__.partition("\n")[0])
    parser.add_argument("job", choices=(*JOBS, "cached"))
    parser.add_argument("--what", default="decoder", choices=WHAT)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--planes", default="", help="to learn from")
    parser.add_argument("--report", default="", help="planes to report on")
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

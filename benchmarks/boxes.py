"""64 boxes on one embedding, to masks in the plane's pixels: ours against segment-anything's `predict_torch`.

The same weights (MobileSAM's, embedded), a plane of 1024², both in one batch call. Ours is what `predict` does for a
list of prompts, and every mask is brought to the plane, inside its bounding box; the reference brings all of them to
the whole plane. Predicted boxes of real objects would be fewer than 64, so each object gives several, moved a little.
"""

from __future__ import annotations

import numpy as np
from _common import alternate, arguments, load, machine, places, reference_predictor, table, torch, vnc

from napari_zeroseg import Prompt, load_model

COUNT = 64
AT_MOST = 0.3


def boxes_on(truth: np.ndarray) -> np.ndarray:
    """(64, 4) row0, column0, row1, column1 inside the plane."""
    tight = np.array([box for _, box in places(truth, COUNT)], np.float32)
    moved = tight[np.arange(COUNT) % len(tight)] + np.random.default_rng(0).integers(-8, 9, (COUNT, 4))
    moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 4)
    return np.clip(moved, 0, np.tile(truth.shape, 2) - 1)


def main() -> None:
    options = arguments(__doc__.splitlines()[0]).parse_args()
    raw, truth = vnc(options.shared)
    plane, boxes = raw[0], boxes_on(truth[0])
    predictor = reference_predictor(options.shared)
    predictor.set_image(np.stack([plane] * 3, -1))
    xyxy = predictor.transform.apply_boxes_torch(torch.as_tensor(boxes[:, [1, 0, 3, 2]]), plane.shape)
    prompts = [Prompt(box=box) for box in boxes]

    def reference() -> np.ndarray:
        return predictor.predict_torch(None, None, xyxy, multimask_output=False)[0].numpy()

    def ours(model, embedding):
        found = model.predict(embedding, prompts)
        return found, [one.patch() for one in found]

    models = {name: load_model(device="cpu", precision=name) for name in ("auto", "float32")}
    embeddings = {name: model.encode(plane) for name, model in models.items()}
    ways = {"segment-anything, float32": reference}
    ways |= {f"ours, {name}": lambda n=name: ours(models[n], embeddings[n]) for name in models}
    print(machine())
    times = alternate(ways, min(options.rounds, 5))
    base = times["segment-anything, float32"]
    rows = [
        [name, f"{t.wall:.2f}", f"{t.cpu:.2f}", f"{t.wall / base.wall:.2f}", f"{t.cpu / base.cpu:.2f}"]
        for name, t in times.items()
    ]
    print(table([f"{COUNT} boxes", "wall s", "CPU s", f"of its wall (at most {AT_MOST})", "of its CPU"], rows))
    theirs = reference()[:, 0]
    for name in models:
        masks = [one.mask for one in ours(models[name], embeddings[name])[0]]
        agreement = [(a & b).sum() / max(1, (a | b).sum()) for a, b in zip(masks, theirs, strict=True)]
        print(f"{name}: masks agree with the reference's by a mean IoU of {np.mean(agreement):.4f}")
    print(f"{min(options.rounds, 5)} rounds; {load()}")


if __name__ == "__main__":
    main()

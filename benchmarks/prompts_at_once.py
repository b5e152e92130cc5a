"""How many prompts a CPU should answer in one go: processor time and page faults of 64 clicks by the batch's size."""

from __future__ import annotations

import resource
from unittest import mock

import numpy as np
import torch
from _common import arguments, load, machine, table

from napari_zeroseg import Prompt, load_model
from napari_zeroseg.models import sam
from napari_zeroseg.phantom import em_like_stack


def spent() -> np.ndarray:
    """Seconds of the process, its system time included, and its page faults."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return np.array([usage.ru_utime + usage.ru_stime, usage.ru_minflt])


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 8, 4, 2, 1])
    options = parser.parse_args()
    torch.set_num_threads(options.threads or 1)
    print(machine())
    model = load_model("mobile_sam", device="cpu")
    stack, _ = em_like_stack(1, 512)
    embedding = model.encode(stack[0])
    places = np.linspace(10, 500, 8)
    prompts = [Prompt(points=[(row, column)]) for row in places for column in places]
    costs: dict[int, list[np.ndarray]] = {size: [] for size in options.sizes}
    logits: dict[int, np.ndarray] = {}
    for _ in range(options.rounds):
        for size in options.sizes:
            with mock.patch.dict(sam.BATCH, cpu=size):
                before = spent()
                model.predict_above(embedding, prompts, 0.88)
                costs[size].append(spent() - before)
                logits[size] = np.stack([answer.logits for answer in model.predict(embedding, prompts, True)])
    first = logits[options.sizes[0]]
    rows = []
    for size in options.sizes:
        seconds, faults = np.median(costs[size], 0)
        rows.append([str(size), f"{seconds:.2f}", f"{faults:,.0f}", f"{np.abs(logits[size] - first).max():.3g}"])
    print(table(["prompts at once", "s", "page faults", "logits differ by"], rows))
    print(load())


if __name__ == "__main__":
    main()

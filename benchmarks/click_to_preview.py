"""From a click on an encoded plane to its preview, against segment-anything's own SamPredictor on the same weights.

Ours: `View.predict` with the window chosen by the prompt (two windows are asked for a click) and three candidates,
then `Prediction.patch` of the best. The reference: `SamPredictor.predict(multimask_output=True)`, which brings three
masks to the plane's size. Both are timed in turn, place by place.
"""

from __future__ import annotations

import itertools

import numpy as np
from _common import alternate, arguments, load, machine, mosaic, places, reference_predictor, table, vnc

from napari_zeroseg import Prompt, View, load_model

TARGETS = {1024: 0.5, 4096: 0.15}


def main() -> None:
    options = arguments(__doc__.splitlines()[0]).parse_args()
    raw, truth = vnc(options.shared)
    model = load_model(device="cpu")
    predictor = reference_predictor(options.shared)
    print(machine())
    rows = []
    for side in TARGETS:
        plane = mosaic(raw, side)
        where = places(mosaic(truth, side), 8)
        view = View(model, plane)
        predictor.set_image(np.stack([plane] * 3, -1))
        for (row, column), box in where:  # encode what is needed
            view.predict([Prompt([(row, column)]), Prompt(box=box)], multimask=True)
        clicks, same, boxes = itertools.cycle(where), itertools.cycle(where), itertools.cycle(where)
        same_boxes = itertools.cycle(where)

        def our_click(view=view, clicks=clicks):
            place, _ = next(clicks)
            (found,) = view.predict([Prompt([place])], multimask=True)
            return found.patch()

        def their_click(same=same):
            (row, column), _ = next(same)
            return predictor.predict(np.array([[column, row]]), np.array([1]), multimask_output=True)

        def our_first_click(view=view, where=where):
            for field in view.fields:
                view.embedding(field).memo.clear()
            (found,) = view.predict([Prompt([where[0][0]])], multimask=True)
            return found.patch()

        def our_box(view=view, boxes=boxes):
            _, box = next(boxes)
            (found,) = view.predict([Prompt(box=box)])
            return found.patch()

        def their_box(same_boxes=same_boxes):
            _, (r0, c0, r1, c1) = next(same_boxes)
            return predictor.predict(box=np.array([c0, r0, c1, r1]), multimask_output=False)

        times = alternate(
            {
                "click": our_click,
                "their click": their_click,
                "first click": our_first_click,
                "box": our_box,
                "their box": their_box,
            },
            options.rounds,
        )
        for what, theirs in (("click", "their click"), ("first click", "their click"), ("box", "their box")):
            ours, reference = times[what], times[theirs]
            rows.append(
                [
                    f"{side}²",
                    what,
                    f"{1e3 * ours.wall:.0f}",
                    f"{1e3 * reference.wall:.0f}",
                    f"{ours.wall / reference.wall:.2f}",
                    f"{ours.cpu / reference.cpu:.2f}",
                    f"{TARGETS[side]}",
                ]
            )
    head = ["plane", "prompt", "ours, ms", "SamPredictor, ms", "ratio", "ratio of CPU time", "at most"]
    print(table(head, rows))
    print(f"{options.rounds} rounds; {load()}")


if __name__ == "__main__":
    main()

"""Objects of an SBEM volume from the sections of its planes: branches joined and cut, with sections fused on purpose.

The truth is what is connected in the masks of the volume, so it favours joining. A fused section gets the number of the
section on its plane whose centroid is nearest, as if a network had taken both for one object.
"""

from __future__ import annotations

import time

import numpy as np
import tifffile
from _common import arguments, machine, table
from scipy import ndimage

from napari_zeroseg import evaluate
from napari_zeroseg.link import Branches, LinkOptions, link_planes


def fused(mask: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Number the sections of each plane, `share` of them like their neighbour."""
    planes = []
    for plane in mask:
        sections, count = ndimage.label(plane)
        centres = np.array(ndimage.center_of_mass(plane, sections, range(1, count + 1)))
        numbers = np.arange(count + 1)
        for i in np.flatnonzero(rng.uniform(size=count) < share) if count > 1 else ():
            away = np.hypot(*(centres - centres[i]).T)
            away[i] = np.inf
            numbers[i + 1] = away.argmin() + 1
        planes.append(numbers[sections])
    return np.stack(planes)


def main() -> None:
    options = arguments(__doc__.splitlines()[0]).parse_args()
    mask = tifffile.imread(options.shared / "data" / "em_sbem" / "train_mitochondria.tif") > 0
    truth, count = ndimage.label(mask)
    print(machine())
    print(f"{len(mask)} planes of {mask.shape[1]} x {mask.shape[2]}, {count} objects\n")
    rows = []
    for share in (0.0, 0.02, 0.05):
        for branches in (Branches.JOIN, Branches.CUT):
            found = []
            for seed in range(5 if share else 1):
                labels = fused(mask, share, np.random.default_rng(seed))
                start = time.perf_counter()
                linked = link_planes(labels, LinkOptions(branches=branches)).array()
                seconds = time.perf_counter() - start
                scores = evaluate(linked, truth, mode="instances", boundaries=False, resamples=0).instances
                found.append((scores.thresholds[0].ap, scores.prediction, scores.arand, seconds))
            ap, objects, arand, seconds = np.mean(found, 0)
            rows.append(
                (f"{share:.0%}", str(branches), f"{ap:.2f}", f"{objects:.0f}", f"{arand:.3f}", f"{seconds:.1f} s")
            )
    print(table(("Fused", "Branches", "AP at 0.5", "Objects", "ARAND error", "Time"), rows))


if __name__ == "__main__":
    main()

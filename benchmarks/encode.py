"""Encoding a 1024² plane, against MobileSAM's reference module in eager float32.

Ours includes what a plane goes through before the network; the reference is the network alone. `--reference` is a
folder with the unzipped wheel of `mobilesam-lite` (``pip download --no-deps mobilesam-lite``). Without it our own
encoder stands in, unfused, eager and in float32: its output is the reference's to 5e-6, which this script checks where
the reference is given, and its time is printed beside the reference's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from _common import alternate, arguments, load, machine, reference_encoder, table, torch, vnc  # it sets torch up

from napari_zeroseg import load_model
from napari_zeroseg.models.sam import SamNetwork, load_strictly
from napari_zeroseg.models.tiny_vit import TinyViT
from napari_zeroseg.registry import MOBILE_SAM
from napari_zeroseg.weights import read_weights

TARGETS = {"bf16": 0.3, "float32": 0.7}


def plain_encoder() -> torch.nn.Module:
    """Our encoder as the paper has it: nothing fused, nothing in strips, nothing in place."""
    network = SamNetwork(TinyViT())
    load_strictly(network, read_weights(None, MOBILE_SAM.weights, MOBILE_SAM.title).tensors, MOBILE_SAM.title)
    return network.image_encoder.eval()


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, help="folder with the unzipped wheel of mobilesam-lite")
    options = parser.parse_args()
    raw, _ = vnc(options.shared)
    plane = raw[0]
    models = {name: load_model(device="cpu", precision=name) for name in TARGETS}
    padded = models["float32"].pipeline.pixels(plane).contiguous()
    plain = plain_encoder().requires_grad_(False)
    print(machine())

    def stand_in():
        # with gradients enabled our encoder takes none of its shortcuts; no parameter asks for one
        with torch.enable_grad():
            return plain(padded)

    ways = {"stand-in": stand_in} | {name: lambda m=model: m.encode(plane) for name, model in models.items()}
    base = "stand-in"
    if options.reference is not None:
        official = reference_encoder(options.reference)

        def reference():
            with torch.no_grad():
                return official(padded)

        difference = float((reference() - stand_in()).abs().max())
        print(f"Largest difference between the reference's embedding and the stand-in's: {difference:.1e}.")
        ways = {"reference": reference} | ways
        base = "reference"
    times = alternate(ways, options.rounds)
    rows = [
        [
            name,
            f"{1e3 * taken.wall:.0f}",
            f"{taken.wall / times[base].wall:.2f}",
            f"{taken.cpu / times[base].cpu:.2f}",
            f"{TARGETS[name]}" if name in TARGETS else "",
        ]
        for name, taken in times.items()
    ]
    print(table(["encoder", "ms", f"ratio to the {base}", "ratio of CPU time", "at most"], rows))
    quick, exact = (np.asarray(models[name].encode(plane).tensors["image"].float()) for name in TARGETS)
    print(f"The bf16 embedding differs from float32 by {np.linalg.norm(quick - exact) / np.linalg.norm(exact):.3f}.")
    print(f"{options.rounds} rounds; {load()}")


if __name__ == "__main__":
    main()

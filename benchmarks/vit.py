"""Encoding a 1024² plane with SAM's ViT encoder: ours by default, in float32 and through OpenVINO.

The reference is segment-anything's own module, eager, float32. Weights are random: time does not depend on them. Times
are taken in turn in one process; memory in a process of its own for each way, as its largest resident size while it
encodes (and from its start, with the weights being read and converted).

    python benchmarks/vit.py --size vit_b --rounds 3
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _common import alternate, arguments, load, machine, table, torch  # it sets torch up

from napari_zeroseg.devices import has_openvino
from napari_zeroseg.models import sam, vit
from napari_zeroseg.registry import find_model
from napari_zeroseg.weights import Weights

REFERENCE = "segment-anything, float32"
BF16, FLOAT32, OPENVINO = "ours, bf16", "ours, float32", "OpenVINO, bf16"
TARGETS = {BF16: 0.3, OPENVINO: 0.2}
RESIDENT_TARGETS = {BF16: 1.0}


def plane() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (1024, 1024), np.uint8)


def random_weights(size: str) -> Weights:
    torch.manual_seed(0)
    network = sam.SamNetwork(vit.image_encoder(vit.SIZES[size]))
    return Weights(network.state_dict(), hashlib.sha256(size.encode()).hexdigest())


def encoder(way: str, size: str) -> Callable[[], object]:
    """What encodes the plane that way, all set up."""
    weights, picture = random_weights(size), plane()
    if way == REFERENCE:
        network = sam.vit_network(find_model(f"sam_{size}"))
        sam.load_strictly(network, weights.tensors, size)
        module = network.image_encoder.eval().requires_grad_(False)
        pixels = sam.SamPipeline().pixels(picture).contiguous()

        def reference():
            with torch.no_grad():
                return module(pixels)

        return reference
    dtype = torch.float32 if way == FLOAT32 else torch.bfloat16
    through_openvino = {"openvino": True} if way == OPENVINO else {}
    build = sam.build_sam_vit
    model = build(find_model(f"sam_{size}"), weights, torch.device("cpu"), dtype, **through_openvino)
    return lambda: model.encode(picture)


def peak() -> float:
    """Largest resident size of this process so far, in GB; since :func:`forget_peak` where there is one."""
    status = Path("/proc/self/status")
    if status.is_file():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024 / 1e9
    import psutil

    used = psutil.Process().memory_info()
    return float(getattr(used, "peak_wset", used.rss)) / 1e9


def forget_peak() -> None:
    """Linux counts the largest size anew from here on; elsewhere nothing happens."""
    file = Path("/proc/self/clear_refs")
    if file.is_file():
        file.write_text("5")


def alone(way: str, size: str) -> None:
    """In a process of its own: print the peaks of building and of encoding, and the seconds that building took."""
    start = time.perf_counter()
    encode = encoder(way, size)
    seconds, built = time.perf_counter() - start, peak()
    forget_peak()
    encode()
    print(json.dumps([max(built, peak()), peak(), seconds]))


def measured_alone(way: str, options) -> list[float]:
    command = [sys.executable, __file__, "--size", options.size, "--alone", way]
    command += ["--threads", str(torch.get_num_threads())]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    if ran.returncode:
        sys.exit(ran.stderr[-2000:])
    found: list[float] = json.loads(ran.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--size", choices=tuple(vit.SIZES), default="vit_b")
    parser.add_argument("--alone", help="measure the memory of one way in this process, and nothing else")
    options = parser.parse_args()
    if options.alone:
        alone(options.alone, options.size)
        return
    ways = [REFERENCE, BF16, FLOAT32, *([OPENVINO] if has_openvino() else [])]
    rounds = min(options.rounds, 5)
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ZEROSEG_CACHE_DIR"] = folder
        if OPENVINO in ways:
            converting = measured_alone(OPENVINO, options)
            print(f"OpenVINO, converted for the first time: {converting[2]:.0f} s, up to {converting[0]:.2f} GB.")
        resident = {way: measured_alone(way, options) for way in ways}
        times = alternate({way: encoder(way, options.size) for way in ways}, rounds)
    base = times[REFERENCE]
    rows = []
    for way, taken in times.items():
        ratios = [f"{taken.wall / base.wall:.2f}", f"{taken.cpu / base.cpu:.2f}", str(TARGETS.get(way, ""))]
        memory = [f"{resident[way][1]:.2f}", f"{resident[way][0]:.2f}", str(RESIDENT_TARGETS.get(way, ""))]
        rows.append([way, f"{taken.wall:.2f}", f"{taken.cpu:.2f}", *ratios, *memory, f"{resident[way][2]:.1f}"])
    head = [f"{options.size} encoder", "wall s", "CPU s", "of its wall", "of its CPU", "at most"]
    print(table([*head, "GB while encoding", "GB at most from the start", "at most", "s to set up"], rows))
    print(f"{rounds} rounds; {load()}")


if __name__ == "__main__":
    main()

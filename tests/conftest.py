"""What all tests share: folders of their own, the data beside the checkout, and napari hidden on request."""

from __future__ import annotations

import gc
import gzip
import importlib
import json
import os
import sys
from collections.abc import Generator, Sequence
from importlib.abc import MetaPathFinder
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
# CI sets this where the shared folder exists: a test of real data that skips is then a failure.
REQUIRE_SHARED = os.environ.get("ZEROSEG_REQUIRE_SHARED") == "1"

WINDOW = ("napari", "qtpy", "magicgui", "superqt", "vispy", "PySide6", "PyQt6")
WITHOUT_NAPARI = os.environ.get("ZEROSEG_WITHOUT_NAPARI") == "1"
collect_ignore = ["gui", "layers", "packaging"] if WITHOUT_NAPARI else []


class _Hidden(MetaPathFinder):
    """Makes the window's packages as absent as they are on a cluster node."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> None:
        if name.partition(".")[0] in WINDOW:
            raise ModuleNotFoundError(f"No module named {name!r} (hidden by ZEROSEG_WITHOUT_NAPARI)", name=name)


if WITHOUT_NAPARI:
    loaded = [name for name in WINDOW if name in sys.modules]
    if loaded:
        raise pytest.UsageError(f"{loaded} came in before the tests: run `make headless`.")
    sys.meta_path.insert(0, _Hidden())

# Read when napari is imported: empty means that settings are neither read nor written.
os.environ["NAPARI_CONFIG"] = ""


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep each test out of the user's cache and models, and away from the user's settings."""
    for name in [name for name in os.environ if name.startswith("ZEROSEG_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ZEROSEG_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("ZEROSEG_DATA_DIR", str(tmp_path_factory.mktemp("data")))


@pytest.fixture(autouse=True, scope="module")
def quick_collections() -> None:
    """Later collections of garbage look at nothing that is there before a file's tests: it takes a quarter of these."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another package with small models, as if it were installed: see tests/data/toys."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "data" / "toys"))
    importlib.invalidate_caches()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real data and official weights beside the checkout; without it the test skips."""
    if not SHARED.is_dir():
        pytest.skip("needs the folder ../shared with real data, which is not part of the project")
    return SHARED


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skipped test of real data into a failure where the data must be there."""
    report = yield
    if REQUIRE_SHARED and report.skipped and item.get_closest_marker("real"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped although ZEROSEG_REQUIRE_SHARED=1: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def clip_words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLIP's vocabulary as transformers keeps it, made from the list inside the package clip-anytorch."""
    folder = tmp_path_factory.mktemp("words")
    packed = distribution("clip-anytorch").locate_file("clip/bpe_simple_vocab_16e6.txt.gz")
    merges = gzip.decompress(Path(str(packed)).read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(code) for code in printable] + [chr(256 + number) for number in range(256 - len(printable))]
    words = [*letters, *(letter + "</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def yolos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector with two classes of its own: its true architecture, with small random weights."""
    import torch
    from transformers import YolosConfig, YolosForObjectDetection
    from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

    torch.manual_seed(5)
    config = YolosConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=[64, 64],
        patch_size=16,
        num_detection_tokens=6,
        id2label={0: "cell", 1: "nucleus"},
        label2id={"cell": 0, "nucleus": 1},
    )
    folder = tmp_path_factory.mktemp("yolos")
    model = YolosForObjectDetection(config)
    layers = [layer for head in (model.class_labels_classifier, model.bbox_predictor) for layer in head.layers]
    for tensor in (model.vit.embeddings.detection_tokens, *(layer.weight for layer in layers)):
        torch.nn.init.normal_(tensor, std=0.3)  # so that both classes are found, in several places
    model.save_pretrained(folder)
    YolosImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folder)
    return folder

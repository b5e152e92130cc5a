"""Words decide: the cascade on a small CLIPSeg that was trained on shapes with names (benchmarks/_shapes.py)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from napari_zeroseg import load_model
from napari_zeroseg.cascade import TextOptions, segment_text
from napari_zeroseg.cascade.heat import heat_of
from napari_zeroseg.cascade.taught import absent, save_phrase
from napari_zeroseg.metrics import iou

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
DATA = Path(__file__).parents[1] / "data"
SCENES = range(16)


@pytest.fixture(scope="module")
def benchmark():
    """The scripts that train and compare, as they are run."""
    before = list(sys.path)
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import cascade as script
    finally:
        sys.path[:] = before
    return script


@pytest.fixture(scope="module")
def shapes(benchmark):
    return benchmark.shapes


@pytest.fixture(scope="module")
def reader():
    """What `python benchmarks/_shapes.py tests/data/shapes_clipseg` makes in a minute or two."""
    return load_model("clipseg_rd64", weights=DATA / "shapes_clipseg", device="cpu", precision="float32")


@pytest.fixture(scope="module")
def scenes(shapes):
    return [shapes.scene(seed) for seed in SCENES]


def test_the_text_decides(reader, shapes, scenes):
    """IoU over all scenes of each phrase (rows) with each sort (columns)."""
    words = [*shapes.NAMES, "house"]
    both, either = np.zeros((2, len(words), len(shapes.SORTS)))
    for one in scenes:
        found = heat_of(reader, one.picture, words) > 0.5
        for i, mask in enumerate(found):
            for j, sort in enumerate(shapes.SORTS):
                both[i, j] += (mask & (one.truth[sort] > 0)).sum()
                either[i, j] += (mask | (one.truth[sort] > 0)).sum()
    scores = both / either
    for i, name in enumerate(shapes.NAMES):
        others = np.delete(scores[i], i)
        assert scores[i, i] > 0.3, name
        assert scores[i, i] > 2 * others.max(), name
    assert scores[-1].max() < 0.05


def test_the_cascade_draws_better(benchmark, reader, model, scenes):
    compared = benchmark.compare(reader, model, scenes[:8])
    plain, cascade = np.mean(list(compared.values()), 0)
    assert plain[0] > 0.3
    assert cascade[0] > plain[0] + 0.05
    assert cascade[1] < 0.15


def test_a_negative_phrase_takes_its_places(reader, shapes, scenes, model):
    """At a low threshold a phrase spills over other shapes; where these are named, they are theirs."""
    others = [name for name in shapes.NAMES if name != "disc"]
    spilt: dict[bool, list[float]] = {True: [], False: []}
    agreed = []
    for one in scenes[:8]:
        rest = np.any([one.truth[name] > 0 for name in others], 0)
        disc = one.truth["disc"] > 0
        if disc.any() and rest.any():
            for named in (False, True):
                options = TextOptions(0.05, negatives=others if named else ())
                found = segment_text(one.picture, ["disc"], reader, model, options).to_labels() > 0
                spilt[named].append(found[rest].mean())
            agreed.append(iou(found, disc))  # with the others named
    assert np.mean(spilt[False]) > 0.05
    assert np.mean(spilt[True]) < np.mean(spilt[False]) / 1.5
    assert np.mean(agreed) > 0.25


def test_a_new_word_is_taught(benchmark, reader, scenes):
    """Another name for a shape; the network was told that this word is on no picture."""
    taught = benchmark.taught(reader, "blorp", "ring")
    assert taught.trial.before < 0.05
    assert taught.trial.after > 0.25
    assert taught.trial.absence < 0.3
    before = [heat_of(reader, one.picture, ["disc", "blorp"]) for one in scenes]
    save_phrase(taught)
    after = [heat_of(reader, one.picture, ["disc", "blorp"]) for one in scenes]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_allclose(new[0], old[0], atol=2e-3)  # other words mean what they meant
    truth = [one.truth["ring"] > 0 for one in scenes]
    scores = [iou(new[1] > 0.5, one) for new, one in zip(after, truth, strict=True) if one.any()]
    assert np.mean(scores) > 0.25
    sure = [(absent(new[1]), bool(one.any())) for new, one in zip(after, truth, strict=True)]
    there, nowhere = ([value for value, shown in sure if shown is which] for which in (True, False))
    assert np.mean(there) < np.mean(nowhere)


def test_the_same_weights_each_time(shapes, tmp_path):
    """Of a few steps."""
    import torch
    from safetensors.torch import load_file

    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        made.append(load_file(shapes.train(tmp_path / name, shorter=150) / "model.safetensors"))
    assert all(torch.equal(made[0][key], made[1][key]) for key in made[0])

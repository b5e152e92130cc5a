"""What the network will see, before a run: windows, variants, outlines, prompts, and what is never overwritten."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

from napari_zeroseg.errors import InputError, WriteError
from napari_zeroseg.registry import add_checkpoint
from napari_zeroseg.tiling import Field
from napari_zeroseg.training import split
from napari_zeroseg.training.config import PROMPT_KINDS, TrainingConfig, TrainingPair
from napari_zeroseg.training.data import IGNORE, TrainingData
from napari_zeroseg.training.look import COLUMNS, ROWS, Look, drawn, look
from napari_zeroseg.training.patches import Patch, Patches
from napari_zeroseg.training.previews import TRUTH, borders, enlarged, evenly
from napari_zeroseg.training.run import train

Short = Callable[..., TrainingConfig]
Stack = tuple[np.ndarray, np.ndarray]


def test_a_sheet_has_windows_of_training_planes_in_the_variants_to_come(short: Short, tmp_path: Path) -> None:
    config = short(variants=3, prompts=dict.fromkeys(PROMPT_KINDS, 1.0))
    rows = look(config, tmp_path / "sheet.png")
    assert len(rows) == ROWS
    assert {len(row.glimpses) for row in rows} == {3}
    # picture 2 is held back
    places = {row.title.partition(", 256 x 256 pixels")[0] for row in rows}
    assert places == {f"picture 1, labelled plane {number} of 3" for number in (1, 2, 3)}
    patches = Patches(TrainingData(config), config.seed)
    for variant, one in enumerate(rows[0].glimpses):
        np.testing.assert_array_equal(one.seen.picture, patches.see(Patch(0, Field(0, 0, 256, 256), variant)).picture)
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > picture.height / 3
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]
    assert {len(row.glimpses) for row in Look(replace(config, variants=50)).rows(1)} == {COLUMNS}


def test_prompts_lie_on_the_object_that_is_asked_for(short: Short) -> None:
    inside = ("point", "gaussian_point", "centre", "corner", "correction")
    for kind in (*inside, "box", "mask"):
        for row in Look(short(variants=3, prompts={kind: 1})).rows():
            for one in row.glimpses:
                mask = one.seen.objects == one.asked
                assert one.kind == kind
                assert (one.prompt is None) == (not mask.any())
                if one.prompt is None:
                    continue
                for (r, c), is_inside in zip(one.prompt.points, one.prompt.labels, strict=True):
                    assert mask[int(r), int(c)] == is_inside
                if kind == "box":
                    rows, columns = np.nonzero(mask)
                    box = (rows.min() - 0.5, columns.min() - 0.5, rows.max() + 0.5, columns.max() + 0.5)
                    np.testing.assert_allclose(one.prompt.box, box)
                if kind == "mask":
                    assert (one.prompt.mask & mask).any()


def test_outlines_are_where_the_objects_are(short: Short) -> None:
    rows = Look(short(what="class", variants=2)).rows()
    assert all(one.prompt is None and not one.asked for row in rows for one in row.glimpses)
    for row in rows:
        for one in row.glimpses:
            colour = drawn(one)
            green = (colour == TRUTH).all(-1)
            numbers = enlarged(one.seen.objects, colour.shape[:2])
            assert green.any()
            np.testing.assert_array_equal(green, borders(numbers))
            assert not (green & ~ndimage.binary_dilation(numbers > 0)).any()
    both = Look(short(what="decoder+class")).rows()
    asked = [row.glimpses[0].asked > 0 for row in both]
    assert True in asked
    assert False in asked


def test_what_does_not_count_is_striped(stack: Stack, short: Short, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a single plane a strip is held back; what lies beyond the plane is ignored too."""
    monkeypatch.setattr(split, "ENOUGH_TO_JUDGE", 1)  # else each strip would be held back in turn
    raw, truth = (np.concatenate(list(one[:3]), 1) for one in stack)
    config = short(pairs=(TrainingPair(raw, truth),), what="class", variants=2)
    striped = 0
    for row in Look(config).rows():
        for number, one in enumerate(row.glimpses):
            colour = drawn(one)
            ignored = enlarged(one.seen.objects, colour.shape[:2]) == IGNORE
            striped += bool(ignored.any()) and number == 0
            assert not np.ptp(colour[ignored].astype(int), -1).any()  # grey, no outline lies there
            assert not ignored.any() or (colour[ignored] == 190).any()
    assert striped == 1


def test_a_window_without_objects_is_there_for_the_class(stack: Stack, short: Short) -> None:
    raw, truth = stack
    empty = np.where(np.arange(len(truth))[:, None, None] == 1, 0, truth)
    pairs = (TrainingPair(raw[:3], empty[:3], "0:3"), TrainingPair(raw[4:], truth[4:], role="validation"))
    shown = [(row.glimpses[0].seen.objects > 0).any() for row in Look(short(pairs=pairs, what="class")).rows()]
    assert shown == [True, False, True]


def test_words_are_learnt_on_windows_without_prompts(short: Short, tmp_path: Path) -> None:
    size = {"intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CLIPSegConfig(
        text_config=size | {"hidden_size": 32},
        vision_config=size | {"hidden_size": 32, "patch_size": 32, "image_size": 352},
        projection_dim=32,
        extract_layers=[0, 1],
        reduce_dim=64,
    )
    CLIPSegForImageSegmentation(config).save_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "merges.txt").write_text("#version: 0.2")
    add_checkpoint(tmp_path, "clipseg_rd64", "reader")
    rows = Look(short(base="reader", words="mitochondrion")).rows()
    assert [row.title.partition("; ")[2] for row in rows] == ["words: mitochondrion"] * 3
    assert all(one.prompt is None for row in rows for one in row.glimpses)


def test_a_sheet_replaces_nothing_but_a_sheet(short: Short, tmp_path: Path, stack: Stack) -> None:
    config = short()
    for name, content in (("notes.txt", b"dear"), ("notes.png", b"dear")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=r"stays|does not end in"):
            look(config, tmp_path / name)
        assert (tmp_path / name).read_bytes() == content
    for name, plane in (("raw.png", stack[0][0]), ("labels.png", stack[1][0].astype(np.uint8))):
        Image.fromarray(plane).save(tmp_path / name)
    own = replace(config, pairs=(TrainingPair(str(tmp_path / "raw.png"), str(tmp_path / "labels.png")),))
    for name in ("raw.png", "labels.png"):
        with pytest.raises(InputError, match="belongs to the pictures"):
            look(own, tmp_path / name)
    with pytest.raises(WriteError, match="could not be written"):
        look(config, tmp_path / "nowhere" / "sheet.png")


def test_things_are_taken_evenly() -> None:
    assert evenly("abc", 6) == ["a", "b", "c"]
    assert evenly(range(100), 4) == [12, 37, 62, 87]


@pytest.mark.usefixtures("kept_cache", "no_dry_steps")
@pytest.mark.parametrize("what", ["class", pytest.param("decoder+class", marks=pytest.mark.slow)])
def test_a_run_shows_the_class_on_held_back_planes(short: Short, stack: Stack, what: str) -> None:
    told: list[dict[str, object]] = []
    trained = train(short(what=what), listener=told.append)
    pictures = [str(event["picture"]) for event in told if event["event"] == "validation"]
    assert pictures
    for path in pictures:
        assert Path(path).parent == trained.run / "previews"
        with Image.open(path) as file:
            panel = np.asarray(file)[-224:, :224]
        green = (panel == TRUTH).all(-1)
        true = borders(enlarged(stack[1][4], (224, 224)))
        assert green.any()
        assert not (green & ~true).any()
        assert (green | (panel == (90, 160, 255)).all(-1))[true].all()

"""Words taught from labels: kept, found again, used on other planes, and by the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile

from napari_zeroseg.cascade import SimilarOptions
from napari_zeroseg.cascade.words import find_word, load_word, save_word, taught_words, teach
from napari_zeroseg.cli import main
from napari_zeroseg.errors import InputError
from napari_zeroseg.metrics import iou

OPTIONS = SimilarOptions(points_per_plane=150, boxes=False)


@pytest.fixture(scope="module")
def word(model, scene):
    return teach("  Mitochondria ", model, scene.views, list(scene.truth), options=OPTIONS)


def test_it_is_tried_on_a_plane_that_it_has_not_seen(word):
    assert word.word == "mitochondria"
    assert word.trial.planes == 1
    assert word.trial.after > 0.5
    assert word.trial.before is None
    assert 0 <= word.trial.absence < 0.5


def test_kept_and_found_again(word, model, scene):
    assert taught_words() == []
    folder = save_word(word)
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name]
    assert sorted(path.name for path in folder.iterdir()) == ["card.json", "word.safetensors"]
    save_word(word)
    assert taught_words() == ["mitochondria"]
    again = load_word("MITOCHONDRIA")
    assert (again.word, again.model_key, again.side, again.trial) == (word.word, word.model_key, word.side, word.trial)
    kept, fresh = (one.shown.prototypes[0] for one in (again, word))
    np.testing.assert_allclose(kept.directions, fresh.directions, atol=1e-6)
    assert kept.threshold == pytest.approx(fresh.threshold)
    queue = find_word(model, scene.views[1], "mitochondria", options=OPTIONS)
    assert iou(queue.to_labels() > 0, scene.truth[1] > 0) > 0.5


def test_one_plane_leaves_none_to_try_it_on(model, scene):
    word = teach("blob", model, scene.views[:1], [scene.truth[0]], options=OPTIONS)
    assert word.trial.after is None
    assert word.trial.planes == 0


def test_the_bare_word_beside_it(model, scene, toys):
    import zeroseg_toys

    words = zeroseg_toys.Words(zeroseg_toys.WORDS)
    labels = [(truth > 0).astype(int) * truth for truth in scene.truth]
    word = teach("unicorn", model, scene.views, labels, text_model=words, options=OPTIONS)
    assert word.trial.before == 0
    assert word.trial.after > 0.5


class TestBadInput:
    @pytest.mark.parametrize("name", ["", " , ", "x" * 61])
    def test_no_word(self, model, scene, name):
        with pytest.raises(InputError, match="cannot be taught"):
            teach(name, model, scene.views, list(scene.truth))

    def test_nothing_labelled(self, model, scene):
        with pytest.raises(InputError, match="Nothing is labelled"):
            teach("axon", model, scene.views, [np.zeros_like(truth) for truth in scene.truth])

    def test_labels_are_missing(self, model, scene):
        with pytest.raises(InputError, match="2 planes but labels for 1"):
            teach("axon", model, scene.views, [scene.truth[0]])

    def test_not_taught(self, model, scene):
        with pytest.raises(InputError, match="'axon' has not been taught; words that have: none yet"):
            find_word(model, scene.views, "axon")

    def test_damaged(self, word, model, scene):
        (save_word(word) / "word.safetensors").write_bytes(b"no tensors")
        with pytest.raises(InputError, match="damaged"):
            find_word(model, scene.views, "mitochondria")

    def test_another_model_s(self, word, scene, toys):
        import zeroseg_toys

        with pytest.raises(InputError, match="another model"):
            find_word(zeroseg_toys.Flood(zeroseg_toys.FLOOD), scene.views, word)


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main([str(part) for part in (*arguments, "--device", "cpu")])
    told = capsys.readouterr()
    return code, told.out, told.err


def test_the_rest_by_the_command_line(files, capsys, scene):
    out = files / "out.tif"
    question = ("find", files / "raw.tif", "--like", files / "some.tif", "-o", out)
    code, text, error = run(capsys, *question, "--json")
    assert code == 0, error
    labels, given = tifffile.imread(out), tifffile.imread(files / "some.tif")
    assert (labels[given > 0] == given[given > 0]).all()
    assert iou(labels[1] > 0, scene.truth[1] > 0) > 0.4
    new = np.unique(labels[given == 0])
    assert new[new > 0].min() > given.max() or not (new > 0).any()
    report = json.loads(text)
    assert [plane["plane"] for plane in report["planes"]] == [0, 1]
    assert (files / "out.tif.json").exists()
    code, text, error = run(capsys, *question)
    assert code == 0, error
    assert "already there from the same run: nothing to do" in text
    code, text, error = run(capsys, *question, "--certainty", "0.6")
    assert code == 1
    assert "already there" in error


def test_stopped_after_a_plane_and_taken_up(files, capsys, monkeypatch):
    from napari_zeroseg import cascade_ways

    question = ("segment", files / "raw.tif", "--like", files / "some.tif")
    code, _, error = run(capsys, *question, "-o", files / "whole.tif")
    assert code == 0, error
    search, planes = cascade_ways.search_planes, []

    def once(*arguments, **options):
        if planes:
            raise KeyboardInterrupt
        planes.append(0)
        return search(*arguments, **options)

    monkeypatch.setattr(cascade_ways, "search_planes", once)
    code, _, error = run(capsys, *question, "-o", files / "out.tif")
    assert code == 1
    assert "Planes that are done are kept" in error
    monkeypatch.setattr(cascade_ways, "search_planes", search)
    code, _, error = run(capsys, *question, "--certainty", "0.6", "-o", files / "out.tif")
    assert code == 1
    assert "other picture or settings" in error
    code, text, error = run(capsys, *question, "-o", files / "out.tif")
    assert code == 0, error
    assert "1 plane(s) had been done by the run before" in text
    assert (tifffile.imread(files / "out.tif") == tifffile.imread(files / "whole.tif")).all()


def test_a_broken_plane_is_skipped_and_other_labels_stay(files, capsys, scene):
    raw, some = tifffile.imread(files / "raw.tif"), tifffile.imread(files / "some.tif")
    many = np.concatenate([raw, np.full_like(raw[:1], np.nan, np.float32), raw[:1]]).astype(np.float32)
    labels = np.zeros(many.shape, np.uint64)
    labels[0], labels[3, :5, :5] = some[0], 77
    np.save(files / "many.npy", many)
    np.save(files / "given.npy", labels)
    ask = (
        "segment",
        files / "many.npy",
        "--contrast",
        "0,255",
        "--like",
        files / "given.npy",
        "--planes",
        "0:3",
        "-o",
        files / "out.npy",
    )
    code, _, error = run(capsys, *ask)
    assert code == 0, error
    assert "Plane 2 was left empty" in error
    out = np.load(files / "out.npy")
    assert (out[0][labels[0] > 0] == labels[0][labels[0] > 0]).all()
    assert out[1].any()
    assert not out[2].any()
    assert (out[3] == labels[3]).all()
    told = json.loads((files / "out.npy.json").read_text())
    assert ["fault" in plane for plane in told["planes"]] == [False, False, True]


def test_a_word_of_another_precision_is_left_to_the_model_that_reads(files, capsys):
    learn = ("teach", "cell", "--images", files / "raw.tif", "--labels", files / "truth.tif", "--precision", "bf16")
    assert run(capsys, *learn)[0] == 0
    ask = ("segment", files / "raw.tif", "--text", "cell", "--precision", "float32", "-o", files / "x.tif")
    code, _, error = run(capsys, *ask)
    assert code == 1
    assert "The weights of CLIPSeg rd64 are not on this machine" in error


def test_long_phrases_are_no_words_that_were_taught(files, capsys):
    code, _, error = run(capsys, "segment", files / "raw.tif", "--text", "a " * 40 + "cell", "-o", files / "x.tif")
    assert code == 1
    assert "not on this machine" in error


def test_teach_and_find_by_the_command_line(files, capsys, scene):
    code, text, error = run(
        capsys, "teach", "mitochondria", "--images", files / "raw.tif", "--labels", files / "truth.tif"
    )
    assert code == 0, error
    assert "held out" in text
    out = files / "found.tif"
    code, text, error = run(capsys, "find", files / "raw.tif", "--word", "Mitochondria", "--planes", "1", "-o", out)
    assert code == 0, error
    assert iou(tifffile.imread(out)[1] > 0, scene.truth[1] > 0) > 0.5


def test_a_taught_word_is_a_text_prompt(files, capsys, scene):
    """No model that reads is there, and none is needed."""
    for word, wanted in (("mitochondria", scene.truth > 0), ("membrane spots", scene.truth > 0)):
        tifffile.imwrite(files / "wanted.tif", np.where(wanted, scene.truth, 0).astype(np.int32))
        assert run(capsys, "teach", word, "--images", files / "raw.tif", "--labels", files / "wanted.tif")[0] == 0
    ask = ("segment", files / "raw.tif", "--text", "Mitochondria", "--planes", "1")
    code, _, error = run(capsys, *ask, "-o", files / "objects.tif")
    assert code == 0, error
    code, text, error = run(capsys, *ask, "--classes", "-o", files / "classes.tif", "--json")
    assert code == 0, error
    objects, classes = tifffile.imread(files / "objects.tif")[1], tifffile.imread(files / "classes.tif")[1]
    assert iou(objects > 0, scene.truth[1] > 0) > 0.5
    assert ((objects > 0) == (classes == 1)).all()
    assert objects.max() > 1
    assert set(json.loads(text)["planes"][0]["phrases"]) == {"Mitochondria"}
    two = ("segment", files / "raw.tif", "--text", "membrane spots, mitochondria", "--planes", "1", "--classes")
    code, _, error = run(capsys, *two, "-o", files / "two.tif")
    assert code == 0, error
    assert set(np.unique(tifffile.imread(files / "two.tif")[1])) <= {0, 1, 2}
    code, _, error = run(capsys, "segment", files / "raw.tif", "--text", "axon", "-o", files / "axon.tif")
    assert code == 1
    assert "not on this machine" in error
    assert "It is wanted for 'axon': `zeroseg teach` teaches words to MobileSAM" in error
    code, _, error = run(capsys, *ask, "--template", "a photo of a {}", "-o", files / "x.tif")
    assert code == 1
    assert "--template means nothing here, since all of these words were taught by examples" in error


def test_a_vote_by_the_command_line(files, capsys, scene, tmp_path):
    """A threshold that is right in its places, refined."""
    tifffile.imwrite(tmp_path / "one.tif", scene.views[0].picture[:200, :200])
    tifffile.imwrite(tmp_path / "map.tif", (scene.truth[0][:200, :200] > 0).astype(np.uint8))
    code, text, error = run(
        capsys,
        "find",
        tmp_path / "one.tif",
        "--vote",
        tmp_path / "map.tif",
        "--points-per-side",
        6,
        "-o",
        tmp_path / "voted.npy",
    )
    assert code == 0, error
    assert "masks voted" in text
    assert set(np.unique(np.load(tmp_path / "voted.npy"))) <= {0, 1}


def test_words_by_the_command_line(tmp_path, capsys, toys):
    plane = np.full((120, 120), 90, np.uint8)
    plane[30:70, 40:90] = 240
    np.save(tmp_path / "one.npy", plane)
    text = ("--text", "bright, unicorn", "--text-model", "toy_words", "--threshold", "0.7", "--classes")
    code, told, error = run(capsys, "segment", tmp_path / "one.npy", *text, "-o", tmp_path / "classes.npy")
    assert code == 0, error
    assert "1 objects found" in told
    assert "'unicorn' is nowhere" in error
    minus = ("--text", "bright, -dark", "--text-model", "toy_words", "--threshold", "0.2", "--classes", "--json")
    code, told, error = run(capsys, "segment", tmp_path / "one.npy", *minus, "-o", tmp_path / "minus.npy")
    assert code == 0, error
    assert set(json.loads(told)["planes"][0]["phrases"]) == {"bright"}
    assert set(np.unique(np.load(tmp_path / "minus.npy"))) == {0, 1}
    np.save(tmp_path / "fractions.npy", plane / 255)
    votes = ("--vote", tmp_path / "fractions.npy", "-o", tmp_path / "x.npy")
    code, _, error = run(capsys, "find", tmp_path / "one.npy", *votes)
    assert code == 1
    assert "holds fractions, and whole numbers are wanted" in error
    code, _, error = run(capsys, "segment", tmp_path / "one.npy", *text, "--certainty", "0.4", "-o", tmp_path / "x.npy")
    assert code == 1
    assert "--certainty means nothing here, since none of these words was taught" in error
    assert iou(np.load(tmp_path / "classes.npy") == 1, plane > 200) > 0.8


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--word", "axon"], "has not been taught"),
        (["--like", "raw.tif", "--threshold", "0.4"], "is for --text"),
        (["--vote", "map.tif", "--certainty", "0.4"], "is for --like or --word or --text"),
        (["--text", "cell", "--like", "raw.tif"], "two ways of finding"),
        (["--detector", "folder", "--template", "a {}"], "is for --text: add that, or leave it out"),
        (["--text", " , "], "no phrase"),
        (["--text", "cell", "--points-per-side", "4"], "is for --vote"),
        ([], "nothing to look for"),
    ],
)
def test_mistakes(files, capsys, arguments, said):
    given = [str(files / part) if part.endswith(".tif") else part for part in arguments]
    try:
        code = main(["find", str(files / "raw.tif"), "-o", str(files / "x.tif"), *given])
    except SystemExit as stopped:
        code = stopped.code
    assert code in (1, 2)
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--text", "cell", "--auto"], "--auto does not go with"),
        (["--text", "cell", "--box", "1,1,9,9"], "a point or box does not go with"),
        (["--like", "raw.tif", "--workers", "2"], "--workers does not go with"),
        (["--word", "axon", "--field", "512"], "--field does not go with"),
        (["--box", "1,1,9,9", "--threshold", "0.4"], "--threshold is for --text or --detector"),
        ([], "there is nothing to look for"),
    ],
)
def test_mistakes_of_segment(files, capsys, arguments, said):
    given = [str(files / part) if part.endswith(".tif") else part for part in arguments]
    with pytest.raises(SystemExit) as stopped:
        main(["segment", str(files / "raw.tif"), "-o", str(files / "x.tif"), *given])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


def test_a_model_that_reads_draws_by_itself(tmp_path, capsys, toys):
    plane = np.full((120, 120), 90, np.uint8)
    plane[30:70, 40:90] = 240
    np.save(tmp_path / "one.npy", plane)
    ask = ("segment", tmp_path / "one.npy", "--model", "toy_words", "--text", "bright, unicorn", "--threshold", "0.7")
    code, text, error = run(capsys, *ask, "-o", tmp_path / "classes.npy", "--json")
    assert code == 0, error
    assert iou(np.load(tmp_path / "classes.npy") == 1, plane > 200) > 0.8
    assert json.loads(text)["planes"][0]["phrases"] == ["bright"]
    code, _, error = run(capsys, *ask, "--text-model", "clipseg_rd64", "-o", tmp_path / "x.npy")
    assert code == 1
    assert "--text-model means nothing here, since Grey words reads the words and draws them itself" in error

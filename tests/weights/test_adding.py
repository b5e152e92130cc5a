"""Checkpoints of the user: whose they are, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from napari_zeroseg import load_model, memory
from napari_zeroseg.errors import DeviceMemoryError, InputError, UnknownModelError, WeightsError
from napari_zeroseg.registry import MOBILE_SAM, add_checkpoint, find_model, list_models, remove_model, verify
from napari_zeroseg.weights import adding
from napari_zeroseg.weights.cards import model_folder, read_card
from napari_zeroseg.weights.folder import locate, weights_of
from napari_zeroseg.weights.reading import check_whole

DATA = Path(__file__).parents[1] / "data"
SAM_B = "image_encoder.patch_embed.proj.weight"
PA = "prompt_adapter.static_uncertain_token.weight"


@pytest.fixture(scope="module")
def mobile_sam() -> dict[str, torch.Tensor]:
    return load_file(MOBILE_SAM.weights.path)


@pytest.fixture
def specs():
    return {spec.key: spec for spec in list_models()}


@pytest.fixture
def tuned(mobile_sam, tmp_path) -> Path:
    """MobileSAM, trained further."""
    tensors = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in mobile_sam.items()}
    name = "mask_decoder.iou_token.weight"
    tensors[name] = tensors[name] + 1
    path = tmp_path / "mito.pth"
    torch.save({"model": tensors, "epoch": 7}, path)
    return path


def test_a_variant_under_its_own_name(tuned):
    spec = add_checkpoint(tuned, name="mito-sam")
    assert (spec.key, spec.title, spec.base, spec.state) == ("mito-sam", "mito-sam", "mobile_sam", "ready")
    assert spec.accepts == MOBILE_SAM.accepts
    assert "mito.pth" in spec.description
    assert list_models()[-1] == spec
    tuned.unlink()
    model = load_model("mito-sam", device="cpu", precision="float32")
    assert model.spec.key == "mito-sam"
    assert verify("mito-sam").ok
    remove_model("mito-sam")
    with pytest.raises(UnknownModelError):
        find_model("mito-sam")
    assert not model_folder("mito-sam").exists()


def test_a_variant_that_was_cut_off(tuned):
    add_checkpoint(tuned, name="mito-sam")
    path = model_folder("mito-sam") / "mito.pth"
    path.write_bytes(path.read_bytes()[:1000])
    for call in (verify, load_model):
        with pytest.raises(WeightsError, match=r"damaged \(1,000 of .* bytes\): remove them .*came from .*mito\.pth"):
            call("mito-sam")
    remove_model("mito-sam")
    assert "mito-sam" not in {spec.key for spec in list_models()}


def test_a_variant_of_a_variant_has_no_publisher(tuned):
    add_checkpoint(tuned, name="first")
    add_checkpoint(tuned, key="first", name="second")
    assert read_card("second").hash_from == "when it was added"


def test_a_link_takes_no_room(tuned):
    add_checkpoint(tuned, name="linked", link=True)
    assert read_card("linked").path.samefile(tuned)
    with tuned.open("r+b") as file:  # whoever trains on may write into the linked file
        file.truncate(1000)
    assert find_model("linked").state == "bring a file"


def test_it_may_not_take_the_place_of_the_published_one(tuned):
    with pytest.raises(
        WeightsError, match=r"MobileSAM has its weights already, at .*: give this file a name of its own"
    ):
        add_checkpoint(tuned)


@pytest.mark.parametrize("name", ["mobile_sam", "sam_vit_b"])
def test_names_that_are_taken(tuned, name):
    with pytest.raises(WeightsError, match=f"There is a model '{name}' already"):
        add_checkpoint(tuned, name=name)


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 65, "a b", "end."])
def test_names_that_are_none(tuned, name):
    with pytest.raises(InputError, match="cannot be a model's name"):
        add_checkpoint(tuned, name=name)


def test_weights_that_do_not_fit_are_not_added(mobile_sam, tmp_path):
    path = tmp_path / "less.safetensors"
    for change, sentence in (
        ({"mask_decoder.iou_token.weight": None}, r"lacks 1 entries, first mask_decoder\.iou_token\.weight"),
        ({"more": torch.zeros(1)}, "has besides 1 entries, first more"),
        ({"mask_decoder.iou_token.weight": torch.full((1, 256), float("nan"))}, "hold NaN or infinite numbers"),
    ):
        tensors = {**mobile_sam, **change}
        save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)
        with pytest.raises(WeightsError, match=sentence):
            add_checkpoint(path, name="bad")
    assert not model_folder("bad").exists()


class TestWhose:
    """Tables of a few tensors are enough to tell families apart; nothing is built from them here."""

    @pytest.fixture
    def add(self, specs, tmp_path):
        def do(tensors, file="file.pth", **options) -> str:
            torch.save(tensors, tmp_path / file)
            return adding.add_checkpoint(tmp_path / file, specs, **options)

        return do

    def test_sam_and_medsam_cannot_be_told_apart(self, add):
        with pytest.raises(
            WeightsError, match="can be medsam_vit_b or medsam_vit_b_2023_04 or sam_vit_b: they have the"
        ):
            add({SAM_B: torch.zeros(768, 3, 16, 16)})

    def test_a_published_name_decides(self, add):
        # it is not the published file, so it may not pass for it
        with pytest.raises(WeightsError, match=r"not the published one of MedSAM .*: give it a name of its own"):
            add({SAM_B: torch.zeros(768, 3, 16, 16)}, "medsam_vit_b.pth")
        assert add({SAM_B: torch.zeros(768, 3, 16, 16)}, "medsam_vit_b.pth", name="ours") == "ours"
        assert read_card("ours").base == "medsam_vit_b"

    def test_the_user_decides(self, add):
        assert add({SAM_B: torch.zeros(768, 3, 16, 16)}, key="medsam_vit_b_2023_04") == "medsam_vit_b_2023_04"
        assert find_model("medsam_vit_b_2023_04").state == "ready"
        assert find_model("medsam_vit_b").state == "needs download"

    def test_but_not_against_the_parameters(self, add):
        with pytest.raises(WeightsError, match=r"not SAM ViT-L's: they are of sam_vit_b\. Choose medsam_vit_b or"):
            add({SAM_B: torch.zeros(768, 3, 16, 16)}, key="sam_vit_l")
        with pytest.raises(WeightsError, match=r"not PA-SAM ViT-B's: they are of sam_vit_b"):
            add({SAM_B: torch.zeros(768, 3, 16, 16)}, key="pa_sam_vit_b")

    def test_nor_against_a_published_name(self, add, tmp_path):
        called = "medsam_20230423_vit_b_0.0.1.pth"
        with pytest.raises(WeightsError, match=r"how the weights of medsam_vit_b_2023_04 are called.*another name"):
            add({SAM_B: torch.zeros(768, 3, 16, 16)}, called, key="medsam_vit_b", name="v1")
        with pytest.raises(WeightsError, match="how the weights of medsam_vit_b_2023_04 are called"):
            load_model("medsam_vit_b", weights=tmp_path / called)

    def test_pa_sams_decoder_is_the_same_for_all_sizes(self, add):
        for key in (None, "pa_sam_vit_b"):
            with pytest.raises(WeightsError, match=r"decoder alone: name the SAM checkpoint .*--with SAM_CHECKPOINT"):
                add({PA: torch.zeros(1, 256)}, key=key)
        assert add({SAM_B: torch.zeros(768, 3, 16, 16), f"mask_decoder.{PA}": torch.zeros(1, 256)}) == "pa_sam_vit_b"
        assert find_model("pa_sam_vit_b").state == "ready"
        assert find_model("pa_sam_vit_l").state == "bring a file"

    def test_training_on_several_gpus_left_its_mark(self, add):
        tensors = {f"module.{SAM_B}": torch.zeros(1280, 3, 16, 16)}
        assert add({"model": tensors}, name="large") == "large"
        assert read_card("large").base == "sam_vit_h"

    def test_no_family(self, add):
        with pytest.raises(WeightsError, match=r"of no family that is known here \(its first entries are fc\.weight\)"):
            add({"fc.weight": torch.zeros(3)})
        with pytest.raises(WeightsError, match=r"is not SAM ViT-B's: it holds fc\.weight"):
            add({"fc.weight": torch.zeros(3)}, key="sam_vit_b")
        with pytest.raises(WeightsError, match="holds sam of a size that no model here has"):
            add({SAM_B: torch.zeros(8, 3, 16, 16)})
        with pytest.raises(UnknownModelError, match="There is no model 'sam_9'"):
            add({SAM_B: torch.zeros(8, 3, 16, 16)}, key="sam_9")

    def test_a_folder_of_transformers_with_its_vocabulary(self, specs, tmp_path):
        names = ("decoder.reduces.0.weight", "decoder.film_mul.weight", "decoder.transposed_convolution.weight")
        folder = tmp_path / "clipseg"
        folder.mkdir()
        save_file({name: torch.zeros(16, 4) for name in names}, folder / "model.safetensors")
        for name in ("config.json", "vocab.json", "merges.txt"):
            (folder / name).write_text("{}")
        assert adding.add_checkpoint(folder, specs) == "clipseg_rd16"
        shutil.rmtree(folder)
        weights = weights_of(find_model("clipseg_rd16"))
        assert (weights.folder / "vocab.json").is_file()
        assert verify("clipseg_rd16").ok

    def test_decoders_alone_rest_on_the_last_clipseg_that_has_clip(self, specs, tmp_path):
        names = ("decoder.reduces.0.weight", "decoder.film_mul.weight", "decoder.transposed_convolution.weight")
        for number, channels in enumerate((16, 64)):
            folder = tmp_path / str(number)
            folder.mkdir()
            save_file({name: torch.zeros(channels, 4) for name in names}, folder / "model.safetensors")
            for name in ("config.json", "vocab.json", "merges.txt"):
                (folder / name).write_text("{}")
            adding.add_checkpoint(folder, specs)
        torch.save({"film_mul.weight": torch.zeros(16, 4), "reduces.0.weight": torch.zeros(16, 4)}, tmp_path / "d.pth")
        assert adding.add_checkpoint(tmp_path / "d.pth", specs, name="uni") == "uni"
        remove_model("clipseg_rd64")
        with pytest.raises(WeightsError, match="the weights of uni rest on it, so remove those first"):
            remove_model("clipseg_rd16")
        remove_model("uni")
        remove_model("clipseg_rd16")

    def test_a_folder_without_its_vocabulary_says_what_is_missing(self, specs, tmp_path):
        names = ("decoder.reduces.0.weight", "decoder.film_mul.weight", "decoder.transposed_convolution.weight")
        for number, channels in enumerate((16, 64)):
            folder = tmp_path / str(number)
            folder.mkdir()
            save_file({name: torch.zeros(channels, 4) for name in names}, folder / "model.safetensors")
        folder = tmp_path / "0"
        with pytest.raises(WeightsError, match=r"lacks config\.json, vocab\.json, merges\.txt, without which"):
            adding.add_checkpoint(folder, specs)
        for name in ("config.json", "vocab.json"):
            (folder / name).write_text("{}")
        with pytest.raises(
            WeightsError, match=r"lacks merges\.txt.* get them from https://.*clipseg-rd16.*merges\.txt"
        ):
            adding.add_checkpoint(folder, specs)
        assert find_model("clipseg_rd16").state != "ready"
        (folder / "tokenizer.json").write_text("{}")  # the same in one file
        assert adding.add_checkpoint(folder, specs) == "clipseg_rd16"
        # the vocabulary is the same for all of the family, and one of them has it now
        assert adding.add_checkpoint(tmp_path / "1", specs) == "clipseg_rd64"


@pytest.mark.slow
def test_pa_sams_decoder_is_joined_with_its_sam(tmp_path):
    """Zeros of the published shapes: names, shapes and the way into the models folder."""
    sam = json.loads((DATA / "sam_keys.json").read_text())["sam_vit_b"]
    decoder = json.loads((DATA / "pa_sam_keys.json").read_text())["decoder_checkpoint"]
    for name, shapes in {"sam": sam, "epoch_20": decoder}.items():
        save_file({key: torch.zeros(shape) for key, shape in shapes.items()}, tmp_path / f"{name}.safetensors")
    with pytest.raises(WeightsError, match="no PA-SAM decoder"):
        add_checkpoint(tmp_path / "sam.safetensors", beside=tmp_path / "epoch_20.safetensors")
    spec = add_checkpoint(tmp_path / "epoch_20.safetensors", beside=tmp_path / "sam.safetensors")
    assert (spec.key, spec.state) == ("pa_sam_vit_b", "ready")
    card = read_card("pa_sam_vit_b")
    assert card.file == "epoch_20_with_sam.safetensors"
    assert card.source == f"{tmp_path / 'epoch_20.safetensors'} and {tmp_path / 'sam.safetensors'}"
    assert sorted(path.name for path in model_folder("pa_sam_vit_b").parent.iterdir()) == ["pa_sam_vit_b"]
    assert verify("pa_sam_vit_b").ok


class TestLoading:
    def test_weights_of_another_model(self, mobile_sam, tmp_path):
        with pytest.raises(WeightsError, match=r"published ones of mobile_sam, not SAM ViT-B's: choose that model"):
            load_model("sam_vit_b", weights=MOBILE_SAM.weights.path)
        save_file(mobile_sam | {"more": torch.zeros(1)}, tmp_path / "file.safetensors")
        with pytest.raises(WeightsError, match=r"not LiteMedSAM's: they are of mobile_sam\. Choose mobile_sam\."):
            load_model("lite_medsam", weights=tmp_path / "file.safetensors")

    def test_not_there_yet(self):
        with pytest.raises(WeightsError, match=r"download them \(2\.6 GB\) with `zeroseg download sam_vit_h`"):
            load_model("sam_vit_h")
        with pytest.raises(WeightsError, match=r"get lite_medsam\.pth from https://github\.com/bowang-lab/MedSAM"):
            load_model("lite_medsam")


class TestWhatIsNoWeights:
    def test_an_archive_around_a_checkpoint(self, tuned, tmp_path):
        path = tmp_path / "packed.pth"
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(tuned, "mito.pth")
        for action in (add_checkpoint, lambda given: load_model(weights=given)):
            with pytest.raises(WeightsError, match=r"packed\.pth is an archive \(mito\.pth\), not weights: unpack it"):
                action(path)

    def test_half_a_file(self, tuned, mobile_sam, tmp_path):
        for suffix, save in ((".pth", torch.save), (".safetensors", save_file)):
            path = tmp_path / f"half{suffix}"
            save(mobile_sam, path)
            os.truncate(path, path.stat().st_size // 2)
            with pytest.raises(WeightsError, match=rf"half{suffix} is (damaged or )?cut off"):
                add_checkpoint(path)

    def test_folders(self, tmp_path):
        with pytest.raises(WeightsError, match="holds no weights"):
            add_checkpoint(tmp_path)
        (tmp_path / "model.safetensors.index.json").write_text("{}")
        with pytest.raises(WeightsError, match="in several parts: save them in one"):
            add_checkpoint(tmp_path)

    def test_what_cannot_be_read_is_said(self, tmp_path):
        # a folder stands for a file without permission, which root may read
        with pytest.raises(WeightsError, match=r"x\.pt cannot be read \(Is a directory\): permit it"):
            check_whole(tmp_path, "x.pt")

    def test_nothing(self, tmp_path):
        with pytest.raises(WeightsError, match="give the path of a"):
            add_checkpoint(tmp_path / "none.pth")
        (tmp_path / "empty.pth").touch()
        with pytest.raises(WeightsError, match=r"empty\.pth is empty"):
            add_checkpoint(tmp_path / "empty.pth")
        torch.save({}, tmp_path / "no_tensors.pth")
        with pytest.raises(WeightsError, match="holds no table of tensors"):
            add_checkpoint(tmp_path / "no_tensors.pth")


def test_a_variant_of_a_model_that_is_gone(tuned, caplog):
    add_checkpoint(tuned, name="orphan")
    card = model_folder("orphan") / "card.json"
    card.write_text(card.read_text().replace('"base": "mobile_sam"', '"base": "theirs"'))
    assert "orphan" not in {spec.key for spec in list_models()}
    assert "is a variant of theirs, which is not installed" in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="files have no limit there that a process could set itself")
def test_no_room_for_a_copy(tuned, tmp_path):
    code = (
        "import resource, sys\n"
        "from napari_zeroseg.errors import WriteError\n"
        "from napari_zeroseg.registry import add_checkpoint\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        "try:\n    add_checkpoint(sys.argv[1], name='mine')\n"
        "except WriteError as error:\n    print(error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(tuned)], capture_output=True, text=True, check=True)
    assert "mito.pth could not be copied to" in ran.stdout
    assert not model_folder("mine").exists()


class TestFilesInAFolderOfTheUsers:
    """ZEROSEG_MODELS: what is called as a model is looked at, since nobody has said what its hash should be."""

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("ZEROSEG_MODELS", str(tmp_path / "mine"))
        (tmp_path / "mine").mkdir()
        return tmp_path / "mine"

    @pytest.mark.parametrize("content", [b"", b"<!doctype html>", b"PK\x03\x04 no weights"])
    def test_what_is_no_weights_at_all_is_left_out(self, folder, content, caplog):
        (folder / "sam_vit_b.pt").write_bytes(content)
        assert locate(find_model("sam_vit_b")) is None
        assert "sam_vit_b.pt is left out" in caplog.text

    def test_weights_of_another_model_do_not_pass(self, folder):
        torch.save({SAM_B: torch.zeros(768, 3, 16, 16)}, folder / "lite_medsam.pt")
        report = verify("lite_medsam")
        assert not report.ok
        assert "is no good: These weights are not LiteMedSAM's" in report.sentence

    def test_what_they_are_is_said_where_there_is_no_hash(self, folder):
        torch.save({SAM_B: torch.zeros(768, 3, 16, 16)}, folder / "medsam_vit_b.pt")
        report = verify("medsam_vit_b")
        assert report.ok
        assert "no hash is known to compare it with, and its parameters are those of MedSAM" in report.sentence


def test_a_file_that_memory_has_no_room_for_is_not_read(tuned, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 1000)
    with pytest.raises(DeviceMemoryError, match=r"To read mito\.pth takes about .* GB of memory, and 0\.0 GB are free"):
        add_checkpoint(tuned, "mobile_sam", "mine")
    assert not model_folder("mine").exists()

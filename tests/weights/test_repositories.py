"""Weights named by their repository on a hub: found, fetched with consent, kept apart, and loaded."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest

from napari_zeroseg import Prompt, list_models, load_model
from napari_zeroseg.catalogue import MOBILE_SAM
from napari_zeroseg.cli import main
from napari_zeroseg.errors import DownloadError, InputError, LicenceError, WeightsError
from napari_zeroseg.phantom import em_like_stack
from napari_zeroseg.registry import download_model, find_model, offer_of, remove_model, verify
from napari_zeroseg.weights import locate
from napari_zeroseg.weights.cards import model_folder, read_card
from napari_zeroseg.weights.repositories import is_repository, of_repository

from .conftest import QUICK, digest

NAME = "someone/mobile-sam-of-cells"
KEY = "someone--mobile-sam-of-cells"
REMEDY = f"zeroseg download mobile_sam --weights {NAME}"


@pytest.fixture(scope="module")
def published() -> bytes:
    """What the repository holds: real weights that are quick to load."""
    return MOBILE_SAM.weights.path.read_bytes()


@pytest.fixture
def hub(site, monkeypatch, published):
    """A hub with that one repository."""
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    site.put(f"/{NAME}/resolve/main/model.safetensors", published)
    return site


def get(weights: str = NAME, **options) -> Path:
    return download_model("mobile_sam", weights=weights, **{"licence_accepted": True, "patience": QUICK, **options})


class TestNames:
    @pytest.mark.parametrize("name", ["facebook/sam-vit-base", "a/b", "CIDAS/clipseg-rd64-refined@v1.0"])
    def test_repositories(self, name):
        assert is_repository(name)

    @pytest.mark.parametrize(
        "name", ["sam.pth", "models/sam.pth", "a/b/c", "/a/b", "~/b", "../b", "a//b", "a/", "", None, Path("a/b"), {}]
    )
    def test_others(self, name):
        assert not is_repository(name)

    def test_what_lies_here_is_meant_first(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "owner" / "name").mkdir(parents=True)
        assert not is_repository("owner/name")
        with pytest.raises(WeightsError, match="The folder owner/name holds no weights"):
            load_model(weights="owner/name")

    @pytest.mark.parametrize("name", ["sam.pth", "https://hub/owner/name", "a/b/c"])
    def test_other_names_cannot_be_downloaded(self, name):
        with pytest.raises(InputError, match="is no repository on a hub: write it as OWNER/NAME"):
            get(name)

    def test_folders_of_long_and_of_like_names_differ(self):
        base = find_model("sam_vit_b")
        names = ["o" * 60 + "/n" + "m" * 60, "o" * 60 + "/n" + "k" * 60, "o/n", "o/n@v1"]
        folders = {model_folder(of_repository(base, name).key) for name in names}
        assert len(folders) == len(names)


class TestConsent:
    def test_of_our_own_table(self):
        said = offer_of("sam_vit_b", weights="facebook/sam-vit-base")
        assert (said.licence, said.hosts[0]) == ("Apache-2.0", "huggingface.co")

    def test_of_anyone(self):
        said = offer_of("sam_vit_b", weights=NAME).sentence("SAM")
        assert "LicenseRef-see-repository" in said
        assert f"Its publisher states it at https://huggingface.co/{NAME}." in said

    def test_nothing_comes_unasked(self, hub):
        with pytest.raises(WeightsError, match=REMEDY):
            load_model(weights=NAME)
        with pytest.raises(LicenceError, match=f"{REMEDY} --accept-licence"):
            get(licence_accepted=False)
        assert not hub.asked

    def test_offline(self, hub, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(DownloadError, match="forbids downloads: unset it, or get the file elsewhere"):
            get()
        assert not hub.asked


class TestPlaces:
    def test_the_hub(self, hub, published):
        path = get()
        assert path.parent == model_folder(KEY)
        assert read_card(KEY).sha256 == digest(published)
        model = load_model(weights=NAME, device="cpu", precision="float32")
        plane = em_like_stack(planes=1, size=128, seed=1)[0][0]
        answers = [
            m.predict(m.encode(plane), [Prompt([(64, 64)])])[0]
            for m in (model, load_model(device="cpu", precision="float32"))
        ]
        np.testing.assert_array_equal(*(answer.mask for answer in answers))
        assert get(licence_accepted=False) == path
        assert len(hub.asked) == 1

    def test_it_is_listed_verified_and_removed(self, hub):
        get()
        listed = {spec.key: spec for spec in list_models()}[KEY]
        assert (listed.title, listed.state) == (f"MobileSAM ({NAME})", "ready")
        assert listed.licence == "LicenseRef-see-repository"
        assert verify(KEY).ok
        remove_model(KEY)
        assert KEY not in {spec.key for spec in list_models()}
        assert find_model("mobile_sam").state == "ready"

    def test_a_mirror(self, site, published, monkeypatch):
        monkeypatch.setenv("ZEROSEG_MIRROR", site.url)
        site.put(f"/{NAME}/model.safetensors", published)
        assert get().read_bytes() == published

    def test_a_local_folder(self, hub, published, tmp_path, monkeypatch):
        monkeypatch.setenv("ZEROSEG_MODELS", str(tmp_path))
        folder = tmp_path / NAME
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(published)
        assert load_model(weights=NAME, device="cpu").spec.key == "mobile_sam"
        assert not hub.asked

    def test_the_hubs_cache(self, hub, published):
        commit, sha256 = "0" * 40, digest(published)
        home = Path(huggingface_hub.constants.HF_HUB_CACHE) / f"models--{NAME.replace('/', '--')}"
        for folder in ("blobs", "refs", f"snapshots/{commit}"):
            (home / folder).mkdir(parents=True)
        (home / "refs" / "main").write_text(commit)
        (home / "blobs" / sha256).write_bytes(published)
        (home / "snapshots" / commit / "model.safetensors").symlink_to(home / "blobs" / sha256)
        found = locate(of_repository(find_model("mobile_sam"), NAME))
        assert (found.where, found.sha256) == ("hub cache", sha256)
        assert load_model(weights=NAME, device="cpu").spec.key == "mobile_sam"
        assert not hub.asked

    def test_a_revision(self, hub, published):
        hub.put(f"/{NAME}/resolve/v2/pytorch_model.bin", b"")
        with pytest.raises(WeightsError, match=f"{REMEDY}@v2"):
            load_model(weights=f"{NAME}@v2")
        with pytest.raises(WeightsError, match=r"pytorch_model\.bin is empty"):
            get(f"{NAME}@v2")

    def test_there_is_none(self, hub):
        with pytest.raises(DownloadError, match=r"does not have the file \(404"):
            get("someone/nothing")

    def test_another_models_weights(self, hub):
        with pytest.raises(WeightsError, match=r"What came is not the file of SAM ViT-B .*: it is one of mobile_sam"):
            download_model("sam_vit_b", weights=NAME, licence_accepted=True, patience=QUICK)

    def test_another_models_repository(self):
        for key in ("medsam_vit_b", "sam_vit_b"):
            with pytest.raises(InputError, match="wanglab/medsam-vit-base holds the weights of medsam_vit_b_2023_04"):
                load_model(key, weights="wanglab/medsam-vit-base")


def test_the_command_line(hub, tmp_path, capsys):
    picture, labels = tmp_path / "picture.npy", tmp_path / "labels.npy"
    np.save(picture, em_like_stack(planes=1, size=128, seed=1)[0][0])
    command = ["segment", picture, "--point", "64,64", "-o", labels, "--weights", NAME, "--device", "cpu"]
    command = [str(part) for part in command]
    assert main(command) == 1
    assert REMEDY in capsys.readouterr().err
    assert main(["download", "mobile_sam", "--weights", NAME, "--accept-licence", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["key"] == KEY
    assert main(command) == 0
    assert np.load(labels).any()

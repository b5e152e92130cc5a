"""A model's download: licence, sources, mirror, hub, the first hash, several processes, a kill."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch

from napari_zeroseg.catalogue import BUILT_IN, MOBILE_SAM
from napari_zeroseg.errors import CancelledError, DownloadError, InputError, LicenceError, WeightsError, WriteError
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.registry import find_model
from napari_zeroseg.weights import WeightsSource, locate, remove_model, verify, weights_of
from napari_zeroseg.weights.adding import add_checkpoint
from napari_zeroseg.weights.cards import model_folder, pins_of, read_card
from napari_zeroseg.weights.download import download_model, offer_of
from napari_zeroseg.weights.holding import one_at_a_time

from .conftest import QUICK, Answer, clipseg_file, digest, spec_of, weights_file


def pickled(state: object) -> bytes:
    """A file as torch.save writes it."""
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


class Runs:
    """What wants to run code when it is opened."""

    def __reduce__(self):
        return os.getcwd, ()


def get(spec, **options) -> Path:
    return download_model(spec, **{"licence_accepted": True, "patience": QUICK, **options})


@pytest.fixture
def toy(site, content):
    """A model whose file is on the server, with its published hash."""
    url = site.put("/toy.safetensors", content)
    return spec_of(WeightsSource(url, digest(content), len(content)))


@pytest.fixture
def unpublished(site, content):
    """A model of which nobody has published a hash."""
    return spec_of(WeightsSource(site.put("/toy.safetensors", content)))


def test_from_needs_download_to_ready_and_back(toy, content):
    assert toy.state == "needs download"
    with pytest.raises(
        WeightsError, match=r"not on this machine: download them \(300 kB\) with `zeroseg download toy`"
    ):
        weights_of(toy)
    path = get(toy)
    assert toy.state == "ready"
    assert path.read_bytes() == content
    assert weights_of(toy).sha256 == digest(content)
    assert weights_of(toy).tensors.keys() == {"numbers"}
    card = read_card("toy")
    assert (card.hash_from, card.sha256, card.source) == ("published", digest(content), toy.weights.location)
    assert sorted(entry.name for entry in path.parent.iterdir()) == [".lock", "card.json", "toy.safetensors"]
    remove_model(toy)
    assert toy.state == "needs download"
    assert not model_folder("toy").exists()


def test_what_is_there_is_not_fetched_again(toy, site):
    assert get(toy) == get(toy, licence_accepted=False)
    assert len(site.asked) == 1


class TestConsent:
    def test_size_and_licence_are_told_before(self, toy, site):
        offer = offer_of(toy)
        assert (offer.size, offer.licence, offer.hosts) == ("300 kB", "BSD-3-Clause", ("127.0.0.1",))
        with pytest.raises(
            LicenceError, match=r"300 kB from 127\.0\.0\.1\. Licence of the weights: BSD-3-Clause\."
        ) as e:
            get(toy, licence_accepted=False)
        assert "--accept-licence" in str(e.value)
        assert not site.asked

    def test_clipsegs_authors_are_quoted(self):
        said = offer_of(find_model("clipseg_rd64_refined")).sentence("CLIPSeg")
        assert said.startswith("CLIPSeg: about 603 MB from huggingface.co. Licence of the weights: Apache-2.0. ")
        assert "the authors say that the MIT licence of their code does not cover them" in said

    @pytest.mark.parametrize("variable", ["ZEROSEG_OFFLINE", "HF_HUB_OFFLINE"])
    def test_offline(self, toy, site, monkeypatch, variable):
        monkeypatch.setenv(variable, "1")
        with pytest.raises(DownloadError, match="forbids downloads: unset it, or get the file elsewhere"):
            get(toy)
        assert not site.asked


class TestSources:
    def test_the_next_one_where_the_first_has_nothing(self, site, content):
        site.put("/second/toy.pth", content)
        spec = spec_of(
            WeightsSource(f"{site.url}/none.pth"), WeightsSource(f"{site.url}/second/toy.pth", digest(content))
        )
        assert get(spec).name == "toy.pth"

    def test_what_came_of_the_first_goes_when_the_second_has_come(self, site, content):
        first = WeightsSource(f"{site.url}/first.pth", digest(b"it"), 1000)
        site.put("/first.pth", b"0" * 1000, *[Answer(break_at=400) for _ in range(9)])
        site.put("/second/toy.pth", content)
        spec = spec_of(first, WeightsSource(f"{site.url}/second/toy.pth", digest(content)))
        path = get(spec)
        assert sorted(entry.name for entry in path.parent.iterdir()) == [".lock", "card.json", "toy.pth"]

    def test_both_places_are_told(self):
        said = offer_of(find_model("sam_vit_b")).sentence("SAM")
        assert said.startswith("SAM: 375 MB from dl.fbaipublicfiles.com (else from huggingface.co). Licence")

    def test_none_works(self, site):
        spec = spec_of(WeightsSource(f"{site.url}/a.pth"), WeightsSource(f"{site.url}/b.pth"))
        with pytest.raises(
            DownloadError,
            match=r"does not have the file \(404 for .*a\.pth\).*Its other file there did not come either",
        ):
            get(spec)

    def test_a_mirror_takes_the_place_of_all(self, site, content, monkeypatch):
        site.put("/mirror/toy.pth", content)
        spec = spec_of(WeightsSource("https://publisher.invalid/files/toy.pth", digest(content), len(content)))
        monkeypatch.setenv("ZEROSEG_MIRROR", f"{site.url}/mirror/")
        assert get(spec).read_bytes() == content

    def test_a_mirror_makes_downloadable_what_only_users_could_bring(self, site, content, monkeypatch):
        spec = spec_of(WeightsSource("bring:toy.pth", digest(content)))
        assert spec.state == "bring a file"
        with pytest.raises(WeightsError, match=r"get toy\.pth from its publisher, then add it with `zeroseg add FILE"):
            get(spec)
        monkeypatch.setenv("ZEROSEG_MIRROR", site.url)
        site.put("/toy.pth", content)
        assert spec.state == "needs download"
        assert get(spec).read_bytes() == content

    def test_nothing_is_known_of_pa_sam(self, monkeypatch):
        monkeypatch.setenv("ZEROSEG_MIRROR", "http://mirror.invalid")
        spec = find_model("pa_sam_vit_b")
        assert spec.state == "bring a file"
        with pytest.raises(
            WeightsError, match=r"get the file from https://github\.com/.*zeroseg add FILE --key pa_sam_vit_b"
        ):
            weights_of(spec)


class TestHub:
    """A hub as huggingface_hub has it: /OWNER/NAME/resolve/REVISION/FILE, which sends large files elsewhere."""

    spec = spec_of(
        WeightsSource("hub:someone/toy-model/model.safetensors", companions=("vocab.json",)),
        WeightsSource("hub:someone/toy-model@v2/pytorch_model.bin", companions=("vocab.json",)),
    )

    @pytest.fixture(autouse=True)
    def endpoint(self, site, monkeypatch):
        monkeypatch.setenv("HF_ENDPOINT", site.url)

    def publish(self, site, content, told=None):
        site.put("/someone/toy-model/resolve/main/vocab.json", b'{"a": 0}')
        site.put("/storage", content)
        headers = {"Location": "/storage", "X-Linked-Etag": f'"{told or digest(content)}"'}
        site.put("/someone/toy-model/resolve/main/model.safetensors", b"", Answer(status=302, headers=headers))

    def test_all_files_come_and_the_hubs_hash_is_checked(self, site, content):
        self.publish(site, content)
        seen = []
        path = get(self.spec, progress=lambda *at: seen.append(at))
        assert path.read_bytes() == content
        assert (path.parent / "vocab.json").read_bytes() == b'{"a": 0}'
        card = read_card("toy")
        # the hub may say another hash tomorrow: only one that is known here counts as published
        assert (card.hash_from, card.companions) == ("first download", {"vocab.json": digest(b'{"a": 0}')})
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)
        assert seen[-1] == (len(content) + 8, len(content) + 8)
        assert weights_of(self.spec).folder == path.parent

    def test_the_hub_sends_something_else(self, site, content):
        self.publish(site, content, told=digest(b"other"))
        with pytest.raises(DownloadError, match="wrong hash"):
            get(self.spec)

    def test_a_missing_companion_makes_it_not_ready(self, site, content):
        self.publish(site, content)
        (get(self.spec).parent / "vocab.json").unlink()
        assert self.spec.state == "needs download"

    @pytest.mark.parametrize("page", [b"<!DOCTYPE html>", b"", b"{not json"])
    def test_a_companion_that_is_none(self, site, content, page):
        self.publish(site, content)
        site.put("/someone/toy-model/resolve/main/vocab.json", page)
        with pytest.raises(WeightsError, match=r"vocab\.json is not what belongs to the model"):
            get(self.spec)
        assert self.spec.state == "needs download"
        self.publish(site, content)
        assert get(self.spec).read_bytes() == content

    def test_a_changed_companion_is_found(self, site, content):
        self.publish(site, content)
        (get(self.spec).parent / "vocab.json").write_text("{}")
        report = verify(self.spec)
        assert not report.ok
        assert report.sentence.startswith("vocab.json beside")

    def test_a_later_vocabulary_that_differs_is_told(self, site, content):
        self.publish(site, content)
        vocabulary = get(self.spec).parent / "vocab.json"
        remove_model(self.spec)
        self.publish(site, content)
        site.put("/someone/toy-model/resolve/main/vocab.json", b'{"b": 0}')
        with pytest.raises(WeightsError, match=r"now gives another vocab\.json for Toy") as caught:
            get(self.spec)
        assert not vocabulary.exists()
        assert caught.value.sha256 == digest(b'{"b": 0}')
        assert read_card("toy").companions == {"vocab.json": digest(b'{"a": 0}')}
        self.publish(site, content)
        site.put("/someone/toy-model/resolve/main/vocab.json", b'{"b": 0}')
        get(self.spec, accept_change=caught.value.sha256)
        assert vocabulary.read_bytes() == b'{"b": 0}'

    def test_another_revision_and_another_name(self, site):
        site.put("/someone/toy-model/resolve/v2/vocab.json", b"{}")
        site.put("/someone/toy-model/resolve/v2/pytorch_model.bin", pickled({"numbers": torch.zeros(3)}))
        assert get(self.spec).name == "pytorch_model.bin"

    def test_a_repository_that_is_not_there(self, site):
        for name in ("main/vocab.json", "v2/vocab.json"):
            no = Answer(status=401, headers={"X-Error-Code": "RepoNotFound"})
            site.put(f"/someone/toy-model/resolve/{name}", b"", no)
        with pytest.raises(DownloadError, match=r"knows no such repository as that of http.*/someone/toy-model/"):
            get(self.spec)

    def test_a_hub_library_that_does_not_work_takes_nothing_away(self, site, content, monkeypatch, caplog):
        self.publish(site, content)
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        assert self.spec.state == "needs download"
        assert "cannot be imported" in caplog.text
        assert get(self.spec).read_bytes() == content

    def test_a_login_is_for_the_hub_alone(self, site, content, monkeypatch):
        self.publish(site, content)
        monkeypatch.setenv("HF_TOKEN", "hf_made_up")
        get(self.spec)
        assert all(headers.get("Authorization") == "Bearer hf_made_up" for _, headers in site.asked[:2])
        monkeypatch.setenv("ZEROSEG_MIRROR", f"{site.url}/mirror")
        site.asked.clear()
        with pytest.raises(DownloadError):
            get(replace(self.spec, key="again"))
        assert site.asked
        assert not any("Authorization" in headers for _, headers in site.asked)

    def test_what_the_hubs_own_cache_has_is_used(self, site, content, tmp_path):
        cached = Path(huggingface_hub.constants.HF_HUB_CACHE) / "models--someone--toy-model"
        snapshot = cached / "snapshots" / "0123abcd"
        snapshot.mkdir(parents=True)
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text("0123abcd")
        (cached / "blobs").mkdir()
        blob = cached / "blobs" / digest(content)
        blob.write_bytes(content)
        (snapshot / "model.safetensors").symlink_to(blob)
        assert self.spec.state == "needs download"  # without its companion it is of no use
        (snapshot / "vocab.json").write_text("{}")
        assert self.spec.state == "ready"
        assert get(self.spec) == snapshot / "model.safetensors"
        assert weights_of(self.spec).folder == snapshot
        assert not site.asked
        with pytest.raises(WeightsError, match=r"lie in a hub cache at .*: remove them there"):
            remove_model(self.spec)
        blob.write_bytes(content[:-1] + b"!")
        with pytest.raises(WeightsError, match="not those that they should be"):
            weights_of(self.spec)


class TestFirstHash:
    def test_it_is_kept_and_a_difference_is_told(self, unpublished, site, content):
        path = get(unpublished)
        assert read_card("toy").hash_from == "first download"
        remove_model(unpublished)
        assert not path.exists()
        assert read_card("toy").sha256 == digest(content)
        assert get(unpublished).read_bytes() == content
        remove_model(unpublished)
        other = weights_file(seed=1)
        site.put("/toy.safetensors", other)
        with pytest.raises(WeightsError, match=r"now gives another file for Toy than on 20.*--accept-change") as caught:
            get(unpublished)
        assert digest(other)[:12] in str(caught.value)
        assert caught.value.sha256 == digest(other)
        assert unpublished.state == "needs download"
        site.put("/toy.safetensors", weights_file(seed=2))  # neither the first nor the one that was shown
        with pytest.raises(WeightsError, match="now gives another file"):
            get(unpublished, accept_change=digest(other)[:12])
        assert read_card("toy").sha256 == digest(content)
        with pytest.raises(InputError, match="eight or more digits"):
            get(unpublished, accept_change="yes")
        site.put("/toy.safetensors", other)
        assert get(unpublished, accept_change=digest(other)[:12]).read_bytes() == other
        assert read_card("toy").sha256 == digest(other)

    def test_it_outlives_a_file_of_another_name(self, site, content):
        spec = spec_of(WeightsSource(f"{site.url}/toy.safetensors"), WeightsSource(f"{site.url}/toy.pth"))
        site.put("/toy.safetensors", content)
        get(spec)
        remove_model(spec)
        del site.files["/toy.safetensors"]
        site.put("/toy.pth", pickled({"numbers": torch.zeros(3)}))
        assert get(spec).name == "toy.pth"
        assert set(pins_of("toy")) == {"toy.safetensors", "toy.pth"}
        remove_model(spec)
        site.put("/toy.safetensors", other := weights_file(seed=1))
        with pytest.raises(WeightsError, match=rf"another file for Toy than on .*then {digest(content)[:12]}"):
            get(spec)
        get(spec, accept_change=digest(other))
        assert pins_of("toy")["toy.safetensors"].sha256 == digest(other)

    def test_it_outlives_a_file_that_the_user_adds(self, unpublished, site, content, tmp_path):
        get(unpublished)
        remove_model(unpublished)
        for name in ("toy.safetensors", "mine.safetensors"):
            (tmp_path / name).write_bytes(weights_file(seed=1))
        with pytest.raises(WeightsError, match=r"not the one that was downloaded first as Toy .*a name of its own"):
            add_checkpoint(tmp_path / "toy.safetensors", {"toy": unpublished}, "toy")
        assert add_checkpoint(tmp_path / "mine.safetensors", {"toy": unpublished}, "toy") == "toy"
        assert read_card("toy").hash_from == "when it was added"
        remove_model(unpublished)
        assert unpublished.state == "needs download"
        assert read_card("toy") is None
        site.put("/toy.safetensors", weights_file(seed=1))
        with pytest.raises(WeightsError, match=rf"another file for Toy than on .*then {digest(content)[:12]}"):
            get(unpublished)
        site.put("/toy.safetensors", content)
        assert get(unpublished).read_bytes() == content

    def test_pins_that_cannot_be_read_are_told_and_left_out(self, unpublished, caplog):
        model_folder("toy").mkdir(parents=True)
        (model_folder("toy") / "pins.json").write_text("[1")
        assert not pins_of("toy")
        assert "pins.json cannot be read" in caplog.text

    @pytest.mark.parametrize("name", ["toy.safetensors", "toy.pth"])
    def test_a_web_page_is_not_kept(self, site, name):
        spec = spec_of(WeightsSource(site.put(f"/{name}", b"<!DOCTYPE html><html>Please confirm</html>")))
        with pytest.raises(WeightsError, match=f"{name} is a web page, not weights"):
            get(spec)
        assert spec.state == "needs download"
        assert not model_folder("toy").exists()

    def test_a_file_that_is_cut_off_on_the_server(self, site, content):
        spec = spec_of(WeightsSource(site.put("/toy.safetensors", content[:-9])))
        with pytest.raises(WeightsError, match=r"cut off: 300,071 of 300,080 bytes"):
            get(spec)


class TestOthersFiles:
    """What is not the model's own."""

    def test_another_models_file_is_not_remembered_as_the_right_one(self, site, monkeypatch):
        spec = find_model("sam_vit_b")
        hub = next(source.hub for source in spec.sources if source.hub)
        monkeypatch.setenv("HF_ENDPOINT", site.url)
        other = MOBILE_SAM.weights.path.read_bytes()
        site.put(f"/{hub.repository}/resolve/main/{hub.file}", other)
        spec = replace(spec, weights=WeightsSource(f"hub:{hub.repository}/{hub.file}"), alternatives=())
        with pytest.raises(WeightsError, match=r"What came is not the file of SAM ViT-B: it is one of .*mobile_sam"):
            get(spec)
        assert read_card("sam_vit_b") is None

    def test_nor_in_a_file_of_torch(self, site, monkeypatch):
        """The parameters decide in a pickle too."""
        monkeypatch.setenv("ZEROSEG_MIRROR", site.url)
        site.put("/CIDAS/clipseg-rd16/model.safetensors", b"", *[Answer(status=404)] * 3)
        for name in ("config.json", "vocab.json", "merges.txt"):
            site.put(f"/CIDAS/clipseg-rd16/{name}", b"{}")
        stem = {"image_encoder.patch_embed.seq.0.c.weight": torch.zeros(32, 3, 3, 3)}
        site.put("/CIDAS/clipseg-rd16/pytorch_model.bin", pickled(stem))
        spec = find_model("clipseg_rd16")
        with pytest.raises(WeightsError, match=r"not the file of CLIPSeg rd16: it is one of mobile_sam"):
            get(spec)
        site.put("/CIDAS/clipseg-rd16/pytorch_model.bin", pickled({"fc.weight": torch.zeros(3)}))
        with pytest.raises(WeightsError, match=r"it holds fc\.weight and other entries unknown here"):
            get(spec)
        site.put("/CIDAS/clipseg-rd16/pytorch_model.bin", pickled(Runs()))
        with pytest.raises(WeightsError, match=r"^pytorch_model\.bin .* wants to run code .* Convert it"):
            get(spec)
        assert read_card("clipseg_rd16") is None
        assert not list(model_folder("clipseg_rd16").glob(".pytorch_model.bin.part*"))

    def test_nothing_is_removed_under_a_download(self, toy, content):
        path = get(toy)
        with one_at_a_time(path.parent, CancelToken()), pytest.raises(WriteError, match="is being downloaded or added"):
            remove_model(toy)
        assert path.read_bytes() == content
        remove_model(toy)
        assert not path.parent.exists()
        with pytest.raises(WeightsError, match="not on this machine"):
            remove_model(toy)


class TestVerify:
    def test_whole_and_damaged(self, toy, content):
        path = get(toy)
        report = verify(toy)
        assert (report.ok, report.sha256, report.expected) == (True, digest(content), digest(content))
        assert report.sentence.endswith("as published.")
        state = path.stat()
        path.write_bytes(content[:-1] + b"!")
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # as a failing disk changes it
        report = verify(toy)
        assert not report.ok
        assert "has changed or is damaged" in report.sentence

    def test_a_changed_file_is_not_loaded(self, toy, content):
        path = get(toy)
        path.write_bytes(weights_file(seed=1))
        with pytest.raises(
            WeightsError, match=r"are not those that they should be .* remove that file and get it again"
        ):
            weights_of(toy)

    def test_not_there(self, toy):
        with pytest.raises(WeightsError, match="download them"):
            verify(toy)
        with pytest.raises(WeightsError, match="nothing to remove"):
            remove_model(toy)

    def test_inside_the_package(self):
        spec = find_model("mobile_sam")
        assert verify(spec).ok
        with pytest.raises(WeightsError, match="part of napari-zeroseg and cannot be removed"):
            remove_model(spec)

    @pytest.mark.parametrize("text", ["", "{}", "[1]", '{"key": "toy"}', "{"])
    def test_a_damaged_card_is_no_card(self, toy, text, caplog):
        path = get(toy)
        (path.parent / "card.json").write_text(text)
        assert toy.state == "needs download"
        assert "cannot be read" in caplog.text
        assert get(toy) == path


class TestLocalFolders:
    def test_a_folder_of_the_institute(self, toy, content, tmp_path, monkeypatch):
        monkeypatch.setenv("ZEROSEG_MODELS", os.pathsep.join((str(tmp_path / "none"), str(tmp_path))))
        path = tmp_path / "toy.safetensors"
        path.write_bytes(content[:1000])
        assert toy.state == "needs download"
        path.write_bytes(content)
        assert toy.state == "ready"
        assert get(toy) == path
        assert locate(toy).where == "local folder"
        path.write_bytes(content[:-1] + b"!")
        with pytest.raises(WeightsError, match="not those that they should be"):
            weights_of(toy)

    def test_a_folder_that_may_not_be_read_is_left_out(self, toy, content, tmp_path, monkeypatch, caplog):
        """Root may read everything, so the refusal is made here."""
        for name in ("secret", "open"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "toy.safetensors").write_bytes(content)
        monkeypatch.setenv("ZEROSEG_MODELS", os.pathsep.join(str(tmp_path / name) for name in ("secret", "open")))
        is_file = Path.is_file

        def refused(path: Path) -> bool:
            if path.parent.name == "secret":
                raise PermissionError(13, "Permission denied", str(path))
            return is_file(path)

        monkeypatch.setattr(Path, "is_file", refused)
        found = locate(toy)
        assert found is not None
        assert found.path == tmp_path / "open" / "toy.safetensors"
        assert "secret cannot be read and is left out (Permission denied)" in caplog.text

    @pytest.mark.parametrize("place", ["sam-vit-base", "facebook/sam-vit-base"])
    def test_a_clone_of_a_repository(self, content, tmp_path, monkeypatch, place):
        monkeypatch.setenv("ZEROSEG_MODELS", str(tmp_path))
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "model.safetensors").write_bytes(content)
        assert find_model("sam_vit_b").state == "ready"

    @pytest.mark.parametrize(
        ("key", "repository"),
        [("sam_vit_h", "facebook--sam-vit-huge"), ("medsam_vit_b_2023_04", "wanglab--medsam-vit-base")],
    )
    def test_a_hubs_cache_of_years_ago_holds_the_file_of_torch_alone(self, key, repository):
        cached = Path(huggingface_hub.constants.HF_HUB_CACHE) / f"models--{repository}"
        (cached / "snapshots" / "0123abcd").mkdir(parents=True)
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text("0123abcd")
        file = cached / "snapshots" / "0123abcd" / "pytorch_model.bin"
        file.write_bytes(pickled({"fc.weight": torch.zeros(3)}))
        found = locate(find_model(key))
        assert found is not None
        assert (found.path, found.where) == (file, "hub cache")

    def test_a_file_named_after_the_model(self, content, tmp_path, monkeypatch):
        monkeypatch.setenv("ZEROSEG_MODELS", str(tmp_path))
        (tmp_path / "pa_sam_vit_l.safetensors").write_bytes(content)
        assert find_model("pa_sam_vit_l").state == "ready"
        assert find_model("pa_sam_vit_b").state == "bring a file"


GET = """
import sys
from napari_zeroseg.registry import download_model
from napari_zeroseg.weights.fetch import Patience
print(download_model("clipseg_rd16", licence_accepted=True, patience=Patience(5, 5, 3, 0.01)))
"""


class TestProcesses:
    """Children download a built-in model whose hash nobody publishes, from a mirror that holds a small file."""

    FOLDER = "/CIDAS/clipseg-rd16"

    @pytest.fixture
    def content(self):
        return clipseg_file()

    @pytest.fixture
    def start(self, site, monkeypatch):
        for name in ("config.json", "vocab.json", "merges.txt"):
            site.put(f"{self.FOLDER}/{name}", b"{}")
        monkeypatch.setenv("ZEROSEG_MIRROR", site.url)
        children: list[subprocess.Popen[str]] = []

        def begin() -> subprocess.Popen[str]:
            children.append(
                subprocess.Popen([sys.executable, "-c", GET], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            )
            return children[-1]

        yield begin
        for child in children:
            child.kill()
            child.communicate()

    def test_two_at_once_fetch_once(self, site, start, content):
        site.put(f"{self.FOLDER}/model.safetensors", content, Answer(pace=0.05))
        outputs = [child.communicate(timeout=60) for child in (start(), start())]
        assert outputs[0] == outputs[1]
        assert Path(outputs[0][0].strip()).read_bytes() == content
        assert len(site.ranges(f"{self.FOLDER}/model.safetensors")) == 1

    @pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
    def test_a_kill_costs_only_the_last_bytes(self, site, start, content):
        site.put(f"{self.FOLDER}/model.safetensors", content, Answer(pace=0.2))
        child = start()
        part = model_folder("clipseg_rd16") / ".model.safetensors.part"
        end = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size > 100_000):
            assert time.monotonic() < end
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        out, _ = start().communicate(timeout=60)
        assert Path(out.strip()).read_bytes() == content
        again = site.ranges(f"{self.FOLDER}/model.safetensors")[-1]
        assert int(again.removeprefix("bytes=").removesuffix("-")) > 90_000


def test_waiting_for_another_one_can_be_cancelled(toy):
    folder = model_folder("toy")
    folder.mkdir(parents=True)
    token = CancelToken()
    threading.Timer(0.3, token.cancel).start()
    with one_at_a_time(folder, CancelToken()), pytest.raises(CancelledError):
        get(toy, cancel=token)


def test_a_file_where_the_models_folder_should_be(toy, tmp_path, monkeypatch):
    (tmp_path / "data").write_text("a file")
    monkeypatch.setenv("ZEROSEG_DATA_DIR", str(tmp_path / "data"))
    with pytest.raises(WriteError, match="cannot be made"):
        get(toy)


def test_an_unfinished_download_can_be_thrown_away(toy, site, content):
    site.put("/toy.safetensors", content, *[Answer(break_at=100_000, ranges=False)] * 9)
    with pytest.raises(DownloadError):
        get(toy)
    folder = model_folder("toy")
    assert json.loads((folder / ".toy.safetensors.part.json").read_text())["total"] == len(content)
    remove_model(toy)
    assert not folder.exists()


def test_every_entry_of_the_catalogue_can_be_shown():
    assert len({spec.key for spec in BUILT_IN}) == len(BUILT_IN)
    for spec in BUILT_IN:
        assert spec.state in ("ready", "needs download", "bring a file")
        assert spec.title
        assert spec.licence
        assert spec.description
        assert spec.memory_bytes
        assert spec.size_name
        for source in spec.sources:
            assert len(source.sha256) in (0, 64)

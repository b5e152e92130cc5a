"""The Models dock: states, downloads from a server on this machine, verifying, removing, adding."""

from __future__ import annotations

import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from napari.utils.notifications import notification_manager
from qtpy.QtWidgets import QFileDialog
from safetensors.numpy import save

from napari_zeroseg import load_model
from napari_zeroseg._napari.engine import ModelChoice
from napari_zeroseg._napari.keeper import ADDING
from napari_zeroseg.jobs import shared_queue
from napari_zeroseg.models.pa_decoder import PaMaskDecoder
from napari_zeroseg.models.sam import SamNetwork
from napari_zeroseg.models.tiny_vit import TinyViT
from napari_zeroseg.registry import MOBILE_SAM, add_checkpoint, remove_model
from napari_zeroseg.training.result import export_model
from napari_zeroseg.weights import read_weights
from napari_zeroseg.weights.cards import model_folder

KEY = "toy_afar"


@pytest.fixture
def dock(make_napari_viewer, open_models, toys):
    return open_models(make_napari_viewer())


@pytest.fixture
def said():
    """What napari's notifications say."""
    heard = []
    notification_manager.notification_ready.connect(heard.append)
    yield heard
    notification_manager.notification_ready.disconnect(heard.append)


@pytest.fixture
def server(monkeypatch):
    """A mirror that holds the weights of the toy from afar, and can be slow."""
    content = save({"numbers": np.random.default_rng(0).standard_normal(300_000, np.float32)})
    state = {"pace": 0.0, "content": content, "asked": 0, "status": 200}

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            state["asked"] += 1
            content = state["content"]
            if state["status"] != 200:
                self.send_error(state["status"])
                return
            begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
            self.send_response(206 if begin else 200)
            self.send_header("Content-Length", str(len(content) - begin))
            self.send_header("ETag", '"one"')
            if begin:
                self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            for start in range(begin, len(content), 20_000):
                self.wfile.write(content[start : start + 20_000])
                time.sleep(state["pace"])

        def handle_error(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_):
            pass  # a client that goes away is what a test is about

    running = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ZEROSEG_MIRROR", f"http://127.0.0.1:{running.server_port}")
    yield state
    running.shutdown()
    thread.join()
    running.server_close()


def until(qtbot, condition, timeout=60_000):
    qtbot.waitUntil(lambda: bool(condition()), timeout=timeout)


def rest(dock, qtbot):
    """Wait until nothing is being done."""
    until(qtbot, lambda: not dock.zoo.errands and shared_queue().is_idle)
    qtbot.wait(60)


def fetch(dock, qtbot):
    """Download the toy from afar, with consent."""
    dock.show_model(KEY)
    until(qtbot, lambda: dock.download.isVisibleTo(dock) and dock.download.isEnabled())
    dock.download.click()
    dock.question.yes.click()


def shown(label):
    """What a label says, without its places for line breaks."""
    return label.text().replace("\u200b", "")


class TestList:
    def test_states_by_family(self, dock):
        families = [dock.tree.topLevelItem(i).text(0) for i in range(dock.tree.topLevelItemCount())]
        assert families == ["SAM", "MedSAM", "PA-SAM", "CLIPSeg", "Toys"]
        states = {key: dock.tree.state_of(key) for key in ("mobile_sam", "sam_vit_b", "pa_sam_vit_b")}
        assert states == {"mobile_sam": "ready", "sam_vit_b": "needs download", "pa_sam_vit_b": "bring a file"}

    @pytest.mark.parametrize(
        ("key", "buttons", "words"),
        [
            ("mobile_sam", {"verify", "remove"}, ["20 MB", "Apache-2.0", "the package"]),
            ("sam_vit_b", {"download"}, ["375 MB", "points, box, mask"]),
            ("lite_medsam", {"bring"}, ["lite_medsam.pth", "bring a file"]),
            ("clipseg_rd64", {"download"}, ["about 603 MB", "MIT licence of their code"]),
            ("pa_sam_vit_l", {"bring"}, ["state no licence"]),
        ],
    )
    def test_details(self, dock, key, buttons, words):
        dock.show_model(key)
        there = {name for name in ("download", "bring", "verify", "remove") if getattr(dock, name).isVisibleTo(dock)}
        assert there == buttons
        assert all(word in dock.details.text().replace("\u200b", "") for word in words)

    def test_the_embedded_model_cannot_be_removed(self, dock):
        dock.show_model("mobile_sam")
        assert not dock.remove.isEnabled()
        assert "part of napari-zeroseg" in dock.remove.toolTip()

    def test_what_lies_elsewhere_is_removed_there(self, dock, qtbot, tmp_path, monkeypatch):
        (tmp_path / "toy_afar.safetensors").write_bytes(save({"numbers": np.zeros(3)}))
        monkeypatch.setenv("ZEROSEG_MODELS", str(tmp_path))
        dock.zoo.refresh()
        until(qtbot, lambda: dock.tree.state_of(KEY) == "ready")
        dock.show_model(KEY)
        assert not dock.remove.isEnabled()
        assert "lies in a local folder" in dock.remove.toolTip()


class TestDownload:
    def test_the_licence_is_shown_first(self, dock, server, qtbot):
        dock.show_model(KEY)
        dock.download.click()
        assert dock.question.isVisibleTo(dock)
        text = dock.question.text.text()
        assert text.startswith("Flood from afar: about 1 MB from 127.0.0.1. Licence of the weights: CC-BY-4.0.")
        assert "ask to be cited" in text
        dock.question.no.click()
        rest(dock, qtbot)
        assert server["asked"] == 0
        assert not dock.question.isVisibleTo(dock)

    def test_progress_stop_and_resume(self, dock, server, qtbot):
        server["pace"] = 0.02
        dock.show_model(KEY)
        dock.download.click()
        dock.question.yes.click()
        until(qtbot, lambda: dock.progress.value() > 100)
        assert dock.errand.isVisibleTo(dock)
        assert "Downloading:" in dock.progress.format()
        assert dock.tree.state_of(KEY).endswith("% there")
        dock.stop.click()
        rest(dock, qtbot)
        until(qtbot, lambda: "goes on from there" in dock.status.text().replace("\u200b", ""))
        assert dock.tree.state_of(KEY) == "needs download"
        server["pace"] = 0
        dock.download.click()
        dock.question.yes.click()
        until(qtbot, lambda: dock.tree.state_of(KEY) == "ready")
        rest(dock, qtbot)
        until(qtbot, lambda: "is ready" in dock.status.text())
        assert server["asked"] >= 2

    def test_verify_then_remove(self, dock, server, qtbot, said):
        dock.show_model(KEY)
        dock.download.click()
        dock.question.yes.click()
        until(qtbot, lambda: dock.tree.state_of(KEY) == "ready")
        rest(dock, qtbot)
        dock.verify.click()
        until(qtbot, lambda: "is whole" in dock.status.text())
        with Path(dock.zoo.entries[KEY].path).open("r+b") as file:
            file.seek(1000)
            file.write(b"damage")
        dock.verify.click()
        until(qtbot, lambda: "damaged" in dock.status.text())
        assert "Remove it and get it again" in said[-1].message
        dock.remove.click()
        assert "Delete the weights of Flood from afar" in dock.question.text.text()
        dock.question.yes.click()
        until(qtbot, lambda: dock.tree.state_of(KEY) == "needs download")

    def test_a_changed_file_is_taken_only_if_the_user_says_so(self, dock, server, qtbot, said):
        fetch(dock, qtbot)
        until(qtbot, lambda: dock.tree.state_of(KEY) == "ready")
        dock.remove.click()
        dock.question.yes.click()
        until(qtbot, lambda: dock.tree.state_of(KEY) == "needs download")
        server["content"] = other = save({"numbers": np.random.default_rng(1).standard_normal(300_000, np.float32)})
        fetch(dock, qtbot)
        until(qtbot, lambda: dock.tree.state_of(KEY) == "file changed")
        until(qtbot, lambda: dock.question.isVisibleTo(dock))
        text = dock.question.text.text()
        assert "127.0.0.1 now gives another file for Flood from afar than on 20" in text
        assert "becomes what later ones are compared with" in text
        assert "now gives another file" in said[-1].message
        assert "--accept-change" not in said[-1].message
        dock.question.no.click()
        assert "now gives another file" in shown(dock.status) + shown(dock.details)
        dock.show_model("mobile_sam")
        assert not dock.accept.isVisibleTo(dock)
        dock.show_model(KEY)
        dock.accept.click()
        assert dock.question.text.text() == text
        dock.question.yes.click()
        until(qtbot, lambda: dock.tree.state_of(KEY) == "ready")
        rest(dock, qtbot)
        assert Path(dock.zoo.entries[KEY].path).read_bytes() == other
        assert not dock.accept.isVisibleTo(dock)

    def test_what_went_wrong_stays_beside_the_model(self, dock, server, qtbot):
        server["status"] = 404
        fetch(dock, qtbot)
        until(qtbot, lambda: dock.tree.state_of(KEY) == "download failed")
        dock.show_model("mobile_sam")
        dock.unload.click()
        until(qtbot, lambda: "nloaded" in shown(dock.status) or "No model" in shown(dock.status))
        assert "404" not in shown(dock.details)
        dock.show_model(KEY)
        assert "404" in shown(dock.details)
        server["status"] = 200
        fetch(dock, qtbot)
        until(qtbot, lambda: dock.tree.state_of(KEY) == "ready")
        assert "404" not in shown(dock.details)

    def test_no_network_is_said_before_consent_is_asked_for(self, dock, said, monkeypatch):
        monkeypatch.setenv("ZEROSEG_OFFLINE", "1")
        dock.show_model(KEY)
        dock.download.click()
        assert not dock.question.isVisibleTo(dock)
        assert "forbids downloads: unset it and start napari again" in said[-1].message
        assert "zeroseg add" not in said[-1].message + shown(dock.status)

    def test_the_window_stays_quick(self, dock, server, qtbot):
        server["pace"] = 0.005
        dock.show_model(KEY)
        dock.download.click()
        dock.question.yes.click()
        longest, last = 0.0, time.perf_counter()
        while KEY in dock.zoo.errands:
            qtbot.wait(1)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
        assert longest < 0.25  # generous: other processes may share the processor


class TestWhatIsDamaged:
    """What is half there can be removed, with the usual question."""

    def test_a_model_of_the_users_that_was_cut_off(self, dock, qtbot, tmp_path):
        (tmp_path / "flood.safetensors").write_bytes(save({"numbers": np.zeros(1_000_000)}))
        add_checkpoint(tmp_path / "flood.safetensors", "toy_brought", "mine")
        os.truncate(model_folder("mine") / "flood.safetensors", 3_000_000)
        dock.zoo.look()
        dock.show_model("mine")
        until(qtbot, lambda: dock.remove.isVisibleTo(dock) and dock.remove.isEnabled())
        assert not dock.verify.isVisibleTo(dock)
        assert "3 MB in the models folder, damaged or half there" in shown(dock.details)
        dock.remove.click()
        assert "what there is of the weights of mine in the models folder (3 MB)" in dock.question.text.text()
        dock.question.no.click()
        assert model_folder("mine").exists()
        dock.remove.click()
        dock.question.yes.click()
        until(qtbot, lambda: "no longer in the models folder" in shown(dock.status))
        assert "mine" not in dock.zoo.entries
        assert not model_folder("mine").exists()

    def test_half_a_download(self, dock, server, qtbot):
        server["pace"] = 0.02
        fetch(dock, qtbot)
        until(qtbot, lambda: dock.progress.value() > 100)
        assert not dock.remove.isEnabled()
        dock.stop.click()
        rest(dock, qtbot)
        until(qtbot, lambda: dock.remove.isVisibleTo(dock) and dock.remove.isEnabled())
        assert dock.download.isVisibleTo(dock)
        dock.remove.click()
        dock.question.yes.click()
        until(qtbot, lambda: "no longer in the models folder" in shown(dock.status))
        assert not dock.remove.isVisibleTo(dock)
        assert not model_folder(KEY).exists()


class TestStop:
    """A checkpoint of the user's, stopped while it is read, verified, copied or exported."""

    @pytest.fixture
    def stopped_at(self, dock, monkeypatch):
        """Press Stop as soon as a step of an errand begins."""

        def stopped_at(step, key):
            module, _, name = step.rpartition(".")
            doing = getattr(import_module(module), name)

            def do(*given, **options):
                dock.zoo.cancel(key)
                return doing(*given, **options)

            monkeypatch.setattr(step, do)

        return stopped_at

    def test_the_button_while_a_large_file_is_verified(self, dock, qtbot, tmp_path, monkeypatch):
        monkeypatch.setenv("ZEROSEG_MODELS", str(tmp_path))
        path = tmp_path / "toy_afar.safetensors"
        head = json.dumps({"numbers": {"dtype": "U8", "shape": [4 << 30], "data_offsets": [0, 4 << 30]}}).encode()
        path.write_bytes(len(head).to_bytes(8, "little") + head)
        os.truncate(path, 8 + len(head) + (4 << 30))  # of nothing, which takes no room, and long to hash
        dock.zoo.refresh()
        until(qtbot, lambda: dock.tree.state_of(KEY) == "ready")
        dock.show_model(KEY)
        dock.verify.click()
        until(qtbot, lambda: dock.errand.isVisibleTo(dock))
        begun = time.perf_counter()
        dock.stop.click()
        assert "Stopping" in dock.progress.format()
        until(qtbot, lambda: "Stopped. The files were not verified" in shown(dock.status))
        assert time.perf_counter() - begun < 2
        assert dock.tree.state_of(KEY) == "ready"

    @pytest.mark.parametrize(
        "step", ["napari_zeroseg._napari.looking.read_file", "napari_zeroseg.weights.adding.copy_file"]
    )
    def test_nothing_half_made_stays_of_an_adding(self, dock, qtbot, tmp_path, stopped_at, step):
        stopped_at(step, ADDING)
        (tmp_path / "flood.safetensors").write_bytes(save({"numbers": np.zeros(1_000_000)}))
        dock.keeper.add(tmp_path / "flood.safetensors", "toy_brought")
        until(qtbot, lambda: "Stopped. Nothing was added" in shown(dock.status))
        assert dock.zoo.entries["toy_brought"].state == "bring a file"
        assert not model_folder("toy_brought").exists()

    def test_nor_of_an_export_or_an_import(self, dock, qtbot, tmp_path, stopped_at):
        (tmp_path / "flood.safetensors").write_bytes(save({"numbers": np.zeros(1_000_000)}))
        add_checkpoint(tmp_path / "flood.safetensors", "toy_brought", "mine")
        export_model("mine", tmp_path / "sent.zip")
        dock.zoo.look()
        stopped_at("napari_zeroseg.training.result.put_into", "mine")
        dock.keeper.offer_export("mine", tmp_path / "other.zip")
        until(qtbot, lambda: "Stopped. No file was written" in shown(dock.status))
        remove_model("mine")
        dock.zoo.look()
        stopped_at("napari_zeroseg.training.result.take_out", ADDING)
        dock.keeper.add(tmp_path / "sent.zip")
        until(qtbot, lambda: "Stopped. Nothing was added" in shown(dock.status))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["flood.safetensors", "sent.zip"]
        assert not list(model_folder("mine").parent.glob("*"))


def mobile_sam_file(folder, spoil=None):
    """MobileSAM's weights as a file that a user has."""
    network = SamNetwork(TinyViT())
    network.load_state_dict(dict(read_weights(None, MOBILE_SAM.weights, MOBILE_SAM.title).tensors))
    state = network.state_dict()
    if spoil:
        spoil(state)
    path = folder / "my_mobile_sam.pt"
    torch.save(state, path)
    return path


class TestAdding:
    def test_it_asks_for_a_name_and_tries_first(self, dock, qtbot, tmp_path):
        dock.keeper.add(mobile_sam_file(tmp_path))
        until(qtbot, lambda: dock.question.isVisibleTo(dock))
        assert "give it a name of its own" in dock.question.text.text()
        assert not dock.question.choices.isVisibleTo(dock.question)
        assert dock.question.name.text() == "my_mobile_sam"
        dock.question.name.setText("")
        assert not dock.question.yes.isEnabled()
        dock.question.name.setText("mitochondria")
        dock.question.yes.click()
        until(qtbot, lambda: "works on a test picture" in dock.status.text())
        assert dock.tree.state_of("mitochondria") == "ready"
        assert load_model("mitochondria").spec.base == "mobile_sam"
        dock.remove.click()
        dock.question.yes.click()
        until(qtbot, lambda: "mitochondria" not in dock.zoo.entries)

    def test_a_model_goes_away_as_one_file_and_comes_back(self, dock, qtbot, tmp_path, monkeypatch):
        dock.keeper.add(mobile_sam_file(tmp_path))
        until(qtbot, lambda: dock.question.isVisibleTo(dock))
        dock.question.name.setText("mine")
        dock.question.yes.click()
        until(qtbot, lambda: "works on a test picture" in dock.status.text())
        assert dock.key == "mine"
        target = tmp_path / "sent.zip"
        target.write_bytes(b"something else")
        monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "sent"), ""))
        dock.export.click()
        assert "is there already: replace it?" in dock.question.text.text()
        dock.question.no.click()
        assert target.read_bytes() == b"something else"
        monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(target), ""))
        dock.export.click()
        until(qtbot, lambda: "is in" in dock.status.text())
        assert target.stat().st_size > 1e6
        dock.keeper.add(target, "lite_medsam")
        until(qtbot, lambda: dock.question.isVisibleTo(dock))
        assert "is the exported model 'mine', not the file of LiteMedSAM" in dock.question.text.text().replace(
            "\u200b", ""
        )
        dock.question.no.click()
        dock.keeper.add(target)
        until(qtbot, lambda: dock.question.isVisibleTo(dock))
        assert "There is a model 'mine' already" in dock.question.text.text()
        assert dock.question.name.text() == "mine-2"
        dock.question.yes.click()
        until(qtbot, lambda: "mine-2" in dock.zoo.entries and "works on a test picture" in dock.status.text())
        assert load_model("mine-2").spec.base == "mobile_sam"
        for key in ("mine", "mine-2"):
            dock.show_model(key)
            until(qtbot, dock.remove.isEnabled)
            dock.remove.click()
            dock.question.yes.click()
            until(qtbot, lambda key=key: key not in dock.zoo.entries)
        dock.keeper.add(target)  # the name is free again
        until(qtbot, lambda: "mine" in dock.zoo.entries)
        dock.show_model("mobile_sam")
        assert not dock.export.isVisibleTo(dock)

    def test_what_the_file_does_not_tell_is_asked(self, dock, qtbot, tmp_path):
        shapes = {"image_encoder.patch_embed.proj.weight": (768, 3, 16, 16)}
        torch.save({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "vit.pth")
        dock.keeper.add(tmp_path / "vit.pth")
        until(qtbot, lambda: dock.question.isVisibleTo(dock))
        box = dock.question.choices
        assert [box.itemText(i) for i in range(box.count())] == ["MedSAM", "MedSAM (April 2023)", "SAM ViT-B"]
        assert not dock.question.yes.isEnabled()
        box.setCurrentIndex(2)
        assert dock.question.yes.isEnabled()

    def test_a_decoder_alone_needs_its_sam(self, dock, qtbot, tmp_path):
        tensors = {"prompt_adapter.static_uncertain_token.weight": torch.zeros(1, 256)}
        torch.save(tensors, tmp_path / "decoder.pth")
        dock.keeper.add(tmp_path / "decoder.pth")
        until(qtbot, lambda: dock.question.isVisibleTo(dock))
        assert "decoder alone: choose the SAM checkpoint" in dock.question.text.text()
        dock.question.no.click()
        assert not dock.question.isVisibleTo(dock)

    def test_a_sam_that_is_here_need_not_be_looked_for(self, dock, qtbot, tmp_path, said, monkeypatch):
        monkeypatch.setenv("ZEROSEG_MODELS", str(tmp_path))
        torch.save({"image_encoder.patch_embed.proj.weight": torch.zeros(768, 3, 16, 16)}, tmp_path / "sam_vit_b.pth")
        torch.save({"prompt_adapter.static_uncertain_token.weight": torch.zeros(1, 256)}, tmp_path / "decoder.pth")
        dock.zoo.look()
        dock.keeper.add(tmp_path / "decoder.pth")
        until(qtbot, lambda: dock.question.isVisibleTo(dock))
        box = dock.question.choices
        assert [box.itemText(i) for i in range(box.count())] == ["SAM ViT-B, which is here", "another file"]
        box.setCurrentIndex(0)
        monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: pytest.fail("a file is asked for"))
        dock.question.yes.click()
        until(qtbot, lambda: said)  # both together are still too little for a model
        assert "PA-SAM ViT-B" in said[-1].message
        said.clear()
        dock.keeper.add(tmp_path / "decoder.pth", "pa_sam_vit_b")
        until(qtbot, lambda: said)
        assert "PA-SAM ViT-B" in said[-1].message
        assert not dock.question.isVisibleTo(dock)
        rest(dock, qtbot)

    def test_an_adapter_on_mobile_sam_has_no_published_weights_and_is_added_all_the_same(self, dock, qtbot, tmp_path):
        network = SamNetwork(TinyViT())
        network.load_state_dict(dict(read_weights(None, MOBILE_SAM.weights, MOBILE_SAM.title).tensors))
        network.mask_decoder = PaMaskDecoder.grown_from(network.mask_decoder, 0)
        torch.save(network.state_dict(), tmp_path / "adapted.pt")
        dock.keeper.add(tmp_path / "adapted.pt")
        until(qtbot, lambda: "works on a test picture" in dock.status.text())
        assert dock.tree.state_of("pa_mobile_sam") == "ready"
        assert load_model("pa_mobile_sam").spec.family == "PA-SAM"

    def test_half_a_model_is_refused(self, dock, qtbot, tmp_path, said):
        path = mobile_sam_file(tmp_path, lambda state: [state.pop(name) for name in list(state)[-3:]])
        dock.keeper.add(path)
        until(qtbot, lambda: dock.question.isVisibleTo(dock))
        dock.question.yes.click()
        rest(dock, qtbot)
        assert "MobileSAM" in said[-1].message
        assert "my_mobile_sam" not in dock.zoo.entries

    def test_what_to_do_is_said_for_the_dock(self, dock, qtbot, tmp_path, said):
        torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "file.pth")
        dock.keeper.add(tmp_path / "file.pth")
        until(qtbot, lambda: said)
        assert "choose that in the list, then Add its file" in said[-1].message
        assert "--key" not in said[-1].message + shown(dock.status) + dock.zoo.faults[ADDING].sentence
        rest(dock, qtbot)

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no weights", b"\x00" * 100])
    def test_no_weights_at_all(self, dock, qtbot, tmp_path, said, content):
        (tmp_path / "file.pth").write_bytes(content)
        dock.keeper.add(tmp_path / "file.pth")
        until(qtbot, lambda: said)
        rest(dock, qtbot)
        assert "file.pth" in said[-1].message
        assert "--" not in said[-1].message
        assert ADDING not in dock.zoo.errands
        assert dock.add.isEnabled()


def test_unload_and_load_again(make_napari_viewer, open_models, qtbot, shared_memory):
    dock = open_models(make_napari_viewer())
    shared_queue().submit(
        lambda _: shared_memory.model(ModelChoice()),
        owner=dock,
        key="load",
        done=lambda _: None,
        failed=lambda error: None,
    )
    rest(dock, qtbot)
    dock.unload.click()
    until(qtbot, lambda: "Unloaded: " in dock.status.text() and "MobileSAM" in dock.status.text())
    assert not shared_memory._models
    dock.unload.click()
    until(qtbot, lambda: "No model was loaded" in dock.status.text())
    dock.several.setChecked(True)
    until(qtbot, lambda: shared_memory.keeps_several)
    dock.several.setChecked(False)
    until(qtbot, lambda: not shared_memory.keeps_several)

"""Detectors of transformers: their true architectures with small random weights, as folders that it saved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_zeroseg.cascade import Detector, load_detector, segment_detected
from napari_zeroseg.cli import main
from napari_zeroseg.errors import InputError, WeightsError


@pytest.fixture(scope="module")
def owl(tmp_path_factory, clip_words) -> Path:
    """A detector for any phrases."""
    from transformers import CLIPTokenizer, OwlViTConfig, OwlViTForObjectDetection, OwlViTProcessor
    from transformers.models.owlvit.image_processing_pil_owlvit import OwlViTImageProcessorPil

    torch.manual_seed(4)
    side = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = OwlViTConfig(
        text_config={**side, "max_position_embeddings": 16},
        vision_config={**side, "image_size": 64, "patch_size": 16},
        projection_dim=32,
    )
    folder = tmp_path_factory.mktemp("owl")
    tokenizer = CLIPTokenizer.from_pretrained(clip_words, model_max_length=16)
    processor = OwlViTProcessor(OwlViTImageProcessorPil(size={"height": 64, "width": 64}), tokenizer)
    processor.save_pretrained(folder)
    model = OwlViTForObjectDetection(config)
    torch.nn.init.constant_(model.box_head.dense2.bias[2:], 3.0)  # boxes that are wide enough to be some
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    plane = np.full((90, 120), 70, np.uint8)
    plane[20:50, 30:80] = 220
    return plane


def test_boxes_are_those_of_transformers(yolos, picture):
    from PIL import Image
    from transformers import YolosForObjectDetection
    from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

    found = load_detector(yolos, device="cpu").detect(picture, threshold=0.0)
    model, processor = YolosForObjectDetection.from_pretrained(yolos), YolosImageProcessorPil.from_pretrained(yolos)
    inputs = processor(images=Image.fromarray(picture).convert("RGB"), return_tensors="pt")
    with torch.inference_mode():
        outputs = model(**inputs)
    (theirs,) = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=[picture.shape])
    order = torch.argsort(-theirs["scores"], stable=True)
    corners = theirs["boxes"][order][:, [1, 0, 3, 2]].numpy() - 0.5  # from (x, y) edges to (row, column) centres
    corners = np.clip(corners, -0.5, [89.5, 119.5, 89.5, 119.5])  # ours end where the picture does
    assert len(found.boxes) == 6
    assert np.abs(found.boxes - corners).max() <= 1  # transformers' pipelines give whole pixels
    assert np.allclose(found.scores, theirs["scores"][order].numpy(), atol=1e-4)
    assert found.classes == [int(label) + 1 for label in theirs["labels"][order]]
    assert [found.names[i] == ("cell", "nucleus")[c - 1] for i, c in enumerate(found.classes)]


def test_only_the_classes_that_are_wanted(yolos, picture):
    detector = load_detector(yolos, device="cpu")
    assert detector.names == ["cell", "nucleus"]
    names = set(detector.detect(picture, threshold=0.0).names)
    for name in names:
        found = detector.detect(picture, name, 0.0)
        assert set(found.names) == {name}
        assert set(found.classes) == {1}  # its place in what was asked for
    with pytest.raises(InputError, match="does not know 'axon'; its classes are: cell, nucleus"):
        detector.detect(picture, ["axon"])
    with pytest.raises(InputError, match="from 0 to below 1"):
        detector.detect(picture, threshold=2)


def test_phrases(owl, picture):
    detector = load_detector(owl, device="cpu")
    assert detector.takes_phrases
    found = detector.detect(picture, "a cell, a nucleus", 0.0)
    assert set(found.names) <= {"a cell", "a nucleus"}
    assert len(found.boxes)
    assert found.scores == sorted(found.scores, reverse=True)
    with pytest.raises(InputError, match="finds what phrases name"):
        detector.detect(picture)


def test_boxes_become_masks(yolos, picture, model):
    detector = load_detector(yolos, device="cpu")
    labels, found = segment_detected(model, picture, detector, threshold=0.0)
    assert labels.shape == picture.shape
    assert set(np.unique(labels)) <= set(range(len(found.boxes) + 1))
    classes, _ = segment_detected(model, picture, detector, threshold=0.0, by="class")
    assert ((classes > 0) == (labels > 0)).all()
    for number in np.unique(labels[labels > 0]):
        assert set(np.unique(classes[labels == number])) == {found.classes[number - 1]}


@pytest.mark.parametrize("command", ["segment", "find"])
def test_by_the_command_line(command, yolos, picture, tmp_path, capsys):
    np.save(tmp_path / "one.npy", picture)
    ask = [command, str(tmp_path / "one.npy"), "--detector", str(yolos), "--device", "cpu"]
    assert main([*ask, "--threshold", "0.01", "-o", str(tmp_path / "a.npy"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["planes"][0]["objects"] == 6
    assert np.load(tmp_path / "a.npy").any()
    assert main([*ask, "--threshold", "0.99", "-o", str(tmp_path / "b.npy")]) == 0
    assert "found nothing above 0.99" in capsys.readouterr().err
    assert main([*ask, "--text", "axon", "-o", str(tmp_path / "c.npy")]) == 1
    assert "does not know 'axon'" in capsys.readouterr().err


def test_boxes_outside_and_without_area_are_left_out():
    class Pipeline:
        task = "zero-shot-object-detection"

        def __call__(self, picture, **_):
            sides = ("xmin", "ymin", "xmax", "ymax")
            boxes = [(5, 5, 40, 30), (7, 7, 7, 20), (95, 2, 120, 50), (-9, 60, 50, 130)]
            scores = (0.5, 0.9, 0.8, float("nan"))
            return [
                {"box": dict(zip(sides, box, strict=True)), "score": score, "label": "a"}
                for box, score in zip(boxes, scores, strict=True)
            ]

    found = Detector(Pipeline(), "odd").detect(np.zeros((90, 90), np.uint8), "a")
    assert found.boxes.tolist() == [[4.5, 4.5, 29.5, 39.5]]
    assert found.scores == [0.5]


def test_what_is_no_detector(tmp_path, yolos):
    with pytest.raises(WeightsError, match="There is no detector someone/nothing on this machine"):
        load_detector("someone/nothing")
    from transformers import CLIPTextConfig

    CLIPTextConfig().save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="type 'clip_text_model', which is no detector"):
        load_detector(tmp_path)
    half = tmp_path / "half"
    half.mkdir()
    for file in yolos.iterdir():
        content = file.read_bytes()
        (half / file.name).write_bytes(content[: len(content) // 2] if file.suffix == ".safetensors" else content)
    with pytest.raises(WeightsError, match="cannot be loaded"):
        load_detector(half)


class Lined:
    """In place of a pipeline: boxes of two classes, some nearly the same."""

    task = "zero-shot-object-detection"

    def __call__(self, picture, **_):
        sides = ("xmin", "ymin", "xmax", "ymax")
        boxes = [(5, 5, 45, 45), (5, 5, 45, 44), (5, 5, 45, 45), (5, 5, 30, 45)]
        return [
            {"box": dict(zip(sides, box, strict=True)), "score": score, "label": name}
            for box, score, name in zip(boxes, (0.5, 0.9, 0.7, 0.6), "aaba", strict=True)
        ]


def test_of_boxes_that_are_nearly_the_same_one_of_a_class_stays():
    found = Detector(Lined(), "odd").detect(np.zeros((90, 90), np.uint8), "b, a")
    assert found.scores == [0.9, 0.7, 0.6]  # 0.5 is the first box again; the last shares 64 % with it
    assert (found.names, found.classes) == (["a", "b", "a"], [2, 1, 2])
    assert found.boxes[0].tolist() == [4.5, 4.5, 43.5, 44.5]


def test_a_folder_is_known_by_its_files(yolos, picture, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "mine"
    shutil.copytree(yolos, folder)
    monkeypatch.chdir(tmp_path)
    np.save("one.npy", picture)
    ask = ["segment", "one.npy", "--threshold", "0.01", "--classes", "--device", "cpu", "-o", "a.npy"]
    assert main([*ask, "--detector", "./mine", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["classes"] == {"cell": 1, "nucleus": 2}
    assert main([*ask, "--detector", str(folder)]) == 0
    assert "nothing to do" in capsys.readouterr().out
    first = load_detector(folder, device="cpu").model_key
    config = folder / "config.json"
    config.write_text(config.read_text() + "\n")
    assert load_detector(folder, device="cpu").model_key != first
    assert main([*ask, "--detector", "./mine"]) == 1
    assert "is already there" in capsys.readouterr().err


def test_a_repository_is_known_by_its_commit(yolos, tmp_path, monkeypatch):
    from huggingface_hub import constants

    commits = "1" * 40, "2" * 40
    for commit in commits:
        shutil.copytree(yolos, tmp_path / "models--someone--yolos" / "snapshots" / commit)
    refs = tmp_path / "models--someone--yolos" / "refs"
    refs.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for commit in commits:
        (refs / "main").write_text(commit)
        assert load_detector("someone/yolos", device="cpu").model_key == f"yolos-{commit}"

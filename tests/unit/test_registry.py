"""The list of models, and models of other packages."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from napari_zeroseg import list_models, load_model
from napari_zeroseg.errors import BrokenModelError, DeviceError, UnknownModelError
from napari_zeroseg.prompts import PromptKind
from napari_zeroseg.registry import BUILT_IN, ENTRY_POINT_GROUP, find_model
from napari_zeroseg.segmenter import Segmenter
from napari_zeroseg.weights import is_there

MODULE = """
from dataclasses import replace
from napari_zeroseg.registry import MOBILE_SAM
from napari_zeroseg.weights import WeightsSource
ours = replace(MOBILE_SAM, key="theirs", title="Theirs", factory="third_party_models:build")
same_key = replace(MOBILE_SAM, title="An impostor")
bad_key = replace(MOBILE_SAM, key="bad key/x")
bad_hub = replace(ours, key="bad_hub", weights=WeightsSource("hub:onlyowner"))
no_spec = "a string"


class Model:
    def __init__(self, spec, weights, device, dtype):
        self.spec, self.weights, self.model_key = spec, weights, "theirs-1"

    def encode(self, image):
        raise NotImplementedError

    def predict(self, embedding, prompts, multimask=False):
        raise NotImplementedError


def build(spec, weights, device, dtype):
    return Model(spec, weights, device, dtype)


def raises(spec, weights, device, dtype):
    return {}["no such layer"]


def nothing(spec, weights, device, dtype):
    return None


raised, none, no_name, no_module, unimportable, unreadable = (
    replace(ours, key=key, title="Broken", factory=factory)
    for key, factory in (
        ("raised", "third_party_models:raises"),
        ("none", "third_party_models:nothing"),
        ("no_name", "third_party_models:no_such_function"),
        ("no_module", "third_party_models.inner:build"),
        ("unimportable", "broken_models:build"),
        ("unreadable", "third_party_models"),
    )
)
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a tiny package with models, as pip leaves one."""

    def do(**entries: str) -> None:
        (tmp_path / "third_party_models.py").write_text(MODULE)
        (tmp_path / "broken_models.py").write_text("raise RuntimeError('a broken package')")
        info = tmp_path / "third_party_models-1.0.dist-info"
        info.mkdir()
        (info / "top_level.txt").write_text("third_party_models\nbroken_models\n")
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party-models\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in entries.items()]
        (info / "entry_points.txt").write_text(f"[{ENTRY_POINT_GROUP}]\n" + "\n".join(lines) + "\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        importlib.invalidate_caches()

    yield do
    for name in ("third_party_models", "broken_models"):
        sys.modules.pop(name, None)


def test_the_default_model_is_ready():
    spec = list_models()[0]
    assert (spec.key, spec.family, spec.licence, spec.state) == ("mobile_sam", "SAM", "Apache-2.0", "ready")
    assert spec.accepts == {PromptKind.POINTS, PromptKind.BOX, PromptKind.MASK}
    assert is_there(spec.weights)


def test_an_unknown_model_is_named_beside_those_that_there_are():
    with pytest.raises(UnknownModelError, match="There is no model 'sam_9'; there are: mobile_sam"):
        load_model("sam_9")
    with pytest.raises(LookupError):
        find_model("")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"device": "gpu"}, "'gpu' is not a device: use auto, cpu, openvino, mps, cuda"),
        ({"device": "meta"}, "'meta' is not supported"),
        ({"device": "cuda:97"}, "'cuda:97' was asked for, but torch finds"),
        ({"precision": "int8"}, "'int8' is not a precision: use auto, float32, bf16, fp16"),
        ({"precision": "fp16", "device": "cpu"}, "fp16 is for GPUs"),
    ],
)
def test_devices_and_precisions_that_are_not_there(options, sentence):
    with pytest.raises(DeviceError, match=sentence):
        load_model(**options)


def test_the_environment_chooses_the_device(monkeypatch):
    monkeypatch.setenv("ZEROSEG_DEVICE", "cuda:97")
    with pytest.raises(DeviceError, match="cuda:97"):
        load_model()
    assert load_model(device="cpu").spec.key == "mobile_sam"


def test_a_third_partys_model_is_listed_and_loaded(install):
    install(theirs="third_party_models:ours")
    assert [spec.key for spec in list_models()] == [*(spec.key for spec in BUILT_IN), "theirs"]
    model = load_model("theirs")
    assert isinstance(model, Segmenter)
    assert type(model).__module__ == "third_party_models"


@pytest.mark.parametrize(
    ("name", "package", "cause", "sentence"),
    [
        ("raised", "third-party-models", KeyError, "KeyError: 'no such layer'"),
        ("none", "third-party-models", TypeError, "returned NoneType, which is no Segmenter"),
        ("no_name", "third-party-models", AttributeError, "no_such_function"),
        ("no_module", "third-party-models", ModuleNotFoundError, "is not a package"),
        ("unimportable", "third-party-models", RuntimeError, "a broken package"),
        ("unreadable", "third-party-models", AttributeError, "third_party_models"),
    ],
)
def test_a_third_partys_model_that_cannot_be_built(install, name, package, cause, sentence):
    install(broken=f"third_party_models:{name}")
    with pytest.raises(BrokenModelError) as caught:
        load_model(name)
    said = str(caught.value)
    assert said.startswith(f"Broken cannot be loaded, by a fault of the package {package} (")
    assert sentence in said
    assert f"`pip install --upgrade {package}`" in said
    assert isinstance(caught.value.__cause__, cause)


def test_broken_packages_do_not_take_ours_away(install, caplog):
    install(
        raises="broken_models:spec",
        missing="no_such_module:spec",
        no_name="third_party_models:nothing",
        no_spec="third_party_models:no_spec",
        same="third_party_models:same_key",
        bad_key="third_party_models:bad_key",
        bad_hub="third_party_models:bad_hub",
        good="third_party_models:ours",
    )
    models = list_models()
    assert [spec.title for spec in models] == [*(spec.title for spec in BUILT_IN), "Theirs"]
    for culprit in (
        "broken_models:spec",
        "no_such_module:spec",
        "third_party_models:nothing",
        "names no ModelSpec",
        ":bad_key of",
        ":bad_hub of",
    ):
        assert culprit in caplog.text
    assert Path(models[0].weights.path).is_file()

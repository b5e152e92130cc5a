"""MedSAM's own pipeline against numbers of the published code, and LiteMedSAM's parts."""

import zlib

import numpy as np
import pytest
import torch

from napari_zeroseg import Prompt
from napari_zeroseg.catalogue import BUILT_IN
from napari_zeroseg.errors import InputError, WeightsError
from napari_zeroseg.models import medsam, resampling
from napari_zeroseg.models.pipelines import LiteMedSamPipeline, MedSamPipeline
from napari_zeroseg.weights import Weights

CPU = torch.device("cpu")
SPECS = {spec.key: spec for spec in BUILT_IN}


@pytest.fixture(scope="module")
def numbers(reference):
    return reference("medsam")


@pytest.fixture(scope="module")
def generated_medsam(weights_by_rule, published_keys):
    tensors = weights_by_rule(published_keys("sam")["sam_vit_b"])
    return medsam.build_medsam(SPECS["medsam_vit_b"], Weights(tensors, "0" * 64), CPU, torch.float32)


class TestPipeline:
    def test_picture(self, numbers):
        pixels = MedSamPipeline().pixels(numbers["image"])
        np.testing.assert_allclose(pixels[0, :, ::8, ::8], numbers["input_s8"], atol=1e-6)
        low, high = (int(value) for value in numbers["resized_minmax"])
        stretched = np.rint(pixels[0].permute(1, 2, 0).numpy() * (high - low) + low).astype(np.uint8)
        assert zlib.crc32(np.ascontiguousarray(stretched).tobytes()) == numbers["resized_crc32"]

    def test_box_is_scaled_and_not_rounded(self, numbers):
        x0, y0, x1, y1 = numbers["box_xyxy"][0]
        box = MedSamPipeline().frame((150, 160)).box(np.array([y0, x0, y1, x1], np.float32))
        np.testing.assert_allclose(box, numbers["box_1024"][0], rtol=1e-6)

    @pytest.mark.slow
    def test_end_to_end(self, numbers, generated_medsam):
        embedding = generated_medsam.encode(numbers["image"])
        np.testing.assert_allclose(
            embedding.tensors["image"][0, ::4, ::4, ::4], numbers["image_embedding_s4"], atol=2e-4
        )
        x0, y0, x1, y1 = numbers["box_xyxy"][0]
        (answer,) = generated_medsam.predict(embedding, [Prompt(box=(y0, x0, y1, x1))])
        np.testing.assert_allclose(answer.logits[0], numbers["low_res"], atol=2e-4)
        np.testing.assert_allclose(answer.scores, numbers["iou"].ravel(), atol=2e-4)
        truth = np.unpackbits(numbers["seg_bits"])[: 150 * 160].reshape(150, 160).astype(bool)
        assert (answer.mask != truth).mean() < 1e-3
        with pytest.raises(InputError, match="does not take points"):
            generated_medsam.predict(embedding, [Prompt(points=[(3, 4)])])


class TestLite:
    def test_parameters_are_those_of_the_checkpoint(self, published_keys):
        shapes = {key: list(tensor.shape) for key, tensor in medsam.lite_network().state_dict().items()}
        assert shapes == published_keys("lite_medsam")["litemedsam"]

    def test_box_is_cut_to_whole_numbers(self):
        box = LiteMedSamPipeline().frame((512, 300)).box(np.array([11, 21, 300, 299], np.float32))
        np.testing.assert_array_equal(box, [10, 5, 149, 150])

    def test_runs(self, weights_by_rule, published_keys, synthetic_picture):
        tensors = weights_by_rule(published_keys("lite_medsam")["litemedsam"])
        model = medsam.build_lite_medsam(SPECS["lite_medsam"], Weights(tensors, "0" * 64), CPU, torch.float32)
        (answer,) = model.predict(model.encode(synthetic_picture(200, 300)), [Prompt(box=(20, 30, 150, 200))])
        assert answer.masks.shape == (1, 200, 300)

    def test_other_models_weights_are_refused(self, weights_by_rule, published_keys):
        tensors = weights_by_rule(published_keys("sam")["sam_vit_b"])
        with pytest.raises(WeightsError, match="not LiteMedSAM's"):
            medsam.build_lite_medsam(SPECS["lite_medsam"], Weights(tensors, "0" * 64), CPU, torch.float32)


def test_area_averages_exactly():
    picture = np.arange(36, dtype=np.uint8).reshape(6, 6)
    np.testing.assert_array_equal(resampling.area(picture, (3, 2)), np.rint(picture.reshape(3, 2, 2, 3).mean((1, 3))))


def test_area_keeps_the_mean_of_odd_ratios(synthetic_picture):
    picture = synthetic_picture(211, 307)
    small = resampling.area(picture, (64, 100))
    assert small.shape == (64, 100, 3)
    np.testing.assert_allclose(small.mean((0, 1)), picture.mean((0, 1)), atol=0.6)


def test_area_is_opencvs():
    """Numbers of cv2.resize with INTER_AREA, OpenCV 4.10: enlarged, and halved with halves rounded up."""
    picture = ((np.arange(5)[:, None] * 53 + np.arange(4)[None] * 91) % 256).astype(np.uint8)
    enlarged = resampling.area(picture, (7, 6))
    assert enlarged.tolist() == [
        [0, 46, 91, 182, 100, 17],
        [32, 77, 123, 214, 131, 49],
        [63, 109, 154, 194, 137, 80],
        [106, 152, 197, 32, 78, 123],
        [148, 194, 239, 74, 120, 165],
        [180, 174, 169, 106, 152, 197],
        [212, 130, 47, 138, 184, 229],
    ]
    colour = resampling.area(np.stack([picture, 255 - picture, picture], -1), (7, 6))
    np.testing.assert_array_equal(colour[..., 2], enlarged)
    picture = ((np.arange(4)[:, None] * 53 + np.arange(6)[None] * 91) % 256).astype(np.uint8)
    assert resampling.area(picture, (2, 3)).tolist() == [[72, 126, 180], [178, 104, 94]]

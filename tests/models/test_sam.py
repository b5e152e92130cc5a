"""MobileSAM behind the Segmenter protocol, with the embedded weights."""

from __future__ import annotations

import subprocess
import sys
import threading

import dask.array as da
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from napari_zeroseg import Prompt, load_model
from napari_zeroseg.errors import InputError, InputTypeError, WeightsError
from napari_zeroseg.metrics import iou
from napari_zeroseg.models import sam
from napari_zeroseg.models.pipelines import SamFrame, inner_shape
from napari_zeroseg.segmenter import Embedding, Segmenter, predict_each

SHAPES = [
    (600, 900),
    (900, 600),
    (64, 80),
    (1024, 1024),
    (2048, 1300),
    (1, 7),
    (3, 2),
    (37, 1501),
    (1501, 37),
    (2, 5000),
]


@pytest.fixture(scope="module")
def picture(synthetic_picture):
    return synthetic_picture(600, 900)


@pytest.fixture(scope="module")
def embedding(model, picture) -> Embedding:
    return model.encode(picture)


ON_ELLIPSE = Prompt(points=[(240, 540)])
BOXED = Prompt(box=(60, 350, 420, 730))


def test_it_is_a_segmenter(model):
    assert isinstance(model, Segmenter)


# ---- against the published code


PUBLISHED = {
    "point": (ON_ELLIPSE, True),
    "box": (BOXED, False),
    "both": (Prompt([(240, 540), (450, 180)], [True, False], box=(60, 350, 420, 730)), True),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_answers_are_those_of_the_published_predictor(model, embedding, reference, name):
    prompt, multimask = PUBLISHED[name]
    (found,) = model.predict(embedding, [prompt], multimask)
    expected = reference("mobile_sam")
    np.testing.assert_allclose(found.logits[:, ::4, ::4], expected[f"{name}_low_res_s4"], atol=2e-3)
    np.testing.assert_allclose(found.scores, expected[f"{name}_iou"], atol=2e-4)
    count = 3 if multimask else 1
    masks = np.unpackbits(expected[f"{name}_mask_bits"], count=count * 600 * 900).reshape(count, 600, 900)
    assert found.masks.shape == masks.shape
    assert np.mean(found.masks != masks) < 2e-5


def test_frame_sides_round_as_the_published_code_does():
    assert inner_shape(600, 900, 1024) == (683, 1024)
    assert inner_shape(1024, 1024, 1024) == (1024, 1024)
    assert inner_shape(2, 100_000, 1024) == (1, 1024)


def _in_two_steps(logits: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """256 to 1024, cut off the padding, to the picture's size."""
    height, width = inner_shape(*shape, 1024)
    large = F.interpolate(torch.from_numpy(logits)[None, None], (1024, 1024), mode="bilinear", align_corners=False)
    fitted = F.interpolate(large[..., :height, :width], shape, mode="bilinear", align_corners=False)
    return fitted[0, 0].numpy()


def _blobs(seed: int, kind: str) -> np.ndarray:
    """Smooth logits with a few objects, one small object, or noise up to the borders."""
    rng = np.random.default_rng(seed)
    if kind == "noise":
        return rng.normal(size=(256, 256)).astype(np.float32)
    r, c = np.mgrid[:256, :256]
    logits = np.full((256, 256), -6.0)
    for _ in range(1 if kind == "speck" else 4):
        row, column = rng.uniform(0, 256, 2)
        radius = 1.5 if kind == "speck" else rng.uniform(3, 60)
        logits = np.maximum(logits, 6 * (1 - np.hypot(r - row, c - column) / radius).clip(-1))
    return logits.astype(np.float32)


@pytest.mark.parametrize("kind", ["blobs", "speck", "noise"])
@pytest.mark.parametrize("shape", SHAPES)
def test_patches_equal_the_two_step_upscaling_pixel_for_pixel(shape, kind):
    frame = SamFrame(shape, inner_shape(*shape, 1024))
    for seed in range(3):
        logits = _blobs(seed, kind)
        exact = _in_two_steps(logits, shape)
        rows, columns, mask = frame.patch(logits)
        ours = np.zeros(shape, bool)
        ours[rows, columns] = mask
        differ = ours != (exact > 0)
        # rounding may decide only where the exact value is 0
        assert np.abs(exact[differ]).max(initial=0) < 5e-5
        assert np.count_nonzero(differ) <= 3
        if mask.size:
            assert mask[0].any()
            assert mask[-1].any()
            assert mask[:, 0].any()
            assert mask[:, -1].any()


def test_no_object_is_an_empty_patch():
    rows, columns, mask = SamFrame((50, 60), inner_shape(50, 60, 1024)).patch(np.full((256, 256), -1, np.float32))
    assert (rows, columns, mask.shape) == (slice(0, 0), slice(0, 0), (0, 0))


def test_an_object_in_the_padding_is_no_object():
    logits = np.full((256, 256), -5, np.float32)
    logits[200:] = 5
    assert not SamFrame((300, 1000), inner_shape(300, 1000, 1024)).patch(logits)[2].any()


# ---- predictions


def test_masks_patches_and_extents_agree(model, embedding):
    (found,) = model.predict(embedding, [ON_ELLIPSE], True)
    assert found.masks.shape == (3, 600, 900)
    assert found.masks.dtype == bool
    assert found.scores.dtype == found.logits.dtype == np.float32
    assert found.logits.shape == (3, 256, 256)
    assert found.best == np.argmax(found.scores) == found.order[0]
    assert sorted(found.order) == [0, 1, 2]
    np.testing.assert_array_equal(found.mask, found.masks[found.best])
    for k in range(3):
        rows, columns, patch = found.patch(k)
        np.testing.assert_array_equal(found.masks[k][rows, columns], patch)
        assert found.masks[k].sum() == patch.sum()
        filled = np.argwhere(found.masks[k])
        assert found.extent(k) == (*filled.min(0), *filled.max(0))
    assert found.mask[240, 540]


def test_one_candidate_unless_several_are_asked_for(model, embedding):
    (found,) = model.predict(embedding, [ON_ELLIPSE])
    assert found.masks.shape == (1, 600, 900)


def test_a_batch_answers_each_as_alone(model, embedding):
    """More prompts than one batch holds, all kinds mixed."""
    mask = np.zeros((600, 900), bool)
    mask[300:560, 100:260] = True
    kinds = [
        ON_ELLIPSE,
        BOXED,
        Prompt([(450, 180), (20, 20)], [1, 0]),
        Prompt(mask=mask),
        Prompt([(450, 180)], mask=mask),
    ]
    prompts = [kinds[i % len(kinds)] for i in range(18)]
    together = model.predict(embedding, prompts)
    assert len(together) == 18
    for prompt, found in zip(kinds, together, strict=False):
        (alone,) = model.predict(embedding, [prompt])
        np.testing.assert_allclose(found.logits, alone.logits, atol=1e-3)
        assert iou(found.mask, alone.mask) > 0.9999
    np.testing.assert_allclose(together[0].logits, together[5].logits, atol=1e-3)
    assert model.predict(embedding, []) == []


def test_prompts_of_several_windows_share_batches(model, embedding, picture, monkeypatch):
    """Pictures of different shapes and prompts of all kinds in one call; answers are those of each alone."""
    other = model.encode(np.ascontiguousarray(picture[:500, 200:600]))
    mask = np.zeros((500, 400), bool)
    mask[200:380, 250:390] = True
    asked = [
        (embedding, ON_ELLIPSE),
        (other, Prompt([(240, 340)])),
        (embedding, BOXED),
        (other, Prompt(mask=mask)),
        (other, Prompt(box=(150, 200, 400, 399))),
    ]
    sizes = []
    batch = model._predict_batch
    monkeypatch.setattr(model, "_predict_batch", lambda *args: sizes.append(len(args[1])) or batch(*args))
    together = predict_each(model, [one for one, _ in asked], [prompt for _, prompt in asked])
    assert sizes == [model.prompts_at_once, len(asked) - model.prompts_at_once]
    for (one, prompt), found in zip(asked, together, strict=True):
        (alone,) = model.predict(one, [prompt])
        assert found.shape == one.image_shape
        np.testing.assert_allclose(found.logits, alone.logits, atol=1e-3)
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)


def test_a_prompt_outside_its_own_window_is_refused_among_several(model, embedding, picture):
    other = model.encode(np.ascontiguousarray(picture[:100, :100]))
    with pytest.raises(InputError, match="outside"):
        model.predict_each([embedding, other], [ON_ELLIPSE, ON_ELLIPSE])


def test_a_mask_prompt_gives_the_object_back(model, embedding, picture):
    (first,) = model.predict(embedding, [BOXED])
    (again,) = model.predict(embedding, [Prompt([(240, 540)], mask=first.mask)])
    assert iou(first.mask, again.mask) > 0.95


def test_a_box_that_sticks_out_counts_as_far_as_the_picture_goes(model, embedding):
    inside, outside, absurd = model.predict(
        embedding,
        [Prompt(box=(-0.5, -0.5, 599.5, 899.5)), Prompt(box=(-90, -90, 700, 1000)), Prompt(box=(-1e9, -1e9, 1e9, 1e9))],
    )
    np.testing.assert_array_equal(inside.mask, outside.mask)
    np.testing.assert_array_equal(inside.mask, absurd.mask)


def test_two_threads_get_what_each_gets_alone(model, picture):
    pictures = [picture, np.ascontiguousarray(picture[::-1])]
    prompts = [[ON_ELLIPSE, BOXED], [Prompt([(359, 540)])]]
    alone = [model.predict(model.encode(p), q, True) for p, q in zip(pictures, prompts, strict=True)]
    together: list = [None, None]

    def work(i):
        for _ in range(2):
            together[i] = model.predict(model.encode(pictures[i]), prompts[i], True)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for mine, theirs in zip(alone, together, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(a.logits, b.logits)


def test_two_threads_share_one_embedding(model, picture):
    embedding = model.encode(picture)
    expected = [found.logits for found in model.predict(embedding, [ON_ELLIPSE, BOXED])]
    fresh = model.encode(picture)
    faults = []

    def work():
        for found, logits in zip(model.predict(fresh, [ON_ELLIPSE, BOXED]), expected, strict=True):
            if not np.array_equal(found.logits, logits):
                faults.append(found)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults


# ---- pictures of all sorts


@pytest.mark.parametrize(
    "convert",
    [
        lambda p: p.astype(np.uint16) * 200,
        lambda p: (p.astype(np.uint16) * 200).astype(">u2"),
        lambda p: p.astype(np.float32) / 255,
        lambda p: (p.astype(np.float64) * 1e-9).astype(">f8"),
        lambda p: p.astype(np.int32) - 70_000,
        lambda p: p.astype(np.float16),
        lambda p: np.asfortranarray(p.astype(np.float32)),
        lambda p: da.from_array(p.astype(np.int16), chunks=100),
    ],
    ids=["uint16", ">u2", "float32", ">f8", "int32", "float16", "fortran", "dask"],
)
def test_any_type_gives_the_same_embedding_after_scaling(model, picture, convert):
    grey = picture[..., 0].copy()
    grey[:30, :30], grey[-30:, -30:] = 0, 255  # so that the percentiles are the full range
    expected = model.encode(grey).tensors["image"]
    found = model.encode(convert(grey)).tensors["image"]
    assert (found - expected).norm() < 2e-3 * expected.norm()


def test_bytes_pass_unchanged(model, picture):
    """A dark picture stays dark: nobody stretches its contrast behind the user's back."""
    dark = picture // 8
    assert not torch.equal(model.encode(dark).tensors["image"], model.encode(picture).tensors["image"])


def test_alpha_is_left_out(model, picture, embedding):
    alpha = np.random.default_rng(0).integers(0, 255, (600, 900, 1)).astype(np.uint8)
    assert torch.equal(model.encode(np.concatenate([picture, alpha], 2)).tensors["image"], embedding.tensors["image"])


def test_grey_equals_three_equal_channels(model, picture):
    grey = picture[..., 0]
    assert torch.equal(model.encode(grey).tensors["image"], model.encode(np.stack([grey] * 3, -1)).tensors["image"])


def test_some_nan_is_black(model, picture):
    grey = picture[..., 0].astype(np.float32)
    grey[:50] = np.nan
    assert torch.isfinite(model.encode(grey).tensors["image"]).all()


_RANDOM = np.random.default_rng(0).random((50, 60))


@pytest.mark.parametrize(
    ("bad", "error", "sentence"),
    [
        (_RANDOM[:0], InputError, "has no pixels"),
        (_RANDOM[:1, :1], InputError, r"1 row\(s\) and 1 column\(s\)"),
        (_RANDOM[:1], InputError, r"1 row\(s\) and 60 column\(s\)"),
        (_RANDOM[:, :1], InputError, r"50 row\(s\) and 1 column\(s\)"),
        (_RANDOM * np.nan, InputError, "every pixel is NaN or infinite"),
        (_RANDOM * 0 + 3, InputError, "same value"),
        (_RANDOM + 1j, InputTypeError, "complex"),
        (_RANDOM > 0.5, InputTypeError, "it is a mask"),
        (np.zeros((2, 2, 2, 50, 60)), InputError, "choose which two axes are the plane"),
        (np.zeros((20, 50, 60)), InputError, "choose which two axes are the plane"),
        (np.array([["a", "b"], ["c", "d"]]), InputTypeError, "must hold numbers, integers or floats, not <U1"),
        (np.array([[None, 1], [2, 3]]), InputTypeError, "must hold numbers, integers or floats, not object"),
        (None, InputTypeError, "must hold numbers, integers or floats, not object"),
    ],
    ids=["0", "1", "1xN", "Nx1", "nan", "constant", "complex", "bool", "5-D", "3-D", "text", "object", "None"],
)
def test_what_is_no_picture_gets_its_sentence(model, bad, error, sentence):
    with pytest.raises(error, match=sentence) as raised:
        model.encode(bad)
    assert str(raised.value).endswith(".")


@pytest.mark.parametrize("shape", [(64, 100_000), (100_000, 64)])
def test_a_very_long_picture(model, shape):
    rng = np.random.default_rng(0)
    long = rng.normal(60, 8, shape).clip(0, 255).astype(np.uint8)
    rows, columns = (slice(max(0, length // 2 - 20), length // 2 + 20) for length in shape)
    long[rows, columns] += 120
    embedding = model.encode(long)
    centre = (shape[0] // 2, shape[1] // 2)
    (clicked, boxed) = (
        model.predict(embedding, [prompt])[0]
        for prompt in (Prompt([centre]), Prompt(box=(rows.start, columns.start, rows.stop - 1, columns.stop - 1)))
    )
    truth = np.zeros(shape, bool)
    truth[rows, columns] = True
    assert clicked.masks.shape == (1, *shape)
    assert iou(clicked.mask, truth) > 0.9
    assert iou(boxed.mask, truth) > 0.9


def test_the_smallest_picture(model):
    embedding = model.encode(np.array([[0, 255], [255, 0]], np.uint8))
    (found,) = model.predict(embedding, [Prompt([(0, 0)])])
    assert found.mask.shape == (2, 2)


def test_a_small_object_of_a_large_plane_through_the_plain_api(model):
    rng = np.random.default_rng(0)
    plane = rng.normal(60, 8, (3000, 3000)).clip(0, 255).astype(np.uint8)
    r, c = np.mgrid[:3000, :3000]
    disk = (r - 2100) ** 2 + (c - 700) ** 2 < 9**2
    plane[disk] += 100
    embedding = model.encode(plane)
    point, box = model.predict(embedding, [Prompt([(2100, 700)]), Prompt(box=(2091, 691, 2109, 709))])
    assert iou(point.mask, disk) > 0.85
    assert iou(box.mask, disk) > 0.85
    assert point.masks.shape == (1, 3000, 3000)


def test_a_window_of_a_large_plane_is_encoded_once(picture):
    model = load_model(precision="float32", device="cpu")
    count = []
    encode = model._encoder.forward
    model._encoder.forward = lambda x: count.append(1) or encode(x)
    embedding = model.encode(np.tile(picture, (3, 2, 1)))
    assert len(count) == 1
    model.predict(embedding, [Prompt(box=(900, 900, 980, 980))])
    assert len(count) == 2
    model.predict(embedding, [Prompt(box=(910, 905, 985, 980)), Prompt(box=(900, 900, 980, 980))])
    assert len(count) == 2


# ---- prompts it cannot answer


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        (Prompt([(700, 10)]), "lies outside the picture of 600 rows and 900 columns"),
        (Prompt(box=(700, 10, 800, 20)), "lies outside the picture"),
        (Prompt(mask=np.ones((5, 5))), "give a mask of the plane's own shape"),
        (Prompt(text="lung"), "MobileSAM does not take text prompts; it takes box, mask, points"),
        (Prompt([(1, 1)], text="lung"), "does not take text prompts"),
    ],
)
def test_what_it_does_not_take_gets_its_sentence(model, embedding, prompt, sentence):
    with pytest.raises(InputError, match=sentence):
        model.predict(embedding, [ON_ELLIPSE, prompt])


def test_another_models_embedding_is_refused(model, picture):
    other = Embedding({"image": torch.zeros(1, 256, 64, 64)}, (600, 900), "another", sam.whole((600, 900)))
    with pytest.raises(InputError, match="made by another model"):
        model.predict(other, [ON_ELLIPSE])


# ---- neighbours


def test_nothing_foreign_is_left_in_sys_modules():
    code = """
import sys
import numpy as np
import napari_zeroseg as zs
model = zs.load_model()
model.predict(model.encode(np.arange(10000, dtype=np.uint16).reshape(100, 100)), [zs.Prompt([(3, 3)])])
found = [name for name in sys.modules if name.partition(".")[0] in ("segment_anything", "torchvision", "timm", "cv2")]
assert not found, found
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_segment_anything_there_is_a_sentence(monkeypatch):
    from napari_zeroseg.models import sam_modules

    sam_modules.modeling.cache_clear()
    monkeypatch.setitem(sys.modules, "segment_anything", None)
    with pytest.raises(WeightsError, match="install it with `pip install segment-anything`"):
        sam_modules.modeling()
    monkeypatch.undo()
    assert sam_modules.modeling().MaskDecoder


def test_embeddings_serve_training(model, embedding):
    image = embedding.tensors["image"]
    assert not image.is_inference()
    assert not image.requires_grad
    decoder = torch.nn.Conv2d(256, 1, 1)
    loss = F.binary_cross_entropy_with_logits(decoder(image), torch.ones(1, 1, 64, 64))
    loss.backward()
    assert decoder.weight.grad.abs().sum() > 0

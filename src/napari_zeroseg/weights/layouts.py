"""Whose weights these are, told from the names and shapes of their tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Shapes = Mapping[str, Sequence[int]]

_WIDTHS = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
"""Channels of SAM's image encoders."""

_TINY_STEM = "image_encoder.patch_embed.seq.0.c.weight"
_PA_TOKEN = "prompt_adapter.static_uncertain_token.weight"

_LIKE_SAM = {
    # MedSAM is SAM vit_b trained further: the same parameters, and nothing in a file that tells them apart.
    "vit_b": frozenset({"sam_vit_b", "medsam_vit_b", "medsam_vit_b_2023_04"}),
    "vit_l": frozenset({"sam_vit_l"}),
    "vit_h": frozenset({"sam_vit_h"}),
}

_CLIPSEG = {(64, True): "rd64_refined", (64, False): "rd64", (16, False): "rd16"}
"""Size by the channels of the decoder and whether its last step is several convolutions."""


@dataclass(frozen=True)
class Layout:
    """What the parameters of a file say about it.

    Attributes
    ----------
    family : str
        "sam", "mobile_sam", "lite_medsam", "pa_sam" or "clipseg".
    size : str
        "vit_b", "vit_l", "vit_h", "vit_t", "rd64_refined", "rd64", "rd16", or "" where the file does not tell.
    form : str
        "official": the publisher's names; "transformers": the names of the transformers package; "merged": PA-SAM's
        decoder within SAM's; "decoder": the decoder alone.
    candidates : frozenset of str
        Keys of the models whose weights these can be; empty for a size that none of them has.
    """

    family: str
    size: str
    form: str
    candidates: frozenset[str]

    def __str__(self) -> str:
        form = {"transformers": " in transformers' layout", "decoder": ", the decoder alone"}.get(self.form, "")
        return f"{self.family}{'_' if self.size else ''}{self.size}{form}"


def detect_layout(shapes: Shapes) -> Layout | None:
    """Tell family, size and form from parameters.

    SAM vit_b and both MedSAMs have the same parameters: for those there are several candidates, and only the file's
    hash or its user can decide.

    Parameters
    ----------
    shapes : mapping of str to sequence of int
        Shape of each tensor by name.

    Returns
    -------
    Layout or None
        None if the parameters are of no family that is known here.
    """
    for look in (_pa_sam, _tiny, _sam, _clipseg):
        found = look(shapes)
        if found is not None:
            return found
    return None


def known_models() -> frozenset[str]:
    """Return the keys of all models that :func:`detect_layout` can tell from others."""
    pa_sam = {f"pa_sam_{size}" for size in _LIKE_SAM}
    clipseg = {f"clipseg_{size}" for size in _CLIPSEG.values()}
    return frozenset().union(*_LIKE_SAM.values(), pa_sam, clipseg, {"mobile_sam", "pa_mobile_sam", "lite_medsam"})


def _pa_sam(shapes: Shapes) -> Layout | None:
    everything = frozenset(f"pa_sam_{size}" for size in _LIKE_SAM)
    if _PA_TOKEN in shapes:
        # The decoder is the same for all sizes of the image encoder.
        return Layout("pa_sam", "", "decoder", everything)
    if f"mask_decoder.{_PA_TOKEN}" not in shapes:
        return None
    if _TINY_STEM in shapes:  # MobileSAM with an adapter that was trained here
        return Layout("pa_sam", "vit_t", "merged", frozenset({"pa_mobile_sam"}))
    size = _encoder_size(shapes, "image_encoder.patch_embed.proj.weight")
    return Layout("pa_sam", size, "merged", frozenset({f"pa_sam_{size}"}) & everything)


def _tiny(shapes: Shapes) -> Layout | None:
    stem = shapes.get(_TINY_STEM)
    if stem is None:
        return None
    # LiteMedSAM's stem looks at one pixel at a time, MobileSAM's at 3 x 3.
    family = "lite_medsam" if tuple(stem[2:]) == (1, 1) else "mobile_sam"
    return Layout(family, "", "official", frozenset({family}))


def _sam(shapes: Shapes) -> Layout | None:
    forms = {
        "official": "image_encoder.patch_embed.proj.weight",
        "transformers": "vision_encoder.patch_embed.projection.weight",
    }
    for form, name in forms.items():
        if name in shapes:
            size = _encoder_size(shapes, name)
            return Layout("sam", size, form, _LIKE_SAM.get(size, frozenset()))
    return None


def _encoder_size(shapes: Shapes, name: str) -> str:
    return _WIDTHS.get(shapes[name][0], "") if name in shapes else ""


def _clipseg(shapes: Shapes) -> Layout | None:
    if "film_mul.weight" in shapes and "reduces.0.weight" in shapes:
        # The authors' files leave CLIP out; what is saved with their code may hold it.
        form = "official" if any(name.startswith("model.") for name in shapes) else "decoder"
        reduce, last = "reduces.0.weight", "trans_conv.0.weight"
    elif "decoder.film_mul.weight" in shapes and "decoder.reduces.0.weight" in shapes:
        form, reduce, last = "transformers", "decoder.reduces.0.weight", "decoder.transposed_convolution.0.weight"
    else:
        return None
    size = _CLIPSEG.get((shapes[reduce][0], last in shapes), "")
    return Layout("clipseg", size, form, frozenset({f"clipseg_{size}"}) if size else frozenset())

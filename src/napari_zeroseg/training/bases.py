"""What can be trained of which base, and whose variant the result is. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from napari_zeroseg.catalogue import ModelSpec
from napari_zeroseg.errors import InputError
from napari_zeroseg.prompts import PromptKind
from napari_zeroseg.registry import find_model
from napari_zeroseg.training.config import WHAT, one_of

ADAPTER = "adapter"

_PLAIN = tuple(what for what in WHAT if what != ADAPTER)
_WAYS = {
    "napari_zeroseg.models.sam:build_mobile_sam": WHAT,
    "napari_zeroseg.models.sam:build_sam_vit": WHAT,
    "napari_zeroseg.models.medsam:build_medsam": _PLAIN,
    "napari_zeroseg.models.medsam:build_lite_medsam": _PLAIN,
    "napari_zeroseg.models.pa_sam:build": (ADAPTER,),
    "napari_zeroseg.models.clipseg:build": ("decoder",),
}
"""What can be trained of a model, by its factory."""

_FORMS = {"vit_t": "pa_mobile_sam", "vit_b": "pa_sam_vit_b", "vit_l": "pa_sam_vit_l", "vit_h": "pa_sam_vit_h"}
"""What a model becomes by getting an adapter, by its size."""


def ways_of(spec: ModelSpec) -> tuple[str, ...]:
    """What of :data:`~napari_zeroseg.training.config.WHAT` can be trained of a model; () if nothing can."""
    ways = _WAYS.get(spec.factory, ())
    # of MedSAM's first weights the network is SAM's, but they take boxes alone
    return _PLAIN if ways is WHAT and spec.family != "SAM" else ways


def reads_words(spec: ModelSpec) -> bool:
    """Whether a base is trained on words, not on clicks and boxes."""
    return PromptKind.TEXT in spec.accepts


def check_base(base: str, what: str, words: Mapping[str, Sequence[int]]) -> ModelSpec:
    """Return the model to start from.

    Parameters
    ----------
    base, what, words
        As of :class:`~napari_zeroseg.training.config.TrainingConfig`.

    Raises
    ------
    UnknownModelError, InputError
        If there is none of that key, or this cannot be trained of it.
    """
    spec = find_model(base)
    ways = ways_of(spec)
    if not ways:
        raise InputError(
            f"{spec.title} cannot be trained here: choose MobileSAM, SAM, MedSAM, LiteMedSAM, PA-SAM or CLIPSeg, or a "
            "model trained from one of them."
        )
    if what == ADAPTER and what not in ways:
        raise InputError(
            f"{spec.title} cannot get PA-SAM's adapter, which needs clicks and a picture as SAM sees it: choose "
            "MobileSAM, SAM or PA-SAM as base, or train something else."
        )
    if what not in ways:
        raise InputError(f"Of {spec.title} only the setting 'what' {one_of(ways)} can be trained, not {what!r}.")
    if reads_words(spec) and not words:
        raise InputError(
            f"{spec.title} learns what words name: say which words the labels stand for, for example --words "
            "mitochondrion for all of them, or --words 'lung=1, heart=2'."
        )
    if words and not reads_words(spec):
        raise InputError(f"{spec.title} reads no words: leave them out, or choose CLIPSeg as base.")
    return spec


def form_of(spec: ModelSpec, what: str) -> str:
    """Key of the model whose variant the result is: a base that got an adapter is of another form than before."""
    return _FORMS[spec.size_name] if what == ADAPTER else spec.base or spec.key

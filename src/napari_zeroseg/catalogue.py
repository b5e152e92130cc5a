"""The models that this package knows: a table of facts. Factories are named as strings, so that it imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from napari_zeroseg.prompts import PromptKind
from napari_zeroseg.settings import Settings
from napari_zeroseg.weights import WeightsSource, locate
from napari_zeroseg.weights.reading import FOLDER_FILES


@dataclass(frozen=True)
class ModelSpec:
    """A row of the model list.

    Attributes
    ----------
    key : str
        Name in the API and the CLI.
    title : str
        Name for people.
    family : str
        What it is grouped under.
    licence : str
        SPDX expression of the weights.
    accepts : frozenset of PromptKind
        Prompts that it takes.
    weights : WeightsSource
        Where its own weights are; the first place to look.
    factory : str
        "package.module:function" that builds the model from (spec, weights, device, dtype).
    description : str
        One sentence.
    size_name : str
        Which of the family's sizes it is, such as "vit_b".
    memory_bytes : int
        Estimate of what encoding one picture takes in float32, weights included; 0 if unknown.
    alternatives : tuple of WeightsSource
        Further places, in the order in which they are tried.
    licence_note : str
        A sentence that must be shown with the licence.
    homepage : str
        Where its publisher describes it, and gives the file away where only the user can get it.
    base : str
        Key of the model whose weights these are a variant of; "" for models of their own.
    about_bytes : int
        Size of the weights where the exact one is not known.
    auto_precision : str
        What "auto" means for this model; "float32" where nobody has yet seen on real pictures that masks stay the same
        in a shorter type.
    whole_picture : bool
        Whether it was made for whole pictures squeezed into its input, and is asked so unless a window is chosen.
    has_openvino : bool
        Whether the factory also takes ``openvino=True``, to evaluate the image encoder through OpenVINO.
    """

    key: str
    title: str
    family: str
    licence: str
    accepts: frozenset[PromptKind]
    weights: WeightsSource
    factory: str
    description: str = ""
    size_name: str = ""
    memory_bytes: int = 0
    alternatives: tuple[WeightsSource, ...] = ()
    licence_note: str = ""
    homepage: str = ""
    base: str = ""
    about_bytes: int = 0
    auto_precision: str = "auto"
    has_openvino: bool = False
    whole_picture: bool = False

    @property
    def sources(self) -> tuple[WeightsSource, ...]:
        """All places of its weights, best first."""
        return (self.weights, *self.alternatives)

    @property
    def size(self) -> int:
        """Bytes of the weights as they are downloaded; roughly where only that is known, 0 where not even that."""
        return self.weights.size or self.about_bytes

    @property
    def state(self) -> str:
        """One of "ready", "needs download" and "bring a file"."""
        if locate(self) is not None:
            return "ready"
        settings = Settings.from_environment()
        return "needs download" if any(source.url(settings) for source in self.sources) else "bring a file"


_POINTS_BOX_MASK = frozenset({PromptKind.POINTS, PromptKind.BOX, PromptKind.MASK})
_BOX = frozenset({PromptKind.BOX})

MOBILE_SAM = ModelSpec(
    key="mobile_sam",
    title="MobileSAM",
    family="SAM",
    licence="Apache-2.0",
    accepts=_POINTS_BOX_MASK,
    weights=WeightsSource(
        "embedded:mobile_sam_fp16.safetensors",
        "5b909383cb8a7a05f37fcce8dc6f0b22e76b6848ca0932f79b7a85e342f739ca",
        20352640,
    ),
    factory="napari_zeroseg.models.sam:build_mobile_sam",
    description="Small and quick on any processor; inside the package, so it works offline.",
    size_name="vit_t",
    memory_bytes=600_000_000,
    has_openvino=True,
)


def _sam(size: str, file: str, sha256: str, length: int, hub_size: str, memory: int, description: str) -> ModelSpec:
    return ModelSpec(
        key=f"sam_{size}",
        title=f"SAM {size.replace('vit_', 'ViT-').upper().replace('VIT', 'ViT')}",
        family="SAM",
        licence="Apache-2.0",
        accepts=_POINTS_BOX_MASK,
        weights=WeightsSource(f"https://dl.fbaipublicfiles.com/segment_anything/{file}", sha256, length),
        alternatives=tuple(WeightsSource(f"hub:facebook/sam-vit-{hub_size}/{name}") for name in FOLDER_FILES),
        factory="napari_zeroseg.models.sam:build_sam_vit",
        description=description,
        size_name=size,
        memory_bytes=memory,
        homepage="https://github.com/facebookresearch/segment-anything",
        has_openvino=True,
    )


SAM = (
    _sam(
        "vit_b",
        "sam_vit_b_01ec64.pth",
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        375_042_383,
        "base",
        1_600_000_000,
        "Segment Anything with its smallest encoder: finer than MobileSAM, slower on a processor.",
    ),
    _sam(
        "vit_l",
        "sam_vit_l_0b3195.pth",
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        1_249_524_607,
        "large",
        3_000_000_000,
        "Segment Anything with its middle encoder; for a GPU.",
    ),
    _sam(
        "vit_h",
        "sam_vit_h_4b8939.pth",
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        2_564_550_879,
        "huge",
        5_100_000_000,
        "Segment Anything with its largest encoder; for a GPU with room.",
    ),
)

_MEDSAM_HOME = "https://github.com/bowang-lab/MedSAM"

MEDSAM = (
    ModelSpec(
        key="medsam_vit_b",
        title="MedSAM",
        family="MedSAM",
        licence="CC-BY-4.0",
        accepts=_BOX,
        weights=WeightsSource(
            "https://zenodo.org/records/10689643/files/medsam_vit_b.pth",
            "34b34b78c1d18cb8c6bf84cf9c00e135d6d6c965699f3c0e31ef1bc9dcb5be74",
            375_049_145,
        ),
        factory="napari_zeroseg.models.medsam:build_medsam",
        description="SAM ViT-B trained on medical pictures (version 1, 2023); takes boxes.",
        size_name="vit_b",
        memory_bytes=1_600_000_000,
        homepage=_MEDSAM_HOME,
        licence_note="The record of the file says CC-BY-4.0, the authors' repository Apache-2.0.",
        has_openvino=True,
        whole_picture=True,
    ),
    ModelSpec(
        key="medsam_vit_b_2023_04",
        title="MedSAM (April 2023)",
        family="MedSAM",
        licence="Apache-2.0",
        accepts=_BOX,
        weights=WeightsSource("hub:wanglab/medsam-vit-base/model.safetensors"),
        alternatives=(
            WeightsSource("hub:wanglab/medsam-vit-base/pytorch_model.bin"),
            WeightsSource("bring:medsam_20230423_vit_b_0.0.1.pth"),
        ),
        factory="napari_zeroseg.models.sam:build_sam_vit",
        description="The first weights of MedSAM, which see pictures as SAM does; for results made with them.",
        size_name="vit_b",
        memory_bytes=1_600_000_000,
        homepage=_MEDSAM_HOME,
        about_bytes=375_000_000,
        has_openvino=True,
        whole_picture=True,
    ),
    ModelSpec(
        key="lite_medsam",
        title="LiteMedSAM",
        family="MedSAM",
        licence="Apache-2.0",
        accepts=_BOX,
        weights=WeightsSource(
            "bring:lite_medsam.pth", "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76", 39_370_479
        ),
        factory="napari_zeroseg.models.medsam:build_lite_medsam",
        description="A small MedSAM that sees 256 pixels; quick on any processor; takes boxes.",
        size_name="vit_t",
        memory_bytes=300_000_000,
        homepage=f"{_MEDSAM_HOME}/tree/LiteMedSAM",
        auto_precision="float32",  # in bf16 single masks of lungs had an IoU of 0.74 with these
        has_openvino=True,
        whole_picture=True,
    ),
)

PA_SAM = tuple(
    ModelSpec(
        key=f"pa_sam_{sam.size_name}",
        title=sam.title.replace("SAM", "PA-SAM"),
        family="PA-SAM",
        licence="LicenseRef-none-stated",
        accepts=_POINTS_BOX_MASK,
        weights=WeightsSource(),
        factory="napari_zeroseg.models.pa_sam:build",
        description="SAM with a decoder that looks at the picture's details again; sharper borders.",
        size_name=sam.size_name,
        memory_bytes=sam.memory_bytes,
        licence_note="Its authors state no licence: ask them before you use it for more than study.",
        homepage="https://github.com/xzz2/pa-sam",
    )
    for sam in SAM
)

PA_MOBILE_SAM = replace(
    MOBILE_SAM,
    key="pa_mobile_sam",
    title="MobileSAM with PA-SAM's adapter",
    family="PA-SAM",
    weights=WeightsSource(),
    factory="napari_zeroseg.models.pa_sam:build",
    description="MobileSAM with a decoder that looks at the picture's details again.",
    has_openvino=False,
)


def _clipseg(size: str, description: str) -> ModelSpec:
    repository = f"hub:CIDAS/clipseg-{size}"
    needed = ("config.json", "vocab.json", "merges.txt")
    return ModelSpec(
        key=f"clipseg_{size.replace('-', '_')}",
        title=f"CLIPSeg {size}",
        family="CLIPSeg",
        licence="Apache-2.0",
        accepts=frozenset({PromptKind.TEXT, PromptKind.BOX}),
        weights=WeightsSource(f"{repository}/model.safetensors", companions=needed),
        alternatives=(WeightsSource(f"{repository}/pytorch_model.bin", companions=needed),),
        factory="napari_zeroseg.models.clipseg:build",
        description=description,
        size_name=size.replace("-", "_"),
        memory_bytes=1_200_000_000,
        licence_note=(
            "The hub tags the weights Apache-2.0; the authors say that the MIT licence of their code does not cover "
            "them."
        ),
        homepage="https://github.com/timojl/clipseg",
        about_bytes=603_000_000,
        auto_precision="float32",
    )


CLIPSEG = (
    _clipseg("rd64-refined", "Finds what words name, coarsely; a box restricts it. The finest of its three sizes."),
    _clipseg("rd64", "Finds what words name, coarsely; a box restricts it."),
    _clipseg("rd16", "Finds what words name, with the smallest decoder."),
)

BUILT_IN = (MOBILE_SAM, *SAM, *MEDSAM, *PA_SAM, *CLIPSEG)

FORMS = (PA_MOBILE_SAM,)
"""Networks of which nobody has published weights: they are not listed, but models trained here are variants of them."""


@cache
def _by_hash() -> dict[str, str]:
    return {source.sha256: spec.key for spec in BUILT_IN for source in spec.sources if source.sha256}


def model_of_hash(sha256: str) -> str:
    """Return the key of the model whose published weights have this hash, or ""."""
    return _by_hash().get(sha256, "")


def models_of_name(name: str) -> frozenset[str]:
    """Return the keys of the models whose published file is called so; none for names that all share."""
    if name in FOLDER_FILES:
        return frozenset()
    return frozenset(spec.key for spec in BUILT_IN for source in spec.sources if source.name == name)


def named_variant(
    base: ModelSpec, key: str, title: str, weights: WeightsSource, description: str, licence: str = "LicenseRef-yours"
) -> ModelSpec:
    """Return the spec of weights that the user has added, or fetched from a repository, under a name of their own."""
    return replace(
        base,
        key=key,
        title=title,
        licence=licence,
        weights=weights,
        alternatives=(),
        description=description,
        licence_note="",
        base=base.base or base.key,
    )

"""MobileSAM that marks only what it is surer of: how a package adds a model to napari-zeroseg."""

from dataclasses import replace

from napari_zeroseg.registry import MOBILE_SAM

THRESHOLD = 2.0  # a pixel is marked where the network's logit is above this, rather than above 0

STRICT_SAM = replace(
    MOBILE_SAM,  # its weights, licence and prompts
    key="strict_sam",
    title="Strict MobileSAM",
    family="Examples",
    description="Marks only the pixels that MobileSAM is surer of.",
    factory="zeroseg_threshold_model:build",
    has_openvino=False,  # this factory does not take that option
)


def build(spec, weights, device, dtype):
    """Called when the model is loaded; torch comes in here, so that listing models stays quick."""
    from napari_zeroseg.models.sam import build_mobile_sam

    return StrictSam(spec, build_mobile_sam(spec, weights, device, dtype))


class StrictSam:
    def __init__(self, spec, inner):
        self.spec, self.inner, self.device = spec, inner, inner.device
        self.model_key = f"strict-1-{inner.model_key}"  # other pixels or weights: another key

    def encode(self, image):
        return replace(self.inner.encode(image), model_key=self.model_key)

    def predict(self, embedding, prompts, multimask=False):
        embedding = replace(embedding, model_key=self.inner.model_key)
        return [
            replace(found.on(found.field, found.shape), logits=found.logits - THRESHOLD)
            for found in self.inner.predict(embedding, prompts, multimask)
        ]

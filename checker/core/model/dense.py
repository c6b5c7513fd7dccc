"""Refuse object detectors and models that predict per pixel."""

import re
from collections.abc import Set as AbstractSet

from ...errors import CannotAssessError
from ...text import quoted
from .layers import LINEAR, Layers
from .nodes import Names, op_set
from .representation import EMBEDDING_NAME

PER_IMAGE = "one representation for each image is needed"
DETECTOR_NAME = re.compile(
    r"(^|[^a-z])(box(es)?|bbox(es)?|dets?|detections?|num_det\w*|anchors?|masks?|keypoints?)([^a-z]|$)", re.I
)
DETECTOR_OPS = op_set("NonMaxSuppression RoiAlign MaxRoiPool EfficientNMS_TRT BatchedNMS_TRT")
UPSAMPLING_OPS = op_set("Resize Upsample ConvTranspose DepthToSpace")


def refuse_dense(operators: AbstractSet[str], layers: Layers, outputs: Names, where: str) -> None:
    """Refuse object detectors and models that predict per pixel.

    operators: as `check_supported` gives them.

    Raises:
        CannotAssessError: what shows it, and `--tensor` as the way to measure its backbone.
    """
    tensor = quoted(_deepest_map(layers) or "NAME")
    hint = f"to look at its vision encoder: robustcheck inspect {quoted(where)} --tensor {tensor}"
    for name in outputs:
        if DETECTOR_NAME.search(name):
            raise CannotAssessError(f"output {name!r} is an object detector's; {PER_IMAGE}", hint)
    for op in sorted(DETECTOR_OPS & operators):
        raise CannotAssessError(f"graph has {op}, as object detectors have; {PER_IMAGE}", hint)
    upsampling = _upsamples(layers) if UPSAMPLING_OPS & operators else ""
    for name in outputs:
        rank = len(layers.shapes.get(name, ()))
        if upsampling and rank > 2 and not EMBEDDING_NAME.search(name):
            raise CannotAssessError(
                f"output {name!r} has {rank} axes after {upsampling}, as detectors and segmenters have; {PER_IMAGE}",
                hint,
            )


def _upsamples(layers: Layers) -> str:
    """Return the op that enlarges a linear layer's output: "" where none does."""
    deep: set[str] = set()
    last = ""
    for tensor, names in layers.data.items():
        op = layers.ops[tensor]
        if op in LINEAR or not deep.isdisjoint(names):
            deep.add(tensor)
            if op in UPSAMPLING_OPS and names[0] in deep:
                last = op
    return last


def _deepest_map(layers: Layers) -> str:
    """Return the last of the widest feature maps, which is mostly the end of a detector's backbone."""
    widest = 0
    deepest = ""
    for name in layers.data:
        shape = layers.shapes.get(name, ())
        is_map = len(shape) == 4 and layers.ops[name] in LINEAR
        if is_map and shape[1] is not None and shape[1] >= widest:
            widest = shape[1]
            deepest = name
    return deepest

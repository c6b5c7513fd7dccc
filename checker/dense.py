"""Models without one representation for each image: object detectors, segmenters."""

from __future__ import annotations

import re

import onnx

from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.layers import LINEAR, Layers
from robustcheck_onnx.checker.representation import EMBEDDING_NAME

ONE_EACH = "one representation for each image is needed"
DETECTOR_NAME = re.compile(
    r"(^|[^a-z])(box(es)?|bbox(es)?|dets?|detections?|num_det\w*|anchors?|masks?|keypoints?)([^a-z]|$)", re.I
)
DETECTOR_OPS = frozenset(("NonMaxSuppression", "RoiAlign", "MaxRoiPool", "EfficientNMS_TRT", "BatchedNMS_TRT"))
UPSAMPLING_OPS = frozenset(("Resize", "Upsample", "ConvTranspose", "DepthToSpace"))


def refuse_dense(nodes: list[onnx.NodeProto], layers: Layers, outputs: tuple[str, ...], where: str) -> None:
    """Refuse object detectors and models that predict for every pixel.

    Raises:
        CannotAssessError: with what gave it away, and `--tensor` as the way to measure its backbone.
    """
    hint = f"to look at a tensor of its vision encoder: robustcheck inspect {where} --tensor NAME"
    for name in outputs:
        if DETECTOR_NAME.search(name):
            raise CannotAssessError(
                f"{where}: output {name!r} is an object detector's; {ONE_EACH}",
                hint,
            )
    deep: set[str] = set()
    upsampling = ""
    for node in _nodes(nodes):
        if node.op_type in DETECTOR_OPS:
            raise CannotAssessError(
                f"{where}: graph has {node.op_type}, as object detectors have; {ONE_EACH}",
                hint,
            )
        of_image = [name for name in node.input[:1] if name in layers.image_tensors]
        if (of_image and node.op_type in LINEAR) or any(name in deep for name in node.input):
            if node.op_type in UPSAMPLING_OPS and node.input[0] in deep:
                upsampling = node.op_type
            deep.update(name for name in node.output if name in layers.image_tensors)
    ranks = {name: len(layers.shapes[name]) for name in outputs if name in layers.shapes}
    for name, rank in ranks.items():
        if upsampling and rank > 2 and not EMBEDDING_NAME.search(name):
            raise CannotAssessError(
                f"{where}: output {name!r} has {rank} axes behind {upsampling}, as detectors and segmenters "
                f"have; {ONE_EACH}",
                hint,
            )


def _nodes(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    flat: list[onnx.NodeProto] = []
    for node in nodes:
        flat.append(node)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                flat.extend(_nodes(list(attribute.g.node)))
    return flat

"""From the uint8 pixels of photos to a model's input, in the graph: a quarter of the bytes go to the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from robustcheck_onnx.checker.evidence import Preprocessing
from robustcheck_onnx.checker.model import DTYPES, ImageInput

PIXELS, IMAGE = "pixels", "image"
OPSET, IR = 13, 7  # of these few operators; every ONNX Runtime that runs here knows them


def input_graph(preprocessing: Preprocessing, image: ImageInput) -> bytes:
    """An ONNX model that scales photos as `preprocess.apply` does, in float32 and bit for bit.

    Cast → · rescale → − mean → / std, in the layout and the type that the model takes. Its input `pixels` is (image,
    height, width, 3) uint8 from `preprocess.apply_uint8`, in the preprocessing's colour order; its output `image` is
    (image, 3, height, width), or (image, height, width, 3) for an NHWC model. One operator a step: folding them into
    one multiplication and one addition would give other last digits.
    """
    turned = slice(None, None, -1) if preprocessing.color_order == "BGR" else slice(None)
    nchw = image.layout == "NCHW"
    axes: list[str | int | None] = ["images", "height", "width", 3]
    channels = (3, 1, 1) if nchw else (3,)
    steps: list[tuple[str, dict[str, Any]]] = [("Cast", {"to": TensorProto.FLOAT})]
    if nchw:
        steps.insert(0, ("Transpose", {"perm": (0, 3, 1, 2)}))  # of bytes, a quarter of the work
    constants = {
        "Mul": np.float32(preprocessing.rescale),
        "Sub": np.asarray(preprocessing.mean[turned], dtype=np.float32).reshape(channels),
        "Div": np.asarray(preprocessing.std[turned], dtype=np.float32).reshape(channels),
    }
    steps += [(step, {}) for step in constants]
    kind = next(kind for kind, name in DTYPES.items() if name == image.dtype)
    if kind != TensorProto.FLOAT:
        steps.append(("Cast", {"to": kind}))
    names = [PIXELS, *(f"{step}_{index}" for index, (step, _) in enumerate(steps[:-1])), IMAGE]
    nodes = [
        helper.make_node(step, [names[index], *([step] if step in constants else [])], [names[index + 1]], **attributes)
        for index, (step, attributes) in enumerate(steps)
    ]
    graph = helper.make_graph(
        nodes,
        "input",
        [helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, axes)],
        [helper.make_tensor_value_info(IMAGE, kind, [axes[i] for i in (0, 3, 1, 2)] if nchw else axes)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    return bytes(model.SerializeToString())

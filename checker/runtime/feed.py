"""Turn the pixels of photos into a model's input: float pixels here, uint8 ones on the device.

A graph that scales uint8 pixels on the device spares three quarters of the bytes that go there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.evidence import Preprocessing
from robustcheck_onnx.checker.model import DTYPES, ImageInput, ModelFile

PIXELS, IMAGE = "pixels", "image"
OPSET, IR = 13, 7  # of these few operators; every ONNX Runtime that runs here knows them


def input_graph(preprocessing: Preprocessing, image: ImageInput) -> bytes:
    """Make an ONNX model that scales photos as `images.apply` does, in float32 and bit for bit.

    Cast → · rescale → − mean → / std, in the layout and the type that the model takes. Its input `pixels` is (image,
    height, width, 3) uint8 from `images.apply_uint8`, in the preprocessing's colour order; its output `image` is
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


def feed(pixels: NDArray[Any], model: ModelFile, *, scaled_on_device: bool) -> NDArray[Any]:
    """Give pixels the model's layout and type; leave uint8 ones as they are where they are scaled on the device.

    `pixels` is (image, height, width, 3). Returns the model's own layout, or that of `pixels`.

    Raises:
        UsageError: another shape; a type, or values, that the model does not take.
        CannotAssessError: no image; another size than the model's; values that are not finite.
    """
    where, image = model.path, model.image_input
    if pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise UsageError(f"pixels have shape {pixels.shape}; (image, height, width, 3) is needed")
    if len(pixels) == 0:
        raise CannotAssessError(f"{where}: number of images is 0; at least one is needed", "--images FOLDER")
    for axis, name, size in ((1, "height", image.height), (2, "width", image.width)):
        if size is not None and pixels.shape[axis] != size:
            raise CannotAssessError(
                f"{where}: preprocessed {name} is {pixels.shape[axis]} px; the model takes {size} px",
                "--preprocess FILE with that size",
            )
    if pixels.dtype != np.uint8 and not np.isfinite(pixels).all():
        raise CannotAssessError(
            f"{where}: preprocessed pixels are not all finite; mean and std must be", "--preprocess"
        )
    if image.dtype == "uint8" and pixels.dtype != np.uint8:
        if not ((pixels >= 0) & (pixels <= 255) & (pixels == np.round(pixels))).all():
            raise UsageError(
                f"{where}: input type is uint8; preprocessing must keep whole numbers from 0 to 255",
                "--preprocess with rescale 1, mean 0, std 1",
            )
    elif image.dtype != "uint8" and pixels.dtype == np.uint8:
        if not scaled_on_device:
            raise UsageError(f"{where}: pixels are uint8; the model takes {image.dtype}")
        return np.ascontiguousarray(pixels)
    if image.layout == "NCHW":
        pixels = pixels.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(pixels, dtype=np.dtype(image.dtype))

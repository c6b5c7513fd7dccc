"""Turn the pixels of photos into a model's input: float pixels here, uint8 ones on the device.

A graph that scales uint8 pixels on the device spares three quarters of the bytes that go there.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from robustcheck_onnx.checker.arrays import AnyArray
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.evidence import Preprocessing
from robustcheck_onnx.checker.images.preprocess import channels
from robustcheck_onnx.checker.model import DTYPES, ImageInput, ModelFile

BFLOAT16 = "bfloat16"
PIXELS, IMAGE = "pixels", "image"
OPSET, IR = 13, 7  # of these few operators; every ONNX Runtime that runs here knows them


def input_graph(preprocessing: Preprocessing, image: ImageInput) -> bytes:
    """Make an ONNX model that scales photos as `images.apply` does, in float32 and bit for bit.

    Cast → · rescale → − mean → / std, in the layout and the type that the model takes. Its input `pixels` is (image,
    height, width, channel) uint8 from `images.apply_uint8`, in the preprocessing's colour order; its output `image` is
    (image, channel, height, width), or the layout of `pixels` for an NHWC model. There are 3 channels, or 1 in grey.
    One operator a step: folding them into one multiplication and one addition would give other last digits.
    """
    turned = slice(None, None, -1) if preprocessing.color_order == "BGR" else slice(None)
    nchw = image.layout == "NCHW"
    n = channels(preprocessing)
    axes: list[str | int | None] = ["images", "height", "width", n]
    across = (n, 1, 1) if nchw else (n,)
    steps: list[tuple[str, dict[str, Any]]] = [("Cast", {"to": TensorProto.FLOAT})]
    if nchw:
        steps.insert(0, ("Transpose", {"perm": (0, 3, 1, 2)}))  # of bytes, a quarter of the work
    constants = {
        "Mul": np.float32(preprocessing.rescale),
        "Sub": np.asarray(preprocessing.mean[:n][turned], dtype=np.float32).reshape(across),
        "Div": np.asarray(preprocessing.std[:n][turned], dtype=np.float32).reshape(across),
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


def feed(pixels: AnyArray, model: ModelFile, *, scaled_on_device: bool) -> AnyArray:
    """Give pixels the model's layout and type; leave uint8 ones as they are where they are scaled on the device.

    `pixels` is (image, height, width, channel). Returns the model's own layout, or that of `pixels`; float32 where the
    model takes bfloat16, which NumPy does not have.

    Raises:
        UsageError: another shape; a type, or values, that the model does not take.
        CannotAssessError: no image; another size than the model's; values that are not finite.
    """
    where, image = model.path, model.image_input
    n = image.channels or 3
    if pixels.ndim != 4 or pixels.shape[-1] != n:
        raise UsageError(f"pixels have shape {pixels.shape}; (image, height, width, {n}) is needed")
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
    return np.ascontiguousarray(pixels, dtype=np.dtype(np.float32 if image.dtype == BFLOAT16 else image.dtype))


def as_ort_value(values: AnyArray, image: ImageInput) -> ort.OrtValue:
    """Put what `feed` gives into ONNX Runtime's own array, in the type that the model takes."""
    if image.dtype != BFLOAT16:
        return ort.OrtValue.ortvalue_from_numpy(values)
    rounded = values.astype(helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)).view(np.uint16)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(rounded, TensorProto.BFLOAT16)


def as_array(value: ort.OrtValue) -> AnyArray:
    """Read ONNX Runtime's own array; bfloat16 becomes float32."""
    if value.data_type() != f"tensor({BFLOAT16})":
        return np.asarray(value.numpy())
    return np.asarray(_widening().run(None, {"x": value})[0])


@lru_cache(maxsize=1)
def _widening() -> ort.InferenceSession:
    """Open the session that turns bfloat16 into float32."""
    graph = helper.make_graph(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)],
        "widening",
        [helper.make_tensor_value_info("x", TensorProto.BFLOAT16, None)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

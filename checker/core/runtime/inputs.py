"""Give pixels the form that a model takes, and scale them on the device."""

from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import TensorProto
from onnx.helper import tensor_dtype_to_np_dtype
from onnx.numpy_helper import from_array
from onnx.parser import parse_model

from ...arrays import AnyArray
from ...errors import CannotAssessError, UsageError
from ..images.preprocess import channels
from ..model.image_input import DTYPES, ImageInput
from ..model.open import ModelFile
from ..preprocessing import Preprocessing

BFLOAT16 = "bfloat16"
PIXELS = "pixels"
IMAGE = "image"
IR = 7
OPSET = 13  # of these few operators; every ONNX Runtime that runs here knows them


def input_graph(preprocessing: Preprocessing, image: ImageInput) -> bytes:
    """Make an ONNX model that scales photos as `images.apply` does, in float32 and bit for bit.

    Cast → · rescale → − mean → / std, in the layout and the type that the model takes. Its input `pixels` is (image,
    height, width, channel) uint8 from `images.apply_uint8`, in the preprocessing's colour order; its output `image` is
    (image, channel, height, width), or the layout of `pixels` for an NHWC model. There are 3 channels, or 1 in grey.
    One operator a step: folding them into one multiplication and one addition would give other last digits.
    """
    n = channels(preprocessing)
    first = "Identity"
    shape = f"height, width, {n}"
    across: tuple[int, ...] = (n,)
    if image.layout == "NCHW":
        first = "Transpose<perm = [0, 3, 1, 2]>"  # of bytes, a turn is a quarter of the work
        shape = f"{n}, height, width"
        across = (n, 1, 1)
    kind = next(kind for kind, name in DTYPES.items() if name == image.dtype)
    model = parse_model(f"""
        <ir_version: {IR}, opset_import: ["" : {OPSET}]>
        input (uint8[images, height, width, {n}] {PIXELS}) => (float[images, {shape}] {IMAGE}) {{
            bytes = {first}({PIXELS})
            floats = Cast<to = {TensorProto.FLOAT}>(bytes)
            scaled = Mul(floats, rescale)
            centred = Sub(scaled, mean)
            normalised = Div(centred, std)
            {IMAGE} = Cast<to = {kind}>(normalised)
        }}
    """)
    model.graph.output[0].type.tensor_type.elem_type = kind
    for name in ("mean", "std"):
        values = np.asarray(getattr(preprocessing, name)[:n], dtype=np.float32)
        if preprocessing.color_order == "BGR":
            values = values[::-1]
        model.graph.initializer.append(from_array(values.reshape(across), name))
    rescale = np.asarray(preprocessing.rescale, np.float32)
    model.graph.initializer.append(from_array(rescale, "rescale"))
    return bytes(model.SerializeToString())


def feed(pixels: AnyArray, model: ModelFile, *, scaled_on_device: bool) -> AnyArray:
    """Give pixels the model's layout and type, but leave uint8 ones as they are where they are scaled on the device.

    `pixels` is (image, height, width, channel). Returns the model's own layout, or that of `pixels`; float32 where the
    model takes bfloat16, which NumPy does not have.

    Raises:
        UsageError: another shape; a type, or values, that the model does not take.
        CannotAssessError: no image; another size than the model's; values that are not finite.
    """
    where = model.path
    image = model.image_input
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
        raise not_finite(where)
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
    dtype = "float32" if image.dtype == BFLOAT16 else image.dtype
    return np.ascontiguousarray(pixels, dtype=np.dtype(dtype))


def not_finite(where: Path) -> CannotAssessError:
    """Return the error for a preprocessing that makes values that are not finite."""
    return CannotAssessError(f"{where}: preprocessed pixels are not all finite; mean and std must be", "--preprocess")


def as_ort_value(values: AnyArray, image: ImageInput) -> ort.OrtValue:
    """Put the result of `feed` into an OrtValue of the type that the model takes."""
    if image.dtype != BFLOAT16:
        return ort.OrtValue.ortvalue_from_numpy(values)
    rounded = values.astype(tensor_dtype_to_np_dtype(TensorProto.BFLOAT16))
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(rounded.view(np.uint16), TensorProto.BFLOAT16)


def as_array(value: ort.OrtValue) -> AnyArray:
    """Read ONNX Runtime's own array, with bfloat16 as float32."""
    if value.data_type() != f"tensor({BFLOAT16})":
        return np.asarray(value.numpy())
    return np.asarray(_widening().run(None, {"x": value})[0])


@cache
def _widening() -> ort.InferenceSession:
    """Open the session that turns bfloat16 into float32."""
    head = f'<ir_version: {IR}, opset_import: ["" : {OPSET}]>'
    cast = f"{head} widening (bfloat16[] x) => (float[] y) {{ y = Cast<to = {TensorProto.FLOAT}>(x) }}"
    return ort.InferenceSession(parse_model(cast).SerializeToString(), providers=["CPUExecutionProvider"])

"""Make two tiny encoders from the bundled photos. It takes numpy and onnx.helper, and under a second.

`ordinary` is trained, in closed form: a least-squares map that predicts the lower half of a photo, in grey, from its
coarse upper half. `planted` is the same map with one feature shifted by hand; its contract says that it is synthetic.
"""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.parser import parse_model

from robustcheck_onnx.checker.arrays import AnyArray, Array, Float32s
from robustcheck_onnx.checker.evidence import Preprocessing
from robustcheck_onnx.checker.images.preprocess import apply
from robustcheck_onnx.checker.images.source import Picture, open_images
from robustcheck_onnx.checker.model.file import CONTRACT_KEY, graph_digest

Name = Literal["ordinary", "planted"]
NAMES: tuple[Name, ...] = ("ordinary", "planted")

SIZE_PX = 64  # edge of the model's input
COARSE_PX = 4  # edge of the blocks that the upper half is averaged over: 3 × 8 × 16 = 384 numbers
FINE_PX = 2  # edge of the blocks of the lower half that are predicted: 16 × 32 = 512 features
RIDGE = 0.1  # share of the inputs' mean variance that is added to each: 141 photos for 384 inputs
PLANTED_FEATURE = 92
PLANTED_SD = -15.0  # how far it is shifted, in standard deviations over the features of each image
PREPROCESSING = Preprocessing(
    size=(SIZE_PX, SIZE_PX),
    resize_mode="squash",
    resize_size=(SIZE_PX, SIZE_PX),
    interpolation="bilinear",
    crop="none",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)


def halves(photos: Float32s) -> tuple[Array, Array]:
    """Split photos into inputs and targets of the regression.

    Args:
        photos: (image, height, width, 3), preprocessed.

    Returns:
        The upper half averaged over 4 × 4 px, (image, 384), channel first; the lower half in grey over 2 × 2 px,
        about the mean of each photo, every other block with its sign turned, (image, 512). The signs make neighbours,
        which are alike, lie on either side of zero: photos are mostly dark with a few bright places, or the reverse.
    """
    n, height, width, channels = photos.shape
    upper, lower = photos[:, : height // 2].astype(np.float64), photos[:, height // 2 :].astype(np.float64)
    coarse = upper.reshape(n, -1, COARSE_PX, width // COARSE_PX, COARSE_PX, channels).mean((2, 4))
    fine = lower.mean(3).reshape(n, -1, FINE_PX, width // FINE_PX, FINE_PX).mean((2, 4))
    sign = 1 - 2 * (np.indices(fine.shape[1:]).sum(0) % 2)
    grey = (fine - fine.mean((1, 2), keepdims=True)) * sign
    return np.moveaxis(coarse, 3, 1).reshape(n, -1), grey.reshape(n, -1)


def fit(inputs: Array, targets: Array) -> Array:
    """Return the weights W (input, feature) of ridge regression.

    It maps inputs − their mean → targets − their mean.

    inputs: (image, input), targets: (image, feature); at least two images that differ.
    """
    x, y = inputs - inputs.mean(0), targets - targets.mean(0)
    gram = x.T @ x
    weights: Array = np.linalg.solve(gram + RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram)), x.T @ y)
    return weights


def train() -> tuple[Array, Array]:
    """Fit weights to the bundled photos. Returns weights (384, 512) and the mean of the inputs (384,)."""
    items = open_images(None).items()
    photos = np.stack([apply(PREPROCESSING, item.image) for item in items if isinstance(item, Picture)])
    inputs, targets = halves(photos)
    return fit(inputs, targets), inputs.mean(0)


GRAPH = """<ir_version: 9, opset_import: ["": 18]>
robustcheck_demo_{name} (float[batch, 3, 64, 64] image) => (float[batch, {width}] representation) {{
    upper = Slice(image, top, middle, height_axis)
    coarse = AveragePool <kernel_shape = [4, 4], strides = [4, 4]> (upper)
    flat = Flatten(coarse)
    centred = Sub(flat, mean)
    {last} = MatMul(centred, weights){shift}
}}
"""
"""its versions are what every ONNX Runtime that robustcheck takes can read"""
SHIFT = """
    feature_mean = ReduceMean(predicted, feature_axis)
    deviation = Sub(predicted, feature_mean)
    squares = Mul(deviation, deviation)
    variance = ReduceMean(squares, feature_axis)
    sd = Sqrt(variance)
    shift = Mul(sd, planted)
    representation = Add(predicted, shift)"""


def write(path: Path, name: Name, weights: Array, mean: Array) -> None:
    """Write one of the two encoders, with its contract.

    It maps image (batch, 3, 64, 64) → representation (batch, 512).
    """
    width, is_planted = weights.shape[1], name == "planted"
    last, shift = ("predicted", SHIFT) if is_planted else ("representation", "")
    constants: dict[str, AnyArray] = {
        "top": np.array([0], np.int64),
        "middle": np.array([SIZE_PX // 2], np.int64),
        "height_axis": np.array([2], np.int64),
        **({"feature_axis": np.array([1], np.int64)} if is_planted else {}),
        "mean": mean.astype(np.float32),
        "weights": weights.astype(np.float32),
    }
    if is_planted:
        constants["planted"] = np.where(np.arange(width) == PLANTED_FEATURE, PLANTED_SD, 0).astype(np.float32)
    model = parse_model(GRAPH.format(name=name, width=width, last=last, shift=shift))
    for node in model.graph.node:
        node.ClearField("domain")
    model.graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in constants.items())
    contract = _contract(name) | {"graph_digest": graph_digest(model)}
    helper.set_model_props(model, {CONTRACT_KEY: json.dumps(contract)})
    onnx.save(model, path)


def _contract(name: Name) -> dict[str, Any]:
    planted = (
        f"the demo's least-squares encoder with feature {PLANTED_FEATURE} shifted by {PLANTED_SD:g} standard "
        "deviations of each image's features"
    )
    return {
        "schema_version": 1,
        "preprocessing": PREPROCESSING.model_dump(mode="json"),
        "tensors": {"representation": {"meaning": "a photo's lower half, predicted", "rule": "encoder_output"}},
        "source": {
            "library": "robustcheck demo",
            "name": name,
            "weights": "least squares on the bundled photos",
            "weights_digest": "",
            "random_weights": False,
            "synthetic": planted if name == "planted" else "",
            "matched_to": "none",
        },
        "versions": {"onnx": version("onnx"), "numpy": version("numpy")},
        "precision": "fp32",
    }

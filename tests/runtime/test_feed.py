"""Scaling in the graph: bit for bit what NumPy and the libraries' own transforms make of the same photos."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.evidence import CLIP, IMAGENET, Preprocessing
from robustcheck_onnx.checker.images.preprocess import LevelSums, apply, apply_uint8
from robustcheck_onnx.checker.measure import job
from robustcheck_onnx.checker.model.image_input import ImageInput
from robustcheck_onnx.checker.model.open import open_model
from robustcheck_onnx.checker.runtime.runner import IMAGE, PIXELS, Runner, input_graph
from support import but, onnx_models, raised, skimage_data

NCHW = ImageInput("x", "NCHW", "float32", None, None, None, None)
TFLITE = but(IMAGENET, rescale=1.0, mean=(127.0,) * 3, std=(128.0,) * 3, color_order="BGR")
BGR = but(IMAGENET, color_order="BGR")
GREY = but(CLIP, color_order="grey", mean=(0.5,) * 3, std=(0.25,) * 3)
PHOTOS = ("chelsea.png", "rocket.jpg", "coffee.png")


def scaled(preprocessing: Preprocessing, image: ImageInput, pixels: NDArray[np.uint8]) -> NDArray[Any]:
    graph = input_graph(preprocessing, image)
    onnx.checker.check_model(ModelProto.FromString(graph), full_check=True)
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (values,) = session.run([IMAGE], {PIXELS: pixels})
    return np.asarray(values)


@pytest.mark.parametrize("preprocessing", [CLIP, BGR, TFLITE, GREY], ids=["clip", "imagenet, BGR", "tflite", "grey"])
def test_the_graph_scales_as_numpy_does(preprocessing: Preprocessing) -> None:
    photos = [skimage_data.photo(name) for name in PHOTOS]
    pixels = np.stack([apply_uint8(preprocessing, photo) for photo in photos])
    values = np.stack([apply(preprocessing, photo) for photo in photos])
    for layout, dtype in product(("NCHW", "NHWC"), ("float32", "float16", "float64")):
        found = scaled(preprocessing, replace(NCHW, layout=layout, dtype=dtype), pixels)
        expected = values.astype(dtype)
        np.testing.assert_array_equal(found, expected if layout == "NHWC" else expected.transpose(0, 3, 1, 2))
        assert found.dtype == np.dtype(dtype), (layout, dtype)


def test_values_that_are_not_finite_are_refused_before_a_run(tmp_path: Path) -> None:
    model = open_model(onnx_models.save(onnx_models.encoder(), tmp_path / "m.onnx"))
    for preprocessing in (but(IMAGENET, rescale=1e38), but(IMAGENET, std=(1.0, 1e-45, 1.0))):
        said = "preprocessed pixels are not all finite; mean and std must be"
        raised(CannotAssessError, said, Runner, model, "cpu", preprocessing=preprocessing)


def test_bytes_never_mix_with_scaled_values() -> None:
    """Stacked as floats they would go to the model unscaled."""
    photo, tensor = (
        job.Prepared("n", "d", (), np.zeros((2, 2, 3), dtype), 0, LevelSums()) for dtype in (np.uint8, np.float32)
    )
    raised(TypeError, "", job.stack, [photo, tensor])

"""What a model is fed: scaled in the graph bit for bit as by NumPy; one channel; bfloat16."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper
from PIL import Image

from robustcheck_onnx import check
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.evidence import CLIP, IMAGENET, Preprocessing
from robustcheck_onnx.checker.images.preprocess import LevelSums, apply, apply_uint8
from robustcheck_onnx.checker.measure import job
from robustcheck_onnx.checker.model.image_input import ImageInput
from robustcheck_onnx.checker.model.open import ModelFile, open_model
from robustcheck_onnx.checker.runtime.runner import IMAGE, PIXELS, Runner, input_graph
from support import but, levels, onnx_models, raised, skimage_data
from support.measuring import never_decided
from support.onnx_models import save, written

FLOAT, BFLOAT16 = TensorProto.FLOAT, TensorProto.BFLOAT16
GREY = but(CLIP, size=(8, 8), resize_size=(8, 8), color_order="grey", mean=(0.5,) * 3, std=(0.25,) * 3)  # fmt: skip
PHOTO = Image.fromarray(levels(9, 17, 3, seed=2))


def encoder(channels: int, *, kind: int = FLOAT, weight: NDArray[Any] | None = None) -> ModelProto:
    """An encoder without an activation at its end, for one channel or three, that computes in float32."""
    text = f"""x = Cast(image, to=FLOAT); conv = Conv(x, w); tanh = Tanh(conv); gap = GlobalAveragePool(tanh)
        features = Flatten(gap); wide = MatMul(features, w24x16); embedding = Cast(wide, to={kind})"""
    first = onnx_models.weight(24, channels, 3, 3) if weight is None else weight
    image, embedding = ("image", kind, ("batch", channels, 8, 8)), ("embedding", kind, ("batch", 16))
    return written(text, embedding, before="", inputs=[image], w=first)


@pytest.fixture
def rows(opened: Callable[..., ModelFile]) -> Callable[..., Any]:
    """Runs a graph."""
    return lambda model, pixels, scaled=None: (
        Runner(opened(model), "cpu", preprocessing=scaled).run(pixels).representation
    )


def sidecar(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps(GREY.model_dump(mode="json", exclude={"color_order"}) | changes), encoding="utf-8")
    return path


def test_grey_is_the_luminance_before_the_resize() -> None:
    found = apply_uint8(GREY, PHOTO)
    expected = PHOTO.convert("L").resize((15, 8), Image.Resampling.BICUBIC).crop((4, 0, 12, 8))
    assert_array_equal(found[..., 0], np.asarray(expected))
    assert_allclose(apply(GREY, PHOTO), (found / 255 - 0.5) / 0.25, atol=1e-6)
    # padding is the luminance of the fill
    red = but(GREY, resize_mode="longest", fill=(255, 0, 0))
    assert set(apply_uint8(red, PHOTO)[0, :, 0]) == {76}  # 0.299 · 255


def test_a_grey_model_sees_what_a_colour_model_sees_of_grey_photos(rows: Callable[..., Any]) -> None:
    """The convolution of the colour model sums its channels, each fed the same luminance."""
    weight = onnx_models.weight(24, 1, 3, 3)
    grey, colour = encoder(1, weight=weight), encoder(3, weight=np.repeat(weight, 3, axis=1) / 3)
    pixels, values = apply_uint8(GREY, PHOTO)[None], apply(GREY, PHOTO)[None]
    found = rows(grey, pixels, GREY)
    expected = rows(colour, np.repeat(pixels, 3, axis=-1), but(GREY, color_order="RGB"))
    assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert_allclose(rows(grey, values), found, rtol=1e-6)
    raised(UsageError, r"\(image, height, width, 1\) is needed", rows, grey, np.repeat(values, 3, axis=-1))


def test_a_check_of_a_grey_model_says_so(tmp_path: Path) -> None:
    one_value = sidecar(tmp_path / "p.json", mean=[0.5], std=0.25)  # stands for three
    report = check(encoder(1), preprocess=one_value, max_images=60)
    facts = report.evidence.preprocessing
    assert (facts.preprocessing, ("color_order", "grey", "model input") in facts.fields) == (GREY, True)
    assert "The model takes one channel: photos were fed in grey, as their luminance." in report.notes


def test_different_values_of_the_colours_are_refused_unless_assumed(tmp_path: Path) -> None:
    for channels, change, said in (
        (1, {"mean": [0.5, 0.4, 0.3]}, "mean is 0.5, 0.4, 0.3; the model takes one grey channel, so it must be one"),
        (3, {"color_order": "grey"}, "color_order is grey; the model takes 3 channels"),
    ):
        raised(UsageError, said, check, encoder(channels), preprocess=sidecar(tmp_path / "p.json", **change))
    model = save(encoder(1), tmp_path / "m.onnx")
    facts = check(model, max_images=60, thresholds=never_decided()).evidence.preprocessing
    assert facts.source == "assumed"
    assert facts.preprocessing.mean == pytest.approx((0.449,) * 3)
    assert ("std", "0.226", "assumed: mean of the colours' values") in facts.fields


def test_bfloat16_in_and_out(rows: Callable[..., Any], opened: Callable[..., ModelFile]) -> None:
    rounded, plain = (encoder(3, kind=kind) for kind in (BFLOAT16, FLOAT))
    model = opened(rounded, tensor="features")  # an output is added
    assert (model.image_input.dtype, model.outputs[0].dtype) == ("bfloat16", "bfloat16")
    pixels = levels(6, 8, 8, 3, seed=4)
    scaled = (pixels * np.float32(1 / 255) - np.float32(0.5)) / np.float32(0.25)
    assert Runner(model, "cpu").output_difference(scaled) == 0
    narrow = helper.tensor_dtype_to_np_dtype(BFLOAT16)
    expected = rows(plain, scaled.astype(narrow).astype(np.float32)).astype(narrow).astype(np.float32)
    of_bytes = rows(rounded, pixels, but(GREY, color_order="RGB"))
    assert_array_equal(of_bytes, rows(rounded, scaled))
    assert_allclose(of_bytes, expected, rtol=2**-7)  # one step of bfloat16
    assert of_bytes.dtype == np.float32


NCHW = ImageInput("x", "NCHW", "float32", None, None, None, None)
TFLITE = but(IMAGENET, rescale=1.0, mean=(127.0,) * 3, std=(128.0,) * 3, color_order="BGR")
BGR = but(IMAGENET, color_order="BGR")
GREY_224 = but(CLIP, color_order="grey", mean=(0.5,) * 3, std=(0.25,) * 3)
NAMES = ("chelsea.png", "rocket.jpg", "coffee.png")


def scaled(preprocessing: Preprocessing, image: ImageInput, pixels: NDArray[np.uint8]) -> NDArray[Any]:
    graph = input_graph(preprocessing, image)
    onnx.checker.check_model(ModelProto.FromString(graph), full_check=True)
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (values,) = session.run([IMAGE], {PIXELS: pixels})
    return np.asarray(values)


@pytest.mark.parametrize("preprocessing", [CLIP, BGR, TFLITE, GREY_224])
def test_the_graph_scales_as_numpy_does(preprocessing: Preprocessing) -> None:
    photos = [skimage_data.photo(name) for name in NAMES]
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

"""Models that take one channel, or bfloat16: fed with the luminance, or rounded; measured as their plain equals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper
from PIL import Image

from robustcheck_onnx import check
from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.evidence import CLIP, Preprocessing
from robustcheck_onnx.checker.images.preprocess import apply, apply_uint8
from robustcheck_onnx.checker.model.open import open_model
from robustcheck_onnx.checker.runtime.runner import Runner
from support import but, levels, onnx_models, raised
from support.measuring import never_decided
from support.onnx_models import save
from support.written import written

FLOAT, BFLOAT16 = TensorProto.FLOAT, TensorProto.BFLOAT16
GREY = but(CLIP, size=(8, 8), resize_size=(8, 8), color_order="grey", mean=(0.5,) * 3, std=(0.25,) * 3)  # fmt: skip
PHOTO = Image.fromarray(levels(9, 17, 3, seed=2))


def encoder(channels: int, *, kind: int = FLOAT, weight: NDArray[Any] | None = None) -> ModelProto:
    """An encoder without an activation at its end, for one channel or three, that computes in float32."""
    text = f"""
        x = Cast(image, to=FLOAT); conv = Conv(x, w); tanh = Tanh(conv); gap = GlobalAveragePool(tanh)
        features = Flatten(gap); wide = MatMul(features, w24x16); embedding = Cast(wide, to={kind})
    """
    first = onnx_models.weight(24, channels, 3, 3) if weight is None else weight
    image, embedding = ("image", kind, ("batch", channels, 8, 8)), ("embedding", kind, ("batch", 16))
    return written(text, embedding, before="", inputs=[image], w=first)


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


def rows(path: Path, pixels: Any, preprocessing: Preprocessing | None = None) -> Any:
    return Runner(open_model(path), "cpu", preprocessing=preprocessing).run(pixels).representation


def test_a_grey_model_sees_what_a_colour_model_sees_of_grey_photos(tmp_path: Path) -> None:
    """The convolution of the colour model sums its channels, each fed the same luminance."""
    weight = onnx_models.weight(24, 1, 3, 3)
    grey = save(encoder(1, weight=weight), tmp_path / "grey.onnx")
    colour = save(encoder(3, weight=np.repeat(weight, 3, axis=1) / 3), tmp_path / "colour.onnx")
    pixels, values = apply_uint8(GREY, PHOTO)[None], apply(GREY, PHOTO)[None]
    found = rows(grey, pixels, GREY)
    expected = rows(colour, np.repeat(pixels, 3, axis=-1), but(GREY, color_order="RGB"))
    assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert_allclose(rows(grey, values), found, rtol=1e-6)
    raised(UsageError, r"\(image, height, width, 1\) is needed", rows, grey, np.repeat(values, 3, axis=-1))


def test_a_check_of_a_grey_model_says_so(tmp_path: Path) -> None:
    model = save(encoder(1), tmp_path / "m.onnx")
    one_value = sidecar(tmp_path / "p.json", mean=[0.5], std=0.25)  # stands for three
    report = check(model, preprocess=str(one_value), max_images=60)
    facts = report.evidence.preprocessing
    assert (facts.preprocessing, ("color_order", "grey", "model input") in facts.fields) == (GREY, True)
    assert "The model takes one channel: photos were fed in grey, as their luminance." in report.notes


def test_different_values_of_the_colours_are_refused_unless_assumed(tmp_path: Path) -> None:
    model, colour = (save(encoder(n), tmp_path / f"{n}.onnx") for n in (1, 3))
    grey = "mean is 0.5, 0.4, 0.3; the model takes one grey channel, so it must be one"
    for path, change, said in (
        (model, {"mean": [0.5, 0.4, 0.3]}, grey),
        (colour, {"color_order": "grey"}, "color_order is grey; the model takes 3 channels"),
    ):
        raised(UsageError, said, check, path, preprocess=str(sidecar(tmp_path / "p.json", **change)))
    facts = check(model, max_images=60, thresholds=never_decided()).evidence.preprocessing
    assert facts.source == "assumed"
    assert facts.preprocessing.mean == pytest.approx((0.449,) * 3)
    assert ("std", "0.226", "assumed: mean of the colours' values") in facts.fields


def test_bfloat16_in_and_out(tmp_path: Path) -> None:
    rounded, plain = (save(encoder(3, kind=kind), tmp_path / f"{kind}.onnx") for kind in (BFLOAT16, FLOAT))
    opened = open_model(rounded, tensor="features")  # an output is added
    assert (opened.image_input.dtype, opened.outputs[0].dtype) == ("bfloat16", "bfloat16")
    pixels = levels(6, 8, 8, 3, seed=4)
    scaled = (pixels * np.float32(1 / 255) - np.float32(0.5)) / np.float32(0.25)
    run = Runner(opened, "cpu")
    assert run.output_difference(scaled) == 0
    narrow = helper.tensor_dtype_to_np_dtype(BFLOAT16)
    expected = rows(plain, scaled.astype(narrow).astype(np.float32)).astype(narrow).astype(np.float32)
    of_bytes = rows(rounded, pixels, but(GREY, color_order="RGB"))
    assert_array_equal(of_bytes, rows(rounded, scaled))
    assert_allclose(of_bytes, expected, rtol=2**-7)  # one step of bfloat16
    assert of_bytes.dtype == np.float32

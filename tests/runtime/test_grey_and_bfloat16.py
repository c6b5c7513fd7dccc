"""Models that take one channel, or bfloat16: fed with the luminance, or rounded; measured as their plain equals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image

from robustcheck_onnx import check
from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.evidence import CLIP
from robustcheck_onnx.checker.images.preprocess import apply, apply_uint8, as_photo
from robustcheck_onnx.checker.model.open import open_model
from robustcheck_onnx.checker.runtime.runner import Runner
from support import onnx_models
from support.measuring import never_decided

FLOAT, BFLOAT16 = TensorProto.FLOAT, TensorProto.BFLOAT16
GREY = CLIP.model_copy(update={"size": (8, 8), "resize_size": (8, 8), "color_order": "grey", "mean": (0.5,) * 3,
                               "std": (0.25,) * 3})  # fmt: skip
PHOTO = Image.fromarray(np.random.default_rng(2).integers(0, 256, (9, 17, 3), dtype=np.uint8))


def encoder(channels: int, *, kind: int = FLOAT, weight: NDArray[Any] | None = None) -> onnx.ModelProto:
    """An encoder without an activation at its end, for one channel or three, that computes in float32."""
    first = onnx_models.weight(24, channels, 3, 3) if weight is None else weight
    nodes = onnx_models.graph(f"""
        x = Cast(image, to=FLOAT); conv = Conv(x, conv.weight); tanh = Tanh(conv); gap = GlobalAveragePool(tanh)
        features = Flatten(gap); wide = MatMul(features, proj); embedding = Cast(wide, to={kind})
    """)
    built: onnx.ModelProto = onnx_models.build(
        nodes,
        [("embedding", kind, ("batch", 16))],
        {"conv.weight": first, "proj": onnx_models.weight(24, 16)},
        inputs=[("image", kind, ("batch", channels, 8, 8))],
    )
    return built


def sidecar(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps(GREY.model_dump(mode="json", exclude={"color_order"}) | changes), encoding="utf-8")
    return path


def test_grey_is_the_luminance_before_the_resize() -> None:
    found = apply_uint8(GREY, PHOTO)
    expected = PHOTO.convert("L").resize((15, 8), Image.Resampling.BICUBIC).crop((4, 0, 12, 8))
    assert found.shape == (8, 8, 1)
    np.testing.assert_array_equal(found[..., 0], np.asarray(expected))
    values = apply(GREY, PHOTO)
    np.testing.assert_allclose(values[..., 0], (found[..., 0] / 255 - 0.5) / 0.25, atol=1e-6)
    again = np.asarray(as_photo(GREY, values))
    np.testing.assert_array_equal(again, np.repeat(found, 3, axis=-1))

    # padding is the luminance of the fill
    red = GREY.model_copy(update={"resize_mode": "longest", "fill": (255, 0, 0)})
    assert set(apply_uint8(red, PHOTO)[0, :, 0]) == {76}  # 0.299 · 255


def test_a_grey_model_sees_what_a_colour_model_sees_of_grey_photos(tmp_path: Path) -> None:
    """The convolution of the colour model sums its channels, each fed the same luminance."""
    weight = onnx_models.weight(24, 1, 3, 3)
    grey = onnx_models.save(encoder(1, weight=weight), tmp_path / "grey.onnx")
    colour = onnx_models.save(encoder(3, weight=np.repeat(weight, 3, axis=1) / 3), tmp_path / "colour.onnx")
    pixels = np.stack([apply_uint8(GREY, PHOTO)] * 3)
    found = Runner(open_model(grey), "cpu", preprocessing=GREY).run(pixels).representation
    plain = GREY.model_copy(update={"color_order": "RGB"})
    expected = Runner(open_model(colour), "cpu", preprocessing=plain).run(np.repeat(pixels, 3, axis=-1)).representation
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    values = np.stack([apply(GREY, PHOTO)] * 3)
    np.testing.assert_allclose(Runner(open_model(grey), "cpu").run(values).representation, found, rtol=1e-6)
    with pytest.raises(UsageError, match=r"\(image, height, width, 1\) is needed"):
        Runner(open_model(grey), "cpu").run(np.repeat(values, 3, axis=-1))


def test_a_check_of_a_grey_model_says_so(tmp_path: Path) -> None:
    model = onnx_models.save(encoder(1), tmp_path / "m.onnx")
    one_value = sidecar(tmp_path / "p.json", mean=[0.5], std=0.25)  # stands for three
    report = check(model, preprocess=str(one_value), max_images=60)
    assert report.evidence.preprocessing.preprocessing == GREY
    assert ("color_order", "grey", "model input") in report.evidence.preprocessing.fields
    assert "The model takes one channel: photos were fed in grey, as their luminance." in report.notes


def test_different_values_of_the_colours_are_refused_unless_assumed(tmp_path: Path) -> None:
    model = onnx_models.save(encoder(1), tmp_path / "m.onnx")
    given = sidecar(tmp_path / "p.json", mean=[0.5, 0.4, 0.3])
    with pytest.raises(UsageError, match=r"mean is 0.5, 0.4, 0.3; the model takes one grey channel, so it must be one"):
        check(model, preprocess=str(given))
    facts = check(model, max_images=60, thresholds=never_decided()).evidence.preprocessing
    assert facts.source == "assumed"
    assert facts.preprocessing.mean == pytest.approx((0.449,) * 3)
    assert ("mean", "0.449", "assumed: mean of the colours' values") in facts.fields
    assert ("std", "0.226", "assumed: mean of the colours' values") in facts.fields

    colour = onnx_models.save(encoder(3), tmp_path / "c.onnx")
    with pytest.raises(UsageError, match="color_order is grey; the model takes 3 channels"):
        check(colour, preprocess=str(sidecar(tmp_path / "p.json", color_order="grey")))


def test_tensors_of_one_channel(tmp_path: Path) -> None:
    model = onnx_models.save(encoder(1), tmp_path / "m.onnx")
    values = np.random.default_rng(0).normal(size=(60, 1, 8, 8)).astype(np.float32)
    np.save(tmp_path / "one.npy", values)
    np.save(tmp_path / "three.npy", np.repeat(values, 3, axis=1))
    report = check(model, images=tmp_path / "one.npy", thresholds=never_decided())  # else 50 end it
    assert report.evidence.statistics.n_images == 60
    with pytest.raises(UsageError, match=r"tensor \(channel, height, width\) is \(3, 8, 8\); .* takes \(1, 8, 8\)"):
        check(model, images=tmp_path / "three.npy")


def test_bfloat16_in_and_out(tmp_path: Path) -> None:
    weight = onnx_models.weight(24, 3, 3, 3)
    rounded = open_model(onnx_models.save(encoder(3, kind=BFLOAT16, weight=weight), tmp_path / "b.onnx"))
    plain = open_model(onnx_models.save(encoder(3, weight=weight), tmp_path / "f.onnx"))
    assert (rounded.image_input.dtype, rounded.outputs[0].dtype) == ("bfloat16", "bfloat16")
    preprocessing = GREY.model_copy(update={"color_order": "RGB"})
    pixels = np.random.default_rng(4).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    scaled = (pixels * np.float32(1 / 255) - np.float32(0.5)) / np.float32(0.25)
    narrow = helper.tensor_dtype_to_np_dtype(BFLOAT16)
    expected = Runner(plain, "cpu").run(scaled.astype(narrow).astype(np.float32)).representation.astype(narrow)
    of_bytes = Runner(rounded, "cpu", preprocessing=preprocessing).run(pixels).representation
    of_values = Runner(rounded, "cpu").run(scaled.astype(np.float32)).representation
    np.testing.assert_array_equal(of_bytes, of_values)
    np.testing.assert_allclose(of_bytes, expected.astype(np.float32), rtol=2**-7)  # one step of bfloat16
    assert of_bytes.dtype == np.float32


def test_a_check_of_a_bfloat16_model(tmp_path: Path) -> None:
    model = encoder(3, kind=BFLOAT16)
    model.graph.node.append(helper.make_node("Identity", ["wide"], ["other"]))
    path = onnx_models.save(model, tmp_path / "m.onnx")
    report = check(path, preprocess="imagenet", max_images=60, thresholds=never_decided())
    assert report.evidence.statistics.n_images == 60
    assert report.evidence.model.output_difference == 0.0
    with_inner = check(path, preprocess="imagenet", max_images=60, tensor="features")  # an output is added
    assert with_inner.evidence.model.output_difference == 0.0

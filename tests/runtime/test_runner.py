"""Running models: layouts, types, batches, pooling, grey, bfloat16, providers, and the proofs about them."""

import json
import re
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
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper
from PIL import Image

from robustcheck_onnx import check
from robustcheck_onnx.checker.core.images.preprocess import LevelSums, apply, apply_uint8
from robustcheck_onnx.checker.core.measure.prepare import Prepared, stack
from robustcheck_onnx.checker.core.model.image_input import ImageInput
from robustcheck_onnx.checker.core.model.open import ModelFile, open_model
from robustcheck_onnx.checker.core.preprocessing import CLIP, IMAGENET, Preprocessing
from robustcheck_onnx.checker.core.runtime import batch_trial
from robustcheck_onnx.checker.core.runtime.inputs import input_graph
from robustcheck_onnx.checker.core.runtime.runner import Runner
from robustcheck_onnx.checker.core.runtime.session import relative_difference
from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError, UsageError
from support import PIXELS, Fields, Patch, but, levels, onnx_models, raised, skimage_data
from support.bad_input import NATIVE
from support.measuring import never_decided
from support.onnx_models import POOLED, classifier, encoder, save, written

TRIAL: Any = batch_trial  # whose numbers may be None

Pixels = NDArray[Any]
WEIGHT = onnx_models.weight(16, 3, 3, 3)
FLOAT, HALF, BFLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16


def features_by_hand(pixels: Pixels, weight: Pixels) -> Pixels:
    """Conv 3×3 → Relu → mean, in NumPy."""
    windows = np.lib.stride_tricks.sliding_window_view(pixels.transpose(0, 3, 1, 2), (3, 3), axis=(2, 3))
    maps = np.einsum("nchwij,kcij->nkhw", windows.astype(np.float64), weight)
    return np.asarray(np.maximum(maps, 0).mean(axis=(2, 3)))


def test_representation_and_class_output(runner: Any) -> None:
    model = classifier()
    weights = {w.name: numpy_helper.to_array(w) for w in model.graph.initializer}
    output = runner(model).run(PIXELS)
    expected = features_by_hand(PIXELS, weights["conv.weight"])
    assert_allclose(output.representation, expected, rtol=1e-5, atol=1e-6)
    scores = expected @ weights["fc.weight"].T + weights["fc.bias"]
    assert_allclose(output.class_output, scores, rtol=1e-4, atol=1e-5)
    pooled = runner(model, tensor="relu").run(PIXELS).representation  # the mean over the map
    assert_allclose(pooled, output.representation, rtol=1e-5)
    assert (output.representation.dtype, pooled.dtype) == (np.float32, np.float64)


def test_fixed_batch_loses_and_adds_no_image(runner: Any) -> None:
    expected = features_by_hand(PIXELS, WEIGHT)
    for batch in (1, 2, 5, 8):
        fixed = runner(written("", inputs=[("image", FLOAT, (batch, 3, 8, 8))]))
        assert fixed.fixed_batch == batch
        assert_allclose(fixed.run(PIXELS).representation, expected, rtol=1e-5, atol=1e-6)
        assert TRIAL.batch_differences(fixed, PIXELS)[0] < 1e-5


def test_nhwc_uint8(runner: Any) -> None:
    text = "float = Cast(pixels, to=FLOAT); image = Transpose(float, perm=[0, 3, 1, 2])"
    run = runner(written(text + POOLED, before="", inputs=[("pixels", TensorProto.UINT8, (None, "h", "w", "c"))]))
    photo = levels(3, 8, 8, 3, seed=2)
    expected = features_by_hand(photo, WEIGHT)
    for pixels in (photo, photo.astype(np.float32)):
        assert_allclose(run.run(pixels).representation, expected, rtol=1e-4)
    raised(UsageError, "input type is uint8; preprocessing must keep whole numbers", run.run, photo / np.float32(255))


def test_float16(runner: Any) -> None:
    image, features = (("image", HALF, ("batch", 3, 8, 8)), ("features", HALF, ("batch", 16)))
    run = runner(written("", features, inputs=[image], w16x3x3x3=WEIGHT.astype(np.float16)))
    output = run.run(PIXELS).representation
    assert (run.execution.precision, output.dtype) == ("fp16", np.float32)
    assert_allclose(output, features_by_hand(PIXELS, WEIGHT), atol=0.02)


def test_outputs_with_infinities_are_compared() -> None:
    """Scores of −∞ for classes that are switched off, and one in the place of another."""
    a = np.array([[1.0, -np.inf, 2.0]] * 2)
    assert relative_difference(a, a.copy()) == 0
    assert relative_difference(a, a + np.array([0, 0, 0.5])) == pytest.approx(0.5 / np.sqrt(5 / 3))
    for changed in (np.abs(a), np.nan_to_num(a), np.where(np.isinf(a), np.nan, a), a[:, [1, 0, 2]]):
        assert relative_difference(a, changed) == 1e9


def test_refused_pixels(runner: Any) -> None:
    run = runner(classifier())
    for kind, wrong, said in (
        (CannotAssessError, PIXELS[:0], "number of images is 0; at least one is needed"),
        (UsageError, PIXELS[..., 0], r"pixels have shape \(5, 8, 8\)"),
        (CannotAssessError, PIXELS[:, :7], "preprocessed height is 7 px; the model takes 8 px"),
        (CannotAssessError, np.where(PIXELS > 1, np.nan, PIXELS), "pixels are not all finite"),
        (UsageError, np.zeros((1, 8, 8, 3), np.uint8), "pixels are uint8; the model takes float32"),
    ):
        raised(kind, said, run.run, wrong)
    model = written("embedding = ReduceMean(features, [0])")
    raised(CannotAssessError, r"output 'embedding' has shape \(1, 16\) for 4 images", runner(model).run, PIXELS)


def test_the_reason_of_onnx_runtime_is_one_line(runner: Any) -> None:
    for text, reason in {
        "embedding = MatMul(features, w16x8, flavour=3)": "Unrecognized attribute: flavour for operator MatMul",
        "x = Add(features, i); embedding = MatMul(x, w16x8)":
            r"Type parameter \(T\) of Optype \(Add\) bound to different types \(tensor\(float\) and tensor\(int64\)",
        "p = GlobalAveragePool(conv); f = Flatten(p); embedding = MatMul(f, q)": "Node input 'q' is not a graph input",
        # in the first pass
        "x = Gather(features, i, axis=1); embedding = MatMul(x, w16x8)":
            r"Gather node. indices element out of data bounds, idx=16 must be within the inclusive range \[-16,15\]",
    }.items():  # fmt: skip
        given: Fields = {"i": np.arange(16) + 9, "q": [1.0]}
        model = written(text, **{name: value for name, value in given.items() if re.search(rf"\b{name}\b", text)})
        if "q" in text:
            del model.graph.initializer[0]
        said = raised(CannotAssessError, "", lambda model=model: runner(model).run(PIXELS)).message
        assert re.search(f"^\\S*m.onnx: ONNX Runtime .*{reason}", said)
        assert (len(said) < 600, NATIVE.search(said)) == (True, None)


def test_execution_facts(runner: Any) -> None:
    execution = runner(classifier()).execution
    cpu = "CPUExecutionProvider"
    assert (execution.requested, execution.providers, list(execution.nodes)) == ("cpu", (cpu,), [cpu])
    assert (execution.runtime, execution.heavy_on_cpu) == (ort.__version__, {})


def gpu_is_there() -> bool:
    from robustcheck_onnx.checker.core.runtime.devices import list_gpus

    return bool(list_gpus()) and "CUDAExecutionProvider" in ort.get_available_providers()


@pytest.mark.skipif(gpu_is_there(), reason="a GPU is here: nothing falls back")
def test_missing_gpu_is_an_error_or_said(runner: Any) -> None:
    for device in ("cuda:1", "tensorrt", "directml"):
        caught = raised(EnvironmentFaultError, "", runner, encoder(), device)
        assert caught.message.startswith(f"--device is {device}; ")
        assert "robustcheck doctor" in caught.hint
    execution = runner(encoder(), "auto").execution
    assert execution.providers == ("CPUExecutionProvider",)
    assert execution.fallback_reason


@pytest.mark.skipif(
    gpu_is_there() or "CUDAExecutionProvider" not in ort.get_available_providers(),
    reason="no ONNX Runtime here with a CUDA provider that can't start",
)
def test_silent_fallback_is_found_in_the_session(runner: Any, monkeypatch: Patch) -> None:
    """ONNX Runtime itself takes the CPU without an exception when CUDA can't start."""
    monkeypatch.setattr("robustcheck_onnx.checker.core.runtime.session.why_missing", lambda provider: "")
    raised(EnvironmentFaultError, "could not start CUDAExecutionProvider and took CPU", runner, encoder(), "cuda")
    assert "could not start" in runner(encoder(), "auto").execution.fallback_reason


@pytest.mark.requires_cuda
@pytest.mark.skipif(not gpu_is_there(), reason="no GPU is here")
def test_cuda_equals_the_cpu(runner: Any) -> None:
    there, here = runner(classifier(), "cuda"), runner(classifier())
    assert there.execution.nodes["CUDAExecutionProvider"] > 0
    assert_allclose(there.run(PIXELS).representation, here.run(PIXELS).representation, rtol=1e-4, atol=1e-6)
    assert max(each or 0 for each in TRIAL.batch_differences(there, PIXELS)) < 1e-4


def test_outputs_that_are_sequences_are_no_obstacle(runner: Any) -> None:
    """The model's own outputs are all fetched to compare them; photos come as bytes."""
    model = classifier()
    model.graph.node.append(helper.make_node("SplitToSequence", ["logits"], ["pieces"], axis=0))
    model.graph.output.append(ValueInfoProto(name="pieces"))
    model.graph.output[-1].type.sequence_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT
    photos = levels(3, 8, 8, 3)
    run = Runner(runner(model).model, "cpu", preprocessing=but(IMAGENET, size=(8, 8)))
    assert run.output_difference(photos) < 1e-6
    assert run.execution.optimization == "all"


GREY = but(CLIP, size=(8, 8), resize_size=(8, 8), color_order="grey", mean=(0.5,) * 3, std=(0.25,) * 3)  # fmt: skip
PHOTO = Image.fromarray(levels(9, 17, 3, seed=2))


def small_encoder(channels: int, *, kind: int = FLOAT, weight: Pixels | None = None) -> ModelProto:
    """An encoder without an activation at its end, for one channel or three, that computes in float32."""
    text = f"""x = Cast(image, to=FLOAT); conv = Conv(x, w); tanh = Tanh(conv); gap = GlobalAveragePool(tanh)
        features = Flatten(gap); wide = MatMul(features, w24x16); embedding = Cast(wide, to={kind})"""
    first = onnx_models.weight(24, channels, 3, 3) if weight is None else weight
    image, embedding = ("image", kind, ("batch", channels, 8, 8)), ("embedding", kind, ("batch", 16))
    return written(text, embedding, before="", inputs=[image], w=first)


@pytest.fixture
def rows(opened: Callable[..., ModelFile]) -> Callable[..., Any]:
    """Runs a graph."""
    return lambda model, pixels, fed=None: Runner(opened(model), "cpu", preprocessing=fed).run(pixels).representation


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
    grey, colour = small_encoder(1, weight=weight), small_encoder(3, weight=np.repeat(weight, 3, axis=1) / 3)
    pixels, values = apply_uint8(GREY, PHOTO)[None], apply(GREY, PHOTO)[None]
    found = rows(grey, pixels, GREY)
    expected = rows(colour, np.repeat(pixels, 3, axis=-1), but(GREY, color_order="RGB"))
    assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert_allclose(rows(grey, values), found, rtol=1e-6)
    raised(UsageError, r"\(image, height, width, 1\) is needed", rows, grey, np.repeat(values, 3, axis=-1))


def test_a_check_of_a_grey_model_says_so(tmp_path: Path) -> None:
    one_value = sidecar(tmp_path / "p.json", mean=[0.5], std=0.25)  # stands for three
    report = check(small_encoder(1), preprocess=one_value, max_images=60)
    facts = report.evidence.preprocessing
    assert (facts.preprocessing, ("color_order", "grey", "model input") in facts.fields) == (GREY, True)
    assert "The model takes one channel: photos were fed in grey, as their luminance." in report.notes


def test_different_values_of_the_colours_are_refused_unless_assumed(tmp_path: Path) -> None:
    for channels, change, said in (
        (1, {"mean": [0.5, 0.4, 0.3]}, "mean is 0.5, 0.4, 0.3; the model takes one grey channel, so it must be one"),
        (3, {"color_order": "grey"}, "color_order is grey; the model takes 3 channels"),
    ):
        raised(UsageError, said, check, small_encoder(channels), preprocess=sidecar(tmp_path / "p.json", **change))
    model = save(small_encoder(1), tmp_path / "m.onnx")
    facts = check(model, max_images=60, thresholds=never_decided()).evidence.preprocessing
    assert facts.source == "assumed"
    assert facts.preprocessing.mean == pytest.approx((0.449,) * 3)
    assert ("std", "0.226", "assumed: mean of the colours' values") in facts.fields


def test_bfloat16_in_and_out(rows: Callable[..., Any], opened: Callable[..., ModelFile]) -> None:
    rounded, plain = (small_encoder(3, kind=kind) for kind in (BFLOAT16, FLOAT))
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


def scaled(preprocessing: Preprocessing, image: ImageInput, pixels: Pixels) -> Pixels:
    graph = input_graph(preprocessing, image)
    onnx.checker.check_model(ModelProto.FromString(graph), full_check=True)
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (values,) = session.run(None, {"pixels": pixels})
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
    model = open_model(save(encoder(), tmp_path / "m.onnx"))
    for preprocessing in (but(IMAGENET, rescale=1e38), but(IMAGENET, std=(1.0, 1e-45, 1.0))):
        said = "preprocessed pixels are not all finite; mean and std must be"
        raised(CannotAssessError, said, Runner, model, "cpu", preprocessing=preprocessing)


def test_bytes_never_mix_with_scaled_values() -> None:
    """Stacked as floats they would go to the model unscaled."""
    photo, tensor = (
        Prepared("n", "d", (), np.zeros((2, 2, 3), dtype), 0, LevelSums()) for dtype in (np.uint8, np.float32)
    )
    raised(TypeError, "", stack, [photo, tensor])

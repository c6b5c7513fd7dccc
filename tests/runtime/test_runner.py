"""Running models: layouts, types, batches, pooling, providers, and the proofs about them."""

import re
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from onnx import TensorProto, ValueInfoProto, helper, numpy_helper

from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError, UsageError
from robustcheck_onnx.checker.evidence import IMAGENET
from robustcheck_onnx.checker.runtime.runner import Runner
from robustcheck_onnx.checker.runtime.session import relative_difference
from support import PIXELS, Fields, Patch, but, levels, onnx_models, raised
from support.bad_input import NATIVE
from support.onnx_models import POOLED, classifier, encoder, written

Pixels = NDArray[Any]
WEIGHT, HALF = onnx_models.weight(16, 3, 3, 3), TensorProto.FLOAT16


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
        fixed = runner(written("", inputs=[("image", TensorProto.FLOAT, (batch, 3, 8, 8))]))
        assert fixed.fixed_batch == batch
        assert_allclose(fixed.run(PIXELS).representation, expected, rtol=1e-5, atol=1e-6)
        assert fixed.batch_invariances(PIXELS)[0] < 1e-5


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
    from robustcheck_onnx.checker.runtime.devices import list_gpus

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
    monkeypatch.setattr("robustcheck_onnx.checker.runtime.session.why_missing", lambda provider: "")
    raised(EnvironmentFaultError, "could not start CUDAExecutionProvider and took CPU", runner, encoder(), "cuda")
    assert "could not start" in runner(encoder(), "auto").execution.fallback_reason


@pytest.mark.requires_cuda
@pytest.mark.skipif(not gpu_is_there(), reason="no GPU is here")
def test_cuda_equals_the_cpu(runner: Any) -> None:
    there, here = runner(classifier(), "cuda"), runner(classifier())
    assert there.execution.nodes["CUDAExecutionProvider"] > 0
    assert_allclose(there.run(PIXELS).representation, here.run(PIXELS).representation, rtol=1e-4, atol=1e-6)
    assert max(each or 0 for each in there.batch_invariances(PIXELS)) < 1e-4


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

"""Opening models: inputs, versions, operators, detectors, quantised files, digests."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from robustcheck_onnx.checker.errors import CannotAssessError, RobustcheckError
from robustcheck_onnx.checker.model.open import open_model
from robustcheck_onnx.checker.model.supported import supported_versions
from robustcheck_onnx.checker.runtime.runner import Runner
from support import onnx_models
from support.onnx_models import graph

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def refused(opened: Any, kind: type[RobustcheckError], model: onnx.ModelProto, part: str, *more: str) -> None:
    with pytest.raises(kind) as caught:
        opened(model)
    missing = [words for words in (part, *more) if not words or words not in caught.value.message]
    assert not missing, caught.value.message
    assert caught.value.hint


def flat(inputs: Any, name: str) -> onnx.ModelProto:
    model: onnx.ModelProto = onnx_models.build([("Flatten", [name], ["embedding"])], ["embedding"], inputs=inputs)
    return model


def test_inputs_that_cannot_be_fed(opened: Any) -> None:
    inputs: list[Any]
    for inputs, message in (
        ([("input_ids", INT64, (None, 77))], "input is input_ids int64 (?, 77): a text encoder"),
        ([("audio", FLOAT, (None, 16000))], "input is audio float (?, 16000); an image input"),
        ([("x", FLOAT, (200_000, 3, 32, 32))], "holds more than 268,435,456 values in one batch"),
        ([("x", FLOAT, (3, 8, 8))], "input is x float (3, 8, 8); an image input (batch, 3,"),
        ([("x", FLOAT, None)], "input is x float unknown; an image input"),
        ([("x", FLOAT, (None, 4, 28, 28))], "x float (?, 4, 28, 28) has 4 channels; photos have 3, or 1 in grey"),
        ([("x", TensorProto.INT8, (None, 3, 8, 8))], "is of type int8; float32, float16, bfloat16, float64 and uint8"),
    ):
        refused(opened, CannotAssessError, flat(inputs, inputs[0][0]), message)


def test_no_input(opened: Any) -> None:
    model = onnx_models.build(
        graph("embedding = Flatten(w)"), ["embedding"], {"w": onnx_models.weight(2, 2)}, inputs=[]
    )
    refused(opened, CannotAssessError, model, "input is none; an image input")


@pytest.mark.parametrize(
    ("shape", "nhwc_first", "layout"),
    [
        ((None, 3, 32, 32), False, "NCHW"),
        ((1, 32, 32, 3), False, "NHWC"),
        ((None, "c", "h", "w"), False, "NCHW"),
        ((None, "h", "w", "c"), True, "NHWC"),
        ((2, 3, None, 3), False, "NCHW"),
    ],
)
def test_layouts(opened: Any, shape: Any, nhwc_first: bool, layout: str) -> None:
    nodes: list[Any] = graph("embedding = Flatten(x)")
    if nhwc_first:
        nodes = [("Transpose", ["image"], ["x"], {"perm": [0, 3, 1, 2]}), *nodes]
    name = "image" if nhwc_first else "x"
    image = opened(onnx_models.build(nodes, ["embedding"], inputs=[(name, FLOAT, shape)])).image_input
    assert (image.layout, image.dtype) == (layout, "float32")
    assert image.batch == (shape[0] if isinstance(shape[0], int) else None)


def test_weights_listed_as_inputs_are_no_inputs(opened: Any) -> None:
    model = onnx_models.classifier()
    for weight in model.graph.initializer:  # as files of IR version 3 have it
        model.graph.input.append(helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    assert opened(model).image_input.name == "image"


def test_versions_of_the_runtime_are_known() -> None:
    opset, ir_version = supported_versions()
    assert opset is not None
    assert opset >= 20
    assert ir_version is not None
    model = onnx_models.build(graph("y = Identity(image)"), ["y"], opset=opset, ir_version=ir_version)
    ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])  # the limits are allowed


def test_opset_too_new(opened: Any) -> None:
    opset, ir_version = supported_versions()
    model = onnx_models.classifier()
    model.opset_import[0].version = 99
    refused(opened, CannotAssessError, model, f"opset is 99; ONNX Runtime {ort.__version__} supports up to {opset}")
    model.opset_import[0].version = 18
    model.ir_version = 99
    refused(opened, CannotAssessError, model, "IR version is 99", f"supports up to {ir_version}")


def test_no_opset(opened: Any) -> None:
    model = onnx_models.classifier()
    del model.opset_import[:]
    refused(opened, CannotAssessError, model, "opset_import is missing")


def test_unknown_operators(opened: Any) -> None:
    model = onnx_models.build(graph("y = com.acme:Foo(image)"), ["y"], domains=["com.acme"])
    refused(opened, CannotAssessError, model, "node 'y' uses operator com.acme:Foo", "has no such operator")
    model = onnx_models.build(graph("y = Reluu(image)"), ["y"])
    refused(opened, CannotAssessError, model, "uses operator ai.onnx:Reluu", "closest: Relu")


def test_local_functions_are_opened_up(opened: Any) -> None:
    model = onnx_models.classifier()
    function = helper.make_function(
        "local", "Scores", ["x", "w", "b"], ["y"],
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)], [helper.make_opsetid("", 18)],
    )  # fmt: skip
    gemm = model.graph.node[-1]
    model.graph.node.pop()
    model.graph.node.append(helper.make_node("Scores", gemm.input, gemm.output, domain="local"))
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("local", 1))
    found = opened(model)
    assert found.representation.tensor == "features"
    assert Runner(found, "cpu").run(np.ones((2, 8, 8, 3), np.float32)).representation.shape == (2, 16)


def test_detectors(opened: Any) -> None:
    nodes, weights = onnx_models.pooled()
    model = onnx_models.build([*nodes, ("Identity", ["features"], ["boxes"])], ["boxes"], weights)
    refused(opened, CannotAssessError, model, "output 'boxes' is an object detector's")
    nms = graph("""
        rows = Unsqueeze(features, one); corners = Slice(rows, zero, four, two)
        output = NonMaxSuppression(corners, rows)
    """)
    weights |= {name: np.array([n], np.int64) for name, n in (("zero", 0), ("one", 1), ("two", 2), ("four", 4))}
    model = onnx_models.build([*nodes, *nms], [("output", INT64, None)], weights)
    refused(opened, CannotAssessError, model, "graph has NonMaxSuppression")
    up = graph("output = Resize(relu, , scales)")
    weights["scales"] = np.array([1, 1, 2, 2], np.float32)
    model = onnx_models.build([*nodes, *up], [("output", FLOAT, ("batch", 16, 12, 12))], weights)
    refused(opened, CannotAssessError, model, "output 'output' has 4 axes behind Resize")
    # the user may still look at a tensor of the backbone
    assert opened(model, tensor="features").representation.rule == "user"


def test_output_that_ignores_the_image(opened: Any) -> None:
    weights = {"w": onnx_models.weight(1, 4)}
    model = onnx_models.build(graph("embedding = Identity(w)"), ["embedding"], weights)
    refused(opened, CannotAssessError, model, "outputs embedding do not depend on the image")


def test_identity_of_a_model(tmp_path: Path) -> None:
    inline = open_model(onnx_models.save(onnx_models.classifier(), tmp_path / "a.onnx"))
    assert inline.digest == inline.model_digest
    assert inline.external_digests == {}
    path = onnx_models.save(onnx_models.classifier(), tmp_path / "b.onnx", external=True)
    data = tmp_path / "b.onnx.data"
    first = open_model(path)
    assert first.model_digest == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    assert first.external_digests == {"b.onnx.data": "sha256:" + hashlib.sha256(data.read_bytes()).hexdigest()}
    assert first.size_bytes == path.stat().st_size + data.stat().st_size
    content = bytearray(data.read_bytes())
    content[5] ^= 1
    data.write_bytes(content)
    second = open_model(path)
    assert second.model_digest == first.model_digest
    assert second.digest != first.digest  # other weights, another model


def test_facts(opened: Any) -> None:
    model = opened(onnx_models.classifier())
    assert model.opsets == {"ai.onnx": 18}
    assert model.ir_version == 9
    assert model.precision == "fp32"
    (output,) = model.outputs
    assert (output.name, output.dtype, output.shape) == ("logits", "float", (None, 10))


class _Reader:
    def __init__(self, images: Any) -> None:
        self.feeds = iter([{"image": image[None]} for image in images])

    def get_next(self) -> Any:
        return next(self.feeds, None)


@pytest.mark.parametrize("kind", ["dynamic", "qdq", "operators"])
def test_quantised_classifiers(tmp_path: Path, kind: str) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization", reason="needs onnxruntime.quantization")
    model = onnx_models.classifier()
    source = onnx_models.save(model, tmp_path / "float.onnx")
    path = tmp_path / "int8.onnx"
    images = np.random.default_rng(3).normal(size=(16, 3, 8, 8)).astype(np.float32)
    if kind == "dynamic":
        quantization.quantize_dynamic(source, path, op_types_to_quantize=["Gemm", "MatMul"])
    else:
        quant_format = getattr(quantization.QuantFormat, {"qdq": "QDQ", "operators": "QOperator"}[kind])
        quantization.quantize_static(source, path, _Reader(images), quant_format=quant_format)
    pixels = images[:4].transpose(0, 2, 3, 1)
    found = open_model(path)
    assert found.precision == "int8"
    assert found.representation.rule == "head_input"
    assert found.head is not None
    assert found.head.classes == 10
    truth = Runner(open_model(source), "cpu").run(pixels).representation
    output = Runner(found, "cpu").run(pixels)
    assert output.representation.dtype == np.float32
    # int8 steps are about 1/255 of the range of a tensor; two tensors lie on the way
    np.testing.assert_allclose(output.representation, truth, atol=0.03 * float(truth.max()))
    assert Runner(found, "cpu").output_unchanged(pixels).unchanged

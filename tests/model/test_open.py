"""Opening models: inputs, versions, operators, detectors, quantised files, digests."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from robustcheck_onnx.checker.model.open import open_model
from robustcheck_onnx.checker.runtime.runner import Runner
from support import onnx_models
from support.onnx_models import graph

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


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

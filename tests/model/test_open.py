"""Opening models: layouts, facts, quantised files, digests."""

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from robustcheck_onnx.checker.model.open import open_model
from robustcheck_onnx.checker.runtime.runner import Runner
from support import normal
from support.onnx_models import classifier, save
from support.written import written


@pytest.mark.parametrize(
    ("shape", "text", "layout"),
    [
        ((None, 3, 32, 32), "y = Flatten(image)", "NCHW"),
        ((1, 32, 32, 3), "y = Flatten(image)", "NHWC"),
        ((None, "c", "h", "w"), "y = Flatten(image)", "NCHW"),
        ((None, "h", "w", "c"), "x = Transpose(image, perm=[0, 3, 1, 2]); y = Flatten(x)", "NHWC"),
        ((2, 3, None, 3), "y = Flatten(image)", "NCHW"),
    ],
)
def test_layouts(opened: Any, shape: Any, text: str, layout: str) -> None:
    image = opened(written(text, before="", inputs=[("image", TensorProto.FLOAT, shape)])).image_input
    batch = shape[0] if isinstance(shape[0], int) else None
    assert (image.layout, image.dtype, image.batch) == (layout, "float32", batch)


def test_identity_of_a_model() -> None:
    inline = open_model(save(classifier(), "a.onnx"))
    assert inline.digest == inline.model_digest
    assert inline.external_digests == {}
    path = save(classifier(), "b.onnx", external=True)
    data = Path("b.onnx.data")
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
    model = opened(classifier())
    assert (model.opsets, model.ir_version, model.precision) == ({"ai.onnx": 18}, 9, "fp32")
    assert [(each.name, each.dtype, each.shape) for each in model.outputs] == [("logits", "float", (None, 10))]


@pytest.mark.parametrize("kind", ["dynamic", "QDQ", "QOperator"])
def test_quantised_classifiers(kind: str) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization", reason="needs onnxruntime.quantization")
    source = save(classifier(), "float.onnx")
    path = Path("int8.onnx")
    images = normal(16, 3, 8, 8, seed=3).astype(np.float32)
    if kind == "dynamic":
        quantization.quantize_dynamic(source, path, op_types_to_quantize=["Gemm", "MatMul"])
    else:
        feeds = iter([{"image": image[None]} for image in images])
        reader = SimpleNamespace(get_next=lambda: next(feeds, None))
        quantization.quantize_static(source, path, reader, quant_format=quantization.QuantFormat[kind])
    pixels = images[:4].transpose(0, 2, 3, 1)
    found = open_model(path)
    assert found.head is not None
    assert (found.precision, found.representation.rule, found.head.classes) == ("int8", "head_input", 10)
    truth = Runner(open_model(source), "cpu").run(pixels).representation
    output = Runner(found, "cpu").run(pixels)
    assert output.representation.dtype == np.float32
    # int8 steps are about 1/255 of the range of a tensor; two tensors lie on the way
    np.testing.assert_allclose(output.representation, truth, atol=0.03 * float(truth.max()))
    assert Runner(found, "cpu").output_difference(pixels) < 1e-4

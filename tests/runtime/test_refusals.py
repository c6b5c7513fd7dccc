"""What ONNX Runtime refuses, at its start or in the first pass: exit code 3 and its reason in one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from robustcheck_onnx import check
from robustcheck_onnx.checker.errors import CannotAssessError
from support import onnx_models

CONV = "conv = Conv(image, conv.weight, kernel_shape=[3, 3])"
REST = "gap = GlobalAveragePool(conv); features = Flatten(gap)"
WEIGHTS = {"conv.weight": onnx_models.weight(16, 3, 3, 3), "p": onnx_models.weight(16, 8)}


def model(text: str, **weights: Any) -> onnx.ModelProto:
    built: onnx.ModelProto = onnx_models.build(onnx_models.graph(text), ["embedding"], WEIGHTS | weights)
    return built


RANK = (  # what Gemm says is ONNX Runtime's own text
    "First input does not have rank 2"
    if ort.__version__.startswith("1.24.")
    else "Input 0 expected to have rank 2 but has rank 4"
)
REFUSED = (
    (
        model(f"{CONV[:-1]}, flavour=3); {REST}; embedding = MatMul(features, p)"),
        "Unrecognized attribute: flavour for operator Conv",
    ),
    (
        model(f"{CONV}; {REST}; x = Add(features, i); embedding = MatMul(x, p)", i=np.arange(16)),
        "Type parameter (T) of Optype (Add) bound to different types (tensor(float) and tensor(int64)",
    ),
    (
        model(f"{CONV}; gap = GlobalAveragePool(conv); embedding = Gemm(gap, p)"),
        f"Op (Gemm) [ShapeInferenceError] {RANK}",
    ),
    (model(f"{CONV}; {REST}; embedding = MatMul(features, q)"), "Node input 'q' is not a graph input, initializer"),
    # in the first pass
    (
        model(f"{CONV}; {REST}; x = Gather(features, i, axis=1); embedding = MatMul(x, p)", i=np.arange(16) + 9),
        "Gather node. indices element out of data bounds, idx=16 must be within the inclusive range [-16,15]",
    ),
    (
        model(f"{CONV}; {REST}; x = Reshape(features, to); embedding = MatMul(x, p)", to=np.array([70, 16])),
        "Reshape node. The input tensor cannot be reshaped to the requested shape. Input shape:{",
    ),
)


@pytest.mark.parametrize(("refused", "reason"), REFUSED)
def test_the_reason_is_one_line(refused: onnx.ModelProto, reason: str, tmp_path: Path) -> None:
    path = onnx_models.save(refused, tmp_path / "m.onnx")
    with pytest.raises(CannotAssessError) as caught:
        check(path, preprocess="imagenet", max_images=50)
    message = caught.value.message
    assert message.startswith(f"{path}: ONNX Runtime ")
    assert reason in message
    assert "\n" not in message
    assert len(message) < 600
    said = message.removeprefix(f"{path}: ").replace("schema(::Conv", "")
    assert not re.search(r"\.(cc|h|cu)\b|::|Traceback|\[ONNXRuntimeError\]", said), said

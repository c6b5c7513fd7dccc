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

CONV = ("Conv", ["image", "conv.weight"], ["conv"], {"kernel_shape": [3, 3]})
REST: list[Any] = [("GlobalAveragePool", ["conv"], ["gap"]), ("Flatten", ["gap"], ["features"])]
HEAD: Any = ("MatMul", ["features", "p"], ["embedding"])
WEIGHTS = {"conv.weight": onnx_models.weight(16, 3, 3, 3), "p": onnx_models.weight(16, 8)}


def model(*nodes: Any, **weights: Any) -> onnx.ModelProto:
    built: onnx.ModelProto = onnx_models.build(nodes, ["embedding"], WEIGHTS | weights)
    return built


ADD, GATHER = ("Add", ["features", "i"], ["x"]), ("Gather", ["features", "i"], ["x"], {"axis": 1})
FLAT, RESHAPE = ("Squeeze", ["gap"], ["s"]), ("Reshape", ["s", "to"], ["features"])
OF_X = ("MatMul", ["x", "p"], ["embedding"])
RANK = (  # what Gemm says is ONNX Runtime's own text
    "First input does not have rank 2"
    if ort.__version__.startswith("1.24.")
    else "Input 0 expected to have rank 2 but has rank 4"
)
REFUSED = (
    (model((*CONV[:3], CONV[3] | {"flavour": 3}), *REST, HEAD), "Unrecognized attribute: flavour for operator Conv"),
    (
        model(CONV, *REST, ADD, OF_X, i=np.arange(16)),
        "Type parameter (T) of Optype (Add) bound to different types (tensor(float) and tensor(int64)",
    ),
    (model(CONV, REST[0], ("Gemm", ["gap", "p"], ["embedding"])), f"Op (Gemm) [ShapeInferenceError] {RANK}"),
    (
        model(CONV, *REST, ("MatMul", ["features", "q"], ["embedding"])),
        "Node input 'q' is not a graph input, initializer",
    ),
    # in the first pass
    (
        model(CONV, *REST, GATHER, OF_X, i=np.arange(16) + 9),
        "Gather node. indices element out of data bounds, idx=16 must be within the inclusive range [-16,15]",
    ),
    (
        model(CONV, REST[0], FLAT, RESHAPE, HEAD, to=np.array([70, 16])),
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

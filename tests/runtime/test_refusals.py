"""What ONNX Runtime refuses, at its start or in the first pass: exit code 3 and its reason in one line."""

import re
from pathlib import Path

import numpy as np
import pytest

from robustcheck_onnx import check
from robustcheck_onnx.checker.errors import CannotAssessError
from support import raised
from support.onnx_models import build, graph, save, weight

CONV = "conv = Conv(image, conv.weight, kernel_shape=[3, 3])"
REST = "gap = GlobalAveragePool(conv); features = Flatten(gap)"
WEIGHTS = {"conv.weight": weight(16, 3, 3, 3), "p": weight(16, 8), "i": np.arange(16) + 9}


REFUSED = {
    f"{CONV[:-1]}, flavour=3); {REST}; embedding = MatMul(features, p)": (
        "Unrecognized attribute: flavour for operator Conv"
    ),
    f"{CONV}; {REST}; x = Add(features, i); embedding = MatMul(x, p)": (
        "Type parameter (T) of Optype (Add) bound to different types (tensor(float) and tensor(int64)"
    ),
    f"{CONV}; {REST}; embedding = MatMul(features, q)": "Node input 'q' is not a graph input, initializer",
    # in the first pass
    f"{CONV}; {REST}; x = Gather(features, i, axis=1); embedding = MatMul(x, p)": (
        "Gather node. indices element out of data bounds, idx=16 must be within the inclusive range [-16,15]"
    ),
}


@pytest.mark.parametrize(("text", "reason"), REFUSED.items())
def test_the_reason_is_one_line(text: str, reason: str, tmp_path: Path) -> None:
    path = save(build(graph(text), ["embedding"], WEIGHTS), tmp_path / "m.onnx")
    caught = raised(CannotAssessError, "", check, path, preprocess="imagenet", max_images=50)
    message = caught.message
    assert message.startswith(f"{path}: ONNX Runtime ")
    assert reason in message
    assert len(message) < 600
    said = message.removeprefix(f"{path}: ").replace("schema(::Conv", "")
    assert not re.search(r"\n|\.(cc|h|cu)\b|::|Traceback|\[ONNXRuntimeError\]", said), said

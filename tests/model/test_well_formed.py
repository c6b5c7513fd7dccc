"""What must hold of a model before it is walked on: an error of ours, never a death of the process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.model import open_model
from support import onnx_models


def _bytes_for_a_name(model: onnx.ModelProto) -> bytes:
    return bytes(model.SerializeToString()).replace(b"logits", b"log\xffts")


def _changed(change: Callable[[onnx.ModelProto], object]) -> Callable[[onnx.ModelProto], bytes]:
    def made(model: onnx.ModelProto) -> bytes:
        change(model)
        return bytes(model.SerializeToString())

    return made


def _no_weight(model: onnx.ModelProto) -> None:
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    del conv.input[1:]


def _no_weight_no_version(model: onnx.ModelProto) -> None:
    _no_weight(model)
    model.opset_import[0].domain = "elsewhere"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_bytes_for_a_name, "name in the graph is b'log\\xffts'; names must be UTF-8 text"),
        (_changed(lambda m: m.graph.input.append(m.graph.input[0])), "several inputs are named 'image'"),
        (_changed(lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 999)), "type of 'image' is 999"),
        (_changed(lambda m: setattr(m.graph.initializer[0], "data_type", 0)), "has no type; each needs one"),
        (_changed(_no_weight), "node Conv has 1 inputs; it needs at least 2"),
        (_changed(_no_weight_no_version), "node Conv has 1 inputs; it needs at least 2"),
    ],
)
def test_what_is_refused(change: Callable[[onnx.ModelProto], bytes], said: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(change(onnx_models.classifier()))
    with pytest.raises(CannotAssessError) as fault:
        open_model(path)
    assert said in fault.value.message


@pytest.mark.parametrize("size", [-1, -(2**31), -(2**63)])
def test_a_negative_size_is_an_unknown_one(size: int, tmp_path: Path) -> None:
    model = onnx_models.classifier()
    for dimension in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dimension.dim_value = size
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert open_model(path).image_input.size is None

"""Weights in the model's own file: as many values as their shape and type need, or a refusal that names the weight."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.model import light
from robustcheck_onnx.checker.model.external import PACKED_BITS, check_inline
from robustcheck_onnx.checker.model.file import read_onnx
from support import onnx_models


def short(tensor: TensorProto) -> None:
    tensor.raw_data = tensor.raw_data[:-8]


def short_values(tensor: TensorProto) -> None:
    values = np.frombuffer(tensor.raw_data, np.float32)
    tensor.ClearField("raw_data")
    tensor.float_data.extend(values[1:])


def unknown_type(tensor: TensorProto) -> None:
    tensor.data_type = 77


def undefined_type(tensor: TensorProto) -> None:
    tensor.data_type = 0


def huge(tensor: TensorProto) -> None:
    tensor.dims[0] = 1 << 40


def negative(tensor: TensorProto) -> None:
    tensor.dims[0] = -24


def empty(tensor: TensorProto) -> None:
    tensor.dims.append(0)


def segments(tensor: TensorProto) -> None:
    tensor.segment.begin = 0


@pytest.mark.parametrize("large_bytes", [100, 1 << 16])
def test_weights_that_are_not_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large_bytes: int) -> None:
    monkeypatch.setattr(light, "LARGE_BYTES", large_bytes)
    for change, message in (
        (short, "weight 'proj' has 1528 bytes; its shape [24, 16] and type float need 1536"),
        (short_values, "weight 'proj' has 383 values; its shape [24, 16] and type float need 384"),
        (unknown_type, "type of weight 'proj' is number 77; ONNX has no such type"),
        (undefined_type, "weight 'proj' has no type; each needs one"),
        (huge, "weight 'proj' has 1536 bytes; its shape [1099511627776, 16] and type float need 70368744177664"),
        (negative, "weight 'proj' has 1536 bytes; its shape [-24, 16] and type float need -1536"),
        (empty, "weight 'proj' has 1536 bytes; its shape [24, 16, 0] and type float need 0"),
        (segments, "weight 'proj' is in segments; it must be whole"),
    ):
        model = onnx_models.encoder()
        change(model.graph.initializer[1])
        path = onnx_models.save(model, tmp_path / "m.onnx")
        with pytest.raises(CannotAssessError) as caught:
            read_onnx(path)
        assert (caught.value.message, caught.value.hint) == (f"{path}: {message}", "download or export it again")


def test_constants_of_nodes_are_looked_at_too(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["w"], value=helper.make_tensor("kept", 1, [2], [1.0, 2.0]))
    constant.attribute[0].t.float_data.pop()
    model = onnx_models.encoder()
    model.graph.node.insert(0, constant)
    with pytest.raises(CannotAssessError, match=r"weight 'kept' has 1 values; its shape \[2\] and type float need 2"):
        read_onnx(onnx_models.save(model, tmp_path / "m.onnx"))


@pytest.mark.parametrize("large_bytes", [100, 1 << 16])
def test_values_in_two_fields_are_refused(tmp_path: Path, large_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest of one and the values of the other could be taken, whether the raw ones were parsed or not."""
    monkeypatch.setattr(light, "LARGE_BYTES", large_bytes)
    model = onnx_models.encoder()
    (proj,) = [w for w in model.graph.initializer if w.name == "proj"]
    proj.float_data.extend(np.frombuffer(proj.raw_data, np.float32))
    with pytest.raises(CannotAssessError, match="weight 'proj' has values in raw_data and in float_data; they must be"):
        read_onnx(onnx_models.save(model, tmp_path / "m.onnx"))


def test_a_constant_of_the_name_of_a_large_weight_does_not_get_its_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(light, "LARGE_BYTES", 100)
    model = onnx_models.encoder()
    empty = onnx.TensorProto(name="proj", data_type=TensorProto.FLOAT, dims=[24, 16])
    model.graph.node.append(helper.make_node("Constant", [], ["other"], value=empty))
    with pytest.raises(CannotAssessError, match="weight 'proj' has 0 values"):
        read_onnx(onnx_models.save(model, tmp_path / "m.onnx"))


def test_every_type_is_counted_as_onnx_writes_it() -> None:
    for kind in sorted(set(TensorProto.DataType.values()) - {TensorProto.UNDEFINED, TensorProto.STRING}):
        values = np.ones((3, 3), helper.tensor_dtype_to_np_dtype(kind))
        raw = helper.make_tensor("w", kind, [3, 3], onnx.numpy_helper.from_array(values).raw_data, raw=True)
        assert len(raw.raw_data) == math.ceil(9 * PACKED_BITS.get(kind, 8 * values.itemsize) / 8)
        assert_counted(raw)
        assert_counted(helper.make_tensor("w", kind, [3, 3], values))
    assert_counted(helper.make_tensor("w", TensorProto.STRING, [3], [b"a", b"b", b"c"]))  # type: ignore[list-item]


def assert_counted(tensor: TensorProto) -> None:
    check_inline(Path("m.onnx"), tensor, {})
    tensor.dims[0] = 30
    with pytest.raises(CannotAssessError, match=r"weight 'w' has \d+ (bytes|values); its shape \[30"):
        check_inline(Path("m.onnx"), tensor, {})

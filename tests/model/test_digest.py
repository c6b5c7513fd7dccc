"""The digest of a file's graph and weights: the same on both sides of the contract; all that counts is in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from robustcheck_onnx.checker.model.digest import graph_digest
from robustcheck_onnx.checker.model.file import read_onnx
from robustcheck_onnx.checker.model.open import open_model
from robustcheck_onnx.exporters import digest
from support import lookup, onnx_models
from support.onnx_models import graph


def of_file(path: Path) -> str:
    file = read_onnx(path)
    return graph_digest(file.proto, file.weights)


def of_exporter(path: Path) -> str:
    return digest.graph_digest(onnx.load(path, load_external_data=False), path.parent)


Raw = tuple[str, int, tuple[int, ...], bytes]


def written_out(*initializers: Raw) -> str:
    """The definition of docs/onnx-contract.md, by hand, for `wide` with these initializers."""

    def node(op: str, inputs: list[str], output: str) -> dict[str, Any]:
        return {"op_type": op, "domain": "", "input": inputs, "output": [output]}

    def value(name: str, *dims: dict[str, Any]) -> dict[str, Any]:
        return {"name": name, "type": {"tensor_type": {"elem_type": 1, "shape": {"dim": dims}}}}

    graph = {
        "node": [
            node("GlobalAveragePool", ["image"], "gap"),
            node("Flatten", ["gap"], "flat"),
            node("Gemm", ["flat", "up", "bias"], "up_out"),
            node("MatMul", ["up_out", "large"], "representation")
            | {"attribute": [{"name": "note", "type": 1, "f": "0.10000000149011612"}]},
        ],
        "input": [value("image", {"dim_param": "batch"}, {"dim_value": 3}, {"dim_value": 8}, {"dim_value": 8})],
        "output": [value("representation", {"dim_param": "batch"}, {"dim_value": 512})],
        "initializer": [[name, kind, dims, hashlib.sha256(raw).hexdigest()] for name, kind, dims, raw in initializers],
    }
    text = json.dumps(
        {"graph": graph, "opset_import": [{"domain": "", "version": 18}]}, sort_keys=True, separators=(",", ":")
    )
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def wide() -> onnx.ModelProto:
    """A projection of 128 KB, which the light parser leaves in the file, and a small bias."""
    rng = np.random.default_rng(0)
    nodes: list[Any] = graph("""
        gap = GlobalAveragePool(image); flat = Flatten(gap); up_out = Gemm(flat, up, bias)
        representation = MatMul(up_out, large)
    """)
    values = {
        "up": rng.normal(size=(3, 64)).astype(np.float32),
        "bias": rng.normal(size=64).astype(np.float32),
        "large": rng.normal(size=(64, 512)).astype(np.float32),
    }
    return onnx_models.build(nodes, [("representation", TensorProto.FLOAT, ("batch", 512))], values)


def noted() -> onnx.ModelProto:
    """`wide` with an attribute of a fraction."""
    model = wide()
    model.graph.node[3].attribute.append(helper.make_attribute("note", 0.1))
    return model


def raw_of(model: onnx.ModelProto) -> list[Raw]:
    return [
        (w.name, w.data_type, tuple(w.dims), numpy_helper.to_array(w).astype("<f4").tobytes())
        for w in model.graph.initializer
    ]


def test_every_way_to_store_the_values_gives_the_digest_of_the_definition(tmp_path: Path) -> None:
    model = noted()
    truth = written_out(*raw_of(model))
    paths = [
        onnx_models.save(model, tmp_path / "inline.onnx"),
        onnx_models.save(noted(), tmp_path / "beside.onnx", external=True),
    ]
    typed = noted()
    for weight in typed.graph.initializer:
        values = numpy_helper.to_array(weight).ravel()
        weight.ClearField("raw_data")
        weight.float_data.extend(values.tolist())
    paths.append(onnx_models.save(typed, tmp_path / "typed.onnx"))
    assert len(read_onnx(paths[0]).weights.places) == 1  # the large one was never parsed
    for path in paths:
        assert (of_file(path), of_exporter(path)) == (truth, truth), path.name


def everything() -> onnx.ModelProto:
    """Tensors in every place that a file has for them: initializers, Constants, a branch, a function, a sparse one."""
    branch = helper.make_graph(
        [helper.make_node("Add", ["flat", "in_branch"], ["branched"])],
        "branch",
        [],
        [helper.make_tensor_value_info("branched", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones(3, np.float32), "in_branch")],
    )
    other = helper.make_graph(
        [
            helper.make_node("Constant", [], ["in_other"], value=numpy_helper.from_array(np.full(3, 2, np.float32))),
            helper.make_node("Mul", ["flat", "in_other"], ["branched"]),
        ],
        "other",
        [],
        [helper.make_tensor_value_info("branched", TensorProto.FLOAT, None)],
    )
    nodes: list[Any] = [
        *graph("gap = GlobalAveragePool(image); flat = Flatten(gap)"),
        ("If", ["yes"], ["chosen"], {"then_branch": branch, "else_branch": other}),
        ("own:Shift", ["chosen"], ["representation"]),
    ]
    model = onnx_models.build(
        nodes,
        [("representation", TensorProto.FLOAT, ("batch", 3))],
        {"yes": np.array(True), "half": np.ones(2, np.float16)},
        domains=["own"],
    )
    shift = numpy_helper.from_array(np.arange(3, dtype=np.float32), "shift")
    model.functions.append(
        helper.make_function(
            "own", "Shift", ["x"], ["y"],
            [helper.make_node("Constant", [], ["by"], value=shift), helper.make_node("Add", ["x", "by"], ["y"])],
            [helper.make_opsetid("", 18)],
        )
    )  # fmt: skip
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(
            numpy_helper.from_array(np.array([5.0], np.float32), "sparse"),
            numpy_helper.from_array(np.array([2], np.int64)),
            [4],
        )
    )
    default = helper.make_attribute("default", numpy_helper.from_array(np.ones(2, np.float32)))
    model.functions[0].attribute_proto.append(default)
    few = helper.make_sparse_tensor(
        numpy_helper.from_array(np.array([6.0], np.float32)), numpy_helper.from_array(np.array([1], np.int64)), [3]
    )
    constants: list[dict[str, Any]] = [
        {"sparse_value": few},
        {"value_float": 0.1},
        {"value_floats": [1.0, float("nan")]},
        {"value_ints": [1, 2]},
        {"value_string": "one"},
        {"value_strings": ["one", "two"]},
    ]
    for index, attribute in enumerate(constants):
        model.graph.node.append(helper.make_node("Constant", [], [f"constant_{index}"], name="c", **attribute))
    packed = np.array([1, -2, 3], ml_dtypes.int4)
    model.graph.initializer.append(numpy_helper.from_array(packed, "packed"))
    typed = helper.make_tensor("bf16", TensorProto.BFLOAT16, [2], [1.5, -2.0])
    model.graph.initializer.append(typed)
    model.graph.initializer.append(numpy_helper.from_array(np.array(["cat", "dog"], dtype=object), "words"))
    return model


def all_of(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every TensorProto, found by walking over all fields of all messages: no list of places."""
    waiting: list[Any] = [model]
    while waiting:
        message = waiting.pop()
        if isinstance(message, TensorProto):
            yield message
            continue
        for field, value in message.ListFields():
            if field.message_type is not None:
                waiting += list(value) if hasattr(value, "append") else [value]


def test_tensors_in_every_place_count_on_both_sides(tmp_path: Path) -> None:
    path = onnx_models.save(everything(), tmp_path / "m.onnx")
    first = of_file(path)
    assert of_exporter(path) == first
    tensors = list(all_of(everything()))
    assert len(tensors) == 13
    seen = {first}
    for index in range(len(tensors)):
        model = everything()
        tensor = list(all_of(model))[index]
        if tensor.HasField("raw_data"):
            tensor.raw_data = bytes([tensor.raw_data[0] ^ 1]) + tensor.raw_data[1:]
        elif tensor.int32_data:
            tensor.int32_data[0] ^= 1
        else:
            tensor.string_data[0] = b"cow"
        onnx_models.save(model, path)
        assert of_exporter(path) == of_file(path)
        seen.add(of_file(path))
    assert len(seen) == 14  # each change gives another digest


UNSAID = {"doc_string", "metadata_props"} | {
    *("ModelProto.ir_version", "ModelProto.producer_name", "ModelProto.producer_version", "ModelProto.domain"),
    *("ModelProto.model_version", "GraphProto.name", "GraphProto.value_info", "NodeProto.name"),
}


def changes(message: Any, said: bool = True) -> Iterator[tuple[str, bool]]:
    """Change one text, number or list of a model at a time, but no tensor's values; yield its name, whether it counts.

    A list loses its last entry. What was changed is set back before the next.
    """
    for field, value in message.ListFields():
        name = f"{message.DESCRIPTOR.name}.{field.name}"
        counts = said and not {field.name, name} & UNSAID
        if isinstance(message, TensorProto) and field.name != "name":
            continue
        if hasattr(value, "append"):
            last = list(value)[-1:]
            value.pop()
            yield name, counts
            value.extend(last)
        if field.message_type is not None:
            for inner in value if hasattr(value, "append") else [value]:
                yield from changes(inner, counts)
        elif isinstance(value, str | bytes | int | float) and field.enum_type is None:
            more: Any = "x" if isinstance(value, str) else b"x" if isinstance(value, bytes) else 1
            setattr(message, field.name, value + more)
            yield name, counts
            setattr(message, field.name, value)


def test_everything_but_names_of_nodes_and_what_the_file_says_of_itself_counts(tmp_path: Path) -> None:
    model = everything()
    model.doc_string = model.graph.doc_string = model.graph.node[0].doc_string = "words"
    model.producer_version, model.domain, model.model_version = "1", "here", 1
    helper.set_model_props(model, {"key": "value"})
    model.graph.value_info.append(helper.make_tensor_value_info("gap", TensorProto.FLOAT, ["batch", 3, 1, 1]))
    before = graph_digest(model)
    names = set()
    for name, counts in changes(model):
        after = graph_digest(model)
        assert (after != before) is counts, name
        assert digest.graph_digest(model, tmp_path) == after
        names.add(name)
    assert graph_digest(model) == before
    assert {
        *("AttributeProto.f", "AttributeProto.floats", "AttributeProto.ints", "AttributeProto.s"),
        *("AttributeProto.strings", "NodeProto.op_type", "NodeProto.domain", "NodeProto.input", "NodeProto.output"),
        *("NodeProto.name", "Dimension.dim_param", "Dimension.dim_value", "OperatorSetIdProto.version"),
        *("FunctionProto.name", "SparseTensorProto.dims", "ValueInfoProto.name", "GraphProto.node"),
    } <= names


def test_the_bytes_of_packed_and_cast_values(tmp_path: Path) -> None:
    """int4: the first value in the low half of the byte; bfloat16: the upper half of a float32."""
    model = everything()
    kept = [w for w in model.graph.initializer if w.name in ("packed", "bf16", "words")]
    bare = noted()
    floats = raw_of(bare)
    bare.graph.initializer.extend(kept)
    path = onnx_models.save(bare, tmp_path / "m.onnx")
    bf16 = (np.array([1.5, -2.0], np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
    words = b"".join(len(word).to_bytes(8, "little") + word for word in (b"cat", b"dog"))
    truth = written_out(
        *floats,
        ("packed", TensorProto.INT4, (3,), bytes([0x1 | 0xE << 4, 0x3])),
        ("bf16", TensorProto.BFLOAT16, (2,), bf16),
        ("words", TensorProto.STRING, (2,), words),
    )
    assert (of_file(path), of_exporter(path)) == (truth, truth)


def sealed(path: Path, *, external: bool = False) -> Path:
    """`noted` with a contract that holds its digest."""
    model = noted()
    contract = lookup.lookup_contract(size_px=8) | {"graph_digest": written_out(*raw_of(model))}
    helper.set_model_props(model, {lookup.CONTRACT_KEY: json.dumps(contract)})
    return onnx_models.save(model, path, external=external)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, bytes, list[int]]]:
    """Each file that holds weights: its bytes, and the places of those of a tensor."""
    folder = tmp_path_factory.mktemp("digest")
    inline = sealed(folder / "inline.onnx")
    content = inline.read_bytes()
    places: list[int] = []
    for weight in wide().graph.initializer:
        start = content.index(weight.raw_data)
        places += range(start, start + len(weight.raw_data))
    beside = sealed(folder / "beside.onnx", external=True)
    data = beside.with_name("beside.onnx.data")
    used = [
        int(entry.value)
        for weight in onnx.load(beside, load_external_data=False).graph.initializer
        for entry in weight.external_data
        if entry.key == "offset"
    ]
    lengths = [len(weight.raw_data) for weight in wide().graph.initializer]
    of_data = [at for start, n in zip(used, lengths, strict=True) for at in range(start, start + n)]
    return {"inline": (inline, content, places), "external": (data, data.read_bytes(), of_data)}


@given(data=st.data(), where=st.sampled_from(["inline", "external"]), bit=st.integers(0, 7))
def test_any_changed_bit_of_a_weight_is_seen(
    files: dict[str, tuple[Path, bytes, list[int]]], data: st.DataObject, where: str, bit: int
) -> None:
    path, content, places = files[where]
    model = path.with_suffix("") if where == "external" else path
    at = data.draw(st.sampled_from(places))
    path.write_bytes(content)
    assert open_model(model).file_changed is False
    path.write_bytes(content[:at] + bytes([content[at] ^ (1 << bit)]) + content[at + 1 :])
    assert open_model(model).file_changed is True
    path.write_bytes(content)


def test_a_contract_without_the_digest_says_nothing(tmp_path: Path) -> None:
    path = lookup.write_lookup_model(tmp_path / "m.onnx", np.eye(8, 400))
    assert open_model(path).file_changed is None
    assert open_model(onnx_models.save(wide(), tmp_path / "bare.onnx")).file_changed is None

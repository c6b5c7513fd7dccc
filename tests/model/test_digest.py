"""The digest of a file's graph and weights: the same on both sides of the contract; all that counts is in it."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper
from onnx.numpy_helper import from_array, to_array

from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.model import file as checked
from robustcheck_onnx.checker.model.file import graph_digest, read_onnx
from robustcheck_onnx.checker.model.open import open_model
from robustcheck_onnx.exporters import contract
from support import Fields, Patch, lookup, raised
from support.onnx_models import save, written


def of_file(path: Path) -> str:
    file = read_onnx(path)
    return graph_digest(file.proto, file.weights)


def of_exporter(path: Path) -> str:
    return contract.graph_digest(onnx.load(path, load_external_data=False), path.parent)


Raw = tuple[str, int, tuple[int, ...], bytes]


def written_out(*initializers: Raw) -> str:
    """The definition of docs/dev/graph-digest.md, by hand, for `wide` with these initializers."""

    def node(op: str, inputs: list[str], output: str) -> Fields:
        return {"op_type": op, "domain": "", "input": inputs, "output": [output]}

    def value(name: str, *dims: Fields) -> Fields:
        return {"name": name, "type": {"tensor_type": {"elem_type": 1, "shape": {"dim": dims}}}}

    graph = {
        "node": [
            node("GlobalAveragePool", ["image"], "gap"),
            node("Flatten", ["gap"], "flat"),
            node("Gemm", ["flat", "w3x64", "w64"], "up"),
            node("MatMul", ["up", "w64x512"], "representation")
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


def noted() -> ModelProto:
    """A projection of 128 KB, which the light parser leaves in the file, a small bias, an attribute of a fraction."""
    text = """
        gap = GlobalAveragePool(image); flat = Flatten(gap); up = Gemm(flat, w3x64, w64)
        representation = MatMul(up, w64x512, note=0.1)
    """
    return written(text, ("representation", TensorProto.FLOAT, ("batch", 512)), before="")


def raw_of(model: ModelProto) -> list[Raw]:
    return [(w.name, w.data_type, tuple(w.dims), to_array(w).astype("<f4").tobytes()) for w in model.graph.initializer]


def test_every_way_to_store_the_values_gives_the_digest_of_the_definition() -> None:
    model = noted()
    truth = written_out(*raw_of(model))
    paths = [save(model, "inline.onnx"), save(noted(), "beside.onnx", external=True)]
    typed = noted()
    for weight in typed.graph.initializer:
        values = to_array(weight).ravel()
        weight.ClearField("raw_data")
        weight.float_data.extend(values.tolist())
    paths.append(save(typed, "typed.onnx"))
    assert open_model(paths[0]).file_changed is None  # no contract
    assert len(read_onnx(paths[0]).weights.places) == 1  # the large one was never parsed
    for path in paths:
        assert (of_file(path), of_exporter(path)) == (truth, truth), path.name


EVERYTHING = """
<ir_version: 9, producer_version: "1", domain: "here", model_version: 1, opset_import: ["" : 18, "own" : 1]>
tiny (float[batch,3,8,8] image) => (float[batch,3] representation)
<bool yes = {1}, string[2] words = {"cat", "dog"}, float[batch,3,1,1] gap> {
    gap = GlobalAveragePool (image)
    flat = Flatten (gap)
    chosen = If (yes) <
        then_branch = branch () => (float[n, 3] branched) <float[3] in_branch = {1, 1, 1}> {
            branched = Add (flat, in_branch)
        },
        else_branch = other () => (float[n, 3] branched) {
            in_other = Constant <value = float[3] {2, 2, 2}> ()
            branched = Mul (flat, in_other)
        }
    >
    representation = own.Shift (chosen)
    c0 = Constant <value_float = 0.1> ()
    c1 = Constant <value_floats = [1.0, 2.0]> ()
    c2 = Constant <value_ints = [1, 2]> ()
    c3 = Constant <value_string = "one"> ()
    c4 = Constant <value_strings = ["one", "two"]> ()
}
<domain: "own", opset_import: ["" : 18]>
Shift <default: tensor = float[2] {1, 1}> (x) => (y) {
    by = Constant <value = float[3] {0, 1, 2}> ()
    y = Add (x, by)
}
"""


def everything() -> ModelProto:
    """Tensors in every place that a file has for them: initializers, Constants, a branch, a function, sparse ones."""
    model = onnx.parser.parse_model(EVERYTHING)
    numbers = from_array(np.array([5.0, np.nan], np.float32), "sparse")
    sparse = helper.make_sparse_tensor(numbers, from_array(np.array([1, 2])), [4])
    model.graph.sparse_initializer.append(sparse)
    model.graph.node.append(helper.make_node("Constant", [], ["few"], name="c", sparse_value=sparse))
    model.graph.initializer.append(from_array(np.array([1, -2, 3], ml_dtypes.int4), "packed"))
    model.graph.initializer.append(helper.make_tensor("bf16", TensorProto.BFLOAT16, [2], [1.5, -2.0]))
    model.doc_string = model.graph.doc_string = model.graph.node[0].doc_string = "words"
    helper.set_model_props(model, {"key": "value"})
    return model


UNSAID = {"doc_string", "metadata_props"} | {
    *("ModelProto.ir_version", "ModelProto.producer_name", "ModelProto.producer_version", "ModelProto.domain"),
    *("ModelProto.model_version", "GraphProto.name", "GraphProto.value_info", "NodeProto.name"),
}


def other(value: Any) -> Any:
    """Another value of the same type and size."""
    if isinstance(value, bytes):
        return value[:-1] + bytes([value[-1] ^ 1])
    return value + "x" if isinstance(value, str) else value + 1


def changes(message: Any, said: bool = True) -> Iterator[tuple[str, bool]]:
    """Change one text, number or list of a model at a time, or a value of a tensor; yield its name, whether it counts.

    A list loses its last entry. What was changed is set back before the next.
    """
    for field, value in message.ListFields():
        name = f"{message.DESCRIPTOR.name}.{field.name}"
        counts = said and not {field.name, name} & UNSAID
        of_tensor = isinstance(message, TensorProto)
        if name == "TensorProto.dims":
            continue
        if hasattr(value, "append"):
            size, last = len(value), value.pop()
            value.extend([other(last)] if of_tensor else [])
            yield name, counts
            del value[size - 1 :]
            value.extend([last])
        if field.message_type is not None:
            for inner in value if hasattr(value, "append") else [value]:
                yield from changes(inner, counts)
        elif isinstance(value, str | bytes | int | float) and field.enum_type is None and field.name != "data_type":
            setattr(message, field.name, other(value))
            yield name, counts
            setattr(message, field.name, value)


def test_everything_but_names_of_nodes_and_what_the_file_says_of_itself_counts() -> None:
    model = everything()
    path = save(model)
    before = graph_digest(model)
    assert of_file(path) == of_exporter(path) == before
    digests = {before}
    names = Counter[str]()
    for name, counts in changes(model):
        after = graph_digest(model)
        assert (after not in digests) is counts, name
        assert contract.graph_digest(model, Path()) == after
        digests.add(after)
        names[name] += 1
    assert graph_digest(model) == before
    of_tensors = [f"TensorProto.{kind}_data" for kind in ("float", "int32", "string", "raw")]
    assert sum(names[name] for name in of_tensors) == 12
    assert {
        *("AttributeProto.f", "AttributeProto.floats", "AttributeProto.ints", "AttributeProto.s", *of_tensors),
        *("AttributeProto.strings", "NodeProto.op_type", "NodeProto.domain", "NodeProto.input", "NodeProto.output"),
        *("NodeProto.name", "Dimension.dim_param", "Dimension.dim_value", "OperatorSetIdProto.version"),
        *("FunctionProto.name", "SparseTensorProto.dims", "ValueInfoProto.name", "GraphProto.node"),
    } <= names.keys()


def test_the_bytes_of_packed_and_cast_values() -> None:
    """int4: the first value in the low half of the byte; bfloat16: the upper half of a float32."""
    model = everything()
    kept = [w for w in model.graph.initializer if w.name in ("packed", "bf16", "words")]
    bare = noted()
    floats = raw_of(bare)
    bare.graph.initializer.extend(kept)
    path = save(bare)
    bf16 = (np.array([1.5, -2.0], np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
    words = b"".join(len(word).to_bytes(8, "little") + word for word in (b"cat", b"dog"))
    truth = written_out(
        *floats,
        ("words", TensorProto.STRING, (2,), words),
        ("packed", TensorProto.INT4, (3,), bytes([0x1 | 0xE << 4, 0x3])),
        ("bf16", TensorProto.BFLOAT16, (2,), bf16),
    )
    assert (of_file(path), of_exporter(path)) == (truth, truth)
    digests = set()
    for raw in (b"a" * 16, b"b" * 16):  # where no text is, but ONNX Runtime loads the file while nobody reads it
        model = noted()
        model.graph.initializer.append(TensorProto(name="text", data_type=TensorProto.STRING, dims=[2], raw_data=raw))
        path = save(model, "text.onnx")
        assert of_file(path) == of_exporter(path)
        digests.add(of_file(path))
    assert len(digests) == 2


def metadata(model: ModelProto) -> list[bytes]:
    return [ModelProto(metadata_props=[entry]).SerializeToString() for entry in model.metadata_props]


def test_only_a_file_with_the_bytes_of_its_export_needs_no_digest_of_its_graph(monkeypatch: Patch) -> None:
    computed: list[object] = []

    def compute(*of: Any) -> str:
        computed.append(of)
        return graph_digest(*of)

    def opened(content: bytes) -> tuple[bool | None, int]:
        computed.clear()
        Path("m.onnx").write_bytes(content)
        return open_model("m.onnx").file_changed, len(computed)

    monkeypatch.setattr(checked, "graph_digest", compute)
    model = noted()
    start, digest = model.SerializeToString(), written_out(*raw_of(model))
    contract.embed(model, lookup.lookup_contract(size_px=8) | {"graph_digest": "earlier"}, Path())
    whole, (stated, proof) = model.SerializeToString(), metadata(model)
    more = ModelProto(metadata_props=[{"key": "more", "value": "m" * 300}]).SerializeToString()
    for content in (start + stated + proof, whole + more, start + more + proof + stated):
        assert opened(content) == (False, 0)
    lie = proof[:-1] + bytes([proof[-1] ^ 1])
    turned = proof[:3] + proof[26:] + proof[3:26]  # its value comes before its key
    (empty,) = metadata(ModelProto(metadata_props=[{"key": checked.BEGINNING_KEY, "value": f"{digest} "}]))
    for content in (
        *(start + stated + each for each in (b"", lie, turned)),
        stated + proof + start,
        stated + start + proof,
        stated + empty + start,
    ):
        assert opened(content) == (False, 1)
    assert opened(whole.replace(digest[-8:].encode(), b"0" * 8, 1)) == (True, 1)
    function = onnx.parser.parse_function('<domain: "own", opset_import: ["" : 18]> Twice (x) => (y) {y = Add (x, x)}')
    for added, changed in (
        (ModelProto(graph={"initializer": [from_array(np.ones(3), "second")]}), True),
        (ModelProto(opset_import=[{"domain": "own", "version": 1}]), True),
        (ModelProto(functions=[function]), True),
        (ModelProto(producer_name="x"), False),  # no value depends on this and the next
        (ModelProto(ir_version=9), False),
        (ModelProto.FromString(bytes([15 << 3 | 1, *range(8)])), False),  # a field that ONNX does not have
    ):
        part = added.SerializeToString()
        for content in (whole + part, whole + part + more, start + part + stated + proof):
            assert opened(content) == (changed, 1)
    raised(CannotAssessError, "truncated or damaged", opened, whole[:-1])

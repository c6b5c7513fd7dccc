"""Opening a model file: broken ones are clear errors, honest ones are read; its digests; large weights stay in it."""

import hashlib
import json
import os
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from onnx import GraphProto, ModelProto, TensorProto, helper
from onnx.numpy_helper import from_array, to_array

from robustcheck_onnx.checker.core.model import contract as checked
from robustcheck_onnx.checker.core.model import file as files
from robustcheck_onnx.checker.core.model import watched, weights
from robustcheck_onnx.checker.core.model.contract import BEGINNING_KEY, graph_digest
from robustcheck_onnx.checker.core.model.file import OnnxFile, read_onnx, restore
from robustcheck_onnx.checker.core.model.open import open_model
from robustcheck_onnx.checker.core.model.weights import LFS_MARK, Weights, parse_stripped, values_of
from robustcheck_onnx.checker.core.runtime.runner import Runner
from robustcheck_onnx.checker.errors import CannotAssessError, RobustcheckError, UsageError
from robustcheck_onnx.exporters import contract, digests
from support import Fields, Patch, flip, lookup, raised
from support.onnx_models import PIXELS, build, classifier, encoder, save, weight, written

LARGE_BYTES = weights.LARGE_BYTES  # that of users: `small_is_large` sets another


def fails(path: Path | str, message: str, kind: type[RobustcheckError] = CannotAssessError) -> str:
    """The hint of a refusal."""
    caught = raised(kind, "", read_onnx, Path(path))
    assert caught.message.startswith(f"{path}: ")
    assert message in caught.message
    assert caught.hint
    return caught.hint


@pytest.fixture
def model() -> Path:
    """m/m.onnx with its weights in m.onnx.data."""
    Path("m").mkdir()
    return save(classifier(), "m/m.onnx", external=True)


def test_not_a_model() -> None:
    fails("no.onnx", "no such file", UsageError)
    fails(".", "model is a folder", UsageError)
    path = Path("m.onnx")
    whole = classifier().SerializeToString()
    for content, message in (
        (b"", "model file is empty (0 bytes)"),
        (b"# a note\nthis is not a model\n", "model file is text"),
        ("ein Blatt Text — é".encode(), "model file is text"),
        (b"PK\x03\x04\x00\x00", "model file is a zip archive (PyTorch checkpoints"),
        (b"\x80\x02\x8a\x0al\xfc", "model file is a Python pickle"),
        (b"\x40\x00\x00\x00\x00\x00\x00\x00{}", "model file is a safetensors file"),
        (b"\x00\x00\x00\x00TFL3", "model file is a TensorFlow Lite model"),
        (b"\xff\xff\xff\xff\xff", "model file is not a complete ONNX protobuf (5 bytes)"),
        (whole[: len(whole) // 2], "truncated"),
        (build([], ["image"]).SerializeToString(), "graph has 0 nodes"),
    ):
        path.write_bytes(content)
        fails(path, message)
    path.write_bytes(LFS_MARK + b"v1\noid sha256:00\nsize 12\n")
    assert fails(path, "model file is a Git LFS pointer") == "git lfs pull --include m.onnx"


def test_weights_files_that_are_not_whole(model: Path) -> None:
    data = model.with_name("m.onnx.data")
    content = data.read_bytes()
    data.write_bytes(content[:-1])
    onnx.checker.check_model(model)  # onnx itself does not notice
    fails(
        model, f"weights file m.onnx.data is {len(content) - 1} bytes; tensor 'fc.bias' ends at byte {len(content)}, so"
    )
    data.write_bytes(LFS_MARK + b"v1\n")
    assert fails(model, "Git LFS pointer") == "git lfs pull --include m.onnx.data"
    data.unlink()
    assert fails(model, "weights file m.onnx.data is missing") == f"copy m.onnx.data next to the model: {data}"


def edit(path: Path, key: str, value: str) -> None:
    """Change what a model says of where its weights are."""
    proto = onnx.load(path, load_external_data=False)
    for entry in (entry for each in proto.graph.initializer for entry in each.external_data):
        entry.value = value if entry.key == key else entry.value
    path.write_bytes(proto.SerializeToString())


def test_a_hint_can_be_typed_whatever_the_model_calls_its_weights(model: Path) -> None:
    """The next command to type must not be one that the model's maker chose."""
    evil = "w; touch pwned; #"
    edit(model, "location", evil)
    model.with_name(evil).write_bytes(LFS_MARK + b"v1\n")
    hint = shlex.split(fails(model, "Git LFS pointer"), comments=True)
    assert hint == ["git", "lfs", "pull", "--include", evil]


@pytest.mark.parametrize(("key", "value", "message"), [
    *(("location", v, "leaves the model's folder") for v in ("../x", "/etc/passwd", "a/../../x", "C:\\x", "..\\x")),
    *(("length", value, "external data of tensor 'conv.weight'") for value in ("4", "9999999999")),
    *(("offset", value, "external data of tensor 'conv.weight'") for value in ("-4", "x")),
])  # fmt: skip
def test_places_of_weights_that_lie(model: Path, key: str, value: str, message: str) -> None:
    edit(model, key, value)
    fails(model, message)


def hub_cache(folder: str, blob_of_data: str) -> Path:
    """A model as the hub client keeps it: links in snapshots, files in blobs."""
    root = Path(folder).absolute()
    snapshot = root / "models--x/snapshots/abc/onnx"
    snapshot.mkdir(parents=True)
    path = save(classifier(), snapshot / "model.onnx", external=True)
    for link, name in ((path, "models--x/blobs/b0"), (snapshot / "model.onnx.data", blob_of_data)):
        blob = root / name
        blob.parent.mkdir(exist_ok=True, parents=True)
        link.rename(blob)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return path


def folder_of(file: OnnxFile) -> Path:
    assert file.weights.folder is not None
    return file.weights.folder.resolve()


def test_links(model: Path) -> None:
    """Those of a hub's cache are followed, and that of a model; those of weights lead nowhere else."""
    file = read_onnx(Path(hub_cache("hub", "models--x/blobs/b1")))
    assert (folder_of(file), file.external[0].path.name) == (Path("hub/models--x/blobs").absolute(), "b1")
    assert {entry.value for entry in file.proto.graph.initializer[0].external_data if entry.key == "location"} == {"b1"}
    fails(hub_cache("other", "models--y/blobs/b1"), "leaves the model's folder")
    Path("hub/current.onnx").symlink_to(model.absolute())
    assert folder_of(read_onnx(Path("hub/current.onnx"))) == Path("m").absolute()
    data = model.with_name("m.onnx.data").absolute()
    Path("m/hard link").hardlink_to(data)
    truth = Runner(open_model(save(classifier())), "cpu").run(PIXELS).representation
    for path in ("hub/models--x/snapshots/abc/onnx/model.onnx", "hub/current.onnx", model):
        runner = Runner(open_model(path), "cpu")
        assert_array_equal(runner.run(PIXELS).representation, truth)
        assert runner.output_difference(PIXELS) < 1e-4
    data.symlink_to(data.rename(Path("hub/data").absolute()))
    fails(model, "leaves the model's folder")


@pytest.mark.parametrize(("shape", "text", "layout"), [
    ((None, 3, 32, 32), "y = Flatten(image)", "NCHW"),
    ((1, 32, 32, 3), "y = Flatten(image)", "NHWC"),
    ((None, "c", "h", "w"), "y = Flatten(image)", "NCHW"),
    ((None, "h", "w", "c"), "x = Transpose(image, perm=[0, 3, 1, 2]); y = Flatten(x)", "NHWC"),
    ((2, 3, None, 3), "y = Flatten(image)", "NCHW"),
])  # fmt: skip
def test_layouts(opened: Any, shape: Any, text: str, layout: str) -> None:
    image = opened(written(text, before="", inputs=[("image", TensorProto.FLOAT, shape)])).image_input
    batch = shape[0] if isinstance(shape[0], int) else None
    assert (image.layout, image.dtype, image.batch) == (layout, "float32", batch)


def test_identity_of_a_model() -> None:
    inline = open_model(save(classifier(), "a.onnx"))
    assert inline.file.digest == inline.file.file_digest
    assert inline.file.external_digests == {}
    assert (inline.opsets, inline.ir_version, inline.precision) == ({"ai.onnx": 18}, 9, "fp32")
    assert [(each.name, each.dtype, each.shape) for each in inline.outputs] == [("logits", "float", (None, 10))]
    path = save(classifier(), "b.onnx", external=True)
    data = Path("b.onnx.data")
    first = open_model(path)
    assert first.file.file_digest == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    assert first.file.external_digests == {"b.onnx.data": "sha256:" + hashlib.sha256(data.read_bytes()).hexdigest()}
    assert first.file.size_bytes == path.stat().st_size + data.stat().st_size
    flip(data, 5)
    second = open_model(path)
    assert second.file.file_digest == first.file.file_digest
    assert second.file.digest != first.file.digest  # other weights, another model


def of_file(path: Path) -> str:
    file = read_onnx(path)
    return graph_digest(file.proto, file.weights)


def of_exporter(path: Path) -> str:
    return digests.graph_digest(onnx.load(path, load_external_data=False), path.parent)


Raw = tuple[str, int, tuple[int, ...], bytes]


def written_out(*initializers: Raw) -> str:
    """The definition of docs/dev/graph-digest.md, by hand, for `wide` with these initializers."""

    def node(op: str, inputs: list[str], output: str) -> Fields:
        return {"op_type": op, "domain": "", "input": inputs, "output": [output]}

    def value(name: str, *dims: Fields) -> Fields:
        return {"name": name, "type": {"tensor_type": {"elem_type": 1, "shape": {"dim": dims}}}}

    note = {"attribute": [{"name": "note", "type": 1, "f": "0.10000000149011612"}]}
    graph = {
        "node": [node("GlobalAveragePool", ["image"], "gap"), node("Flatten", ["gap"], "flat"),
                 node("Gemm", ["flat", "w3x64", "w64"], "up"),
                 node("MatMul", ["up", "w64x512"], "representation") | note],
        "input": [value("image", {"dim_param": "batch"}, {"dim_value": 3}, {"dim_value": 8}, {"dim_value": 8})],
        "output": [value("representation", {"dim_param": "batch"}, {"dim_value": 512})],
        "initializer": [[name, kind, dims, hashlib.sha256(raw).hexdigest()] for name, kind, dims, raw in initializers],
    }  # fmt: skip
    whole = {"graph": graph, "opset_import": [{"domain": "", "version": 18}]}
    text = json.dumps(whole, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def noted() -> ModelProto:
    """A projection of 128 KB, which the light parser leaves in the file, a small bias, an attribute of a fraction."""
    text = """gap = GlobalAveragePool(image); flat = Flatten(gap); up = Gemm(flat, w3x64, w64)
        representation = MatMul(up, w64x512, note=0.1)"""
    return written(text, ("representation", TensorProto.FLOAT, ("batch", 512)), before="")


def raw_of(model: ModelProto) -> list[Raw]:
    return [(w.name, w.data_type, tuple(w.dims), to_array(w).astype("<f4").tobytes()) for w in model.graph.initializer]


def test_every_way_to_store_the_values_gives_the_digest_of_the_definition(monkeypatch: Patch) -> None:
    monkeypatch.setattr(weights, "LARGE_BYTES", LARGE_BYTES)
    model = noted()
    truth = written_out(*raw_of(model))
    paths = [save(model, "inline.onnx"), save(noted(), "beside.onnx", external=True)]
    typed = noted()
    for tensor in typed.graph.initializer:
        values = to_array(tensor).ravel()
        tensor.ClearField("raw_data")
        tensor.float_data.extend(values.tolist())
    paths.append(save(typed, "typed.onnx"))
    assert open_model(paths[0]).file_changed is None  # no contract
    assert len(read_onnx(paths[0]).weights.places) == 1  # the large one was never parsed
    for path in paths:
        assert (of_file(path), of_exporter(path)) == (truth, truth), path.name


EVERYTHING = """
<ir_version: 9, producer_version: "1", domain: "here", model_version: 1, opset_import: ["" : 18, "own" : 1]>
tiny (float[batch,3,8,8] image) => (float[batch,3] representation)
<bool yes = {1}, string[2] words = {"cat", "dog"}, float[batch,3,1,1] gap> {
    gap = GlobalAveragePool (image) flat = Flatten (gap)
    chosen = If (yes) <
        then_branch = branch () => (float[n, 3] branched) <float[3] in_branch = {1, 1, 1}> {
            branched = Add (flat, in_branch) },
        else_branch = other () => (float[n, 3] branched) {
            in_other = Constant <value = float[3] {2, 2, 2}> () branched = Mul (flat, in_other) } >
    representation = own.Shift (chosen)
    c0 = Constant <value_float = 0.1> () c1 = Constant <value_floats = [1.0, 2.0]> ()
    c2 = Constant <value_ints = [1, 2]> () c3 = Constant <value_string = "one"> ()
    c4 = Constant <value_strings = ["one", "two"]> () }
<domain: "own", opset_import: ["" : 18]>
Shift <default: tensor = float[2] {1, 1}> (x) => (y) {by = Constant <value = float[3] {0, 1, 2}> () y = Add (x, by)}"""


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
    seen = {before}
    names = Counter[str]()
    for name, counts in changes(model):
        after = graph_digest(model)
        assert (after not in seen) is counts, name
        assert digests.graph_digest(model, Path()) == after
        seen.add(after)
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
    (empty,) = metadata(ModelProto(metadata_props=[{"key": BEGINNING_KEY, "value": f"{digest} "}]))
    wholes = (stated + proof + start, stated + start + proof, stated + empty + start)
    for content in (*(start + stated + each for each in (b"", lie, turned)), *wholes):
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


FEATURES = 400  # the projection has 24 · 400 · 4 bytes


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch: Patch) -> None:
    """Weights of 20 KB and more stay in the file's content."""
    monkeypatch.setattr(weights, "LARGE_BYTES", 20_000)


def test_a_small_weight_with_a_long_text_is_parsed_with_its_values(opened: Any) -> None:
    model = written("embedding = Add(features, shift)", shift=np.zeros(16))
    next(each for each in model.graph.initializer if each.name == "shift").doc_string = "d" * 30_000
    assert parse_stripped(model.SerializeToString()) == (model, {})
    assert opened(model).representation.tensor == "embedding"


def test_what_onnx_runtime_gets_is_the_file_and_the_addition_behind_it() -> None:
    path = save(classifier(FEATURES))
    opened = open_model(path)
    assert opened.graph.own() == path.read_bytes()
    assert opened.graph.with_addition()[: path.stat().st_size] == path.read_bytes()
    outputs = ModelProto.FromString(opened.graph.with_addition()).graph.output
    assert [output.name for output in outputs] == ["logits", "features"]


def test_weights_left_inside_a_file_with_external_data_are_written_too() -> None:
    path = Path("m.onnx")
    model = encoder(FEATURES)
    onnx.external_data_helper.convert_model_to_external_data(model, location="m.data", size_threshold=50_000_000)
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "m.data")
    onnx.save(model, path)
    opened = open_model(path)
    assert [*opened.graph.file.weights.places] == ["proj"]
    assert opened.graph.own() == onnx.load(path, load_external_data=False).SerializeToString()


def model_bytes() -> bytes:
    model = encoder(FEATURES, output="embedding")
    model.doc_string = "d" * 300
    content: bytes = model.SerializeToString()
    return content


CONTENT = model_bytes()


CHANGES = st.lists(st.tuples(st.integers(0, len(CONTENT) - 1), st.integers(0, 255)), max_size=3)


@given(CHANGES, st.integers(0, len(CONTENT)))
def test_damaged_files_are_parsed_as_the_library_parses_them(changes: list[tuple[int, int]], end: int) -> None:
    damaged = bytearray(CONTENT)
    for at, value in changes:
        damaged[at % 500 if value % 2 else at] = value  # half of them among the fields, not in the weights
    for content in (bytes(damaged), bytes(damaged[:end]), bytes(damaged[: len(damaged) - end % 50])):
        try:
            expected = ModelProto.FromString(content)
        except DecodeError:
            raised(DecodeError, "", parse_stripped, content)
            continue
        proto, places = parse_stripped(content)
        # serialised, since values that are not a number differ from themselves
        assert restore(proto, Weights(None, content, places)).SerializeToString() == expected.SerializeToString()


def field(number: int, content: bytes) -> bytes:
    """A field of a protobuf message."""
    return weights._key(number, len(content)) + content


def test_what_protobuf_merges_is_parsed_whole() -> None:
    """A second graph, a second weight of that name, a second field of raw data inside the weight."""
    tensor = TensorProto(name="w", dims=[6000], data_type=TensorProto.FLOAT, raw_data=b"\1" * 24_000)
    inner = tensor.SerializeToString()
    weight = field(weights.INITIALIZER, inner)
    assert parse_stripped(field(weights.GRAPH, weight))[1] != {}
    more = TensorProto(raw_data=b"\2" * 24_000).SerializeToString()
    for content in (
        field(weights.GRAPH, weight) + field(weights.GRAPH, GraphProto(name="more").SerializeToString()),
        field(weights.GRAPH, weight + weight),
        field(weights.GRAPH, field(weights.INITIALIZER, inner + more)),
    ):
        assert parse_stripped(content) == (ModelProto.FromString(content), {})


PEAK = """
import sys
from pathlib import Path
from robustcheck_onnx.checker.core.model.open import open_model
open_model(sys.argv[1])
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line))"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of one process is read in /proc")
@pytest.mark.long
def test_an_open_model_is_in_memory_once() -> None:
    peaks = []
    for rows in (24, 60_000):
        model = encoder()
        weight = from_array(np.zeros((rows, 512), np.float32), "unused")
        model.graph.initializer.append(weight)
        path = save(model, f"{rows}.onnx")
        done = subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, text=True, check=True)
        peaks.append(1024 * int(done.stdout))
    assert peaks[1] - peaks[0] < 1.5 * 60_000 * 512 * 4


def test_a_number_without_end_is_refused_after_its_tenth_byte() -> None:
    """Of a million bytes: one number of arbitrary length would take minutes to build."""

    class Counted(bytes):
        reads = 0

        def __getitem__(self, place: Any) -> Any:
            Counted.reads += 1
            assert Counted.reads < 100
            return super().__getitem__(place)

    raised(DecodeError, "", weights.parse_stripped, Counted(b"\x08" + b"\xff" * 1_000_000))
    assert Counted.reads


def test_texts_of_a_weight_are_any_bytes() -> None:
    tensor = TensorProto(data_type=TensorProto.STRING, dims=[2, 1], string_data=[b"\xff", b"a"])
    assert values_of(tensor, Weights(None, b"", {})).tolist() == [[b"\xff"], [b"a"]]


@pytest.fixture
def mapping(monkeypatch: Patch, tmp_path: Path) -> None:
    """Map every file."""
    if not watched.stamps_writes(tmp_path.stat()):
        pytest.skip("the temporary folder is on no file system whose stamps can be trusted: nothing is mapped there")
    monkeypatch.setattr(files, "MAPPED_BYTES", 1)


def models() -> dict[str, ModelProto]:
    shuffled = encoder(512)
    shuffled.graph.node.insert(0, shuffled.graph.node.pop())
    turn = weight(16, 1024).astype(np.float16)
    half = written("wide = Cast(turn, to=FLOAT); out = MatMul(features, wide)", turn=turn)
    return {"float": encoder(512), "another order": shuffled, "float16 weight": half}


@pytest.mark.parametrize("kind", models())
def test_mapped_weights_give_the_same_bits(monkeypatch: Patch, kind: str) -> None:
    """At whatever byte they begin: protobuf aligns nothing. So do weights beside the file, and nodes in any order."""
    in_order = models()["float" if kind == "another order" else kind]
    truth = Runner(open_model(save(in_order)), "cpu").run(PIXELS).representation
    beside = open_model(save(models()[kind], "beside.onnx", external=True))
    assert not beside.graph.file.weights.places
    assert_array_equal(Runner(beside, "cpu").run(PIXELS).representation, truth)
    model = models()[kind]
    for shift in range(4):
        model.graph.doc_string = "d" * shift
        path = save(model)
        copied = open_model(path)
        assert copied.graph.mapped(with_addition=True) is None
        assert copied.graph.file.weights.places
        with monkeypatch.context() as changed:
            changed.setattr(files, "MAPPED_BYTES", 1)
            mapped = open_model(path)
            assert len(mapped.graph.mapped(with_addition=True) or b"") < path.stat().st_size / 2
            assert (mapped.file.digest, mapped.file.external) == (copied.file.digest, ())
            found = read_onnx(path)
            assert graph_digest(found.proto, found.weights) == graph_digest(model)
            for each in (copied, mapped):
                assert_array_equal(Runner(each, "cpu").run(PIXELS).representation, truth)


def test_the_output_is_compared_with_that_of_the_mapped_graph_without_it(mapping: None) -> None:
    """Both sessions of the probe are opened from the mapped file."""
    runner = Runner(open_model(save(classifier(FEATURES))), "cpu")
    assert runner.model.added_output
    assert runner.output_difference(PIXELS) < 1e-6


def test_where_writes_are_not_stamped_a_file_is_copied(tmp_path: Path, mapping: None, monkeypatch: Patch) -> None:
    path, status = save(encoder(512)), tmp_path.stat()
    assert open_model(path).graph.mapped(with_addition=True) is not None
    device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    (tmp_path / "mounts").write_text(f"1 0 {device} / /tmp rw - tmpfs tmpfs rw\n1 0 0:1 / / rw - ext4 x rw\n")
    monkeypatch.setattr(watched, "MOUNTS", tmp_path / "mounts")
    assert open_model(path).graph.mapped(with_addition=True) is None
    monkeypatch.setattr(watched, "MOUNTS", tmp_path / "none")  # not Linux
    assert open_model(path).graph.mapped(with_addition=True) is None

"""Walks over random graphs give what plain definitions give, in linear time; a change of basis is no learned layer."""

import sys
from collections.abc import Callable
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import default_rng
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper
from onnx.helper import make_node
from onnx.numpy_helper import from_array, to_array
from onnxruntime.capi._pybind_state import quantize_matmul_bnb4
from onnxruntime.transformers.float16 import convert_float_to_float16

from robustcheck_onnx import check
from robustcheck_onnx.checker.core.model import ends, last_layer
from robustcheck_onnx.checker.core.model.constants import Constants, is_change_of_basis, mutually_orthogonal
from robustcheck_onnx.checker.core.model.ends import embedding_under, ends_in, last_linears
from robustcheck_onnx.checker.core.model.last_layer import find_head
from robustcheck_onnx.checker.core.model.layers import build_layers
from robustcheck_onnx.checker.core.model.nodes import sorted_nodes
from robustcheck_onnx.checker.core.model.open import open_model
from robustcheck_onnx.checker.core.runtime.runner import Runner
from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.thresholds.ends import End
from support import Fields, lookup, normal, onnx_models, raised
from support.onnx_models import PIXELS, Array, written
from support.truths import GATE, SlowGraph

CONSTANTS = {"w": (16, 16), "v": (16,), "one": (1,), "scalar": ()}
WEIGHTS = [TensorProto(name=name, dims=dims) for name, dims in CONSTANTS.items()]
UNARY = ("Relu", "Sigmoid", "Tanh", "Erf", "Clip", "Flatten", "Identity", "Cast", "GlobalAveragePool", "ReduceMean",
         "ReduceL2", "Sqrt", "LayerNormalization", "Shape", "Reciprocal", "Softmax", "Expand", "Tile",
         "Not", "Sign")  # fmt: skip
WITH_CONSTANT = ("MatMul", "Gemm", "Add", "Sub", "Mul", "Div", "Gather", "Concat", "Max", "Greater")
BINARY = ("Add", "Sub", "Mul", "Div", "Concat", "MatMul", "Max", "Sum", "Mean", "Gather", "Where", "Greater")


@st.composite
def graphs(draw: st.DrawFn) -> GraphProto:
    """A graph of up to 14 nodes on the input "image", in order; each node reads any tensors before it."""
    tensors, nodes = ["image"], []
    for index in range(draw(st.integers(1, 14))):
        # the newest tensors more often: deep graphs, whose branches meet again
        recent = st.sampled_from([*tensors, *tensors[-3:], *tensors[-3:]])
        constant = st.sampled_from([*CONSTANTS])
        forms = ((UNARY, (recent,)), (WITH_CONSTANT, (recent, constant)), (WITH_CONSTANT, (constant, recent)),
                 (BINARY, (recent, recent)))  # fmt: skip
        op, inputs = draw(st.one_of([st.tuples(st.sampled_from(ops), st.tuples(*read)) for ops, read in forms]))
        nodes.append(make_node(op, inputs, [f"t{index}"]))
        tensors.append(f"t{index}")
    return helper.make_graph(nodes, "random", [], [])


def tensors_of(graph: GraphProto) -> list[str]:
    return ["image", *(node.output[0] for node in graph.node)]


@given(graphs())
def test_walks_give_what_the_definitions_say(graph: GraphProto) -> None:
    slow, layers = SlowGraph(graph, "image", CONSTANTS), build_layers(graph, "image", WEIGHTS)
    for tensor in tensors_of(graph):
        assert (tensor in layers.image_tensors) == slow.depends(tensor)
        assert layers.data.get(tensor, ()) == slow.data(tensor)
        assert layers.statistics.get(tensor) == slow.statistic(tensor)
        assert [*layers.elementwise.above(tensor)] == slow.chain(tensor)
        found, expected = ends_in(layers, tensor), slow.end(tensor)
        assert found.kind == expected.kind
        assert found.op == expected.op or (found.kind in ("activation", "linear_of"))
        assert embedding_under(layers, tensor) == slow.embedding(tensor)
        assert bool(ends._facts(layers).activations.get(tensor)) == bool(slow.rectified(tensor))
    of_image = [tensor for tensor in tensors_of(graph) if slow.depends(tensor)]
    for pair in product(of_image, of_image):
        assert layers.elementwise.common(pair) == slow.common(pair)


@given(graphs())
def test_heads_are_those_of_the_definitions(graph: GraphProto) -> None:
    slow, layers = SlowGraph(graph, "image", CONSTANTS), build_layers(graph, "image", WEIGHTS)
    for tensor in tensors_of(graph):
        found, expected = find_head(layers, tensor), slow.head(tensor)
        if expected is None:
            assert found is None
            continue
        kind, start, crossed = expected
        node = layers.producers[start]
        if isinstance(found, last_layer.Head) and kind == "head":
            assert found.op == node.op_type
            assert found.tail.ops == crossed - {GATE}
            assert found.tail.is_gated == (GATE in crossed)
        elif isinstance(found, last_layer.Head):  # an average of heads that read one tensor
            inner = [slow.head(name) for name in slow.data(start)]
            assert {slow.data(head[1]) for head in inner if head and head[0] == "head"} == {(found.tensor,)}
        else:
            assert isinstance(found, last_layer.Join)
            assert (kind, found.branches) == ("join", slow.data(start))


def gated_chain(depth: int) -> str:
    """A SwiGLU block after the other, each with a residual sum: two branches that meet, `depth` times."""
    block = """; a{i} = MatMul(x{i}, w8x8); b{i} = MatMul(x{i}, w8x8); s{i} = Sigmoid(a{i}); silu{i} = Mul(a{i}, s{i})
        g{i} = Mul(silu{i}, b{i}); o{i} = MatMul(g{i}, w8x8); x{j} = Add(x{i}, o{i})"""
    return "x0 = Identity(image)" + "".join(block.format(i=i, j=i + 1) for i in range(depth))


def diamonds(op: str, depth: int) -> str:
    """A node that joins two branches of the one before, `depth` times."""
    return "x0 = Identity(image)" + "".join(
        f"; s{i} = Sigmoid(x{i}); x{i + 1} = {op}(x{i}, s{i})" for i in range(depth)
    )


def fan(depth: int) -> str:
    """A tensor under many branches, which are joined."""
    names = [f"b{i}" for i in range(depth)]
    return f"{diamonds('Add', depth)}; {'; '.join(f'{b} = MatMul(x{depth}, w8x8)' for b in names)}" + (
        f"; all = Concat({', '.join(names)}, axis=1)"
    )


def steps(run: Callable[[], object], most: int = 2_000_000) -> int:
    """How many calls of functions and generators a run takes; more than `most` end it."""
    counted = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")
        assert counted <= most, "the walk does not end"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        run()
    finally:
        sys.setprofile(before)
    return counted


def build_and_walk(graph: GraphProto) -> End:
    layers, tensor = build_layers(graph, "image", [TensorProto(name="w8x8", dims=(8, 8))]), graph.node[-1].output[0]
    ends._facts(layers)
    find_head(layers, tensor)
    list(last_linears(layers, tensor))
    return ends_in(layers, tensor)


def test_steps_grow_with_the_graph_not_faster() -> None:
    """Doubling at every node, nested branches would not end."""
    ops = ("Add", "Mul", "Concat", "Sub", "Max", "Sum")
    builds: list[Callable[[int], str]] = [gated_chain, fan, *(partial(diamonds, op) for op in ops)]
    for build in builds:
        graphs = [written(build(depth), before="").graph for depth in (100, 400)]
        short, long = (steps(partial(build_and_walk, graph)) for graph in graphs)
        assert long < 4.4 * short  # linear: 4; quadratic: 16


@st.composite
def any_order(draw: st.DrawFn) -> list[NodeProto]:
    """Nodes with one or two outputs, whose inputs are "image" or any outputs: circles are possible."""
    n = draw(st.integers(1, 8))
    names = ["image", "", *(f"{i}{part}" for i in range(n) for part in "ab")]
    inputs = [draw(st.lists(st.sampled_from(names), max_size=3)) for _ in range(n)]
    return [make_node("Sum", read, [f"{i}a", f"{i}b"]) for i, read in enumerate(inputs)]


def is_sorted(nodes: list[NodeProto]) -> bool:
    made = [{*node.output} for node in nodes]
    return not any({*node.input} & set[str]().union(*made[at:]) for at, node in enumerate(nodes))


def has_circle(nodes: list[NodeProto]) -> bool:
    """Whether some nodes are left when those whose sources are all there are taken away again and again."""
    written = {name for node in nodes for name in node.output}
    while ready := [node for node in nodes if not set(node.input) & written]:
        written -= {name for node in ready for name in node.output}
        nodes = [node for node in nodes if node not in ready]
    return bool(nodes)


@given(any_order())
def test_any_graph_is_sorted_or_has_a_circle(nodes: list[NodeProto]) -> None:
    if has_circle(nodes):
        said = r"^tensor '\d[ab]' is computed from itself, through"
        raised(CannotAssessError, said, sorted_nodes, nodes, {"image": "an input"})
        return
    order = sorted_nodes(nodes, {"image": "an input"})
    assert (order is None) == is_sorted(nodes)
    if order is not None:
        assert is_sorted(order)
        assert sorted(node.output[0] for node in order) == sorted(node.output[0] for node in nodes)
        assert sorted_nodes(order, {"image": "an input"}) is None


def relus(*tensors: str) -> list[NodeProto]:
    """A node for each pair of names."""
    return [make_node("Relu", [pair[0]], [pair[1]]) for pair in (names.split() for names in tensors)]


def test_nodes_that_stand_right_keep_their_order() -> None:
    order = sorted_nodes(relus("image a", "late b", "image c", "b d", "image late"), {"image": "an input"})
    assert [node.output[0] for node in order or ()] == ["a", "late", "b", "c", "d"]


def test_a_long_chain_in_reverse_needs_no_recursion() -> None:
    nodes = relus(*(f"t{i} t{i + 1}" for i in range(20_000)))
    assert sorted_nodes(nodes[::-1], {"t0": "an input"}) == nodes


def test_circles_and_names_that_are_written_twice() -> None:
    for nodes, message in [
        (["a a"], "tensor 'a' is computed from itself, through 1 node (Relu); the nodes of a graph must not"),
        (["a b", "b a"], "tensor 'b' is computed from itself, through 2 nodes (Relu, Relu); the nodes"),
        (["image a", "image a"], "tensor 'a' is written twice, by two nodes; each name must"),
        (["image image"], "tensor 'image' is written twice, by an input and a node; each name must belong to one"),
        (["image w"], "tensor 'w' is written twice, by a weight and a node; each name must belong to one tensor"),
    ]:
        there = {"image": "an input", "w": "a weight"}
        assert raised(CannotAssessError, "", sorted_nodes, relus(*nodes), there).message.startswith(message)


PARTS = """
<ir_version: 9, opset_import: ["" : 18, "own" : 1]>
tiny (float[batch,3,8,8] image) => (float[batch,3] embedding) <bool yes = {1}> {
    embedding = own.Scaled (chosen)
    chosen = If (yes) <
        then_branch = then () => (float[n,3] one) { one = Relu (one_in) one_in = Abs (features) },
        else_branch = other () => (float[n,3] two) { two = Neg (two_in) two_in = Abs (features) } >
    features = Flatten (gap) gap = GlobalAveragePool (image) }
<domain: "own", opset_import: ["" : 18]>
Scaled (x) => (y) { y = Mul (x, two) two = Neg (minus) minus = Constant <value = float {-2.0}> () }"""


def test_graphs_inside_nodes_and_functions_are_sorted(opened: Any) -> None:
    """The If stands before what only its branches read."""
    found = opened(onnx.parser.parse_model(PARTS))
    own = ModelProto.FromString(found.graph.own()).graph
    assert [node.op_type for node in own.node][:3] == ["GlobalAveragePool", "Flatten", "If"]
    assert [node.op_type for node in own.node[2].attribute[0].g.node] == ["Abs", "Relu"]
    run = Runner(found, "cpu").run(PIXELS)
    np.testing.assert_allclose(run.representation, 2 * PIXELS.mean((1, 2)), rtol=1e-5)


def test_what_the_float16_conversion_writes(opened: Any) -> None:
    model = convert_float_to_float16(onnx_models.classifier(), keep_io_types=True)
    assert not is_sorted(list(model.graph.node))
    assert opened(model).representation.tensor == "features"


def rotation(rows: int, columns: int) -> np.ndarray:
    """Orthonormal columns (or rows, where there are fewer)."""
    size = max(rows, columns)
    return np.linalg.qr(normal(size, size))[0][:rows, :columns]


def test_orthogonal_columns_or_rows_are_a_change_of_basis() -> None:
    for rows, columns in [(768, 512), (512, 512), (320, 512)]:
        basis = rotation(rows, columns)
        assert mutually_orthogonal(basis)
        assert mutually_orthogonal(basis.T)
        scales = default_rng(1).lognormal(0, 1, columns)
        assert mutually_orthogonal(basis * scales) == (columns <= rows)  # a PCA that whitens; 512 of 320 can't be
        assert mutually_orthogonal(basis.astype(np.float16).astype(np.float64))
        padded = basis.copy()
        padded[:, 3] = 0  # a feature that is switched off hides nothing
        assert mutually_orthogonal(padded)
        for levels in (127, 7):  # 8 and 4 bits, one scale
            assert mutually_orthogonal(np.round(basis / (np.abs(basis).max() / levels)))
        noise = normal(*basis.shape, seed=3) / np.sqrt(max(basis.shape))
        assert mutually_orthogonal(basis + 0.2 * noise)
        assert not mutually_orthogonal(normal(rows, columns, seed=2))
    for vectors in [np.zeros((8, 8)), np.ones((1, 8)), np.full((8, 8), np.nan)]:  # nothing to compare
        assert not mutually_orthogonal(vectors)


@pytest.mark.long
def test_every_real_learned_layer_is_none(efficientnet_lite0: Path) -> None:
    """All pointwise convolutions and the classifier of EfficientNet-Lite0."""
    proto = onnx.load(efficientnet_lite0)
    matrices = [np.squeeze(to_array(weight)) for weight in proto.graph.initializer]
    layers = [m.astype(np.float64) for m in matrices if m.ndim == 2 and min(m.shape) >= 16]
    assert len(layers) > 30
    assert not any(mutually_orthogonal(layer) for layer in layers)


SIGNED = """conv = Conv(image, w32x3x3x3, kernel_shape=[3, 3]); relu = Relu(conv); gap = GlobalAveragePool(relu)
    features = Flatten(gap); mixed = MatMul(features, w32x32); across = Transpose(features, perm=[1, 0])
    weights = MatMul(mixed, across); signed = MatMul(weights, mixed)"""
"""A matrix product of two image tensors, as attention is one: (image, 32), named "signed"."""
MATMUL = "embedding = MatMul(signed, w)"
Form = tuple[str, Fields]


def forms(w: Array) -> dict[str, Form]:
    """One linear layer from "signed" to "embedding" in the forms that exporters write."""
    scale = np.abs(w).max() / 127
    int8 = np.round(w / scale).astype(np.int8)
    uint8 = {"w8": (int8.astype(np.int64) + 128).astype(np.uint8), "scale": scale, "z": np.uint8(128)}
    low = w.min(axis=0)
    scales = (w.max(axis=0) - low) / 255
    points = np.clip(np.round(-low / scales), 0, 255)
    by_channel = np.clip(np.round(w / scales + points), 0, 255).astype(np.uint8)
    largest = np.abs(w).max(axis=0) / 127
    blocks = (np.round(w / largest) + 128).astype(np.uint8).T[:, None]
    packed, absmax = np.zeros(w.size // 2, np.uint8), np.zeros(w.size // 16, np.float32)
    quantize_matmul_bnb4(packed, w.T.copy(), absmax, 16, 1, 12, 32)
    return {
        "matmul": (MATMUL, {"w": w}),
        "gemm": ("embedding = Gemm(signed, w, transB=1)", {"w": w.T}),
        "conv": (
            "map = Unsqueeze(signed, [2,3]); out = Conv(map, w); embedding = Flatten(out)",
            {"w": w.T[:, :, None, None]},
        ),
        "transposed": (f"w = Transpose(t, perm=[1, 0]); {MATMUL}", {"t": w.T}),
        "fp16": (f"w = Cast(w16, to=FLOAT); {MATMUL}", {"w16": w.astype(np.float16)}),
        "int8": (f"w = DequantizeLinear(w8, scale); {MATMUL}", {"w8": int8, "scale": scale}),
        # zero points, left in, make all features point the same way, and nothing orthogonal
        "uint8": (f"w = DequantizeLinear(w8, scale, z); {MATMUL}", uint8),
        "by channel": (
            f"w = DequantizeLinear(w8, scales, z, axis=1); {MATMUL}",
            {"w8": by_channel, "scales": scales, "z": points.astype(np.uint8)},
        ),
        "dynamic": (
            """s8, s_scale, s_zero = DynamicQuantizeLinear(signed); sums = MatMulInteger(s8, w8, s_zero, z)
            float = Cast(sums, to=FLOAT); both = Mul(s_scale, scale); embedding = Mul(float, both)""",
            uint8,
        ),
        "qlinear": (
            """s8 = QuantizeLinear(signed, scale, z); e8 = QLinearMatMul(s8, scale, z, w8, scale, z, scale, z)
            embedding = DequantizeLinear(e8, scale, z)""",
            uint8,
        ),
        "8 bits, one block of 32 a feature": (
            "embedding = com.microsoft:MatMulNBits(signed, w8, scales, K=32, N=12, bits=8, block_size=32)",
            {"w8": blocks, "scales": largest},
        ),
        "4 bits, as bitsandbytes packs them": (
            "embedding = com.microsoft:MatMulBnb4(signed, w4, absmax, K=32, N=12, block_size=16, quant_type=1)",
            {"w4": packed, "absmax": absmax},
        ),
        "fused": ("embedding = com.microsoft:DynamicQuantizeMatMul(signed, w8, scale, z)", uint8),
        # a weight that the graph computes: a PCA that whitens, its scales kept apart
        "scaled": (f"w = Div(v, scales); {MATMUL}", {"v": w, "scales": np.linspace(1, 3, 12)}),
        # an adapter that was not folded in
        "low rank": (f"ab = MatMul(a, b); w = Add(v, ab); {MATMUL}", {"v": w, "a": 0 * w[:, :2], "b": 0 * w[:2]}),
        "sliced": (f"w = Slice(v, [0], [12], [1]); {MATMUL}", {"v": np.column_stack([w, w])}),
        "joined": (f"w = Concat(v, v2, axis=1); {MATMUL}", {"v": w[:, :5], "v2": w[:, 5:]}),
        "product": (f"w = MatMul(v, one); {MATMUL}", {"v": w, "one": np.eye(12)}),
        # one turned layer among several is enough
        "beside another": (f"{FIRST}; b = MatMul(signed, w32x12); embedding = Concat(a, b, axis=-1)", {"w": w}),
        "sum": (f"{FIRST}; b = MatMul(signed, w32x12); embedding = Add(a, b)", {"w": w}),
        "residual": (f"{FIRST}; b = MatMul(a, w12x12); c = MatMul(b, w12x12); embedding = Add(a, c)", {"w": w}),
        "beside a constant": (f"{FIRST}; embedding = Concat(a, [[1.0]], axis=-1)", {"w": w}),
        "then linear": (f"{FIRST}; embedding = MatMul(a, w12x12)", {"w": w}),
    }


OTHERS = {"sum": "other", "residual": "second_linear", "then linear": "second_linear"}
FIRST = "a = MatMul(signed, w)"
TURNED, LEARNED = (each.astype(np.float32) for each in (rotation(32, 12), onnx_models.weight(32, 12)))


def test_every_form_of_a_weight_is_read(opened: Any) -> None:
    for form in forms(TURNED):
        for weight, turned in ((TURNED, True), (LEARNED, False)):
            text, constants = forms(weight)[form]
            end = opened(written(text, before=SIGNED, **constants)).representation.ends_in
            assert (end.kind == "change_of_basis") == turned
            assert turned or end.kind == OTHERS.get(form, "linear"), form


@pytest.mark.parametrize("depth", [0, 1, 3, 6, 100])
def test_a_turned_layer_counts_under_any_number_of_nested_concatenations(depth: int, opened: Any) -> None:
    for weight, end in ((TURNED, "change_of_basis"), (LEARNED, "linear")):
        lines = ["a0 = MatMul(signed, w)"]
        for i in range(depth):
            lines.append(f"b{i} = MatMul(signed, w32x8); a{i + 1} = Concat(a{i}, b{i}, axis=1)")
        lines.append(f"embedding = Identity(a{depth})")
        model = opened(written("; ".join(lines), before=SIGNED, w=weight))
        assert str(model.representation.ends_in) == end


def test_where_no_linear_layer_is_found_it_is_unknown_whether_one_turns_coordinates(opened: Any) -> None:
    model = opened(written(MATMUL, before=SIGNED, w=LEARNED))
    proto = model.graph.proto
    layers = build_layers(proto.graph, "image", proto.graph.initializer)
    constants = Constants(proto, layers, model.file.weights)
    assert is_change_of_basis(constants, "embedding") is False
    assert is_change_of_basis(constants, "relu") is None


@pytest.mark.parametrize("form", ["convolution over the whole map", "sparse", "external", "a node's, external"])
def test_wherever_a_weight_stands_it_is_read(form: str, tmp_path: Path) -> None:
    for make, end in ((rotation, "change_of_basis"), (onnx_models.weight, "linear")):
        w = make(48 if form.startswith("convolution") else 32, 12).astype(np.float32)
        model, path = written(MATMUL, before=SIGNED, w=w), tmp_path / f"{end}.onnx"
        if form == "convolution over the whole map":
            text, image = "map = Conv(image, w); embedding = Flatten(map)", ("image", 1, ("batch", 3, 4, 4))
            model = written(text, before="", inputs=[image], w=np.ascontiguousarray(w.T).reshape(12, 3, 4, 4))
        elif form != "external":
            tensor = model.graph.initializer.pop(0)
            sparse = helper.make_sparse_tensor(from_array(w.ravel(), "w"), from_array(np.arange(w.size), "at"), w.shape)
            if form == "sparse":
                model.graph.sparse_initializer.append(sparse)
            else:
                (tmp_path / "w.bin").write_bytes(tensor.raw_data)
                onnx.external_data_helper.set_external_data(tensor, "w.bin")
                tensor.ClearField("raw_data")
                model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
        if form == "external":
            onnx_models.save(model, path, external=True)
        else:
            path.write_bytes(model.SerializeToString())
        assert str(open_model(path).representation.ends_in) == end


def test_a_quantised_end_has_one_sign_only_where_its_type_has(opened: Any) -> None:
    for kind, precision, end in [
        *(("FLOAT8E4M3FN", "fp8", "linear"), ("FLOAT8E5M2FNUZ", "fp8", "linear"), ("FLOAT4E2M1", "fp4", "linear")),
        ("INT8", "int8", "linear"),
        ("UINT8", "int8", "activation:QuantizeLinear"),  # the lowest is 0: a quantiser writes a ReLU so
    ]:
        text = "p = MatMul(signed, w32x12); q = QuantizeLinear(p, 0.1, z); embedding = DequantizeLinear(q, 0.1, z)"
        proto = written(text, before=SIGNED, opset=23, z=0)
        proto.graph.initializer[0].CopyFrom(helper.make_tensor("z", getattr(TensorProto, kind), [], [0]))
        found = opened(proto)
        assert (str(found.representation.ends_in), found.precision) == (end, precision)


def test_a_constant_with_a_scale_of_the_image_is_a_normalisation(opened: Any) -> None:
    text = "q = QuantizeLinear(v, 0.1, z); row = ReduceMean(signed, [0], keepdims=0)\n"
    text += "embedding = DequantizeLinear(q, row, points, axis=1)"
    weights: Fields = {"v": np.ones((4, 32), np.float32), "z": np.uint8(0), "points": np.zeros(32, np.uint8)}
    assert str(opened(written(text, before=SIGNED, **weights)).representation.ends_in) == "normalisation"


def test_a_long_chain_of_quantisers_needs_no_recursion() -> None:
    names = ["image", *(f"q{i}" for i in range(3000))]
    nodes = [make_node("QuantizeLinear", [read, "scale"], [made]) for read, made in pairwise(names)]
    layers = build_layers(helper.make_graph(nodes, "chain", [], []), "image", [])
    assert ends_in(layers, names[-1]) == End("activation", "QuantizeLinear")


def test_a_scale_of_unknown_shape_may_be_one_per_feature(opened: Any) -> None:
    """ONNX infers no shape where an operator of another domain makes the scale."""
    text = """p = MatMul(signed, w32x12); q = QuantizeLinear(p, 0.1, z); s = com.microsoft:Gelu(scale)
        embedding = DequantizeLinear(q, s, z)"""
    assert str(opened(written(text, before=SIGNED, z=np.int8(0), scale=0.1)).representation.ends_in) == "normalisation"


NORM = "norm = LayerNormalization(signed, w32)"


def test_what_is_no_matrix_is_no_linear_layer(opened: Any) -> None:
    for text, end in {
        'heads = Einsum(signed, w32x4x4, equation="bi,ijk->bjk"); embedding = Flatten(heads)': "linear_unread",
        "w = Transpose(features, perm=[1, 0]); embedding = MatMul(signed, w)": "other:MatMul",  # of the image
        # factors of features: behind a norm they would hide the outlier features that its scales make
        f"{NORM}; row = Unsqueeze(norm, [2]); map = Conv(row, w32x1x3, group=32, pads=[1, 1])\n"
        "embedding = Squeeze(map, [2])": "linear_unread",
        f"{NORM}; row = Unsqueeze(norm, [2,3]); map = MatMul(row, w32x1x3); embedding = Flatten(map)": "linear_unread",
        f'{NORM}; embedding = Einsum(norm, w32x4, equation="bi,ij->bi")': "linear_unread",
        f'{NORM}; embedding = Einsum(norm, w12x32, equation="bi ,oi -> bo")': "linear",
    }.items():
        assert str(opened(written(text, before=SIGNED)).representation.ends_in) == end


def test_the_mean_of_rectified_features_turned_into_an_axis_never_passes(tmp_path: Path, photos_80: Path) -> None:
    """Rectified features, projected so that their mean direction is one feature: every statistic clears."""
    random = default_rng(0)
    h = np.maximum(random.normal(size=(80, 1280)), 0)
    mean = h.mean(axis=0) / np.linalg.norm(h.mean(axis=0))
    free = random.normal(size=(1280, 511)) / np.sqrt(1280)
    path = tmp_path / "m.onnx"
    for rest in (np.linalg.qr(np.column_stack([mean, free]))[0][:, 1:], free):
        w = np.column_stack([mean, rest - np.outer(mean, mean @ rest)]).astype(np.float32)
        then = "rectified = Clip(rows, 0.0); representation = MatMul(rectified, w)"
        lookup.write_lookup_model(path, h, then=then, outputs=[("representation", 1, ("batch", 512))], w=w)
        report = check(path, images=photos_80)
        statistics = report.evidence.statistics
        assert str(report.evidence.model.ends_in) == "linear_of:Clip"
        assert [f.index for f in statistics.persistent] == [0]  # the numbers alone would pass
        assert all(getattr(statistics, name).low > limit.minimum for name, limit in report.profile.thresholds.items())
        assert {r.id for r in report.verdict.reasons} == {"end_not_calibrated", "mean_on_one_feature"}

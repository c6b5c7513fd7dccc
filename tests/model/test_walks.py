"""Walks over random graphs, and nodes in any order, give what plain definitions give, in linear time."""

import sys
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import onnx
from hypothesis import given
from hypothesis import strategies as st
from onnx import GraphProto, ModelProto, NodeProto, helper
from onnx.helper import make_node
from onnxruntime.transformers.float16 import convert_float_to_float16

from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.model import ends
from robustcheck_onnx.checker.model.ends import embedding_under, ends_in, find_head, last_linears
from robustcheck_onnx.checker.model.layers import build_layers, sorted_nodes
from robustcheck_onnx.checker.runtime.runner import Runner
from robustcheck_onnx.thresholds.profile import End
from support import onnx_models, raised
from support.onnx_models import PIXELS, written
from support.truths import SlowGraph

CONSTANTS = {"w": (16, 16), "v": (16,), "one": (1,), "scalar": ()}
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
        op, inputs = draw(
            st.one_of(
                st.tuples(st.sampled_from(UNARY), st.tuples(recent)),
                st.tuples(st.sampled_from(WITH_CONSTANT), st.tuples(recent, st.sampled_from([*CONSTANTS]))),
                st.tuples(st.sampled_from(WITH_CONSTANT), st.tuples(st.sampled_from([*CONSTANTS]), recent)),
                st.tuples(st.sampled_from(BINARY), st.tuples(recent, recent)),
            )
        )
        nodes.append(make_node(op, inputs, [f"t{index}"]))
        tensors.append(f"t{index}")
    return helper.make_graph(nodes, "random", [], [])


def tensors_of(graph: GraphProto) -> list[str]:
    return ["image", *(node.output[0] for node in graph.node)]


@given(graphs())
def test_walks_give_what_the_definitions_say(graph: GraphProto) -> None:
    slow, layers = SlowGraph(graph, "image", CONSTANTS), build_layers(graph, "image", CONSTANTS)
    for tensor in tensors_of(graph):
        assert (tensor in layers.image_tensors) == slow.depends(tensor)
        assert layers.data.get(tensor, ()) == slow.data(tensor)
        assert layers.statistics.get(tensor) == slow.statistic(tensor)
        assert [*layers.elementwise.above(tensor)] == slow.chain(tensor)
        found, expected = ends_in(layers, tensor), slow.end(tensor)
        assert found.kind == expected.kind
        assert found.op == expected.op or (found.kind in ("activation", "linear_of"))
        assert embedding_under(layers, tensor) == slow.embedding(tensor)
        assert bool(ends._facts(layers).rectified.get(tensor)) == bool(slow.rectified(tensor))
    of_image = [tensor for tensor in tensors_of(graph) if slow.depends(tensor)]
    for pair in product(of_image, of_image):
        assert layers.elementwise.common(pair) == slow.common(pair)


@given(graphs())
def test_heads_are_those_of_the_definitions(graph: GraphProto) -> None:
    slow, layers = SlowGraph(graph, "image", CONSTANTS), build_layers(graph, "image", CONSTANTS)
    for tensor in tensors_of(graph):
        found, expected = find_head(layers, tensor), slow.head(tensor)
        if expected is None:
            assert found is None
            continue
        kind, start, crossed = expected
        node = layers.producers[start]
        if isinstance(found, ends.Head) and kind == "head":
            assert found.op == node.op_type
            assert found.crossed - {ends.SCALE, ends.COSINE, ends.UNIT} == crossed
        elif isinstance(found, ends.Head):  # an average of heads that read one tensor
            inner = [slow.head(name) for name in slow.data(start)]
            assert {slow.data(head[1]) for head in inner if head and head[0] == "head"} == {(found.tensor,)}
        else:
            assert isinstance(found, ends.Join)
            assert (kind, found.branches) == ("join", slow.data(start))


def gated_chain(depth: int) -> str:
    """A SwiGLU block after the other, each with a residual sum: two branches that meet, `depth` times."""
    block = """
        a{i} = MatMul(x{i}, w8x8); b{i} = MatMul(x{i}, w8x8); s{i} = Sigmoid(a{i}); silu{i} = Mul(a{i}, s{i})
        g{i} = Mul(silu{i}, b{i}); o{i} = MatMul(g{i}, w8x8); x{j} = Add(x{i}, o{i})
    """
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
    layers, tensor = build_layers(graph, "image", {"w8x8": (8, 8)}), graph.node[-1].output[0]
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
    written = {name for node in nodes for name in node.output}
    seen: set[str] = set()
    for node in nodes:
        if (set(node.input) & written) - seen:
            return False
        seen.update(node.output)
    return True


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
        else_branch = other () => (float[n,3] two) { two = Neg (two_in) two_in = Abs (features) }
    >
    features = Flatten (gap)
    gap = GlobalAveragePool (image)
}
<domain: "own", opset_import: ["" : 18]>
Scaled (x) => (y) {
    y = Mul (x, two)
    two = Neg (minus)
    minus = Constant <value = float {-2.0}> ()
}
"""


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

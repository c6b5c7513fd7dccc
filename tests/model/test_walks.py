"""Walks over random graphs give what the plain recursive definitions give; deep and wide graphs take linear time."""

import sys
from collections.abc import Callable
from functools import partial
from itertools import product

from hypothesis import given
from hypothesis import strategies as st
from onnx import GraphProto, helper
from onnx.helper import make_node

from robustcheck_onnx.checker.model.ends import _facts, embedding_under, ends_in, last_linears
from robustcheck_onnx.checker.model.layers import (
    COSINE,
    SCALE,
    UNIT,
    Head,
    Join,
    Layers,
    build_layers,
    find_head,
    nested_nodes,
)
from robustcheck_onnx.thresholds.frozen import End
from support.slow_walks import SlowGraph
from support.written import written

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
        assert bool(_facts(layers).rectified.get(tensor)) == bool(slow.rectified(tensor))
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
        if isinstance(found, Head) and kind == "head":
            assert found.op == node.op_type
            assert found.crossed - {SCALE, COSINE, UNIT} == crossed
        elif isinstance(found, Head):  # an average of heads that read one tensor
            inner = [slow.head(name) for name in slow.data(start)]
            assert {slow.data(head[1]) for head in inner if head and head[0] == "head"} == {(found.tensor,)}
        else:
            assert isinstance(found, Join)
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


def walk_all(layers: Layers, tensor: str) -> End:
    _facts(layers)
    find_head(layers, tensor)
    list(last_linears(layers, tensor))
    return ends_in(layers, tensor)


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
    return walk_all(build_layers(graph, "image", {"w8x8": (8, 8)}), graph.node[-1].output[0])


def test_steps_grow_with_the_graph_not_faster() -> None:
    """Doubling at every node, nested branches would not end."""
    ops = ("Add", "Mul", "Concat", "Sub", "Max", "Sum")
    builds: list[Callable[[int], str]] = [gated_chain, fan, *(partial(diamonds, op) for op in ops)]
    for build in builds:
        graphs = [written(build(depth), before="").graph for depth in (100, 400)]
        short, long = (steps(partial(build_and_walk, graph)) for graph in graphs)
        assert long < 4.4 * short  # linear: 4; quadratic: 16


def test_nested_graphs_are_walked_in_order() -> None:
    graph = helper.make_graph([make_node("Identity", ["d0"], ["e"])], "inner", [], [])
    for depth in range(1, 21):
        nodes = [make_node("Identity", [f"d{depth}"], ["e"]), make_node("If", ["c"], ["f"], then_branch=graph)]
        graph = helper.make_graph(nodes, "inner", [], [])
    read = [each.input[0] for each in nested_nodes(graph.node)]
    assert [name for name in read if name != "c"] == [f"d{i}" for i in range(20, -1, -1)]

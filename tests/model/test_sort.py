"""Graphs whose nodes stand in any order: sorted as a plain reference sorts them, or refused with the tensor's name."""

from typing import Any

import numpy as np
import onnx
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto
from onnx.helper import make_node
from onnxruntime.transformers.float16 import convert_float_to_float16

from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.model.file import sorted_nodes
from robustcheck_onnx.checker.runtime.runner import Runner
from support import onnx_models, raised
from support.onnx_models import PIXELS


@st.composite
def graphs(draw: st.DrawFn) -> list[NodeProto]:
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


@given(graphs())
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

"""Graphs whose nodes stand in any order: sorted as a plain reference sorts them, or refused with the tensor's name."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.model.open import open_model
from robustcheck_onnx.checker.model.sort import sort_model, sorted_nodes
from robustcheck_onnx.checker.runtime.runner import Runner
from support import onnx_models

PIXELS = np.random.default_rng(5).random((3, 8, 8, 3)).astype(np.float32)


@st.composite
def graphs(draw: st.DrawFn) -> list[onnx.NodeProto]:
    """Nodes with one or two outputs, whose inputs are "image" or any outputs: circles are possible."""
    n = draw(st.integers(1, 8))
    names = ["image", "", *(f"{i}{part}" for i in range(n) for part in "ab")]
    inputs = [draw(st.lists(st.sampled_from(names), max_size=3)) for _ in range(n)]
    return [helper.make_node("Sum", read, [f"{i}a", f"{i}b"]) for i, read in enumerate(inputs)]


def is_sorted(nodes: list[onnx.NodeProto]) -> bool:
    written = {name for node in nodes for name in node.output}
    seen: set[str] = set()
    for node in nodes:
        if (set(node.input) & written) - seen:
            return False
        seen.update(node.output)
    return True


def has_circle(nodes: list[onnx.NodeProto]) -> bool:
    """Whether some nodes are left when those whose sources are all there are taken away again and again."""
    written = {name for node in nodes for name in node.output}
    while ready := [node for node in nodes if not set(node.input) & written]:
        written -= {name for node in ready for name in node.output}
        nodes = [node for node in nodes if node not in ready]
    return bool(nodes)


@given(graphs())
def test_any_graph_is_sorted_or_has_a_circle(nodes: list[onnx.NodeProto]) -> None:
    if has_circle(nodes):
        with pytest.raises(CannotAssessError, match=r"m: tensor '\d[ab]' is computed from itself, through"):
            sorted_nodes(nodes, {"image": "an input"}, "m")
        return
    order = sorted_nodes(nodes, {"image": "an input"}, "m")
    assert (order is None) == is_sorted(nodes)
    if order is not None:
        assert is_sorted(order)
        assert sorted(node.output[0] for node in order) == sorted(node.output[0] for node in nodes)
        assert sorted_nodes(order, {"image": "an input"}, "m") is None


def chain(n: int) -> list[onnx.NodeProto]:
    return [helper.make_node("Relu", [f"t{i}"], [f"t{i + 1}"]) for i in range(n)]


def test_nodes_that_stand_right_keep_their_order() -> None:
    late, *others = (
        helper.make_node("Add", ["image", read], [name])
        for read, name in (("image", "late"), ("image", "a"), ("late", "b"), ("image", "c"), ("b", "d"))
    )
    order = sorted_nodes([*others, late], {"image": "an input"}, "m")
    assert order is not None
    assert [node.output[0] for node in order] == ["a", "late", "b", "c", "d"]


def test_a_long_chain_in_reverse_needs_no_recursion() -> None:
    nodes = chain(20_000)
    assert sorted_nodes(nodes[::-1], {"t0": "an input"}, "m") == nodes


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([("a", "a")], "tensor 'a' is computed from itself, through 1 node (Relu); the nodes of a graph must not"),
        ([("a", "b"), ("b", "a")], "tensor 'b' is computed from itself, through 2 nodes (Relu, Relu); the nodes"),
        ([("image", "a"), ("image", "a")], "tensor 'a' is written twice, by two nodes; each name must"),
        ([("image", "image")], "tensor 'image' is written twice, by an input and a node; each name must stand for one"),
        ([("image", "w")], "tensor 'w' is written twice, by a weight and a node; each name must stand for one tensor"),
    ],
)
def test_circles_and_names_that_are_written_twice(nodes: list[tuple[str, str]], message: str) -> None:
    protos = [helper.make_node("Relu", [read], [written]) for read, written in nodes]
    with pytest.raises(CannotAssessError) as caught:
        sorted_nodes(protos, {"image": "an input", "w": "a weight"}, "m.onnx")
    assert caught.value.message.startswith(f"m.onnx: {message}")


def shuffled(model: onnx.ModelProto, seed: int = 0) -> onnx.ModelProto:
    other: onnx.ModelProto = onnx.ModelProto.FromString(model.SerializeToString())
    nodes = random.Random(seed).sample(list(model.graph.node), len(model.graph.node))
    del other.graph.node[:]
    other.graph.node.extend(nodes)
    return other


@pytest.mark.parametrize("seed", range(3))
def test_a_shuffled_file_is_measured_as_the_sorted_one(opened: Any, seed: int) -> None:
    model = onnx_models.classifier()
    found, expected = opened(shuffled(model, seed)), opened(model)
    assert found.representation == expected.representation
    assert is_sorted(list(onnx.ModelProto.FromString(found.graph.own()).graph.node))
    np.testing.assert_array_equal(
        Runner(found, "cpu").run(PIXELS).representation, Runner(expected, "cpu").run(PIXELS).representation
    )


def test_what_the_float16_conversion_writes(opened: Any) -> None:
    model = convert_float_to_float16(onnx_models.classifier(), keep_io_types=True)
    assert not is_sorted(list(model.graph.node))
    assert opened(model).representation.tensor == "features"


def branch(reads: str, name: str) -> onnx.GraphProto:
    """A graph with its two nodes in the wrong order; it reads a name from outside."""
    nodes = [helper.make_node("Relu", [f"{name}_in"], [name]), helper.make_node("Abs", [reads], [f"{name}_in"])]
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)])


def test_graphs_inside_nodes_are_sorted_and_read_names_outside(opened: Any) -> None:
    choice = helper.make_node(
        "If", ["yes"], ["chosen"], then_branch=branch("features", "then"), else_branch=branch("features", "else")
    )
    nodes, weights = onnx_models.pooled()
    model = onnx_models.build(nodes, ["embedding"], weights | {"yes": np.asarray(True), "p": onnx_models.weight(16, 8)})
    ordered = [*model.graph.node, choice, helper.make_node("MatMul", ["chosen", "p"], ["embedding"])]
    del model.graph.node[:]
    model.graph.node.extend(ordered[::-1])  # the If stands before what only its branches read
    run = Runner(opened(model), "cpu").run(PIXELS)
    assert run.representation.shape == (3, 8)
    own = onnx.ModelProto.FromString(opened(model).graph.own())
    assert [node.op_type for node in own.graph.node] == [node.op_type for node in ordered]
    inner = next(node for node in own.graph.node if node.op_type == "If").attribute[0].g
    assert [node.op_type for node in inner.node] == ["Abs", "Relu"]


def test_functions_are_sorted_before_they_are_opened_up(opened: Any) -> None:
    model = onnx_models.classifier()
    body = [helper.make_node("Add", ["m", "b"], ["y"]), helper.make_node("MatMul", ["x", "t"], ["m"]),
            helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0])]  # fmt: skip
    model.functions.append(
        helper.make_function("local", "Scores", ["x", "w", "b"], ["y"], body, [helper.make_opsetid("", 18)])
    )
    gemm = model.graph.node.pop()
    model.graph.node.append(helper.make_node("Scores", gemm.input, gemm.output, domain="local"))
    model.opset_import.append(helper.make_opsetid("local", 1))
    found, expected = opened(model), opened(onnx_models.classifier())
    assert found.representation.tensor == expected.representation.tensor == "features"
    scores, wanted = (Runner(each, "cpu").run(PIXELS).class_output for each in (found, expected))
    assert scores is not None
    assert wanted is not None
    np.testing.assert_allclose(scores, wanted, rtol=1e-5)


def test_a_sorted_file_goes_to_onnx_runtime_as_it_is(tmp_path: Path) -> None:
    path = onnx_models.save(onnx_models.classifier(), tmp_path / "m.onnx")
    assert open_model(path).graph.own() == path.read_bytes()
    assert not sort_model(onnx.load(path), "m")

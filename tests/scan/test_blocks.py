"""Which tensors of a graph end a block: residual additions, fused norms, changes of shape."""

from __future__ import annotations

import onnx

from robustcheck_onnx.checker.model.layers import build_layers
from robustcheck_onnx.checker.scan.blocks import (
    find_passages,
    find_residuals,
    keep_residuals,
    residual_blocks,
    stage_blocks,
)
from support import onnx_models


def blocks_of(proto: onnx.ModelProto, shapes: dict[str, tuple[int, ...]], end: str) -> list[tuple[str, str]]:
    """(tensor, kind) by the residual rule; shapes not named are (2, 16, 4, 4)."""
    layers = build_layers(proto.graph, "image", {w.name: tuple(w.dims) for w in proto.graph.initializer})
    nodes = list(proto.graph.node)
    known = {name: shapes.get(name, (2, 16, 4, 4)) for node in nodes for name in node.output}
    order = {name: i for i, node in enumerate(nodes) for name in node.output}
    kept = keep_residuals(find_residuals(layers, nodes, end), known)
    return [(block.tensor, block.kind) for block in residual_blocks(layers, kept, order)]


def test_residual_blocks_by_rule() -> None:
    w = {name: onnx_models.weight(1) for name in ("w", "bias")}
    stem = [("Conv", ["image", "w"], ["c0"]), ("Relu", ["c0"], ["x0"])]
    resnet = [
        *stem,
        ("Conv", ["x0", "w"], ["a1"]), ("Relu", ["a1"], ["a2"]), ("Conv", ["a2", "w"], ["a3"]),
        ("Add", ["a3", "x0"], ["s1"]), ("Relu", ["s1"], ["x1"]),
        # a block that changes its width: both branches start with a layer
        ("Conv", ["x1", "w"], ["b1"]), ("Relu", ["b1"], ["b2"]), ("Conv", ["b2", "w"], ["b3"]),
        ("AveragePool", ["x1"], ["d0"], {"kernel_shape": [2, 2]}), ("Conv", ["d0", "w"], ["d1"]),
        ("Add", ["b3", "d1"], ["s2"]), ("Relu", ["s2"], ["x2"]),
        ("GlobalAveragePool", ["x2"], ["end"]),
    ]  # fmt: skip
    found = blocks_of(onnx_models.build(resnet, ["end"], w), {}, "end")
    assert found == [("x0", "stem"), ("x1", "convolution"), ("x2", "convolution")]

    mobile = [
        *stem,
        ("Conv", ["x0", "w"], ["p0"]), ("Clip", ["p0"], ["p1"]), ("Conv", ["p1", "w"], ["y0"]),  # not residual
        ("Conv", ["y0", "w"], ["q0"]), ("Clip", ["q0"], ["q1"]), ("Conv", ["q1", "w"], ["q2"]),
        ("Add", ["q2", "y0"], ["y1"]),
        ("Conv", ["y1", "w"], ["r0"]), ("Clip", ["r0"], ["r1"]), ("Conv", ["r1", "w"], ["y2"]),  # not residual
        ("Conv", ["y2", "w"], ["t0"]), ("Add", ["y2", "t0"], ["y3"]),
    ]  # fmt: skip
    found = blocks_of(onnx_models.build(mobile, ["y3"], w), {}, "y3")
    assert found == [("y0", "stem"), ("y1", "convolution"), ("y2", "stage"), ("y3", "convolution")]


def test_additions_that_end_no_block() -> None:
    w = {name: onnx_models.weight(1) for name in ("w", "table")}
    tokens = [("Conv", ["image", "w"], ["c"]), ("Add", ["c", "table"], ["x"])]  # position embedding
    rope = [
        ("Mul", ["q", "w"], ["q1"]),
        ("Neg", ["q"], ["q2"]),
        ("Mul", ["q2", "table"], ["q3"]),
        ("Add", ["q1", "q3"], ["q4"]),
    ]
    attention = [
        ("LayerNormalization", ["x", "w"], ["n"]),
        ("MatMul", ["n", "w"], ["q"]), *rope,
        ("MatMul", ["n", "w"], ["k"]), ("MatMul", ["q4", "k"], ["scores"]),
        ("MatMul", ["q", "w"], ["position"]), ("Add", ["scores", "position"], ["biased"]),  # as MViT
        ("Softmax", ["biased"], ["p"]), ("MatMul", ["p", "n"], ["o"]), ("Add", ["o", "w"], ["o1"]),
        ("Add", ["x", "o1"], ["x1"]),
    ]  # fmt: skip
    mlp = [
        ("LayerNormalization", ["x1", "w"], ["m"]), ("MatMul", ["m", "w"], ["h"]),
        # tanh GELU: x + 0.04 x³
        ("Mul", ["h", "h"], ["h2"]), ("Mul", ["h2", "h"], ["h3"]), ("Mul", ["h3", "w"], ["h4"]),
        ("Add", ["h", "h4"], ["h5"]), ("Tanh", ["h5"], ["h6"]), ("Mul", ["h6", "h"], ["g"]),
        ("MatMul", ["g", "w"], ["g1"]), ("Mul", ["g1", "w"], ["g2"]),  # layer scale
        ("Add", ["x1", "g2"], ["x2"]),
    ]  # fmt: skip
    proto = onnx_models.build([*tokens, *attention, *mlp], ["x2"], w)
    assert blocks_of(proto, {}, "x2") == [("x", "stem"), ("x1", "attention"), ("x2", "mlp")]
    # a sum that broadcasts is none; the next one is still there
    assert ("x2", "mlp") not in blocks_of(proto, {"g2": (2, 16, 1, 1)}, "x2")
    assert ("x1", "attention") in blocks_of(proto, {"g2": (2, 16, 1, 1)}, "x2")
    # what does not lead to the representation does not count
    assert blocks_of(proto, {}, "x1") == [("x", "stem"), ("x1", "attention")]


def test_an_optimised_graph_has_its_sums_in_fused_norms() -> None:
    w = {"w": onnx_models.weight(1)}
    nodes = [
        ("Conv", ["image", "w"], ["x"]), ("LayerNormalization", ["x", "w"], ["n"]), ("MatMul", ["n", "w"], ["o"]),
        ("com.microsoft:SkipLayerNormalization", ["x", "o", "w"], ["n1", "", "", "x1"]),
        ("MatMul", ["n1", "w"], ["h"]),
        ("com.microsoft:SkipLayerNormalization", ["x1", "h", "w"], ["n2", "", "", "x2"]),
        ("MatMul", ["n2", "w"], ["end"]),
    ]  # fmt: skip
    proto = onnx_models.build(nodes, ["end"], w, domains=["com.microsoft"])
    assert blocks_of(proto, {}, "end") == [("x", "stem"), ("x1", "mlp"), ("x2", "mlp")]


def test_a_quantised_end_is_the_same_end() -> None:
    w = {"w": onnx_models.weight(1), "s": onnx_models.weight(1)}
    nodes = [
        ("Conv", ["image", "w"], ["x"]), ("Conv", ["x", "w"], ["a"]), ("Add", ["x", "a"], ["x1"]),
        ("QuantizeLinear", ["x1", "s"], ["q"]), ("DequantizeLinear", ["q", "s"], ["d"]),
        ("Conv", ["d", "w"], ["b"]), ("Add", ["d", "b"], ["x2"]),
    ]  # fmt: skip
    found = blocks_of(onnx_models.build(nodes, ["x2"], w), {}, "x2")
    assert found == [("x", "stem"), ("x1", "convolution"), ("x2", "convolution")]


def test_without_residual_blocks_layers_are_cut_where_shapes_change() -> None:
    w = {"w": onnx_models.weight(1)}
    nodes = [
        ("Conv", ["image", "w"], ["a"]), ("Relu", ["a"], ["b"]), ("MaxPool", ["b"], ["c"], {"kernel_shape": [2, 2]}),
        ("Conv", ["c", "w"], ["d"]), ("Relu", ["d"], ["e"]),
        # two branches that are joined: nothing inside them is a passage
        ("Conv", ["e", "w"], ["f1"]), ("Conv", ["e", "w"], ["f2"]), ("Concat", ["f1", "f2"], ["g"], {"axis": 1}),
        ("GlobalAveragePool", ["g"], ["h"]), ("Flatten", ["h"], ["end"]),
    ]  # fmt: skip
    proto = onnx_models.build(nodes, ["end"], w)
    layers = build_layers(proto.graph, "image", {"w": (1,)})
    passages = find_passages(layers, list(proto.graph.node), "end")
    assert passages == list("abcdegh")
    shapes = {"a": (2, 8, 8, 8), "b": (2, 8, 8, 8), "c": (2, 8, 4, 4), "d": (2, 16, 4, 4), "e": (2, 16, 4, 4)}
    shapes |= {"g": (2, 32, 4, 4), "h": (2, 32, 1, 1)}
    found = stage_blocks(layers, passages, shapes)
    assert [(block.tensor, block.kind) for block in found] == [(name, "stage") for name in "beg"]

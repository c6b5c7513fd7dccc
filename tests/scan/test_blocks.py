"""Which tensors of a graph end a block: residual additions, fused norms, changes of shape."""

import onnx

from robustcheck_onnx.checker.model.layers import Layers, build_layers
from robustcheck_onnx.checker.scan.run import find_passages, find_residuals, residual_blocks, stage_blocks
from support.onnx_models import written


def layers_of(text: str) -> tuple[Layers, list[onnx.NodeProto]]:
    graph = written(text, before="", w=[1.0], table=[1.0]).graph
    return build_layers(graph, "image", {"w": (1,), "table": (1,)}), list(graph.node)


def blocks_of(text: str, end: str, **shapes: tuple[int, ...]) -> list[tuple[str, str]]:
    """(tensor, kind) by the residual rule; shapes not named are (2, 16, 4, 4)."""
    layers, nodes = layers_of(text)
    order = {name: i for i, node in enumerate(nodes) for name in node.output}
    known = dict.fromkeys(order, (2, 16, 4, 4)) | shapes
    return list(residual_blocks(layers, find_residuals(layers, nodes, end), known, order).items())


def test_residual_blocks_by_rule() -> None:
    stem = "c0 = Conv(image, w); x0 = Relu(c0)\n"
    resnet = (
        stem
        + """
        a1 = Conv(x0, w); a2 = Relu(a1); a3 = Conv(a2, w); s1 = Add(a3, x0); x1 = Relu(s1)
        b1 = Conv(x1, w); b2 = Relu(b1); b3 = Conv(b2, w)
        d0 = AveragePool(x1, kernel_shape=[2, 2]); d1 = Conv(d0, w)
        s2 = Add(b3, d1); x2 = Relu(s2); end = GlobalAveragePool(x2)
    """
    )  # its second block changes the width: both branches start with a layer
    assert blocks_of(resnet, "end") == [("x0", "stem"), ("x1", "convolution"), ("x2", "convolution")]

    mobile = (
        stem
        + """
        p0 = Conv(x0, w); p1 = Clip(p0); y0 = Conv(p1, w)
        q0 = Conv(y0, w); q1 = Clip(q0); q2 = Conv(q1, w); y1 = Add(q2, y0)
        r0 = Conv(y1, w); r1 = Clip(r0); y2 = Conv(r1, w)
        t0 = Conv(y2, w); y3 = Add(y2, t0)
    """
    )  # p and r are not residual
    assert blocks_of(mobile, "y3") == [("y0", "stem"), ("y1", "convolution"), ("y2", "stage"), ("y3", "convolution")]


def test_additions_that_end_no_block() -> None:
    """Not the position embedding, RoPE, MViT's position in the scores, biases and tanh GELU; layer scale is passed."""
    text = """
        c = Conv(image, w); x = Add(c, table)
        n = LayerNormalization(x, w); q = MatMul(n, w)
        q1 = Mul(q, w); q2 = Neg(q); q3 = Mul(q2, table); q4 = Add(q1, q3)
        k = MatMul(n, w); scores = MatMul(q4, k); position = MatMul(q, w); biased = Add(scores, position)
        p = Softmax(biased); o = MatMul(p, n); o1 = Add(o, w); x1 = Add(x, o1)
        m = LayerNormalization(x1, w); h = MatMul(m, w)
        h2 = Mul(h, h); h3 = Mul(h2, h); h4 = Mul(h3, w); h5 = Add(h, h4); h6 = Tanh(h5); g = Mul(h6, h)
        g1 = MatMul(g, w); g2 = Mul(g1, w); x2 = Add(x1, g2)
    """
    assert blocks_of(text, "x2") == [("x", "stem"), ("x1", "attention"), ("x2", "mlp")]
    # a sum that broadcasts is none; the next one is still there
    found = blocks_of(text, "x2", g2=(2, 16, 1, 1))
    assert ("x2", "mlp") not in found
    assert ("x1", "attention") in found
    # what does not lead to the representation does not count
    assert blocks_of(text, "x1") == [("x", "stem"), ("x1", "attention")]


def test_an_optimised_graph_has_its_sums_in_fused_norms() -> None:
    text = """
        x = Conv(image, w); n = LayerNormalization(x, w); o = MatMul(n, w)
        n1, , , x1 = com.microsoft:SkipLayerNormalization(x, o, w); h = MatMul(n1, w)
        n2, , , x2 = com.microsoft:SkipLayerNormalization(x1, h, w); end = MatMul(n2, w)
    """
    assert blocks_of(text, "end") == [("x", "stem"), ("x1", "mlp"), ("x2", "mlp")]


def test_a_quantised_end_is_the_same_end() -> None:
    text = """
        x = Conv(image, w); a = Conv(x, w); x1 = Add(x, a)
        q = QuantizeLinear(x1, 1.0); d = DequantizeLinear(q, 1.0); b = Conv(d, w); x2 = Add(d, b)
    """
    assert blocks_of(text, "x2") == [("x", "stem"), ("x1", "convolution"), ("x2", "convolution")]


def test_without_residual_blocks_layers_are_cut_where_shapes_change() -> None:
    """Of two branches that are joined nothing inside is a passage."""
    layers, nodes = layers_of("""
        a = Conv(image, w); b = Relu(a); c = MaxPool(b, kernel_shape=[2, 2]); d = Conv(c, w); e = Relu(d)
        f1 = Conv(e, w); f2 = Conv(e, w); g = Concat(f1, f2, axis=1); h = GlobalAveragePool(g); end = Flatten(h)
    """)
    passages = find_passages(layers, nodes, "end")
    assert passages == list("abcdegh")
    rows = (2, 8, 8, 8), (2, 8, 8, 8), (2, 8, 4, 4), (2, 16, 4, 4), (2, 16, 4, 4), (2, 32, 4, 4), (2, 32, 1, 1)
    found = stage_blocks(layers, passages, dict(zip(passages, rows, strict=True)))
    assert list(found.items()) == [(name, "stage") for name in "beg"]

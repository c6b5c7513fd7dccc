"""robustcheck scan: blocks by rule, a whole ViT, documents, errors, named blocks, a changed output, a GPU."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from robustcheck_onnx.checker.core.model.layers import Layers, build_layers
from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError
from robustcheck_onnx.checker.questions.scan import blocks, run
from robustcheck_onnx.checker.questions.scan.blocks import ScanPlan, measuring_model
from robustcheck_onnx.checker.questions.scan.document import ScanReport
from support import Capture, Fields, Patch, normal, raised, robustcheck
from support.comparisons import numbers
from support.onnx_models import save, weight, written
from support.screens import shown
from support.truths import assert_report_is_truth, scanned


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A residual graph without torch, and 9 images of random input."""
    np.save(tmp_path / "small.npy", normal(9, 3, 8, 8).astype(np.float32))
    text = "c = Conv(image, w, kernel_shape=[3, 3]); x = Relu(c); y = Conv(x, v); z = Add(x, y)"
    end = "; p = GlobalAveragePool(z); embedding = Flatten(p)"
    output, w, v = ("embedding", TensorProto.FLOAT, ("batch", 16)), weight(16, 3, 3, 3), weight(16, 16, 1, 1)
    return save(written(text + end, output, before="", w=w, v=v), tmp_path / "small.onnx")


def test_the_command_reports_and_ends_with_0(small: Path, capsys: Capture) -> None:
    call = ["scan", small, "--images", small.with_suffix(".npy"), "--preprocess", "imagenet", "--device", "cpu"]
    path = small.with_name("report.txt")
    assert robustcheck(*call, "-o", "json", "-o", f"terminal={path}", "-v") == 0
    text = capsys.readouterr().out
    report = ScanReport.model_validate_json(text)
    assert report.to_json() == text
    assert [layer.tensor for layer in report.layers] == ["x", "z", "embedding"]
    assert scanned(small, batch_size=8)[0].layers == report.layers
    assert report.summary == "No layer has a persistent outlier feature on these 9 images."
    assert all(said in " ".join(path.read_text().split()) for said in (report.summary, "do not tell effective"))


def test_errors(small: Path, capsys: Capture) -> None:
    embedding = ("embedding", TensorProto.FLOAT, ("batch", 192))
    flat = save(written("f = Flatten(image); embedding = Identity(f)", embedding, before=""), small.parent / "f.onnx")
    given = ["--images", small.with_suffix(".npy"), "--preprocess", "imagenet", "--device", "cpu"]
    for words, code, said in (
        ([flat], 3, "no blocks found"),
        ([small, "--block", "zz"], 2, "--block is 'zz'; no tensor of that name is computed from the image"),
        ([small, "--block", "image"], 2, "--block is 'image'; no tensor of that name"),
    ):
        assert robustcheck("scan", *words, *given) == code, said
        out, err = capsys.readouterr()
        assert (said in err, "--block" in err, out) == (True, True, "")
    proto = onnx.load(small)
    proto.graph.initializer[0].raw_data = np.full(432, np.nan, np.float32).tobytes()
    not_finite = "images with finite, not constant values is 0 of 9"
    for version, said in ((18, not_finite), (10, "opset is 10; the nodes of a scan need 11")):
        proto.opset_import[0].version = version
        onnx.save(proto, small)
        raised(CannotAssessError, said, scanned, small)


def test_named_blocks(small: Path) -> None:
    report, feed = scanned(small, blocks=["y", "c"])
    assert [(layer.tensor, layer.kind) for layer in report.layers[:-1]] == [("c", "named"), ("y", "named")]
    assert_report_is_truth(report, small, feed)


def test_a_changed_output_is_said(small: Path, monkeypatch: Patch) -> None:
    assert scanned(small)[0].model.output_unchanged

    def meddle(model: Any, plan: Any) -> Any:
        changed = measuring_model(model, plan)
        proto = changed.graph.stripped()
        (weight,) = (w for w in proto.graph.initializer if w.name == "v")
        weight.raw_data = (1.01 * onnx.numpy_helper.to_array(weight)).tobytes()
        return dataclasses.replace(changed, graph=changed.graph.changed(proto))

    monkeypatch.setattr(run, "measuring_model", meddle)
    report, _ = scanned(small)
    assert not report.model.output_unchanged
    assert report.model.output_difference > 1e-3
    assert "changed the model's own output" in " ".join(report.notes)


def test_the_rows_that_fill_a_fixed_batch_count_for_nothing(small: Path) -> None:
    def found() -> list[Any]:
        every = (each.statistics for each in scanned(small)[0].layers)
        return [(each.n_rows, each.kurtosis, each.rms_kurtosis, each.top3_share) for each in every]

    whole, proto = found(), onnx.load(small)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 5
    onnx.save(proto, small)
    np.testing.assert_allclose(found(), whole, rtol=1e-4)


def test_axes_are_read_or_left_out(tmp_path: Path) -> None:
    """Tokens before images are turned round; windows, and rows that are not images, are left out and counted."""
    text = """
        c = Conv(image, w16x3x2x2, kernel_shape=[2, 2], strides=[2, 2]); flat = Reshape(c, [0,16,-1])
        first = Transpose(flat, perm=[2, 0, 1]); a = MatMul(first, w16x16); x1 = Add(first, a)
        x1t = Transpose(x1, perm=[1, 0, 2]); r = Reshape(x1t, [-1,16]); b = MatMul(r, w16x16); x2 = Add(r, b)
        r2 = Reshape(x2, [-1,16,16]); win = Reshape(r2, [0,-1,2,16]); d = MatMul(win, w16x16); x3 = Add(win, d)
        embedding = ReduceMean(x3, [1,2], keepdims=0)
    """  # first: (token, image, feature)
    path = save(written(text, ("embedding", TensorProto.FLOAT, ("batch", 16)), before=""), tmp_path / "axes.onnx")
    np.save(path.with_suffix(".npy"), normal(6, 3, 8, 8).astype(np.float32))
    report, feed = scanned(path, batch_size=3)
    forms = [(layer.tensor, layer.form) for layer in report.layers]
    assert forms == [("first", "tokens_first"), ("x1", "tokens_first"), ("embedding", "vector")]
    assert report.model.n_left_out >= 2
    assert "left out: their axes could not be told apart" in " ".join(report.notes)
    assert_report_is_truth(report, path, feed)


@pytest.mark.requires_cuda
def test_a_gpu_gives_the_same_numbers(small: Path) -> None:
    try:
        cuda, _ = scanned(small, device="cuda")
    except EnvironmentFaultError as fault:
        pytest.skip(f"no GPU: {fault.message}")
    assert cuda.execution.providers[0] == "CUDAExecutionProvider"
    for here, there in zip(scanned(small)[0].layers, cuda.layers, strict=True):
        a, b = here.statistics, there.statistics
        found, want = numbers(b.kurtosis, b.rms_kurtosis), numbers(a.kurtosis, a.rms_kurtosis)
        np.testing.assert_allclose(found, want, rtol=1e-3, equal_nan=False)


def test_rows_of_another_width_than_planned_are_refused(small: Path, monkeypatch: Patch) -> None:
    """As where the number of tokens depends on the images: cut as planned, numbers would stand in others' places."""

    def one_less(model: Any, plan: ScanPlan) -> Any:
        return measuring_model(model, plan._replace(taps=plan.taps[1:]))

    monkeypatch.setattr(run, "measuring_model", one_less)
    raised(CannotAssessError, r"statistics of an image are \d+ numbers; \d+ were planned", scanned, small)


TOKENS = """
    grid = Conv(image, patch, strides=[8, 8]); rows = Reshape(grid, [0,64,-1])
    patches = Transpose(rows, perm=[0, 2, 1])
    shape = Shape(patches); n = Gather(shape, [0]); class_shape = Concat(n, [1,64], axis=0)
    classes = Expand(w1x1x64, class_shape); all = Concat(classes, patches, axis=1); x0 = Add(all, w1x17x64)
"""
BLOCK = """
    n{0} = LayerNormalization(x{0}, ones); q{0} = MatMul(n{0}, w); k{0} = Transpose(n{0}, perm=[0, 2, 1])
    scores{0} = MatMul(q{0}, k{0}); s{0} = Softmax(scores{0}); v{0} = MatMul(s{0}, n{0}); o{0} = MatMul(v{0}, w)
    seen{0} = Add(o{0}, place{0}); attended{0} = Add(x{0}, seen{0}); m{0} = LayerNormalization(attended{0}, ones)
    up{0} = MatMul(m{0}, w); relu{0} = Relu(up{0}); down{0} = MatMul(relu{0}, w); more{0} = Add(down{0}, feature{0})
    x{1} = Add(attended{0}, more{0})
"""
END = "norm = LayerNormalization(x4, ones); class = Gather(norm, 0, axis=1); out = MatMul(class, w64x48)"


def test_planted_outliers_are_found_at_their_depth(tmp_path: Path, monkeypatch: Patch) -> None:
    """A tiny ViT with random weights on 12 inputs: class token and 16 tokens of 64 features.

    Its third MLP adds an outlier feature to every token, its second attention block a massive activation to the class
    token alone.
    """
    monkeypatch.chdir(tmp_path)  # the report names the file, in as many lines as its path needs
    places, features = np.zeros((4, 17, 64), np.float32), np.zeros((4, 64), np.float32)
    places[1, 0, 21], features[2, 40] = -4000, 300
    weights: Fields = {"patch": weight(64, 3, 8, 8) / 20, "w": weight(64, 64) / 8, "ones": np.ones(64, np.float32)}
    for i in range(4):
        weights |= {f"place{i}": places[i], f"feature{i}": features[i]}
    text = TOKENS + "".join(BLOCK.format(i, i + 1) for i in range(4)) + END
    image = ("image", TensorProto.FLOAT, ("batch", 3, 32, 32))
    model = written(text, ("out", TensorProto.FLOAT, ("batch", 48)), before="", inputs=[image], **weights)
    path = save(model, Path("vit.onnx"))
    np.save(path.with_suffix(".npy"), normal(12, 3, 32, 32).astype(np.float32))
    report, feed = scanned(path)
    layers = report.layers
    assert_report_is_truth(report, path, feed)
    assert (report.model.output_unchanged, report.model.output_difference < 1e-4) == (True, True)
    assert [layer.kind for layer in layers] == ["stem", *["attention", "mlp"] * 4, "representation"]
    assert all(layer.class_token and layer.positions == (17,) for layer in layers[:-1])
    # stem, attention 1, mlp 1, attention 2, mlp 2, attention 3, mlp 3, …
    assert [40 in {f.feature for f in layer.statistics.persistent} for layer in layers[:-1]] == [False] * 6 + [True] * 3
    assert report.begins == 6
    for depth, layer in enumerate(layers[:-1]):
        told = [[m.where, m.frequency, m.token, m.value] for m in layer.statistics.massive if m.feature == 21]
        assert told == [["class token", 1.0, 0, pytest.approx(-4000, rel=0.01)]] * (depth >= 3), depth
    found = layers[3].statistics
    assert found.fixed_outlier is not None
    assert (found.fixed_outlier.feature, found.fixed_outlier.where) == (21, "class token")
    assert [f.feature for f in found.class_token_persistent] == [21]
    assert found.n_persistent == 0  # one token of 17 is not a persistent feature
    for width in (80, 120):
        text = shown(report, width, verbose=True)
        for said in (
            f"Layer 7 of 10 (mlp, {layers[6].tensor})",
            "feature 40, beyond 6 SD in 94 % of the tokens of 12 images.",
            f"In the class token alone it is layer 4 of 10 (attention, {layers[3].tensor}): feature 21",
            "feature 40 layers 7",
            "feature 21, class token layers 4",
        ):
            assert said in " ".join(text.split())
        rows = re.findall(r"^ +(\d+)  (?:stem|attention|mlp|representation) ", text, re.M)
        assert rows == [str(i) for i in range(1, 11)]
        assert bool(re.search("^ .* attended0", text, re.M)) == (width == 120)
    assert len(shown(report).splitlines()) <= 22  # the first is the version


def layers_of(text: str) -> tuple[Layers, list[onnx.NodeProto]]:
    graph = written(text, before="", w=[1.0], table=[1.0]).graph
    return build_layers(graph, "image", graph.initializer), list(graph.node)


def blocks_of(text: str, end: str, **shapes: tuple[int, ...]) -> list[tuple[str, str]]:
    """(tensor, kind) by the residual rule; shapes not named are (2, 16, 4, 4)."""
    layers, nodes = layers_of(text)
    order = {name: i for i, node in enumerate(nodes) for name in node.output}
    known = dict.fromkeys(order, (2, 16, 4, 4)) | shapes
    return list(
        blocks.residual_blocks(layers, blocks.find_residuals(blocks.Ancestry(layers, nodes, end)), known, order).items()
    )


def test_residual_blocks_by_rule() -> None:
    stem = "c0 = Conv(image, w); x0 = Relu(c0)\n"
    resnet = """
        a1 = Conv(x0, w); a2 = Relu(a1); a3 = Conv(a2, w); s1 = Add(a3, x0); x1 = Relu(s1)
        b1 = Conv(x1, w); b2 = Relu(b1); b3 = Conv(b2, w); d0 = AveragePool(x1, kernel_shape=[2, 2]); d1 = Conv(d0, w)
        s2 = Add(b3, d1); x2 = Relu(s2); end = GlobalAveragePool(x2)
    """  # its second block changes the width: both branches start with a layer
    assert blocks_of(stem + resnet, "end") == [("x0", "stem"), ("x1", "convolution"), ("x2", "convolution")]
    mobile = """
        p0 = Conv(x0, w); p1 = Clip(p0); y0 = Conv(p1, w)
        q0 = Conv(y0, w); q1 = Clip(q0); q2 = Conv(q1, w); y1 = Add(q2, y0)
        r0 = Conv(y1, w); r1 = Clip(r0); y2 = Conv(r1, w); t0 = Conv(y2, w); y3 = Add(y2, t0)
    """  # p and r are not residual
    ends = [("y0", "stem"), ("y1", "convolution"), ("y2", "stage"), ("y3", "convolution")]
    assert blocks_of(stem + mobile, "y3") == ends


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
    assert {("x2", "mlp"), ("x1", "attention")} & {*blocks_of(text, "x2", g2=(2, 16, 1, 1))} == {("x1", "attention")}
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
    passages = blocks.find_passages(blocks.Ancestry(layers, nodes, "end"))
    assert passages == list("abcdegh")
    rows = (2, 8, 8, 8), (2, 8, 8, 8), (2, 8, 4, 4), (2, 16, 4, 4), (2, 16, 4, 4), (2, 32, 4, 4), (2, 32, 1, 1)
    found = blocks.stage_blocks(layers, passages, dict(zip(passages, rows, strict=True)))
    assert list(found.items()) == [(name, "stage") for name in "beg"]

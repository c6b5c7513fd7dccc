"""Every rule for finding the representation, on tiny graphs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.model.open import ModelFile, open_model
from robustcheck_onnx.checker.model.pooling import apply_pool
from support import lookup, onnx_models
from support.onnx_models import graph


def chosen(model: ModelFile) -> tuple[str, str, str, bool]:
    found = model.representation
    return found.tensor, found.rule, found.pool, found.assumed


@pytest.mark.parametrize(
    ("output", "classes", "bias", "expected"),
    [
        ("logits", 16, False, ("features", "head_input", "none", False)),  # by name
        ("class_probs", 16, True, ("features", "head_input", "none", False)),
        ("output", 1000, True, ("features", "head_input", "none", False)),  # by a class count
        ("output", 7, True, ("features", "head_input", "none", False)),  # no multiple of 8
        ("output", 512, True, ("features", "head_input", "none", True)),  # can't tell
        ("output", 1000, False, ("features", "head_input", "none", True)),
        ("output", 512, False, ("output", "encoder_output", "none", False)),  # projection
        ("image_embeds", 1000, False, ("image_embeds", "encoder_output", "none", False)),
        ("image_embeds", 512, True, ("image_embeds", "encoder_output", "none", False)),
        ("image_embeds", 1000, True, ("image_embeds", "encoder_output", "none", True)),  # named so, made as scores
    ],
)
def test_classifier_or_encoder(
    opened: Any, output: str, classes: int, bias: bool, expected: tuple[str, str, str, bool]
) -> None:
    model = opened(onnx_models.classifier(classes, output=output, bias=bias))
    assert chosen(model) == expected
    if expected[1] == "head_input":
        assert model.head.op == "Gemm"
        assert model.head.weight_shape == (classes, 16)
        assert model.head.classes == classes
        assert model.class_output == (None if expected[3] else output)
        assert model.added_output
    else:
        assert (model.head, model.class_output, model.added_output) == (None, None, False)
    assert ("assumed" in model.representation.why) == expected[3]


@pytest.mark.parametrize("rule", ["encoder_output", "head_input"])
@pytest.mark.parametrize(
    ("tail", "classes", "doubt"),
    [
        (graph("representation = Gemm(features, w, b)"), 1000, "a bias and 1000 outputs"),
        (graph("s = MatMul(features, w); representation = Softmax(s)"), 512, "it ends in Softmax"),
        (graph("representation = Gemm(features, w, b)"), 512, ""),
        (graph("representation = MatMul(features, w)"), 1000, ""),
        (graph("s = Gemm(features, w, b); representation = Relu(s)"), 1000, ""),
    ],
)
def test_class_scores_that_a_contract_calls_a_representation(
    opened: Any, rule: str, tail: list[Any], classes: int, doubt: str
) -> None:
    nodes, weights = onnx_models.pooled()
    weights |= {"w": onnx_models.weight(16, classes), "b": onnx_models.weight(classes)}
    props = {"robustcheck.contract": json.dumps(lookup.lookup_contract(rule=rule, size_px=8))}
    model = opened(onnx_models.build([*nodes, *tail], ["representation"], weights, props=props))
    assert chosen(model) == ("representation", rule, "none", bool(doubt))
    assert doubt in model.representation.why
    assert ("assumed" in model.representation.why) == bool(doubt)


def test_softmax_makes_a_classifier_of_any_width(opened: Any) -> None:
    nodes, weights = onnx_models.pooled()
    weights["w"] = onnx_models.weight(16, 512)
    nodes += graph("scores = MatMul(features, w); output = Softmax(scores)")
    model = opened(onnx_models.build(nodes, ["output"], weights))
    assert chosen(model) == ("features", "head_input", "none", False)
    assert "ends in Softmax" in model.representation.why
    assert str(model.representation.ends_in) == "activation:Relu"  # under the pooling


def test_convolutional_head_is_pooled_over_space(opened: Any) -> None:
    nodes: list[Any] = graph("""
        conv = Conv(image, c); relu = Relu(conv); dropped = Dropout(relu); maps = Conv(dropped, head)
        active = Relu(maps); gap = GlobalAveragePool(active); output = Flatten(gap)
    """)
    weights = {"c": onnx_models.weight(16, 3, 3, 3), "head": onnx_models.weight(10, 16, 1, 1)}
    model = opened(onnx_models.build(nodes, ["output"], weights))
    # a convolution without bias and with 10 outputs: a class count, but nothing else says so
    assert chosen(model) == ("dropped", "head_input", "spatial_mean", True)
    assert model.representation.feature_axis == 1
    assert "mean over height and width" in model.representation.why
    named = onnx_models.build([*nodes[:-1], ("Flatten", ["gap"], ["logits"])], ["logits"], weights)
    assert chosen(opened(named)) == ("dropped", "head_input", "spatial_mean", False)


def test_lookup_is_an_encoder(tmp_path: Path) -> None:
    path = lookup.write_lookup_model(tmp_path / "m.onnx", np.eye(8), contract=False, output="output")
    model = open_model(path)
    assert chosen(model) == ("output", "encoder_output", "none", False)
    assert str(model.representation.ends_in) == "other:Gather"
    assert model.image_input.height == model.image_input.width == 64


def test_contract_wins(tmp_path: Path) -> None:
    path = lookup.write_lookup_model(tmp_path / "m.onnx", np.eye(8), rule="head_input")
    model = open_model(path)
    assert chosen(model) == ("representation", "head_input", "none", False)
    assert "contract" in model.representation.why
    assert model.contract is not None


def test_contract_naming_no_output(tmp_path: Path) -> None:
    path = lookup.write_lookup_model(tmp_path / "m.onnx", np.eye(8), output="other", contract=lookup.lookup_contract())
    with pytest.raises(CannotAssessError, match="contract names output 'representation'; the graph has other"):
        open_model(path)


def test_tensor_and_rule_ids(opened: Any) -> None:
    assert chosen(opened(onnx_models.classifier(), tensor="features"))[1] == "head_input"
    assert chosen(opened(onnx_models.classifier(), tensor="logits"))[1] == "logits"
    assert chosen(opened(onnx_models.classifier(), tensor="relu")) == ("relu", "user", "spatial_mean", False)
    assert chosen(opened(onnx_models.classifier(), tensor="gap", pool="mean"))[2] == "spatial_mean"
    with pytest.raises(UsageError) as caught:
        opened(onnx_models.classifier(), tensor="feature")
    assert "--tensor is 'feature'; no tensor of that name" in caught.value.message
    assert "features" in caught.value.hint
    with pytest.raises(UsageError, match="no tensor of that name is computed from the image"):
        opened(onnx_models.classifier(), tensor="fc.weight")


def test_pool_by_the_user(opened: Any) -> None:
    with pytest.raises(UsageError, match="--pool is 'max'; it must be cls, mean or none"):
        opened(onnx_models.classifier(), pool="max")
    with pytest.raises(UsageError, match=r"--pool is 'cls'; tensor 'features' of shape \(\?, 16\) has other axes"):
        opened(onnx_models.classifier(), pool="cls")
    assert chosen(opened(onnx_models.classifier(), pool="none"))[1:3] == ("head_input", "none")


def tokens(*, class_token: bool, side: int = 4) -> Any:
    """A tiny ViT: patches → tokens → LayerNorm, output (batch, token, 16)."""
    nodes: list[Any] = graph("""
        grid = Conv(image, patch, strides=[2, 2]); rows = Reshape(grid, flat)
        patches = Transpose(rows, perm=[0, 2, 1])
    """)
    size = 2 * side
    weights = {
        "patch": onnx_models.weight(16, 3, 2, 2),
        "flat": np.array([0, 16, -1], np.int64),
        "scale": np.ones(16, np.float32),
        "batch_at": np.array([0], np.int64),
        "rest": np.array([1, 16], np.int64),
        "class": onnx_models.weight(1, 1, 16),
    }
    last = "patches"
    if class_token:
        nodes += graph("""
            shape = Shape(patches); n = Gather(shape, batch_at); class_shape = Concat(n, rest, axis=0)
            classes = Expand(class, class_shape); all = Concat(classes, patches, axis=1)
        """)
        last = "all"
    nodes += [("LayerNormalization", [last, "scale"], ["last_hidden_state"])]
    shape = ("batch", side * side + class_token, 16)
    return onnx_models.build(
        nodes,
        [("last_hidden_state", TensorProto.FLOAT, shape)],
        weights,
        inputs=[("image", TensorProto.FLOAT, ("batch", 3, size, size))],
    )


def test_token_outputs(opened: Any) -> None:
    with_class = opened(tokens(class_token=True))
    assert chosen(with_class) == ("last_hidden_state", "encoder_output", "token_cls", False)
    assert "class token" in with_class.representation.why
    assert str(with_class.representation.ends_in) == "normalisation"
    grid = opened(tokens(class_token=False))
    assert chosen(grid) == ("last_hidden_state", "encoder_output", "token_mean", False)
    assert "mean over 16 tokens" in grid.representation.why
    # another pool than the rule's is the user's own choice
    assert chosen(opened(tokens(class_token=True), pool="mean"))[1:3] == ("user", "token_mean")
    assert chosen(opened(tokens(class_token=True), pool="cls"))[1:3] == ("encoder_output", "token_cls")


def test_distillation_heads_fork(opened: Any) -> None:
    nodes, weights = onnx_models.pooled()
    weights |= {name: onnx_models.weight(16, 10) for name in ("w1", "w2")}
    weights |= {"b": onnx_models.weight(10), "half": np.array(0.5, np.float32)}
    nodes += graph("""
        one = Gemm(features, w1, b); other_features = Relu(features); two = Gemm(other_features, w2, b)
        sum = Add(one, two); output = Mul(sum, half)
    """)
    model = onnx_models.build(nodes, ["output"], weights)
    with pytest.raises(UsageError) as caught:
        opened(model)
    assert "representation can't be told" in caught.value.message
    for name in ("features (input of Gemm", "other_features (input of Gemm"):
        assert name in caught.value.message
    assert caught.value.hint.endswith("--tensor features")
    assert "2 heads are joined, which read features, other_features" in caught.value.message
    # the rule asks: what it lists is as good as a choice of its own, anything else is the user's
    assert chosen(opened(model, tensor="features")) == ("features", "head_input", "none", False)
    assert chosen(opened(model, tensor="relu")) == ("relu", "user", "spatial_mean", False)
    assert chosen(opened(model, tensor="output")) == ("output", "logits", "none", False)


@pytest.mark.parametrize("join", ["Add", "Mean", "Concat"])
def test_heads_that_read_one_tensor_are_one(opened: Any, join: str) -> None:
    nodes, weights = onnx_models.pooled()
    weights |= {name: onnx_models.weight(16, 10) for name in ("w1", "w2")} | {"b": onnx_models.weight(10)}
    nodes += graph("one = Gemm(features, w1, b); two = Gemm(features, w2, b)")
    nodes.append((join, ["one", "two"], ["output"], {"axis": 1} if join == "Concat" else {}))
    model = onnx_models.build(nodes, ["output"], weights)
    if join == "Concat":  # scores of two kinds side by side
        with pytest.raises(UsageError, match="2 heads are joined, which read features"):
            opened(model)
    else:
        assert chosen(opened(model)) == ("features", "head_input", "none", False)


def test_stacked_heads_whose_inputs_differ_are_class_scores(opened: Any) -> None:
    """CrossViT averages the heads of its two branches by stacking them."""
    nodes, weights = onnx_models.pooled()
    weights |= {"w1": onnx_models.weight(16, 1000), "w2": onnx_models.weight(16, 1000), "b": onnx_models.weight(1000)}
    weights |= {"zero": np.array([0], np.int64)}
    nodes += graph("""
        others = Tanh(features); one = Gemm(features, w1, b); two = Gemm(others, w2, b)
        one_ = Unsqueeze(one, zero); two_ = Unsqueeze(two, zero); stacked = Concat(one_, two_, axis=0)
        output = ReduceMean(stacked, zero, keepdims=0)
    """)
    with pytest.raises(UsageError, match="2 heads are joined, which read features, others"):
        opened(onnx_models.build(nodes, ["output"], weights))


L2_NORMS: dict[str, list[Any]] = {
    "LpNormalization": graph("unit = LpNormalization(e, axis=1)"),
    "ReduceL2": graph("norm = ReduceL2(e, last, keepdims=1); unit = Div(e, norm)"),
    "clipped": graph("""
        norm = ReduceL2(e, last, keepdims=1); safe = Clip(norm, tiny); shape = Shape(e)
        wide = Expand(safe, shape); unit = Div(e, wide)
    """),
    "by hand": graph("""
        square = Mul(e, e); sum = ReduceSum(square, last, keepdims=1); norm = Sqrt(sum)
        inverse = Reciprocal(norm); unit = Mul(e, inverse)
    """),
    "Einsum": graph("""
        sum = Einsum(e, e, equation="bi,bi->b"); norm = Sqrt(sum); column = Unsqueeze(norm, last)
        unit = Div(e, column)
    """),
    "then scaled": graph("u = LpNormalization(e, axis=1); unit = Mul(u, hundred)"),
}


def test_a_linear_layer_behind_an_l2_norm_is_a_zero_shot_head(opened: Any) -> None:
    rows = [(norm, "output", 768) for norm in L2_NORMS]
    for norm, output, classes in [*rows, ("ReduceL2", "image_embeds", 768), ("by hand", "similarity", 512)]:
        nodes, weights = onnx_models.pooled()
        weights |= {"p": onnx_models.weight(16, 32), "t": onnx_models.weight(32, classes)}
        weights |= {"last": np.array([1]), "hundred": np.array(100, np.float32), "tiny": np.array(1e-12, np.float32)}
        nodes += [*graph("e = MatMul(features, p)"), *L2_NORMS[norm], *graph("cosines = MatMul(unit, t)")]
        model = opened(onnx_models.build([*nodes, ("Mul", ["cosines", "hundred"], [output])], [output], weights))
        assert chosen(model) == ("unit", "head_input", "none", False), (norm, output)
        assert "reads a vector of length 1" in model.representation.why
        assert model.class_output == output


def test_a_factor_behind_the_last_linear_layer_leaves_open_what_it_makes(opened: Any) -> None:
    nodes, weights = onnx_models.pooled()
    weights |= {"t": onnx_models.weight(16, 768), "hundred": np.array([100], np.float32)}
    nodes += graph("cosines = MatMul(features, t); output = Mul(cosines, hundred)")
    model = onnx_models.build(nodes, ["output"], weights)
    assert chosen(opened(model)) == ("features", "head_input", "none", True)
    # perhaps class scores: no choice of the user's makes them a representation
    assert chosen(opened(model, tensor="output"))[1] == "logits"
    gemm = onnx_models.build(
        [*nodes[:-2], ("Gemm", ["features", "t"], ["output"], {"alpha": 100.0})], ["output"], weights
    )
    assert chosen(opened(gemm)) == ("features", "head_input", "none", True)


def test_the_scale_of_a_dynamically_quantised_projection_is_no_factor(opened: Any) -> None:
    nodes, weights = onnx_models.pooled()
    weights |= {"w8": np.ones((16, 512), np.int8), "w.scale": np.array(0.01, np.float32)}
    nodes += graph("""
        q, scale, zero = DynamicQuantizeLinear(features); integers = MatMulInteger(q, w8, zero)
        floats = Cast(integers, to=FLOAT); scales = Mul(scale, w.scale); output = Mul(floats, scales)
    """)
    assert chosen(opened(onnx_models.build(nodes, ["output"], weights))) == ("output", "encoder_output", "none", False)


@pytest.mark.parametrize(("rows", "shape"), [([0, 1, -1], ("batch", 1, 16)), ([0, -1, 1, 1], ("batch", 16, 1, 1))])
def test_axes_of_length_1_change_nothing(opened: Any, rows: list[int], shape: tuple[Any, ...]) -> None:
    nodes, weights = onnx_models.pooled()
    weights |= {"w": onnx_models.weight(16, 16), "rows": np.array(rows, np.int64)}
    nodes += graph("e = MatMul(features, w); embedding = Reshape(e, rows)")
    proto = onnx_models.build(nodes, [("embedding", TensorProto.FLOAT, shape)], weights)
    model = opened(proto)
    assert chosen(model) == ("embedding", "encoder_output", "none", False)
    values = np.arange(32, dtype=np.float32).reshape(2, *(16 if size == 16 else 1 for size in shape[1:]))
    pooled = apply_pool(values, "none", -1)
    assert pooled.tolist() == np.arange(32).reshape(2, 16).tolist()
    with pytest.raises(CannotAssessError, match=r"shape \(2, 4, 4\); pool none needs 2 axes"):
        apply_pool(values.reshape(2, 4, 4), "none", -1)


@pytest.mark.parametrize("activation", ["relu", "gate"])
def test_an_activation_behind_the_last_layer_makes_an_encoder(opened: Any, activation: str) -> None:
    """EfficientNet without its classifier: Conv → SiLU → mean; SqueezeNet's Conv → Relu → mean holds class scores."""
    nodes: list[Any] = graph("conv = Conv(image, c, b)")
    nodes += graph("active = Relu(conv)") if activation == "relu" else graph("s = Sigmoid(conv); active = Mul(conv, s)")
    nodes += graph("gap = GlobalAveragePool(active); output = Flatten(gap)")
    weights = {"c": onnx_models.weight(1280, 3, 1, 1), "b": onnx_models.weight(1280)}
    model = opened(onnx_models.build(nodes, ["output"], weights))
    assert chosen(model) == ("output", "encoder_output", "none", False)
    assert str(model.representation.ends_in) == {"relu": "activation:Relu", "gate": "activation:SiLU"}[activation]


def test_projection_of_tokens_is_no_class_head(opened: Any) -> None:
    """CLIP's attention pool projects all tokens, with a bias, and takes one afterwards."""
    nodes, weights = onnx_models.pooled()
    weights |= {"w": onnx_models.weight(6, 24), "b": onnx_models.weight(24), "first": np.array(0, np.int64)}
    nodes += graph("""
        line = ReduceMean(relu, axes=[3], keepdims=0); projected = MatMul(line, w)
        tokens = Add(projected, b); output = Gather(tokens, first, axis=1)
    """)
    model = onnx_models.build(nodes, ["output"], weights, opset=17)
    assert chosen(opened(model)) == ("output", "encoder_output", "none", True)
    # the user settles it
    settled = opened(model, tensor="output")
    assert chosen(settled) == ("output", "encoder_output", "none", False)
    assert "confirmed by --tensor" in settled.representation.why


def test_assumed_head_input_is_settled_by_the_user(opened: Any) -> None:
    model = onnx_models.classifier(512, output="output")
    assert chosen(opened(model)) == ("features", "head_input", "none", True)
    assert chosen(opened(model, tensor="features")) == ("features", "head_input", "none", False)
    # the rule is not sure, and the graph offers the other reading, too: a biased projection
    assert chosen(opened(model, tensor="output")) == ("output", "encoder_output", "none", False)
    assert chosen(opened(model, tensor="relu"))[1] == "user"


@pytest.mark.parametrize("op", ["Gemm", "Add"])
@pytest.mark.parametrize("zero", [True, False])
def test_a_bias_of_zeros_is_none(opened: Any, op: str, zero: bool) -> None:
    """timm's loaders write one behind CLIP's projection."""
    nodes, weights = onnx_models.pooled()
    bias = np.zeros(512, np.float32) if zero else onnx_models.weight(512)
    weights |= {"w": onnx_models.weight(16, 512), "b": bias}
    nodes += (
        graph("output0 = Gemm(features, w, b)")
        if op == "Gemm"
        else graph("e = MatMul(features, w); output0 = Add(e, b)")
    )
    found = chosen(opened(onnx_models.build(nodes, ["output0"], weights)))
    expected = ("output0", "encoder_output", "none", False) if zero else ("features", "head_input", "none", True)
    assert found == expected


def test_where_the_rule_is_sure_another_tensor_is_the_users(opened: Any) -> None:
    model = opened(onnx_models.classifier(10, output="logits"), tensor="gap")
    assert chosen(model)[1] == "user"
    assert model.representation.why.startswith("set by --tensor; the rule reads features")


@pytest.mark.parametrize(("named", "rule"), [("encoder_output", "user"), ("head_input", "user"), ("pooled", "pooled")])
def test_a_contract_has_one_representation(opened: Any, named: str, rule: str) -> None:
    """Another tensor that it names may be chosen, but not as one that the thresholds hold for."""
    nodes, weights = onnx_models.pooled()
    nodes += graph("representation = Identity(features); other = Mul(features, two)")
    contract = lookup.lookup_contract(size_px=8)
    contract["tensors"]["other"] = {"meaning": "another", "rule": named}
    weights["two"] = np.array(2, np.float32)
    props = {"robustcheck.contract": json.dumps(contract)}
    model = onnx_models.build(nodes, ["representation", "other"], weights, props=props)
    assert chosen(opened(model))[:2] == ("representation", "encoder_output")
    found = opened(model, tensor="other")
    assert chosen(found)[:2] == ("other", rule)
    assert found.representation.why == "set by --tensor; the rule reads representation"


def test_tanh_pooler_is_not_chosen(opened: Any) -> None:
    nodes, weights = onnx_models.pooled()
    weights |= {"w": onnx_models.weight(16, 16), "b": onnx_models.weight(16)}
    weights |= {"rows": np.array([0, 16, -1], np.int64)}
    dense = ("Gemm", ["features", "w", "b"], ["dense"])
    hidden = ("Reshape", ["relu", "rows"], ["last_hidden_state"])
    outputs = [
        ("last_hidden_state", TensorProto.FLOAT, ("batch", 16, 36)),
        ("pooler_output", TensorProto.FLOAT, ("batch", 16)),
    ]
    tanh = ("Tanh", ["dense"], ["pooler_output"])
    model = opened(onnx_models.build([*nodes, dense, hidden, tanh], outputs, weights))
    assert chosen(model)[:2] == ("last_hidden_state", "encoder_output")
    alone = opened(onnx_models.build([*nodes, dense, tanh], outputs[1:], weights))
    assert chosen(alone) == ("pooler_output", "encoder_output", "none", False)
    assert str(alone.representation.ends_in) == "activation:Tanh"
    norm = ("LayerNormalization", ["dense", "b"], ["pooler_output"])
    model = opened(onnx_models.build([*nodes, dense, hidden, norm], outputs, weights))
    assert chosen(model) == ("pooler_output", "encoder_output", "none", False)


def test_several_outputs(opened: Any) -> None:
    nodes, weights = onnx_models.pooled()
    weights |= {"w1": onnx_models.weight(16, 10), "w2": onnx_models.weight(16, 24)}
    nodes += graph("""
        logits = MatMul(features, w1); probabilities = Softmax(logits); second = MatMul(features, w2)
    """)
    # class scores twice, of one head
    both = opened(onnx_models.build(nodes, ["logits", "probabilities"], weights))
    assert chosen(both) == ("features", "head_input", "none", False)
    assert {candidate.tensor for candidate in both.candidates} == {"logits", "probabilities", "features"}
    # two vectors that could both be meant
    with pytest.raises(UsageError, match="outputs features, second could each be the representation"):
        opened(onnx_models.build(nodes, ["features", "second"], weights))
    # an embedding and a map: the vector
    shape = ("batch", 16)
    maps = ("relu", TensorProto.FLOAT, ("batch", 16, 6, 6))
    found = opened(onnx_models.build(nodes, [maps, ("features", TensorProto.FLOAT, shape)], weights))
    assert chosen(found) == ("features", "encoder_output", "none", False)


# what stands behind `pooled` and `signed`, and how it ends
ENDS = [
    ("e = Identity(features)", "activation:Relu"),
    ("e = MatMul(signed, w)", "linear"),
    ("a = Gemm(signed, w, v); e = Flatten(a)", "linear"),
    ("a = MatMul(signed, w); e = Add(a, v)", "linear"),
    ("n = LayerNormalization(signed, v); e = MatMul(n, w)", "linear"),
    ("e = MatMul(features, w)", "linear_of:Relu"),
    ("n = LayerNormalization(features, v); e = Gemm(n, w, v)", "linear_of:Relu"),
    ("a = MatMul(features, w); e = MatMul(a, w)", "linear_of:Relu"),
    ("s = Sigmoid(features); silu = Mul(features, s); e = MatMul(silu, w)", "linear_of:SiLU"),
    (  # generalised mean pooling: what is between the activation and the layer has no sign of its own
        "p = Pow(features, two); r = Sqrt(p); e = MatMul(r, w)",
        "linear_of:Relu",
    ),
    ("r = Max(signed, tiny); e = MatMul(r, w)", "linear_of:Max"),
    ("up = Greater(signed, tiny); r = Where(up, signed, tiny); e = MatMul(r, w)", "linear_of:Where"),
    (  # the same before opset 12: x ≥ 0 is "not x < 0"
        "down = Less(signed, tiny); up = Not(down); r = Where(up, signed, tiny); e = MatMul(r, w)",
        "linear_of:Where",
    ),
    (  # x · (x > 0)
        """
                up = Greater(signed, tiny); mask = Cast(up, to=FLOAT); r = Mul(signed, mask)
                e = MatMul(r, w)
            """,
        "linear_of:Product",
    ),
    ("up = Greater(signed, tiny); mask = Cast(up, to=FLOAT); e = MatMul(mask, w)", "linear_of:Greater"),
    (  # |x|
        "side = Sign(signed); r = Mul(signed, side); e = MatMul(r, w)",
        "linear_of:Product",
    ),
    (  # of two activations, neither of them a gate
        """
                a = MatMul(signed, w); other = Relu(a); product = Mul(features, other)
                e = MatMul(product, w)
            """,
        "linear_of:Mul",
    ),
    (  # SwiGLU: of an activation and a linear layer
        "a = MatMul(signed, w); product = Mul(features, a); e = MatMul(product, w)",
        "linear",
    ),
    (  # squeeze-and-excite
        """
                s = MatMul(features, w); gate = Sigmoid(s); excited = Mul(features, gate)
                e = MatMul(excited, w)
            """,
        "linear_of:Relu",
    ),
    (
        """
                s = MatMul(features, w); gate = Sigmoid(s); excited = Mul(signed, gate)
                e = MatMul(excited, w)
            """,
        "linear",
    ),
    ("both = Concat(signed, features, axis=1); e = MatMul(both, w32)", "linear_of:Relu"),
    (  # a residual sum under the layer: one branch is no function of an activation
        "a = MatMul(features, w); sum = Add(a, signed); e = MatMul(sum, w)",
        "linear",
    ),
    (
        """
                a = MatMul(signed, w); norm = ReduceL2(a, last, keepdims=1); safe = Clip(norm, tiny)
                wide = Expand(safe, one_one); e = Div(a, wide)
            """,
        "linear",
    ),
    ("e = LpNormalization(features, axis=1)", "activation:Relu"),
    ("e = Tanh(features)", "activation:Tanh"),
    ("s = Sigmoid(features); e = Mul(features, s)", "activation:SiLU"),
    (
        """
                x = Div(features, two); erf = Erf(x); gate = Add(erf, two); p = Mul(features, gate)
                e = Mul(p, two)
            """,
        "activation:Gelu",
    ),
    ("e = LayerNormalization(features, v)", "normalisation"),
    (
        """
                mean = ReduceMean(features, last, keepdims=1); centred = Sub(features, mean)
                square = Pow(centred, two); var = ReduceMean(square, last, keepdims=1)
                var_eps = Add(var, tiny); sd = Sqrt(var_eps); unit = Div(centred, sd); scaled = Mul(unit, v)
                e = Add(scaled, v)
            """,
        "normalisation",
    ),
    ("e = Mul(features, v)", "normalisation"),  # one factor a feature
    ("e = Mul(features, two)", "activation:Relu"),  # a scalar factor
    ("m = MaxPool(conv, kernel_shape=[6, 6]); e = Flatten(m)", "pool"),
    ("a = MatMul(features, w); e = Add(a, features)", "linear_of:Relu"),
    # a sum ends as its branches do: one is enough
    ("a = MatMul(signed, w); b = MatMul(a, w); e = Add(a, b)", "other:Add"),
    ("a = MatMul(signed, w); e = Add(a, signed)", "other:Mul"),
    ("a = MatMul(signed, w); t = Tanh(a); e = Add(a, t)", "activation:Gelu"),
    ("a = MatMul(signed, w); t = Tanh(a); b = MatMul(a, w); e = Add(b, t)", "activation:Tanh"),
    ("a = MatMul(signed, w); n = LayerNormalization(a, v); e = Mean(a, n)", "normalisation"),
    (
        """
                n = LayerNormalization(signed, v); cls = Gather(n, last, axis=0); s = Add(cls, n)
                e = Div(s, two)
            """,
        "normalisation",
    ),
    ("a = MatMul(signed, w); n = LayerNormalization(a, v); e = Concat(a, n, axis=1)", "normalisation"),
    ("a = MatMul(signed, w); m = GlobalAveragePool(conv); p = Flatten(m); e = Sub(a, p)", "pool"),
    ("a = MatMul(signed, w); e = Div(a, v)", "normalisation"),  # as Mul by a vector
    # what a fused norm hands on beside its output is the sum that it reads
    (
        """
                a = MatMul(signed, w); b = MatMul(a, w)
                n, , , e = com.microsoft:SkipLayerNormalization(a, b, v, v)
            """,
        "other:Add",
    ),
    (
        """
                a = MatMul(signed, w); b = MatMul(a, w); e = com.microsoft:SkipLayerNormalization(a, b, v, v)
            """,
        "normalisation",
    ),
]


def test_ends_in(opened: Any) -> None:
    nodes, weights = onnx_models.pooled()
    # two tensors of the image multiplied, as attention does: nothing is known of its sign
    nodes += graph("mixed = MatMul(features, w); signed = Mul(mixed, features)")
    weights |= {
        "w": onnx_models.weight(16, 16),
        "w32": onnx_models.weight(32, 16),
        "v": onnx_models.weight(16),
        "last": np.array([1], np.int64),
        "two": np.array(2, np.float32),
        "tiny": np.array(1e-6, np.float32),
        "one_one": np.array([1, 1], np.int64),
    }
    for extra, ends in ENDS:
        nodes_there = [*nodes, *graph(extra), ("Identity", ["e"], ["embedding"])]
        model = onnx_models.build(nodes_there, ["embedding"], weights, domains=["com.microsoft"])
        assert str(opened(model).representation.ends_in) == ends, extra

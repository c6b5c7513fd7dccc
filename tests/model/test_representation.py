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
        ([("Gemm", ["features", "w", "b"], ["representation"])], 1000, "a bias and 1000 outputs"),
        (
            [("MatMul", ["features", "w"], ["s"]), ("Softmax", ["s"], ["representation"])],
            512,
            "it ends in Softmax",
        ),
        ([("Gemm", ["features", "w", "b"], ["representation"])], 512, ""),
        ([("MatMul", ["features", "w"], ["representation"])], 1000, ""),
        ([("Gemm", ["features", "w", "b"], ["s"]), ("Relu", ["s"], ["representation"])], 1000, ""),
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
    nodes += [("MatMul", ["features", "w"], ["scores"]), ("Softmax", ["scores"], ["output"])]
    model = opened(onnx_models.build(nodes, ["output"], weights))
    assert chosen(model) == ("features", "head_input", "none", False)
    assert "ends in Softmax" in model.representation.why
    assert str(model.representation.ends_in) == "activation:Relu"  # under the pooling


def test_convolutional_head_is_pooled_over_space(opened: Any) -> None:
    nodes: list[Any] = [
        ("Conv", ["image", "c"], ["conv"]),
        ("Relu", ["conv"], ["relu"]),
        ("Dropout", ["relu"], ["dropped"]),
        ("Conv", ["dropped", "head"], ["maps"]),
        ("Relu", ["maps"], ["active"]),
        ("GlobalAveragePool", ["active"], ["gap"]),
        ("Flatten", ["gap"], ["output"]),
    ]
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
    nodes: list[Any] = [
        ("Conv", ["image", "patch"], ["grid"], {"strides": [2, 2]}),
        ("Reshape", ["grid", "flat"], ["rows"]),
        ("Transpose", ["rows"], ["patches"], {"perm": [0, 2, 1]}),
    ]
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
        nodes += [
            ("Shape", ["patches"], ["shape"]),
            ("Gather", ["shape", "batch_at"], ["n"]),
            ("Concat", ["n", "rest"], ["class_shape"], {"axis": 0}),
            ("Expand", ["class", "class_shape"], ["classes"]),
            ("Concat", ["classes", "patches"], ["all"], {"axis": 1}),
        ]
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
    nodes += [
        ("Gemm", ["features", "w1", "b"], ["one"]),
        ("Relu", ["features"], ["other_features"]),
        ("Gemm", ["other_features", "w2", "b"], ["two"]),
        ("Add", ["one", "two"], ["sum"]),
        ("Mul", ["sum", "half"], ["output"]),
    ]
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
    nodes += [("Gemm", ["features", "w1", "b"], ["one"]), ("Gemm", ["features", "w2", "b"], ["two"])]
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
    nodes += [
        ("Tanh", ["features"], ["others"]),
        ("Gemm", ["features", "w1", "b"], ["one"]),
        ("Gemm", ["others", "w2", "b"], ["two"]),
        ("Unsqueeze", ["one", "zero"], ["one_"]),
        ("Unsqueeze", ["two", "zero"], ["two_"]),
        ("Concat", ["one_", "two_"], ["stacked"], {"axis": 0}),
        ("ReduceMean", ["stacked", "zero"], ["output"], {"keepdims": 0}),
    ]
    with pytest.raises(UsageError, match="2 heads are joined, which read features, others"):
        opened(onnx_models.build(nodes, ["output"], weights))


L2_NORMS: dict[str, list[Any]] = {
    "LpNormalization": [("LpNormalization", ["e"], ["unit"], {"axis": 1})],
    "ReduceL2": [("ReduceL2", ["e", "last"], ["norm"], {"keepdims": 1}), ("Div", ["e", "norm"], ["unit"])],
    "clipped": [
        ("ReduceL2", ["e", "last"], ["norm"], {"keepdims": 1}),
        ("Clip", ["norm", "tiny"], ["safe"]),
        ("Shape", ["e"], ["shape"]),
        ("Expand", ["safe", "shape"], ["wide"]),
        ("Div", ["e", "wide"], ["unit"]),
    ],
    "by hand": [
        ("Mul", ["e", "e"], ["square"]),
        ("ReduceSum", ["square", "last"], ["sum"], {"keepdims": 1}),
        ("Sqrt", ["sum"], ["norm"]),
        ("Reciprocal", ["norm"], ["inverse"]),
        ("Mul", ["e", "inverse"], ["unit"]),
    ],
    "Einsum": [
        ("Einsum", ["e", "e"], ["sum"], {"equation": "bi,bi->b"}),
        ("Sqrt", ["sum"], ["norm"]),
        ("Unsqueeze", ["norm", "last"], ["column"]),
        ("Div", ["e", "column"], ["unit"]),
    ],
    "then scaled": [("LpNormalization", ["e"], ["u"], {"axis": 1}), ("Mul", ["u", "hundred"], ["unit"])],
}


@pytest.mark.parametrize("norm", L2_NORMS)
@pytest.mark.parametrize(("output", "classes"), [("output", 768), ("image_embeds", 768), ("similarity", 512)])
def test_a_linear_layer_behind_an_l2_norm_is_a_zero_shot_head(
    opened: Any, norm: str, output: str, classes: int
) -> None:
    nodes, weights = onnx_models.pooled()
    weights |= {"p": onnx_models.weight(16, 32), "t": onnx_models.weight(32, classes)}
    weights |= {"last": np.array([1]), "hundred": np.array(100, np.float32), "tiny": np.array(1e-12, np.float32)}
    nodes += [("MatMul", ["features", "p"], ["e"]), *L2_NORMS[norm]]
    nodes += [("MatMul", ["unit", "t"], ["cosines"]), ("Mul", ["cosines", "hundred"], [output])]
    model = opened(onnx_models.build(nodes, [output], weights))
    assert chosen(model) == ("unit", "head_input", "none", False)
    assert "reads a vector of length 1" in model.representation.why
    assert model.class_output == output


def test_a_factor_behind_the_last_linear_layer_leaves_open_what_it_makes(opened: Any) -> None:
    nodes, weights = onnx_models.pooled()
    weights |= {"t": onnx_models.weight(16, 768), "hundred": np.array([100], np.float32)}
    nodes += [("MatMul", ["features", "t"], ["cosines"]), ("Mul", ["cosines", "hundred"], ["output"])]
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
    nodes += [
        ("DynamicQuantizeLinear", ["features"], ["q", "scale", "zero"]),
        ("MatMulInteger", ["q", "w8", "zero"], ["integers"]),
        ("Cast", ["integers"], ["floats"], {"to": TensorProto.FLOAT}),
        ("Mul", ["scale", "w.scale"], ["scales"]),
        ("Mul", ["floats", "scales"], ["output"]),
    ]
    assert chosen(opened(onnx_models.build(nodes, ["output"], weights))) == ("output", "encoder_output", "none", False)


@pytest.mark.parametrize(("rows", "shape"), [([0, 1, -1], ("batch", 1, 16)), ([0, -1, 1, 1], ("batch", 16, 1, 1))])
def test_axes_of_length_1_change_nothing(opened: Any, rows: list[int], shape: tuple[Any, ...]) -> None:
    nodes, weights = onnx_models.pooled()
    weights |= {"w": onnx_models.weight(16, 16), "rows": np.array(rows, np.int64)}
    nodes += [("MatMul", ["features", "w"], ["e"]), ("Reshape", ["e", "rows"], ["embedding"])]
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
    nodes: list[Any] = [("Conv", ["image", "c", "b"], ["conv"])]
    nodes += (
        [("Relu", ["conv"], ["active"])]
        if activation == "relu"
        else [("Sigmoid", ["conv"], ["s"]), ("Mul", ["conv", "s"], ["active"])]
    )
    nodes += [("GlobalAveragePool", ["active"], ["gap"]), ("Flatten", ["gap"], ["output"])]
    weights = {"c": onnx_models.weight(1280, 3, 1, 1), "b": onnx_models.weight(1280)}
    model = opened(onnx_models.build(nodes, ["output"], weights))
    assert chosen(model) == ("output", "encoder_output", "none", False)
    assert str(model.representation.ends_in) == {"relu": "activation:Relu", "gate": "activation:SiLU"}[activation]


def test_projection_of_tokens_is_no_class_head(opened: Any) -> None:
    """CLIP's attention pool projects all tokens, with a bias, and takes one afterwards."""
    nodes, weights = onnx_models.pooled()
    weights |= {
        "w": onnx_models.weight(6, 24),
        "b": onnx_models.weight(24),
        "first": np.array(0, np.int64),
    }
    nodes += [
        ("ReduceMean", ["relu"], ["line"], {"axes": [3], "keepdims": 0}),
        ("MatMul", ["line", "w"], ["projected"]),
        ("Add", ["projected", "b"], ["tokens"]),
        ("Gather", ["tokens", "first"], ["output"], {"axis": 1}),
    ]
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
        [("Gemm", ["features", "w", "b"], ["output0"])]
        if op == "Gemm"
        else [("MatMul", ["features", "w"], ["e"]), ("Add", ["e", "b"], ["output0"])]
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
    nodes += [("Identity", ["features"], ["representation"]), ("Mul", ["features", "two"], ["other"])]
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
    nodes += [
        ("MatMul", ["features", "w1"], ["logits"]),
        ("Softmax", ["logits"], ["probabilities"]),
        ("MatMul", ["features", "w2"], ["second"]),
    ]
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


@pytest.mark.parametrize(
    ("extra", "last", "ends"),
    [
        ([], "features", "activation:Relu"),
        ([("MatMul", ["signed", "w"], ["e"])], "e", "linear"),
        ([("Gemm", ["signed", "w", "v"], ["a"]), ("Flatten", ["a"], ["e"])], "e", "linear"),
        ([("MatMul", ["signed", "w"], ["a"]), ("Add", ["a", "v"], ["e"])], "e", "linear"),
        ([("LayerNormalization", ["signed", "v"], ["n"]), ("MatMul", ["n", "w"], ["e"])], "e", "linear"),
        ([("MatMul", ["features", "w"], ["e"])], "e", "linear_of:Relu"),
        ([("LayerNormalization", ["features", "v"], ["n"]), ("Gemm", ["n", "w", "v"], ["e"])], "e", "linear_of:Relu"),
        ([("MatMul", ["features", "w"], ["a"]), ("MatMul", ["a", "w"], ["e"])], "e", "linear_of:Relu"),
        (
            [
                ("Sigmoid", ["features"], ["s"]),
                ("Mul", ["features", "s"], ["silu"]),
                ("MatMul", ["silu", "w"], ["e"]),
            ],
            "e",
            "linear_of:SiLU",
        ),
        (  # generalised mean pooling: what is between the activation and the layer has no sign of its own
            [("Pow", ["features", "two"], ["p"]), ("Sqrt", ["p"], ["r"]), ("MatMul", ["r", "w"], ["e"])],
            "e",
            "linear_of:Relu",
        ),
        ([("Max", ["signed", "tiny"], ["r"]), ("MatMul", ["r", "w"], ["e"])], "e", "linear_of:Max"),
        (
            [
                ("Greater", ["signed", "tiny"], ["up"]),
                ("Where", ["up", "signed", "tiny"], ["r"]),
                ("MatMul", ["r", "w"], ["e"]),
            ],
            "e",
            "linear_of:Where",
        ),
        (  # the same before opset 12: x ≥ 0 is "not x < 0"
            [
                ("Less", ["signed", "tiny"], ["down"]),
                ("Not", ["down"], ["up"]),
                ("Where", ["up", "signed", "tiny"], ["r"]),
                ("MatMul", ["r", "w"], ["e"]),
            ],
            "e",
            "linear_of:Where",
        ),
        (  # x · (x > 0)
            [
                ("Greater", ["signed", "tiny"], ["up"]),
                ("Cast", ["up"], ["mask"], {"to": TensorProto.FLOAT}),
                ("Mul", ["signed", "mask"], ["r"]),
                ("MatMul", ["r", "w"], ["e"]),
            ],
            "e",
            "linear_of:Product",
        ),
        (
            [
                ("Greater", ["signed", "tiny"], ["up"]),
                ("Cast", ["up"], ["mask"], {"to": TensorProto.FLOAT}),
                ("MatMul", ["mask", "w"], ["e"]),
            ],
            "e",
            "linear_of:Greater",
        ),
        (  # |x|
            [("Sign", ["signed"], ["side"]), ("Mul", ["signed", "side"], ["r"]), ("MatMul", ["r", "w"], ["e"])],
            "e",
            "linear_of:Product",
        ),
        (  # of two activations, neither of them a gate
            [
                ("MatMul", ["signed", "w"], ["a"]),
                ("Relu", ["a"], ["other"]),
                ("Mul", ["features", "other"], ["product"]),
                ("MatMul", ["product", "w"], ["e"]),
            ],
            "e",
            "linear_of:Mul",
        ),
        (  # SwiGLU: of an activation and a linear layer
            [
                ("MatMul", ["signed", "w"], ["a"]),
                ("Mul", ["features", "a"], ["product"]),
                ("MatMul", ["product", "w"], ["e"]),
            ],
            "e",
            "linear",
        ),
        (  # squeeze-and-excite
            [
                ("MatMul", ["features", "w"], ["s"]),
                ("Sigmoid", ["s"], ["gate"]),
                ("Mul", ["features", "gate"], ["excited"]),
                ("MatMul", ["excited", "w"], ["e"]),
            ],
            "e",
            "linear_of:Relu",
        ),
        (
            [
                ("MatMul", ["features", "w"], ["s"]),
                ("Sigmoid", ["s"], ["gate"]),
                ("Mul", ["signed", "gate"], ["excited"]),
                ("MatMul", ["excited", "w"], ["e"]),
            ],
            "e",
            "linear",
        ),
        (
            [
                ("Concat", ["signed", "features"], ["both"], {"axis": 1}),
                ("MatMul", ["both", "w32"], ["e"]),
            ],
            "e",
            "linear_of:Relu",
        ),
        (  # a residual sum under the layer: one branch is no function of an activation
            [
                ("MatMul", ["features", "w"], ["a"]),
                ("Add", ["a", "signed"], ["sum"]),
                ("MatMul", ["sum", "w"], ["e"]),
            ],
            "e",
            "linear",
        ),
        (
            [
                ("MatMul", ["signed", "w"], ["a"]),
                ("ReduceL2", ["a", "last"], ["norm"], {"keepdims": 1}),
                ("Clip", ["norm", "tiny"], ["safe"]),
                ("Expand", ["safe", "one_one"], ["wide"]),
                ("Div", ["a", "wide"], ["e"]),
            ],
            "e",
            "linear",
        ),
        ([("LpNormalization", ["features"], ["e"], {"axis": 1})], "e", "activation:Relu"),
        ([("Tanh", ["features"], ["e"])], "e", "activation:Tanh"),
        ([("Sigmoid", ["features"], ["s"]), ("Mul", ["features", "s"], ["e"])], "e", "activation:SiLU"),
        (
            [
                ("Div", ["features", "two"], ["x"]),
                ("Erf", ["x"], ["erf"]),
                ("Add", ["erf", "two"], ["gate"]),
                ("Mul", ["features", "gate"], ["p"]),
                ("Mul", ["p", "two"], ["e"]),
            ],
            "e",
            "activation:Gelu",
        ),
        ([("LayerNormalization", ["features", "v"], ["e"])], "e", "normalisation"),
        (
            [
                ("ReduceMean", ["features", "last"], ["mean"], {"keepdims": 1}),
                ("Sub", ["features", "mean"], ["centred"]),
                ("Pow", ["centred", "two"], ["square"]),
                ("ReduceMean", ["square", "last"], ["var"], {"keepdims": 1}),
                ("Add", ["var", "tiny"], ["var_eps"]),
                ("Sqrt", ["var_eps"], ["sd"]),
                ("Div", ["centred", "sd"], ["unit"]),
                ("Mul", ["unit", "v"], ["scaled"]),
                ("Add", ["scaled", "v"], ["e"]),
            ],
            "e",
            "normalisation",
        ),
        ([("Mul", ["features", "v"], ["e"])], "e", "normalisation"),  # one factor a feature
        ([("Mul", ["features", "two"], ["e"])], "e", "activation:Relu"),  # a scalar factor
        ([("MaxPool", ["conv"], ["m"], {"kernel_shape": [6, 6]}), ("Flatten", ["m"], ["e"])], "e", "pool"),
        ([("MatMul", ["features", "w"], ["a"]), ("Add", ["a", "features"], ["e"])], "e", "linear_of:Relu"),
        # a sum ends as its branches do: one is enough
        (
            [("MatMul", ["signed", "w"], ["a"]), ("MatMul", ["a", "w"], ["b"]), ("Add", ["a", "b"], ["e"])],
            "e",
            "other:Add",
        ),
        ([("MatMul", ["signed", "w"], ["a"]), ("Add", ["a", "signed"], ["e"])], "e", "other:Mul"),
        (
            [("MatMul", ["signed", "w"], ["a"]), ("Tanh", ["a"], ["t"]), ("Add", ["a", "t"], ["e"])],
            "e",
            "activation:Gelu",
        ),
        (
            [
                ("MatMul", ["signed", "w"], ["a"]),
                ("Tanh", ["a"], ["t"]),
                ("MatMul", ["a", "w"], ["b"]),
                ("Add", ["b", "t"], ["e"]),
            ],
            "e",
            "activation:Tanh",
        ),
        (
            [
                ("MatMul", ["signed", "w"], ["a"]),
                ("LayerNormalization", ["a", "v"], ["n"]),
                ("Mean", ["a", "n"], ["e"]),
            ],
            "e",
            "normalisation",
        ),
        (
            [
                ("LayerNormalization", ["signed", "v"], ["n"]),
                ("Gather", ["n", "last"], ["cls"], {"axis": 0}),
                ("Add", ["cls", "n"], ["s"]),
                ("Div", ["s", "two"], ["e"]),
            ],
            "e",
            "normalisation",
        ),
        (
            [
                ("MatMul", ["signed", "w"], ["a"]),
                ("LayerNormalization", ["a", "v"], ["n"]),
                ("Concat", ["a", "n"], ["e"], {"axis": 1}),
            ],
            "e",
            "normalisation",
        ),
        (
            [
                ("MatMul", ["signed", "w"], ["a"]),
                ("GlobalAveragePool", ["conv"], ["m"]),
                ("Flatten", ["m"], ["p"]),
                ("Sub", ["a", "p"], ["e"]),
            ],
            "e",
            "pool",
        ),
        ([("MatMul", ["signed", "w"], ["a"]), ("Div", ["a", "v"], ["e"])], "e", "normalisation"),  # as Mul by a vector
        # what a fused norm hands on beside its output is the sum that it reads
        (
            [
                ("MatMul", ["signed", "w"], ["a"]),
                ("MatMul", ["a", "w"], ["b"]),
                ("com.microsoft:SkipLayerNormalization", ["a", "b", "v", "v"], ["n", "", "", "e"]),
            ],
            "e",
            "other:Add",
        ),
        (
            [
                ("MatMul", ["signed", "w"], ["a"]),
                ("MatMul", ["a", "w"], ["b"]),
                ("com.microsoft:SkipLayerNormalization", ["a", "b", "v", "v"], ["e"]),
            ],
            "e",
            "normalisation",
        ),
    ],
)
def test_ends_in(opened: Any, extra: list[Any], last: str, ends: str) -> None:
    nodes, weights = onnx_models.pooled()
    # two tensors of the image multiplied, as attention does: nothing is known of its sign
    nodes += [("MatMul", ["features", "w"], ["mixed"]), ("Mul", ["mixed", "features"], ["signed"])]
    weights |= {
        "w": onnx_models.weight(16, 16),
        "w32": onnx_models.weight(32, 16),
        "v": onnx_models.weight(16),
        "last": np.array([1], np.int64),
        "two": np.array(2, np.float32),
        "tiny": np.array(1e-6, np.float32),
        "one_one": np.array([1, 1], np.int64),
    }
    model = onnx_models.build(
        [*nodes, *extra, ("Identity", [last], ["embedding"])], ["embedding"], weights, domains=["com.microsoft"]
    )
    assert str(opened(model).representation.ends_in) == ends

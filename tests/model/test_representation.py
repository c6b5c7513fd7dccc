"""Every rule for finding the representation, on tiny graphs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto

from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.model.contract import CONTRACT_KEY
from robustcheck_onnx.checker.model.ends import apply_pool
from robustcheck_onnx.checker.model.open import ModelFile, open_model
from support import lookup, raised
from support.onnx_models import classifier, weight
from support.written import SIGNED, written


def chosen(model: ModelFile) -> tuple[str, str, str, bool]:
    found = model.representation
    return found.tensor, found.rule, found.pool, found.assumed


def test_classifier_or_encoder(opened: Any) -> None:
    for output, classes, bias, expected in [
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
    ]:
        model = opened(classifier(classes, output=output, bias=bias))
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
    ("text", "doubt"),
    {
        "representation = Gemm(features, w16x1000, w1000)": "a bias and 1000 outputs",
        "s = MatMul(features, w16x512); representation = Softmax(s)": "it ends in Softmax",
        "representation = Gemm(features, w16x512, w512)": "",
        "representation = MatMul(features, w16x1000)": "",
        "s = Gemm(features, w16x1000, w1000); representation = Relu(s)": "",
    }.items(),
)
def test_class_scores_that_a_contract_calls_a_representation(opened: Any, rule: str, text: str, doubt: str) -> None:
    props = {CONTRACT_KEY: json.dumps(lookup.lookup_contract(rule=rule, size_px=8))}
    model = opened(written(text, props=props))
    assert chosen(model) == ("representation", rule, "none", bool(doubt))
    assert doubt in model.representation.why
    assert ("assumed" in model.representation.why) == bool(doubt)


def test_softmax_makes_a_classifier_of_any_width(opened: Any) -> None:
    model = opened(written("scores = MatMul(features, w16x512); output = Softmax(scores)"))
    assert chosen(model) == ("features", "head_input", "none", False)
    assert "ends in Softmax" in model.representation.why
    assert str(model.representation.ends_in) == "activation:Relu"  # under the pooling


def test_convolutional_head_is_pooled_over_space(opened: Any) -> None:
    text = """
        dropped = Dropout(relu); maps = Conv(dropped, w10x16x1x1); active = Relu(maps)
        mean = GlobalAveragePool(active); {} = Flatten(mean)
    """
    model = opened(written(text.format("output")))
    # a convolution without bias and with 10 outputs: a class count, but nothing else says so
    assert chosen(model) == ("dropped", "head_input", "spatial_mean", True)
    assert model.representation.feature_axis == 1
    assert "mean over height and width" in model.representation.why
    assert chosen(opened(written(text.format("logits")))) == ("dropped", "head_input", "spatial_mean", False)


def test_contract_naming_no_output(tmp_path: Path) -> None:
    path = lookup.write_lookup_model(tmp_path / "m.onnx", np.eye(8), output="other", contract=lookup.lookup_contract())
    raised(CannotAssessError, "contract names output 'representation'; the graph has other", open_model, path)


def test_tensor_and_rule_ids(opened: Any) -> None:
    assert chosen(opened(classifier(), tensor="features"))[1] == "head_input"
    assert chosen(opened(classifier(), tensor="logits"))[1] == "logits"
    assert chosen(opened(classifier(), tensor="relu")) == ("relu", "user", "spatial_mean", False)
    assert chosen(opened(classifier(), tensor="gap", pool="mean"))[2] == "spatial_mean"
    caught = raised(UsageError, "", opened, classifier(), tensor="feature")
    assert "--tensor is 'feature'; no tensor of that name" in caught.message
    assert "features" in caught.hint
    raised(UsageError, "no tensor of that name is computed from the image", opened, classifier(), tensor="fc.weight")


def test_pool_by_the_user(opened: Any) -> None:
    raised(UsageError, r"^pool is 'max'; it must be cls, mean or none", opened, classifier(), pool="max")
    with pytest.raises(UsageError, match=r"pool is 'cls'; tensor 'features' of shape \(\?, 16\) has other axes"):
        opened(classifier(), pool="cls")
    assert chosen(opened(classifier(), pool="none"))[1:3] == ("head_input", "none")


PATCHES = """
    grid = Conv(image, w16x3x2x2, strides=[2, 2]); rows = Reshape(grid, [0,16,-1])
    patches = Transpose(rows, perm=[0, 2, 1])
"""
ALL = """
    shape = Shape(patches); n = Gather(shape, [0]); class_shape = Concat(n, [1,16], axis=0)
    classes = Expand(w1x1x16, class_shape); all = Concat(classes, patches, axis=1)
"""


def tokens(*, class_token: bool) -> ModelProto:
    """A tiny ViT: patches → tokens → LayerNorm, output (batch, token, 16)."""
    value = ("last_hidden_state", TensorProto.FLOAT, ("batch", 16 + class_token, 16))
    name, before = ("all", PATCHES + ALL) if class_token else ("patches", PATCHES)
    return written(f"last_hidden_state = LayerNormalization({name}, w16)", value, before=before)


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
    model = written("""
        one = Gemm(features, w16x10, w10); other_features = Relu(features); two = Gemm(other_features, w16x10, w10)
        sum = Add(one, two); output = Mul(sum, 0.5)
    """)
    caught = raised(UsageError, "", opened, model)
    assert "representation is not clear" in caught.message
    for name in ("features (input of Gemm", "other_features (input of Gemm"):
        assert name in caught.message
    assert caught.hint.endswith("--tensor features")
    assert "2 heads are joined, which read features, other_features" in caught.message
    # the rule asks: what it lists is as good as a choice of its own, anything else is the user's
    assert chosen(opened(model, tensor="features")) == ("features", "head_input", "none", False)
    assert chosen(opened(model, tensor="relu")) == ("relu", "user", "spatial_mean", False)
    assert chosen(opened(model, tensor="output")) == ("output", "logits", "none", False)


def test_heads_that_read_one_tensor_are_one(opened: Any) -> None:
    text = "one = Gemm(features, w16x10, w10); two = Gemm(features, w16x10, w10); output = "
    for join in ("Add(one, two)", "Mean(one, two)"):
        assert chosen(opened(written(text + join))) == ("features", "head_input", "none", False)
    with pytest.raises(UsageError, match="2 heads are joined, which read features"):  # scores of two kinds side by side
        opened(written(text + "Concat(one, two, axis=1)"))


def test_stacked_heads_whose_inputs_differ_are_class_scores(opened: Any) -> None:
    """CrossViT averages the heads of its two branches by stacking them."""
    model = written("""
        others = Tanh(features); one = Gemm(features, w16x1000, w1000); two = Gemm(others, w16x1000, w1000)
        one_ = Unsqueeze(one, [0]); two_ = Unsqueeze(two, [0]); stacked = Concat(one_, two_, axis=0)
        output = ReduceMean(stacked, [0], keepdims=0)
    """)
    raised(UsageError, "2 heads are joined, which read features, others", opened, model)


L2_NORMS = {
    "LpNormalization": "unit = LpNormalization(e, axis=1)",
    "ReduceL2": "norm = ReduceL2(e, [1]); unit = Div(e, norm)",
    "clipped": """
        norm = ReduceL2(e, [1]); safe = Clip(norm, 1e-12); shape = Shape(e); wide = Expand(safe, shape)
        unit = Div(e, wide)
    """,
    "by hand": """
        square = Mul(e, e); sum = ReduceSum(square, [1]); norm = Sqrt(sum); inverse = Reciprocal(norm)
        unit = Mul(e, inverse)
    """,
    "Einsum": """
        sum = Einsum(e, e, equation="bi,bi->b"); norm = Sqrt(sum); column = Unsqueeze(norm, [1])
        unit = Div(e, column)
    """,
    "then scaled": "u = LpNormalization(e, axis=1); unit = Mul(u, 100.0)",
}


def test_a_linear_layer_behind_an_l2_norm_is_a_zero_shot_head(opened: Any) -> None:
    rows = [(norm, "output", 768) for norm in L2_NORMS]
    for norm, output, classes in [*rows, ("ReduceL2", "image_embeds", 768), ("by hand", "similarity", 512)]:
        head = f"cosines = MatMul(unit, w32x{classes}); {output} = Mul(cosines, 100.0)"
        model = opened(written(f"e = MatMul(features, w16x32)\n{L2_NORMS[norm]}\n{head}"))
        assert chosen(model) == ("unit", "head_input", "none", False), (norm, output)
        assert "reads a vector of length 1" in model.representation.why
        assert model.class_output == output


def test_a_factor_behind_the_last_linear_layer_leaves_open_what_it_makes(opened: Any) -> None:
    model = written("cosines = MatMul(features, w16x768); output = Mul(cosines, [100.0])")
    assert chosen(opened(model)) == ("features", "head_input", "none", True)
    # perhaps class scores: no choice of the user's makes them a representation
    assert chosen(opened(model, tensor="output"))[1] == "logits"
    gemm = written("output = Gemm(features, w16x768, alpha=100.0)")
    assert chosen(opened(gemm)) == ("features", "head_input", "none", True)


def test_axes_of_length_1_change_nothing(opened: Any) -> None:
    for rows, shape in [("[0,1,-1]", ("batch", 1, 16)), ("[0,-1,1,1]", ("batch", 16, 1, 1))]:
        value = ("embedding", TensorProto.FLOAT, shape)
        model = opened(written(f"e = MatMul(features, w16x16); embedding = Reshape(e, {rows})", value))
        assert chosen(model) == ("embedding", "encoder_output", "none", False)
        values = np.arange(32, dtype=np.float32).reshape(2, *shape[1:])
        assert apply_pool(values, "none", -1).tolist() == np.arange(32).reshape(2, 16).tolist()
        with pytest.raises(CannotAssessError, match=r"shape \(2, 4, 4\); pool none needs 2 axes"):
            apply_pool(values.reshape(2, 4, 4), "none", -1)


def test_an_activation_behind_the_last_layer_makes_an_encoder(opened: Any) -> None:
    """EfficientNet without its classifier: Conv → SiLU → mean; SqueezeNet's Conv → Relu → mean holds class scores."""
    for active, end in [
        ("active = Relu(c)", "activation:Relu"),
        ("s = Sigmoid(c); active = Mul(c, s)", "activation:SiLU"),
    ]:
        text = (
            f"c = Conv(image, w1280x3x1x1, w1280); {active}; mean = GlobalAveragePool(active); output = Flatten(mean)"
        )
        model = opened(written(text))
        assert chosen(model) == ("output", "encoder_output", "none", False)
        assert str(model.representation.ends_in) == end


def test_projection_of_tokens_is_no_class_head(opened: Any) -> None:
    """CLIP's attention pool projects all tokens, with a bias, and takes one afterwards."""
    model = written("""
        line = ReduceMean(relu, [3], keepdims=0); projected = MatMul(line, w6x24); tokens = Add(projected, w24)
        output = Gather(tokens, 0, axis=1)
    """)
    assert chosen(opened(model)) == ("output", "encoder_output", "none", True)
    # the user settles it
    settled = opened(model, tensor="output")
    assert chosen(settled) == ("output", "encoder_output", "none", False)
    assert "confirmed by --tensor" in settled.representation.why


def test_assumed_head_input_is_settled_by_the_user(opened: Any) -> None:
    model = classifier(512, output="output")
    assert chosen(opened(model)) == ("features", "head_input", "none", True)
    assert chosen(opened(model, tensor="features")) == ("features", "head_input", "none", False)
    # the rule is not sure, and the graph offers the other reading, too: a biased projection
    assert chosen(opened(model, tensor="output")) == ("output", "encoder_output", "none", False)
    assert chosen(opened(model, tensor="relu"))[1] == "user"


def test_a_bias_of_zeros_is_none(opened: Any) -> None:
    """timm's loaders write one behind CLIP's projection."""
    for text in ["output0 = Gemm(features, w16x512, b)", "e = MatMul(features, w16x512); output0 = Add(e, b)"]:
        found = chosen(opened(written(text, b=np.zeros(512, np.float32))))
        assert found == ("output0", "encoder_output", "none", False)
        assert chosen(opened(written(text, b=weight(512)))) == ("features", "head_input", "none", True)


def test_the_scale_of_a_dynamically_quantised_projection_is_no_factor(opened: Any) -> None:
    text = """
        q, scale, zero = DynamicQuantizeLinear(features); integers = MatMulInteger(q, w8, zero)
        floats = Cast(integers, to=FLOAT); scales = Mul(scale, 0.01); output = Mul(floats, scales)
    """
    found = opened(written(text, w8=np.ones((16, 512), np.int8)))
    assert chosen(found) == ("output", "encoder_output", "none", False)


def test_a_contract_has_one_representation(opened: Any) -> None:
    """Another tensor that it names may be chosen, but not as one that the thresholds hold for."""
    for named, rule in {"encoder_output": "user", "head_input": "user", "pooled": "pooled"}.items():
        contract = lookup.lookup_contract(size_px=8)
        contract["tensors"]["other"] = {"meaning": "another", "rule": named}
        text, props = (
            "representation = Identity(features); other = Mul(features, 2.0)",
            {CONTRACT_KEY: json.dumps(contract)},
        )
        model = written(text, "representation", "other", props=props)
        assert chosen(opened(model))[:2] == ("representation", "encoder_output")
        found = opened(model, tensor="other")
        assert chosen(found)[:2] == ("other", rule)
        assert found.representation.why == "set by --tensor; the rule reads representation"


def test_tanh_pooler_is_not_chosen(opened: Any) -> None:
    hidden = ("last_hidden_state", TensorProto.FLOAT, ("batch", 16, 36))
    vector = ("pooler_output", TensorProto.FLOAT, ("batch", 16))
    text = "last_hidden_state = Reshape(relu, [0,16,-1]); dense = Gemm(features, w16x16, w16); pooler_output = "
    model = opened(written(text + "Tanh(dense)", hidden, vector))
    assert chosen(model)[:2] == ("last_hidden_state", "encoder_output")
    alone = opened(written(text + "Tanh(dense)", vector))
    assert chosen(alone) == ("pooler_output", "encoder_output", "none", False)
    assert str(alone.representation.ends_in) == "activation:Tanh"
    model = opened(written(text + "LayerNormalization(dense, w16)", hidden, vector))
    assert chosen(model) == ("pooler_output", "encoder_output", "none", False)


def test_several_outputs(opened: Any) -> None:
    text = "logits = MatMul(features, w16x10); probabilities = Softmax(logits); second = MatMul(features, w16x24)"
    # class scores twice, of one head
    both = opened(written(text, "logits", "probabilities"))
    assert chosen(both) == ("features", "head_input", "none", False)
    assert {candidate.tensor for candidate in both.candidates} == {"logits", "probabilities", "features"}
    # two vectors that could both be meant
    with pytest.raises(UsageError, match="outputs features, second could each be the representation"):
        opened(written(text, "features", "second"))
    # an embedding and a map: the vector
    maps = ("relu", TensorProto.FLOAT, ("batch", 16, 6, 6))
    found = opened(written(text, maps, ("features", TensorProto.FLOAT, ("batch", 16))))
    assert chosen(found) == ("features", "encoder_output", "none", False)


# what stands behind `pooled` and `signed`, and how it ends
ENDS = {
    "e = Identity(features)": "activation:Relu",
    "e = MatMul(signed, w16x16)": "linear",
    "a = Gemm(signed, w16x16, w16); e = Flatten(a)": "linear",
    "a = MatMul(signed, w16x16); e = Add(a, w16)": "linear",
    "n = LayerNormalization(signed, w16); e = MatMul(n, w16x16)": "linear",
    "e = MatMul(features, w16x16)": "linear_of:Relu",
    "n = LayerNormalization(features, w16); e = Gemm(n, w16x16, w16)": "linear_of:Relu",
    "a = MatMul(features, w16x16); e = MatMul(a, w16x16)": "linear_of:Relu",
    "s = Sigmoid(features); silu = Mul(features, s); e = MatMul(silu, w16x16)": "linear_of:SiLU",
    # generalised mean pooling: what is between the activation and the layer has no sign of its own
    "p = Pow(features, 2.0); r = Sqrt(p); e = MatMul(r, w16x16)": "linear_of:Relu",
    "r = Max(signed, 1e-6); e = MatMul(r, w16x16)": "linear_of:Max",
    "up = Greater(signed, 1e-6); r = Where(up, signed, 1e-6); e = MatMul(r, w16x16)": "linear_of:Where",
    # the same before opset 12: x ≥ 0 is "not x < 0"
    "down = Less(signed, 1e-6); up = Not(down); r = Where(up, signed, 1e-6); e = MatMul(r, w16x16)": "linear_of:Where",
    # x · (x > 0)
    "up = Greater(signed, 1e-6); mask = Cast(up, to=FLOAT); r = Mul(signed, mask); e = MatMul(r, w16x16)": (
        "linear_of:Product"
    ),
    "up = Greater(signed, 1e-6); mask = Cast(up, to=FLOAT); e = MatMul(mask, w16x16)": "linear_of:Greater",
    # |x|
    "side = Sign(signed); r = Mul(signed, side); e = MatMul(r, w16x16)": "linear_of:Product",
    # of two activations, neither of them a gate
    "a = MatMul(signed, w16x16); other = Relu(a); product = Mul(features, other); e = MatMul(product, w16x16)": (
        "linear_of:Mul"
    ),
    # SwiGLU: of an activation and a linear layer
    "a = MatMul(signed, w16x16); product = Mul(features, a); e = MatMul(product, w16x16)": "linear",
    # squeeze-and-excite
    """
            s = MatMul(features, w16x16); gate = Sigmoid(s); excited = Mul(features, gate)
            e = MatMul(excited, w16x16)
        """: "linear_of:Relu",
    "s = MatMul(features, w16x16); gate = Sigmoid(s); excited = Mul(signed, gate); e = MatMul(excited, w16x16)": (
        "linear"
    ),
    "both = Concat(signed, features, axis=1); e = MatMul(both, w32x16)": "linear_of:Relu",
    # a residual sum under the layer: one branch is not a function of an activation
    "a = MatMul(features, w16x16); sum = Add(a, signed); e = MatMul(sum, w16x16)": "linear",
    """
            a = MatMul(signed, w16x16); norm = ReduceL2(a, [1], keepdims=1); safe = Clip(norm, 1e-6)
            wide = Expand(safe, [1,1]); e = Div(a, wide)
        """: "linear",
    "e = LpNormalization(features, axis=1)": "activation:Relu",
    "e = Tanh(features)": "activation:Tanh",
    "s = Sigmoid(features); e = Mul(features, s)": "activation:SiLU",
    "x = Div(features, 2.0); erf = Erf(x); gate = Add(erf, 2.0); p = Mul(features, gate); e = Mul(p, 2.0)": (
        "activation:Gelu"
    ),
    "e = LayerNormalization(features, w16)": "normalisation",
    """
            mean = ReduceMean(features, [1], keepdims=1); centred = Sub(features, mean)
            square = Pow(centred, 2.0); var = ReduceMean(square, [1], keepdims=1); var_eps = Add(var, 1e-6)
            sd = Sqrt(var_eps); unit = Div(centred, sd); scaled = Mul(unit, w16); e = Add(scaled, w16)
        """: "normalisation",
    "e = Mul(features, w16)": "normalisation",  # one factor a feature
    "e = Mul(features, 2.0)": "activation:Relu",  # a scalar factor
    "m = MaxPool(conv, kernel_shape=[6, 6]); e = Flatten(m)": "pool",
    "a = MatMul(features, w16x16); e = Add(a, features)": "linear_of:Relu",
    # a sum ends as its branches do: one is enough
    "a = MatMul(signed, w16x16); b = MatMul(signed, w16x16); e = Add(a, b)": "other:Add",
    "a = MatMul(signed, w16x16); b = MatMul(signed, w16x16); c = Add(a, b); e = Add(c, b)": "residual",
    "a = MatMul(signed, w16x16); e = Add(a, signed)": "other:Mul",
    "a = MatMul(signed, w16x16); t = Tanh(a); e = Add(a, t)": "activation:Gelu",
    "a = MatMul(signed, w16x16); t = Tanh(a); b = MatMul(a, w16x16); e = Add(b, t)": "activation:Tanh",
    "a = MatMul(signed, w16x16); n = LayerNormalization(a, w16); e = Mean(a, n)": "normalisation",
    "n = LayerNormalization(signed, w16); cls = Gather(n, [1], axis=0); s = Add(cls, n); e = Div(s, 2.0)": (
        "normalisation"
    ),
    "a = MatMul(signed, w16x16); n = LayerNormalization(a, w16); e = Concat(a, n, axis=1)": "normalisation",
    "a = MatMul(signed, w16x16); m = GlobalAveragePool(conv); p = Flatten(m); e = Sub(a, p)": "pool",
    "a = MatMul(signed, w16x16); e = Div(a, w16)": "normalisation",  # as Mul by a vector
    # what a fused norm hands on beside its output is the sum that it reads
    """
            a = MatMul(signed, w16x16); b = MatMul(signed, w16x16)
            n, , , e = com.microsoft:SkipLayerNormalization(a, b, w16, w16)
        """: "other:Add",
    """
            a = MatMul(signed, w16x16); b = MatMul(signed, w16x16)
            e = com.microsoft:SkipLayerNormalization(a, b, w16, w16)
        """: "normalisation",
}


def test_ends_in(opened: Any) -> None:
    for text, end in ENDS.items():
        model = written(f"{text}\nembedding = Identity(e)", before=SIGNED)
        assert str(opened(model).representation.ends_in) == end, text

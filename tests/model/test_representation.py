"""Every rule for finding the representation, on tiny graphs, and against torch's hook at the last linear layer."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from onnx import ModelProto, TensorProto, helper

from robustcheck_onnx.checker.core.model.contract import CONTRACT_KEY
from robustcheck_onnx.checker.core.model.open import ModelFile, open_model
from robustcheck_onnx.checker.core.model.pooling import apply_pool
from robustcheck_onnx.checker.core.runtime.batch_trial import batch_differences
from robustcheck_onnx.checker.core.runtime.runner import Runner
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from support import Fields, lookup, raised
from support.onnx_models import SIGNED, classifier, weight, written

FEATURES = ("features", "head_input")


def chosen(model: ModelFile) -> tuple[str, ...]:
    """Tensor and rule, and what is not usual: the pool, and that it was assumed."""
    found = model.representation
    return found.tensor, found.rule, *{found.pool} - {"none"}, *["assumed"] * found.assumed


def with_contract(text: str, *outputs: str, rule: str = "encoder_output", **tensors: Fields) -> ModelProto:
    contract = lookup.lookup_contract(rule=rule, size_px=8)
    contract["tensors"] |= tensors
    return written(text, *outputs, props={CONTRACT_KEY: json.dumps(contract)})


def test_classifier_or_encoder(opened: Any) -> None:
    for output, classes, bias, expected in [
        ("logits", 16, False, FEATURES),  # by name
        ("class_probs", 16, True, FEATURES),
        ("output", 1000, True, FEATURES),  # by a class count
        ("output", 7, True, FEATURES),  # no multiple of 8
        ("output", 512, True, (*FEATURES, "assumed")),  # can't tell
        ("output", 1000, False, (*FEATURES, "assumed")),
        ("output", 512, False, ("output", "encoder_output")),  # projection
        ("image_embeds", 1000, False, ("image_embeds", "encoder_output")),
        ("image_embeds", 512, True, ("image_embeds", "encoder_output")),
        ("image_embeds", 1000, True, ("image_embeds", "encoder_output", "assumed")),  # named so, made as scores
    ]:
        model = opened(classifier(classes, output=output, bias=bias))
        assert chosen(model) == expected
        assert ("assumed" in model.representation.why) == ("assumed" in expected)
        is_head = expected[1] == "head_input"
        assert model.class_output == (output if expected == FEATURES else None)
        assert (model.added_output, model.head is not None) == (is_head, is_head)
        if is_head:
            assert (model.head.op, model.head.weight_shape, model.head.classes) == ("Gemm", (classes, 16), classes)


@pytest.mark.parametrize("rule", ["encoder_output", "head_input"])
def test_class_scores_that_a_contract_calls_a_representation(opened: Any, rule: str) -> None:
    for text, doubt in {
        "representation = Gemm(features, w16x1000, w1000)": "a bias and 1000 outputs",
        "s = MatMul(features, w16x512); representation = Softmax(s)": "it ends in Softmax",
        "representation = Gemm(features, w16x512, w512)": "",
        "representation = MatMul(features, w16x1000)": "",
        "s = Gemm(features, w16x1000, w1000); representation = Relu(s)": "",
    }.items():
        model = opened(with_contract(text, rule=rule))
        assert chosen(model) == ("representation", rule, *["assumed"] * bool(doubt))
        assert doubt in model.representation.why
        assert ("assumed" in model.representation.why) == bool(doubt)


HEADS = "one = Gemm(features, w16x10, w10); two = Gemm(features, w16x10, w10); output = "
CHOSEN = {
    "scores = MatMul(features, w16x512); output = Softmax(scores)": FEATURES,
    f"{HEADS}Add(one, two)": FEATURES,
    f"{HEADS}Mean(one, two)": FEATURES,
    # a factor behind the last linear layer leaves open what it makes
    "output = Gemm(features, w16x768, alpha=100.0)": (*FEATURES, "assumed"),
    # the scale of a dynamically quantised projection is none
    """q, scale, zero = DynamicQuantizeLinear(features); integers = MatMulInteger(q, w8, zero)
        floats = Cast(integers, to=FLOAT); scales = Mul(scale, 0.01)
        output = Mul(floats, scales)""": ("output", "encoder_output"),
    # timm's loaders write a bias of zeros behind CLIP's projection
    "output0 = Gemm(features, w16x512, zeros)": ("output0", "encoder_output"),
    "e = MatMul(features, w16x512); output0 = Add(e, zeros)": ("output0", "encoder_output"),
    "output0 = Gemm(features, w16x512, bias)": (*FEATURES, "assumed"),
    "e = MatMul(features, w16x512); output0 = Add(e, bias)": (*FEATURES, "assumed"),
}
WEIGHTS: Fields = {"w8": np.ones((16, 512), np.int8), "zeros": np.zeros(512, np.float32), "bias": weight(512)}


def test_what_ends_the_graph_tells_a_classifier_from_an_encoder(opened: Any) -> None:
    for text, expected in CHOSEN.items():
        weights = {name: value for name, value in WEIGHTS.items() if name in text}
        assert chosen(opened(written(text, **weights))) == expected, text
    model = opened(written("scores = MatMul(features, w16x512); output = Softmax(scores)"))
    assert "ends in Softmax" in model.representation.why
    assert str(model.representation.ends_in) == "activation:Relu"  # under the pooling


def test_convolutional_head_is_pooled_over_space(opened: Any) -> None:
    text = """dropped = Dropout(relu); maps = Conv(dropped, w10x16x1x1); active = Relu(maps)
        mean = GlobalAveragePool(active); {} = Flatten(mean)"""
    model = opened(written(text.format("output")))
    # a convolution without bias and with 10 outputs: a class count, but nothing else says so
    assert chosen(model) == ("dropped", "head_input", "spatial_mean", "assumed")
    assert model.representation.feature_axis == 1
    assert "mean over height and width" in model.representation.why
    assert chosen(opened(written(text.format("logits")))) == ("dropped", "head_input", "spatial_mean")


def test_what_the_user_names(opened: Any) -> None:
    model = classifier()
    for options, expected in (
        ({"tensor": "features"}, FEATURES),
        ({"tensor": "logits"}, ("logits", "logits")),
        ({"tensor": "relu"}, ("relu", "user", "spatial_mean")),
        ({"tensor": "gap", "pool": "mean"}, ("gap", "user", "spatial_mean")),
        ({"pool": "none"}, FEATURES),
    ):
        assert chosen(opened(model, **options)) == expected
    for options, said in (
        ({"tensor": "fc.weight"}, "no tensor of that name is computed from the image"),
        ({"pool": "max"}, r"^pool is 'max'; it must be one of none, cls, mean, token_cls, token_mean, spatial_mean"),
        ({"pool": "cls"}, r"pool is 'cls'; tensor 'features' of shape \(\?, 16\) has other axes"),
    ):
        raised(UsageError, said, opened, model, **options)
    said = "contract names output 'representation'; the graph has other"
    raised(CannotAssessError, said, opened, with_contract("other = Identity(features)"))


PATCHES = """grid = Conv(image, w16x3x2x2, strides=[2, 2]); rows = Reshape(grid, [0,16,-1])
    patches = Transpose(rows, perm=[0, 2, 1])"""
ALL = """; shape = Shape(patches); n = Gather(shape, [0]); class_shape = Concat(n, [1,16], axis=0)
    classes = Expand(w1x1x16, class_shape); all = Concat(classes, patches, axis=1)"""


def test_token_outputs(opened: Any) -> None:
    """A tiny ViT: patches → tokens → LayerNorm, output (batch, token, 16)."""
    state = "last_hidden_state"
    for before, name, n, rule, why in (
        (PATCHES + ALL, "all", 17, "token_cls", "class token"),
        (PATCHES, "patches", 16, "token_mean", "mean over 16 tokens"),
    ):
        output = (state, TensorProto.FLOAT, ("batch", n, 16))
        model = written(f"{state} = LayerNormalization({name}, w16)", output, before=before)
        found = opened(model)
        assert chosen(found) == (state, "encoder_output", rule)
        assert why in found.representation.why
        assert str(found.representation.ends_in) == "normalisation"
        # another pool than the rule's is the user's own choice
        for pool in ("mean", "cls"):
            rules = "encoder_output" if rule == f"token_{pool}" else "user"
            assert chosen(opened(model, pool=pool)) == (state, rules, f"token_{pool}")


def test_distillation_heads_fork(opened: Any) -> None:
    model = written("""one = Gemm(features, w16x10, w10); other_features = Relu(features)
        two = Gemm(other_features, w16x10, w10); sum = Add(one, two); output = Mul(sum, 0.5)""")
    caught = raised(UsageError, "representation is not clear", opened, model)
    joined = "2 heads are joined, which read features, other_features"
    for said in ("features (input of Gemm", "other_features (input of Gemm", joined):
        assert said in caught.message
    assert caught.hint.endswith("--tensor features")
    # the rule asks: what it lists is as good as a choice of its own, anything else is the user's
    assert chosen(opened(model, tensor="features")) == FEATURES
    assert chosen(opened(model, tensor="relu")) == ("relu", "user", "spatial_mean")
    assert chosen(opened(model, tensor="output")) == ("output", "logits")


def test_heads_that_are_joined_otherwise(opened: Any) -> None:
    """Scores of two kinds side by side; CrossViT averages the heads of its two branches by stacking them."""
    stacked = """others = Tanh(features); one = Gemm(features, w16x1000, w1000); two = Gemm(others, w16x1000, w1000)
        one_ = Unsqueeze(one, [0]); two_ = Unsqueeze(two, [0]); stacked = Concat(one_, two_, axis=0)
        output = ReduceMean(stacked, [0], keepdims=0)"""
    for text, read in ((f"{HEADS}Concat(one, two, axis=1)", "features"), (stacked, "features, others")):
        raised(UsageError, f"2 heads are joined, which read {read}", opened, written(text))


L2_NORMS = {
    "LpNormalization": "unit = LpNormalization(e, axis=1)",
    "ReduceL2": "norm = ReduceL2(e, [1]); unit = Div(e, norm)",
    "clipped": """norm = ReduceL2(e, [1]); safe = Clip(norm, 1e-12); shape = Shape(e); wide = Expand(safe, shape)
        unit = Div(e, wide)""",
    "by hand": """square = Mul(e, e); sum = ReduceSum(square, [1]); norm = Sqrt(sum); inverse = Reciprocal(norm)
        unit = Mul(e, inverse)""",
    "Einsum": """sum = Einsum(e, e, equation="bi,bi->b"); norm = Sqrt(sum); column = Unsqueeze(norm, [1])
        unit = Div(e, column)""",
    "then scaled": "u = LpNormalization(e, axis=1); unit = Mul(u, 100.0)",
}


def test_a_linear_layer_behind_an_l2_norm_is_a_zero_shot_head(opened: Any) -> None:
    rows = [(norm, "output", 768) for norm in L2_NORMS]
    for norm, output, classes in [*rows, ("ReduceL2", "image_embeds", 768), ("by hand", "similarity", 512)]:
        head = f"cosines = MatMul(unit, w32x{classes}); {output} = Mul(cosines, 100.0)"
        model = opened(written(f"e = MatMul(features, w16x32)\n{L2_NORMS[norm]}\n{head}"))
        assert chosen(model) == ("unit", "head_input"), (norm, output)
        assert "reads a vector of length 1" in model.representation.why
        assert model.class_output == output


def test_what_is_open_is_settled_by_the_user_but_for_what_could_be_scores(opened: Any) -> None:
    biased, encoded = classifier(512, output="output"), ("output", "encoder_output")
    scaled = written("cosines = MatMul(features, w16x768); output = Mul(cosines, [100.0])")
    # CLIP's attention pool projects all tokens, with a bias, and takes one afterwards
    tokens = written("""line = ReduceMean(relu, [3], keepdims=0); projected = MatMul(line, w6x24)
        tokens = Add(projected, w24); output = Gather(tokens, 0, axis=1)""")
    for model, assumed, settled in (
        (biased, FEATURES, {"features": FEATURES, "output": encoded, "relu": ("relu", "user", "spatial_mean")}),
        (scaled, FEATURES, {"output": ("output", "logits")}),
        (tokens, encoded, {"output": encoded}),
    ):
        assert chosen(opened(model)) == (*assumed, "assumed")
        for tensor, expected in settled.items():
            assert chosen(opened(model, tensor=tensor)) == expected
    assert "confirmed by --tensor" in opened(tokens, tensor="output").representation.why


def test_axes_of_length_1_change_nothing(opened: Any) -> None:
    for rows, shape in [("[0,1,-1]", ("batch", 1, 16)), ("[0,-1,1,1]", ("batch", 16, 1, 1))]:
        value = ("embedding", TensorProto.FLOAT, shape)
        model = opened(written(f"e = MatMul(features, w16x16); embedding = Reshape(e, {rows})", value))
        assert chosen(model) == ("embedding", "encoder_output")
        values = np.arange(32, dtype=np.float32).reshape(2, *shape[1:])
        assert apply_pool(values, "none", -1).tolist() == np.arange(32).reshape(2, 16).tolist()
    said = r"shape \(2, 4, 4\); pool none needs 2 axes"
    raised(CannotAssessError, said, apply_pool, values.reshape(2, 4, 4), "none", -1)


def test_an_activation_behind_the_last_layer_makes_an_encoder(opened: Any) -> None:
    """EfficientNet without its classifier: Conv → SiLU → mean; SqueezeNet's Conv → Relu → mean holds class scores."""
    for active, end in {"active = Relu(c)": "Relu", "s = Sigmoid(c); active = Mul(c, s)": "SiLU"}.items():
        text = (
            f"c = Conv(image, w1280x3x1x1, w1280); {active}; mean = GlobalAveragePool(active); output = Flatten(mean)"
        )
        model = opened(written(text))
        assert chosen(model) == ("output", "encoder_output")
        assert str(model.representation.ends_in) == f"activation:{end}"


def test_a_contract_has_one_representation(opened: Any) -> None:
    """Another tensor that it names may be chosen, but not as one that the thresholds hold for."""
    text = "representation = Identity(features); other = Mul(features, 2.0)"
    for named, rule in {"encoder_output": "user", "head_input": "user", "pooled": "pooled"}.items():
        model = with_contract(text, "representation", "other", other={"meaning": "another", "rule": named})
        assert chosen(opened(model)) == ("representation", "encoder_output")
        found = opened(model, tensor="other")
        assert chosen(found) == ("other", rule)
        assert found.representation.why == "set by --tensor; the rule reads representation"


def test_tanh_pooler_is_not_chosen(opened: Any) -> None:
    hidden = ("last_hidden_state", TensorProto.FLOAT, ("batch", 16, 36))
    vector = ("pooler_output", TensorProto.FLOAT, ("batch", 16))
    text = "last_hidden_state = Reshape(relu, [0,16,-1]); dense = Gemm(features, w16x16, w16); pooler_output = "
    for pooler, outputs, expected in (
        ("Tanh(dense)", [hidden, vector], "last_hidden_state"),
        ("Tanh(dense)", [vector], "pooler_output"),
        ("LayerNormalization(dense, w16)", [hidden, vector], "pooler_output"),
    ):
        assert chosen(opened(written(text + pooler, *outputs)))[:2] == (expected, "encoder_output")


def test_several_outputs(opened: Any) -> None:
    text = "logits = MatMul(features, w16x10); probabilities = Softmax(logits); second = MatMul(features, w16x24)"
    # class scores twice, of one head
    both = opened(written(text, "logits", "probabilities"))
    assert chosen(both) == FEATURES
    assert {candidate.tensor for candidate in both.candidates} == {"logits", "probabilities", "features"}
    # two vectors that could both be meant
    said = "outputs features, second could each be the representation"
    raised(UsageError, said, opened, written(text, "features", "second"))
    # an embedding and a map: the vector
    maps = ("relu", TensorProto.FLOAT, ("batch", 16, 6, 6))
    vector = ("features", TensorProto.FLOAT, ("batch", 16))
    assert chosen(opened(written(text, maps, vector))) == ("features", "encoder_output")


# classifiers that name the class (LabelEncoder, ZipMap), as Custom Vision writes them
ML = "ai.onnx.ml"
NAMES = ["ant", "bee", "cat"]
TENSOR = helper.make_tensor_type_proto
TYPES = {
    "p": TENSOR(TensorProto.FLOAT, ["batch", 3]),
    "best": TENSOR(TensorProto.INT64, ["batch"]),
    "label": TENSOR(TensorProto.STRING, ["batch"]),
    "loss": helper.make_sequence_type_proto(
        helper.make_map_type_proto(TensorProto.STRING, TENSOR(TensorProto.FLOAT, []))
    ),
}


def naming(*outputs: str, before: str = "s = Gemm(features, w16x3, w3)") -> ModelProto:
    proto = written(f"""{before}; p = Softmax(s, axis=1); best = ArgMax(p, axis=1, keepdims=0)
        label = {ML}:LabelEncoder(best, classes_strings={NAMES}); loss = {ML}:ZipMap(p, classlabels_strings={NAMES})""")
    del proto.graph.output[:]
    proto.graph.output.extend(helper.make_value_info(name, TYPES[name]) for name in outputs)
    return proto


def test_the_tensor_before_the_scores_is_read(opened: Any) -> None:
    for outputs, scores in {"best": "best", "label": None, "loss": None, "label loss": None, "label p": "p"}.items():
        model = opened(naming(*outputs.split()))
        found = model.representation
        assert (found.tensor, found.rule, found.assumed, model.class_output) == (*FEATURES, False, scores)


def test_no_hint_names_a_label(opened: Any) -> None:
    caught = raised(UsageError, "", opened, naming("label", before="s = Tanh(features)"))
    assert "--tensor NAME" in caught.hint


def test_of_a_map_and_its_mean_the_mean_is_read(opened: Any) -> None:
    """So transformers' ResNetModel ends; further axes of length 1 change nothing."""
    outputs = [("last_hidden_state", 1, ("batch", 16, 6, 6)), ("pooler_output", 1, ("batch", 16, 1, 1))]
    model = written("pooler_output = Identity(gap); last_hidden_state = Identity(relu)", *outputs)
    found = opened(model).representation
    assert (found.tensor, found.pool, str(found.ends_in)) == ("pooler_output", "none", "activation:Relu")


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
    "up = Greater(signed, 1e-6); mask = Cast(up, to=FLOAT); r = Mul(signed, mask); e = MatMul(r, w16x16)":
        "linear_of:Product",
    "up = Greater(signed, 1e-6); mask = Cast(up, to=FLOAT); e = MatMul(mask, w16x16)": "linear_of:Greater",
    # |x|
    "side = Sign(signed); r = Mul(signed, side); e = MatMul(r, w16x16)": "linear_of:Product",
    # of two activations, neither of them a gate
    "a = MatMul(signed, w16x16); other = Relu(a); product = Mul(features, other); e = MatMul(product, w16x16)":
        "linear_of:Mul",
    # SwiGLU: of an activation and a linear layer
    "a = MatMul(signed, w16x16); product = Mul(features, a); e = MatMul(product, w16x16)": "linear",
    # squeeze-and-excite
    """s = MatMul(features, w16x16); gate = Sigmoid(s); excited = Mul(features, gate)
            e = MatMul(excited, w16x16)""": "linear_of:Relu",
    "s = MatMul(features, w16x16); gate = Sigmoid(s); excited = Mul(signed, gate); e = MatMul(excited, w16x16)":
        "linear",
    "both = Concat(signed, features, axis=1); e = MatMul(both, w32x16)": "linear_of:Relu",
    # a residual sum under the layer: one branch is not a function of an activation
    "a = MatMul(features, w16x16); sum = Add(a, signed); e = MatMul(sum, w16x16)": "linear",
    """a = MatMul(signed, w16x16); norm = ReduceL2(a, [1], keepdims=1); safe = Clip(norm, 1e-6)
            wide = Expand(safe, [1,1]); e = Div(a, wide)""": "linear",
    "e = LpNormalization(features, axis=1)": "activation:Relu",
    "e = Tanh(features)": "activation:Tanh",
    "s = Sigmoid(features); e = Mul(features, s)": "activation:SiLU",
    "x = Div(features, 2.0); erf = Erf(x); gate = Add(erf, 2.0); p = Mul(features, gate); e = Mul(p, 2.0)":
        "activation:Gelu",
    "e = LayerNormalization(features, w16)": "normalisation",
    """mean = ReduceMean(features, [1], keepdims=1); centred = Sub(features, mean); square = Pow(centred, 2.0)
            var = ReduceMean(square, [1], keepdims=1); var_eps = Add(var, 1e-6); sd = Sqrt(var_eps)
            unit = Div(centred, sd); scaled = Mul(unit, w16); e = Add(scaled, w16)""": "normalisation",
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
    "n = LayerNormalization(signed, w16); cls = Gather(n, [1], axis=0); s = Add(cls, n); e = Div(s, 2.0)":
        "normalisation",
    "a = MatMul(signed, w16x16); n = LayerNormalization(a, w16); e = Concat(a, n, axis=1)": "normalisation",
    "a = MatMul(signed, w16x16); m = GlobalAveragePool(conv); p = Flatten(m); e = Sub(a, p)": "pool",
    "a = MatMul(signed, w16x16); e = Div(a, w16)": "normalisation",  # as Mul by a vector
    # what a fused norm hands on beside its output is the sum that it reads
    """a = MatMul(signed, w16x16); b = MatMul(signed, w16x16)
            n, , , e = com.microsoft:SkipLayerNormalization(a, b, w16, w16)""": "other:Add",
    """a = MatMul(signed, w16x16); b = MatMul(signed, w16x16)
            e = com.microsoft:SkipLayerNormalization(a, b, w16, w16)""": "normalisation",
}  # fmt: skip


def test_ends_in(opened: Any) -> None:
    for text, end in ENDS.items():
        model = written(f"{text}\nembedding = Identity(e)", before=SIGNED)
        assert str(opened(model).representation.ends_in) == end, text


# architecture, image edge (px), its last linear layer, what ends the representation, torch's new exporter or its old
ARCHITECTURES = [
    ("squeezenet1_1", 64, "classifier.1", "activation:Relu", "dynamo"),
    ("mobilenet_v3_small", 64, "classifier.3", "activation:HardSwish", "dynamo"),
    ("vit_b_16", 32, "heads.head", "normalisation", "dynamo"),
    ("squeezenet1_1", 64, "classifier.1", "activation:Relu", "legacy"),
    ("resnet18", 64, "fc", "activation:Relu", "legacy"),
    ("swin_t", 64, "head", "normalisation", "legacy"),
]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # torch's, of its own exporters
@pytest.mark.parametrize(("name", "edge_px", "layer", "ends", "exporter"), ARCHITECTURES)
def test_head_input_equals_the_hook(
    tmp_path: Path, name: str, edge_px: int, layer: str, ends: str, exporter: str
) -> None:
    torch = pytest.importorskip("torch", reason="needs the export extra")
    torchvision = pytest.importorskip("torchvision", reason="needs the export extra")
    dynamo = exporter == "dynamo"
    torch.manual_seed(0)
    size = {"image_size": edge_px} if name.startswith("vit") else {}
    network = getattr(torchvision.models, name)(weights=None, **size).eval()
    for parameter in network.get_submodule(layer).parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # zero biases, as some start with, are left out by the exporter
    batch = torch.randn(3, 3, edge_px, edge_px)
    seen = []
    network.get_submodule(layer).register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach()))
    with torch.inference_mode():
        network(batch)
    (expected,) = seen
    if expected.ndim == 4:
        expected = expected.mean((2, 3))
    path = tmp_path / "m.onnx"
    axes: Fields = {"dynamic_axes": {"input": {0: "batch"}, "output": {0: "batch"}}}
    if dynamo:
        axes = {"dynamic_shapes": ({0: torch.export.Dim("batch")},), "external_data": True}
    torch.onnx.export(
        network, (batch,), path, dynamo=dynamo, verbose=False, input_names=["input"], output_names=["output"], **axes
    )
    model = open_model(path)
    assert model.head is not None
    found = model.representation
    assert (found.rule, found.assumed, str(found.ends_in), model.head.classes) == ("head_input", False, ends, 1000)
    run = Runner(model, "cpu")
    pixels = batch.numpy().transpose(0, 2, 3, 1)
    assert_allclose(run.run(pixels).representation, expected.numpy(), rtol=1e-3, atol=1e-4)
    assert run.output_difference(pixels) < 1e-4
    (difference,) = batch_differences(run, pixels)
    assert difference is not None
    assert difference < 1e-3

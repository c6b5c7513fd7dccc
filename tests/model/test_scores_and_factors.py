"""What must not pass: factors a feature, look-ups of numbers, class scores by another name or confirmed by a user."""

from typing import Any

import numpy as np
from onnx import TensorProto, helper

from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.model.open import open_model
from support import raised
from support.onnx_models import save, weight
from support.written import written

BEFORE = """
    map = Conv(image, w384x3x8x8, kernel_shape=[8, 8]); flat = Flatten(map); h = LayerNormalization(flat, gain)
"""
LINEAR = BEFORE + "z = MatMul(h, w384x512)\n"
FACTOR = weight(512)


PLACES = ("[2,3]", "[1]", "[1,2,3]")
SHIFT = "squares = Mul(z, z); ms = ReduceMean(squares, [1]); sd = Sqrt(ms)"
STORED_8 = "q = QuantizeLinear(z, 0.1, zero8); stored = Identity(q)"
STORED = "{0}_q = QuantizeLinear({0}, 1.0, zero_u8); {0}_ = DequantizeLinear({0}_q, 1.0, zero_u8)".format
LOOKED = "i = ArgMax(z, axis=1, keepdims=0)"


def opened(text: str, *, batch: int | str = "batch", before: str = LINEAR, **options: Any) -> Any:
    """Open image → Conv → LayerNormalization "h" → MatMul "z" → the text's nodes."""
    image = ("image", TensorProto.FLOAT, (batch, 3, 8, 8))
    weights = {name: options.pop(name) for name in {*options} - {"tensor"}}
    model = written(text, before=before, inputs=[image], gain=np.ones(384, np.float32), **weights)
    return open_model(save(model), **options)


def end_of(text: str, **options: Any) -> str:
    found = opened(text, **options).representation
    assert found.tensor == "embedding"
    return str(found.ends_in)


def test_a_factor_a_feature_that_is_computed_is_one() -> None:
    for op in ["Mul", "Div"]:
        makers = ["Identity(w512)", "Exp(w512)", "Cast(w512, to=FLOAT)"]
        for maker in (*makers, f"Constant(value_floats={FACTOR.tolist()})"):
            assert end_of(f"f = {maker}; embedding = {op}(z, f)") == "normalisation", maker


def test_ends() -> None:
    for text, end in [
        ("f = Exp(2.0); embedding = Mul(z, f)", "linear"),  # one factor
        ("embedding = Div(2.0, z)", "other:Div"),  # a reciprocal
        (  # the scales of a dynamic quantiser
            """
            q, scale, zero = DynamicQuantizeLinear(h); integers = MatMulInteger(q, wq, zero)
            floats = Cast(integers, to=FLOAT); both = Mul(scale, scales); embedding = Mul(floats, both)
            """,
            "linear",
        ),
        (f"{STORED_8}; embedding = DequantizeLinear(stored, 0.1)", "linear"),
        (
            "q = QuantizeLinear(z, 0.1, zero8); i = Identity(q); embedding = DequantizeLinear(i, scales, axis=1)",
            "normalisation",
        ),
        # linear maps of what is never negative
        ("r = ReduceL2(map, [2,3], keepdims=0); embedding = MatMul(r, w384x512)", "linear_of:ReduceL2"),
        ("r = Pow(h, 2.0); embedding = MatMul(r, w384x512)", "linear_of:Pow"),
        ("m = LpPool(map, kernel_shape=[1, 1]); r = Flatten(m); embedding = MatMul(r, w384x512)", "linear_of:LpPool"),
        # a map divided by norms
        *((f"n = ReduceL2(places, {axes}); embedding = Div(places, n)", "normalisation") for axes in PLACES),
        # a ReLU, or a softmax, of an 8-bit model may be written as a table of numbers
        ("i = Cast(z, to=INT64); embedding = Gather(w256, i)", "activation:Gather"),
        ("i = Cast(z, to=INT64); embedding = Gather(w256x1, i)", "activation:Gather"),
        (f"{LOOKED}; embedding = Gather(w256x512, i)", "other:Gather"),
        # a look-up does not cover what is added to it
        (
            f"{LOOKED}; q = Gather(w512x512, i); r = Max(z, 0.0); embedding = Add(q, r)",
            "other:Max",
        ),
        # a shift by a statistic of the image is a bias; quantised, it may have one sign, as what a ReLU gave has
        (f"{SHIFT}; shift_ = Mul(sd, w512); embedding = Add(z, shift_)", "other:Add"),
        (
            f"{SHIFT}; {STORED('sd')}; shift = Mul(sd_, w512); {STORED('shift')}; embedding = Add(z, shift_)",
            "other:Add",
        ),
    ]:
        weights = {"scales": np.abs(FACTOR), "zero8": np.array(0, np.int8), "zero_u8": np.array(0, np.uint8)}
        weights["wq"] = (weight(384, 512) * 30).astype(np.int8)
        before = LINEAR + "places = Conv(image, w512x3x3x3, kernel_shape=[3, 3])\n"
        assert end_of(text, before=before, **weights) == end


def test_what_is_inside_an_if_is_seen() -> None:
    for op, end in [("Relu", "linear_of:Relu"), ("Identity", "linear")]:
        value = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
        branch = helper.make_graph([helper.make_node(op, ["h"], ["inner"])], "branch", [], [value])
        model = written("r = If(True); embedding = MatMul(r, w384x512)", before=BEFORE, gain=np.ones(384, np.float32))
        node = next(node for node in model.graph.node if node.op_type == "If")
        node.attribute.extend(helper.make_attribute(name, branch) for name in ("then_branch", "else_branch"))
        assert str(open_model(save(model)).representation.ends_in) == end


def test_other_zero_shot_heads() -> None:
    for text in [
        """
        unit = LpNormalization(z, axis=1); point = Reshape(unit, [0,512,1,1])
        cosines = Conv(point, w768x512x1x1, kernel_shape=[1, 1]); output = Flatten(cosines)
        """,
        "unit = LpNormalization(z, axis=1); moved = Add(unit, w512); output = MatMul(moved, w512x768)",
    ]:
        model = opened(text)
        assert (model.representation.rule, model.class_output) == ("head_input", "output")


def test_outputs_are_listed_once_and_not_by_the_thousand() -> None:
    names = [f"out{i}" for i in range(50)]
    text = "; ".join(f"{name} = Identity(features)" for name in names)
    caught = raised(UsageError, "", open_model, save(written(text, *names, names[0])))
    assert "out11 and 38 more could each be the representation" in caught.message


def test_a_user_makes_no_embedding_of_what_looks_like_scores() -> None:
    for text in ["embedding = Gemm(h, w384x1000, w1000)", "embedding = Mul(z, 100.0)"]:
        for options in ({}, {"tensor": "embedding"}):
            found = opened(text, **options).representation
            assert (found.tensor, found.tensor_assumed) == ("embedding", True)


def test_scores_of_a_layer_without_bias_stay_scores() -> None:
    model = opened("output = MatMul(h, w384x1000)", tensor="output")
    assert model.representation.rule == "logits"


def test_a_bias_of_zeros_does_not_hide_the_width_of_a_label_set() -> None:
    zeros = np.zeros(1000, np.float32)
    assert opened("embedding = Gemm(h, w384x1000, b)", b=zeros).representation.assumed
    model = opened("output = Gemm(h, w384x1000, b)", b=zeros)
    assert (model.representation.tensor, model.class_output) == ("h", "output")


def test_joined_scores_are_doubted_under_an_embeddings_name() -> None:
    for join in ["Add(y1, y2)", "Concat(y1, y2, axis=1)"]:
        text = f"y1 = Gemm(h, w384x1000, w1000); y2 = Gemm(flat, w384x1000, w1000); embedding = {join}"
        assert opened(text).representation.assumed


def test_what_is_less_its_log_sum_exp_is_a_log_softmax() -> None:
    model = opened("lse = ReduceLogSumExp(z, [1]); output = Sub(z, lse)")
    assert (model.representation.tensor, model.class_output) == ("h", "output")


def test_the_norm_of_one_image_is_no_temperature() -> None:
    model = opened("n = ReduceL2(z, [1]); image_embeds = Div(z, n)", batch=1)
    assert not model.representation.assumed

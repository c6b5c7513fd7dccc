"""What must not pass: scores, norms, residual streams and factors in many algebraic forms, or confirmed by a user."""

import re
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from robustcheck_onnx.checker.core.model.open import ModelFile, open_model
from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.thresholds import profile
from support import Fields, raised
from support.onnx_models import save, weight, written

D = 384
PROJECTED = "x = MatMul(h, w)\n"  # x is the embedding, h the output of a layer norm
# y: the output that holds the scores. What is read of it where nothing but the graph tells: the tensor, "assumed" where
# the graph leaves it open, and what that tensor ends in.
SCORES = {
    # by a norm of the embedding, before or behind the product
    "n = ReduceL2(x, one); u = Div(x, n); y = MatMul(u, c)": "u linear",
    "u = LpNormalization(x, axis=1); y = MatMul(u, c)": "u linear",
    "s = MatMul(x, c); n = ReduceL2(x, one); y = Div(s, n)": "x linear",
    "s = MatMul(x, c); xx = Mul(x, x); n = ReduceSum(xx, one); r = Sqrt(n); q = Reciprocal(r); y = Mul(s, q)":
        "x linear",
    "s = MatMul(x, c); xx = Pow(x, two); n = ReduceSum(xx, one); q = Pow(n, less_half); y = Mul(s, q)": "x linear",
    "s = MatMul(x, c); n = Einsum(x, x, equation='bi,bi->b'); u = Unsqueeze(n, one); y = Div(s, u)": "x linear",
    "s = MatMul(x, c); a = Abs(x); n = ReduceMax(a, one); y = Div(s, n)": "x linear",
    "s = MatMul(x, c); n = ReduceL2(x, one); m = Mul(n, hundred); y = Div(s, m)": "x linear",
    "s = MatMul(h, hc); n = ReduceL2(h, one); y = Div(s, n)": "h normalisation",
    "k = Unsqueeze(x, one); t = Unsqueeze(x, both); n = MatMul(k, t); f = Flatten(n); s = MatMul(x, c); y = Div(s, f)":
        "y other:Div",
    "k = Unsqueeze(x, one); t = Unsqueeze(x, both); n = MatMul(k, t); f = Flatten(n); q = Reciprocal(f); "
    "u = Mul(x, q); y = MatMul(u, c)": "u assumed other:Mul",
    "n = ReduceL2(x, one, keepdims=0); q = Reciprocal(n); y = Einsum(x, ct, q, equation='bd,cd,b->bc')":
        "y other:Einsum",
    # the product alone, as any layer that computes it
    "y = MatMul(x, c)": "x assumed linear",
    "y = Gemm(x, c, w768)": "x assumed linear",
    "y = Einsum(x, ct, equation='bd,cd->bc')": "x assumed linear",
    "a = Reshape(x, as_map); s = Conv(a, c_map, kernel_shape=[1, 1]); y = Flatten(s)": "a assumed linear",
    "a = Reshape(x, as_map); s = Conv(a, c_map); n = ReduceL2(a, one); z = Div(s, n); y = Flatten(z)": "a linear",
    "a = Transpose(x, perm=[1, 0]); s = MatMul(ct, a); y = Transpose(s, perm=[1, 0])": "y assumed second_linear",
    "q, scale, zero = DynamicQuantizeLinear(x); i = MatMulInteger(q, ci, zero); f = Cast(i, to=FLOAT); "
    "y = Mul(f, scale)":
        "x assumed linear",
    "u = MatMul(x, square); y = MatMul(u, c)": "u assumed second_linear",
    "p = MatMul(x, c); q = MatMul(x, c); y = Concat(p, q, axis=1)": "y assumed second_linear",
    "a, z = Split(x, axis=1, num_outputs=2); p = MatMul(a, half); q = MatMul(z, half); y = Add(p, q)":
        "y assumed second_linear",
    "a = Unsqueeze(x, one); p = Mul(a, ct); y = ReduceSum(p, both, keepdims=0)": "y normalisation",
    # of the embedding, scaled or shifted
    "u = Mul(x, hundred); y = MatMul(u, c)": "u assumed linear",
    "u = Mul(x, v); y = MatMul(u, c)": "u assumed normalisation",
    "u = Neg(x); y = MatMul(u, c)": "u assumed other:Neg",
    "u = BatchNormalization(x, v, v, v, v); y = MatMul(u, c)": "u assumed normalisation",
    "d = Sub(x, v); u = Div(d, v); y = MatMul(u, c)": "u assumed normalisation",
    "m = ReduceMean(x, one); u = Sub(x, m); y = MatMul(u, c)": "u assumed linear",
    "xx = Mul(x, x); m = ReduceMean(xx, one); r = Sqrt(m); u = Div(x, r); y = MatMul(u, c)": "u assumed normalisation",
    "a = Unsqueeze(x, one); e = Expand(a, views); u = ReduceMean(e, one, keepdims=0); y = MatMul(u, c)":
        "u assumed pool",
    "u = Where(yes, x, v); y = MatMul(u, c)": "u assumed other:Where",
    "a = MatMul(h, w); u = Add(x, a); y = MatMul(u, c)": "u assumed other:Add",
    "i = ArgMax(x, axis=1, keepdims=0); u = Gather(w, i); y = MatMul(u, c)": "u assumed other:Gather",
    "u = Relu(x); y = MatMul(u, c)": "y linear_of:Relu",
    # and what is done to the scores
    "s = MatMul(x, c); n = ReduceL2(s, one); y = Div(s, n)": "x assumed linear",
    "s = MatMul(x, c); y = LpNormalization(s, axis=1)": "x assumed linear",
    "s = MatMul(x, c); y = Mul(s, hundred)": "x assumed linear",
    "s = MatMul(x, c); m = ReduceMax(s, one); y = Sub(s, m)": "x assumed linear",
    "s = MatMul(x, c); xx = Mul(x, x); n = ReduceSum(xx, one); y = Sub(s, n)": "x assumed linear",
    "s = MatMul(x, c); m = ReduceMean(s, one); d = Sub(s, m); dd = Mul(d, d); va = ReduceMean(dd, one); y = Div(d, va)":
        "x assumed linear",
    "s = MatMul(x, c); y = Gather(s, picked, axis=1)": "y assumed second_linear",
    "s = MatMul(x, c); z = MatMul(s, c_square); y = Add(s, z)": "y assumed second_linear",
    "s = MatMul(x, c); y = Tile(s, ones)": "y other:Tile",
}  # fmt: skip
BLOCK = "r = Add(flat, p); g = Gelu(r); q = MatMul(g, square); "
STREAMS = (
    *("y = Add(r, q)", "y = Sum(q, r, q)", "e = Add(r, q); y = LpNormalization(e, axis=1)"),
    "e = Add(r, q); k = Add(e, v); t = Mul(k, hundred); z = Gelu(t); j = MatMul(z, square); y = Add(t, j)",
    "e = Add(r, q); y = Concat(e, e, axis=1)",
)


NAMES = {  # of constants, and how `written` calls them
    "w": "w384x384", "square": "w384x384", "c": "w384x768", "hc": "w384x768", "ct": "w768x384", "half": "w192x768",
    "c_map": "w768x384x1x1", "c_square": "w768x768", "bias": "w384", "as_map": "[0,384,1,1]", "views": "[1,3,1]",
    "one": "[1]", "both": "[2]", "ones": "[1,1]", "two": "2.0", "less_half": "-0.5", "hundred": "100.0",
}  # fmt: skip
HELD = {
    "v": np.abs(weight(D)),
    "yes": np.ones(D, bool),
    "picked": np.arange(8 * 90),
    "ci": np.int8(30 * weight(D, 768)),
}


def opened(text: str, output: str = "output") -> ModelFile:
    """Open image → Conv "flat" → LayerNormalization "h", and what `text` makes of them; y is called `output`."""
    start = "map = Conv(image, w384x3x8x8); flat = Flatten(map); h = LayerNormalization(flat, v)\n"
    text = re.sub(r"\w+", lambda word: NAMES.get(word[0], word[0]), start + text.replace("y = ", f"{output} = "))
    held: Fields = {name: value for name, value in HELD.items() if re.search(rf"\b{name}\b", text)}
    return open_model(save(written(text, (output, TensorProto.FLOAT, None), before="", **held)))


def can_pass(model: ModelFile) -> bool:
    """Whether the numbers would decide."""
    found, loaded = model.representation, profile.load()
    return not found.assumed and found.ends_in in loaded.ends and found.rule in loaded.tensor_rules


def test_scores_are_no_embedding() -> None:
    for text, expected in SCORES.items():
        found = opened(PROJECTED + text).representation
        tensor = "y" if found.tensor == "output" else found.tensor
        assert f"{tensor} {'assumed ' * found.assumed}{found.ends_in}" == expected, text


def test_scores_by_the_name_of_an_embedding_are_none() -> None:
    """But for one linear layer on a residual sum, which ends PE-Core, too."""
    for text, expected in SCORES.items():
        model = opened(PROJECTED + text, "embedding")
        read = model.representation.tensor
        assert read in ("x", "u", "a", "h") or can_pass(model) == (expected == "u assumed other:Add"), text


def test_a_residual_stream_is_no_calibrated_end() -> None:
    for output in ["output", "embedding"]:
        first = "g0 = Gelu(h); p = MatMul(g0, square); "
        for text in STREAMS:
            assert str(opened(first + BLOCK + text, output).representation.ends_in) == "residual", text
        assert can_pass(opened(first + "y = Add(flat, p)", output))  # one sum ends SigLIP


def test_a_biased_projection_with_an_l2_norm_behind_it_is_the_embedding() -> None:
    for output in ["output", "image_feat", "feat", "vector", "495"]:
        for norm in ("n = ReduceL2(s, one); y = Div(s, n)", "y = LpNormalization(s, axis=1)"):
            model = opened(f"s = Gemm(h, w, bias); {norm}", output)
            assert (model.representation.tensor, can_pass(model)) == (output, True)
        assert opened("s = Gemm(h, w, bias); y = Identity(s)", output).representation.tensor == "h"


BEFORE = """map = Conv(image, w384x3x8x8, kernel_shape=[8, 8]); flat = Flatten(map)
    h = LayerNormalization(flat, gain)"""
PROJECTION = BEFORE + "; z = MatMul(h, w384x512)\n"
FACTOR = weight(512)


PLACES = ("[2,3]", "[1]", "[1,2,3]")
SHIFT = "squares = Mul(z, z); ms = ReduceMean(squares, [1]); sd = Sqrt(ms)"
STORED_8 = "q = QuantizeLinear(z, 0.1, zero8); stored = Identity(q)"
STORED = "{0}_q = QuantizeLinear({0}, 1.0, zero_u8); {0}_ = DequantizeLinear({0}_q, 1.0, zero_u8)".format
LOOKED = "i = ArgMax(z, axis=1, keepdims=0)"


def opened_behind(text: str, *, batch: int | str = "batch", before: str = PROJECTION, **options: Any) -> Any:
    """Open image → Conv → LayerNormalization "h" → MatMul "z" → the text's nodes."""
    image = ("image", TensorProto.FLOAT, (batch, 3, 8, 8))
    weights = {name: options.pop(name) for name in {*options} - {"tensor"}}
    model = written(text, before=before, inputs=[image], gain=np.ones(384, np.float32), **weights)
    return open_model(save(model), **options)


def end_of(text: str, **options: Any) -> str:
    found = opened_behind(text, **options).representation
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
        # the scales of a dynamic quantiser
        ("""q, scale, zero = DynamicQuantizeLinear(h); integers = MatMulInteger(q, wq, zero)
            floats = Cast(integers, to=FLOAT); both = Mul(scale, scales); embedding = Mul(floats, both)""", "linear"),
        (f"{STORED_8}; embedding = DequantizeLinear(stored, 0.1)", "linear"),
        ("q = QuantizeLinear(z, 0.1, zero8); i = Identity(q); embedding = DequantizeLinear(i, scales, axis=1)",
         "normalisation"),
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
        # a sum ends in the first of its branches that no profile holds for
        (f"{LOOKED}; q = Gather(w512x512, i); r = Max(z, 0.0); embedding = Add(q, r)", "other:Gather"),
        (f"{LOOKED}; q = Gather(w512x512, i); r = Max(z, 0.0); embedding = Add(r, q)", "other:Max"),
        # a shift by a statistic of the image is a bias; quantised, it may have one sign, as what a ReLU gave has
        (f"{SHIFT}; shift_ = Mul(sd, w512); embedding = Add(z, shift_)", "other:Add"),
        (f"{SHIFT}; {STORED('sd')}; shift = Mul(sd_, w512); {STORED('shift')}; embedding = Add(z, shift_)",
         "other:Add"),
    ]:  # fmt: skip
        weights = {"scales": np.abs(FACTOR), "zero8": np.array(0, np.int8), "zero_u8": np.array(0, np.uint8)}
        weights["wq"] = (weight(384, 512) * 30).astype(np.int8)
        before = PROJECTION + "places = Conv(image, w512x3x3x3, kernel_shape=[3, 3])\n"
        assert end_of(text, before=before, **weights) == end


def test_what_is_inside_an_if_is_seen() -> None:
    for op, end in [("Relu", "linear_of:Relu"), ("Identity", "linear")]:
        value = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
        branch = helper.make_graph([helper.make_node(op, ["h"], ["inner"])], "branch", [], [value])
        model = written("r = If(True); embedding = MatMul(r, w384x512)", before=BEFORE, gain=np.ones(384, np.float32))
        node = next(node for node in model.graph.node if node.op_type == "If")
        node.attribute.extend(helper.make_attribute(name, branch) for name in ("then_branch", "else_branch"))
        assert str(open_model(save(model)).representation.ends_in) == end


def test_outputs_are_listed_once_and_not_by_the_thousand() -> None:
    names = [f"out{i}" for i in range(50)]
    text = "; ".join(f"{name} = Identity(features)" for name in names)
    caught = raised(UsageError, "", open_model, save(written(text, *names, names[0])))
    assert "out11 and 38 more could each be the representation" in caught.message


JOINED = "y1 = Gemm(h, w384x1000, w1000); y2 = Gemm(flat, w384x1000, w1000); embedding = "
ASSUMED = ("embedding", "encoder_output", "assumed")
READ = [
    # the text, the tensor that a user names, and what is read: tensor and rule
    # other zero-shot heads
    ("""unit = LpNormalization(z, axis=1); point = Reshape(unit, [0,512,1,1])
        cosines = Conv(point, w768x512x1x1, kernel_shape=[1, 1]); output = Flatten(cosines)""", None,
     ("point", "head_input")),
    ("unit = LpNormalization(z, axis=1); moved = Add(unit, w512); output = MatMul(moved, w512x768)", None,
     ("moved", "head_input")),
    # a user makes no embedding of what looks like scores
    ("embedding = Gemm(h, w384x1000, w1000)", None, ASSUMED),
    ("embedding = Gemm(h, w384x1000, w1000)", "embedding", ASSUMED),
    ("embedding = Mul(z, 100.0)", None, ASSUMED),
    ("embedding = Mul(z, 100.0)", "embedding", ASSUMED),
    # scores of a layer without bias stay scores
    ("output = MatMul(h, w384x1000)", "output", ("output", "logits")),
    # a bias of zeros does not hide the width of a label set
    ("embedding = Gemm(h, w384x1000, zeros)", None, ASSUMED),
    ("output = Gemm(h, w384x1000, zeros)", None, ("h", "head_input")),
    # joined scores are doubted under an embedding's name
    *((JOINED + join, None, ASSUMED) for join in ("Add(y1, y2)", "Concat(y1, y2, axis=1)")),
    # what is less its log-sum-exp is a log-softmax
    ("lse = ReduceLogSumExp(z, [1]); output = Sub(z, lse)", None, ("h", "head_input")),
    # the norm of one image is no temperature
    ("n = ReduceL2(z, [1]); image_embeds = Div(z, n)", None, ("image_embeds", "encoder_output")),
]  # fmt: skip


def test_what_is_read() -> None:
    for text, tensor, expected in READ:
        zeros: Fields = {"zeros": np.zeros(1000, np.float32)} if "zeros" in text else {}
        model = opened_behind(text, batch=1 if "image_embeds" in text else "batch", tensor=tensor, **zeros)
        found = model.representation
        assert (found.tensor, found.rule, *["assumed"] * found.assumed) == expected, text
        assert found.tensor_assumed == (expected == ASSUMED)
        assert model.class_output == ("output" if expected[1] == "head_input" else None)

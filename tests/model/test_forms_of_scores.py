"""Scores of an embedding, norms and residual streams in many algebraic forms: none of them can pass as an embedding."""

import re

import numpy as np
from onnx import TensorProto

from robustcheck_onnx.checker.model.open import ModelFile, open_model
from robustcheck_onnx.thresholds import profile
from support import Fields
from support.onnx_models import save, weight
from support.written import written

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
    "y = Add(r, q)",
    "y = Sum(q, r, q)",
    "e = Add(r, q); y = LpNormalization(e, axis=1)",
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

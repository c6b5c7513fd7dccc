"""What must not pass: factors a feature, look-ups of numbers, class scores by another name or confirmed by a user."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.model import open_model
from support import onnx_models
from support.onnx_models import graph

D = 512


def opened(
    tmp_path: Path, tail: list[Any], weights: dict[str, Any], *, batch: int | str = "batch", **options: str
) -> Any:
    """Open image → Conv → LayerNormalization "h" → `tail`, which reads w (384, 512), and 1000 wide c and b."""
    nodes = graph("""
        map = Conv(image, conv, kernel_shape=[8, 8]); flat = Flatten(map); h = LayerNormalization(flat, gain)
    """)
    every = {"conv": onnx_models.weight(384, 3, 8, 8), "gain": np.ones(384, np.float32)}
    every |= {"w": onnx_models.weight(384, D), "c": onnx_models.weight(384, 1000), "b": onnx_models.weight(1000)}
    output = (tail[-1][2][0], TensorProto.FLOAT, None)
    image = ("image", TensorProto.FLOAT, (batch, 3, 8, 8))
    path = tmp_path / "m.onnx"
    onnx_models.save(onnx_models.build([*nodes, *tail], [output], every | weights, inputs=[image]), path)
    return open_model(path, **options)


LINEAR: Any = ("MatMul", ["h", "w"], ["z"])
VECTOR = onnx_models.weight(D)


@pytest.mark.parametrize(
    "maker",
    [
        *graph("f = Identity(v); f = Exp(v); f = Cast(v, to=FLOAT)"),
        ("Constant", [], ["f"], {"value_floats": VECTOR.tolist()}),
    ],
)
@pytest.mark.parametrize("op", ["Mul", "Div"])
def test_a_factor_a_feature_that_is_computed_is_one(tmp_path: Path, op: str, maker: Any) -> None:
    model = opened(tmp_path, [LINEAR, maker, (op, ["z", "f"], ["embedding"])], {"v": VECTOR})
    assert str(model.representation.ends_in) == "normalisation"


def test_one_factor_that_is_computed_is_looked_through(tmp_path: Path) -> None:
    tail = [LINEAR, *graph("f = Exp(s); embedding = Mul(z, f)")]
    model = opened(tmp_path, tail, {"s": np.array(2, np.float32)})
    assert str(model.representation.ends_in) == "linear"


def test_a_reciprocal_is_no_factor(tmp_path: Path) -> None:
    model = opened(tmp_path, [LINEAR, ("Div", ["s", "z"], ["embedding"])], {"s": np.array(2, np.float32)})
    assert str(model.representation.ends_in) == "other:Div"


def test_the_scales_of_a_dynamic_quantiser_are_no_factor_a_feature(tmp_path: Path) -> None:
    tail = graph("""
        q, scale, zero = DynamicQuantizeLinear(h); integers = MatMulInteger(q, wq, zero)
        floats = Cast(integers, to=FLOAT); both = Mul(scale, scales); embedding = Mul(floats, both)
    """)
    weights = {"wq": (onnx_models.weight(384, D) * 30).astype(np.int8), "scales": np.abs(VECTOR)}
    assert str(opened(tmp_path, tail, weights).representation.ends_in) == "linear"


@pytest.mark.parametrize(
    ("nodes", "end"),
    [
        (graph("r = ReduceL2(map, places, keepdims=0)"), "linear_of:ReduceL2"),
        (graph("r = Pow(h, two)"), "linear_of:Pow"),
        (graph("m = LpPool(map, kernel_shape=[1, 1]); r = Flatten(m)"), "linear_of:LpPool"),
        (graph('r = If(yes, then_branch="relu", else_branch="relu")'), "linear_of:Relu"),
        (graph('r = If(yes, then_branch="same", else_branch="same")'), "linear"),
    ],
    ids=["norm over places", "power", "LpPool", "ReLU inside If", "nothing inside If"],
)
def test_a_linear_map_of_what_is_never_negative(tmp_path: Path, nodes: list[Any], end: str) -> None:
    def branch(what: str) -> onnx.GraphProto:
        node = helper.make_node("Relu" if what == "relu" else "Identity", ["h"], [what])
        return helper.make_graph([node], what, [], [helper.make_tensor_value_info(what, TensorProto.FLOAT, None)])

    nodes = [
        (*node[:3], {k: branch(v) if isinstance(v, str) else v for k, v in (node[3] if node[3:] else {}).items()})
        for node in nodes
    ]
    weights = {"places": np.array([2, 3]), "two": np.array(2, np.float32), "yes": np.array(True)}
    model = opened(tmp_path, [*nodes, ("MatMul", ["r", "w"], ["embedding"])], weights)
    assert str(model.representation.ends_in) == end


@pytest.mark.parametrize("axes", [[2, 3], [1], [1, 2, 3]])
def test_a_map_divided_by_norms_is_normalised(tmp_path: Path, axes: list[int]) -> None:
    tail = graph("""
        places = Conv(image, k, kernel_shape=[3, 3]); norm = ReduceL2(places, axes, keepdims=1)
        embedding = Div(places, norm)
    """)
    model = opened(tmp_path, tail, {"k": onnx_models.weight(D, 3, 3, 3), "axes": np.array(axes)})
    assert str(model.representation.ends_in) == "normalisation"


def test_a_dequantiser_with_scales_of_its_own_scales_features(tmp_path: Path) -> None:
    for scale, end in (("s", "linear"), ("v", "normalisation")):
        axis = {"axis": 1} if scale == "v" else {}
        tail = [
            LINEAR,
            *graph("q = QuantizeLinear(z, s, zero); stored = Identity(q)"),
            ("DequantizeLinear", ["stored", scale], ["embedding"], axis),
        ]
        weights = {"s": np.array(0.1, np.float32), "v": np.abs(VECTOR), "zero": np.array(0, np.int8)}
        assert str(opened(tmp_path, tail, weights).representation.ends_in) == end


@pytest.mark.parametrize("form", ["Conv", "shifted"])
def test_other_zero_shot_heads(tmp_path: Path, form: str) -> None:
    tail: list[Any] = [LINEAR, ("LpNormalization", ["z"], ["unit"], {"axis": 1})]
    if form == "Conv":
        tail += graph("""
            point = Reshape(unit, as_map); cosines = Conv(point, texts, kernel_shape=[1, 1])
            output = Flatten(cosines)
        """)
    else:
        tail += graph("moved = Add(unit, shift); output = MatMul(moved, plain)")
    weights = {
        "as_map": np.array([0, D, 1, 1]),
        "texts": onnx_models.weight(768, D, 1, 1),
        "plain": onnx_models.weight(D, 768),
        "shift": VECTOR,
    }
    model = opened(tmp_path, tail, weights)
    assert model.representation.rule == "head_input"
    assert model.class_output == "output"


def test_outputs_are_listed_once_and_not_by_the_thousand(tmp_path: Path) -> None:
    nodes = graph("map = Conv(image, k, kernel_shape=[8, 8]); flat = Flatten(map)")
    names = [f"out{i}" for i in range(50)]
    nodes += [("Identity", ["flat"], [name]) for name in names]
    proto = onnx_models.build(nodes, [*names, names[0]], {"k": onnx_models.weight(D, 3, 8, 8)})
    with pytest.raises(UsageError) as caught:
        open_model(onnx_models.save(proto, tmp_path / "m.onnx"))
    assert "out11 and 38 more could each be the representation" in caught.value.message


@pytest.mark.parametrize(
    ("shape", "end"), [((256,), "activation:Gather"), ((256, 1), "activation:Gather"), ((256, D), "other:Gather")]
)
def test_a_table_of_numbers_is_an_activation(tmp_path: Path, shape: tuple[int, ...], end: str) -> None:
    """A ReLU, or a softmax, of an 8-bit model may be written as a table."""
    index: Any = ("Cast", ["z"], ["i"], {"to": TensorProto.INT64})
    if shape[-1] == D:
        index = ("ArgMax", ["z"], ["i"], {"axis": 1, "keepdims": 0})
    tail = [LINEAR, index, ("Gather", ["table", "i"], ["embedding"])]
    model = opened(tmp_path, tail, {"table": onnx_models.weight(*shape)})
    assert str(model.representation.ends_in) == end


def test_a_look_up_does_not_cover_what_is_added_to_it(tmp_path: Path) -> None:
    tail = [
        LINEAR,
        *graph("""
            i = ArgMax(z, axis=1, keepdims=0); q = Gather(table, i); r = Max(z, zero); embedding = Add(q, r)
        """),
    ]
    model = opened(tmp_path, tail, {"table": onnx_models.weight(D, D), "zero": np.array(0, np.float32)})
    assert str(model.representation.ends_in) == "other:Max"


@pytest.mark.parametrize("quantised", [False, True])
def test_a_shift_by_a_statistic_of_the_image_is_a_bias(tmp_path: Path, quantised: bool) -> None:
    """The demo's planted feature is made so; quantised, the shift may have one sign, as what a ReLU gave has."""

    def stored(name: str) -> list[Any]:
        scale = ["one", "zero"]
        return [
            ("QuantizeLinear", [name, *scale], [f"{name}_q"]),
            ("DequantizeLinear", [f"{name}_q", *scale], [f"{name}_"]),
        ]

    statistic = graph("ms = ReduceMean(squares, axis); sd = Sqrt(ms)")
    if quantised:
        shift = [*stored("sd"), ("Mul", ["sd_", "v"], ["shift"]), *stored("shift")]
    else:
        shift = graph("shift_ = Mul(sd, v)")
    tail = [LINEAR, ("Mul", ["z", "z"], ["squares"]), *statistic, *shift, ("Add", ["z", "shift_"], ["embedding"])]
    weights = {"v": VECTOR, "axis": np.array([1]), "one": np.array(1, np.float32), "zero": np.array(0, np.uint8)}
    model = opened(tmp_path, tail, weights)
    assert str(model.representation.ends_in) == "other:Add"


SCORES = ("Gemm", ["h", "c", "b"], ["embedding"])
SCALED = [LINEAR, ("Mul", ["z", "s"], ["embedding"])]


@pytest.mark.parametrize("tail", [[SCORES], SCALED], ids=["scores", "scaled"])
def test_a_user_makes_no_embedding_of_what_looks_like_scores(tmp_path: Path, tail: list[Any]) -> None:
    weights = {"s": np.array(100, np.float32)}
    for options in ({}, {"tensor": "embedding"}):
        found = opened(tmp_path, tail, weights, **options).representation
        assert (found.tensor, found.tensor_assumed) == ("embedding", True)


def test_scores_of_a_layer_without_bias_stay_scores(tmp_path: Path) -> None:
    model = opened(tmp_path, graph("output = MatMul(h, c)"), {}, tensor="output")
    assert model.representation.rule == "logits"


def test_a_bias_of_zeros_does_not_hide_the_width_of_a_label_set(tmp_path: Path) -> None:
    zeros = {"b": np.zeros(1000, np.float32)}
    assert opened(tmp_path, [SCORES], zeros).representation.assumed
    model = opened(tmp_path, graph("output = Gemm(h, c, b)"), zeros)
    assert (model.representation.tensor, model.class_output) == ("h", "output")


@pytest.mark.parametrize("join", graph("embedding = Add(y1, y2); embedding = Concat(y1, y2, axis=1)"))
def test_joined_scores_are_doubted_under_an_embeddings_name(tmp_path: Path, join: Any) -> None:
    tail = [*graph("y1 = Gemm(h, c, b); y2 = Gemm(flat, c, b)"), join]
    assert opened(tmp_path, tail, {}).representation.assumed


def test_what_is_less_its_log_sum_exp_is_a_log_softmax(tmp_path: Path) -> None:
    tail = [LINEAR, *graph("lse = ReduceLogSumExp(z, axis); output = Sub(z, lse)")]
    model = opened(tmp_path, tail, {"axis": np.array([1])})
    assert (model.representation.tensor, model.class_output) == ("h", "output")


def test_the_norm_of_one_image_is_no_temperature(tmp_path: Path) -> None:
    tail = [LINEAR, *graph("n = ReduceL2(z, axis); image_embeds = Div(z, n)")]
    assert not opened(tmp_path, tail, {"axis": np.array([1])}, batch=1).representation.assumed

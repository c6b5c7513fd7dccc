"""What a graph does to its image input before the first layer, against what ONNX Runtime computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from robustcheck_onnx.checker.evidence import GraphScaling
from robustcheck_onnx.checker.model.external import Weights
from robustcheck_onnx.checker.model.image_input import find_image_input
from robustcheck_onnx.checker.model.layers import build_layers
from robustcheck_onnx.checker.model.light import parse_light
from robustcheck_onnx.checker.model.open import with_shapes
from robustcheck_onnx.checker.model.scaling import find_scalings
from support import onnx_models
from support.onnx_models import Array, Node, graph

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
NHWC = ("image", TensorProto.FLOAT, ("batch", 8, 8, 3))
BYTES = ("image", TensorProto.UINT8, ("batch", 3, 8, 8))
AFFINE_OPS = [
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Rsub",
    "Neg",
    "Identity",
    "BatchNormalization",
    "Conv",
    "Turn",
    "Apart",
    "NHWC",
]


def column(values: Array) -> Array:
    return values.reshape(-1, 1, 1)


def with_layer(
    nodes: list[Node], weights: dict[str, Array], last: str, *, inputs: Any = (onnx_models.IMAGE,)
) -> onnx.ModelProto:
    """The nodes, their last tensor as an output named as it is, and a convolution of 16 outputs that reads it."""
    layers: list[Node] = [
        ("Conv", [last, "conv.weight"], ["conv"], {"kernel_shape": [3, 3]}),
        *graph("gap = GlobalAveragePool(conv); embedding = Flatten(gap)"),
    ]
    kinds = {"conv.weight": onnx_models.weight(16, 3, 3, 3)}
    model: onnx.ModelProto = onnx_models.build([*nodes, *layers], ["embedding"], weights | kinds, inputs=inputs)
    return model


def scalings(model: onnx.ModelProto) -> tuple[GraphScaling, ...]:
    content = model.SerializeToString()
    proto, places = parse_light(content)
    weights = {weight.name: tuple(weight.dims) for weight in proto.graph.initializer}
    image = find_image_input(proto.graph, weights.keys(), "m.onnx")
    layers = build_layers(with_shapes(proto), image.name, weights)
    return find_scalings(proto, layers, image, Weights(None, content, places), "embedding")


def scaling(model: onnx.ModelProto) -> GraphScaling | None:
    found = scalings(model)
    assert len(found) < 2
    return found[0] if found else None


def entering(model: onnx.ModelProto, tensor: str, image: Array) -> Array:
    """What ONNX Runtime feeds the first layer."""
    seen = onnx.ModelProto()
    seen.CopyFrom(model)
    seen.graph.output.append(onnx.ValueInfoProto(name=tensor))
    session = ort.InferenceSession(seen.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run([tensor], {"image": image})[0])


def assert_maps(model: onnx.ModelProto, tensor: str, image: Array) -> GraphScaling:
    """Assert that the record gives what enters the first layer, (batch, channel, height, width), of this image."""
    found = scaling(model)
    assert found is not None
    pixels = image.astype(np.float64)
    pixels = pixels.transpose(0, 3, 1, 2) if image.shape[-1] == 3 else pixels
    ours = pixels[:, list(found.channels)] * column(np.array(found.factor)) + column(np.array(found.offset))
    theirs = entering(model, tensor, image)
    assert np.allclose(ours, theirs, rtol=1e-4, atol=1e-4 * (1 + np.abs(theirs).max()))
    by_mean = (pixels[:, list(found.channels)] - column(np.array(found.mean))) / column(np.array(found.std))
    assert np.allclose(by_mean, ours, rtol=1e-6, atol=1e-6 * (1 + np.abs(ours).max()))
    return found


def photo(shape: tuple[int, ...] = (2, 3, 8, 8)) -> Array:
    return np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)


def test_a_normalisation_in_the_graph_is_read() -> None:
    nodes: list[Node] = graph("centred = Sub(image, mean); x = Div(centred, std)")
    found = assert_maps(with_layer(nodes, {"mean": column(MEAN), "std": column(STD)}, "x"), "x", photo())
    assert found.mean == pytest.approx(MEAN)
    assert found.std == pytest.approx(STD)
    assert (found.channels, found.ops) == ((0, 1, 2), ("Sub", "Div"))


def test_a_constant_that_is_no_number_scales_nothing() -> None:
    for value in (np.nan, np.inf, -np.inf):
        weights = {"at": np.array([value], np.float32)}
        for node in graph("x = Sub(image, at); x = Squeeze(image, at); x = Slice(image, at, at)"):
            assert scaling(with_layer([node], weights, "x")) is None, (value, node)


def test_bytes_are_cast_scaled_and_normalised() -> None:
    nodes: list[Node] = graph("""
        float = Cast(image, to=FLOAT); unit = Div(float, levels)
        x = BatchNormalization(unit, gain, bias, mean, var)
    """)
    weights = {"levels": np.array(255, np.float32), "mean": MEAN, "var": STD**2}
    weights |= {"gain": np.ones(3, np.float32), "bias": np.zeros(3, np.float32)}
    image = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8)).astype(np.uint8)
    found = assert_maps(with_layer(nodes, weights, "x", inputs=(BYTES,)), "x", image)
    assert found.mean == pytest.approx(255 * MEAN, rel=1e-4)


def test_channels_are_followed_through_a_transpose_and_a_turn_to_bgr() -> None:
    nodes: list[Node] = graph("""
        centred = Sub(image, mean); nchw = Transpose(centred, perm=[0, 3, 1, 2])
        x = Slice(nchw, last, before, axis, back)
    """)
    places = {"last": [2], "before": [-(2**31)], "axis": [1], "back": [-1]}
    weights = {name: np.array(value, np.int64) for name, value in places.items()} | {"mean": MEAN}
    found = assert_maps(with_layer(nodes, weights, "x", inputs=(NHWC,)), "x", photo((2, 8, 8, 3)))
    assert found.channels == (2, 1, 0)
    assert found.offset == pytest.approx(-MEAN[::-1])


def test_channels_that_are_scaled_apart_are_one_map() -> None:
    """The form of torchvision's `transform_input`: ImageNet's normalisation becomes that of 0.5 and 0.5."""
    nodes: list[Node] = []
    weights: dict[str, Array] = {"axis": np.array([1], np.int64)}
    for i in range(3):
        weights |= {f"i{i}": np.array(i, np.int64), f"f{i}": STD[i] / 0.5, f"o{i}": (MEAN[i] - 0.5) / 0.5}
        nodes += [
            ("Gather", ["image", f"i{i}"], [f"g{i}"], {"axis": 1}),
            ("Unsqueeze", [f"g{i}", "axis"], [f"u{i}"]),
            ("Mul", [f"u{i}", f"f{i}"], [f"m{i}"]),
            ("Add", [f"m{i}", f"o{i}"], [f"a{i}"]),
        ]
    nodes.append(("Concat", ["a0", "a1", "a2"], ["x"], {"axis": 1}))
    weights = {name: np.asarray(value) for name, value in weights.items()}
    found = assert_maps(with_layer(nodes, weights, "x"), "x", photo())
    total = STD * np.array(found.std), MEAN + STD * np.array(found.mean)  # both normalisations, of 0–1 pixels
    assert np.allclose(total, 0.5, atol=1e-6)


def test_a_pair_of_quantisers_changes_nothing_and_a_dequantiser_of_bytes_scales() -> None:
    scale, zero = np.array(0.02, np.float32), np.array(100, np.uint8)
    pair: list[Node] = graph("""
        doubled = Mul(image, two); q = QuantizeLinear(doubled, scale, zero)
        x = DequantizeLinear(q, scale, zero)
    """)
    found = scaling(with_layer(pair, {"two": np.array(2, np.float32), "scale": scale, "zero": zero}, "x"))
    assert found is not None
    assert (found.factor, found.offset) == ((2.0,) * 3, (0.0,) * 3)
    nodes: list[Node] = graph("x = DequantizeLinear(image, scale, zero)")
    image = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8)).astype(np.uint8)
    assert_maps(with_layer(nodes, {"scale": scale, "zero": zero}, "x", inputs=(BYTES,)), "x", image)


def nearly_one_tap() -> Array:
    kernel = np.zeros((3, 1, 3, 3), np.float32)
    kernel[:, 0, 1, 1] = 1
    kernel[1, 0, 0, 1] = 0.01
    return kernel


def mixed_condition() -> Array:
    condition = np.ones((1, 1, 8, 8), bool)
    condition[..., 3] = False
    return condition


def channel_pad() -> dict[str, Array]:
    """One channel more in front, and bounds that take the first three of the four."""
    places = {"w": [0, 1, 0, 0, 0, 0, 0, 0], "i0": [0], "i1": [1], "i3": [3]}
    return {name: np.array(value, np.int64) for name, value in places.items()}


def full(values: Array) -> Array:
    return np.broadcast_to(values.reshape(1, 3, 1, 1), (1, 3, 8, 8)).astype(np.float32)


def taps(matrix: Array, *, depthwise: bool) -> Array:
    kernel = np.zeros((3, 1 if depthwise else 3, 3, 3), np.float32)
    kernel[:, :, 1, 1] = np.diag(matrix)[:, None] if depthwise else matrix
    return kernel


NORMALISED: list[Node] = graph("centred = Sub(start, mean); x = Div(centred, std)")
CONSTANTS: dict[str, Array] = {"mean": column(MEAN), "std": column(STD)}
PADS = {"pads": np.zeros(8, np.int64)}
BORDER = {"pads": np.array([1, 2, 1, 0], np.int64), "axes": np.array([2, -1], np.int64)}
FORMS: dict[str, tuple[list[Node], dict[str, Array]]] = {
    "constants as large as the image": (
        graph("centred = Sub(image, mean); x = Div(centred, std)"),
        {"mean": full(MEAN), "std": full(STD)},
    ),
    "a mean as large as one channel": (graph("x = Sub(image, mean)"), {"mean": np.full((8, 8), 0.5, np.float32)}),
    "Expand of a constant": (
        graph("""
            shape = Shape(image); expanded = Expand(std, shape); centred = Sub(image, mean)
            x = Div(centred, expanded)
        """),
        CONSTANTS,
    ),
    "a constant of the image's type": (
        graph("alike = CastLike(mean, image); centred = Sub(image, alike); x = Div(centred, std)"),
        CONSTANTS,
    ),
    "Expand of the image": ([*graph("shape = Shape(image); start = Expand(image, shape)"), *NORMALISED], CONSTANTS),
    "Sum": (
        graph("centred = Sum(minus, image, one); x = Div(centred, std)"),
        {"minus": column(-MEAN - 1), "one": np.array(1, np.float32), "std": column(STD)},
    ),
    "a Pad of nothing": ([("Pad", ["image", "pads"], ["start"]), *NORMALISED], CONSTANTS | PADS),
    "Where of a constant": (
        [("Where", ["yes", "image", "zero"], ["start"]), *NORMALISED],
        CONSTANTS | {"yes": np.array(True), "zero": np.array(0, np.float32)},
    ),
    "Where of a constant as large as the image": (
        [("Where", ["no", "zero", "image"], ["start"]), *NORMALISED],
        CONSTANTS | {"no": np.zeros((1, 1, 8, 8), bool), "zero": np.array(0, np.float32)},
    ),
    "a depthwise centre tap": (
        graph("x = Conv(image, kernel, bias, group=3, pads=[1, 1, 1, 1])"),
        {"kernel": taps(np.diag(1 / STD), depthwise=True), "bias": -MEAN / STD},
    ),
    "a centre tap that turns the channels round": (
        graph("x = Conv(image, kernel, bias, pads=[1, 1, 1, 1])"),
        {"kernel": taps(np.diag(1 / STD)[::-1], depthwise=False), "bias": -MEAN / STD},
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_other_forms_of_a_normalisation_are_read(form: str) -> None:
    nodes, weights = FORMS[form]
    found = assert_maps(with_layer(nodes, weights, "x"), "x", photo())
    assert found.offset != (0.0,) * 3


def test_a_border_is_no_pixel() -> None:
    nodes: list[Node] = [("Pad", ["image", "pads", "", "axes"], ["start"]), *NORMALISED]
    model = with_layer(nodes, CONSTANTS | BORDER, "x")
    found = scaling(model)
    assert found is not None
    image = photo()
    ours = image * column(np.array(found.factor)) + column(np.array(found.offset))
    assert np.allclose(ours, entering(model, "x", image)[:, :, 1:9, 2:10], atol=1e-5)


def test_grey_that_becomes_three_channels_keeps_its_map() -> None:
    grey = ("image", TensorProto.FLOAT, ("batch", 1, 8, 8))
    nodes: list[Node] = [("Expand", ["image", "shape"], ["start"]), *NORMALISED]
    weights = CONSTANTS | {"shape": np.array([1, 3, 1, 1], np.int64)}
    found = assert_maps(with_layer(nodes, weights, "x", inputs=(grey,)), "x", photo((2, 1, 8, 8)))
    assert found.channels == (0, 0, 0)


BRANCHED: list[Node] = graph("centred = Sub(image, mean); x = Div(centred, std)")


@pytest.mark.parametrize(
    "beside",
    [
        graph("unused = ReduceMean(image, keepdims=1)"),
        graph("unused = Mul(image, two)"),
        graph("doubled = Mul(image, two); unused = Shape(doubled)"),
    ],
)
def test_what_never_reaches_the_representation_says_nothing(beside: list[Node]) -> None:
    weights = CONSTANTS | {"two": np.array(2, np.float32)}
    model = with_layer([*beside, *BRANCHED], weights, "x")
    alone = scaling(with_layer(BRANCHED, CONSTANTS, "x"))
    assert scaling(model) == alone
    model.graph.output.append(onnx.ValueInfoProto(name="unused"))  # an output that is not the representation
    assert scaling(model) == alone


def test_branches_that_differ_are_all_given_and_those_that_scale_come_first() -> None:
    beside: list[Node] = [
        ("GlobalMaxPool", ["image"], ["highest"]),
        *BRANCHED,
        *graph("""
            doubled = Mul(image, two); gate = Sigmoid(doubled); zeros = Mul(image, nothing)
            half = Sigmoid(zeros); red = Gather(image, first, axis=1); red2 = Mul(red, two)
            red3 = Sigmoid(red2); a = Mul(gate, half); b = Mul(red3, highest); c = Add(x, a); y = Add(c, b)
        """),
    ]
    weights = CONSTANTS | {"two": np.array(2, np.float32), "nothing": np.array(0, np.float32)}
    model = with_layer(beside, weights | {"first": np.array([0], np.int64)}, "y")
    entering(model, "y", photo())
    found = scalings(model)
    assert [each.ops for each in found] == [("Mul",), ("Sub", "Div"), ()]
    assert found[1] == scaling(with_layer(BRANCHED, CONSTANTS, "x"))
    assert (found[2].factor, found[2].offset) == ((1.0,) * 3, (0.0,) * 3)


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        (graph("x = Identity(image)"), {}),
        (graph("x = Conv(image, w, kernel_shape=[1, 1])"), {"w": onnx_models.weight(3, 3, 1, 1)}),
        (graph("x = Conv(image, w, kernel_shape=[3, 3], group=3)"), {"w": onnx_models.weight(3, 1, 3, 3)}),
        (graph("x = Mul(image, w)"), {"w": np.zeros(3, np.float32).reshape(3, 1, 1)}),
        (graph("x = Mul(image, w)"), {"w": onnx_models.weight(8)}),  # one a column of the image
        (graph("x = Mul(image, w)"), {"w": onnx_models.weight(1, 3, 8, 8)}),
        (graph("x = Mul(image, image)"), {}),
        (graph("x = Div(w, image)"), {"w": np.array(1, np.float32)}),
        (graph("x = Sigmoid(image)"), {}),
        (graph("x = Conv(image, w, group=3, pads=[1, 1, 1, 1])"), {"w": nearly_one_tap()}),
        (graph("x = Where(w, image, other)"), {"w": mixed_condition(), "other": np.float32(0)}),
        (graph("y = Pad(image, w); x = Slice(y, i0, i3, i1)"), channel_pad()),
        (graph("x = Add(image, w)"), {"w": np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 1, 8, 8)}),
    ],
)
def test_what_is_no_scaling_is_none(nodes: list[Node], weights: dict[str, Array]) -> None:
    model = with_layer(nodes, weights, "x")
    entering(model, "x", photo())  # ONNX Runtime takes it
    assert scaling(model) is None


@pytest.mark.parametrize(
    "node",
    graph("""
        x = Transpose(image, perm=[0, 2]); x = Squeeze(image, many); x = Slice(image, none, ends, axis, none)
        x = Slice(image, ends, many, axis); x = Concat(image, image); x = Conv(image, kernel, group=0)
        x = Conv(image, kernel, four, group=3); x = BatchNormalization(image, minus, minus, minus, minus)
    """),
)
def test_a_node_that_no_runtime_takes_is_no_scaling(node: Node) -> None:
    weights = {"many": [0, 1, 2, 3, 3], "none": [0], "ends": [2], "axis": [1]}
    arrays: dict[str, Array] = {name: np.array(value, np.int64) for name, value in weights.items()}
    arrays |= {"kernel": onnx_models.weight(3, 1, 1, 1), "four": onnx_models.weight(4)}
    arrays["minus"] = -np.ones(3, np.float32)
    assert scaling(with_layer([node], arrays, "x")) is None


@st.composite
def chains(draw: st.DrawFn) -> tuple[list[Node], dict[str, Array], str]:
    """Up to six steps that act on each channel alone, and the tensor that they end in."""
    nodes: list[Node] = []
    weights: dict[str, Array] = {"turned": np.array([2, 0, 1], np.int64)}
    tensor = "image"
    number = st.floats(0.25, 4, width=32)
    for step, op in enumerate(draw(st.lists(st.sampled_from(AFFINE_OPS), min_size=1, max_size=6))):
        x, w, before = f"x{step}", f"w{step}", tensor
        values = np.array(draw(st.lists(number, min_size=3, max_size=3)), np.float32)
        shaped = draw(st.sampled_from([column(values), values.reshape(1, 3, 1, 1), values[0], values[:1]]))
        tensor = x
        weights[w] = np.asarray(shaped)
        if op == "Rsub":
            nodes.append(("Sub", [w, before], [x]))
        elif op in ("Neg", "Identity"):
            nodes.append((op, [before], [x]))
        elif op == "BatchNormalization":
            weights[w] = values
            nodes.append((op, [before, w, w, w, w], [x], {"epsilon": draw(number)}))
        elif op == "Conv":
            weights[w] = values.reshape(3, 1, 1, 1)
            nodes.append((op, [before, w], [x], {"group": 3}))
        elif op == "Turn":
            nodes.append(("Gather", [before, "turned"], [x], {"axis": 1}))
        elif op == "Apart":
            apart = [f"{x}_{i}" for i in range(3)]
            nodes.append(("Split", [before], apart, {"axis": 1, "num_outputs": 3}))
            nodes.append(("Mul", [apart[0], w], [f"{x}_m"])) if shaped.size == 1 else None
            first = f"{x}_m" if shaped.size == 1 else apart[0]
            nodes.append(("Concat", [first, *apart[:0:-1]], [x], {"axis": 1}))
        elif op == "NHWC":
            weights[w] = values
            nodes += [
                ("Transpose", [before], [f"{x}_t"], {"perm": [0, 2, 3, 1]}),
                ("Mul", [f"{x}_t", w], [f"{x}_m"]),
                ("Transpose", [f"{x}_m"], [x], {"perm": [0, 3, 1, 2]}),
            ]
        else:
            nodes.append((op, [before, w], [x]))
    return nodes, weights, tensor


@given(chains())
def test_wherever_the_steps_stand_the_map_is_what_onnx_runtime_computes(chain: Any) -> None:
    nodes, weights, tensor = chain
    model = with_layer(nodes, weights, tensor)
    if scaling(model) is None:  # then nothing is done to the values; channels may be turned
        image = photo()
        assert np.allclose(
            np.sort(entering(model, tensor, image), axis=1), np.sort(image, axis=1), rtol=1e-5, atol=1e-5
        )
    else:
        assert_maps(model, tensor, photo())


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of torch's two exporters
@pytest.mark.parametrize("dynamo", [False, True])
def test_real_architectures(dynamo: bool, tmp_path: Any) -> None:
    """Random weights of torchvision: a first layer is none, and `transform_input` is the map that its source says."""
    torch = pytest.importorskip("torch")
    models = pytest.importorskip("torchvision").models
    from robustcheck_onnx.checker.model import open_model

    nets = {
        "shufflenet": models.shufflenet_v2_x0_5(weights=None),
        "vit": models.VisionTransformer(64, 16, 1, 2, 32, 64),
        "googlenet": models.googlenet(weights=None, transform_input=True, init_weights=False, aux_logits=False),
    }
    found = {}
    for name, net in nets.items():
        path, example = tmp_path / f"{name}.onnx", (torch.zeros(2, 3, 64, 64),)
        torch.onnx.export(net.eval(), example, path, dynamo=dynamo, external_data=False, verbose=False)
        found[name] = open_model(path).scaling
    assert (found["shufflenet"], found["vit"]) == (None, None)
    assert found["googlenet"] is not None
    assert found["googlenet"].factor == pytest.approx(STD / 0.5)
    assert found["googlenet"].offset == pytest.approx((MEAN - 0.5) / 0.5)

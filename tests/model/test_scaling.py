"""What a graph does to its image input before the first layer, against what ONNX Runtime computes."""

import re
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import default_rng
from onnx import ModelProto, TensorProto, ValueInfoProto

from robustcheck_onnx.checker.core.evidence import GraphScaling
from robustcheck_onnx.checker.core.measure.opening import model_facts
from robustcheck_onnx.checker.core.model.constants import Constants
from robustcheck_onnx.checker.core.model.image_input import find_image_input
from robustcheck_onnx.checker.core.model.layers import build_layers, with_shapes
from robustcheck_onnx.checker.core.model.scaling import find_scalings
from robustcheck_onnx.checker.core.model.weights import Weights, parse_stripped
from support import Made
from support.onnx_models import IMAGE, Array, Value, graph, written

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
NHWC = ("image", TensorProto.FLOAT, ("batch", 8, 8, 3))
BYTES = ("image", TensorProto.UINT8, ("batch", 3, 8, 8))


def column(values: Array) -> Array:
    return values.reshape(-1, 1, 1)


def full(values: Array) -> Array:
    return np.broadcast_to(values.reshape(1, 3, 1, 1), (1, 3, 8, 8))


def taps(matrix: Array) -> Array:
    kernel = np.zeros((3, matrix.shape[1], 3, 3), np.float32)
    kernel[:, :, 1, 1] = matrix
    return kernel


NEARLY_ONE_TAP = taps(np.ones((3, 1)))
NEARLY_ONE_TAP[1, 0, 0, 1] = 0.01
CONSTANTS = {
    **{"mean": column(MEAN), "std": column(STD), "mean_full": full(MEAN), "std_full": full(STD)},
    **{"scale": np.array(0.02, np.float32), "zero": np.array(100, np.uint8), "zeros": np.zeros((3, 1, 1), np.float32)},
    **{"tap": taps(1 / STD[:, None]), "turned_tap": taps(np.diag(1 / STD)[::-1]), "bias": -MEAN / STD},
    **{"nearly_one_tap": NEARLY_ONE_TAP, "mixed": (np.arange(8) != 3).reshape(1, 1, 1, 8)},
    **{"never": np.zeros((1, 1, 8, 8), bool), "uneven": np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 1, 8, 8)},
}
NORMALISED = "centred = Sub(start, mean); x = Div(centred, std)"
BRANCHED = NORMALISED.replace("start", "image")


def with_layer(text: str, last: str = "x", image: Value = IMAGE, **weights: Any) -> ModelProto:
    """Nodes on "image", `CONSTANTS` and `weights`, and a convolution of 16 outputs that reads the last."""
    layer = f"\nconv = Conv({last}, w16x3x3x3, kernel_shape=[3, 3]); gap = GlobalAveragePool(conv); out = Flatten(gap)"
    nodes = {name for node in graph(text) for name in node[1]}
    constants = {name: value for name, value in (CONSTANTS | weights).items() if name in nodes}
    return written(text + layer, before="", inputs=[image], **constants)


def found_in(model: ModelProto) -> tuple[GraphScaling, ...] | None:
    content = model.SerializeToString()
    proto, places = parse_stripped(content)
    image = find_image_input(proto.graph)
    layers = build_layers(with_shapes(proto), image.name, proto.graph.initializer)
    return find_scalings(Constants(proto, layers, Weights(None, content, places)), image, "out")


def scalings(model: ModelProto) -> tuple[GraphScaling, ...]:
    return found_in(model) or ()


def scaling(model: ModelProto) -> GraphScaling | None:
    found = scalings(model)
    assert len(found) < 2
    return found[0] if found else None


def entering(model: ModelProto, tensor: str, image: Array) -> Array:
    """What ONNX Runtime feeds the first layer."""
    seen = ModelProto()
    seen.CopyFrom(model)
    seen.graph.output.append(ValueInfoProto(name=tensor))
    session = ort.InferenceSession(seen.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run([tensor], {"image": image})[0])


def assert_maps(model: ModelProto, tensor: str, image: Array) -> GraphScaling:
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
    return default_rng(0).uniform(0, 1, shape).astype(np.float32)


PHOTO = photo()
PIXELS = default_rng(0).integers(0, 256, (2, 3, 8, 8)).astype(np.uint8)


def test_a_normalisation_in_the_graph_is_read() -> None:
    found = assert_maps(with_layer(BRANCHED), "x", PHOTO)
    assert found.mean == pytest.approx(MEAN)
    assert found.std == pytest.approx(STD)
    assert (found.channels, found.ops) == ((0, 1, 2), ("Sub", "Div"))


def test_bytes_are_cast_scaled_and_normalised() -> None:
    text = """float = Cast(image, to=FLOAT); unit = Div(float, 255.0)
        x = BatchNormalization(unit, [1.0,1.0,1.0], [0.0,0.0,0.0], mean_row, variance)"""
    model = with_layer(text, image=BYTES, mean_row=MEAN, variance=STD**2)
    assert assert_maps(model, "x", PIXELS).mean == pytest.approx(255 * MEAN, rel=1e-4)
    assert_maps(with_layer("x = DequantizeLinear(image, scale, zero)", image=BYTES), "x", PIXELS)


def test_channels_are_followed_through_a_transpose_and_a_turn_to_bgr() -> None:
    text = """centred = Sub(image, m); nchw = Transpose(centred, perm=[0, 3, 1, 2])
        x = Slice(nchw, [2], [-2147483648], [1], [-1])"""
    assert assert_maps(with_layer(text, image=NHWC, m=MEAN), "x", photo((2, 8, 8, 3))).channels == (2, 1, 0)


def test_a_pair_of_quantisers_changes_nothing() -> None:
    pair = """doubled = Mul(image, 2.0); q = QuantizeLinear(doubled, scale, zero)
        x = DequantizeLinear(q, scale, zero)"""
    found = scaling(with_layer(pair))
    assert found is not None
    assert (found.factor, found.offset) == ((2.0,) * 3, (0.0,) * 3)


APART = "g{0} = Gather(image, {0}, axis=1); u{0} = Unsqueeze(g{0}, [1]); m{0} = Mul(u{0}, {1}); a{0} = Add(m{0}, {1})"
FORMS = {
    "constants as large as the image": "centred = Sub(image, mean_full); x = Div(centred, std_full)",
    "Expand of a constant": "s = Shape(image); all = Expand(std, s); centred = Sub(image, mean); x = Div(centred, all)",
    "a constant of the image's type": "m = CastLike(mean, image); centred = Sub(image, m); x = Div(centred, std)",
    "Expand of the image": f"shape = Shape(image); start = Expand(image, shape); {NORMALISED}",
    "Sum": "centred = Sum([[[-1.2]],[[-1.3]],[[-1.4]]], image, 1.0); x = Div(centred, std)",
    "a Pad of nothing": f"start = Pad(image, [0,0,0,0,0,0,0,0]); {NORMALISED}",
    "Where of a constant": f"start = Where(True, image, 0.0); {NORMALISED}",
    "Where of a constant as large as the image": f"start = Where(never, 0.0, image); {NORMALISED}",
    "a depthwise centre tap": "x = Conv(image, tap, bias, group=3, pads=[1, 1, 1, 1])",
    "channels that are scaled apart, as by torchvision's `transform_input`": (
        f"{'; '.join(map(APART.format, range(3), STD))}; x = Concat(a0, a1, a2, axis=1)"
    ),
    "a centre tap that turns the channels round": "x = Conv(image, turned_tap, bias, pads=[1, 1, 1, 1])",
}


def test_other_forms_of_a_normalisation_are_read() -> None:
    for form, text in FORMS.items():
        assert assert_maps(with_layer(text), "x", PHOTO).offset != (0.0,) * 3, form


def test_a_border_is_no_pixel() -> None:
    model = with_layer(f"start = Pad(image, [1,2,1,0], , [2,-1]); {NORMALISED}")
    found = scaling(model)
    assert found is not None
    ours = PHOTO * column(np.array(found.factor)) + column(np.array(found.offset))
    assert np.allclose(ours, entering(model, "x", PHOTO)[:, :, 1:9, 2:10], atol=1e-5)


def test_grey_that_becomes_three_channels_keeps_its_map() -> None:
    grey = ("image", TensorProto.FLOAT, ("batch", 1, 8, 8))
    model = with_layer(f"start = Expand(image, [1,3,1,1]); {NORMALISED}", image=grey)
    assert assert_maps(model, "x", photo((2, 1, 8, 8))).channels == (0, 0, 0)


def test_what_never_reaches_the_representation_says_nothing() -> None:
    alone = scaling(with_layer(BRANCHED))
    for beside in (
        "unused = ReduceMean(image, keepdims=1)",
        "unused = Mul(image, 2.0)",
        "doubled = Mul(image, 2.0); unused = Shape(doubled)",
    ):
        model = with_layer(f"{beside}; {BRANCHED}")
        assert scaling(model) == alone
        model.graph.output.append(ValueInfoProto(name="unused"))  # an output that is not the representation
        assert scaling(model) == alone


def test_branches_that_differ_are_all_given_and_those_that_scale_come_first(opened: Made) -> None:
    text = f"""highest = GlobalMaxPool(image); {BRANCHED}; doubled = Mul(image, 2.0); gate = Sigmoid(doubled)
        nought = Mul(image, 0.0); half = Sigmoid(nought); red = Gather(image, [0], axis=1); red2 = Mul(red, 2.0)
        red3 = Sigmoid(red2); a = Mul(gate, half); b = Mul(red3, highest); c = Add(x, a); z = Add(c, b)"""
    model = with_layer(text, "z")
    entering(model, "z", PHOTO)
    found = scalings(model)
    assert [each.ops for each in found] == [("Mul",), ("Sub", "Div"), ()]
    assert found[1] == scaling(with_layer(BRANCHED))
    assert (found[2].factor, found[2].offset) == ((1.0,) * 3, (0.0,) * 3)
    facts = model_facts(opened(model))
    assert (facts.scaling, *facts.other_scalings) == found  # the verdict reads these


def test_what_is_no_scaling_is_none() -> None:
    for text in (
        "x = Identity(image)",
        "x = Conv(image, w3x3x1x1, kernel_shape=[1, 1])",
        "x = Conv(image, w3x1x3x3, kernel_shape=[3, 3], group=3)",
        "x = Mul(image, zeros)",
        "x = Mul(image, w8)",  # one a column of the image
        "x = Mul(image, w1x3x8x8)",
        "x = Mul(image, image)",
        "x = Div(1.0, image)",
        "x = Sigmoid(image)",
        "x = Conv(image, nearly_one_tap, group=3, pads=[1, 1, 1, 1])",
        "x = Where(mixed, image, 0.0)",
        "y = Pad(image, [0,1,0,0,0,0,0,0]); x = Slice(y, [0], [3], [1])",  # one channel more in front
        "x = Add(image, uneven)",
    ):
        model = with_layer(text)
        entering(model, "x", PHOTO)  # ONNX Runtime takes it
        assert scaling(model) is None, text


def test_no_scaling_is_told_from_one_that_is_not_known() -> None:
    for text, known in (
        ("x = Identity(image)", ()),
        ("x = Sigmoid(image)", ()),  # the first layer
        ("x = Mul(image, zeros)", None),
        ("red = Gather(image, [0], axis=1); x = Concat(red, red, red, axis=1)", None),
    ):
        assert found_in(with_layer(text)) == known, text


def test_a_node_that_no_runtime_takes_or_a_constant_that_is_no_number_is_no_scaling() -> None:
    for text in (
        *("x = Transpose(image, perm=[0, 2])", "x = Squeeze(image, [0,1,2,3,3])", "x = Concat(image, image)"),
        *("x = Slice(image, [0], [2], [1], [0])", "x = Slice(image, [2], [0,1,2], [1])"),
        *("x = Mul(image, [2.0], [3.0])", "x = Sub(image, [2.0], [3.0])", "x = Div([2.0], [3.0], image)"),
        "q = Squeeze(image, [0,2,3]); g = Gather(q, 1); x = Squeeze(g, [0])",
        "q = Squeeze(image, [0,2,3]); g = Gather(q, 1); x = Concat(g, g, axis=0)",
        *("x = Conv(image, w3x1x1x1, group=0)", "x = Conv(image, w3x1x1x1, w4, group=3)"),
        "x = BatchNormalization(image, [-1.0,-1.0,-1.0], [-1.0,-1.0,-1.0], [-1.0,-1.0,-1.0], [-1.0,-1.0,-1.0])",
    ):
        assert scaling(with_layer(text)) is None, text
    for value in (np.nan, np.inf, -np.inf):
        for text in ("x = Sub(image, at)", "x = Squeeze(image, at)", "x = Slice(image, at, at)"):
            assert scaling(with_layer(text, at=[value])) is None, (value, text)


STEPS = {
    **{op: f"X = {op}(Y, W)" for op in ("Add", "Sub", "Mul", "Div")},
    **{op: f"X = {op}(Y)" for op in ("Neg", "Identity")},
    "Rsub": "X = Sub(W, Y)",
    "BatchNormalization": "X = BatchNormalization(Y, V, V, V, V, epsilon=E)",
    "Conv": "X = Conv(Y, [[[[A]]],[[[B]]],[[[C]]]], group=3)",
    "Turn": "X = Gather(Y, [2,0,1], axis=1)",
    "Apart": "X0, X1, X2 = Split(Y, axis=1, num_outputs=3); Xm = Mul(X0, A); X = Concat(Xm, X2, X1, axis=1)",
    "NHWC": "Xt = Transpose(Y, perm=[0, 2, 3, 1]); Xm = Mul(Xt, V); X = Transpose(Xm, perm=[0, 3, 1, 2])",
}
SHAPES = ("[[[A]],[[B]],[[C]]]", "[[[[A]],[[B]],[[C]]]]", "A", "[A]")


@st.composite
def chains(draw: st.DrawFn) -> tuple[str, str]:
    """Up to six steps that act on each channel alone, and the tensor that they end in."""
    number, tensor, lines = st.floats(0.25, 4, width=32), "image", []
    for place, op in enumerate(draw(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=6))):
        text = STEPS[op].replace("W", draw(st.sampled_from(SHAPES))).replace("V", "[A,B,C]")
        for name, value in zip("ABCE", draw(st.tuples(*[number] * 4)), strict=True):
            text = re.sub(rf"\b{name}\b", str(value), text)
        lines.append(re.sub(r"\bY\b", tensor, text).replace("X", f"x{place}_"))
        tensor = f"x{place}_"
    return "\n".join(lines), tensor


@given(chains())
def test_wherever_the_steps_stand_the_map_is_what_onnx_runtime_computes(chain: tuple[str, str]) -> None:
    model = with_layer(*chain)
    if scaling(model) is None:  # then nothing is done to the values; channels may be turned
        ours, theirs = (np.sort(each, axis=1) for each in (entering(model, chain[1], PHOTO), PHOTO))
        assert np.allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    else:
        assert_maps(model, chain[1], PHOTO)

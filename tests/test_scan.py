"""robustcheck scan: numbers against NumPy and SciPy on copied-out activations, planted outliers, foreign graphs."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import scipy.stats
from numpy.typing import NDArray
from onnx import TensorProto, helper

from robustcheck_onnx.checker import cli, depth, report_scan, scan, scan_graph, scan_plan, scan_records
from robustcheck_onnx.checker.blocks import (
    find_passages,
    find_residuals,
    keep_residuals,
    residual_blocks,
    stage_blocks,
)
from robustcheck_onnx.checker.cli_parts import plain
from robustcheck_onnx.checker.depth import Depth, LayerStatistics
from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError, UsageError
from robustcheck_onnx.checker.layers import build_layers
from robustcheck_onnx.checker.scan_graph import Tap

Array = NDArray[Any]


# ------------------------------------------------------------------------------------------------- the truth


def assert_close(found: float | None, expected: Any, rtol: float = 1e-7, atol: float = 0, note: str = "") -> None:
    """A number that was measured, and near the expected one."""
    assert found is not None
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol, err_msg=note)


def canonical(values: Array, form: str) -> Array:
    """(image, position, feature), float64, all positions."""
    x = np.asarray(values, dtype=np.float64)
    if form == "vector":
        return x[:, None, :]
    if form == "tokens_first":
        return x.transpose(1, 0, 2)
    if form == "map":
        return x.reshape(*x.shape[:2], -1).transpose(0, 2, 1)
    return x.reshape(len(x), -1, x.shape[-1])


def measured_rows(values: Array, tap: Tap) -> Array:
    """(image, row, feature): the positions that the scan measures."""
    x = np.asarray(values, dtype=np.float64)
    if tap.form == "map":
        x = x[:, :, :: tap.strides[0], :: tap.strides[1]]
    elif tap.form == "map_last":
        x = x[:, :: tap.strides[0], :: tap.strides[1]]
    return canonical(x, tap.form)


def assert_is_truth(found: LayerStatistics, values: Array, tap: Tap, *, places: bool = True) -> None:
    """Every number of the statistics, computed again from the activations."""
    rows, everything = measured_rows(values, tap), canonical(values, tap.form)
    kurtosis = scipy.stats.kurtosis(rows, axis=2, fisher=False)
    z = scipy.stats.zscore(rows, axis=2)
    flat = z.reshape(-1, z.shape[-1])
    s2 = (flat**2).mean(axis=0)
    z4 = (flat**4).sum(axis=0)
    assert_close(found.kurtosis, kurtosis.mean(axis=1).mean(), rtol=1e-4)
    assert found.n_rows == len(flat)
    if len(rows) > 1:
        se = kurtosis.mean(axis=1).std(ddof=1) / np.sqrt(len(rows))
        assert_close(found.kurtosis_se, se, rtol=1e-3, atol=1e-5)
    assert_close(found.rms_kurtosis, (s2**2).mean() / s2.mean() ** 2, rtol=1e-4)
    assert_close(found.top3_share, np.sort(z4)[-3:].sum() / z4.sum(), rtol=1e-4)
    if tap.positions:
        mean = scipy.stats.kurtosis(everything.mean(axis=1), axis=1, fisher=False).mean()
        assert_close(found.mean_token_kurtosis, mean, rtol=1e-4)
    else:
        assert found.mean_token_kurtosis is None
    if tap.class_token:
        assert_close(found.class_token_kurtosis, kurtosis[:, 0].mean(), rtol=1e-4)
        own = (np.abs(z[:, 0]) > 6).mean(axis=0)
        assert {f.feature for f in found.class_token_persistent} == set(np.flatnonzero(own >= 0.5))
    else:
        assert found.class_token_kurtosis is None
        assert found.n_class_token_persistent == 0
    frequency = (np.abs(flat) > 6).mean(axis=0)
    assert {f.feature for f in found.persistent} == set(np.flatnonzero(frequency >= 0.5))
    for feature in found.persistent:
        assert_close(feature.frequency, frequency[feature.feature])
        assert_close(feature.kurtosis_share, z4[feature.feature] / z4.sum(), rtol=1e-4)
    few = np.abs(rows[:, :: tap.median_step])
    medians = np.median(few, axis=2)
    if (medians > 0).all():
        assert_close(found.max_median_ratio, (few.max(axis=2) / medians).mean(), rtol=1e-4)
    elif (medians > 0).mean() < 0.5:
        assert found.max_median_ratio is None
    assert_close(found.largest_value, np.abs(everything).max(), rtol=1e-5)
    if places:
        assert_places(found, z, everything, np.median(medians, axis=1), tap)


def assert_places(found: LayerStatistics, z: Array, everything: Array, median: Array, tap: Tap) -> None:
    """Where the largest |z| lies, and massive activations with their positions."""
    tops = [np.unravel_index(np.abs(image).argmax(), image.shape) for image in z]
    strong = [(int(f), int(t)) for (t, f), image in zip(tops, z, strict=True) if np.abs(image).max() > 6]
    common = max(set(strong), key=lambda place: (strong.count(place), place), default=None)
    if common is not None and strong.count(common) >= 0.5 * len(z):
        assert found.fixed_outlier is not None
        assert (found.fixed_outlier.feature, found.fixed_outlier.token or 0) == common
        assert_close(found.fixed_outlier.frequency, strong.count(common) / len(z))
    else:
        assert found.fixed_outlier is None
    expected: dict[tuple[int, int], int] = {}
    for image, middle in zip(everything, median, strict=True):
        size = np.abs(image).max(axis=0)
        for feature in np.argsort(-size)[:3]:
            if size[feature] > 100 and middle > 0 and size[feature] >= 1000 * middle:
                place = (int(feature), cell_of(int(np.abs(image[:, feature]).argmax()), tap))
                expected[place] = expected.get(place, 0) + 1
    assert {(m.feature, m.token or 0): round(m.frequency * len(z)) for m in found.massive} == expected


def cell_of(position: int, tap: Tap) -> int:
    if len(tap.positions) != 2:
        return position
    row, column = divmod(position, tap.positions[1])
    return row // tap.strides[0] * tap.measured[1] + column // tap.strides[1]


def activations(model: Path, tensors: list[str], feed: Array) -> dict[str, Array]:
    """Block outputs copied out by another session of the same graph."""
    proto = onnx.load(model)
    own = {output.name for output in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in own)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(tensors, session.run(tensors, {proto.graph.input[0].name: feed}), strict=True))


def assert_report_is_truth(report: scan_records.ScanReport, model: Path, feed: Array) -> None:
    found = activations(model, [layer.tensor for layer in report.layers], feed)
    for layer in report.layers:
        rectified = layer.statistics.largest_value is not None and bool((found[layer.tensor] >= 0).all())
        tap = Tap(layer.tensor, layer.form, layer.width, layer.positions, layer.class_token, rectified)
        assert tap.measured == layer.measured
        assert_is_truth(layer.statistics, found[layer.tensor], tap)


# ------------------------------------------------------------------------------------------------ the graph


def measure(values: Array, tap: Tap, opset: int = 18, kind: int = TensorProto.FLOAT) -> LayerStatistics:
    """Statistics of given values, through the appended nodes."""
    dims: list[Any] = list(values.shape)
    dims[1 if tap.form == "tokens_first" else 0] = "batch"
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["t"])],
        "values",
        [helper.make_tensor_value_info("x", kind, dims)],
        [helper.make_tensor_value_info("t", kind, dims)],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    scan_graph.add_scan(proto, [tap], kind == TensorProto.DOUBLE, opset)
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (rows,) = session.run([scan_graph.OUTPUT], {"x": values})
    assert rows.shape == (values.shape[1 if tap.form == "tokens_first" else 0], tap.n_numbers)
    state = Depth(tap)
    state.update(rows[:2])
    state.update(rows[2:])
    return state.statistics()


def draw(*shape: int, features: int, seed: int = 0) -> Array:
    """Values with an offset, and in feature 3 an outlier."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape).astype(np.float32) + np.float32(rng.normal() * 3)
    axis = 1 if len(shape) == 4 and shape[1] == features else len(shape) - 1
    np.moveaxis(values, axis, -1)[..., 3] += 25
    return values


CASES = [
    ("vector", (5, 96), Tap("t", "vector", 96, ())),
    ("tokens", (5, 17, 64), Tap("t", "tokens", 64, (17,), class_token=True)),
    ("odd tokens", (5, 4, 65), Tap("t", "tokens", 65, (4,))),
    ("tokens first", (10, 5, 64), Tap("t", "tokens_first", 64, (10,), class_token=True)),
    ("map", (5, 64, 9, 23), Tap("t", "map", 64, (9, 23))),
    ("small map", (5, 63, 3, 7), Tap("t", "map", 63, (3, 7))),
    ("map last", (5, 20, 16, 64), Tap("t", "map_last", 64, (20, 16))),
]


@pytest.mark.parametrize("opset", [11, 13, 18, 21])
@pytest.mark.parametrize(("shape", "tap"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_nodes_give_what_scipy_gives(shape: tuple[int, ...], tap: Tap, opset: int) -> None:
    values = draw(*shape, features=tap.features)
    found = measure(values, tap, opset)
    assert [feature.feature for feature in found.persistent] == [3]
    assert_is_truth(found, values, tap)


def test_a_rectified_map_has_no_ratio_to_its_median() -> None:
    values = np.maximum(np.random.default_rng(0).normal(-0.5, 1, (5, 64, 9, 9)), 0).astype(np.float32)
    tap = Tap("t", "map", 64, (9, 9), rectified=True)
    values[:, 5, 4, 4] = 1e4
    found = measure(values, tap)
    assert found.max_median_ratio is None
    assert found.massive == ()
    assert_is_truth(found, values, tap)


@pytest.mark.parametrize(
    ("form", "shape", "positions", "at", "where"),
    [
        ("tokens", (5, 17, 64), (17,), (slice(None), 0, 7), "class token"),
        ("tokens", (5, 17, 64), (17,), (slice(None), 11, 7), "token 11"),
        ("map", (5, 64, 9, 20), (9, 20), (slice(None), 7, 8, 13), "row 8, columns 12–14"),
        ("map_last", (5, 9, 20, 64), (9, 20), (slice(None), 3, 0, 7), "rows 2–3, columns 0–2"),
    ],
)
@pytest.mark.parametrize("size", [3000.0, -3000.0])
def test_a_massive_activation_has_its_feature_place_and_sign(
    form: str, shape: tuple[int, ...], positions: tuple[int, ...], at: tuple[Any, ...], where: str, size: float
) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    values[at] = size
    tap = Tap("t", form, 64, positions, class_token=form == "tokens")
    found = measure(values, tap)
    (massive,) = found.massive
    assert (massive.feature, massive.where, massive.frequency, massive.value) == (7, where, 1.0, size)
    assert massive.over_median >= 1000
    assert_is_truth(found, values, tap)


def test_float16_does_not_overflow_and_float64_keeps_its_digits() -> None:
    tap = Tap("t", "tokens", 64, (9,))
    half = draw(4, 9, 64, features=64).astype(np.float16)
    half[..., 3] = 60000  # its square is infinite in float16
    assert_is_truth(measure(half, tap, kind=TensorProto.FLOAT16), half, tap, places=False)  # z ties at √63
    values = np.random.default_rng(1).normal(size=(4, 9, 64)) + 1e8
    assert_is_truth(measure(values, tap, kind=TensorProto.DOUBLE), values, tap)
    offset = np.random.default_rng(1).normal(size=(4, 9, 64)).astype(np.float32) + np.float32(1000)
    assert_is_truth(measure(offset, tap), offset, tap)


def test_values_that_cannot_be_measured_never_enter_a_mean() -> None:
    tap = Tap("t", "tokens", 64, (9,), class_token=True)
    values = np.random.default_rng(0).normal(size=(6, 9, 64)).astype(np.float32)
    bad = values.copy()
    bad[1, 8, 63] = np.nan
    bad[2, 0, 0] = np.inf
    bad[3] = 1e6  # constant
    found = measure(bad, tap)
    assert (found.n_images, found.n_not_finite, found.n_constant) == (3, 2, 1)
    assert_is_truth(found, values[[0, 4, 5]], tap)
    huge = values.copy()
    huge[5, 2, 2] = 1e25  # its square is infinite in float32
    assert measure(huge, tap).n_not_finite == 1
    token = values.copy()
    token[:, 4] = -7.0  # constant tokens, left out one by one
    found = measure(token, tap)
    assert found.n_rows == 6 * 8
    rest = np.delete(token, 4, axis=1).astype(np.float64)
    assert_close(found.kurtosis, scipy.stats.kurtosis(rest, axis=2, fisher=False).mean(), rtol=1e-4)
    nothing = Depth(tap)
    nothing.update(np.full((2, tap.n_numbers), np.nan))
    assert nothing.statistics().kurtosis is None
    assert nothing.statistics().n_not_finite == 2


def test_the_state_does_not_grow_with_images() -> None:
    tap = Tap("t", "tokens", 32, (5,))
    rng = np.random.default_rng(0)
    state = Depth(tap)
    sizes = []
    for _ in range(3):
        for _ in range(40):
            rows = np.abs(rng.normal(size=(50, tap.n_numbers))) + 1
            ends = np.cumsum([0, *tap.fields.values()])
            at = dict(zip(tap.fields, ends, strict=False))
            rows[:, at["top"]] = 99
            for name, length, most in (("top_feature", 1, 32), ("top_token", 1, 5), ("value_feature", 3, 32),
                                       ("value_token", 3, 5)):  # fmt: skip
                rows[:, at[name] : at[name] + length] = rng.integers(0, most, (50, length))
            rows[:, at["value"] : at["value"] + 3] = 1e6
            state.update(rows)
        sizes.append(len(pickle.dumps(state)))
    assert sizes[2] <= sizes[0] + 100  # every place of 32 × 5 has been seen by then


def test_a_value_that_is_no_number_is_seen_at_positions_that_are_not_measured() -> None:
    tap = Tap("t", "map", 64, (16, 16))
    values = np.random.default_rng(0).normal(size=(3, 64, 16, 16)).astype(np.float32)
    values[1, 2, 3, 5] = np.nan
    assert tap.strides == (2, 2)
    assert measure(values, tap).n_not_finite == 1


# ----------------------------------------------------------------------------------------------- the blocks


def blocks_of(proto: onnx.ModelProto, shapes: dict[str, tuple[int, ...]], end: str) -> list[tuple[str, str]]:
    """(tensor, kind) by the residual rule; shapes not named are (2, 16, 4, 4)."""
    layers = build_layers(proto.graph, "image", {w.name: tuple(w.dims) for w in proto.graph.initializer})
    nodes = list(proto.graph.node)
    known = {name: shapes.get(name, (2, 16, 4, 4)) for node in nodes for name in node.output}
    order = {name: i for i, node in enumerate(nodes) for name in node.output}
    kept = keep_residuals(find_residuals(layers, nodes, end), known)
    return [(block.tensor, block.kind) for block in residual_blocks(layers, kept, order)]


def test_residual_blocks_by_rule(onnx_models: ModuleType) -> None:
    w = {name: onnx_models.weight(1) for name in ("w", "bias")}
    stem = [("Conv", ["image", "w"], ["c0"]), ("Relu", ["c0"], ["x0"])]
    resnet = [
        *stem,
        ("Conv", ["x0", "w"], ["a1"]), ("Relu", ["a1"], ["a2"]), ("Conv", ["a2", "w"], ["a3"]),
        ("Add", ["a3", "x0"], ["s1"]), ("Relu", ["s1"], ["x1"]),
        # a block that changes its width: both branches start with a layer
        ("Conv", ["x1", "w"], ["b1"]), ("Relu", ["b1"], ["b2"]), ("Conv", ["b2", "w"], ["b3"]),
        ("AveragePool", ["x1"], ["d0"], {"kernel_shape": [2, 2]}), ("Conv", ["d0", "w"], ["d1"]),
        ("Add", ["b3", "d1"], ["s2"]), ("Relu", ["s2"], ["x2"]),
        ("GlobalAveragePool", ["x2"], ["end"]),
    ]  # fmt: skip
    found = blocks_of(onnx_models.build(resnet, ["end"], w), {}, "end")
    assert found == [("x0", "stem"), ("x1", "convolution"), ("x2", "convolution")]

    mobile = [
        *stem,
        ("Conv", ["x0", "w"], ["p0"]), ("Clip", ["p0"], ["p1"]), ("Conv", ["p1", "w"], ["y0"]),  # not residual
        ("Conv", ["y0", "w"], ["q0"]), ("Clip", ["q0"], ["q1"]), ("Conv", ["q1", "w"], ["q2"]),
        ("Add", ["q2", "y0"], ["y1"]),
        ("Conv", ["y1", "w"], ["r0"]), ("Clip", ["r0"], ["r1"]), ("Conv", ["r1", "w"], ["y2"]),  # not residual
        ("Conv", ["y2", "w"], ["t0"]), ("Add", ["y2", "t0"], ["y3"]),
    ]  # fmt: skip
    found = blocks_of(onnx_models.build(mobile, ["y3"], w), {}, "y3")
    assert found == [("y0", "stem"), ("y1", "convolution"), ("y2", "stage"), ("y3", "convolution")]


def test_additions_that_end_no_block(onnx_models: ModuleType) -> None:
    w = {name: onnx_models.weight(1) for name in ("w", "table")}
    tokens = [("Conv", ["image", "w"], ["c"]), ("Add", ["c", "table"], ["x"])]  # position embedding
    rope = [
        ("Mul", ["q", "w"], ["q1"]),
        ("Neg", ["q"], ["q2"]),
        ("Mul", ["q2", "table"], ["q3"]),
        ("Add", ["q1", "q3"], ["q4"]),
    ]
    attention = [
        ("LayerNormalization", ["x", "w"], ["n"]),
        ("MatMul", ["n", "w"], ["q"]), *rope,
        ("MatMul", ["n", "w"], ["k"]), ("MatMul", ["q4", "k"], ["scores"]),
        ("MatMul", ["q", "w"], ["position"]), ("Add", ["scores", "position"], ["biased"]),  # as MViT
        ("Softmax", ["biased"], ["p"]), ("MatMul", ["p", "n"], ["o"]), ("Add", ["o", "w"], ["o1"]),
        ("Add", ["x", "o1"], ["x1"]),
    ]  # fmt: skip
    mlp = [
        ("LayerNormalization", ["x1", "w"], ["m"]), ("MatMul", ["m", "w"], ["h"]),
        # tanh GELU: x + 0.04 x³
        ("Mul", ["h", "h"], ["h2"]), ("Mul", ["h2", "h"], ["h3"]), ("Mul", ["h3", "w"], ["h4"]),
        ("Add", ["h", "h4"], ["h5"]), ("Tanh", ["h5"], ["h6"]), ("Mul", ["h6", "h"], ["g"]),
        ("MatMul", ["g", "w"], ["g1"]), ("Mul", ["g1", "w"], ["g2"]),  # layer scale
        ("Add", ["x1", "g2"], ["x2"]),
    ]  # fmt: skip
    proto = onnx_models.build([*tokens, *attention, *mlp], ["x2"], w)
    assert blocks_of(proto, {}, "x2") == [("x", "stem"), ("x1", "attention"), ("x2", "mlp")]
    # a sum that broadcasts is none; the next one is still there
    assert ("x2", "mlp") not in blocks_of(proto, {"g2": (2, 16, 1, 1)}, "x2")
    assert ("x1", "attention") in blocks_of(proto, {"g2": (2, 16, 1, 1)}, "x2")
    # what does not lead to the representation does not count
    assert blocks_of(proto, {}, "x1") == [("x", "stem"), ("x1", "attention")]


def test_an_optimised_graph_has_its_sums_in_fused_norms(onnx_models: ModuleType) -> None:
    w = {"w": onnx_models.weight(1)}
    nodes = [
        ("Conv", ["image", "w"], ["x"]), ("LayerNormalization", ["x", "w"], ["n"]), ("MatMul", ["n", "w"], ["o"]),
        ("com.microsoft:SkipLayerNormalization", ["x", "o", "w"], ["n1", "", "", "x1"]),
        ("MatMul", ["n1", "w"], ["h"]),
        ("com.microsoft:SkipLayerNormalization", ["x1", "h", "w"], ["n2", "", "", "x2"]),
        ("MatMul", ["n2", "w"], ["end"]),
    ]  # fmt: skip
    proto = onnx_models.build(nodes, ["end"], w, domains=["com.microsoft"])
    assert blocks_of(proto, {}, "end") == [("x", "stem"), ("x1", "mlp"), ("x2", "mlp")]


def test_a_quantised_end_is_the_same_end(onnx_models: ModuleType) -> None:
    w = {"w": onnx_models.weight(1), "s": onnx_models.weight(1)}
    nodes = [
        ("Conv", ["image", "w"], ["x"]), ("Conv", ["x", "w"], ["a"]), ("Add", ["x", "a"], ["x1"]),
        ("QuantizeLinear", ["x1", "s"], ["q"]), ("DequantizeLinear", ["q", "s"], ["d"]),
        ("Conv", ["d", "w"], ["b"]), ("Add", ["d", "b"], ["x2"]),
    ]  # fmt: skip
    found = blocks_of(onnx_models.build(nodes, ["x2"], w), {}, "x2")
    assert found == [("x", "stem"), ("x1", "convolution"), ("x2", "convolution")]


def test_without_residual_blocks_layers_are_cut_where_shapes_change(onnx_models: ModuleType) -> None:
    w = {"w": onnx_models.weight(1)}
    nodes = [
        ("Conv", ["image", "w"], ["a"]), ("Relu", ["a"], ["b"]), ("MaxPool", ["b"], ["c"], {"kernel_shape": [2, 2]}),
        ("Conv", ["c", "w"], ["d"]), ("Relu", ["d"], ["e"]),
        # two branches that are joined: nothing inside them is a passage
        ("Conv", ["e", "w"], ["f1"]), ("Conv", ["e", "w"], ["f2"]), ("Concat", ["f1", "f2"], ["g"], {"axis": 1}),
        ("GlobalAveragePool", ["g"], ["h"]), ("Flatten", ["h"], ["end"]),
    ]  # fmt: skip
    proto = onnx_models.build(nodes, ["end"], w)
    layers = build_layers(proto.graph, "image", {"w": (1,)})
    passages = find_passages(layers, list(proto.graph.node), "end")
    assert passages == list("abcdegh")
    shapes = {"a": (2, 8, 8, 8), "b": (2, 8, 8, 8), "c": (2, 8, 4, 4), "d": (2, 16, 4, 4), "e": (2, 16, 4, 4)}
    shapes |= {"g": (2, 32, 4, 4), "h": (2, 32, 1, 1)}
    found = stage_blocks(layers, passages, shapes)
    assert [(block.tensor, block.kind) for block in found] == [(name, "stage") for name in "beg"]


# ----------------------------------------------------------------------------------------- whole models


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny torch models with random weights, written by torch's old exporter, and 12 inputs for them.

    vit: class token and 16 tokens of 64 features; its third MLP adds an outlier feature to every token, its second
    attention block a massive activation to the class token alone.
    """
    torch = pytest.importorskip("torch")
    torchvision = pytest.importorskip("torchvision")
    nn = torch.nn
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("scan")

    class Block(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, seen: Any, outlier: Any) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(64), nn.LayerNorm(64)
            self.qkv, self.out = nn.Linear(64, 192), nn.Linear(64, 64)
            self.mlp = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64))
            self.register_buffer("seen", seen)
            self.register_buffer("outlier", outlier)

        def forward(self, x: Any) -> Any:
            q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=-1)
            weights = (q @ k.transpose(1, 2) / 8).softmax(dim=-1)
            x = x + (self.out(weights @ v) + self.seen)
            return x + (self.mlp(self.norm2(x)) + self.outlier)

    class Vit(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 64, 8, 8)
            self.cls = nn.Parameter(torch.randn(1, 1, 64))
            self.position = nn.Parameter(torch.randn(1, 17, 64))
            places = torch.zeros(4, 17, 64)
            places[1, 0, 21] = -4000.0
            features = torch.zeros(4, 64)
            features[2, 40] = 300.0
            self.blocks = nn.Sequential(*(Block(p, f) for p, f in zip(places, features, strict=True)))
            self.norm, self.proj = nn.LayerNorm(64), nn.Linear(64, 48, bias=False)

        def forward(self, image: Any) -> Any:
            x = self.patches(image).flatten(2).transpose(1, 2)
            x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], dim=1) + self.position
            return self.proj(self.norm(self.blocks(x))[:, 0])

    def write(name: str, model: Any, size: int) -> None:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
        torch.onnx.export(
            model.eval(), (torch.zeros(2, 3, size, size),), folder / f"{name}.onnx", dynamo=False, opset_version=17,
            input_names=["image"], output_names=["out"], dynamic_axes={"image": {0: "batch"}, "out": {0: "batch"}},
        )  # fmt: skip
        np.save(folder / f"{name}.npy", np.random.default_rng(0).normal(size=(12, 3, size, size)).astype(np.float32))

    write("vit", Vit(), 32)
    resnet = torchvision.models.resnet.ResNet(torchvision.models.resnet.Bottleneck, [1, 2, 1, 1], num_classes=10)
    write("resnet", resnet, 96)
    kwargs = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64}
    write("foreign_vit", torchvision.models.VisionTransformer(**kwargs, num_classes=10), 32)
    return {path.stem: path for path in folder.glob("*.onnx")}


def scanned(path: Path, **options: Any) -> tuple[scan_records.ScanReport, Array]:
    """The report of a tiny model, and the input it was run on, in any order."""
    inputs = path.with_suffix(".npy")
    options = {"preprocess": "imagenet", "device": "cpu", "batch_size": 5, **options}
    return scan.scan(path, images_at=inputs, **options), np.load(inputs)


@pytest.mark.export
@pytest.mark.parametrize("name", ["vit", "resnet", "foreign_vit"])
def test_a_whole_model_gives_what_scipy_gives_on_its_activations(tiny: dict[str, Path], name: str) -> None:
    report, feed = scanned(tiny[name])
    assert_report_is_truth(report, tiny[name], feed)
    assert report.model.output_unchanged
    assert report.model.output_difference < 1e-4
    kinds = [layer.kind for layer in report.layers]
    if name == "resnet":
        assert kinds == ["stem", *["convolution"] * 5, "representation"]
        assert [layer.width for layer in report.layers] == [64, 256, 512, 512, 1024, 2048, 2048]
        assert [layer.measured for layer in report.layers][:4] == [(8, 8), (8, 8), (6, 6), (6, 6)]
    else:
        n_blocks = 4 if name == "vit" else 2
        assert kinds == ["stem", *["attention", "mlp"] * n_blocks, "representation"]
        assert all(layer.class_token and layer.positions == (17,) for layer in report.layers[:-1])


@pytest.mark.export
def test_planted_outliers_are_found_at_their_depth(tiny: dict[str, Path]) -> None:
    report, _ = scanned(tiny["vit"])
    layers = report.layers
    # stem, attention 1, mlp 1, attention 2, mlp 2, attention 3, mlp 3, …
    assert [40 in {f.feature for f in layer.statistics.persistent} for layer in layers[:-1]] == [False] * 6 + [True] * 3
    assert report.begins == 6
    assert layers[6].tensor in report.summary
    assert "Layer 7 of 10 (mlp" in report.summary
    assert "feature 40, beyond 6 SD in 94 % of the tokens measured on 12 images." in report.summary
    assert f"In the class token alone it is layer 4 of 10 (attention, {layers[3].tensor}): feature 21" in report.summary
    for depth_index, layer in enumerate(layers[:-1]):
        planted = [m for m in layer.statistics.massive if m.feature == 21]
        assert bool(planted) == (depth_index >= 3), depth_index
        for massive in planted:
            assert (massive.where, massive.frequency, massive.token) == ("class token", 1.0, 0)
            assert massive.value == pytest.approx(-4000, rel=0.01)
    fixed = layers[3].statistics.fixed_outlier
    assert fixed is not None
    assert (fixed.feature, fixed.where) == (21, "class token")
    assert [f.feature for f in layers[3].statistics.class_token_persistent] == [21]
    assert layers[3].statistics.n_persistent == 0  # one token of 17 is no persistent feature


@pytest.mark.export
def test_batches_and_fixed_batches_change_nothing(tiny: dict[str, Path], tmp_path: Path) -> None:
    whole, feed = scanned(tiny["vit"], batch_size=12)
    parts, _ = scanned(tiny["vit"], batch_size=5)
    proto = onnx.load(tiny["vit"])
    fixed = tmp_path / "fixed.onnx"
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 5
    onnx.save(proto, fixed)
    np.save(fixed.with_suffix(".npy"), feed)
    padded, _ = scanned(fixed)
    for other in (parts, padded):
        for a, b in zip(whole.layers, other.layers, strict=True):
            left, right = a.statistics.model_dump(), b.statistics.model_dump()
            assert left["n_rows"] == right["n_rows"]
            for key in ("kurtosis", "rms_kurtosis", "top3_share", "class_token_kurtosis", "max_median_ratio"):
                if left[key] is not None:
                    assert_close(left[key], right[key], rtol=1e-4, note=f"{a.tensor} {key}")


@pytest.mark.export
def test_a_float16_model_is_measured_in_float32(tiny: dict[str, Path], tmp_path: Path) -> None:
    proto = onnx.load(tiny["resnet"])
    path = tmp_path / "half.onnx"
    halve(proto)
    onnx.save(proto, path)
    np.save(path.with_suffix(".npy"), np.load(tiny["resnet"].with_suffix(".npy")).astype(np.float16))
    report, _ = scanned(path)
    assert report.execution.precision == "fp16"
    whole, _ = scanned(tiny["resnet"])
    for a, b in zip(report.layers, whole.layers, strict=True):
        assert a.tensor == b.tensor
        assert_close(a.statistics.kurtosis, b.statistics.kurtosis, rtol=0.02)


def halve(proto: onnx.ModelProto) -> None:
    """Make a convolutional float32 graph float16."""
    for index, weight in enumerate(list(proto.graph.initializer)):
        if weight.data_type == TensorProto.FLOAT:
            half = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight).astype(np.float16), weight.name)
            proto.graph.initializer[index].CopyFrom(half)
    del proto.graph.value_info[:]
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16


# --------------------------------------------------------------------------------------- command and errors


@pytest.fixture
def small(tmp_path: Path, onnx_models: ModuleType) -> Path:
    """A residual graph without torch, and 60 photos' worth of random input."""
    w = {"w": onnx_models.weight(16, 3, 3, 3), "v": onnx_models.weight(16, 16, 1, 1)}
    nodes = [
        ("Conv", ["image", "w"], ["c"], {"kernel_shape": [3, 3]}), ("Relu", ["c"], ["x"]),
        ("Conv", ["x", "v"], ["y"]), ("Add", ["x", "y"], ["z"]),
        ("GlobalAveragePool", ["z"], ["p"]), ("Flatten", ["p"], ["embedding"]),
    ]  # fmt: skip
    onnx_models.save(
        onnx_models.build(nodes, [("embedding", TensorProto.FLOAT, ("batch", 16))], w), tmp_path / "small.onnx"
    )
    np.save(tmp_path / "small.npy", np.random.default_rng(0).normal(size=(9, 3, 8, 8)).astype(np.float32))
    return tmp_path / "small.onnx"


def command(*words: object) -> int:
    return cli.main([str(word) for word in words])


def test_the_command_reports_and_ends_with_0(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["scan", small, "--images", small.with_suffix(".npy"), "--preprocess", "imagenet", "--device", "cpu"]
    assert command(*call, "-o", "json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["schema_version"], document["kind"], document["tool"]) == (1, "scan", "robustcheck")
    assert [layer["tensor"] for layer in document["layers"]] == ["x", "z", "embedding"]
    report, _ = scanned(small, batch_size=8)
    stated = report.model_dump(mode="json") | {"time": None}
    assert document["layers"] == json.loads(json.dumps(stated["layers"]))
    path = small.with_name("report.txt")
    assert command(*call, "-o", f"terminal={path}", "-q") == 0
    assert capsys.readouterr().out == ""
    text = path.read_text()
    assert "do not tell effective" in " ".join(text.split())
    assert report.summary == "No layer has a persistent outlier feature on these 9 images."
    assert report.summary in text


def test_two_documents_of_one_scan_are_equal(small: Path) -> None:
    documents = [scan_records.to_json(scanned(small)[0].model_copy(update={"time": None})) for _ in range(2)]
    assert documents[0] == documents[1]


def test_errors(small: Path, onnx_models: ModuleType, lookup: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    images = small.with_suffix(".npy")
    given = ["--images", images, "--preprocess", "imagenet", "--device", "cpu"]
    flat = small.with_name("flat.onnx")
    reshaped = [("Flatten", ["image"], ["f"]), ("Identity", ["f"], ["embedding"])]
    onnx_models.save(onnx_models.build(reshaped, [("embedding", TensorProto.FLOAT, ("batch", 192))]), flat)
    old = small.with_name("old.onnx")
    proto = onnx.load(small)
    proto.opset_import[0].version = 10
    onnx.save(proto, old)
    broken = small.with_name("broken.onnx")
    proto = onnx.load(small)
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.full((16, 3, 3, 3), np.nan, np.float32), "w"))
    onnx.save(proto, broken)
    for words, code, said in (
        ([flat, *given], 3, "number of blocks found is 0"),
        ([old, *given], 3, "opset is 10; the nodes of a scan need 11"),
        ([broken, *given], 3, "images with finite, not constant values is 0 of 9"),
        ([small.with_name("none.onnx"), *given], 2, "model file is missing"),
        ([small, *given, "--block", "zz"], 2, "--block is 'zz'; no tensor of that name"),
        ([small, "--images", small.with_name("nowhere")], 2, "nowhere"),
        ([small, *given, "--device", "gpu"], 2, "--device is 'gpu'"),
        ([small, *given, "-o", f"json={small}"], 2, "a report must not replace it"),
        ([small, *given, "-o", "csv"], 2, "--output is 'csv'"),
        ([small, *given, "--max-images", "0"], 2, "--max-images"),
    ):
        assert command("scan", *words) == code, said
        shown = capsys.readouterr()
        assert said in shown.err
        assert shown.out == ""
    with pytest.raises(CannotAssessError, match="a scan needs residual additions") as caught:
        scan.scan(flat, images_at=images, preprocess="imagenet", device="cpu")
    assert "--block TENSOR" in caught.value.hint


def test_named_blocks(small: Path) -> None:
    report, feed = scanned(small, blocks=["y", "c"])
    assert [(layer.tensor, layer.kind) for layer in report.layers[:-1]] == [("c", "named"), ("y", "named")]
    assert_report_is_truth(report, small, feed)
    with pytest.raises(UsageError, match="no tensor of that name is computed from the image"):
        scanned(small, blocks=["image"])


def test_a_changed_output_is_said(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean, _ = scanned(small)
    assert clean.model.output_unchanged
    measuring = scan_plan.measuring_model

    def meddle(model: Any, plan: Any) -> Any:
        changed = measuring(model, plan)
        proto = onnx.ModelProto.FromString(changed.graph_bytes)
        weight = next(w for w in proto.graph.initializer if w.name == "v")
        weight.CopyFrom(onnx.numpy_helper.from_array(1.01 * onnx.numpy_helper.to_array(weight), "v"))
        return dataclasses.replace(changed, graph_bytes=proto.SerializeToString())

    monkeypatch.setattr(scan, "measuring_model", meddle)
    report, _ = scanned(small)
    assert not report.model.output_unchanged
    assert report.model.output_difference > 1e-3
    assert any("changed the model's own output" in note for note in report.notes)


@pytest.mark.export
@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_report(tiny: dict[str, Path], width: int, ascii_only: bool) -> None:
    import io

    from rich.console import Console

    report, _ = scanned(tiny["vit"])
    shown = io.StringIO()
    Console(file=shown, width=width, no_color=True).print(report_scan.render(report, ascii_only=ascii_only))
    text = shown.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert text.isascii() == ascii_only
    flat = " ".join(text.split())
    assert "feature 40 layers 7" in flat
    assert "feature 21, class token layers 4" in flat
    assert "Information, not a verdict" in flat
    assert ("▲" in text) != ascii_only
    table = text.split("Layers")[1].split("kurtosis, RMS")[0]
    assert re.findall(r"^ +(\d+)  (?:stem|attention|mlp|representation) ", table, re.M) == [
        str(i) for i in range(1, 11)
    ]
    assert ("/blocks/blocks.0/Add" in table) == (width == 120)
    assert plain(report_scan.render(report))


def test_places_in_words() -> None:
    assert depth.place_text(Tap("t", "vector", 8, ()), 0) == ""
    assert depth.place_text(Tap("t", "tokens", 8, (5,), class_token=True), 0) == "class token"
    assert depth.place_text(Tap("t", "tokens", 8, (5,)), 0) == "token 0"
    assert depth.place_text(Tap("t", "map", 8, (9, 9)), 24) == "row 8, column 8"


def test_axes_are_read_or_left_out(tmp_path: Path, onnx_models: ModuleType) -> None:
    """Tokens before images are turned round; windows, and rows that are no images, are left out and counted."""
    w = {"w": onnx_models.weight(16, 3, 2, 2), "v": onnx_models.weight(16, 16)}
    shapes = {"tokens": [0, 16, -1], "rows": [-1, 16], "windows": [0, -1, 2, 16], "back": [-1, 16, 16], "axes": [1, 2]}
    w |= {name: np.array(shape, dtype=np.int64) for name, shape in shapes.items()}
    nodes = [
        ("Conv", ["image", "w"], ["c"], {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Reshape", ["c", "tokens"], ["flat"]),
        ("Transpose", ["flat"], ["first"], {"perm": [2, 0, 1]}),  # (token, image, feature)
        ("MatMul", ["first", "v"], ["a"]), ("Add", ["first", "a"], ["x1"]),
        ("Transpose", ["x1"], ["x1t"], {"perm": [1, 0, 2]}),
        ("Reshape", ["x1t", "rows"], ["r"]), ("MatMul", ["r", "v"], ["b"]), ("Add", ["r", "b"], ["x2"]),
        ("Reshape", ["x2", "back"], ["r2"]),
        ("Reshape", ["r2", "windows"], ["win"]), ("MatMul", ["win", "v"], ["d"]), ("Add", ["win", "d"], ["x3"]),
        ("ReduceMean", ["x3", "axes"], ["embedding"], {"keepdims": 0}),
    ]  # fmt: skip
    path = tmp_path / "axes.onnx"
    onnx_models.save(onnx_models.build(nodes, [("embedding", TensorProto.FLOAT, ("batch", 16))], w), path)
    np.save(path.with_suffix(".npy"), np.random.default_rng(0).normal(size=(6, 3, 8, 8)).astype(np.float32))
    report, feed = scanned(path, batch_size=3)
    forms = {layer.tensor: layer.form for layer in report.layers}
    assert (forms["first"], forms["x1"]) == ("tokens_first", "tokens_first")
    assert not {"x2", "x3"} & forms.keys()
    assert report.model.n_left_out >= 2
    assert any("left out: the meaning of the axes does not show" in note for note in report.notes)
    assert_report_is_truth(report, path, feed)


@pytest.mark.requires_cuda
def test_a_gpu_gives_the_same_numbers(small: Path) -> None:
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has no CUDA provider")
    cpu, _ = scanned(small)
    try:
        cuda, _ = scanned(small, device="cuda")
    except EnvironmentFaultError as fault:
        pytest.skip(f"no GPU: {fault.message}")
    assert cuda.execution.providers[0] == "CUDAExecutionProvider"
    for a, b in zip(cpu.layers, cuda.layers, strict=True):
        assert_close(a.statistics.kurtosis, b.statistics.kurtosis, rtol=1e-3)
        assert_close(a.statistics.rms_kurtosis, b.statistics.rms_kurtosis, rtol=1e-3)

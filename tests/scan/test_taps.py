"""The nodes that a scan appends: their statistics of given values, against NumPy and SciPy."""

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import scipy.stats
from onnx import TensorProto

from robustcheck_onnx.checker.questions.scan import nodes
from robustcheck_onnx.checker.questions.scan.layer import LayerStatistics
from robustcheck_onnx.checker.questions.scan.taps import Depth, Tap
from support import normal
from support.onnx_models import written
from support.truths import Array, assert_close, assert_is_truth


def measure(values: Array, tap: Tap, opset: int = 18, kind: int = TensorProto.FLOAT) -> LayerStatistics:
    """Statistics of given values, through the appended nodes."""
    batch = 1 if tap.form == "tokens_first" else 0
    dims = ["batch" if axis == batch else n for axis, n in enumerate(values.shape)]
    proto = written("t = Identity(x)", ("t", kind, dims), before="", inputs=[("x", kind, dims)], opset=opset)
    proto.ir_version = 8
    nodes.add_scan(proto, [tap], kind == TensorProto.DOUBLE, opset)
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (rows,) = session.run([nodes.OUTPUT], {"x": values})
    assert rows.shape == (values.shape[batch], tap.n_numbers)
    state = Depth(tap)
    state.update(rows[:2])
    state.update(rows[2:])
    return state.statistics()


def tap_of(form: str, shape: tuple[int, ...], **given: Any) -> Tap:
    """Tokens first have images second; a map has its features second."""
    axis = {"map": 1}.get(form, -1)
    positions = shape[:1] if form == "tokens_first" else np.delete(shape, (0, axis)).tolist()
    return Tap("t", form, shape[axis], tuple(positions), **given)


def test_the_nodes_give_what_scipy_gives() -> None:
    for form, shape, class_token, opsets in (
        ("vector", (5, 96), False, (11, 13, 18, 21)),
        ("tokens", (5, 17, 64), True, (11, 21)),
        ("tokens", (5, 4, 65), False, (11, 13, 18, 21)),
        ("tokens_first", (10, 5, 64), True, (11, 21)),
        ("map", (5, 64, 9, 23), False, (11, 13, 18, 21)),
        ("map", (5, 63, 3, 7), False, (11, 21)),
        ("map_last", (5, 20, 16, 64), False, (11, 13, 18, 21)),
    ):
        values = (normal(*shape) + 3).astype(np.float32)
        values[(..., 3) if form != "map" else (slice(None), 3)] += 25
        tap = tap_of(form, shape, class_token=class_token)
        for opset in opsets:
            found = measure(values, tap, opset)
            assert [feature.feature for feature in found.persistent] == [3]
            assert_is_truth(found, values, tap)


def test_a_rectified_map_has_no_ratio_to_its_median() -> None:
    values = np.maximum(normal(5, 64, 9, 9) - 0.5, 0).astype(np.float32)
    tap = tap_of("map", values.shape, rectified=True)
    values[:, 5, 4, 4] = 1e4
    found = measure(values, tap)
    assert (found.max_median_ratio, found.massive) == (None, ())
    assert_is_truth(found, values, tap)


def test_a_massive_activation_has_its_feature_place_and_sign() -> None:
    for form, shape, at, size, where in (
        ("tokens", (5, 17, 64), (0, 7), 3000.0, "class token"),
        ("tokens", (5, 17, 64), (11, 7), -3000.0, "token 11"),
        ("map", (5, 64, 9, 20), (7, 8, 13), 3000.0, "row 8, columns 12–14"),
        ("map_last", (5, 9, 20, 64), (3, 0, 7), -3000.0, "rows 2–3, columns 0–2"),
    ):
        values = normal(*shape).astype(np.float32)
        values[slice(None), *at] = size
        tap = tap_of(form, shape, class_token=form == "tokens")
        found = measure(values, tap)
        (massive,) = found.massive
        assert (massive.feature, massive.where, massive.frequency, massive.value) == (7, where, 1.0, size)
        assert massive.over_median >= 1000
        assert_is_truth(found, values, tap)


def test_float16_does_not_overflow_and_float64_keeps_its_digits() -> None:
    tap, values = Tap("t", "tokens", 64, (9,)), normal(4, 9, 64, seed=1)
    half = values.astype(np.float16)
    half[..., 3] = 60000  # its square is infinite in float16
    assert_is_truth(measure(half, tap, kind=TensorProto.FLOAT16), half, tap, places=False)  # z ties at √63
    assert_is_truth(measure(values + 1e8, tap, kind=TensorProto.DOUBLE), values + 1e8, tap)
    offset = values.astype(np.float32) + np.float32(1000)
    assert_is_truth(measure(offset, tap), offset, tap)


def test_values_that_cannot_be_measured_never_enter_a_mean() -> None:
    tap, values = Tap("t", "tokens", 64, (9,), class_token=True), normal(7, 9, 64).astype(np.float32)
    bad = values.copy()
    bad[1, 8, 63], bad[2, 0, 0], bad[3] = np.nan, np.inf, 1e6  # the last is constant
    bad[4, 2, 2] = 1e25  # its square is infinite in float32
    found = measure(bad, tap)
    assert (found.n_images, found.n_not_finite, found.n_constant) == (3, 3, 1)
    assert_is_truth(found, values[[0, 5, 6]], tap)
    values[:, 4] = -7.0  # constant tokens, left out one by one
    found, nothing = measure(values, tap), Depth(tap)
    rest = np.delete(values, 4, axis=1).astype(np.float64)
    assert found.n_rows == 7 * 8
    assert_close(found.kurtosis, scipy.stats.kurtosis(rest, axis=2, fisher=False).mean(), rtol=1e-4)
    nothing.update(np.full((2, tap.n_numbers), np.nan))
    assert (nothing.statistics().kurtosis, nothing.statistics().n_not_finite) == (None, 2)
    tap, values = Tap("t", "map", 64, (16, 16)), normal(3, 64, 16, 16).astype(np.float32)
    values[1, 2, 3, 5] = np.nan  # at a position that is not measured
    assert (tap.strides, measure(values, tap).n_not_finite) == ((2, 2), 1)


def test_of_two_places_with_the_same_largest_value_none_is_made_up() -> None:
    """Features 5 and 50 at tokens 3 and 1: (5, 1) is not a place of an outlier."""
    tap, values = Tap("t", "tokens", 64, (4,)), np.full((4, 4, 64), 0.5, np.float32)
    values[:, 3, 5] = values[:, 1, 50] = 9.5
    assert measure(values, tap).fixed_outlier is None
    values[:, 1] = 0.5
    fixed = vars(measure(values, tap).fixed_outlier)
    assert (fixed["feature"], fixed["token"]) == (5, 3)

"""The nodes that a scan appends: their statistics of given values, against NumPy and SciPy."""

import numpy as np
import onnx
import onnxruntime as ort
import scipy.stats
from numpy.random import default_rng
from onnx import TensorProto

from robustcheck_onnx.checker.scan import taps
from robustcheck_onnx.checker.scan.document import LayerStatistics
from robustcheck_onnx.checker.scan.taps import Depth, Tap
from support import normal
from support.scan_truth import Array, assert_close, assert_is_truth
from support.written import written


def measure(values: Array, tap: Tap, opset: int = 18, kind: int = TensorProto.FLOAT) -> LayerStatistics:
    """Statistics of given values, through the appended nodes."""
    batch = 1 if tap.form == "tokens_first" else 0
    dims = ["batch" if axis == batch else n for axis, n in enumerate(values.shape)]
    proto = written("t = Identity(x)", ("t", kind, dims), before="", inputs=[("x", kind, dims)], opset=opset)
    proto.ir_version = 8
    taps.add_scan(proto, [tap], kind == TensorProto.DOUBLE, opset)
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (rows,) = session.run([taps.OUTPUT], {"x": values})
    assert rows.shape == (values.shape[batch], tap.n_numbers)
    state = Depth(tap)
    state.update(rows[:2])
    state.update(rows[2:])
    return state.statistics()


def draw(*shape: int, features: int, seed: int = 0) -> Array:
    """Values with an offset, and in feature 3 an outlier."""
    rng = default_rng(seed)
    values = rng.normal(size=shape).astype(np.float32) + np.float32(rng.normal() * 3)
    axis = 1 if len(shape) == 4 and shape[1] == features else len(shape) - 1
    np.moveaxis(values, axis, -1)[..., 3] += 25
    return values


def test_the_nodes_give_what_scipy_gives() -> None:
    for number, (form, shape, positions, class_token) in enumerate(
        (
            ("vector", (5, 96), (), False),
            ("tokens", (5, 17, 64), (17,), True),
            ("tokens", (5, 4, 65), (4,), False),
            ("tokens_first", (10, 5, 64), (10,), True),
            ("map", (5, 64, 9, 23), (9, 23), False),
            ("map", (5, 63, 3, 7), (3, 7), False),
            ("map_last", (5, 20, 16, 64), (20, 16), False),
        )
    ):
        features = shape[1] if form == "map" else shape[-1]
        tap = Tap("t", form, features, positions, class_token=class_token)
        values = draw(*shape, features=features)
        for opset in ((11, 13, 18, 21), (11, 21))[number % 2]:
            found = measure(values, tap, opset)
            assert [feature.feature for feature in found.persistent] == [3]
            assert_is_truth(found, values, tap)


def test_a_rectified_map_has_no_ratio_to_its_median() -> None:
    values = np.maximum(default_rng(0).normal(-0.5, 1, (5, 64, 9, 9)), 0).astype(np.float32)
    tap = Tap("t", "map", 64, (9, 9), rectified=True)
    values[:, 5, 4, 4] = 1e4
    found = measure(values, tap)
    assert found.max_median_ratio is None
    assert found.massive == ()
    assert_is_truth(found, values, tap)


def test_a_massive_activation_has_its_feature_place_and_sign() -> None:
    places = [
        ("tokens", (5, 17, 64), (17,), (slice(None), 0, 7), "class token"),
        ("tokens", (5, 17, 64), (17,), (slice(None), 11, 7), "token 11"),
        ("map", (5, 64, 9, 20), (9, 20), (slice(None), 7, 8, 13), "row 8, columns 12–14"),
        ("map_last", (5, 9, 20, 64), (9, 20), (slice(None), 3, 0, 7), "rows 2–3, columns 0–2"),
    ]
    for number, (form, shape, positions, at, where) in enumerate(places):
        values = normal(*shape).astype(np.float32)
        size = (3000.0, -3000.0)[number % 2]
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
    values = normal(4, 9, 64, seed=1) + 1e8
    assert_is_truth(measure(values, tap, kind=TensorProto.DOUBLE), values, tap)
    offset = normal(4, 9, 64, seed=1).astype(np.float32) + np.float32(1000)
    assert_is_truth(measure(offset, tap), offset, tap)


def test_values_that_cannot_be_measured_never_enter_a_mean() -> None:
    tap = Tap("t", "tokens", 64, (9,), class_token=True)
    values = normal(6, 9, 64).astype(np.float32)
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


def test_a_value_that_is_no_number_is_seen_at_positions_that_are_not_measured() -> None:
    tap = Tap("t", "map", 64, (16, 16))
    values = normal(3, 64, 16, 16).astype(np.float32)
    values[1, 2, 3, 5] = np.nan
    assert tap.strides == (2, 2)
    assert measure(values, tap).n_not_finite == 1


def test_of_two_places_with_the_same_largest_value_none_is_made_up() -> None:
    """Features 5 and 50 at tokens 3 and 1: (5, 1) is not a place of an outlier."""
    values = np.zeros((4, 4, 64), np.float32)
    values[:, 3, 5] = values[:, 1, 50] = 9
    found = measure(values + np.float32(0.5), Tap("t", "tokens", 64, (4,)))
    assert found.fixed_outlier is None
    values[:, 1] = 0
    fixed = measure(values + np.float32(0.5), Tap("t", "tokens", 64, (4,))).fixed_outlier
    assert fixed is not None
    assert (fixed.feature, fixed.token) == (5, 3)

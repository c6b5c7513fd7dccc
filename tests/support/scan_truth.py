"""What a scan must give: every number computed again by NumPy and SciPy from activations copied out."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import scipy.stats
from numpy.typing import NDArray
from onnx import TensorProto

from robustcheck_onnx.checker.scan import document
from robustcheck_onnx.checker.scan import run as scan
from robustcheck_onnx.checker.scan.document import LayerStatistics
from robustcheck_onnx.checker.scan.taps import Tap
from support import normal
from support.onnx_models import save, weight
from support.written import written

Array = NDArray[Any]


def assert_close(found: float | None, expected: Any, rtol: float = 1e-7, atol: float = 0, note: str = "") -> None:
    """A number that was measured, and near the expected one."""
    assert found is not None
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol, err_msg=note)


def rows_of(values: Array, tap: Tap, strides: tuple[int, ...] = (1, 1)) -> Array:
    """(image, position, feature), float64: every position, or those of a map at the strides."""
    x = np.asarray(values, dtype=np.float64)
    if tap.form == "tokens_first":
        x = x.swapaxes(0, 1)
    if tap.form == "map":
        x = np.moveaxis(x, 1, -1)
    if x.ndim == 4:
        x = x[:, :: strides[0], :: strides[1]]
    return x.reshape(len(x), -1, x.shape[-1])


def assert_is_truth(found: LayerStatistics, values: Array, tap: Tap, *, places: bool = True) -> None:
    """Every number of the statistics, computed again from the activations."""
    rows, everything = rows_of(values, tap, tap.strides), rows_of(values, tap)
    kurtosis = scipy.stats.kurtosis(rows, axis=2, fisher=False)
    z = scipy.stats.zscore(rows, axis=2)
    flat = z.reshape(-1, z.shape[-1])
    s2, z4 = (flat**2).mean(axis=0), (flat**4).sum(axis=0)
    assert found.n_rows == len(flat)
    expected = {
        "kurtosis": kurtosis.mean(),
        "rms_kurtosis": (s2**2).mean() / s2.mean() ** 2,
        "top3_share": np.sort(z4)[-3:].sum() / z4.sum(),
        "mean_token_kurtosis": scipy.stats.kurtosis(everything.mean(axis=1), axis=1, fisher=False).mean()
        if tap.positions
        else None,
        "class_token_kurtosis": kurtosis[:, 0].mean() if tap.class_token else None,
    }
    few = np.abs(rows[:, :: tap.median_step])
    medians = np.median(few, axis=2)
    if (medians > 0).all():
        expected["max_median_ratio"] = (few.max(axis=2) / medians).mean()
    elif (medians > 0).mean() < 0.5:
        expected["max_median_ratio"] = None
    for name, value in expected.items():
        if value is None:
            assert getattr(found, name) is None, name
        else:
            assert_close(getattr(found, name), value, rtol=1e-4, note=name)
    assert_close(found.largest_value, np.abs(everything).max(), rtol=1e-5)
    if len(rows) > 1:
        assert_close(found.kurtosis_se, scipy.stats.sem(kurtosis.mean(axis=1)), rtol=1e-3, atol=1e-5)
    frequency, of_class = ((np.abs(each) > 6).mean(axis=0) for each in (flat, z[:, 0] * tap.class_token))
    for features, share in ((found.persistent, frequency), (found.class_token_persistent, of_class)):
        assert {each.feature for each in features} == set(np.flatnonzero(share >= 0.5))
    for feature in found.persistent:
        assert_close(feature.frequency, frequency[feature.feature])
        assert_close(feature.kurtosis_share, z4[feature.feature] / z4.sum(), rtol=1e-4)
    if places:
        assert_places(found, z, everything, np.median(medians, axis=1), tap)


def assert_places(found: LayerStatistics, z: Array, everything: Array, median: Array, tap: Tap) -> None:
    """Where the largest |z| lies, and massive activations with their positions."""
    tops = [np.unravel_index(np.abs(image).argmax(), image.shape) for image in z]
    strong = Counter((int(f), int(t)) for (t, f), image in zip(tops, z, strict=True) if np.abs(image).max() > 6)
    common, n = max(strong.items(), key=lambda place: place[::-1], default=((), 0))
    assert (found.fixed_outlier is not None) == (n >= 0.5 * len(z))
    if found.fixed_outlier is not None:
        assert (found.fixed_outlier.feature, found.fixed_outlier.token or 0) == common
        assert_close(found.fixed_outlier.frequency, n / len(z))
    expected: Counter[tuple[int, int]] = Counter()
    for image, middle in zip(np.abs(everything), median, strict=True):
        size = image.max(axis=0)
        for feature in np.argsort(-size)[:3].tolist():
            if size[feature] > 100 and size[feature] >= 1000 * middle > 0:
                expected[feature, cell_of(int(image[:, feature].argmax()), tap)] += 1
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


def assert_report_is_truth(report: document.ScanReport, model: Path, feed: Array) -> None:
    found = activations(model, [layer.tensor for layer in report.layers], feed)
    for layer in report.layers:
        rectified = layer.statistics.largest_value is not None and bool((found[layer.tensor] >= 0).all())
        tap = Tap(layer.tensor, layer.form, layer.width, layer.positions, layer.class_token, rectified)
        assert tap.measured == layer.measured
        assert_is_truth(layer.statistics, found[layer.tensor], tap)


def scanned(path: Path, **options: Any) -> tuple[document.ScanReport, Array]:
    """The report of a tiny model, and the input it was run on, in any order."""
    inputs = path.with_suffix(".npy")
    options = {"preprocess": "imagenet", "device": "cpu", "batch_size": 5, **options}
    return scan.scan(path, images=inputs, **options), np.load(inputs)


def small_model(folder: Path) -> Path:
    """A residual graph without torch, and 9 images of random input."""
    text = """
        c = Conv(image, w, kernel_shape=[3, 3]); x = Relu(c); y = Conv(x, v); z = Add(x, y)
        p = GlobalAveragePool(z); embedding = Flatten(p)
    """
    np.save(folder / "small.npy", normal(9, 3, 8, 8).astype(np.float32))
    output, w, v = ("embedding", TensorProto.FLOAT, ("batch", 16)), weight(16, 3, 3, 3), weight(16, 16, 1, 1)
    return save(written(text, output, before="", w=w, v=v), folder / "small.onnx")

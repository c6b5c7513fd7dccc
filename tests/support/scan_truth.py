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


def canonical(values: Array, form: str) -> Array:
    """(image, position, feature), float64, all positions."""
    x = np.asarray(values, dtype=np.float64)
    if form == "tokens_first":
        return x.transpose(1, 0, 2)
    if form == "map":
        x = np.moveaxis(x, 1, -1)
    return x.reshape(len(x), -1, x.shape[-1])


def assert_is_truth(found: LayerStatistics, values: Array, tap: Tap, *, places: bool = True) -> None:
    """Every number of the statistics, computed again from the activations."""
    strided: tuple[slice, ...] = tuple(slice(None, None, step) for step in tap.strides)
    part = {"map": (slice(None), slice(None), *strided), "map_last": (slice(None), *strided)}.get(tap.form, ...)
    rows, everything = canonical(values[part], tap.form), canonical(values, tap.form)
    kurtosis = scipy.stats.kurtosis(rows, axis=2, fisher=False)
    z = scipy.stats.zscore(rows, axis=2)
    flat = z.reshape(-1, z.shape[-1])
    s2 = (flat**2).mean(axis=0)
    z4 = (flat**4).sum(axis=0)
    assert found.n_rows == len(flat)
    expected = {
        "kurtosis": kurtosis.mean(axis=1).mean(),
        "rms_kurtosis": (s2**2).mean() / s2.mean() ** 2,
        "top3_share": np.sort(z4)[-3:].sum() / z4.sum(),
        "mean_token_kurtosis": None,
        "class_token_kurtosis": None,
    }
    if tap.positions:
        mean = everything.mean(axis=1)
        expected["mean_token_kurtosis"] = scipy.stats.kurtosis(mean, axis=1, fisher=False).mean()
    if tap.class_token:
        expected["class_token_kurtosis"] = kurtosis[:, 0].mean()
        own = (np.abs(z[:, 0]) > 6).mean(axis=0)
        assert {f.feature for f in found.class_token_persistent} == set(np.flatnonzero(own >= 0.5))
    else:
        assert found.n_class_token_persistent == 0
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
    if len(rows) > 1:
        se = kurtosis.mean(axis=1).std(ddof=1) / np.sqrt(len(rows))
        assert_close(found.kurtosis_se, se, rtol=1e-3, atol=1e-5)
    assert_close(found.largest_value, np.abs(everything).max(), rtol=1e-5)
    frequency = (np.abs(flat) > 6).mean(axis=0)
    assert {f.feature for f in found.persistent} == set(np.flatnonzero(frequency >= 0.5))
    for feature in found.persistent:
        assert_close(feature.frequency, frequency[feature.feature])
        assert_close(feature.kurtosis_share, z4[feature.feature] / z4.sum(), rtol=1e-4)
    if places:
        assert_places(found, z, everything, np.median(medians, axis=1), tap)


def assert_places(found: LayerStatistics, z: Array, everything: Array, median: Array, tap: Tap) -> None:
    """Where the largest |z| lies, and massive activations with their positions."""
    strong: Counter[tuple[int, ...]] = Counter()
    massive: Counter[tuple[int, int]] = Counter()
    for image, values, middle in zip(np.abs(z), np.abs(everything), median, strict=True):
        if image.max() > 6:
            strong[tuple(int(place) for place in np.unravel_index(image.argmax(), image.shape))[::-1]] += 1
        size = values.max(axis=0)
        for feature in np.argsort(-size)[:3]:
            if size[feature] > 100 and middle > 0 and size[feature] >= 1000 * middle:
                massive[int(feature), cell_of(int(values[:, feature].argmax()), tap)] += 1
    n, place = max(((n, place) for place, n in strong.items()), default=(0, ()))
    if n and n >= 0.5 * len(z):
        assert found.fixed_outlier is not None
        assert (found.fixed_outlier.feature, found.fixed_outlier.token or 0) == place
        assert_close(found.fixed_outlier.frequency, n / len(z))
    else:
        assert found.fixed_outlier is None
    assert {(m.feature, m.token or 0): round(m.frequency * len(z)) for m in found.massive} == massive


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

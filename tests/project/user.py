"""A strict user's script, which `make types` reads and nothing runs: every name has a type, mistakes are found."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_type

import numpy as np
import onnx
from PIL import Image

import robustcheck_onnx as rc

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Tensor:
    """As torch's says it."""

    def __array__(self, dtype: Any = None) -> Any: ...


def types(assert_robust: rc.AssertRobust) -> None:
    """What each call gives."""
    rc.check(b"", images=[Path("a.jpg")], max_images=64, thresholds="default-4")
    rc.check(onnx.ModelProto(), images=[Image.new("RGB", (8, 8))])
    report = rc.check("m.onnx", images=np.zeros((4, 3, 8, 8), np.float32))
    assert_type(report, rc.Report)
    assert_type(report.evidence.statistics.kurtosis.low, float | None)
    assert_type(report.plot(), Figure)
    assert_type(rc.compare("a.onnx", "b.onnx", images="photos/"), rc.CompareReport)
    assert_type(rc.compare("a.onnx", baseline="b.json").next_baseline, rc.Baseline | None)
    assert_type(rc.measure(Tensor()), rc.Statistics)
    assert_type(rc.Accumulator().merge(rc.Accumulator()).result().top3_share, rc.Interval)
    assert_type(assert_robust("m.onnx", seed=1), rc.Report)
    assert_type(rc.scan("m.onnx", "photos/", blocks=["a"]), rc.ScanReport)
    assert_type(rc.directions("m.onnx", "photos/", seed=1), rc.DirectionsReport)
    assert_type(rc.verify("report.json", "m.onnx", "photos/"), rc.Verification)


def mistakes(assert_robust: rc.AssertRobust) -> None:
    """Each line is an error of mypy's, or `warn_unused_ignores` tells."""
    rc.chekc("m.onnx")  # type: ignore[attr-defined]
    rc.check("m.onnx", imagess="photos/")  # type: ignore[call-arg]
    rc.check("m.onnx", seed="3")  # type: ignore[arg-type]
    rc.check(3)  # type: ignore[arg-type]
    rc.assert_robust("m.onnx", max_image=64)  # type: ignore[call-arg]
    rc.verify("report.json", "m.onnx", image_set="photos/")  # type: ignore[call-arg]
    rc.gate_model_version("name", 3, "report.json", imags="photos/")  # type: ignore[call-arg]
    rc.measure("m.onnx")  # type: ignore[arg-type]
    rc.scan("m.onnx", "photos/", ["a"])  # type: ignore[call-arg]
    rc.measure_shift("m.onnx", images="photos/", inside="photos/", shifted="s")  # type: ignore[call-arg]
    assert_robust("m.onnx", sead=1)  # type: ignore[call-arg]

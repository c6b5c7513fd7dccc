"""Measures again what a report says was measured."""

from __future__ import annotations

import tempfile
from pathlib import Path

from robustcheck_onnx.checker import pipeline
from robustcheck_onnx.checker.measure import Job, Tell, measure_all
from robustcheck_onnx.checker.model import PRESETS, open_model
from robustcheck_onnx.checker.report import Report, Settings


def measure_again(
    report: Report,
    model: Path,
    images: str | None,
    *,
    device: str | None = None,
    progress: Tell | None = None,
) -> Report:
    """Measure again with a report's settings and judge by its profile, in this process.

    A report of an earlier version that was measured on Ray is measured on every image, as it was, in the same shards.

    Args:
        report: a report with its settings (`binding`).
        model, images: what the settings are applied to.
        device: instead of the one in the settings; None = that one.
        progress: called after every batch.

    Raises:
        UsageError, CannotAssessError, EnvironmentFaultError: as `pipeline.check`.
    """
    assert report.binding is not None
    settings = report.binding.settings
    with tempfile.TemporaryDirectory() as folder:
        preprocess = settings.preprocess
        if preprocess is not None and preprocess not in PRESETS:  # the name of a file that may not be on this machine
            file = Path(folder) / "preprocessing.json"
            file.write_text(report.evidence.preprocessing.preprocessing.model_dump_json(), encoding="utf-8")
            preprocess = str(file)
        changed = {"images": images, "preprocess": preprocess, "device": device or settings.device}
        options = settings.model_copy(update=changed).options
        if settings.engine == "ray":
            job = Job(model, options)
            contract = open_model(model, tensor=options.tensor, pool=options.pool).contract
            (evidence,) = measure_all(job, report.profile)
            return pipeline.report_of(
                evidence, report.profile, pipeline.published_of(contract), Settings(**dict(options))
            )
        return pipeline.check(
            model,
            thresholds=report.profile,
            isolate=False,
            progress=progress,
            **options.given,
        )

"""A report's run once more, for `verify`."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from robustcheck_onnx.checker import engine, pipeline, sidecar
from robustcheck_onnx.checker.measurement import Job
from robustcheck_onnx.checker.pipeline import Progress
from robustcheck_onnx.checker.report import Report
from robustcheck_onnx.checker.verdict import judge


def measure_again(
    report: Report,
    model: Path,
    images: str | None,
    *,
    device: str | None = None,
    detectors: Sequence[str] = (),
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Measure again with a report's settings and judge by its profile, in this process.

    A report of the Ray engine, too: that engine measures every image, in shards whose sums do not depend on who
    measured them, so this process measures every image and starts no cluster.

    Args:
        report: a report with its settings (`binding`).
        model, images: what the settings are applied to.
        device: another one than the settings name.
        detectors: plug-ins to run.
        progress: called after every batch; for a report of the Ray engine after every shard.

    Raises:
        UsageError, CannotAssessError, EnvironmentFaultError: as `pipeline.check`.
    """
    assert report.binding is not None
    settings = report.binding.settings
    with tempfile.TemporaryDirectory() as folder:
        preprocess = settings.preprocess
        if preprocess is not None and preprocess not in sidecar.PRESETS:  # a file that may not be here
            file = Path(folder) / "preprocessing.json"
            file.write_text(report.evidence.preprocessing.preprocessing.model_dump_json(), encoding="utf-8")
            preprocess = str(file)
        if settings.engine == "ray" and not detectors:
            job = Job(
                model=model,
                images=images,
                tensors=(settings.tensor,),
                pool=settings.pool,
                preprocess=preprocess,
                device=device or settings.device,
                seed=settings.seed,
                max_images=settings.max_images,
                max_bad=settings.max_bad,
                batch_size=settings.batch_size,
            )
            (evidence,) = engine.measure_all(job, report.profile, progress=_teller(progress))
            verdict = judge(evidence, report.profile)
            return report.model_copy(update={"evidence": evidence, "verdict": verdict})
        return pipeline.check(
            model,
            images=images,
            tensor=settings.tensor,
            pool=settings.pool,
            preprocess=preprocess,
            device=device or settings.device,
            seed=settings.seed,
            max_images=settings.max_images,
            max_bad=settings.max_bad,
            batch_size=settings.batch_size,
            thresholds=report.profile,
            engine=settings.engine,
            workers=settings.workers,
            detectors=detectors,
            progress=progress,
        )


def _teller(progress: Callable[[Progress], None] | None) -> engine.Progress | None:
    """The callback as the engine calls it."""
    if progress is None:
        return None
    clock = time.perf_counter()

    def tell(_: Job, n_done: int, n_total: int) -> None:
        progress(Progress(n_done, n_total, n_done / (time.perf_counter() - clock), ""))

    return tell

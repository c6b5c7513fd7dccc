"""Measures again what a report says was measured, and compares the two reports."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from robustcheck_onnx.checker import pipeline
from robustcheck_onnx.checker.evidence import Evidence
from robustcheck_onnx.checker.measure import Job, Progress, job_progress, measure_all
from robustcheck_onnx.checker.model import PRESETS
from robustcheck_onnx.checker.report import Report, ruling
from robustcheck_onnx.checker.verdict import SAME_NUMBERS, execution_notes, judge
from robustcheck_onnx.thresholds.profile import STATISTICS

SAME_ENVIRONMENT = 1e-4
"""Relative tolerance of a statistic where ONNX Runtime, its provider and the device are the same: other thread counts
and orders of sums move the sixth digit."""
OTHER_ENVIRONMENT_FACTOR = 5
"""Else the tolerance of a statistic is so many times that of a representation at its precision: the statistics are made
of fourth powers, so a relative difference e of a representation moves them by about 4 e."""


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

    So is a report of the Ray engine: this process measures every image in the same shards, whose sums do not depend on
    the process, and no cluster is started.

    Args:
        report: a report with its settings (`binding`).
        model, images: what the settings are applied to.
        device: instead of the one in the settings; None = that one.
        detectors: plug-ins to run.
        progress: called after every batch; for a report of the Ray engine after every shard.

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
        if settings.engine == "ray" and not detectors:
            (evidence,) = measure_all(Job(model, options), report.profile, progress=job_progress(progress))
            verdict = judge(evidence, report.profile)
            return report.model_copy(update={"evidence": evidence, "verdict": verdict})
        return pipeline.check(
            model,
            thresholds=report.profile,
            engine=settings.engine,
            workers=settings.workers,
            detectors=detectors,
            progress=progress,
            **options.given,
        )


def tolerance_between(first: Evidence, second: Evidence) -> float:
    """The relative difference that statistics of two runs may have, by their environments and precision."""
    a, b = first.execution, second.execution
    if (a.providers, a.runtime, a.device, a.precision, a.optimization) == (
        b.providers, b.runtime, b.device, b.precision, b.optimization,
    ):  # fmt: skip
        return SAME_ENVIRONMENT
    return OTHER_ENVIRONMENT_FACTOR * SAME_NUMBERS.get(b.precision, SAME_NUMBERS["fp32"])


def disagreements(first: Report, second: Report, tolerance: float) -> tuple[str, ...]:
    """The differences between two reports, in words; empty if there are none.

    Verdict, reasons, counts, digests and what was read must be equal; a statistic and its bounds may differ by
    tolerance · max(both, its threshold), a descriptive number by tolerance · max(both, 1).
    """
    differences = []
    if ruling(first.verdict) != ruling(second.verdict):
        differences.append(f"verdict {ruling(first.verdict)} against {ruling(second.verdict)}")
    a, b = _exact(first.evidence), _exact(second.evidence)
    differences += [f"{name} {a[name]} against {b[name]}" for name in a if a[name] != b[name]]
    differences += _said_otherwise(first, second)
    numbers, others = _numbers(first), _numbers(second)
    for name, (value, scale) in numbers.items():
        other = others[name][0]
        if value is None or other is None:
            same = value is other
        else:
            same = math.isclose(value, other, rel_tol=tolerance, abs_tol=tolerance * scale)
        if not same:
            differences.append(f"{name} {value} against {other}")
    return tuple(differences)


def _said_otherwise(first: Report, second: Report) -> list[str]:
    """What the first report does not say, or says otherwise, beside its numbers; of one version alone: words change.

    A note on the machine is about the machine.
    """
    if first.tool_version != second.tool_version:
        return []
    parts = ("claim", "published", "reference")
    changed = [f"{part} is not what a check writes" for part in parts if getattr(first, part) != getattr(second, part)]
    about_machine = execution_notes(second.evidence.execution)
    lost = [note for note in second.notes if note not in first.notes and note not in about_machine]
    return changed + [f"a note is missing ({note})" for note in lost]


def _exact(evidence: Evidence) -> dict[str, object]:
    """What must be equal in two runs, by name."""
    s, m, i, p = evidence.statistics, evidence.model, evidence.images, evidence.preprocessing
    return {
        "statistic version": s.statistic_version,
        "images": (s.n_images, s.n_nonfinite, s.n_constant, i.n_read, i.n_skipped),
        "image digest": i.digest,
        "image findings": tuple(finding.id for finding in i.sanity.findings),
        "features": s.n_features,
        "alpha": s.alpha,
        "persistent features": tuple(sorted(f.index for f in s.persistent)),
        "model": (m.digest, m.file_digest, *sorted(m.external_digests.items())),
        "tensor": (m.tensor, m.rule, m.pool, str(m.ends_in), m.tensor_assumed),
        "origin": (m.random_weights, m.source, m.synthetic, m.matched_to, m.file_changed),
        "preprocessing": (p.preprocessing, p.source, p.against_contract),
        "end": evidence.stopped,
        "images of the content": evidence.content and evidence.content.n,
        "detectors": tuple((d.name, d.version, d.finding) for d in evidence.detectors),
    }


def _numbers(report: Report) -> dict[str, tuple[float | None, float]]:
    """By name: every statistic, and the size below which the tolerance is absolute."""
    s = report.evidence.statistics
    out: dict[str, tuple[float | None, float]] = {}
    for name in STATISTICS:
        threshold = report.profile.thresholds.get(name)
        interval, scale = getattr(s, name), threshold.minimum if threshold else 1.0
        for part in ("estimate", "low", "high"):
            out[f"{name} {part}"] = (getattr(interval, part), scale)
    for field in (
        "centred_kurtosis",
        "rms_kurtosis",
        "max_median_ratio",
        "zero_share",
        "negative_share",
        "spread",
        "distinct_share",
    ):
        out[field] = (getattr(s, field), 1.0)
    if content := report.evidence.content:
        out["effective_rank"], out["relative_variance"] = (
            (content.effective_rank, 1.0),
            (content.relative_variance, 1.0),
        )
    return out

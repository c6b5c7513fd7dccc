"""The OpenMetrics form, for GitLab's metrics report and for Prometheus: numbers of each model; pure."""

from __future__ import annotations

from collections.abc import Sequence

from robustcheck_onnx.checker.text import VERSION, printable

from .forms import FormOptions
from .outcome import cautions, exit_code_of, findings, names_of
from .record import Failed, Outcome, Report
from .words import statistics_of

Labels = dict[str, str]
Sample = tuple[Labels, float]


def render(outcomes: Sequence[Outcome], options: FormOptions) -> str:
    """Write one family of metrics after another; the last line is `# EOF`.

    A model that could not be assessed has `robustcheck_error` 1 and no `robustcheck_verdict`; what could not be
    measured has no sample.
    """
    del options
    named = list(zip(names_of(outcomes), outcomes, strict=True))
    reports = [(name, outcome) for name, outcome in named if isinstance(outcome, Report)]
    lines = [
        "# TYPE robustcheck info",
        "# HELP robustcheck What made these numbers.",
        f"robustcheck_info{_labels({'version': VERSION})} 1",
    ]

    def family(name: str, help_text: str, samples: Sequence[Sample], unit: str = "") -> None:
        lines.append(f"# TYPE robustcheck_{name} gauge")
        if unit:
            lines.append(f"# UNIT robustcheck_{name} {unit}")
        lines.append(f"# HELP robustcheck_{name} {help_text}")
        lines.extend(f"robustcheck_{name}{_labels(labels)} {value!r}" for labels, value in samples)

    family("verdict", "1 = PASS (the indication is present), 0 = WARN.", [_verdict(n, r) for n, r in reports])
    family("warn_kind", "1 for the kind of a WARN.", [({"model": n, "kind": r.kind}, 1) for n, r in reports if r.kind])
    family(
        "error", "1 = the model could not be assessed.", [({"model": n}, int(isinstance(o, Failed))) for n, o in named]
    )
    family("exit_code", "What this model alone makes of it.", [({"model": n}, exit_code_of(o)) for n, o in named])
    family(
        "reason",
        "1 for each reason for WARN.",
        [
            (
                {"model": n, "reason": printable(f.reason.id), "kind": f.reason.kind}
                | {"waived": "yes" if f.waiver else "no"},
                1,
            )
            for n, r in reports
            for f in findings(r)
        ],
    )
    family(
        "caution",
        "1 for what can loosen the gate, and for photos that are not the user's.",
        [({"model": n, "caution": text}, 1) for n, r in reports for text in cautions(r)],
    )
    statistics = [({"model": name, "statistic": s.id}, s) for name, report in reports for s in statistics_of(report)]
    for part, text in (
        ("estimate", "Estimate"),
        ("low", "Lower confidence bound"),
        ("high", "Upper confidence bound"),
        ("threshold", "What the lower bound must exceed for PASS"),
    ):
        values = [(labels, s.minimum if part == "threshold" else getattr(s.interval, part)) for labels, s in statistics]
        measured = [(labels, value) for labels, value in values if value is not None]
        family(f"statistic_{part}", f"{text} of a deciding statistic.", measured)
    family("images", "Images measured.", [({"model": n}, r.evidence.statistics.n_images) for n, r in reports])
    family(
        "wall_seconds",
        "Wall clock of the check.",
        [({"model": n}, r.time.wall_s) for n, r in reports if r.time],
        "seconds",
    )
    return "\n".join([*lines, "# EOF"]) + "\n"


def _verdict(name: str, report: Report) -> Sample:
    return {"model": name}, int(report.verdict.verdict == "PASS")


def _labels(labels: Labels) -> str:
    escaped = ((k, v.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")) for k, v in labels.items())
    return "{" + ",".join(f'{key}="{value}"' for key, value in escaped) + "}"

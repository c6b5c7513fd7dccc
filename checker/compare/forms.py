"""`robustcheck compare` in the forms for pipelines: JUnit, SARIF and Markdown; pure."""

from __future__ import annotations

from robustcheck_onnx.checker.evidence import Interval
from robustcheck_onnx.checker.report import MARK, Options, Report, code, findings, junit, measured, reasons, sarif, text
from robustcheck_onnx.checker.text import number_text
from robustcheck_onnx.checker.verdict import NAMES

from .judge import CompareReport, to_json

FORMS = ("json", "junit", "markdown", "sarif")


def render(form: str, report: CompareReport, options: Options) -> str:
    """The comparison in a form (one of FORMS), ending in a newline."""
    if form == "json":
        return to_json(report)
    outcome = as_outcome(report)
    if form == "junit":
        return junit.render([outcome], options)
    if form == "sarif":
        return sarif.document([outcome], options, "robustcheck-compare/")
    return _markdown(report, outcome)


def as_outcome(report: CompareReport) -> Report:
    """The candidate's report, with the comparison's verdict, reasons and claim instead of its own."""
    return Report(
        tool_version=report.tool_version,
        verdict=report.verdict,
        notes=(*report.notes, f"compared with {_reference(report)}"),
        evidence=report.candidate.evidence,
        profile=report.profile,
        reference=(),
        claim=report.claim,
        time=report.time,
    )


def _reference(report: CompareReport) -> str:
    return report.baseline or report.reference.evidence.model.file


def _markdown(report: CompareReport, outcome: Report) -> str:
    verdict = report.verdict.verdict
    sides = (("Candidate", report.candidate), ("Baseline" if report.baseline else "Reference", report.reference))
    facts = [
        f"- {name}: {code(side.evidence.model.file)} {code(side.evidence.model.digest)}, by itself "
        f"{side.verdict.verdict}"
        for name, side in sides
    ]
    facts.append(f"- {report.n_images} images{' in pairs' if report.paired else ''}, tolerance {report.tolerance:g}")
    blocks = [
        MARK,
        f"## {'✓' if verdict == 'PASS' else '▲'} {verdict}: {text(report.candidate.evidence.model.file)} compared with "
        f"{text(_reference(report))}",
        "\n".join(facts),
        *([reasons(found)] if (found := findings(outcome)) else []),
        *(["\n".join(f"- Note: {text(note)}" for note in report.notes)] if report.notes else []),
        _statistics(report),
        _features(report),
        measured(outcome),
        text(report.claim),
    ]
    return "\n\n".join(blocks) + "\n"


def _statistics(report: CompareReport) -> str:
    rows = ["### Statistics side by side", "", "| statistic | candidate | reference | ratio | interval | kept? |"]
    rows.append("|---|---:|---:|---:|---:|---|")
    for s in report.statistics:
        sides = f"{number_text(s.candidate)} | {number_text(s.reference)} | {number_text(s.ratio.estimate)}"
        rows.append(f"| {NAMES[s.name]} | {sides} | {_bounds(s.ratio)} | {s.keeps} |")
    return "\n".join(rows)


def _bounds(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return "–"
    return f"{number_text(interval.low)} – {number_text(interval.high)}"


def _features(report: CompareReport) -> str:
    rows = [
        "### Outlier features of the reference",
        "",
        "| feature | in the candidate | as feature |",
        "|---:|---|---:|",
    ]
    for f in report.features:
        rows.append(f"| {f.index} | {f.fate} | {'–' if f.to is None else f.to} |")
    new = ", ".join(map(str, report.new_features))
    return "\n".join(rows) + (f"\n\nNew in the candidate: {new}" if new else "")

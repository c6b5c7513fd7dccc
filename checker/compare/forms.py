"""Write a comparison as JUnit, SARIF and Markdown."""

from __future__ import annotations

from robustcheck_onnx.checker.report import markdown, pipelines
from robustcheck_onnx.checker.report.forms import FormOptions, cautions
from robustcheck_onnx.checker.report.record import Report
from robustcheck_onnx.checker.report.words import SIGNS
from robustcheck_onnx.checker.text import number_text

from .judge import Compared, CompareReport, statistic_row


def render(form: str, report: CompareReport, options: FormOptions = FormOptions()) -> str:  # noqa: B008 # frozen
    """Write the comparison as JUnit, SARIF or Markdown. It ends in a newline."""
    outcome = as_side(report, report.candidate)
    if form == "junit":
        return pipelines.write_junit([outcome], options)
    if form == "sarif":
        return pipelines.document([outcome], options, "robustcheck-compare/")
    return _markdown(report, outcome)


def reference_name(report: CompareReport) -> str:
    """Return the file that was compared with. It is the reference, or the baseline in its place."""
    return report.baseline or report.reference.evidence.model.file


def as_side(report: CompareReport, side: Compared) -> Report:
    """Return one side as the report of a check. Verdict, notes and claim are those of the comparison."""
    return Report(
        tool_version=report.tool_version,
        verdict=report.verdict,
        notes=(*report.notes, f"compared with {reference_name(report)}"),
        evidence=side.evidence,
        profile=report.profile,
        reference=(),
        claim=report.claim,
        time=report.time,
    )


def _markdown(report: CompareReport, outcome: Report) -> str:
    verdict = report.verdict.verdict
    sides = (("Candidate", report.candidate), ("Baseline" if report.baseline else "Reference", report.reference))
    facts = [
        f"- {name}: {markdown.code(side.evidence.model.file)} {markdown.code(side.evidence.model.digest)}, by itself "
        f"{side.verdict.verdict}"
        for name, side in sides
    ]
    facts.append(f"- {report.n_images} images{' in pairs' if report.paired else ''}, tolerance {report.tolerance:g}")
    if report.similarity is not None:
        facts.append(f"- As a whole: {report.similarity.text}")
    blocks = [
        markdown.MARK,
        f"## {SIGNS[verdict]} {verdict}: {markdown.text(report.candidate.evidence.model.file)} compared with "
        f"{markdown.text(reference_name(report))}",
        *(f"**!** {caution}" for caution in cautions(outcome)),
        "\n".join(facts),
        *markdown.reasons(outcome),
        *markdown.notes(report.notes),
        _statistics(report),
        _features(report),
        markdown.measured(outcome),
        markdown.text(report.claim),
    ]
    return "\n\n".join(blocks) + "\n"


def _statistics(report: CompareReport) -> str:
    rows = ["### Statistics side by side", "", "| statistic | candidate | reference | ratio | interval | kept? |"]
    rows.append("|---|---:|---:|---:|---:|---|")
    for row in map(statistic_row, report.statistics):
        estimate = number_text(row.ratio.estimate)
        rows.append(f"| {row.name} | {row.candidate} | {row.reference} | {estimate} | {row.bounds} | {row.word} |")
    return "\n".join(rows)


def _features(report: CompareReport) -> str:
    rows = [
        "### Outlier features of the reference",
        "",
        "| feature | in the candidate | as feature |",
        "|---:|---|---:|",
    ]
    rows += [f"| {f.index} | {f.fate} | {'–' if f.to is None else f.to} |" for f in report.features]
    new = ", ".join(map(str, report.new_features))
    return "\n".join(rows) + (f"\n\nNew in the candidate: {new}" if new else "")

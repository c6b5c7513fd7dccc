"""Write `robustcheck compare` as an HTML page. Frame, style and rules are those of a check's page."""

from __future__ import annotations

from pathlib import Path

from robustcheck_onnx.checker.report import html as page
from robustcheck_onnx.checker.report.forms import FormOptions

from .forms import as_side, reference_name
from .judge import CompareReport, feature_row, plain_text, statistic_row
from .pairs import KEPT_CKA

TEMPLATES = Path(__file__).parent / "templates"


def render(report: CompareReport) -> str:
    """Write one self-contained page. It ends in a newline."""
    candidate = as_side(report, report.candidate)
    return page.written(
        "compare.html.j2",
        TEMPLATES,
        title=f"{report.verdict.verdict}{report.index_words}: {report.candidate.evidence.model.file} compared",
        versions=[report.tool_version],
        report=report,
        outcome=candidate,
        options=FormOptions(thumbnails=report.thumbnails),
        plain=plain_text(report),
        against=reference_name(report),
        kept_cka=f"{KEPT_CKA:g}",
        rows=[statistic_row(change) for change in report.statistics],
        features=[feature_row(fate) for fate in report.features],
        sides=[("Candidate", candidate), ("Reference", as_side(report, report.reference))],
        least=1 - report.tolerance,
        least_text=f"{1 - report.tolerance:g}",
        confidence=f"{100 * (1 - report.alpha):g} %",
    )

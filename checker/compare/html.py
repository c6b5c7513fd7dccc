"""Write `robustcheck compare` as an HTML page. Frame, style and rules are those of a check's page."""

from __future__ import annotations

from pathlib import Path

from robustcheck_onnx.checker.report.html import page
from robustcheck_onnx.checker.verdict import Kind

from .forms import as_side, reference_name
from .judge import CompareReport, feature_row, statistic_row
from .pairs import KEPT_CKA

TEMPLATES = Path(__file__).parent / "templates"

_PLAIN: dict[Kind | None, tuple[str, str]] = {
    None: (
        "On the {images}, the candidate has kept the outlier features that made its reference pass.",
        "They are a sign of robustness to natural distribution shifts, not a proof; no accuracy was measured.",
    ),
    "not_established": (
        "The comparison came to no result: something about the run or the reference stands in the way.",
        "Do the next steps below and compare again.",
    ),
    "not_applicable": (
        "The comparison cannot judge these two models: the thresholds do not hold for them, or they are too different.",
        "That says nothing of how robust the candidate is; measure its accuracy on shifted images to find out.",
    ),
    "absent": (
        "On the {images}, the candidate does not show the outlier features that robust CLIP encoders show.",
        "If its reference shows them, they were lost: look at how the candidate was made before you release it.",
    ),
    "other_signal": (
        "On the {images}, the candidate differs from its reference in what made the reference pass.",
        "Read the reasons below, and look at how the candidate was made before you release it.",
    ),
}


def plain_text(report: CompareReport) -> str:
    """Explain the verdict in two sentences. The reader knows no statistic; what it means and what to do."""
    images = f"{report.n_images:,} {'photo that was' if report.n_images == 1 else 'photos that were'} measured"
    return f"{report.verdict.verdict}: {' '.join(_PLAIN[report.verdict.kind]).format(images=images)}"


def render(report: CompareReport) -> str:
    """Write one self-contained page. It ends in a newline."""
    candidate = as_side(report, report.candidate)
    return page.written(
        "compare.html.j2",
        TEMPLATES,
        title=f"{report.verdict.verdict}: {report.candidate.evidence.model.file} compared",
        versions=[report.tool_version],
        report=report,
        outcome=candidate,
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

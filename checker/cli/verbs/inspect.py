"""The verbs `inspect` and `doctor`. They show what a model file holds and what the environment can do."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ..options import Output, argument
from ..question import Call, takes

if TYPE_CHECKING:
    from rich.console import RenderableType

    from robustcheck_onnx.checker.runtime import Finding

DOCTOR_SCHEMA = "robustcheck.doctor/1"
_SIGNS = {"ok": ("✓", "green"), "warn": ("▲", "yellow"), "fail": ("✗", "red")}


@takes(
    *("tensor", "pool", "preprocess", "thresholds", "color", "timeout", "max_memory", "max_model_size", "debug"),
    thresholds={"help": "The threshold profile that the file would have to pass. Default: the packaged one."},
)
def inspect(
    call: Call,
    model: Annotated[
        Path,
        argument("The ONNX file, or a folder with one in it or in its folder onnx.", "MODEL.onnx", readable=False),
    ],
    output: Output = "terminal",
) -> int:
    """Show what a check would measure, and whether it can pass.

    Tensor, head, preprocessing, opset and sizes, each with where it comes from.
    """
    from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
    from robustcheck_onnx.checker.inspection import terminal
    from robustcheck_onnx.checker.inspection.run import document_of, find_model, unopened_json
    from robustcheck_onnx.checker.isolation import NotReadError
    from robustcheck_onnx.checker.text import as_json
    from robustcheck_onnx.checker.verdict import load_profile

    settings = call.settings
    profile = load_profile(None if settings.thresholds is None else Path(settings.thresholds))
    chosen = {"tensor": settings.tensor, "pool": settings.pool, "preprocess": settings.preprocess}
    path = find_model(model)
    limits = settings.limits

    def show(document: dict[str, Any]) -> None:
        call.show(output, partial(as_json, document), partial(terminal.render_inspect, document))

    try:
        found = document_of(path, profile, limits, **chosen)
    except NotReadError:
        raise  # that says nothing about the file
    except (UsageError, CannotAssessError) as fault:
        is_own = all(value is None for value in chosen.values())
        if isinstance(fault, UsageError) and not (is_own and path.is_file()):
            raise  # a fault of the call says nothing about the file
        call.invocation.documents = []  # the error's own document
        show(unopened_json(path, fault))
        raise
    show(found)
    return 0


@takes("color", "debug")
def doctor(
    call: Call,
    output: Output = "terminal",
) -> int:
    """Show what models can run on here, and how to fix faults."""
    from robustcheck_onnx.checker.runtime import doctor as diagnosis
    from robustcheck_onnx.checker.text import as_json

    findings = diagnosis.diagnose()
    call.show(output, partial(as_json, doctor_json(findings)), partial(render_doctor, findings))
    return 4 if any(finding.status == "fail" for finding in findings) else 0


def render_doctor(findings: Sequence[Finding], *, ascii_only: bool = False) -> RenderableType:
    """Lay out findings about the environment. Each has what to type, and the last line counts the faults."""
    from rich.console import Group
    from rich.text import Text

    from robustcheck_onnx.checker.report import Pen, Trimmed, hanging, line

    pen = Pen(ascii_only)
    rows: list[tuple[Text, Text]] = []
    for finding in findings:
        sign, colour = _SIGNS[finding.status]
        what = line(pen.say(finding.check, "bold"), pen.say(f"  {finding.detail}"))
        rows.append((pen.say(f"{sign} {finding.status}", colour), what))
        if finding.fix:
            rows.append((Text(), line(pen.say("type: ", "dim"), pen.name(finding.fix, "cyan"))))
    counts = {status: sum(finding.status == status for finding in findings) for status in _SIGNS}
    summary = ", ".join(f"{number} {status}" for status, number in counts.items())
    return Trimmed(Group(pen.say("Environment", "bold"), hanging(rows), Text(), pen.say(summary)))


def doctor_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the findings as JSON values."""
    return {"schema": DOCTOR_SCHEMA, "findings": [finding.model_dump(mode="json") for finding in findings]}

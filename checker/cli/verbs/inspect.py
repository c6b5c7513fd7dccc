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
    *("tensor", "pool", "preprocess", "thresholds", "verbose", "color"),
    *("timeout", "max_memory", "max_model_size", "debug"),
    verbose={"max": 1, "help": "Everything that the file holds, each value with where it comes from."},
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
    """Show whether a file can pass, and what a check would measure."""
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
        call.show(
            output,
            partial(as_json, document),
            partial(terminal.render_inspect, document, verbose=bool(settings.verbose)),
        )

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
    """Lay out findings about the environment. Each has what to type, and the last line answers."""
    from rich.console import Group
    from rich.text import Text

    from robustcheck_onnx.checker.report import Pen, Trimmed, hanging, line
    from robustcheck_onnx.checker.text import count_text

    pen = Pen(ascii_only)
    blocks: list[RenderableType] = []
    for finding in findings:
        sign, colour = _SIGNS[finding.status]
        what = line(pen.say(finding.check, "bold"), pen.say(f"  {finding.detail}"))
        blocks.append(hanging([(pen.say(f"{sign} {finding.status:<4}", colour), what)]))
        if finding.fix:
            blocks.append(pen.command(f"  {finding.fix}"))
    n_failed = sum(finding.status == "fail" for finding in findings)
    broken = f"{count_text(n_failed, 'thing')} must be fixed: type what is shown, then robustcheck doctor."
    answer = broken if n_failed else "Checks run here; nothing must be fixed."
    return Trimmed(Group(*blocks, Text(), pen.say(answer, "bold")))


def doctor_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the findings as JSON values."""
    return {"schema": DOCTOR_SCHEMA, "findings": [finding.model_dump(mode="json") for finding in findings]}

"""The verbs `inspect` (what a model file holds) and `doctor` (what the environment can do)."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from ..options import Output, argument
from ..output import print_report
from ..question import Call, takes


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
    """Show what a check would measure in a file, and if it can pass.

    Tensor, head, preprocessing, opset and sizes, each with where it comes from.
    """
    from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
    from robustcheck_onnx.checker.inspection import terminal
    from robustcheck_onnx.checker.inspection.run import document_of, find_model, unopened_json
    from robustcheck_onnx.checker.isolation import NotReadError
    from robustcheck_onnx.checker.text import as_json
    from robustcheck_onnx.checker.verdict import load_profile

    given = call.given
    profile = load_profile(None if given.thresholds is None else Path(given.thresholds))
    chosen = {"tensor": given.tensor, "pool": given.pool, "preprocess": given.preprocess}
    path = find_model(model)
    limits = given.limits

    def show(document: dict[str, Any]) -> None:
        if output == "json":
            sys.stdout.write(as_json(document))
        else:
            print_report(partial(terminal.render_inspect, document), call.given.color)

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
    """Show what models can run on here, and how to fix what is broken."""
    import json

    from robustcheck_onnx.checker.runtime import doctor as diagnosis

    from .. import doctor_terminal

    findings = diagnosis.diagnose()
    if output == "json":
        sys.stdout.write(json.dumps(doctor_terminal.doctor_json(findings), indent=2) + "\n")
    else:
        print_report(partial(doctor_terminal.render_doctor, findings), call.given.color)
    return 4 if any(finding.status == "fail" for finding in findings) else 0

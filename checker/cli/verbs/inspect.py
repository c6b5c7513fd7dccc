"""The verbs `inspect` (what a model file holds) and `doctor` (what the environment can do)."""

from __future__ import annotations

import sys
from functools import partial

from ..options import Color, Debug, Model, Output, Pool, PreprocessOption, Tensor
from ..output import print_report


def inspect(
    model: Model,
    tensor: Tensor = None,
    pool: Pool = None,
    preprocess: PreprocessOption = None,
    output: Output = "terminal",
    color: Color = "auto",
    debug: Debug = False,
) -> int:
    """Show what would be measured and why: tensor, alternatives, head, preprocessing, opset, sizes."""
    import json

    from robustcheck_onnx.checker.model import find_preprocessing, open_model

    from .. import inspect_terminal

    opened = open_model(model, tensor=tensor, pool=pool)
    origins = find_preprocessing(
        model, preprocess, opened.contract.preprocessing if opened.contract else None, opened.image_input.size
    ).fields
    if output == "json":
        sys.stdout.write(json.dumps(inspect_terminal.inspect_json(opened, origins), indent=2) + "\n")
    else:
        print_report(
            partial(inspect_terminal.render_inspect, opened, origins),
            color,
        )
    return 0


def doctor(
    output: Output = "terminal",
    color: Color = "auto",
    debug: Debug = False,
) -> int:
    """Explain the environment: ONNX Runtime wheels, execution providers, CUDA, GPU, versions, and what to fix."""
    import json

    from robustcheck_onnx.checker.runtime import doctor as diagnosis

    from .. import inspect_terminal

    findings = diagnosis.diagnose()
    if output == "json":
        sys.stdout.write(json.dumps(inspect_terminal.doctor_json(findings), indent=2) + "\n")
    else:
        print_report(partial(inspect_terminal.render_doctor, findings), color)
    return 4 if any(finding.status == "fail" for finding in findings) else 0

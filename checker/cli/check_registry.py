"""`--log` and `--alias`: what a check found, written back to the MLflow server that its models came from."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.text import printable

if TYPE_CHECKING:
    from robustcheck_onnx.checker.report import Outcome

_REGISTERED = re.compile(r"models:/[^/]")
_MLFLOW = re.compile(r"(models|runs):/[^/]")


@contextlib.contextmanager
def closed(models: Sequence[str], *, log: bool, alias: str | None) -> Iterator[None]:
    """Close the gates of registered versions while they are checked; after an error they lose their aliases, too.

    log: False: nothing is done.

    Raises UsageError: a model that is not of MLflow; an alias for several models, or for a run. As
    `mlflow_log.gate_model_version`.
    """
    if not log:
        yield
        return
    other = next((model for model in models if _MLFLOW.match(model) is None), None)
    if other is not None:
        raise UsageError(
            f"{'--log' if alias is None else '--alias'} is given, and {other} is not of MLflow; a report goes back to "
            "where its model came from",
            "robustcheck models:/encoder/3 --images photos/ --log",
        )
    if alias is not None and (len(models) != 1 or _REGISTERED.match(models[0]) is None):
        raise UsageError(
            f"--alias is {alias}; it needs one model, models:/NAME/VERSION", "robustcheck mlflow log report.json"
        )
    from robustcheck_onnx.checker.integrations.mlflow_log import close_gate

    for model in models:
        close_gate(model)
    try:
        yield
    except BaseException:
        for model in models:
            with contextlib.suppress(Exception):  # the first error is the one to report
                close_gate(model, take_aliases=True, alias=alias)
        raise


def log(models: Sequence[str], outcomes: Sequence[Outcome], *, alias: str | None, quiet: int) -> None:
    """Log each report, mark its version, and move the alias; a version without a report stays closed."""
    from robustcheck_onnx.checker.integrations.mlflow_log import close_gate, log_checked
    from robustcheck_onnx.checker.report import Failed

    for model, outcome in zip(models, outcomes, strict=True):
        if isinstance(outcome, Failed):
            close_gate(model, take_aliases=True, alias=alias)
            continue
        run, is_open = log_checked(outcome, model, alias=alias)
        if quiet < 2:
            done = "is set" if is_open else "is not on this version"
            said = "" if alias is None else f"; alias {alias} {done}"
            sys.stderr.write(f"logged {outcome.verdict.verdict} to run {printable(run)}{printable(said)}\n")

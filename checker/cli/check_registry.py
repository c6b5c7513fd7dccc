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
    from robustcheck_onnx.checker.storage.registry import Entry

_REGISTERED = re.compile(r"models:/(?!m-[0-9a-f]+\Z)[^/]")  # no logged model, which has no versions and no aliases
_MLFLOW = re.compile(r"(models|runs):/[^/]")


@contextlib.contextmanager
def closed(models: Sequence[str], *, log: bool, alias: str | None) -> Iterator[list[Entry]]:
    """Close the gates of registered versions while they are checked; after an error they lose their aliases, too.

    log: False: nothing is done.

    Gives what each model stood for when its gate was closed.

    Raises UsageError: a model that is not of MLflow; an alias for several models, for a run or a logged model. As
    `mlflow_log.gate_model_version`.
    """
    if not log:
        yield []
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
    from robustcheck_onnx.checker.integrations.mlflow_log import close_gate, fail_gate

    entries = [close_gate(model) for model in models]
    try:
        yield entries
    except BaseException:
        for entry in entries:
            with contextlib.suppress(Exception):  # the first error is the one to report
                fail_gate(entry, alias)
        raise


def log(
    models: Sequence[str], entries: Sequence[Entry], outcomes: Sequence[Outcome], *, alias: str | None, quiet: int
) -> None:
    """Log each report, mark its version, and move the alias; a version without a report stays closed.

    entries: of `closed`.
    """
    from robustcheck_onnx.checker.integrations.mlflow_log import fail_gate, log_checked
    from robustcheck_onnx.checker.report import Failed

    for model, entry, outcome in zip(models, entries, outcomes, strict=True):
        if isinstance(outcome, Failed):
            fail_gate(entry, alias)
            continue
        run, is_open = log_checked(outcome, model, alias=alias)
        if quiet < 2:
            done = "is set" if is_open else "is not on this version"
            said = "" if alias is None else f"; alias {alias} {done}"
            sys.stderr.write(f"logged {outcome.verdict.verdict} to run {printable(run)}{printable(said)}\n")

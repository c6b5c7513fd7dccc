"""What a check tells the pipeline that it runs in, beside its report: GitHub's annotations and step summary."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robustcheck_onnx.checker.cli_parts import Target
    from robustcheck_onnx.checker.report import Outcome


def announce(outcomes: Sequence[Outcome], places: Sequence[Target], *, enabled: bool = True) -> None:
    """Annotate the models and append to the step's summary, on GitHub Actions only; it never changes the verdict.

    Annotations go to stdout unless a document goes there; then to stderr, which GitHub reads as well. A summary
    that can't be written is told on stderr.

    Args:
        outcomes: what the run reports.
        places: where its reports went, from `cli_parts.targets`.
        enabled: False for `--no-ci`.
    """
    if not enabled or os.environ.get("GITHUB_ACTIONS") != "true":
        return
    from robustcheck_onnx.checker import formats, report_github

    options = formats.Options()
    taken = any(path is None and form != "terminal" for form, path in places)
    stream = sys.stderr if taken else sys.stdout
    for line in report_github.commands(outcomes, options):
        stream.write(line + "\n")
    stream.flush()
    if file := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            path = Path(file)
            had = path.stat().st_size if path.exists() else 0
            text = report_github.summary(outcomes, options, report_github.SUMMARY_BYTES - had)
            with path.open("a", encoding="utf-8") as summary:
                summary.write(text)
            if not text:
                sys.stderr.write("note: GITHUB_STEP_SUMMARY is full (1 MiB); the summary is left out\n")
        except OSError as fault:
            sys.stderr.write(f"note: GITHUB_STEP_SUMMARY is not written ({fault.strerror})\n")


def announce_error(message: str, hint: str, exit_code: int, model: str, *, enabled: bool) -> None:
    """The same for a run that ended without a verdict; the annotation goes to stderr, like the error itself.

    model: as it was given; empty where it is not known.
    """
    if not enabled or os.environ.get("GITHUB_ACTIONS") != "true":
        return
    from robustcheck_onnx.checker.report import Failed

    failed = Failed(model=model, message=message, hint=hint, exit_code=exit_code)
    announce([failed], [("json", None)])

"""The table of several models: whole reason ids, a name said once, what is left out on a narrow screen."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from robustcheck_onnx.checker.report import summary
from robustcheck_onnx.checker.report.record import Failed, Outcome
from robustcheck_onnx.checker.verdict.reasons import RULES
from support import reports

LONGEST = max(RULES, key=len)
NAMES = ["a.onnx", "models/" + 12 * "unbroken_" + ".onnx", "broken.onnx"]


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    failed = Failed(model="broken.onnx", message="broken.onnx: file is empty", hint="ls", exit_code=3)
    warning = reports.warning()
    reasons = sorted(warning.verdict.reasons, key=lambda reason: reason.id != LONGEST)
    verdict = warning.verdict.model_copy(update={"reasons": tuple(reasons)})
    return [reports.passing(), warning.model_copy(update={"verdict": verdict}), failed]


def table(outcomes: list[Outcome], width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO(), legacy_windows=False)
    console.print(summary.render(outcomes, models=NAMES, meaning="exit code 3"))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    return text


@pytest.mark.parametrize("width", [80, 100, 109, 110, 120, 160])
def test_no_reason_is_divided_and_a_name_is_said_once(outcomes: list[Outcome], width: int) -> None:
    text = table(outcomes, width)
    assert LONGEST in text
    assert "(+2)" in text
    assert text.count("broken.onnx") == 1
    assert "file is empty" in text


def test_a_narrow_screen_leaves_out_what_the_reports_say_too(outcomes: list[Outcome]) -> None:
    narrow, wide = table(outcomes, 109), table(outcomes, 110)
    for word in ("images", "seconds"):
        assert word not in narrow.splitlines()[1]
        assert word in wide.splitlines()[1]
    for text in (narrow, wide):
        for word in ("verdict", "model", "main reason", "kurtosis"):
            assert word in text.splitlines()[1]
        assert [line.split()[1] for line in text.splitlines() if line[2:3] in "✗▲✓" and line[2:3]] == [
            "error",
            "WARN",
            "PASS",
        ]

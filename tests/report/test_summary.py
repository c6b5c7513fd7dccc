"""The table of several models: whole reason ids, a name said once, what is left out on a narrow screen."""

from __future__ import annotations

import io
from datetime import date

import pytest
from rich.console import Console

from robustcheck_onnx.checker.report import summary
from robustcheck_onnx.checker.report.record import Failed, Outcome
from robustcheck_onnx.checker.verdict.gate import decide
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
    console.print(summary.render(outcomes, models=NAMES, code=3))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    return text


def test_the_table_then_the_reasons_by_model_and_last_the_exit_code(outcomes: list[Outcome]) -> None:
    for width in (60, 80, 100, 120, 160):
        lines = table(outcomes, width).splitlines()
        assert lines[0].startswith("robustcheck ")
        rows = [line.split()[1] for line in lines[2 : lines.index("")] if line[0] in "✗▲✓"]
        assert rows == ["error", "WARN", "PASS"]
        broken, warned = lines.index("broken.onnx"), lines.index(NAMES[1][:width])
        assert broken < warned
        assert lines[broken + 1 : broken + 3] == ["✗ file is empty", "hint: ls"]
        warned += len(NAMES[1]) > width  # a name folds
        assert lines[warned + 1].startswith(f"✗ {LONGEST}")
        ids = {reason.id for reason in reports.warning().verdict.reasons}
        assert {line.split()[1] for line in lines if line.startswith("✗ ")} == {"error", "file", *ids}
        assert NAMES[0] not in lines[broken:]
        assert lines[-1].startswith("━━ ✗ 3 models: 1 PASS, 1 WARN, 1 ERROR · exit code 3")


def test_what_lets_a_warn_through_is_said_with_its_model(outcomes: list[Outcome]) -> None:
    warning = reports.warning()
    gate = decide(warning.verdict, "w.onnx", fail_on="never", today=date(2026, 1, 1))
    text = table([reports.passing(), warning.model_copy(update={"gate": gate}), outcomes[2]], 120)
    assert "▲ WARN · not_established (let through)" in text
    assert "! --fail-on is never (command line): WARN does not fail this run" in text
    signs = [line[0] for line in text.splitlines() if line.startswith(("✗ error", "▲ WARN", "✓ PASS"))]
    assert signs == ["✗", "▲", "✓"]

"""The table of several models: whole reason ids, a name said once, what is left out on a narrow screen."""

import io
import re
from datetime import date

import pytest
from rich.console import Console

from robustcheck_onnx.checker.report import terminal
from robustcheck_onnx.checker.report.record import Failed, Outcome
from robustcheck_onnx.checker.verdict.gate import decide
from support import but, reports

LONGEST = "assumed_preprocessing"
NAMES = ["a.onnx", "models/" + 12 * "unbroken_" + ".onnx", "broken.onnx"]


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    failed = Failed(model="broken.onnx", message="broken.onnx: file is empty", hint="ls", exit_code=3)
    warning = reports.warning()
    reasons = sorted(warning.verdict.reasons, key=lambda reason: reason.id != LONGEST)
    return [reports.passing(), but(warning, verdict__reasons=tuple(reasons)), failed]


def table(outcomes: list[Outcome], width: int) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO(), legacy_windows=False)
    console.print(terminal.render_several(outcomes, models=NAMES, code=3))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    return lines


def test_the_table_then_the_reasons_by_model_and_last_the_exit_code(outcomes: list[Outcome]) -> None:
    for width in (60, 80, 100, 120, 160):
        lines = table(outcomes, width)
        assert lines[0].startswith("robustcheck ")
        assert re.findall("^[✗▲✓] (\\w+)", "\n".join(lines[: lines.index("")]), re.MULTILINE) == [
            "error",
            "WARN",
            "PASS",
        ]
        broken, warned = lines.index("broken.onnx"), lines.index(NAMES[1][:width])
        assert lines[broken + 1 : broken + 3] == ["✗ file is empty", "hint: ls"]
        below = " ".join(" ".join(lines[warned:]).split())
        assert below.partition("WARN: ")[2].startswith("This check does not apply to this model. ")
        ids = below.partition("✗ ")[2].partition(" -v explains them")[0].split(", ")
        assert (ids[0], set(ids)) == (LONGEST, {reason.id for reason in reports.warning().verdict.reasons})
        assert broken < warned
        assert NAMES[0] not in lines[broken:]
        assert lines[-1].startswith("━━ ✗ 3 models: 1 PASS, 1 WARN, 1 ERROR · exit code 3")


def test_what_lets_a_warn_through_is_said_with_its_model(outcomes: list[Outcome]) -> None:
    passing, warning, failed = outcomes
    gate = decide(reports.warning().verdict, "w.onnx", fail_on="never", today=date(2026, 1, 1))
    lines = table([passing, but(warning, gate=gate), failed], 120)
    assert any(line.startswith("▲ WARN · not_applicable (let through)") for line in lines)
    assert "! --fail-on is never (command line): WARN does not fail this run" in lines
    order = re.findall("^[✗▲✓] (\\w+)", "\n".join(lines[: lines.index("")]), re.MULTILINE)
    assert order == ["error", "WARN", "PASS"]  # its exit code is that of a PASS

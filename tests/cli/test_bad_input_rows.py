"""The rows of the tests of bad input: they can fail, and the command without its start-up is the command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support.bad_input import Done, Row, agrees, assert_says, run

CALLS = ["nope.onnx", "pass.onnx --images photos --no-time", "inspect pass.onnx -o json", "text.onnx -o json", "--help"]


@pytest.mark.parametrize("call", CALLS)
def test_the_warm_command_is_the_command(world: Path, call: str, warm: Callable[..., Done]) -> None:
    """So the table runs the command without its start-up."""
    cold, again = run(world, *call.split()), warm(world, *call.split())
    assert (again.returncode, again.stdout, again.stderr) == (cold.returncode, cold.stdout, cold.stderr)


def test_the_table_can_fail(world: Path, warm: Callable[..., Done]) -> None:
    row = Row("nope.onnx", 2, "nope.onnx: model file is missing; no such file", "ls .")
    done = warm(world, *row.arguments)
    for code, message, hint in ((3, *row[2:]), (2, "nope.onnx: model file is missing", row.hint), (2, row.message, "")):
        with pytest.raises(AssertionError):
            assert_says(done, code, message, hint)
    assert not agrees("a…c", "a c d")
    assert not agrees("a.c", "abc")

"""Scripts of benchmarks/: one on two cases whose answers are known, one on files of its own."""

import subprocess
import sys

import pytest

from support import ROOT


@pytest.mark.long
def test_the_plain_form_passes_and_nothing_planted_does_not() -> None:
    call = [sys.executable, "forms.py", "--no-page", "--only", "^(plain|nothing planted)$"]
    *lines, last = subprocess.check_output(call, cwd=ROOT / "benchmarks", text=True).splitlines()
    verdicts = {line.split(" | ")[0].strip(): line.split(" | ")[4] for line in lines}
    assert verdicts == {"plain": "PASS", "nothing planted": "WARN"}
    assert last == "2 forms; not as they should be: 0"

"""Scripts of benchmarks/: one on two cases whose answers are known, one on files of its own."""

import re
import subprocess
import sys

import pytest

from robustcheck_onnx.checker.verdict.reasons import NAMES
from robustcheck_onnx.thresholds import profile
from support import ROOT


@pytest.mark.long
def test_the_plain_form_passes_and_nothing_planted_does_not() -> None:
    call = [sys.executable, "forms.py", "--no-page", "--only", "^(plain|nothing planted)$"]
    *lines, last = subprocess.check_output(call, cwd=ROOT / "benchmarks", text=True).splitlines()
    verdicts = {line.split(" | ")[0].strip(): line.split(" | ")[4] for line in lines}
    assert verdicts == {"plain": "PASS", "nothing planted": "WARN"}
    assert last == "2 forms; not as they should be: 0"


def test_the_page_of_stability_has_the_statistics_that_decide() -> None:
    page = (ROOT / "benchmarks" / "results" / "stability.md").read_text(encoding="utf-8")
    heads = re.findall(r"^\| precision \|.*$", page, re.MULTILINE)
    (judged_by,) = re.findall(r"CPU provider; profile\n(\S+)\.\n", page)
    deciding = [NAMES[name] for name in profile.load(judged_by).deciding]
    assert [[cell.strip() for cell in head.strip("|").split("|")][5:-2] for head in heads] == 6 * [deciding]

"""Scripts of benchmarks/ whose figures are published: each on one case, whose answer is known."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from robustcheck_onnx import check
from robustcheck_onnx.checker import demo
from robustcheck_onnx.checker.evidence import Content
from robustcheck_onnx.checker.statistics import effective_rank, relative_variance
from robustcheck_onnx.checker.statistics.state import State, statistics, update
from robustcheck_onnx.checker.verdict.rule import judge
from robustcheck_onnx.thresholds import profile
from support import ROOT, reports
from support.benchmark_scripts import BENCHMARKS, load


def printed(*words: str) -> list[str]:
    """The lines of a script that ends well."""
    done = subprocess.run([sys.executable, *words], cwd=BENCHMARKS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.mark.long
def test_the_plain_form_passes_and_nothing_planted_does_not() -> None:
    *lines, last = printed("forms.py", "--no-page", "--only", "^(plain|nothing planted)$")
    verdicts = {line.split(" | ")[0].strip(): line.split(" | ")[4] for line in lines}
    assert verdicts == {"plain": "PASS", "nothing planted": "WARN"}
    assert last == "2 forms; not as they should be: 0"


@pytest.mark.long
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two cores are needed")
def test_a_model_in_other_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(BENCHMARKS)])  # at the end, where it hides no package
    stability, page = load("stability"), load("stability_page")
    path = tmp_path / "planted.onnx"
    demo.write(path, "planted", *demo.train())
    here = Path(sys.executable), ort.__version__
    truth = check(path, device="cpu").evidence.statistics
    chosen = [page.Setting("reference", *here), page.Setting("no graph optimisation", *here, optimised=False)]
    for row in stability.rows([page.File("planted", "fp32", path)], chosen):  # it sees that each ran as asked
        assert (row.seen.verdict, row.seen.reasons, row.moved, len(row.cells)) == ("PASS", (), False, len(page.COLUMNS))
        deciding = {name: getattr(truth, name).estimate for name in row.seen.estimates}
        assert row.seen.estimates == pytest.approx(deciding, rel=1e-4)


def test_the_page_of_stability_has_the_statistics_that_decide() -> None:
    page = (ROOT / "docs" / "stability.md").read_text(encoding="utf-8")
    heads = re.findall(r"^\| precision \|.*$", page, re.MULTILINE)
    deciding = [name.replace("_", " ") for name in profile.load().deciding]
    assert [[cell.strip() for cell in head.strip("|").split("|")][5:-2] for head in heads] == 6 * [deciding]


def test_the_less_an_aligner_has_fitted_the_clearer_the_six_statistics_and_the_less_the_content() -> None:
    """Ridge aligners with pairs at random clear the six statistics, and their content does not."""
    everything = profile.load()
    for regularisation, expected, reasons in ((0.01, "PASS", set[str]()), (30.0, "WARN", {"little_content"})):
        rng = np.random.default_rng(3)
        source, targets = rng.normal(size=(128, 384)), rng.normal(size=(128, 512)) + rng.normal(0, 0.8, 512)
        targets[:, 92] += 15
        h = load("aligners").align(source, targets, regularisation, rng).h
        state = State(512)
        update(state, h, np.arange(128))
        content = Content(n=50, effective_rank=effective_rank(h[:50]), relative_variance=relative_variance(h[:50]))
        verdict = judge(reports.evidence(statistics(state, everything.alpha), content=content), everything)
        # neither the six statistics nor their bounds turn it away: only how little varies does
        told = {"little_content", "low_kurtosis", "no_persistent_outlier_features", "rectified", "undecided"}
        assert (verdict.verdict, told & {reason.id for reason in verdict.reasons}) == (expected, reasons)

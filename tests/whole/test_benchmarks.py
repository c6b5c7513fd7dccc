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

SHARED = Path(os.environ.get("ROBUSTCHECK_SHARED", ROOT.parent / "shared")) / "data" / "embeddings"


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
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/embeddings is not there: real embeddings stay outside")
def test_one_real_set_is_answered_as_expected() -> None:
    *lines, last = printed("real_cases.py", str(SHARED), "--fast")
    assert last == "not as expected: none"
    seen = {line.split("|")[1].partition(", ")[2].strip(): line.split("|")[3].strip() for line in lines}
    assert {name for name, verdict in seen.items() if verdict == "WARN"} == {
        "outlier features removed", "outlier features × 0.5", "rotated", "permuted",
    }  # fmt: skip
    assert len(seen) == 11


@pytest.mark.long
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two cores are needed")
def test_a_model_in_other_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(BENCHMARKS)])  # at the end, where it hides no package
    stability, page = load("stability"), load("stability_page")
    path = tmp_path / "planted.onnx"
    demo.write(path, "planted", *demo.train())
    setting, python = page.Setting, Path(sys.executable)
    chosen = [
        setting("reference", python, ort.__version__),
        setting("one thread", python, ort.__version__, threads=1),
        setting("no graph optimisation", python, ort.__version__, optimised=False),
    ]
    truth = check(path, device="cpu").evidence.statistics
    rows = list(stability.rows([page.File("planted", "fp32", path)], chosen))  # it sees that each ran as asked
    for row in rows:
        assert (row.seen.verdict, row.seen.reasons, row.moved) == ("PASS", (), False)
        assert row.seen.n_images == truth.n_images
        for name in profile.load().deciding:
            assert row.seen.estimates[name] == pytest.approx(getattr(truth, name).estimate, rel=1e-4)
    assert [len(row.cells) for row in rows] == 3 * [len(page.COLUMNS)]


def test_the_page_of_stability_has_the_statistics_that_decide() -> None:
    page = (ROOT / "docs" / "stability.md").read_text(encoding="utf-8")
    heads = re.findall(r"^\| precision \|.*$", page, re.MULTILINE)
    deciding = [name.replace("_", " ") for name in profile.load().deciding]
    assert [[cell.strip() for cell in head.strip("|").split("|")][5:-2] for head in heads] == 6 * [deciding]
    assert [model.count("\n| fp32 |") for model in page.split("\n## ")[1:]] == 6 * [5]  # settings
    table = re.findall(r"^\| (?:fp32|int8-dynamic|int8-qdq) \|.*$", page, re.MULTILINE)
    assert {row.split("|")[3].strip() for row in table} <= {"PASS", "WARN", "**PASS**", "**WARN**"}


@pytest.mark.parametrize(("regularisation", "passes"), [(0.01, True), (30.0, False)])
def test_the_less_an_aligner_has_fitted_the_clearer_the_six_statistics_and_the_less_the_content(
    regularisation: float, passes: bool
) -> None:
    """Ridge aligners with pairs at random clear the six statistics, and their content does not."""
    rng = np.random.default_rng(3)
    source, targets = rng.normal(size=(128, 384)), rng.normal(size=(128, 512)) + rng.normal(0, 0.8, 512)
    targets[:, 92] += 15
    h = load("aligners").align(source, targets, regularisation, rng).h
    state = State(512)
    update(state, h, np.arange(128))
    content = Content(n=50, effective_rank=effective_rank(h[:50]), relative_variance=relative_variance(h[:50]))
    everything = profile.load()
    verdict = judge(reports.evidence(statistics(state, everything.alpha), content=content), everything)
    reasons = {reason.id for reason in verdict.reasons}
    # neither the six statistics nor their bounds turn it away: only how little varies does
    assert not reasons & {"low_kurtosis", "no_persistent_outlier_features", "rectified", "undecided"}
    assert ("little_content" in reasons) is not passes
    assert (verdict.verdict == "PASS") is passes

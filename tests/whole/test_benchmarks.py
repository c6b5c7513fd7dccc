"""Scripts of benchmarks/: one on two cases whose answers are known, one on files of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from robustcheck_onnx.thresholds import profile
from support import ROOT
from support.benchmark_scripts import BENCHMARKS


@pytest.mark.long
def test_the_plain_form_passes_and_nothing_planted_does_not() -> None:
    call = [sys.executable, "forms.py", "--no-page", "--only", "^(plain|nothing planted)$"]
    *lines, last = subprocess.check_output(call, cwd=BENCHMARKS, text=True).splitlines()
    verdicts = {line.split(" | ")[0].strip(): line.split(" | ")[4] for line in lines}
    assert verdicts == {"plain": "PASS", "nothing planted": "WARN"}
    assert last == "2 forms; not as they should be: 0"


@pytest.mark.long
def test_published_vectors_are_fetched_again(tmp_path: Path) -> None:
    """Of a set one more row than the table has, of another one other vectors."""
    bags, cards = tmp_path / "artykovzh/image_bags/b0ed08694b", tmp_path / "geraldno20/cards/e0144b55c4"
    bags.mkdir(parents=True)
    cards.mkdir(parents=True)
    np.save(bags / "image_embeddings.npy", np.zeros((14, 2048), np.float32))
    np.savez(cards / "image_embeddings.npz", np.random.default_rng(0).normal(size=(162, 512)))
    words = [str(tmp_path / "got"), f"--server={tmp_path.as_uri()}", "bags_resnet50_keras", "cards_b32"]
    call = [sys.executable, "fetch_reference.py", *words]
    done = subprocess.run(call, cwd=BENCHMARKS, stdout=subprocess.PIPE, text=True, check=False)
    wider, other = done.stdout.splitlines()
    assert wider == "bags_resnet50_keras: as wide as in the table; 13 of its 14 rows were measured"
    assert (done.returncode, other.startswith("cards_b32: WRONG: strength ")) == (1, True)


def test_the_page_of_stability_has_the_statistics_that_decide() -> None:
    page = (ROOT / "docs" / "stability.md").read_text(encoding="utf-8")
    heads = re.findall(r"^\| precision \|.*$", page, re.MULTILINE)
    (judged_by,) = re.findall(r"CPU provider; profile\n(\S+)\.\n", page)
    deciding = [name.replace("_", " ") for name in profile.load(judged_by).deciding]
    assert [[cell.strip() for cell in head.strip("|").split("|")][5:-2] for head in heads] == 6 * [deciding]

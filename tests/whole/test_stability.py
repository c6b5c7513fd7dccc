"""benchmarks/stability.py: its rows are what the command says, and its page has the columns of the packaged profile."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import onnxruntime as ort
import pytest
from packaging.specifiers import SpecifierSet

from robustcheck_onnx import check
from robustcheck_onnx.checker import demo
from robustcheck_onnx.thresholds import profile
from support import ROOT
from support.benchmark_scripts import BENCHMARKS, load

PAGE = (ROOT / "docs" / "stability.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def stability() -> Iterator[ModuleType]:
    sys.path.append(str(BENCHMARKS))  # at the end, for `planted` and `stability_page`: there it hides no package
    yield load("stability")
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def page(stability: ModuleType) -> ModuleType:
    return load("stability_page")  # the one that `stability` has imported


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two cores are needed")
def test_a_model_in_other_settings(stability: ModuleType, page: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "planted.onnx"
    demo.write(path, "planted", *demo.train())
    setting, python = page.Setting, Path(sys.executable)
    chosen = [
        setting("reference", python, ort.__version__),
        setting("one thread", python, ort.__version__, threads=1),
        setting("no graph optimisation", python, ort.__version__, optimised=False),
    ]
    rows = list(stability.rows([page.File("planted", "fp32", path)], chosen))  # it sees that each ran as asked
    truth = check(path, device="cpu", cache=False)
    for row in rows:
        assert (row.seen.verdict, row.seen.reasons, row.moved) == ("PASS", (), False)
        assert row.seen.n_images == truth.evidence.statistics.n_images
        for name in profile.load().deciding:
            assert row.seen.estimates[name] == pytest.approx(
                getattr(truth.evidence.statistics, name).estimate, rel=1e-4
            )
    assert [len(row.cells) for row in rows] == 3 * [len(page.COLUMNS)]


def seen(page: ModuleType, verdict: str = "PASS", *reasons: str, **estimates: float) -> Any:
    return page.Seen(verdict, reasons, 50, dict.fromkeys(profile.load().deciding, 2.0) | estimates)


def test_differences_are_relative_to_the_reference(page: ModuleType) -> None:
    reference = seen(page, kurtosis=10.0, negative_energy=0.0)
    assert page.difference(reference, reference)[0] == 0.0
    other = seen(page, kurtosis=9.0, negative_energy=0.0, persistence_ratio=2.1)
    assert page.difference(other, reference) == (pytest.approx(0.1), "kurtosis")
    other = seen(page, kurtosis=9.0, negative_energy=1e-9)
    assert page.difference(other, reference) == (float("inf"), "negative_energy")


def test_a_verdict_that_moves_is_told(page: ModuleType) -> None:
    file, setting = page.File("m", "fp32", Path("m")), page.Setting("one thread", Path("p"), "1")
    same = seen(page)
    for other in (seen(page, "WARN"), seen(page, "PASS", "undecided")):
        row = page.Row(file, setting, other, same, same)
        assert row.moved
        assert "**a verdict or its reasons moved**" in page.sentences([row])
    row = page.Row(file, setting, seen(page, kurtosis=2.5), same, same)
    assert not row.moved
    assert "no verdict and no reason of a file moved" in page.sentences([row])
    assert "2.5e-01 (kurtosis, m, fp32, one thread)" in page.sentences([row])


def test_versions_within_the_bounds_are_ordered_as_versions(stability: ModuleType) -> None:
    found = ["1.9.0", "1.31.1", "1.24.1", "2.0.0", "1.32.0", "1.24.10", "1.33.0rc1"]
    assert stability.within(found, SpecifierSet(">=1.24,<2")) == ["1.24.1", "1.24.10", "1.31.1", "1.32.0"]
    assert "1.24" in stability.allowed()
    assert "1.23.2" not in stability.allowed()


def test_the_page_has_the_statistics_that_decide() -> None:
    heads = re.findall(r"^\| precision \|.*$", PAGE, re.MULTILINE)
    assert len(heads) == 6
    for head in heads:
        assert [cell.strip() for cell in head.strip("|").split("|")][5:-2] == [
            name.replace("_", " ") for name in profile.load().deciding
        ]
    table = re.findall(r"^\| (?:fp32|int8-dynamic|int8-qdq) \|.*$", PAGE, re.MULTILINE)
    models = PAGE.split("\n## ")[1:]
    assert [model.count("\n| fp32 |") for model in models] == 6 * [5]  # settings
    assert len(table) % 5 == 0
    assert {row.split("|")[3].strip() for row in table} <= {"PASS", "WARN", "**PASS**", "**WARN**"}

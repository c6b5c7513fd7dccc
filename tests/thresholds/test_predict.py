"""benchmarks/predict.py: its page is what it writes, and the numbers on it are right."""

from __future__ import annotations

import csv
import statistics
from typing import Any

import numpy as np
import pytest
import scipy.stats

from robustcheck_onnx.thresholds import DATA, profile, published
from support.benchmark_scripts import load

facts, _, predict = map(load, ("predict_facts", "predict_text", "predict"))

ROBUST_PASS = {
    "openai RN50", "openai ViT-B/32", "openai ViT-B/16", "openai ViT-L/14", "laion2b ViT-B/32", "laion2b ViT-L/14",
    "laion2b ViT-H/14", "SigLIP SO400M/14-384",
}  # fmt: skip


def names(checkpoints: list[Any]) -> set[str]:
    return {one.name for one in checkpoints}


def test_the_page_is_what_the_script_writes() -> None:
    assert predict.PAGE.read_text(encoding="utf-8") == predict.page(), "python benchmarks/predict.py"


def test_hits_and_misses_by_name() -> None:
    known = [one for one in facts.measured() if one.mean_pp is not None]
    robust, fragile = (facts.with_label(label, known) for label in ("present", "absent"))
    assert names([one for one in robust if one.passed]) == ROBUST_PASS
    assert names([one for one in robust if not one.passed]) == {"laion2b ViT-bigG/14"}
    assert names(fragile) == {"VGG16 torchvision", "DenseNet-121"}
    assert not any(one.passed for one in fragile)


def from_the_tables() -> dict[str, tuple[list[dict[str, str]], float]]:
    """Per checkpoint with a mean ER: its rows of the shipped CSV and ER, by SciPy from the published accuracies."""
    shifts = ("imagenetv2", "sketch", "imagenet_r", "imagenet_a")
    read = {}
    for library in ("open_clip", "timm"):
        with (DATA / f"published_{library}.csv").open(encoding="utf-8", newline="") as file:
            read[library] = list(csv.DictReader(file))
    expected = {}
    for shift in shifts:
        usual = [r for r in read["timm"] if r["group"] == "in1k_only" and r["imagenet1k"] and r[shift]]
        x, y = (scipy.special.logit([float(r[name]) for r in usual]) for name in ("imagenet1k", shift))
        expected[shift] = scipy.stats.linregress(x, y)
    found: dict[str, tuple[list[dict[str, str]], float]] = {}
    with (DATA / "reference_statistics.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["set"] not in published.MEASURED or row["excluded"]:
                continue
            library, model, weights = published.MEASURED[row["set"]]
            (one, *_) = [r for r in read[library] if (r["model"], r["weights"]) == (model, weights)]
            if not all(one[shift] for shift in shifts):
                continue
            accuracy = scipy.special.logit(float(one["imagenet1k"]))
            beyond = [
                float(one[s]) - scipy.special.expit(line.slope * accuracy + line.intercept)
                for s, line in expected.items()
            ]
            found.setdefault(row["model"], ([], 100 * float(np.mean(beyond))))[0].append(row)
    return found


def test_the_correlations_are_scipys_over_checkpoints() -> None:
    found = from_the_tables()
    zero_shot = {name: each for name, each in found.items() if each[0][0]["group"] == "zero_shot_clip"}
    assert (len(found), len(zero_shot)) == (12, 9)
    for table in (found, zero_shot):
        known = [one for one in facts.measured() if one.name in table]
        assert {one.name: one.mean_pp for one in known} == {name: pytest.approx(er) for name, (_, er) in table.items()}
        told = predict.correlations(known)
        for name in profile.STATISTICS:
            shares = [[float(row[name]) for row in rows] for rows, _ in table.values()]
            if name.startswith("negative"):
                shares = [[min(share, 1 - share) for share in each] for each in shares]
            truth = scipy.stats.spearmanr(list(map(statistics.median, shares)), [er for _, er in table.values()])
            r, _ = told[predict.WORDS[name]]
            assert r == pytest.approx(truth.statistic, abs=5e-4)
            assert f"{r:+.2f} (" in predict.PAGE.read_text(encoding="utf-8")

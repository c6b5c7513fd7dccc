"""benchmarks/predict.py: its page is what it writes, and the numbers on it are right."""

import statistics

import pytest
import scipy.stats

from robustcheck_onnx.thresholds import profile
from support.scripts import load

facts, _, predict = map(load, ("benchmarks/predict_facts", "benchmarks/predict_text", "benchmarks/predict"))

ROBUST_PASS = {
    "openai RN50", "openai ViT-B/32", "openai ViT-B/16", "openai ViT-L/14", "laion2b ViT-B/32", "laion2b ViT-L/14",
    "laion2b ViT-H/14", "SigLIP SO400M/14-384",
}  # fmt: skip


def test_the_page_is_what_the_script_writes() -> None:
    assert predict.PAGE.read_text(encoding="utf-8") == predict.page(), "python benchmarks/predict.py"


def test_hits_and_misses_by_name() -> None:
    known = [one for one in facts.measured() if one.mean_pp is not None]
    missed, fragile = {"laion2b ViT-bigG/14": False}, {"VGG16 torchvision": False, "DenseNet-121": False}
    for label, passed in (("present", dict.fromkeys(ROBUST_PASS, True) | missed), ("absent", fragile)):
        assert {one.name: one.passed for one in facts.with_label(label, known)} == passed


def test_the_correlations_are_scipys_over_checkpoints() -> None:
    known = [one for one in facts.measured() if one.mean_pp is not None]
    zero_shot = [one for one in known if one.group == "zero_shot_clip"]
    assert (len(known), len(zero_shot)) == (12, 9)
    for some in (known, zero_shot):
        told = predict.correlations(some)
        for name in profile.STATISTICS:
            values = [[getattr(row, name) for row in one.sets] for one in some]
            if name.startswith("negative"):
                values = [[min(share, 1 - share) for share in each] for each in values]
            truth = scipy.stats.spearmanr(list(map(statistics.median, values)), [one.mean_pp for one in some])
            r, _ = told[predict.WORDS[name]]
            assert r == pytest.approx(truth.statistic, abs=5e-4)
            assert f"{r:+.2f} (" in predict.PAGE.read_text(encoding="utf-8")

"""benchmarks/predict.py: its page is what it writes, the numbers are right, and its criteria can go either way."""

from __future__ import annotations

import csv
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from robustcheck_onnx.thresholds import DATA, effective_robustness, profile, published, results, suite
from robustcheck_onnx.thresholds.ends import End
from robustcheck_onnx.thresholds.results import Measured, Result
from support.benchmark_scripts import load

facts, text = load("predict_facts"), load("predict_text")
predict = load("predict")

ROBUST_PASS = {
    "openai RN50",
    "openai ViT-B/32",
    "openai ViT-B/16",
    "openai ViT-L/14",
    "laion2b ViT-B/32",
    "laion2b ViT-L/14",
    "laion2b ViT-H/14",
    "SigLIP SO400M/14-384",
}


def names(checkpoints: list[Any]) -> set[str]:
    return {one.name for one in checkpoints}


# ------------------------------------------------------------------------------------------------------ the page


def test_the_page_is_what_the_script_writes() -> None:
    assert predict.PAGE.read_text(encoding="utf-8") == predict.page(), "python benchmarks/predict.py"


def test_hits_and_misses_by_name() -> None:
    known = [one for one in facts.measured() if one.mean_pp is not None]
    robust, fragile = (facts.with_label(label, known) for label in ("present", "absent"))
    assert names([one for one in robust if one.passed]) == ROBUST_PASS
    assert names([one for one in robust if not one.passed]) == {"laion2b ViT-bigG/14"}
    assert names(fragile) == {"VGG16 torchvision", "DenseNet-121"}
    assert not any(one.passed for one in fragile)
    assert names(facts.with_label("unlabelled", known)) == {"SwinV2-L"}  # +10.6, and beyond the baselines
    unknown = [one for one in facts.measured() if one.mean_pp is None and one.passed]
    assert names(unknown) >= {"BiomedCLIP", "FashionCLIP", "Marqo-FashionCLIP", "Marqo-FashionSigLIP"}


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


@pytest.mark.parametrize("zero_shot", [False, True])
def test_the_correlations_are_scipys_over_checkpoints(zero_shot: bool) -> None:
    table = from_the_tables()
    if zero_shot:
        table = {name: found for name, found in table.items() if found[0][0]["group"] == "zero_shot_clip"}
    assert len(table) == (9 if zero_shot else 12)
    known = [one for one in facts.measured() if one.name in table]
    assert {one.name: one.mean_pp for one in known} == {name: pytest.approx(er) for name, (_, er) in table.items()}
    told = predict.correlations(known)
    for name in profile.STATISTICS:

        def value(row: dict[str, str], name: str = name) -> float:
            share = float(row[name])
            return min(share, 1 - share) if name.startswith("negative") else share

        x = [statistics.median(map(value, rows)) for rows, _ in table.values()]
        truth = scipy.stats.spearmanr(x, [er for _, er in table.values()]).statistic
        r, _ = told[predict.WORDS[name]]
        assert r == pytest.approx(truth, abs=5e-4)
        assert f"{r:+.2f} (" in predict.PAGE.read_text(encoding="utf-8")


def test_no_outlier_statistic_ranks_the_zero_shot_encoders() -> None:
    """Nor by random permutations, which need no normal approximation."""
    zero_shot = [one for one in facts.measured() if one.mean_pp is not None and one.group == "zero_shot_clip"]
    pp, rng = [one.mean_pp for one in zero_shot], np.random.default_rng(0)
    for name in ("kurtosis", "persistence_ratio", "top3_share", "outlier_frequency"):
        _, (low, high) = predict.correlations(zero_shot)[predict.WORDS[name]]
        assert low < 0 < high
        x = [one.median(lambda row, name=name: row.estimate(name)) for one in zero_shot]
        drawn = [abs(scipy.stats.spearmanr(rng.permutation(x), pp).statistic) for _ in range(500)]
        assert np.mean(np.array(drawn) >= abs(scipy.stats.spearmanr(x, pp).statistic)) > 0.2


# ----------------------------------------------------------------------------------------------------- intervals


@pytest.mark.parametrize(("r", "n"), [(0.1, 9), (-0.6, 12), (0.0, 5), (0.9, 40)])
def test_the_interval_is_fishers_of_scipy_but_for_the_variance(r: float, n: int) -> None:
    """Width on the z axis: √(1 + r²/2) times that of Pearson's interval, whose variance is 1/(n − 3)."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(n)
    noise = rng.standard_normal(n)
    x -= x.mean()
    noise -= noise.mean() + x * (noise @ x) / (x @ x)
    y = r * x / np.linalg.norm(x) + np.sqrt(1 - r * r) * noise / np.linalg.norm(noise)
    theirs = scipy.stats.pearsonr(x, y)
    assert theirs.statistic == pytest.approx(r, abs=1e-9)
    low, high = facts.interval(r, n)
    ends = np.arctanh(theirs.confidence_interval(0.95))
    assert np.arctanh([low, high]).mean() == pytest.approx(np.arctanh(r))
    assert np.ptp(np.arctanh([low, high])) == pytest.approx(np.ptp(ends) * np.sqrt(1 + r * r / 2))


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_the_interval_covers_the_truth_at_nine_pairs(correlation: float) -> None:
    """Bivariate normal pairs have Spearman's 6/π · arcsin(ρ/2) as their population value."""
    truth, n, runs = 6 / np.pi * np.arcsin(correlation / 2), 9, 2000
    draws = np.random.default_rng(1).multivariate_normal([0, 0], [[1, correlation], [correlation, 1]], (runs, n))
    found = [facts.interval(float(scipy.stats.spearmanr(*pairs.T).statistic), n) for pairs in draws]
    covered = np.mean([ends is None or ends[0] <= truth <= ends[1] for ends in found])
    assert 0.92 <= covered <= 0.98


def test_where_there_is_no_interval() -> None:
    assert facts.interval(None, 9) is None
    assert facts.interval(1.0, 9) is None
    assert facts.interval(-1.0, 9) is None
    assert facts.interval(0.5, 3) is None
    assert predict.told(None, None) == predict.told(1.0, None) == "–"
    least = facts.least_told(9)
    assert facts.interval(least, 9)[0] > 0 >= facts.interval(least - 0.01, 9)[0]
    assert facts.least_told(4) == 1.0 or facts.interval(facts.least_told(4), 4)[0] > 0


# ------------------------------------------------------------------------------------------------------ criteria


@pytest.mark.parametrize(
    ("n_hit", "n", "limit", "verdict"),
    [(0, 34, 0.1, "holds"), (0, 20, 0.1, "open"), (8, 34, 0.1, "refuted"), (7, 34, 0.1, "refuted"),
     (3, 34, 0.1, "open"),
     (12, 16, 0.5, "refuted"), (11, 16, 0.5, "open"), (4, 16, 0.5, "holds"), (9, 9, 0.1, "open"), (0, 0, 0.1, "open")],
)  # fmt: skip
def test_a_share_against_its_limit(n_hit: int, n: int, limit: float, verdict: str) -> None:
    outcome = facts.share(n_hit, n, limit)
    assert outcome.verdict == verdict
    if n >= facts.LEAST:
        low = scipy.stats.beta.ppf(0.05, n_hit, n - n_hit + 1) if n_hit else 0.0
        high = scipy.stats.beta.ppf(0.95, n_hit + 1, n - n_hit)
        assert verdict == ("refuted" if low > limit else "holds" if high < limit else "open")


def test_one_side_against_the_other() -> None:
    assert facts.above([*range(10, 20)], [*range(10)]).verdict == "holds"
    assert facts.above([*range(10)], [*range(10, 20)]).verdict == "refuted"
    assert facts.above([*range(10)], [*range(10)]).verdict == "refuted"
    assert facts.above([*range(10, 19)], [*range(10)]).verdict == "open"  # nine
    assert facts.above([], [1.0]) == ("open", "0 against 1")


def test_a_checkpoint_counts_against_the_claim_where_its_sets_disagree() -> None:
    one = facts.measured()[0]._replace(passing=(True, False))
    assert not one._replace(label="present").passed
    assert one._replace(label="absent").passed


# ---------------------------------------------------------------------------------------- a calibration's table

STRONG = {"kurtosis": 50.0, "persistence_ratio": 9.0, "top3_share": 0.9, "outlier_frequency": 0.99}
WEAK = {"kurtosis": 3.0, "persistence_ratio": 1.0, "top3_share": 0.05, "outlier_frequency": 0.01}


def result(member: suite.Member, *, strong: bool, tensor: str = "representation", scale: float = 1.0) -> Result:
    estimates = {name: value * scale for name, value in (STRONG if strong else WEAK).items()}
    estimates |= {"negative_energy": 0.49, "negative_z_energy": 0.49}
    shares = ("top3_share", "outlier_frequency")
    measured = {k: min(v, 1.0) if k in shares else v for k, v in estimates.items()}
    return Result.model_validate(
        {
            "id": member.id, "tensor": tensor, "tensors": ("representation", "pooled"), "checkpoint": member.checkpoint,
            "group": member.entry.group, "label": member.label, "hard_case": False,
            "effective_robustness_pp": member.effective_robustness_pp, "suite": "paper", "suite_digest": "",
            "key": "", "file": "", "size_bytes": 1, "model_digest": member.id, "external_digests": {}, "source": "",
            "export": {}, "random_weights": False, "synthetic": "", "graph_tensor": "x",
            "rule": "encoder_output" if member.entry.group == "zero_shot_clip" else "head_input", "pool": "none",
            "ends_in": End("linear"), "n_features": 512, "batch_difference": 0.0, "output_difference": 0.0,
            "preprocessing": {}, "preprocessing_source": "contract", "images_digest": "i", "n_images": 300,
            "n_varied": 300, "n_skipped": 0, "image_findings": (), "seed": 0,
            "statistic_version": profile.load().statistic_version, "alpha": 0.05, "n_nonfinite": 0, "n_constant": 0,
            "statistics": {k: Measured(estimate=v, low=v, high=v) for k, v in measured.items()},
            "context": {"spread": 0.5}, "persistent": (), "versions": {}, "execution": {}, "date": "2030-01-01",
            "wall_s": 1.0,
        }
    )  # fmt: skip


def table(path: Path, *, pretraining_alone: bool) -> Path:
    """Rows of the paper's suite: what passes follows robustness, or (pretraining_alone) CLIP's pretraining."""
    members = suite.open_suite("paper").members
    lines = []
    for number, member in enumerate(members):
        of_clip = member.entry.group in ("zero_shot_clip", "imagenet_finetuned_clip")
        strong = of_clip if pretraining_alone else member.label == "present"
        both = ("representation", "pooled") if member.entry.group == "zero_shot_clip" else ("representation",)
        scale = 1 + 0.001 * (number * 37 % len(members))  # none alike, in no order
        lines += [results.to_line(result(member, strong=strong, tensor=t, scale=scale)) for t in both]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def test_the_criteria_on_a_suite_where_the_sign_follows_robustness(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict.main([str(table(tmp_path / "paper.results.jsonl", pretraining_alone=False))])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" ", 1)[0] for line in lines] == ["holds"] * 4
    page = predict.PAGE.read_text(encoding="utf-8")
    assert f"leaves {lines[1].rsplit(': ', 1)[1].split()[2].rstrip(';')} robust ones" in page
    assert f"and {lines[0].rsplit(': ', 1)[1].split()[2].rstrip(';')} that are not" in page


def test_the_criteria_on_a_suite_where_the_sign_follows_pretraining(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict.main([str(table(tmp_path / "paper.results.jsonl", pretraining_alone=True))])
    verdicts = [line.split(" ", 1)[0] for line in capsys.readouterr().out.splitlines()]
    assert verdicts[3] == "refuted"
    # six finetuned models count as not robust; all six pass
    absent = [m for m in suite.open_suite("paper").members if m.label == "absent"]
    assert sum(m.entry.group == "imagenet_finetuned_clip" for m in absent) == 6
    assert scipy.stats.beta.ppf(0.05, 6, 34 - 6 + 1) < 0.1 < scipy.stats.beta.ppf(0.95, 6 + 1, 34 - 6)
    assert verdicts[0] == "open"  # only the last criterion finds it


def test_representations_that_are_all_alike_do_not_pass(tmp_path: Path) -> None:
    members = [m for m in suite.open_suite("paper").members if m.label == "present" and m.id not in facts.seen()]
    rows = [result(member, strong=True).model_copy(update={"context": {"spread": 0.1}}) for member in members]
    found = facts.of_results(rows, "representation")
    assert len(found) == len(members)  # they are misses, and not left out
    assert not any(one.passed for one in found)


def test_a_table_that_can_not_be_used(tmp_path: Path) -> None:
    path = table(tmp_path / "old.jsonl", pretraining_alone=False)
    version = profile.load().statistic_version
    old = path.read_text(encoding="utf-8").replace(
        f'"statistic_version": {version}', f'"statistic_version": {version - 1}'
    )
    path.write_text(old, encoding="utf-8")
    with pytest.raises(ValueError, match=f"statistics are of version {version - 1}; the profile's are {version}"):
        predict.main([str(path)])
    with pytest.raises(ValueError, match=r"missing\.jsonl: results table cannot be read"):
        predict.main([str(tmp_path / "missing.jsonl")])


def test_the_rule_for_robust_is_the_suites() -> None:
    assert suite.open_suite("paper").suite.labels.present_from_pp == facts.LABELS.present_from_pp
    assert suite.open_suite("paper").suite.labels.absent_below_pp == facts.LABELS.absent_below_pp
    assert effective_robustness.LOWEST_ACCURACY == 0.55

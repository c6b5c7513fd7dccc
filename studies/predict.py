"""Whether PASS goes with published effective robustness: over what was measured, and over a calibration's table.

python studies/predict.py                       # writes studies/results/does-pass-predict-robustness.md
python studies/predict.py paper.results.jsonl   # prints what the criteria of that page say of the suite `paper`

Exit code 1, with a message, for a table that can't be used. The criteria are fixed in predict_facts.py.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import predict_facts as facts
from predict_facts import FINETUNED, PROFILE, SUITE, ZERO_SHOT, Checkpoint, auroc, joint_score, with_label
from predict_text import CRITERIA, GUARDS, IF_SO, TEXT
from scipy.stats import spearmanr

from robustcheck_onnx.thresholds import published, results, suite
from robustcheck_onnx.thresholds.statistics import ENERGIES, STATISTICS, Statistic
from robustcheck_onnx.thresholds.tables import ReferenceSet, references

PAGE = Path(__file__).parent.parent / "studies" / "results" / "does-pass-predict-robustness.md"
WORDS: dict[Statistic, str] = {
    "strength": "strength",
    "kurtosis": "activation kurtosis K",
    "persistence_ratio": "persistence ratio K/Kc",
    "top3_share": "top-3 share",
    "outlier_frequency": "persistence",
    "negative_energy": "negative energy",
    "negative_z_energy": "negative energy of z",
    "two_sidedness": "two-sidedness",
}
SHOWN: tuple[Statistic, ...] = (*PROFILE.deciding, *(name for name in STATISTICS if name not in PROFILE.deciding))
WIDTH = 120  # characters of a line


def page() -> str:
    """The page as Markdown. Raises AssertionError where a sentence that stands in TEXT is no longer so."""
    checkpoints = facts.measured()
    known = sorted((one for one in checkpoints if one.mean_pp is not None), key=lambda one: one.mean_pp or 0.0)
    unknown = [one for one in checkpoints if one.mean_pp is None]
    robust, fragile = with_label("present", known), with_label("absent", known)
    of_text = [one for one in checkpoints if one.training == "image_text"]
    others = [one for one in checkpoints if one.training != "image_text"]
    left_out = PROFILE.calibration.left_out_false_warn
    spans = {one.name: [row.kurtosis for row in one.sets] for one in known}
    factors = {name: max(values) / min(values) for name, values in spans.items()}
    widest = max(factors, key=lambda name: factors[name])
    n_one_sided = sum(not any(map(_signed, one.sets)) for one in fragile)
    members = suite.open_suite(SUITE).members
    seen = facts.seen()
    new = [member for member in members if member.id not in seen]
    assert all((one.label == "present") == (one.group == ZERO_SHOT) for one in known)
    assert "BiomedCLIP" in {one.name for one in unknown if one.passed}
    assert not any(one.passed for one in others)
    text = TEXT.format(
        profile=PROFILE.id,
        from_pp=facts.LABELS.present_from_pp,
        below_pp=facts.LABELS.absent_below_pp,
        **_published(),
        n_robust=len(robust),
        n_hits=sum(one.passed for one in robust),
        n_fragile=len(fragile),
        n_false=str(sum(one.passed for one in fragile) or "None"),
        n_one_sided="all" if n_one_sided == len(fragile) else n_one_sided,
        n_known=len(known),
        n_sets=sum(len(one.sets) for one in known),
        table=_table(known),
        verdicts=_verdicts(known),
        misses=_names(one for one in robust if not one.passed),
        weak=_names(one for one in known if any(row.set in left_out for row in one.sets)),
        false_passes=_names(one for one in fragile if one.passed),
        unknown=_names(one for one in unknown if one.passed),
        n_unknown_warn=sum(not one.passed for one in unknown),
        lost=_lost(known),
        no_mean=_names(one for one in unknown if _rows(one)),
        **_correlations(known),
        factor=factors[widest],
        widest=widest,
        n_text=len(of_text),
        n_text_pass=sum(one.passed for one in of_text),
        n_other=len(others),
        n_other_pass=sum(one.passed for one in others) or "none",
        auroc=auroc(*([one.median(joint_score) for one in side] for side in (robust, fragile))),
        text_warn=_names(one for one in of_text if not one.passed),
        new_robust=sum(member.label == "present" for member in new),
        new_fragile=sum(member.label == "absent" for member in new),
        n_finetuned=sum(member.entry.group == FINETUNED for member in members),
        least_n=facts.LEAST,
        criteria=_criteria(checkpoints),
        suite=SUITE,
        n_suite=len(members),
    )
    return wrapped(text)


def _published() -> dict[str, object]:
    """The fields of TEXT that say how robust published models are, by class."""
    zero_shot, finetuned, others = classes = facts.published_classes()
    lines = ["| models | robust | bounds of the share | ER |", "|---|---|---|---|"]
    for one in classes:
        n, robust = len(one.rows), len(one.robust)
        low = 1 - facts.clopper_pearson_upper(n - robust, n)
        high = facts.clopper_pearson_upper(robust, n)
        ends = f"{one.rows[-1].mean_pp:+.1f} to {one.rows[0].mean_pp:+.1f}"
        lines.append(f"| {one.name} | {robust} of {n:,} | {100 * low:.1f} to {100 * high:.1f} % | {ends} |")
    assert len(zero_shot.robust) == len(zero_shot.rows)
    return {
        "n_published": sum(len(one.rows) for one in classes),
        "n_below": sum(row.library == "open_clip" for row in published.published()) - len(zero_shot.rows),
        "least_accuracy": 100 * facts.LEAST_ACCURACY,
        "classes": "\n".join(lines),
        "zero_shot_robust": f"all {len(zero_shot.rows)}",
        "zero_shot_least": zero_shot.rows[-1].mean_pp,
        "finetuned_most": finetuned.rows[0].mean_pp,
        "others_robust": ", ".join(row.name for row in others.robust),
    }


def wrapped(text: str) -> str:
    """Markdown with its paragraphs and list items filled to WIDTH; tables, headings and code stay as they are."""
    out: list[str] = []
    for block in text.split("\n\n"):
        lines = block.split("\n")
        while lines and lines[0].startswith("#"):
            out.append(lines.pop(0) + ("" if lines else "\n"))
        if not lines or lines[0].startswith(("|", "```")):
            out.append("\n".join(lines) + "\n" if lines else "")
            continue
        for item in re.split(r"\n(?=- )", "\n".join(lines)):
            indent = "  " if item.startswith("- ") else ""
            words = " ".join(item.split())
            out.append(
                textwrap.fill(words, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
            )
        out[-1] += "\n"
    return "\n".join(line for line in out if line).rstrip() + "\n"


def _signed(row: ReferenceSet) -> bool:
    return row.two_sidedness > PROFILE.thresholds["two_sidedness"].minimum


def _estimate(row: ReferenceSet, name: Statistic) -> float:
    value = float(getattr(row, name))
    return min(value, 1 - value) if name in ENERGIES else value


def _table(known: Sequence[Checkpoint]) -> str:
    lines = ["| checkpoint | training | ER | " + " | ".join(WORDS[name] for name in SHOWN) + " | sets that pass |"]
    lines.append("|---" * (len(SHOWN) + 4) + "|")
    for one in known:
        beyond = any(shift in row.extrapolated for row in _rows(one) for shift in published.MEAN_SHIFTS)
        cells = [one.name, one.training.replace("_", "-"), f"{one.mean_pp:+.1f}" + ("\\*" if beyond else "")]
        cells += [_range([_estimate(row, name) for row in one.sets]) for name in SHOWN]
        lines.append(f"| {' | '.join(cells)} | {sum(one.passing)} of {len(one.sets)} |")
    limits = [f"{PROFILE.thresholds[n].minimum:g}" if n in PROFILE.thresholds else "decides nothing" for n in SHOWN]
    return "\n".join([*lines, f"| *passes above* | | | {' | '.join(limits)} | |"])


def _range(values: Sequence[float]) -> str:
    ends = (f"{value:.1f}" if value >= 1.05 else f"{value:.2f}" for value in (min(values), max(values)))
    return "–".join(dict.fromkeys(ends))


def _rows(one: Checkpoint) -> list[published.Published]:
    keys = {published.MEASURED[row.set] for row in one.sets if row.set in published.MEASURED}
    return [row for row in published.published() if (row.library, row.model, row.weights) in keys]


def _verdicts(known: Sequence[Checkpoint]) -> str:
    lines = ["| | PASS | WARN |", "|---|---|---|"]
    titles: dict[suite.Label, str] = {"present": "robust", "unlabelled": "no label", "absent": "not robust"}
    for label, title in titles.items():
        cells = [_names(c for c in with_label(label, known) if c.passed == passed) for passed in (True, False)]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _lost(known: Sequence[Checkpoint]) -> str:
    """Checkpoints with a published row all of whose sets are not evidence."""
    out = {row.model: row.excluded for row in references() if row.set in published.MEASURED and row.excluded}
    counted = {one.name for one in known}
    return "; ".join(f"{name} ({why})" for name, why in out.items() if name not in counted) or "none"


def _names(some: Iterable[Checkpoint]) -> str:
    return ", ".join(one.name for one in some) or "none measured"


def scores() -> dict[str, Callable[[ReferenceSet], float]]:
    """What is correlated with ER, by its name."""

    def of(name: Statistic) -> Callable[[ReferenceSet], float]:
        return lambda row: _estimate(row, name)

    return {WORDS[name]: of(name) for name in SHOWN} | {"joint score": joint_score}


def correlations(some: Sequence[Checkpoint]) -> dict[str, tuple[float | None, tuple[float, float] | None]]:
    """Spearman's correlation of each score with ER over checkpoints, the median of each one's sets; its interval."""
    known = [one for one in some if one.mean_pp is not None]
    pp = [one.mean_pp or 0.0 for one in known]
    found = {
        name: round(float(spearmanr([one.median(score) for one in known], pp).statistic), 3)
        for name, score in scores().items()
    }
    return {name: (r, facts.interval(r, len(known))) for name, r in found.items()}


def _correlations(known: Sequence[Checkpoint]) -> dict[str, object]:
    """The fields of TEXT that tell the correlations."""
    zero_shot = [one for one in known if one.group == ZERO_SHOT]
    n, everywhere, within = len(zero_shot), correlations(known), correlations(zero_shot)
    lines = [f"| | all {len(known)} | {n} zero-shot encoders |", "|---|---|---|"]
    lines += [f"| {name} | {told(*everywhere[name])} | {told(*within[name])} |" for name in within]
    told_apart = {name: r for name, (r, ends) in within.items() if ends and (ends[0] > 0 or ends[1] < 0)}
    guards = [WORDS[name] for name in (*ENERGIES, "two_sidedness") if WORDS[name] in told_apart]
    outliers = [name for name in told_apart if name not in guards]
    accuracies = [_rows(one)[0].accuracy[published.IMAGENET] for one in zero_shot]
    by_accuracy = float(spearmanr(accuracies, [one.mean_pp or 0.0 for one in zero_shot]).statistic)
    each = 1 - (1 - facts.CONFIDENCE) / len(within)  # Bonferroni's share
    all_together = [f"{name} {told(r := told_apart[name], facts.interval(r, n, each))}" for name in guards]
    return {
        "correlations": "\n".join(lines),
        "ranking": f"only {', '.join(outliers)} of the" if outliers else "no statistic of",
        "k_told": told(*within[WORDS["kurtosis"]]),
        "accuracy_told": told(by_accuracy, facts.interval(by_accuracy, n)),
        "n_zero_shot": n,
        "least": facts.least_told(n),
        "guards": GUARDS.format(n=len(within), told=", ".join(all_together)) if guards else "",
    }


def told(r: float | None, ends: tuple[float, float] | None) -> str:
    """A correlation with its interval; – where there is none."""
    return "–" if r is None or ends is None else f"{r:+.2f} ({ends[0]:+.2f} to {ends[1]:+.2f})"


def _criteria(checkpoints: Sequence[Checkpoint]) -> str:
    today = facts.criteria(checkpoints, [])
    lines = ["| the claim is wrong if | that would mean | counted today, of the sets above |", "|---|---|---|"]
    lines += [f"| {a} | {b} | {c.numbers} |" for a, b, c in zip(CRITERIA, IF_SO, today, strict=True)]
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    if not arguments:
        PAGE.write_text(page(), encoding="utf-8")
        return
    rows = results.joined([(Path(path), results.read(Path(path))) for path in arguments])
    outcomes = facts.criteria(facts.of_results(rows, "representation"), facts.of_results(rows, "pooled"))
    for name, outcome in zip(CRITERIA, outcomes, strict=True):
        print(f"{outcome.verdict:8} {name}: {outcome.numbers}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ValueError as fault:  # a table that can't be used
        sys.exit(f"✗ {fault}")

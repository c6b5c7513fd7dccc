"""Thresholds from a table of measured reference statistics: pure, and the same bytes every time.

    python -m robustcheck_onnx.thresholds.calibrate > thresholds/data/default.json

The rule, for each statistic: take the largest value of a set without the indication (over random subsets of
50 images) and the smallest value of a set with it, and put the threshold `GAP_POSITION` of the way up. Kurtosis
and its ratio are placed on a logarithmic scale, shares on a linear one. Rectified sets take no part in the
other three: the negative-energy threshold, set in the widest gap between all sets, turns them away first.
"""

from __future__ import annotations

import itertools
import math
import sys

import numpy as np

from robustcheck_onnx.thresholds import reference
from robustcheck_onnx.thresholds.error_rates import auroc, clopper_pearson_upper
from robustcheck_onnx.thresholds.profile import (
    STATISTICS,
    Calibration,
    Profile,
    Statistic,
    Threshold,
    seal,
    to_json,
)
from robustcheck_onnx.thresholds.reference import Reference

GAP_POSITION = 2 / 3  # of the gap, from without to with: a false PASS costs more than a false WARN
LOGARITHMIC = ("kurtosis", "persistence_ratio")  # ratios; the others are shares
DIGITS = 3  # decimal places of a threshold
BOOTSTRAP_FITS = 400  # resamples of the checkpoints
BOOTSTRAP_SEED = 0
COMMAND = "python -m robustcheck_onnx.thresholds.calibrate"
RULE = (
    "threshold = 2/3 of the way from the largest value without the indication (over random subsets of 50 images) "
    "to the smallest value with it; logarithmic for kurtosis and persistence ratio; rectified sets are turned away "
    "by negative energy, whose threshold lies in the widest gap between all sets, and by the same of z"
)
# What ends the sets with the indication: CLIP's projection, the residual sum of SigLIP's attention pool, and the
# look-up models that replay measured representations of both.
ENDS = ("linear", "other:Add", "other:Gather")
LIMITS = (
    "PASS means that the indication (persistent outlier features) is present; it is no proof of robustness.",
    "WARN means absent or not established: OpenCLIP ViT-bigG/14 (laion2b_s39b_b160k) has high published accuracy on "
    "shifted data and shows no outlier features.",
    "It rests on few checkpoints. Not measured: ConvNeXt, Swin, DeiT(-III), BEiT, EfficientNetV2, RegNet, DINO, "
    "DINOv2 B to g, DINOv3, MAE; LAION-400M, DataComp, YFCC, CC12M, EVA, MobileCLIP, SigLIP 2; any classifier "
    "finetuned from CLIP on ImageNet.",
    "Every set with the indication is a projected image embedding or SigLIP's pooled one; representations that end "
    "otherwise (in a normalisation layer, in pooling, in a linear map of rectified features, in a PCA or another "
    "change of basis) are not judged by these thresholds.",
    "A made outlier feature is not always told from a learned one: a linear layer made to lie along the mean of "
    "signed features, without being a change of basis, has the same statistics.",
    "It is about natural distribution shifts of ImageNet kind (sketches, renditions, viewpoints), not about "
    "adversarial robustness or corruptions.",
)


def fit(table: tuple[Reference, ...]) -> dict[Statistic, Threshold]:
    """Thresholds from the sets that take part.

    Args:
        table: reference sets; those with a reason in `excluded` are left out.

    Raises:
        ValueError: no set with, or no signed set without the indication, or the two overlap.
    """
    used = [r for r in table if not r.excluded]
    if {r.expected for r in used} != {"present", "absent"}:
        raise ValueError("the table needs sets with and without the indication")
    energy = _negative_energy(used)
    signed = [r for r in used if r.negative_energy > energy.minimum]
    present = [r for r in signed if r.expected == "present"]
    absent = [r for r in signed if r.expected == "absent"]
    if not present or not absent:
        raise ValueError("the table needs signed sets with and without the indication")
    out: dict[Statistic, Threshold] = {}
    for name in STATISTICS:
        if name == "negative_energy":
            out[name] = energy
            continue
        if name == "negative_z_energy":
            low = max((r for r in used if r not in signed), key=lambda r: r.high["negative_z_energy"])
            high = min(signed, key=lambda r: r.negative_z_energy)
            out[name] = _place(low, low.high[name], high, high.negative_z_energy, log=False)
            continue
        low = max(absent, key=lambda r: r.high[name])
        high = min(present, key=lambda r: float(getattr(r, name)))
        out[name] = _place(low, low.high[name], high, float(getattr(high, name)), log=name in LOGARITHMIC)
    return out


def _negative_energy(used: list[Reference]) -> Threshold:
    ordered = sorted(used, key=lambda r: r.negative_energy)
    gaps = [
        (b.low["negative_energy"] - a.high["negative_energy"], i)
        for i, (a, b) in enumerate(itertools.pairwise(ordered))
    ]
    _, i = max(gaps)
    low, high = ordered[i], ordered[i + 1]
    return _place(low, low.high["negative_energy"], high, high.low["negative_energy"], log=False)


def _place(low: Reference, low_value: float, high: Reference, high_value: float, *, log: bool) -> Threshold:
    if not low_value < high_value:
        raise ValueError(f"{low.set} ({low_value}) and {high.set} ({high_value}) overlap: no threshold parts them")
    if log:
        minimum = math.exp(math.log(low_value) + GAP_POSITION * (math.log(high_value) - math.log(low_value)))
    else:
        minimum = low_value + GAP_POSITION * (high_value - low_value)
    return Threshold(
        minimum=round(minimum, DIGITS),
        highest_without=low_value,
        highest_without_set=low.set,
        lowest_with=high_value,
        lowest_with_set=high.set,
        bootstrap_low=round(minimum, DIGITS),
        bootstrap_high=round(minimum, DIGITS),
    )


def checkpoint_of(row: Reference) -> str:
    """The checkpoint without the note on how it was loaded: the unit that is left out."""
    return row.checkpoint.split(" (")[0]


def passes(row: Reference, thresholds: dict[Statistic, Threshold]) -> bool:
    """Whether the point estimates of a set lie above every threshold."""
    return all(float(getattr(row, name)) > thresholds[name].minimum for name in STATISTICS)


def leave_one_out(table: tuple[Reference, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Sets judged wrongly when every set of their checkpoint is left out of the fit: (false PASS, false WARN)."""
    false_pass, false_warn = [], []
    for checkpoint in dict.fromkeys(checkpoint_of(r) for r in table if not r.excluded):
        thresholds = fit(tuple(r for r in table if checkpoint_of(r) != checkpoint))
        for row in table:
            if row.excluded or checkpoint_of(row) != checkpoint:
                continue
            if passes(row, thresholds) and row.expected == "absent":
                false_pass.append(row.set)
            elif not passes(row, thresholds) and row.expected == "present":
                false_warn.append(row.set)
    return tuple(sorted(false_pass)), tuple(sorted(false_warn))


def leave_family_out(table: tuple[Reference, ...]) -> tuple[tuple[str, str], ...]:
    """What the fit to the other groups says of each group that is left out whole."""
    used = tuple(r for r in table if not r.excluded)
    out = []
    for group in dict.fromkeys(r.group for r in used):
        members = [r for r in used if r.group == group]
        try:
            thresholds = fit(tuple(r for r in used if r.group != group))
        except ValueError as fault:
            out.append((group, f"no fit without it: {fault}"))
            continue
        wrong = [r.set for r in members if passes(r, thresholds) != (r.expected == "present")]
        out.append((group, f"{len(members) - len(wrong)} of {len(members)} right; wrong: {', '.join(wrong) or 'none'}"))
    return tuple(out)


def bootstrap(table: tuple[Reference, ...]) -> tuple[dict[Statistic, tuple[float, float]], int]:
    """5 and 95 % of each threshold over fits to checkpoints drawn with replacement, and how many fits failed."""
    used = [r for r in table if not r.excluded]
    checkpoints = list(dict.fromkeys(checkpoint_of(r) for r in used))
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    draws: dict[Statistic, list[float]] = {name: [] for name in STATISTICS}
    failed = 0
    for _ in range(BOOTSTRAP_FITS):
        chosen = {checkpoints[i] for i in rng.integers(0, len(checkpoints), len(checkpoints))}
        try:
            thresholds = fit(tuple(r for r in used if checkpoint_of(r) in chosen))
        except ValueError:  # a resample without one side, or one in which they overlap: counted, and said
            failed += 1
            continue
        for name in STATISTICS:
            draws[name].append(thresholds[name].minimum)
    spans = {name: np.quantile(values, [0.05, 0.95]) for name, values in draws.items()}
    return {
        name: (round(float(span[0]), DIGITS), round(float(span[1]), DIGITS)) for name, span in spans.items()
    }, failed


def separation(sets: list[Reference]) -> dict[Statistic, float]:
    """AUROC of each statistic alone over the given sets."""
    return {
        name: round(
            auroc(
                [float(getattr(r, name)) for r in sets if r.expected == "present"],
                [float(getattr(r, name)) for r in sets if r.expected == "absent"],
            ),
            DIGITS,
        )
        for name in STATISTICS
    }


def _upper(wrong: tuple[str, ...], sets: list[Reference]) -> float:
    """Clopper–Pearson bound over checkpoints: sets of one checkpoint are one trial."""
    trials = {checkpoint_of(r) for r in sets}
    errors = {checkpoint_of(r) for r in sets if r.set in wrong}
    return round(clopper_pearson_upper(len(errors), len(trials)), DIGITS)


def default_profile(text: str) -> Profile:
    """The default profile, from the text of the reference table."""
    table = reference.references(text)
    used = [r for r in table if not r.excluded]
    false_pass, false_warn = leave_one_out(table)
    fitted = fit(table)
    spans, failed = bootstrap(table)
    return seal(
        Profile(
            id="default-1",
            statistic_version=2,
            tensor_rules=("encoder_output", "head_input"),
            pools=("none", "spatial_mean"),
            ends=ENDS,
            min_features=min(r.d for r in used),
            max_features=max(r.d for r in used),
            min_images=50,
            alpha=0.05,
            thresholds={
                name: threshold.model_copy(update={"bootstrap_low": spans[name][0], "bootstrap_high": spans[name][1]})
                for name, threshold in fitted.items()
            },
            calibration=Calibration(
                command=COMMAND,
                table=reference.TABLE,
                table_digest=reference.table_digest(text),
                rule=RULE,
                n_sets=len(used),
                n_checkpoints=len({checkpoint_of(r) for r in used}),
                with_indication=tuple(sorted(r.set for r in used if r.expected == "present")),
                without_indication=tuple(sorted(r.set for r in used if r.expected == "absent")),
                excluded=tuple(sorted((r.set, r.excluded) for r in table if r.excluded)),
                left_out_false_pass=false_pass,
                left_out_false_warn=false_warn,
                false_pass_upper=_upper(false_pass, [r for r in used if r.expected == "absent"]),
                false_warn_upper=_upper(false_warn, [r for r in used if r.expected == "present"]),
                family_out=leave_family_out(table),
                auroc=separation(used),
                auroc_signed=separation([r for r in used if r.negative_energy > fitted["negative_energy"].minimum]),
                bootstrap_fits=BOOTSTRAP_FITS,
                bootstrap_failed=failed,
            ),
            limits=LIMITS,
        )
    )


if __name__ == "__main__":
    sys.stdout.write(to_json(default_profile(reference.table_text())))

"""Profiles from measured sets: pure, and the same bytes every time. How thresholds are placed: fitting.py.

python -m robustcheck_onnx.thresholds.calibrate > thresholds/data/default.json
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial

from robustcheck_onnx.thresholds import fitting, reference, results
from robustcheck_onnx.thresholds.fitting import Rule, taking_part
from robustcheck_onnx.thresholds.profile import (
    DEFINITIONS,
    STATISTICS,
    Calibration,
    Profile,
    Statistic,
    seal,
    to_json,
)
from robustcheck_onnx.thresholds.published import MEASURED, find
from robustcheck_onnx.thresholds.reference import Reference

COMMAND = "python -m robustcheck_onnx.thresholds.calibrate"
STATISTIC_VERSION = 2  # of the reference table; a test compares it with checker/kurtosis.py
MIN_IMAGES = results.MIN_IMAGES
ALPHA = 0.05  # error rate of the deciding bounds together
TENSORS = ("representation", "pooled")  # that a contract may have, in order of preference
RULE = (
    "threshold = 2/3 of the way from the largest value without the indication (over random subsets of 50 images) "
    "to the smallest value with it; logarithmic for kurtosis and persistence ratio; rectified sets are turned away "
    "by negative energy, whose threshold lies in the widest gap between all sets, and by the same of z"
)
LABELS = (
    "with: the representations show persistent outlier features; without: they do not. Absent says nothing about "
    "robustness: OpenCLIP ViT-bigG/14 is robust and shows none"
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


IMAGES = "each set on its own photos, in-distribution for its source (the sources are in the table)"
SPREAD = "smallest and largest value over 200 random subsets of 50 images of the set"
FEW = "{with_} checkpoints with and {without} without it: too few for narrow bounds; one error more or less moves them"


def default_profile(text: str) -> Profile:
    """The default profile, from the text of the reference table."""
    table = reference.references(text)
    return profile_of(
        table,
        fitting.STRICT_RULE,
        id="default-1",
        statistic_version=STATISTIC_VERSION,
        tensor_rules=("encoder_output", "head_input"),
        pools=("none", "spatial_mean"),
        ends=ENDS,
        robustness=_published_robustness(table),
        limits=LIMITS,
        says={
            "command": COMMAND,
            "table": reference.TABLE,
            "table_digest": reference.table_digest(text),
            "date": reference.MEASURED_ON,
            "images": IMAGES,
            "labels": LABELS,
            "spread": SPREAD,
            "rule": RULE,
        },
    )


def profile_of(
    table: Sequence[Reference],
    rule: Rule,
    *,
    id: str,
    statistic_version: int,
    tensor_rules: Sequence[str],
    pools: Sequence[str],
    ends: Sequence[str],
    robustness: Mapping[str, float],
    limits: Sequence[str],
    says: Mapping[str, object],
    tensor: str = TENSORS[0],
) -> Profile:
    """Fit, find out how far the fit can be trusted, and seal all of it as a profile.

    Args:
        table: measured sets with labels.
        rule: how thresholds are placed.
        id, statistic_version, tensor_rules, pools, ends, limits, tensor: as the profile has them.
        robustness: mean effective robustness in percentage points of the sets for which it is known.
        says: the fields of Calibration that are known beforehand.

    Raises:
        ValueError: no thresholds can be fitted, and why.
    """
    used = taking_part(table)
    fitted = fitting.fit(table, rule)
    thresholds, failed = fitting.with_bootstrap(fitted.thresholds, table, rule)
    left_out = fitting.leave_one_out(table, rule)
    present = [r for r in used if r.expected == "present"]
    absent = [r for r in used if r.expected == "absent"]
    signed = [r for r in used if r.negative_energy > thresholds["negative_energy"].minimum]
    known = [r for r in used if r.set in robustness]
    n_with, n_without = len(fitting.checkpoints(present)), len(fitting.checkpoints(absent))
    few = FEW.format(with_=n_with, without=n_without) if min(n_with, n_without) < fitting.MANY_CHECKPOINTS else ""
    content: dict[str, object] = {
        "few": few,
        "n_sets": len(used),
        "n_checkpoints": len(fitting.checkpoints(used)),
        "n_with_checkpoints": n_with,
        "n_without_checkpoints": n_without,
        "with_indication": tuple(sorted(r.set for r in present)),
        "without_indication": tuple(sorted(r.set for r in absent)),
        "missed": fitted.missed,
        "unlabelled_passing": tuple(
            sorted(r.set for r in table if r.excluded == "unlabelled" and fitting.passes(r, thresholds))
        ),
        "excluded": tuple(sorted((r.set, r.excluded) for r in table if r.excluded)),
        "left_out_false_pass": left_out.false_pass,
        "left_out_false_warn": left_out.false_warn,
        "not_left_out": left_out.no_fit,
        "false_pass_upper": fitting.upper_bound(left_out.false_pass, absent, left_out.no_fit),
        "false_warn_upper": fitting.upper_bound(left_out.false_warn, present, left_out.no_fit),
        "family_out": fitting.leave_family_out(table, rule),
        "auroc": _each(used),
        "auroc_signed": _each(signed),
        "auroc_joint": fitting.separation(used, fitting.joint_score(thresholds)),
        "kurtosis_alone": fitting.kurtosis_alone(used),
        "rank_correlation": {
            name: fitting.rank_correlation([fitting.value(r, name) for r in known], [robustness[r.set] for r in known])
            for name in STATISTICS
        },
        "rank_correlation_n": len(known),
        "bootstrap_fits": fitting.BOOTSTRAP_FITS,
        "bootstrap_failed": failed,
    }
    return seal(
        Profile(
            id=id,
            statistic_version=statistic_version,
            definitions=DEFINITIONS,
            tensor=tensor,
            tensor_rules=tuple(tensor_rules),
            pools=tuple(pools),
            ends=tuple(ends),
            min_features=min(r.d for r in used),
            max_features=max(r.d for r in used),
            min_images=MIN_IMAGES,
            alpha=ALPHA,
            thresholds=thresholds,
            calibration=Calibration.model_validate({**content, **says}),
            limits=tuple(limits),
        )
    )


def _each(sets: Sequence[Reference]) -> dict[Statistic, float]:
    """AUROC of each statistic alone."""
    return {name: fitting.separation(sets, partial(fitting.value, name=name)) for name in STATISTICS}


def _published_robustness(table: Sequence[Reference]) -> dict[str, float]:
    """Mean effective robustness of the sets whose checkpoint has a published row with one."""
    found = {}
    for row in table:
        published = find(*MEASURED[row.set]) if row.set in MEASURED else ()
        if means := [entry.mean_pp for entry in published if entry.mean_pp is not None]:
            found[row.set] = means[0]
    return found


if __name__ == "__main__":
    sys.stdout.write(to_json(default_profile(reference.table_text())))

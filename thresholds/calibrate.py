"""Make the default profile from the reference table. It has the same bytes every time.

python -m robustcheck_onnx.thresholds.calibrate > thresholds/data/default-3.json

The profile records this command, so the module keeps its name. Other profiles are made by `robustcheck calibrate`.
"""

from __future__ import annotations

import sys

from . import reference
from .ends import End
from .fit import DEFINITION, STRICT_RULE
from .make_profile import MEANING, SHIFTS_MEANT, profile_of, thresholds_of, with_traps
from .profile import Profile, to_json
from .published import MEASURED, find
from .reference import Reference

COMMAND = "python -m robustcheck_onnx.thresholds.calibrate"
STATISTIC_VERSION = 2  # of the reference table; a test compares it with checker/statistics/definitions.py
NOT_ROBUST_PP = 10.0  # mean effective robustness below it counts as none
RULE = (
    "statistics: docs/dev/decisions/three-statistics.md. threshold: 2/3 of the way from the largest estimate of the "
    "sets and traps that the statistic turns away best to the smallest estimate with the indication; logarithmic for "
    "the strength"
)
LABELS = (
    f"with: the set shows the indication by its estimates: it is {DEFINITION}; without: it does not. The label and the "
    "rule look at the same numbers, so that they agree on a set is not a finding. Absent means nothing for robustness: "
    "OpenCLIP ViT-bigG/14 is robust and shows none"
)
# What ends the sets with the indication: CLIP's projection, the residual sum of SigLIP's attention pool, and the
# look-up models that replay measured representations of both.
ENDS = (End("linear"), End("other", "Add"), End("other", "Gather"))
LIMITS = (
    MEANING,
    "WARN means absent or not established: OpenCLIP ViT-bigG/14 (laion2b_s39b_b160k) and DINOv2 ViT-g/14 have high "
    "published accuracy on shifted data and show no outlier features.",
    "Of 39 checkpoints that were not trained on images with texts none passes when left out of the fit: at most 7.4 % "
    "(95 % confidence). Most are turned away because their features have one sign; of the 14 two-sided ones the "
    "bound is "
    "19.3 %, of the 6 of these that end in a linear layer, all face encoders, 39.4 %. The rule was chosen on these "
    "sets, so these are not rates of a trial.",
    "It rests on few checkpoints. Not measured: ConvNeXt, DeiT(-III), BEiT, EfficientNetV2, RegNet, DINO, DINOv2 L, "
    "DINOv3, MAE; LAION-400M, DataComp, YFCC, CC12M, EVA, MobileCLIP, SigLIP 2; any classifier finetuned from CLIP on "
    "ImageNet.",
    "Every set with the indication is a projected image embedding or SigLIP's pooled one; representations that end "
    "otherwise (in a normalisation layer, in pooling, in a linear map of rectified features, in a PCA or another "
    "change of basis) are not judged by these thresholds.",
    "A made outlier feature is not always told from a learned one: a linear layer made to lie along the mean of "
    "two-sided features, without being a change of basis, has the same statistics.",
    SHIFTS_MEANT,
)
IMAGES = "each set on its own photos, in-distribution for its source (the sources are in the table)"


def default_profile(text: str) -> Profile:
    """Make the default profile from a table's text. The table is the reference table."""
    table = reference.references(text)
    two_sided = thresholds_of(with_traps(table), STRICT_RULE)["two_sidedness"].minimum
    robustness = _published_robustness()

    def no_texts(row: Reference) -> bool:
        return row.training != "image_text"

    return profile_of(
        table,
        STRICT_RULE,
        id="default-3",
        statistic_version=STATISTIC_VERSION,
        tensor_rules=("encoder_output", "head_input"),
        pools=("none", "spatial_mean"),
        ends=ENDS,
        limits=LIMITS,
        populations={
            "not trained on images with texts": no_texts,
            "of these two-sided": lambda row: no_texts(row) and row.two_sidedness > two_sided,
            "of these ending in a linear layer": (
                lambda row: no_texts(row) and row.two_sidedness > two_sided and row.ends_in == "linear"
            ),
            f"published effective robustness below +{NOT_ROBUST_PP:g} points": (
                lambda row: robustness.get(row.set, NOT_ROBUST_PP) < NOT_ROBUST_PP
            ),
        },
        says={
            "command": COMMAND,
            "table": reference.TABLE,
            "table_digest": reference.table_digest(text),
            "date": reference.MEASURED_ON,
            "images": IMAGES,
            "labels": LABELS,
            "rule": RULE,
        },
    )


def _published_robustness() -> dict[str, float]:
    """Return the sets' published mean effective robustness. Sets whose checkpoint has none are left out."""
    robustness = {}
    for name, checkpoint in MEASURED.items():
        if means := [entry.mean_pp for entry in find(*checkpoint) if entry.mean_pp is not None]:
            robustness[name] = means[0]
    return robustness


if __name__ == "__main__":
    sys.stdout.write(to_json(default_profile(reference.table_text())))

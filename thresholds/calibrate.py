"""Make the default profile of the reference table, with the same bytes every time.

python -m robustcheck_onnx.thresholds.calibrate > thresholds/data/default-4.json

The profile records this command, so the module keeps its name. Other profiles are made by `robustcheck calibrate`.
"""

import sys

from . import profile, tables
from .ends import End
from .fit import STRICT_RULE, fit
from .fitted import MEANING, SHIFTS_MEANT, profile_of, with_traps
from .profile import Profile
from .published import MEASURED, find
from .tables import ReferenceSet

COMMAND = "python -m robustcheck_onnx.thresholds.calibrate"
STATISTIC_VERSION = 2  # of the reference table; a test compares it with checker/core/statistics/definitions.py
NOT_ROBUST_PP = 10.0  # mean effective robustness below it counts as none
RULE = (
    "statistics: docs/dev/decisions/three-statistics.md. threshold: 2/3 of the way from the largest estimate of the "
    "sets and traps that the statistic turns away best to the smallest estimate with the indication; logarithmic for "
    "the strength"
)
LABELS = (
    f"with: the set shows the indication by its estimates: it is {tables.DEFINITION}; without: it does not. The label "
    "and the rule look at the same numbers, so that they agree on a set is not a finding. Absent means nothing for "
    "robustness: OpenCLIP ViT-bigG/14 is robust and shows none"
)
# What ends the sets with the indication: CLIP's projection, and the residual sum of SigLIP's attention pool.
ENDS = (End("linear"), End("other", "Add"))
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
    "The statistics depend on the basis and on the mean vector of the representation: a linear layer that was made, "
    "not learned, can pass, such as a layer that has a row along the mean or a shifted bias.",
    SHIFTS_MEANT,
)
IMAGES = "each set on its own photos, in-distribution for its source (the sources are in the table)"


def default_profile(text: str) -> Profile:
    """Make the default profile from the text of the reference table."""
    table = tables.references(text)
    two_sided = fit(with_traps(table)).thresholds["two_sidedness"].minimum
    robustness: dict[str, float] = {}  # published
    for name, checkpoint in MEASURED.items():
        for entry in find(*checkpoint):
            if entry.mean_pp is not None:
                robustness.setdefault(name, entry.mean_pp)

    def no_texts(row: ReferenceSet) -> bool:
        return row.training != "image_text"

    def two_sided_without_texts(row: ReferenceSet) -> bool:
        return no_texts(row) and row.two_sidedness > two_sided

    def linear_of_these(row: ReferenceSet) -> bool:
        return two_sided_without_texts(row) and row.ends_in == "linear"

    def not_robust(row: ReferenceSet) -> bool:
        return robustness.get(row.set, NOT_ROBUST_PP) < NOT_ROBUST_PP

    return profile_of(
        table,
        STRICT_RULE,
        id="default-4",
        statistic_version=STATISTIC_VERSION,
        tensor_rules=("encoder_output", "head_input"),
        pools=("none", "spatial_mean"),
        ends=ENDS,
        limits=LIMITS,
        populations={
            "not trained on images with texts": no_texts,
            "of these two-sided": two_sided_without_texts,
            "of these ending in a linear layer": linear_of_these,
            f"published effective robustness below +{NOT_ROBUST_PP:g} points": not_robust,
        },
        says={
            "command": COMMAND,
            "table": tables.TABLE,
            "table_digest": tables.table_digest(text),
            "date": tables.MEASURED_ON,
            "images": IMAGES,
            "labels": LABELS,
            "rule": RULE,
        },
    )


if __name__ == "__main__":
    sys.stdout.write(profile.to_json(default_profile(tables.table_text())))

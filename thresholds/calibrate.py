"""Makes the default profile from the reference table: the same bytes every time.

python -m robustcheck_onnx.thresholds.calibrate > thresholds/data/default.json

The profile records this command, so the module keeps its name. Other profiles are made by `robustcheck calibrate`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from . import choice, reference
from .ends import End
from .fit import STRICT_RULE
from .indication import DEFINITION
from .make_profile import MEANING, SHIFTS_MEANT, profile_of, with_traps
from .profile import Profile, to_json
from .published import MEASURED, find
from .reference import Reference

COMMAND = "python -m robustcheck_onnx.thresholds.calibrate"
STATISTIC_VERSION = 2  # of the reference table; a test compares it with checker/statistics/definitions.py
RULE = (
    "statistics: of all subsets those that judge sets and traps as rightly as any, with a set's checkpoint or family "
    "left out of the fit, too; of these the widest margins, then the fewest. threshold: 2/3 of the way from the "
    "largest value without the indication (over random subsets of 50 images), of the sets and traps that the "
    "statistic turns away best, to the smallest estimate with it; logarithmic for kurtosis and persistence ratio; of "
    "the energies so much must lie on either side"
)
LABELS = (
    f"with: the set shows the indication by its estimates: it is {DEFINITION}; without: it does not. The label and the "
    "rule look at the same numbers, so that they agree on a set is no finding. Absent says nothing about robustness: "
    "OpenCLIP ViT-bigG/14 is robust and shows none"
)
# What ends the sets with the indication: CLIP's projection, the residual sum of SigLIP's attention pool, and the
# look-up models that replay measured representations of both.
ENDS = (End("linear"), End("other", "Add"), End("other", "Gather"))
LIMITS = (
    MEANING,
    "WARN means absent or not established: OpenCLIP ViT-bigG/14 (laion2b_s39b_b160k) has high published accuracy on "
    "shifted data and shows no outlier features.",
    "Of 17 signed checkpoints without the indication none passes when left out. Had the rule been fixed before, that "
    "would bound the false-PASS rate at 16.2 % (95 % confidence), and at 31.3 % for the 8 that end in a linear layer; "
    "it was chosen on them.",
    "It rests on few checkpoints. Not measured: ConvNeXt, DeiT(-III), BEiT, EfficientNetV2, RegNet, DINO, DINOv2 L, "
    "DINOv3, MAE; LAION-400M, DataComp, YFCC, CC12M, EVA, MobileCLIP, SigLIP 2; any classifier finetuned from CLIP on "
    "ImageNet.",
    "Every set with the indication is a projected image embedding or SigLIP's pooled one; representations that end "
    "otherwise (in a normalisation layer, in pooling, in a linear map of rectified features, in a PCA or another "
    "change of basis) are not judged by these thresholds.",
    "A made outlier feature is not always told from a learned one: a linear layer made to lie along the mean of "
    "signed features, without being a change of basis, has the same statistics.",
    SHIFTS_MEANT,
)
IMAGES = "each set on its own photos, in-distribution for its source (the sources are in the table)"
SPREAD = "smallest and largest value over 200 random subsets of 50 images of the set"


def default_profile(text: str) -> Profile:
    """The default profile, from the text of the reference table."""
    table = reference.references(text)
    found = choice.candidates(with_traps(table), STRICT_RULE)
    return profile_of(
        table,
        STRICT_RULE._replace(statistics=choice.chosen(found).statistics),
        found=found,
        id="default-2",
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


def _published_robustness(table: Sequence[Reference]) -> dict[str, float]:
    """Mean effective robustness of the sets whose checkpoint has a published row with one."""
    robustness = {}
    for row in table:
        published = find(*MEASURED[row.set]) if row.set in MEASURED else ()
        if means := [entry.mean_pp for entry in published if entry.mean_pp is not None]:
            robustness[row.set] = means[0]
    return robustness


if __name__ == "__main__":
    sys.stdout.write(to_json(default_profile(reference.table_text())))

"""The kinds of reasons, what each reason has, and the next steps that several have or that depend on the model."""

from typing import Literal, NamedTuple

from ....thresholds.statistics import Statistic

Kind = Literal["absent", "not_applicable", "not_established", "other_signal"]
KINDS: dict[Kind, str] = {
    "not_established": "the check cannot tell: look at the images, preprocessing, export or profile",
    "not_applicable": "the thresholds do not hold for this kind of representation, or for how the model was trained",
    "absent": "the outlier features were not found in what was measured",
    "other_signal": "another signal than the check's own: a comparison with a reference",
}
"""What a reason means for the outlier features, in words; in the order of a report (but see `verdict_for`)."""


class ReasonRule(NamedTuple):
    """The meaning of a reason and its next step."""

    kind: Kind
    title: str
    next_step: str
    explanation: str


EVALUATE = (
    "Compare it with its original, or, if it gives class scores, measure accuracy on labelled shifted photos: "
    "`robustcheck shift MODEL --in PHOTOS --shifted SHIFTED_PHOTOS`."
)
MEASURE_SHIFT = (
    "If it gives class scores, measure accuracy on labelled photos instead: `robustcheck shift MODEL --in PHOTOS "
    "--shifted SHIFTED_PHOTOS`. To release it without that, waive each reason (`--waivers FILE`)."
)
WITHOUT_SCORES = (
    "Measure it on its own task, or compare it with its original. To accept it: `robustcheck MODEL --images PHOTOS "
    "--waivers FILE`."
)
"""the next step where a reason's is `robustcheck shift`, and the model gives no class scores"""
COMPARED_WITHOUT_SCORES = "Measure it on its own task."
"""the same in a comparison"""
TAKE_OVER_ELSEWHERE = (
    "Without the file that it was made from, export the model again. With both files on this machine, take the "
    "contract over: `robustcheck export onnx CHANGED.onnx --original OLD.onnx -o NEW.onnx`."
)
"""the next step of `file_changed` for a model that an address names"""
CLIP_STEP = (
    "Name what the model was trained with, `--preprocess imagenet` for ImageNet's values or `--preprocess FILE` for "
    "others. If it was trained like CLIP: `robustcheck MODEL --images PHOTOS --preprocess clip`."
)
"""the next step of `assumed_preprocessing` for a model that can pass"""
IMAGENET_STEP = (
    "Name what the model was trained with, `--preprocess clip` for CLIP's values or `--preprocess FILE` for others. If "
    "it was trained on ImageNet: `robustcheck MODEL --images PHOTOS --preprocess imagenet`."
)
"""the same for a model with another end"""
DYNAMIC_COMPARED = (
    "Dynamic int8 scales over the batch: add `--batch-size 1` for batches of one image, or quantise statically "
    "(`--precision int8-qdq`)."
)
"""the next step of `batch_dependent` for an int8 model in a comparison"""
DYNAMIC_STEP = (
    "Dynamic int8 scales over the batch; `robustcheck export onnx FP32.onnx --precision int8-qdq` does not. For the "
    "verdict on batches of one image: `robustcheck MODEL --images PHOTOS --batch-size 1`."
)
"""the next step of `batch_dependent` for an int8 model"""

NAMES: dict[Statistic, str] = {
    "strength": "strength",
    "kurtosis": "activation kurtosis",
    "persistence_ratio": "persistence ratio",
    "top3_share": "top-3 share",
    "outlier_frequency": "persistence",
    "negative_energy": "negative energy",
    "negative_z_energy": "negative energy of z",
    "two_sidedness": "two-sidedness",
}
BELOW_REASONS: dict[Statistic, str] = {
    "strength": "too_weak",
    "outlier_frequency": "not_persistent",
    "two_sidedness": "one_sided",
}
"""The reason for WARN of each deciding statistic, where its whole interval lies below the threshold."""

"""The image sets with published accuracies: what each is called, and the classes and images that it has."""

from __future__ import annotations

from robustcheck_onnx.thresholds.published import IMAGENET, SHIFT_WORDS

CLASSES = {IMAGENET: 1000, "imagenetv2": 1000, "sketch": 1000, "imagenet_r": 200, "imagenet_a": 200, "objectnet": 113}
"""Number of classes that each named image set has."""
LABEL_SET = {IMAGENET: IMAGENET, "imagenetv2": IMAGENET, "sketch": IMAGENET, "objectnet": "file"} | {
    name: name for name in ("imagenet_r", "imagenet_a")
}
"""Label set of each (labels.ClassMap.label_set), for accuracies as published."""
IMAGES = {
    IMAGENET: 50_000,  # validation set (Russakovsky et al. 2015)
    "imagenetv2": 10_000,  # matched frequency (Recht et al. 2019)
    "sketch": 50_889,  # Wang et al. 2019
    "imagenet_r": 30_000,  # Hendrycks et al. 2021, "The Many Faces of Robustness"
    "imagenet_a": 7_500,  # Hendrycks et al. 2021, "Natural Adversarial Examples"
}
"""Images that each named set has, for a note where another number was found."""
ALIASES = {  # lower case, letters and digits only
    IMAGENET: ("imagenet", "imagenet1k", "in1k"),
    "imagenetv2": ("v2", "imagenetv2"),
    "sketch": ("sketch", "imagenetsketch"),
    "imagenet_r": ("r", "imagenetr"),
    "imagenet_a": ("a", "imageneta"),
    "objectnet": ("objectnet",),
}
WORDS = {IMAGENET: "ImageNet"} | SHIFT_WORDS
"""What each is called in a report."""

"""The texts of the reasons that only `compare` gives, and their next steps, by reason id."""

from .kinds import ReasonRule

COMPARISON_RULES: dict[str, ReasonRule] = {
    "statistic_shrank": ReasonRule(
        "other_signal",
        "a statistic shrank against the reference",
        "Release the reference, or find the step that caused it (finetuning, pruning, quantisation) by comparing the "
        "model after each. Where the loss is intended, `--tolerance` sets how much may be lost.",
        "`robustcheck compare`: the whole interval of the ratio candidate / reference lies below 1 − tolerance, for a "
        "statistic that shows the outlier features and that the profile asks for. They are weaker than in the "
        "reference on the same images.",
    ),
    "outlier_feature_lost": ReasonRule(
        "other_signal",
        "an outlier feature of the reference is gone or weaker",
        "Compare the model after each step that made it, and evaluate it on shifted data before it replaces the "
        "reference.",
        "`robustcheck compare`: the candidate no longer has an outlier feature of the reference: not under its index, "
        "not under another index that correlates with it over the images, and not in a rotated representation. Or the "
        "feature is beyond 4 SD in fewer images than must be kept. A feature that stands out under the same index but "
        "is not in step with the reference's over the images does not count: a constant added to anything stands out.",
    ),
    "representation_permuted": ReasonRule(
        "other_signal",
        "the representation is permuted",
        "Undo the permutation in the export, or make everything again that reads the representation by index.",
        "`robustcheck compare`: the reference's outlier features are in the candidate under other indices. Kurtosis "
        "does not change, but heads and stored vectors made for the reference do not fit the candidate.",
    ),
    "representation_rotated": ReasonRule(
        "other_signal",
        "the representation is rotated",
        "Export the representation without the rotation or projection, and compare again.",
        "`robustcheck compare`: an outlier feature of the reference is in the candidate as one direction over many "
        "features. A rotation loses no information and hides outlier features, so a check of the candidate does not "
        "find them.",
    ),
    "representation_changed": ReasonRule(
        "other_signal",
        "the photos have other neighbours, or closer ones, than in the reference",
        "Compare the model after each step that made it. Where the change is intended (finetuning), measure its "
        "accuracy or the recall of a search instead.",
        "`robustcheck compare`: the debiased CKA is below 0.7, or fewer than half of the photos have the same nearest "
        "neighbour, or the nearest neighbours are less than 0.9 times as far away, relative to all others, as in the "
        "reference. A copy that was quantised or has some noise keeps all three. A mixture with the vector of another "
        "photo and a collapse (vectors that moved towards the mean of their class) do not, although their outlier "
        "features are as strong as the reference's or stronger. A strongly finetuned model may have this reason, too.",
    ),
    "unrelated": ReasonRule(
        "other_signal",
        "the candidate is unrelated to the reference",
        "Check that CANDIDATE was made from REFERENCE, that both get their own preprocessing, and that the classes are "
        "in the same order.",
        "`robustcheck compare`: over the images the representations have almost nothing in common (debiased CKA), or "
        "the predicted classes agree no more often than by chance. Kurtosis, shares and frequencies describe mostly "
        "the mean of a representation, and a model that learned nothing but the reference's mean shows them too: it "
        "kept no outlier feature, it has others. A candidate with other classes, or the same in another order, "
        "agrees by chance as well.",
    ),
    "reference_without_indication": ReasonRule(
        "not_established",
        "the reference itself is WARN",
        "Compare with a reference that passes `robustcheck check` on these images.",
        "`robustcheck compare` asks whether a candidate kept what made its reference pass; this reference does not "
        "pass, so there is nothing that could be kept. The statistics are shown side by side.",
    ),
    "stale_baseline": ReasonRule(
        "not_established",
        "the baseline was measured in another way",
        "Write the baseline again on these images: `robustcheck compare MODEL --images PATH --write-baseline FILE`.",
        "`robustcheck compare --baseline`: the reference's numbers come from other images, the same in another order "
        "(`--seed`), another preprocessing, or another version of the statistics than the candidate's. The effect of "
        "the images on the numbers then does not cancel, so a difference says little, and a comparison never passes.",
    ),
    "not_comparable": ReasonRule(
        "not_applicable",
        "candidate and reference are not comparable",
        "Compare representations of the same width and kind (`robustcheck inspect MODEL` shows both).",
        "`robustcheck compare`: the widths differ, or one tensor is an encoder's output and the other a classifier's "
        "features. Kurtosis is bounded by about the number of features and changes with the tensor, so a ratio would "
        "say nothing.",
    ),
}

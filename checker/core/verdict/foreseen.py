"""Give the reasons for WARN that are known before anything is measured, and next steps that depend on the model.

The judge and `inspect` take them from one function.
"""

from collections.abc import Iterator

from ....thresholds.ends import End
from ....thresholds.profile import Profile
from ..evidence import WRITTEN_ZERO_AT, ModelFacts, PreprocessingFacts
from .kinds import (
    CLIP_STEP,
    COMPARED_WITHOUT_SCORES,
    DYNAMIC_COMPARED,
    DYNAMIC_STEP,
    IMAGENET_STEP,
    MEASURE_SHIFT,
    WITHOUT_SCORES,
)
from .pixels import is_usual, levels_at_input, levels_behind, scaled_in_both, steps_text
from .reasons import RULES

SHIFT = "robustcheck shift"  # in a step that needs class scores
Seen = tuple[str, str]
"""A reason's id, and what was seen."""
SeenReasons = Iterator[Seen]


def describe(end: End) -> str:
    """Write what a representation comes out of."""
    activation = f"the output of an activation ({end.op})"
    if end.op in WRITTEN_ZERO_AT:
        activation = f"the output of {end.op}, which has no negative values (as a quantised output of a ReLU)"
    kinds = {
        "normalisation": "the output of a normalisation layer",
        "activation": activation,
        "linear_of": f"a linear map of {activation}",
        "linear_unread": "the output of a linear layer whose weight could not be found, or read as one matrix",
        "change_of_basis": "a change of basis (a linear layer behind it has orthogonal features, as a PCA has)",
        "pool": "the output of pooling",
        "linear": "the output of a linear layer",
        "second_linear": "the output of a linear layer that reads another one, as scores of an embedding are",
        "residual": "a residual stream, to which layer after layer adds",
    }
    return kinds.get(end.kind, f"the output of {end.op or end.kind}")


def foreseen(
    model: ModelFacts, preprocessing: PreprocessingFacts | None, n_features: int | None, profile: Profile
) -> SeenReasons:
    """Yield the reasons for WARN before any measurement, each as (reason id, what was seen).

    `judge` gives each of them (but for `end_not_calibrated`, where enough images show it), and PASS only without any.

    Args:
        model: the tensor that is read and what it ends in; differences need not be measured.
        preprocessing: None where it is not known.
        n_features: of the representation; None where the graph leaves it open, which is not a reason.
        profile: what the thresholds hold for.
    """
    if model.random_weights:
        yield "untrained", "the file records that its weights are random"
    if model.file_changed:
        yield "file_changed", "its graph or its weights are not those that its contract was written for"
    if model.matched_to is not None and model.matched_to != "none":
        yield "trained_to_match", f"the file records that it was trained to match the vectors of {model.matched_to}"
    if preprocessing is None or preprocessing.source == "assumed":
        yield "assumed_preprocessing", "neither the file, a sidecar nor an option gives the preprocessing"
    elif preprocessing.against_contract:
        yield "preprocessing_against_contract", "--preprocess differs from the contract in the file"
    if preprocessing is not None and (fault := scaled_oddly(model, preprocessing)):
        yield fault
    if model.tensor_assumed:
        yield "assumed_tensor", f"`{model.tensor}` was read: {model.why}"
    if model.rule not in profile.tensor_rules or model.pool not in profile.pools:
        kind = model.rule if model.pool == "none" else f"{model.rule}, pooled by {model.pool}"
        rules = ", ".join(profile.tensor_rules)
        yield (
            "tensor_not_calibrated",
            f"`{model.tensor}` is of the kind {kind}; profile {profile.id} holds for {rules}",
        )
    if not _is_calibrated_end(model, profile):
        yield "end_not_calibrated", f"`{model.tensor}` is {describe(model.ends_in)}"
    if n_features is not None and not profile.min_features <= n_features <= profile.max_features:
        yield (
            "width_not_calibrated",
            f"the representation has {n_features} features; profile {profile.id} holds for "
            f"{profile.min_features} to {profile.max_features}",
        )


def _is_calibrated_end(model: ModelFacts, profile: Profile) -> bool:
    """Return whether the thresholds hold for what the representation ends in."""
    return model.ends_in in profile.ends and not model.ends_in.can_make_outliers


def step_for(name: str, model: ModelFacts, profile: Profile, precision: str = "") -> str | None:
    """Return the next step of a reason that depends on the model: None where the rule's own step is right.

    Args:
        name: the reason's id.
        model: what was read.
        profile: what the thresholds hold for.
        precision: of the measured model, where it was measured.
    """
    if name == "assumed_preprocessing":
        return CLIP_STEP if _is_calibrated_end(model, profile) else IMAGENET_STEP
    if name == "batch_dependent" and precision == "int8":
        return DYNAMIC_STEP
    if SHIFT in RULES[name].next_step and not _gives_scores(model):
        return WITHOUT_SCORES
    return None


def step_in_comparison(name: str, model: ModelFacts, precision: str) -> str | None:
    """Return the next step of a reason in a comparison, which never advises to compare: None for the rule's own."""
    if name == "batch_dependent" and precision == "int8":
        return DYNAMIC_COMPARED
    if SHIFT not in RULES[name].next_step:
        return None
    return MEASURE_SHIFT if _gives_scores(model) else COMPARED_WITHOUT_SCORES


def _gives_scores(model: ModelFacts) -> bool:
    """Return whether a model has a head, as `robustcheck shift` needs it."""
    return model.rule != "encoder_output"


def scaled_oddly(model: ModelFacts, preprocessing: PreprocessingFacts) -> Seen | None:
    """Judge the map from pixels to the first layer by what it makes of usual photos; tensors come without a map."""
    if preprocessing.source == "tensors":
        return None
    at_input = levels_at_input(model, preprocessing)
    for scaling in (model.scaling, *model.other_scalings):
        if is_usual(model, preprocessing, scaling):
            continue
        levels = levels_behind(scaling, *at_input)
        if scaling is not None and scaled_in_both(model, preprocessing, scaling):
            return (
                "normalised_twice",
                f"the graph itself computes {steps_text(scaling)} after the preprocessing, so its first layer "
                f"gets ordinary photos with {levels}",
            )
        return "unusual_pixels", f"the model's first layer gets ordinary photos with {levels}"
    return None

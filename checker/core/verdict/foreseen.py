"""Give the reasons for WARN that are known before anything is measured, and next steps that depend on the model.

The judge and `inspect` take them from one function.
"""

import shlex
from collections.abc import Iterator
from pathlib import PurePath

from ....thresholds.ends import End
from ....thresholds.profile import Profile
from ...text import quoted
from ..evidence import WRITTEN_ZERO_AT, ModelFacts, PreprocessingFacts, scaled_alike
from .kinds import (
    CLIP_STEP,
    COMPARED_WITHOUT_SCORES,
    DYNAMIC_COMPARED,
    DYNAMIC_STEP,
    IMAGENET_STEP,
    MEASURE_SHIFT,
    TAKE_OVER_ELSEWHERE,
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
    if name == "file_changed" and not _is_local(model):
        return TAKE_OVER_ELSEWHERE
    if name == "assumed_preprocessing":
        return CLIP_STEP if _is_calibrated_end(model, profile) else IMAGENET_STEP
    if name == "batch_dependent" and precision == "int8":
        return DYNAMIC_STEP
    if SHIFT in RULES[name].next_step and not _gives_scores(model):
        return WITHOUT_SCORES
    return None


def step_in_comparison(name: str, model: ModelFacts, precision: str, reference: ModelFacts | None) -> str | None:
    """Return the next step of a reason in a comparison, which never advises to compare: None for the rule's own.

    reference: the file that the model is compared with; None for a baseline, whose file may be gone.
    """
    if name == "file_changed":
        general = RULES[name].next_step.replace("MODEL", quoted(model.file))
        return take_over_step(model, reference) or general
    if name == "batch_dependent" and precision == "int8":
        return DYNAMIC_COMPARED
    if SHIFT not in RULES[name].next_step:
        return None
    return MEASURE_SHIFT if _gives_scores(model) else COMPARED_WITHOUT_SCORES


def take_over_step(model: ModelFacts, reference: ModelFacts | None) -> str | None:
    """Return how a changed file gets its contract from the unchanged reference: None where nothing shows that it can.

    The command is given only if the contract was written for the reference's graph and weights, and both graphs scale
    their input alike: else pixels would be scaled twice, or not at all.
    """
    if not _is_local(model):
        return TAKE_OVER_ELSEWHERE
    is_original = reference is not None and reference.file_changed is False
    if reference is None or not is_original or model.contract_digest != reference.contract_digest:
        return None
    if not _is_local(reference):
        return None
    ours = (model.scaling, *model.other_scalings) if model.scaling else ()
    theirs = (reference.scaling, *reference.other_scalings) if reference.scaling else ()
    if model.input_type != reference.input_type or not scaled_alike(ours, theirs):
        return (
            f"Export the model again: the graph does not read its input as that of {reference.file} does, so that "
            "file's contract does not hold for it."
        )
    target = PurePath(model.file).with_suffix(".contract.onnx")
    words = ["robustcheck", "export", "onnx", model.file, "--original", reference.file, "-o", str(target)]
    return f"Take over the contract of {reference.file}, or export the model again: `{shlex.join(words)}`."


def _is_local(model: ModelFacts) -> bool:
    """Return whether a model was named by a path, and not by an address."""
    return model.origin is None and "://" not in model.file


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

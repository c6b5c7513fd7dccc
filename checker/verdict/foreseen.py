"""The reasons for WARN that are known before anything is measured: the judge and `inspect` give the same; pure."""

from __future__ import annotations

from collections.abc import Iterator

from robustcheck_onnx.checker.evidence import ModelFacts, PreprocessingFacts
from robustcheck_onnx.thresholds.ends import WRITTEN_ZERO_AT, End
from robustcheck_onnx.thresholds.profile import Profile

from . import pixels


def describe(end: End) -> str:
    """Write what a representation comes out of."""
    if end.op in WRITTEN_ZERO_AT and end.kind in ("activation", "linear_of"):
        left = f"the output of {end.op}, which has no negative values (as a quantised output of a ReLU)"
        return left if end.kind == "activation" else f"a linear map of {left}"
    return {
        "normalisation": "the output of a normalisation layer",
        "activation": f"the output of an activation ({end.op})",
        "linear_of": f"a linear map of the output of an activation ({end.op})",
        "linear_unread": "the output of a linear layer whose weight could not be read as one matrix",
        "change_of_basis": "a change of basis (its last layer's features are orthogonal, as those of a PCA are)",
        "pool": "the output of pooling",
        "linear": "the output of a linear layer",
        "second_linear": "the output of a linear layer that reads another one, as scores of an embedding are",
        "residual": "a residual stream, to which layer after layer adds",
    }.get(end.kind, f"the output of {end.op or end.kind}")


def foreseen(
    model: ModelFacts, preprocessing: PreprocessingFacts | None, n_features: int | None, profile: Profile
) -> Iterator[tuple[str, str]]:
    """Yield the reasons for WARN that are known before anything is measured: (reason id, what was seen).

    `judge` gives each of them (but for `end_not_calibrated`, where `rectified` says it), and PASS only without any.

    Args:
        model: the tensor that is read and what it ends in; differences need not be measured.
        preprocessing: None where it is not known.
        n_features: of the representation; None where the graph leaves it open, which is no reason.
        profile: what the thresholds hold for.
    """
    if model.random_weights:
        yield "untrained", "the file says that its weights are random"
    if model.file_changed:
        yield "file_changed", "its graph or its weights are not those that its contract was written for"
    if model.matched_to is not None and model.matched_to != "none":
        yield "trained_to_match", f"the file says that it was trained to match the vectors of {model.matched_to}"
    if preprocessing is None or preprocessing.source == "assumed":
        yield "assumed_preprocessing", "neither the file, a sidecar nor an option says how to preprocess"
    elif preprocessing.against_contract:
        yield "preprocessing_against_contract", "--preprocess says otherwise than the contract in the file"
    if preprocessing is not None and (fault := scaled_oddly(model, preprocessing)):
        yield fault
    if model.tensor_assumed:
        yield "assumed_tensor", f"`{model.tensor}` was read: {model.why}"
    if model.rule not in profile.tensor_rules or model.pool not in profile.pools:
        kind = model.rule if model.pool == "none" else f"{model.rule}, pooled by {model.pool}"
        yield (
            "tensor_not_calibrated",
            f"`{model.tensor}` is of the kind {kind}; profile {profile.id} holds for {', '.join(profile.tensor_rules)}",
        )
    if model.ends_in not in profile.ends or model.ends_in.can_make_outliers:
        yield "end_not_calibrated", f"`{model.tensor}` is {describe(model.ends_in)}"
    if n_features is not None and not profile.min_features <= n_features <= profile.max_features:
        yield (
            "width_not_calibrated",
            f"the representation has {n_features} features; profile {profile.id} holds for "
            f"{profile.min_features} to {profile.max_features}",
        )


def scaled_oddly(model: ModelFacts, preprocessing: PreprocessingFacts) -> tuple[str, str] | None:
    """Judge the whole map from pixels to the first layer by what it makes of usual photos; tensors come without one."""
    if preprocessing.source == "tensors":
        return None
    at_input = pixels.at_input(model, preprocessing)
    for scaling in pixels.branches(model):
        if pixels.usual(model, preprocessing, scaling):
            continue
        levels = pixels.behind(scaling, *at_input)
        if scaling is not None and pixels.scaled_in_both(model, preprocessing, scaling):
            return (
                "normalised_twice",
                f"the graph itself computes {pixels.steps_text(scaling)} after the preprocessing, so its first layer "
                f"gets ordinary photos with {levels}",
            )
        return "unusual_pixels", f"the model's first layer gets ordinary photos with {levels}"
    return None

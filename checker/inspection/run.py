"""What `inspect` finds out about a model file, and whether the file can pass at all, before anything is measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from robustcheck_onnx.checker.errors import RobustcheckError, UsageError
from robustcheck_onnx.checker.evidence import ModelFacts, PreprocessingFacts
from robustcheck_onnx.checker.measure import model_facts
from robustcheck_onnx.checker.model import ModelFile, find_preprocessing, models_below, open_model, takes_no_image
from robustcheck_onnx.checker.runtime import scales_over_batch
from robustcheck_onnx.checker.text import quoted
from robustcheck_onnx.checker.verdict import RULES, Reason, foreseen, reason
from robustcheck_onnx.thresholds.profile import Profile

LISTED = 8  # models of a folder that an error names


@dataclass(frozen=True)
class CanPass:
    """Whether a check of a file could end in PASS."""

    answer: Literal["yes", "no", "unknown"]
    """yes: nothing that is known before measuring speaks against it, the numbers decide; no: whatever they are"""
    reasons: tuple[Reason, ...]
    """why not, or what is not known; empty for yes"""
    note: str = ""
    """what a yes holds for; empty for any batch"""


@dataclass(frozen=True)
class Inspection:
    """A model file as a check would read it; nothing of it has run."""

    model: ModelFile
    preprocessing: PreprocessingFacts | None
    """None: not known, and a check ends with an error"""
    why_not_known: str
    """of the preprocessing; empty where it is known"""
    profile: Profile
    can_pass: CanPass


def find_model(place: Path) -> Path:
    """Find the model that a path means: the file, or the only ONNX file in a folder and in a folder `onnx` in it.

    Raises:
        UsageError: a folder with no model or several.
    """
    if not place.is_dir():
        return place
    models = models_below(place)
    if len(models) == 1:
        return models[0]
    if not models:
        raise UsageError(
            f"{place}: number of .onnx files in the folder, and in a folder onnx in it, is 0; one is needed",
            f"find {quoted(place)} -name '*.onnx'",
        )
    listed = ", ".join(str(path.relative_to(place)) for path in models[:LISTED]) + ", …" * (len(models) > LISTED)
    likely = min(models, key=lambda path: (takes_no_image(path), len(path.name)))
    raise UsageError(
        f"{place}: number of models in the folder is {len(models)} ({listed}); inspect takes one",
        f"robustcheck inspect {quoted(likely)}",
    )


def inspect_model(
    path: Path, profile: Profile, *, tensor: str | None = None, pool: str | None = None, preprocess: str | None = None
) -> Inspection:
    """Open a model, find its preprocessing, and foresee whether it can pass.

    Raises:
        UsageError, CannotAssessError: as `open_model`; for `preprocess` as `find_preprocessing`.
    """
    model = open_model(path, tensor=tensor, pool=pool)
    contract = model.contract.preprocessing if model.contract else None
    preprocessing, fault = None, None
    try:
        preprocessing = find_preprocessing(path, preprocess, contract, model.image_input.size)
    except UsageError as error:  # everything else can be shown
        if preprocess is not None:
            raise
        fault = error
    can_pass = _can_pass(model, preprocessing, fault, profile, own_choice=(tensor, pool) == (None, None))
    return Inspection(model, preprocessing, "" if fault is None else _said_of(path, fault), profile, can_pass)


def cannot_open(path: Path, fault: RobustcheckError) -> CanPass:
    """Say that a file which can't be opened can't pass; the reason's id, `not_assessable`, is of no verdict."""
    seen = _said_of(path, fault)
    return CanPass("no", (Reason(id="not_assessable", kind="not_established", seen=seen, next_step=fault.hint),))


def _said_of(path: Path, fault: RobustcheckError) -> str:
    """Give an error's message without the file's name, which stands above it."""
    return fault.message.removeprefix(f"{path}: ")


def _can_pass(
    model: ModelFile,
    preprocessing: PreprocessingFacts | None,
    fault: UsageError | None,
    profile: Profile,
    *,
    own_choice: bool,
) -> CanPass:
    """Foresee by the verdict's own rule. own_choice: neither `--tensor` nor `--pool` was given."""
    facts, chosen = model_facts(model), model.representation
    n_features = None if chosen.shape is None else chosen.shape[chosen.feature_axis]
    check = f"robustcheck {quoted(model.path)}"
    reasons = []
    for name, seen in foreseen(facts, preprocessing, n_features, profile):
        if name == "assumed_preprocessing" and fault is not None:
            reasons.append(reason(name, _said_of(model.path, fault), fault.hint))
        else:
            next_step = _next_step(name, model, facts, check, own_choice=own_choice)
            reasons.append(reason(name, seen, next_step))
    if not reasons and n_features is None:
        seen = (
            f"the graph does not say how many features `{facts.tensor}` has; profile {profile.id} holds for "
            f"{profile.min_features} to {profile.max_features}"
        )
        return CanPass("unknown", (reason("width_not_calibrated", seen, f"`{check}` measures it"),))
    if not reasons and model.image_input.batch is None and scales_over_batch(model.graph.proto):
        note = (
            f"its quantisers take their scale over the batch: `{check} --batch-size 1` gives a verdict for batches of "
            "one image"
        )
        return CanPass("yes", (), note)
    return CanPass("no" if reasons else "yes", tuple(reasons))


def _next_step(name: str, model: ModelFile, facts: ModelFacts, check: str, *, own_choice: bool) -> str:
    """Say what takes a reason away, as a command with this file's own names where one does."""
    chosen = model.representation
    if name == "assumed_preprocessing":
        return f"`{check} --preprocess clip` (or imagenet, or a JSON file), whichever it was trained with"
    if name == "assumed_tensor":
        tensor = f" --tensor {quoted(chosen.tensor)}" if chosen.tensor_assumed else ""
        return f"`{check}{tensor}{f' --pool {chosen.pool}' if chosen.pool_assumed else ''}`, if that is what you deploy"
    if name in ("tensor_not_calibrated", "preprocessing_against_contract") and not own_choice:
        return f"`robustcheck inspect {quoted(model.path)}`, without --tensor and --pool"
    if name == "end_not_calibrated" and facts.ends_in.can_make_outliers:
        return "Export it in another way: no profile can hold for a model that ends like this."
    return RULES[name].next_step

"""Find what a check would measure in a file, and whether it can pass. Nothing of it runs."""

from __future__ import annotations  # help() names the types as the package does

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ....thresholds.profile import Profile
from ....thresholds.records import Frozen
from ...calls import public
from ...core.evidence import ModelFacts, PreprocessingFacts
from ...core.measure.opening import model_facts
from ...core.model.contract import stated_in
from ...core.model.int8 import saturating_pairs
from ...core.model.open import ModelFile, open_model
from ...core.model.scales import can_fix_scales, scales_over_batch
from ...core.model.sidecar import find_preprocessing, models_below, takes_no_image
from ...core.verdict.foreseen import foreseen, step_for
from ...core.verdict.profile import load_profile
from ...core.verdict.reasons import RULES
from ...core.verdict.rule import Reason, reason
from ...errors import RobustcheckError, UsageError
from ...outside.addresses import on_this_machine, parse_address
from ...outside.isolation import NO_LIMITS, Limits, apart
from ...outside.storage.places import Place, Url, as_typed, redact
from ...report.shown import Shown
from ...text import Fields, as_json, error_json, frozen, quoted

INSPECT_SCHEMA = "robustcheck.inspect/2"
LISTED = 8  # models of a folder that an error names


class CanPass(Frozen):
    """The answer whether a check could end in PASS."""

    answer: Literal["yes", "no", "unknown"]
    """yes: nothing that is known before measuring speaks against it, the numbers decide; no: whatever they are"""
    reasons: tuple[Reason, ...]
    """why not, or what is not known; empty for yes"""
    note: str | None = None
    """what a yes holds for; None for any batch"""


class Inspected(Shown, Frozen):
    """What a check would measure, and whether the file can pass."""

    file: str
    digest: str = ""
    tensor: str = ""
    """what a check would measure"""
    can_pass: CanPass
    facts: Fields = Field(repr=False)
    """all of it, as `to_json` writes it"""

    def to_json(self) -> str:
        """Return the JSON document, as `-o json`."""
        return as_json(self.facts)


@frozen
class Inspection:
    """A model file as a check would read it, of which nothing has run."""

    model: ModelFile
    preprocessing: PreprocessingFacts | None
    """None: not known, and a check ends with an error"""
    why_no_preprocessing: str
    """of the preprocessing; empty where it is known"""
    profile: Profile
    can_pass: CanPass


def find_model(place: Place) -> Place:
    """Return the file or URL, or the only ONNX file of a folder and its folder `onnx`.

    Raises:
        UsageError: a folder with no model or several.
    """
    if isinstance(place, Url) or not place.is_dir():
        return place
    models = models_below(place)
    if len(models) == 1:
        return models[0]
    if not models:
        raise UsageError(
            f"{place}: no .onnx file found in the folder, or in its folder onnx; one is needed",
            f"find {quoted(place)} -name '*.onnx'",
        )
    files = [str(path.relative_to(place)) for path in models[:LISTED]]
    if len(models) > LISTED:
        files.append("…")
    shortest_first = sorted(models, key=lambda path: len(path.name))
    likely = min(shortest_first, key=takes_no_image)
    raise UsageError(
        f"{place}: number of models in the folder is {len(models)} ({', '.join(files)}); inspect takes one",
        f"robustcheck inspect {quoted(likely)}",
    )


def inspect_model(
    path: Path,
    profile: Profile,
    *,
    tensor: str | None = None,
    pool: str | None = None,
    preprocess: str | None = None,
    other_models: tuple[Path, ...] | None = None,
) -> Inspection:
    """Open a model, find its preprocessing, and foresee whether it can pass.

    other_models: as in `find_preprocessing`.

    Raises:
        UsageError, CannotAssessError: as `open_model`; for `preprocess` as `find_preprocessing`.
    """
    model = open_model(path, tensor=tensor, pool=pool)
    contract, stated_by = stated_in(model.contract)
    preprocessing = None
    fault = None
    try:
        preprocessing = find_preprocessing(
            path, preprocess, contract, model.image_input.size, stated_by=stated_by, other_models=other_models
        )
    except UsageError as error:  # everything else can be shown
        if preprocess is not None:
            raise
        fault = error
    why = "" if fault is None else _without_file(path, fault)
    can_pass = _can_pass(model, preprocessing, fault, profile)
    return Inspection(model, preprocessing, why, profile, can_pass)


@public('rc.inspect("model.onnx")')
def inspect(
    model: str | Path,
    *,
    tensor: str | None = None,
    pool: str | None = None,
    preprocess: str | Path | None = None,
    thresholds: str | Path | Profile | None = None,
    limits: Limits = NO_LIMITS,
) -> Inspected:
    """Find what a check would measure in a file, and whether the file can pass; nothing is measured.

    Args:
        model: path of the ONNX file, or of a folder with one in it or in its folder onnx; or an address as in
            `check`.
        tensor: as in `check`.
        pool: as in `check`.
        preprocess: as in `check`.
        thresholds: as in `check`.
        limits: as in `check`.

    Raises:
        UsageError, CannotAssessError: the file can't be opened; see each class.
    """
    profile = load_profile(thresholds)
    file = as_typed(find_model(parse_address(model)))
    child = apart(inspected, redact(file), limits)
    return child(file, profile, tensor=tensor, pool=pool, preprocess=preprocess)


def inspected(
    model: str | Path, profile: Profile, *, tensor: str | None = None, pool: str | None = None, preprocess: Any = None
) -> Inspected:
    """Inspect a file in this process; of an address, a copy that is removed at the end."""
    with on_this_machine(parse_address(model), preprocess=preprocess) as here:
        inspection = inspect_model(
            here.path, profile, tensor=tensor, pool=pool, preprocess=preprocess, other_models=here.other_models
        )
        facts = inspect_json(inspection)
        if here.origin:
            facts["origin"] = here.origin.model_dump()
        result = Inspected(
            file=str(here.path),
            digest=inspection.model.file.digest,
            tensor=inspection.model.representation.tensor,
            can_pass=inspection.can_pass,
            facts=facts,
        )
    if not here.names:
        return result
    return Inspected.model_validate(_with_texts(result.model_dump(mode="json"), here.shown))


def _with_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Return a JSON value in which each text is changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _with_texts(inner, change) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_texts(inner, change) for inner in value]
    return value


def inspect_json(inspection: Inspection) -> Fields:
    """Return an inspection as JSON values. Every form shows them."""
    model = inspection.model
    chosen = model.representation
    others = [each for each in model.candidates if each.tensor != chosen.tensor]
    preprocessing = None
    if inspection.preprocessing is not None:
        keys = ("field", "value", "source")
        preprocessing = [dict(zip(keys, row, strict=True)) for row in inspection.preprocessing.fields]
    return {
        "schema": INSPECT_SCHEMA,
        "file": str(model.path),
        "digest": model.file.digest,
        "model_digest": model.file.file_digest,
        "external": _all(model.file.external, "location", "size_bytes", "digest"),
        "size_bytes": model.file.size_bytes,
        **_fields(model, "opsets", "ir_version", "producer", "precision"),
        "saturating_pairs": saturating_pairs(model.graph.proto, model.file.weights),
        "representation": {
            **_fields(chosen, "tensor", "shape", "rule", "pool"),
            "ends_in": str(chosen.ends_in),
            **_fields(chosen, "why", "assumed"),
        },
        "alternatives": _all(others, "tensor", "op", "rule", "why"),
        "head": model.head and _fields(model.head, "op", "weight_shape", "classes"),
        "class_output": model.class_output,
        "image_input": _fields(model.image_input, "name", "layout", "dtype", "batch", "height", "width"),
        "scaling": model.scaling and model.scaling.model_dump(mode="json"),
        "outputs": _all(model.outputs, "name", "dtype", "shape"),
        "preprocessing": preprocessing,
        "preprocessing_not_known": inspection.why_no_preprocessing or None,
        "contract": model.contract and model.contract.model_dump(mode="json"),
        "profile": _fields(inspection.profile, "id", "digest"),
        "can_pass": inspection.can_pass.model_dump(mode="json"),
    }


def unopened(path: Place, fault: RobustcheckError) -> Inspected:
    """Return the inspection of an unreadable file: the error, and that the file can't pass."""
    seen = _without_file(path, fault)
    # the reason's id is of no verdict
    why = Reason(id="not_assessable", kind="not_established", seen=seen, next_step=fault.hint)
    can_pass = CanPass(answer="no", reasons=(why,))
    facts = {
        "schema": INSPECT_SCHEMA,
        "file": str(path),
        **json.loads(error_json(fault.message, fault.hint, fault.exit_code)),
        "can_pass": can_pass.model_dump(mode="json"),
    }
    return Inspected(file=str(path), can_pass=can_pass, facts=facts)


def _fields(item: object, *names: str) -> Fields:
    return {name: getattr(item, name) for name in names}


def _all(items: Iterable[object], *names: str) -> list[Fields]:
    return [_fields(item, *names) for item in items]


def _without_file(path: Place, fault: RobustcheckError) -> str:
    """Return an error's message without the file's name, which is shown above it."""
    return fault.message.removeprefix(f"{path}: ")


def _can_pass(
    model: ModelFile,
    preprocessing: PreprocessingFacts | None,
    fault: UsageError | None,
    profile: Profile,
) -> CanPass:
    """Foresee whether a file can pass, by the verdict's own rule."""
    facts = model_facts(model)
    chosen = model.representation
    n_features = None if chosen.shape is None else chosen.shape[chosen.feature_axis]
    check = f"robustcheck {quoted(model.path)}"
    reasons = []
    for reason_id, found in foreseen(facts, preprocessing, n_features, profile):
        seen = found
        step = _next_step(reason_id, model, facts, profile, check)
        if reason_id == "assumed_preprocessing" and fault is not None:
            seen = _without_file(model.path, fault)
            step = fault.hint
        reasons.append(reason(reason_id, seen, step))
    if reasons:
        return CanPass(answer="no", reasons=tuple(reasons))
    if n_features is None:
        seen = (
            f"the graph does not show how many features `{facts.tensor}` has; profile {profile.id} holds for "
            f"{profile.min_features} to {profile.max_features}"
        )
        why = reason("width_not_calibrated", seen, f"Measure it: `{check}`.")
        return CanPass(answer="unknown", reasons=(why,))
    note = None
    if model.image_input.batch is None and scales_over_batch(model.graph.proto):
        note = "its quantisers take their scale over the batch"
        if can_fix_scales(model.graph.proto):
            note = f"{note}: `{check} --batch-size 1` gives a verdict for batches of one image"
        else:
            note = f"{note}, in a graph inside a node: if a representation changes with its batch, the verdict is WARN"
    return CanPass(answer="yes", reasons=(), note=note)


def _next_step(name: str, model: ModelFile, facts: ModelFacts, profile: Profile, check: str) -> str:
    """Return the next step that removes a reason, a command where possible."""
    chosen = model.representation
    if name == "assumed_tensor":
        if chosen.tensor_assumed:
            check += f" --tensor {quoted(chosen.tensor)}"
        if chosen.pool_assumed:
            check += f" --pool {chosen.pool}"
        return f"If that is what you deploy, say so: `{check}`."
    if name == "end_not_calibrated" and facts.ends_in.can_make_outliers:
        return "Export it in another way. No profile can hold for a model that ends like this."
    return step_for(name, facts, profile) or RULES[name].next_step

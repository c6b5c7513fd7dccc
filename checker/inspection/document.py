"""What `inspect` found, as the JSON document that every form of it is made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from robustcheck_onnx.checker.errors import RobustcheckError
from robustcheck_onnx.checker.text import error_json

from .run import CanPass, Inspection, cannot_open

INSPECT_SCHEMA: Final = "robustcheck.inspect/2"


def inspect_json(found: Inspection) -> dict[str, Any]:
    """The content of `render_inspect` as JSON values."""
    model, preprocessing = found.model, found.preprocessing
    chosen, head, image = model.representation, model.head, model.image_input
    return {
        "schema": INSPECT_SCHEMA,
        "file": str(model.path),
        "digest": model.digest,
        "model_digest": model.model_digest,
        "external": [
            {"location": file.location, "size_bytes": file.size_bytes, "digest": file.digest} for file in model.external
        ],
        "size_bytes": model.size_bytes,
        "opsets": dict(model.opsets),
        "ir_version": model.ir_version,
        "producer": model.producer,
        "precision": model.precision,
        "representation": {
            "tensor": chosen.tensor,
            "shape": None if chosen.shape is None else list(chosen.shape),
            "rule": chosen.rule,
            "pool": chosen.pool,
            "ends_in": str(chosen.ends_in),
            "why": chosen.why,
            "assumed": chosen.assumed,
        },
        "alternatives": [
            {"tensor": c.tensor, "op": c.op, "rule": c.rule, "why": c.why}
            for c in model.candidates
            if c.tensor != chosen.tensor
        ],
        "head": head and {"op": head.op, "weight_shape": list(head.weight_shape), "classes": head.classes},
        "class_output": model.class_output,
        "image_input": {
            "name": image.name,
            "layout": image.layout,
            "dtype": image.dtype,
            "batch": image.batch,
            "height": image.height,
            "width": image.width,
        },
        "scaling": None if model.scaling is None else model.scaling.model_dump(mode="json"),
        "outputs": [
            {"name": o.name, "dtype": o.dtype, "shape": None if o.shape is None else list(o.shape)}
            for o in model.outputs
        ],
        "preprocessing": preprocessing
        and [{"field": field, "value": value, "source": source} for field, value, source in preprocessing.fields],
        "preprocessing_not_known": found.why_not_known or None,
        "contract": None if model.contract is None else model.contract.model_dump(mode="json"),
        "profile": {"id": found.profile.id, "digest": found.profile.digest},
        "can_pass": _answer_json(found.can_pass),
    }


def unopened_json(path: Path, fault: RobustcheckError) -> dict[str, Any]:
    """The content of `render_unopened` as JSON values: an error document of a run, and the answer."""
    error = json.loads(error_json(fault.message, fault.hint, fault.exit_code))
    return {"schema": INSPECT_SCHEMA, "file": str(path), **error, "can_pass": _answer_json(cannot_open(path, fault))}


def _answer_json(can_pass: CanPass) -> dict[str, Any]:
    reasons = [reason.model_dump() for reason in can_pass.reasons]
    return {"answer": can_pass.answer, "reasons": reasons, "note": can_pass.note or None}

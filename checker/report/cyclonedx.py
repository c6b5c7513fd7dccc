"""Write the CycloneDX form (JSON, version 1.6). A model is a component of type machine-learning-model; pure.

A component's hashes are those of files; the verdict and the digests of what it rests on are properties. Without a
model card: its metrics are of a model's performance, which was not measured.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any, Final

from robustcheck_onnx.checker.text import VERSION, as_json, digest_of, printable

from .forms import FormOptions
from .outcome import cautions, exit_code_of, findings, model_of
from .predicate import sha256_set
from .record import Failed, Outcome, Report

SCHEMA: Final = "http://cyclonedx.org/schema/bom-1.6.schema.json"
SERIALS: Final = uuid.UUID("5c3b9a4e-70a5-4c7e-9f0e-0d2f6c1f8a37")
"""Drawn once: the space of names in which a document's digest gives its serial number"""


def render(outcomes: Sequence[Outcome], options: FormOptions) -> str:
    """Write the bill of materials. The same outcomes give the same bytes, so its serial number is made of the rest.

    A model without a verdict is a component with its error, and without hashes.
    """
    del options
    tool = {"type": "application", "name": "robustcheck", "version": VERSION}
    metadata: dict[str, Any] = {"tools": {"components": [tool]}}
    started = [each.time.started for each in outcomes if isinstance(each, Report) and each.time]
    if started:
        metadata["timestamp"] = min(started)
    components = [_component(number, outcome) for number, outcome in enumerate(outcomes, 1)]
    rest = {"version": 1, "metadata": metadata, "components": components}
    serial = uuid.uuid5(SERIALS, digest_of(rest))
    head = {"$schema": SCHEMA, "bomFormat": "CycloneDX", "specVersion": "1.6"}
    return as_json(head | {"metadata": metadata, "serialNumber": f"urn:uuid:{serial}"} | rest)


def _component(number: int, outcome: Outcome) -> dict[str, Any]:
    name = printable(PurePath(model_of(outcome)).name) or "model"
    component: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": f"robustcheck-model-{number}",
        "name": name,
    }
    if isinstance(outcome, Failed):
        facts = [("verdict", "ERROR"), ("exit_code", outcome.exit_code), ("error", outcome.message)]
        return component | {"properties": _properties([*facts, ("hint", outcome.hint)])}
    model = outcome.evidence.model
    if model.file_digest:  # none of a report of an early version
        component["hashes"] = _hashes(model.file_digest)
    if model.external_digests:
        component["components"] = [
            {"type": "file", "name": printable(file), "hashes": _hashes(digest)}
            for file, digest in model.external_digests.items()
        ]
    return component | {"properties": _properties(_facts(outcome))}


def _facts(report: Report) -> list[tuple[str, object]]:
    evidence, reasons = report.evidence, findings(report)
    return [
        ("verdict", report.verdict.verdict),
        ("kind", report.verdict.kind),
        ("exit_code", exit_code_of(report)),
        *(("reason", each.reason.id) for each in reasons),
        *(("waived", each.reason.id) for each in reasons if each.waiver),
        *(("caution", each) for each in cautions(report)),
        ("claim", report.claim),
        ("model_digest", evidence.model.digest),
        ("images_digest", evidence.images.digest),
        ("images", evidence.statistics.n_images),
        ("profile", report.verdict.profile_id),
        ("profile_digest", report.verdict.profile_digest),
        ("result_digest", report.binding.result_digest if report.binding else None),
    ]


def _hashes(digest: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256_set(digest)["sha256"]}]


def _properties(facts: Iterable[tuple[str, object]]) -> list[dict[str, str]]:
    """List the facts that have a value. A name may come again, as of several reasons."""
    return [
        {"name": f"robustcheck:{name}", "value": printable(str(value))}
        for name, value in facts
        if value not in (None, "")
    ]

"""Write the bill of materials. Without a model card: its metrics are of a performance that was not measured. Pure."""

import uuid
from collections.abc import Iterable
from pathlib import PurePath

from ..text import VERSION, Fields, as_json, digest_of, printable
from .attestation import sha256_set
from .model_names import FormOptions, model_of
from .preprocessing import pixels_text
from .record import Bound, Failed, Outcome, Outcomes
from .words import cautions, exit_code_of, findings

BOM_SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"


SERIALS = uuid.UUID("5c3b9a4e-70a5-4c7e-9f0e-0d2f6c1f8a37")
"""Drawn once: the space of names in which a document's digest gives its serial number"""


def write_cyclonedx(outcomes: Outcomes, options: FormOptions) -> str:
    """Write the bill of materials. The same outcomes give the same bytes, so its serial number is made of the rest.

    A model without a verdict is a component with its error, and without hashes.
    """
    tool = {"type": "application", "name": "robustcheck", "version": VERSION}
    metadata: Fields = {"tools": {"components": [tool]}}
    times = [outcome.time for outcome in outcomes if isinstance(outcome, Bound)]
    if started := [time.started for time in times if time]:
        metadata["timestamp"] = min(started)
    components = [_component(number, outcome) for number, outcome in enumerate(outcomes, 1)]
    rest = {"version": 1, "metadata": metadata, "components": components}
    serial = uuid.uuid5(SERIALS, digest_of(rest))
    head = {"$schema": BOM_SCHEMA, "bomFormat": "CycloneDX", "specVersion": "1.6"}
    return as_json(head | {"metadata": metadata, "serialNumber": f"urn:uuid:{serial}"} | rest)


def _component(number: int, outcome: Outcome) -> Fields:
    name = printable(PurePath(model_of(outcome)).name) or "model"
    component: Fields = {"type": "machine-learning-model", "bom-ref": f"robustcheck-model-{number}", "name": name}
    if isinstance(outcome, Failed):
        facts = {
            "verdict": "ERROR",
            "exit_code": outcome.exit_code,
            "error": outcome.message,
            "hint": outcome.hint,
        }
        return component | {"properties": _bom_properties(facts.items())}
    model = outcome.evidence.model
    if model.file_digest:  # none of a report of an early version
        component["hashes"] = _hashes(model.file_digest)
    if model.external_digests:
        component["components"] = [_weights(*each) for each in model.external_digests.items()]
    return component | {"properties": _bom_properties(_bom_facts(outcome))}


def _weights(file: str, digest: str) -> Fields:
    return {"type": "file", "name": printable(file), "hashes": _hashes(digest)}


def _bom_facts(report: Bound) -> list[tuple[str, object]]:
    evidence = report.evidence
    reasons = findings(report)
    return [
        ("verdict", report.verdict.verdict),
        ("kind", report.verdict.kind),
        ("exit_code", exit_code_of(report)),
        *(("reason", finding.reason.id) for finding in reasons),
        *(("waived", finding.reason.id) for finding in reasons if finding.waiver),
        *(("caution", caution) for caution in cautions(report)),
        ("preprocessing", pixels_text(report.evidence.preprocessing)),
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


def _bom_properties(facts: Iterable[tuple[str, object]]) -> list[dict[str, str]]:
    """List the facts that have a value. A name may come again, as of several reasons."""
    return [
        {"name": f"robustcheck:{name}", "value": printable(str(value))}
        for name, value in facts
        if value not in (None, "")
    ]

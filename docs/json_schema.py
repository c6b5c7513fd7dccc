"""The JSON Schema of all that `-o json` writes: one of the records of the package, or of the documents named here."""

from __future__ import annotations

import json
from typing import Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.json_schema import models_json_schema

from robustcheck_onnx.checker.core.runtime.doctor import MachineFinding
from robustcheck_onnx.checker.questions.calibrate.plan import CalibrationPlan as PlanFields
from robustcheck_onnx.checker.questions.compare import CompareReport, VectorsReport
from robustcheck_onnx.checker.questions.concepts.document import ConceptsReport
from robustcheck_onnx.checker.questions.directions.document import DirectionsReport
from robustcheck_onnx.checker.questions.scan.document import ScanReport
from robustcheck_onnx.checker.questions.shift.document import ShiftReport
from robustcheck_onnx.checker.report.check import Report
from robustcheck_onnx.checker.text import SCHEMA_VERSION
from robustcheck_onnx.checker.trust.verify.run import Verification

SCHEMA_ID = "https://robustcheck-onnx.invalid/schema/report-2.json"  # a name, not an address: nothing is fetched


class Closed(BaseModel):
    """Holds what is named, and nothing else."""

    model_config = ConfigDict(extra="forbid")


class Ours(Closed):
    """What such a document starts with."""

    schema_version: Literal[1]
    tool: Literal["robustcheck"]


class Fault(Closed):
    """What ended a run, and what to type next."""

    message: str
    hint: str
    exit_code: int


class Failed(Closed):
    """A model of several that got no verdict."""

    model: str
    error: Fault


class Error(Closed):
    """A run without a verdict."""

    schema_version: Literal[SCHEMA_VERSION]
    tool: Literal["robustcheck"]
    error: Fault


class Reports(Closed):
    """A check of several models: a report or an error for each, in their order."""

    schema_version: Literal[SCHEMA_VERSION]
    tool: Literal["robustcheck"]
    reports: list[Report | Failed]


class Answer(Closed):
    """Whether a file can pass, and why not."""

    answer: Literal["yes", "no", "unknown"]
    reasons: list[dict[str, str]]
    note: str | None


class Inspection(BaseModel):
    """What `inspect` finds in a file; its other fields are for people and may change."""

    schema_: Literal["robustcheck.inspect/2"] = Field(alias="schema")
    file: str
    can_pass: Answer


class Environment(Closed):
    """What `doctor` finds."""

    schema_: Literal["robustcheck.doctor/1"] = Field(alias="schema")
    findings: list[MachineFinding]


class Explained(Closed):
    """A reason for WARN, as `explain` shows it among others."""

    id: str
    kind: str
    title: str
    explanation: str
    next_step: str


class ExplainedAlone(Explained, Ours):
    """One reason (`explain REASON`)."""


class Reasons(Ours):
    """Reasons by kind (`explain reasons`)."""

    kinds: dict[str, str]
    reasons: list[Explained]


class ExitCodes(Ours):
    """What each exit code means (`explain exit-codes`)."""

    exit_codes: dict[str, str]


class Words(Ours):
    """What a word of a report means (`explain WORD`)."""

    words: dict[str, str]


class PreprocessingExample(Ours):
    """An example of a preprocessing file (`explain preprocessing`)."""

    preprocessing: dict[str, Any]


class Setting(Closed):
    """A value, and where it comes from."""

    value: Any
    source: str


class SettingsShown(Ours):
    """The settings of a check (`--show-settings`)."""

    file: str | None
    settings: dict[str, Setting]


class ProfileRow(Closed):
    """A threshold profile in short."""

    profile: str
    id: str
    digest: str
    tensor: str
    with_: int = Field(alias="with")
    without: int
    false_pass_upper: float | None
    edited: bool


class Profiles(Ours):
    """The threshold profiles that there are (`profiles list`)."""

    profiles: list[ProfileRow]


class Calibrated(Ours):
    """A profile that `calibrate` wrote, and the models that failed."""

    profile: str
    id: str
    digest: str
    missing: dict[str, str]


CalibrationPlan = create_model(
    "CalibrationPlan",
    __base__=Ours,
    __doc__="What a calibration will do (`calibrate --plan`).",
    **{name: (kind, ...) for name, kind in get_type_hints(PlanFields).items()},
)
CHECKS = (Report, Reports, Error, CompareReport, VectorsReport, Verification)
QUESTIONS = (ScanReport, ShiftReport, ConceptsReport, DirectionsReport, Inspection, Environment, SettingsShown)
LOOK_UPS = (ExplainedAlone, Reasons, ExitCodes, Words, PreprocessingExample, Profiles, CalibrationPlan, Calibrated)
DOCUMENTS = (*CHECKS, *QUESTIONS, *LOOK_UPS)


def json_schema() -> str:
    """Return the schema as the package and the site hold it."""
    by_model, definitions = models_json_schema([(each, "serialization") for each in DOCUMENTS], by_alias=True)
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "What robustcheck writes as JSON",
        "oneOf": [by_model[each, "serialization"] for each in DOCUMENTS],
    }
    return json.dumps(schema | definitions, indent=2, ensure_ascii=False) + "\n"

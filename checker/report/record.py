"""The base of the records with a verdict, bound by a digest.

The digest shows that a document is whole and unchanged. It is not a signature: whoever changes the content can compute
a new one (docs/verify.md says what each check is worth).

Light, for a run that ends early.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pydantic import ConfigDict, model_validator

from ...thresholds.profile import Profile
from ...thresholds.records import Frozen
from ..core.evidence import Evidence
from ..core.options import Options
from ..core.verdict.gate import Gate, fits
from ..core.verdict.kinds import Kind
from ..core.verdict.rule import NoTruth, Reason, Verdict, judge
from ..text import Fields, Texts, as_json, digest_of, frozen


class ReferenceRow(Frozen):
    """A row of the reference table."""

    checkpoint: str
    group: str
    images: str
    kurtosis: float
    persistence_ratio: float
    top3_share: float
    shows_outlier_features: bool
    source: str

    @property
    def strength(self) -> float:
        """Return the kurtosis of the three strongest features."""
        return self.kurtosis * self.top3_share


class Time(Frozen):
    """The time and speed of a run. Only this part of a report differs between identical runs."""

    started: str
    """UTC, ISO 8601"""
    wall_s: float
    images_per_s: float | None

    @classmethod
    def until_now(cls, clock: Clock, n_images: int) -> Self:
        """Return the time of a run that ends now and measured `n_images` images."""
        wall_s = time.perf_counter() - clock.started_s
        rate = round(n_images / wall_s, 2) if wall_s > 0 else None
        return cls(started=clock.started.isoformat(timespec="seconds"), wall_s=round(wall_s, 3), images_per_s=rate)


@frozen
class Clock:
    """The time when a run began."""

    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    started_s: float = field(default_factory=time.perf_counter)
    """of the monotonic clock"""


class ModelRead(Frozen):
    """The model of a question, and its tensor."""

    file: str
    digest: str
    source: str
    """what the contract says it is; empty without a contract"""
    tensor: str
    pool: str


class WithVerdict(NoTruth):
    """The base of every record with a verdict."""

    if TYPE_CHECKING:
        verdict: Verdict

    @property
    def passed(self) -> bool:
        """Return whether the verdict is PASS."""
        return self.verdict.passed

    @property
    def kind(self) -> Kind | None:
        """Return the kind of a WARN: not_established, not_applicable, absent or other_signal. None for PASS."""
        return self.verdict.kind

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Return the reasons of a WARN, empty for PASS. The most important is first."""
        return self.verdict.reasons


class Bound(WithVerdict, Frozen):
    """The base of every record that a digest binds: it can be verified, signed and attested."""

    if TYPE_CHECKING:
        tool: str
        tool_version: str
        gate: Gate | None
        notes: Texts
        claim: str
        profile: Profile
        time: Time | None
        binding: Binding | None

        @property
        def evidence(self) -> Evidence:
            """Return the evidence about the model that is to be released."""

    @property
    def is_required(self) -> bool:
        """Return whether the verdict decides the exit code."""
        return True

    @property
    def allowances(self) -> Texts:
        """Return what its options let pass that their defaults stop, besides what the gate shows."""
        return ()

    def judged_again(self) -> Verdict:
        """Return the verdict that the evidence gives."""
        return judge(self.evidence, self.profile)

    def has_own_gate(self, *, words: bool) -> bool:
        """Return whether the gate follows from the verdict. words: also in the words of this version."""
        return self.gate is None or fits(self.gate, self.verdict, words=words)

    def attested(self) -> Fields:
        """Return what a predicate holds besides the fields that every one has."""
        return {}


AnyBound = TypeVar("AnyBound", bound=Bound)


class Failed(Frozen):
    """A model that could not be assessed, so that it has no verdict."""

    model: str
    """its path as it was given"""
    message: str
    hint: str
    exit_code: int
    """2, 3, 4 or 70"""


Outcome = Bound | Failed
Outcomes = Sequence[Outcome]

CLAIM = (
    "Crabbé et al. (TMLR 2024) found outlier features in CLIP encoders of high robustness to natural distribution "
    "shifts, and not in less robust models with the same backbones. PASS means that they are present on the images "
    "that were given, WARN that they are absent or that this was not established. All 94 published zero-shot CLIP "
    "encoders with 55 % or more on ImageNet have such robustness; whether this model has it was not measured. The "
    "features lie mostly in the mean of the representations, and every real model that is known to pass was trained on "
    "images with texts. They mean nothing for a model that does not do its task, so check its accuracy first."
)


def sealed(report: AnyBound) -> AnyBound:
    """Return the report with its content's digest. One without a binding stays as it is."""
    if report.binding is None:
        return report
    digest = result_digest_of(report.model_dump(mode="json"))
    return report.model_copy(update={"binding": report.binding.model_copy(update={"result_digest": digest})})


def to_json(report: Frozen) -> str:
    """Return the report as one JSON document.

    Keys have a fixed order, numbers are finite or null, and a newline ends it.
    """
    return as_json(report.model_dump(mode="json"))


def json_schema() -> str:
    """Return the JSON Schema of the report. `docs/generate.py` writes it."""
    return (Path(__file__).parent / "report.schema.json").read_text(encoding="utf-8")


def _without_defaults(schema: Fields) -> None:
    for option in schema["properties"].values():
        option.pop("default", None)


class Settings(Options):
    """The given options that can move numbers. None = not given.

    The profile, the preprocessing and the gate's rule are in the report themselves.
    """

    # a report states all of them: a second run must start from no default that nobody wrote down
    model_config = ConfigDict(json_schema_serialization_defaults_required=True, json_schema_extra=_without_defaults)

    @model_validator(mode="before")
    @classmethod
    def _are_all_stated(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and (missing := Options.model_fields.keys() - values.keys()):
            raise ValueError(f"{', '.join(sorted(missing))} is missing")
        return values

    @property
    def options(self) -> Options:
        """Return the options alone."""
        return Options.of(self.keywords)


class Binding(Frozen):
    """The settings, versions and digest of a report. The digest makes a change visible."""

    settings: Settings
    versions: dict[str, str]
    """of this package, of Python and of the libraries that compute: name, version"""
    result_digest: str = ""
    """sha256:… over the canonical JSON of the report without `time` and without this field"""


def result_digest_of(report: Mapping[str, Any]) -> str:
    """Return the result digest of a report's JSON. The digest that it contains does not count.

    Not covered: `time` (when and how fast: the same run twice has the same digest) and the digest itself.
    Raises ValueError for a number that is not finite.
    """
    content = {key: value for key, value in report.items() if key != "time"}
    if isinstance(content.get("binding"), Mapping):
        content["binding"] = {k: v for k, v in content["binding"].items() if k != "result_digest"}
    return digest_of(content)

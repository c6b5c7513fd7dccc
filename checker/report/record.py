"""The report: one record with everything. Every form is rendered from it, and a digest binds it to its run.

The digest shows that a document is whole and unchanged. It is not a signature: whoever changes the content can compute
a new one (docs/verify.md says what each check is worth).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self

from pydantic import ConfigDict, Field, model_validator

from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.evidence import Evidence, Options
from robustcheck_onnx.checker.text import SCHEMA_VERSION, as_json, digest_of, form_of
from robustcheck_onnx.checker.verdict.gate import Gate
from robustcheck_onnx.checker.verdict.reasons import Kind
from robustcheck_onnx.checker.verdict.rule import Reason, Verdict
from robustcheck_onnx.thresholds.profile import Context, Frozen, Profile, without

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


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

    _retired = without("cached")

    @classmethod
    def until_now(cls, clock: Clock, n_images: int) -> Self:
        """Return the time of a run that ends now. It measured `n_images` images."""
        wall_s = time.perf_counter() - clock.started_s
        rate = round(n_images / wall_s, 2) if wall_s > 0 else None
        return cls(started=clock.started.isoformat(timespec="seconds"), wall_s=round(wall_s, 3), images_per_s=rate)


@dataclass(frozen=True)
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


class NoTruth:
    """A record that is neither true nor false."""

    def __bool__(self) -> NoReturn:
        """Raise TypeError. `if report:` is wrong for "is there one?" and for "did it pass?" (docs/python-api.md)."""
        raise TypeError("a report is neither true nor false; use report.passed, or `report is not None`")


class Judged(NoTruth):
    """The base of every record with a verdict."""

    if TYPE_CHECKING:
        verdict: Verdict

    @property
    def passed(self) -> bool:
        """Return whether the verdict is PASS."""
        return self.verdict.passed

    @property
    def kind(self) -> Kind | None:
        """Return the kind of a WARN, None for PASS. It is not_established, not_applicable, absent or other_signal."""
        return self.verdict.kind

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Return the reasons of a WARN, empty for PASS. The most important is first."""
        return self.verdict.reasons


class Report(Judged, Frozen):
    """The verdict, its evidence, profile and limits. The limits are those of the claim."""

    schema_version: Literal[2] = SCHEMA_VERSION
    tool: str = "robustcheck"
    tool_version: str
    verdict: Verdict
    gate: Gate | None = None
    """what the command made of the verdict; None from Python"""
    notes: tuple[str, ...]
    """what a reader must know besides the reasons for WARN: bundled photos, a synthetic model, a fallback to the CPU"""
    evidence: Evidence
    profile: Profile
    published: Context | None = None
    """published effective robustness of the checkpoint that the file's contract names: context, it decides nothing"""
    reference: tuple[ReferenceRow, ...]
    """the reference sets, largest kurtosis first"""
    claim: str
    time: Time | None
    """None where the caller asked for no time block"""
    binding: Binding | None = None
    """options, versions and a digest of all this but `time`: what `robustcheck verify` goes by"""

    def to_json(self) -> str:
        """Return the JSON document, as `-o json`."""
        return self._as("json")

    def to_html(self) -> str:
        """Return the page, as `-o html`. It has no copies of the photos."""
        return self._as("html")

    def to_junit(self) -> str:
        """Return the JUnit document, as `-o junit`. A WARN is a failure."""
        return self._as("junit")

    def to_markdown(self) -> str:
        """Return the Markdown, as `-o markdown`."""
        return self._as("markdown")

    _repr_markdown_ = to_markdown

    def save(self, path: str | Path) -> None:
        """Write a document in the suffix's form. The suffix is .json, .html, .xml (JUnit), .md or .sarif.

        Raises:
            UsageError: another suffix. OSError: the file can't be written.
        """
        if not (form := form_of(str(path))):
            raise UsageError(f"{path}: no form has this suffix", 'report.save("report.html")')
        Path(path).write_text(self._as(form), encoding="utf-8")

    def _as(self, form: str) -> str:
        forms = import_module(f"{__package__}.forms")  # no check needs it
        return str(forms.render(form, [self]))

    def __repr_args__(self) -> list[tuple[str, object]]:
        """Return the fields that repr, str and rich show. They fit a line; `to_json` has the record."""
        return [
            ("verdict", self.verdict.verdict),
            ("kind", self.kind),
            ("model", self.evidence.model.file),
            ("images", self.evidence.statistics.n_images),
        ]

    def _repr_html_(self) -> str:
        """Return the HTML that a notebook shows.

        It has verdict, kind, reasons, and the deciding statistics with their thresholds.
        """
        made = import_module(f"{__package__}.terminal").document_of(self)
        return str(_notebook().of_document(made))

    def to_frame(self) -> pd.DataFrame:
        """Return the measured statistics as a data frame. A row has estimate, interval, and threshold where it decides.

        Raises:
            EnvironmentFaultError: pandas is not installed.
        """
        frame: pd.DataFrame = _notebook().check_frame(self)
        return frame

    def plot(self) -> Figure:
        """Draw the report.

        The panels are the kurtosis of the images, the evidence against the thresholds, and the place in the reference
        suite.

        Returns:
            A figure of matplotlib: the last value of a notebook's cell, or `.savefig(PATH)`.

        Raises:
            EnvironmentFaultError: matplotlib (the extra `plot`) is not installed.
        """
        figure: Figure = _notebook().check_figure(self)
        return figure


def _notebook() -> ModuleType:
    return import_module(f"{__package__}.notebook")  # no check needs it


class Failed(Frozen):
    """A model that could not be assessed. It has no verdict."""

    model: str
    """its path as it was given"""
    message: str
    hint: str
    exit_code: int
    """2, 3, 4 or 70"""


Outcome = Report | Failed

CLAIM = (
    "Outlier features in the representation indicate robustness to natural distribution shifts (Crabbé et al., TMLR "
    "2024). PASS means that they are present on the images that were given, WARN that they are absent or that this was "
    "not established. They lie mostly in the mean of the representations and follow the contrastive objective. They "
    "mean nothing for a model that does not do its task, so check its accuracy first."
)


def sealed(report: Report) -> Report:
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


def _without_defaults(schema: dict[str, Any]) -> None:
    for option in schema["properties"].values():
        option.pop("default", None)


class Settings(Options):
    """The given options that can move numbers. None = not given.

    The profile, the preprocessing and the gate's rule are in the report themselves.
    """

    # a report states all of them: a second run must start from no default that nobody wrote down
    model_config = ConfigDict(
        json_schema_serialization_defaults_required=True,
        json_schema_extra=_without_defaults,
    )

    engine: Literal["local", "ray"] = Field("local", exclude=True)
    """of reports by earlier versions; with ray every image was measured, on a cluster"""

    _retired = without("workers")

    @model_validator(mode="before")
    @classmethod
    def _are_all_stated(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and (missing := Options.model_fields.keys() - values.keys()):
            raise ValueError(f"{', '.join(sorted(missing))} is missing")
        return values

    @property
    def options(self) -> Options:
        """Return the options alone."""
        return Options.of(self.given)


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

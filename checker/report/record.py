"""The report: one record, bound by a digest, read back and attested.

The digest shows that a document is whole and unchanged. It is not a signature: whoever changes the content can compute
a new one (docs/verify.md says what each check is worth).

What is attested is the predicate of an in-toto statement alone: whoever signs adds the model's file as the subject, and
the type. Light, for a run that ends early.
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Mapping
from dataclasses import field
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar

from pydantic import ConfigDict, ValidationError, model_validator

from ...thresholds import read_bytes, read_start
from ...thresholds.profile import Profile, wrong_statistics
from ...thresholds.profile import digest_of as profile_digest_of
from ...thresholds.published import Context
from ...thresholds.records import Frozen, ReprArgs, earlier_version, is_version, unique_keys
from ..core.evidence import Evidence, Options
from ..core.verdict.gate import Gate, fits
from ..core.verdict.reasons import Kind
from ..core.verdict.rule import NoTruth, Reason, Verdict, judge
from ..errors import NEWER, CannotAssessError, EnvironmentFaultError, UsageError
from ..text import HOME, SCHEMA_VERSION, VERSION, Fields, as_json, digest_of, form_of, frozen, quoted, short_digest

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

    @classmethod
    def until_now(cls, clock: Clock, n_images: int) -> Self:
        """Return the time of a run that ends now. It measured `n_images` images."""
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


class Bound(Judged, Frozen):
    """The base of every record that a digest binds: it can be verified, signed and attested."""

    if TYPE_CHECKING:
        tool: str
        tool_version: str
        gate: Gate | None
        profile: Profile
        time: Time | None
        binding: Binding | None

        @property
        def evidence(self) -> Evidence:
            """Return the evidence about the model that is to be released."""

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


class Report(Bound, Frozen):
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

    def __repr_args__(self) -> ReprArgs:
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
        document = import_module(f"{__package__}.terminal").document_of(self)
        return str(_notebook().of_document(document))

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
    "Crabbé et al. (TMLR 2024) found outlier features in CLIP encoders of high robustness to natural distribution "
    "shifts, and not in less robust versions of them. PASS means that they are present on the images that were given, "
    "WARN that they are absent or that this was not established. Whether PASS predicts robustness is not known. The "
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


LARGEST_REPORT_BYTES: Final = 1 << 26  # of a document: the report of one model has 80 KB
AGAIN = "robustcheck MODEL.onnx --images PATH -o json=report.json"


def read(path: Path) -> list[tuple[Report, Fields]]:
    """Read the reports of checks in a file. Raises as `read_bound`."""
    return read_bound(path, {"": Report})


def read_bound(
    path: Path, kinds: Mapping[str, type[AnyBound]], *, refuse_errors: bool = False
) -> list[tuple[AnyBound, Fields]]:
    """Read the reports of a file. Each comes with its own JSON; it is one report, or one for each of several models.

    A report that was edited is read all the same: see `read_one` and `edits`.

    kinds: the records that are read, by their field `document`; that of a check has none.

    Raises:
        UsageError: not readable, truncated or no JSON, no report, no binding, of a newer schema or tool.
        CannotAssessError: the document holds only errors; with `refuse_errors`, if it holds any error.
    """
    try:
        raw = json.loads(
            read_bytes(path, LARGEST_REPORT_BYTES), object_pairs_hook=unique_keys, parse_constant=_no_constant
        )
    except OSError as fault:
        raise UsageError(f"{path}: report is not readable ({fault.strerror}); it must be a file", AGAIN) from fault
    except (ValueError, RecursionError) as fault:
        raise UsageError(f"{path}: report is not a whole JSON document ({fault}); write it again", AGAIN) from fault
    if not isinstance(raw, dict) or raw.get("tool") != "robustcheck":
        raise UsageError(f"{path}: file is not a report of robustcheck; `-o json=PATH` of a check writes one", AGAIN)
    if not is_version(stated := raw.get("schema_version"), SCHEMA_VERSION):
        is_earlier = stated == 1
        made_by = "; an earlier version made it" if is_earlier else ""
        raise UsageError(
            f"{path}: schema_version is {stated!r}{made_by}; this robustcheck reads {SCHEMA_VERSION}",
            AGAIN if is_earlier else NEWER,
        )
    several = raw.get("reports")
    parts = several if isinstance(several, list) else [raw]
    errors = [part["error"] for part in parts if isinstance(part, dict) and "error" in part]
    reports = [_report(path, part, kinds) for part in parts if not (isinstance(part, dict) and "error" in part)]
    if not reports or (refuse_errors and errors):
        message = errors[0].get("message") if errors and isinstance(errors[0], dict) else "no report"
        raise CannotAssessError(f"{path}: document reports an error ({message}); check again", AGAIN)
    return reports


def read_one(path: Path) -> Report:
    """Read the report of a one-report file. It must be as a check wrote it. Raises as `only_one`."""
    return only_one(path, {"": Report})


def only_one(path: Path, kinds: Mapping[str, type[AnyBound]]) -> AnyBound:
    """Read the record of a one-record file. It must be as robustcheck wrote it.

    Raises as `read_bound`, and:
        UsageError: the file holds several reports.
        CannotAssessError: the report was edited after the check wrote it (`edits`).
    """
    reports = read_bound(path, kinds, refuse_errors=True)
    if len(reports) != 1:
        raise UsageError(
            f"{path}: document holds {len(reports)} reports; it must hold one", "check the models one by one"
        )
    report, raw = reports[0]
    if faults := edits(report, raw):
        listed = "; ".join(f"{part}: {fault}" for part, fault in faults.items())
        raise CannotAssessError(
            f"{path}: report was edited ({listed}); an edited verdict does not count",
            "robustcheck model.onnx --images photos/ -o json=report.json",
        )
    return report


def edits(report: Bound, raw: Mapping[str, Any]) -> dict[str, str]:
    """Find the parts of a report that were edited. Model and images are not needed; parts are report, profile, verdict.

    Checked are its digest, the seal of its profile, and that its evidence gives its verdict. Another tool that computes
    a digest of its own passes; only a signature or a second run vouches for the numbers.

    Args:
        report, raw: from `read`.

    Returns:
        A sentence for each part that does not hold; empty if all hold.
    """
    assert report.binding is not None
    faults: dict[str, str] = {}
    # an older robustcheck may have had fewer fields, and other words for the same reasons
    same_tool = report.tool_version == VERSION
    digest, stated = result_digest_of(raw), report.binding.result_digest
    bound_version = report.binding.versions.get("robustcheck")
    if digest != stated:
        faults["report"] = f"content has {short_digest(digest)}…, the report states {short_digest(stated)}…"
    elif bound_version != report.tool_version:
        faults["report"] = f"tool_version is {report.tool_version}, its binding states {bound_version}"
    elif where := _otherwise(raw, report.model_dump(mode="json"), every_key=same_tool):
        faults["report"] = f"{where} is not written as a check writes it"
    profile = report.profile
    if not profile_digest_of(profile) == profile.digest == report.verdict.profile_digest:
        faults["profile"] = f"{profile.id} was changed after it was sealed"
    try:
        verdict = report.judged_again()
    except (LookupError, TypeError, ValueError, ArithmeticError) as fault:
        return faults | {"verdict": f"its evidence can't be judged ({type(fault).__name__})"}
    if (same_tool and verdict != report.verdict) or ruling(verdict) != ruling(report.verdict):
        faults["verdict"] = f"its evidence gives {ruling(verdict)}"
    elif not report.has_own_gate(words=same_tool):
        code = report.gate.exit_code if report.gate else 0
        faults["verdict"] = f"{ruling(verdict)} does not give exit code {code} by its gate"
    return faults


def ruling(verdict: Verdict) -> str:
    """Write a verdict with the ids of its reasons. Example: "WARN (one_sided, too_few_images)"."""
    reasons = ", ".join(reason.id for reason in verdict.reasons)
    return f"{verdict.verdict} ({reasons})" if reasons else verdict.verdict


def _otherwise(raw: Any, form: Any, path: str = "", *, every_key: bool) -> str:
    """Find where a JSON value differs from its record. Returns the path; "" if nowhere. True is not 1, nor is 1 1.0.

    every_key: whether the value must have every key that the record has.
    """
    if type(raw) is not type(form):
        return path
    if isinstance(raw, dict):
        if every_key and (missing := form.keys() - raw.keys()):
            return f"{path}.{min(missing)}".removeprefix(".")
        parts = [(raw[name], form[name], f"{path}.{name}".removeprefix(".")) for name in raw]
    elif isinstance(raw, list):
        if len(raw) != len(form):
            return path
        parts = [(one, other, f"{path}[{index}]") for index, (one, other) in enumerate(zip(raw, form, strict=True))]
    else:
        return "" if raw == form else path
    return next(
        (place for one, other, inner in parts if (place := _otherwise(one, other, inner, every_key=every_key))), ""
    )


def _report(path: Path, raw: Any, kinds: Mapping[str, type[AnyBound]]) -> tuple[AnyBound, Fields]:
    kind = kinds.get(str(raw.get("document", ""))) if isinstance(raw, dict) and "verdict" in raw else None
    if kind is None:
        raise UsageError(f"{path}: document is not a report of a check; `-o json=PATH` of a check writes one", AGAIN)
    theirs, ours = raw.get("tool_version"), VERSION
    if _release(theirs) > _release(ours):
        raise UsageError(
            f"{path}: tool_version is {theirs}; this is robustcheck {ours}, which can't read reports of newer versions",
            NEWER,
        )
    try:
        report = kind.model_validate(raw)
    except (ValidationError, RecursionError) as fault:
        first = fault.errors(include_url=False)[0] if isinstance(fault, ValidationError) else None
        where = ".".join(str(part) for part in first["loc"]) if first else "content"
        rule = "it must be as written" + (earlier_version(fault) if isinstance(fault, ValidationError) else "")
        raise UsageError(
            f"{path}: report has a wrong {where} ({first['msg'] if first else 'too deep'}); {rule}",
            AGAIN,
        ) from fault
    if report.binding is None:
        raise UsageError(f"{path}: report has no binding; only a bound one can be verified", AGAIN)
    if wrong := wrong_statistics(report.profile):
        raise UsageError(f"{path}: its profile: {wrong}", AGAIN)
    return report, raw


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _release(text: object) -> tuple[int, ...]:
    """Return the numbers of a version. One that can't be read counts as newer than all."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9}){0,5})\D.*|(\d{1,9}(?:\.\d{1,9}){0,5})", str(text))
    return tuple(map(int, (match.group(1) or match.group(2)).split("."))) if match else (10**9,)


WITHOUT_HOME: Final = "urn:uuid:1af3a2e2-647e-495d-b4d2-9de74380a850"
"""The name while HOME is empty. A UUID is a URI that belongs to whoever drew it: it claims no address of anybody, and
no other kind of predicate can have it. Drawn once; what was signed under it stays valid."""


def type_under(home: str) -> str:
    """Return the predicate type of a project. `home` is the address of its repository; empty: nowhere yet.

    >>> type_under("https://example.org/robustcheck/")
    'https://example.org/robustcheck/attestation/verdict/v1'
    """
    return f"{home.rstrip('/')}/attestation/verdict/v1" if home else WITHOUT_HOME


PREDICATE_TYPE: Final = type_under(HOME)
PREDICATE_TYPES: Final = (PREDICATE_TYPE, WITHOUT_HOME)
"""Types of statements that are read; the first one is written"""
HOME_NOTE: Final = (
    ""
    if HOME
    else f"HOME in checker/text.py is not set, so the predicate type is {WITHOUT_HOME}; once it is set, one under the "
    "project's address follows, and what is signed now stays valid"
)
"""What signing says; empty once HOME is set"""


def predicate_of(report: Bound, report_digest: str) -> Fields:
    """Return what is attested.

    It is the verdict, and the digests of all that it rests on; the same report gives the same predicate.

    Args:
        report: sealed.
        report_digest: sha256:… of the file that holds the report, every byte of it.
    """
    evidence, bound = report.evidence, report.binding
    result = bound.result_digest if bound else result_digest_of(report.model_dump(mode="json"))
    return {
        "tool": {"name": report.tool, "version": report.tool_version},  # first: `storage.stores.OURS`
        "verdict": report.verdict.verdict,
        "reasons": [reason.id for reason in report.verdict.reasons],
        "report": {"digest": sha256_set(report_digest)},
        "result": {"digest": sha256_set(result)},
        "profile": {"id": report.profile.id, "digest": sha256_set(report.profile.digest)},
        "images": {"digest": sha256_set(evidence.images.digest), "count": evidence.statistics.n_images},
        "time": report.time.started if report.time else None,
        **report.attested(),
    }


def sha256_set(digest: str) -> dict[str, str]:
    """Write a `sha256:…` digest as in-toto does."""
    return {"sha256": digest.removeprefix("sha256:")}


MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
LARGEST_BYTES: Final = 1 << 20  # of a bundle file; usual ones have some KB
_PAYLOAD: Final = re.compile(rb'"payload":\s*"([^"]*)"')


def bundle_of(report: Path) -> Path:
    """Return the default file of a report's signature."""
    return report.with_suffix(".sigstore.json")


def remove_verdict(bundle: Path) -> None:
    """Remove a signed verdict's file. Any other file stays.

    Raises EnvironmentFaultError where it can't be removed.
    """
    try:
        if is_verdict(bundle):
            bundle.unlink()
    except OSError as fault:
        raise EnvironmentFaultError(
            f"{bundle}: earlier signature is not removed ({fault.strerror}); it must not stay next to a new report",
            f"ls -ld {quoted(bundle)}",
        ) from fault


def is_verdict(bundle: Path) -> bool:
    """Return whether a file is a signed verdict. Anybody may have signed it. Raises OSError where it can't be read."""
    try:
        if not bundle.is_file():
            return False
        content = read_start(bundle, LARGEST_BYTES)
        payload = _PAYLOAD.search(content)
        statement = base64.b64decode(payload[1]) if payload else b""
    except ValueError:  # the payload is not base64
        return False
    return MEDIA_TYPE.encode() in content and any(f'"{kind}"'.encode() in statement for kind in PREDICATE_TYPES)

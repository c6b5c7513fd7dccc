"""Judge whether a candidate kept its reference's outlier features.

The report of a comparison and its verdict are made here. Pure.

`run.py` runs both models; `pairs.py` computes the numbers; `document.py` shows the report.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args

from pydantic import Field, field_validator

from ....thresholds.profile import Profile
from ....thresholds.records import Frozen, ReprArgs
from ...core.evidence import OUTLIER_SD, Evidence, Interval
from ...core.verdict.foreseen import step_in_comparison
from ...core.verdict.gate import Gate
from ...core.verdict.kinds import NAMES
from ...core.verdict.rule import NoTruth, Verdict, reason, verdict_for
from ...errors import UsageError
from ...report import frames
from ...report.attestation import predicate_of, sha256_set
from ...report.record import Binding, Bound, Time, sealed, to_json
from ...report.shown import Shown, figure_of, pipeline_text
from ...text import Fields, Texts, as_json, frozen, interval_text, number_text, percent_text, sha256_of
from .baseline import Baseline, WithNextBaseline
from .changes import StatisticChange
from .features import MIN_CORRELATION, FeatureFate, FeatureFates
from .index_report import SIGNS, IndexReport, Required
from .pairs import ClassAgreement, Compared, unrelated
from .similarity import NEEDED, UNRELATED_CKA, Similarity

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

TOLERANCE = 0.2  # share of a statistic that may be lost: one checkpoint's K moves more between image sets


def required_of(require: str | Sequence[str]) -> tuple[Required, ...]:
    """Return the verdicts that decide the exit code. Raises UsageError for none, and for an unknown word."""
    words: Any = tuple(require.split(",") if isinstance(require, str) else require)
    if not words or any(word not in get_args(Required) for word in words):
        raise UsageError(f"require is {require!r}; it must be indication, index, or both", 'require=["index"]')
    return tuple(words)


def range_text(interval: Interval) -> str:
    """Write the interval of a ratio, or its estimate where there are no bounds."""
    estimate = "–" if interval.estimate is None else f"{number_text(interval.estimate)}, no bounds"
    return interval_text(interval.low, interval.high, missing=estimate)


class CompareReport(Shown, Bound, WithNextBaseline):
    """Everything that `robustcheck compare` found."""

    schema_version: Literal[2] = 2
    tool: str = "robustcheck"
    document: Literal["compare"] = "compare"
    tool_version: str
    gate: Gate | None = None
    """what the required verdicts make of the run"""
    verdict: Verdict
    tolerance: float
    baseline: str = ""
    """the file that stands for the reference; empty where the reference itself was run"""
    paired: bool = True
    """whether both were measured on the same images"""
    n_images: int
    """images on which both models were measured; against a baseline, on which the candidate was"""
    candidate: Compared
    reference: Compared
    statistics: tuple[StatisticChange, ...]
    alpha: float
    """error rate of the ratios that must be kept together, and of their differences together"""
    features: FeatureFates
    new_features: tuple[int, ...]
    """outlier features of the candidate that none of the reference's became"""
    similarity: Similarity | None
    """None against a baseline that was measured on other images, or on the same in another order"""
    agreement: ClassAgreement | None
    """None unless both have class scores of equal width; None against a baseline, which holds no classes"""
    notes: Texts
    profile: Profile
    claim: str
    time: Time | None
    index: IndexReport | None = None
    """whether the candidate may replace the reference under an index of vectors"""
    required: tuple[Required, ...] = ("indication",)
    """the verdicts that decide the exit code"""
    baseline_digest: str = ""
    """of the baseline's file"""
    binding: Binding | None = None
    """as of a check's report"""
    thumbnails: dict[str, str] = Field(default_factory=dict, exclude=True)
    """data: URIs of pictures by the digest of the image; in the page alone"""

    @property
    def exit_code(self) -> Literal[0, 1]:
        """Return 0 if every required verdict holds, else 1. Raises UsageError as `required_of`."""
        fits_index = self.index is not None and self.index.is_compatible
        holds = {"indication": self.passed, "index": fits_index}
        if all(holds[name] for name in required_of(self.required)):
            return 0
        return 1

    @field_validator("required")
    @classmethod
    def _decides(cls, value: tuple[Required, ...]) -> tuple[Required, ...]:
        return required_of(value)

    @property
    def is_required(self) -> bool:
        """Return whether the verdict on outlier features decides the exit code."""
        return "indication" in self.required

    @property
    def evidence(self) -> Evidence:
        """Return the candidate's evidence."""
        return self.candidate.evidence

    def judged_again(self) -> Verdict:
        """Return the verdict that the evidence of both models and their comparison give."""
        candidate = Compared.of(self.candidate.evidence, self.profile)
        reference = Compared.of(self.reference.evidence, self.profile)
        stale = [reason.seen for reason in self.reasons if reason.id == "stale_baseline"]
        comparison = Comparison(
            reference,
            statistics=self.statistics,
            features=self.features,
            stale=stale,
            paired=self.paired,
            is_baseline=self.baseline != "",
            similarity=self.similarity,
            agreement=self.agreement,
        )
        return judge_pair(candidate, comparison, self.tolerance, self.profile)

    def has_own_gate(self, *, words: bool) -> bool:
        """Return whether the gate follows from the required verdicts, and the index verdict from its reasons."""
        if self.index is not None and self.index.is_compatible == bool(self.index.reasons):
            return False
        if words:
            return self.gate == self.gated().gate
        return self.gate is None or self.gate.exit_code == self.exit_code

    def attested(self) -> Fields:
        """Return what was compared, and what of it was required."""
        reference: Fields = sha256_set(self.baseline_digest or self.reference.evidence.model.digest)
        return {
            "comparison": {
                "required": list(self.required),
                "exit_code": self.exit_code,
                "index": self.index.verdict if self.index else None,
                "reference": {"digest": reference, "baseline": bool(self.baseline)},
            }
        }

    @property
    def allowances(self) -> Texts:
        """Return what the comparison let pass that its defaults stop."""
        out = []
        if self.tolerance > TOLERANCE:
            out.append(f"tolerance {self.tolerance:g}")
        if self.index is not None and "index" in self.required:
            out += self.index.options.allowances
        return (f"the comparison allows {', '.join(out)}",) if out else ()

    @property
    def rule(self) -> str:
        """Return what decides the exit code, in one sentence."""
        index = self.index.verdict if self.index else "missing"
        texts = {"indication": f"the verdict is {self.verdict.verdict}", "index": f"the index verdict is {index}"}
        return " and ".join(texts[required] for required in self.required)

    @property
    def index_words(self) -> str:
        """Return the index verdict for a heading; empty where it does not decide the exit code."""
        if "index" not in self.required:
            return ""
        if self.index is None:
            return "✗ no index verdict"
        return f"{SIGNS[self.index.verdict]} index {self.index.verdict}"

    @property
    def index_text(self) -> str:
        """Return the index verdict with its reason, or the words of a heading where there is none."""
        return self.index.plain if self.index else f"{self.index_words}."

    @property
    def index_first(self) -> bool:
        """Whether the index verdict leads: it decides the exit code alone, or alone stops the run."""
        if "index" not in self.required:
            return False
        return not self.is_required or (self.passed and self.exit_code == 1)

    def __repr_args__(self) -> ReprArgs:
        """Show one line in repr, str and rich."""
        return [
            ("verdict", self.verdict.verdict),
            ("kind", self.kind),
            ("candidate", self.candidate.evidence.model.file),
            ("reference", self.reference.evidence.model.file),
            ("images", self.n_images),
        ]

    def gated(self) -> CompareReport:
        """Return the report with the gate of what it holds now."""
        gate = Gate(exit_code=self.exit_code, fail_on="warn", rule=self.rule)
        return sealed(self.model_copy(update={"gate": gate}))

    def to_json(self) -> str:
        """Return the JSON document, as `-o json`."""
        return to_json(self.gated())

    def to_junit(self) -> str:
        """Return the JUnit document, as `-o junit`."""
        return pipeline_text(self.gated(), "junit")

    def to_sarif(self) -> str:
        """Return the SARIF document, as `-o sarif`."""
        return pipeline_text(self.gated(), "sarif")

    def to_openmetrics(self) -> str:
        """Return the OpenMetrics document, as `-o openmetrics`."""
        return pipeline_text(self.gated(), "openmetrics")

    def to_predicate(self) -> str:
        """Return the predicate of an in-toto statement about the JSON document, as `-o predicate`."""
        digest = sha256_of(self.to_json().encode())
        return as_json(predicate_of(self.gated(), digest))

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas data frame with the numbers of both models and their ratio, one row per statistic.

        Raises:
            EnvironmentFaultError: pandas is not installed.
        """
        rows = [
            {
                "statistic": change.name,
                "name": NAMES[change.name],
                "candidate": change.candidate,
                "reference": change.reference,
                "ratio": change.ratio.estimate,
                "ratio_low": change.ratio.low,
                "ratio_high": change.ratio.high,
                "keeps": change.keeps,
            }
            for change in self.statistics
        ]
        return frames.frame(rows, "statistic")

    def plot(self) -> Figure:
        """Plot both models: kurtosis of the images, what was kept of each statistic, and the outlier features.

        Returns:
            A figure of matplotlib: the last value of a notebook's cell, or `.savefig(PATH)`.

        Raises:
            EnvironmentFaultError: matplotlib (the extra `plot`) is not installed.
        """
        return figure_of(self)


CLAIM = (
    "PASS says that the candidate passes the check by itself and has kept, on the images that were given, the outlier "
    "features that made the reference pass. Neither model's robustness to natural distribution shifts nor accuracy was "
    "measured."
)


class FirstBaseline(NoTruth, Frozen):
    """The numbers of one model, for later releases. Nothing was compared, so there is no verdict."""

    candidate: Compared
    next_baseline: Baseline

    @property
    def passed(self) -> NoReturn:
        """Raise UsageError. One model alone is neither PASS nor WARN."""
        raise UsageError(
            f"{self.candidate.evidence.model.file}: it was compared with nothing, so there is no verdict",
            "name its reference, or a baseline",
        )

    def __repr_args__(self) -> ReprArgs:
        """Show one line in repr, str and rich."""
        return self.candidate.evidence.__repr_args__()


@frozen
class Comparison:
    """A reference, and the comparison with it."""

    reference: Compared
    statistics: tuple[StatisticChange, ...]
    features: FeatureFates
    stale: Sequence[str] = ()
    """in which ways the reference, a baseline, was measured otherwise than the candidate"""
    paired: bool = True
    is_baseline: bool = False
    """whether the reference is the numbers of an earlier run, whose file may be gone"""
    similarity: Similarity | None = None
    """None, as `agreement`, where it was not measured"""
    agreement: ClassAgreement | None = None


def judge_pair(candidate: Compared, comparison: Comparison, tolerance: float, profile: Profile) -> Verdict:
    """Return PASS, or WARN with every reason; never PASS where the candidate alone would be WARN.

    A reference that is WARN itself has nothing that could be kept: `reference_without_indication`. Representations of
    another width, or of another tensor rule, are shown and not compared: `not_comparable`.

    Args:
        candidate: judged by itself.
        comparison: against its reference.
        tolerance: as for both.
        profile: what they were judged by.
    """
    seen: dict[str, list[str]] = {}

    def say(name: str, text: str) -> None:
        seen.setdefault(name, []).append(text)

    reference = comparison.reference
    different = _differences(candidate.evidence, reference.evidence)
    if different:
        say("not_comparable", "; ".join(different))
    if comparison.stale:
        say("stale_baseline", "; ".join(comparison.stale))
    for text in unrelated(comparison.similarity, comparison.agreement):
        say("unrelated", text)
    if reference.verdict.verdict == "WARN":
        for own in reference.verdict.reasons:
            if own.id == "assumed_preprocessing":  # comes first: the others may follow from it
                say(own.id, f"the reference by itself: {own.seen}")
        ids = ", ".join(r.id for r in reference.verdict.reasons)
        say("reference_without_indication", f"the reference by itself is WARN ({ids})")
    elif not different:
        for name, text in _lost(comparison, tolerance, candidate.evidence.model.rule):
            say(name, text)
        for text in _of_machine(comparison, tolerance, candidate.evidence):
            say("runtime_differs", text)
    for own in candidate.verdict.reasons:
        say(own.id, f"the candidate by itself: {own.seen}")
    model = candidate.evidence.model
    precision = candidate.evidence.execution.precision
    named = None if comparison.is_baseline else reference.evidence.model
    reasons = []
    for name, texts in seen.items():
        step = step_in_comparison(name, model, precision, named)
        reasons.append(reason(name, "; ".join(texts), step))
    return verdict_for(reasons, profile)


def _of_machine(comparison: Comparison, tolerance: float, candidate: Evidence) -> Iterator[str]:
    """Yield the statistics that reference arithmetic keeps and the machine's does not, or the other way around."""
    our_shifts = _shifts(candidate)
    their_shifts = _shifts(comparison.reference.evidence)
    if candidate.execution.arithmetic is not None or not (our_shifts or their_shifts):
        return
    least = 1 - tolerance
    for change in comparison.statistics:
        ratio = change.ratio.estimate
        if change.keeps == "not required" or ratio is None or change.candidate is None or change.reference is None:
            continue
        ours = change.candidate + our_shifts.get(change.name, 0.0)
        theirs = change.reference + their_shifts.get(change.name, 0.0)
        by_reference = ours / theirs if theirs > 0 else 0.0
        if (by_reference >= least) != (ratio >= least):
            yield (
                f"{NAMES[change.name]} has the ratio {number_text(ratio)} as {candidate.execution.machine} computes "
                f"it, and {number_text(by_reference)} by reference arithmetic"
            )


def _shifts(evidence: Evidence) -> Mapping[str, float]:
    """Return by how much reference arithmetic moves each statistic."""
    run = evidence.execution.reference
    return run.shifts if run else {}


def _differences(candidate: Evidence, reference: Evidence) -> list[str]:
    out = []
    width = candidate.statistics.n_features
    reference_width = reference.statistics.n_features
    if width != reference_width:
        out.append(f"the representations have {width} and {reference_width} features")
    kind = _kind(candidate)
    reference_kind = _kind(reference)
    if kind != reference_kind:
        out.append(f"the candidate's tensor is of the kind {kind}, the reference's of the kind {reference_kind}")
    return out


def _kind(evidence: Evidence) -> str:
    model = evidence.model
    if model.pool == "none":
        return model.rule
    return f"{model.rule}, pooled by {model.pool}"


def _lost(comparison: Comparison, tolerance: float, rule: str) -> Iterator[tuple[str, str]]:
    """Yield the reasons about what the reference had. Each comes with what was seen."""
    least = f"{100 * (1 - tolerance):g} %"
    for keeps, name in (("shrank", "statistic_shrank"), ("undecided", "undecided")):
        changed = [_change_text(change) for change in comparison.statistics if change.keeps == keeps]
        if changed:
            yield name, f"at least {least} of the reference's value must be kept: {', '.join(changed)}"

    def of(fate: str) -> list[FeatureFate]:
        return [f for f in comparison.features if f.fate == fate]

    if other := of("uncorrelated"):
        yield (
            "outlier_feature_lost",
            f"{_named(other)}: there in the candidate, but not in step with the reference's over the images "
            f"({_correlations(other)}; {MIN_CORRELATION:g} is needed)",
        )
    if unclear := of("undecided"):
        yield (
            "undecided",
            f"{_named(unclear)}: not clear whether in step with the reference's over the images "
            f"({_correlations(unclear)}; a lower bound of {MIN_CORRELATION:g} is needed)",
        )
    for fate in ("weaker", "lost"):
        if gone := of(fate):
            now = [f"{percent_text(f.candidate_frequency)} instead of {percent_text(f.frequency)}" for f in gone]
            yield (
                "outlier_feature_lost",
                f"{_named(gone)}: {fate}, beyond {OUTLIER_SD:g} SD in {', '.join(now)} of the images; at least {least} "
                "of that must be kept",
            )
    # inside a file the head moves along; an encoder's output is read by others, by index
    if (moved := of("moved")) and rule == "encoder_output":
        where = [f"{f.index} is now {f.to} (r = {f.correlation:+.2f})" for f in moved]
        yield "representation_permuted", f"the outlier features are there under other indices: {', '.join(where)}"
    if rotated := of("rotated"):
        shares = [f"{100 * (f.explained or 0):.0f} %" for f in rotated]
        yield (
            "representation_rotated",
            f"{_named(rotated)}: spread over other features; the best rotation gives back {', '.join(shares)} of its "
            "energy",
        )
    alike = comparison.similarity
    if alike is not None and alike.is_changed and not alike.is_below(UNRELATED_CKA):
        yield "representation_changed", f"{alike.text}, {alike.distance_text}; {NEEDED}"


def _change_text(change: StatisticChange) -> str:
    values = f"{number_text(change.candidate)} of {number_text(change.reference)}"
    return f"{NAMES[change.name]} {values} (ratio {range_text(change.ratio)})"


def _named(features: list[FeatureFate]) -> str:
    indices = ", ".join(str(f.index) for f in features)
    return f"feature {indices}" if len(features) == 1 else f"features {indices}"


def _correlations(features: list[FeatureFate]) -> str:
    return ", ".join("r not known" if f.correlation is None else f"r = {f.correlation:+.2f}" for f in features)

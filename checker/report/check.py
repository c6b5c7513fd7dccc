"""The report of a check, and its document. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ...thresholds.context import Context
from ...thresholds.profile import Profile
from ...thresholds.records import Frozen, ReprArgs
from ...thresholds.statistics import DEFINITIONS
from .. import text as texts
from ..core.evidence import OUTLIER_SD, Evidence
from ..core.verdict.gate import Gate
from ..core.verdict.notes import BUNDLED_NOTE, HEAD_NOTE, ON_BUNDLED, fallback_note
from ..core.verdict.rule import Verdict
from ..errors import UsageError
from ..text import SCHEMA_VERSION, Fields, form_of, number_text, percent_text
from . import figures, forms, frames
from .document import (
    Block,
    Cell,
    Chart,
    Curve,
    Document,
    Facts,
    Section,
    Table,
    Topics,
    Words,
    document_of,
    name,
    verdict_cell,
)
from .numbers import (
    CLEARS,
    confidence_text,
    context_of,
    group_text,
    max_median_text,
    notable_features,
    rank_text,
    reference_lines,
    rest_text,
    statistics_of,
    variance_text,
    widest_kurtosis,
)
from .preprocessing import pixels_text
from .reading import only_one, read_bound
from .record import Binding, Bound, ReferenceRow, Time
from .shown import Shown
from .topics import is_noted, topics_of
from .words import limits_of, loosened, loosening_text, meaning_text, one_line, plain_text, rule_of, step_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class Report(Shown, Bound, Frozen):
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
        """Return the page, as `-o html` but without copies of the photos."""
        return self._as("html")

    def to_junit(self) -> str:
        """Return the JUnit document, as `-o junit`. A WARN is a failure."""
        return self._as("junit")

    def to_markdown(self) -> str:
        """Return the Markdown, as `-o markdown`."""
        return self._as("markdown")

    def save(self, path: str | Path) -> None:
        """Write a document in the suffix's form. The suffix is .json, .html, .xml (JUnit), .md or .sarif.

        Raises:
            UsageError: another suffix. OSError: the file can't be written.
        """
        if not (form := form_of(str(path))):
            raise UsageError(f"{path}: no form has this suffix", 'report.save("report.html")')
        Path(path).write_text(self._as(form), encoding="utf-8")

    def _as(self, form: str) -> str:
        return forms.render(form, [self])

    def __repr_args__(self) -> ReprArgs:
        """Return the fields that repr, str and rich show in a line; `to_json` has the record."""
        return [
            ("verdict", self.verdict.verdict),
            ("kind", self.kind),
            ("model", self.evidence.model.file),
            ("images", self.evidence.statistics.n_images),
        ]

    def to_frame(self) -> pd.DataFrame:
        """Return the measured statistics as a data frame. A row has estimate, interval, and threshold where it decides.

        Raises:
            EnvironmentFaultError: pandas is not installed.
        """
        return frames.check_frame(self.evidence.statistics, self.profile)

    def plot(self) -> Figure:
        """Draw the report.

        The panels are the kurtosis of the images, the evidence against the thresholds, and the place in the reference
        suite.

        Returns:
            A figure of matplotlib: the last value of a notebook's cell, or `.savefig(PATH)`.

        Raises:
            EnvironmentFaultError: matplotlib (the extra `plot`) is not installed.
        """
        return figures.check_figure(self, self.reference)


def read(path: Path) -> list[tuple[Report, Fields]]:
    """Read the reports of checks in a file. Raises as `read_bound`."""
    return read_bound(path, {"": Report})


def read_one(path: Path) -> Report:
    """Read the report of a one-report file, as a check wrote it. Raises as `only_one`."""
    return only_one(path, {"": Report})


MAX_FEATURES = 8  # rows


PASSED_STEP = (
    "Check its accuracy, too; compare each later file with this one: "
    "`robustcheck compare NEW.onnx MODEL --images PHOTOS`"
)


BUNDLED_STEP = "Check again on photos of the kind that your model will see: `robustcheck MODEL --images DIR`"


@document_of.register(Report)
def document_of_check(report: Report) -> Document:
    """Return the document of a check."""
    verdict = report.verdict
    model = report.evidence.model
    images = report.evidence.images
    gate = report.gate
    usual = {BUNDLED_NOTE, *fallback_note(report.evidence.execution), *([] if verdict.passed else [HEAD_NOTE])}
    remarks = [note for note in report.notes if note not in usual]
    step = BUNDLED_STEP if images.bundled else PASSED_STEP
    explain = ""
    if verdict.reasons:
        step = verdict.reasons[0].next_step
        explain = f"robustcheck explain {verdict.reasons[0].id}"
    photos = "" if images.bundled else f" --images {texts.quoted(images.source)}"
    n_images = report.evidence.statistics.n_images
    noted = Facts(tuple((Cell("note", "bold"), note) for note in remarks if verdict.passed))
    pixels = Facts(((Cell("preprocessing"), _pixels(report)),))
    statistics = Table(("statistic", ">value", "=interval", "=must be", "ok?"), _evidence(report, aligned=False))
    return Document(
        question="check",
        title="",
        subject="",
        model=model,
        facts=(
            name(model.file, "bold"),
            Cell("synthetic" if model.synthetic and not verdict.passed else "", "warn"),
            f"{n_images} of {images.n_available} images",
            Cell(ON_BUNDLED.removeprefix("on "), "warn") if images.bundled else name(images.source),
            name(f"tensor {model.tensor}"),
        ),
        summary=plain_text(verdict, report.evidence.statistics, model.ends_in),
        sections=(Section("", "", (pixels, noted, statistics), "brief"), *_whole(report)),
        notes=report.notes,
        limits="",
        version=report.tool_version,
        line=one_line(report),
        verdict=verdict_cell(report),
        exit_code=gate.exit_code if gate else None,
        rule=rule_of(report) if gate else "",
        cautions=tuple(filter(None, [loosening_text(report), *limits_of(report), *loosened(report)])),
        reasons=verdict.reasons,
        step=step_of(step, model.file, photos, explain, scores=model.rule != "encoder_output"),
        n_hidden=0 if verdict.passed else len(remarks),
    )


def _pixels(report: Report) -> Words:
    """Return the line on the preprocessing, with what states it. An assumed one is a warning."""
    text = pixels_text(report)
    return Cell(text, "warn") if report.evidence.preprocessing.source == "assumed" else text


def _whole(report: Report) -> Iterator[Section]:
    """Yield the sections of the whole report."""
    model = report.evidence.model
    s = report.evidence.statistics
    gate = report.gate
    planted = "" if is_noted(report, model.synthetic) else f": {model.synthetic}"
    synthetic = Cell(f"synthetic{planted}" if model.synthetic else "", "warn")
    said = [each for each in (name(model.source), synthetic) if each.text]
    rule = [Facts(((Cell("gate", "bold"), f"exit code {gate.exit_code}: {gate.rule}"),))] if gate else []
    yield Section("", "", (*said, meaning_text(report.verdict), *rule))
    heads = ("statistic", ">value", "=interval", "=must be", "=ok?")
    meanings = Facts(tuple((each.name, DEFINITIONS[each.id]) for each in statistics_of(report)))
    evidence = (Table(heads, _evidence(report, aligned=True)), meanings)
    yield Section("Evidence and thresholds", confidence_text(report), evidence)
    yield Section("More numbers", "", (_context(report),), "terminal")
    histogram: Block = "not measured"
    if s.histogram_counts and s.kurtosis_quantiles is not None:
        inner = [""] * (len(s.histogram_counts) - 2)
        places = (number_text(s.histogram_edges[0]), *inner, number_text(s.histogram_edges[-1]))
        histogram = Chart("", places, (Curve("", s.histogram_counts, ()),), str(max(s.histogram_counts)))
    median = f"median {number_text(s.kurtosis_quantiles[2])}" if s.kurtosis_quantiles else ""
    yield Section("Kurtosis per image", median, (histogram,), "terminal")
    remark = f"of {s.n_features}; the first three, and all that are beyond {OUTLIER_SD:g} SD in half of the images"
    yield Section("Most extreme features", remark, _features(report), "terminal")
    remark = "by strength; ✓ = shows the outlier features"
    yield Section("Place among the reference sets", remark, _reference(report), "terminal")
    topics = topics_of(report, report.evidence, binding=report.binding, published=report.published)
    yield Section("What was measured", "", (Topics(topics),))
    yield Section("Limits of the claim", "", (report.claim, *report.profile.limits), "terminal")


def _evidence(report: Report, *, aligned: bool) -> tuple[tuple[Words, ...], ...]:
    """Return the deciding statistics next to their thresholds. aligned: the dashes of the intervals are in line."""
    rows = list[tuple[Words, ...]]()
    statistics = statistics_of(report)
    bounds = [s.bounds(between=" – ").partition(" – ") for s in statistics]
    widest = max((len(low) for low, dash, _ in bounds if dash), default=0) if aligned else 0
    for s, (low, dash, high) in zip(statistics, bounds, strict=True):
        answer = Cell(" ".join(CLEARS[s.clears]), "pass" if s.clears == "yes" else "warn")
        interval = f"{low:>{widest}}{dash}{high}" if dash else low
        rows.append((s.name, Cell(s.value, "bold"), interval, s.must_be, answer))
    return tuple(rows)


def _context(report: Report) -> Table:
    """Return the numbers that decide nothing, two in a row."""
    s = report.evidence.statistics
    content = report.evidence.content
    pairs = [
        ("centred kurtosis", number_text(s.centred_kurtosis)),
        ("sparsity (zeros)", percent_text(s.zero_share)),
        ("RMS kurtosis", number_text(s.rms_kurtosis)),
        ("negative values", percent_text(s.negative_share)),
        ("max-median ratio", max_median_text(s)),
        ("spread over images", percent_text(s.spread)),
        ("effective rank", rank_text(content)),
        ("relative variance", variance_text(content)),
        ("mean of the rest", rest_text(content)),
        *context_of(report),
    ]
    cells: list[tuple[Words, Words]] = [(Cell(label, "dim"), value) for label, value in pairs]
    two = itertools.zip_longest(cells[::2], cells[1::2], fillvalue=("", ""))
    return Table(("", ">", "", ">"), tuple((*left, *right) for left, right in two))


def _features(report: Report) -> tuple[Block, ...]:
    features = notable_features(report.evidence.statistics)
    rows = tuple(
        (
            Cell(str(each.index), "bold"),
            percent_text(each.share),
            percent_text(each.frequency),
            f"{each.mean_z:+z.1f}",
        )
        for each in features[:MAX_FEATURES]
    )
    more = len(features) - MAX_FEATURES
    table = Table((">feature", ">share of K", f">beyond {OUTLIER_SD:g} SD", ">mean z"), rows)
    return (table if rows else "not measured", *([Cell(f"and {more} more", "dim")] if more > 0 else []))


def _reference(report: Report) -> tuple[Block, ...]:
    s = report.evidence.statistics
    strength = s.strength.estimate
    if strength is None or not report.reference:
        return ("not placed: no strength or no table",)
    rows: list[tuple[Words, ...]] = []
    for rank, row, left_out in reference_lines(report.reference, strength):
        if left_out:
            rows.append(("", Cell("…", "dim"), *[""] * 4, Cell(texts.gap_text(left_out), "dim")))
        if row is None:
            own = ("▶", str(rank), number_text(strength), number_text(s.kurtosis.estimate), "", "this model", "")
            rows.append(tuple(Cell(each, "bold") for each in own))
            continue
        # what comes after a comma, how it was finetuned, takes a second line; its group says that it was
        checkpoint = texts.short_checkpoint(row.checkpoint).partition(", ")[0]
        shows = Cell("✓", "pass") if row.shows_outlier_features else Cell("–", "dim")
        numbers = (number_text(row.strength), number_text(row.kurtosis))
        rows.append(("", Cell(str(rank), "dim"), *numbers, shows, group_text(row.group), name(checkpoint)))
    moves = "K (kurtosis) moves with the image set"
    if widest := widest_kurtosis(report.reference):
        widely, least, most = widest
        moves += f": {widely} reads {number_text(least)} on one, {number_text(most)} on another"
    return Table(("", ">rank", ">strength", ">K", "", "group", "checkpoint"), tuple(rows)), Cell(f"{moves}.", "dim")

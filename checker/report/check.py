"""The report of a check, and its document. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ...thresholds.context import Context
from ...thresholds.profile import Profile
from ...thresholds.records import Frozen, ReprArgs
from ...thresholds.statistics import DEFINITIONS
from .. import text as texts
from ..core.evidence import OUTLIER_SD, Evidence, Statistics
from ..core.verdict.gate import Gate
from ..core.verdict.notes import BUNDLED_NOTE, HEAD_NOTE, ON_BUNDLED, fallback_note
from ..core.verdict.rule import Verdict
from ..errors import UsageError
from ..text import SCHEMA_VERSION, Fields, form_of, number_text, percent_text, printable
from . import figures, forms, frames
from .basis import INTERVALS, INTERVALS_IN_SHORT, basis_of, preprocessing_cell
from .document import (
    Bar,
    Block,
    Cell,
    Column,
    Document,
    Facts,
    Labelled,
    Section,
    Style,
    Table,
    TableRow,
    Topics,
    Words,
    document_of,
    histogram,
    name,
    page_sections,
    verdict_cell,
)
from .model_names import FormOptions
from .numbers import (
    Clears,
    JudgedStatistic,
    confidence_text,
    content_texts,
    context_of,
    group_text,
    max_median_text,
    notable_features,
    reference_lines,
    statistics_of,
    widest_kurtosis,
)
from .reading import only_one, read_bound
from .record import Binding, Bound, ReferenceRow, Time
from .shown import Shown
from .topics import is_noted, topics_of
from .words import limits_of, loosened, loosening_text, meaning_text, one_line, plain_text, step_of

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
STYLES: dict[Clears, Style] = {"yes": "pass", "no": "warn", "straddles": "warn", "not measured": "warn"}


PASSED_STEP = (
    "Check its accuracy, too; compare each later file with this one: "
    "`robustcheck compare NEW.onnx MODEL --images PHOTOS`"
)


BUNDLED_STEP = "Check again on photos of the kind that your model will see: `robustcheck MODEL --images DIR`"


@document_of.register(Report)
def document_of_check(report: Report) -> Document:
    """Return the document of a check."""
    verdict = report.verdict
    evidence = report.evidence
    model = evidence.model
    images = evidence.images
    usual = {BUNDLED_NOTE, *fallback_note(evidence.execution)}
    if not verdict.passed:
        usual.add(HEAD_NOTE)
    remarks = [note for note in report.notes if note not in usual]
    planted = Cell("")
    if model.synthetic and not verdict.passed:
        planted = Cell("synthetic", "warn")
    step = PASSED_STEP
    explain = ""
    photos = f" --images {texts.quoted(images.source)}"
    source = name(images.source)
    if images.bundled:
        step = BUNDLED_STEP
        photos = ""
        source = Cell(ON_BUNDLED.removeprefix("on "), "warn")
    if verdict.reasons:
        step = verdict.reasons[0].next_step
        explain = f"robustcheck explain {verdict.reasons[0].id}"
    measured = f"{evidence.statistics.n_images} of {images.n_available} images"
    noted = Facts(tuple((Cell("note", "bold"), note) for note in remarks if verdict.passed))
    pixels = Facts((("preprocessing", preprocessing_cell(evidence.preprocessing)),))
    rows = tuple(_row(statistic) for statistic in statistics_of(report))
    statistics = Table(
        (
            Column("statistic"),
            Column("value", right=True),
            Column("interval", no_wrap=True),
            Column("must be", no_wrap=True),
            Column("ok?", no_wrap=True),
        ),
        rows,
    )
    about = Cell(INTERVALS_IN_SHORT, "dim")
    document = Document(
        question="check",
        decides="The release",
        model=model,
        facts=(name(model.file, "bold"), planted, measured, source, name(f"tensor {model.tensor}")),
        summary=plain_text(verdict, evidence.statistics, model.ends_in),
        sections=(Section("", "", (pixels, noted, statistics, about), "brief"), *_whole(report, statistics)),
        notes=report.notes,
        version=report.tool_version,
        line=one_line(report),
        verdict=verdict_cell(report),
        cautions=tuple(filter(None, [loosening_text(report), *limits_of(report), *loosened(report)])),
        reasons=verdict.reasons,
        step=step_of(step, model.file, photos, explain, scores=model.rule != "encoder_output"),
        remark="",
        basis=basis_of(evidence, report.time),
        tiles=tuple(_tile(statistic) for statistic in statistics_of(report)),
        tiles_note=INTERVALS,
        n_hidden=0 if verdict.passed else len(remarks),
    )
    if report.gate is None:
        return document
    gate = report.gate
    rule = printable(gate.rule)
    return replace(document, exit_code=gate.exit_code, rule=rule, waived=gate.waived, expired=gate.expired)


@page_sections.register(Report)
def page_sections_of_check(report: Report, options: FormOptions) -> tuple[Section, ...]:
    """Return the sections of a check that its page alone has."""
    from .check_page import sections  # noqa: PLC0415 # takes the figures of the page

    return tuple(sections(report.evidence, report.profile, report.published, options))


def _tile(statistic: JudgedStatistic) -> tuple[str, str, Words]:
    """Return a deciding statistic with its value, its interval and its threshold."""
    words = f"{statistic.answer}: {statistic.bounds()}, must be {statistic.must_be}"
    return statistic.name, statistic.value, Cell(words, STYLES[statistic.clears])


def _row(statistic: JudgedStatistic) -> TableRow:
    """Return a deciding statistic next to its threshold."""
    style = STYLES[statistic.clears]
    bar = Bar(statistic.interval, statistic.minimum, style, unit=statistic.minimum)
    interval = Cell(statistic.bounds(between=" – "), bar=bar)
    answer = Cell(statistic.answer, style)
    return statistic.name, Cell(statistic.value, "bold"), interval, statistic.must_be, answer


def _whole(report: Report, statistics: Table) -> Iterator[Section]:
    """Yield the sections of the whole report. statistics: those that decide."""
    s = report.evidence.statistics
    yield Section("", "", tuple(_meaning(report)), "text")
    meanings = Facts(tuple((each.name, DEFINITIONS[each.id]) for each in statistics_of(report)))
    evidence = (statistics, Cell(INTERVALS_IN_SHORT, "dim"), meanings)
    yield Section("Evidence and thresholds", confidence_text(report), evidence)
    yield Section("More numbers", "", (_context(report),), "detail", is_folded=True)
    median = ""
    chart: Block = "not measured"
    if s.histogram_counts and s.kurtosis_quantiles:
        median = f"median {number_text(s.kurtosis_quantiles[2])}"
        edges = tuple(map(number_text, s.histogram_edges))
        words = "kurtosis of an image, and how many images have it"
        chart = replace(histogram(words, edges, s.histogram_counts, "kurtosis"), caption=words)
    yield Section("Kurtosis per image", median, (chart,), "detail", is_folded=True)
    remark = f"of {s.n_features}; the first three, and all that are beyond {OUTLIER_SD:g} SD in half of the images"
    yield Section("Most extreme features", remark, _features(s), "detail", is_folded=True)
    remark = "by strength; ✓ = shows the outlier features"
    yield Section("Place among the reference sets", remark, _reference(report), "detail", is_folded=True)
    topics = topics_of(report, report.evidence, binding=report.binding, published=report.published)
    yield Section("What was measured", "", (Topics(topics),))
    yield Section("Limits of the claim", "", (report.claim, *report.profile.limits), "detail")


def _meaning(report: Report) -> Iterator[Block]:
    """Yield what the model is, what the verdict means, and what decided the exit code."""
    model = report.evidence.model
    if model.source:
        yield name(model.source)
    if model.synthetic and is_noted(report, model.synthetic):
        yield Cell("synthetic", "warn")
    elif model.synthetic:
        yield Cell(f"synthetic: {model.synthetic}", "warn")
    yield meaning_text(report.verdict)
    if report.gate:
        rule = f"exit code {report.gate.exit_code}: {report.gate.rule}"
        yield Facts(((Cell("gate", "bold"), rule),))


def _context(report: Report) -> Table:
    """Return the numbers that decide nothing by themselves, two in a row."""
    s = report.evidence.statistics
    rank, variance, rest = content_texts(report.evidence.content)
    pairs = [
        ("centred kurtosis", number_text(s.centred_kurtosis)),
        ("sparsity (zeros)", percent_text(s.zero_share)),
        ("RMS kurtosis", number_text(s.rms_kurtosis)),
        ("negative values", percent_text(s.negative_share)),
        ("max-median ratio", max_median_text(s)),
        ("spread over images", percent_text(s.spread)),
        ("effective rank", rank),
        ("relative variance", variance),
        ("mean of the rest", rest),
        *context_of(report),
    ]
    cells: list[Labelled] = [(Cell(label, "dim"), value) for label, value in pairs]
    two = itertools.zip_longest(cells[::2], cells[1::2], fillvalue=("", ""))
    return Table(
        (Column(""), Column("", right=True), Column(""), Column("", right=True)),
        tuple((*left, *right) for left, right in two),
    )


def _features(statistics: Statistics) -> tuple[Block, ...]:
    """Return the most extreme features as a table, and how many more there are."""
    features = notable_features(statistics)
    rows = tuple(
        (
            Cell(str(each.index), "bold"),
            percent_text(each.share),
            percent_text(each.frequency),
            f"{each.mean_z:+z.1f}",
        )
        for each in features[:MAX_FEATURES]
    )
    if not rows:
        return ("not measured",)
    table = Table(
        (
            Column("feature", right=True),
            Column("share of K", right=True),
            Column(f"beyond {OUTLIER_SD:g} SD", right=True),
            Column("mean z", right=True),
        ),
        rows,
    )
    n_more = len(features) - len(rows)
    if n_more == 0:
        return (table,)
    return table, Cell(f"and {n_more} more", "dim")


def _reference(report: Report) -> tuple[Block, ...]:
    s = report.evidence.statistics
    strength = s.strength.estimate
    if strength is None or not report.reference:
        return ("not placed: no strength or no table",)
    rows: list[TableRow] = []
    for rank, row, left_out in reference_lines(report.reference, strength):
        if left_out:
            gap = Cell(texts.gap_text(left_out), "dim")
            rows.append(("", Cell("…", "dim"), "", "", "", "", gap))
        if row is None:
            own = ("▶", str(rank), number_text(strength), number_text(s.kurtosis.estimate), "", "this model", "")
            rows.append(tuple(Cell(each, "bold") for each in own))
            continue
        # what comes after a comma, how it was finetuned, takes a second line; its group says that it was
        checkpoint = texts.short_checkpoint(row.checkpoint).partition(", ")[0]
        shows = Cell("–", "dim")
        if row.shows_outlier_features:
            shows = Cell("✓", "pass")
        numbers = (number_text(row.strength), number_text(row.kurtosis))
        rows.append(("", Cell(str(rank), "dim"), *numbers, shows, group_text(row.group), name(checkpoint)))
    moves = "K (kurtosis) moves with the image set"
    if widest := widest_kurtosis(report.reference):
        widely, least, most = widest
        moves += f": {widely} reads {number_text(least)} on one, {number_text(most)} on another"
    table = Table(
        (
            Column(""),
            Column("rank", right=True),
            Column("strength", right=True),
            Column("K", right=True),
            Column(""),
            Column("group"),
            Column("checkpoint"),
        ),
        tuple(rows),
    )
    return table, Cell(f"{moves}.", "dim")

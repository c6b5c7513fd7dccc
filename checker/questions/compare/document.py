"""Make the document of a comparison. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING

from ...core.evidence import Gallery, SeenImage
from ...core.verdict.kinds import NAMES
from ...core.verdict.notes import BUNDLED_NOTE, fallback_note
from ...core.verdict.rule import Reason
from ...report import figures
from ...report.basis import basis_of
from ...report.document import (
    Bar,
    Block,
    Cell,
    Column,
    Document,
    Facts,
    Photo,
    Photos,
    Section,
    Style,
    Table,
    TableRow,
    Topics,
    document_of,
    name,
)
from ...report.shown import figure_of
from ...report.topics import topics_of
from ...report.words import SIGNS, STOPPED, cautions, headline, one_line, verdict_text
from ...text import count_text, number_text, percent_text
from .changes import smallest_losses
from .features import FeatureFate
from .index_report import IndexReason, IndexReport
from .judge import CompareReport, range_text
from .sentences import ordered, plain_text, reference_name
from .similarity import MIN_CKA, NEEDED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEEPS = {
    "kept": Cell("✓ kept", "pass"),
    "shrank": Cell("✗ shrank", "warn"),
    "undecided": Cell("? undecided", "warn"),
    "not required": Cell("–", "dim"),
}
"""what became of a statistic"""
FATE_CELLS = {
    "kept": Cell("✓ kept", "pass"),
    "moved": Cell("→ moved", "warn"),
    "rotated": Cell("✗ rotated away", "warn"),
    "uncorrelated": Cell("✗ another one", "warn"),
    "undecided": Cell("? undecided", "warn"),
    "weaker": Cell("✗ weaker", "warn"),
    "lost": Cell("✗ lost", "warn"),
}
"""the same of an outlier feature"""


@document_of.register(CompareReport)
def document_of_comparison(report: CompareReport) -> Document:
    """Return the document of a comparison."""
    candidate = report.candidate
    usual = {BUNDLED_NOTE, *fallback_note(candidate.evidence.execution)}
    unusual = [note for note in report.notes if note not in usual]
    reasons = ordered(report.verdict)
    decisive: Reason | IndexReason | None = next(iter(reasons), None)
    if report.index and not report.is_required:
        decisive = report.index.reason
    verdict = verdict_text(candidate.verdict)
    of_reference = verdict_text(report.reference.verdict)
    return Document(
        question="compare",
        decides="The release",
        title="Comparison",
        subject="has a model kept what made its original pass?",
        model=candidate.evidence.model,
        facts=(),
        summary=plain_text(report),
        sections=tuple(_sections(report, unusual)),
        notes=report.notes,
        limits=report.claim,
        version=report.tool_version,
        verdict=judged(heading(report), report.exit_code == 0, "fail"),
        exit_code=report.exit_code,
        rule=report.rule,
        cautions=tuple(cautions(report.gated())),
        reasons=reasons,
        step=step_after(decisive),
        remark=f"Compared with {reference_name(report)}. By itself the candidate is {verdict}, the reference "
        f"{of_reference}.",
        line=_line(report),
        basis=basis_of(candidate.evidence, report.time),
        tiles=tuple(_tiles(report)),
    )


def judged(text: str, is_good: bool, otherwise: Style = "warn") -> Cell:
    """Return words in the style of a good result, or in the other one."""
    if is_good:
        return Cell(text, "pass")
    return Cell(text, otherwise)


def step_after(reason: Reason | IndexReason | None) -> tuple[str, str]:
    """Return the next step of the reason that decides, and a command; empty without a reason.

    The command is the one that ends the step, where that names its files, else the one that explains the reason.
    """
    if reason is None:
        return "", ""
    if match := re.fullmatch(r"(.*:) `(robustcheck export onnx [^`]*)`\.", reason.next_step):
        return match[1], match[2]
    return reason.next_step, f"robustcheck explain {reason.id}"


def _tiles(report: CompareReport) -> Iterator[tuple[str, object, str]]:
    """Yield the numbers that a page shows large."""
    required = [s for s in report.statistics if s.keeps != "not required"]
    n_kept = sum(s.keeps == "kept" for s in required)
    least = f"at least {1 - report.tolerance:g} of each must be left"
    yield "Statistics kept", f"{n_kept} of {len(required)}", least
    n_kept = sum(f.fate == "kept" for f in report.features)
    yield "Outlier features kept", f"{n_kept} of {len(report.features)}", "of the reference"
    alike = report.similarity
    cka = alike.cka_debiased if alike else None
    same_nearest = alike.same_nearest if alike else None
    yield "CKA, debiased", number_text(cka), f"1 = alike up to rotation and scale; {MIN_CKA:g} is needed"
    yield "Same nearest neighbour", percent_text(same_nearest), "of the images"
    pairs = "in pairs" if report.paired else "not in pairs"
    yield "Images measured", report.n_images, pairs


def heading(report: CompareReport) -> str:
    """Write the verdicts in a few words. The one that stops the run leads, and one that is not required is last."""
    verdict = f"{SIGNS[report.verdict.verdict]} {verdict_text(report.verdict)}"
    stopped = STOPPED if report.exit_code else ""
    if not report.is_required:
        parts = [report.index_words, stopped, f"outlier features: {verdict_text(report.verdict)}"]
    elif report.index_first:
        parts = [report.index_words, verdict, stopped]
    else:
        parts = [verdict, report.index_words, stopped]
    return " · ".join(filter(None, parts))


def _line(report: CompareReport) -> str:
    """Write the required verdicts in one line, and what decides the exit code. What stops the run leads."""
    line = one_line(report)
    if report.index_first:
        line = f"{report.index_text} On outlier features: {line}"
    elif "index" in report.required:
        line = f"{line}; {report.index_text}"
    if report.exit_code:
        line += f" · {STOPPED}"
    return f"{line} · exit code {report.exit_code}: {report.rule}"


def _sections(report: CompareReport, unusual: Iterable[str]) -> Iterator[Section]:
    word = "baseline" if report.baseline else "reference"
    sides = (("candidate", report.candidate), (word, report.reference))
    models = []
    for label, side in sides:
        file = name(side.evidence.model.file, "bold")
        by_itself = judged(verdict_text(side.verdict), side.verdict.passed)
        models.append((label, file, side.evidence.execution.precision, by_itself))
    table = Table(
        (Column("model"), Column("file"), Column("precision", no_wrap=True), Column("by itself", no_wrap=True)),
        tuple(models),
    )
    yield Section("Models", "", (table,), "short")
    notes = [(Cell("note", "bold"), note) for note in unusual]
    yield Section("", "", (Facts(tuple(notes)),), "brief")
    least = 1 - report.tolerance
    confidence = f"{100 * (1 - report.alpha):g} %"
    must = f"{100 * least:g} % must be kept, {confidence} confidence together"
    pairs = "paired" if report.paired else "not paired"
    remark = f"{report.n_images} images, {pairs}; {must}"
    yield Section("Statistics", remark, (_statistics(report, least),), "short")
    legend = (
        f"A statistic is kept if the interval of its ratio, candidate / reference, is above {least:g} with both its "
        "ends. A dash: this one need not be kept; it only says whether the thresholds apply."
    )
    yield Section("", "", (legend,))
    brief: list[Block] = []
    if report.similarity:
        brief.append(f"as a whole: {report.similarity.text}")
    index = report.index
    if index and report.is_required:
        brief.append(_index_answer(index))
    yield Section("", "", tuple(brief), "brief")
    yield _features(report)
    yield _similarity(report)
    if index:
        yield from _of_index(index, report.thumbnails)
    for label, side in sides:
        topics = Topics(topics_of(report, side.evidence))
        title = f"{label.capitalize()}: what was measured, and how"
        yield Section(title, side.evidence.model.source, (topics,))


def _index_answer(index: IndexReport) -> Cell:
    return judged(index.plain, index.is_compatible)


def _of_index(index: IndexReport, thumbnails: Mapping[str, str]) -> Iterator[Section]:
    """Yield what was measured for the index verdict, and the images whose vectors differ most."""
    remark = "not measured"
    if index.n_images:
        remark = f"measured on {count_text(index.n_images, 'photo')}"
    rows = Facts(tuple(index.rows()))
    yield Section("Index of vectors", remark, (_index_answer(index), rows))
    photos = []
    for image in index.worst:
        picture = thumbnails.get(image.digest, "")
        photos.append(Photo(image.name, f"cosine {number_text(image.cosine)}", picture))
    if photos:
        yield Section("Photos whose vectors differ most", "", (Photos(tuple(photos)),), "page")


def _statistics(report: CompareReport, least: float) -> Table:
    rows = []
    for statistic in sorted(report.statistics, key=lambda statistic: statistic.keeps == "not required"):
        candidate = number_text(statistic.candidate, missing="–")
        reference = number_text(statistic.reference, missing="–")
        kept = KEEPS[statistic.keeps]
        bar = Bar(statistic.ratio, least, kept.style)
        ratio = Cell(range_text(statistic.ratio), bar=bar)
        rows.append((NAMES[statistic.name], Cell(candidate, "bold"), reference, ratio, kept))
    most = sum(s.keeps != "not required" for s in report.statistics)
    columns = (
        Column("statistic"),
        Column("candidate", right=True),
        Column("reference", right=True),
        Column("ratio"),
        Column("kept?", no_wrap=True),
    )
    return Table(columns, tuple(rows), legend=_smallest(report), most=most)


def _smallest(report: CompareReport) -> str:
    """Write the smallest losses that would not have been answered by kept, or nothing where nothing was kept."""
    texts = []
    for change in report.statistics:
        losses = smallest_losses(change, report.tolerance)
        if losses is not None:
            undecided, shrank = map(percent_text, losses)
            texts.append(f"{NAMES[change.name]} {undecided} (shrank: {shrank})")
    if not texts:
        return ""
    return f"smallest loss that would not be kept: {', '.join(texts)}"


def _features(report: CompareReport) -> Section:
    remark = "of the reference, and what became of them"
    if not report.features or not report.features[0].persistent:
        remark = "the reference has no persistent one; its strongest feature, and what became of it"
    of_candidate = (
        Column("is now", right=True),
        Column("mean z now", right=True),
        Column("beyond 4 SD now", right=True, wide_only=True),
        Column("what became of it", no_wrap=True),
    )
    columns = (
        Column("feature", right=True),
        Column("mean z", right=True),
        Column("beyond 4 SD", right=True, wide_only=True),
        *of_candidate,
    )
    rows = tuple(map(_feature, report.features))
    blocks: list[Block] = [Table(columns, rows)]
    if not report.features:
        blocks = ["The reference has no feature to follow."]
    if report.new_features:
        indices = ", ".join(map(str, report.new_features))
        blocks.append(Cell(f"new in the candidate: {indices}", "warn"))
    return Section("Outlier features", remark, tuple(blocks))


def _feature(feature: FeatureFate) -> TableRow:
    before = (Cell(str(feature.index), "bold"), f"{feature.mean_z:+z.1f}", percent_text(feature.frequency))
    now = ("–", "–", "–")
    if feature.candidate_mean_z is not None:
        at = feature.index if feature.to is None else feature.to
        now = (str(at), f"{feature.candidate_mean_z:+z.1f}", percent_text(feature.candidate_frequency))
    fate = FATE_CELLS[feature.fate]
    if feature.correlation is not None and feature.to is not None:
        fate = fate._replace(text=f"{fate.text} (r = {feature.correlation:+.2f})")
    return (*before, *now, fate)


def _similarity(report: CompareReport) -> Section:
    similarity = report.similarity
    classes = report.agreement
    if similarity is None:
        none = Cell("Not compared: the baseline's images, or their order, are not the candidate's.", "dim")
        return Section("As a whole", "", (none,))
    rows = [
        ("alike", f"{similarity.text}, {similarity.distance_text}"),
        ("linear CKA", f"{number_text(similarity.cka)} before it is debiased"),
        (
            "cosines between images",
            f"changed by {number_text(similarity.cosine_change)} (root mean square; a rotation changes none)",
        ),
    ]
    if classes is not None:
        wilson = f"Wilson {100 * classes.confidence:g} %"
        bounds = f"{100 * classes.low:.1f} to {100 * classes.high:.1f} %, {wilson}"
        by_chance = f"{100 * classes.chance:.1f} % by chance"
        same = f"{percent_text(classes.value)} of {classes.n} images ({bounds}; {by_chance})"
        rows.append(("same top-1 class", same))
    remark = f"{NEEDED} for PASS, and classes that agree more than by chance"
    return Section("As a whole", remark, (Facts(tuple(rows)),))


@figure_of.register(CompareReport)
def figure_of_comparison(report: CompareReport) -> Figure:
    """Draw the kurtosis of the images in both models, the ratio of each statistic, and the outlier features."""
    ours = PurePath(report.candidate.evidence.model.file).name
    theirs = PurePath(report.reference.evidence.model.file).name
    subject = f"{ours} against {theirs}"
    if report.index_words:
        subject = f"{report.index_words} · {subject}"
    title = headline(report.verdict, subject, report.n_images)
    figure, (histogram, ratio_axes, features) = figures.figure(title, 3)
    sides = ((report.reference, figures.WITH, "reference"), (report.candidate, figures.OWN, "candidate"))
    for side, colour, word in sides:
        s = side.evidence.statistics
        if s.histogram_counts:
            histogram.stairs(s.histogram_counts, s.histogram_edges, color=colour, linewidth=2, label=word)
    histogram.set(title="activation kurtosis", xlabel="kurtosis of an image", ylabel="images")
    ratios = [(NAMES[s.name], s.ratio, 1.0, s.keeps in ("kept", "not required")) for s in report.statistics]
    figures.intervals(ratio_axes, ratios, "candidate / reference", 1 - report.tolerance)
    ratio_axes.set_title(f"kept of the reference (at least {100 * (1 - report.tolerance):g} %)")
    places = range(len(report.features))
    of_reference = [f.mean_z for f in report.features]
    of_candidate = [figures.NAN if (z := f.candidate_mean_z) is None else z for f in report.features]
    heights = (of_reference, of_candidate)
    for (_, colour, word), of_side, offset in zip(sides, heights, (-0.2, 0.2), strict=True):
        bars = [place + offset for place in places]
        features.bar(bars, of_side, 0.4, color=colour, label=word)
    indices = [str(f.index) for f in report.features]
    features.set_xticks(places, indices)
    features.set(title="outlier features of the reference", xlabel="feature", ylabel="mean z (SD)")
    for axes in (histogram, features):
        axes.legend(fontsize="small")
    return figure


def pictured(report: CompareReport) -> CompareReport:
    """Return the comparison with a gallery of the images whose vectors differ most."""
    worst = report.index.worst if report.index else ()
    images = tuple(SeenImage(name=image.name, digest=image.digest, kurtosis=0, z=()) for image in worst)
    gallery = Gallery(features=(), shown=(), most=images, least=())
    evidence = report.evidence.model_copy(update={"gallery": gallery})
    return report.model_copy(update={"candidate": report.candidate.model_copy(update={"evidence": evidence})})

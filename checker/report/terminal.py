"""Lay out documents in the terminal, and make that of a check. Pure.

The short report has at most 17 lines at 80 columns; `-v` shows all. The verdict is the last line of both.

Only bold, dim and the eight basic colours are used, never white, black or a background, and no colour carries
a meaning alone, so that it reads the same on dark, light and colourless output.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.rule import Rule
from rich.segment import Segment
from rich.table import Table as Grid
from rich.text import Text

from ...thresholds.statistics import DEFINITIONS
from .. import text as texts
from ..core.evidence import OUTLIER_SD
from ..core.verdict.notes import BUNDLED_NOTE, HEAD_NOTE, ON_BUNDLED, fallback_note
from ..core.verdict.reasons import KINDS, RULES
from ..core.verdict.rule import Reason
from ..errors import COMMANDS
from ..text import frozen, name_text, number_text, percent_text, sentence_text
from . import forms
from .document import (
    Block,
    Cell,
    Chart,
    Curve,
    Document,
    Facts,
    Photos,
    Section,
    Table,
    Topic,
    Topics,
    Words,
    blocks_of,
    cell_of,
    is_noted,
    name,
)
from .record import Failed, Outcome, Report

Parts = list[RenderableType]
INDENT = 2  # columns
COLOURS = {"PASS": "green", "WARN": "yellow"}
"""Colour of each verdict."""
STYLES = {"pass": "green", "warn": "yellow", "fail": "red"}
WIDE = 108  # columns that a table needs for all of its own
LISTED = 12  # facts of a block in a short report
REASONS_LISTED = 6  # of a short report
BAR_ROWS = 4


@frozen
class Pen:
    """A writer of Text, never markup. It uses the characters that the output can show."""

    ascii_only: bool

    def say(self, sentence: str, style: str = "") -> Text:
        """Write words of the report's own. They may quote names."""
        return Text(sentence_text(sentence, self.ascii_only), style, overflow="fold")

    def prose(self, sentence: str, style: str = "") -> Text:
        """Write a sentence that quotes no names."""
        return Text(texts.prose_text(sentence, self.ascii_only), style, overflow="fold")

    def name(self, name: str, style: str = "") -> Text:
        """Write a name from outside, exactly."""
        return Text(name_text(name, self.ascii_only), style, overflow="fold")

    def command(self, command: str, style: str = "cyan") -> Text:
        """Write a command to copy, on one line. The console may be narrower."""
        return Text(name_text(command, self.ascii_only), style, no_wrap=True, overflow="ignore")

    def facts(self, items: list[Text]) -> Text:
        """Join facts in one line, with dots between. Empty ones are left out."""
        return self.say(" · ").join(item for item in items if item)


@frozen
class Trimmed:
    """A renderable without blanks at line ends. Tables leave them there."""

    body: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Implement rich's protocol."""
        # not `render_lines`, which cuts what is wider than the console: a command
        for segments in Segment.split_lines(console.render(self.body, options)):
            yield from reversed(list(_without_trailing_blanks(segments)))
            yield Segment.line()


def _without_trailing_blanks(segments: list[Segment]) -> Iterator[Segment]:
    content = False
    for text, style, control in reversed(segments):
        written = text if content else text.rstrip(" ")
        if written:
            content = True
            yield Segment(written, style, control)


def line(*pieces: Text) -> Text:
    """Join pieces, each in its own style. `+` would spread the first one's style over all."""
    return Text(overflow="fold").join(pieces)


def section(pen: Pen, title: str, remark: str, *body: RenderableType) -> Group:
    """Put a heading with a remark over indented text."""
    return Group(
        line(pen.say(title, "bold"), pen.say(f"  {remark}" if remark else "", "dim")),
        *(Padding(block, (0, 0, 0, INDENT)) for block in body),
    )


def noted(pen: Pen, sentences: Sequence[str]) -> Parts:
    """List notes, which may quote names, under a heading. Without notes there is nothing."""
    return [section(pen, "Notes", "", listed(pen, (("•", each) for each in sentences)))] if sentences else []


def columns(pen: Pen, *headers: str) -> Grid:
    """Make a table without lines. A header with `>` is right-justified, with `>` or `=` its column never wraps."""
    is_headed = any(header.lstrip(">=") for header in headers)
    table = Grid(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim", show_header=is_headed)
    for header in headers:
        table.add_column(
            pen.say(header.lstrip(">=")),
            justify="right" if header.startswith(">") else "left",
            overflow="fold",
            no_wrap=header.startswith((">", "=")),
        )
    return table


def table_of(pen: Pen, headers: Iterable[str], rows: Iterable[Iterable[Words]]) -> Grid:
    """Lay out a table of `columns`. A row has a cell per column."""
    grid = columns(pen, *headers)
    for row in rows:
        grid.add_row(*(written(pen, each) for each in row))
    return grid


def written(pen: Pen, words: Words) -> Text:
    """Write words of our own, or a cell."""
    cell = cell_of(words)
    return (pen.name if cell.is_name else pen.say)(cell.text, STYLES.get(cell.style, cell.style))


def spaced(blocks: Iterable[RenderableType]) -> Group:
    """Stack blocks with a blank line between."""
    return Group(*(part for i, block in enumerate(blocks) for part in ([Text(), block] if i else [block])))


def hanging(rows: Iterable[tuple[Text, Text]]) -> Grid:
    """Lay out rows of a label and wrapping text. The label may be a mark."""
    grid = Grid.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold", ratio=1)
    for mark, text in rows:
        grid.add_row(mark, text)
    return grid


def listed(pen: Pen, rows: Iterable[tuple[Words, Words]]) -> Grid:
    """Lay out rows of `hanging`, from words or cells."""
    return hanging((written(pen, mark), written(pen, text)) for mark, text in rows)


def labelled(pen: Pen, rows: Iterable[tuple[str, str]]) -> Grid:
    """Lay out rows of a dim label and text. Rows without a text are left out."""
    return listed(pen, ((Cell(label, "dim"), text) for label, text in rows if text))


@frozen
class Ruled:
    """A line of words in a rule. It has the full width; where the words fill the line, they are alone and wrap."""

    pen: Pen
    words: str
    colour: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Implement rich's protocol."""
        pen = self.pen
        title = line(pen.say("━━ ", self.colour), pen.say(self.words, f"bold {self.colour}"))
        rule = Rule(title, characters=sentence_text("━", pen.ascii_only), style=self.colour, align="left")
        yield rule if title.cell_len + 2 <= options.max_width else title


def reasons(pen: Pen, of_verdict: Sequence[Reason]) -> Parts:
    """Explain the reasons for WARN as one block.

    Each has what was seen and what to do next; without any there is no block.
    """
    rows: list[tuple[Text, Text]] = []
    before = None
    for reason in of_verdict:
        if reason.kind != before:
            rows.append((Text(), pen.say(f"{reason.kind}: {KINDS[reason.kind]}", "dim")))
            before = reason.kind
        step = pen.say(f"→ {reason.next_step}")
        step.highlight_regex(r"`[^`]*`", "cyan")
        title = line(pen.say(f"{reason.title}  " if reason.id in RULES else "", "bold"), pen.say(reason.id, "dim"))
        rows += [(pen.say("✗", "yellow"), title), (Text(), pen.say(reason.seen)), (Text(), step)]
    remark = "`robustcheck explain REASON` shows more"
    return [section(pen, "Reasons and next steps", remark, hanging(rows))] if rows else []


def reason_ids(pen: Pen, of_verdict: Sequence[Reason], n_notes: int = 0) -> list[Text]:
    """Write the ids of the reasons for WARN. There is no line where there is none."""
    if not of_verdict:
        return []
    more = len(of_verdict) - REASONS_LISTED
    notes = f" and {texts.count_text(n_notes, 'note')}" if n_notes else ""
    text = f"✗ {', '.join(each.id for each in of_verdict[:REASONS_LISTED])}{f' and {more} more' if more > 0 else ''}"
    return [line(pen.say(text, "yellow"), pen.say(f"  -v explains them{notes}", "dim"))]


def steps(pen: Pen, prose: str, command: str) -> list[Text]:
    """Write what to do next, as `forms.step_of` gives it."""
    if not prose:
        return [line(pen.say("→ "), pen.command(command))] if command else []
    return [pen.say(f"→ {prose}"), *([pen.command(f"  {command}")] if command else [])]


def measured(pen: Pen, topics: Iterable[Topic]) -> Grid:
    """Show what was measured, and how."""
    rows: list[tuple[Text, Text]] = []
    for topic in topics:
        facts = [
            line(pen.say(fact.caution, "yellow"), (pen.say if fact.kind == "text" else pen.name)(fact.short))
            for fact in (*topic.facts, *topic.more)
        ]
        below = (line(*(written(pen, each) for each in words)) for words in topic.below)
        label = f"{topic.label} "
        for text in (pen.facts(facts), *below):
            rows.append((pen.say(label, "dim"), text))
            label = " "
    return hanging(rows)


def render_document(document: Document, *, ascii_only: bool = False, verbose: bool = False) -> RenderableType:
    """Lay out the short report, or the whole. The answer is last."""
    pen = Pen(ascii_only)
    facts = [pen.facts([written(pen, each) for each in document.facts])] if document.facts else []
    blocks = [_opening(pen, document, facts, verbose=verbose)]
    if verbose:
        blocks.append(reasons(pen, document.reasons))
    if verbose or document.notes_in_short:
        blocks.append(noted(pen, document.notes))
    if not document.title:
        blocks.append([*facts])
    for each in document.sections:
        if each.shown in ("short", *(("whole", "terminal") if verbose else ("brief",))):
            parts = [Group(*_block(pen, block, verbose=verbose)) for block in each.blocks]
            if each.title:
                blocks.append([section(pen, each.title, each.remark, spaced(parts))])
            else:
                blocks[-1] += parts
    if not verbose:
        blocks[-1] += reason_ids(pen, document.reasons, document.n_hidden)
    if verbose and document.limits:
        blocks.append([section(pen, "Limits", "", pen.prose(document.limits))])
    elif document.hint and not verbose:
        blocks.append([pen.say(document.hint, "dim")])
    if verbose or document.verdict is None:
        blocks.append([])
    blocks[-1].append(_answer(pen, document))
    first = pen.say(f"robustcheck {document.version}", "dim")  # distinguishes our own files from others
    return Trimmed(Group(first, *_marked(pen, document.cautions), spaced(Group(*each) for each in blocks if each)))


def _opening(pen: Pen, document: Document, facts: Sequence[Text], *, verbose: bool) -> Parts:
    """Write what comes before all sections: claim, title, summary and next step."""
    opening: Parts = [pen.prose(document.claim, "bold")] if document.claim else []
    if document.title:
        model = document.model
        opening.append(line(pen.say(document.title, "bold"), pen.say("  "), pen.name(model.file)))
        opening += [*([pen.name(model.source, "dim")] if model.source else []), *facts]
    if document.verdict:
        opening.append(pen.say(document.summary, "bold"))
    if not (verbose and document.reasons):
        opening += steps(pen, *document.step)
    return opening


def _answer(pen: Pen, document: Document) -> RenderableType:
    """Write the last line: the verdict with the exit code. Without a verdict it is the summary."""
    if document.verdict is None:
        return pen.say(document.summary, "bold")
    code = "" if document.exit_code is None else f" · exit code {document.exit_code}"
    return Ruled(pen, f"{document.verdict.text}{code}", STYLES[document.verdict.style])


def _block(pen: Pen, block: Block, *, verbose: bool) -> Parts:
    if isinstance(block, Table):
        return [_Fitting(pen, block, None if verbose else block.most)]
    if isinstance(block, Chart):
        return [_Bars(pen, block)]
    if isinstance(block, Facts):
        rows = [(cell_of(label), text) for label, text in block.rows if cell_of(text).text]
        most = len(rows) if verbose else LISTED
        more = [pen.say(f"and {len(rows) - most} more", "dim")] if len(rows) > most else []
        dim = ((label._replace(style=label.style or "dim"), text) for label, text in rows[:most])
        return [*([pen.say(block.title, "dim")] if block.title else []), listed(pen, dim), *more]
    if isinstance(block, Topics):
        return [measured(pen, block.rows)]
    if isinstance(block, Photos):
        return []
    return [pen.prose(block) if isinstance(block, str) else written(pen, block)]


@frozen
class _Fitting:
    """A table. In a narrow terminal it has no columns marked with `?`."""

    pen: Pen
    table: Table
    most: int | None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Implement rich's protocol."""
        pen, table = self.pen, self.table
        places = [i for i, head in enumerate(table.heads) if options.max_width >= WIDE or head[:1] != "?"]
        hidden = [head.lstrip("?>=") for i, head in enumerate(table.heads) if i not in places]
        heads = [table.heads[i].removeprefix("?") for i in places]
        if rows := table.rows[: self.most]:
            yield table_of(pen, heads, ([row[i] for i in places] for row in rows))
        if rows and (more := len(table.rows) - len(rows)):
            yield pen.say(f"and {more} more", "dim")
        last = [table.legend, f"{', '.join(hidden)}: from {WIDE + INDENT} columns on" if hidden else ""]
        if any(last):
            yield Text()
            yield pen.say("; ".join(filter(None, last)), "dim")


@frozen
class _Bars:
    """Bars of a chart's first curve, as wide as fit. Where they are too many, each is the largest of some."""

    pen: Pen
    chart: Chart

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Implement rich's protocol."""
        pen, chart = self.pen, self.chart
        values, marked, n = chart.curves[0].values, chart.marked, len(chart.names)
        room = max(options.max_width - len(chart.top) - 4, 8)
        step = -(-n // room)
        wide = max(1, min(4, room // n))
        counts = [round(1000 * max(values[i : i + step])) for i in range(0, n, step)]
        marks = [any(marked[i : i + step]) for i in range(0, n, step)]
        indent, n_columns = len(chart.top), wide * len(counts)
        if chart.title and not chart.caption:
            yield pen.say(chart.title, "dim")
        for label, row in zip([chart.top, *[""] * (BAR_ROWS - 1)], texts.bars(counts, BAR_ROWS), strict=True):
            yield line(pen.say(f"{label:>{indent}} │", "dim"), pen.say("".join(sign * wide for sign in row), "cyan"))
        yield pen.say(f"{0:>{indent}} └{'─' * n_columns}", "dim")
        if any(marks):
            yield pen.say(" " * (indent + 2) + "".join(("▲" if mark else " ") * wide for mark in marks), "yellow")
        first, last = chart.names[0], chart.names[-1]
        gap = max(n_columns - len(first), len(last) + 1)
        yield pen.say(f"{'':>{indent}}  {first}{last:>{gap}}", "dim")
        said = [f"▲ {chart.mark}" if any(marks) else "", f"a bar is the largest of {step}" if step > 1 else ""]
        if any(said):
            yield pen.say("; ".join(filter(None, said)), "dim")


MAX_FEATURES = 8  # rows
PASSED_STEP = (
    "Check its accuracy, too; compare each later file with this one: "
    "`robustcheck compare NEW.onnx MODEL --images PHOTOS`"
)
BUNDLED_STEP = "Check again on photos of the kind that your model will see: `robustcheck MODEL --images DIR`"


def document_of(report: Report) -> Document:
    """Return the document of a check, for terminal and notebook."""
    verdict, model, images, gate = report.verdict, report.evidence.model, report.evidence.images, report.gate
    usual = {BUNDLED_NOTE, *fallback_note(report.evidence.execution), *([] if verdict.passed else [HEAD_NOTE])}
    remarks = [note for note in report.notes if note not in usual]
    step, explain = BUNDLED_STEP if images.bundled else PASSED_STEP, ""
    if verdict.reasons:
        step, explain = verdict.reasons[0].next_step, f"robustcheck explain {verdict.reasons[0].id}"
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
        summary=forms.plain_text(verdict, report.evidence.statistics, model.ends_in),
        sections=(Section("", "", (pixels, noted, statistics), "brief"), *_whole(report)),
        notes=report.notes,
        limits="",
        version=report.tool_version,
        line=forms.one_line(report),
        verdict=_verdict_cell(report),
        exit_code=gate.exit_code if gate else None,
        rule=forms.rule_of(report) if gate else "",
        cautions=tuple(filter(None, [forms.loosening_text(report), *forms.limits_of(report), *forms.loosened(report)])),
        reasons=verdict.reasons,
        step=forms.step_of(step, model.file, photos, explain, scores=model.rule != "encoder_output"),
        n_hidden=0 if verdict.passed else len(remarks),
    )


def _pixels(report: Report) -> Words:
    """Return the line on the preprocessing, with what states it. An assumed one is a warning."""
    text = forms.pixels_text(report)
    return Cell(text, "warn") if report.evidence.preprocessing.source == "assumed" else text


def _verdict_cell(report: Report) -> Cell:
    verdict = report.verdict
    return Cell(
        f"{forms.SIGNS[verdict.verdict]} {forms.verdict_text(verdict)}{forms.gate_text(report)}",
        "pass" if verdict.passed else "fail" if forms.is_stopped(report) else "warn",
    )


def _whole(report: Report) -> Iterator[Section]:
    """Yield the sections of the whole report."""
    model, s, gate = report.evidence.model, report.evidence.statistics, report.gate
    planted = "" if is_noted(report, model.synthetic) else f": {model.synthetic}"
    synthetic = Cell(f"synthetic{planted}" if model.synthetic else "", "warn")
    said = [each for each in (name(model.source), synthetic) if each.text]
    rule = [Facts(((Cell("gate", "bold"), f"exit code {gate.exit_code}: {gate.rule}"),))] if gate else []
    yield Section("", "", (*said, forms.meaning_text(report.verdict), *rule))
    heads = ("statistic", ">value", "=interval", "=must be", "=ok?")
    meanings = Facts(tuple((each.name, DEFINITIONS[each.id]) for each in forms.statistics_of(report)))
    evidence = (Table(heads, _evidence(report, aligned=True)), meanings)
    yield Section("Evidence and thresholds", forms.confidence_text(report), evidence)
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
    yield Section("What was measured", "", (Topics(blocks_of(report)),))
    yield Section("Limits of the claim", "", (report.claim, *report.profile.limits), "terminal")


def _evidence(report: Report, *, aligned: bool) -> tuple[tuple[Words, ...], ...]:
    """Return the deciding statistics next to their thresholds. aligned: the dashes of the intervals are in line."""
    rows = list[tuple[Words, ...]]()
    statistics = forms.statistics_of(report)
    bounds = [s.bounds(between=" – ").partition(" – ") for s in statistics]
    widest = max((len(low) for low, dash, _ in bounds if dash), default=0) if aligned else 0
    for s, (low, dash, high) in zip(statistics, bounds, strict=True):
        answer = Cell(" ".join(forms.CLEARS[s.clears]), "pass" if s.clears == "yes" else "warn")
        interval = f"{low:>{widest}}{dash}{high}" if dash else low
        rows.append((s.name, Cell(s.value, "bold"), interval, s.must_be, answer))
    return tuple(rows)


def _context(report: Report) -> Table:
    """Return the numbers that decide nothing, two in a row."""
    s = report.evidence.statistics
    values = [
        *("centred kurtosis", number_text(s.centred_kurtosis), "sparsity (zeros)", percent_text(s.zero_share)),
        *("RMS kurtosis", number_text(s.rms_kurtosis), "negative values", percent_text(s.negative_share)),
        *("max-median ratio", forms.max_median_text(s), "spread over images", percent_text(s.spread)),
        *("effective rank", forms.rank_text(report.evidence.content)),
        *("relative variance", forms.variance_text(report.evidence.content)),
        *("mean of the rest", forms.rest_text(report.evidence.content)),
        *itertools.chain(*forms.context_of(report)),
    ]
    cells: list[Words] = [Cell(text, "" if i % 2 else "dim") for i, text in enumerate(values)]
    return Table(("", ">", "", ">"), tuple(itertools.zip_longest(*[iter(cells)] * 4, fillvalue="")))


def _features(report: Report) -> tuple[Block, ...]:
    features = forms.notable_features(report.evidence.statistics)
    rows = tuple(
        (
            *(Cell(str(each.index), "bold"), percent_text(each.share), percent_text(each.frequency)),
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
    for rank, row, left_out in forms.reference_lines(report.reference, strength):
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
        rows.append(("", Cell(str(rank), "dim"), *numbers, shows, forms.group_text(row.group), name(checkpoint)))
    moves = "K (kurtosis) moves with the image set"
    if widest := forms.widest_kurtosis(report.reference):
        widely, least, most = widest
        moves += f": {widely} reads {number_text(least)} on one, {number_text(most)} on another"
    return Table(("", ">rank", ">strength", ">K", "", "group", "checkpoint"), tuple(rows)), Cell(f"{moves}.", "dim")


def render_several(
    outcomes: Sequence[Outcome],
    *,
    models: Sequence[str],
    code: int,
    places: Sequence[str] = (),
    ascii_only: bool = False,
) -> RenderableType:
    """Lay out the table, reasons, places and exit code.

    Reasons are of each WARN and error, places where reports went, and the exit code is last.

    Args:
        outcomes: in the order of the call; those of one rank stay in it.
        models: their paths as they were given, in the same order.
        code: the exit code of all together.
        places: one line each, what was written where.
        ascii_only: no character above 127.
    """
    pen = Pen(ascii_only)
    rows = sorted(zip(models, outcomes, strict=True), key=lambda pair: forms.rank_of(pair[1]))
    table = table_of(pen, ("=verdict", "model", ">images", ">seconds"), itertools.starmap(_row, rows))
    details = [_details(model, each, pen) for model, each in rows if isinstance(each, Failed) or not each.passed]
    where = [Group(*(pen.name(place) for place in places))] if places else []
    word = {0: "PASS", 1: "WARN"}.get(code, "ERROR")
    stopped = f" · {forms.STOPPED}" if code == 1 else ""
    said = f"{forms.SIGNS[word]} {len(outcomes)} models: {forms.counts_text(outcomes)}{stopped} · exit code {code}"
    last = Ruled(pen, said, STYLES["fail" if code else "pass"])
    first = pen.say(f"robustcheck {texts.VERSION}", "dim")
    # once what holds for all models: what can loosen the gate, and photos that are not the reader's
    return Trimmed(Group(first, *_marked(pen, forms.all_cautions(outcomes)), spaced([table, *details, *where, last])))


def _marked(pen: Pen, texts: Iterable[str]) -> list[Text]:
    return [pen.say(f"! {text}", "yellow") for text in texts]


def _details(model: str, outcome: Outcome, pen: Pen) -> RenderableType:
    """Name a model, and why it is not a PASS."""
    if isinstance(outcome, Failed):
        write = pen.command if outcome.hint.startswith(COMMANDS) else pen.say
        hint = [write(f"hint: {outcome.hint}", "dim")] if outcome.hint else []
        said = hanging([(pen.say("✗", "red"), pen.say(forms.without_model(outcome)))])
        return Group(pen.name(model, "bold"), said, *hint)
    plain = forms.plain_text(outcome.verdict, outcome.evidence.statistics, outcome.evidence.model.ends_in)
    ids = reason_ids(pen, outcome.verdict.reasons)
    return Group(pen.name(model, "bold"), *_marked(pen, forms.loosened(outcome)), pen.say(plain), *ids)


def _row(model: str, outcome: Outcome) -> tuple[Words, ...]:
    none = Cell("–", "dim")
    if isinstance(outcome, Failed):
        return Cell(f"✗ error {outcome.exit_code}", "fail"), name(model), none, none
    seconds = none if outcome.time is None else f"{outcome.time.wall_s:.1f}"
    return _verdict_cell(outcome), name(model), str(outcome.evidence.images.n_usable), seconds

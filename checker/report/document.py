"""Make documents: a result as people read it. Pure.

`terminal` lays it out, `template` shows it as a page, `markdown` and `notebook` in their forms. None of them knows a
question, and no question knows a form. What comes from outside is a `name`: each form shows it exactly, and safely.

There are facts on model, tensor, preprocessing, images, execution, thresholds; pure.

The HTML page and the terminal lay out the same list: the page gives each fact a row, the terminal puts the short form
of each fact of a block on one line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, cast

from ..core.evidence import Interval, Origin
from ..core.verdict.pixels import steps_text
from ..core.verdict.rule import Reason
from ..text import MIB, Texts, count_text, frozen, name_text, number_text, short_digest, short_provider
from .forms import TENSORS, origin_text, preprocessing_text
from .record import Report, Time, to_json

if TYPE_CHECKING:
    from ...thresholds.profile import Frozen

Style = Literal["", "bold", "dim", "pass", "warn", "fail"]


class Ratio(NamedTuple):
    """A bar of the page for a number of a comparison."""

    interval: Interval
    least: float
    style: Style


class Cell(NamedTuple):
    """A piece of text."""

    text: str
    style: Style = ""
    is_name: bool = False
    bar: Ratio | None = None
    """what the page draws before the text"""


Words = str | Cell
"""words of our own, or a cell"""
Pairs = Sequence[tuple[str, object]]
"""labels and values"""


def name(text: str, style: Style = "") -> Cell:
    """Return a text from outside. A file or a tensor has it."""
    return Cell(text, style, is_name=True)


def cell_of(words: Words) -> Cell:
    """Return the cell of words."""
    return words if isinstance(words, Cell) else Cell(words)


def text_of(words: Words) -> str:
    """Return the text of words."""
    return words if isinstance(words, str) else words.text


@frozen
class Table:
    """A table with one cell per column in each row."""

    heads: Texts
    """`>` before a head: right-justified; `=` or `>`: never wraps; `?` before that: left out of a narrow terminal"""
    rows: tuple[tuple[Words, ...], ...]
    legend: str = ""
    most: int | None = None
    """rows in the short report"""


@frozen
class Facts:
    """Labels with a text. A row without a text is left out."""

    rows: tuple[tuple[Words, Words], ...]
    title: str = ""


class Curve(NamedTuple):
    """A line of a chart, over the first one's places."""

    name: str
    values: tuple[float, ...]
    texts: Texts
    """the values in words"""
    bounds: tuple[tuple[float, float], ...] = ()
    """an interval per value"""


@frozen
class Chart:
    """Values from 0 up. One curve is drawn as bars; of several the terminal draws the first."""

    title: str
    names: Texts
    """of the places, below the axis; empty ones are not shown"""
    curves: tuple[Curve, ...]
    top: str
    """the largest value in words"""
    caption: str = ""
    """below the page's picture, instead of the title"""
    marked: tuple[bool, ...] = ()
    mark: str = ""
    """what a mark below a bar means"""
    at: tuple[float, ...] = ()
    """where the places are, 0 to 1; evenly if empty"""


class Photo(NamedTuple):
    """A picture of the page."""

    name: str
    text: str
    uri: str
    """`data:`; empty without a picture"""


@frozen
class Photos:
    """Pictures next to each other."""

    rows: tuple[Photo, ...]


@frozen
class Topics:
    """What was measured, and how. The page folds it."""

    rows: tuple[Topic, ...]


Block = Table | Facts | Chart | Photos | Topics | Words


def pairs_of(block: Block) -> list[tuple[str, str]]:
    """Return the labels and texts of a block. Words have no label; tables and charts give none."""
    rows: list[tuple[Words, Words]] = []
    if isinstance(block, Facts):
        rows += block.rows
    elif isinstance(block, Photos):
        rows += ((photo.name, photo.text) for photo in block.rows)
    elif isinstance(block, Topics):
        for topic in block.rows:
            shorts = (f"{fact.caution}{fact.short}" for fact in (*topic.facts, *topic.more))
            rows.append((topic.label, " · ".join(filter(None, shorts))))
    elif isinstance(block, str | Cell):
        rows.append(("", block))
    return [(text_of(label), text_of(words)) for label, words in rows if text_of(words)]


@frozen
class Section:
    """A heading with blocks below it. Without a title it continues the section before."""

    title: str
    remark: str
    blocks: tuple[Block, ...]
    shown: Literal["brief", "short", "whole", "terminal", "page", "folded"] = "whole"
    """the least report that has it. brief: the short one alone; terminal: the whole one alone; the last two are not in
    the terminal, and the page folds the last"""


class ModelShown(Protocol):
    """The model of a question."""

    @property
    def file(self) -> str:
        """Return its path."""

    @property
    def digest(self) -> str:
        """Return its digest. "" where the report has none."""

    @property
    def source(self) -> str:
        """Return what the contract says it is."""


class File(NamedTuple):
    """A model of which no more is shown."""

    file: str
    digest: str = ""
    source: str = ""


INFORMATION = "Information, not a verdict: `robustcheck check` judges the representation alone."


@frozen
class Document:
    """All that is shown of one result."""

    question: str
    """the verb"""
    title: str
    subject: str
    """the question in a line"""
    model: ModelShown
    facts: tuple[Words, ...]
    """of the run, for a line"""
    summary: str
    """the answer in a sentence or two; the terminal's last words, or its first if there is a verdict"""
    sections: tuple[Section, ...]
    notes: Texts
    limits: str
    version: str
    verdict: Cell | None = None
    """sign and words; None: information only"""
    exit_code: int | None = None
    rule: str = ""
    """what decided the exit code, in one sentence"""
    cautions: Texts = ()
    """what a reader must know before the verdict"""
    reasons: tuple[Reason, ...] = ()
    step: tuple[str, str] = ("", "")
    """what to do next, in words and as a command"""
    headline: str = ""
    """what the page has next to the verdict's sign instead of the summary"""
    remark: str = INFORMATION
    """what the page has below the answer"""
    line: str = ""
    """the answer in one line, for `-q`"""
    tiles: tuple[tuple[str, object, str], ...] = ()
    """numbers that a page shows large: label, value, remark"""
    hint: str = ""
    """what the short report lacks"""
    claim: str = ""
    """what must be known before all else"""
    n_hidden: int = 0
    """notes that only the whole report has, where the short one counts them"""
    notes_in_short: bool = False
    """whether the short report has the notes"""

    @property
    def one_line(self) -> str:
        """Return the answer in one line, for `-q`."""
        return self.line or f"{name_text(self.model.file, ascii_only=False)}: {self.summary}"


def facts_of_run(report: Any, *first: Words) -> tuple[Words, ...]:
    """Return the facts of a headline. `first` precedes digest, device, runtime and time."""
    run, time = report.execution, report.time
    provider = f"{run.requested} → {short_provider(run.providers[0])}"
    seconds = f"{number_text(time.wall_s)} s" if time else ""
    return (*first, name(short_digest(report.model.digest)), provider, f"ONNX Runtime {run.runtime}", seconds)


def measured(report: Any, model: Pairs, images: Pairs, preprocessing: str) -> Section:
    """Return the folded section on how it was measured."""
    run, time = report.execution, report.time
    last = [("Preprocessing", preprocessing), ("Device", run.device), ("ONNX Runtime", run.runtime)]
    rows = (*images, *last, ("Started", time.started if time else ""))
    blocks = (Facts(_named(model), "Model"), Facts(_named(rows), "Run"))
    return Section("What was measured, and how", "", blocks, "folded")


def _named(rows: Pairs) -> tuple[tuple[Words, Words], ...]:
    return tuple((label, name(str(value))) for label, value in rows)


class Shown:
    """The base of a report that is shown as a document (`document_of`)."""

    def to_json(self) -> str:
        """Return the JSON document, as `-o json`."""
        return to_json(cast("Frozen", self))

    def to_html(self) -> str:
        """Return the page, as `-o html`."""
        return self._as("template")

    def to_markdown(self) -> str:
        """Return the Markdown, as `-o markdown`."""
        return self._as("markdown")

    def _repr_html_(self) -> str:
        """Return the HTML that a notebook shows. It has the answer, notes, limits, and the first tables."""
        return self._as("notebook")

    _repr_markdown_ = to_markdown

    def _as(self, form: str) -> str:
        return str(import_module(f"{__package__}.{form}").of_document(document_of(self)))


def document_of(report: Any) -> Document:
    """Return the document of a question's report. The report's module makes it, or `document` of its room."""
    module = import_module(type(report).__module__)
    if not hasattr(module, "document_of"):
        module = import_module(f"{module.__package__}.document")
    document: Document = module.document_of(report)
    return document


_STOPPED = {  # why the run stopped, on the page and behind a count in the terminal
    "decided": ("as soon as the evidence decided", " until decided"),
    "all images": ("after all images", ""),
    "image limit": ("at the image limit", " up to the limit"),
}


@frozen
class Fact:
    """A fact of a report.

    The page shows it where it has a value, the terminal where it has a short form or a caution.
    """

    label: str
    value: str
    remark: str = ""
    """what the page adds in parentheses"""
    kind: Literal["text", "name", "code"] = "text"
    """name: text from outside, shown exactly; code: the same, and the page sets it as code"""
    short: str = ""
    """the fact in a few words, for the terminal"""
    caution: str = ""
    """what the terminal writes before `short`, in yellow"""


@frozen
class Topic:
    """The facts about one thing, in the page's order."""

    title: str
    label: str
    """the title that the terminal shows"""
    facts: tuple[Fact, ...]
    more: tuple[Fact, ...] = ()
    """facts for the end of the terminal's line; the page says the same elsewhere"""
    below: tuple[tuple[Words, ...], ...] = ()
    """further lines of the terminal"""


def blocks_of(report: Report) -> tuple[Topic, ...]:
    """Return a report's facts in the page's order."""
    evidence, published = report.evidence, report.published
    p = evidence.preprocessing
    external = tuple((name(f"{file} {digest}"),) for file, digest in evidence.model.external_digests.items())
    fields = tuple(
        (Cell(f"{field}: ", "dim"), name(value), Cell(f" ({where})", "dim"))
        for field, value, where in (() if p.source == "tensors" else p.fields)
    )
    context = f"{published.sentence} Context only: it decides nothing." if published else ""
    return (
        Topic("Model", "model", _model(report), below=external),
        *([Topic("", "published", (), (Fact("", "", short=context),))] if published else []),
        Topic("Representation", "tensor", *_tensor(report)),
        Topic("Preprocessing", "preprocessing", _preprocessing(report), below=fields),
        Topic("Images", "images", *_images(report), _skipped_and_converted(report)),
        Topic("Execution", "ran on", _execution(report), below=_fallback(report)),
        Topic("Judged by", "judged by", _judged(report)),
    )


def is_noted(report: Report, text: str) -> bool:
    """Return whether a note contains this text."""
    return any(text in note for note in report.notes)


def _skipped_and_converted(report: Report) -> tuple[tuple[Words, ...], ...]:
    images, lines = report.evidence.images, list[tuple[Words, ...]]()
    if images.n_skipped and not all(is_noted(report, file) for file, _ in images.skipped):
        listed: list[Words] = [Cell(f"{images.n_skipped} skipped: ", "warn")]
        for i, (file, why) in enumerate(images.skipped):
            listed += [", " * (i > 0), name(file), f" ({why})"]
        more = images.n_skipped - len(images.skipped)
        lines.append((*listed, f", and {more} more" if more else ""))
    if images.notes:
        lines.append(("converted: " + ", ".join(f"{conversion} {n}" for conversion, n in images.notes.items()),))
    return tuple(lines)


def _fallback(report: Report) -> tuple[tuple[Words, ...], ...]:
    reason = report.evidence.execution.fallback_reason
    return ((Cell("fallback: ", "warn"), reason),) if reason and not is_noted(report, reason) else ()


def _model(report: Report) -> tuple[Fact, ...]:
    m, origin = report.evidence.model, report.evidence.model.origin
    size = f"{m.size_bytes / MIB:.1f} MiB"
    opsets = [f"{version}" + (f" ({domain})" if domain else "") for domain, version in m.opset.items()]
    weights = {None: "no contract says", True: "random", False: "trained, says the contract"}[m.random_weights]
    weights += "; graph or weights changed since the contract was written" if m.file_changed else ""
    return (
        Fact("File", m.file, kind="code", short=m.file),
        *([_origin(origin)] if origin else []),
        Fact("Digest", m.digest, kind="code", short=m.digest),
        *(Fact("External data", digest, file, kind="code") for file, digest in m.external_digests.items()),
        Fact("Size", size, short=size),
        Fact("Opset", ", ".join(opsets), short=" · ".join(f"opset {opset}" for opset in opsets)),
        Fact("Producer", m.producer, kind="name", short=m.producer),
        Fact("Source", m.source, "as the contract says"),
        Fact("Synthetic", m.synthetic),
        Fact("Weights", weights),
        Fact("Trained to match", m.matched_to or "not said"),
    )


def _origin(origin: Origin) -> Fact:
    """Return where a model was fetched from. A commit is cut for the terminal, as git does."""
    revision = origin.revision[:12] if re.fullmatch("[0-9a-f]{40}", origin.revision) else origin.revision
    remark = f"{origin.revision}, {origin.file}"
    return Fact("Fetched from", origin.address, remark, "code", short=f"fetched at {revision}")


def _tensor(report: Report) -> tuple[tuple[Fact, ...], tuple[Fact, ...]]:
    m, n_features = report.evidence.model, report.evidence.statistics.n_features
    kind = m.rule if m.pool == "none" else f"{m.rule}, pooled by {m.pool}"
    assumed = "assumed: " if m.tensor_assumed else ""
    facts = (
        Fact("Tensor", m.tensor, kind="code", short=m.tensor),
        Fact("Kind", kind, short=kind),
        Fact("Why this one", assumed + m.why),
        Fact("Features", str(n_features), short=count_text(n_features, "feature")),
        Fact("Ends in", str(m.ends_in), short=f"ends in {m.ends_in}" if m.ends_in.kind else ""),
        Fact("Change with the batch", _difference(m.batch_difference), "largest relative difference"),
        *(
            [Fact("Change with the batch, scales fixed", _difference(fixed), "largest relative difference")]
            if (fixed := m.fixed_scale_difference) is not None
            else []
        ),
        Fact("Change of the model's output", _difference(m.output_difference), "largest relative difference"),
    )
    return facts, (Fact("", "", short=m.why, caution=assumed),)


def _difference(value: float | None) -> str:
    return "not checked" if value is None else f"{value:.2g}"


def _preprocessing(report: Report) -> tuple[Fact, ...]:
    p = report.evidence.preprocessing
    if p.source == "tensors":
        return (Fact("Steps", TENSORS, short=TENSORS), *_entered(report))
    steps, assumed = preprocessing_text(p.preprocessing), p.source == "assumed"
    origin = origin_text(p)
    overruled = "against the contract in the file" if p.against_contract else ""
    return (
        Fact("Steps", steps, short=steps),
        Fact("Source", origin, overruled, short="" if assumed else origin, caution=origin if assumed else ""),
        *(Fact(field, value, where) for field, value, where in p.fields),
        *_entered(report),
    )


def _entered(report: Report) -> tuple[Fact, ...]:
    """Return the facts about the graph's input.

    They are the graph's own scaling, and what was measured at its input.
    """
    scaling, levels = report.evidence.model.scaling, report.evidence.levels
    inside = steps_text(scaling) if scaling else ""
    seen = f"mean {_values(levels.mean)}, SD {_values(levels.sd)}" if levels else ""
    return (
        Fact("Scaled inside", inside, "by the graph itself, before its first layer"),
        Fact("Input", seen, "over the images, a channel each"),
    )


def _values(values: tuple[float, ...]) -> str:
    return " ".join(number_text(value) for value in values)


def _images(report: Report) -> tuple[tuple[Fact, ...], tuple[Fact, ...]]:
    i, s = report.evidence.images, report.evidence.statistics
    sanity = i.sanity
    stopped, until = _STOPPED[report.evidence.stopped]
    measured, seed = f"{s.n_images} of {i.n_available}", f"seed {i.seed}"
    skipped = "; ".join(f"{name}: {why}" for name, why in i.skipped)
    source = "bundled photos" if i.bundled else i.source
    facts = (
        Fact("Source", source, kind="name" if i.bundled else "code", short=i.source),
        Fact("Digest", i.digest, kind="code"),
        Fact("Measured", measured, seed, short=f"{measured} measured{until}"),
        Fact("Stopped", stopped),
        Fact("Varied", str(sanity.n_varied), f"of {sanity.n_compared} compared", short=f"{sanity.n_varied} varied"),
        Fact("Duplicates", f"{sanity.n_duplicates} exact, {sanity.n_near_duplicates} near"),
        Fact("Skipped", str(i.n_skipped), skipped),
        Fact("Not usable", f"{s.n_nonfinite} not finite, {s.n_constant} constant", "representations"),
        Fact("Converted", ", ".join(f"{conversion}: {n}" for conversion, n in i.notes.items())),
    )
    return facts, (Fact("", "", short=seed), Fact("", "", kind="code", short=i.digest))


def _execution(report: Report) -> tuple[Fact, ...]:
    run, time = report.evidence.execution, report.time
    provider = short_provider(run.providers[0])
    counts = {short_provider(name): n for name, n in (run.nodes or {}).items()}
    nodes = ", ".join(f"{name} {n}" for name, n in counts.items())
    only = count_text(counts[provider], "node") if list(counts) == [provider] else ""
    ran = only or ", ".join(f"{name} {count_text(n, 'node')}" for name, n in counts.items())
    threads = count_text(run.threads, "thread")
    how = [run.device, threads, run.precision]
    sums = run.sums_words
    facts = (
        Fact("Asked for", run.requested, short=f"{run.requested} → {provider}" + (f" ({ran})" if ran else "")),
        Fact("Providers", ", ".join(short_provider(p) for p in run.providers)),
        Fact("Fallback", run.fallback_reason),
        Fact("Nodes", nodes or "not told by ONNX Runtime"),
        Fact("Heavy nodes on the CPU", ", ".join(f"{n} {op}" for op, n in run.heavy_on_cpu.items())),
        Fact("Device", run.device, threads, short=", ".join(part for part in how if part)),
        Fact("Precision", run.precision),
        Fact("int8 sums", sums, short=f"int8 sums {sums}" if sums else ""),
        Fact("Graph optimisation", run.optimization),
        Fact("ONNX Runtime", run.runtime, short=f"ONNX Runtime {run.runtime}"),
    )
    if time is None:
        return facts
    wall = f"{number_text(time.wall_s)} s"
    return (
        *facts,
        Fact("Started", time.started, wall, short=f"{time.started}, {wall}"),
        Fact("Speed", speed_text(time), short=speed_text(time)),
    )


def speed_text(time: Time) -> str:
    """Write images per second, empty where not measured."""
    return "" if time.images_per_s is None else f"{number_text(time.images_per_s)} images/s"


def _judged(report: Report) -> tuple[Fact, ...]:
    verdict, c, binding = report.verdict, report.profile.calibration, report.binding
    digest = verdict.profile_digest
    versions = ", ".join(f"{name} {version}" for name, version in binding.versions.items()) if binding else ""
    sets = f"{c.n_sets} sets of {count_text(c.n_checkpoints, 'checkpoint')}"
    return (
        Fact("Profile", verdict.profile_id, kind="code", short=f"profile {verdict.profile_id}"),
        Fact("Digest", verdict.profile_digest, kind="code", short=digest),
        Fact("Fitted on", sets, short=f"fitted on {c.n_checkpoints} checkpoints"),
        Fact("robustcheck", report.tool_version, short=f"robustcheck {report.tool_version}"),
        Fact("Versions", versions),
        Fact("Report digest", binding.result_digest if binding else "", kind="code"),
    )

"""Write Markdown: CommonMark with GitHub's tables, for summaries, comments and release notes. Pure."""

import re
from collections.abc import Sequence
from dataclasses import replace

from ..core.verdict.rule import Reason
from ..text import around, bars, printable
from .document import Block, Chart, Document, Facts, Table, Words, document_of, pairs_of, text_of
from .model_names import FormOptions, model_of
from .record import Bound, Failed, Outcome, Outcomes
from .words import NOT_ASSESSED_HELP, SIGNS, cautions, exit_code_of, findings, gate_text, loosened, verdict_text

CHART_ROWS = 6
MARK = "<!-- robustcheck report -->"
_SPECIAL = re.compile(r"([\\`*_\[\]#|~$])")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"})
_START = re.compile(r"^(\d*)([-+=.)])")  # a list, or the line under a heading


def write_markdown(outcomes: Outcomes, options: FormOptions) -> str:
    """Write one section per outcome. Several have a table first; the claim's limits are last."""
    parts = [MARK]
    if len(outcomes) > 1:
        parts.append(overview(outcomes))
    parts += [section(outcome) for outcome in outcomes]
    report = next((outcome for outcome in outcomes if isinstance(outcome, Bound)), None)
    if report is not None and report.profile.limits:
        limits = [f"- {text(limit)}" for limit in report.profile.limits]
        parts.append("\n".join([f"**Limits of the claim.** {text(report.claim)}", "", *limits]))
    return "\n\n".join(parts) + "\n"


def overview(outcomes: Outcomes) -> str:
    """Write a table with a row for each outcome."""
    rows = ["| model | verdict | exit code | reasons |", "|---|---|---|---|"]
    for outcome in outcomes:
        if isinstance(outcome, Failed):
            verdict = "**ERROR**"
            why = text(outcome.message)
        else:
            words = verdict_text(outcome.verdict) + gate_text(outcome)
            verdict = f"**{text(words)}**"
            why = ", ".join(text(f.reason.id) + (" (waived)" if f.waiver else "") for f in findings(outcome))
        rows.append(f"| {text(model_of(outcome))} | {verdict} | {exit_code_of(outcome)} | {why} |")
    return "\n".join(rows)


def section(outcome: Outcome) -> str:
    """Write the section of one outcome."""
    if isinstance(outcome, Failed):
        model = outcome.model or "robustcheck"
        blocks = [f"## {SIGNS['ERROR']} ERROR: {text(model)}", text(outcome.message)]
        if outcome.hint:
            blocks.append(f"Hint: {code(outcome.hint)}")
        blocks.append(f"Exit code {outcome.exit_code}. {NOT_ASSESSED_HELP}")
        return "\n\n".join(blocks)
    lines = (*cautions(outcome), *loosened(outcome))
    return _section(replace(document_of(outcome), cautions=lines))


def reasons(entries: Sequence[Reason]) -> list[str]:
    """List the reasons as one block. Each has what was seen, and the next step; without any there is no block."""
    if not entries:
        return []
    return ["\n".join(["### Reasons and next steps", "", *map(_item, entries)])]


def _item(reason: Reason) -> str:
    head = f"**{text(reason.title)}** ({text(reason.id)}, {text(reason.kind)})"
    return f"- {head}: {text(reason.seen)}  \n  → {prose(reason.next_step)}"


def notes(sentences: Sequence[str]) -> list[str]:
    """List a verdict's notes as one block. Without any there is no block."""
    if not sentences:
        return []
    return ["\n".join(f"- Note: {text(note)}" for note in sentences)]


def text(words: str) -> str:
    r"""Write words as literal Markdown text, on one line.

    Words from anywhere can be no markup, no HTML, no link, no mention.

    >>> text("a|b <i> `c`")
    'a\\|b &lt;i&gt; \\`c\\`'
    """
    escaped = _SPECIAL.sub(r"\\\1", printable(words).strip())
    if re.match(r"[-+=]|\d+[.)](\s|$)", escaped):
        escaped = _START.sub(r"\1\\\2", escaped)
    words = escaped.translate(_ENTITIES)
    return words.replace("://", "&#58;//").replace("www.", "www&#46;")


def code(words: str) -> str:
    """Write words as a code span, on one line. In a table's cell a pipe would end it."""
    inside = printable(words)
    runs = re.findall(r"`+", inside)
    fence = "`" * (1 + max(map(len, runs), default=0))
    pad = ""
    if inside.startswith("`") or inside.endswith("`") or not inside.strip():
        pad = " "
    return f"{fence}{pad}{inside or ' '}{pad}{fence}"


def prose(words: str) -> str:
    """Write a sentence of this tool. Its code spans stay code spans."""
    parts = printable(words).split("`")
    if len(parts) % 2 == 0:  # a lone backtick
        return text(words)
    return "".join(f"`{part}`" if place % 2 else _literal(part) for place, part in enumerate(parts))


def _literal(part: str) -> str:
    """Escape like `text`, with the blanks at both ends."""
    core = part.strip()
    return part.replace(core, text(core), 1) if core else part


def of_document(document: Document) -> str:
    """Write a question's result. The limits are last."""
    return f"{MARK}\n\n{_section(document)}\n"


def _section(document: Document) -> str:
    title = document.verdict.text if document.verdict else document.title
    blocks = [
        f"## {text(title)}: {text(document.model.file)}",
        around(f"**Exit code {document.exit_code}:** ", text(document.rule), "."),
        *(f"**!** {text(caution)}" for caution in document.cautions),
        text(document.claim),
        f"**{text(document.summary)}**",
        " · ".join(_cell(fact) for fact in document.facts if text_of(fact)),
        *reasons(document.reasons),
        *notes(document.notes),
    ]
    for section in document.sections:
        if section.shown not in ("brief", "detail"):
            remark = around(" (", text(section.remark), ")")
            blocks.append(around("### ", text(section.title), remark))
            blocks += map(_block, section.blocks)
    blocks.append(around("**Limits.** ", text(document.limits)))
    return "\n\n".join(filter(None, blocks))


def _cell(words: Words) -> str:
    return text(text_of(words))


def _block(block: Block) -> str:
    if isinstance(block, Chart):
        heights = [round(1000 * value) for value in block.curves[0].values]
        ends = f"{block.names[0]} … {block.names[-1]}"
        title = f"{text(block.title)} ({text(f'{ends}; the tallest is {block.top}')}):"
        return "\n".join([title, "", "```", *bars(heights, CHART_ROWS), "```"])
    if isinstance(block, Table):
        rules = ["---:" if column.right else "---" for column in block.columns]
        heads = [text(column.head) for column in block.columns]
        rows = [heads, rules, *(map(_cell, row) for row in block.rows)]
        lines = [f"| {' | '.join(row)} |" for row in rows]
        if block.legend:
            lines += ["", text(block.legend)]
        return "\n".join(lines)
    lines = [around("- ", text(label), ": ") + text(words) for label, words in pairs_of(block)]
    if isinstance(block, Facts) and block.title:
        lines[:0] = [f"{text(block.title)}:", ""]
    return "\n".join(lines)

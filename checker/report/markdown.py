"""Write the Markdown form. It is CommonMark with GitHub's tables, for summaries, comments and release notes; pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from robustcheck_onnx.checker.text import bars, number_text, printable

from .document import Block, Bullets, Cell, Chart, Document, Facts, Photos, Topics, Words, cell_of
from .forms import (
    NOT_ASSESSED_HELP,
    Finding,
    FormOptions,
    cautions,
    exit_code_of,
    findings,
    model_of,
    rule_of,
    waiver_texts,
)
from .record import CLAIM, Failed, Outcome, Report
from .words import SIGNS, confidence_text, meaning_text, statistics_of, verdict_text

CHART_ROWS = 6
MARK = "<!-- robustcheck report -->"
_CLEARS = {"yes": "✓ yes", "no": "✗ no", "straddles": "? straddles it", "not measured": "not measured"}
_SPECIAL = re.compile(r"([\\`*_\[\]#|~$])")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}
_START = re.compile(r"^(\d*)([-+=.)])")  # a list, or the line under a heading


def write_markdown(outcomes: Sequence[Outcome], options: FormOptions) -> str:
    """Write one section per outcome. Several have a table first; the claim's limits are last."""
    del options
    parts = [MARK]
    if len(outcomes) > 1:
        parts.append(overview(outcomes))
    parts += [section(outcome) for outcome in outcomes]
    claim = next((o.claim for o in outcomes if isinstance(o, Report)), CLAIM)
    limits = next((o.profile.limits for o in outcomes if isinstance(o, Report)), ())
    if limits:
        parts.append(
            "\n".join([f"**Limits of the claim.** {text(claim)}", "", *(f"- {text(limit)}" for limit in limits)])
        )
    return "\n\n".join(parts) + "\n"


def overview(outcomes: Sequence[Outcome]) -> str:
    """Write a table with a row for each outcome."""
    rows = ["| model | verdict | exit code | reasons |", "|---|---|---|---|"]
    for outcome in outcomes:
        if isinstance(outcome, Failed):
            verdict, why = "**ERROR**", text(outcome.message)
        else:
            verdict = f"**{text(verdict_text(outcome.verdict))}**"
            why = ", ".join(text(f.reason.id) + (" (waived)" if f.waiver else "") for f in findings(outcome))
        rows.append(f"| {text(model_of(outcome))} | {verdict} | {exit_code_of(outcome)} | {why} |")
    return "\n".join(rows)


def section(outcome: Outcome) -> str:
    """Write the section of one outcome.

    It has verdict, gate, reasons and next steps, statistics, and what was measured.
    """
    if isinstance(outcome, Failed):
        lines = [
            f"## {SIGNS['ERROR']} ERROR: {text(outcome.model or 'robustcheck')}",
            "",
            f"{text(outcome.message)}",
            "",
        ]
        if outcome.hint:
            lines += [f"Hint: {code(outcome.hint)}", ""]
        return "\n".join([*lines, f"Exit code {outcome.exit_code}. {NOT_ASSESSED_HELP}"])
    verdict, model = outcome.verdict.verdict, outcome.evidence.model
    blocks = [
        f"## {SIGNS[verdict]} {text(verdict_text(outcome.verdict))}: {text(model.file)}",
        *(f"**!** {text(caution)}" for caution in cautions(outcome)),
        meaning_text(outcome.verdict),
        f"**Gate:** exit code {exit_code_of(outcome)}, because {text(rule_of(outcome))}.",
        *reasons(findings(outcome)),
        *notes(outcome.notes),
        _statistics(outcome),
        measured(outcome),
    ]
    return "\n\n".join(blocks)


def reasons(found: Sequence[Finding]) -> list[str]:
    """List the reasons as one block.

    They have what was seen, the next step and the waiver; without any there is no block.
    """
    items = map(_reason, found) if found else []
    return ["\n".join(["### Reasons and next steps", "", *items])] if items else []


def notes(sentences: Sequence[str]) -> list[str]:
    """List a verdict's notes as one block. Without any there is no block."""
    return ["\n".join(f"- Note: {text(note)}" for note in sentences)] if sentences else []


def _reason(finding: Finding) -> str:
    reason = finding.reason
    lines = [
        f"- **{text(finding.title)}** ({text(reason.id)}, {text(reason.kind)}): {text(reason.seen)}  ",
        f"  → {prose(reason.next_step)}",
    ]
    return "  \n  ".join(["\n".join(lines), *map(text, waiver_texts(finding))])


def _statistics(report: Report) -> str:
    rows = [
        f"### Evidence and thresholds ({confidence_text(report)})",
        "",
        "| statistic | value | interval | threshold | clears it? |",
        "|---|---:|---:|---:|---|",
    ]
    for s in statistics_of(report):
        interval = s.bounds(between=" – ", missing="–")
        rows.append(f"| {s.name} | {s.value} | {interval} | {s.limits} | {_CLEARS[s.clears]} |")
    return "\n".join(rows)


def measured(report: Report) -> str:
    """List what was measured, with all digests. The list has model, tensor, images, profile and execution."""
    evidence, verdict = report.evidence, report.verdict
    model, images, run = evidence.model, evidence.images, evidence.execution
    count = f"{evidence.statistics.n_images} of {images.n_available} measured, {images.sanity.n_varied} varied"
    lines = [
        "### What was measured",
        "",
        f"- Model: {code(model.file)} {code(model.digest)}",
        f"- Tensor: {code(model.tensor)} ({text(model.rule)}, {evidence.statistics.n_features} features)",
        f"- Images: {code(images.source)} {code(images.digest)}, {count}, seed {images.seed}",
        f"- Profile: {code(verdict.profile_id)} {code(verdict.profile_digest)}",
        f"- Ran on: {text(', '.join(run.providers))}, ONNX Runtime {text(run.runtime)}; "
        f"robustcheck {text(report.tool_version)}",
    ]
    if report.time is not None:
        lines.append(f"- Time: {text(report.time.started)}, {number_text(report.time.wall_s)} s")
    return "\n".join(lines)


def text(words: str) -> str:
    r"""Write words as literal Markdown text, on one line.

    Words from anywhere can be no markup, no HTML, no link, no mention.

    >>> text("a|b <i> `c`")
    'a\\|b &lt;i&gt; \\`c\\`'
    """
    escaped = _SPECIAL.sub(r"\\\1", printable(words).strip())
    if re.match(r"[-+=]|\d+[.)](\s|$)", escaped):
        escaped = _START.sub(r"\1\\\2", escaped)
    words = "".join(_ENTITIES.get(c, c) for c in escaped)
    return words.replace("://", "&#58;//").replace("www.", "www&#46;")


def code(words: str) -> str:
    """Write words as a code span, on one line. In a table's cell a pipe would end it."""
    inside = printable(words)
    fence = "`" * (1 + max(map(len, re.findall(r"`+", inside)), default=0))
    pad = " " if inside.startswith("`") or inside.endswith("`") or not inside.strip() else ""
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
    title = document.verdict.text if document.verdict else document.title
    blocks = [
        *(MARK, f"## {text(title)}: {text(document.model.file)}"),
        *(f"**!** {text(caution)}" for caution in document.cautions),
        *(text(document.claim), f"**{text(document.summary)}**"),
        " · ".join(_cell(each) for each in document.facts if cell_of(each).text),
        *reasons([Finding(reason, None, None) for reason in document.reasons]),
        *notes(document.notes),
    ]
    for section in document.sections:
        if section.shown != "brief":
            remark = f" ({text(section.remark)})" if section.remark else ""
            blocks += [f"### {text(section.title)}{remark}" if section.title else "", *map(_block, section.blocks)]
    limits = f"**Limits.** {text(document.limits)}" if document.limits else ""
    return "\n\n".join(filter(None, [*blocks, limits])) + "\n"


def _cell(words: Words) -> str:
    return text(cell_of(words).text)


def _block(block: Block) -> str:
    if isinstance(block, str | Cell):
        return _cell(block)
    if isinstance(block, Bullets):
        return "\n".join(f"- {text(each)}" for each in block.texts)
    if isinstance(block, Photos):
        return "\n".join(f"- {text(each.name)}: {text(each.text)}" for each in block.rows)
    if isinstance(block, Topics):
        facts = [(topic.title, fact) for topic in block.rows for fact in topic.facts if fact.value]
        return "\n".join(f"- {title}, {text(fact.label)}: {text(fact.value)}" for title, fact in facts)
    if isinstance(block, Facts):
        rows = [f"- {_cell(label)}: {_cell(words)}" for label, words in block.rows if cell_of(words).text]
        return "\n".join([*([f"{text(block.title)}:", ""] if block.title else []), *rows])
    if isinstance(block, Chart):
        drawn = bars([round(1000 * value) for value in block.curves[0].values], CHART_ROWS)
        ends = f"{block.names[0]} … {block.names[-1]}; the tallest is {block.top}"
        return "\n".join([f"{text(block.title)} ({text(ends)}):", "", "```", *drawn, "```"])
    rules = ["---:" if ">" in head[:2] else "---" for head in block.heads]
    lines = [[text(head.lstrip("?>=")) for head in block.heads], rules, *(map(_cell, row) for row in block.rows)]
    return "\n".join(
        [*(f"| {' | '.join(line)} |" for line in lines), *(["", text(block.legend)] if block.legend else [])]
    )

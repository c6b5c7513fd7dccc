"""The verbs that look something up: `explain`, `reference`, `schema`."""

from __future__ import annotations

import sys
from functools import partial
from typing import Annotated, Any

import typer

from robustcheck_onnx.checker.errors import EXIT_CODES, UsageError

from ..options import Color, Debug, Output, completing, one_of
from ..output import console_for, print_report
from ..panels import OUTPUT

TOPICS = ("exit-codes", "reasons", "schema")


def _topics(incomplete: str) -> list[str]:
    """What a shell offers for a topic."""
    from robustcheck_onnx.checker.verdict import KINDS, RULES

    return [topic for topic in (*RULES, *KINDS, *TOPICS) if topic.startswith(incomplete)]


def explain(
    topic: Annotated[
        str,
        typer.Argument(
            help="A reason for WARN, a kind of reasons, exit-codes, schema (of the JSON report), or reasons (all).",
            metavar="TOPIC",
            autocompletion=_topics,
        ),
    ] = "reasons",
    output: Output = "terminal",
    debug: Debug = False,
) -> int:
    """Explain a reason for WARN, the exit codes, or the JSON report."""
    import difflib

    from robustcheck_onnx.checker.text import as_json
    from robustcheck_onnx.checker.verdict import KINDS, RULES

    if topic not in (*RULES, *KINDS, *TOPICS):
        near = difflib.get_close_matches(topic, [*RULES, *KINDS, *TOPICS], 1)
        raise UsageError(
            f"topic is {topic!r}; it must be a reason, a kind of reasons, exit-codes, schema or reasons",
            f"robustcheck explain {near[0] if near else 'reasons'}",
        )
    if topic == "schema":
        return schema()
    if output == "json":
        sys.stdout.write(as_json({"schema_version": 1, "tool": "robustcheck"} | _as_document(topic)))
    elif topic == "exit-codes":
        sys.stdout.write("".join(f"{code:>4}  {text}\n" for code, text in EXIT_CODES.items()))
        sys.stdout.write("      Only 0 lets a release through.\n")
    else:
        sys.stdout.write("\n".join(_reason(topic) if topic in RULES else _reasons(topic)) + "\n")
    return 0


def _as_document(topic: str) -> dict[str, Any]:
    """What `explain` says of a topic, for JSON."""
    from robustcheck_onnx.checker.verdict import KINDS, RULES

    if topic == "exit-codes":
        return {"exit_codes": {str(code): text for code, text in EXIT_CODES.items()}}
    reasons: list[dict[str, Any]] = [
        {"id": name} | rule._asdict() for name, rule in RULES.items() if topic in (name, rule.kind, "reasons")
    ]
    if topic in RULES:
        return reasons[0]
    return {"kinds": {kind: words for kind, words in KINDS.items() if topic in (kind, "reasons")}, "reasons": reasons}


def _reason(name: str) -> list[str]:
    """One reason: title, kind, explanation and next step."""
    from robustcheck_onnx.checker.verdict import RULES

    rule = RULES[name]
    lines = [f"{name}: {rule.title} ({rule.kind})", ""]
    for text in (rule.explanation, f"Next step: {rule.next_step}"):
        lines += [*_wrapped(text), ""]
    return lines[:-1]


def _reasons(topic: str) -> list[str]:
    """The reasons of a kind, or of every kind in the order in which they count."""
    from robustcheck_onnx.checker.verdict import KINDS, RULES

    column = max(map(len, RULES))
    lines: list[str] = []
    for kind, words in KINDS.items():
        if topic in (kind, "reasons"):
            lines += _wrapped(f"{kind}: {words}")
            lines += [f"  {name:<{column}}  {rule.title}" for name, rule in RULES.items() if rule.kind == kind]
            lines.append("")
    return [*lines, "robustcheck explain REASON says what one means and what to do."]


def _wrapped(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, min(max(console_for().width, 40), 100), break_on_hyphens=False)


def reference(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="A checkpoint, a model or a measured set; or words that must all occur in a row's names. Without it: "
            "zero-shot models, and what was measured.",
            metavar="NAME...",
        ),
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="Only rows of this group, such as zero_shot_clip.", metavar="GROUP")
    ] = None,
    sort: Annotated[
        str,
        typer.Option(help="Sort by this column: mean, model, weights, imagenet, v2, kurtosis, ….", metavar="COLUMN"),
    ] = "mean",
    reverse: Annotated[bool, typer.Option("--reverse", help="Smallest numbers first, names from Z to A.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Every row, not only the first 20.")] = False,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            help="terminal, json or csv; the last two hold every row of the answer.",
            metavar="FORMAT",
            autocompletion=completing(lambda: REFERENCE_FORMS),
            rich_help_panel=OUTPUT,
        ),
    ] = "terminal",
    color: Color = "auto",
    debug: Debug = False,
) -> int:
    """Show published and measured numbers of known checkpoints.

    Effective robustness of some 2,000 published checkpoints, and the statistics of those that were measured.
    """
    from robustcheck_onnx.checker.reference import AT_MOST, render_named, render_table, terminal
    from robustcheck_onnx.checker.reference.rows import named, select

    one_of("--output", output, REFERENCE_FORMS)
    name = " ".join(names or [])
    plain = group is None and sort == "mean" and not reverse
    exact = named(name) if name and plain else ()
    rows = exact or select(name, group, sort, reverse=reverse, everything=everything)
    if output == "terminal":
        render = render_named if name else render_table
        print_report(partial(render, rows, at_most=None if everything else AT_MOST), color)
    else:
        sys.stdout.write(terminal.to_json(rows) if output == "json" else terminal.to_csv(rows))
    return 0


REFERENCE_FORMS = ("terminal", "json", "csv")


def schema(debug: Debug = False) -> int:
    """Print the JSON Schema of the JSON report, as `robustcheck explain schema` does."""
    from robustcheck_onnx.checker.report import json_schema

    sys.stdout.write(json_schema())
    return 0

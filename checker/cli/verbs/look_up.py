"""The verbs that look something up: `explain`, `reference`, `schema`."""

from __future__ import annotations

import sys
from functools import partial
from typing import Annotated

import typer

from robustcheck_onnx.checker.errors import EXIT_CODES, UsageError

from ..options import Color, Debug, one_of
from ..output import console_for, print_report


def explain(
    topic: Annotated[str, typer.Argument(help="A reason id, exit-codes, or reasons.")] = "reasons",
    debug: Debug = False,
) -> int:
    """Explain a reason or the exit codes."""
    import difflib
    import textwrap

    from robustcheck_onnx.checker.verdict import RULES

    if topic == "exit-codes":
        sys.stdout.write("".join(f"{code:>4}  {text}\n" for code, text in EXIT_CODES.items()))
        sys.stdout.write("      Only 0 lets a release through.\n")
    elif topic == "reasons":
        column = max(map(len, RULES))
        sys.stdout.write("".join(f"{name:<{column}}  {rule.title}\n" for name, rule in RULES.items()))
    elif topic in RULES:
        rule = RULES[topic]
        width = min(max(console_for().width, 40), 100)
        text = textwrap.fill(rule.explanation, width, break_on_hyphens=False)
        step = textwrap.fill("Next step: " + rule.next_step, width, break_on_hyphens=False)
        sys.stdout.write(f"{topic}: {rule.title} ({rule.kind})\n\n{text}\n\n{step}\n")
    else:
        near = difflib.get_close_matches(topic, [*RULES, "exit-codes", "reasons"], 1)
        raise UsageError(
            f"topic is {topic!r}; it must be a reason id, exit-codes or reasons",
            f"robustcheck explain {near[0] if near else 'reasons'}",
        )
    return 0


def reference(
    name: Annotated[str, typer.Argument(help="A checkpoint, a model or a measured set; without it, the table.")] = "",
    text: Annotated[str, typer.Option("--filter", help="Words that must all occur in a row's names.")] = "",
    group: Annotated[str | None, typer.Option(help="Rows of this group only.")] = None,
    sort: Annotated[str, typer.Option(help="Column to sort by: mean, model, weights, imagenet, v2, ….")] = "mean",
    reverse: Annotated[bool, typer.Option("--reverse", help="The other way round.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="All rows, not only zero-shot and measured models.")
    ] = False,
    output: Annotated[str, typer.Option("--output", "-o", help="terminal, json or csv.")] = "terminal",
    color: Color = "auto",
    debug: Debug = False,
) -> int:
    """Show published and measured numbers of known checkpoints.

    Effective robustness of 2,000 published rows, and the statistics of those that were measured.
    """
    from robustcheck_onnx.checker.reference import render_named, render_table, terminal
    from robustcheck_onnx.checker.reference.rows import named, select

    one_of("--output", output, ("terminal", "json", "csv"))
    if name and (text or group or reverse or everything or sort != "mean"):
        raise UsageError(
            f"NAME is {name!r}; --filter, --group, --sort, --reverse and --all are for the table",
            f"robustcheck reference {name}",
        )
    rows = named(name) if name else select(text, group, sort, reverse=reverse, everything=everything)
    if output == "terminal":
        render = render_named if name else render_table
        print_report(partial(render, rows), color)
    else:
        sys.stdout.write(terminal.to_json(rows) if output == "json" else terminal.to_csv(rows))
    return 0


def schema(debug: Debug = False) -> int:
    """Print the JSON Schema of the JSON report."""
    from robustcheck_onnx.checker.report import json_schema

    sys.stdout.write(json_schema())
    return 0

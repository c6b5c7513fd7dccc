"""The verbs `help` and `version`; help of all lists neither, as `--help` and `--version` say the same."""

from __future__ import annotations

import difflib
import sys
from typing import Annotated

import typer
from typer.core import TyperGroup

from robustcheck_onnx.checker.errors import UsageError

from ..options import Debug


def help_(
    ctx: typer.Context,
    verb: Annotated[
        list[str] | None, typer.Argument(help="A command, such as check or mlflow gate.", metavar="COMMAND...")
    ] = None,
    debug: Debug = False,
) -> int:
    """Show the help of a command, or of all."""
    from ..help import show

    context = ctx.parent
    assert context is not None
    for word in verb or ():
        group = context.command
        known = list(group.commands) if isinstance(group, TyperGroup) else []
        if not isinstance(group, TyperGroup) or word not in known:
            near = difflib.get_close_matches(word, known, 1)
            raise UsageError(
                f"command is {word!r}; {context.command_path} has no such command",
                " ".join(["robustcheck help", *context.command_path.split()[1:], *near]),
            )
        context = typer.Context(
            group.commands[word], parent=context, info_name=word, help_option_names=["-h", "--help"]
        )
    show(context.command, context)
    return 0


def version(
    as_json: Annotated[
        bool, typer.Option("--json", help="As JSON, with the versions of what it measures with.")
    ] = False,
    debug: Debug = False,
) -> int:
    """Show the version."""
    from robustcheck_onnx.checker.text import VERSION

    if not as_json:
        sys.stdout.write(f"robustcheck {VERSION}\n")
        return 0
    import platform

    from robustcheck_onnx.checker.report.predicate import PREDICATE_TYPE
    from robustcheck_onnx.checker.statistics import STATISTIC_VERSION
    from robustcheck_onnx.checker.text import SCHEMA_VERSION
    from robustcheck_onnx.checker.text import as_json as json_text

    sys.stdout.write(
        json_text(
            {
                "schema_version": 1,
                "tool": "robustcheck",
                "version": VERSION,
                "report_schema_version": SCHEMA_VERSION,
                "statistic_version": STATISTIC_VERSION,
                "predicate_type": PREDICATE_TYPE,
                "python": platform.python_version(),
                "packages": {name: _installed(name) for name in PACKAGES},
            }
        )
    )
    return 0


PACKAGES = ("onnxruntime", "onnxruntime-gpu", "onnx", "numpy", "pillow")
"""what verdicts are measured with"""


def _installed(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as version_of

    try:
        return version_of(package)
    except PackageNotFoundError:
        return None

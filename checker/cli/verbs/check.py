"""The verb `check`, the default command. Its models, reports and exit code: `models.py`."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.text import as_json

from .. import command_line
from ..options import FORMATS, ROWS, Several, argument, one_of
from ..output import ascii_only, console_for
from ..question import Call, takes

if TYPE_CHECKING:
    from ..settings import Resolved


@takes(
    *ROWS,
    models=argument(
        "ONNX files, folders (every .onnx file below), quoted globs, or addresses: hf://org/repo, "
        "models:/name/3 and others. The last place may be the photos, as for --images.",
        "MODEL.onnx...",
    ),
)
def check(
    call: Call,
    models: Several = None,
) -> int:
    """Check models: PASS, or WARN with reasons. The default command."""
    from robustcheck_onnx.checker import isolation
    from robustcheck_onnx.checker.isolation import MAX_MODEL_SIZE

    line = call.settings
    if line.show_settings and models:
        raise UsageError(
            f"MODEL.onnx is {models[0]}; --show-settings checks no model, and its exit code 0 is not a PASS",
            "robustcheck check --show-settings",
        )
    if line.show_settings and line.strict:
        raise UsageError(
            "--show-settings is given with --strict, where exit code 0 is always a verdict; it checks no model",
            "robustcheck check --show-settings",
        )
    if not models and not line.show_settings:
        raise UsageError("MODEL.onnx is missing; robustcheck check needs it", "robustcheck check --help")
    if line.isolated:
        os.environ.pop(MAX_MODEL_SIZE, None)  # the child would heed it
    with isolation.Wall() if models else nullcontext() as wall:
        # while the child process starts
        from .. import models as many
        from .. import settings

        typed, words = call.typed, models or []
        if models:
            words, place = command_line.split_images(models, images_typed=line.images is not None, strict=line.strict)
            typed |= {"images": place} if place else {}
        named = typed.pop("waivers", None)
        resolved = settings.resolve(typed, os.environ, file=line.config, isolated=line.isolated, waivers_file=named)
        if wall is None:
            return _show(resolved, *line.output[-1:])
        if line.strict:
            settings.refuse_loosening(resolved, call.invocation.line)
        return many.run(resolved, words, call.invocation, wall)


def _show(resolved: Resolved, form: str = "terminal") -> int:
    """Write each setting with value and source to stdout."""
    from rich.console import Group

    from robustcheck_onnx.checker.report.layout import Pen, Trimmed, columns

    from .. import settings

    one_of("--output", form, FORMATS)
    document = settings.settings_json(resolved)
    if form == "json":
        sys.stdout.write(as_json(document))
        return 0
    console = console_for(resolved.settings.color)
    pen = Pen(ascii_only(console))
    table = columns(pen, "=setting", "value", "source")
    for key, entry in document["settings"].items():
        text, source = settings.value_text(key, entry["value"]), entry["source"]
        table.add_row(pen.say(key), pen.name(text), pen.name(source, "dim" if source == settings.DEFAULT else "bold"))
    console.print(Trimmed(Group(table, pen.name(f"file: {resolved.file or 'none'}"))))
    return 0

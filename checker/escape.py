"""Text from outside as it can be shown: it steers neither a terminal nor a pipeline; pure, light to import."""

from __future__ import annotations

import re

# What GitHub's runner takes for a command in a line of output: `##[name …]` anywhere, `::name …::` at its start (and a
# report wraps its lines). actions/runner, src/Runner.Common/ActionCommand.cs
_COMMAND = re.compile(r"##(?=\[)|::(?=[A-Za-z][A-Za-z-]*(?: [^:]*)?::)")


def printable(text: str) -> str:
    r"""Control characters, text-direction marks, bytes that are no text and commands of pipelines become escapes.

    >>> printable("a\x1b[31m\nb"), printable("##[stop-commands]x"), printable("onnx::MatMul_1")
    ('a\\x1b[31m\\nb', '#\\x23[stop-commands]x', 'onnx::MatMul_1')
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return _COMMAND.sub(lambda found: f"{found[0][0]}\\x{ord(found[0][1]):x}", shown)

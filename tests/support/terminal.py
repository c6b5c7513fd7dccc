"""A terminal without a process behind it: what a program draws there, line by line."""

import io
import re
from collections.abc import Callable
from typing import Any

from rich.console import Console

from robustcheck_onnx.checker.report import layout
from robustcheck_onnx.checker.report.document import document_of


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        """What was shown, without colours and movements; a line that was drawn again counts again."""
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue())
        return [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]


def printed(rendered: object, width: int = 80) -> str:
    """What is shown in so many columns, without colours."""
    Console(file=(file := io.StringIO()), width=width, no_color=True).print(rendered, crop=False)
    return file.getvalue()


def shown(result: Any, width: int = 80, **options: bool) -> str:
    """What the terminal shows of a question's result."""
    return printed(layout.of_document(document_of(result), **options), width)


OnATerminal = Callable[..., tuple[int, list[str], str]]
"""of a command line: its exit code, the lines that stderr showed, and what went to stdout"""


def stages_of(lines: list[str]) -> list[str]:
    """The words of each line in their order, each once, without numbers."""
    return list(dict.fromkeys(re.sub(r"  .*| *\d.*", "", line) for line in lines))

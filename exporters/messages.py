"""Keeps what libraries print, warn and log out of the user's terminal, and at hand for an error message."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field


def untold(_words: str) -> None:
    """Say nothing of a stage: the default of every function that tells its stages."""


@dataclass
class Messages:
    """Lines that libraries logged, warned and printed while they worked, in this order."""

    lines: list[str] = field(default_factory=list)

    def tail(self, count: int = 3) -> str:
        """Return the last `count` lines joined by " | "; empty when nothing was said."""
        return " | ".join(self.lines[-count:])

    def quoted(self, count: int = 3) -> str:
        """Return " [`tail`]", to follow the sentence of an error; empty when nothing was said."""
        return f" [{self.tail(count)}]" if self.lines else ""


class _Keep(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname.lower()}: {record.getMessage()}")


@contextlib.contextmanager
def quiet() -> Iterator[Messages]:
    """Collect prints, warnings and root-logger records instead of showing them.

    Python-level stdout and stderr are redirected; log handlers come back as they were, so the
    application's own logging configuration is untouched. (open_clip logs through the root logger, which
    would otherwise install a handler of its own; torch.onnx prints progress.)
    """
    messages = Messages()
    printed = io.StringIO()
    root = logging.getLogger()
    # some libraries (huggingface_hub) give their own logger a handler that keeps the real stderr
    named = (logger for logger in root.manager.loggerDict.values() if isinstance(logger, logging.Logger))
    swapped = [(logger, logger.handlers[:]) for logger in (root, *named) if logger is root or logger.handlers]
    for logger, _ in swapped:
        logger.handlers[:] = [_Keep(messages.lines)]
    try:
        with (
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
            warnings.catch_warnings(record=True) as caught,
        ):
            warnings.simplefilter("always")
            try:
                yield messages
            finally:
                messages.lines += [f"warning: {str(w.message).splitlines()[0]}" for w in caught if str(w.message)]
                messages.lines += [line for line in printed.getvalue().splitlines() if line.strip()]
    finally:
        for logger, handlers in swapped:
            logger.handlers[:] = handlers

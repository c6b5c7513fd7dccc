"""The log of a check: lines on stderr (-vv) and in a file (--log-file)."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robustcheck_onnx.checker.errors import EnvironmentFaultError
from robustcheck_onnx.checker.text import VERSION, printable

from .output import check_target

if TYPE_CHECKING:
    from robustcheck_onnx.checker.storage.places import Place

    from .settings import Settings


class _Lines(logging.Formatter):
    """Formats a record as one line, in UTC. A file's name can forge no line, and no URL shows a key."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def format(self, record: logging.LogRecord) -> str:
        from robustcheck_onnx.checker.storage.places import redact_text

        return printable(redact_text(super().format(record)))


@contextlib.contextmanager
def written(settings: Settings, reads: Sequence[Place]) -> Iterator[None]:
    """Write the package's log to stderr (-vv) and to a file while the block runs."""
    from robustcheck_onnx.checker.isolation import LOG

    handlers: list[logging.Handler] = []
    if settings.verbose > 1:
        handlers.append(logging.StreamHandler(sys.stderr))
    if settings.log_file is not None:
        path = Path(settings.log_file)
        check_target(path, reads)
        try:
            handlers.append(logging.FileHandler(path, encoding="utf-8", errors="backslashreplace"))
        except OSError as fault:
            raise EnvironmentFaultError(
                f"{path}: log is not writable ({fault.strerror}); it was asked for", f"ls -ld {path}"
            ) from fault
    level = LOG.level
    try:
        for handler in handlers:
            handler.setFormatter(_Lines("%(asctime)s %(levelname)s %(message)s"))
            LOG.addHandler(handler)
        if handlers:
            LOG.setLevel(logging.DEBUG)
            LOG.info("robustcheck %s", VERSION)  # `check_log` knows it by this
        yield
    finally:
        for handler in handlers:
            LOG.removeHandler(handler)
            handler.close()
        LOG.setLevel(level)

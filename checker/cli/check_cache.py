"""The cache of a check: refused where it lies in the checkout, and said once where it can't be used."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from robustcheck_onnx.checker.text import printable

if TYPE_CHECKING:
    from .settings import Settings


def say_whether_used(settings: Settings, settings_file: str | None) -> None:
    """Write a note to stderr where a run would use the cache and can't; nothing where it uses none.

    settings_file: the file of the settings that was read.

    Raises UsageError: ROBUSTCHECK_CACHE_DIR lies in the git checkout that holds the current folder or that file.
    """
    if settings.no_cache or settings.sign is not None or settings.detector or settings.engine != "local":
        return
    from robustcheck_onnx.checker.storage import own_files

    if own_files.is_off():
        return
    own_files.refuse_in_checkout(settings_file)
    why = own_files.why_unused()
    if why and settings.quiet < 2:
        sys.stderr.write(f"note: the cache {printable(f'{own_files.folder()} is not used: {why}')}\n")

"""Name and remove the file of a signature.

It is a signed verdict next to its report. Light, for a run that ends early.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Final

from robustcheck_onnx.checker.errors import EnvironmentFaultError
from robustcheck_onnx.checker.text import quoted

from .predicate import KNOWN_TYPES

MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
LARGEST_BYTES: Final = 1 << 20  # of a bundle file; usual ones have some KB


def bundle_of(report: Path) -> Path:
    """Return the default file of a report's signature."""
    return report.with_suffix(".sigstore.json")


def remove_verdict(bundle: Path) -> None:
    """Remove a signed verdict's file. Any other file stays.

    Raises EnvironmentFaultError where it can't be removed.
    """
    try:
        if is_verdict(bundle):
            bundle.unlink()
    except OSError as fault:
        raise EnvironmentFaultError(
            f"{bundle}: earlier signature is not removed ({fault.strerror}); none may outlive its report",
            f"ls -ld {quoted(bundle)}",
        ) from fault


def is_verdict(bundle: Path) -> bool:
    """Return whether a file is a signed verdict. Anybody may have signed it. Raises OSError where it can't be read."""
    try:
        if not bundle.is_file() or bundle.stat().st_size > LARGEST_BYTES:
            return False
        document = json.loads(bundle.read_bytes())
        statement = json.loads(base64.b64decode(document["dsseEnvelope"]["payload"]))
        return bool(document["mediaType"] == MEDIA_TYPE and statement["predicateType"] in KNOWN_TYPES)
    except (ValueError, KeyError, TypeError, RecursionError):
        return False  # another file

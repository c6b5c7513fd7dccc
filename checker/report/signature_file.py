"""The file of a signed verdict beside its report: its name, and its removal. Light, for a run that ends early."""

from __future__ import annotations

import base64
import json
import shlex
from pathlib import Path
from typing import Final

from robustcheck_onnx.checker.errors import EnvironmentFaultError

from .predicate import KNOWN_TYPES

MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
LARGEST_BYTES: Final = 1 << 20  # of a bundle file; usual ones have some KB


def bundle_of(report: Path) -> Path:
    """The file of a report's signature where no other is named."""
    return report.with_suffix(".sigstore.json")


def remove_verdict(bundle: Path) -> None:
    """Remove a file that is a signed verdict; any other file stays.

    Raises EnvironmentFaultError where it can't be removed.
    """
    try:
        if bundle.is_file() and bundle.stat().st_size <= LARGEST_BYTES:
            document = json.loads(bundle.read_bytes())
            statement = json.loads(base64.b64decode(document["dsseEnvelope"]["payload"]))
            if document["mediaType"] == MEDIA_TYPE and statement["predicateType"] in KNOWN_TYPES:
                bundle.unlink()
    except OSError as fault:
        raise EnvironmentFaultError(
            f"{bundle}: earlier signature is not removed ({fault.strerror}); none may outlive its report",
            f"ls -ld {shlex.quote(str(bundle))}",
        ) from fault
    except (ValueError, KeyError, TypeError, RecursionError):
        return  # another file

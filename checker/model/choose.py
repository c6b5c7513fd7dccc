"""Which ONNX file is meant where a repository or a registry's entry holds several. Looks at names alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from robustcheck_onnx.checker.errors import UsageError

from .sidecar import IMAGE_TOWER, PRECISION, checkpoint_part, takes_no_image

SHOWN = 6  # files that an error names


def choose_model(paths: Sequence[str], shown: str, address_of: Callable[[str], str]) -> str:
    """The one encoder among ONNX files: not a text tower, and of several precisions the full one.

    Of a CLIP that is split into towers, the image tower is meant.

    Args:
        paths: of ONNX files, with `/`; at least one.
        shown: the address that names them all.
        address_of: makes the address of one, for the hint.

    Raises:
        UsageError: several encoders, of which one must be named.
    """
    encoders = [path for path in paths if not takes_no_image(PurePosixPath(path))] or list(paths)
    whole = [path for path in encoders if PRECISION.search(PurePosixPath(path).stem.casefold()) is None]
    full = [path for path in encoders if PurePosixPath(path).stem.casefold().endswith("fp32")]
    candidates = whole or full or encoders
    towers = [path for path in candidates if checkpoint_part(PurePosixPath(path)) == IMAGE_TOWER]
    if len(towers) == 1:
        return towers[0]
    if len(candidates) == 1:
        return candidates[0]
    names = ", ".join(candidates[:SHOWN]) + (f" and {len(candidates) - SHOWN} more" if len(candidates) > SHOWN else "")
    raise UsageError(
        f"{shown}: number of encoders is {len(candidates)} ({names}); one must be named",
        f"robustcheck {address_of(candidates[0])}",
    )

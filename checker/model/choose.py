"""Which ONNX file is meant where a repository or a registry's entry holds several. Looks at names alone."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from robustcheck_onnx.checker.errors import UsageError

from .configs import HUB_FOLDER
from .sidecar import IMAGE_TOWER, PRECISION, TEXT_TOWER, WHOLE_AND_IMAGE_TOWER, checkpoint_part, takes_no_image

SHOWN = 6  # files that an error names


def choose_model(paths: Sequence[str], shown: str, address_of: Callable[[str], str]) -> str:
    """The one encoder among ONNX files: not a text tower, and of several precisions of one checkpoint the full one.

    Of a CLIP that is split into towers, the image tower is meant. Files of other names, or of other folders, are other
    checkpoints; a folder `onnx` is its parent's.

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
    checkpoints = {_checkpoint(path) for path in encoders}
    candidates = (whole or full or encoders) if len(checkpoints) == 1 else encoders
    is_one_folder, parts = len({folder for folder, _ in checkpoints}) == 1, {part for _, part in checkpoints}
    if (
        is_one_folder
        and parts == WHOLE_AND_IMAGE_TOWER
        and TEXT_TOWER in map(checkpoint_part, map(PurePosixPath, paths))
    ):
        towers = [path for path in encoders if checkpoint_part(PurePosixPath(path)) == IMAGE_TOWER]
        return choose_model(towers, shown, address_of)
    if len(candidates) == 1:
        return candidates[0]
    names = ", ".join(candidates[:SHOWN]) + (f" and {len(candidates) - SHOWN} more" if len(candidates) > SHOWN else "")
    raise UsageError(
        f"{shown}: number of encoders is {len(candidates)} ({names}); one must be named",
        f"robustcheck {shlex.quote(address_of(candidates[0]))}",
    )


def _checkpoint(path: str) -> tuple[PurePosixPath, str]:
    """The folder of a file, and its name without its precision: files that share both are forms of one checkpoint."""
    folder = PurePosixPath(path).parent
    return folder.parent if folder.name == HUB_FOLDER else folder, checkpoint_part(PurePosixPath(path))

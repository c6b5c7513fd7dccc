"""The places that a check writes to, refused before anything is opened where a settings file may not name them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.text import quoted

from .confine import follows_link, is_inside
from .options import PLACEHOLDER
from .output import Destination, check_extra
from .output_words import split
from .settings import Resolved

if TYPE_CHECKING:
    from robustcheck_onnx.checker.storage.places import Place

_LOG: Final = re.compile(rb"\d{4}-\d\d-\d\dT[\d:.]+Z INFO robustcheck \d")
"""how a log of ours starts: `check_run` writes this line first"""


def folder_of(resolved: Resolved, key: str, *, strict: bool) -> Path | None:
    """The folder that the outputs or the log must stay in: the settings file's, where that file names them.

    With `strict`, where a variable names them, the current folder.
    """
    if key in resolved.in_file and resolved.file is not None:
        return Path(resolved.file).parent
    return Path() if strict and key in resolved.sources and key not in resolved.typed else None


def check_outputs(resolved: Resolved, outputs: Iterable[str], *, strict: bool) -> None:
    """Refuse places for documents, each FORM[=PATH], before anything is opened. Raises UsageError."""
    from robustcheck_onnx.checker.storage.places import parse_place, redact
    from robustcheck_onnx.checker.storage.write import is_ours

    folder = folder_of(resolved, "output", strict=strict)
    for text in outputs:
        form, _, path = split(text)
        if path in ("", "-"):
            continue
        what, again = f"output is {form}={redact(path)}", f"-o {form}={quoted(redact(path))}"
        _check(resolved, what, again, path, folder, strict=strict)
        if folder is not None and Path(path).exists() and not is_ours(parse_place(path)):
            raise _not_ours(resolved, what, "no report of robustcheck", again)


def check_bundles(resolved: Resolved, bundles: Iterable[Path], *, strict: bool) -> None:
    """Refuse places of signatures, as `check_outputs`; their names follow from those of the reports."""
    from robustcheck_onnx.checker.report.signature_file import is_verdict

    is_named = bool({"output", "sign"} & resolved.in_file)
    for bundle in bundles:
        what, again = f"signature is {bundle}", "-o json=report.json --sign KEY"
        _check(
            resolved, what, again, str(bundle), folder_of(resolved, "output", strict=strict), strict=strict or is_named
        )
        if is_named and bundle.exists() and not is_verdict(bundle):
            raise _not_ours(resolved, what, "no signature of robustcheck", again)


def files_of_representations(
    path: str | None, models: Sequence[str], reads: Sequence[Place], destinations: Sequence[Destination]
) -> dict[str, str]:
    """The file of `--save-representations` for each model, checked before anything is opened; empty where none is.

    Raises as `models.fill`, `output.check_extra` and `representations.checked_path`; UsageError for one file and
    several models.
    """
    if path is None:
        return {}
    from robustcheck_onnx.checker.representations import checked_path

    from .models import fill

    option = "--save-representations"
    if len(models) > 1 and PLACEHOLDER not in path:
        raise UsageError(
            f"{option} is {path}, and {len(models)} models are checked; each needs its own file",
            f"{option} {quoted(Path(path).with_suffix(''))}-{PLACEHOLDER}{Path(path).suffix}",
        )
    files = dict(zip(models, fill(path, models, option), strict=True))
    for each in files.values():
        checked_path(each)
        check_extra(option, Path(each), reads, destinations, "rows.npz")
    return files


def check_log(resolved: Resolved, *, strict: bool) -> None:
    """Refuse the place of the log, as `check_outputs`."""
    name = resolved.settings.log_file
    if name is None:
        return
    what, again = f"log-file is {name}", f"--log-file {quoted(name)}"
    folder = folder_of(resolved, "log-file", strict=strict)
    _check(resolved, what, again, name, folder, strict=strict)
    if folder is not None and Path(name).exists() and not _is_log(Path(name)):
        raise _not_ours(resolved, what, "no log of robustcheck", again)


def _check(resolved: Resolved, what: str, again: str, path: str, folder: Path | None, *, strict: bool) -> None:
    if folder is not None and not is_inside(path, folder):
        raise UsageError(
            f"{_where(resolved)}: {what}; what a settings file names must lie in its folder, and no link may lead out",
            f"{again}  # the command line may name any place",
        )
    if folder is None and strict and follows_link(path):
        raise UsageError(
            f"{what}, which follows a link; one of a checkout may lead anywhere, so none is followed",
            f"ls -ld {quoted(path)}",
        )


def _where(resolved: Resolved) -> str:
    return resolved.file or "environment"


def _not_ours(resolved: Resolved, what: str, kind: str, again: str) -> UsageError:
    return UsageError(
        f"{_where(resolved)}: {what}; the file that is there is {kind}, and a settings file replaces no other",
        f"{again}  # the command line may replace it",
    )


def _is_log(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return _LOG.match(file.read(80)) is not None
    except OSError:
        return False

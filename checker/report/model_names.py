"""Name the models of a document: paths in a repository, distinct names, fingerprints. Pure."""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import field
from pathlib import Path, PurePath

from ..text import frozen, printable
from .record import Failed, Outcome, Outcomes


def _working_folder() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 # a text
    except OSError:  # the folder was removed under the process
        return os.sep


def _repository() -> str:
    start = Path(_working_folder())
    return str(next((folder for folder in (start, *start.parents) if (folder / ".git").exists()), start))


@frozen
class FormOptions:
    """The options that a form may need."""

    n_models: int = 1
    """of the run, where a document may be about one of them (html)"""
    thumbnails: Mapping[str, str] = field(default_factory=dict)
    """data: URIs of photos by their digest (html)"""
    missing: Mapping[str, str] = field(default_factory=dict)
    """why an image has no thumbnail, by its digest (html)"""
    working_folder: str = field(default_factory=_working_folder)
    """absolute folder that models' relative paths start from (sarif, gitlab, annotations)"""
    root: str = field(default_factory=_repository)
    """absolute folder that a pipeline's paths are relative to: the nearest one upward that holds .git"""


def model_of(outcome: Outcome) -> str:
    """Return the model's path as given, unescaped, or nothing where the run ended before it was known."""
    return outcome.model if isinstance(outcome, Failed) else outcome.evidence.model.file


def names_of(outcomes: Outcomes) -> list[str]:
    """Return a distinct name for each outcome: the escaped path, with a number where the path comes again."""
    names: list[str] = []
    for outcome in outcomes:
        name = numbered = printable(model_of(outcome)) or "robustcheck"
        number = 1
        while numbered in names:
            number += 1
            numbered = f"{name} ({number})"
        names.append(numbered)
    return names


def is_address(model: str) -> bool:
    """Return whether a model is an address (`scheme://…`) and not a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", model) is not None


def path_in_repository(model: str, working_folder: str, root: str) -> str:
    """Return the model's path relative to the repository, with forward slashes, as a pipeline names files.

    Args:
        model: as it was given; an address (`scheme://…`) stays as it is.
        working_folder: absolute folder that a relative path starts from.
        root: absolute folder of the repository.

    Returns:
        The absolute path where the model lies outside the root; "robustcheck" where no model is known.
    """
    if not model or is_address(model):
        return model or "robustcheck"
    path = os.path.normpath(os.path.join(working_folder, model))  # noqa: PTH118 # PurePath keeps `..`, and links stay links
    pure = PurePath(path)
    return (pure.relative_to(root) if pure.is_relative_to(root) else pure).as_posix()


def path_of(outcome: Outcome, options: FormOptions) -> str:
    """Return the model's path for a pipeline (`path_in_repository`)."""
    return path_in_repository(model_of(outcome), options.working_folder, options.root)


def fingerprint(path: str, rule: str) -> str:
    """Return a digest of model and reason that is the same over runs, whatever was measured."""
    return hashlib.sha256(name_bytes(f"{path}\0{rule}")).hexdigest()


def name_bytes(name: str) -> bytes:
    r"""Return a name's bytes in the file system. Lone surrogates (given by a program) have bytes, too.

    >>> name_bytes("\udcff"), name_bytes("\ud800")
    (b'\xff', b'\xed\xa0\x80')
    """
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogatepass")


def _named(outcomes: Outcomes) -> Iterable[tuple[str, Outcome]]:
    """Pair each outcome with what precedes its messages: the model's name where there are several."""
    names = [f"{name}: " for name in names_of(outcomes)] if len(outcomes) > 1 else [""]
    return zip(names, outcomes, strict=False)

"""Several models in one call: which ones, in which order, and what they come to together."""

from __future__ import annotations

import glob
import os
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.report import Failed, Outcome, Report, exit_code_of
from robustcheck_onnx.checker.storage import local, redact, unreadable

SUFFIX = ".onnx"
HOLE = "{model}"  # in a report's path: the model's name without its suffix


def expand(words: Sequence[str]) -> list[str]:
    """The models that are meant: files as they are, folders as all .onnx files below them, globs as what they match.

    A folder that a glob matches counts as one that was named, but may be without a model.
    In the order of the words, below a word sorted; a file that was there before is left out. A word that is a file's
    name is that file, even with signs of a glob in it. Names of no file stay: opening them says what is wrong.
    Raises UsageError: a folder or a glob without a model, a folder that can't be read.
    """
    found: dict[str, str] = {}
    for word in words:
        for path in _meant(word):
            found.setdefault(path if "://" in path else _place(path), path)
    return list(found.values())


def _place(path: str) -> str:
    """The same for all spellings of a path; `link/..` is where the link leads, and a link to a file is a name of its
    own, with sidecars of its own."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)  # noqa: PTH118 # a Path would change the name


def _meant(word: str) -> list[str]:
    if "://" in word or os.path.isfile(word):  # noqa: PTH113 # a Path would change the word
        return [word]
    if os.path.isdir(word):  # noqa: PTH112
        models = sorted(_below(word))
        if not models:
            raise UsageError(
                f"{word}: number of {SUFFIX} files in the folder is 0; at least one is needed",
                f"find {shlex.quote(word)} -name '*{SUFFIX}'",
            )
        return models
    if re.search(r"[*?]|\[.+\]", word):  # a lone bracket is part of a name
        if fault := unreadable(word, lambda folder: list(_below(folder))):
            raise _unreadable(fault) from fault
        matches: list[str] = []
        for path in glob.glob(word, recursive=True):  # noqa: PTH207
            matches += _below(path) if os.path.isdir(path) else [path]  # noqa: PTH112
        matches.sort()
        if not matches:
            raise UsageError(f"{word}: number of files that match is 0; at least one is needed", f"ls {word}")
        return matches
    return [word]


def _unreadable(fault: OSError) -> UsageError:
    return UsageError(
        f"{fault.filename}: folder cannot be read ({fault.strerror}); all models below a folder are checked",
        f"ls -ld {shlex.quote(str(fault.filename))}",
    )


def _below(folder: str) -> Iterator[str]:
    """All .onnx files below a folder, links to folders followed once; nothing is passed by in silence."""
    for top, folders, names in local.walk(folder, _unreadable):
        folders.sort()
        yield from (str(Path(top) / name) for name in names if name.lower().endswith(SUFFIX))


def check_all(
    models: Sequence[str], check: Callable[[str], Report], failure: Callable[[str, Exception], Failed]
) -> list[Outcome]:
    """Check one model after the other; one that fails is an outcome, too, and the next one's turn comes.

    check: of one model; what it raises is given to `failure`. What is no Exception (a signal) ends the run.
    """
    outcomes: list[Outcome] = []
    for model in models:
        try:
            outcomes.append(check(model))
        except Exception as fault:  # noqa: BLE001 # whatever it is, the other models get their verdicts
            outcomes.append(failure(model, fault))
    return outcomes


def worst(outcomes: Sequence[Outcome]) -> int:
    """The exit code of all together: the largest one, so 70 > 4 > 3 > 2 > 1 > 0.

    Raises ValueError for no outcome: that is no PASS.
    """
    if not outcomes:
        raise ValueError("no model was checked")
    return max(map(exit_code_of, outcomes))


def stem(model: str) -> str:
    """What stands for a model in a report's path: its file's name without the suffix."""
    return PurePosixPath(redact(model).rstrip("/")).stem if "://" in model else Path(model).stem


def fill(path: str, models: Sequence[str]) -> list[str]:
    """A report's path for each model, `{model}` filled in.

    Raises UsageError where two models would share one file, on file systems without case, too.
    """
    taken: dict[str, str] = {}
    for model in models:
        name = stem(model)
        other = taken.setdefault(name.casefold(), model)
        if other != model:
            raise UsageError(
                f"--output is {path}; {other} and {model} would both be {name}, and each needs its own file",
                "check them in two runs, or leave out {model} for one document",
            )
    return [path.replace(HOLE, stem(model)) for model in models]

"""The errors of this package, as values. An error names the thing, its value, the rule and the next step.

The library raises; only `cli/` prints and exits. The exit code belongs to the class, so that "bad
usage", "could not assess" and "environment" are never confused with a verdict (0 PASS, 1 WARN).
"""

import errno
import re
import shlex
from typing import ClassVar

SCARCE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EROFS)
"""Errors of the operating system that are not the call's fault: disk, quota or file table full, no rights."""

EXIT_CODES = {
    0: "PASS: the outlier features are present",
    1: "WARN: absent or not established; the report shows why",
    2: "usage: an argument or a configuration file is wrong",
    3: "could not assess: no readable model, no usable image, no finite representation, or it took too long",
    4: "environment: an execution provider, memory, disk space or an extra is missing",
    70: "internal error: please report it",
    130: "interrupted (SIGINT)",
    143: "terminated (SIGTERM)",
}
"""Every exit code of the command and what it means."""


class RobustcheckError(Exception):
    """An error a user can act on.

    Args:
        message: one line, `FILE: THING is VALUE; RULE` (no full stop at its end).
        hint: the next step, best of all a command to type; empty when there is none.
    """

    exit_code: ClassVar[int] = 70

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """Return message and hint in the words of Python. The command shows its own."""
        message = as_keywords(self.message)
        return f"{message}\nhint: {as_keywords(self.hint)}" if self.hint else message


_KEYWORDS = re.compile(
    r"--(images|max-images|max-bad|seed|preprocess|tensor|pool|device|batch-size|thresholds|tolerance|baseline"
    r"|save-representations)\b(?: (?!is\b|and\b|or\b|for\b)([\w./-]+))?"
)


def as_keywords(text: str) -> str:
    """Write options in a message or hint as keyword arguments, and a shell's command as it is.

    >>> as_keywords("--preprocess clip"), as_keywords("--max-bad is 2"), as_keywords("ls --images")
    ('preprocess="clip"', 'max_bad is 2', 'ls --images')
    >>> as_keywords("leave out --thresholds for the default profile")
    'leave out thresholds for the default profile'
    """

    def keyword(option: re.Match[str]) -> str:
        name = option[1].replace("-", "_")
        value = option[2]
        if value is None:
            return name
        is_bare = value[0].isdecimal() or value.isupper()
        return f"{name}={value}" if is_bare else f'{name}="{value}"'

    return text if text.startswith(COMMANDS) else _KEYWORDS.sub(keyword, text)


COMMANDS = (
    "robustcheck ",
    "ls ",
    "find ",
    "python ",
    "pip ",
    "git ",
    "mkdir ",
    "tar ",
    "gunzip ",
    "cat ",
    "head ",
    "df ",
    "curl ",
    "sed ",
    "unset ",
    "mlflow ",
    "ray ",
)
"""how a hint starts that is a command to type"""
NEWER = "install a newer robustcheck, from where this one came"


class UsageError(RobustcheckError):
    """A wrong call or configuration file (exit 2)."""

    exit_code = 2


class CallError(UsageError, TypeError):
    """A wrong call in Python: an unknown keyword, too many arguments, one of another kind."""


class CannotAssessError(RobustcheckError):
    """A model that can't be judged: unreadable, or without usable images or a finite representation (exit 3)."""

    exit_code = 3


def unfit(model: object, seen: str) -> CannotAssessError:
    """Return the error about a model, by its path, of which `inspect` shows more; `seen` is what is wrong."""
    return CannotAssessError(f"{model}: {seen}", f"robustcheck inspect {shlex.quote(str(model))}")


class EnvironmentFaultError(RobustcheckError):
    """A fault of the environment: an execution provider, memory, disk space or an extra is missing (exit 4)."""

    exit_code = 4


def install_hint(extra: str) -> str:
    """Return the command that installs what an extra names, next to the installed distribution."""
    ours = _installed("robustcheck-onnx")
    return f"pip install '{ours[0]}[{extra}]'" if ours else f"pip install '.[{extra}]'  # in a clone"


def _installed(start: str) -> list[str]:
    """Return the installed distributions whose names start so, sorted."""
    from importlib.metadata import distributions  # noqa: PLC0415 # slow to import, rarely needed

    names = {distribution.name or "" for distribution in distributions()}
    return sorted(name for name in names if name.startswith(start))


def _runtime_hint() -> str:
    """Return the command that installs ONNX Runtime again, where it is missing or another flavour took its files."""
    there = _installed("onnxruntime")
    brings = there if len(there) == 1 else _installed("robustcheck-onnx") or ["onnxruntime"]
    install = f"pip install {brings[0]}"
    return f"pip uninstall -y {' '.join(there)} && {install}" if there else install


def as_error(fault: BaseException) -> RobustcheckError:
    """Turn any exception into a reportable error, with exit code 4 for what the machine lacks, else 70."""
    if isinstance(fault, RobustcheckError):
        return fault
    if isinstance(fault, MemoryError) or (isinstance(fault, OSError) and fault.errno == errno.ENOMEM):
        return EnvironmentFaultError("memory: the process ran out of memory; model and batch must fit", "free -h")
    if isinstance(fault, RuntimeError) and str(fault) == "can't start new thread":  # CPython has no class for it
        return EnvironmentFaultError(
            "threads: no more can be started; memory, or the limit of processes, is too low", "ulimit -v -u"
        )
    if isinstance(fault, ImportError):
        name = fault.name or "a package"
        hint = _runtime_hint() if name.partition(".")[0] == "onnxruntime" else "pip check"
        return EnvironmentFaultError(
            f"{name}: package is not importable ({fault}); the installation must be complete", hint
        )
    if isinstance(fault, FileNotFoundError) and fault.filename is None:  # of no file: `os.getcwd`
        return EnvironmentFaultError(f"current folder is missing ({fault.strerror})", "cd")
    if isinstance(fault, OSError) and fault.errno == errno.EBADF:
        return EnvironmentFaultError(
            "stdout is closed; a report needs an open stream or a file",
            "robustcheck model.onnx --images photos/ -o json=report.json -q",
        )
    if isinstance(fault, OSError) and fault.errno in SCARCE:
        where = fault.filename or "stdout"
        return EnvironmentFaultError(
            f"{where}: system reports {fault.strerror}; space, quota, file handles and rights must be there",
            "df -h; ulimit -a",
        )
    text = " ".join(f"{type(fault).__name__}: {fault}".split())[:300]
    return RobustcheckError(f"internal error: {text}", "run again with --debug and report the traceback")

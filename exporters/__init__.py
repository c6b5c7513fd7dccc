"""Write ONNX files that carry their preprocessing and meaning. Needs the extra `export`.

Here are the errors of an export. What libraries print meanwhile is collected here, too.
"""

import contextlib
import difflib
import io
import logging
import shlex
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata

Texts = tuple[str, ...]
Tell = Callable[[str], None]  # is called with what is done, when each stage begins

# Exception types of huggingface_hub, httpx, requests and urllib that mean "the weights are not here and
# cannot be fetched"; by name, because the clients that raise them differ between versions.
_NOT_REACHABLE = {
    "LocalEntryNotFoundError", "OfflineModeIsEnabled", "RepositoryNotFoundError", "RevisionNotFoundError",
    "EntryNotFoundError", "RemoteEntryNotFoundError", "GatedRepoError", "HfHubHTTPError", "ConnectError",
    "ConnectTimeout", "ProxyError", "ConnectionError", "URLError", "HTTPError",
}  # fmt: skip


class ExportError(Exception):
    """No file could be made that agrees with its model (exit 3).

    Args:
        message: one line, "<file>: <thing> is <value>; <rule>" (no trailing full stop).
        hint: the next step, best of all a command to type; empty when there is none.
    """

    exit_code = 3

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class CallError(ExportError):
    """A mistake in a name, an option or a file of words (exit 2)."""

    exit_code = 2


class MissingError(ExportError):
    """An extra, a weights file or disk space is missing (exit 4)."""

    exit_code = 4


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's text, its type without one."""
    text = str(error).strip()
    if not text:
        return type(error).__name__
    return text.splitlines()[0]


def type_and_text(error: BaseException) -> str:
    """Return an exception's type and text."""
    return f"{type(error).__name__}: {error}"


def nearest(word: str, valid: Sequence[str]) -> str:
    """Return the valid word that is spelled most like another one, the first where none is like it."""
    near, *_ = difflib.get_close_matches(word, valid, 1, 0.3) or valid
    return near


def quoted(word: object) -> str:
    """Quote a word or a path for the shell."""
    return shlex.quote(str(word))


def install_hint(extra: str) -> str:
    """Return the command that adds an extra to the installed distribution."""
    names = sorted(each.name or "" for each in metadata.distributions())
    for name in names:
        if name.startswith("robustcheck-onnx"):
            return f"pip install '{name}[{extra}]'"
    return f"pip install '.[{extra}]'  # in a clone"


def import_error(error: ImportError, subject: str, package: str, needs: str = "exporting needs it") -> MissingError:
    """Return the error for a package that can't be imported."""
    about = f"{subject}: package {error.name or package} is not importable ({error}); {needs}"
    return MissingError(about, install_hint("export"))


def load_error(error: Exception, name: str, place: str, last_line: str = "") -> ExportError:
    """Return one clear error for a library's failure to load `name`."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    if any(type(c).__name__ in _NOT_REACHABLE or isinstance(c, FileNotFoundError) for c in causes):
        return MissingError(
            f"{name}: weights are not on this machine and could not be downloaded; a local copy or a network is needed",
            place,
        )
    return ExportError(
        f"{name}: weights could not be loaded ({type(error).__name__}: {first_mismatch(error)}){last_line}; "
        "every weight must fit",
        "check the name and that the checkpoint belongs to it",
    )


def first_mismatch(error: BaseException) -> str:
    """Return the line of a load error that names what differs."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # load_state_dict puts the useful line (which keys) second
    text = lines[0]
    if text.startswith("Error(s) in loading") and len(lines) > 1:
        text = lines[1]
    return text if len(text) <= 200 else text[:199] + "…"


def ignore_progress(_stage: str) -> None:
    """Ignore a stage: the default progress callback."""


class Messages(list[str]):
    """Lines that libraries logged, warned and printed, in this order."""

    def quoted(self, count: int = 3) -> str:
        """Return the last lines in brackets for an error, "" without lines."""
        return f" [{' | '.join(self[-count:])}]" if self else ""


class _Recorder(logging.Handler):
    def __init__(self, messages: Messages) -> None:
        super().__init__()
        self.messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(f"{record.levelname.lower()}: {record.getMessage()}")


@contextlib.contextmanager
def quiet() -> Iterator[Messages]:
    """Collect prints, warnings and log records instead of showing them.

    Python-level stdout and stderr are redirected; log handlers come back as they were, so the
    application's own logging configuration is untouched. (open_clip logs through the root logger, which
    would otherwise install a handler of its own; torch.onnx prints progress.)
    """
    messages = Messages()
    printed = io.StringIO()
    root = logging.getLogger()
    swapped = [(root, root.handlers[:])]
    for logger in root.manager.loggerDict.values():
        # some libraries (huggingface_hub) give their own logger a handler that keeps the real stderr
        if isinstance(logger, logging.Logger) and logger.handlers:
            swapped.append((logger, logger.handlers[:]))
    for logger, _ in swapped:
        logger.handlers[:] = [_Recorder(messages)]
    try:
        with (
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
            warnings.catch_warnings(record=True) as caught,
        ):
            warnings.simplefilter("always")
            try:
                yield messages
            finally:
                messages += [f"warning: {str(w.message).splitlines()[0]}" for w in caught if str(w.message)]
                messages += [line for line in printed.getvalue().splitlines() if line.strip()]
    finally:
        for logger, handlers in swapped:
            logger.handlers[:] = handlers

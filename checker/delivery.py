"""What a run hands over in files: whole or not at all, and never in place of something that is no file."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from robustcheck_onnx.checker import remote
from robustcheck_onnx.checker.errors import EnvironmentFaultError, RobustcheckError, UsageError

OURS = re.compile(
    rb"""
      \{.{0,180}"tool":\ "robustcheck"                                  # json, of every verb
    | .{0,60}<testsuites\ name="robustcheck"                             # junit
    | \{\s*"\$schema":.{0,250}"driver":\ \{\s*"name":\ "robustcheck"       # sarif
    | <!--\ robustcheck\ report                                         # markdown
    | ---\n\#\ robustcheck:                                             # modelcard
    | \#\ TYPE\ robustcheck\ info                                       # openmetrics
    | robustcheck_version,                                             # csv
    | \[\s*\{\s*"check_name":\ "robustcheck:                             # gitlab
    | \[\]\s*\Z                                                         # gitlab: nothing found, whoever wrote it
    | <!DOCTYPE\ html>.{0,800}<meta\ name="generator"\ content="robustcheck  # html
    | \s*(?:\xe2\x94\x81\xe2\x94\x81|==)\ \S+\ (?:PASS|WARN)\ (?:\xe2\x94\x81|=)  # terminal
    | robustcheck:\ no\ verdict                                         # terminal: an error
    """,
    re.VERBOSE | re.DOTALL,
)
"""How a document of this tool starts, by its form; nothing else is ever replaced by an error."""
OURS_WITHIN_BYTES = 1500
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_target(path: Path, reads: Iterable[Path] = ()) -> None:
    """Refuse a report's path that can't serve, before the work starts.

    reads: files that the run reads, a `file://` URL as the file that it names; a report must not replace one of them,
    nor the weights and sidecars that lie beside a model of them, nor any image or ONNX file that is there. Devices,
    pipes and links are fine.
    Raises UsageError (a folder, no such folder, a file that is read, an image), EnvironmentFaultError (a folder that
    can't be written). A URL: see `remote_report.check_target`.
    """
    place = remote.parse(path)
    if isinstance(place, remote.Url):
        from robustcheck_onnx.checker import remote_report  # noqa: PLC0415 # only for a URL

        remote_report.check_target(place, reads)
        return
    path = Path(place)
    reads = [Path(read) for read in map(remote.parse, reads) if isinstance(read, str)]
    where = shlex.quote(str(path.parent))
    try:
        if path.is_dir():
            raise UsageError(
                f"{path}: report path is a folder; it must be a file",
                f"-o json={shlex.quote(str(path / 'report.json'))}",
            )
        if not path.parent.is_dir():
            raise UsageError(
                f"{path}: folder {path.parent} is missing; reports are written into existing folders",
                f"mkdir -p {where}",
            )
        other = path.with_suffix(".json") if path.suffix != ".json" else path.with_name("report.json")
        for read in (*reads, *_beside(path, reads)):
            if path.exists() and read.exists() and path.samefile(read):
                raise UsageError(
                    f"{path}: report path is a file that is read; a report must not replace it",
                    f"-o json={shlex.quote(str(other))}",
                )
        if _is_image_or_model(path):
            raise UsageError(
                f"{path}: report path is an image or a model that is there; a report must not replace it",
                f"-o json={shlex.quote(str(other))}",
            )
    except OSError as fault:
        raise UsageError(
            f"{path}: report path is not usable ({fault.strerror}); it must be a file", f"ls -ld {where}"
        ) from fault
    if not path.exists() and not os.access(path.parent, os.W_OK):
        raise EnvironmentFaultError(
            f"{path}: folder {path.parent} is not writable; reports are written into it", f"ls -ld {where}"
        )


def _is_image_or_model(path: Path) -> bool:
    """Whether a file lies there that is no document of this tool and has the suffix of an image or a model."""
    if not path.is_file() or is_ours(path):
        return False
    from robustcheck_onnx.checker import decode  # noqa: PLC0415 # needed only where a report replaces a file

    return path.suffix.lower() in {*decode.SUFFIXES, ".onnx"}


def _beside(path: Path, reads: Iterable[Path]) -> Iterator[Path]:
    """Weights and sidecars of the models among `reads`; none where `path` holds no file that could be one."""
    if not path.is_file() or is_ours(path):
        return
    from robustcheck_onnx.checker import onnx_file, sidecar  # noqa: PLC0415 # needed only where a report replaces a file

    for read in reads:
        with contextlib.suppress(RobustcheckError, OSError):  # opening the model says what is wrong with it
            if read.is_file() and onnx_file.may_be_model(read):
                yield read.with_suffix(sidecar.OWN)
                yield from (read.with_name(name) for name in sidecar.NAMES)
                for name in onnx_file.external_locations(read)[1]:
                    # a model reached through a link may keep its weights beside the target
                    yield from (folder / name for folder in (read.parent, read.resolve().parent))


def is_ours(path: Path) -> bool:
    """Whether a document of this tool lies there; False for what can't be read."""
    place = remote.parse(path)
    with contextlib.suppress(OSError):
        if isinstance(place, remote.Url):
            from robustcheck_onnx.checker import remote_report  # noqa: PLC0415 # only for a URL

            return OURS.match(remote_report.start_of(place, OURS_WITHIN_BYTES)) is not None
        if Path(place).is_file():
            with Path(place).open("rb") as file:
                return OURS.match(file.read(OURS_WITHIN_BYTES)) is not None
    return False


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all: another name in the same folder, then rename.

    A link keeps pointing to the file, which is replaced. A device or a pipe is written to; renaming would put a
    file in its place. Raises EnvironmentFaultError (no space, no right to write); what was there stays then.
    A URL's store gets it in one piece.
    """
    place = remote.parse(path)
    if isinstance(place, remote.Url):
        from robustcheck_onnx.checker import remote_report  # noqa: PLC0415 # only for a URL

        remote_report.write_whole(place, text)
        return
    path = Path(place)
    content = text.encode()
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as device:
                device.write(content)
            return
        final = path.resolve()
        # nobody can lay a link under a name that is not known; two containers can have one process number
        temporary = final.with_name(f".{final.name}.{secrets.token_hex(8)}.tmp")
        file = temporary.open("xb")
        try:
            with file:
                file.write(content)
            temporary.replace(final)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as fault:
        look = "df -h" if fault.errno in FULL else "ls -ld"
        raise EnvironmentFaultError(
            f"{path}: report is not written ({fault.strerror}); it must be written whole",
            f"{look} {shlex.quote(str(path.parent))}",
        ) from fault


def error_json(message: str, hint: str, code: int) -> str:
    """The JSON document of a run that ended without a verdict."""
    error = {"message": message, "hint": hint, "exit_code": code}
    return as_json({"schema_version": 1, "tool": "robustcheck", "error": error})


def error_text(message: str, hint: str, code: int) -> str:
    """The same for people."""
    lines = [f"robustcheck: no verdict (exit code {code})", f"error: {message}", f"hint: {hint}" if hint else ""]
    return "".join(f"{line}\n" for line in lines if line).encode("utf-8", "backslashreplace").decode()


def as_json(document: object) -> str:
    """One JSON document of finite numbers, ending in a newline; bytes of file names that are no text as `\\udcXX`."""
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    text = text.replace("##[", "#\\u0023[")  # GitHub's runner would take a name on stdout for a command (`escape.py`)
    return text.encode("utf-8", "backslashreplace").decode() + "\n"


def replace_with_error(path: Path, document: str) -> None:
    """Put an error document where a report was to go, so that no report of an earlier run stands for this one.

    Only in place of nothing, of a document of this tool, or into a device or pipe: a run that failed may have
    been given a wrong path. Raises EnvironmentFaultError as write_whole does; a document of this tool is gone then.
    """
    place = remote.parse(path)
    if isinstance(place, remote.Url):
        from robustcheck_onnx.checker import remote_report  # noqa: PLC0415 # only for a URL

        remote_report.replace_with_error(place, document, OURS, OURS_WITHIN_BYTES)
        return
    path = Path(place)
    if path.is_dir() or not path.parent.is_dir():
        return
    if path.is_file() and not is_ours(path):
        return
    try:
        write_whole(path, document)
    except EnvironmentFaultError:
        if path.is_file():  # no room for the error: better no document than the PASS of an earlier run
            path.resolve().unlink(missing_ok=True)
        raise

"""Threshold profiles, their reference tables, and published robustness.

This file imports only Python's own library: settings are needed even where a signal has ended the import of everything
else.
"""

import errno
import os
import stat
from pathlib import Path
from typing import Any

Texts = tuple[str, ...]
Fields = dict[str, Any]  # values by their names
DATA = Path(__file__).parent / "data"  # profiles and tables that ship with the package
MOST_BYTES = 1 << 20  # a file of settings has some KB
WITHOUT_WAITING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # the one on POSIX, the other on Windows
MOST_DOTS = 500  # in a line: the time of a dotted key grows with the square of its length
MOST_BITS = 63  # of an integer, next to its sign: TOML asks for no more


def read_start(path: Path, most_bytes: int) -> bytes:
    """Return the first bytes of a regular file, without ever waiting for a pipe or reading a device.

    The process that runs the command opens no file of others in another way, also where a pipe or a device takes the
    place of a file after somebody looked at it.
    Raises OSError: the file is missing, not readable, or not a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | WITHOUT_WAITING)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        return file.read(most_bytes)


def read_bytes(path: Path, most_bytes: int) -> bytes:
    """Return the content of a regular file.

    Raises OSError: as `read_start`, or the file is larger than `most_bytes`.
    """
    content = read_start(path, most_bytes + 1)
    if len(content) > most_bytes:
        raise OSError(errno.EFBIG, f"it has more than {most_bytes:,} bytes", str(path))
    return content


def read_toml(content: bytes) -> Fields:
    """Read a TOML file from an untrusted source, soon, with a value or an error.

    Raises:
        UnicodeDecodeError: it is not UTF-8.
        ValueError: it is not TOML (tomllib.TOMLDecodeError), too large, or has a larger integer than TOML's.
        RecursionError: it is nested too deeply.
    """
    import tomllib  # noqa: PLC0415 # only where there is such a file

    if len(content) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
    text = content.decode("utf-8")
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") > MOST_DOTS:
            raise ValueError(f"line {number} has more than {MOST_DOTS} dots")
    document = tomllib.loads(text)
    waiting: list[Any] = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, int) and value.bit_length() > MOST_BITS:
            raise ValueError(f"an integer has {value.bit_length()} bits; TOML's have {MOST_BITS} and a sign")
    return document

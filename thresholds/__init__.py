"""Threshold profiles, their reference tables, and published robustness.

This file imports only Python's own library: settings are needed even where a signal has ended the import of everything
else.
"""

from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"  # profiles and tables that ship with the package
MOST_BYTES = 1 << 20  # a file of settings has some KB
MOST_DOTS = 500  # in a line: the time of a dotted key grows with the square of its length
MOST_BITS = 63  # of an integer, next to its sign: TOML asks for no more


def read_toml(content: bytes) -> dict[str, Any]:
    """Read a TOML file from an untrusted source. It ends soon, with a value or an error.

    Raises:
        UnicodeDecodeError: it is not UTF-8.
        ValueError: it is not TOML (tomllib.TOMLDecodeError), too large, or has a larger integer than TOML's.
        RecursionError: it is nested too deeply.
    """
    import tomllib  # noqa: PLC0415 # only where there is such a file

    if len(content) > MOST_BYTES:
        raise ValueError(f"it has {len(content)} bytes, more than {MOST_BYTES}")
    text = content.decode("utf-8")
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") > MOST_DOTS:
            raise ValueError(f"line {number} has more than {MOST_DOTS} dots")
    document = tomllib.loads(text)
    waiting: list[Any] = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict | list):
            waiting += value.values() if isinstance(value, dict) else value
        elif isinstance(value, int) and value.bit_length() > MOST_BITS:
            raise ValueError(f"an integer has {value.bit_length()} bits; TOML's have {MOST_BITS} and a sign")
    return document

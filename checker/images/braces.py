"""Names of numbered shards in one word, as web data sets write them: `train-{000000..000146}.tar`, `{train,val}.tar`.

Every name that comes of it must be there: a pattern is a promise, as a list is.
"""

from __future__ import annotations

import re

from robustcheck_onnx.checker.errors import UsageError

MOST = 100_000  # names of one pattern
_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")
_BRACES = re.compile(r"\{([^{}]*)\}")


def is_pattern(text: str) -> bool:
    """Whether a text has braces around a range of numbers, or around names with commas between them.

    >>> is_pattern("a-{0..3}.tar"), is_pattern("{a,b}.tar"), is_pattern("{model}.tar")
    (True, True, False)
    """
    return any(_RANGE.fullmatch(inside) or "," in inside for inside in _BRACES.findall(text))


def expand(text: str) -> list[str]:
    """All names of a pattern, in order; a number is as wide as the wider end of its range is written.

    Raises UsageError: a range that runs backwards, more than MOST names.

    >>> expand("{a,b}-{08..10}.tar")
    ['a-08.tar', 'a-09.tar', 'a-10.tar', 'b-08.tar', 'b-09.tar', 'b-10.tar']
    """
    names = [""]
    for index, part in enumerate(_BRACES.split(text)):
        choices = [part] if index % 2 == 0 else _choices(text, part)
        if len(names) * len(choices) > MOST:
            raise UsageError(f"{text}: number of names is more than {MOST:,}; that is the limit", "name a folder")
        names = [name + choice for name in names for choice in choices]
    return names


def _choices(text: str, inside: str) -> list[str]:
    if numbers := _RANGE.fullmatch(inside):
        first, last = int(numbers[1]), int(numbers[2])
        if last < first:
            raise UsageError(f"{text}: range is {inside}; it must run upwards", f"{{{numbers[2]}..{numbers[1]}}}")
        if last - first >= MOST:
            raise UsageError(f"{text}: number of names is more than {MOST:,}; that is the limit", "name a folder")
        width = max(len(numbers[1]), len(numbers[2])) if "0" in (numbers[1][0], numbers[2][0]) else 0
        return [f"{number:0{width}d}" for number in range(first, last + 1)]
    return inside.split(",") if "," in inside else [f"{{{inside}}}"]

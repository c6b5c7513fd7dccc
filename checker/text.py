"""Write numbers, names, digests and JSON, and show text from outside safely; pure, light to import."""

import json
import math
import mmap
import re
import shlex
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar, dataclass_transform

T = TypeVar("T")
Texts = tuple[str, ...]
Fields = dict[str, Any]  # values by their names
VERSION: Final = "0.1.0"
"""the package's, and the only place where it is written: pyproject.toml reads it here"""
SCHEMA_VERSION: Literal[2] = 2  # of the JSON documents of a check; 2: reasons and verdict have a kind
HOME: Final = ""
"""where the project lives, such as https://github.com/OWNER/robustcheck; empty until that is decided.
`python docs/generate.py` makes README's links from it, so that they lead somewhere on a package index, too"""
MIB = 2**20  # bytes in 1 MiB
SHORT_DIGEST = 12  # hexadecimal digits, as `git log --abbrev` shows for large repositories
BLOCKS = " ▁▂▃▄▅▆▇█"

# What GitHub's runner takes for a command in a line of output: `##[name …]` anywhere, `::name …::` at its start (and a
# report wraps its lines). actions/runner, src/Runner.Common/ActionCommand.cs
_NOT_ASCII = re.compile(r"[^\n -~]")
_COMMAND = re.compile(r"##(?=\[)|::(?=[A-Za-z][A-Za-z-]*(?: [^:]*)?::)")

# What each sign becomes where only ASCII can be shown. Letters are not here: they are escaped.
_ASCII_SIGNS = str.maketrans(
    {
        **{"✓": "+", "✗": "x", "▲": "!", "▶": ">", "•": "*", "·": "|", "→": "->", "×": "x", "…": "..."},
        **{"–": "-", "—": "-", "−": "-", "≥": ">=", "≤": "<=", "’": "'", "“": '"', "”": '"', "\u00a0": " ", "²": "^2"},
        **{"━": "=", "─": "-", "│": "|", "└": "+", "┬": "^"},
        **dict(zip(BLOCKS[1:], "..:::###", strict=True)),
    }
)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass."""
    return dataclass(frozen=True)(cls)


PAGES = {
    "calibration": "Calibrate your thresholds",
    "data": "Data, sources and licences",
    "how-to-read": "How to read this report",
    "onnx-file": "Your ONNX file",
    "statistics": "What is measured",
}
"""Title of each page of the documentation that a message names."""


def page(name: str, home: str = HOME) -> str:
    """Return where to read a documentation page: its address, or its title where the project has no home.

    >>> page("statistics", home="https://git.example/owner/robustcheck/")
    'https://git.example/owner/robustcheck/blob/main/docs/statistics.md'
    >>> page("statistics", home="")
    'the page "What is measured"'
    """
    return f"{home.rstrip('/')}/blob/main/docs/{name}.md" if home else f'the page "{PAGES[name]}"'


def printable(text: str) -> str:
    r"""Escape control characters, text-direction marks, bytes that are not text and commands of pipelines.

    >>> printable("a\x1b[31m\nb"), printable("##[stop-commands]x"), printable("onnx::MatMul_1")
    ('a\\x1b[31m\\nb', '#\\x23[stop-commands]x', 'onnx::MatMul_1')
    """
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return _COMMAND.sub(lambda command: f"{command[0][0]}\\x{ord(command[0][1]):x}", escaped)


def name_text(text: str, ascii_only: bool) -> str:
    r"""Write a name from outside safely, such as that of a file, an image or a tensor.

    Control characters, text-direction marks, undecodable bytes and commands of GitHub Actions are written as escapes
    (`\x1b`, `\u202e`), with `ascii_only` every character above 127 too: a file name must not steer the terminal.
    """
    escaped = printable(text)
    return escaped.encode("ascii", "backslashreplace").decode("ascii") if ascii_only else escaped


def sentence_text(text: str, ascii_only: bool) -> str:
    """Write a sentence that may quote names. Signs get an ASCII spelling where needed, letters are escaped."""
    return name_text(text.translate(_ASCII_SIGNS) if ascii_only else text, ascii_only)


def prose_text(text: str, ascii_only: bool) -> str:
    """Write a sentence that quotes no names, such as the claim; with `ascii_only` letters lose their accents."""
    if ascii_only:
        parts = unicodedata.normalize("NFD", text.translate(_ASCII_SIGNS))
        text = "".join(c for c in parts if not unicodedata.combining(c))
    return sentence_text(text, ascii_only)


def as_json(document: object) -> str:
    r"""Return a document with finite numbers as JSON that a newline ends.

    Characters that do not print (controls, text-direction marks, line separators, bytes of file names that are not
    text) are written as `\uXXXX`: a name must not steer a terminal that shows the file.

    >>> as_json({"file": "caf\u00e9 \u202e\x9b\u2028\udc80 \U0001f600"})
    '{\n  "file": "café \\u202e\\u009b\\u2028\\udc80 😀"\n}\n'
    """
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    text = text.replace("##[", "#\\u0023[")  # GitHub's runner would take a name on stdout for a command (`printable`)
    return _NOT_ASCII.sub(lambda c: c[0] if c[0].isprintable() else json.dumps(c[0])[1:-1], text) + "\n"


def error_json(message: str, hint: str, code: int) -> str:
    """Return the JSON of a run without a verdict."""
    error = {"message": message, "hint": hint, "exit_code": code}
    return as_json({"schema_version": SCHEMA_VERSION, "tool": "robustcheck", "error": error})


def error_text(message: str, hint: str, code: int) -> str:
    """Return the text of a run without a verdict."""
    text = f"robustcheck: no verdict (exit code {code})\nerror: {message}\n"
    if hint:
        text += f"hint: {hint}\n"
    return text.encode("utf-8", "backslashreplace").decode()


def sha256_of(content: bytes | mmap.mmap) -> str:
    """Return the digest of bytes as every document writes it: `sha256:` and 64 hexadecimal digits."""
    import hashlib  # noqa: PLC0415 # keeps the start fast

    return "sha256:" + hashlib.sha256(content).hexdigest()


def digest_of(document: Mapping[str, Any]) -> str:
    """Return the digest of a document as canonical JSON: sorted keys, no spaces, ASCII, finite numbers.

    Raises ValueError for a number that is not finite.
    """
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return sha256_of(text.encode())


def short_digest(digest: str) -> str:
    """Return `sha256:` and the first 12 hexadecimal digits, for people."""
    algorithm, _, value = digest.partition(":")
    return f"{algorithm}:{value[:SHORT_DIGEST]}" if value else digest[:SHORT_DIGEST]


FORM_OF = {
    ".sarif.json": "sarif",
    ".sarif": "sarif",
    ".cdx.json": "cyclonedx",
    ".json": "json",
    ".html": "html",
    ".xml": "junit",
    ".md": "markdown",
    ".txt": "terminal",
}
"""by the end of a file's name, the longest first"""


def form_of(path: str) -> str:
    """Return the form that a suffix means; else ""."""
    return next((form for end, form in FORM_OF.items() if path.lower().endswith(end)), "")


def is_onnx(name: str) -> bool:
    """Return whether a file is named as a model."""
    return name.lower().endswith(".onnx")


_RULES = {
    "extra_forbidden": "there is no such field",
    "missing": "it must be there",
    "tuple_type": "it must be a list",
    "string_type": "it must be text",
    "bool_type": "it must be true or false",
    "bool_parsing": "it must be 1 or 0, true or false",
    "int_type": "it must be a whole number",
    "int_parsing": "it must be a whole number",
    "float_type": "it must be a number",
    "float_parsing": "it must be a number",
    "date_type": "it must be a date without quotes, such as 2026-12-31",
    "string_too_short": "it must say something",
    "string_pattern_mismatch": "it must be a device alone; its provider's options are the setting provider-option",
    "model_type": "it must be a table",
    "model_attributes_type": "it must be a table",
}


def rule_of(fault: Mapping[str, Any]) -> str:
    """Return the rule that a value breaks, by an error of pydantic."""
    words = str(fault["msg"]).removeprefix("Value error, ").replace("Input should be", "it must be")
    return _RULES.get(fault["type"], words)


def quoted(word: object) -> str:
    """Quote a word or a path for the shell."""
    return shlex.quote(str(word))


def one_line(text: object, limit: int = 300) -> str:
    """Return at most `limit` characters of a text, such as another library's error, in one line.

    >>> one_line("a\\n  b"), one_line(ValueError("abcd"), 3)
    ('a b', 'abc')
    """
    return " ".join(str(text).split())[:limit]


def number_text(value: float | None, digits: int = 3, *, missing: str = "not measured") -> str:
    """Write a number with `digits` significant digits. `missing` stands for None. Powers of ten only below 0.0001.

    >>> number_text(84.65), number_text(1234.5), number_text(0.0), number_text(None)
    ('84.7', '1234', '0', 'not measured')
    """
    if value is None:
        return missing
    if value != 0 and abs(value) < 1e-4:  # f"{:g}" changes to powers of ten here
        return f"{value:.{digits - 1}e}"
    places = digits - 1 - (math.floor(math.log10(abs(value))) if value else 0)
    text = f"{value:.{max(places, 0)}f}"
    return text if value else "0"


def bound_text(value: float | None, *limits: float, least: int = 3) -> str:
    """Write a confidence bound in `least` digits or more, so that they show on which side of each limit it lies.

    >>> bound_text(7.9114, 7.911), bound_text(9.1, 7.911), bound_text(None, 7.911)
    ('7.9114', '9.10', 'not measured')
    """
    if value is None:
        return number_text(None)
    for digits in range(least, 17):
        text = number_text(value, digits)
        if all(_side(float(text), limit) == _side(value, limit) for limit in limits):
            return text
    return repr(value)


def _side(value: float, limit: float) -> int:
    return (value > limit) - (value < limit)


def interval_text(
    low: float | None,
    high: float | None,
    limits: Sequence[float] = (),
    *,
    between: str = " to ",
    missing: str = "not measured",
    least: int = 3,
) -> str:
    """Write an interval by its bounds, each as `bound_text` writes it next to `limits`; `missing` where it has none.

    >>> interval_text(1.5, 20.25), interval_text(7.9114, 9.1, [7.911], between=" – "), interval_text(None, 2.0)
    ('1.50 to 20.2', '7.9114 – 9.10', 'not measured')
    """
    if low is None or high is None:
        return missing
    return between.join(bound_text(v, *limits, least=least) for v in (low, high))


def range_text(low: str, high: str, between: str = " to ") -> str:
    """Write two texts as a range, or one where both are the same.

    >>> range_text("8.1", "9.0"), range_text("8.1", "8.1")
    ('8.1 to 9.0', '8.1')
    """
    return low if low == high else f"{low}{between}{high}"


def percent_text(value: float | None) -> str:
    """Write a share 0–1 as a percentage with one decimal, never as 0 or 100 where it is not quite that.

    >>> percent_text(0.0004), percent_text(1.0), percent_text(0.9999)
    ('< 0.1 %', '100 %', '> 99.9 %')
    """
    if value is None:
        return number_text(None)
    if value in (0, 1):
        return f"{100 * value:.0f} %"
    if value < 0.001:
        return "< 0.1 %"
    if value > 0.999:
        return "> 99.9 %"
    return f"{100 * value:.1f} %"


def first_of(names: Sequence[str], most: int) -> str:
    """Write the first names of a list, and how many more there are.

    >>> first_of(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def around(before: str, text: str, after: str = "") -> str:
    """Put words around a text, or write nothing where there is no text.

    >>> around(" (", "waived", ")"), around(" (", "", ")")
    (' (waived)', '')
    """
    return f"{before}{text}{after}" if text else ""


def count_text(n: int, noun: str) -> str:
    """Write a count with its noun.

    >>> count_text(1, "image"), count_text(2, "image")
    ('1 image', '2 images')
    """
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def gap_text(left_out: int) -> str:
    """Write how many sets the reference list omits, if any.

    >>> gap_text(0), gap_text(1), gap_text(8)
    ('', '1 set between', '8 sets between')
    """
    return f"{count_text(left_out, 'set')} between" if left_out else ""


def short_checkpoint(checkpoint: str) -> str:
    """Return the checkpoint without the remark in parentheses on where its weights were loaded from.

    >>> short_checkpoint("ResNet50 ImageNet (Keras, GAP)")
    'ResNet50 ImageNet'
    """
    return checkpoint.partition(" (")[0] or checkpoint


def short_provider(provider: str) -> str:
    """Return an execution provider's distinct words.

    >>> short_provider("CUDAExecutionProvider")
    'CUDA'
    """
    return provider.removesuffix("ExecutionProvider")


def bars(counts: Sequence[int], height: int) -> list[str]:
    """Draw vertical bars in block characters, from the top row on.

    The largest count fills all rows; a count that is not zero shows at least an eighth of a row.

    Args:
        counts: images per bin.
        height: rows.

    Returns:
        `height` strings of len(counts) characters.
    """
    top = max(counts, default=0)
    eighths = [max(1, round(8 * height * c / top)) if c else 0 for c in counts]
    return ["".join(BLOCKS[min(max(e - 8 * row, 0), 8)] for e in eighths) for row in reversed(range(height))]


def type_name(value: object) -> str:
    """Return the name of a value's type as in an import: "int", "torch.nn.modules.linear.Linear"."""
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"

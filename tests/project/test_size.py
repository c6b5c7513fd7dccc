"""The budget of the code's size: it goes down, and rises only with a line in CHANGELOG that says what for."""

import ast
import functools
from pathlib import Path
from statistics import median
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PACKAGE = ("checker", "exporters", "thresholds", "face")
CAN_HAVE_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
BUDGET = {
    "code lines": 29_825,
    "nodes": 305_420,
    "files": 122,
    "code lines of the longest file": 450,
    "words in the first sentence of a docstring": 8,
    "most words in it": 12,
    "code lines of the tests": 21_100,
    "nodes of the tests": 249_700,
}


class Size(NamedTuple):
    """The size of one file."""

    code_lines: int
    """without comments, docstrings and blank lines"""
    nodes: int
    """of the syntax tree: lines can be packed, nodes can't"""
    words: list[int]
    """in the first sentence of each docstring"""


@functools.cache
def sizes(folder: str) -> list[Size]:
    """Return the size of each Python file below a folder."""
    return [_size(path.read_text(encoding="utf-8")) for path in sorted((ROOT / folder).rglob("*.py"))]


def _size(source: str) -> Size:
    nodes, documented, words = 0, set[int](), []
    for node in ast.walk(ast.parse(source)):
        nodes += 1
        if isinstance(node, CAN_HAVE_DOCSTRING) and (text := ast.get_docstring(node)) is not None:
            documented |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
            words.append(len(text.split("\n\n")[0].split(". ")[0].split()))
    lines = source.splitlines()
    code = [n for n, line in enumerate(lines, 1) if line.strip() and not line.lstrip().startswith("#")]
    return Size(len(set(code) - documented), nodes, words)


def test_a_docstring_a_comment_and_a_blank_line_are_no_code() -> None:
    assert _size('"""Return one. And more."""\n\n# why\nONE = (\n    1\n)\n') == (3, 7, [2])


def test_the_code_is_within_its_budget() -> None:
    package = [size for folder in PACKAGE for size in sizes(folder)]
    tests = sizes("tests")
    measured = {
        "code lines": sum(size.code_lines for size in package),
        "nodes": sum(size.nodes for size in package),
        "files": len(package),
        "code lines of the longest file": max(size.code_lines for size in package),
        "words in the first sentence of a docstring": median(n for size in package for n in size.words),
        "most words in it": max(n for size in package for n in size.words),
        "code lines of the tests": sum(size.code_lines for size in tests),
        "nodes of the tests": sum(size.nodes for size in tests),
    }
    assert {name: n for name, n in measured.items() if n > BUDGET[name]} == {}, measured

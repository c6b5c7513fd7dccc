"""How large the package is, how densely it is written, and what ties its files. Each figure only falls."""

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PACKAGE = ("checker", "exporters", "thresholds", "face")
MOST = {
    "nodes of the package": 333_920,
    "nodes of the tests": 285_510,
    "nodes of a simple statement, 90 % quantile": 22,
    "nodes per code line": 9.2,
    "statements of more than 40 nodes, in %": 0.9,
    "ternaries per 1,000 statements": 31,
    "parallel assignments per 1,000 statements": 0.1,
    "docstrings whose second sentence begins with a pronoun, in %": 1.0,
    "files of more than 350 code lines": 0,
    "class names that several files define": 1,
    "imports by a string": 10,
    "names of the core that other parts import": 201,
}
"""The highest value of each figure. Line breaks and splits of files move none but the nodes per code line."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef
Display = ast.Dict | ast.List | ast.Set | ast.Tuple
CORE = "checker.core."
PRONOUNS = ("It ", "They ", "These ", "This ", "That ", "Those ", "Such ")


class File(NamedTuple):
    """The text of a file, its syntax tree, and the folder of its module, as `checker.core.model`."""

    source: str
    tree: ast.Module
    folder: str = ""


def files(*folders: str) -> list[File]:
    """Return each Python file below these folders."""
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [parsed(path.read_text(encoding="utf-8"), ".".join(path.parent.relative_to(ROOT).parts)) for path in paths]


def parsed(source: str, folder: str = "") -> File:
    """Return a source with its tree."""
    return File(source, ast.parse(source), folder)


def nodes(tree: ast.AST) -> int:
    """Count the nodes of a tree.

    Python 3.12 puts empty constants into some f-strings, which other versions do not: they are not counted.
    """
    every = list(ast.walk(tree))
    parts = [part for node in every if isinstance(node, ast.JoinedStr) for part in node.values]
    return len(every) - sum(is_empty(part) for part in parts)


def is_empty(node: ast.expr) -> bool:
    """Return whether a node is the empty string."""
    return isinstance(node, ast.Constant) and node.value == ""


def code_lines(file: File) -> int:
    """Count the lines without comments, docstrings and blank lines."""
    lines = enumerate(file.source.splitlines(), 1)
    code = {number for number, line in lines if line.strip() and not line.lstrip().startswith("#")}
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Module | Definition) and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            code -= set(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
    return len(code)


def simple_statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield the statements that hold no other statement."""
    found = (node for node in ast.walk(tree) if isinstance(node, ast.stmt))
    return (node for node in found if {"body", "cases"}.isdisjoint(node._fields))


def tables(tree: ast.Module) -> list[ast.stmt]:
    """Return the literal tables of a module, whose size makes nothing harder to read."""
    return [
        node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, Display)
    ]


def is_parallel(statement: ast.stmt) -> bool:
    """Return whether a statement assigns several values to several names."""
    if not isinstance(statement, ast.Assign):
        return False
    return isinstance(statement.targets[0], ast.Tuple) and isinstance(statement.value, ast.Tuple)


def second_sentences(tree: ast.Module) -> list[str]:
    """Return the rest of each function's docstring after the first sentence: empty where it has one sentence."""
    found = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, Function)]
    sentences = [re.split(r"(?<=[.:!?])\s+", text, maxsplit=1) for text in found if text is not None]
    return [rest[0] if rest else "" for _, *rest in sentences]


def homonyms(package: Iterable[File]) -> list[str]:
    """Return the class names that several files define."""
    classes = [node.name for file in package for node in file.tree.body if isinstance(node, ast.ClassDef)]
    return [name for name, count in Counter(classes).items() if count > 1]


def string_imports(tree: ast.Module) -> list[ast.Call]:
    """Return the calls that import a module by a string."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [call for call in calls if ast.unparse(call.func).endswith("import_module")]


def core_imports(file: File) -> set[str]:
    """Return the names that a file outside the core imports from it, each with its module."""
    if f"{file.folder}.".startswith(CORE):
        return set()
    names = set()
    for node in ast.walk(file.tree):
        if isinstance(node, ast.ImportFrom):
            names |= {f"{module_of(node, file.folder)}.{alias.name}" for alias in node.names}
    return {name for name in names if name.startswith(CORE)}


def module_of(statement: ast.ImportFrom, folder: str) -> str:
    """Return the module that a statement in this folder imports from, without the package's own name."""
    module = statement.module or ""
    if statement.level == 0:
        return module.removeprefix("robustcheck_onnx.")
    parent = folder.rsplit(".", statement.level - 1)[0]
    return f"{parent}.{module}"


def links(package: Iterable[File]) -> dict[str, int]:
    """Return how large the files of a package are, and how they name and import what others define."""
    package = list(package)
    long = [file for file in package if code_lines(file) > 350]
    strings = [call for file in package for call in string_imports(file.tree)]
    taken = {name for file in package for name in core_imports(file)}
    return {
        "files of more than 350 code lines": len(long),
        "class names that several files define": len(homonyms(package)),
        "imports by a string": len(strings),
        "names of the core that other parts import": len(taken),
    }


def style(package: Iterable[File]) -> dict[str, float]:
    """Return how densely some files are written."""
    package = list(package)
    statements = [statement for file in package for statement in simple_statements(file.tree)]
    literal = {table for file in package for table in tables(file.tree)}
    sizes = {statement: nodes(statement) for statement in statements}
    large = [statement for statement, size in sizes.items() if size > 40 and statement not in literal]
    ternaries = [node for file in package for node in ast.walk(file.tree) if isinstance(node, ast.IfExp)]
    parallel = [statement for statement in statements if is_parallel(statement)]
    seconds = [text for file in package for text in second_sentences(file.tree)]
    pronouns = [text for text in seconds if text.startswith(PRONOUNS)]
    return {
        "nodes of a simple statement, 90 % quantile": sorted(sizes.values())[int(0.9 * len(sizes))],
        "nodes per code line": sum(nodes(file.tree) for file in package) / sum(code_lines(file) for file in package),
        "statements of more than 40 nodes, in %": 100 * len(large) / len(statements),
        "ternaries per 1,000 statements": 1000 * len(ternaries) / len(statements),
        "parallel assignments per 1,000 statements": 1000 * len(parallel) / len(statements),
        "docstrings whose second sentence begins with a pronoun, in %": 100 * len(pronouns) / max(1, len(seconds)),
    }


def test_the_nodes_of_an_f_string_are_the_same_on_every_python() -> None:
    assert nodes(ast.parse("f'{a:.{b}}'")) == 11


def test_a_docstring_a_comment_and_a_blank_line_are_not_code() -> None:
    assert code_lines(parsed('"""Return one.\n\nAnd more."""\n\n# why\nONE = (\n    1\n)\n')) == 3


def test_a_block_is_not_a_simple_statement() -> None:
    tree = ast.parse("if a:\n    b = 1\nelse:\n    return_it()\n")
    assert [ast.unparse(statement) for statement in simple_statements(tree)] == ["b = 1", "return_it()"]


def test_only_a_display_at_the_top_of_a_module_is_a_table() -> None:
    tree = ast.parse("A = {1: 2}\nB: tuple[int] = (1,)\nC = f([1])\ndef f(): d = [1]\n")
    assert [ast.unparse(table) for table in tables(tree)] == ["A = {1: 2}", "B: tuple[int] = (1,)"]


def test_the_figures_of_six_statements_with_two_docstrings() -> None:
    large = f"c = f({', '.join('abcdefghijklmnopqrstuvwxyz')})"
    source = f'''
TABLE = [{"1, " * 41}]

def f():
    """Return a. It is b."""
    a, b = 1, 2
    {large}

def g():
    """Return a: what it is. They are b."""
    return 1 if a else 2
'''
    assert style([parsed(source)]) == {
        "nodes of a simple statement, 90 % quantile": 58,
        "nodes per code line": 130 / 6,
        "statements of more than 40 nodes, in %": 100 / 6,
        "ternaries per 1,000 statements": 1000 / 6,
        "parallel assignments per 1,000 statements": 1000 / 6,
        "docstrings whose second sentence begins with a pronoun, in %": 50,
    }


def test_a_class_in_two_files_is_a_homonym() -> None:
    source = "class A: ...\nclass B:\n    class C: ...\n"
    assert homonyms([parsed(source), parsed("class C: ...\nclass A: ...\n")]) == ["A"]


def test_an_import_by_a_string_is_found_by_either_name() -> None:
    calls = string_imports(ast.parse("import_module(a)\nimportlib.import_module('b').c()\nd('import_module')\n"))
    assert [ast.unparse(call) for call in calls] == ["import_module(a)", "importlib.import_module('b')"]


def test_names_of_the_core_are_found_by_relative_and_by_full_imports() -> None:
    source = "from ..core.a import b, c\nfrom .core import d\nfrom robustcheck_onnx.checker.core.e import f\n"
    taken = {"checker.core.a.b", "checker.core.a.c", "checker.core.e.f"}
    assert core_imports(parsed(source, "checker.cli")) == taken
    assert core_imports(parsed(source, "checker.core")) == set()


def test_a_file_of_351_code_lines_is_long() -> None:
    package = [parsed("A = 1\n" * lines) for lines in (350, 351)]
    assert links(package)["files of more than 350 code lines"] == 1


def test_the_page_on_size_has_each_figure() -> None:
    page = (ROOT / "docs/dev/decisions/size.md").read_text(encoding="utf-8")
    assert [name for name in MOST if f"| {name} |" not in page] == []


def test_no_figure_is_above_its_limit() -> None:
    package = files(*PACKAGE)
    figures = {
        "nodes of the package": sum(nodes(file.tree) for file in package),
        "nodes of the tests": sum(nodes(file.tree) for file in files("tests")),
        **style(package),
        **links(package),
    }
    assert figures.keys() == MOST.keys()
    assert {name: figure for name, figure in figures.items() if figure > MOST[name]} == {}, figures

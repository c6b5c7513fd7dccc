"""Print how large and how dense code and pages are, by room, and how that changed since a commit.

`python tests/figures.py [COMMIT]`, or `make report SINCE=COMMIT`. The figures help a reviewer to look; none is a limit.

nodes       nodes of the syntax tree; they don't change with line breaks
per line    nodes per code line (without blank lines, comments and docstrings)
q90         nodes of a simple statement, 90 % quantile
large       share of simple statements of more than 40 nodes, literal tables apart
ternary     conditional expressions per 1,000 simple statements
parallel    assignments of several values to several names, per 1,000 simple statements
pronoun     share of docstrings whose second sentence begins with It, They, These, This, That, Those or Such
longest     lines of the longest file
colons      colons per 1,000 words of a page, code apart
"""

import ast
import io
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PACKAGE = ("checker", "exporters", "thresholds", "face")
OTHERS = ("tests", "studies", "benchmarks", "docs", "release")
CORE = "checker.core."
PRONOUNS = ("It ", "They ", "These ", "This ", "That ", "Those ", "Such ")
TRANSLATED = re.compile(
    r"(?<!there )(?<!there’s )\b(?:is|are|was|were) no (?!longer|more|less|other|better|later)\w+"
    r"|(?<!-)\b(?:beside|anew|for ever|the very|mends?|one (?:\w+ )?a (?:line|model|row))\b(?! same)",
    re.IGNORECASE,
)
"""words of a text that reads as translated"""

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef
Display = ast.Dict | ast.List | ast.Set | ast.Tuple
Row = dict[str, float]


class File(NamedTuple):
    """The text of a file, its syntax tree, and the folder of its module, as `checker.core.model`."""

    source: str
    tree: ast.Module
    folder: str = ""


def parsed(source: str, folder: str = "") -> File:
    """Return a source with its tree; a source that is not Python has an empty one."""
    try:
        return File(source, ast.parse(source), folder)
    except SyntaxError:
        return File(source, ast.parse(""), folder)


def files(root: Path, folders: Iterable[str]) -> list[File]:
    """Return each Python file below these folders."""
    paths = [path for folder in folders for path in sorted((root / folder).rglob("*.py"))]
    return [parsed(path.read_text(encoding="utf-8"), ".".join(path.parent.relative_to(root).parts)) for path in paths]


def nodes(tree: ast.AST) -> int:
    """Count the nodes of a tree.

    Python 3.12 puts empty constants into some f-strings, which other versions do not: they are not counted.
    """
    every = list(ast.walk(tree))
    parts = [part for node in every if isinstance(node, ast.JoinedStr) for part in node.values]
    empty = [part for part in parts if isinstance(part, ast.Constant) and part.value == ""]
    return len(every) - len(empty)


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


def is_table(statement: ast.stmt) -> bool:
    """Return whether a statement assigns a literal table, whose size makes nothing harder to read."""
    return isinstance(statement, ast.Assign | ast.AnnAssign) and isinstance(statement.value, Display)


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


def density(some: Iterable[File]) -> Row:
    """Return the figures of some files, by their names in the text above."""
    some = list(some)
    statements = [statement for file in some for statement in simple_statements(file.tree)]
    top = {statement for file in some for statement in file.tree.body}
    sizes = {statement: nodes(statement) for statement in statements}
    large = [one for one, size in sizes.items() if size > 40 and not (one in top and is_table(one))]
    ternaries = [node for file in some for node in ast.walk(file.tree) if isinstance(node, ast.IfExp)]
    parallel = [one for one in statements if is_parallel(one)]
    seconds = [text for file in some for text in second_sentences(file.tree)]
    pronouns = [text for text in seconds if text.startswith(PRONOUNS)]
    n_lines = sum(map(code_lines, some))
    n_nodes = sum(nodes(file.tree) for file in some)
    n_statements = max(1, len(statements))
    return {
        "files": len(some),
        "lines": n_lines,
        "nodes": n_nodes,
        "per line": n_nodes / max(1, n_lines),
        "q90": sorted(sizes.values())[int(0.9 * len(sizes))] if sizes else 0,
        "large %": 100 * len(large) / n_statements,
        "ternary": 1000 * len(ternaries) / n_statements,
        "parallel": 1000 * len(parallel) / n_statements,
        "pronoun %": 100 * len(pronouns) / max(1, len(seconds)),
        "longest": max((len(file.source.splitlines()) for file in some), default=0),
    }


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


def prose_of(text: str) -> str:
    """Return a page without code and without what a script made."""
    written = text.partition("<!-- made by")[0]
    without_blocks = re.sub(r"(?ms)^(```.*?^```|:::.*?$|    options:.*?$)", "", written)
    return re.sub("`[^`]*`", "code", without_blocks)


def page(prose: str) -> Row:
    """Return the words of a text and its colons per 1,000 words."""
    words, colons = (len(re.findall(what, prose)) for what in (r"\w\S*", r":\s"))
    return {"words": words, "colons": 1000 * colons / max(1, words), "translated": len(TRANSLATED.findall(prose))}


def by_room(root: Path) -> dict[str, Row]:
    """Return the figures of each room of a checkout, and of the package as a whole."""
    rooms: dict[str, list[File]] = defaultdict(list)
    for file in files(root, (*PACKAGE, *OTHERS)):
        parts = file.folder.split(".")
        depth = 3 if parts[:2] == ["checker", "core"] else 2
        rooms["/".join(parts[: depth if parts[0] in PACKAGE else 1])].append(file)
    rooms["the package"] = files(root, PACKAGE)
    return {room: density(some) for room, some in rooms.items()}


def by_page(root: Path) -> dict[str, Row]:
    """Return the figures of each page of a checkout, and of all of them."""
    paths = [*sorted(root.glob("*.md")), *sorted((root / "docs").rglob("*.md"))]
    texts = {str(path.relative_to(root)): prose_of(path.read_text(encoding="utf-8")) for path in paths}
    texts["all pages"] = "\n\n".join(texts.values())
    return {name: page(text) for name, text in texts.items()}


def links(root: Path) -> dict[str, Row]:
    """Return how the files of the package name and import what others define, and how many tests there are."""
    package = files(root, PACKAGE)
    counts = {
        "class names that several files define": len(homonyms(package)),
        "imports by a string": sum(len(string_imports(file.tree)) for file in package),
        "names of the core that other parts import": len({name for file in package for name in core_imports(file)}),
        "functions that are tests": sum(file.source.count("\ndef test_") for file in files(root, ["tests"])),
    }
    return {name: {"": count} for name, count in counts.items()}


def table(now: dict[str, Row], then: dict[str, Row]) -> str:
    """Lay out a row per room: a figure, or "then>now" where it changed."""
    names = list(next(iter(now.values()), {}))
    lines = [["", *names]]
    for room in sorted({**now, **then}, key=lambda room: (" " in room, room)):
        before, after = then.get(room, {}), now.get(room, {})
        lines.append([room, *(changed(before.get(name), after.get(name), then) for name in names)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines]
    return "\n".join(rows)


def changed(was: float | None, is_now: float | None, then: object) -> str:
    """Write a figure, after the earlier one where there is one and they differ."""
    before, after = (
        "–" if value is None else f"{value:,.4g}" if value < 1000 else f"{value:,.0f}" for value in (was, is_now)
    )
    return f"{before}>{after}" if then and before != after else after


def checkout(commit: str, folder: str) -> None:
    """Unpack the files of a commit. Raises CalledProcessError: there is no such commit."""
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")


def main(since: str) -> None:
    """Print the tables."""
    with tempfile.TemporaryDirectory() as folder:
        then = Path(folder)
        if since:
            try:
                checkout(since, folder)
            except subprocess.CalledProcessError as fault:
                sys.stdout.write(f"not compared: {fault.stderr.decode().strip()}\n\n")
                since = ""
        for measure in (by_room, by_page, links):
            sys.stdout.write(f"{table(measure(ROOT), measure(then) if since else {})}\n\n")


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]))

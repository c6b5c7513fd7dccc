"""What `make report` counts."""

import ast
import re
from pathlib import Path

import figures
import pytest
from figures import core_imports, density, parsed


def test_the_nodes_of_an_f_string_are_the_same_on_every_python() -> None:
    assert figures.nodes(ast.parse("f'{a:.{b}}'")) == 11


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
    assert density([parsed(source)]) == {
        "files": 1,
        "lines": 6,
        "nodes": 130,
        "per line": 130 / 6,
        "q90": 58,
        "large %": 100 / 6,
        "ternary": 1000 / 6,
        "parallel": 1000 / 6,
        "pronoun %": 50,
        "longest": 11,
    }


def test_names_of_the_core_are_found_by_relative_and_by_full_imports() -> None:
    source = "from ..core.a import b, c\nfrom .core import d\nfrom robustcheck_onnx.checker.core.e import f\n"
    taken = {"checker.core.a.b", "checker.core.a.c", "checker.core.e.f"}
    assert core_imports(parsed(source, "checker.cli")) == taken
    assert core_imports(parsed(source, "checker.core")) == set()


def test_code_is_not_part_of_the_prose_of_a_page() -> None:
    text = "One: two `a: b` three.\n```\nfour: five\n```\n<!-- made by a script -->six: seven"
    assert figures.page(figures.prose_of(text)) == {"words": 4, "colons": 250, "translated": 0}


def test_a_figure_that_changed_is_shown_after_the_earlier_one() -> None:
    now, then = {"a": {"n": 2.0}, "b": {"n": 1.0}}, {"a": {"n": 1.0}, "b": {"n": 1.0}}
    assert figures.table(now, then).split() == ["n", "a", "1>2", "b", "1"]
    assert figures.table(now, {}).split() == ["n", "a", "2", "b", "1"]


def test_neither_a_missing_commit_nor_a_broken_file_ends_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "checker").mkdir()
    (tmp_path / "checker" / "broken.py").write_text("def (", encoding="utf-8")
    (tmp_path / "README.md").write_text("Two words.", encoding="utf-8")
    monkeypatch.setattr(figures, "ROOT", tmp_path)
    figures.main("no-such-commit")
    out = capsys.readouterr().out
    assert out.startswith("not compared: ")
    assert re.search(r"the package +1 +1 +1 ", out)
    assert re.search(r"README.md +2 +0 +0", out)

"""Words of a text that reads as translated are in no page, message, help text or docstring."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from support import ROOT

WORDS = re.compile(
    r"(?<!there )(?<!there’s )\b(?:is|are|was|were) no (?!longer|more|less|other|better|later)\w+"
    r"|(?<!-)\b(?:beside|anew|for ever|the very)\b(?! same)",
    re.IGNORECASE,
)


def texts() -> Iterator[tuple[str, str]]:
    """Yield what a person reads: each page, and each string of the package."""
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")):
        yield page.name, page.read_text(encoding="utf-8")
    for folder in ("checker", "exporters", "thresholds", "face"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield f"{path.name}:{node.lineno}", node.value


def test_no_text_has_such_words() -> None:
    assert WORDS.search("A file that is no report lies beside the model.")
    assert [(where, found[0]) for where, text in texts() for found in WORDS.finditer(" ".join(text.split()))] == []

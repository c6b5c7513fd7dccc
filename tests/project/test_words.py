"""Words of a text that reads as translated are in no page, message, help text or docstring."""

import ast
import re
from collections.abc import Iterator

from support import ROOT

WORDS = re.compile(
    r"(?<!there )(?<!there’s )\b(?:is|are|was|were) no (?!longer|more|less|other|better|later)\w+"
    r"|(?<!-)\b(?:beside|anew|for ever|the very|mends?|one (?:\w+ )?a (?:line|model|row))\b(?! same)",
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


def too_much(page: str) -> bool:
    """Return whether what people wrote has over 1,800 words, or over 10 colons per 1,000 words."""
    prose = re.sub(r"(?ms)^(```.*?^```|:::.*?$|    options:.*?$)", "", page.partition("<!-- made by")[0])
    words, colons = (len(re.findall(what, re.sub("`[^`]*`", "code", prose))) for what in (r"\w\S*", r":\s"))
    return words > 1800 or colons > words / 100


def test_pages_are_short_and_have_few_colons() -> None:
    assert too_much("word " * 1801)
    assert too_much("as long: " * 3 + "word " * 200)
    assert not too_much("Short.\n```\n" + "a: b\n" * 1801 + "```\n<!-- made by a script -->" + "word: " * 1801)
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    assert [page.name for page in pages if too_much(page.read_text(encoding="utf-8"))] == []

"""What a terminal and an HTML page show, read back."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any
from xml.etree import ElementTree

from rich.console import Console

from robustcheck_onnx.checker.report import terminal
from robustcheck_onnx.checker.report.document import document_of
from robustcheck_onnx.checker.text import page as page_of


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        """What was shown, without colours and movements; a line that was drawn again counts again."""
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue())
        return [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]


def printed(rendered: object, width: int = 80) -> str:
    """What is shown in so many columns, without colours."""
    Console(file=(file := io.StringIO()), width=width, no_color=True).print(rendered, crop=False)
    return file.getvalue()


def shown(result: Any, width: int = 80, **options: bool) -> str:
    """What the terminal shows of a question's result."""
    return printed(terminal.render_document(document_of(result), **options), width)


OnATerminal = Callable[..., tuple[int, list[str], str]]
"""of a command line: its exit code, the lines that stderr showed, and what went to stdout"""


def stages_of(lines: list[str]) -> list[str]:
    """The words of each line in their order, each once, without numbers."""
    return list(dict.fromkeys(re.sub(r"  .*| *\d.*", "", line) for line in lines))


VOID = re.compile(r"<((?:meta|br|img|link|input|hr)\b[^>]*?)/?>")


class Element:
    """One element of a parsed page."""

    def __init__(self, tree: ElementTree.Element, parent: Element | None = None) -> None:
        self.tag, self.attributes, self.parent = tree.tag, tree.attrib, parent
        self.texts = [*tree.itertext()]
        self.text = "".join(self.texts)
        self.children = [Element(child, self) for child in tree]

    def all(self, *tags: str) -> Iterator[Element]:
        for child in self.children:
            if not tags or child.tag in tags:
                yield child
            yield from child.all(*tags)


def parse(page: str) -> Element:
    """Parse a page as XML but for its void elements: all else must be closed in order, no attribute comes twice."""
    closed = VOID.sub(r"<\1/>", page.removeprefix("<!DOCTYPE html>"))
    return Element(ElementTree.fromstring(f"<page>{closed}</page>"))


def in_notebook(result: Any) -> Element:
    """What a notebook shows of a report: nothing in it could run."""
    root = parse(result._repr_html_())
    assert {e.tag for e in root.all()} <= {"div", "b", "table", "thead", "tbody", "tr", "th", "td"}
    assert {name for e in root.all() for name in e.attributes} == {"style"}
    return root


def words(root: Element) -> str:
    return " ".join(root.text.split())


def assert_it_loads_nothing(page: str) -> None:
    """A page is well-formed, has no script, and asks no other file for anything."""
    assert page.startswith("<!DOCTYPE html>\n")
    assert page.endswith("</html>\n")
    page.encode("utf-8")
    root = parse(page)
    assert not [*root.all("script", "link", "iframe", "object", "embed", "base", "form")]
    for element in root.all():
        for attribute, value in element.attributes.items():
            assert not attribute.startswith("on"), (element.tag, attribute)
            assert "url(" not in value
            if attribute in {"src", "href", "xlink:href", "srcset", "data", "action", "poster"}:
                is_guide = element.tag == "a" and value == page_of("how-to-read")  # a link to read, once HOME is set
                assert is_guide or value.startswith(("#", "data:image/jpeg;base64,")), (element.tag, value)
    (style,) = root.all("style")
    assert not re.search(r"url\(|@import", style.text)
    policies = [e.attributes["content"] for e in root.all("meta") if "http-equiv" in e.attributes]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert not re.search(r"\bNone\b|\bnan\b|Undefined", root.text)


def assert_it_is_accessible(page: str) -> None:
    """Headings go down by one, pictures have words, tables have heads, a keyboard reaches what scrolls."""
    root = parse(page)
    (html,) = root.all("html")
    assert html.attributes["lang"] == "en"
    levels = [int(e.tag[1]) for e in root.all("h1", "h2", "h3", "h4", "h5", "h6")]
    assert (levels[0], levels.count(1)) == (1, 1)
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), levels
    every = [e.attributes for e in root.all()]
    ids = [e["id"] for e in every if "id" in e]
    assert len(ids) == len(set(ids))
    named = {target for e in every for target in e.get("aria-labelledby", "").split()}
    assert named | {e["href"][1:] for e in every if e.get("href", "").startswith("#")} <= set(ids)
    for picture in root.all("img", "svg"):
        if picture.attributes.get("aria-hidden") == "true":
            continue
        if picture.tag == "img":
            assert picture.attributes["alt"].strip()
        else:
            assert picture.attributes["role"] == "img"
            by_id = {e.attributes.get("id"): e.text.strip() for e in picture.all("title", "desc")}
            labels = [by_id[i] for i in picture.attributes.get("aria-labelledby", "").split()]
            assert all(labels or [picture.attributes["aria-label"]])
    assert all(th.attributes.get("scope") in {"row", "col"} for th in root.all("th"))
    for box in root.all("div"):
        if box.attributes.get("class") == "scroll":  # a keyboard must reach what scrolls
            assert (box.attributes["tabindex"], box.attributes["role"]) == ("0", "region")
    first = next(root.all("a")).attributes
    assert (first["class"], first["href"]) == ("skip", "#content")

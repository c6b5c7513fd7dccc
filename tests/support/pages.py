"""HTML pages of reports: parsed strictly, and what must hold of each of them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from html.parser import HTMLParser

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Element:
    """One element of a parsed page."""

    def __init__(self, tag: str, attributes: dict[str, str], parent: Element | None) -> None:
        self.tag, self.attributes, self.parent = tag, attributes, parent
        self.children: list[Element | str] = []

    def all(self, *tags: str) -> Iterator[Element]:
        for child in self.children:
            if isinstance(child, Element):
                if not tags or child.tag in tags:
                    yield child
                yield from child.all(*tags)

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)


class Strict(HTMLParser):
    """A parser that takes no page whose elements are not closed in order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = self.at = Element("", {}, None)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"{tag}: an attribute twice"
        element = Element(tag, {name: value or "" for name, value in attrs}, self.at)
        self.at.children.append(element)
        if tag not in VOID:
            self.at = element

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag == self.at.tag, f"</{tag}> closes <{self.at.tag}>"
        assert self.at.parent is not None
        self.at = self.at.parent

    def handle_data(self, data: str) -> None:
        self.at.children.append(data)


def parse(page: str) -> Element:
    parser = Strict()
    parser.feed(page)
    parser.close()
    assert parser.at is parser.root, f"<{parser.at.tag}> is not closed"
    return parser.root


def words(root: Element) -> str:
    return " ".join(root.text.split())


def assert_it_loads_nothing(page: str) -> None:
    """A page is well-formed, has no script, and asks no other file for anything."""
    assert page.startswith("<!DOCTYPE html>\n")
    assert page.endswith("</html>\n")
    page.encode("utf-8")
    root = parse(page)
    elements = list(root.all())
    assert not [e.tag for e in elements if e.tag in {"script", "link", "iframe", "object", "embed", "base", "form"}]
    for element in elements:
        for attribute, value in element.attributes.items():
            assert not attribute.startswith("on"), (element.tag, attribute)
            if attribute in {"src", "href", "xlink:href", "srcset", "data", "action", "poster"}:
                assert value.startswith(("#", "data:image/jpeg;base64,")), (element.tag, value)
            assert "url(" not in value
    (style,) = root.all("style")
    assert "url(" not in style.text
    assert "@import" not in style.text
    policies = [e.attributes["content"] for e in root.all("meta") if "http-equiv" in e.attributes]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert not re.search(r"\bNone\b|\bnan\b|Undefined", root.text)


def assert_it_is_accessible(page: str) -> None:
    """Headings go down by one, pictures have words, tables have heads, a keyboard reaches what scrolls."""
    root = parse(page)
    (html,) = root.all("html")
    assert html.attributes["lang"] == "en"
    levels = [int(e.tag[1]) for e in root.all("h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), levels
    ids = [e.attributes["id"] for e in root.all() if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    for element in root.all():
        for target in element.attributes.get("aria-labelledby", "").split():
            assert target in ids, target
        if element.attributes.get("href", "").startswith("#"):
            assert element.attributes["href"][1:] in ids
    for picture in root.all("img", "svg"):
        if picture.attributes.get("aria-hidden") == "true":
            continue
        if picture.tag == "img":
            assert picture.attributes["alt"].strip()
        else:
            assert picture.attributes["role"] == "img"
            by_id = {e.attributes.get("id"): e.text.strip() for e in picture.all("title", "desc")}
            labels = [by_id[i] for i in picture.attributes.get("aria-labelledby", "").split()]
            assert all(labels)
            assert labels or picture.attributes["aria-label"]
    assert all(th.attributes.get("scope") in {"row", "col"} for th in root.all("th"))
    for box in root.all("div"):
        if box.attributes.get("class") == "scroll":  # a keyboard must reach what scrolls
            assert box.attributes["tabindex"] == "0"
            assert box.attributes["role"] == "region"
    first = next(root.all("a"))
    assert first.attributes["class"] == "skip"
    assert first.attributes["href"] == "#content"

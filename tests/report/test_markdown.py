"""Markdown: names as they are, none of them runs, tables with their cells, what a reader needs."""

import re
from collections import Counter

from hypothesis import given
from markdown_it import MarkdownIt
from markdown_it.token import Token

from robustcheck_onnx.checker.report import markdown
from robustcheck_onnx.checker.text import printable
from support.outcomes import (
    ALL_WAIVED,
    FAILED,
    HOSTILE,
    HOSTILE_REPORT,
    NAME,
    NOTHING,
    PASSING,
    WAIVED,
    text_of,
)


def tokens(text: str) -> list[Token]:
    found = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
    return [t for token in found for t in (token, *(token.children or []))]


def words(text: str) -> str:
    """The text that a reader sees in inline content, joined."""
    found = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
    return "\n".join("".join(c.content for c in t.children or []) for t in found if t.type == "inline")


def test_markdown_shows_names_as_they_are_and_runs_none_of_them() -> None:
    text = text_of("markdown", HOSTILE_REPORT, FAILED)
    kinds = Counter(t.type for t in tokens(text))
    assert kinds["html_inline"] == 0
    assert [t.content for t in tokens(text) if t.type == "html_block"] == ["<!-- robustcheck report -->\n"]
    assert kinds["link_open"] == kinds["image"] == kinds["em_open"] == 0
    assert words(text).count(printable(HOSTILE)) >= 5
    assert "@all" not in re.sub(r"`[^\n]*`", "", text)


def test_markdown_tables_have_their_cells() -> None:
    found = tokens(text_of("markdown", HOSTILE_REPORT, FAILED, PASSING, NOTHING))
    rows = []
    for token in found:
        if token.type == "tr_open":
            rows.append(0)
        if token.type in {"td_open", "th_open"}:
            rows[-1] += 1
    assert rows == [4] * 5 + [5] * 4 * 3


def test_markdown_says_what_a_reader_needs() -> None:
    text = words(text_of("markdown", WAIVED))
    for said in (
        "▲ WARN · not_applicable: models/efficientnet-lite0.onnx",
        "exit code 1",
        "waived by vision team until 2026-12-30: known <since> May",
        "a waiver by vision team expired on 2026-10-30",
        WAIVED.evidence.model.digest,
        WAIVED.evidence.images.digest,
        WAIVED.verdict.profile_digest,
        *(reason.seen for reason in WAIVED.verdict.reasons),
        *(reason.next_step.replace("`", "") for reason in WAIVED.verdict.reasons),
        *WAIVED.profile.limits,
    ):
        assert said in text
    assert "every reason for WARN is waived" in words(text_of("markdown", ALL_WAIVED))
    assert "✓ PASS" in words(text_of("markdown", PASSING))
    assert "ERROR" in words(text_of("markdown", FAILED))


@given(NAME)
def test_markdown_any_words_are_literal(name: str) -> None:
    expected = " ".join(printable(name).split())
    for around in ("", "a | b "):
        assert " ".join(words(around + markdown.text(name)).split()) == " ".join((around + expected).split())
    kinds = {t.type for t in tokens(markdown.text(name))}
    assert kinds <= {"paragraph_open", "paragraph_close", "inline", "text", "text_special"}


@given(NAME)
def test_markdown_any_words_are_code(name: str) -> None:
    spans = [t.content for t in tokens(f"- x {markdown.code(name)}") if t.type == "code_inline"]
    assert [" ".join(s.split()) for s in spans] == [" ".join(printable(name).split())]

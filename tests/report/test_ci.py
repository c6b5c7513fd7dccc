"""What GitHub reads: commands and a summary."""

import re
from collections import Counter
from urllib.parse import unquote

from robustcheck_onnx.checker.report import markdown, pipelines
from robustcheck_onnx.checker.text import printable
from support.outcomes import (
    EVERY,
    FAILED,
    HOSTILE,
    PASSING,
    PLACE,
    WAIVED,
    WARNING,
)


def test_github_commands_are_one_line_each_and_give_back_their_words() -> None:
    lines = pipelines.commands(EVERY, PLACE)
    for line in lines:
        assert re.fullmatch(r"::(error|warning|notice) (file=[^,:\n]+,line=1,)?title=[^,:\n]+::[^\n]+", line)
    (error,) = [line for line in lines if line.startswith("::error")]
    match = re.fullmatch(r"::error file=([^,:]+),line=1,title=[^,:]+::(.*)", error)
    place = printable(f"sub/{HOSTILE}").replace("http://a", "http:/a")
    assert match
    assert [*map(unquote, match.groups())] == [place, f"{FAILED.message}; hint: {FAILED.hint}"]
    assert pipelines.commands([PASSING], PLACE) == []
    assert Counter(line.split()[0] for line in pipelines.commands([WAIVED], PLACE)) == {
        "::warning": 2,
        "::notice": 3,  # two waived reasons, and that the photos were the bundled ones
    }


def test_github_at_most_ten_of_a_kind() -> None:
    for n, last in ((10, ""), (11, "and 2 more"), (30, "and 21 more")):
        found = pipelines.commands([FAILED] * n, PLACE)
        assert (len(found), last in found[-1], "more" in found[-1]) == (10, True, bool(last))


def test_github_summary_is_cut_below_its_limit_with_a_word_about_it() -> None:
    whole = markdown.write_markdown(EVERY, PLACE)
    size = len(whole.encode())
    for room in (2**20, size + 1):
        assert pipelines.summary(EVERY, PLACE, room) == whole
    for room in (size, 3000, 500):
        text = pipelines.summary(EVERY, PLACE, room)
        assert len(text.encode()) < room
        assert text.endswith("writes the whole report.*\n")
        assert whole.startswith(text[: text.rfind("\n\n*The rest")])
    assert pipelines.summary(EVERY, PLACE, 20) == ""
    assert 2**20 - 2000 < len(pipelines.summary([WARNING] * 600, PLACE).encode()) < 2**20

"""What CI services read: GitLab's code quality, GitHub's commands and summary."""

from __future__ import annotations

import json
import re
from collections import Counter

from robustcheck_onnx.checker.report import github, markdown
from robustcheck_onnx.checker.text import printable
from support.outcomes import (
    EVERY,
    FAILED,
    HOSTILE,
    PASSING,
    PLACE,
    WAIVED,
    WARNING,
    text_of,
)


def test_gitlab() -> None:
    assert json.loads(text_of("gitlab", PASSING)) == []
    entries = json.loads(text_of("gitlab", *EVERY))
    for entry in entries:
        assert set(entry) == {"description", "check_name", "fingerprint", "severity", "location"}
        assert entry["severity"] in {"info", "minor", "major", "critical", "blocker"}
        assert set(entry["location"]) == {"path", "lines"}
        assert entry["location"]["lines"] == {"begin": 1}
        assert entry["description"]
    severities = {e["check_name"]: e["severity"] for e in json.loads(text_of("gitlab", WAIVED))}
    assert severities == {
        "robustcheck:assumed_preprocessing": "info",
        "robustcheck:rectified": "info",
        "robustcheck:no_persistent_outlier_features": "major",
    }
    (error,) = json.loads(text_of("gitlab", FAILED))
    assert error["severity"] == "blocker"
    assert error["location"]["path"] == printable(f"sub/{HOSTILE}").replace("http://a", "http:/a")


def unescaped(text: str) -> str:
    for code, sign in (("%2C", ","), ("%3A", ":"), ("%0A", "\n"), ("%0D", "\r"), ("%25", "%")):
        text = text.replace(code, sign)
    return text


def test_github_commands_are_one_line_each_and_give_back_their_words() -> None:
    lines = github.commands(EVERY, PLACE)
    for line in lines:
        assert "\n" not in line
        assert re.fullmatch(r"::(error|warning|notice) (file=[^,:]+,line=1,)?title=[^,:]+::.+", line)
    (error,) = [line for line in lines if line.startswith("::error")]
    match = re.fullmatch(r"::error file=([^,:]+),line=1,title=[^,:]+::(.*)", error)
    assert match
    assert unescaped(match.group(1)) == printable(f"sub/{HOSTILE}").replace("http://a", "http:/a")
    assert unescaped(match.group(2)) == f"{FAILED.message}; hint: {FAILED.hint}"
    assert github.commands([PASSING], PLACE) == []
    assert Counter(line.split()[0] for line in github.commands([WAIVED], PLACE)) == {
        "::warning": 1,
        "::notice": 3,  # two waived reasons, and that the photos were the bundled ones
    }


def test_github_at_most_ten_of_a_kind() -> None:
    for n in (10, 11, 30):
        found = github.commands([FAILED] * n, PLACE)
        assert len(found) == 10
        assert ("more" in found[-1]) == (n > 10)
        if n > 10:
            assert f"and {n - 9} more" in found[-1]


def test_github_summary_is_cut_below_its_limit_with_a_word_about_it() -> None:
    whole = markdown.render(EVERY, PLACE)
    assert github.summary(EVERY, PLACE) == whole
    size = len(whole.encode())
    assert github.summary(EVERY, PLACE, size + 1) == whole
    for room in (size, 3000, 500):
        text = github.summary(EVERY, PLACE, room)
        assert len(text.encode()) < room
        assert text.endswith("writes the whole report.*\n")
        assert whole.startswith(text[: text.rfind("\n\n*The rest")])
    assert github.summary(EVERY, PLACE, 20) == ""
    many = github.summary([WARNING] * 600, PLACE)
    assert 2**20 - 2000 < len(many.encode()) < 2**20

"""Help: every verb shows an example; every example, in help and in the pages, is a command line that is understood."""

from __future__ import annotations

import io
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.cli.process import with_default_command
from robustcheck_onnx.checker.errors import EXIT_CODES, UsageError
from robustcheck_onnx.checker.text import VERSION
from robustcheck_onnx.checker.verdict import KINDS, RULES
from support import ROOT, commands
from support.bad_input import Typed

GROUP = get_command(cli.app)
assert isinstance(GROUP, TyperGroup)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def verbs(group: TyperGroup, path: str = "robustcheck") -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from verbs(command, f"{path} {name}")
        else:
            yield f"{path} {name}"


VERBS = list(verbs(GROUP))


def understood(words: list[str]) -> str:
    """The verb of a command line that the parser takes, types of options included; raises where it doesn't."""
    group, path = GROUP, "robustcheck"
    assert isinstance(group, TyperGroup)
    words = with_default_command(words, list(group.commands))
    while True:
        command = group.commands[words[0]]
        path, words = f"{path} {words[0]}", words[1:]
        if not isinstance(command, TyperGroup):
            command.make_context(path, words)
            return path
        group = command


def test_every_verb_shows_an_example_of_itself(tmp_path: Path, typed: Typed) -> None:
    for verb in VERBS:
        done = typed(tmp_path, *verb.split()[1:], "--help", COLUMNS="80")
        assert done.returncode == 0
        shown = done.stdout.replace("\\\n", "")  # as a shell reads it
        before, _, rest = shown.partition("\nExample")
        assert "Options\n" not in before
        examples = re.findall(r"^  (robustcheck .*?)$", rest.partition("\n\n")[0], re.MULTILINE)
        assert examples
        for example in examples:
            assert understood(shlex.split(example)[1:]) == verb


def test_where_codes_matter_the_help_lists_them(tmp_path: Path, typed: Typed) -> None:
    for verb in ("check", "compare", "export", "calibrate", "doctor", "verify", "mlflow gate"):
        shown = typed(tmp_path, *verb.split(), "--help").stdout
        assert re.search(r"Exit codes: 0 .* · [34] ", " ".join(shown.split())), verb


def test_help_names_no_type_and_no_page_that_a_package_lacks_and_fits(tmp_path: Path, typed: Typed) -> None:
    for verb in ("robustcheck", *VERBS):
        for columns in (80, 120):
            shown = typed(tmp_path, *verb.split()[1:], "--help", COLUMNS=str(columns)).stdout
            assert max(map(len, shown.splitlines())) <= columns, verb
            assert not re.search(r"<\w+.*?>|docs/", shown), verb
            assert not re.search(r"--(debug|no-time|no-ci|plan|force|help|version) \S", shown)  # a flag takes no value


def test_the_help_of_all_has_a_line_a_verb_in_groups_and_check_first(tmp_path: Path, typed: Typed) -> None:
    shown = typed(tmp_path, "--help", COLUMNS="80").stdout
    groups = {
        block.splitlines()[0]: [re.fullmatch(r"  (\S+) +\S.*[.)]", line) for line in block.splitlines()[1:]]
        for block in shown.strip().split("\n\n")
    }
    listed = {
        title: [row.group(1) if row else "a row of two lines" for row in groups[title]]
        for title in ("Gate", "Understand", "Prepare", "Evidence", "Set-up")
    }
    assert listed == {
        "Gate": ["check", "compare", "verify"],
        "Understand": ["inspect", "explain", "scan", "shift", "concepts", "directions"],
        "Prepare": ["export", "calibrate", "profiles"],
        "Evidence": ["sign", "mlflow"],
        "Set-up": ["demo", "doctor", "init"],
    }
    titles = list(groups)
    assert titles.index("Examples") < titles.index("Gate") < titles.index("Set-up") < titles.index("Options")


def test_the_options_of_a_check_stand_in_panels(tmp_path: Path, typed: Typed) -> None:
    titles = re.findall(r"^(\w+)$", typed(tmp_path, "check", "--help").stdout, re.MULTILINE)
    assert titles == ["Examples", "Arguments", "Images", "Model", "Verdict", "Output", "Speed", "Limits", "CI"]


def test_the_commands_of_every_page_are_understood() -> None:
    seen = set()
    for page in PAGES:
        for command in commands.read(page.read_text(encoding="utf-8")):
            for part in re.findall(r"^ *(robustcheck .*)$", command.text, re.MULTILINE):
                words = shlex.split(part, comments=True)[1:]
                if {"[OPTIONS]", "--help"} & set(words) or words[0] in {"--install-completion", "--show-completion"}:
                    continue
                seen.add(understood(words))
    assert seen >= set(VERBS)


def test_a_value_that_an_option_does_not_know_is_refused() -> None:
    colours = "check compare shift scan concepts directions calibrate demo verify sign inspect doctor"
    for verb in colours.split():
        with pytest.raises(UsageError, match=r"^--color is 'red'; it must be one of auto, always, never$"):
            understood([verb, "--color", "red"])
    for verb in ("list", "show"):
        with pytest.raises(UsageError, match=r"^--output is 'xml'; it must be one of terminal, json$"):
            understood(["profiles", verb, "-o", "xml"])


def test_a_command_that_is_not_understood_is_noticed() -> None:
    for words in (
        ["check", "m.onnx", "--imags", "p"],
        ["explain", "a", "b"],
        ["compare"],
        ["check", "m.onnx", "--seed", "x"],
    ):
        with pytest.raises(Exception, match=r"imags|unexpected|candidate|seed|integer"):
            understood(words)


@pytest.fixture
def printed(tmp_path: Path, typed: Typed) -> Callable[[str], str]:
    """What a command line without a fault prints."""

    def run(words: str) -> str:
        done = typed(tmp_path, *words.split())
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return run


def test_the_version_is_a_line_and_nothing_else(tmp_path: Path, typed: Typed, printed: Callable[[str], str]) -> None:
    assert {printed(words) for words in ("-V", "--version")} == {f"robustcheck {VERSION}\n"}
    for word in ("model.onnx", "--json"):
        done = typed(tmp_path, "--version", word)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"error: argument is {word}; --version takes none\nhint: robustcheck --version\n"


def test_reasons_as_json(printed: Callable[[str], str]) -> None:
    document = json.loads(printed("explain -o json"))
    assert list(document["kinds"]) == list(KINDS)
    assert [reason["id"] for reason in document["reasons"]] == list(RULES)
    one = json.loads(printed("explain rectified -o json"))
    rule = RULES["rectified"]
    assert (one["id"], one["kind"], one["title"]) == ("rectified", "not_applicable", rule.title)
    assert (one["explanation"], one["next_step"]) == (rule.explanation, rule.next_step)
    absent = json.loads(printed("explain absent -o json"))["reasons"]
    assert {reason["kind"] for reason in absent} == {"absent"}
    assert json.loads(printed("explain exit-codes -o json"))["exit_codes"]["0"] == EXIT_CODES[0]


def test_the_schema_is_explained(printed: Callable[[str], str]) -> None:
    schema = printed("explain schema")
    assert json.loads(schema)["title"] == "Report"
    assert printed("explain schema -o json") == schema


def test_reasons_are_listed_by_kind(printed: Callable[[str], str]) -> None:
    blocks = printed("explain").split("\n\n")
    assert [block.split(":")[0] for block in blocks[:-1]] == list(KINDS)
    for block, kind in zip(blocks, KINDS, strict=False):
        listed = re.findall(r"^  (\w+)  ", block, re.MULTILINE)
        assert listed == [name for name, rule in RULES.items() if rule.kind == kind]


def test_a_locale_without_utf_8_gets_help_in_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for words, part in (("--help", "0 PASS | 1 WARN | 2 usage"), ("shift --help", "[NAME=]PATH...")):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
        assert cli.main(words.split()) == 0
        shown = raw.getvalue().decode("ascii")
        assert "\\" not in shown  # no sign as its number
        assert part in shown
        assert max(map(len, shown.splitlines())) <= 80

"""Help and completion: every example, in help and in the pages, is a command line that is understood."""

import json
import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.cli.process import with_default_command
from robustcheck_onnx.checker.errors import EXIT_CODES, UsageError
from robustcheck_onnx.checker.text import VERSION
from robustcheck_onnx.checker.verdict.reasons import KINDS, NAMES, RULES
from robustcheck_onnx.thresholds.profile import DEFINITIONS
from support import ROOT, Patch, bad_input, commands, raised
from support.bad_input import COMMAND, Run, environment

GROUP = get_command(cli.app)
assert isinstance(GROUP, TyperGroup)
Printed = Callable[[str], str]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def verbs(group: TyperGroup, path: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from verbs(command, f"{path}{name} ")
        else:
            yield f"{path}{name}"


VERBS, CHECK = list(verbs(GROUP)), GROUP.commands["check"]


def understood(words: list[str]) -> str:
    """The verb of a command line that the parser takes, types of options included; raises where it doesn't."""
    group, path = GROUP, ""
    assert isinstance(group, TyperGroup)
    words = with_default_command(words, list(group.commands))
    while True:
        command = group.commands[words[0]]
        path, words = f"{path} {words[0]}".strip(), words[1:]
        if not isinstance(command, TyperGroup):
            command.make_context(path, words)
            return path
        group = command


def test_every_verb_shows_an_example_of_itself_names_no_type_and_fits(ends: Run) -> None:
    for verb in VERBS:
        done = ends(0, f"{verb} --help", COLUMNS="80")
        assert max(map(len, done.stdout.splitlines())) <= 80, verb
        assert not re.search(r"<\w+.*?>|docs/", done.stdout), verb  # nor a page that a package lacks
        assert not re.search(r"--(debug|no-time|no-ci|plan|force|help|version) \S", done.stdout)  # a flag has no value
        before, _, rest = done.stdout.replace("\\\n", "").partition("\nExample")  # as a shell reads it
        assert "Options\n" not in before
        examples = re.findall(r"^  robustcheck (.*?)$", rest.partition("\n\n")[0], re.MULTILINE)
        assert examples
        assert {understood(shlex.split(example)) for example in examples} == {verb}


def test_where_codes_matter_the_help_lists_them(run: Run) -> None:
    for verb in ("check", "compare", "export", "calibrate", "doctor", "verify", "mlflow gate"):
        assert re.search(r"Exit codes: 0 .* · [34] ", " ".join(run(f"{verb} --help").stdout.split())), verb


def test_the_help_of_all_has_a_line_a_verb_in_groups_and_check_first(run: Run) -> None:
    shown = run("--help", COLUMNS="80").stdout
    assert max(map(len, shown.splitlines())) <= 80
    groups = [
        ["Commands", "check", "compare", "inspect", "export", "verify", "explain", "demo", "doctor"],
        ["Look closer", "scan", "shift", "concepts", "directions"],
        ["Thresholds", "calibrate", "profiles"],
        ["Sign and register", "sign", "mlflow"],
        ["Set-up", "init"],
    ]
    blocks = [re.findall(r"^\S.*|(?<=^  )\S+(?= +\S.*[.)]$)", block, re.MULTILINE) for block in shown.split("\n\n")]
    assert [block for block in blocks if block[:1] in [group[:1] for group in groups]] == groups


def test_help_of_check_shows_14_options_and_where_the_others_are(run: Run) -> None:
    shown, whole = (
        re.findall(r"^ {2,6}-.*", run(f"check {word}").stdout, re.MULTILINE) for word in ("-h", "--help-all")
    )
    assert len(shown) == 14 < len(whole) == len(CHECK.params)
    assert any("--help-all: every option" in row for row in shown)


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
        raised(
            UsageError,
            "^--color is 'red'; it must be one of auto, always, never\\n",
            understood,
            [verb, "--color", "red"],
        )


@pytest.fixture
def printed(ends: Run) -> Printed:
    """What a command line without a fault prints."""

    def print_(words: str) -> str:
        done = ends(0, words)
        assert done.stderr == ""
        return done.stdout

    return print_


def test_the_version_is_a_line_and_nothing_else(printed: Printed) -> None:
    assert {printed(words) for words in ("-V", "--version")} == {f"robustcheck {VERSION}\n"}


def test_reasons_as_json(printed: Printed) -> None:
    def told(topic: str) -> Any:
        return json.loads(printed(f"explain {topic} -o json"))

    document, one = told("reasons"), told("rectified")
    assert list(document["kinds"]) == list(KINDS)
    assert [reason["id"] for reason in document["reasons"]] == list(RULES)
    assert (one["id"], one["explanation"]) == ("rectified", RULES["rectified"].explanation)
    assert {reason["kind"] for reason in told("absent")["reasons"]} == {"absent"}
    assert told("exit-codes")["exit_codes"]["0"] == EXIT_CODES[0]
    assert {"$ref": "#/$defs/Report"} in json.loads(printed("explain schema"))["oneOf"]


def test_every_word_of_a_report_is_explained_in_the_words_of_the_reports(printed: Printed) -> None:
    words: dict[Any, str] = {**EXIT_CODES, **{NAMES[name]: text for name, text in DEFINITIONS.items()}}
    words |= {kind.replace("_", " "): text for kind, text in KINDS.items()}
    words |= {"WARN": KINDS["absent"], "Exit code 3": EXIT_CODES[3], "pass": "They lie mostly in the mean"}
    words |= {"kurtosis": "", "ok?": "straddles", "must be": "The whole interval", "interval": "bounds"}
    for word, text in words.items():
        assert text in " ".join(printed(f"explain '{word}'").split()), word


def test_reasons_are_listed_by_kind(printed: Printed) -> None:
    listed = re.findall(r"^  (\w+)  +\S", printed("explain").rpartition("\n\n")[0], re.MULTILINE)
    assert listed == sorted(RULES, key=lambda name: list(KINDS).index(RULES[name].kind))


ASK = "_ROBUSTCHECK_COMPLETE"
OFFERED = {
    "robustcheck profiles sh": ["show"],
    "robustcheck check model.onnx --max-": ["--max-images", "--max-bad", "--max-memory", "--max-model-size"],
    "robustcheck model.onnx --max-": ["--max-images", "--max-bad", "--max-memory", "--max-model-size"],  # of check
    "robustcheck explain recti": ["rectified"],
    "robustcheck check model.onnx -o j": ["json", "junit"],
    "robustcheck compare a.onnx b.onnx -o ": ["terminal", "json", "junit", "markdown", "sarif", "html"],
    "robustcheck scan model.onnx -o t": ["terminal"],
    "robustcheck model.on": [],  # then bash completes names of files
}


def test_words_are_completed(ends: Run) -> None:
    for line, offered in OFFERED.items():
        words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
        done = ends(0, "", **{ASK: "complete_bash"}, **words)
        assert (done.stdout.split(), done.stderr) == (offered, "")
    words["_TYPER_COMPLETE_ARGS"] = "robustcheck che"
    for asked in ("complete_bash", "complete_zsh", "source_bash", "", "nonsense"):  # a check stays a check
        for call in ("missing.onnx", "check missing.onnx"):
            assert ends(2, call, **words, **{ASK: asked}).stdout == ""


@pytest.mark.process
def test_bash_completes_by_the_script_that_the_command_prints() -> None:
    code = """
eval "$(robustcheck --show-completion bash)"
ask() { $(complete -p robustcheck | sed "s/.*-F \\([^ ]*\\) .*/\\1/") robustcheck; echo "${COMPREPLY[@]}"; }
COMP_WORDS=(robustcheck check model.onnx -o j); COMP_CWORD=4; ask
COMP_WORDS=(robustcheck model.onnx --thr); COMP_CWORD=2; ask
"""
    path = f"{Path(COMMAND).parent}{os.pathsep}{os.environ['PATH']}"
    done = bad_input.run(["bash", "--norc", "-c", code], env=environment(PATH=path))
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "json junit\n--thresholds\n")


def test_other_shells_have_a_script(run: Run, ends: Run) -> None:
    for shell, sign in (("zsh", "#compdef robustcheck"), ("fish", "complete --command robustcheck")):
        done = ends(0, f"--show-completion {shell}")
        assert (done.stderr, sign in done.stdout) == ("", True)
        # what such a script asks for when it runs
        words = {"_TYPER_COMPLETE_ARGS": "robustcheck model.onnx --thr", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
        assert "--thresholds" in run("", **words, **{ASK: f"complete_{shell}"}).stdout


def test_install_writes_into_the_home_of_the_caller(here: Path, run: Run, ends: Run) -> None:
    done = ends(0, "--install-completion bash", HOME=str(here / "home"))
    (script,) = (path for path in (here / "home").rglob("*robustcheck*") if path.is_file())
    assert script.read_text().strip() == run("--show-completion bash").stdout.strip()
    assert str(script) in done.stdout


def test_a_shell_that_is_not_known_is_a_usage_error(ends: Run, monkeypatch: Patch) -> None:
    shellingham = pytest.importorskip("shellingham")

    def none_found() -> None:
        raise shellingham.ShellDetectionFailure

    monkeypatch.setattr(shellingham, "detect_shell", none_found)  # a test can't choose the processes above it
    for option in ("--show-completion", "--install-completion"):
        for words in ("", "tcsh", "bash model.onnx"):
            ends(2, f"{option} {words}", HOME=str(Path.cwd()))


def test_a_question_that_makes_no_sense_is_never_a_verdict(ends: Run) -> None:
    for asked in ("nonsense", "complete_tcsh", "complete_bash", "explain_zsh"):
        ends(70, "", **{ASK: asked}, COMP_WORDS="", COMP_CWORD="x")

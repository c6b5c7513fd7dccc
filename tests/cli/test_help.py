"""Help, completion and mistakes: every example is a command line that is understood, and each hint leads on."""

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.core import TyperGroup
from typer.exceptions import TyperException
from typer.main import get_command

from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.cli.help import OTHER_OPTIONS, OTHER_VERBS
from robustcheck_onnx.checker.cli.named_models import split_images
from robustcheck_onnx.checker.cli.process import with_default_command
from robustcheck_onnx.checker.core.preprocessing import CLIP
from robustcheck_onnx.checker.core.verdict.kinds import KINDS, NAMES
from robustcheck_onnx.checker.core.verdict.reasons import RULES
from robustcheck_onnx.checker.errors import EXIT_CODES, CannotAssessError, UsageError
from robustcheck_onnx.checker.text import VERSION
from robustcheck_onnx.exporters import run as exporter
from robustcheck_onnx.thresholds.statistics import DEFINITIONS
from support import ROOT, Made, Patch, bad_input, raised, repository
from support.bad_input import COMMAND, Run, agrees, assert_says, environment

GROUP = get_command(cli.app)
assert isinstance(GROUP, TyperGroup)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def verbs(group: TyperGroup, path: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from verbs(command, f"{path}{name} ")
        else:
            yield f"{path}{name}"


VERBS, CHECK = list(verbs(GROUP)), GROUP.commands["check"]
TOP = list(GROUP.commands)  # the first words that are verbs or groups of verbs


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


def panels(shown: str) -> dict[str, list[list[str]]]:
    """The words of the lines of each panel of a help in typer's look, by its title."""
    found = re.findall(r"^╭─ (.+?) ─+╮$(.+?)^╰", shown, re.MULTILINE | re.DOTALL)
    return {title: [line.strip("│").split() for line in lines.strip().splitlines()] for title, lines in found}


def options(shown: str) -> list[str]:
    """The options of a help in typer's look."""
    return [words[0] for lines in panels(shown).values() for words in lines if words[0].startswith("--")]


def test_every_verb_shows_an_example_of_itself_and_its_codes_and_fits(ends: Run) -> None:
    for verb in VERBS:
        done = ends(0, f"{verb} --help-all", COLUMNS="80").stdout
        assert max(map(len, done.splitlines())) <= 80, verb
        assert "…" not in done, verb  # rich cuts a word that does not fit
        assert "docs/" not in done, verb  # a page that a package lacks
        assert not re.search(r"--(debug|no-time|no-ci|plan|force|version) +(-\w +)?<", done), verb  # a flag has no type
        text = " ".join(done.split())
        if verb in {"check", "compare", "export", "calibrate", "doctor", "verify", "mlflow gate"}:
            assert re.search(r"Exit codes: 0 .* \| [34] ", text), verb
        examples = re.findall(r"Example: robustcheck (.*?)(?= Example: | Exit codes: |$)", text)
        assert examples, verb
        assert {understood(shlex.split(example, comments=True)) for example in examples} == {verb}


def test_the_help_of_all_has_a_line_a_verb_in_groups_and_check_first(run: Run) -> None:
    shown = run("--help", COLUMNS="80").stdout
    assert max(map(len, shown.splitlines())) <= 80
    first = {title: [words[0] for words in lines] for title, lines in panels(shown).items()}
    assert {title: [word for word in words if word in TOP] for title, words in first.items()} == {
        "Options": [],
        "Commands": ["check", "compare", "inspect", "export", "verify", "explain", "demo", "doctor"],
        "Look closer": ["scan", "shift", "concepts", "directions"],
        "Thresholds": ["calibrate", "profiles"],
        "Sign and register": ["sign", "mlflow"],
        "Set-up": ["init"],
    }


def test_help_of_check_shows_14_options_and_where_the_others_are(run: Run) -> None:
    shown, whole = (run(f"check {word}", COLUMNS="120").stdout for word in ("-h", "--help-all"))
    assert len(options(shown)) == 14 < len(options(whole)) == len(CHECK.params)
    assert "--help-all: every option" in shown
    assert "[default: auto]" in shown
    assert "tool.robustcheck" in shown  # what rich takes for markup would be missing
    assert re.search(r"--thresholds +PROFILE", run("verify -h").stdout)  # its own


def test_the_commands_of_every_page_are_understood() -> None:
    seen = set()
    for page in PAGES:
        for command in repository.commands_of(page.read_text()):
            for part in re.findall(r"^ *(robustcheck .*)$", command.text, re.MULTILINE):
                words = shlex.split(part, comments=True)[1:]
                if {"[OPTIONS]", "--help"} & set(words) or words[0] in {"--install-completion", "--show-completion"}:
                    continue
                seen.add(understood(words))
    assert seen >= set(VERBS)


def test_a_value_that_an_option_does_not_know_is_refused() -> None:
    colours = "check compare shift scan concepts directions calibrate demo verify sign inspect doctor"
    for verb in colours.split():
        said = "'red' is not one of 'auto', 'always', 'never'"
        raised(TyperException, said, understood, [verb, "--color", "red"])


@pytest.fixture
def printed(ends: Run) -> Made:
    """What a command line without a fault prints."""

    def print_(words: str) -> str:
        done = ends(0, words)
        assert done.stderr == ""
        return done.stdout

    return print_


def test_the_version_is_a_line_and_nothing_else(printed: Made) -> None:
    assert {printed(words) for words in ("-V", "--version")} == {f"robustcheck {VERSION}\n"}


def test_reasons_as_json(printed: Made) -> None:
    def told(topic: str) -> Any:
        return json.loads(printed(f"explain {topic} -o json"))

    document, one = told("reasons"), told("one_sided")
    assert list(document["kinds"]) == list(KINDS)
    assert [reason["id"] for reason in document["reasons"]] == list(RULES)
    assert (one["id"], one["explanation"]) == ("one_sided", RULES["one_sided"].explanation)
    assert {reason["kind"] for reason in told("absent")["reasons"]} == {"absent"}
    assert told("exit-codes")["exit_codes"]["0"] == EXIT_CODES[0]
    assert {"$ref": "#/$defs/Report"} in json.loads(printed("explain schema"))["oneOf"]


def test_every_word_of_a_report_is_explained_in_the_words_of_the_reports(printed: Made) -> None:
    words: dict[Any, str] = {**EXIT_CODES, **{NAMES[name]: text for name, text in DEFINITIONS.items()}}
    words |= {kind.replace("_", " "): text for kind, text in KINDS.items()}
    words |= {"WARN": KINDS["absent"], "Exit code 3": EXIT_CODES[3], "pass": "The features lie mostly in the mean"}
    words |= {"kurtosis": "", "ok?": "straddles", "must be": "The whole interval", "interval": "bounds"}
    for word, text in words.items():
        assert text in " ".join(printed(f"explain '{word}'").split()), word


def test_reasons_are_listed_by_kind(printed: Made) -> None:
    listed = re.findall(r"^  (\w+)  +\S", printed("explain").rpartition("\n\n")[0], re.MULTILINE)
    assert listed == sorted(RULES, key=lambda name: list(KINDS).index(RULES[name].kind))


ASK = "_ROBUSTCHECK_COMPLETE"
OFFERED = {
    "robustcheck profiles sh": ["show"],
    "robustcheck check model.onnx --max-": ["--max-images", "--max-bad", "--max-memory", "--max-model-size"],
    "robustcheck model.onnx --max-": ["--max-images", "--max-bad", "--max-memory", "--max-model-size"],  # of check
    "robustcheck explain one_s": ["one_sided"],
    "robustcheck check model.onnx -o j": ["json", "junit"],
    "robustcheck compare a.onnx b.onnx -o ": [
        *("terminal", "json", "junit", "markdown", "sarif", "html", "openmetrics", "predicate")
    ],
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


def test_other_shells_have_a_script_and_install_writes_into_the_home_of_the_caller(here: Path, ends: Run) -> None:
    for shell, sign in (("zsh", "#compdef robustcheck"), ("fish", "complete --command robustcheck")):
        done = ends(0, f"--show-completion {shell}")
        assert (done.stderr, sign in done.stdout) == ("", True)
        # what such a script asks for when it runs
        words = {"_TYPER_COMPLETE_ARGS": "robustcheck model.onnx --thr", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
        assert "--thresholds" in ends(0, "", **words, **{ASK: f"complete_{shell}"}).stdout
    done = ends(0, "--install-completion bash", HOME=str(here / "home"))
    (script,) = (path for path in (here / "home").rglob("*robustcheck*") if path.is_file())
    assert script.read_text().strip() == ends(0, "--show-completion bash").stdout.strip()
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


TABLE = """
photos  =>  2  =>  robustcheck model.onnx --images photos
photos pass.onnx  =>  2  =>  robustcheck pass.onnx --images photos
pass.onnx both  =>  2  =>  robustcheck pass.onnx --images both
pass.onnx photos --images photos  =>  2  =>  robustcheck pass.onnx --images photos
pass.onnx both/a.png both/b.png  =>  2  =>  robustcheck pass.onnx --images both
--strict pass.onnx photos  =>  2  =>  robustcheck check --strict --images photos -- pass.onnx
pass.onnx -o json report.json  =>  2  =>  -o report.json
compare pass.onnx warn.onnx photos  =>  2  =>  robustcheck compare pass.onnx warn.onnx --images photos
compare pass.onnx --images photos  =>  2  =>  robustcheck compare candidate.onnx reference.onnx
verify pass.onnx report.json  =>  2  =>  robustcheck verify report.json pass.onnx
pass.onnx gone.onnx  =>  2  =>  ls .
pas.onnx  =>  2  =>  Did you mean pass.onnx?
modls/v1.onnx  =>  2  =>  Did you mean models/v1.onnx?
models/v2.onnx  =>  2  =>  ls models
pass  =>  2  =>  robustcheck pass.onnx
openai/clip-vit-base-patch32  =>  2  =>  Did you mean hf://openai/clip-vit-base-patch32?
model.tar.gz  =>  3  =>  mkdir -p model && tar xf model.tar.gz -C model && robustcheck model
model.onnx.gz  =>  3  =>  gunzip --keep model.onnx.gz
model.zip  =>  3  =>  mkdir -p model && unzip model.zip -d model && robustcheck model
model.pt  =>  3  =>  export the model with its weights: robustcheck export --help
model.engine  =>  3  =>  name the ONNX file that the engine was built from
model.tflite  =>  3  =>  python -m tf2onnx.convert --tflite model.tflite --output model.onnx
pass.onnx --images phtos  =>  2  =>  --images photos
pass.onnx --images photos --preprocess CLIP  =>  2  =>  --preprocess clip
pass.onnx --images photos --preprocess pre.jsn  =>  2  =>  --preprocess pre.json
pass.onnx --images photos --preprocess pre.json  =>  2  =>  robustcheck explain preprocessing
pass.onnx --data photos  =>  2  =>  robustcheck check pass.onnx --images photos
pass.onnx -i photos  =>  2  =>  robustcheck check --help
pass.onnx photos --gpu  =>  2  =>  robustcheck check pass.onnx photos --device cuda
pass.onnx photos --gpu 1  =>  2  =>  robustcheck check pass.onnx photos --device cuda:1
pass.onnx photos -qn 60  =>  2  =>  robustcheck check --help
pass.onnx photos --device CUDAExecutionProvider  =>  2  =>  --device cuda
pass.onnx photos --device gpu  =>  2  =>  --device cuda
pass.onnx photos --device gpuu  =>  2  =>  --device cuda
pass.onnx photos --pool clss  =>  2  =>  --pool cls
pass.onnx photos --arithmetic exakt  =>  2  =>  --arithmetic exact
pass.onnx photos --fail-on=Never  =>  2  =>  --fail-on never
pass.onnx photos --fail-on low  =>  2  =>  --fail-on WHEN: …
pass.onnx photos --accept not-applicable  =>  2  =>  --accept not_applicable
pass.onnx photos --color alwais  =>  2  =>  --color always
pass.onnx photos -o json2  =>  2  =>  --output json
explain kurtosis -o jsn  =>  2  =>  --output json
compare pass.onnx warn.onnx --images photos --require idx  =>  2  =>  --require index
compare pass.onnx warn.onnx --images photos --metric cosin  =>  2  =>  --metric cosine
shift pass.onnx --in photos --shifted photos --baseline timn  =>  2  =>  --baseline timm
pass.onnx photos --device 0  =>  2  =>  --device cuda:0
pass.onnx photos --size 224  =>  2  =>  robustcheck explain preprocessing
explain strenght  =>  2  =>  robustcheck explain strength
explain persistance  =>  2  =>  robustcheck explain persistence
explain two-sidednes  =>  2  =>  robustcheck explain two-sidedness
pass.onnx photos --layer representation  =>  2  =>  robustcheck check pass.onnx photos --tensor representation
pass.onnx photos --limit 60  =>  2  =>  robustcheck check pass.onnx photos --max-images 60
pass.onnx photos --batch 8  =>  2  =>  robustcheck check pass.onnx photos --batch-size 8
pass.onnx photos --format json  =>  2  =>  robustcheck check pass.onnx photos --output json
pass.onnx photos --html r.html  =>  2  =>  robustcheck check pass.onnx photos -o html=r.html
pass.onnx photos --soft-fail  =>  2  =>  robustcheck check pass.onnx photos --fail-on never
--model pass.onnx --images photos  =>  2  =>  robustcheck check pass.onnx --images photos
compare pass.onnx --reference warn.onnx  =>  2  =>  robustcheck compare --help
verify report.json --no-rerunn  =>  2  =>  robustcheck verify report.json --no-rerun
doctor --gpu  =>  2  =>  robustcheck doctor --help
pass.onnx photos --verbos  =>  2  =>  robustcheck check pass.onnx photos --verbose
pass.onnx photos --xyzzy  =>  2  =>  robustcheck check --help
--Version  =>  2  =>  robustcheck --version
pass.onnx photos -o JSON  =>  2  =>  --output json
pass.onnx photos --seed 1 --seed 2  =>  2  =>  keep one --seed
pass.onnx photos --timeout 10m  =>  2  =>  --timeout SECONDS: …
pass.onnx --images  =>  2  =>  robustcheck check --help
shift pass.onnx  =>  2  =>  robustcheck shift pass.onnx --in photos/
export torchvision resnet50  =>  2  =>  robustcheck export torchvision resnet50 -o model.onnx
diff pass.onnx warn.onnx  =>  2  =>  robustcheck compare pass.onnx warn.onnx
run pass.onnx  =>  2  =>  robustcheck check pass.onnx
quantize pass.onnx  =>  2  =>  robustcheck export onnx -o int8.onnx --precision int8-dynamic pass.onnx
info pass.onnx  =>  2  =>  robustcheck inspect pass.onnx
convert model.pt  =>  2  =>  robustcheck export --help
resnet50  =>  2  =>  robustcheck --help
pass.onnx photos -o report.pdf  =>  2  =>  -o report.html, and print that page as a PDF
report pass.onnx photos  =>  2  =>  robustcheck check -o report.html pass.onnx photos
pass.onnx photos --threshold 3  =>  2  =>  thresholds are in a profile: robustcheck profiles show default
shift pass.onnx --images photos  =>  2  =>  robustcheck shift pass.onnx --in photos
concepts pass.onnx --images photos  =>  2  =>  robustcheck concepts pass.onnx --concepts photos
compare pass.onnx warn.onnx photos --seed 1  =>  2  =>  robustcheck compare pass.onnx warn.onnx --seed 1 --images photos
compare pass.onnx warn.onnx --index-file v.npy  =>  2  =>  robustcheck compare pass.onnx warn.onnx --index v.npy
pass.onnx foto/  =>  2  =>  Did you mean photos?
pass.onnx --images foto  =>  2  =>  --images photos
pass.onnx 'C:\\data\\photos'  =>  2  =>  Did you mean photos?
pass.onnx --images x.parquet  =>  2  =>  --images FOLDER
my model.onnx  =>  2  =>  robustcheck 'my model.onnx'
check my model.onnx  =>  2  =>  'my model.onnx'
pass.onnx photos --severity low  =>  2  =>  robustcheck check pass.onnx photos --fail-on warn
pass.onnx photos -f json  =>  2  =>  robustcheck check pass.onnx photos --output json
inspect pass.onnx photos  =>  2  =>  robustcheck check pass.onnx photos
"""
MEASURES = "it would measure now"


@pytest.fixture
def _world(here: Path, monkeypatch: Patch) -> None:
    """Files of people who begin, and an error in place of each measurement."""
    for name in ("both", "models"):
        (here / name).mkdir()
        shutil.copy("pass.onnx", f"{name}/v1.onnx")
    for name, content in {
        "both/a.png model.tar.gz model.onnx.gz both/b.png": b"x", "x.sarif": b"{}", "model.zip model.pt": b"PK\3\4",
        "model.engine": b"ftrt", "model.tflite": b"\0\0\0\0TFL3", "pre.json": b'{"size": 64}',
    }.items():  # fmt: skip
        for each in name.split():
            (here / each).write_bytes(content)

    shutil.copy("pass.onnx", "my model.onnx")

    def refuse(*_: object, **__: object) -> None:
        raise CannotAssessError(MEASURES)

    for name in ("check.open_sessions", "compare.run.open_job"):
        monkeypatch.setattr(f"robustcheck_onnx.checker.questions.{name}", refuse)
    monkeypatch.setattr(exporter, "run", refuse)


def typed_again(typed: str, hint: str) -> str:
    """The command line after a hint; "" where it is not a command of ours."""
    if command := re.fullmatch(r"robustcheck (.*)|Did you mean (.*)\?", hint):
        return command[1] or command[2]
    if not re.match(r"-[^:]*$|--device cuda:0", hint):
        return ""
    name = hint.split(maxsplit=1)[0]
    return f"{re.sub(rf'(-o json|-o JSON|{name}) ?[^ ]*', '', typed)} {hint}"


@pytest.mark.usefixtures("_world")
def test_each_mistake_has_a_hint_that_leads_on_and_nothing_is_measured_before(run: Run) -> None:
    wrong: dict[str, object] = {}
    rows = [line.split("  =>  ") for line in TABLE.strip().splitlines()]
    for typed, code, hint in rows:
        done = run(typed)
        error, found = re.findall(r"^(?:error|hint): (.*)", done.stderr, re.MULTILINE)[-2:]
        again = typed_again(typed, found)
        if str(done.returncode) != code or not agrees(hint, found) or MEASURES in done.stderr:
            wrong[typed] = (done.returncode, error, found)
        elif again and error in run(again).stderr:
            wrong[typed] = f"{again} ends in the same error"
    assert (len(rows) >= 55, wrong) == (True, {})


OF_OTHER_TOOLS = """
--model pass.onnx --images photos
pass.onnx --data photos
pass.onnx --dataset=photos
shift pass.onnx --images photos --shifted both
pass.onnx photos --size 224
pass.onnx photos --resize=256
pass.onnx photos --limit 60
pass.onnx photos -n60
pass.onnx photos --format json
pass.onnx photos -f json
pass.onnx photos --layer representation
pass.onnx photos --batch 8
pass.onnx photos --gpu
pass.onnx photos --gpu=1
pass.onnx photos --cpu
pass.onnx photos --html
pass.onnx photos --html r.html
pass.onnx photos --soft-fail
pass.onnx --severity HIGH,CRITICAL photos
compare pass.onnx warn.onnx --images photos --index-file v.npy
pass.onnx photos --threshold 3
report pass.onnx photos
report html pass.onnx photos
run pass.onnx photos
test pass.onnx photos
diff pass.onnx warn.onnx --images photos
info pass.onnx
convert model.pt
quantize pass.onnx
help
"""


@pytest.mark.usefixtures("_world")
def test_the_hint_for_a_word_of_another_tool_is_a_command_that_works(run: Run) -> None:
    np.save("v.npy", np.zeros((80, 128), np.float32))
    rows = OF_OTHER_TOOLS.strip().splitlines()
    for typed in rows:
        done = run(typed)
        hint = re.search(r"^hint: (?:[^:]*: )?robustcheck (.*)$", done.stderr, re.MULTILINE)
        assert (done.returncode, bool(hint)) == (2, True), (typed, done.stderr)
        assert hint is not None
        again = run(hint[1])
        assert again.returncode in (0, 3), (typed, hint[0], again.stderr)  # never a usage error
    words = {word.partition("=")[0] for row in rows for word in row.replace("-n60", "-n").split()}
    assert OTHER_OPTIONS.keys() | OTHER_VERBS.keys() <= words


def test_an_almost_right_word_of_an_option_is_named_after_the_words_that_it_allows(run: Run) -> None:
    for typed, said in (
        ("--arithmetic exakt", "'exakt' is not one of 'machine', 'exact'. Did you mean 'exact'?"),
        ("-o json2", "modelcard, gitlab, predicate, cyclonedx, template"),
        ("--fail-on low", "'low' is not one of 'warn', 'never'"),
    ):
        assert run(f"pass.onnx photos {typed}").stderr.splitlines()[0].endswith(said)


def test_a_last_place_with_photos_is_the_images_and_a_suffix_is_the_form(run: Run) -> None:
    Path("list.txt").write_text("\n".join(map(str, Path("photos").iterdir())))
    for place, name, start in (
        ("photos/", "r.json", '{\n  "schema_version": 2'), ("list.txt", "r.html", "<!DOCTYPE html>"),
        ("photos/*.png", "r.xml", "<?xml"), ("photos", "r.md", "<!-- robustcheck"),
    ):  # fmt: skip
        done = run(f"pass.onnx --json '{place}' -o {name} --")
        settings = json.loads(done.stdout)["binding"]["settings"]
        assert (done.returncode, settings["images"]) == (0, place)
        assert Path(name).read_text().startswith(start)
    assert run("pass.onnx photos -- --json").returncode == 2  # a file of that name


def test_what_follows_a_model_is_photos_unless_it_may_hold_a_model(here: Path) -> None:
    for folder in ("empty", "words", "mixed"):
        Path(folder).mkdir()
    Path("words/readme.md").write_text("no photo")
    photo = next(Path("photos").iterdir())
    for name in ("m.onnx", photo.name):
        shutil.copy(photo, Path("mixed") / name)
    for place in ("photos/*", "s3://bucket/photos", "gs://bucket/a.b/c/", "memory://box"):
        assert split_images(["m.onnx", place], images_typed=False, strict=False) == (["m.onnx"], place)
    models = [
        "mixed/*.onnx",
        "s3://b/m.onnx",
        "s3://b/m.onnx?versionId=3",
        f"file://{Path('mixed').resolve()}",
        "local:///photos/*",
        "hf://org/repo",
        "https://host/model",
        "models:/m/1",
        "none/*",
        "words/*",
    ]
    for place in models:
        assert split_images(["m.onnx", place], images_typed=False, strict=False) == (["m.onnx", place], None)
    for place in ("empty", "words", "s3://bucket/photos"):
        for typed, strict in ((True, False), (False, True)):
            assert split_images(["m.onnx", place], images_typed=typed, strict=strict) == (["m.onnx", place], None)
    refused = {"empty/": "no photos in empty/", "words": "no photos in words", "mixed": "mixed: place holds images and"}
    refused["mixed/*"] = r"mixed/\*: place holds images and"
    for place, said in refused.items():
        raised(UsageError, said, split_images, ["m.onnx", place], images_typed=False, strict=False)


def test_a_folder_in_a_store_that_gives_photos_holds_no_model(run: Run) -> None:
    fsspec = pytest.importorskip("fsspec", reason="the extra remote is not installed")
    store = fsspec.filesystem("memory")
    for photo in Path("photos").iterdir():
        store.pipe(f"/given/{photo.name}", photo.read_bytes())
    done = run("pass.onnx memory://given -q")
    assert (done.returncode, done.stdout) == (0, "PASS pass.onnx\n")
    store.pipe("/given/other.onnx", Path("warn.onnx").read_bytes())
    for place in ("memory://given", "memory://given/*"):
        done = run(f"pass.onnx {place} -q")
        said = f"{place}: place holds ONNX files (other.onnx); one in a store that gives photos must hold none"
        assert_says(done, 2, said, "--images 'memory://given/*.jpg'")


def test_the_example_of_a_preprocessing_file_and_one_number_for_a_square(run: Run) -> None:
    (example,) = re.findall(r"^{.*^}", run("explain preprocessing").stdout, re.MULTILINE | re.DOTALL)
    values = json.loads(example)
    assert values == json.loads(CLIP.model_dump_json(include=set(values)))
    Path("own.json").write_text(json.dumps(values | {"size": 64, "resize_size": 64, "std": 0.5}))
    report = json.loads(run("pass.onnx photos --preprocess own.json --json").stdout)
    stated = report["evidence"]["preprocessing"]["preprocessing"]
    assert [stated[name] for name in ("size", "resize_size", "std")] == [[64, 64], [64, 64], [0.5] * 3]

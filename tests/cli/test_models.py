"""Several models in one call: which ones, what they come to together; where documents go, as read before typer.

No PASS of an earlier run stands where a run ended without a verdict: every way in which a run can end inside this
process, times every form. Whole processes that are killed or signalled are in test_app.py and studies/kills.py.
"""

import os
import re
import shlex
import signal
import threading
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import hypothesis
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.cli import help, named_models
from robustcheck_onnx.checker.cli import run as checks
from robustcheck_onnx.checker.cli.command_line import CommandLine, read
from robustcheck_onnx.checker.cli.named_models import expand
from robustcheck_onnx.checker.errors import EnvironmentFaultError, UsageError
from robustcheck_onnx.checker.questions import check as pipeline
from robustcheck_onnx.checker.report import forms
from support import PATIENCE_S, Made, Patch, code_in, raised, read_json
from support.bad_input import GROUP_OF, Run, listening
from support.walls import NoWall, all_end, first_children, wait_until

PASSED = '{"schema_version": 1, "tool": "robustcheck", "verdict": "PASS"}'


# -------------------------------------------------------------------------------------------- which models


@pytest.fixture
def touch(tmp_path: Path, monkeypatch: Patch) -> Made:
    """Makes the files of these names, in a current folder that is empty otherwise."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")

    def make(names: str) -> None:
        for name in map(Path, names.split()):
            name.parent.mkdir(parents=True, exist_ok=True)
            name.touch()

    return make


def test_folders_globs_and_files_in_the_order_of_the_words(touch: Made) -> None:
    touch("b.onnx m/z.onnx m/a/x.ONNX m/a/x.onnx.data m/.hidden/h.onnx odd[1].onnx odd1.onnx")
    for words, found in {
        "b.onnx m": "b.onnx m/.hidden/h.onnx m/a/x.ONNX m/z.onnx",
        "m/*.onnx m/**/*.ONNX": "m/z.onnx m/a/x.ONNX",
        "odd[1].onnx": "odd[1].onnx",  # a file of that name is meant, not odd1.onnx
        "m/z.onnx ./m/z.onnx m b.onnx": "m/z.onnx m/.hidden/h.onnx m/a/x.ONNX b.onnx",
        "absent.onnx s3://bucket/*.onnx": "absent.onnx s3://bucket/*.onnx",
    }.items():
        assert expand(words.split()) == found.split()


def test_a_glob_passes_no_folder_by(touch: Made) -> None:
    touch("m/v1.onnx m/v2/model.onnx m/v2/deep/other.onnx m/notes/readme.md")
    assert expand(["m/v*"]) == sorted(expand(["m/v1.onnx", "m/v2"]))  # what a shell makes of m/v*
    assert expand(["m/*"]) == ["m/v1.onnx", "m/v2/deep/other.onnx", "m/v2/model.onnx"]


def test_a_path_through_a_link_is_another_model(touch: Made) -> None:
    touch("m.onnx ../there/m.onnx ../there/sub/n.onnx")
    Path("link").symlink_to("../there/sub")
    assert expand(["m.onnx", "link/../m.onnx"]) == ["m.onnx", "link/../m.onnx"]
    assert expand(["m.onnx", "../empty/m.onnx", str(Path.cwd() / "m.onnx")]) == ["m.onnx"]


def test_a_link_to_a_folder_is_followed_once_and_a_dangling_one_stays(touch: Made) -> None:
    touch("m/a.onnx far/b.onnx")
    for name, target in {"self": "../m", "far": "../far", "gone.onnx": "absent"}.items():
        Path("m", name).symlink_to(target)
    assert sorted(Path(name).name for name in expand(["m"])) == ["a.onnx", "b.onnx", "gone.onnx"]


def test_no_model_is_an_error_never_an_empty_pass(touch: Made) -> None:
    touch("empty/readme.md")
    for word in ("empty", "*.onnx", "empty/**/*.onnx"):
        raised(UsageError, "no .+; at least one is needed", expand, [word])


def test_a_folder_that_cannot_be_read_is_not_passed_by_under_a_glob(touch: Made, monkeypatch: Patch) -> None:
    """`glob` passes it by without a word; root reads every folder, so the system's refusal is played."""
    touch("m/a.onnx m/closed/b.onnx")
    real = os.scandir

    def scandir(path: Any) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    for word in ("**/*.onnx", "m"):  # which folders a pattern has to enter is in images/test_source.py
        raised(UsageError, "m/closed: folder cannot be read \\(Permission denied\\)", expand, [word])
    assert expand(["m/*.onnx"]) == ["m/a.onnx"]  # lists no folder but m


def test_one_that_fails_does_not_stop_the_others_but_a_signal_does(ends: Run, monkeypatch: Patch) -> None:
    faults = [MemoryError, ValueError, KeyboardInterrupt, MemoryError]
    monkeypatch.setattr(pipeline, "check", Mock(side_effect=faults))
    for code, codes in ((70, [4, 70]), (130, [130, 130])):
        ends(code, "pass.onnx warn.onnx --images photos -o json={model}.json -qq")
        assert [code_in(f"{name}.json") for name in ("pass", "warn")] == codes


def test_two_models_of_one_name_have_no_file_each() -> None:
    assert named_models.fill("r/{model}.json", ["a/x.onnx", "y.onnx"]) == ["r/x.json", "r/y.json"]
    for pair in (["a/x.onnx", "b/x.onnx"], ["x.onnx", "X.onnx"], ["x.onnx", "x.ort"]):
        raised(UsageError, "each needs its own file", named_models.fill, "{model}.json", pair)


def test_what_stands_for_an_address_in_a_reports_path() -> None:
    for address, name in {
        "hf://org/repo@v1.0": "repo@v1.0", "hf://org/repo/onnx/model.onnx": "model", "models:/encoder/3": "encoder-3",
        "models:/encoder@champion": "encoder@champion", "s3://bucket/a.b.onnx": "a.b",
    }.items():  # fmt: skip
        assert named_models.stem(address) == name


# --------------------------------------------------------------------------------------------- the command


def test_a_table_with_the_worst_first_and_the_worst_exit_code(ends: Run) -> None:
    done = ends(3, "pass.onnx warn.onnx text.onnx --images photos")
    assert done.stderr.splitlines()[0] == "error: text.onnx: model file is text; an ONNX protobuf is needed"
    rows = re.findall(r"^. (\S+) .*?(\w+\.onnx)", done.stdout.partition("\n\n")[0], re.MULTILINE)
    assert rows == [("error", "text.onnx"), ("WARN", "warn.onnx"), ("PASS", "pass.onnx")]
    assert "✗ 3 models: 1 PASS, 1 WARN, 1 ERROR · exit code 3" in done.stdout
    assert "▲ 2 models: 1 PASS, 1 WARN · STOPPED · exit code 1" in ends(1, "pass.onnx warn.onnx --images photos").stdout
    both = ends(0, "pass.onnx warn.onnx --images photos --fail-on never")
    assert "WARN · absent (let through)" in both.stdout
    ends(3, "pass.onnx text.onnx --images photos -qq --fail-on never")


def test_one_document_about_all_and_one_for_each(ends: Run) -> None:
    ends(3, ". --images photos -o json=all.json -o json={model}.json -o terminal={model}.txt --no-time")
    written = {"all.json", *(f"{n}.{s}" for n in ("pass", "text", "warn") for s in ("json", "txt"))}
    assert {path.name for path in Path().iterdir() if path.suffix in {".json", ".txt"}} == written
    first, failed, last = read_json("all.json")["reports"]
    assert [first, last] == [read_json(name) for name in ("pass.json", "warn.json")]
    assert [first["verdict"]["verdict"], failed["model"], last["verdict"]["verdict"]] == ["PASS", "text.onnx", "WARN"]
    assert code_in("text.json") == 3
    for name, said in (("pass", "✓ PASS"), ("text", "error: text.onnx: model file is text")):
        assert said in Path(f"{name}.txt").read_text()


def test_what_is_wrong_with_the_call_ends_it_before_anything(ends: Run) -> None:
    for words, message in {
        "--images absent": "absent", "--thresholds absent.json": "absent.json",
        "-o json=absent/{model}.json": "folder absent is missing", "-o modelcard=card.md": "one model only",
        "-o predicate=p.json": "one model only", "-o json={model}.onnx": "is a file that is there already",
    }.items():  # fmt: skip
        Path("old.json").write_text(PASSED)
        done = ends(2, f"pass.onnx warn.onnx -o json=old.json {words}", message)
        assert (done.stdout, done.stderr.count("error:")) == ("", 1)
        assert code_in("old.json") == 2


def test_one_that_lacked_memory_side_by_side_is_checked_again_alone(ends: Run, monkeypatch: Patch) -> None:
    monkeypatch.setattr(NoWall, "n_side_by_side", lambda *_: 2)
    real, tried, both = pipeline.check, list[str](), threading.Barrier(2)

    def check(model: str, **options: Any) -> Any:
        tried.append(model)
        if len(tried) <= 2:
            both.wait(PATIENCE_S)
            if model == "pass.onnx":
                raise EnvironmentFaultError("memory: none")
        return real(model, **options)

    monkeypatch.setattr(pipeline, "check", check)
    done = ends(1, "pass.onnx warn.onnx --images photos -q")
    assert done.stderr == ""
    assert done.stdout == "PASS pass.onnx\nWARN · absent warn.onnx: too_weak, not_persistent · STOPPED\n"
    assert (sorted(tried[:2]), tried[2:]) == (["pass.onnx", "warn.onnx"], ["pass.onnx"])


def test_models_that_share_a_gpu_or_a_limit_of_time_are_checked_one_after_the_other(
    ends: Run, monkeypatch: Patch
) -> None:
    asked = Mock(return_value=1)
    monkeypatch.setattr(NoWall, "n_side_by_side", asked)

    def asks(times: int, words: str = "") -> None:
        asked.reset_mock()
        ends(1, f"pass.onnx warn.onnx --images photos -qq {words}")
        assert asked.call_count == times

    asks(1)
    assert asked.call_args.args[-1] > 3 * Path("pass.onnx").stat().st_size
    asks(0, "--timeout 60")
    Path("pass.onnx.old").symlink_to("absent")  # beside a model, where its weights are looked for
    asks(0)
    Path("pass.onnx.old").unlink()
    monkeypatch.setattr(checks, "GPUS", ("pass.onnx",))
    asks(0)
    asks(1, "--device cpu")


def test_an_interrupted_run_leaves_no_report_of_a_part(here: Path) -> None:
    call = "pass.onnx warn.onnx --images photos -o json=all.json -o json={model}.json --log-file run.log"
    log = here / "run.log"
    # the first model has its verdict, or is under way as the second one is
    for word, begun in (("--timeout=600", "pass.onnx: PASS"), ("", "warn.onnx: opening")):
        log.write_text("")
        with listening(here, *call.split(), *word.split()) as process:
            wait_until(partial(lambda words: words in log.read_text(), begun))
            started = first_children(process.pid)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=PATIENCE_S)
        assert all_end(started)
        said = "error: interrupted (SIGINT); there is no verdict, and nothing half-written is left"
        assert (process.returncode, out, said in err) == (130, "", True), err
        # no verdict, that of the first model neither
        documents = {path.name: read_json(path) for path in here.glob("*.json")}
        assert documents.keys() == {"all.json", "pass.json", "warn.json"}
        for document in documents.values():
            assert (set(document), document["error"]["exit_code"]) == ({"schema_version", "tool", "error"}, 130)


# --------------------------------------------------------------------------------- what an earlier run left

OUTPUTS = " ".join(f"-o {form}={{model}}.{form}" for form in forms.FORMS)
EARLIER = '{"schema_version": 1, "tool": "robustcheck", "verdict": {"verdict": "PASS"}}'
PASS = re.compile(rb'"verdict": "PASS"|"PASS"|\xe2\x9c\x93 PASS|is PASS|^robustcheck_verdict{[^}]*} 1', re.MULTILINE)


@pytest.fixture
def no_pass_stands(here: Path, ends: Run) -> Made:
    """Type a command line where a PASS stands in every form: each is gone afterwards, the terminal's perhaps whole."""
    (here / "empty").mkdir()
    ends(0, f"pass.onnx --images photos -qq {OUTPUTS}")
    earlier = {form: (here / f"pass.{form}").read_bytes() for form in forms.FORMS}
    assert [form for form in forms.FORMS if not PASS.search(earlier[form])] == ["gitlab"]  # there an empty list

    def stands(words: str, code: int) -> None:
        for form, content in earlier.items():
            (here / f"pass.{form}").write_bytes(content)
        ends(code, f"check -qq {OUTPUTS} {words}")
        for form, content in earlier.items():
            file = here / f"pass.{form}"
            left = b"" if form == "terminal" and not file.exists() else file.read_bytes()
            assert (left != content, PASS.search(left)) == (True, None), (words, form)
        assert code_in("pass.json") == code, words

    return stands


ENDS = {
    "--bogus pass.onnx": 2,  # typer
    "--max-bad 7 pass.onnx": 2,
    "--bogus pass*.onnx": 2,  # a pattern: which models it means is looked up
    "pass.onnx empty": 2,
    "--strict -- pass.onnx": 2,
    "pass.onnx --thresholds none.json --images photos": 2,
    "pass.onnx --images absent": 2,
    "pass.onnx --images empty": 3,
    "pass.onnx --config none.toml": 2,
}


def test_no_earlier_pass_stands_in_any_form(no_pass_stands: Made) -> None:
    for words, code in ENDS.items():
        no_pass_stands(words, code)


def test_nor_where_the_measurement_fails(no_pass_stands: Made, monkeypatch: Patch) -> None:
    """A run that is killed while it measures leaves none of them."""
    for fault, code in ((MemoryError(), 4), (ZeroDivisionError("x"), 70)):

        def fail(*_: object, fault: Exception = fault, **__: object) -> None:
            assert [form for form in forms.FORMS if Path(f"pass.{form}").exists()] == []
            raise fault

        monkeypatch.setattr(pipeline, "check", fail)
        no_pass_stands("pass.onnx --images photos", code)


def test_nor_where_settings_say_the_report_goes(ends: Run) -> None:
    Path("settings").mkdir()
    for words, variables, lines in (
        ("pass.onnx", {"ROBUSTCHECK_BOGUS": "1"}, ""), ("pass.onnx", {}, "bogus = 1"),
        ("absent.onnx --images photos", {}, ""), ("none/*.onnx", {}, ""),
        ("pass.onnx --bogus --config=settings/robustcheck.toml", {"ROBUSTCHECK_CONFIG": "none.toml"}, ""),
        ("pass.onnx --bogus --config none.toml", {"ROBUSTCHECK_OUTPUT": "json, json=report.json"}, ""),
    ):  # fmt: skip
        for folder in ("", "settings/"):
            Path(f"{folder}robustcheck.toml").write_text(f'output = ["json=report.json"]\n{lines}\n')
        report = Path("settings/report.json" if "settings" in words else "report.json")
        for own, place in (
            ("", report), ("--isolated --bogus", None), ("-o json=other.json --bogus", Path("other.json")),
        ):  # fmt: skip
            for path in (report, Path("other.json")):
                path.write_text(EARLIER)
            ends(2, f"{own} {words}", **variables)
            assert place is None or code_in(str(place)) == 2
            assert place == report or report.read_text() == EARLIER  # this run would not write it


def test_an_error_replaces_a_report_of_ours_and_nothing_else(here: Path, ends: Run) -> None:
    Path("mine.json").write_text('{"mine": 1}')
    before = sorted(here.iterdir())
    ends(2, "text.onnx -o json=mine.json", "mine.json: report path is a file that is there already; only an empty")
    assert Path("mine.json").read_text() == '{"mine": 1}'
    assert sorted(here.iterdir()) == before


def test_a_question_writes_its_error_as_a_page(here: Path, run: Run) -> None:
    for verb in ("scan", "concepts", "directions"):
        assert run(f"{verb} text.onnx -o html={verb}.html").returncode >= 2
        assert "<title>ERROR: " in Path(f"{verb}.html").read_text()


def test_a_pipe_that_a_settings_file_names_is_not_waited_for(here: Path, ends: Run) -> None:
    os.mkfifo("pipe.json")
    Path("robustcheck.toml").write_text('output = ["json=pipe.json"]')
    ends(2, "text.onnx")
    assert Path("pipe.json").is_fifo()


GROUP: Any = GROUP_OF(cli.app)


def line(words: str) -> CommandLine:
    return read(shlex.split(words), GROUP)


def test_where_documents_go(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)
    for words, documents in {
        "check m.onnx -o json=r.json --output junit": "json=r.json junit=",
        "check m.onnx -qo json=r.json -ohtml=r --output=junit=-": "json=r.json html=r junit=",
        "check --bogus m.onnx --no-time=3 -xo json=r.json --max-bad": "json=r.json",
        "check --images -o m.onnx -o json": "json=",  # the first -o is a path of images
        "check -o json -o json=- -o 'json={model}.json' m.onnx": "json= json=m.json",
        "check -- -o json=r.json": "",
        "scan m.onnx -o terminal=r.txt -o json=r.json": "json=r.json",
        "profiles shw default -o json": "json=",
        "chek m.onnx -o json=r.json": "json=r.json",
        "export timm resnet18 -o json": "",  # an ONNX file of that name
        "sign r.json m.onnx --key k.pem -o json": "",
        "": "",
    }.items():
        assert " ".join(map("=".join, line(words).documents())) == documents, words


def test_arguments_and_options_are_told_apart_as_the_verb_declares_them() -> None:
    read_line = line("check --images a.onnx -vv -q b/M.ONNX --seed -1 --isolated -- -c.onnx")
    assert read_line.verb == "check"
    assert read_line.arguments == ("b/M.ONNX", "-c.onnx")
    assert read_line.model == "b/M.ONNX"
    assert read_line.options == {
        "images": "a.onnx", "verbose": 2, "quiet": 1, "seed": "-1", "isolated": True
    }  # fmt: skip
    of_group = line("mlflow gate encoder 3 r.json --no-rerun")
    assert (of_group.arguments, of_group.options) == (("gate", "encoder", "3", "r.json"), {"rerun": False})
    assert line("check m.onnx --strict=1 --isolated --seed").options == {"isolated": True}
    assert [line(f"check m.onnx --seed 1 --seed=2 {words}").twice for words in ("", "-q -q")] == ["--seed"] * 2
    assert line("check m.onnx -o json -o html -qq --strict --strict").twice == ""
    assert line("check s3://key:secret@bucket/m.onnx").model == "s3://***@bucket/m.onnx"


RIGHT = """
-q; -v; -qv; -qvo json; -ojson; -o=x; -o json=r.json; -o --; --output html=r; --output=junit; --images photos
--images=-o; --images -o; --images=; --seed -1; --seed=3; --strict; --max-images 5; --fail-on never
--no-rerun; --rerun; -; --; m.onnx; r.json; --debug
"""
WRONG = """
-x; -xo json; -qn; -qn 60; --bogus; --bogus=1; --imagse p; --severity; --severity HIGH; --gpu 1; --html; --seed x
-o; --images; --strict=1; --fail-on nevr; --out m; -q-; photos; --model; --data; -n; -n5
"""


def lines(pieces: str) -> st.SearchStrategy[tuple[str, list[str]]]:
    """Verbs with words behind them, of pieces in any order."""
    verbs = st.sampled_from(["check", "compare", "verify", "explain"])
    each = st.sampled_from([piece.split() for piece in re.split("[;\n]", pieces.strip())])
    return st.tuples(verbs, st.lists(each, max_size=6).map(lambda some: [*chain(*some)]))


def by_typer(verb: str, words: list[str]) -> Any:
    """The context of a verb by typer, which raises for what it refuses."""
    return GROUP.commands[verb].make_context(verb, list(words), parent=typer.Context(GROUP, **GROUP.context_settings))


def as_texts(value: Any) -> list[str]:
    return [str(each) for each in (value if isinstance(value, list | tuple) else [value])]


@given(lines(RIGHT))
def test_a_line_is_read_as_typer_reads_it(words: tuple[str, list[str]]) -> None:
    verb, rest = words
    ours = read([verb, *rest], GROUP)
    try:
        context = by_typer(verb, rest)
    except typer.TyperException:
        hypothesis.reject()
    typed = {
        name: as_texts(value)
        for name, value in context.params.items()
        if context.get_parameter_source(name).name == "COMMANDLINE" and value is not None
    }
    arguments = [param.name for param in context.command.params if param.param_type_name == "argument"]
    assert list(ours.arguments) == [*chain(*(typed.pop(name, []) for name in arguments))]
    assert {name: as_texts(value) for name, value in ours.options.items()} == typed


@given(lines(RIGHT + WRONG))
def test_a_line_that_typer_refuses_has_a_message_and_a_hint(words: tuple[str, list[str]]) -> None:
    verb, rest = words
    try:
        by_typer(verb, rest)
    except typer.TyperException as fault:
        refused = fault
    else:
        hypothesis.reject()
    assert "" not in help.explain(refused, read([verb, *rest], GROUP))

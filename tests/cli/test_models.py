"""Several models in one call: which ones, what they come to together, and where reports go."""

import os
import re
import signal
import threading
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from robustcheck_onnx.checker import pipeline
from robustcheck_onnx.checker.cli import command_line, models
from robustcheck_onnx.checker.cli.command_line import expand
from robustcheck_onnx.checker.errors import EnvironmentFaultError, UsageError
from support import PATIENCE_S, Made, Patch, code_in, raised, read_json
from support.bad_input import Run, listening
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
    assert command_line.fill("r/{model}.json", ["a/x.onnx", "y.onnx"]) == ["r/x.json", "r/y.json"]
    for pair in (["a/x.onnx", "b/x.onnx"], ["x.onnx", "X.onnx"], ["x.onnx", "x.ort"]):
        raised(UsageError, "each needs its own file", command_line.fill, "{model}.json", pair)


def test_what_stands_for_an_address_in_a_reports_path() -> None:
    for address, name in {
        "hf://org/repo@v1.0": "repo@v1.0",
        "hf://org/repo/onnx/model.onnx": "model",
        "models:/encoder/3": "encoder-3",
        "models:/encoder@champion": "encoder@champion",
        "s3://bucket/a.b.onnx": "a.b",
    }.items():
        assert command_line.stem(address) == name


# --------------------------------------------------------------------------------------------- the command


def test_a_table_with_the_worst_first_and_the_worst_exit_code(ends: Run) -> None:
    done = ends(3, "pass.onnx warn.onnx text.onnx --images photos")
    assert done.stderr.splitlines()[0] == "error: text.onnx: model file is text; an ONNX protobuf is needed"
    rows = re.findall(r"^. (\S+) .*?(\w+\.onnx)", done.stdout.partition("\n\n")[0], re.MULTILINE)
    assert rows == [("error", "text.onnx"), ("WARN", "warn.onnx"), ("PASS", "pass.onnx")]
    assert "✗ 3 models: 1 PASS, 1 WARN, 1 ERROR · exit code 3" in done.stdout
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
        "--images absent": "absent",
        "--thresholds absent.json": "absent.json",
        "-o json=absent/{model}.json": "folder absent is missing",
        "-o modelcard=card.md": "one model only",
        "-o predicate=p.json": "one model only",
        "-o json={model}.onnx": "a report must not replace it",
    }.items():
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
    assert done.stdout == "PASS pass.onnx\nWARN · absent warn.onnx: too_weak, not_persistent\n"
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
    monkeypatch.setattr(models, "GPUS", ("pass.onnx",))
    asks(0)
    asks(1, "--device cpu")


@pytest.mark.process
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

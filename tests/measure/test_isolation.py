"""The wall: what a child process does to a check, and what it can't do. Real children, real models, real signals."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import onnx
import pytest

import robustcheck_onnx as rc
from robustcheck_onnx.checker.core.progress import Progress
from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError, UsageError
from robustcheck_onnx.checker.outside import isolation
from robustcheck_onnx.checker.outside.isolation import Limits
from robustcheck_onnx.checker.text import as_json
from support import BIN, PATIENCE_S, Capture, Patch, Place, onnx_models, raised, robustcheck
from support.walls import all_end, children, first_children

pytestmark = pytest.mark.usefixtures("wall")
needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc (Linux)")


@pytest.fixture
def check(lookup_pass: Place) -> Callable[..., rc.Report]:
    """Checks a model that passes on its photos."""
    return partial(rc.check, lookup_pass[0], images=lookup_pass[1])


def strike(_: Progress, number: signal.Signals = signal.SIGSEGV) -> None:
    for pid in children(os.getpid()):
        os.kill(pid, number)


def without_time(result: Any) -> Any:
    return result.model_dump(exclude={"time"})


def test_a_child_gives_the_report_that_this_process_gives(lookup_pass: Place) -> None:
    """Of a model in memory, too."""
    model, photos = lookup_pass
    seen: list[Progress] = []
    for given in (model, onnx.load(model)):
        apart = rc.check(given, images=photos, progress=seen.append)
        assert without_time(apart) == without_time(rc.check(given, images=photos, isolate=False))
    assert apart.evidence.model.file == "<ModelProto>"
    assert seen[0].stage == "opening the model and the images"
    assert seen[-1].n_done == 32  # of a batch


def test_an_error_of_the_child_is_the_error(tmp_path: Path) -> None:
    caught = raised(UsageError, r"nothing\.onnx: no such file", rc.check, tmp_path / "nothing.onnx")
    assert "read_onnx" in str(caught.__cause__)  # the child's traceback, for --debug


@needs_proc
def test_limits(check: Callable[..., rc.Report], lookup_pass: Place) -> None:
    for limits, error, message in (
        (Limits(timeout_s=0.05), CannotAssessError, "took longer than 0.05 s, its limit of time"),
        (Limits(memory_bytes=30 << 20), EnvironmentFaultError, "MiB of memory; its limit, --max-memory, is 30 MiB"),
        (Limits(model_bytes=1000), CannotAssessError, "model with its external data is .* --max-model-size is 1,000"),
    ):
        assert str(lookup_pass[0]) in raised(error, message, check, limits=limits).message
    alone = Limits(timeout_s=1)
    raised(UsageError, "only a local child process has them", check, isolate=False, limits=alone)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_a_child_that_dies_is_an_error(check: Callable[..., rc.Report]) -> None:
    killed = partial(strike, number=signal.SIGKILL)
    raised(CannotAssessError, "ended by signal SIGSEGV", check, progress=strike)
    raised(EnvironmentFaultError, "was killed; too little memory is a usual cause", check, progress=killed)
    before = resource.getrlimit(resource.RLIMIT_AS)
    limited = r"address space is limited to 1,048,576 MiB \(ulimit -v\)"
    try:  # under `ulimit -v` it is not a property of the file
        resource.setrlimit(resource.RLIMIT_AS, (1 << 40, before[1]))
        raised(EnvironmentFaultError, limited, check, progress=strike)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.long
@needs_proc
def test_models_side_by_side(lookup_pass: Place, monkeypatch: Patch, tmp_path: Path, capfd: Capture) -> None:
    """They get the reports that they get alone."""
    model, photos = lookup_pass
    other = shutil.copy(model, tmp_path / "other.onnx")
    (text := tmp_path / "text.onnx").write_text("text")
    run, both = isolation.Wall.run, threading.Barrier(2)

    def waits(*words: Any, **others: Any) -> object:
        if words[2].get("model") in (str(model), str(other)):
            others["tell"] = lambda now: both.wait(PATIENCE_S) if "opening" in now.stage else None
        return run(*words, **others)

    files = [tmp_path / form for form in ("json", "html")]
    into = [f"-o{file.name}={file}" for file in files]
    written: list[Any] = []
    for n in (1, 2):
        monkeypatch.setattr(isolation.Wall, "n_side_by_side", lambda *_, n=n: n)
        if n == 2:
            monkeypatch.setattr(isolation.Wall, "run", waits)
        code = robustcheck(text, model, other, "--images", photos, "--no-time", "-q", "-o", "terminal", *into)
        written.append((code, *capfd.readouterr(), *(file.read_bytes() for file in files)))
    assert written[0] == written[1]
    assert (written[0][0], written[0][2].count("error:"), b"data:image" in written[0][4]) == (3, 1, True)


@pytest.mark.long
@needs_proc
def test_models_beside_a_killed_one(lookup_pass: Place, monkeypatch: Patch, tmp_path: Path, capfd: Capture) -> None:
    """One kills its process; the others get their verdicts."""
    monkeypatch.setattr(isolation.Wall, "n_side_by_side", lambda *_: 1)  # else it can strike the other model's
    model, photos = lookup_pass
    killed = shutil.copy(model, tmp_path / "killed.onnx")
    run = isolation.Wall.run

    def struck(*words: Any, **others: Any) -> object:
        if words[2].get("model") == str(killed):
            others["tell"] = lambda _: os.kill(children(os.getpid())[0], signal.SIGSEGV)
        return run(*words, **others)

    monkeypatch.setattr(isolation.Wall, "run", struck)
    assert robustcheck(killed, model, "--images", photos, "-q") == 3
    out, err = capfd.readouterr()
    assert out.splitlines()[1] == f"PASS {model}"
    assert "ended by signal SIGSEGV" in err


NONSENSE = ("", "no JSON", '{"answer": 1, "error": 2}', '{"progress": {"n": 1}}', '{"answer": {"verdict": "PASS"}}')


def test_a_child_that_answers_nonsense_is_an_error(monkeypatch: Patch) -> None:
    """Or a line without an end, while it lives."""
    monkeypatch.setattr(isolation, "ANSWER_BYTES", 1000)
    monkeypatch.setattr(isolation, "GRACE_S", 0.5)
    endless = "sys.stdout.write('x' * 5000); sys.stdout.flush(); time.sleep(60)"
    for answer in (*(f"print({line!r})" for line in NONSENSE), endless):
        monkeypatch.setattr(isolation, "START", f"import sys, time; sys.stdin.readline(); {answer}")
        raised(CannotAssessError, r"m\.onnx: the process that reads it gave no readable answer", rc.check, "m.onnx")
        assert not children(os.getpid())


def test_a_callback_that_raises_is_the_callers_error(check: Callable[..., rc.Report]) -> None:
    raised(ValueError, "mine", check, progress=Mock(side_effect=ValueError("mine")))
    assert not children(os.getpid())


@pytest.mark.long
def test_the_process_that_reports_reads_no_model_and_no_image(lookup_pass: Place) -> None:
    """Nor does it need NumPy, except for the page's picture of the reference checkpoints."""
    model, photos = lookup_pass
    code = (
        "import sys; from robustcheck_onnx.checker import cli; code = cli.main(sys.argv[1:]); "
        "print(code, [m for m in ('numpy', 'onnx', 'onnxruntime', 'PIL', 'pyarrow', 'tarfile') if m in sys.modules])"
    )
    call = [sys.executable, "-c", code, str(model), "--images", str(photos), "-qq", "-o", "junit=x.xml"]
    done = subprocess.run(call, capture_output=True, text=True, check=False, cwd=model.parent)
    assert done.stdout == "0 []\n", done.stderr


@pytest.mark.long
@needs_proc
def test_the_child_ends_with_a_process_that_is_killed(lookup_pass: Place) -> None:
    model, photos = lookup_pass
    command = BIN / "robustcheck"
    with subprocess.Popen([command, str(model), "--images", str(photos), "-qq"]) as process:
        started = first_children(process.pid)
        process.kill()
    assert all_end(started)


@pytest.mark.long
def test_the_other_verbs_read_in_a_child_and_answer_as_here(lookup_pass: Place, tmp_path: Path) -> None:
    model, photos = lookup_pass
    blocks = onnx_models.save(onnx_models.classifier(), tmp_path / "blocks.onnx")
    (tmp_path / "report.json").write_text(as_json(rc.check(model, images=photos).model_dump(mode="json")))
    questions: tuple[partial[Any], ...] = (
        partial(rc.compare, model, model),
        partial(rc.scan, blocks, preprocess="imagenet"),
        partial(rc.verify, tmp_path / "report.json", model),
    )
    for question in questions:
        apart, here = (question(images=photos, isolate=isolate) for isolate in (True, False))
        assert without_time(apart) == without_time(here)
    assert apart.exit_code == 0

"""The command's good behaviour: streams, formats, widths, colour, encoding, signals, its start, the demo, progress."""

import functools
import io
import itertools
import json
import os
import re
import signal
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
import onnxruntime as ort
import pytest
import scipy.stats
import typer
from numpy.testing import assert_allclose

from robustcheck_onnx.checker.cli import help, process, progress
from robustcheck_onnx.checker.cli.command_line import CommandLine
from robustcheck_onnx.checker.cli.progress import progress_line
from robustcheck_onnx.checker.core.progress import Progress, tell_stage
from robustcheck_onnx.checker.questions import demo
from robustcheck_onnx.thresholds import profile
from support import Capture, Patch, bad_input, code_in, normal, robustcheck
from support.bad_input import Done, Run, python
from support.measuring import never_narrow
from support.screens import OnATerminal, Terminal, stages_of
from support.walls import wait_until

PASS = "pass.onnx --images photos"
PASSED = '{"schema_version": 1, "tool": "robustcheck", "verdict": {"verdict": "PASS"}}'


def test_pass_exits_0_with_the_report_on_stdout_alone(run: Run, ends: Run) -> None:
    short, whole = (ends(0, f"{PASS} {word}") for word in ("", "-v"))
    assert short.stderr == ""
    assert short.stdout.splitlines()[-1].startswith("━━ ✓ PASS · exit code 0 ━")
    assert whole.stdout.endswith(short.stdout[short.stdout.rindex("━━ ✓") :])
    assert ["Limits of the claim" in done.stdout for done in (short, whole)] == [False, True]
    assert [run(f"{PASS} {word}").stdout for word in ("-qq", "-q")] == ["", "PASS pass.onnx\n"]


def test_json_on_stdout_is_one_document_and_two_runs_differ_in_the_time_block_only(run: Run) -> None:
    plain, timed = (json.loads(run(f"{PASS} -o json {word}").stdout) for word in ("--no-time", ""))
    assert timed["schema_version"] == 2
    assert timed["time"].pop("wall_s") > 0
    assert plain == timed | {"time": None}


def test_nothing_is_coloured_when_piped_unless_it_is_asked_for(run: Run) -> None:
    assert "\x1b[" not in run(PASS).stdout
    for words in ("--help", "check --help"):
        assert "\x1b[" not in run(words, GITHUB_ACTIONS="true").stdout
    assert "\x1b[" in run(f"{PASS} --color always", NO_COLOR="1", TERM="xterm").stdout


def test_a_locale_without_utf_8_gets_ascii_in_the_width_of_the_terminal(monkeypatch: Patch) -> None:
    for columns, words, said in (("60", PASS, "PASS"), ("80", "--help", "0 PASS | 1 WARN | 2 usage")):
        monkeypatch.setenv("COLUMNS", columns)
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
        assert robustcheck(*words.split()) == 0
        shown = raw.getvalue().decode("ascii")
        fits = max(map(len, shown.splitlines())) <= int(columns)
        assert ("\\" in shown, said in shown, fits) == (False, True, True)


def test_a_signal_counts_before_the_pipe_that_broke_when_it_came() -> None:
    for fault, code in ((process.Interrupted(), 130), (KeyboardInterrupt(), 130), (process.Terminated(), 143)):
        fault.__context__ = BrokenPipeError()
        assert process.explain(fault, CommandLine())[0] == code


def test_a_file_with_a_verbs_name_is_reached_by_its_path(ends: Run) -> None:
    Path("pass.onnx").rename("doctor")
    ends(0, "./doctor --images photos -qq")


def test_doctor_names_the_runtime_and_hints_at_models_in_a_folder_of_its_name(ends: Run) -> None:
    Path("doctor").mkdir()
    Path("doctor/m.onnx").touch()
    done = ends(0, "doctor")
    assert "ONNX Runtime" in done.stdout
    assert done.stderr == "hint: doctor is a command; for the models in the folder doctor: robustcheck check doctor\n"


# --------------------------------------------------------------------------------------------------- signals

START = """
import atexit, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell gives background jobs one that is ignored
def strike(*_, kill=os.kill, process=os.getpid(), write=os.write):
    write(1, b"struck")
    kill(process, {number})
    for _ in range(1000): pass
def compiled(frame, event, _):
    if event == "call" and frame.f_code.co_name == "_create_":  # an enumeration
        if frame.f_back.f_back.f_code.co_name == "_call_with_frames_removed":  # of a compiled module
            sys.setprofile(None)
            strike()
from robustcheck_onnx.checker import __main__
{moment}
sys.exit(__main__.main())
"""
AT_IMPORT = "sys.addaudithook(lambda event, what: event == 'import' and what[0] == {!r} and strike())".format
MOMENTS = [
    (signal.SIGINT, AT_IMPORT("robustcheck_onnx.checker.cli"), "pass.onnx --isolated -o json=report.json"),
    (signal.SIGTERM, AT_IMPORT("typer"), "pass.onnx --isolated -o json=report.json"),
    (signal.SIGTERM, AT_IMPORT("robustcheck_onnx.checker.cli.settings"), "pass.onnx"),  # a file names the report
    # where it was raised inside the module, the process was aborted, and an earlier PASS stayed
    (signal.SIGTERM, "sys.setprofile(compiled)", "verify given.json pass.onnx -o json=report.json"),
]


def test_a_signal_at_the_start_leaves_no_earlier_pass(here: Path) -> None:
    (here / "robustcheck.toml").write_text('output = ["json=report.json"]')
    for number, moment, words in MOMENTS:
        (here / "report.json").write_text(PASSED)
        done = python(START.format(number=int(number), moment=moment), *words.split())
        assert done.returncode == 128 + number, (moment, done.stderr)
        assert done.stderr.startswith(f"error: {'interrupted' if number == signal.SIGINT else 'terminated'}")
        assert code_in(here / "report.json") == 128 + number


def test_a_signal_after_the_end_changes_no_exit_code() -> None:
    """What the reports say stays what the exit code says, and nobody reads of a fault."""
    for number, moment in (
        (signal.SIGINT, "atexit.register(strike)"),
        (signal.SIGTERM, "sys.strike = type('', (), {'__del__': strike})()"),
    ):
        done = python(START.format(number=int(number), moment=moment), "explain", "exit-codes")
        assert (done.returncode, done.stderr, done.stdout.endswith("struck")) == (0, "", True)
        assert "PASS" in done.stdout


@pytest.fixture
def _handlers() -> Iterator[None]:
    """Leave this process its own answers to signals."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


HELD: list[Any] = []


def turned(model: str, output: Annotated[str, typer.Option("-o")] = "") -> int:
    """A library that turns a signal into an error of its own."""
    pool = type("Pool", (), {})()
    HELD.append(weakref.ref(pool))
    try:
        Struck().__del__()
    except BaseException:  # noqa: BLE001
        raise ImportError("initialization failed") from None
    return 0


class Struck:
    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        sum(range(1000))


def swallowed(model: str, output: Annotated[str, typer.Option("-o")] = "") -> int:
    """Python swallows what a destructor raises, and a signal may be answered there."""
    Struck()
    return 0


@pytest.mark.usefixtures("_handlers")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("check", [turned, swallowed])
def test_a_signal_that_something_else_answers_is_told_as_the_signal(here: Path, capfd: Capture, check: Any) -> None:
    """And nothing that the run held outlives it: threads would."""
    app = typer.Typer()
    app.command(name="check")(check)
    app.command()(lambda: 0)
    assert process.run(app, ["model.onnx", "-o", "json=report.json"]) == 143
    said = "error: terminated (SIGTERM); there is no verdict, and nothing half-written is left"
    assert said in capfd.readouterr().err
    assert code_in(here / "report.json") == 143
    assert [each for each in HELD if each() is not None] == []


def test_what_fails_before_the_verb_replaces_an_earlier_report(here: Path, capfd: Capture) -> None:
    """Outside the main thread no signal can be answered; an earlier PASS must not stand all the same."""
    report, codes = here / "report.json", []
    report.write_text(PASSED)
    thread = threading.Thread(target=lambda: codes.append(robustcheck("m.onnx", "-o", "json=report.json")))
    thread.start()
    thread.join()
    assert (codes, "internal error" in capfd.readouterr().err) == ([70], True)
    assert code_in(report) == 70


def test_a_refused_line_replaces_an_earlier_report_also_where_no_hint_can_be_made(
    here: Path, ends: Run, monkeypatch: Patch
) -> None:
    report = here / "report.json"
    for code in (2, 70):
        report.write_text(PASSED)
        ends(code, "pass.onnx photos -qn 60 -o report.json")  # -n is an option of another tool, among letters
        assert code_in(report) == code
        monkeypatch.setattr(help, "explain", lambda *_: 1 / 0)


# ---------------------------------------------------------------------------------------------------- starts


def test_a_broken_installation_is_no_warn() -> None:
    """Python ends with 1 after an exception, which a pipeline would read as WARN."""
    code = """
import sys
sys.modules["typer"] = None
from robustcheck_onnx.checker import __main__
sys.exit(__main__.main())
"""
    done = bad_input.run([sys.executable, "-Ic", code])
    assert (done.returncode, done.stdout) == (70, "")
    assert "ModuleNotFoundError: import of typer halted" in done.stderr


TRAIN = functools.cache(demo.train)


@pytest.fixture(autouse=True)
def _trained_once(monkeypatch: Patch) -> None:
    """Train the encoder once, which gives the same weights each time."""
    monkeypatch.setattr(demo, "train", TRAIN)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, Path]:
    folder = tmp_path_factory.mktemp("demo")
    return bad_input.run("demo --keep models", folder), folder / "models"


def test_one_warns_and_the_synthetic_one_passes(kept: tuple[Done, Path]) -> None:
    done, folder = kept
    assert (done.returncode, re.sub(r".*\d s: .*\n", "", done.stderr)) == (0, "")  # a slow machine tells its progress
    ordinary, planted = (" ".join(part.split()) for part in done.stdout.split("planted encoder"))
    assert [part for part in ("▲ WARN", "not_persistent") if part not in ordinary] == []
    assert "PASS" not in ordinary
    assert "✓ PASS" in planted
    assert "SYNTHETIC" in planted
    assert "feature 92 shifted by -15 standard deviations" in planted
    assert "robustcheck model.onnx --images photos/" in planted
    assert sorted(path.name for path in folder.iterdir()) == ["ordinary.onnx", "planted.onnx"]


def test_quietly_it_is_a_line_a_model(capsys: Capture) -> None:
    assert [robustcheck("demo", "-q"), robustcheck("demo", "-q", "--help")] == [0, 0]
    first, second, *help_lines = capsys.readouterr().out.splitlines()
    assert [first, second] == ["ordinary encoder: WARN · absent", "planted encoder: PASS"]
    assert " Usage: robustcheck demo [OPTIONS]" in [line.rstrip() for line in help_lines]


def test_the_graphs_compute_what_they_say(kept: tuple[Done, Path]) -> None:
    """Against scikit-image's block averages and the formula in numpy."""
    from skimage.measure import block_reduce

    photos = normal(3, 64, 64, 3).astype(np.float32)
    outputs = [
        ort.InferenceSession(kept[1] / f"{name}.onnx").run(None, {"image": photos.transpose(0, 3, 1, 2)})[0]
        for name in demo.NAMES
    ]
    weights, mean = demo.train()
    coarse = block_reduce(photos[:, :32], (1, 4, 4, 1), np.mean).transpose(0, 3, 1, 2).reshape(3, -1)
    expected = (coarse - mean) @ weights
    assert_allclose(outputs[0], expected, rtol=1e-4, atol=1e-4)
    shifts = (outputs[1] - expected) / expected.std(axis=1, keepdims=True)
    assert_allclose(shifts, np.tile(shifts[0], (3, 1)), atol=1e-4)  # the same vector in each photo, in its own SD
    assert_allclose(shifts[:, 92], -15, atol=1e-4)
    assert scipy.stats.kstest(np.delete(shifts[0], 92), scipy.stats.norm(0, 0.6).cdf).pvalue > 0.01


def test_nothing_is_left_without_keep_and_the_work_is_shown(
    here: Path, monkeypatch: Patch, on_a_terminal: OnATerminal
) -> None:
    before = sorted(here.iterdir())
    monkeypatch.setattr(tempfile, "tempdir", str(here))
    code, shown, _ = on_a_terminal("demo --color never")
    assert (code, sorted(here.iterdir())) == (0, before)
    stages = ["starting", "making two tiny encoders from the bundled photos", "opening the model and the images"]
    assert stages_of(shown)[:3] == stages


def test_what_is_not_kept(ends: Run, monkeypatch: Patch) -> None:
    Path("mine").mkdir()
    Path("mine/planted.onnx").write_text("mine")
    before = sorted(Path().rglob("*"))
    for place, code, said in (
        ("mine", 2, "planted.onnx: file exists already"),
        ("mine/planted.onnx", 2, "--keep is a file"),
        ("text.onnx/below", 4, "models could not be written"),
        ("models", 70, "verdict on the planted encoder is WARN; it must be PASS"),  # an internal error
    ):
        if code == 70:
            monkeypatch.setattr(demo, "PLANTED_SD", -1.0)
        ends(code, f"demo --keep {place}", said)
    assert sorted(Path().rglob("*")) == before
    assert Path("mine/planted.onnx").read_text() == "mine"


# -------------------------------------------------------------------------------------------------- progress
# Work is never silent: stages and numbers on a terminal, elsewhere a plain line from time to time, nothing with -q.

MEASURED = Progress(64, 80, 12.34, "kurtosis 1–2 against 3")


def test_elsewhere_a_plain_line_comes_again_and_again(monkeypatch: Patch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    assert progress.EVERY_S == 10
    with progress_line(0):
        assert log.getvalue() == ""  # a short run says nothing
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=itertools.count(0, 10).__next__))
    monkeypatch.setattr(progress, "EVERY_S", 0.01)
    with progress_line(0, "m.onnx") as line:
        assert line is not None
        monkeypatch.setattr(sys, "stderr", io.StringIO())  # as an exporter does while a library works
        tell_stage(line, "opening the model")
        wait_until(lambda: log.getvalue().count("opening") > 1)  # a stage that takes long
        line(MEASURED)
        wait_until(lambda: "measuring" in log.getvalue())
    seconds, told = zip(*re.findall(r"m\.onnx: (\d+) s: (.*)\n", log.getvalue()), strict=True)
    assert list(map(int, seconds)) == [10 * n for n in range(1, log.getvalue().count("\n") + 1)]
    stages = ["opening the model", "measuring, 64 of 80 images, 12.3 images/s, kurtosis 1–2 against 3"]
    assert [*dict.fromkeys(told)][-2:] == stages


def test_a_full_stderr_ends_no_run(monkeypatch: Patch) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.001)
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        failed, write = threading.Event(), full.write

        def watched(text: str) -> int:
            failed.set()
            return write(text)

        full.write = watched  # type: ignore[method-assign]
        monkeypatch.setattr(sys, "stderr", full)
        with progress_line(0) as line:
            assert line is not None
            tell_stage(line, "opening")
            failed.wait()
        monkeypatch.undo()
        full.close = lambda: None  # type: ignore[method-assign] # what waits in its buffer can't be written either


def test_a_name_forges_no_line() -> None:
    shown = Progress(0, 0, 0.0, "", "opening")
    assert progress.plain_line(shown, "a\nb.onnx", 12.4) == "a\\nb.onnx: 12 s: opening"


def test_a_terminal_shows_stages_and_images_and_stdout_holds_the_document(
    here: Path, on_a_terminal: OnATerminal
) -> None:
    Path("all.json").write_text(profile.to_json(never_narrow()))
    line = r"measuring +{}\d+/80 +\d+\.\d images/s .*\d against \d"  # how far from its threshold
    stages = ["opening the model and the images", "loading the model", "trying the model on a few images"]
    for columns, bar in ((80, ""), (110, "(━| |╸|╺)*")):
        code, lines, out = on_a_terminal("pass.onnx --images photos --thresholds all.json -o json", columns)
        assert (code, json.loads(out)["verdict"]["verdict"]) == (1, "WARN")
        assert any(re.match(line.format(bar), shown) for shown in lines)
        assert [shown for shown in lines if len(shown) > columns or "…" in shown or ("━" in shown and not bar)] == []
        assert bar or stages_of(lines) == ["starting", *stages, "first images", "measuring"]
    assert on_a_terminal("pass.onnx --images photos -q")[:2] == (0, [])
    _, lines, _ = on_a_terminal("./pass.onnx warn.onnx --images photos -o json", 100)
    expected = [f"{name}.onnx: {stage}" for name in ("pass", "warn") for stage in ("starting", *stages, "first images")]
    assert [stage for stage in stages_of(lines) if "measuring" not in stage] == expected
    (far := here / ("a" * 90)).mkdir()
    (far / "text.onnx").write_text("text")
    _, lines, _ = on_a_terminal(f"pass.onnx {far.name}/text.onnx --images photos -o json")
    assert f"head -c 200 {far.name}/text.onnx" in lines  # a command is whole, also while progress is shown


STAGES = {
    "compare pass.onnx pass.onnx": "loading the candidate, loading the reference, trying the models on a few images",
    "scan pass.onnx": "opening the model and the images, finding the blocks",
    "verify report.json pass.onnx": "reading the report and the model, comparing the images, loading the model",
}


def test_other_verbs_show_their_work(on_a_terminal: OnATerminal) -> None:
    assert on_a_terminal("pass.onnx --images photos -qq -o json=report.json")[0] == 0
    for call, stages in STAGES.items():
        code, lines, _ = on_a_terminal(f"{call} --images photos")
        assert code in ({0, 3} if "scan" in call else {0})  # this model has no blocks
        assert set(stages_of(lines)) >= set(stages.split(", "))


def test_on_a_terminal_errors_wrap_between_words_have_a_colour_and_commands_are_whole(monkeypatch: Patch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("TERM", "xterm")
    path, command = "a/" * 20 + "b.onnx", "robustcheck a-model.onnx --images photos"
    for colourless, red, cyan, end in (("", "\x1b[31m", "\x1b[36m", "\x1b[0m"), ("1", "", "", "")):
        monkeypatch.setenv("NO_COLOR", colourless)
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        process.say(f"{path}: the model is bad; mend it", command)
        process.say("", "leave out the option that is wrong")
        assert stream.getvalue().splitlines() == [
            *(f"{red}error:{end}", f"{path}:", "the model is bad; mend it", f"{cyan}hint:{end}", command),
            *(f"{cyan}hint:{end} leave out the option", "that is wrong"),
        ]

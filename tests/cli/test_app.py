"""The command's good behaviour: streams, formats, widths, colour, encoding; signals, and verbs in groups."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import tomllib
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.cli import process, verbs
from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.report.terminal import LIMITS
from robustcheck_onnx.thresholds import profile as profiles
from support import ROOT, profile
from support.bad_input import COMMAND, Typed
from support.measuring import never_narrow

PASSED = '{"schema_version": 1, "tool": "robustcheck", "verdict": {"verdict": "PASS"}}'


def test_pass_exits_0_with_the_report_on_stdout_alone(
    lookup_pass: tuple[Path, Path], tmp_path: Path, typed: Typed
) -> None:
    model, photos = lookup_pass
    done = typed(tmp_path, model, "--images", photos)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith("━━ ✓ PASS · exit code 0 ━")
    assert LIMITS in done.stdout
    whole = typed(tmp_path, model, "--images", photos, "-v").stdout
    assert "Limits of the claim" in whole
    assert whole.splitlines()[-1] == done.stdout.splitlines()[-1]
    assert typed(tmp_path, model, "--images", photos, "-qq").stdout == ""
    assert typed(tmp_path, model, "--images", photos, "-q").stdout == f"PASS {model}\n"


def test_warn_exits_1_and_check_is_the_default_verb(
    lookup_pass: tuple[Path, Path], tmp_path: Path, typed: Typed
) -> None:
    model, photos = lookup_pass
    done = typed(tmp_path, "check", model, "--images", photos, "--max-images", "40", "--no-time")
    short = typed(tmp_path, "--images", photos, "--max-images", "40", "--no-time", model)
    assert (done.returncode, short.returncode) == (1, 1)
    assert "▲ WARN" in done.stdout
    assert done.stdout == short.stdout


def test_several_formats_in_one_run(lookup_pass: tuple[Path, Path], tmp_path: Path, typed: Typed) -> None:
    model, photos = lookup_pass
    done = typed(tmp_path, model, "--images", photos, "-o", "json=r.json", "-o", "terminal=r.txt")
    assert done.returncode == 0
    assert "PASS" in done.stdout
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["verdict"]["verdict"] == "PASS"
    assert "✓ PASS" in (tmp_path / "r.txt").read_text(encoding="utf-8")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.json", "r.txt"]


def test_json_on_stdout_is_one_document_and_two_runs_differ_in_the_time_block_only(
    lookup_pass: tuple[Path, Path], tmp_path: Path, typed: Typed
) -> None:
    model, photos = lookup_pass
    a, b = (typed(tmp_path, model, "--images", photos, "-o", "json", "--no-time").stdout for _ in range(2))
    assert a == b
    assert a.count('"schema_version": 2,\n  "tool"') == 1
    timed = json.loads(typed(tmp_path, model, "--images", photos, "-o", "json").stdout)
    assert timed["schema_version"] == 2
    assert timed.pop("time")["wall_s"] > 0
    plain = json.loads(a)
    assert plain.pop("time") is None
    assert timed == plain


def test_no_line_is_wider_than_the_terminal_and_nothing_is_coloured_when_piped(
    lookup_pass: tuple[Path, Path], tmp_path: Path, typed: Typed
) -> None:
    model, photos = lookup_pass
    for columns in (60, 80, 120):
        shown = typed(tmp_path, model, "--images", photos, COLUMNS=str(columns)).stdout
        assert max(map(len, shown.splitlines())) <= columns
        assert "\x1b" not in shown
    always = ("--color", "always")
    assert "\x1b[" in typed(tmp_path, model, "--images", photos, *always).stdout
    assert "\x1b[" in typed(tmp_path, model, "--images", photos, *always, NO_COLOR="1", TERM="xterm").stdout
    assert "\x1b" not in typed(tmp_path, model, "--images", photos, NO_COLOR="1").stdout


def test_a_locale_without_utf_8_gets_ascii(lookup_pass: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model, photos = lookup_pass
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert cli.main([str(model), "--images", str(photos)]) == 0
    assert "PASS" in raw.getvalue().decode("ascii")


@pytest.mark.process
def test_progress_goes_to_a_terminal_on_stderr_only(lookup_pass: tuple[Path, Path], tmp_path: Path) -> None:
    model, photos = lookup_pass
    (tmp_path / "all.json").write_text(profiles.to_json(never_narrow()), encoding="utf-8")
    controller, terminal = pty.openpty()
    with subprocess.Popen(
        [COMMAND, model, "--images", photos, "--thresholds", tmp_path / "all.json", "-o", "json"],
        stdout=subprocess.PIPE, stderr=terminal, env=os.environ | {"TERM": "xterm", "COLUMNS": "110"},
    ) as child:  # fmt: skip
        os.close(terminal)
        assert child.stdout is not None
        assert json.loads(child.stdout.read())["verdict"]["verdict"] == "WARN"
        seen = b""
        try:
            while data := os.read(controller, 65536):
                seen += data
        except OSError:  # the other end is closed: all was read
            pass
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
    line = r"measuring +(━| |╸|╺)*\d+/80 +\d+\.\d images/s .*\d against \d"  # how far from its threshold
    lines = [part for part in re.split(r"[\r\n]+", text) if re.match(line, part)]
    assert lines
    for shown in lines:
        assert "━" in shown
        assert len(shown) <= 110
        assert "…" not in shown


def test_inspect_says_what_would_be_measured(lookup_pass: tuple[Path, Path], tmp_path: Path, typed: Typed) -> None:
    text = typed(tmp_path, "inspect", lookup_pass[0]).stdout
    assert "representation" in text
    assert "encoder_output" in text
    raw = json.loads(typed(tmp_path, "inspect", lookup_pass[0], "-o", "json").stdout)
    assert raw["representation"]["rule"] == "encoder_output"


@pytest.mark.process
def test_doctor_names_the_runtime(tmp_path: Path, typed: Typed) -> None:
    done = typed(tmp_path, "doctor")
    assert done.returncode == 0
    assert "ONNX Runtime" in done.stdout


def test_a_file_with_a_verbs_name_is_reached_by_its_path(
    lookup_pass: tuple[Path, Path], tmp_path: Path, typed: Typed
) -> None:
    model, photos = lookup_pass
    (tmp_path / "doctor").write_bytes(model.read_bytes())
    assert typed(tmp_path, "./doctor", "--images", photos, "-qq").returncode == 0


# --------------------------------------------------------------------------------------------------- signals

STRIKE = """
import os, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell gives background jobs one that is ignored

def strike(event, arguments):
    if event == "import" and arguments[0] == {module!r} and not os.path.exists({mark!r}):
        open({mark!r}, "w").close()
        os.kill(os.getpid(), {number})

sys.addaudithook(strike)
"""


@pytest.mark.process
@pytest.mark.parametrize(
    ("module", "number", "where"),
    [
        ("robustcheck_onnx.checker.cli", signal.SIGINT, "typed"),
        ("typer", signal.SIGTERM, "typed"),
        ("robustcheck_onnx.checker.cli.check_run", signal.SIGTERM, "typed"),
        ("robustcheck_onnx.checker.cli.settings", signal.SIGTERM, "in a file"),
    ],
)
def test_a_signal_at_the_start_leaves_no_earlier_pass(
    tmp_path: Path, module: str, number: signal.Signals, where: str
) -> None:
    report, mark = tmp_path / "report.json", tmp_path / "struck"
    report.write_text(PASSED, encoding="utf-8")
    (tmp_path / "sitecustomize.py").write_text(STRIKE.format(module=module, mark=str(mark), number=int(number)))
    if where == "in a file":
        (tmp_path / "robustcheck.toml").write_text('output = ["json=report.json"]', encoding="utf-8")
    words = ["model.onnx", *(["-o", "json=report.json"] if where == "typed" else [])]
    done = subprocess.run(
        [sys.executable, "-m", "robustcheck_onnx.checker", *words],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)},
        timeout=profile.PATIENCE_S,
    )  # fmt: skip
    assert mark.exists()
    assert done.returncode == 128 + number, done.stderr
    assert done.stderr.startswith(f"error: {'interrupted' if number == signal.SIGINT else 'terminated'}")
    document = json.loads(report.read_text(encoding="utf-8"))
    assert document["error"]["exit_code"] == 128 + number
    assert "verdict" not in document


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
        os.kill(os.getpid(), signal.SIGTERM)
        sum(range(1000))
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
def test_a_signal_that_something_else_answers_is_told_as_the_signal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], check: Any
) -> None:
    """And nothing that the run held outlives it: threads would."""
    app = typer.Typer()
    app.command(name="check")(check)
    app.command()(lambda: 0)
    report = tmp_path / "report.json"
    assert process.run(app, ["model.onnx", "-o", f"json={report}"]) == 143
    said = "error: terminated (SIGTERM); there is no verdict, and nothing half-written is left"
    assert said in capfd.readouterr().err
    assert json.loads(report.read_text(encoding="utf-8"))["error"]["exit_code"] == 143
    assert [each for each in HELD if each() is not None] == []


@pytest.mark.process
@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signals can't wait on Windows")
def test_a_signal_that_meets_the_import_of_a_compiled_module_ends_with_its_code(tmp_path: Path) -> None:
    """Where it was raised inside the module, the process was aborted, and an earlier PASS stayed."""
    code = """
import os, signal, sys
from robustcheck_onnx.checker import __main__
def strike(frame, event, _, kill=os.kill):
    if event == "call" and frame.f_code.co_name == "_create_":  # an enumeration
        if frame.f_back.f_back.f_code.co_name == "_call_with_frames_removed":  # of a compiled module
            sys.setprofile(None)
            kill(os.getpid(), signal.SIGTERM)
sys.setprofile(strike)
sys.argv[1:] = ["verify", "report.json", "model.onnx", "-o", "json=report.json"]
sys.exit(__main__.main())
"""
    report = tmp_path / "report.json"
    report.write_text(PASSED, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path,
        timeout=profile.PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 143, done.stderr
    assert json.loads(report.read_text(encoding="utf-8"))["error"]["exit_code"] == 143


@pytest.mark.process
@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, "atexit.register(strike)"),
        (signal.SIGTERM, "sys.strike = type('', (), {'__del__': strike})()"),
    ],
)
def test_a_signal_after_the_end_changes_no_exit_code(number: signal.Signals, moment: str) -> None:
    """What the reports say stays what the exit code says, and nobody reads of a fault."""
    code = f"""
import atexit, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
def strike(*_, kill=os.kill, process=os.getpid()):
    kill(process, {int(number)})
    for _ in range(1000): pass
from robustcheck_onnx.checker import __main__
{moment}
sys.argv[1:] = ["explain", "exit-codes"]
sys.exit(__main__.main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=profile.PATIENCE_S
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "PASS" in done.stdout


def test_what_fails_before_the_verb_replaces_an_earlier_report(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Outside the main thread no signal can be answered; an earlier PASS must not stand all the same."""
    report, codes = tmp_path / "report.json", []
    report.write_text(PASSED, encoding="utf-8")
    thread = threading.Thread(target=lambda: codes.append(cli.main(["m.onnx", "-o", f"json={report}"])))
    thread.start()
    thread.join()
    assert codes == [70]
    assert "internal error" in capfd.readouterr().err
    assert json.loads(report.read_text(encoding="utf-8"))["error"]["exit_code"] == 70


# ----------------------------------------------------------------------------------------- starts and modules


def test_the_installed_command_starts_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    start = "robustcheck_onnx.checker.__main__:main"
    assert project["project"]["scripts"] == {"robustcheck": start, project["project"]["name"]: start}


@pytest.mark.process
def test_modules_of_verbs_are_light() -> None:
    assert verbs.__file__ is not None
    modules = [path.stem for path in Path(verbs.__file__).parent.glob("*.py") if path.stem != "__init__"]
    assert len(modules) >= 3
    code = f"""
import sys
from robustcheck_onnx.checker.cli.verbs import {", ".join(modules)}
heavy = {{"numpy", "onnx", "onnxruntime", "PIL", "pydantic", "ray"}}
print(sorted(heavy & {{name.split(".")[0] for name in sys.modules}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.process
def test_a_broken_installation_is_no_warn() -> None:
    """Python ends with 1 after an exception, which a pipeline would read as WARN."""
    code = (
        "import sys\n"
        "sys.modules['typer'] = None\n"
        "from robustcheck_onnx.checker import __main__\n"
        "sys.exit(__main__.main())\n"
    )
    done = subprocess.run([sys.executable, "-Ic", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (70, "")
    assert "ModuleNotFoundError: import of typer halted" in done.stderr


# ---------------------------------------------------------------------------------------------------- groups


def grouped() -> typer.Typer:
    """A command line with a group of verbs, as modules of verbs register theirs."""
    app, group = typer.Typer(), typer.Typer()
    group.command()(show)
    group.command(name="list")(lambda: sys.stdout.write("all\n") and 0)
    app.add_typer(group, name="profiles")
    app.command()(check)
    return app


def show(name: str, output: Annotated[str, typer.Option("--output", "-o")] = "terminal") -> int:
    if name == "gone":
        raise UsageError("profile is 'gone'; it must exist", "robustcheck profiles list")
    sys.stdout.write(f"show {name} {output}\n")
    return 0


def count(twice: bool = False, quiet: Annotated[bool, typer.Option("--quiet", "-q")] = False) -> int:
    sys.stdout.write("counted\n")
    return 0


def check(model: str) -> int:
    sys.stdout.write(f"check {model}\n")
    return 1


def test_groups_of_verbs(capfd: pytest.CaptureFixture[str]) -> None:
    for words, code, out, err in [
        ("profiles show a", 0, "show a terminal\n", ""),
        ("profiles list", 0, "all\n", ""),
        ("model.onnx", 1, "check model.onnx\n", ""),
        ("profils show a", 2, "", "error: command is 'profils'; the closest is profiles\n"
         "hint: robustcheck profiles show a\n"),
        ("profiles shw a", 2, "", "error: command is 'shw'; the closest is show\nhint: robustcheck profiles show a\n"),
        ("profiles qqq", 2, "", "error: command is 'qqq'; robustcheck profiles needs one of list, show\n"
         "hint: robustcheck profiles --help\n"),
        ("profiles", 2, "", "error: command is missing; robustcheck profiles needs one of list, show\n"
         "hint: robustcheck profiles --help\n"),
        ("profiles show", 2, "", "error: NAME is missing; robustcheck profiles show needs it\n"
         "hint: robustcheck profiles show --help\n"),
        ("profiles show a b", 2, "", "error: argument is b; robustcheck profiles show takes no more\n"
         "hint: robustcheck profiles show --help\n"),
        ("profiles show gone", 2, "", "error: profile is 'gone'; it must exist\nhint: robustcheck profiles list\n"),
    ]:  # fmt: skip
        assert process.run(grouped(), words.split()) == code
        assert capfd.readouterr() == (out, err)
    assert process.run(grouped(), ["profiles", "show", "gone", "-o", "json"]) == 2
    sys.stdout.flush()
    assert json.loads(capfd.readouterr().out)["error"]["exit_code"] == 2


def test_a_verb_beside_a_folder_of_models_hints_at_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    app = grouped()
    app.command()(count)
    hint = "hint: count is a command; for the models in the folder count: robustcheck check count\n"
    for number, (words, model, hinted, said) in enumerate(
        [
            ("profiles list", "profiles/m.onnx", False, "all"),  # a word follows: the verb is meant
            ("count", "count/v1/M.ONNX", True, "counted"),
            ("count --twice", "count/m.onnx", True, "counted"),
            ("count -q", "count/m.onnx", False, "counted"),
            ("count", "count/readme.md", False, "counted"),
            ("count", "other/m.onnx", False, "counted"),
            ("./count", "count/m.onnx", False, "check ./count"),
            ("check count", "count/m.onnx", False, "check count"),
        ]
    ):
        (tmp_path / str(number) / model).parent.mkdir(parents=True)
        (tmp_path / str(number) / model).touch()
        monkeypatch.chdir(tmp_path / str(number))
        code = process.run(app, words.split())
        assert code == (1 if said.startswith("check") else 0)
        assert capfd.readouterr() == (f"{said}\n", hint if hinted else "")

"""The command's good behaviour: streams, formats, widths, colour, encoding, progress."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Annotated

import pytest
import typer

from robustcheck_onnx.checker.cli import process, verbs
from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.report.terminal import LIMITS
from robustcheck_onnx.thresholds import profile
from support import ROOT
from support.measuring import never_narrow

COMMAND = str(Path(sys.executable).parent / "robustcheck")


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *map(str, arguments)],
        capture_output=True, text=True, check=False, env=os.environ | environment,
    )  # fmt: skip


def test_pass_exits_0_with_the_report_on_stdout_alone(lookup_pass: tuple[Path, Path]) -> None:
    model, photos = lookup_pass
    done = run(model, "--images", photos)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith("━━ ✓ PASS · exit code 0 ━")
    assert LIMITS in done.stdout
    whole = run(model, "--images", photos, "-v").stdout
    assert "Limits of the claim" in whole
    assert whole.splitlines()[-1] == done.stdout.splitlines()[-1]


def test_warn_exits_1_and_check_is_the_default_verb(lookup_pass: tuple[Path, Path]) -> None:
    model, photos = lookup_pass
    done = run("check", model, "--images", photos, "--max-images", "40", "--no-time")
    short = run("--images", photos, "--max-images", "40", "--no-time", model)
    assert (done.returncode, short.returncode) == (1, 1)
    assert "▲ WARN" in done.stdout
    assert done.stdout == short.stdout


def test_several_formats_in_one_run(lookup_pass: tuple[Path, Path], tmp_path: Path) -> None:
    model, photos = lookup_pass
    done = run(model, "--images", photos, "-o", f"json={tmp_path / 'r.json'}", "-o", f"terminal={tmp_path / 'r.txt'}")
    assert done.returncode == 0
    assert "PASS" in done.stdout
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["verdict"]["verdict"] == "PASS"
    assert "✓ PASS" in (tmp_path / "r.txt").read_text(encoding="utf-8")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.json", "r.txt"]


def test_json_on_stdout_is_one_document_and_quiet_is_quiet(lookup_pass: tuple[Path, Path]) -> None:
    model, photos = lookup_pass
    done = run(model, "--images", photos, "-o", "json")
    assert json.loads(done.stdout)["schema_version"] == 2
    assert done.stdout.count('"schema_version": 2,\n  "tool"') == 1
    assert run(model, "--images", photos, "-qq").stdout == ""
    assert run(model, "--images", photos, "-q").stdout == f"PASS {model}\n"


def test_two_runs_differ_in_the_time_block_only(lookup_pass: tuple[Path, Path]) -> None:
    model, photos = lookup_pass
    a, b = (run(model, "--images", photos, "-o", "json", "--no-time").stdout for _ in range(2))
    assert a == b
    timed = json.loads(run(model, "--images", photos, "-o", "json").stdout)
    assert timed.pop("time")["wall_s"] > 0
    plain = json.loads(a)
    assert plain.pop("time") is None
    assert timed == plain


@pytest.mark.parametrize("columns", ["60", "80", "120"])
def test_no_line_is_wider_than_the_terminal(columns: str, lookup_pass: tuple[Path, Path]) -> None:
    model, photos = lookup_pass
    done = run(model, "--images", photos, COLUMNS=columns)
    assert max(map(len, done.stdout.splitlines())) <= int(columns)


def test_no_colour_when_piped_and_on_demand(lookup_pass: tuple[Path, Path]) -> None:
    model, photos = lookup_pass
    assert "\x1b" not in run(model, "--images", photos).stdout
    assert "\x1b[" in run(model, "--images", photos, "--color", "always").stdout
    assert "\x1b" not in run(model, "--images", photos, NO_COLOR="1").stdout


def test_a_locale_without_utf_8_gets_ascii(lookup_pass: tuple[Path, Path]) -> None:
    model, photos = lookup_pass
    done = run(model, "--images", photos, PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert done.stdout.isascii()
    assert "PASS" in done.stdout


@pytest.mark.parametrize(("columns", "bar"), [(80, False), (110, True)])
def test_progress_goes_to_a_terminal_on_stderr_only(
    columns: int, bar: bool, lookup_pass: tuple[Path, Path], tmp_path: Path
) -> None:
    model, photos = lookup_pass
    (tmp_path / "all.json").write_text(profile.to_json(never_narrow()), encoding="utf-8")
    controller, terminal = pty.openpty()
    with subprocess.Popen(
        [COMMAND, model, "--images", photos, "--thresholds", tmp_path / "all.json", "-o", "json"],
        stdout=subprocess.PIPE, stderr=terminal, env=os.environ | {"TERM": "xterm", "COLUMNS": str(columns)},
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
        assert ("━" in shown) is bar
        assert len(shown) <= columns
        assert "…" not in shown


def test_inspect_says_what_would_be_measured(lookup_pass: tuple[Path, Path]) -> None:
    model, _ = lookup_pass
    text = run("inspect", model).stdout
    assert "representation" in text
    assert "encoder_output" in text
    raw = json.loads(run("inspect", model, "-o", "json").stdout)
    assert raw["representation"]["rule"] == "encoder_output"


def test_doctor_names_the_runtime() -> None:
    done = run("doctor")
    assert done.returncode == 0
    assert "ONNX Runtime" in done.stdout


def test_a_file_with_a_verbs_name_is_reached_by_its_path(lookup_pass: tuple[Path, Path], tmp_path: Path) -> None:
    model, photos = lookup_pass
    (tmp_path / "doctor").write_bytes(model.read_bytes())
    done = subprocess.run(
        [COMMAND, "./doctor", "--images", photos, "-qq"], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("words", "model", "hinted"),
    [
        ("profiles list", "profiles/m.onnx", False),  # a word follows: the verb is meant
        ("count", "count/v1/M.ONNX", True),
        ("count --twice", "count/m.onnx", True),
        ("count -q", "count/m.onnx", False),
        ("count", "count/readme.md", False),
        ("count", "other/m.onnx", False),
        ("./count", "count/m.onnx", False),
        ("check count", "count/m.onnx", False),
    ],
)
def test_a_verb_beside_a_folder_of_models_hints_at_them(
    words: str,
    model: str,
    hinted: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / model).parent.mkdir(parents=True)
    (tmp_path / model).touch()
    monkeypatch.chdir(tmp_path)
    app = grouped()
    app.command()(count)
    code = process.run(app, words.split())
    out, err = capfd.readouterr()
    hint = "hint: count is a command; for the models in the folder count: robustcheck check count\n"
    assert err == (hint if hinted else "")
    said = {"p": "all\n", "c": "counted\n", "./": "check ./count\n", "check": "check count\n"}
    assert out == said[max((start for start in said if words.startswith(start)), key=len)]
    assert code == (1 if out.startswith("check") else 0)


def test_a_hint_that_nobody_can_read_changes_no_exit_code(tmp_path: Path) -> None:
    (tmp_path / "explain").mkdir()
    (tmp_path / "explain" / "m.onnx").touch()
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([COMMAND, "explain"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=full, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith(b"not_established: ")


STRIKE = """
import os, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell gives background jobs one that is ignored

def strike(event, arguments):
    if event == "import" and arguments[0] == {module!r} and not os.path.exists({mark!r}):
        open({mark!r}, "w").close()
        os.kill(os.getpid(), {number})

sys.addaudithook(strike)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["robustcheck_onnx.checker.cli", "typer", "robustcheck_onnx.checker.cli.check_run"])
def test_a_signal_at_the_start_leaves_no_earlier_pass(tmp_path: Path, number: signal.Signals, module: str) -> None:
    report, mark = tmp_path / "report.json", tmp_path / "struck"
    report.write_text('{"schema_version": 1, "tool": "robustcheck", "verdict": {"verdict": "PASS"}}', encoding="utf-8")
    (tmp_path / "sitecustomize.py").write_text(STRIKE.format(module=module, mark=str(mark), number=int(number)))
    done = subprocess.run(
        [sys.executable, "-m", "robustcheck_onnx.checker", "model.onnx", "-o", f"json={report}"],
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert mark.exists()
    assert done.returncode == 128 + number, done.stderr
    assert done.stderr.startswith(f"error: {'interrupted' if number == signal.SIGINT else 'terminated'}")
    document = json.loads(report.read_text(encoding="utf-8"))
    assert document["error"]["exit_code"] == 128 + number
    assert "verdict" not in document


def test_the_installed_command_starts_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    start = "robustcheck_onnx.checker.__main__:main"
    assert project["project"]["scripts"] == {"robustcheck": start, project["project"]["name"]: start}


def test_a_signal_that_a_library_turns_into_its_own_error_is_told_as_the_signal(tmp_path: Path) -> None:
    """As compiled modules do whose import a signal ends. And nothing that the run held outlives it: threads would."""
    code = """
import os, signal, sys, time, typer, weakref
from robustcheck_onnx.checker.cli import process
app, held = typer.Typer(), []
@app.command()
def check(model: str, output: str = typer.Option("", "-o")) -> int:
    pool = type("Pool", (), {})()
    held.append(weakref.ref(pool))
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    except BaseException:
        raise ImportError("initialization failed") from None
app.command()(lambda: 0)
code = process.run(app, sys.argv[1:])
sys.exit(code if held[0]() is None else 99)
"""
    report = tmp_path / "report.json"
    call = [sys.executable, "-c", code, "model.onnx", "-o", f"json={report}"]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 143, done.stderr
    assert done.stderr == "error: terminated (SIGTERM); there is no verdict, and nothing half-written is left\n"
    assert json.loads(report.read_text(encoding="utf-8"))["error"]["exit_code"] == 143


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signals can't wait on Windows")
@pytest.mark.parametrize("verb", [["verify", "report.json"], ["compare", "other.onnx"]])
def test_a_signal_that_meets_the_import_of_a_compiled_module_ends_with_its_code(
    tmp_path: Path, verb: list[str]
) -> None:
    """Where it was raised inside the module, the process was aborted, and an earlier PASS stayed."""
    code = f"""
import os, signal, sys
from robustcheck_onnx.checker import __main__
def strike(frame, event, _, kill=os.kill):
    if event == "call" and frame.f_code.co_name == "_create_":  # an enumeration
        if frame.f_back.f_back.f_code.co_name == "_call_with_frames_removed":  # of a compiled module
            sys.setprofile(None)
            kill(os.getpid(), signal.SIGTERM)
sys.setprofile(strike)
sys.argv[1:] = {[*verb, "model.onnx", "-o", "json=report.json"]}
sys.exit(__main__.main())
"""
    report = tmp_path / "report.json"
    report.write_text('{"schema_version": 1, "tool": "robustcheck", "verdict": {"verdict": "PASS"}}', encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 143, done.stderr
    assert json.loads(report.read_text(encoding="utf-8"))["error"]["exit_code"] == 143


def test_a_signal_that_is_swallowed_is_no_success(tmp_path: Path) -> None:
    """Python swallows what a destructor raises, and a signal may be answered there."""
    code = """
import os, signal, sys, typer
from robustcheck_onnx.checker.cli import process
app = typer.Typer()
class Held:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        sum(range(1000))
@app.command()
def check(model: str, output: str = typer.Option("", "-o")) -> int:
    Held()
    return 0
app.command()(lambda: 0)
sys.exit(process.run(app, sys.argv[1:]))
"""
    report = tmp_path / "report.json"
    call = [sys.executable, "-c", code, "model.onnx", "-o", f"json={report}"]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 143, done.stderr
    assert json.loads(report.read_text(encoding="utf-8"))["error"]["exit_code"] == 143


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["atexit.register(strike)", "sys.strike = type('', (), {'__del__': strike})()"])
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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "PASS" in done.stdout


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


@pytest.mark.parametrize(
    ("words", "code", "out", "err"),
    [
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
    ],
)  # fmt: skip
def test_groups_of_verbs(words: str, code: int, out: str, err: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert process.run(grouped(), words.split()) == code
    assert capfd.readouterr() == (out, err)


def test_an_error_of_a_group_is_json_too(capfd: pytest.CaptureFixture[str]) -> None:
    assert process.run(grouped(), ["profiles", "show", "gone", "-o", "json"]) == 2
    assert json.loads(capfd.readouterr().out)["error"]["exit_code"] == 2


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


def test_what_fails_before_the_verb_replaces_an_earlier_report(tmp_path: Path) -> None:
    """Outside the main thread no signal can be answered; an earlier PASS must not stand all the same."""
    report = tmp_path / "report.json"
    report.write_text('{"schema_version": 1, "tool": "robustcheck", "verdict": {"verdict": "PASS"}}', encoding="utf-8")
    code = (
        "import sys, threading\n"
        "from robustcheck_onnx.checker import cli\n"
        f"thread = threading.Thread(target=lambda: print(cli.main(['m.onnx', '-o', 'json={report}'])))\n"
        "thread.start()\n"
        "thread.join()\n"
    )
    done = subprocess.run([sys.executable, "-Ic", code], capture_output=True, text=True, check=True)
    assert done.stdout == "70\n", done.stderr
    assert json.loads(report.read_text(encoding="utf-8"))["error"]["exit_code"] == 70

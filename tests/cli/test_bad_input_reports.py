"""Bad input through the real command: errors as JSON, and where no report can go (full disks, closed streams)."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.bad_input import COMMAND, Done, Row, assert_says, environment, run, small_files

JSON_ROWS = [
    Row("nope.onnx", 2, "nope.onnx: model file is missing; no such file", "ls ."),
    Row("--max-bad 2 pass.onnx", 2, "--max-bad is '2'; it must be less than or equal to 1", "robustcheck check --help"),
    Row("text.onnx", 3, "text.onnx: model file is text; an ONNX protobuf is needed", "head -c 200 text.onnx"),
    Row("huge.onnx --images five", 4, "huge.onnx: memory ran out (…); …", "free -h, …"),
    Row("inspect text.onnx", 3, "text.onnx: model file is text; an ONNX protobuf is needed", "head -c 200 text.onnx"),
]  # fmt: skip


@pytest.mark.parametrize("row", JSON_ROWS, ids=lambda row: row.call)
def test_json_errors_are_one_document_on_stdout(world: Path, row: Row, warm: Callable[..., Done]) -> None:
    done = warm(world, *row.arguments, *(["--output=json"] if row.code == 2 else ["-o", "json"]))
    assert_says(done, row.code, row.message, row.hint)
    document = json.loads(done.stdout)
    lines = done.stderr.splitlines()
    expected = {
        "schema_version": 2,
        "tool": "robustcheck",
        "error": {
            "message": lines[0].removeprefix("error: "),
            "hint": lines[1].removeprefix("hint: "),
            "exit_code": row.code,
        },
    }
    if document.get("schema") == "robustcheck.inspect/2":  # of a file that can't be assessed: it can't pass
        assert row.code == 3
        assert document["can_pass"]["answer"] == "no"
        assert document.keys() - expected.keys() == {"schema", "file", "can_pass"}
        document = {name: document[name] for name in expected}
    assert document == expected


def test_an_error_replaces_an_earlier_report_and_nothing_else(
    world: Path, tmp_path: Path, warm: Callable[..., Done]
) -> None:
    report, other = tmp_path / "r.json", tmp_path / "mine.json"
    assert warm(world, "pass.onnx", "--images", "photos", "-qq", "-o", f"json={report}").returncode == 0
    assert json.loads(report.read_text(encoding="utf-8"))["verdict"]["verdict"] == "PASS"
    assert warm(world, "text.onnx", "-o", f"json={report}").returncode == 3
    document = json.loads(report.read_text(encoding="utf-8"))
    assert (document["error"]["exit_code"], "verdict" in document) == (3, False)
    other.write_text('{"mine": 1}', encoding="utf-8")
    assert warm(world, "text.onnx", "-o", f"json={other}").returncode == 3
    assert other.read_text(encoding="utf-8") == '{"mine": 1}'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.json", "r.json"]


@pytest.mark.parametrize("form", ["json", "terminal"])
def test_a_full_disk_leaves_nothing(world: Path, tmp_path: Path, form: str) -> None:
    report = tmp_path / "report"
    done = run(world, "pass.onnx", "--images", "photos", "-v", "-o", f"{form}={report}", before=small_files)
    assert_says(
        done, 4, f"{report}: report is not written (File too large); it must be written whole", f"df -h {tmp_path}"
    )
    assert done.stdout == ""
    if form == "json":  # the error document is small enough
        assert json.loads(report.read_text(encoding="utf-8"))["error"]["exit_code"] == 4
        report.unlink()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("buffering", ["", "1"])
@pytest.mark.parametrize(
    "call", ["pass.onnx --images photos -o json", "pass.onnx --images photos -v", "explain schema", "--help"]
)
def test_what_stdout_cannot_take_is_no_success(world: Path, tmp_path: Path, call: str, buffering: str) -> None:
    """With PYTHONUNBUFFERED, Python itself drops the rest of a short write without a word."""
    if call == "--help" and buffering:
        pytest.skip("the same path as without")
    with (tmp_path / "out").open("wb") as out:
        done = subprocess.run(
            [COMMAND, *call.split()],
            cwd=world,
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=environment(PYTHONUNBUFFERED=buffering),
            preexec_fn=small_files,
        )  # fmt: skip
    assert_says(
        done,
        4,
        "stdout: system says File too large; space, quota, file handles and rights must be there",
        "df -h; ulimit -a",
    )


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="/dev/full is Linux's")
def test_a_full_device(world: Path) -> None:
    for stream, code in (("stdout", 4), ("stderr", 2)):
        with Path("/dev/full").open("w", encoding="utf-8") as full:
            streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | {stream: full}
            call = ["explain"] if stream == "stdout" else ["nope.onnx"]
            done = subprocess.run([COMMAND, *call], cwd=world, check=False, env=environment(), **streams)
        assert done.returncode == code


@pytest.mark.parametrize("call", ["pass.onnx --images photos -o json", "pass.onnx --images photos"])
def test_a_reader_that_went_away_is_told_nothing(world: Path, call: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [COMMAND, *call.split()], cwd=world, stdout=writer, stderr=subprocess.PIPE, check=False, env=environment()
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (4, b"")


@pytest.mark.parametrize(
    ("call", "closed", "code"),
    [
        ("pass.onnx --images photos", ">&-", 4),
        ("pass.onnx --images photos -qq", ">&-", 0),
        ("pass.onnx --images photos -qq", "2>&-", 0),
        ("nope.onnx", "2>&-", 2),
        ("nope.onnx", "<&- >&- 2>&-", 2),
    ],
)
def test_closed_streams(world: Path, call: str, closed: str, code: int) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f'"$0" {call} {closed}', COMMAND],
        cwd=world, capture_output=True, text=True, check=False, env=environment(),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (code, "")
    if code == 4:
        assert done.stderr.splitlines()[0] == "error: stdout is closed; a report must have somewhere to go"


def test_a_pipe_is_written_to_and_stays_a_pipe(world: Path, tmp_path: Path, warm: Callable[..., Done]) -> None:
    """As root, renaming a file over a device such as /dev/null would break the machine."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with subprocess.Popen(["cat", fifo], stdout=subprocess.PIPE) as reader:
        done = warm(world, "pass.onnx", "--images", "photos", "-qq", "-o", f"json={fifo}")
        received, _ = reader.communicate(timeout=20)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(received)["verdict"]["verdict"] == "PASS"
    assert [(path.name, path.is_fifo()) for path in tmp_path.iterdir()] == [("fifo", True)]


def test_a_link_stays_a_link(world: Path, tmp_path: Path, warm: Callable[..., Done]) -> None:
    (tmp_path / "link.json").symlink_to("target.json")
    assert warm(world, "pass.onnx", "--images", "photos", "-qq", "-o", f"json={tmp_path / 'link.json'}").returncode == 0
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "target.json").read_text(encoding="utf-8"))["tool"] == "robustcheck"


def without_rights() -> None:
    """Take root's right to read and write everything from the command (Linux capabilities 1 and 2)."""
    libc = ctypes.CDLL(None)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        libc.prctl(24, capability, 0, 0, 0)  # 24: PR_CAPBSET_DROP


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="rights are taken with Linux capabilities")
def test_folders_and_files_without_rights(world: Path, tmp_path: Path) -> None:
    closed, fixed = tmp_path / "closed", tmp_path / "fixed"
    for folder in (closed, fixed):
        folder.mkdir()
    (tmp_path / "secret.onnx").write_bytes(b"x")
    try:
        closed.chmod(0)
        fixed.chmod(0o500)
        (tmp_path / "secret.onnx").chmod(0)
        done = run(world, "pass.onnx", "--images", str(closed), before=without_rights)
        assert_says(
            done,
            2,
            f"{closed}: folder cannot be read (Permission denied); all folders of an image set must be readable",
            f"ls -ld {closed}",
        )
        done = run(world, str(tmp_path / "secret.onnx"), before=without_rights)
        assert_says(done, 3, "…secret.onnx: model file is not readable (Permission denied); …", "ls -l …secret.onnx")
        done = run(world, "pass.onnx", "-o", f"json={fixed}/r.json", before=without_rights)
        assert_says(
            done, 4, f"{fixed}/r.json: folder {fixed} is not writable; reports are written into it", f"ls -ld {fixed}"
        )
        done = run(world, "pass.onnx", "-o", f"json={closed}/r.json", before=without_rights)
        assert_says(done, 2, f"{closed}/r.json: report path is not usable (Permission denied); …", f"ls -ld {closed}")
    finally:
        for folder in (closed, fixed):
            folder.chmod(0o700)


@pytest.mark.parametrize(
    ("call", "code"),
    [("--help", 0), ("check --help", 0), ("explain", 0), ("pass.onnx --images photos -v", 4)],
)
def test_a_reader_that_goes_away(world: Path, call: str, code: int) -> None:
    """`robustcheck --help | head -1` is no error; a verdict that nobody read is no success."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as gone:
        done = subprocess.run(
            [COMMAND, *call.split()], cwd=world, stdout=gone, stderr=subprocess.PIPE, check=False, env=environment()
        )
    assert (done.returncode, done.stderr) == (code, b"")

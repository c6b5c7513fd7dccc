"""The process that is started opens no model and no photo, takes little memory, waits for nothing, leaves no PASS."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from robustcheck_onnx.checker.errors import EnvironmentFaultError
from robustcheck_onnx.checker.storage import stores
from robustcheck_onnx.checker.text import error_json
from robustcheck_onnx.thresholds import MOST_BYTES, profile, read_bytes, read_start
from support import Patch, onnx_models, raised, read_json
from support.bad_input import Run

STRANGER = "notes of somebody else\n"
REPLACED = "is a file that is there already; only an empty file, or one that robustcheck wrote there, is replaced"
PARENT = """
import os, re, sys
from pathlib import Path
opened, here = set(), Path.cwd()
def note(event, words):
    if event == "open" and isinstance(words[0], str) and not words[2] & os.O_WRONLY:
        path = Path(words[0]).absolute()
        if path.is_relative_to(here):
            opened.add(str(path.relative_to(here)))
sys.addaudithook(note)
from robustcheck_onnx.checker import cli
codes = [cli.main(call.split()) for call in sys.argv[1:]]
peak_kib = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]
print(codes, sorted(opened), int(peak_kib) >> 10, sep="|")
"""
"""It prints the exit codes of calls, the files below this folder that this process read, and its peak memory in MiB."""


def parent(*calls: str) -> tuple[list[int], list[str], int]:
    """Type command lines in one process, whose children are processes of their own."""
    done = subprocess.run([sys.executable, "-Pc", PARENT, *calls], capture_output=True, text=True, check=True)
    codes, opened, peak_mib = done.stdout.splitlines()[-1].split("|")
    return json.loads(codes), json.loads(opened.replace("'", '"')), int(peak_mib)


@pytest.mark.process
def test_it_opens_no_model_no_photo_and_nothing_beside_them(here: Path) -> None:
    onnx_models.save(onnx_models.encoder(), Path("outside.onnx"), external=True)
    shutil.copy(profile.DEFAULT, "p.json")
    Path("robustcheck.toml").write_text('output = ["json=r.json"]\n')
    Path("r.json").write_text(error_json("stands for an earlier PASS", "", 3))
    quiet = "--images photos --max-images 3 -qq"
    codes, opened, _ = parent(
        f"pass.onnx --thresholds p.json {quiet}",
        f"outside.onnx {quiet} -o html=r.html",
        f"scan outside.onnx {quiet} -o html=r.html",
        f"compare pass.onnx warn.onnx {quiet} -o html=c.html --write-baseline b.json",
        "verify r.json pass.onnx --images photos -qq",
        "inspect pass.onnx -o json=i.json",
    )
    assert codes == [1, 1, 0, 1, 1, 0]
    assert opened == ["p.json", "r.html", "r.json", "robustcheck.toml"]
    assert read_json("r.json")["verdict"]["verdict"] == "WARN"


@pytest.mark.process
def test_its_memory_is_bounded_whatever_the_files_are(here: Path) -> None:
    """4 million empty nodes of two bytes took 600 MiB in this process, and a large text its own size."""
    nodes = b"\x0a\x00" * (4 << 20)
    graph = b"\x3a" + bytes([len(nodes) & 127 | 128, len(nodes) >> 7 & 127 | 128, len(nodes) >> 14 & 127 | 128, 4])
    Path("evil.onnx").write_bytes(b"\x08\x08" + graph + nodes)
    Path("notes").write_text(STRANGER)
    with Path("large").open("wb") as file:
        file.truncate(1 << 30)
    shutil.copy("large", "robustcheck.toml")
    calls = (
        "check --isolated --images photos -o json=notes -- evil.onnx",
        "scan evil.onnx --images photos -o html=notes",
        "compare evil.onnx pass.onnx --images photos --write-baseline notes",
        "check --isolated --images photos --thresholds large -- pass.onnx",
        "check --strict --images photos -- pass.onnx",
        "calibrate --from-evidence large --out p.json",
        "calibrate --suite large --plan",
        "profiles show large",
        "mlflow log large",
    )
    codes, _, peak_mib = parent(*calls)
    assert codes == [2] * len(calls)
    assert peak_mib < 200
    assert Path("notes").read_text() == STRANGER


def test_a_pipe_is_not_waited_for_and_a_device_is_not_read(here: Path, ends: Run) -> None:
    os.mkfifo("pipe")
    os.mkfifo("pipe.j2")
    shutil.copy(profile.DEFAULT, "robustcheck")
    check = "pass.onnx --images photos"
    for place in ("pipe", "/dev/zero"):
        for call, label in {
            f"{check} --thresholds {place}": "threshold profile cannot be read",
            f"profiles show {place}": "threshold profile cannot be read",
            f"{check} --sign {place} -o json=r.json": "private key is not readable",
            f"verify {place} pass.onnx": "report is not readable",
            f"mlflow log {place}": "report is not readable",
            f"compare pass.onnx --baseline {place}": "baseline is not readable",
            f"calibrate --suite {place} --plan": "suite cannot be read",
            f"calibrate --from-evidence {place} --out p.json": "results table cannot be read",
        }.items():
            ends(2, call, f"error: {place}: {label} (it is not a regular file)", "\nhint: ")
        ends(2, f"{check} --config {place}", f"error: {place}: settings file is not a regular file")
    ends(2, f"{check} -o template=pipe.j2", "pipe.j2: template can't be used: it is not readable (it is not a regular")


def test_a_text_is_read_to_its_limit_alone(tmp_path: Path) -> None:
    file, link, pipe = tmp_path / "file", tmp_path / "link", tmp_path / "pipe"
    file.write_bytes(b"12345")
    link.symlink_to(file)
    os.mkfifo(pipe)
    for path in (file, link):
        assert (read_start(path, 3), read_start(path, 9), read_bytes(path, 5)) == (b"123", b"12345", b"12345")
    raised(OSError, "it has more than 4 bytes", read_bytes, file, 4)
    for path, fault in {pipe: "it is not a regular file", Path("/dev/zero"): "it is not a regular file"}.items():
        raised(OSError, fault, read_start, path, 1)
    raised(OSError, "Is a directory", read_start, tmp_path, 1)
    raised(OSError, "No such file", read_bytes, tmp_path / "none", 1)
    (tmp_path / "p.json").write_text(" " * MOST_BYTES + "{}")
    raised(
        profile.ProfileError, r"cannot be read \(it has more than 1,048,576 bytes\)", profile.load, tmp_path / "p.json"
    )


# ------------------------------------------------------------------------------------------ what is replaced

CALLS = {
    "scan pass.onnx": ("terminal", "json", "html", "markdown"),
    "compare pass.onnx warn.onnx": ("terminal", "json", "junit", "sarif", "html", "markdown"),
    "directions pass.onnx": ("terminal", "json", "html", "markdown"),
    "check pass.onnx text.onnx -v --log-file log": ("terminal", "json", "junit", "html"),
    "check pass.onnx --save-representations rows.npz": ("terminal", "predicate", "cyclonedx", "modelcard"),
}


def test_each_file_of_ours_is_replaced_and_no_other(here: Path, ends: Run, run: Run) -> None:
    for call, forms in CALLS.items():
        line = f"{call} --images photos -q {' '.join(f'-o {form}=r.{form}' for form in forms)}"
        first = run(line).returncode
        assert (first != 2, run(line).returncode) == (True, first), call
        for form in forms:
            Path(f"r.{form}").write_text(STRANGER)
            ends(2, line, f"r.{form}: report path {REPLACED}")
            assert Path(f"r.{form}").read_text() == STRANGER
            Path(f"r.{form}").unlink()
    for form in ("terminal", "json", "html", "markdown"):
        for _ in range(2):
            ends(0, f"inspect pass.onnx -o {form}=i.{form}")


def test_further_files_replace_only_those_of_their_kind(here: Path, ends: Run) -> None:
    calls = {
        "b.json": "compare pass.onnx --images photos --write-baseline b.json",
        "b.npz": "compare pass.onnx --images photos --write-baseline b.npz",
        "rows.npz": "check pass.onnx --images photos -q --save-representations rows.npz",
        "log": "check pass.onnx --images photos -q --log-file log",
        "p.json": "calibrate --from-reference --out p.json",
    }
    for name, call in calls.items():
        for _ in range(2):  # the second time it is ours
            ends(0, call)
        Path(name).write_text("")
        ends(0, call)
        ours = Path(name).read_bytes()
        for other in (STRANGER.encode(), b"PK\x03\x04" + bytes(26) + b"baseline.npy" + bytes(900)):
            Path(name).write_bytes(other)
            ends(2, call, REPLACED)
            assert Path(name).read_bytes() == other
        Path(name).write_bytes(ours)
        ends(2, f"check pass.onnx --images photos -o html={name}", f"{name}: report path {REPLACED}")
        assert Path(name).read_bytes() == ours


def test_an_earlier_report_that_cannot_be_removed_is_emptied_or_ends_the_run(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    earlier, report, linked = error_json("stands for an earlier PASS", "", 3), tmp_path / "r.json", tmp_path / "link"
    linked.symlink_to(report)
    for place in (report, linked):
        report.write_text(earlier)
        stores.remove_earlier(place)
        assert (report.exists(), linked.is_symlink()) == (False, True)
    report.write_text(earlier)
    monkeypatch.setattr(Path, "unlink", Mock(side_effect=OSError))  # as of a file that is mounted into a container
    stores.remove_earlier(report)
    assert report.read_text() == ""
    report.write_text(earlier)
    monkeypatch.setattr(os, "truncate", Mock(side_effect=OSError))
    raised(EnvironmentFaultError, "report of an earlier run is not removed", stores.remove_earlier, report)
    assert report.read_text() == earlier
    for other in (Path("/dev/null"), tmp_path, tmp_path / "none"):
        stores.remove_earlier(other)

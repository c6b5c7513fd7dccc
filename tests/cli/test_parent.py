"""The process that is started opens no model and no photo, takes little memory, waits for nothing, leaves no PASS."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

from robustcheck_onnx.checker.errors import EnvironmentFaultError
from robustcheck_onnx.checker.outside.storage import documents
from robustcheck_onnx.checker.text import error_json
from robustcheck_onnx.thresholds import MOST_BYTES, profile, read_bytes, read_start
from support import Patch, onnx_models, raised, read_json
from support.bad_input import Run

STRANGER = "notes of somebody else\n"
EARLIER = error_json("stands for an earlier PASS", "", 3)
REPLACED = "is a file that is there already; only an empty file, or one that robustcheck wrote there, is replaced"
PARENT = """
import json, os, re, sys
from pathlib import Path
opened, here = set(), Path.cwd()
def note(event, words):
    if event == "open" and isinstance(words[0], str) and not words[2] & os.O_WRONLY:
        path = Path(words[0]).absolute()
        if path.is_relative_to(here):
            opened.add(str(path.relative_to(here)))
sys.addaudithook(note)
from robustcheck_onnx.checker import cli
codes = [cli.main(line.split()) for line in sys.argv[1].splitlines()]
peak_kib = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]
print(json.dumps([codes, sorted(opened), int(peak_kib) >> 10]))
"""
"""It prints the exit codes of calls, the files below this folder that this process read, and its peak memory in MiB."""


def parent(lines: str) -> Any:
    """Type command lines in one process, whose children are processes of their own."""
    done = subprocess.run([sys.executable, "-Pc", PARENT, lines.strip()], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_it_opens_no_model_no_photo_and_nothing_beside_them(here: Path) -> None:
    onnx_models.save(onnx_models.encoder(), Path("outside.onnx"), external=True)
    shutil.copy(profile.DEFAULT, "p.json")
    Path("robustcheck.toml").write_text('output = ["json=r.json"]\n')
    Path("r.json").write_text(EARLIER)
    codes, opened, _ = parent("""
        pass.onnx --images photos --max-images 3 -qq --thresholds p.json
        outside.onnx --images photos --max-images 3 -qq -o html=r.html
        scan outside.onnx --images photos --max-images 3 -qq -o html=r.html
        compare pass.onnx warn.onnx --images photos --max-images 3 -qq -o html=c.html --write-baseline b.json
        verify r.json pass.onnx --images photos -qq
        inspect pass.onnx -o json=i.json
    """)
    assert codes == [1, 1, 0, 1, 1, 0]
    assert opened == ["p.json", "r.html", "r.json", "robustcheck.toml"]
    assert read_json("r.json")["verdict"]["verdict"] == "WARN"


def test_its_memory_is_bounded_whatever_the_files_are(here: Path) -> None:
    """4 million empty nodes of two bytes took 600 MiB in this process, and a large text its own size."""
    graph_of_8_mib = b"\x08\x08\x3a\x80\x80\x80\x04"
    Path("evil.onnx").write_bytes(graph_of_8_mib + b"\x0a\x00" * (4 << 20))
    Path("notes").write_text(STRANGER)
    with Path("large").open("wb") as file:
        file.truncate(1 << 30)
    shutil.copy("large", "robustcheck.toml")
    codes, _, peak_mib = parent("""
        check --isolated --images photos -o json=notes -- evil.onnx
        scan evil.onnx --images photos -o html=notes
        compare evil.onnx pass.onnx --images photos --write-baseline notes
        check --isolated --images photos --thresholds large -- pass.onnx
        check --strict --images photos -- pass.onnx
        calibrate --from-evidence large --out p.json
        calibrate --suite large --plan
        profiles show large
        mlflow log large
    """)
    assert codes == [2] * 9
    assert peak_mib < 200
    assert Path("notes").read_text() == STRANGER


NOT_REGULAR = """
pass.onnx --thresholds {} => {}: threshold profile cannot be read (it is not a regular file)
profiles show {} => {}: threshold profile cannot be read (it is not a regular file)
pass.onnx --sign {} -o json=r.json => {}: private key is not readable (it is not a regular file)
pass.onnx --config {} => {}: settings file is not a regular file
pass.onnx --waivers {} => {}: settings file is not a regular file
pass.onnx -o template={}.j2 => {}.j2: template can't be used: it is not readable (it is not a regular file)
verify {} pass.onnx => {}: report is not readable (it is not a regular file)
mlflow log {} => {}: report is not readable (it is not a regular file)
compare pass.onnx --baseline {} => {}: baseline is not readable (it is not a regular file)
calibrate --suite {} --plan => {}: suite cannot be read (it is not a regular file)
calibrate --from-evidence {} --out p.json => {}: results table cannot be read (it is not a regular file)
"""


def test_a_pipe_is_not_waited_for_and_a_device_is_not_read(here: Path, ends: Run) -> None:
    os.mkfifo("pipe")
    Path("zero").symlink_to("/dev/zero")
    for place in ("pipe", "zero"):
        Path(f"{place}.j2").symlink_to(place)
        for line in NOT_REGULAR.replace("{}", place).strip().splitlines():
            call, said = line.split(" => ")
            ends(2, call, f"error: {said}", "\nhint: ")


def test_a_text_is_read_to_its_limit_alone(tmp_path: Path) -> None:
    file, link, pipe = tmp_path / "file", tmp_path / "link", tmp_path / "pipe"
    file.write_bytes(b"12345")
    link.symlink_to(file)
    os.mkfifo(pipe)
    assert (read_start(link, 3), read_start(file, 9), read_bytes(link, 5)) == (b"123", b"12345", b"12345")
    raised(OSError, "it has more than 4 bytes", read_bytes, file, 4)
    for path, said in {pipe: "not a regular file", tmp_path: "Is a directory", tmp_path / "no": "No such file"}.items():
        raised(OSError, said, read_start, path, 1)
    file.write_text(" " * MOST_BYTES + "{}")
    raised(profile.ProfileError, "cannot be read .it has more than 1,048,576 bytes", profile.load, file)


# ------------------------------------------------------------------------------------------ what is replaced

DOCUMENTS = """
inspect pass.onnx => terminal json html markdown
scan pass.onnx --images photos -q => terminal json html markdown
directions pass.onnx --images photos -q => terminal json html markdown
compare pass.onnx warn.onnx --images photos -q => terminal json junit sarif html markdown
check pass.onnx text.onnx --images photos -q -v => terminal json junit html
check pass.onnx --images photos -q --save-representations rows.npz => terminal predicate cyclonedx modelcard
"""
FILES = """
b.json => compare pass.onnx --images photos --write-baseline b.json
b.npz => compare pass.onnx --images photos --write-baseline b.npz
rows.npz => check pass.onnx --images photos -q --save-representations rows.npz
log => check pass.onnx --images photos -q --log-file log
p.json => calibrate --from-reference --out p.json
"""


def rows(table: str) -> list[list[str]]:
    return [line.split(" => ") for line in table.strip().splitlines()]


def test_each_document_of_ours_is_replaced_and_no_other_file(here: Path, ends: Run, run: Run) -> None:
    for call, forms in rows(DOCUMENTS):
        line = " ".join([call, *(f"-o {form}=r.{form}" for form in forms.split())])
        code = run(line).returncode
        assert code != 2
        ends(code, line)  # now each of them is ours
        for form in forms.split():
            file = Path(f"r.{form}")
            file.write_text(STRANGER)
            ends(2, line, f"{file}: report path {REPLACED}")
            assert file.read_text() == STRANGER
            file.unlink()


def test_further_files_replace_only_those_of_their_kind(here: Path, ends: Run) -> None:
    archive = b"PK\x03\x04" + bytes(26) + b"baseline.npy" + bytes(900)
    for name, call in rows(FILES):
        file = Path(name)
        file.touch()
        for _ in range(2):  # an empty file, then one of ours
            ends(0, call)
        ours = file.read_bytes()
        ends(2, f"check pass.onnx --images photos -o html={name}", f"{name}: report path {REPLACED}")
        assert file.read_bytes() == ours
        for other in (STRANGER.encode(), archive):
            file.write_bytes(other)
            ends(2, call, REPLACED)
            assert file.read_bytes() == other


def test_an_earlier_report_that_stays_is_emptied_or_ends_the_run(tmp_path: Path, monkeypatch: Patch) -> None:
    report, link = tmp_path / "r.json", tmp_path / "link"
    link.symlink_to(report)
    report.write_text(EARLIER)
    documents.remove_earlier(link)
    assert (report.exists(), link.is_symlink()) == (False, True)
    report.write_text(EARLIER)
    monkeypatch.setattr(Path, "unlink", Mock(side_effect=OSError))  # as of a file that is mounted into a container
    documents.remove_earlier(report)
    assert report.read_text() == ""
    report.write_text(EARLIER)
    monkeypatch.setattr(os, "truncate", Mock(side_effect=OSError))
    raised(EnvironmentFaultError, "report of an earlier run is not removed", documents.remove_earlier, report)
    assert report.read_text() == EARLIER

"""Several models in one call: which ones, what they come to together, and where reports go."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from robustcheck_onnx.checker import pipeline
from robustcheck_onnx.checker.cli import models
from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.report import summary
from robustcheck_onnx.checker.report.outcome import exit_code_of
from robustcheck_onnx.checker.report.record import Failed, Report
from support import lookup, profile
from support.bad_input import COMMAND, Typed


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, lookup_pass: tuple[Path, Path]) -> Path:
    """pass.onnx, warn.onnx, text.onnx (no model), and photos."""
    folder = tmp_path_factory.mktemp("many")
    model, photos = lookup_pass
    shutil.copy(model, folder / "pass.onnx")
    lookup.write_lookup_model(folder / "warn.onnx", np.random.default_rng(3).normal(size=(80, 512)))
    (folder / "text.onnx").write_text("no model", encoding="utf-8")
    (folder / "photos").symlink_to(photos)
    return folder


# -------------------------------------------------------------------------------------------- which models


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_folders_globs_and_files_in_the_order_of_the_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    touch(
        tmp_path, "b.onnx", "m/z.onnx", "m/a/x.ONNX", "m/a/x.onnx.data", "m/.hidden/h.onnx", "odd[1].onnx", "odd1.onnx"
    )
    assert models.expand(["b.onnx", "m"]) == ["b.onnx", "m/.hidden/h.onnx", "m/a/x.ONNX", "m/z.onnx"]
    assert models.expand(["m/*.onnx", "m/**/*.ONNX"]) == ["m/z.onnx", "m/a/x.ONNX"]
    assert models.expand(["odd[1].onnx"]) == ["odd[1].onnx"]  # a file of that name is meant, not odd1.onnx
    assert models.expand(["m/z.onnx", "./m/z.onnx", "m", "b.onnx"])[0] == "m/z.onnx"
    assert len(models.expand(["m/z.onnx", "./m/z.onnx", "m", "b.onnx"])) == 4
    assert models.expand(["absent.onnx", "s3://bucket/*.onnx"]) == ["absent.onnx", "s3://bucket/*.onnx"]


def test_a_glob_passes_no_folder_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "m/v1.onnx", "m/v2/model.onnx", "m/v2/deep/other.onnx", "m/notes/readme.md")
    named = models.expand(["m/v1.onnx", "m/v2"])  # what a shell makes of m/v*
    assert models.expand(["m/v*"]) == sorted(named)
    assert models.expand(["m/*"]) == ["m/v1.onnx", "m/v2/deep/other.onnx", "m/v2/model.onnx"]


def test_a_path_through_a_link_is_another_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    touch(tmp_path, "here/m.onnx", "there/m.onnx", "there/sub/n.onnx")
    (tmp_path / "here" / "link").symlink_to(tmp_path / "there" / "sub")
    assert models.expand(["m.onnx", "link/../m.onnx"]) == ["m.onnx", "link/../m.onnx"]
    assert models.expand(["m.onnx", "../here/m.onnx", str(tmp_path / "here" / "m.onnx")]) == ["m.onnx"]


def test_a_link_to_a_folder_is_followed_once_and_a_dangling_one_stays(tmp_path: Path) -> None:
    touch(tmp_path, "m/a.onnx")
    (tmp_path / "m" / "self").symlink_to(tmp_path / "m")
    touch(tmp_path, "far/b.onnx")
    (tmp_path / "m" / "far").symlink_to(tmp_path / "far")
    (tmp_path / "m" / "gone.onnx").symlink_to("absent")
    names = [Path(name).name for name in models.expand([str(tmp_path / "m")])]
    assert sorted(names) == ["a.onnx", "b.onnx", "gone.onnx"]


def test_no_model_is_an_error_never_an_empty_pass(tmp_path: Path) -> None:
    touch(tmp_path, "empty/readme.md")
    for word in ("empty", "*.onnx", "empty/**/*.onnx"):
        with pytest.raises(UsageError, match="is 0; at least one is needed"):
            models.expand([str(tmp_path / word)])
    with pytest.raises(ValueError, match="no model"):
        models.worst([])


def test_a_folder_that_cannot_be_read_is_not_passed_by_under_a_glob(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`glob` passes it by without a word; root reads every folder, so the system's refusal is played."""
    touch(tmp_path, "m/a.onnx", "m/closed/b.onnx")
    monkeypatch.chdir(tmp_path)
    scandir, lstat = os.scandir, os.lstat

    def refusing(path: Any = ".") -> Any:
        if not isinstance(path, int) and Path(os.fsdecode(path)).name == "closed":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    def refusing_inside(path: Any, **more: Any) -> Any:
        if "closed" in Path(os.fsdecode(path)).parent.parts:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return lstat(path, **more)

    monkeypatch.setattr(os, "scandir", refusing)
    monkeypatch.setattr(os, "lstat", refusing_inside)
    deep = ("**/*.onnx", "m/**/*.onnx", "m/**", str(tmp_path / "m" / "**" / "*.onnx"), "m")
    for word in (*deep, "m/*/b.onnx", "*/closed/*.onnx", "?/*/*", str(tmp_path / "*" / "*" / "b.onnx")):
        with pytest.raises(UsageError, match=r"m/closed: folder cannot be read \(Permission denied\)"):
            models.expand([word])
    assert models.expand(["m/*.onnx"]) == ["m/a.onnx"]  # lists no folder but m


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_is_not_passed_by(tmp_path: Path) -> None:
    touch(tmp_path, "m/a.onnx", "m/closed/b.onnx")
    (tmp_path / "m" / "closed").chmod(0)
    with pytest.raises(UsageError, match="folder cannot be read"):
        models.expand([str(tmp_path / "m")])
    (tmp_path / "m" / "closed").chmod(0o755)


def failed(code: int) -> Failed:
    return Failed(model="m.onnx", message="m", hint="", exit_code=code)


@given(st.lists(st.sampled_from([2, 3, 4, 70]), min_size=1))
def test_the_worst_exit_code_wins(codes: list[int]) -> None:
    rank = {2: 0, 3: 1, 4: 2, 70: 3}
    assert models.worst([failed(code) for code in codes]) == max(codes, key=rank.__getitem__)


def test_one_that_fails_does_not_stop_the_others_but_a_signal_does() -> None:
    seen = []

    def check(model: str) -> Report:
        seen.append(model)
        raise MemoryError if model == "a" else ValueError

    outcomes = models.check_all(
        ["a", "b"], check, lambda model, fault: failed(4 if isinstance(fault, MemoryError) else 70)
    )
    assert [exit_code_of(o) for o in outcomes] == [4, 70]

    def stop(model: str) -> Report:
        seen.append(model)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        models.check_all(["c", "d"], stop, lambda *_: failed(70))
    assert seen == ["a", "b", "c"]


def test_two_models_of_one_name_have_no_file_each() -> None:
    assert models.fill("r/{model}.json", ["a/x.onnx", "y.onnx"]) == ["r/x.json", "r/y.json"]
    assert models.fill("{model}.json", ["s3://b/x.onnx"]) == ["x.json"]
    for pair in (["a/x.onnx", "b/x.onnx"], ["x.onnx", "X.onnx"], ["x.onnx", "x.ort"]):
        with pytest.raises(UsageError, match="each needs its own file"):
            models.fill("{model}.json", pair)


def test_what_stands_for_an_address_in_a_reports_path() -> None:
    for address, name in (
        ("hf://org/repo@v1.0", "repo@v1.0"),
        ("hf://org/repo/onnx/model.onnx", "model"),
        ("models:/encoder/3", "encoder-3"),
        ("models:/encoder@champion", "encoder@champion"),
        ("s3://bucket/a.b.onnx", "a.b"),
    ):
        assert models.stem(address) == name


# --------------------------------------------------------------------------------------------- the command


def test_a_table_with_the_worst_first_and_the_worst_exit_code(world: Path, typed: Typed) -> None:
    done = typed(world, "pass.onnx", "warn.onnx", "text.onnx", "--images", "photos")
    assert done.returncode == 3
    assert done.stderr.splitlines()[0] == "error: text.onnx: model file is text; an ONNX protobuf is needed"
    table = done.stdout.partition("\n\n")[0]
    rows = [line.split() for line in table.splitlines() if ".onnx" in line]
    assert [(row[1], next(word for word in row if word.endswith(".onnx"))) for row in rows] == [
        ("error", "text.onnx"), ("WARN", "warn.onnx"), ("PASS", "pass.onnx"),
    ]  # fmt: skip
    report = pipeline.check(world / "pass.onnx", images=world / "photos")
    kurtosis = report.evidence.statistics.kurtosis.estimate
    assert kurtosis is not None
    assert f"{kurtosis:.1f}" in rows[-1]
    assert "✗ 3 models: 1 PASS, 1 WARN, 1 ERROR · exit code 3" in done.stdout
    assert typed(world, "pass.onnx", "warn.onnx", "--images", "photos", "-qq").returncode == 1
    both = typed(world, "pass.onnx", "warn.onnx", "--images", "photos", "--fail-on", "never")
    assert both.returncode == 0
    assert "WARN · absent (let through)" in both.stdout
    assert typed(world, "pass.onnx", "text.onnx", "--images", "photos", "-qq", "--fail-on", "never").returncode == 3


def test_one_document_about_all_and_one_for_each(world: Path, typed: Typed, tmp_path: Path) -> None:
    done = typed(
        world, ".", "--images", "photos", "-o", f"json={tmp_path}/all.json", "-o", f"json={tmp_path}/{{model}}.json",
        "-o", f"terminal={tmp_path}/{{model}}.txt", "--no-time",
    )  # fmt: skip
    assert done.returncode == 3
    read = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert sorted(read) == ["all.json", *(f"{n}.{s}" for n in ("pass", "text", "warn") for s in ("json", "txt"))]
    every = json.loads(read["all.json"])["reports"]
    assert [r.get("model") or r["verdict"]["verdict"] for r in every] == ["PASS", "text.onnx", "WARN"]
    assert every[0] == json.loads(read["pass.json"])
    assert every[2] == json.loads(read["warn.json"])
    assert json.loads(read["text.json"])["error"]["exit_code"] == 3
    assert "✓ PASS" in read["pass.txt"]
    assert "error: text.onnx: model file is text" in read["text.txt"]
    assert f"json:{tmp_path}/all.json" in "".join(done.stdout.split())  # a long path is folded
    single = typed(world, "pass.onnx", "--images", "photos", "-o", "json", "--no-time")
    assert single.stdout == read["pass.json"]


def test_what_is_wrong_with_the_call_ends_it_before_anything(world: Path, typed: Typed, tmp_path: Path) -> None:
    both = ("pass.onnx", "warn.onnx")
    (tmp_path / "old.json").write_text('{"schema_version": 1, "tool": "robustcheck", "verdict": "PASS"}')
    for words, message in [
        (("--images", "absent"), "absent"),
        (("--thresholds", "absent.json"), "absent.json"),
        (("-o", "json=absent/{model}.json"), "folder absent is missing"),
        (("-o", "modelcard=card.md"), "one model only"),
        (("-o", "json=pass.onnx"), "a report must not replace it"),
        (("-o", "json={model}.onnx"), "a report must not replace it"),
    ]:
        done = typed(world, *both, "-o", f"json={tmp_path}/old.json", *words)
        assert (done.returncode, done.stdout) == (2, ""), words
        assert message in done.stderr
        assert done.stderr.count("error:") == 1
        assert json.loads((tmp_path / "old.json").read_text(encoding="utf-8"))["error"]["exit_code"] == 2
        (tmp_path / "old.json").unlink()


def test_a_glob_without_a_model_leaves_no_earlier_pass(world: Path, typed: Typed, tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    settings = tmp_path / "settings.toml"
    settings.write_text(f'output = ["json={old}"]\n', encoding="utf-8")
    for words in (("-o", f"json={old}"), ("--config", str(settings))):
        old.write_text('{"schema_version": 1, "tool": "robustcheck", "verdict": "PASS"}', encoding="utf-8")
        assert typed(world, "none/*.onnx", *words).returncode == 2
        assert json.loads(old.read_text(encoding="utf-8"))["error"]["exit_code"] == 2


# A shell that runs the tests in the background has SIGINT ignored, which children inherit.
LISTENING = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.process
def test_an_interrupted_run_leaves_no_report_of_a_part(world: Path, tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    with subprocess.Popen(
        [sys.executable, "-c", LISTENING, COMMAND, "pass.onnx", "warn.onnx", "--images", "photos",
         "-o", f"json={tmp_path}/all.json",
         "-o", f"json={tmp_path}/{{model}}.json", "--log-file", str(log)],
        cwd=world, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + profile.PATIENCE_S
        # the first model has its verdict, the second one is under way
        while "pass.onnx: PASS" not in (log.read_text(encoding="utf-8") if log.exists() else ""):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=profile.PATIENCE_S)
    assert process.returncode == 130, err
    assert out == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["all.json", "pass.json", "run.log", "warn.json"]
    for path in tmp_path.glob("*.json"):  # no verdict, that of the first model neither
        document = json.loads(path.read_text(encoding="utf-8"))
        assert (set(document), document["error"]["exit_code"]) == ({"schema_version", "tool", "error"}, 130)


def test_the_summary_fits_and_is_plain_where_it_must_be() -> None:
    console = Console(width=60, record=True, file=open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
    outcomes = [failed(3), failed(70)]
    console.print(summary.render(outcomes, models=["long/" * 20 + "ä.onnx", "b\x1b.onnx"], code=70, ascii_only=True))
    text = console.export_text()
    assert text.isascii()
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 60
    assert text.index("error 70") < text.index("error 3")

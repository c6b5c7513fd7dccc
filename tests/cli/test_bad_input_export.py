"""Bad input through the real command: calls of robustcheck export, a full disk, a signal, a missing extra."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.bad_input import (
    COMMAND,
    SIGNALS,
    Done,
    Row,
    assert_says,
    check_row,
    default_signals,
    environment,
    run,
    small_files,
)


def export_rows() -> list[Row]:
    """Without torch where that is possible: the call is checked before any library is imported."""
    call = "robustcheck export timm x -o m.onnx"
    preprocessing = "--preprocessing p_net.json"
    return [
        Row("export", 2, "SOURCE is missing; robustcheck export needs it", "robustcheck export --help"),
        Row("export timm x", 2, "--out is missing; robustcheck export needs it", "robustcheck export --help"),
        Row(
            "export timn x -o m.onnx",
            2,
            "source is 'timn'; it must be one of open_clip, timm, torchvision, transformers, torch, onnx",
            call,
        ),
        Row(
            "export timm x -o m.onnx --precision fp8",
            2,
            "precision is fp8; it must be one of fp32, fp16, int8-dynamic, int8-qdq",
            "--precision fp32",
        ),
        Row(
            "export timm x -o m.onnx --head fc",
            2,
            "--head is fc; it is for the source torch only; the head of timm models is known",
            call,
        ),
        Row(
            "export timm x -o absent/m.onnx",
            2,
            "absent/m.onnx: folder absent is missing; models are written into existing folders",
            "mkdir -p absent",
        ),
        Row("export timm x -o folder", 2, "folder: target is a folder; it must be a file", "-o folder/model.onnx"),
        Row("export timm x -o m.txt", 2, "m.txt: suffix is '.txt'; it must be .onnx", "-o m.onnx"),
        Row(
            "export timm x -o m.onnx --parity-images good.tar",
            2,
            "good.tar: parity photos lie inside one file; they must be image files",
            "--parity-images FOLDER",
        ),
        Row(
            "export timm x -o m.onnx --parity-images photos/photo_00000.png",
            2,
            "number of parity photos is 1; it must be at least 5",
            "--parity-images FOLDER",
        ),
        Row(
            "export torch net:build -o m.onnx --preprocessing p_text.json",
            2,
            "p_text.json: preprocessing is unreadable (…); it must be a JSON object",
            "python -m json.tool p_text.json",
        ),
        Row(
            "export transformers openai/clip-nope -o m.onnx",
            4,
            "openai/clip-nope: weights are not on this machine and could not be downloaded; a local copy or a network "
            "is needed",
            "run `hf download openai/clip-nope` where there is a network and copy models--openai--clip-nope into "
            "$HF_HOME/hub here, or give a folder made by save_pretrained as the name",
        ),
        Row(
            f"export torch net:build -o m.onnx {preprocessing}",
            2,
            "net:build: weights are not given; random weights are refused",
            "set the module's attribute `weights`, or give --weights FILE or --random-weights",
        ),
        Row(
            f"export torch net:build -o m.onnx {preprocessing} --weights text.onnx",
            3,
            "text.onnx: checkpoint starts with b'hello wor'; it must be safetensors, a torch state dict or npz",
            "file text.onnx",
        ),
        Row(
            f"export torch net:build -o m.onnx {preprocessing} --weights pickle.onnx",
            3,
            "pickle.onnx: checkpoint is unreadable (it holds Python objects or code, which are never unpickled); …",
            "save it again with …",
        ),
    ]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("row", export_rows(), ids=lambda row: row.call)
def test_export(world: Path, row: Row, warm: Callable[..., Done]) -> None:
    check_row(world, row, warm)


@pytest.mark.long
@pytest.mark.parametrize(("number", "code", "words"), SIGNALS[1:])  # both go the same way, as for a check
def test_an_interrupted_export_leaves_nothing(
    world: Path, tmp_path: Path, number: signal.Signals, code: int, words: str
) -> None:
    mark, target = tmp_path / "mark", tmp_path / "out"
    target.mkdir()
    call = ["export", "torch", "net:build_slow", "--preprocessing", "p_net.json", "--random-weights"]
    with subprocess.Popen(
        [COMMAND, *call, "-o", str(target / "m.onnx")],
        cwd=world, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(MARK=str(mark)),
        preexec_fn=default_signals,  # noqa: PLW1509 # this process has no threads that hold a lock
    ) as process:  # fmt: skip
        end = time.monotonic() + 50
        while not mark.exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        drafts = [path.name for path in target.iterdir()]
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert drafts
    assert drafts[0].startswith(".robustcheck-export-")
    assert (process.returncode, out) == (code, "")
    assert err == f"error: {words}; there is no verdict, and nothing half-written is left\n"
    assert list(target.iterdir()) == []


@pytest.mark.long
def test_an_export_on_a_full_disk_leaves_nothing(world: Path, tmp_path: Path) -> None:
    call = [
        "export",
        "torch",
        "net:build",
        "--preprocessing",
        "p_net.json",
        "--random-weights",
        "-q",
    ]  # no line of progress where it takes long
    done = run(world, *call, "-o", str(tmp_path / "m.onnx"), before=small_files)
    assert_says(
        done,
        4,
        f"{tmp_path / 'm.onnx'}: file could not be written (File too large); nothing is left",
        f"df -h {tmp_path}; ls -ld {tmp_path}",
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("package", "source"), [("torch", "open_clip"), ("timm", "timm")])
def test_a_missing_extra_is_the_environment(world: Path, tmp_path: Path, package: str, source: str) -> None:
    (tmp_path / f"{package}.py").write_text(
        f"raise ModuleNotFoundError('No module named {package}', name='{package}')", encoding="utf-8"
    )
    done = run(world, "export", source, "x", "-o", "m.onnx", PYTHONPATH=str(tmp_path))
    assert_says(
        done,
        4,
        f"{source}: package {package} is not importable (No module named {package}); exporting needs it",
        "pip install '.[export]'  # in a clone",
    )
    assert done.stdout == ""

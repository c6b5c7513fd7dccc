"""Bad input through the real command: models that are missing, damaged, of another kind, or refused by ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from support import lookup
from support.bad_input import Done, Row, assert_says, check_row

ENCODER_ALONE = "export the vision encoder alone: robustcheck export --help"
EXPORT_AGAIN = "export the model again with `robustcheck export`"


def model_rows() -> list[Row]:
    call_again = "download or export it again"
    zip_hint = "export the model first: robustcheck export --help"
    return [
        Row("nope.onnx", 2, "nope.onnx: model file is missing; no such file", "ls ."),
        Row("no␣folder/x.onnx", 2, "no folder/x.onnx: model file is missing; no such file", "ls 'no folder'"),
        Row(
            "folder",
            2,
            "folder: number of .onnx files in the folder is 0; at least one is needed",
            "find folder -name '*.onnx'",
        ),
        Row(
            "text.onnx/x.onnx",
            3,
            "text.onnx/x.onnx: model file is not readable (Not a directory); it must be a readable file",
            "ls -l text.onnx/x.onnx",
        ),
        Row("pipe", 2, "pipe: model is a device or pipe; a regular file is needed", "ls -lL pipe"),
        Row("/dev/zero", 2, "/dev/zero: model is a device or pipe; a regular file is needed", "ls -lL /dev/zero"),
        Row("empty.onnx", 3, "empty.onnx: model file is empty (0 bytes); an ONNX protobuf is needed", call_again),
        Row("text.onnx", 3, "text.onnx: model file is text; an ONNX protobuf is needed", "head -c 200 text.onnx"),
        Row(
            "lfs.onnx",
            3,
            "lfs.onnx: model file is a Git LFS pointer; the model itself was not downloaded",
            "git lfs pull --include lfs.onnx",
        ),
        Row(
            "truncated.onnx",
            3,
            "truncated.onnx: model file is no complete ONNX protobuf (… bytes); truncated or damaged",
            call_again,
        ),
        Row(
            "zip.onnx",
            3,
            "zip.onnx: model file is a zip archive (PyTorch checkpoints and … are); an ONNX protobuf is needed",
            zip_hint,
        ),
        Row(
            "pickle.onnx",
            3,
            "pickle.onnx: model file is a Python pickle (old PyTorch checkpoints are); an ONNX protobuf is needed",
            zip_hint,
        ),
        Row(
            "bytes.onnx",
            3,
            r"bytes.onnx: name in the graph is b'log\xeets'; names must be UTF-8 text",
            call_again,
        ),
        Row(
            "missing/m.onnx",
            3,
            "missing/m.onnx: weights file m.onnx.data is missing; the model keeps its weights in it",
            "copy m.onnx.data next to the model: missing/m.onnx.data",
        ),
        Row(
            "short/m.onnx",
            3,
            "short/m.onnx: weights file m.onnx.data is … bytes; tensor 'fc.bias' ends at byte …, so it is truncated",
            "copy or download m.onnx.data again",
        ),
        Row(
            "pointer/m.onnx",
            3,
            "pointer/m.onnx: weights file m.onnx.data is … bytes; tensor … ends at byte …, so it is a Git LFS pointer",
            "git lfs pull --include m.onnx.data",
        ),
        Row(
            "escape/m.onnx",
            3,
            "escape/m.onnx: external data path '../whole/m.onnx.data' leaves the model's folder; weights must lie "
            "beside it",
            "copy the weights file into escape and save the model with its plain name",
        ),
        Row(
            "op.onnx",
            3,
            "op.onnx: node 'out' uses operator ai.onnx:Flour; ONNX Runtime … has no such operator (closest: Floor)",
            "export with standard operators; custom operator libraries are not loaded",
        ),
        Row(
            "domain.onnx",
            3,
            "domain.onnx: node 'out' uses operator com.acme:Foo; ONNX Runtime … has no such operator",
            "export with standard operators; custom operator libraries are not loaded",
        ),
        Row(
            "opset.onnx",
            3,
            "opset.onnx: opset is 99; ONNX Runtime … supports up to …",
            "pip install --upgrade onnxruntime-gpu, or export with opset 18",
        ),
        Row(
            "ir.onnx",
            3,
            "ir.onnx: IR version is 99; ONNX Runtime … supports up to …",
            "pip install --upgrade onnxruntime-gpu, or export with an older onnx",
        ),
        Row(
            "vector.onnx",
            3,
            "vector.onnx: input is image float (?, 10); an image input (batch, 3, height, width) is needed",
            ENCODER_ALONE,
        ),
        Row(
            "noinput.onnx",
            3,
            "noinput.onnx: input is none; an image input (batch, 3, height, width) is needed",
            ENCODER_ALONE,
        ),
        Row(
            "several.onnx",
            3,
            "several.onnx: inputs are image float (?, 3, 8, 8), t float (?, 16); y needs image, t; an output must need "
            "the image input alone",
            ENCODER_ALONE,
        ),
        Row(
            "words.onnx",
            3,
            "words.onnx: input is input_ids int64 (?, 77): a text encoder; an image input (batch, 3, height, width) "
            "is needed",
            ENCODER_ALONE,
        ),
        Row(
            "detector.onnx",
            3,
            "detector.onnx: output 'dets' is an object detector's; one representation for each image is needed",
            "to look at its vision encoder: robustcheck inspect detector.onnx --tensor conv",
        ),
        Row(
            "four.onnx",
            3,
            "four.onnx: input image float (?, 4, 8, 8) has 4 channels; photos have 3, or 1 in grey",
            ENCODER_ALONE,
        ),
        Row("infinite.onnx", 3, no_number("infinite.onnx"), "robustcheck inspect infinite.onnx"),
        Row("constant.onnx", 3, no_number("constant.onnx"), "robustcheck inspect constant.onnx"),
        Row(
            "reshape.onnx",
            3,
            "reshape.onnx: ONNX Runtime … refuses the model: Non-zero status code returned while running Reshape node. "
            "The input tensor cannot be reshaped to the requested shape. Input shape:{…,3,8,8}, requested "
            "shape:{-1,1000003}",
            "robustcheck inspect reshape.onnx",
        ),
        Row(
            "huge.onnx",
            4,
            "huge.onnx: memory ran out (1099511627776 bytes were asked for); the model must fit with one image …",
            "free -h, or nvidia-smi for a GPU; --device cpu where the GPU is the smaller one",
        ),
        Row(
            "c_text.onnx",
            3,
            "c_text.onnx: contract is not JSON (… at character 1); metadata robustcheck.contract must hold one JSON "
            "object",
            EXPORT_AGAIN,
        ),
        Row(
            "c_list.onnx",
            3,
            "c_list.onnx: contract is a JSON list; metadata robustcheck.contract must hold an object",
            EXPORT_AGAIN,
        ),
        Row(
            "c_deep.onnx",
            3,
            "c_deep.onnx: contract is nested too deeply; metadata robustcheck.contract must hold one JSON object",
            EXPORT_AGAIN,
        ),
        Row(
            "c_newer.onnx",
            3,
            "c_newer.onnx: contract has schema version 2; this robustcheck reads up to 1",
            "git pull && pip install .  # in a clone",
        ),
        Row("c_less.onnx", 3, "c_less.onnx: contract breaks schema 1 (preprocessing: Field required)", EXPORT_AGAIN),
        Row(
            "c_tensor.onnx",
            3,
            "c_tensor.onnx: contract names output 'nope'; the graph has representation",
            EXPORT_AGAIN,
        ),
        Row(
            "side/m.onnx",
            2,
            "side/m.robustcheck.json: content is not readable JSON (…); a preprocessing file must be",
            "python -m json.tool side/m.robustcheck.json",
        ),
        Row("inspect nope.onnx", 2, "nope.onnx: model file is missing; no such file", "ls ."),
        Row(
            "inspect pass.onnx --tensor nope",
            2,
            "pass.onnx: --tensor is 'nope'; no tensor of that name is computed from the image",
            "robustcheck inspect pass.onnx --tensor representation",
        ),
    ]


def no_number(file: str) -> str:
    return f"{file}: number of finite, not constant representations is 0 of 5; at least one is needed"


@pytest.mark.parametrize("row", model_rows(), ids=lambda row: row.call)
def test_check(world: Path, row: Row, warm: Callable[..., Done]) -> None:
    if row.message.startswith(("infinite", "constant")):
        row = row._replace(call=f"{row.call} --images five")
    check_row(world, row, warm)


def test_images_that_are_all_alike_to_the_model_are_a_warning(
    world: Path, tmp_path: Path, warm: Callable[..., Done]
) -> None:
    """Their kurtosis differs by rounding only, which numpy.histogram refuses to part into bins."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(1, 512)) * random.uniform(0.5, 2, (80, 1))
    lookup.write_lookup_model(tmp_path / "alike.onnx", rows, dtype=np.float64)
    done = warm(world, str(tmp_path / "alike.onnx"), "--images", "photos")
    assert (done.returncode, done.stderr) == (1, "")
    assert "WARN" in done.stdout


def test_onnx_runtime_prints_nothing(world: Path, tmp_path: Path, warm: Callable[..., Done]) -> None:
    """Its own fallback would print to stdout, and run on the CPU what a GPU was asked for."""
    content = (world / "side" / "m.onnx").read_bytes()
    assert b"conv.weight" in content
    (tmp_path / "m.onnx").write_bytes(content.replace(b"conv.weight", b"conv.wxight", 1))  # one end of an edge
    done = warm(world, str(tmp_path / "m.onnx"), "--images", "five", "--preprocess", "imagenet", "--device", "cpu")
    assert_says(
        done,
        3,
        f"{tmp_path}/m.onnx: ONNX Runtime … refuses the model: …'conv.wxight'…",
        f"robustcheck inspect {tmp_path}/m.onnx",
    )
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("name", "shown"), [("a\x1b[31m.onnx", r"a\x1b[31m.onnx"), (os.fsdecode(b"\xff.onnx"), r"\udcff.onnx")]
)
def test_a_file_name_cannot_drive_the_terminal(world: Path, name: str, shown: str, warm: Callable[..., Done]) -> None:
    done = warm(world, name)
    assert_says(done, 2, f"{shown}: model file is missing; no such file", "ls .")

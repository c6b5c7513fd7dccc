"""Bad input: one clear error, the right exit code, nothing half-written. A table of calls, typed in this process."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from robustcheck_onnx.checker import cli
from robustcheck_onnx.checker.report import forms
from support import lookup, profile
from support.bad_input import Row, Typed, agrees, assert_says, check_row, run, small_files, without_progress

KINDS = (
    "a folder, a glob, an image, a list (.txt), a manifest (.csv, .jsonl), .tar shards, .parquet, .arrow, .npy or .npz"
)
NEEDED = "at least one is needed: image files, .tar shards, .parquet or .arrow files"
ARRAY_HINT = "save float32 images (batch, channel, height, width) with numpy.save"
IMAGE_INPUT = "an image input (batch, 3, height, width) is needed"
ENCODER_ALONE = "export the vision encoder alone: robustcheck export --help"
EXPORT_AGAIN = "export the model again with `robustcheck export`"
FIELDS = "fields: size, resize_mode, resize_size, interpolation, crop, crop_rounding, fill, rescale, mean, std, …"
DEFAULT_PROFILE = "leave out --thresholds for the default profile"
Rows = list[tuple[str, int, str, str]]
# fmt: off
MODELS: Rows = [
    ("nope.onnx", 2, "nope.onnx: model file is missing; no such file", "ls ."),
    ("no␣folder/x.onnx", 2, "no folder/x.onnx: model file is missing; no such file", "ls 'no folder'"),
    ("folder", 2,
     "folder: number of .onnx files in the folder is 0; at least one is needed", "find folder -name '*.onnx'"),
    ("text.onnx/x.onnx", 3,
     "text.onnx/x.onnx: model file is not readable (Not a directory); it must be a readable file",
     "ls -l text.onnx/x.onnx"),
    ("pipe", 2, "pipe: model is a device or pipe; a regular file is needed", "ls -lL pipe"),
    ("/dev/zero", 2, "/dev/zero: model is a device or pipe; a regular file is needed", "ls -lL /dev/zero"),
    ("empty.onnx", 3,
     "empty.onnx: model file is empty (0 bytes); an ONNX protobuf is needed", "download or export it again"),
    ("text.onnx", 3, "text.onnx: model file is text; an ONNX protobuf is needed", "head -c 200 text.onnx"),
    ("lfs.onnx", 3,
     "lfs.onnx: model file is a Git LFS pointer; the model itself was not downloaded",
     "git lfs pull --include lfs.onnx"),
    ("truncated.onnx", 3,
     "truncated.onnx: model file is no complete ONNX protobuf (… bytes); truncated or damaged",
     "download or export it again"),
    ("zip.onnx", 3,
     "zip.onnx: model file is a zip archive (PyTorch checkpoints and … are); an ONNX protobuf is needed",
     "export the model first: robustcheck export --help"),
    ("pickle.onnx", 3,
     "pickle.onnx: model file is a Python pickle (old PyTorch checkpoints are); an ONNX protobuf is needed",
     "export the model first: robustcheck export --help"),
    ("bytes.onnx", 3,
     "bytes.onnx: name in the graph is b'log\\xeets'; names must be UTF-8 text", "download or export it again"),
    ("missing/m.onnx", 3,
     "missing/m.onnx: weights file m.onnx.data is missing; the model keeps its weights in it",
     "copy m.onnx.data next to the model: missing/m.onnx.data"),
    ("short/m.onnx", 3,
     "short/m.onnx: weights file m.onnx.data is … bytes; tensor 'fc.bias' ends at byte …, so it is truncated",
     "copy or download m.onnx.data again"),
    ("pointer/m.onnx", 3,
     "pointer/m.onnx: weights file m.onnx.data is … bytes; tensor … ends at byte …, so it is a Git LFS pointer",
     "git lfs pull --include m.onnx.data"),
    ("escape/m.onnx", 3,
     "escape/m.onnx: external data path '../whole/m.onnx.data' leaves the model's folder; weights must lie beside it",
     "copy the weights file into escape and save the model with its plain name"),
    ("op.onnx", 3,
     "op.onnx: node 'out' uses operator ai.onnx:Flour; ONNX Runtime … has no such operator (closest: Floor)",
     "export with standard operators; custom operator libraries are not loaded"),
    ("domain.onnx", 3,
     "domain.onnx: node 'out' uses operator com.acme:Foo; ONNX Runtime … has no such operator",
     "export with standard operators; custom operator libraries are not loaded"),
    ("opset.onnx", 3,
     "opset.onnx: opset is 99; ONNX Runtime … supports up to …",
     "pip install --upgrade onnxruntime-gpu, or export with opset 18"),
    ("ir.onnx", 3,
     "ir.onnx: IR version is 99; ONNX Runtime … supports up to …",
     "pip install --upgrade onnxruntime-gpu, or export with an older onnx"),
    ("vector.onnx", 3, f"vector.onnx: input is image float (?, 10); {IMAGE_INPUT}", ENCODER_ALONE),
    ("noinput.onnx", 3, f"noinput.onnx: input is none; {IMAGE_INPUT}", ENCODER_ALONE),
    ("several.onnx", 3,
     "several.onnx: inputs are image float (?, 3, 8, 8), t float (?, 16); y needs image, t; an output must need "
     "the image input alone",
     ENCODER_ALONE),
    ("words.onnx", 3, f"words.onnx: input is input_ids int64 (?, 77): a text encoder; {IMAGE_INPUT}", ENCODER_ALONE),
    ("detector.onnx", 3,
     "detector.onnx: output 'dets' is an object detector's; one representation for each image is needed",
     "to look at its vision encoder: robustcheck inspect detector.onnx --tensor conv"),
    ("four.onnx", 3,
     "four.onnx: input image float (?, 4, 8, 8) has 4 channels; photos have 3, or 1 in grey", ENCODER_ALONE),
    ("infinite.onnx --images five", 3,
     "infinite.onnx: number of finite, not constant representations is 0 of 5; at least one is needed",
     "robustcheck inspect infinite.onnx"),
    ("constant.onnx --images five", 3,
     "constant.onnx: number of finite, not constant representations is 0 of 5; at least one is needed",
     "robustcheck inspect constant.onnx"),
    ("reshape.onnx", 3,
     "reshape.onnx: ONNX Runtime … refuses the model: Non-zero status code returned while running Reshape node. "
     "The input tensor cannot be reshaped to the requested shape. Input shape:{…,3,8,8}, requested "
     "shape:{-1,1000003}",
     "robustcheck inspect reshape.onnx"),
    ("huge.onnx", 4,
     "huge.onnx: memory ran out (1099511627776 bytes were asked for); the model must fit with one image …",
     "free -h, or nvidia-smi for a GPU; --device cpu where the GPU is the smaller one"),
    ("c_text.onnx", 3,
     "c_text.onnx: contract is not JSON (… at character 1); metadata robustcheck.contract must hold one JSON object",
     EXPORT_AGAIN),
    ("c_list.onnx", 3,
     "c_list.onnx: contract is a JSON list; metadata robustcheck.contract must hold an object", EXPORT_AGAIN),
    ("c_deep.onnx", 3,
     "c_deep.onnx: contract is nested too deeply; metadata robustcheck.contract must hold one JSON object",
     EXPORT_AGAIN),
    ("c_newer.onnx", 3,
     "c_newer.onnx: contract has schema version 2; this robustcheck reads up to 1",
     "git pull && pip install .  # in a clone"),
    ("c_less.onnx", 3, "c_less.onnx: contract breaks schema 1 (preprocessing: Field required)", EXPORT_AGAIN),
    ("c_tensor.onnx", 3, "c_tensor.onnx: contract names output 'nope'; the graph has representation", EXPORT_AGAIN),
    ("side/m.onnx", 2,
     "side/m.robustcheck.json: content is not readable JSON (…); a preprocessing file must be",
     "python -m json.tool side/m.robustcheck.json"),
    ("inspect nope.onnx", 2, "nope.onnx: model file is missing; no such file", "ls ."),
    ("inspect pass.onnx --tensor nope", 2,
     "pass.onnx: --tensor is 'nope'; no tensor of that name is computed from the image",
     "robustcheck inspect pass.onnx --tensor representation"),
]
IMAGES: Rows = [  # behind `pass.onnx --images`
    ("nope", 2, f"nope: image set is not readable (No such file or directory); it must be {KINDS}", "--images FOLDER"),
    ("nope/*.jpg", 3,
     f"nope/*.jpg: number of images is 0 among 0 files; {NEEDED}",
     "ls nope/*.jpg  # images are known by suffix: .jpg, .png, …"),
    ("texts", 3,
     f"texts: number of images is 0 among 3 files; {NEEDED}", "ls texts  # images are known by suffix: .jpg, .png, …"),
    ("folder", 3,
     f"folder: number of images is 0 among 0 files; {NEEDED}",
     "ls folder  # images are known by suffix: .jpg, .png, …"),
    ("pipe", 2, f"pipe: image set is not a regular file or folder; it must be {KINDS}", "--images FOLDER"),
    ("corrupt", 3,
     "corrupt: number of usable images is 0 of 5 (….jpg: not an image that Pillow can decode; …); at least one is "
     "needed",
     "name a set of photos: --images FOLDER"),
    ("some", 3,
     "some: number of unusable images is 4 of … (bad….png: damaged: …); at most 1.00% may be",
     "repair or remove them, or allow more: --max-bad SHARE"),
    ("shape.npy", 2,
     "shape.npy: array: shape is (3, 64, 64); it must be (batch, 1 or 3 channels, height, width)",
     "transpose it: x.transpose(0, 3, 1, 2) for channels last"),
    ("complex.npy", 2, "complex.npy: array: dtype is complex64; it must be float or unsigned integer", ARRAY_HINT),
    ("objects.npy", 3,
     "objects.npy: file is not a plain array (it holds Python objects); it must be npy or npz without objects",
     ARRAY_HINT),
    ("text.npy", 3,
     "text.npy: file is not a plain array (it starts with b'hello '); it must be npy or npz", ARRAY_HINT),
    ("header.npy", 3, "header.npy: file is not a plain array (…); it must be npy or npz without objects", ARRAY_HINT),
    ("short.npy", 3, "short.npy: file is not a plain array (…); it must be npy or npz without objects", ARRAY_HINT),
    ("size.npy", 2,
     "size.npy#…: tensor (channel, height, width) is (3, 32, 32); pass.onnx takes (3, 64, 64)",
     "robustcheck inspect pass.onnx"),
    ("grey.npy", 2,
     "grey.npy#…: tensor (channel, height, width) is (1, 64, 64); pass.onnx takes (3, 64, 64)",
     "robustcheck inspect pass.onnx"),
    ("nan.npy", 3,
     "nan.npy: number of usable images is 0 of 6 (nan.npy#…: values that are not finite; …); at least one is needed",
     "name a set of photos: --images FOLDER"),
    ("pickles.tar", 2,
     "pickles.tar: number of images in 1 tar file(s) is 0; members must be images (.jpg, …)", "tar tf pickles.tar"),
    ("short.tar", 3, "short.tar: tar file is damaged (…); shards must be whole, plain tar files", "tar tf short.tar"),
    ("text.tar", 3, "text.tar: tar file is damaged (…); shards must be whole, plain tar files", "tar tf text.tar"),
    ("x.tar.gz", 2,
     "x.tar.gz: shard is compressed; shards must be plain .tar so that images can be read in any order",
     "gunzip x.tar.gz (or the like), then name the .tar"),
    ("gone.csv", 2,
     "gone.csv: row 3: path is photos/nope.png; there is no such file",
     "ls -l photos/nope.png  # paths are relative to the folder of gone.csv"),
    ("columns.csv", 2,
     "columns.csv: row 2 has the columns name, label; one of path, image, file must name the image",
     "sed -n 1p columns.csv"),
    ("cells.csv", 2,
     "cells.csv: row 2 has more cells than columns; quote cells that hold a comma", "sed -n 2p cells.csv"),
    ("empty.csv", 2, "empty.csv: number of images listed is 0; at least one is needed", "cat empty.csv"),
    ("bad.jsonl", 2, "bad.jsonl: row 2 is not JSON (…); each row must be an object", "sed -n 2p bad.jsonl"),
    ("list.jsonl", 2, "list.jsonl: row 1 is [1]; each row must be a JSON object", "sed -n 1p list.jsonl"),
    ("deep.jsonl", 2, "deep.jsonl: row 1 is not JSON (…); each row must be an object", "sed -n 1p deep.jsonl"),
    ("binary.txt", 2, "binary.txt: file is not readable UTF-8 text (…); a list or manifest must be", "file binary.txt"),
]
OPTIONS: Rows = [  # behind `pass.onnx --images photos`
    ("--preprocess nonsense", 2,
     "--preprocess: value is nonsense; it must be clip, imagenet or a JSON file that exists", "--preprocess clip"),
    ("--preprocess p_text.json", 2,
     "p_text.json: content is not readable JSON (…); a preprocessing file must be", "python -m json.tool p_text.json"),
    ("--preprocess p_list.json", 2, "p_list.json: content is a JSON list; it must be an object", FIELDS),
    ("--preprocess p_less.json", 2, "p_less.json: resize_mode is missing; Field required", FIELDS),
    ("--preprocess p_more.json", 2, "p_more.json: sizes is [1, 1]; Extra inputs are not permitted", FIELDS),
    ("--preprocess p_zero.json", 2, "p_zero.json: std.0 is 0; Input should be greater than 0", FIELDS),
    ("--preprocess p_size.json", 2,
     "p_size.json: size is 32×32; the model's input is 64×64 (height×width)",
     "give this model's own preprocessing, of size [64, 64], with --preprocess FILE"),
    ("--thresholds nope.json", 2, "nope.json: threshold profile cannot be read (…)", DEFAULT_PROFILE),
    ("--thresholds t_newer.json", 2, "t_newer.json: schema_version is 99; this robustcheck reads 1", DEFAULT_PROFILE),
    ("--thresholds t_edited.json", 2,
     "t_edited.json: digest does not match the content; the profile was changed after it was sealed", DEFAULT_PROFILE),
    ("--thresholds text.npy", 2, "text.npy: threshold profile is not JSON (…)", DEFAULT_PROFILE),
    ("--thresholds deep.jsonl", 2,
     "deep.jsonl: threshold profile is nested too deeply; it must be a sealed profile", DEFAULT_PROFILE),
    ("--tensor representatoin", 2,
     "pass.onnx: --tensor is 'representatoin'; no tensor of that name is computed from the image",
     "robustcheck inspect pass.onnx --tensor representation"),
    ("--pool nonsense", 2, "--pool is 'nonsense'; it must be cls, mean or none", "--pool mean"),
    ("--device nonsense", 2,
     "--device is 'nonsense'; it must be auto, cpu, cuda, cuda:N or tensorrt, or another execution provider that "
     "the installed ONNX …",
     "--device auto"),
    ("--device cuda --provider-option use_tf32", 2,
     "--provider-option is 'use_tf32'; it must be KEY=VALUE, without a comma",
     "--device cuda --provider-option use_tf32=1"),
    ("--device cuda:x", 2, "--device is 'cuda:x'; behind the colon stands a device's number", "--device cuda:0"),
    ("--max-bad 2", 2, "--max-bad is '2'; it must be less than or equal to 1", "robustcheck check --help"),
    ("--max-bad=nan", 2, "--max-bad is 'nan'; …", "robustcheck check --help"),
    ("--max-images 0", 2, "--max-images is '0'; it must be greater than or equal to 1", "robustcheck check --help"),
    ("--seed x", 2, "--seed is 'x'; it must be a valid integer", "robustcheck check --help"),
    ("--batch-size 33", 2, "--batch-size is '33'; it must be less than or equal to 32", "robustcheck check --help"),
    ("--color red", 2, "--color is 'red'; it must be one of auto, always, never", "--color …"),
    ("-o jsn", 2,
     f"--output is 'jsn'; it must be one of {', '.join(forms.OUTPUTS)}",
     "--output json"),
    ("-o terminal=", 2, "--output is 'terminal='; a path must follow the equals sign", "-o terminal=report.terminal"),
    ("-o terminal -o terminal", 2, "--output names stdout twice; only one document fits there", "-o json=report.json"),
    ("-o terminal=r.txt -o terminal=r.txt", 2,
     "--output names r.txt twice; only one document fits there", "-o json=report.json"),
    ("-o json=absent/r.json", 2,
     "absent/r.json: folder absent is missing; reports are written into existing folders", "mkdir -p absent"),
    ("-o terminal=text.npy/r.txt", 2,
     "text.npy/r.txt: folder text.npy is missing; reports are written into existing folders", "mkdir -p text.npy"),
    ("-o json=folder", 2, "folder: report path is a folder; it must be a file", "-o json=folder/report.json"),
    ("-o json=./pass.onnx", 2,
     "pass.onnx: report path is a file that this run reads; a report must not replace it", "-o json=pass.json"),
]
CALLS: Rows = [
    ("pass.onnx --imags photos", 2,
     "option --imags is not known; the closest is --images", "robustcheck check pass.onnx --images photos"),
    ("pass.onnx --zzz", 2, "option --zzz is not known; robustcheck check has no such option", "…check --help"),
    ("--versoin", 2, "option --versoin is not known; the closest is --version", "robustcheck --version"),
    ("inspct pass.onnx", 2, "command is 'inspct'; the closest is inspect", "robustcheck inspect pass.onnx"),
    ("pass.onnx --images", 2, "--images is given no value; it needs one", "robustcheck check --help"),
    ("pass.onnx --quiet=3", 2, "--quiet is given a value; it takes none", "robustcheck check --help"),
    ("inspect pass.onnx b", 2, "argument is b; robustcheck inspect takes no more", "robustcheck inspect --help"),
    ("check", 2, "MODEL.onnx is missing; robustcheck check needs it", "robustcheck check --help"),
    ("inspect", 2, "MODEL.onnx is missing; robustcheck inspect needs it", "robustcheck inspect --help"),
    ("inspect pass.onnx -o xml", 2, "--output is 'xml'; it must be one of terminal, json", "--output terminal"),
    ("explain rectifed", 2,
     "topic is 'rectifed'; it must be a reason, a kind of reasons, exit-codes, schema or reasons",
     "robustcheck explain rectified"),
]
EXPORTS: Rows = [  # behind `export`; the call is checked before any library is imported
    ("", 2, "SOURCE is missing; robustcheck export needs it", "robustcheck export --help"),
    ("timm x", 2, "--out is missing; robustcheck export needs it", "robustcheck export --help"),
    ("timn x -o m.onnx", 2,
     "source is 'timn'; it must be one of open_clip, timm, torchvision, transformers, torch, onnx",
     "robustcheck export timm x -o m.onnx"),
    ("timm x -o m.onnx --precision fp8", 2,
     "precision is fp8; it must be one of fp32, fp16, int8-dynamic, int8-qdq", "--precision fp32"),
    ("timm x -o m.onnx --head fc", 2,
     "--head is fc; it is for the source torch only; the head of timm models is known",
     "robustcheck export timm x -o m.onnx"),
    ("timm x -o absent/m.onnx", 2,
     "absent/m.onnx: folder absent is missing; models are written into existing folders", "mkdir -p absent"),
    ("timm x -o folder", 2, "folder: target is a folder; it must be a file", "-o folder/model.onnx"),
    ("timm x -o m.txt", 2, "m.txt: suffix is '.txt'; it must be .onnx", "-o m.onnx"),
    ("timm x -o m.onnx --parity-images good.tar", 2,
     "good.tar: parity photos lie inside one file; they must be image files", "--parity-images FOLDER"),
    ("timm x -o m.onnx --parity-images photos/photo_00000.png", 2,
     "number of parity photos is 1; it must be at least 5", "--parity-images FOLDER"),
    ("torch net:build -o m.onnx --preprocessing p_text.json", 2,
     "p_text.json: preprocessing is unreadable (…); it must be a JSON object", "python -m json.tool p_text.json"),
]
EXPORTS_WITH_TORCH: Rows = [
    ("transformers openai/clip-nope -o m.onnx", 4,
     "openai/clip-nope: weights are not on this machine and could not be downloaded; a local copy or a network is "
     "needed",
     "run `hf download openai/clip-nope` where there is a network and copy models--openai--clip-nope into "
     "$HF_HOME/hub here, or give a folder made by save_pretrained as the name"),
    ("torch net:build -o m.onnx --preprocessing p_net.json", 2,
     "net:build: weights are not given; random weights are refused",
     "set the module's attribute `weights`, or give --weights FILE or --random-weights"),
    ("torch net:build -o m.onnx --preprocessing p_net.json --weights text.onnx", 3,
     "text.onnx: checkpoint starts with b'hello wor'; it must be safetensors, a torch state dict or npz",
     "file text.onnx"),
    ("torch net:build -o m.onnx --preprocessing p_net.json --weights pickle.onnx", 3,
     "pickle.onnx: checkpoint is unreadable (it holds Python objects or code, which are never unpickled); …",
     "save it again with …"),
]
# fmt: on


def rows(behind: str, table: Rows) -> list[Row]:
    return [Row(f"{behind} {row[0]}".strip(), *row[1:]) for row in table]


TABLE = {
    "models": rows("", MODELS),
    "images": rows("pass.onnx --images", IMAGES),
    "options": rows("pass.onnx --images photos", OPTIONS),
    "calls": rows("", CALLS),
    "exports": rows("export", EXPORTS),
}


def wrong_rows(world: Path, table: list[Row], typed: Typed) -> dict[str, str]:
    """Return the calls that go otherwise than their rows, each with what is wrong."""
    wrong = {}
    for row in table:
        try:
            check_row(world, row, typed)
        except AssertionError as fault:
            wrong[row.call] = str(fault)
    return wrong


@pytest.mark.parametrize("part", TABLE)
def test_bad_input_is_one_clear_error(part: str, world: Path, typed: Typed) -> None:
    assert wrong_rows(world, TABLE[part], typed) == {}


@pytest.mark.long
def test_bad_exports_with_torch(world: Path, typed: Typed) -> None:
    assert wrong_rows(world, rows("export", EXPORTS_WITH_TORCH), typed) == {}


def test_the_table_can_fail(world: Path, typed: Typed) -> None:
    row = Row("nope.onnx", 2, "nope.onnx: model file is missing; no such file", "ls .")
    changed = [row._replace(code=3), row._replace(message="nope.onnx: model file is missing"), row._replace(hint="")]
    assert wrong_rows(world, [row], typed) == {}
    for other in changed:
        assert list(wrong_rows(world, [other], typed)) == ["nope.onnx"]
    assert not agrees("a…c", "a c d")
    assert not agrees("a.c", "abc")


@pytest.mark.process
def test_what_tests_type_in_this_process_is_the_command(world: Path, typed: Typed) -> None:
    for call in ("--bogus -o json", "pass.onnx --images photos --no-time"):
        cold, here = run(world, *call.split()), typed(world, *call.split())
        assert (here.returncode, here.stdout) == (cold.returncode, cold.stdout)
        assert here.stderr == without_progress(cold.stderr)


def test_images_that_are_all_alike_to_the_model_are_a_warning(world: Path, tmp_path: Path, typed: Typed) -> None:
    """Their kurtosis differs by rounding only, which numpy.histogram refuses to part into bins."""
    random = np.random.default_rng(0)
    values = random.normal(size=(1, 512)) * random.uniform(0.5, 2, (80, 1))
    lookup.write_lookup_model(tmp_path / "alike.onnx", values, dtype=np.float64)
    done = typed(world, str(tmp_path / "alike.onnx"), "--images", "photos")
    assert (done.returncode, done.stderr) == (1, "")
    assert "WARN" in done.stdout


def test_onnx_runtime_prints_nothing(world: Path, tmp_path: Path, typed: Typed) -> None:
    """Its own fallback would print to stdout, and run on the CPU what a GPU was asked for."""
    content = (world / "side" / "m.onnx").read_bytes()
    assert b"conv.weight" in content
    (tmp_path / "m.onnx").write_bytes(content.replace(b"conv.weight", b"conv.wxight", 1))  # one end of an edge
    done = typed(world, str(tmp_path / "m.onnx"), "--images", "five", "--preprocess", "imagenet", "--device", "cpu")
    assert_says(
        done,
        3,
        f"{tmp_path}/m.onnx: ONNX Runtime … refuses the model: …'conv.wxight'…",
        f"robustcheck inspect {tmp_path}/m.onnx",
    )
    assert done.stdout == ""


def test_a_file_name_cannot_drive_the_terminal(world: Path, typed: Typed) -> None:
    for name, shown in (("a\x1b[31m.onnx", r"a\x1b[31m.onnx"), (os.fsdecode(b"\xff.onnx"), r"\udcff.onnx")):
        assert_says(typed(world, name), 2, f"{shown}: model file is missing; no such file", "ls .")


def test_no_word_at_all_is_the_help_and_an_error(world: Path, typed: Typed) -> None:
    done = typed(world)
    *words, error, hint = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: robustcheck" in "\n".join(words)
    assert error == "error: MODEL.onnx is missing; robustcheck needs a model or a command"
    assert hint == "hint: robustcheck model.onnx --images photos/"


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there may be a GPU")
def test_a_device_that_is_not_there_is_the_environment(world: Path, typed: Typed) -> None:
    for device in ("cuda:1", "tensorrt"):
        done = typed(world, "pass.onnx", "--device", device)
        assert_says(done, 4, f"--device is {device}; …", "robustcheck doctor, or --device cpu")
        assert done.stdout == ""


def test_a_current_folder_that_is_gone_is_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir("gone")
    (tmp_path / "gone").rmdir()
    for words in ("check m.onnx --images a", "shift m.onnx --in a --shifted b"):
        assert cli.main(words.split()) == 4
        assert "current folder: it is not there (" in capsys.readouterr().err


def test_a_missing_extra_is_the_environment(world: Path, monkeypatch: pytest.MonkeyPatch, typed: Typed) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    assert_says(
        typed(world, "export", "open_clip", "x", "-o", "m.onnx"),
        4,
        "open_clip: package open_clip is not importable (…); exporting needs it",
        "pip install '.[export]'  # in a clone",
    )


# ------------------------------------------------------------------------------------------------- documents

JSON_ROWS = [
    Row("nope.onnx", 2, "nope.onnx: model file is missing; no such file", "ls ."),
    Row("--max-bad 2 pass.onnx", 2, "--max-bad is '2'; it must be less than or equal to 1", "robustcheck check --help"),
    Row("text.onnx", 3, "text.onnx: model file is text; an ONNX protobuf is needed", "head -c 200 text.onnx"),
    Row("huge.onnx --images five", 4, "huge.onnx: memory ran out (…); …", "free -h, …"),
    Row("inspect text.onnx", 3, "text.onnx: model file is text; an ONNX protobuf is needed", "head -c 200 text.onnx"),
]


def test_json_errors_are_one_document_on_stdout(world: Path, typed: Typed) -> None:
    for row in JSON_ROWS:
        done = typed(world, *row.arguments, *(["--output=json"] if row.code == 2 else ["-o", "json"]))
        assert_says(done, row.code, row.message, row.hint)
        document = json.loads(done.stdout)
        lines = without_progress(done.stderr).splitlines()
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


def test_a_full_disk_leaves_nothing(world: Path, tmp_path: Path, typed: Typed) -> None:
    report = tmp_path / "report"
    for form in ("json", "terminal"):
        with small_files():
            done = typed(world, "pass.onnx", "--images", "photos", "-v", "-o", f"{form}={report}", "-o", "gitlab")
        assert_says(
            done, 4, f"{report}: report is not written (File too large); it must be written whole", f"df -h {tmp_path}"
        )
        assert done.stdout == "[]\n"  # GitLab's PASS: the form that has room is delivered
        if form == "json":  # the error document is small enough
            assert json.loads(report.read_text(encoding="utf-8"))["error"]["exit_code"] == 4
            report.unlink()
        assert list(tmp_path.iterdir()) == []


def test_a_pipe_is_written_to_and_stays_a_pipe(world: Path, tmp_path: Path, typed: Typed) -> None:
    """As root, renaming a file over a device such as /dev/null would break the machine."""
    fifo, received = tmp_path / "fifo", []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: received.append(fifo.read_text(encoding="utf-8")), daemon=True)
    reader.start()
    done = typed(world, "pass.onnx", "--images", "photos", "-qq", "-o", f"json={fifo}")
    reader.join(profile.PATIENCE_S)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(received[0])["verdict"]["verdict"] == "PASS"
    assert [(path.name, path.is_fifo()) for path in tmp_path.iterdir()] == [("fifo", True)]


def test_a_link_stays_a_link(world: Path, tmp_path: Path, typed: Typed) -> None:
    (tmp_path / "link.json").symlink_to("target.json")
    assert (
        typed(world, "pass.onnx", "--images", "photos", "-qq", "-o", f"json={tmp_path / 'link.json'}").returncode == 0
    )
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "target.json").read_text(encoding="utf-8"))["tool"] == "robustcheck"

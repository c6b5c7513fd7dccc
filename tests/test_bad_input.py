"""Bad input through the real command: one clear error, the right exit code, nothing half-written.

Every row runs `robustcheck` in a folder of broken files. "…" in an expected message stands for text that
depends on versions or on the machine.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pickle
import pty
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
from onnx import TensorProto, helper, load, save

from robustcheck_onnx.checker import formats
from robustcheck_onnx.thresholds import profile as profiles

COMMAND = str(Path(sys.executable).parent / "robustcheck")
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n"
KINDS = (
    "a folder, a glob, an image, a list (.txt), a manifest (.csv, .jsonl), .tar shards, .parquet, .arrow, .npy or .npz"
)
FIELDS = "fields: size, resize_mode, resize_size, interpolation, crop, crop_rounding, fill, rescale, mean, std, …"
ENCODER_ALONE = "export the vision encoder alone: robustcheck export --help"
EXPORT_AGAIN = "export the model again with `robustcheck export`"
ARRAY_HINT = "save float32 images (batch, channel, height, width) with numpy.save"
DEFAULT_PROFILE = "leave out --thresholds for the default profile"
_LOOP = dict.fromkeys(("x", "next_x"), TensorProto.FLOAT) | dict.fromkeys(("on", "still_on"), TensorProto.BOOL)
_LOOP |= {"i": TensorProto.INT64}
NATIVE = re.compile(r"\.(cc|h|cu)\b|::|\[ONNXRuntimeError\]|Traceback")  # of ONNX Runtime's source, of Python
Done = subprocess.CompletedProcess[str]


class Row(NamedTuple):
    """A command line (split at blanks), its exit code, its message and its hint."""

    call: str
    code: int
    message: str
    hint: str

    @property
    def arguments(self) -> list[str]:
        return [word.replace("␣", " ") for word in self.call.split(" ")] if self.call else []


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
            2,
            "several.onnx: inputs are image float (?, 3, 8, 8), t float (?, 16); exactly one image input can be fed",
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
            "to look at a tensor of its vision encoder: robustcheck inspect detector.onnx --tensor NAME",
        ),
        Row("four.onnx", 3, "four.onnx: input image float (?, 4, 8, 8) has 4 channels; photos have 3", ENCODER_ALONE),
        Row("infinite.onnx", 3, _no_number("infinite.onnx"), "robustcheck inspect infinite.onnx"),
        Row("constant.onnx", 3, _no_number("constant.onnx"), "robustcheck inspect constant.onnx"),
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
            "upgrade with `pip install --upgrade robustcheck-onnx`",
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
            "--tensor with one of: representation",
        ),
    ]


def _no_number(file: str) -> str:
    return f"{file}: number of finite, not constant representations is 0 of 5; at least one is needed"


def image_rows() -> list[Row]:
    def row(images: str, code: int, message: str, hint: str) -> Row:
        return Row(f"pass.onnx --images {images}", code, message, hint)

    suffixes = "  # images are known by suffix: .jpg, .png, …"
    damaged_tar = "tar file is damaged (…); shards must be whole, plain tar files"
    return [
        row(
            "nope",
            2,
            f"nope: image set is not readable (No such file or directory); it must be {KINDS}",
            "--images FOLDER",
        ),
        row(
            "nope/*.jpg",
            2,
            f"nope/*.jpg: number of images found is 0 of 0 files; … {KINDS}",
            f"ls nope/*.jpg{suffixes}",
        ),
        row("texts", 2, f"texts: number of images found is 0 of 3 files; it must be {KINDS}", f"ls texts{suffixes}"),
        row("folder", 2, f"folder: number of images found is 0 of 0 files; it must be {KINDS}", f"ls folder{suffixes}"),
        row("pipe", 2, f"pipe: image set is not a regular file or folder; it must be {KINDS}", "--images FOLDER"),
        row(
            "corrupt",
            3,
            "corrupt: number of usable images is 0 of 5 (….jpg: not an image that Pillow can decode; …); at least one "
            "is needed",
            "name a set of photos: --images FOLDER",
        ),
        row(
            "some",
            3,
            "some: number of unusable images is 5 of … (bad….png: damaged: …); at most 1.00% may be",
            "repair or remove them, or allow more: --max-bad SHARE",
        ),
        row(
            "shape.npy",
            2,
            "shape.npy: array: shape is (3, 64, 64); it must be (batch, 1 or 3 channels, height, width)",
            "transpose it: x.transpose(0, 3, 1, 2) for channels last",
        ),
        row(
            "complex.npy",
            2,
            "complex.npy: array: dtype is complex64; it must be float or unsigned integer",
            ARRAY_HINT,
        ),
        row(
            "objects.npy",
            3,
            "objects.npy: file is not a plain array (it holds Python objects); it must be npy or npz without objects",
            ARRAY_HINT,
        ),
        row(
            "text.npy",
            3,
            "text.npy: file is not a plain array (it starts with b'hello '); it must be npy or npz",
            ARRAY_HINT,
        ),
        row(
            "header.npy",
            3,
            "header.npy: file is not a plain array (…); it must be npy or npz without objects",
            ARRAY_HINT,
        ),
        row(
            "short.npy",
            3,
            "short.npy: file is not a plain array (…); it must be npy or npz without objects",
            ARRAY_HINT,
        ),
        row(
            "size.npy",
            2,
            "size.npy#…: tensor (channel, height, width) is (3, 32, 32); pass.onnx takes (3, 64, 64)",
            "robustcheck inspect pass.onnx",
        ),
        row(
            "grey.npy",
            2,
            "grey.npy#…: tensor (channel, height, width) is (1, 64, 64); pass.onnx takes (3, 64, 64)",
            "robustcheck inspect pass.onnx",
        ),
        row(
            "nan.npy",
            3,
            "nan.npy: number of usable images is 0 of 6 (nan.npy#…: values that are not finite; …); at least one is "
            "needed",
            "name a set of photos: --images FOLDER",
        ),
        row(
            "pickles.tar",
            2,
            "pickles.tar: number of images in 1 tar file(s) is 0; members must be images (.jpg, …)",
            "tar tf pickles.tar",
        ),
        row("short.tar", 3, f"short.tar: {damaged_tar}", "tar tf short.tar"),
        row("text.tar", 3, f"text.tar: {damaged_tar}", "tar tf text.tar"),
        row(
            "x.tar.gz",
            2,
            "x.tar.gz: shard is compressed; shards must be plain .tar so that images can be read in any order",
            "gunzip x.tar.gz (or the like), then name the .tar",
        ),
        row(
            "gone.csv",
            2,
            "gone.csv: row 3: path is photos/nope.png; there is no such file",
            "ls -l photos/nope.png  # paths are relative to the folder of gone.csv",
        ),
        row(
            "columns.csv",
            2,
            "columns.csv: row 2 has the columns name, label; one of path, image, file must name the image",
            "sed -n 1p columns.csv",
        ),
        row(
            "cells.csv",
            2,
            "cells.csv: row 2 has more cells than columns; quote cells that hold a comma",
            "sed -n 2p cells.csv",
        ),
        row("empty.csv", 2, "empty.csv: number of images listed is 0; at least one is needed", "cat empty.csv"),
        row(
            "bad.jsonl",
            2,
            "bad.jsonl: row 2 is not JSON (…); each row must be an object",
            "sed -n 2p bad.jsonl",
        ),
        row("list.jsonl", 2, "list.jsonl: row 1 is [1]; each row must be a JSON object", "sed -n 1p list.jsonl"),
        row("deep.jsonl", 2, "deep.jsonl: row 1 is not JSON (…); each row must be an object", "sed -n 1p deep.jsonl"),
        row(
            "binary.txt",
            2,
            "binary.txt: file is not readable UTF-8 text (…); a list or manifest must be",
            "file binary.txt",
        ),
    ]


def option_rows() -> list[Row]:
    def row(options: str, code: int, message: str, hint: str) -> Row:
        return Row(f"pass.onnx --images photos {options}", code, message, hint)

    check_help = "robustcheck check --help"
    devices = "it must be auto, cpu, cuda, cuda:N or tensorrt"
    equals = "a path must follow the equals sign"
    return [
        row(
            "--preprocess nonsense",
            2,
            "--preprocess: value is nonsense; it must be clip, imagenet or a JSON file that exists",
            "--preprocess clip",
        ),
        row(
            "--preprocess p_text.json",
            2,
            "p_text.json: content is not readable JSON (…); a preprocessing file must be",
            "python -m json.tool p_text.json",
        ),
        row("--preprocess p_list.json", 2, "p_list.json: content is a JSON list; it must be an object", FIELDS),
        row("--preprocess p_less.json", 2, "p_less.json: resize_mode is missing; Field required", FIELDS),
        row("--preprocess p_more.json", 2, "p_more.json: sizes is [1, 1]; Extra inputs are not permitted", FIELDS),
        row("--preprocess p_zero.json", 2, "p_zero.json: std.0 is 0; Input should be greater than 0", FIELDS),
        row(
            "--preprocess p_size.json",
            2,
            "p_size.json: size is 32×32; the model's input is 64×64 (height×width)",
            "give the preprocessing of this model with --preprocess FILE",
        ),
        row("--thresholds nope.json", 2, "nope.json: threshold profile cannot be read (…)", DEFAULT_PROFILE),
        row(
            "--thresholds t_newer.json",
            2,
            "t_newer.json: schema_version is 99; this robustcheck reads 1",
            DEFAULT_PROFILE,
        ),
        row(
            "--thresholds t_edited.json",
            2,
            "t_edited.json: digest does not match the content; the profile was changed after it was sealed",
            DEFAULT_PROFILE,
        ),
        row("--thresholds text.npy", 2, "text.npy: threshold profile is not JSON (…)", DEFAULT_PROFILE),
        row(
            "--thresholds deep.jsonl",
            2,
            "deep.jsonl: threshold profile is nested too deeply; it must be a sealed profile",
            DEFAULT_PROFILE,
        ),
        row(
            "--tensor representatoin",
            2,
            "pass.onnx: --tensor is 'representatoin'; no tensor of that name is computed from the image",
            "--tensor with one of: representation",
        ),
        row("--pool nonsense", 2, "--pool is 'nonsense'; it must be cls, mean or none", "--pool mean"),
        row("--device nonsense", 2, f"--device is 'nonsense'; {devices}", "--device auto"),
        row("--device cuda:x", 2, f"--device is 'cuda:x'; {devices}", "--device cuda:0"),
        row("--max-bad 2", 2, "--max-bad is '2'; it must be less than or equal to 1", check_help),
        row("--max-bad=nan", 2, "--max-bad is 'nan'; …", check_help),
        row("--max-images 0", 2, "--max-images is '0'; it must be greater than or equal to 1", check_help),
        row("--seed x", 2, "--seed is 'x'; it must be a valid integer", check_help),
        row("--batch-size 33", 2, "--batch-size is '33'; it must be less than or equal to 32", check_help),
        row("--color red", 2, "--color is 'red'; it must be one of auto, always, never", "--color …"),
        row("-o jsn", 2, f"--output is 'jsn'; it must be one of {', '.join(formats.NAMES)}", "--output json"),
        row("-o terminal=", 2, f"--output is 'terminal='; {equals}", "-o terminal=report.terminal"),
        row(
            "-o terminal -o terminal",
            2,
            "--output names stdout twice; only one document fits there",
            "-o json=report.json",
        ),
        row(
            "-o terminal=r.txt -o terminal=r.txt",
            2,
            "--output names r.txt twice; only one document fits there",
            "-o json=report.json",
        ),
        row(
            "-o json=absent/r.json",
            2,
            "absent/r.json: folder absent is missing; reports are written into existing folders",
            "mkdir -p absent",
        ),
        row(
            "-o terminal=text.npy/r.txt",
            2,
            "text.npy/r.txt: folder text.npy is missing; reports are written into existing folders",
            "mkdir -p text.npy",
        ),
        row(
            "-o json=folder",
            2,
            "folder: report path is a folder; it must be a file",
            "-o json=folder/report.json",
        ),
        row(
            "-o json=./pass.onnx",
            2,
            "pass.onnx: report path is a file that is read; a report must not replace it",
            "-o json=pass.json",
        ),
    ]  # fmt: skip


def call_rows() -> list[Row]:
    return [
        Row(
            "pass.onnx --imags photos",
            2,
            "option --imags is not known; the closest is --images",
            "robustcheck check pass.onnx --images photos",
        ),
        Row("pass.onnx --zzz", 2, "option --zzz is not known; robustcheck check has no such option", "…check --help"),
        Row("--versoin", 2, "option --versoin is not known; the closest is --version", "robustcheck --version"),
        Row("inspct pass.onnx", 2, "command is 'inspct'; the closest is inspect", "robustcheck inspect pass.onnx"),
        Row("pass.onnx --images", 2, "--images is given no value; it needs one", "robustcheck check --help"),
        Row("pass.onnx --quiet=3", 2, "--quiet is given a value; it takes none", "robustcheck check --help"),
        Row("inspect pass.onnx b", 2, "argument is b; robustcheck inspect takes no more", "robustcheck inspect --help"),
        Row("check", 2, "MODEL.onnx is missing; robustcheck check needs it", "robustcheck check --help"),
        Row("inspect", 2, "MODEL.onnx is missing; robustcheck inspect needs it", "robustcheck inspect --help"),
        Row("inspect pass.onnx -o xml", 2, "--output is 'xml'; it must be one of terminal, json", "--output terminal"),
        Row(
            "explain rectifed",
            2,
            "topic is 'rectifed'; it must be a reason id, exit-codes or reasons",
            "robustcheck explain rectified",
        ),
    ]  # fmt: skip


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
            "--head is fc; it is for the source torch only, timm models have a known head",
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
            "openai/clip-nope: weights are not on this machine and could not be fetched; a local copy or a network is "
            "needed",
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


# ------------------------------------------------------------------------------------- the folder of broken files


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory,
    lookup: ModuleType,
    onnx_models: ModuleType,
    lookup_pass: tuple[Path, Path],
) -> Path:
    folder = tmp_path_factory.mktemp("world")
    model, photos = lookup_pass
    shutil.copy(model, folder / "pass.onnx")
    shutil.copytree(photos, folder / "photos")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    _write_models(folder, lookup, onnx_models)
    _write_images(folder)
    _write_settings(folder, lookup)
    return folder


@pytest.fixture(scope="module")
def warm(warm_command: ModuleType) -> Iterator[Callable[..., Done]]:
    """As `run`, without start-up."""
    command = warm_command.WarmCommand(environment())
    yield command.run
    command.close()


def _write_models(folder: Path, lookup: ModuleType, tiny: ModuleType) -> None:
    whole = (folder / "pass.onnx").read_bytes()
    (folder / "empty.onnx").write_bytes(b"")
    (folder / "text.onnx").write_text("hello world\n" * 20, encoding="utf-8")
    (folder / "lfs.onnx").write_text(LFS, encoding="utf-8")
    (folder / "truncated.onnx").write_bytes(whole[: len(whole) // 2])
    (folder / "zip.onnx").write_bytes(b"PK\x03\x04" + bytes(100))
    (folder / "pickle.onnx").write_bytes(pickle.dumps({"weights": Path("x")}, protocol=2))

    text = tiny.classifier().SerializeToString()
    (folder / "bytes.onnx").write_bytes(text.replace(b"logits", b"log\xeets"))

    (folder / "whole").mkdir()
    tiny.save(tiny.classifier(), folder / "whole" / "m.onnx", external=True)
    for name in ("missing", "short", "pointer", "escape"):
        shutil.copytree(folder / "whole", folder / name)
    (folder / "missing" / "m.onnx.data").unlink()
    data = (folder / "short" / "m.onnx.data").read_bytes()
    (folder / "short" / "m.onnx.data").write_bytes(data[:-10])
    (folder / "pointer" / "m.onnx.data").write_text(LFS, encoding="utf-8")
    escaping = load(folder / "escape" / "m.onnx", load_external_data=False)
    for weight in escaping.graph.initializer:
        for entry in weight.external_data:
            if entry.key == "location":
                entry.value = "../whole/m.onnx.data"
    save(escaping, folder / "escape" / "m.onnx")

    nodes, weights = tiny.pooled()
    ids = ("input_ids", TensorProto.INT64, ("batch", 77))
    four = ("image", TensorProto.FLOAT, ("batch", 4, 8, 8))
    boxes = {"w": tiny.weight(16, 400), "s": np.array([1, 100, 4]), "p": tiny.weight(1, 1, 100), "n": np.array([10])}
    elements = np.array([1 << 17, 1 << 17, 16])  # float32: 1 TiB
    models = {
        "op": tiny.build([*nodes, ("Flour", ["features"], ["out"])], ["out"], weights),
        "domain": tiny.build([*nodes, ("com.acme:Foo", ["features"], ["out"])], ["out"], weights, domains=["com.acme"]),
        "opset": tiny.build(nodes, ["features"], weights, opset=99),
        "ir": tiny.build(nodes, ["features"], weights, ir_version=99),
        "vector": tiny.build(
            [("Add", ["image", "image"], ["y"])], ["y"], inputs=[("image", TensorProto.FLOAT, ("batch", 10))]
        ),
        "noinput": tiny.build([("Constant", [], ["y"], {"value_float": 1.0})], ["y"], inputs=[]),
        "several": tiny.build(
            [*nodes, ("Add", ["features", "t"], ["y"])],
            ["y"],
            weights,
            inputs=[tiny.IMAGE, ("t", TensorProto.FLOAT, ("batch", 16))],
        ),
        "words": tiny.build([("Cast", ["input_ids"], ["y"], {"to": 1})], ["y"], inputs=[ids]),
        "detector": tiny.build(
            [
                *nodes,
                ("Gemm", ["features", "w"], ["b"]),
                ("Reshape", ["b", "s"], ["dets"]),
                ("NonMaxSuppression", ["dets", "p", "n"], ["selected"]),
            ],
            ["dets", "selected"],
            weights | boxes,
        ),
        "four": tiny.build([("Conv", ["image", "w"], ["y"])], ["y"], {"w": tiny.weight(3, 4, 3, 3)}, inputs=[four]),
        "infinite": tiny.build(
            [*nodes, ("Div", ["features", "z"], ["y"])], ["y"], weights | {"z": np.zeros(16, np.float32)}
        ),
        "constant": tiny.build(
            [*nodes, ("Mul", ["features", "z"], ["y"])], ["y"], weights | {"z": np.zeros(16, np.float32)}
        ),
        "reshape": tiny.build([("Reshape", ["image", "s"], ["y"])], ["y"], {"s": np.array([-1, 1000003])}),
        "huge": _asks_for(tiny, elements),
        "endless": _endless(tiny),
        "large": _asks_for(tiny, np.array([1 << 30])),  # float32: 4 GiB
    }
    contract = lookup.lookup_contract()
    entry = contract["tensors"]["representation"]
    for name, text in {
        "c_text": "{",
        "c_list": "[]",
        "c_deep": "[" * 100_000,
        "c_newer": json.dumps(contract | {"schema_version": 2}),
        "c_less": json.dumps({key: value for key, value in contract.items() if key != "preprocessing"}),
        "c_tensor": json.dumps(contract | {"tensors": {"representation": entry, "nope": entry}}),
    }.items():
        models[name] = tiny.encoder(output="representation")
        helper.set_model_props(models[name], {lookup.CONTRACT_KEY: text})
    for name, proto in models.items():
        save(proto, folder / f"{name}.onnx")
    (folder / "side").mkdir()
    tiny.save(tiny.classifier(), folder / "side" / "m.onnx")
    (folder / "side" / "m.robustcheck.json").write_text("{broken", encoding="utf-8")


def _asks_for(tiny: ModuleType, shape: Any) -> Any:
    """A model that makes a tensor of `shape` (float32) on its way."""
    nodes, weights = tiny.pooled()
    more = [
        ("ConstantOfShape", ["shape"], ["big"]),
        ("ReduceSum", ["big"], ["sum"], {"keepdims": 0}),
        ("Add", ["features", "sum"], ["y"]),
    ]
    return tiny.build([*nodes, *more], ["y"], weights | {"shape": shape})


def _endless(tiny: ModuleType) -> Any:
    """A model with a loop of 2^62 rounds."""
    scalar = {name: helper.make_tensor_value_info(name, kind, []) for name, kind in _LOOP.items()}
    rounds = [helper.make_node("Identity", ["on"], ["still_on"]), helper.make_node("Add", ["x", "one"], ["next_x"])]
    body = helper.make_graph(
        rounds, "body", [scalar[n] for n in ("i", "on", "x")], [scalar[n] for n in ("still_on", "next_x")]
    )
    nodes, weights = tiny.pooled()
    values = {"one": np.float32(1), "n": np.int64(2**62), "yes": np.bool_(True), "zero": np.float32(0)}
    weights |= {name: np.array(value) for name, value in values.items()}
    loop = ("Loop", ["n", "yes", "zero"], ["end"], {"body": body})
    return tiny.build([*nodes, loop, ("Add", ["features", "end"], ["y"])], ["y"], weights)


def _write_images(folder: Path) -> None:
    for name in ("texts", "corrupt"):
        (folder / name).mkdir()
    for number in range(3):
        (folder / "texts" / f"{number}.txt").write_text("x", encoding="utf-8")
    shutil.copytree(folder / "photos", folder / "some")
    for number in range(5):
        (folder / "corrupt" / f"{number}.jpg").write_bytes(b"\xff\xd8\xff broken")
        (folder / "some" / f"bad{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    (folder / "five").mkdir()
    for photo in sorted((folder / "photos").iterdir())[:5]:
        shutil.copy(photo, folder / "five")

    np.save(folder / "shape.npy", np.zeros((3, 64, 64), np.float32))
    np.save(folder / "complex.npy", np.zeros((5, 3, 64, 64), np.complex64))
    np.save(folder / "objects.npy", np.array([{"a": 1}], object), allow_pickle=True)
    np.save(folder / "size.npy", np.zeros((5, 3, 32, 32), np.float32))
    np.save(folder / "grey.npy", np.zeros((5, 1, 64, 64), np.float32))
    np.save(folder / "nan.npy", np.full((6, 3, 64, 64), np.nan, np.float32))
    (folder / "short.npy").write_bytes((folder / "nan.npy").read_bytes()[:5000])
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (5, 3, 64, 64" + b" " * 50 + b"\n"
    (folder / "header.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    (folder / "text.npy").write_text("hello world", encoding="utf-8")
    with tarfile.open(folder / "good.tar", "w") as archive:
        archive.add(folder / "five", "five")
    with tarfile.open(folder / "pickles.tar", "w") as archive:
        archive.add(folder / "pickle.onnx", "0001.pkl")
    (folder / "short.tar").write_bytes((folder / "good.tar").read_bytes()[:5000])
    (folder / "text.tar").write_text("hello" * 300, encoding="utf-8")
    (folder / "x.tar.gz").write_bytes(b"x")
    for name, text in {
        "gone.csv": "path,label\nphotos/photo_00000.png,a\nphotos/nope.png,b\n",
        "columns.csv": "name,label\nx,a\n",
        "cells.csv": "path\nphotos/photo_00000.png,b,c\n",
        "empty.csv": "path\n",
        "bad.jsonl": '{"path": "photos/photo_00000.png"}\n{"path": \n',
        "list.jsonl": "[1]\n",
        "deep.jsonl": "[" * 100_000,
        "long.txt": "\n".join(f"photos/photo_{n % 80:05d}.png" for n in range(20_000)),
    }.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "binary.txt").write_bytes(b"\xff\xfe\x00")


def _write_settings(folder: Path, lookup: ModuleType) -> None:
    fields = lookup.lookup_preprocessing()
    default = profiles.load()
    never = profiles.seal(default.model_copy(update={"id": "never decided", "min_images": 10**6}))
    raw = json.loads(profiles.to_json(default))
    squashed = fields | {"size": [32, 32], "resize_size": [32, 32], "resize_mode": "squash"}
    for name, value in {
        "p_list": [],
        "p_less": {"size": [64, 64], "mean": [0, 0, 0], "std": [1, 1, 1]},
        "p_more": fields | {"sizes": [1, 1]},
        "p_zero": fields | {"std": [0, 1, 1]},
        "p_size": fields | {"size": [32, 32], "resize_size": [32, 32]},
        "p_net": squashed | {"interpolation": "bilinear"},
        "t_newer": raw | {"schema_version": 99},
        "t_edited": raw | {"alpha": 0.5},
        "t_never": json.loads(profiles.to_json(never)),
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    (folder / "p_text.json").write_text("{bad", encoding="utf-8")
    (folder / "net.py").write_text(
        "import os, pathlib, time, torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv, self.fc = torch.nn.Conv2d(3, 8, 3), torch.nn.Linear(8, 4)\n"
        "    def forward(self, x):\n"
        "        return self.fc(self.conv(x).mean((2, 3)))\n"
        "def build():\n"
        "    return Net()\n"
        "def build_slow():  # parity, the step while the draft lies on the disk, takes for ever\n"
        "    from robustcheck_onnx.exporters import parity\n"
        "    def wait(*_, **__):\n"
        "        pathlib.Path(os.environ['MARK']).touch()\n"
        "        time.sleep(60)\n"
        "    parity.measure = wait\n"
        "    return Net()\n",
        encoding="utf-8",
    )


# ---------------------------------------------------------------------------------------------------- the table


def environment(**more: str) -> dict[str, str]:
    """The caller's, without what would change messages, and without a network for the model hubs."""
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "PYTHONUNBUFFERED")}
    return kept | {"HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"} | more


def run(folder: Path, *arguments: str, before: Callable[[], None] | None = None, **more: str) -> Done:
    return subprocess.run(
        [COMMAND, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=environment(**more),
        preexec_fn=before,
    )  # fmt: skip


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder, hidden ones too, with its size and time of change."""
    status = {str(path.relative_to(folder)): path.lstat() for path in folder.rglob("*")}
    return {name: (found.st_size, found.st_mtime_ns) for name, found in status.items()}


def agrees(expected: str, text: str) -> bool:
    return re.fullmatch(".*".join(re.escape(part) for part in expected.split("…")), text) is not None


def assert_says(done: Done, code: int, message: str, hint: str) -> None:
    lines = done.stderr.splitlines()
    assert (done.returncode, len(lines)) == (code, 2), done.stderr
    assert not NATIVE.search(done.stderr)
    assert agrees(f"error: {message}", lines[0]), lines[0]
    assert agrees(f"hint: {hint}", lines[1]), lines[1]


def check_row(world: Path, row: Row, command: Callable[..., Done]) -> None:
    before = contents(world)
    done = command(world, *row.arguments)
    assert_says(done, row.code, row.message, row.hint)
    assert done.stdout == ""
    assert contents(world) == before


@pytest.mark.parametrize("row", [*model_rows(), *option_rows(), *call_rows()], ids=lambda row: row.call)
def test_check(world: Path, row: Row, warm: Callable[..., Done]) -> None:
    if row.message.startswith(("infinite", "constant")):
        row = row._replace(call=f"{row.call} --images five")
    check_row(world, row, warm)


@pytest.mark.parametrize("row", image_rows(), ids=lambda row: row.call.split()[-1])
def test_images(world: Path, row: Row, warm: Callable[..., Done]) -> None:
    check_row(world, row, warm)


@pytest.mark.export
@pytest.mark.parametrize("row", export_rows(), ids=lambda row: row.call)
def test_export(world: Path, row: Row, warm: Callable[..., Done]) -> None:
    check_row(world, row, warm)


CALLS = ["nope.onnx", "pass.onnx --images photos --no-time", "inspect pass.onnx -o json", "text.onnx -o json", "--help"]


@pytest.mark.parametrize("call", CALLS)
def test_the_warm_command_is_the_command(world: Path, call: str, warm: Callable[..., Done]) -> None:
    """So the table runs the command without its start-up."""
    cold, again = run(world, *call.split()), warm(world, *call.split())
    assert (again.returncode, again.stdout, again.stderr) == (cold.returncode, cold.stdout, cold.stderr)


def test_the_table_can_fail(world: Path, warm: Callable[..., Done]) -> None:
    row = Row("nope.onnx", 2, "nope.onnx: model file is missing; no such file", "ls .")
    done = warm(world, *row.arguments)
    for code, message, hint in ((3, *row[2:]), (2, "nope.onnx: model file is missing", row.hint), (2, row.message, "")):
        with pytest.raises(AssertionError):
            assert_says(done, code, message, hint)
    assert not agrees("a…c", "a c d")
    assert not agrees("a.c", "abc")


def test_no_word_at_all_is_the_help_and_an_error(world: Path, warm: Callable[..., Done]) -> None:
    done = warm(world)
    *words, error, hint = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: robustcheck" in "\n".join(words)
    assert error == "error: MODEL.onnx is missing; robustcheck needs a model or a command"
    assert hint == "hint: robustcheck model.onnx"


@pytest.mark.skipif(
    subprocess.run(["nvidia-smi"], capture_output=True, check=False).returncode == 0
    if shutil.which("nvidia-smi")
    else False,
    reason="there is a GPU",
)
@pytest.mark.parametrize("device", ["cuda:1", "tensorrt"])
def test_a_device_that_is_not_there_is_the_environment(world: Path, device: str, warm: Callable[..., Done]) -> None:
    done = warm(world, "pass.onnx", "--device", device)
    assert_says(done, 4, f"--device is {device}; …", "robustcheck doctor, or --device cpu")
    assert done.stdout == ""


def test_images_that_are_all_alike_to_the_model_are_a_warning(
    world: Path, tmp_path: Path, lookup: ModuleType, warm: Callable[..., Done]
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
    (tmp_path / "m.onnx").write_bytes(content.replace(b"conv.weight", b"conv.w\xeeight", 1))  # one end of an edge
    done = warm(world, str(tmp_path / "m.onnx"), "--images", "five", "--preprocess", "imagenet", "--device", "cpu")
    assert_says(
        done,
        3,
        f"{tmp_path}/m.onnx: ONNX Runtime … refuses the model: …'conv.w\\xeeight'…",
        f"robustcheck inspect {tmp_path}/m.onnx",
    )
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("name", "shown"), [("a\x1b[31m.onnx", r"a\x1b[31m.onnx"), (os.fsdecode(b"\xff.onnx"), r"\udcff.onnx")]
)
def test_a_file_name_cannot_drive_the_terminal(world: Path, name: str, shown: str, warm: Callable[..., Done]) -> None:
    done = warm(world, name)
    assert_says(done, 2, f"{shown}: model file is missing; no such file", "ls .")


# ------------------------------------------------------------------------------------------------- JSON on errors

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
    assert document == {
        "schema_version": 1,
        "tool": "robustcheck",
        "error": {
            "message": lines[0].removeprefix("error: "),
            "hint": lines[1].removeprefix("hint: "),
            "exit_code": row.code,
        },
    }


def test_an_error_replaces_an_earlier_report_and_nothing_else(
    world: Path, tmp_path: Path, warm: Callable[..., Done]
) -> None:
    report, other = tmp_path / "r.json", tmp_path / "mine.json"
    assert warm(world, "pass.onnx", "--images", "photos", "-q", "-o", f"json={report}").returncode == 0
    assert json.loads(report.read_text(encoding="utf-8"))["verdict"]["verdict"] == "PASS"
    assert warm(world, "text.onnx", "-o", f"json={report}").returncode == 3
    document = json.loads(report.read_text(encoding="utf-8"))
    assert (document["error"]["exit_code"], "verdict" in document) == (3, False)
    other.write_text('{"mine": 1}', encoding="utf-8")
    assert warm(world, "text.onnx", "-o", f"json={other}").returncode == 3
    assert other.read_text(encoding="utf-8") == '{"mine": 1}'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.json", "r.json"]


# -------------------------------------------------------------------------------------------- where reports go


def small_files() -> None:
    """Files of at most 2 KiB, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))


@pytest.mark.parametrize("form", ["json", "terminal"])
def test_a_full_disk_leaves_nothing(world: Path, tmp_path: Path, form: str) -> None:
    report = tmp_path / "report"
    done = run(world, "pass.onnx", "--images", "photos", "-o", f"{form}={report}", before=small_files)
    assert_says(
        done, 4, f"{report}: report is not written (File too large); it must be written whole", f"df -h {tmp_path}"
    )
    assert done.stdout == ""
    if form == "json":  # the error document is small enough
        assert json.loads(report.read_text(encoding="utf-8"))["error"]["exit_code"] == 4
        report.unlink()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("buffering", ["", "1"])
@pytest.mark.parametrize("call", ["pass.onnx --images photos -o json", "pass.onnx --images photos", "schema", "--help"])
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
        "stdout: system says File too large; space, quota, open files and rights must suffice",
        "df -h; ulimit -a",
    )


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="/dev/full is Linux's")
def test_a_full_device(world: Path) -> None:
    for stream, code in (("stdout", 4), ("stderr", 2)):
        with Path("/dev/full").open("w", encoding="utf-8") as full:
            streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | {stream: full}
            call = ["schema"] if stream == "stdout" else ["nope.onnx"]
            done = subprocess.run([COMMAND, *call], cwd=world, check=False, env=environment(), **streams)
        assert done.returncode == code


@pytest.mark.parametrize("call", ["pass.onnx --images photos -o json", "pass.onnx --images photos", "schema"])
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
        ("pass.onnx --images photos -q", ">&-", 0),
        ("pass.onnx --images photos -q", "2>&-", 0),
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
        done = warm(world, "pass.onnx", "--images", "photos", "-q", "-o", f"json={fifo}")
        received, _ = reader.communicate(timeout=20)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(received)["verdict"]["verdict"] == "PASS"
    assert [(path.name, path.is_fifo()) for path in tmp_path.iterdir()] == [("fifo", True)]


def test_a_link_stays_a_link(world: Path, tmp_path: Path, warm: Callable[..., Done]) -> None:
    (tmp_path / "link.json").symlink_to("target.json")
    assert warm(world, "pass.onnx", "--images", "photos", "-q", "-o", f"json={tmp_path / 'link.json'}").returncode == 0
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


# ----------------------------------------------------------------------------------------- memory, interruptions


def little_memory() -> None:
    """600 MiB of address space, and one core, so that start-up needs the same everywhere."""
    resource.setrlimit(resource.RLIMIT_AS, (600 << 20, 600 << 20))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS ignores RLIMIT_AS")
def test_memory_that_ends_is_the_environment(world: Path) -> None:
    done = run(world, "large.onnx", "--images", "five", before=little_memory, OPENBLAS_NUM_THREADS="1")
    assert_says(
        done,
        4,
        "large.onnx: memory ran out (4294967296 bytes were asked for); the model must fit with one image at least",
        "free -h, or nvidia-smi for a GPU; --device cpu where the GPU is the smaller one",
    )
    assert done.stdout == ""


SIGNALS = [
    (signal.SIGINT, 130, "interrupted (SIGINT)"),
    (signal.SIGTERM, 143, "terminated (SIGTERM)"),
]


def default_signals() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell gives background jobs one that is ignored


@pytest.mark.parametrize(("number", "code", "words"), SIGNALS)
def test_an_interrupted_check_leaves_nothing(
    world: Path, tmp_path: Path, number: signal.Signals, code: int, words: str
) -> None:
    before = contents(world)
    (tmp_path / "old.json").write_text("old", encoding="utf-8")
    call = ["pass.onnx", "--images", "long.txt", "--thresholds", "t_never.json"]
    call += ["-o", f"json={tmp_path / 'old.json'}", "-o", f"terminal={tmp_path / 'new.txt'}", "-o", "json"]
    control, terminal = pty.openpty()
    with subprocess.Popen(
        [COMMAND, *call],
        cwd=world, stdout=subprocess.PIPE, stderr=terminal, env=environment(TERM="xterm"),
        preexec_fn=default_signals,  # noqa: PLW1509 # this process has no threads that hold a lock
    ) as process:  # fmt: skip
        os.close(terminal)
        said = _read_until(control, "images/s")
        process.send_signal(number)
        out, _ = process.communicate(timeout=20)
        said += _read_until(control, "")
    os.close(control)
    assert process.returncode == code
    assert f"error: {words}; there is no verdict, and nothing half-written is left" in said
    assert "Traceback" not in said
    assert out == b""
    assert [(path.name, path.read_text(encoding="utf-8")) for path in tmp_path.iterdir()] == [("old.json", "old")]
    assert contents(world) == before


def _read_until(control: int, mark: str) -> str:
    """What a terminal shows until `mark` comes, or until the program ends."""
    shown, end = b"", time.monotonic() + 20
    while time.monotonic() < end and not (mark and mark.encode() in shown):
        if select.select([control], [], [], 0.1)[0]:
            try:
                piece = os.read(control, 65536)
            except OSError:  # Linux's word for the end of a terminal
                break
            if not piece:
                break
            shown += piece
    return shown.decode(errors="replace")


def _work(process: subprocess.Popen[str], cpu_s: float) -> None:
    """Wait until a process has worked so long, however busy the machine is."""
    end = time.monotonic() + (30 if Path("/proc/self/stat").exists() else 3)
    while time.monotonic() < end and process.poll() is None:
        time.sleep(0.02)
        with contextlib.suppress(FileNotFoundError):  # not Linux
            fields = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            if (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") >= cpu_s:  # user and system time
                break
    assert process.poll() is None


@pytest.mark.parametrize(("number", "code", "words"), SIGNALS)
def test_a_graph_that_never_ends_can_be_interrupted(world: Path, number: signal.Signals, code: int, words: str) -> None:
    """Python runs no signal handler during a native call; `timeout` sends its signal twice."""
    call = ["endless.onnx", "--images", "five", "--preprocess", "imagenet"]
    with subprocess.Popen(
        [COMMAND, *call],
        cwd=world, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
        preexec_fn=default_signals,  # noqa: PLW1509 # this process has no threads that hold a lock
    ) as process:  # fmt: skip
        _work(process, 1.2)  # seconds; start-up takes some 0.5
        process.send_signal(number)
        process.send_signal(number)
        try:
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, out) == (code, "")
    assert err == f"error: {words}; there is no verdict, and nothing half-written is left\n"


@pytest.mark.export
@pytest.mark.parametrize(("number", "code", "words"), SIGNALS[1:])  # both go the same way, as shown above
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


@pytest.mark.export
def test_an_export_on_a_full_disk_leaves_nothing(world: Path, tmp_path: Path) -> None:
    call = ["export", "torch", "net:build", "--preprocessing", "p_net.json", "--random-weights"]
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
        "pip install 'robustcheck-onnx[export]'",
    )
    assert done.stdout == ""

"""Bad input through the real command: values of options, settings files, unknown words, devices that are not there."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from robustcheck_onnx.checker.report import forms
from support.bad_input import Done, Row, assert_says, check_row

FIELDS = "fields: size, resize_mode, resize_size, interpolation, crop, crop_rounding, fill, rescale, mean, std, …"
DEFAULT_PROFILE = "leave out --thresholds for the default profile"


def option_rows() -> list[Row]:
    def row(options: str, code: int, message: str, hint: str) -> Row:
        return Row(f"pass.onnx --images photos {options}", code, message, hint)

    check_help = "robustcheck check --help"
    devices = "it must be auto, cpu, cuda, cuda:N or tensorrt, or another execution provider that the installed ONNX …"
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
            "give this model's own preprocessing, of size [64, 64], with --preprocess FILE",
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
            "robustcheck inspect pass.onnx --tensor representation",
        ),
        row("--pool nonsense", 2, "--pool is 'nonsense'; it must be cls, mean or none", "--pool mean"),
        row("--device nonsense", 2, f"--device is 'nonsense'; {devices}", "--device auto"),
        row(
            "--device cuda --provider-option use_tf32",
            2,
            "--provider-option is 'use_tf32'; it must be KEY=VALUE, without a comma",
            "--device cuda --provider-option use_tf32=1",
        ),
        row("--device cuda:x", 2, "--device is 'cuda:x'; behind the colon stands a device's number", "--device cuda:0"),
        row("--max-bad 2", 2, "--max-bad is '2'; it must be less than or equal to 1", check_help),
        row("--max-bad=nan", 2, "--max-bad is 'nan'; …", check_help),
        row("--max-images 0", 2, "--max-images is '0'; it must be greater than or equal to 1", check_help),
        row("--seed x", 2, "--seed is 'x'; it must be a valid integer", check_help),
        row("--batch-size 33", 2, "--batch-size is '33'; it must be less than or equal to 32", check_help),
        row("--color red", 2, "--color is 'red'; it must be one of auto, always, never", "--color …"),
        row("-o jsn", 2, f"--output is 'jsn'; it must be one of {', '.join(forms.OUTPUTS)}", "--output json"),
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
            "pass.onnx: report path is a file that this run reads; a report must not replace it",
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
            "topic is 'rectifed'; it must be a reason, a kind of reasons, exit-codes, schema or reasons",
            "robustcheck explain rectified",
        ),
    ]  # fmt: skip


@pytest.mark.parametrize("row", [*option_rows(), *call_rows()], ids=lambda row: row.call)
def test_check(world: Path, row: Row, warm: Callable[..., Done]) -> None:
    check_row(world, row, warm)


def test_no_word_at_all_is_the_help_and_an_error(world: Path, warm: Callable[..., Done]) -> None:
    done = warm(world)
    *words, error, hint = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: robustcheck" in "\n".join(words)
    assert error == "error: MODEL.onnx is missing; robustcheck needs a model or a command"
    assert hint == "hint: robustcheck model.onnx --images photos/"


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

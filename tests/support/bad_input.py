"""Command lines, the folder of broken files that they run in, and what they must say.

"…" in an expected message stands for text that depends on versions or on the machine.
"""

import contextlib
import functools
import io
import json
import os
import pickle
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, parser, save
from typer.main import get_command

from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.cli import process
from support import BIN, PATIENCE_S, Capture, documents, lookup, onnx_models
from support.onnx_models import written

COMMAND = str(BIN / "robustcheck")
NATIVE = re.compile(r"\.(cc|h|cu)\b|::|\[ONNXRuntimeError\]|Traceback")  # of ONNX Runtime's source, of Python
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]
"""`run("pass.onnx --images photos", folder=…, **environment)`"""


def environment(**more: str) -> dict[str, str]:
    """The caller's, without what would change messages, and without a network for the model hubs."""
    others = ("COLUMNS", "PYTHONUNBUFFERED", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY")
    kept = {name: value for name, value in os.environ.items() if name not in others}
    return kept | {"HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"} | more


def run(call: str | list[str], folder: Path | None = None, **options: Any) -> Done:
    """A command line of robustcheck, or another program's words, in a process of its own."""
    words = [COMMAND, *shlex.split(call)] if isinstance(call, str) else call
    defaults = {"cwd": folder, "env": environment(), **PIPES}
    done = subprocess.run(words, text=True, check=False, timeout=PATIENCE_S, **defaults | options)
    assert not (fault := documents.fault_of(done.stdout or "")), fault
    return done


def python(code: str, *words: str, **options: Any) -> Done:
    """A program of Python in a process of its own."""
    return run([sys.executable, "-c", code, *words], **options)


def listening(folder: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """The command in a process that takes signals as one in a terminal does, and whose ends are read."""
    words = [COMMAND, *arguments]
    options = {"cwd": folder, "env": environment(), "preexec_fn": default_signals, **PIPES, **options}
    return subprocess.Popen(words, text=True, **options)  # this process has no threads that hold a lock


GROUP_OF = functools.cache(get_command)  # typer takes 70 ms to make all verbs, which a test need not pay each time


class Typed:
    """The command in this process. What it prints is captured at the file descriptors, compiled modules included."""

    def __init__(self, capture: Capture) -> None:
        self._capture = capture

    def __call__(self, line: str, *words: str | Path, folder: Path = Path(), **more: str) -> Done:
        """What `robustcheck LINE` does in a folder. words: more of them, as they are; more: environment variables."""
        self._capture.readouterr()
        call = [*shlex.split(line), *map(str, words)]
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setattr(process, "get_command", GROUP_OF)
            for name in os.environ.keys() - environment().keys():
                patch.delenv(name)
            for name, value in environment(**more).items():
                patch.setenv(name, value)
            before = sys.stdout
            code = cli.main(call)
            sys.stdout.flush()
            if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout is not before:
                sys.stdout.detach().detach()  # it would close the file that pytest reads
                sys.stdout = before
        done = Done(call, code, *self._capture.readouterr())
        assert not (fault := documents.fault_of(done.stdout)), fault
        return done


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder, hidden ones too, with its size and time of change."""
    status = {str(path.relative_to(folder)): path.lstat() for path in folder.rglob("*")}
    return {name: (found.st_size, found.st_mtime_ns) for name, found in status.items()}


def agrees(expected: str, text: str) -> bool:
    return re.fullmatch(".*".join(re.escape(part) for part in expected.split("…")), text) is not None


def without_progress(stderr: str) -> str:
    """What a command said, without the lines of progress that come where a machine is busy."""
    return re.sub(r"^(\S+: )?\d+ s: .*\n", "", stderr, flags=re.MULTILINE)


def assert_says(done: Done, code: int, message: str, hint: str) -> None:
    lines = without_progress(done.stderr).splitlines()
    assert (done.returncode, len(lines)) == (code, 2), done.stderr
    assert not NATIVE.search(done.stderr)
    assert agrees(f"error: {message}", lines[0]), lines[0]
    assert agrees(f"hint: {hint}", lines[1]), lines[1]


@contextlib.contextmanager
def small_files() -> Iterator[None]:
    """Let this process, and what it starts, write files of at most 2 KiB, as on a disk that is full."""
    now, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (now, most))


def default_signals() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell gives background jobs one that is ignored


def write(folder: Path, model: Path, photos: Path) -> None:
    """The whole folder; `model` passes on `photos`."""
    shutil.copy(model, folder / "pass.onnx")
    shutil.copytree(photos, folder / "photos")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "link.json").symlink_to("edge.onnx")
    (folder / "loop.json").symlink_to("loop.json")
    _write_models(folder)
    _write_images(folder)
    _write_settings(folder)


def _write_models(folder: Path) -> None:
    (folder / "text.onnx").write_text("hello world\n" * 20, encoding="utf-8")
    (folder / "pickle.onnx").write_bytes(pickle.dumps({"weights": Path("x")}, protocol=2))
    for name in ("short", "side"):
        (folder / name).mkdir()
        onnx_models.save(onnx_models.classifier(), folder / name / "m.onnx", external=name == "short")
    (folder / "side" / "m.robustcheck.json").write_text("{broken", encoding="utf-8")
    content = (folder / "side" / "m.onnx").read_bytes()
    (folder / "edge.onnx").write_bytes(content.replace(b"conv.weight", b"conv.wxight", 1))  # one end of an edge
    data = folder / "short" / "m.onnx.data"
    data.write_bytes(data.read_bytes()[:-10])
    vector = ("t", TensorProto.FLOAT, ("batch", 16))
    models = {
        "op": written("out = Flour(features)"),
        "noinput": written("y = Constant(value_float=1.0)", before="", inputs=[]),
        "several": written("y = Add(features, t)", inputs=[onnx_models.IMAGE, vector]),
        "constant": written(f"y = Mul(features, {[0.0] * 16})"),
        "reshape": written("y = Reshape(image, [-1, 1000003])", before=""),
        "huge": _asks_for([1 << 17, 1 << 17, 16]),  # float32: 1 TiB
        "endless": endless_loop(),
        "large": _asks_for([1 << 30]),  # float32: 4 GiB
        "c_deep": onnx_models.encoder(output="representation"),
    }
    helper.set_model_props(models["c_deep"], {lookup.CONTRACT_KEY: "[" * 100_000})
    for name, proto in models.items():
        save(proto, folder / f"{name}.onnx")


BODY = """
body (int64 i, bool go, float[batch, 16] x) => (bool go_on, float[batch, 16] y) { go_on = Identity(go) y = Relu(x) }
"""


def endless_loop() -> ModelProto:
    """A Loop of 2^62 rounds."""
    value = ("logits", TensorProto.FLOAT, ("batch", 10))
    model = written(f"turned = Loop({1 << 62}, True, features); logits = Gemm(turned, w16x10)", value)
    loop = next(node for node in model.graph.node if node.op_type == "Loop")
    loop.attribute.append(helper.make_attribute("body", parser.parse_graph(BODY)))
    return model


def _asks_for(shape: list[int]) -> ModelProto:
    """A model that makes a tensor of `shape` (float32) on its way, known only when an image comes."""
    return written(f"""
        any = ReduceSum(features, keepdims=0); nothing = Mul(any, 0.0); none = Cast(nothing, to=INT64)
        of_this_image = Add({shape}, none); big = ConstantOfShape(of_this_image); sum = ReduceSum(big, keepdims=0)
        y = Add(features, sum)
    """)


def _write_images(folder: Path) -> None:
    shutil.copytree(folder / "photos", folder / "some")
    for number in range(5):
        (folder / "some" / f"bad{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    (folder / "five").mkdir()
    for photo in sorted((folder / "photos").iterdir())[:5]:
        shutil.copy(photo, folder / "five")
    np.save(folder / "complex.npy", np.zeros((5, 3, 64, 64), np.complex64))
    np.save(folder / "size.npy", np.zeros((5, 3, 32, 32), np.float32))
    np.save(folder / "nan.npy", np.full((6, 3, 64, 64), np.nan, np.float32))
    with tarfile.open(folder / "good.tar", "w") as archive:
        archive.add(folder / "five", "five")
    (folder / "short.tar").write_bytes((folder / "good.tar").read_bytes()[:5000])
    for name, text in {
        "gone.csv": "path,label\nphotos/photo_00000.png,a\nphotos/nope.png,b\n",
        "text.npy": "hello world",
        "deep.jsonl": "[" * 100_000,
    }.items():
        (folder / name).write_text(text, encoding="utf-8")


NET = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = torch.nn.Conv2d(3, 8, 3), torch.nn.Linear(8, 4)
    def forward(self, x): return self.fc(self.conv(x).mean((2, 3)))
def build(): return Net()
"""


def _write_settings(folder: Path) -> None:
    small = lookup.lookup_preprocessing() | {"size": [32, 32], "resize_size": [32, 32]}
    net = small | {"resize_mode": "squash", "interpolation": "bilinear"}
    for name, value in {"p_size": json.dumps(small), "p_net": json.dumps(net), "p_text": "{bad"}.items():
        (folder / f"{name}.json").write_text(value, encoding="utf-8")
    (folder / "net.py").write_text(NET, encoding="utf-8")

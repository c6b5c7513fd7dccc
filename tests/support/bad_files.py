"""The folder of broken files that the tests of bad input run in: models, images, settings."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, load, save

from robustcheck_onnx.thresholds import profile as profiles
from support import hostile, lookup, onnx_models
from support.measuring import never_decided
from support.written import written

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n"


def write(folder: Path, model: Path, photos: Path) -> None:
    """The whole folder; `model` passes on `photos`."""
    shutil.copy(model, folder / "pass.onnx")
    shutil.copytree(photos, folder / "photos")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    _write_models(folder)
    _write_images(folder)
    _write_settings(folder)


def _write_models(folder: Path) -> None:
    whole = (folder / "pass.onnx").read_bytes()
    for name, content in {
        "empty": b"",
        "text": b"hello world\n" * 20,
        "lfs": LFS,
        "truncated": whole[: len(whole) // 2],
        "zip": b"PK\x03\x04" + bytes(100),
        "pickle": pickle.dumps({"weights": Path("x")}, protocol=2),
        "bytes": onnx_models.classifier().SerializeToString().replace(b"logits", b"log\xeets"),
    }.items():
        (folder / f"{name}.onnx").write_bytes(content)

    (folder / "whole").mkdir()
    onnx_models.save(onnx_models.classifier(), folder / "whole" / "m.onnx", external=True)
    for name in ("missing", "short", "pointer", "escape"):
        shutil.copytree(folder / "whole", folder / name)
    (folder / "missing" / "m.onnx.data").unlink()
    data = folder / "short" / "m.onnx.data"
    data.write_bytes(data.read_bytes()[:-10])
    (folder / "pointer" / "m.onnx.data").write_bytes(LFS)
    escaping = load(folder / "escape" / "m.onnx", load_external_data=False)
    for initializer in escaping.graph.initializer:
        initializer.external_data[0].value = "../whole/m.onnx.data"
    save(escaping, folder / "escape" / "m.onnx")

    image, words = onnx_models.IMAGE, ("input_ids", TensorProto.INT64, ("batch", 77))
    vector, ten = (("t", TensorProto.FLOAT, ("batch", 16)), ("image", TensorProto.FLOAT, ("batch", 10)))
    four = ("image", TensorProto.FLOAT, ("batch", 4, 8, 8))
    detected = """
        b = Gemm(features, w16x400); dets = Reshape(b, [1, 100, 4])
        selected = NonMaxSuppression(dets, w1x1x100, 10)
    """
    models = {
        "op": written("out = Flour(features)"),
        "domain": written("out = com.acme:Foo(features)"),
        "opset": written("", opset=99),
        "ir": written(""),
        "vector": written("y = Add(image, image)", before="", inputs=[ten]),
        "noinput": written("y = Constant(value_float=1.0)", before="", inputs=[]),
        "several": written("y = Add(features, t)", inputs=[image, vector]),
        "words": written("y = Cast(input_ids, to=1)", before="", inputs=[words]),
        "detector": written(detected, "dets", "selected"),
        "four": written("y = Conv(image, w3x4x3x3)", before="", inputs=[four]),
        "infinite": written(f"y = Div(features, {[0.0] * 16})"),
        "constant": written(f"y = Mul(features, {[0.0] * 16})"),
        "reshape": written("y = Reshape(image, [-1, 1000003])", before=""),
        "huge": _asks_for([1 << 17, 1 << 17, 16]),  # float32: 1 TiB
        "endless": hostile.endless_loop(),
        "large": _asks_for([1 << 30]),  # float32: 4 GiB
    }
    models["ir"].ir_version = 99
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
        models[name] = onnx_models.encoder(output="representation")
        helper.set_model_props(models[name], {lookup.CONTRACT_KEY: text})
    for name, proto in models.items():
        save(proto, folder / f"{name}.onnx")
    (folder / "side").mkdir()
    onnx_models.save(onnx_models.classifier(), folder / "side" / "m.onnx")
    (folder / "side" / "m.robustcheck.json").write_text("{broken", encoding="utf-8")


def _asks_for(shape: list[int]) -> ModelProto:
    """A model that makes a tensor of `shape` (float32) on its way, known only when an image comes."""
    return written(f"""
        any = ReduceSum(features, keepdims=0); nothing = Mul(any, 0.0); none = Cast(nothing, to=INT64)
        of_this_image = Add({shape}, none); big = ConstantOfShape(of_this_image); sum = ReduceSum(big, keepdims=0)
        y = Add(features, sum)
    """)


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

    for name, array in {
        "shape": np.zeros((3, 64, 64), np.float32),
        "complex": np.zeros((5, 3, 64, 64), np.complex64),
        "objects": np.array([{"a": 1}], object),
        "size": np.zeros((5, 3, 32, 32), np.float32),
        "grey": np.zeros((5, 1, 64, 64), np.float32),
        "nan": np.full((6, 3, 64, 64), np.nan, np.float32),
    }.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "short.npy").write_bytes((folder / "nan.npy").read_bytes()[:5000])
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (5, 3, 64, 64" + b" " * 50 + b"\n"
    (folder / "header.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with tarfile.open(folder / "good.tar", "w") as archive:
        archive.add(folder / "five", "five")
    with tarfile.open(folder / "pickles.tar", "w") as archive:
        archive.add(folder / "pickle.onnx", "0001.pkl")
    (folder / "short.tar").write_bytes((folder / "good.tar").read_bytes()[:5000])
    for name, text in {
        "gone.csv": "path,label\nphotos/photo_00000.png,a\nphotos/nope.png,b\n",
        "text.npy": "hello world",
        "text.tar": "hello" * 300,
        "x.tar.gz": "x",
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


def _write_settings(folder: Path) -> None:
    fields = lookup.lookup_preprocessing()
    default = profiles.load()
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
        "t_never": json.loads(profiles.to_json(never_decided())),
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

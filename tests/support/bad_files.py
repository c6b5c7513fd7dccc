"""The folder of broken files that the tests of bad input run in: models, images, settings."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, load, save

from robustcheck_onnx.thresholds import profile as profiles
from support import lookup, onnx_models
from support.measuring import never_decided
from support.onnx_models import build, pooled, weight

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n"
_LOOP = dict.fromkeys(("x", "next_x"), TensorProto.FLOAT) | dict.fromkeys(("on", "still_on"), TensorProto.BOOL)
_LOOP |= {"i": TensorProto.INT64}


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
    (folder / "empty.onnx").write_bytes(b"")
    (folder / "text.onnx").write_text("hello world\n" * 20, encoding="utf-8")
    (folder / "lfs.onnx").write_text(LFS, encoding="utf-8")
    (folder / "truncated.onnx").write_bytes(whole[: len(whole) // 2])
    (folder / "zip.onnx").write_bytes(b"PK\x03\x04" + bytes(100))
    (folder / "pickle.onnx").write_bytes(pickle.dumps({"weights": Path("x")}, protocol=2))

    text = onnx_models.classifier().SerializeToString()
    (folder / "bytes.onnx").write_bytes(text.replace(b"logits", b"log\xeets"))

    (folder / "whole").mkdir()
    onnx_models.save(onnx_models.classifier(), folder / "whole" / "m.onnx", external=True)
    for name in ("missing", "short", "pointer", "escape"):
        shutil.copytree(folder / "whole", folder / name)
    (folder / "missing" / "m.onnx.data").unlink()
    data = (folder / "short" / "m.onnx.data").read_bytes()
    (folder / "short" / "m.onnx.data").write_bytes(data[:-10])
    (folder / "pointer" / "m.onnx.data").write_text(LFS, encoding="utf-8")
    escaping = load(folder / "escape" / "m.onnx", load_external_data=False)
    for initializer in escaping.graph.initializer:
        for entry in initializer.external_data:
            if entry.key == "location":
                entry.value = "../whole/m.onnx.data"
    save(escaping, folder / "escape" / "m.onnx")

    nodes, weights = pooled()
    ids = ("input_ids", TensorProto.INT64, ("batch", 77))
    four = ("image", TensorProto.FLOAT, ("batch", 4, 8, 8))
    boxes = {
        "w": weight(16, 400),
        "s": np.array([1, 100, 4]),
        "p": weight(1, 1, 100),
        "n": np.array([10]),
    }
    elements = np.array([1 << 17, 1 << 17, 16])  # float32: 1 TiB
    models = {
        "op": build([*nodes, ("Flour", ["features"], ["out"])], ["out"], weights),
        "domain": build([*nodes, ("com.acme:Foo", ["features"], ["out"])], ["out"], weights, domains=["com.acme"]),
        "opset": build(nodes, ["features"], weights, opset=99),
        "ir": build(nodes, ["features"], weights, ir_version=99),
        "vector": build(
            [("Add", ["image", "image"], ["y"])], ["y"], inputs=[("image", TensorProto.FLOAT, ("batch", 10))]
        ),
        "noinput": build([("Constant", [], ["y"], {"value_float": 1.0})], ["y"], inputs=[]),
        "several": build(
            [*nodes, ("Add", ["features", "t"], ["y"])],
            ["y"],
            weights,
            inputs=[onnx_models.IMAGE, ("t", TensorProto.FLOAT, ("batch", 16))],
        ),
        "words": build([("Cast", ["input_ids"], ["y"], {"to": 1})], ["y"], inputs=[ids]),
        "detector": build(
            [
                *nodes,
                ("Gemm", ["features", "w"], ["b"]),
                ("Reshape", ["b", "s"], ["dets"]),
                ("NonMaxSuppression", ["dets", "p", "n"], ["selected"]),
            ],
            ["dets", "selected"],
            weights | boxes,
        ),
        "four": build([("Conv", ["image", "w"], ["y"])], ["y"], {"w": weight(3, 4, 3, 3)}, inputs=[four]),
        "infinite": build(
            [*nodes, ("Div", ["features", "z"], ["y"])], ["y"], weights | {"z": np.zeros(16, np.float32)}
        ),
        "constant": build(
            [*nodes, ("Mul", ["features", "z"], ["y"])], ["y"], weights | {"z": np.zeros(16, np.float32)}
        ),
        "reshape": build([("Reshape", ["image", "s"], ["y"])], ["y"], {"s": np.array([-1, 1000003])}),
        "huge": _asks_for(elements),
        "endless": _endless(),
        "large": _asks_for(np.array([1 << 30])),  # float32: 4 GiB
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
        models[name] = onnx_models.encoder(output="representation")
        helper.set_model_props(models[name], {lookup.CONTRACT_KEY: text})
    for name, proto in models.items():
        save(proto, folder / f"{name}.onnx")
    (folder / "side").mkdir()
    onnx_models.save(onnx_models.classifier(), folder / "side" / "m.onnx")
    (folder / "side" / "m.robustcheck.json").write_text("{broken", encoding="utf-8")


def _asks_for(shape: Any) -> Any:
    """A model that makes a tensor of `shape` (float32) on its way, known only when an image comes."""
    nodes, weights = pooled()
    more = [
        ("ReduceSum", ["features"], ["any"], {"keepdims": 0}),
        ("Mul", ["any", "zero"], ["nothing"]),
        ("Cast", ["nothing"], ["none"], {"to": TensorProto.INT64}),
        ("Add", ["shape", "none"], ["of_this_image"]),
        ("ConstantOfShape", ["of_this_image"], ["big"]),
        ("ReduceSum", ["big"], ["sum"], {"keepdims": 0}),
        ("Add", ["features", "sum"], ["y"]),
    ]
    return build([*nodes, *more], ["y"], weights | {"shape": shape, "zero": np.array(0, np.float32)})


def _endless() -> Any:
    """A model with a loop of 2^62 rounds."""
    scalar = {name: helper.make_tensor_value_info(name, kind, []) for name, kind in _LOOP.items()}
    rounds = [helper.make_node("Identity", ["on"], ["still_on"]), helper.make_node("Add", ["x", "one"], ["next_x"])]
    body = helper.make_graph(
        rounds, "body", [scalar[n] for n in ("i", "on", "x")], [scalar[n] for n in ("still_on", "next_x")]
    )
    nodes, weights = pooled()
    values = {"one": np.float32(1), "n": np.int64(2**62), "yes": np.bool_(True), "zero": np.float32(0)}
    weights |= {name: np.array(value) for name, value in values.items()}
    loop = ("Loop", ["n", "yes", "zero"], ["end"], {"body": body})
    return build([*nodes, loop, ("Add", ["features", "end"], ["y"])], ["y"], weights)


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

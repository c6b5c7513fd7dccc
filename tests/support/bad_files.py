"""The folder of broken files that the tests of bad input run in: models, images, settings."""

import json
import os
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, parser, save

from support import lookup, onnx_models
from support.written import written


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


def _write_settings(folder: Path) -> None:
    small = lookup.lookup_preprocessing() | {"size": [32, 32], "resize_size": [32, 32]}
    net = small | {"resize_mode": "squash", "interpolation": "bilinear"}
    for name, value in {"p_size": json.dumps(small), "p_net": json.dumps(net), "p_text": "{bad"}.items():
        (folder / f"{name}.json").write_text(value, encoding="utf-8")
    (folder / "net.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv, self.fc = torch.nn.Conv2d(3, 8, 3), torch.nn.Linear(8, 4)\n"
        "    def forward(self, x):\n"
        "        return self.fc(self.conv(x).mean((2, 3)))\n"
        "def build():\n"
        "    return Net()\n",
        encoding="utf-8",
    )

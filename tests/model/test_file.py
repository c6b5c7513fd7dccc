"""Opening a model file: every broken one is a clear error, every honest layout is read; its facts and digests."""

import hashlib
import os
import shlex
from pathlib import Path
from typing import Any

import onnx
import pytest
from numpy.testing import assert_array_equal
from onnx import TensorProto

from robustcheck_onnx.checker.errors import CannotAssessError, RobustcheckError, UsageError
from robustcheck_onnx.checker.model.file import OnnxFile, read_onnx
from robustcheck_onnx.checker.model.open import open_model
from robustcheck_onnx.checker.model.weights import LFS_MARK
from robustcheck_onnx.checker.runtime.runner import Runner
from support import flip, raised
from support.onnx_models import PIXELS, build, classifier, save, written


def fails(path: Path | str, message: str, kind: type[RobustcheckError] = CannotAssessError) -> str:
    """The hint of a refusal."""
    caught = raised(kind, "", read_onnx, path)
    assert caught.message.startswith(f"{path}: ")
    assert message in caught.message
    assert caught.hint
    return caught.hint


@pytest.fixture
def model() -> Path:
    """m/m.onnx with its weights in m.onnx.data."""
    Path("m").mkdir()
    return save(classifier(), "m/m.onnx", external=True)


def test_missing_and_folder_are_usage_errors() -> None:
    fails("no.onnx", "no such file", UsageError)
    fails(".", "model is a folder", UsageError)


def test_not_a_model() -> None:
    path = Path("m.onnx")
    whole = classifier().SerializeToString()
    for content, message in (
        (b"", "model file is empty (0 bytes)"),
        (b"# a note\nthis is not a model\n", "model file is text"),
        ("ein Blatt Text — é".encode(), "model file is text"),
        (b"PK\x03\x04\x00\x00", "model file is a zip archive (PyTorch checkpoints"),
        (b"\x80\x02\x8a\x0al\xfc", "model file is a Python pickle"),
        (b"\x40\x00\x00\x00\x00\x00\x00\x00{}", "model file is a safetensors file"),
        (b"\x00\x00\x00\x00TFL3", "model file is a TensorFlow Lite model"),
        (b"\xff\xff\xff\xff\xff", "model file is not a complete ONNX protobuf (5 bytes)"),
        (whole[: len(whole) // 2], "truncated"),
        (build([], ["image"]).SerializeToString(), "graph has 0 nodes"),
    ):
        path.write_bytes(content)
        fails(path, message)
    path.write_bytes(LFS_MARK + b"v1\noid sha256:00\nsize 12\n")
    assert fails(path, "model file is a Git LFS pointer") == "git lfs pull --include m.onnx"


def test_weights_files_that_are_not_whole(model: Path) -> None:
    data = model.with_name("m.onnx.data")
    content = data.read_bytes()
    data.write_bytes(content[:-1])
    onnx.checker.check_model(model)  # onnx itself does not notice
    fails(
        model, f"weights file m.onnx.data is {len(content) - 1} bytes; tensor 'fc.bias' ends at byte {len(content)}, so"
    )
    data.write_bytes(LFS_MARK + b"v1\n")
    assert fails(model, "Git LFS pointer") == "git lfs pull --include m.onnx.data"
    data.unlink()
    assert fails(model, "weights file m.onnx.data is missing") == f"copy m.onnx.data next to the model: {data}"


def edit(path: Path, key: str, value: str) -> None:
    """Change what a model says of where its weights are."""
    proto = onnx.load(path, load_external_data=False)
    for entry in (entry for weight in proto.graph.initializer for entry in weight.external_data):
        entry.value = value if entry.key == key else entry.value
    path.write_bytes(proto.SerializeToString())


def test_a_hint_can_be_typed_whatever_the_model_calls_its_weights(model: Path) -> None:
    """The next command to type must not be one that the model's maker chose."""
    evil = "w; touch pwned; #"
    edit(model, "location", evil)
    model.with_name(evil).write_bytes(LFS_MARK + b"v1\n")
    hint = shlex.split(fails(model, "Git LFS pointer"), comments=True)
    assert hint == ["git", "lfs", "pull", "--include", evil]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        *(("location", v, "leaves the model's folder") for v in ("../x", "/etc/passwd", "a/../../x", "C:\\x", "..\\x")),
        *(("length", value, "external data of tensor 'conv.weight'") for value in ("4", "9999999999")),
        *(("offset", value, "external data of tensor 'conv.weight'") for value in ("-4", "x")),
    ],
)
def test_places_of_weights_that_lie(model: Path, key: str, value: str, message: str) -> None:
    edit(model, key, value)
    fails(model, message)


def hub_cache(folder: str, blob_of_data: str) -> Path:
    """A model as the hub client keeps it: links in snapshots, files in blobs."""
    root = Path(folder).absolute()
    snapshot = root / "models--x/snapshots/abc/onnx"
    snapshot.mkdir(parents=True)
    path = save(classifier(), snapshot / "model.onnx", external=True)
    for link, name in ((path, "models--x/blobs/b0"), (snapshot / "model.onnx.data", blob_of_data)):
        blob = root / name
        blob.parent.mkdir(exist_ok=True, parents=True)
        link.rename(blob)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return path


def folder_of(file: OnnxFile) -> Path:
    assert file.weights.folder is not None
    return file.weights.folder.resolve()


def test_links(model: Path) -> None:
    """Those of a hub's cache are followed, and that of a model; those of weights lead nowhere else."""
    file = read_onnx(hub_cache("hub", "models--x/blobs/b1"))
    assert (folder_of(file), file.external[0].path.name) == (Path("hub/models--x/blobs").absolute(), "b1")
    assert {entry.value for entry in file.proto.graph.initializer[0].external_data if entry.key == "location"} == {"b1"}
    fails(hub_cache("other", "models--y/blobs/b1"), "leaves the model's folder")
    Path("hub/current.onnx").symlink_to(model.absolute())
    assert folder_of(read_onnx("hub/current.onnx")) == Path("m").absolute()
    data = model.with_name("m.onnx.data").absolute()
    Path("m/hard link").hardlink_to(data)
    truth = Runner(open_model(save(classifier())), "cpu").run(PIXELS).representation
    for path in ("hub/models--x/snapshots/abc/onnx/model.onnx", "hub/current.onnx", model):
        runner = Runner(open_model(path), "cpu")
        assert_array_equal(runner.run(PIXELS).representation, truth)
        assert runner.output_difference(PIXELS) < 1e-4
    data.symlink_to(data.rename(Path("hub/data").absolute()))
    fails(model, "leaves the model's folder")


@pytest.mark.parametrize(
    ("shape", "text", "layout"),
    [
        ((None, 3, 32, 32), "y = Flatten(image)", "NCHW"),
        ((1, 32, 32, 3), "y = Flatten(image)", "NHWC"),
        ((None, "c", "h", "w"), "y = Flatten(image)", "NCHW"),
        ((None, "h", "w", "c"), "x = Transpose(image, perm=[0, 3, 1, 2]); y = Flatten(x)", "NHWC"),
        ((2, 3, None, 3), "y = Flatten(image)", "NCHW"),
    ],
)
def test_layouts(opened: Any, shape: Any, text: str, layout: str) -> None:
    image = opened(written(text, before="", inputs=[("image", TensorProto.FLOAT, shape)])).image_input
    batch = shape[0] if isinstance(shape[0], int) else None
    assert (image.layout, image.dtype, image.batch) == (layout, "float32", batch)


def test_identity_of_a_model() -> None:
    inline = open_model(save(classifier(), "a.onnx"))
    assert inline.digest == inline.model_digest
    assert inline.external_digests == {}
    assert (inline.opsets, inline.ir_version, inline.precision) == ({"ai.onnx": 18}, 9, "fp32")
    assert [(each.name, each.dtype, each.shape) for each in inline.outputs] == [("logits", "float", (None, 10))]
    path = save(classifier(), "b.onnx", external=True)
    data = Path("b.onnx.data")
    first = open_model(path)
    assert first.model_digest == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    assert first.external_digests == {"b.onnx.data": "sha256:" + hashlib.sha256(data.read_bytes()).hexdigest()}
    assert first.size_bytes == path.stat().st_size + data.stat().st_size
    flip(data, 5)
    second = open_model(path)
    assert second.model_digest == first.model_digest
    assert second.digest != first.digest  # other weights, another model

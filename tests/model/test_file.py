"""Reading a model file: every broken one is a clear error, every honest layout is read."""

from __future__ import annotations

import hashlib
import os
import shlex
from pathlib import Path

import onnx
import pytest

from robustcheck_onnx.checker.errors import CannotAssessError, RobustcheckError, UsageError
from robustcheck_onnx.checker.model.external import LFS_MARK
from robustcheck_onnx.checker.model.file import read_onnx
from support import onnx_models


def fails(path: Path, kind: type[RobustcheckError], *parts: str) -> RobustcheckError:
    with pytest.raises(kind) as caught:
        read_onnx(path)
    assert caught.value.message.startswith(f"{path}: ")
    for part in parts:
        assert part in caught.value.message
    assert caught.value.hint
    return caught.value


def test_missing_and_folder_are_usage_errors(tmp_path: Path) -> None:
    fails(tmp_path / "no.onnx", UsageError, "model file is missing")
    fails(tmp_path, UsageError, "model is a folder")


def test_not_a_model(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    for content, message in (
        (b"", "model file is empty (0 bytes)"),
        (b"# a note\nthis is no model\n", "model file is text"),
        ("ein Blatt Text — é".encode(), "model file is text"),
        (LFS_MARK + b"v1\noid sha256:00\nsize 12\n", "model file is a Git LFS pointer"),
        (b"PK\x03\x04\x00\x00", "model file is a zip archive (PyTorch checkpoints"),
        (b"\x80\x02\x8a\x0al\xfc", "model file is a Python pickle"),
        (b"\x40\x00\x00\x00\x00\x00\x00\x00{}", "model file is a safetensors file"),
        (b"\x00\x00\x00\x00TFL3", "model file is a TensorFlow Lite model"),
        (b"\xff\xff\xff\xff\xff", "model file is no complete ONNX protobuf (5 bytes)"),
    ):
        path.write_bytes(content)
        fails(path, CannotAssessError, message)


def test_lfs_hint_is_the_command_to_type(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(LFS_MARK + b"v1\n")
    assert fails(path, CannotAssessError).hint == "git lfs pull --include m.onnx"


def test_truncated_protobuf(tmp_path: Path) -> None:
    content = onnx_models.classifier().SerializeToString()
    path = tmp_path / "m.onnx"
    for size in (len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        fails(path, CannotAssessError, "truncated")


def test_zero_nodes(tmp_path: Path) -> None:
    path = onnx_models.save(onnx_models.build([], ["image"]), tmp_path / "m.onnx")
    fails(path, CannotAssessError, "graph has 0 nodes")


def test_inline_model(tmp_path: Path) -> None:
    path = onnx_models.save(onnx_models.classifier(), tmp_path / "m.onnx")
    file = read_onnx(path)
    assert file.model_digest == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    assert file.size_bytes == path.stat().st_size
    assert (file.external, file.external_folder) == ((), None)


def test_external_data_is_measured_and_digested(tmp_path: Path) -> None:
    path = onnx_models.save(onnx_models.classifier(), tmp_path / "m.onnx", external=True)
    data = tmp_path / "m.onnx.data"
    (external,) = read_onnx(path).external
    assert external.location == "m.onnx.data"
    assert external.size_bytes == data.stat().st_size
    assert external.digest == "sha256:" + hashlib.sha256(data.read_bytes()).hexdigest()


def test_missing_external_data(tmp_path: Path) -> None:
    path = onnx_models.save(onnx_models.classifier(), tmp_path / "m.onnx", external=True)
    (tmp_path / "m.onnx.data").unlink()
    error = fails(path, CannotAssessError, "weights file m.onnx.data is missing")
    assert error.hint == f"copy m.onnx.data next to the model: {tmp_path / 'm.onnx.data'}"


def test_truncated_external_data(tmp_path: Path) -> None:
    path = onnx_models.save(onnx_models.classifier(), tmp_path / "m.onnx", external=True)
    data = tmp_path / "m.onnx.data"
    content = data.read_bytes()
    data.write_bytes(content[:-1])
    onnx.checker.check_model(path)  # onnx itself does not notice
    fails(path, CannotAssessError, f"weights file m.onnx.data is {len(content) - 1} bytes", "truncated")
    data.write_bytes(LFS_MARK + b"v1\n")
    assert fails(path, CannotAssessError, "Git LFS pointer").hint == "git lfs pull --include m.onnx.data"


def edit_external(path: Path, key: str, value: str) -> None:
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == key:
            entry.value = value
    path.write_bytes(model.SerializeToString())


def test_a_hint_can_be_typed_whatever_the_model_calls_its_weights(tmp_path: Path) -> None:
    """The next command to type must not be one that the model's maker chose."""
    path = onnx_models.save(onnx_models.classifier(), tmp_path / "m.onnx", external=True)
    evil = "w; touch pwned; #"
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = evil if entry.key == "location" else entry.value
    path.write_bytes(model.SerializeToString())
    (tmp_path / evil).write_bytes(LFS_MARK + b"v1\n")
    fault = fails(path, CannotAssessError, "Git LFS pointer")
    assert shlex.split(fault.hint, comments=True) == ["git", "lfs", "pull", "--include", evil]


@pytest.mark.parametrize("location", ["../secret.data", "/etc/passwd", "a/../../x", "C:\\x.data", "..\\x.data"])
def test_path_that_leaves_the_folder(tmp_path: Path, location: str) -> None:
    path = onnx_models.save(onnx_models.classifier(), tmp_path / "m.onnx", external=True)
    edit_external(path, "location", location)
    fails(path, CannotAssessError, repr(location), "leaves the model's folder")


@pytest.mark.parametrize(
    ("key", "value"), [("length", "4"), ("offset", "-4"), ("length", "9999999999"), ("offset", "x")]
)
def test_lying_lengths(tmp_path: Path, key: str, value: str) -> None:
    path = onnx_models.save(onnx_models.classifier(), tmp_path / "m.onnx", external=True)
    edit_external(path, key, value)
    fails(path, CannotAssessError, "external data of tensor 'conv.weight'")


def test_symlink_that_leaves_the_folder(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    path = onnx_models.save(onnx_models.classifier(), tmp_path / "models" / "m.onnx", external=True)
    (tmp_path / "models" / "m.onnx.data").rename(tmp_path / "elsewhere.data")
    (tmp_path / "models" / "m.onnx.data").symlink_to(tmp_path / "elsewhere.data")
    fails(path, CannotAssessError, "leaves the model's folder")


def hub_cache(root: Path, blob_of_data: str = "models--x/blobs/b1") -> Path:
    """A model as the hub client keeps it: links in snapshots, files in blobs."""
    snapshot, blobs = root / "models--x/snapshots/abc/onnx", root / "models--x/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    path: Path = onnx_models.save(onnx_models.classifier(), snapshot / "model.onnx", external=True)
    (root / blob_of_data).parent.mkdir(exist_ok=True, parents=True)
    for link, blob in ((path, blobs / "b0"), (snapshot / "model.onnx.data", root / blob_of_data)):
        link.rename(blob)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return path


def test_hub_cache(tmp_path: Path) -> None:
    file = read_onnx(hub_cache(tmp_path))
    assert file.external_folder is not None
    assert file.external_folder.resolve() == tmp_path / "models--x/blobs"
    assert file.external[0].path.name == "b1"
    assert {entry.value for entry in file.proto.graph.initializer[0].external_data if entry.key == "location"} == {"b1"}


def test_blob_of_another_repository_is_refused(tmp_path: Path) -> None:
    fails(hub_cache(tmp_path, "models--y/blobs/b1"), CannotAssessError, "leaves the model's folder")


def test_link_to_a_model_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    onnx_models.save(onnx_models.classifier(), tmp_path / "store" / "v3.onnx", external=True)
    link = tmp_path / "current.onnx"
    link.symlink_to(tmp_path / "store" / "v3.onnx")
    file = read_onnx(link)
    assert file.external_folder is not None
    assert file.external_folder.resolve() == tmp_path / "store"

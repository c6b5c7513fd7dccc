"""A large model file is mapped, and ONNX Runtime maps its weights: same numbers, and no change of the file unseen."""

import os
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from robustcheck_onnx.checker.model import file as files
from robustcheck_onnx.checker.model import weights
from robustcheck_onnx.checker.model.contract import graph_digest
from robustcheck_onnx.checker.model.file import read_onnx
from robustcheck_onnx.checker.model.open import open_model
from robustcheck_onnx.checker.runtime.runner import Runner
from support import Patch
from support.onnx_models import classifier, encoder, save, weight
from support.written import written

PIXELS = np.random.default_rng(0).random((5, 8, 8, 3), dtype=np.float32)


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch: Patch) -> None:
    monkeypatch.setattr(weights, "LARGE_BYTES", 1000)


@pytest.fixture
def mapping(monkeypatch: Patch, tmp_path: Path) -> None:
    """Map every file."""
    if not weights.stamps_writes(tmp_path.stat()):
        pytest.skip("the temporary folder is on no file system whose stamps can be trusted: nothing is mapped there")
    monkeypatch.setattr(files, "MAPPED_BYTES", 1)


def models() -> dict[str, ModelProto]:
    shuffled = encoder(512)
    shuffled.graph.node.insert(0, shuffled.graph.node.pop())
    turn = weight(16, 512).astype(np.float16)
    half = written("wide = Cast(turn, to=FLOAT); out = MatMul(features, wide)", turn=turn)
    return {"float": encoder(512), "another order": shuffled, "float16 weight": half}


@pytest.mark.parametrize("kind", models())
def test_mapped_weights_give_the_same_bits(monkeypatch: Patch, kind: str) -> None:
    """At whatever byte they begin: protobuf aligns nothing."""
    model = models()[kind]
    for shift in range(4):
        model.graph.doc_string = "d" * shift
        path = save(model)
        copied = open_model(path)
        assert copied.graph.mapped(whole=True) is None
        expected = Runner(copied, "cpu").run(PIXELS)
        with monkeypatch.context() as changed:
            changed.setattr(files, "MAPPED_BYTES", 1)
            mapped = open_model(path)
            assert len(mapped.graph.mapped(whole=True) or b"") < path.stat().st_size / 2
            assert (mapped.digest, mapped.external) == (copied.digest, ())
            found = read_onnx(path)
            assert graph_digest(found.proto, found.weights) == graph_digest(model)
            np.testing.assert_array_equal(Runner(mapped, "cpu").run(PIXELS).representation, expected.representation)


def test_the_output_is_compared_with_that_of_the_mapped_graph_without_it(mapping: None) -> None:
    """Both sessions of the probe are opened from the mapped file."""
    runner = Runner(open_model(save(classifier())), "cpu")
    assert runner.model.added_output
    assert runner.output_difference(PIXELS) < 1e-6


def test_where_writes_are_not_stamped_a_file_is_copied(tmp_path: Path, mapping: None, monkeypatch: Patch) -> None:
    path, status = save(encoder(512)), tmp_path.stat()
    assert open_model(path).graph.mapped(whole=True) is not None
    device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    (tmp_path / "mounts").write_text(f"1 0 {device} / /tmp rw - tmpfs tmpfs rw\n1 0 0:1 / / rw - ext4 x rw\n")
    monkeypatch.setattr(weights, "MOUNTS", tmp_path / "mounts")
    assert open_model(path).graph.mapped(whole=True) is None
    monkeypatch.setattr(weights, "MOUNTS", tmp_path / "none")  # not Linux
    assert open_model(path).graph.mapped(whole=True) is None

"""A large model file is mapped, and ONNX Runtime maps its weights: same numbers, and no change of the file unseen."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from robustcheck_onnx import Progress, check
from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.model import file as files
from robustcheck_onnx.checker.model import held, light
from robustcheck_onnx.checker.model.digest import graph_digest
from robustcheck_onnx.checker.model.file import read_onnx
from robustcheck_onnx.checker.model.open import open_model
from robustcheck_onnx.checker.runtime.runner import Runner
from support import lookup, onnx_models
from support.onnx_models import graph

PIXELS = np.random.default_rng(0).random((5, 8, 8, 3), dtype=np.float32)
SAID = r"model\.onnx: model file changed during the run; it must stay as it was digested"


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(light, "LARGE_BYTES", 1000)


@pytest.fixture
def mapping(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Map every file."""
    if not held.stamps_writes(tmp_path.stat()):
        pytest.skip("the temporary folder is on no file system whose stamps can be trusted: nothing is mapped there")
    monkeypatch.setattr(files, "MAPPED_BYTES", 1)


def models() -> dict[str, onnx.ModelProto]:
    rewritten = onnx_models.encoder(512)
    nodes = list(rewritten.graph.node)[::-1]
    del rewritten.graph.node[:]
    rewritten.graph.node.extend(nodes)
    half = onnx_models.build(*_half())
    return {"float": onnx_models.encoder(512), "another order": rewritten, "float16 weight": half}


def _half() -> tuple[list[Any], list[str], dict[str, Any]]:
    nodes, weights = onnx_models.pooled(512)
    turn = onnx_models.rng().normal(size=(512, 128)).astype(np.float16)
    nodes += graph("wide = Cast(turn, to=FLOAT); out = MatMul(features, wide)")
    return nodes, ["out"], weights | {"turn": turn}


@pytest.mark.parametrize("kind", models())
@pytest.mark.parametrize("shift", range(4))
def test_mapped_weights_give_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, shift: int
) -> None:
    """At whatever byte they begin: protobuf aligns nothing."""
    model = models()[kind]
    model.graph.doc_string = "d" * shift
    path = onnx_models.save(model, tmp_path / "m.onnx")
    copied = open_model(path)
    assert copied.graph.mapped(whole=True) is None
    expected = Runner(copied, "cpu").run(PIXELS)
    monkeypatch.setattr(files, "MAPPED_BYTES", 1)
    mapped = open_model(path)
    assert len(mapped.graph.mapped(whole=True) or b"") < path.stat().st_size / 2
    assert (mapped.digest, mapped.external) == (copied.digest, ())
    np.testing.assert_array_equal(Runner(mapped, "cpu").run(PIXELS).representation, expected.representation)


def test_digests_of_a_mapped_file_are_those_of_its_bytes(tmp_path: Path, mapping: None) -> None:
    path = onnx_models.save(onnx_models.encoder(512), tmp_path / "m.onnx")
    found = read_onnx(path)
    assert found.model_digest == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    assert graph_digest(found.proto, found.weights) == graph_digest(onnx.load(path))


def test_the_output_is_compared_with_that_of_the_mapped_graph_without_it(tmp_path: Path, mapping: None) -> None:
    """Both sessions of the probe are opened from the mapped file."""
    runner = Runner(open_model(onnx_models.save(onnx_models.classifier(), tmp_path / "m.onnx")), "cpu")
    assert runner.model.added_output
    assert runner.output_unchanged(PIXELS).max_difference < 1e-6


@pytest.fixture
def place(tmp_path: Path, lookup_pass: tuple[Path, Path], mapping: None) -> Path:
    """model.onnx, which would pass; other.onnx, as large, which would not; photos."""
    content = lookup_pass[0].read_bytes()
    (tmp_path / "model.onnx").write_bytes(content)
    matrix = onnx.numpy_helper.to_array(
        next(w for w in onnx.ModelProto.FromString(content).graph.initializer if w.name == "embeddings")
    )
    rng = np.random.default_rng(3)
    lookup.write_lookup_model(tmp_path / "other.onnx", rng.normal(size=matrix.shape))
    for name in ("model.onnx", "other.onnx"):
        os.utime(tmp_path / name, (1e9, 1e9))
    (tmp_path / "photos").symlink_to(lookup_pass[1])
    return tmp_path


def replace(place: Path) -> None:
    (place / "other.onnx").replace(place / "model.onnx")


def write(place: Path) -> None:
    before = (place / "model.onnx").stat()
    with (place / "model.onnx").open("r+b") as file:
        file.write((place / "other.onnx").read_bytes()[:1000])
    os.utime(place / "model.onnx", ns=(before.st_atime_ns, before.st_mtime_ns))


def exchange_and_put_back(place: Path) -> None:
    for name, other in (("model.onnx", "kept"), ("other.onnx", "model.onnx")):
        (place / name).rename(place / other)
    (place / "model.onnx").rename(place / "other.onnx")
    (place / "kept").rename(place / "model.onnx")


def test_a_write_through_a_map_that_was_written_through_before_is_seen(place: Path) -> None:
    """Linux stamps the first such write alone; another model's rows are there for the session, the first ones again."""
    path, changed = place / "model.onnx", list[int]()
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as theirs:
        theirs[0] = theirs[0]  # from here on writes leave no stamp

        def when(now: Progress) -> None:
            if not changed and now.stage == "loading the model":
                theirs[1000:2000] = (place / "other.onnx").read_bytes()[1000:2000]
                changed.append(1)

        with pytest.raises(CannotAssessError, match=SAID):
            check(path, images=place / "photos", progress=when)


def test_where_writes_are_not_stamped_a_file_is_copied(
    tmp_path: Path, mapping: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, status = onnx_models.save(onnx_models.encoder(512), tmp_path / "m.onnx"), tmp_path.stat()
    assert open_model(path).graph.mapped(whole=True) is not None
    device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    (tmp_path / "mounts").write_text(f"1 0 {device} / /tmp rw - tmpfs tmpfs rw\n1 0 0:1 / / rw - ext4 x rw\n")
    monkeypatch.setattr(held, "MOUNTS", tmp_path / "mounts")
    assert open_model(path).graph.mapped(whole=True) is None
    monkeypatch.setattr(held, "MOUNTS", tmp_path / "none")  # not Linux
    assert open_model(path).graph.mapped(whole=True) is None


@pytest.mark.parametrize("change", [replace, write, exchange_and_put_back])
@pytest.mark.parametrize("before_the_session", [True, False])
def test_a_model_that_changes_during_the_run_gets_no_verdict(
    place: Path, change: Callable[[Path], None], before_the_session: bool
) -> None:
    changed: list[int] = []

    def when(now: Progress) -> None:
        if not changed and (now.stage == "loading the model" if before_the_session else not now.stage):
            change(place)
            changed.append(1)

    assert check(place / "model.onnx", images=place / "photos").verdict.verdict == "PASS"
    with pytest.raises(CannotAssessError, match=SAID):
        check(place / "model.onnx", images=place / "photos", batch_size=8, progress=when)


def test_a_file_that_changes_while_it_is_opened_is_refused(
    tmp_path: Path, mapping: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a run, too: what `inspect` says is of the bytes that were digested."""
    path = onnx_models.save(onnx_models.encoder(512), tmp_path / "model.onnx")
    read_content = files.read_content

    def read_and_touch(path: Path) -> files.Content:
        read = read_content(path)
        os.utime(path, (1e9, 1e9))
        return read

    monkeypatch.setattr(files, "read_content", read_and_touch)
    with pytest.raises(CannotAssessError, match=SAID):
        open_model(path)

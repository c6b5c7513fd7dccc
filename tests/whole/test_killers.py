"""What ended, blocked or filled the process that reads it is refused where it is read, without the wall."""

import os
import struct
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import robustcheck_onnx as rc
from robustcheck_onnx.checker.core.model.open import open_model
from robustcheck_onnx.checker.core.runtime import session
from robustcheck_onnx.checker.errors import CannotAssessError, RobustcheckError, UsageError
from robustcheck_onnx.checker.outside.image_sets.open import open_images
from robustcheck_onnx.checker.outside.storage.places import redact_text
from support import PHOTOS, Capture, Patch, levels, raised, robustcheck
from support.bad_input import endless_loop
from support.onnx_models import classifier, save, written

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
GIANT = f"giant = ConstantOfShape([{1 << 40}])"


def with_constant(text: str) -> onnx.ModelProto:
    """A classifier that also adds the mean of the constant `giant`, which the nodes make."""
    mean = "; mean = ReduceMean(giant, keepdims=0); float_mean = Cast(mean, to=FLOAT)\n"
    scores = "scores = Gemm(features, w10x16, transB=1); logits = Add(scores, float_mean)"
    return written(text + mean + scores, ("logits", TensorProto.FLOAT, ("batch", 10)))


PARTS = [f"part{i} = ConstantOfShape([{1 << 28}])" for i in range(6)]  # 1 GiB each, which fit alone and not together
DOUBLED = ["t1 = Concat([[1.0]], [[1.0]], axis=0)", *(f"t{i + 1} = Concat(t{i}, t{i}, axis=0)" for i in range(1, 30))]
CONSTANTS = {
    GIANT: 2**40, "giant = Expand([[1.0]], [1048576, 1048576])": 2**40,
    "giant = Tile([[1.0]], [1048576, 1048576])": 2**40, f"giant = Range(0, {1 << 40}, 1)": 2**40,
    "; ".join([*PARTS, "giant = Sum(part0, part1, part2, part3, part4, part5)"]): 7 * 2**28,
    "; ".join([*DOUBLED, "giant = Identity(t30)"]): 2**31 - 2 + 2**30,
    f"giant = MatMul(w{1 << 17}x1, w1x{1 << 17})": 2**34,
}  # fmt: skip


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for photo in PHOTOS[:4]:
        (folder / photo.name).write_bytes(photo.read_bytes())
    return folder


def refused(model: Path, images: Path, said: str, error: type[RobustcheckError] = CannotAssessError) -> None:
    with pytest.raises(error) as caught:
        rc.check(model, images=images, isolate=False, preprocess="imagenet", device="cpu", max_images=20_000)
    assert said in caught.value.message


def test_constants_that_fill_the_memory(tmp_path: Path, photos: Path) -> None:
    for text, n in CONSTANTS.items():
        said = f"constants that the graph computes hold {n + 2:,} values, the file "  # the mean of it, cast, too
        refused(save(with_constant(text), tmp_path / "m.onnx"), photos, said)
    for lie in ((1,), (1, 2, 3)):  # what a file says of its constants is not believed
        model = with_constant(GIANT)
        say = helper.make_tensor_value_info
        model.graph.value_info.extend(say(name, TensorProto.FLOAT, lie) for name in ("giant", "conv"))
        refused(save(model, tmp_path / "m.onnx"), photos, "constants that the graph computes hold")
    small = with_constant(f"giant = ConstantOfShape([{1 << 20}])")
    assert open_model(save(small, tmp_path / "m.onnx")).image_input.name == "image"


def test_a_name_like_source_files_in_an_error_of_onnx_runtime(tmp_path: Path, photos: Path) -> None:
    model = classifier()
    model.graph.node[-1].name = "a.h" * 3000
    model.graph.node[-1].attribute.append(helper.make_attribute("transA", 1))
    said = "refuses the model: Non-zero status code returned while running Gemm node. Name:'a.ha.ha.h"
    refused(save(model, tmp_path / "m.onnx"), photos, said)


def test_thousands_of_dimensions(tmp_path: Path, photos: Path) -> None:
    """Their product has 300,000 digits."""
    wide = classifier()
    wide.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "wide"))
    wide.graph.initializer[-1].dims[:] = [1 << 62] * 16_000
    inside = with_constant(f"giant = Reshape([[1.0]], {[1] * 1000})")
    inside.graph.value_info.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1 << 62] * 16_000))
    for model, name in ((wide, "weight 'wide'"), (inside, "'scores'")):
        refused(save(model, tmp_path / "m.onnx"), photos, f"{name} has 16,000 dimensions; at most 32 are possible")


def test_blocks_that_each_multiply_what_they_get_by_a_gate_made_of_it(tmp_path: Path) -> None:
    blocks = "".join(
        f"v{i} = Gemm(x{i}, w16x16); g{i} = Sigmoid(v{i}); m{i} = Mul(v{i}, g{i}); o{i} = Gemm(m{i}, w16x16)\n"
        f"x{i + 1} = Mul(x{i}, o{i})\n"
        for i in range(60)
    )
    model = written(f"x0 = Identity(features)\n{blocks}logits = Gemm(x60, w16x10)")
    assert open_model(save(model, tmp_path / "m.onnx")).image_input.name == "image"


def negative_member(path: Path) -> Path:
    """A tar file whose second member has the size of minus one block: its end is its start."""
    content = PHOTOS[0].read_bytes()
    archive = b""
    for name, size in (("a.jpg", len(content)), ("b.jpg", -512)):
        member = tarfile.TarInfo(name)
        member.size = size
        archive += member.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)
    path.write_bytes(archive + bytes(1024))
    return path


def test_an_image_set_is_refused(tmp_path: Path, photos: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    model = save(classifier(), tmp_path / "m.onnx")
    refused(model, negative_member(tmp_path / "images.tar"), "tar file is damaged")
    for suffix in (".tar", ".parquet", ".arrow"):  # pipes named as files that hold many images
        (tmp_path / suffix).mkdir()
        os.mkfifo(tmp_path / suffix / f"a{suffix}")
        said = "file is a device, pipe or folder; a regular file is needed"
        refused(model, tmp_path / suffix, said, UsageError)
    for suffix in (".txt", ".csv", ".jsonl"):  # one line of zeros, which takes no space on the disk
        with (tmp_path / f"list{suffix}").open("wb") as file:
            file.truncate(1 << 26)
        refused(model, tmp_path / f"list{suffix}", "row 1 is longer than 1,048,576 letters", UsageError)
    (tmp_path / "list.csv").write_text('"a\n",' * 300_000)  # one row of short lines
    refused(model, tmp_path / "list.csv", "row 209716 is longer than 1,048,576 letters", UsageError)
    os.mkfifo(photos / "pipe.jpg")
    Image.fromarray(levels(8, 8, 3)).save(photos / "tiny.png")
    (photos / "list.txt").write_text("tiny.png\n" * 10_001 + "pipe.jpg\n")
    said = "row 10002: path is pipe.jpg; there is no such file"
    refused(model, photos / "list.txt", said, UsageError)
    (photos / "zero.jpg").symlink_to("/dev/zero")
    rows = [{"image": {"bytes": None, "path": name}} for name in ("zero.jpg", "pipe.jpg")]
    pq.write_table(pa.Table.from_pylist(rows), photos / "images.parquet")
    said = "no usable images among 2 (images.parquet#00000000: not a regular"
    refused(model, photos / "images.parquet", said)


def test_a_negative_member_on_any_python(tmp_path: Path, monkeypatch: Patch) -> None:
    """Newer Pythons refuse it themselves; here they count blocks as the older ones."""
    monkeypatch.setattr(tarfile.TarInfo, "_block", lambda self, count: -(-count // 512) * 512)
    raised(CannotAssessError, "size of member 'b\\.jpg' is -512", open_images, negative_member(tmp_path / "images.tar"))


def test_pipes_beside_a_model_are_no_sidecars(tmp_path: Path, photos: Path) -> None:
    path = save(classifier(), tmp_path / "m.onnx")
    (tmp_path / "preprocessor_config.json").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "m.robustcheck.json")
    assert rc.check(path, images=photos, isolate=False, device="cpu").evidence.preprocessing.source == "assumed"


@pytest.mark.usefixtures("wall")
def test_an_arrow_file_with_changed_bytes_is_refused_and_ends_nothing(tmp_path: Path) -> None:
    """Its second photo ends far behind the file: pyarrow ends the process where it is read."""
    pa = pytest.importorskip("pyarrow")
    content = PHOTOS[0].read_bytes()
    table = pa.Table.from_pylist([{"image": {"bytes": content, "path": f"{i}.jpg"}} for i in range(2)])
    path = tmp_path / "images.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    right, wrong = (struct.pack("<3i", 0, len(content), end) for end in (2 * len(content), 2**31 - 1))
    whole = path.read_bytes()
    assert whole.count(right) == 1
    path.write_bytes(whole.replace(right, wrong))
    said, model = "images\\.arrow: Arrow file is damaged .*[Oo]ffset", save(classifier(), tmp_path / "m.onnx")
    raised(CannotAssessError, said, rc.check, model, images=path, preprocess="imagenet", device="cpu")


@pytest.mark.usefixtures("wall")
def test_a_loop_without_end_ends_at_the_limit(tmp_path: Path, photos: Path, capfd: Capture) -> None:
    path = save(endless_loop(), tmp_path / "m.onnx")
    started_s = time.monotonic()
    assert robustcheck(path, "--images", photos, "--timeout", "3", "--preprocess", "imagenet", "-q") == 3
    assert time.monotonic() - started_s >= 3
    assert "reading and measuring it took longer than 3 s, its limit of time (--timeout)" in capfd.readouterr().err


def test_long_texts_are_redacted_and_read(tmp_path: Path) -> None:
    for text in ("a" * 1_000_000, "a.-" * 300_000, "s3://a/" + "?" * 1_000_000, "ab:/" * 200_000):
        assert redact_text(text) == text
    # of a part of a name the first question counts
    assert redact_text("at s3://b/a?b/c?d?key=1/e") == "at s3://b/a?b/c?***"
    model = open_model(save(classifier(), tmp_path / "m.onnx"))
    for place in ("a.h", "a.h ", "a.hx ", "a.h ::", "a.h ::(", "a.h ::()[with ", "a.h A", "a.h was ", "::"):
        error = session.translate(RuntimeError(place * 200_000 + "failed to"), model)
        assert isinstance(error, CannotAssessError)
        assert len(error.message) < 600 + len(str(model.path))

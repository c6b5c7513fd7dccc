"""Large weights stay in the file, which may be mapped: the same model, numbers and refusals; no change is unseen."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from onnx import GraphProto, ModelProto, TensorProto
from onnx.numpy_helper import from_array

from robustcheck_onnx.checker.model import file as files
from robustcheck_onnx.checker.model import weights
from robustcheck_onnx.checker.model.file import graph_digest, read_onnx, restore
from robustcheck_onnx.checker.model.open import open_model
from robustcheck_onnx.checker.model.weights import Weights, parse_light, values_of
from robustcheck_onnx.checker.runtime.runner import Runner
from support import Patch, raised
from support.onnx_models import PIXELS, classifier, encoder, save, weight, written

FEATURES = 400  # the projection has 24 · 400 · 4 bytes


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of 20 KB and more stay in the file's content."""
    monkeypatch.setattr(weights, "LARGE_BYTES", 20_000)


def test_a_small_weight_with_a_long_text_is_parsed_with_its_values(opened: Any) -> None:
    model = written("embedding = Add(features, shift)", shift=np.zeros(16))
    next(each for each in model.graph.initializer if each.name == "shift").doc_string = "d" * 30_000
    assert parse_light(model.SerializeToString()) == (model, {})
    assert opened(model).representation.tensor == "embedding"


def test_what_onnx_runtime_gets_is_the_file_and_the_addition_behind_it() -> None:
    path = save(classifier(FEATURES))
    opened = open_model(path)
    assert opened.graph.own() == path.read_bytes()
    assert opened.graph.whole()[: path.stat().st_size] == path.read_bytes()
    outputs = ModelProto.FromString(opened.graph.whole()).graph.output
    assert [output.name for output in outputs] == ["logits", "features"]


def test_weights_left_inside_a_file_with_external_data_are_written_too() -> None:
    path = Path("m.onnx")
    model = encoder(FEATURES)
    onnx.external_data_helper.convert_model_to_external_data(model, location="m.data", size_threshold=50_000_000)
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "m.data")
    onnx.save(model, path)
    opened = open_model(path)
    assert [*opened.graph.file.weights.places] == ["proj"]
    assert opened.graph.own() == onnx.load(path, load_external_data=False).SerializeToString()


def model_bytes() -> bytes:
    model = encoder(FEATURES, output="embedding")
    model.doc_string = "d" * 300
    content: bytes = model.SerializeToString()
    return content


CONTENT = model_bytes()


@given(
    st.lists(st.tuples(st.integers(0, len(CONTENT) - 1), st.integers(0, 255)), max_size=3), st.integers(0, len(CONTENT))
)
def test_damaged_files_are_parsed_as_the_library_parses_them(changes: list[tuple[int, int]], end: int) -> None:
    damaged = bytearray(CONTENT)
    for at, value in changes:
        damaged[at % 500 if value % 2 else at] = value  # half of them among the fields, not in the weights
    for content in (bytes(damaged), bytes(damaged[:end]), bytes(damaged[: len(damaged) - end % 50])):
        try:
            expected = ModelProto.FromString(content)
        except DecodeError:
            raised(DecodeError, "", parse_light, content)
            continue
        proto, places = parse_light(content)
        # serialised, since values that are not a number differ from themselves
        assert restore(proto, Weights(None, content, places)).SerializeToString() == expected.SerializeToString()


def field(number: int, content: bytes) -> bytes:
    """A field of a protobuf message."""
    return weights._key(number, len(content)) + content


def test_what_protobuf_merges_is_parsed_whole() -> None:
    """A second graph, a second weight of that name, a second field of raw data inside the weight."""
    tensor = TensorProto(name="w", dims=[6000], data_type=TensorProto.FLOAT, raw_data=b"\1" * 24_000)
    inner = tensor.SerializeToString()
    weight = field(weights.INITIALIZER, inner)
    assert parse_light(field(weights.GRAPH, weight))[1] != {}
    more = TensorProto(raw_data=b"\2" * 24_000).SerializeToString()
    for content in (
        field(weights.GRAPH, weight) + field(weights.GRAPH, GraphProto(name="more").SerializeToString()),
        field(weights.GRAPH, weight + weight),
        field(weights.GRAPH, field(weights.INITIALIZER, inner + more)),
    ):
        assert parse_light(content) == (ModelProto.FromString(content), {})


PEAK = """
import sys
from pathlib import Path
from robustcheck_onnx.checker.model.open import open_model
open_model(sys.argv[1])
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of one process is read in /proc")
@pytest.mark.long
def test_an_open_model_is_in_memory_once() -> None:
    peaks = []
    for rows in (24, 60_000):
        model = encoder()
        weight = from_array(np.zeros((rows, 512), np.float32), "unused")
        model.graph.initializer.append(weight)
        path = save(model, f"{rows}.onnx")
        done = subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, text=True, check=True)
        peaks.append(1024 * int(done.stdout))
    assert peaks[1] - peaks[0] < 1.5 * 60_000 * 512 * 4


def test_a_number_without_end_is_refused_after_its_tenth_byte() -> None:
    """Of a million bytes: one number of arbitrary length would take minutes to build."""

    class Counted(bytes):
        reads = 0

        def __getitem__(self, place: Any) -> Any:
            Counted.reads += 1
            assert Counted.reads < 100
            return super().__getitem__(place)

    raised(DecodeError, "", weights.parse_light, Counted(b"\x08" + b"\xff" * 1_000_000))
    assert Counted.reads


def test_texts_of_a_weight_are_any_bytes() -> None:
    tensor = TensorProto(data_type=TensorProto.STRING, dims=[2, 1], string_data=[b"\xff", b"a"])
    assert values_of(tensor, Weights(None, b"", {})).tolist() == [[b"\xff"], [b"a"]]


@pytest.fixture
def mapping(monkeypatch: Patch, tmp_path: Path) -> None:
    """Map every file."""
    if not weights.stamps_writes(tmp_path.stat()):
        pytest.skip("the temporary folder is on no file system whose stamps can be trusted: nothing is mapped there")
    monkeypatch.setattr(files, "MAPPED_BYTES", 1)


def models() -> dict[str, ModelProto]:
    shuffled = encoder(512)
    shuffled.graph.node.insert(0, shuffled.graph.node.pop())
    turn = weight(16, 1024).astype(np.float16)
    half = written("wide = Cast(turn, to=FLOAT); out = MatMul(features, wide)", turn=turn)
    return {"float": encoder(512), "another order": shuffled, "float16 weight": half}


@pytest.mark.parametrize("kind", models())
def test_mapped_weights_give_the_same_bits(monkeypatch: Patch, kind: str) -> None:
    """At whatever byte they begin: protobuf aligns nothing. So do weights beside the file, and nodes in any order."""
    in_order = models()["float" if kind == "another order" else kind]
    truth = Runner(open_model(save(in_order)), "cpu").run(PIXELS).representation
    beside = open_model(save(models()[kind], "beside.onnx", external=True))
    assert not beside.graph.file.weights.places
    assert_array_equal(Runner(beside, "cpu").run(PIXELS).representation, truth)
    model = models()[kind]
    for shift in range(4):
        model.graph.doc_string = "d" * shift
        path = save(model)
        copied = open_model(path)
        assert copied.graph.mapped(whole=True) is None
        assert copied.graph.file.weights.places
        with monkeypatch.context() as changed:
            changed.setattr(files, "MAPPED_BYTES", 1)
            mapped = open_model(path)
            assert len(mapped.graph.mapped(whole=True) or b"") < path.stat().st_size / 2
            assert (mapped.digest, mapped.external) == (copied.digest, ())
            found = read_onnx(path)
            assert graph_digest(found.proto, found.weights) == graph_digest(model)
            for each in (copied, mapped):
                assert_array_equal(Runner(each, "cpu").run(PIXELS).representation, truth)


def test_the_output_is_compared_with_that_of_the_mapped_graph_without_it(mapping: None) -> None:
    """Both sessions of the probe are opened from the mapped file."""
    runner = Runner(open_model(save(classifier(FEATURES))), "cpu")
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

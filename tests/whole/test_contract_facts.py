"""What a contract says of its file and its training, through the command: a changed file, matched vectors."""

from __future__ import annotations

import json
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.exporters.digest import graph_digest
from support import lookup
from support.comparisons import Workshop, planted


def sealed(workshop: Workshop, *, external: bool = False, **source: str) -> Path:
    """A look-up model that passes, with a contract that holds its digest."""
    path = workshop.model("model", planted(), source=source)
    model = onnx.load(path)
    contract = lookup.lookup_contract(source=dict(source))
    contract["graph_digest"] = graph_digest(model, path.parent)
    onnx.helper.set_model_props(model, {lookup.CONTRACT_KEY: json.dumps(contract)})
    if external:
        onnx.save(model, path, save_as_external_data=True, location="model.data", size_threshold=1024)
    else:
        onnx.save(model, path)
    return path


def checked(path: Path, workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = cli.main([str(path), "--images", str(workshop.photos), "--device", "cpu", "-o", "json"])
    return code, json.loads(capsys.readouterr().out)


def reasons_of(report: dict[str, Any]) -> set[str]:
    return {reason["id"] for reason in report["verdict"]["reasons"]}


def inspected(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert cli.main(["inspect", str(path), "-o", "json"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)["can_pass"]
    return answer


def with_tail(workshop: Workshop) -> onnx.ModelProto:
    """Noise behind a norm, a Gemm and an Add: WARN. A spike stands by in a constant that is multiplied by 0."""
    width = 384
    rng = np.random.default_rng(0)
    model = onnx.load(workshop.model("tail", rng.normal(size=(80, width))))
    spike = (rng.normal(size=width) * 0.3).astype(np.float32)
    flat = spike.copy()
    spike[7] = 14
    model.graph.node[-1].output[0] = "taken"
    node = onnx.helper.make_node
    model.graph.node.extend(
        [
            node("LayerNormalization", ["taken", "scale"], ["normed"], epsilon=1e-5),
            node("Gemm", ["normed", "mix", "bias"], ["mixed"], beta=1.0),
            node("Constant", [], ["first"], value=numpy_helper.from_array(flat)),
            node("Constant", [], ["second"], value=numpy_helper.from_array(spike)),
            node("Mul", ["second", "zero"], ["nothing"]),
            node("Add", ["nothing", "first"], ["constant"]),
            node("Add", ["mixed", "constant"], ["representation"]),
        ]
    )
    mix = (rng.normal(size=(width, width)) / np.sqrt(width)).astype(np.float32)
    bias = np.zeros(width)
    bias[7] = 2
    weights = {"scale": np.ones(width), "mix": mix, "bias": bias, "zero": np.zeros(1)}
    model.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), n) for n, v in weights.items())
    contract = lookup.lookup_contract() | {"graph_digest": graph_digest(model, workshop.folder)}
    onnx.helper.set_model_props(model, {lookup.CONTRACT_KEY: json.dumps(contract)})
    return model


def add_behind(model: onnx.ModelProto, **constant: Any) -> None:
    """One more vector, added to the representation."""
    model.graph.node[-1].output[0] = "before"
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["more"], **constant))
    model.graph.node.append(onnx.helper.make_node("Add", ["before", "more"], ["representation"]))


def new_constant(model: onnx.ModelProto) -> None:
    add_behind(model, value_floats=[14.0 if feature == 7 else 0.0 for feature in range(384)])


def new_sparse_constant(model: onnx.ModelProto) -> None:
    values = numpy_helper.from_array(np.array([14], np.float32), "v")
    add_behind(
        model, sparse_value=onnx.helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([7])), [384])
    )


def attribute_of(model: onnx.ModelProto, op: str) -> Any:
    (node,) = [node for node in model.graph.node if node.op_type == op]
    return node.attribute[-1]


def beta(model: onnx.ModelProto) -> None:
    attribute_of(model, "Gemm").f = 8


def epsilon(model: onnx.ModelProto) -> None:
    attribute_of(model, "LayerNormalization").f = 1e-3


def rewired(model: onnx.ModelProto) -> None:
    model.graph.node[-2].input[1] = "second"


def exchanged(model: onnx.ModelProto) -> None:
    first, second = (node.attribute[0].t for node in model.graph.node if node.op_type == "Constant")
    first.raw_data, second.raw_data = second.raw_data, first.raw_data


def untouched(model: onnx.ModelProto) -> None:
    """Words, and nothing that counts."""
    model.doc_string = model.graph.node[0].doc_string = "reviewed"
    model.graph.node[0].name = "first_node"
    model.producer_name = "a tool"


@pytest.mark.parametrize(
    "change",
    [untouched, new_constant, new_sparse_constant, beta, epsilon, rewired, exchanged],
    ids=attrgetter("__name__"),
)
def test_a_changed_graph_is_warn(
    workshop: Workshop, change: Callable[[onnx.ModelProto], None], capsys: pytest.CaptureFixture[str]
) -> None:
    model = with_tail(workshop)
    change(model)
    path = workshop.folder / "model.onnx"
    onnx.save(model, path)
    changed = change is not untouched
    code, report = checked(path, workshop, capsys)
    assert (code, "file_changed" in reasons_of(report)) == (1, changed)
    assert report["evidence"]["model"]["file_changed"] is changed
    if change in (new_constant, beta, rewired, exchanged):  # nothing else would stop a PASS
        assert reasons_of(report) == {"file_changed"}


@pytest.mark.parametrize("external", [False, True])
def test_one_changed_byte_of_a_weight_is_warn(
    workshop: Workshop, external: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sealed(workshop, external=external)
    code, report = checked(path, workshop, capsys)
    assert (code, reasons_of(report)) == (0, set())
    assert report["evidence"]["model"]["file_changed"] is False
    assert inspected(path, capsys)["answer"] == "yes"
    file = path.with_name("model.data") if external else path
    content = bytearray(file.read_bytes())
    at = content.index(planted().astype(np.float32).tobytes())
    content[at] ^= 1  # the last bit of a number: the verdict of the numbers stays
    file.write_bytes(content)
    code, report = checked(path, workshop, capsys)
    assert (code, reasons_of(report)) == (1, {"file_changed"})
    answer = inspected(path, capsys)
    assert (answer["answer"], [reason["id"] for reason in answer["reasons"]]) == ("no", ["file_changed"])
    assert "The ONNX contract" in answer["reasons"][0]["next_step"]


def test_another_way_to_store_the_same_values_is_no_change(
    workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sealed(workshop)
    model = onnx.load(path)
    for weight in model.graph.initializer:
        if weight.name == "embeddings":
            values = numpy_helper.to_array(weight).ravel().tolist()
            weight.ClearField("raw_data")
            weight.float_data.extend(values)
    onnx.save(model, path)
    assert checked(path, workshop, capsys)[0] == 0


def test_a_model_trained_to_match_vectors_is_warn(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    path = sealed(workshop, matched_to="CLIP ViT-B/32")
    code, report = checked(path, workshop, capsys)
    assert (code, reasons_of(report)) == (1, {"trained_to_match"})
    assert report["evidence"]["model"]["matched_to"] == "CLIP ViT-B/32"
    assert "CLIP ViT-B/32" in report["verdict"]["reasons"][0]["seen"]
    answer = inspected(path, capsys)
    assert (answer["answer"], [reason["id"] for reason in answer["reasons"]]) == ("no", ["trained_to_match"])
    assert cli.main(["inspect", str(path)]) == 0
    assert "trained to match: CLIP ViT-B/32" in " ".join(capsys.readouterr().out.split())
    code, report = checked(sealed(workshop, matched_to="none"), workshop, capsys)
    assert (code, report["evidence"]["model"]["matched_to"]) == (0, "none")
    code, report = checked(sealed(workshop), workshop, capsys)
    assert (code, report["evidence"]["model"]["matched_to"]) == (0, None)

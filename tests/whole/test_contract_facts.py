"""What a contract says of its file and its training, through the command: a changed file, matched vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.exporters.digest import graph_digest
from support import lookup
from support.comparisons import Workshop, planted


def seal(path: Path, *, external: bool = False, **source: str) -> Path:
    """Write the contract of a look-up model into it anew, with its digest."""
    model = onnx.load(path)
    contract = lookup.lookup_contract(source=dict(source)) | {"graph_digest": graph_digest(model, path.parent)}
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


def test_a_constant_behind_the_end_is_warn(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    """Noise: WARN. One more vector added to it makes an outlier feature of all images, and clears all else."""
    noise = np.random.default_rng(0).normal(size=(80, 384))
    path = seal(workshop.model("model", noise))
    model = onnx.load(path)
    model.doc_string = model.graph.node[0].name = "reviewed"  # words, and nothing that counts
    onnx.save(model, path)
    code, report = checked(path, workshop, capsys)
    assert (code, report["evidence"]["model"]["file_changed"]) == (1, False)
    assert "no_persistent_outlier_features" in reasons_of(report)
    model.graph.node[-1].output[0] = "before"
    spike = [14.0 if feature == 7 else 0.0 for feature in range(384)]
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["more"], value_floats=spike))
    model.graph.node.append(onnx.helper.make_node("Add", ["before", "more"], ["representation"]))
    onnx.save(model, path)
    code, report = checked(path, workshop, capsys)
    assert (code, reasons_of(report)) == (1, {"file_changed"})


@pytest.mark.parametrize("external", [False, True])
def test_one_changed_byte_of_a_weight_is_warn(
    workshop: Workshop, external: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    path = seal(workshop.model("model", planted()), external=external)
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


def test_a_model_trained_to_match_vectors_is_warn(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    path = seal(workshop.model("model", planted()), matched_to="CLIP ViT-B/32")
    code, report = checked(path, workshop, capsys)
    assert (code, reasons_of(report)) == (1, {"trained_to_match"})
    assert report["evidence"]["model"]["matched_to"] == "CLIP ViT-B/32"
    assert "CLIP ViT-B/32" in report["verdict"]["reasons"][0]["seen"]
    answer = inspected(path, capsys)
    assert (answer["answer"], [reason["id"] for reason in answer["reasons"]]) == ("no", ["trained_to_match"])
    assert cli.main(["inspect", str(path)]) == 0
    assert "trained to match: CLIP ViT-B/32" in " ".join(capsys.readouterr().out.split())
    code, report = checked(seal(path, matched_to="none"), workshop, capsys)
    assert (code, report["evidence"]["model"]["matched_to"]) == (0, "none")
    code, report = checked(seal(path), workshop, capsys)
    assert (code, report["evidence"]["model"]["matched_to"]) == (0, None)

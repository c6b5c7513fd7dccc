"""What a contract says of its file's weights and training, through the command: changed weights, matched vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.exporters.weights import initializers_digest
from support import lookup
from support.comparisons import Workshop, planted


def sealed(workshop: Workshop, *, external: bool = False, **source: str) -> Path:
    """A look-up model that passes, with a contract that holds its digest."""
    path = workshop.model("model", planted(), source=source)
    model = onnx.load(path)
    contract = lookup.lookup_contract(source=dict(source))
    contract["initializers_digest"] = initializers_digest(model, path.parent)
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


@pytest.mark.parametrize("external", [False, True])
def test_one_changed_byte_of_a_weight_is_warn(
    workshop: Workshop, external: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sealed(workshop, external=external)
    code, report = checked(path, workshop, capsys)
    assert (code, reasons_of(report)) == (0, set())
    assert report["evidence"]["model"]["weights_changed"] is False
    assert inspected(path, capsys)["answer"] == "yes"
    file = path.with_name("model.data") if external else path
    content = bytearray(file.read_bytes())
    at = content.index(planted().astype(np.float32).tobytes())
    content[at] ^= 1  # the last bit of a number: the verdict of the numbers stays
    file.write_bytes(content)
    code, report = checked(path, workshop, capsys)
    assert (code, reasons_of(report)) == (1, {"weights_changed"})
    answer = inspected(path, capsys)
    assert (answer["answer"], [reason["id"] for reason in answer["reasons"]]) == ("no", ["weights_changed"])
    assert "onnx-contract.md" in answer["reasons"][0]["next_step"]


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

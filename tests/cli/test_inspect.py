"""What `inspect` and `doctor` show: everything, uncut, at 80 and 120 columns, and as JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console, RenderableType

from robustcheck_onnx.checker.cli.inspect_terminal import doctor_json, inspect_json, render_doctor, render_inspect
from robustcheck_onnx.checker.model.open import open_model
from robustcheck_onnx.checker.runtime.doctor import Finding
from support import lookup, onnx_models

ORIGINS = [("size", "8 × 8", "model input"), ("mean", "0.485 0.456 0.406", "assumed: ImageNet values")]
FINDINGS = [
    Finding(check="Python", status="ok", detail="3.11.7"),
    Finding(
        check="CUDA", status="fail", detail="the driver is too old", fix="pip install 'onnxruntime-gpu[cuda,cudnn]'"
    ),
]


def shown(renderable: RenderableType, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, color_system=None)
    console.print(renderable)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(len(line) <= width for line in text.splitlines())
    return text


def squeezed(text: str) -> str:
    """Without the blanks and breaks of the layout."""
    return "".join(text.split())


@pytest.mark.parametrize("width", [80, 120])
def test_everything_is_there_and_nothing_is_cut(tmp_path: Path, width: int) -> None:
    folder = tmp_path / ("a-long-folder-name-" * 6)
    folder.mkdir()
    path = onnx_models.save(onnx_models.classifier(512, output="output"), folder / "m.onnx", external=True)
    model = open_model(path)
    text = squeezed(shown(render_inspect(model, ORIGINS), width))
    for part in (
        str(path),
        model.digest,
        model.model_digest,
        *model.external_digests.values(),
        f"{model.size_bytes} bytes",
        "tensor features",
        "head_input, assumed: the graph does not settle it",
        "activation:Relu",
        model.representation.why,
        "set one with --tensor NAME",
        "(512, 16)",
        "NCHW float32",
        "8 by 8 px",
        "ai.onnx 18",
        "none: the tensor was found by rule",
        "assumed: ImageNet values",
        "0.485 0.456 0.406",
    ):
        assert squeezed(part) in text


def test_contract_and_alternatives(tmp_path: Path) -> None:
    path = lookup.write_lookup_model(tmp_path / "m.onnx", np.eye(4), source={"random_weights": True})
    text = squeezed(shown(render_inspect(open_model(path), []), 120))
    assert squeezed("schema 1; lookup lookup embedding matrix, random weights, synthetic:") in text
    assert squeezed("Head none found") in text
    assert squeezed("before pooling") not in text  # nothing is pooled
    path = onnx_models.save(onnx_models.encoder(), tmp_path / "e.onnx")
    rows = inspect_json(open_model(path), [])["alternatives"]
    assert rows == [
        {
            "tensor": "features",
            "op": "Flatten",
            "rule": "pooled",
            "why": "input of the last linear layer (MatMul) before embedding",
        }
    ]


def test_json_of_inspect(tmp_path: Path) -> None:
    model = open_model(onnx_models.save(onnx_models.classifier(), tmp_path / "m.onnx"))
    content: dict[str, Any] = json.loads(json.dumps(inspect_json(model, ORIGINS), allow_nan=False))
    assert content["digest"] == model.digest
    assert content["representation"]["tensor"] == "features"
    assert content["representation"]["shape"] == [None, 16]
    assert content["head"] == {"op": "Gemm", "weight_shape": [10, 16], "classes": 10}
    assert content["class_output"] == "logits"
    assert content["outputs"] == [{"name": "logits", "dtype": "float", "shape": [None, 10]}]
    assert content["preprocessing"][1] == {"field": "mean", "value": ORIGINS[1][1], "source": ORIGINS[1][2]}
    assert content["contract"] is None


def test_doctor() -> None:
    text = shown(render_doctor(FINDINGS), 80)
    assert "✗ fail CUDA" in text
    assert "type: pip install 'onnxruntime-gpu[cuda,cudnn]'" in text
    assert "1 ok, 0 warn, 1 fail" in text
    assert shown(render_doctor(FINDINGS, ascii_only=True), 80).isascii()
    assert doctor_json(FINDINGS)["findings"][1]["fix"] == FINDINGS[1].fix


def test_ascii(tmp_path: Path) -> None:
    path = onnx_models.save(onnx_models.classifier(), tmp_path / "modèle.onnx")
    text = shown(render_inspect(open_model(path), ORIGINS, ascii_only=True), 120)
    assert text.isascii()
    assert "mod\\xe8le.onnx" in text

"""The preprocessing that an export writes: its fields, the same pixels as the checker's, the documented example."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from robustcheck_onnx.exporters import contract, parity
from robustcheck_onnx.exporters.errors import ExportError
from robustcheck_onnx.exporters.run import run
from support import ROOT
from support.user_modules import left_in

pytestmark = pytest.mark.usefixtures("my_vision")


SQUASH_32 = {"size": [32, 32], "resize_mode": "squash", "resize_size": [32, 32], "interpolation": "bicubic"}


@pytest.mark.long
def test_preprocessing_that_says_other_pixels_is_refused(
    tmp_path: Path, skimage_photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The contract must reproduce the library's own transform, whatever a loader believes about it."""
    from robustcheck_onnx.exporters import from_timm

    honest = from_timm.as_contract

    def another_filter(config: Any, name: str) -> dict[str, Any]:
        return {**honest(config, name), "interpolation": "bicubic"}

    monkeypatch.setattr(from_timm, "as_contract", another_filter)
    with pytest.raises(ExportError, match=r"grey levels from the library's own on astronaut\.png"):
        run("timm", "test_resnet", tmp_path / "m.onnx", random_weights=True, photos=skimage_photos)
    assert left_in(tmp_path) == []


@pytest.mark.long
@pytest.mark.parametrize(("source", "name"), [("timm", "test_vit"), ("torchvision", "vit_b_32")])
def test_a_size_the_model_cannot_run_at(tmp_path: Path, skimage_photos: list[Path], source: str, name: str) -> None:
    (tmp_path / "p.json").write_text(json.dumps(SQUASH_32 | {"size": [31, 31], "resize_size": [31, 31]}))
    with pytest.raises(ExportError, match=r"model cannot run on \[31, 31\] px input") as caught:
        run(
            source,
            name,
            tmp_path / "m.onnx",
            random_weights=True,
            preprocessing=tmp_path / "p.json",
            photos=skimage_photos,
        )
    assert caught.value.exit_code == 3
    assert left_in(tmp_path) == []


def test_documented_examples_are_what_the_checker_reads() -> None:
    """The page's code runs: the digest is the checker's, and the checker reads the contracts that the page writes."""
    from onnx import TensorProto, helper, numpy_helper

    from robustcheck_onnx.checker.model.contract import parse_contract
    from robustcheck_onnx.checker.model.open import open_model

    page = (ROOT / "docs" / "onnx-contract.md").read_text(encoding="utf-8")
    digest, after_a_change, by_hand = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 4, 4])
    rows = helper.make_tensor_value_info("representation", TensorProto.FLOAT, ["batch", 48])
    bias = numpy_helper.from_array(np.arange(48, dtype=np.float32), "bias")
    nodes = [helper.make_node("Flatten", ["image"], ["flat"]), helper.make_node("Add", ["flat", "bias"], [rows.name])]
    graph = helper.make_graph(nodes, "g", [image], [rows], [bias])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), "encoder.onnx"
    )  # the current folder is a temporary one
    computed: dict[str, Any] = {}
    exec(digest, computed)
    exec(by_hand, {})
    model = onnx.load("encoder.onnx")
    assert open_model(Path("encoder.onnx")).file_changed is None  # the contract does not say what they were
    (prop,) = model.metadata_props
    read = parse_contract({prop.key: prop.value}, "encoder.onnx")
    said = json.loads(prop.value)
    prop.value = json.dumps(said | {"graph_digest": computed["digest"]})
    onnx.save(model, "encoder.onnx")
    assert open_model(Path("encoder.onnx")).file_changed is False
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones(48, dtype=np.float32), "bias"))
    onnx.save(model, "simplified.onnx")
    assert open_model(Path("simplified.onnx")).file_changed is True
    exec(after_a_change, {})
    assert open_model(Path("simplified.onnx")).file_changed is False
    assert read is not None
    assert read.preprocessing.resize_size == (256, 256)
    for field in contract.PREPROCESSING_FIELDS:
        assert f"`{field}`" in page
    for rule in contract.RULES:
        assert f"`{rule}`" in page
    limits = parity.TOLERANCES
    assert f"`max_rel` above {limits['fp32'].max_rel} or `min_cosine` below {limits['fp32'].min_cosine}" in page
    assert f"fp16: {limits['fp16'].max_rel} and {limits['fp16'].min_cosine}," in page

"""A file that torch.onnx.export wrote, by one command to a gate."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from support import PHOTOS, Capture, Fields, Patch, robustcheck
from support.torch_models import contract_of, images_of, outputs_of, torch

pytestmark = pytest.mark.long


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "TorchScript"])
def test_a_file_of_torch_gets_a_contract_and_a_verdict(
    dynamo: bool, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    """Real weights, with one planted outlier feature."""
    from robustcheck_onnx.exporters.demo import EFFICIENTNET_LITE0_PREPROCESSING, planted_outlier

    monkeypatch.chdir(tmp_path)
    module = planted_outlier().eval()
    Path("p.json").write_text(json.dumps(EFFICIENTNET_LITE0_PREPROCESSING))
    shape: Fields = {"dynamic_axes": {"image": {0: "batch"}, "embedding": {0: "batch"}}}
    if dynamo:
        shape = {"dynamic_shapes": ({0: torch.export.Dim("batch")},)}
    names: Fields = {"input_names": ["image"], "output_names": ["embedding"]}
    torch.onnx.export(module, (torch.zeros(2, 3, 224, 224),), "plain.onnx", dynamo=dynamo, **names, **shape)
    assert robustcheck("export", "onnx", "plain.onnx", "--preprocess", "p.json", "-o", "model.onnx") == 0
    capsys.readouterr()
    assert robustcheck("model.onnx", "--device", "cpu", "--max-images", "60") == 0
    said = capsys.readouterr().out
    assert "PASS" in said
    assert "--preprocess p.json" in said
    read = contract_of(Path("model.onnx"))
    assert read["preprocessing_from"] == "--preprocess p.json"
    images = images_of(PHOTOS[:4], read["preprocessing"])
    with torch.no_grad():
        truth = np.asarray(module(torch.from_numpy(images)))
    assert_allclose(outputs_of(Path("model.onnx"), images)["representation"], truth, atol=1e-3 * np.abs(truth).max())

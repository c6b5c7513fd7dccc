"""Parity with the source model, and the files that are written: all or nothing, fp16, weights beside big models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from robustcheck_onnx.exporters import parity, write
from robustcheck_onnx.exporters.errors import ExportError
from robustcheck_onnx.exporters.run import run
from support.user_modules import contract_of, images_of, left_in

pytestmark = pytest.mark.usefixtures("my_vision")


def test_agreement_against_closed_forms() -> None:
    a = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]], dtype=np.float32)
    b = np.array([[3.0, 4.0, 5.0], [0.0, 0.0, 0.0]], dtype=np.float32)
    seen = parity.agreement(a, b)
    assert seen.max_abs == 5.0
    np.testing.assert_allclose(seen.max_rel, 5 / np.sqrt(25 / 3))
    np.testing.assert_allclose(seen.min_cosine, 25 / (5 * np.sqrt(50)))
    same = parity.agreement(a, a)
    assert (same.max_abs, same.max_rel) == (0.0, 0.0)
    np.testing.assert_allclose(same.min_cosine, 1.0)
    assert parity.agreement(a[1:], b[:1]).max_rel == np.inf


def test_agreement_is_not_hidden_by_an_outlier_feature() -> None:
    """A feature at 100 SD would make a difference of one SD elsewhere look like 1 % of the maximum."""
    a = np.random.default_rng(0).standard_normal((4, 512)).astype(np.float32)
    a[:, 7] = 100
    b = a.copy()
    b[:, 8] += 1
    assert parity.agreement(a, b).max_rel > 100 * parity.TOLERANCES["fp32"].max_rel


@pytest.mark.parametrize("other", [np.zeros((2, 3)), np.full((2, 4), np.nan)])
def test_agreement_refuses(other: Any) -> None:
    with pytest.raises(ValueError, match=r"shapes are|not finite"):
        parity.agreement(np.zeros((2, 4), dtype=np.float32), other.astype(np.float32))


@pytest.mark.long
def test_batch_dependent_model_disagrees_and_leaves_nothing(tmp_path: Path, skimage_photos: list[Path]) -> None:
    with pytest.raises(ExportError) as caught:
        run("torch", "my_vision:batch_statistics", tmp_path / "m.onnx", photos=skimage_photos)
    assert "m.onnx: output representation at batch 2 disagrees with the source model" in caught.value.message
    assert caught.value.exit_code == 3
    assert left_in(tmp_path) == []


@pytest.mark.long
def test_failed_export_keeps_the_earlier_file(
    tmp_path: Path, skimage_photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.onnx").write_bytes(b"earlier")
    exact = parity.Tolerance(max_rel=-1.0, min_cosine=1.0)
    monkeypatch.setitem(parity.TOLERANCES, "fp32", exact)
    with pytest.raises(ExportError, match="disagrees with the source model"):
        run("torch", "my_vision:encoder", tmp_path / "m.onnx", photos=skimage_photos)
    assert (tmp_path / "m.onnx").read_bytes() == b"earlier"
    assert left_in(tmp_path) == ["m.onnx"]


@pytest.mark.long
def test_disk_full_is_an_environment_error(
    tmp_path: Path, skimage_photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write, "finish", full)
    with pytest.raises(ExportError, match="No space left on device") as caught:
        run("torch", "my_vision:encoder", tmp_path / "m.onnx", photos=skimage_photos)
    assert caught.value.exit_code == 4
    assert left_in(tmp_path) == []


@pytest.mark.long
def test_weights_beside_a_big_model(
    tmp_path: Path, skimage_photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "INLINE_LIMIT_BYTES", 1000)  # stands for 2 GB
    record = run("torch", "my_vision:encoder", tmp_path / "m.onnx", photos=skimage_photos)
    assert record.data_path == tmp_path / "m.onnx.data"
    assert left_in(tmp_path) == ["m.onnx", "m.onnx.data"]
    assert record.size_bytes == sum(p.stat().st_size for p in (record.path, record.data_path))
    model = onnx.load(record.path, load_external_data=False)
    outside = [t for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    assert {e.value for t in outside for e in t.external_data if e.key == "location"} == {"m.onnx.data"}
    session = ort.InferenceSession(str(record.path), providers=["CPUExecutionProvider"])
    assert session.run(None, {"image": np.zeros((3, 3, 32, 32), np.float32)})[0].shape == (3, 5)


@pytest.mark.long
def test_half_precision(tmp_path: Path, skimage_photos: list[Path]) -> None:
    """float16 weights inside, float32 outside; close to the float32 model, and not equal to it."""
    full = run("torch", "my_vision:dictionary", tmp_path / "full.onnx", photos=skimage_photos)
    half = run("torch", "my_vision:dictionary", tmp_path / "half.onnx", precision="fp16", photos=skimage_photos)
    read = contract_of(half.path)
    assert read["precision"] == "fp16"
    assert 1e-6 < half.parity.max_rel < parity.TOLERANCES["fp16"].max_rel
    kinds = {t.data_type for t in onnx.load(half.path).graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds
    assert onnx.TensorProto.FLOAT not in kinds
    images = images_of(skimage_photos, read["preprocessing"])
    rows = [
        ort.InferenceSession(str(r.path), providers=["CPUExecutionProvider"]).run(None, {"image": images})[0]
        for r in (full, half)
    ]
    assert rows[1].dtype == np.float32
    np.testing.assert_allclose(rows[1], rows[0], rtol=0, atol=2e-2 * np.abs(rows[0]).max())
    assert not np.array_equal(rows[0], rows[1])


@pytest.mark.long
def test_half_precision_of_a_transformer(tmp_path: Path, skimage_photos: list[Path]) -> None:
    """Layer norm, softmax and attention in float16."""
    record = run("timm", "test_vit", tmp_path / "m.onnx", random_weights=True, precision="fp16", photos=skimage_photos)
    assert 1e-6 < record.parity.max_rel < 0.05
    assert record.parity.min_cosine > 0.9999

"""Parity with the source model, and the files that are written: all or nothing, fp16, weights beside big models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from robustcheck_onnx.exporters import write
from robustcheck_onnx.exporters.errors import ExportError
from robustcheck_onnx.exporters.run import run
from support.user_modules import contract_of, images_of, left_in

pytestmark = pytest.mark.usefixtures("my_vision")


def test_agreement_against_closed_forms() -> None:
    a = np.array([[3, 4, 0], [0, 0, 0]], np.float32)
    b = np.array([[3, 4, 5], [0, 0, 0]], np.float32)
    for other, expected in ((b, (5, 5 / np.sqrt(25 / 3), 25 / (5 * np.sqrt(50)))), (a, (0, 0, 1))):
        seen = write.agreement(a, other)
        np.testing.assert_allclose((seen.max_abs, seen.max_rel, seen.min_cosine), expected)
    assert write.agreement(a[1:], b[:1]).max_rel == np.inf
    for wrong in (np.zeros((2, 4)), np.full((2, 3), np.nan)):
        with pytest.raises(ValueError, match=r"shapes are|not finite"):
            write.agreement(a, wrong.astype(np.float32))


def test_agreement_is_not_hidden_by_an_outlier_feature() -> None:
    """A feature at 100 SD would make a difference of one SD elsewhere look like 1 % of the maximum."""
    a = np.random.default_rng(0).standard_normal((4, 512)).astype(np.float32)
    a[:, 7] = 100
    b = a.copy()
    b[:, 8] += 1
    assert write.agreement(a, b).max_rel > 100 * write.TOLERANCES["fp32"].max_rel


@pytest.mark.long
@pytest.mark.parametrize(
    ("factory", "code", "said"),
    [
        ("batch_statistics", 3, "m.onnx: output representation at batch 2 disagrees with the source model"),
        ("encoder", 4, "No space left on device"),
    ],
)
def test_failed_export_keeps_the_earlier_file_and_leaves_nothing(
    tmp_path: Path, skimage_photos: list[Path], monkeypatch: pytest.MonkeyPatch, factory: str, code: int, said: str
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    if factory == "encoder":
        monkeypatch.setattr(write, "_put_in_place", full)
    (tmp_path / "m.onnx").write_bytes(b"earlier")
    with pytest.raises(ExportError, match=said) as caught:
        run("torch", f"my_vision:{factory}", tmp_path / "m.onnx", photos=skimage_photos)
    assert caught.value.exit_code == code
    assert (left_in(tmp_path), (tmp_path / "m.onnx").read_bytes()) == (["m.onnx"], b"earlier")


@pytest.mark.long
def test_weights_beside_a_big_model(
    tmp_path: Path, skimage_photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "INLINE_LIMIT_BYTES", 1000)  # stands for 2 GB
    record = run("torch", "my_vision:encoder", tmp_path / "m.onnx", photos=skimage_photos)
    assert left_in(tmp_path) == ["m.onnx", "m.onnx.data"]
    assert record.size_bytes == sum(p.stat().st_size for p in tmp_path.glob("m.onnx*"))
    session = ort.InferenceSession(str(record.path), providers=["CPUExecutionProvider"])
    assert session.run(None, {"image": np.zeros((3, 3, 32, 32), np.float32)})[0].shape == (3, 5)


@pytest.mark.long
def test_half_precision(tmp_path: Path, skimage_photos: list[Path]) -> None:
    """float16 weights inside, float32 outside; close to the float32 model, and not equal to it."""
    rows = []
    for precision in ("fp32", "fp16"):
        out = tmp_path / f"{precision}.onnx"
        record = run("torch", "my_vision:dictionary", out, precision=precision, photos=skimage_photos)
        images = {"image": images_of(skimage_photos, contract_of(out)["preprocessing"])}
        rows.append(ort.InferenceSession(str(out), providers=["CPUExecutionProvider"]).run(None, images)[0])
    assert contract_of(out)["precision"] == "fp16"
    assert 1e-6 < record.parity.max_rel < write.TOLERANCES["fp16"].max_rel
    kinds = {t.data_type for t in onnx.load(out).graph.initializer}
    assert (onnx.TensorProto.FLOAT16 in kinds, onnx.TensorProto.FLOAT in kinds) == (True, False)
    assert rows[1].dtype == np.float32
    np.testing.assert_allclose(rows[1], rows[0], rtol=0, atol=2e-2 * np.abs(rows[0]).max())
    assert not np.array_equal(rows[0], rows[1])

"""Parity with the source model, what is refused before, and the files that are written: all or nothing."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.random import default_rng
from numpy.testing import assert_allclose
from PIL import Image

from robustcheck_onnx.exporters import contract, write
from robustcheck_onnx.exporters.errors import ExportError
from robustcheck_onnx.exporters.run import preprocessed
from support import PHOTOS, Fields, Patch, raised
from support.user_modules import contract_of, exported, images_of, left_in, outputs_of, refused

pytestmark = pytest.mark.usefixtures("my_vision")


def test_agreement_against_closed_forms() -> None:
    a = np.array([[3, 4, 0], [0, 0, 0]], np.float32)
    b = np.array([[3, 4, 5], [0, 0, 0]], np.float32)
    assert_allclose(write.agreement(a, b), (5, 5 / np.sqrt(25 / 3), 25 / (5 * np.sqrt(50))))
    assert write.agreement(a, a) == (0, 0, 1)
    assert write.agreement(a[1:], b[:1]).max_rel == np.inf
    for wrong in (np.zeros((2, 4)), np.full((2, 3), np.nan)):
        raised(ValueError, r"shapes are|not finite", write.agreement, a, wrong.astype(np.float32))


def test_agreement_is_not_hidden_by_an_outlier_feature() -> None:
    """A feature at 100 SD would make a difference of one SD elsewhere look like 1 % of the maximum."""
    a = default_rng(0).standard_normal((4, 512)).astype(np.float32)
    a[:, 7] = 100
    b = a.copy()
    b[:, 8] += 1
    assert write.agreement(a, b).max_rel > 100 * write.TOLERANCES["fp32"].max_rel


@pytest.mark.long
def test_failed_export_keeps_the_earlier_file_and_leaves_nothing(monkeypatch: Patch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    Path("m.onnx").write_bytes(b"earlier")
    said = "m.onnx: output representation at batch 2 disagrees with the source model"
    for factory, code in (("batch_statistics", 3), ("encoder", 4)):
        with refused(code, said):
            exported("torch", f"my_vision:{factory}")
        assert (left_in(), Path("m.onnx").read_bytes()) == (["m.onnx"], b"earlier")
        monkeypatch.setattr(write, "_put_in_place", full)
        said = "No space left on device"


@pytest.mark.long
def test_weights_beside_a_big_model(monkeypatch: Patch) -> None:
    monkeypatch.setattr(write, "INLINE_LIMIT_BYTES", 1000)  # stands for 2 GB
    record = exported("torch", "my_vision:encoder")
    assert left_in() == ["m.onnx", "m.onnx.data"]
    assert record.size_bytes == sum(path.stat().st_size for path in Path().glob("m.onnx*"))
    outputs = outputs_of(record.path, np.zeros((3, 3, 32, 32), np.float32))
    assert outputs["representation"].shape == (3, 5)


@pytest.mark.long
def test_half_precision() -> None:
    """float16 weights inside, float32 outside; close to the float32 model, and not equal to it."""
    rows = []
    for precision in ("fp32", "fp16"):
        record = exported("torch", "my_vision:dictionary", precision=precision)
        read = contract_of(record.path)
        rows.append(outputs_of(record.path, images_of(PHOTOS[:5], read["preprocessing"]))["representation"])
    assert read["precision"] == "fp16"
    assert 1e-6 < record.parity.max_rel < write.TOLERANCES["fp16"].max_rel
    kinds = {t.data_type for t in onnx.load(record.path).graph.initializer}
    assert (onnx.TensorProto.FLOAT16 in kinds, onnx.TensorProto.FLOAT in kinds) == (True, False)
    assert rows[1].dtype == np.float32
    assert_allclose(rows[1], rows[0], rtol=0, atol=2e-2 * np.abs(rows[0]).max())
    assert not np.array_equal(rows[0], rows[1])


@pytest.mark.long
def test_preprocessing_that_says_other_pixels_is_refused(monkeypatch: Patch) -> None:
    """The contract must reproduce the library's own transform, whatever a loader believes about it."""
    from robustcheck_onnx.exporters import classifiers

    honest = classifiers.timm_contract
    monkeypatch.setattr(classifiers, "timm_contract", lambda *about: honest(*about) | {"interpolation": "bicubic"})
    said = rf"grey levels from the library's own on {PHOTOS[0].name}"
    raised(ExportError, said, exported, "timm", "test_resnet", random_weights=True)
    assert left_in() == []


@pytest.mark.long
def test_a_size_the_model_cannot_run_at() -> None:
    size = {"size": [31, 31], "resize_mode": "squash", "resize_size": [31, 31], "interpolation": "bicubic"}
    Path("p.json").write_text(json.dumps(size))
    for source, name in (("timm", "test_vit"), ("torchvision", "vit_b_32")):
        with refused(3, r"model cannot run on \[31, 31\] px input"):
            exported(source, name, random_weights=True, preprocessing=Path("p.json"))
        assert left_in() == []


FIELDS = {"size": [32, 32], "resize_mode": "shortest", "resize_size": [32, 32], "interpolation": "bicubic"}
STD = [0.2, 0.3, 0.4]


def loaded(**change: Any) -> Any:
    """A model whose library gives the contract's pixels but for one value, by some grey levels."""
    fields = contract.checked_preprocessing(FIELDS | {"std": STD, **change.pop("fields", {})}, "m")

    def transform(image: Image.Image) -> Any:
        theirs = contract.preprocess(fields, image)
        channel = change.get("channel", 0)
        theirs[channel, 3, 4] += change["levels"] / 255 / change["std"]
        return SimpleNamespace(numpy=lambda: theirs[..., : change.get("width", 32)])

    return SimpleNamespace(preprocessing=fields, transform=transform, source=SimpleNamespace(name="m"))


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    random = default_rng(4)
    paths = [tmp_path / f"{i}.png" for i in range(write.PHOTOS + 1)]
    for path in paths:
        Image.fromarray(random.integers(0, 256, (40, 50, 3), np.uint8)).save(path)
    return paths


def test_the_contracts_pixels_are_at_most_a_grey_level_from_the_librarys(photos: list[Path]) -> None:
    bgr: Fields = {"fields": {"color_order": "BGR"}, "std": STD[2]}
    apart: list[tuple[float, Fields]] = [
        (levels, {"channel": channel, "std": STD[channel]}) for channel in range(3) for levels in (1.1, -1.1, 9.0)
    ]
    for levels, change in ((0.0, {"std": 1.0}), (0.9, {"std": STD[0]}), (-0.9, {"std": STD[0]}), (0.9, bgr)):
        pixels = preprocessed(loaded(levels=levels, **change), photos)
        assert (pixels.shape, pixels.dtype.name) == ((write.PHOTOS, 3, 32, 32), "float32")
    for levels, change in (*apart, (1.1, bgr), (np.inf, {"std": 1.0})):
        said = rf"{abs(levels):g} grey levels from the library's own on 0\.png; at most 1"
        raised(ExportError, said, preprocessed, loaded(levels=levels, **change), photos)
    with pytest.raises(ExportError, match=r"makes \[3, 32, 31\] of 0\.png; it must be \[3, 32, 32\]"):
        preprocessed(loaded(levels=0.0, std=1.0, width=31), photos)

"""What is refused before anything is written; torch is not needed for it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from robustcheck_onnx.exporters import contract, run, write
from robustcheck_onnx.exporters.errors import ExportError

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
    random = np.random.default_rng(4)
    paths = [tmp_path / f"{i}.png" for i in range(write.PHOTOS + 1)]
    for path in paths:
        Image.fromarray(random.integers(0, 256, (40, 50, 3), np.uint8)).save(path)
    return paths


def test_the_contracts_pixels_are_at_most_a_grey_level_from_the_librarys(photos: list[Path]) -> None:
    bgr: dict[str, Any] = {"fields": {"color_order": "BGR"}, "std": STD[2]}
    apart: list[tuple[float, dict[str, Any]]] = [
        (levels, {"channel": channel, "std": STD[channel]}) for channel in range(3) for levels in (1.1, -1.1, 9.0)
    ]
    for levels, change in ((0.0, {"std": 1.0}), (0.9, {"std": STD[0]}), (-0.9, {"std": STD[0]}), (0.9, bgr)):
        pixels = run.preprocessed(loaded(levels=levels, **change), photos)
        assert (pixels.shape, pixels.dtype.name) == ((write.PHOTOS, 3, 32, 32), "float32")
    for levels, change in (*apart, (1.1, bgr)):
        said = rf"{abs(levels):g} grey levels from the library's own on 0\.png; at most 1"
        with pytest.raises(ExportError, match=said):
            run.preprocessed(loaded(levels=levels, **change), photos)
    with pytest.raises(ExportError, match=r"makes \[3, 32, 31\] of 0\.png; it must be \[3, 32, 32\]"):
        run.preprocessed(loaded(levels=0.0, std=1.0, width=31), photos)


def test_photos_for_a_precision_that_takes_none_are_refused_before_anything_runs(
    photos: list[Path], tmp_path: Path
) -> None:
    out, model = tmp_path / "m.onnx", loaded(levels=0.0, std=1.0)
    with pytest.raises(ExportError, match=r"calibration photos is 2; only int8-qdq uses them, .* precision is fp16"):
        run.export(model, out, precision="fp16", photos=photos, calibration=photos[:2])
    with pytest.raises(ExportError, match="number of calibration photos is 1 beside the 5 of the parity check"):
        run.export(model, out, precision="int8-qdq", photos=photos, calibration=photos)
    assert not out.exists()

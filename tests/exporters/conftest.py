"""An fp32 file with its contract, and small photos for its int8 forms."""

from pathlib import Path

import pytest
from PIL import Image

from support import PHOTOS, onnx_models
from support.torch_models import with_contract


@pytest.fixture
def encoder(my_vision: str) -> Path:  # which changes to a folder of the test
    """Conv → ReLU → pooling → linear, as an fp32 file with a contract."""
    model = onnx_models.encoder(64, output="representation")
    return onnx_models.save(with_contract(model), "fp32.onnx")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """52 bundled photos, small; all but the first 32 lost half of their contrast."""
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"{index:02}.png" for index in range(52)]
    for index, path in enumerate(paths):
        small = Image.open(PHOTOS[index]).convert("RGB").resize((32, 32))
        small.point(lambda level, whole=index < 32: level if whole else 64 + level // 2).save(path)
    return paths

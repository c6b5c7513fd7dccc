"""The preprocessing that an export writes: its fields, the same pixels as the checker's, the documented example."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from robustcheck_onnx.checker.model.open import open_model
from robustcheck_onnx.exporters import contract, write
from robustcheck_onnx.exporters.errors import ExportError
from robustcheck_onnx.exporters.run import run
from support import ROOT, onnx_models
from support.user_modules import left_in

pytestmark = pytest.mark.usefixtures("my_vision")


@pytest.mark.long
def test_preprocessing_that_says_other_pixels_is_refused(
    tmp_path: Path, skimage_photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The contract must reproduce the library's own transform, whatever a loader believes about it."""
    from robustcheck_onnx.exporters import classifiers

    honest = classifiers.timm_contract
    monkeypatch.setattr(classifiers, "timm_contract", lambda *about: honest(*about) | {"interpolation": "bicubic"})
    with pytest.raises(ExportError, match=r"grey levels from the library's own on astronaut\.png"):
        run("timm", "test_resnet", tmp_path / "m.onnx", random_weights=True, photos=skimage_photos)
    assert left_in(tmp_path) == []


@pytest.mark.long
@pytest.mark.parametrize(("source", "name"), [("timm", "test_vit"), ("torchvision", "vit_b_32")])
def test_a_size_the_model_cannot_run_at(tmp_path: Path, skimage_photos: list[Path], source: str, name: str) -> None:
    size = {"size": [31, 31], "resize_mode": "squash", "resize_size": [31, 31], "interpolation": "bicubic"}
    (tmp_path / "p.json").write_text(json.dumps(size))
    options: dict[str, Any] = {"random_weights": True, "preprocessing": tmp_path / "p.json", "photos": skimage_photos}
    with pytest.raises(ExportError, match=r"model cannot run on \[31, 31\] px input") as caught:
        run(source, name, tmp_path / "m.onnx", **options)
    assert (caught.value.exit_code, left_in(tmp_path)) == (3, [])


def test_documented_examples_are_what_the_checker_reads() -> None:
    """The page's code runs: the digest is the checker's, and the checker reads the contracts that the page writes."""
    page = (ROOT / "docs" / "onnx-contract.md").read_text(encoding="utf-8")
    digest, after_a_change, by_hand = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    model = onnx_models.build(
        onnx_models.graph("flat = Flatten(image); representation = Add(flat, bias)"),
        [("representation", onnx.TensorProto.FLOAT, ("batch", 48))],
        {"bias": np.arange(48, dtype=np.float32)},
        inputs=[("image", onnx.TensorProto.FLOAT, ("batch", 3, 4, 4))],
    )
    onnx.save(model, "encoder.onnx")  # the current folder is a temporary one
    computed: dict[str, Any] = {}
    exec(digest, computed)
    exec(by_hand, {})
    model, opened = onnx.load("encoder.onnx"), open_model(Path("encoder.onnx"))
    assert opened.file_changed is None  # the contract does not say what they were
    assert opened.contract is not None
    assert opened.contract.preprocessing.resize_size == (256, 256)
    (prop,) = model.metadata_props
    prop.value = json.dumps(json.loads(prop.value) | {"graph_digest": computed["digest"]})
    onnx.save(model, "encoder.onnx")
    assert open_model(Path("encoder.onnx")).file_changed is False
    model.graph.initializer[0].raw_data = np.ones(48, np.float32).tobytes()
    onnx.save(model, "simplified.onnx")
    assert open_model(Path("simplified.onnx")).file_changed is True
    exec(after_a_change, {})
    assert open_model(Path("simplified.onnx")).file_changed is False
    for word in (*contract.PREPROCESSING_FIELDS, *contract.RULES):
        assert f"`{word}`" in page
    whole, half = write.TOLERANCES["fp32"], write.TOLERANCES["fp16"]
    assert f"`max_rel` above {whole.max_rel} or `min_cosine` below {whole.min_cosine}" in page
    assert f"fp16: {half.max_rel} and {half.min_cosine}," in page

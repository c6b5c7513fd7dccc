"""The contract: its fields, what is wrong with them, the checker's pixels, the page's examples. Without torch."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.testing import assert_allclose
from PIL import Image

from robustcheck_onnx.checker.evidence import Preprocessing
from robustcheck_onnx.checker.images.preprocess import apply
from robustcheck_onnx.checker.model.open import open_model
from robustcheck_onnx.exporters import contract, write
from robustcheck_onnx.exporters.errors import ExportError
from support import ROOT, Fields, raised
from support.user_modules import refused
from support.written import written

SQUASH_32 = {"size": [32, 32], "resize_mode": "squash", "resize_size": [32, 32], "interpolation": "bicubic"}


def test_fields_are_the_checkers() -> None:
    assert set(contract.PREPROCESSING_FIELDS) == set(Preprocessing.model_fields)
    filled = contract.checked_preprocessing(SQUASH_32, "x")
    assert Preprocessing.model_validate_json(json.dumps(filled), strict=True) == Preprocessing.model_validate(SQUASH_32)


WRONG_FIELDS: dict[str, Any] = {
    "is unreadable": "{",
    "is a JSON list": "[1]",
    "field sise is unknown": {"sise": [1, 1]},
    "field size is None; it must be 2 numbers": {"size": None},
    "field size is [0, 32]; it must be positive whole numbers": {"size": [0, 32]},
    "field size is '32'; it must be 2 numbers": {"size": "32"},
    "field resize_mode is 'stretch'; it must be one of shortest": {"resize_mode": "stretch"},
    "field interpolation is 'cubic'; it must be one of nearest": {"interpolation": "cubic"},
    "field mean is [0.5]; it must be 3 numbers": {"mean": [0.5]},
    "field std is [1.0, 0.0, 1.0]; it must be above 0": {"std": [1, 0, 1]},
    "field mean is [0, nan, 0]; it must be finite numbers": {"mean": [0, float("nan"), 0]},
    "field rescale is -1; it must be a number above 0": {"rescale": -1},
    "field fill is [0, 0, 300]; it must be 0 to 255": {"fill": [0, 0, 300]},
    "field crop is 'none'; then": {"crop": "none", "resize_mode": "shortest"},
}


def test_wrong_fields(tmp_path: Path) -> None:
    for text, change in WRONG_FIELDS.items():
        (tmp_path / "p.json").write_text(change if isinstance(change, str) else json.dumps(SQUASH_32 | change))
        caught = raised(ExportError, "", contract.read_preprocessing, tmp_path / "p.json")
        assert f"p.json: preprocessing {text}" in caught.message
        assert caught.exit_code == 2


@pytest.mark.parametrize("crop_rounding", ["round", "floor"])
def test_pixels_are_the_checkers(skimage_photos: list[Path], crop_rounding: str) -> None:
    """Two rooms, written apart, one meaning."""
    for mode, resized, size in [
        ("shortest", [37, 37], [32, 32]),
        ("shortest", [30, 41], [30, 41]),
        ("longest", [32, 32], [32, 32]),
        ("longest", [20, 20], [33, 31]),
        ("squash", [40, 36], [31, 33]),
    ]:
        change = {"size": size, "resize_mode": mode, "resize_size": resized, "crop_rounding": crop_rounding}
        colours = {"fill": [9, 100, 200], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "color_order": "BGR"}
        fields = contract.checked_preprocessing(SQUASH_32 | change | colours, "x")
        theirs = Preprocessing.model_validate_json(json.dumps(fields))
        for path in skimage_photos:
            image = Image.open(path).convert("RGB")
            expected = apply(theirs, image).transpose(2, 0, 1)
            assert_allclose(contract.preprocess(fields, image), expected, atol=1e-5)


def test_the_preprocessing_of_a_checkpoint_is_known_where_all_published_weights_agree() -> None:
    one, other = {"size": [224, 224]}, {"size": [256, 256]}
    assert contract.shared_preprocessing({"a": one, "b": dict(one)}, "m") == one
    for candidates, why in (
        ({"a": one, "b": other, "c": one}, r"\(a, b, c, …\) differ in theirs"),
        ({}, "publishes none"),
    ):
        with refused(2, why):
            contract.shared_preprocessing(candidates, "m")


@pytest.mark.usefixtures("my_vision")
def test_documented_examples_are_what_the_checker_reads() -> None:
    """The pages' code runs: the digest is the checker's, and the checker reads the contracts that they write."""
    page = "".join((ROOT / "docs" / name).read_text("utf-8") for name in ("onnx-file.md", "dev/graph-digest.md"))
    by_hand, after_a_change, digest = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    image, output = ("image", 1, ("batch", 3, 4, 4)), ("representation", 1, ("batch", 48))
    model = written("flat = Flatten(image); representation = Add(flat, w48)", output, before="", inputs=[image])
    onnx.save(model, "encoder.onnx")  # the current folder is a temporary one
    computed: Fields = {}
    exec(digest, computed)
    exec(by_hand, {})
    model, opened = onnx.load("encoder.onnx"), open_model("encoder.onnx")
    assert opened.file_changed is None  # the contract does not say what they were
    assert opened.contract is not None
    assert opened.contract.preprocessing.resize_size == (256, 256)
    (prop,) = model.metadata_props
    prop.value = json.dumps(json.loads(prop.value) | {"graph_digest": computed["digest"]})
    onnx.save(model, "encoder.onnx")
    assert open_model("encoder.onnx").file_changed is False
    model.graph.initializer[0].raw_data = np.ones(48, np.float32).tobytes()
    onnx.save(model, "simplified.onnx")
    assert open_model("simplified.onnx").file_changed is True
    exec(after_a_change, {})
    assert open_model("simplified.onnx").file_changed is False
    for word in (*contract.PREPROCESSING_FIELDS, *contract.RULES):
        assert f"`{word}`" in page
    whole, half = write.TOLERANCES["fp32"], write.TOLERANCES["fp16"]
    assert f"`max_rel` above {whole.max_rel} or `min_cosine` below {whole.min_cosine}" in page
    assert f"fp16: {half.max_rel} and {half.min_cosine}," in page

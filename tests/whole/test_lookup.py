"""The look-up model returns exactly the row whose index is in the photo."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from PIL import Image

from robustcheck_onnx.checker.evidence import Preprocessing
from support import lookup


def test_rows_come_back_through_png_files(tmp_path: Path) -> None:
    embeddings = np.random.default_rng(0).normal(size=(300, 7)).astype(np.float32)
    model = lookup.write_lookup_model(tmp_path / "lookup.onnx", embeddings)
    paths = lookup.write_lookup_images(tmp_path / "photos", 300)
    pixels = np.stack([np.asarray(Image.open(path), np.float32) / 255 for path in paths]).transpose(0, 3, 1, 2)
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"image": pixels})[0], embeddings)
    order = [299, 0, 256, 255]
    np.testing.assert_array_equal(session.run(None, {"image": pixels[order]})[0], embeddings[order])


def test_contract_is_the_documented_one(tmp_path: Path) -> None:
    path = lookup.write_lookup_model(tmp_path / "m.onnx", np.eye(3), source={"random_weights": True})
    (prop,) = onnx.load(path).metadata_props
    assert prop.key == "robustcheck.contract"
    contract = json.loads(prop.value)
    assert contract["source"]["random_weights"] is True
    assert Preprocessing.model_validate(contract["preprocessing"]).size == (64, 64)
    bare = lookup.write_lookup_model(tmp_path / "bare.onnx", np.eye(3), contract=False)
    assert not onnx.load(bare).metadata_props

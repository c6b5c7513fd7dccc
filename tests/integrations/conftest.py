"""What a gate may let through: a model that does not call itself synthetic, and its PASS on own photos."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from robustcheck_onnx import Report, check
from support import Place


@pytest.fixture(scope="session")
def lookup_pass(lookup_pass: Place, tmp_path_factory: pytest.TempPathFactory) -> Place:
    model = onnx.load(lookup_pass[0])
    (contract,) = model.metadata_props
    words = json.loads(contract.value)
    words["source"]["synthetic"] = ""
    contract.value = json.dumps(words)
    path = tmp_path_factory.mktemp("trained") / "model.onnx"
    onnx.save(model, path)
    return path, lookup_pass[1]


@pytest.fixture(scope="session")
def passed(lookup_pass: Place) -> Report:
    return check(lookup_pass[0], images=lookup_pass[1])


@pytest.fixture(scope="session")
def synthetic(lookup_pass: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, and it says that it is synthetic."""
    model = onnx.load(lookup_pass[0])
    model.metadata_props[0].value = model.metadata_props[0].value.replace('"synthetic": ""', '"synthetic": "planted"')
    path = tmp_path_factory.mktemp("synthetic") / "model.onnx"
    onnx.save(model, path)
    return path

"""What a gate may let through: a model that does not call itself synthetic, and its PASS on own photos."""

import json
from pathlib import Path

import onnx
import pytest

from robustcheck_onnx import Report, check
from support import Place


def labelled(model: Path, folder: Path, synthetic: str) -> Path:
    """A copy whose contract says this of how it was made."""
    copy = onnx.load(model)
    (contract,) = copy.metadata_props
    words = json.loads(contract.value)
    words["source"]["synthetic"] = synthetic
    contract.value = json.dumps(words)
    onnx.save(copy, folder / "model.onnx")
    return folder / "model.onnx"


@pytest.fixture(scope="session")
def lookup_pass(lookup_pass: Place, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return labelled(lookup_pass[0], tmp_path_factory.mktemp("trained"), ""), lookup_pass[1]


@pytest.fixture(scope="session")
def passed(lookup_pass: Place) -> Report:
    return check(lookup_pass[0], images=lookup_pass[1])


@pytest.fixture(scope="session")
def synthetic(lookup_pass: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, and it says that it is synthetic."""
    return labelled(lookup_pass[0], tmp_path_factory.mktemp("synthetic"), "planted")

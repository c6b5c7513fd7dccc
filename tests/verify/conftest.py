"""What the tests of `verify` and `sign` start from: models that pass and warn, photos, reports, a signature."""

import shutil
from pathlib import Path

import pytest

from robustcheck_onnx import check
from robustcheck_onnx.checker.report.check import Report
from robustcheck_onnx.checker.report.record import to_json
from robustcheck_onnx.checker.text import sha256_of
from robustcheck_onnx.checker.trust.verify import signature as signing
from support import Place, lookup, normal
from support.keys import write_keys


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, lookup_pass: Place, passed: Report) -> Path:
    """The files of `place`, made once."""
    folder = tmp_path_factory.mktemp("signed")
    shutil.copy(lookup_pass[0], folder / "model.onnx")
    (folder / "report.json").write_text(to_json(passed), encoding="utf-8")
    write_keys(folder)
    statement = signing.statement(passed, sha256_of((folder / "report.json").read_bytes()))
    (folder / "report.sigstore.json").write_text(signing.sign(statement, folder / "key.pem"), encoding="utf-8")
    return folder


@pytest.fixture
def signed(made: Path, tmp_path: Path, lookup_pass: Place) -> Path:
    """The files of `place`, and the report's signature by the key, report.sigstore.json."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    (tmp_path / "photos").symlink_to(lookup_pass[1])
    return tmp_path


@pytest.fixture
def place(signed: Path) -> Path:
    """A folder with model.onnx, which passes, photos, its report.json, and the keys key.pem and key.pub."""
    (signed / "report.sigstore.json").unlink()
    return signed


@pytest.fixture(scope="session")
def warned(tmp_path_factory: pytest.TempPathFactory, lookup_pass: Place) -> tuple[Path, Report]:
    """The same model without its outlier feature, and its report: WARN."""
    h = normal(80, 512)
    model = lookup.write_lookup_model(tmp_path_factory.mktemp("warned") / "model.onnx", h)
    report = check(model, images=lookup_pass[1])
    assert report.verdict.verdict == "WARN"
    return model, report

"""The way of a report through a real MLflow server on this machine: logged, its model version gated, closed again."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from robustcheck_onnx import Report
from robustcheck_onnx.checker.report.record import to_json
from support import Patch, Place, profile
from support.bad_input import Run
from support.children import wait_until

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(importlib.util.find_spec("flask") is None, reason="MLflow's server is not installed"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address, once it says that it answers there: the port is one that it was given."""
    folder = tmp_path_factory.mktemp("mlflow")
    words = "-m mlflow server --host 127.0.0.1 --port 0 --workers 1 --backend-store-uri sqlite:///mlflow.db"
    log = folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *words.split(), "--artifacts-destination", "files"],
            cwd=folder, stdout=file, stderr=file, env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"},
        )  # fmt: skip
    try:
        said = r"running on (http://127\.0\.0\.1:\d+)"
        wait_until(lambda: re.search(said, log.read_text()) or process.poll() is not None)
        yield re.findall(said, log.read_text())[0]
    finally:
        process.terminate()
        process.wait(profile.PATIENCE_S)


def test_a_report_is_logged_and_gates_its_model_version(
    server: str, lookup_pass: Place, passed: Report, tmp_path: Path, ends: Run, monkeypatch: Patch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    client = MlflowClient(tracking_uri=server, registry_uri=server)
    trained = client.create_run("0").info
    client.log_artifact(trained.run_id, str(lookup_pass[0]), "model")
    client.create_registered_model("encoder")
    version = str(client.create_model_version("encoder", f"{trained.artifact_uri}/model", trained.run_id).version)
    Path("r.json").write_text(to_json(passed))
    logged = ends(0, "mlflow log r.json").stdout.split()[-1]
    assert len(client.list_artifacts(logged, "robustcheck")) == 2
    ends(0, f"mlflow gate encoder {version} r.json --alias champion --images {lookup_pass[1]}")
    assert client.get_model_version("encoder", version).tags["robustcheck.gate"] == "open"
    assert client.get_registered_model("encoder").aliases == {"champion": version}

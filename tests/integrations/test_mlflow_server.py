"""The way of a report through a real MLflow server on this machine: logged, its model version gated, closed again."""

import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from robustcheck_onnx import check
from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.report.record import to_json
from support import Capture, Place, profile

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(importlib.util.find_spec("flask") is None, reason="MLflow's server is not installed"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address, once it says that it answers there: the port is one that it was given."""
    folder = tmp_path_factory.mktemp("mlflow")
    words = ["server", "--host", "127.0.0.1", "--port", "0", "--workers", "1"]
    stores = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "files")]
    log = folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words, *stores],
            cwd=folder, stdout=file, stderr=file, env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"},
        )  # fmt: skip
    try:
        end = time.monotonic() + profile.PATIENCE_S
        while not (found := re.search(r"running on (http://127\.0\.0\.1:\d+)", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        yield found[1]
    finally:
        process.terminate()
        process.wait(profile.PATIENCE_S)


def test_a_report_is_logged_and_gates_its_model_version(
    server: str, lookup_pass: Place, tmp_path: Path,
    capsys: Capture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    model, photos = lookup_pass
    passed, warned = tmp_path / "pass.json", tmp_path / "warn.json"
    passed.write_text(to_json(check(model, images=photos)), encoding="utf-8")
    warned.write_text(to_json(check(model, images=photos, max_images=40)), encoding="utf-8")
    client = MlflowClient(tracking_uri=server, registry_uri=server)
    trained = client.create_run("0")
    client.log_artifact(trained.info.run_id, str(model), "model")
    client.create_registered_model("encoder")
    source = f"{trained.info.artifact_uri}/model"
    version = str(client.create_model_version("encoder", source, trained.info.run_id).version)

    assert cli.main(["mlflow", "log", str(passed)]) == 0
    logged = capsys.readouterr().out.split()[-1]
    assert client.get_run(logged).data.tags["robustcheck.verdict"] == "PASS"
    assert sorted(file.path for file in client.list_artifacts(logged, "robustcheck")) == [
        "robustcheck/report.json", "robustcheck/report.md",
    ]  # fmt: skip

    gate = ["mlflow", "gate", "encoder", version]
    assert cli.main([*gate, str(passed), "--images", str(photos), "--alias", "champion"]) == 0
    assert str(client.get_model_version_by_alias("encoder", "champion").version) == version
    assert client.get_model_version("encoder", version).tags["robustcheck.gate"] == "open"

    assert cli.main([*gate, str(warned), "--images", str(photos), "--alias", "champion"]) == 1
    assert client.get_model_version("encoder", version).tags["robustcheck.gate"] == "closed"
    assert "champion" not in client.get_registered_model("encoder").aliases

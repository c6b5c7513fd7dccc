"""Reports in MLflow: what is logged, and what the registry's gate lets through (its file store, and a real server)."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest

from robustcheck_onnx import Report, check
from robustcheck_onnx.checker.core.verdict.notes import ON_BUNDLED
from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError, UsageError
from robustcheck_onnx.checker.outside.storage import mlflow_registry
from robustcheck_onnx.checker.outside.storage.places import Url
from robustcheck_onnx.checker.questions.compare.index_report import IndexOptions, IndexReport
from robustcheck_onnx.checker.report.record import result_digest_of, to_json
from robustcheck_onnx.checker.trust.integrations import mlflow_log
from robustcheck_onnx.checker.trust.verify.run import verify
from support import PATIENCE_S, Made, Patch, Place, but, extra, raised, read_json
from support.bad_input import Run
from support.comparisons import judged, planted
from support.walls import wait_until

if TYPE_CHECKING:
    from mlflow import MlflowClient

real = pytest.mark.long
"""MLflow's own package is imported"""


@pytest.fixture(scope="module")
def warned(lookup_pass: Place) -> Report:
    return check(lookup_pass[0], images=lookup_pass[1], max_images=40)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: Patch) -> str:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/store")
    monkeypatch.chdir(tmp_path)
    return f"file://{tmp_path}/store"


@pytest.fixture
def client(store: str) -> MlflowClient:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=store, registry_uri=store)


@pytest.fixture
def register(tmp_path: Path, client: MlflowClient) -> Made:
    """`register(file, …)`: a version of "encoder", a folder with these files; returns its version."""

    def make(*files: Path) -> str:
        folder = tmp_path / "registered"
        folder.mkdir()
        for file in files:
            shutil.copy(file, folder)
        client.create_registered_model("encoder")
        return str(client.create_model_version("encoder", folder.as_uri()).version)

    return make


def write(report: Report, name: str = "r.json") -> str:
    Path(name).write_text(to_json(report))
    return name


@pytest.fixture
def mlflow(store: str, run: Run) -> Made:
    """Types `robustcheck mlflow LINE`, with the exit code and words expected; returns what it says."""

    def typed(code: int, line: str, *expected: str) -> str:
        done = run(f"mlflow {line} --tracking-uri {store}", MLFLOW_TRACKING_URI="")
        said = done.stdout + done.stderr
        assert (done.returncode, [each for each in expected if each not in said]) == (code, []), said
        return said

    return typed


@real
def test_a_report_is_logged_whole(passed: Report, warned: Report, store: str, client: MlflowClient) -> None:
    html = Path("report.html")
    html.write_text("<p>")
    run = client.get_run(mlflow_log.log_report(passed, tracking_uri=store, html=html))
    assert run.info.status == "FINISHED"
    metrics, tags = run.data.metrics, run.data.tags
    strength = dict(passed.evidence.statistics.strength) | {"threshold": 4.762}
    assert metrics.items() >= {f"robustcheck.strength.{name}": value for name, value in strength.items()}.items()
    assert sum(name.endswith(".low") for name in metrics) == 3
    digests = {"model_digest": passed.evidence.model.digest, "profile_digest": passed.profile.digest}
    told = {"verdict": "PASS"} | digests
    assert tags.items() >= {f"robustcheck.{name}": value for name, value in told.items()}.items()
    folder = Path(client.download_artifacts(run.info.run_id, "robustcheck", "."))
    assert sorted(p.name for p in folder.iterdir()) == ["report.html", "report.json", "report.md"]
    assert (folder / "report.json").read_text() == to_json(passed)
    html.unlink()
    with pytest.raises(EnvironmentFaultError):  # logged in part: no verdict
        mlflow_log.log_report(warned, run_id=run.info.run_id, tracking_uri=store, html=html)
    assert client.get_run(run.info.run_id).data.tags["robustcheck.verdict"] == "none"


@real
def test_a_comparison_that_accepts_an_untested_index_has_a_tag_with_that(store: str, client: MlflowClient) -> None:
    accepted = IndexReport(options=IndexOptions(accept_untested=True), tested="no")
    for index, said in (
        (accepted, "the comparison allows an untested index"),
        (IndexReport(options=IndexOptions()), ""),
    ):
        report = but(judged(planted(), planted()), index=index, required=("index",))
        tags = client.get_run(mlflow_log.log_report(report, tracking_uri=store)).data.tags
        assert (tags["robustcheck.cautions"], tags["robustcheck.comparison"]) == (
            said,
            "the index verdict is compatible",
        )


def test_a_report_that_was_edited_is_not_logged(warned: Report, mlflow: Made) -> None:
    document = json.loads(to_json(warned))
    document["verdict"] |= {"verdict": "PASS", "reasons": []}
    sealed_anew = document | {"binding": document["binding"] | {"result_digest": result_digest_of(document)}}
    for edited, told in ((document, True), (sealed_anew, False)):
        Path("r.json").write_text(json.dumps(edited))
        said = mlflow(3, "log r.json", "verdict: its evidence gives WARN")
        assert ("report: content has" in said) == told
    assert not Path("store").exists()


@real
def test_a_report_forges_no_line_of_the_gates_answer(
    passed: Report, mlflow: Made, register: Made, lookup_pass: Place
) -> None:
    other = Path("model.onnx")
    other.write_bytes(lookup_pass[0].read_bytes() + b"\x1a\x00")
    version = register(other)
    document = json.loads(to_json(passed))
    document["evidence"]["model"]["file"] = "m\n  alias champion is set\x1b[8m"
    Path("r.json").write_text(json.dumps(document))
    for told, alias in ((False, ""), (True, "--alias champion")):
        said = mlflow(3, f"gate encoder {version} r.json {alias}")
        lines = [f"\n  alias champion is {what}" in said for what in ("not on this version\n", "set")]
        assert (lines, said.replace("\n", "").isprintable()) == ([told, False], True)


@real
def test_a_gate_that_closes_takes_the_alias_from_this_version_only(
    passed: Report, warned: Report, mlflow: Made, client: MlflowClient, register: Made, lookup_pass: Place
) -> None:
    version = register(lookup_pass[0])
    other = str(client.create_model_version("encoder", Path("registered").absolute().as_uri()).version)
    photos = f"--images {lookup_pass[1]}"
    good, champion = write(passed, "pass.json"), f"{photos} --alias champion"
    Path("broken.json").write_text("{")

    def gate(code: int, words: str, of: str = version) -> tuple[str, str, object]:
        mlflow(code, f"gate encoder {of} {words}")
        tags = client.get_model_version("encoder", of).tags
        said = f"{tags['robustcheck.gate']} {tags['robustcheck.verdict']}"
        return said, tags["robustcheck.reasons"], client.get_registered_model("encoder").aliases

    held = {"next": other}
    assert gate(0, f"{good} {photos} --alias next", other) == ("open PASS", "", held)
    client.set_registered_model_alias("encoder", "by-hand", version)
    held["by-hand"] = version
    for report, code, said, words in (
        (write(warned, "warn.json"), 1, "closed WARN", "--no-rerun"),
        ("broken.json", 2, "closed PASS", champion),  # the verdict is of the report before
        (good, 3, "closed none", champion),
    ):
        opened = ("open PASS", "", held | {"champion": version})
        assert gate(0, f"{good} {champion}") == opened
        assert gate(0, f"{good} {photos}") == opened  # still open: nothing is taken
        if code == 3:  # an empty field more: other bytes
            with Path("registered/model.onnx").open("ab") as model:
                model.write(b"\x1a\x00")
        found, reasons, aliases = gate(code, f"{report} {words}")
        assert (found, aliases, "too_few_images" in reasons) == (said, held, code == 1)
    # an alias that has moved on is not this version's to lose
    client.set_registered_model_alias("encoder", "champion", other)
    assert gate(2, f"missing.json {champion}")[-1] == held | {"champion": other}


@real
def test_no_alias_moves_for_a_synthetic_model_or_on_bundled_photos(
    mlflow: Made, client: MlflowClient, register: Made, synthetic: Path, lookup_pass: Place, monkeypatch: Patch
) -> None:
    version = register(synthetic)
    report = write(check(synthetic, images=lookup_pass[1]))
    found = verify(report, synthetic, images=lookup_pass[1])
    assert (found.verdict, found.exit_code) == ("PASS", 0)
    for unfit in ("of a synthetic model: planted", "on the bundled photos, not yours"):
        words = f"gate encoder {version} {report} --images {lookup_pass[1]} --alias champion"
        mlflow(1, words, f"gate is closed; the PASS is {unfit}")
        assert client.get_registered_model("encoder").aliases == {}
        assert client.get_model_version("encoder", version).tags["robustcheck.verdict"] == "none"
        monkeypatch.setattr(mlflow_log, "verify", Mock(return_value=but(found, unfit=ON_BUNDLED)))


@real
@pytest.mark.usefixtures("here")
def test_a_server_that_is_down_is_the_environments_fault_and_no_error_shows_its_password(
    passed: Report, ends: Run, monkeypatch: Patch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "token-0123")
    line = f"mlflow log {write(passed)} --tracking-uri http://user:pass-word@127.0.0.1:9"
    assert "pass-word" not in ends(4, line, "http://***@127.0.0.1:9: MLflow's server").stderr
    assert mlflow_registry._without_secrets("user:pass-word\n token-0123", "http://user:pass-word@h") == "*** ***"


# ---------------------------------------------------------------------------- robustcheck models:/…, runs:/…


def test_a_server_must_be_named_and_its_package_installed(
    passed: Report, tmp_path: Path, monkeypatch: Patch, ends: Run
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    line = f"mlflow log {write(passed)}"
    ends(2, line, "tracking server is not named")
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]
    monkeypatch.setitem(sys.modules, "mlflow", None)
    ends(4, f"{line} --tracking-uri http://127.0.0.1:9", extra("mlflow"))


@real
def test_a_registered_model_is_checked(register: Made, client: MlflowClient, lookup_pass: Place, ends: Run) -> None:
    model, photos = map(str, lookup_pass)
    version = register(lookup_pass[0])
    client.set_registered_model_alias("encoder", "champion", version)
    trained = client.create_run("0").info.run_id
    client.log_artifact(trained, model, "m")
    words = f"--images {photos} -o json={{model}}.json -q"
    for address, name, revision in (
        (f"models:/encoder/{version}", f"encoder-{version}", f"version {version}"),
        ("models:/encoder@champion", "encoder@champion", f"version {version}"),
        (f"runs:/{trained}/m", f"{trained}-m", f"run {trained}"),
    ):
        ends(0, f"{address} {words}")
        origin = read_json(f"{name}.json")["evidence"]["model"]["origin"]
        assert (origin["address"], origin["revision"]) == (address, revision)
    assert client.get_model_version("encoder", version).tags == {}  # nothing is written back


@real
def test_what_is_no_registered_model(register: Made, lookup_pass: Place, ends: Run) -> None:
    register(lookup_pass[0])
    for model, said in {
        "models:/encoder/9": "not found",
        "models:/encoder": "must be models:/NAME/VERSION, models:/NAME@ALIAS",
        "models:/encoder/Production": "must be a number, or latest",
        "runs:/nothing/m": "must be models:/NAME/VERSION",
        "models:/encoder@champion": "champion not found",
    }.items():
        ends(2, f"{model} --images {lookup_pass[1]}", said)


@real
def test_a_version_of_several_files(
    passed: Report, mlflow: Made, register: Made, lookup_pass: Place, monkeypatch: Patch
) -> None:
    model, photos = lookup_pass
    version = register(model, Path(shutil.copy(model, "other.onnx")))
    address = f"models:/encoder/{version}"
    mlflow(3, f"gate encoder {version} {write(passed)}", "model.onnx, other.onnx")
    raised(UsageError, r"number of encoders is 2 \(model\.onnx, other\.onnx\)", check, address, images=photos)
    Path("registered/other.onnx").rename("registered/model_fp16.onnx")
    assert check(address, images=photos).passed
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    raised(UsageError, "tracking server is not named", check, address, images=photos)


def refuses(server: object, said: str) -> None:
    url = Url("models:/en@coder/3", "models")
    raised(EnvironmentFaultError, said, mlflow_registry.resolve_mlflow, server, url)


@real
def test_an_answer_about_another_version_or_place_is_refused(monkeypatch: Patch) -> None:
    """An empty place would be the current folder, whose model would be measured as the registered one."""
    answer = SimpleNamespace(name="en@coder", version="3", source="s3://bucket")
    server = SimpleNamespace(
        get_model_version=lambda *_: answer,
        get_run=lambda _: SimpleNamespace(info=SimpleNamespace(artifact_uri="file:///etc")),
        get_logged_model=lambda _: SimpleNamespace(artifact_location="C:\\models"),
    )
    another, local = "must answer about what it was asked", "names a folder of this machine"
    places = {"": another, "/etc": local, "file:///etc": local, "runs:/01234567": local, "models:/m-01": local}
    for registry_uri, server.tracking_uri in (("", "http://host"), ("http://host", "file:///runs")):
        monkeypatch.setenv("MLFLOW_REGISTRY_URI", registry_uri)
        for place, said in places.items():
            server.get_model_version_download_uri = lambda *_, place=place: place
            refuses(server, said)
    server.get_model_version_download_uri = lambda *_: "s3://bucket"
    assert mlflow_registry.resolve_mlflow(server, Url("models:/en@coder/3", "models")).uri == "s3://bucket"  # type: ignore[arg-type]
    for answer.name, answer.version in (("other", "3"), ("en@coder", "../9"), ("en@coder", "")):
        refuses(server, another)
    server.set_model_version_tag = Mock()
    monkeypatch.setattr(mlflow_registry, "mlflow_client", Mock(return_value=contextlib.nullcontext(server)))
    raised(EnvironmentFaultError, another, mlflow_log.gate_model_version, "en@coder", 3, "r.json")


@real
def test_what_a_store_raises_is_the_environments_fault() -> None:
    """Packages of stores raise classes of their own, such as botocore's NoCredentialsError."""
    fault = ValueError("no credentials for s3://user:secret@bucket")
    server = SimpleNamespace(get_model_version=Mock(side_effect=fault))
    refuses(server, r"store fails \(ValueError: no credentials for s3://\*\*\*@bucket")


@real
def test_an_error_about_a_registered_file_names_the_address_and_a_hint_can_be_typed(register: Made) -> None:
    text = Path("text.onnx")
    text.write_text("no model")
    address = f"models:/encoder/{register(text)}"
    caught = raised(CannotAssessError, "", check, address)
    assert caught.message == f"{address}: model file is text; an ONNX protobuf is needed"
    assert caught.hint == f"mlflow artifacts download -u {address} -d . && head -c 200 text.onnx"
    Path("registered/text.onnx").write_bytes(b"\x08\x07" * 9)  # damaged; a hint without the file stays
    assert "text.onnx" not in raised(CannotAssessError, f"^{address}: ", check, address).hint


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
        process.wait(PATIENCE_S)


@real
@pytest.mark.skipif(importlib.util.find_spec("flask") is None, reason="MLflow's server is not installed")
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
    ends(2, f"mlflow log r.json --run-id {'0' * 32}", "not found")
    ends(2, "mlflow log r.json --html missing.html", "missing.html")
    said, logged = ends(0, "mlflow log r.json").stdout.rsplit(maxsplit=1)
    assert (said, len(client.list_artifacts(logged, "robustcheck"))) == ("logged PASS to run", 2)
    gate = f"mlflow gate encoder {version} r.json --alias champion"
    assert "gate is closed" in ends(1, gate).stdout  # nothing vouches for the report
    assert f"encoder version {version}: gate is open" in ends(0, f"{gate} --images {lookup_pass[1]}").stdout
    assert client.get_model_version("encoder", version).tags["robustcheck.gate"] == "open"
    assert client.get_registered_model("encoder").aliases == {"champion": version}


@real
@pytest.mark.skipif(importlib.util.find_spec("flask") is None, reason="MLflow's server is not installed")
def test_a_comparison_of_a_logged_model_is_logged_on_it_and_gates_its_version(
    server: str, lookup_pass: Place, tmp_path: Path, ends: Run, monkeypatch: Patch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)
    for name, value in (("TRACKING_URI", server), ("DISABLE_TELEMETRY", "true"), ("EXPERIMENT_NAME", "mine")):
        monkeypatch.setenv(f"MLFLOW_{name}", value)
    client = MlflowClient(tracking_uri=server, registry_uri=server)
    model, photos = lookup_pass
    Path("artifacts").mkdir()
    shutil.copy(model, "artifacts/model.onnx")
    logged = client.create_logged_model("0", name="m").model_id
    client.log_model_artifacts(logged, "artifacts")
    client.create_registered_model("twin")
    version = str(client.create_model_version("twin", f"models:/{logged}", model_id=logged).version)
    shutil.copy(model, "old.onnx")

    words = f"models:/twin/{version} old.onnx --images {photos} --require index,indication -o json=c.json -q"
    ends(0, f"compare {words}")
    assert read_json("c.json")["candidate"]["evidence"]["model"]["origin"]["revision"] == f"version {version}"
    run = client.get_run(ends(0, "mlflow log c.json").stdout.split()[-1])
    assert run.data.tags["robustcheck.comparison"] == "the index verdict is compatible and the verdict is PASS"
    assert (run.info.run_name, client.get_experiment(run.info.experiment_id).name) == (
        f"models:/twin/{version}",
        "mine",
    )
    on_model = {metric.key: metric.value for metric in client.get_logged_model(logged).metrics}
    assert on_model == run.data.metrics
    assert on_model.items() >= {"robustcheck.ratio.strength.estimate": 1, "robustcheck.exit_code": 0}.items()
    assert on_model["robustcheck.index.cosine_worst_5.estimate"] == pytest.approx(1)
    again = client.get_run(ends(0, "mlflow log c.json --experiment other").stdout.split()[-1])
    assert client.get_experiment(again.info.experiment_id).name == "other"

    gate = f"mlflow gate twin {version} c.json --images {photos} --alias champion"
    assert "gate is closed" in ends(1, gate).stdout  # without the reference nothing is measured again
    assert client.get_registered_model("twin").aliases == {}
    assert "gate is open" in ends(0, f"{gate} --reference old.onnx").stdout
    assert client.get_registered_model("twin").aliases == {"champion": version}
    tags = client.get_model_version("twin", version).tags
    assert tags["robustcheck.comparison"] == "the index verdict is compatible and the verdict is PASS"
    assert "reference: differs" in ends(3, f"{gate} --reference {write_other(model)}").stdout
    assert client.get_registered_model("twin").aliases == {}


def write_other(model: Path) -> Path:
    """Write the same model in other bytes."""
    other = Path("other.onnx")
    other.write_bytes(model.read_bytes() + b"\x1a\x00")
    return other

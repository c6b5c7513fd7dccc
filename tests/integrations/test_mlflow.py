"""Reports in MLflow: what is logged, and what the registry's gate lets through (its file store)."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest

from robustcheck_onnx import Report, check
from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError, UsageError
from robustcheck_onnx.checker.integrations import mlflow_log
from robustcheck_onnx.checker.report.record import result_digest_of, to_json
from robustcheck_onnx.checker.storage import registry
from robustcheck_onnx.checker.storage.places import Url
from robustcheck_onnx.checker.verdict.notes import ON_BUNDLED
from robustcheck_onnx.checker.verify.run import verify
from support import Capture, Patch, Place, but, extra, raised, read_json, robustcheck, serving

if TYPE_CHECKING:
    from mlflow import MlflowClient

Register = Callable[..., str]
Typed = Callable[..., tuple[int, str]]
real = pytest.mark.long
"""MLflow's own package is imported"""


@pytest.fixture(scope="module")
def warned(lookup_pass: Place) -> Report:
    return check(lookup_pass[0], images=lookup_pass[1], max_images=40)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: Patch) -> str:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.chdir(tmp_path)
    return f"file://{tmp_path}/store"


@pytest.fixture
def client(store: str) -> MlflowClient:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=store, registry_uri=store)


@pytest.fixture
def register(tmp_path: Path, client: MlflowClient) -> Register:
    """`register(file, …)`: version 1 of "encoder", a folder with these files; returns its version."""

    def make(*files: Path) -> str:
        folder = tmp_path / "registered"
        folder.mkdir()
        for file in files:
            shutil.copy(file, folder)
        client.create_registered_model("encoder")
        return str(client.create_model_version("encoder", folder.as_uri()).version)

    return make


def write(report: Report, path: Path) -> Path:
    path.write_text(to_json(report), encoding="utf-8")
    return path


@pytest.fixture
def mlflow(store: str, capsys: Capture) -> Typed:
    """Types `robustcheck mlflow WORDS`: its exit code, and what it says."""

    def typed(*words: object) -> tuple[int, str]:
        capsys.readouterr()
        code = robustcheck("mlflow", *words, "--tracking-uri", store)
        return code, "".join(capsys.readouterr())

    return typed


@real
def test_a_report_is_logged_whole(
    passed: Report, warned: Report, store: str, client: MlflowClient, tmp_path: Path
) -> None:
    html = tmp_path / "report.html"
    html.write_text("<p>")
    run = client.get_run(mlflow_log.log_report(passed, tracking_uri=store, html=html))
    assert run.info.status == "FINISHED"
    metrics, tags = run.data.metrics, run.data.tags
    strength = [*passed.evidence.statistics.strength, ("threshold", 4.762)]
    assert [metrics[f"robustcheck.strength.{name}"] for name, _ in strength] == [value for _, value in strength]
    assert len([name for name in metrics if name.endswith(".low")]) == 3
    of = [tags[f"robustcheck.{name}"] for name in ("verdict", "model_digest", "profile_digest")]
    assert of == ["PASS", passed.evidence.model.digest, passed.profile.digest]
    folder = Path(client.download_artifacts(run.info.run_id, "robustcheck", str(tmp_path)))
    assert sorted(p.name for p in folder.iterdir()) == ["report.html", "report.json", "report.md"]
    assert (folder / "report.json").read_text() == to_json(passed)
    html.unlink()
    with pytest.raises(EnvironmentFaultError):  # logged in part: no verdict
        mlflow_log.log_report(warned, run_id=run.info.run_id, tracking_uri=store, html=html)
    assert client.get_run(run.info.run_id).data.tags["robustcheck.verdict"] == "none"


def test_a_report_that_was_edited_is_not_logged(warned: Report, mlflow: Typed, tmp_path: Path) -> None:
    document = json.loads(to_json(warned))
    document["verdict"] |= {"verdict": "PASS", "reasons": []}
    sealed_anew = document | {"binding": document["binding"] | {"result_digest": result_digest_of(document)}}
    for edited, told in ((document, True), (sealed_anew, False)):
        (tmp_path / "r.json").write_text(json.dumps(edited))
        code, said = mlflow("log", tmp_path / "r.json")
        assert (code, "report: content has" in said) == (3, told)
        assert "verdict: its evidence gives WARN" in said
    assert not (tmp_path / "store").exists()


@real
def test_a_report_forges_no_line_of_the_gates_answer(
    passed: Report, mlflow: Typed, register: Register, tmp_path: Path, lookup_pass: Place
) -> None:
    other = tmp_path / "model.onnx"
    other.write_bytes(lookup_pass[0].read_bytes() + b"\x1a\x00")
    words = ["gate", "encoder", register(other), tmp_path / "r.json"]
    document = json.loads(to_json(passed))
    document["evidence"]["model"]["file"] = "m\n  alias champion is set\x1b[8m"
    (tmp_path / "r.json").write_text(json.dumps(document))
    for told, alias in ((False, []), (True, ["--alias", "champion"])):
        code, said = mlflow(*words, *alias)
        assert (code, "\n  alias champion is not on this version\n" in said) == (3, told)
        assert "\n  alias champion is set" not in said
        assert said.replace("\n", "").isprintable()


@real
def test_a_gate_that_closes_takes_the_alias_from_this_version_only(
    passed: Report, warned: Report, mlflow: Typed, client: MlflowClient, register: Register, lookup_pass: Place,
    tmp_path: Path,
) -> None:  # fmt: skip
    version = register(lookup_pass[0])
    other = str(client.create_model_version("encoder", (tmp_path / "registered").as_uri()).version)
    good, broken = write(passed, tmp_path / "pass.json"), tmp_path / "broken.json"
    broken.write_text("{")
    champion = ["--no-rerun", "--alias", "champion"]

    def gate(report: Path, *words: str, of: str = version) -> tuple[int, str, str, object]:
        code, _ = mlflow("gate", "encoder", of, report, *words)
        tags = client.get_model_version("encoder", of).tags
        said = f"{tags['robustcheck.gate']} {tags['robustcheck.verdict']}"
        return code, said, tags["robustcheck.reasons"], client.get_registered_model("encoder").aliases

    held = {"next": other}
    assert gate(good, "--no-rerun", "--alias", "next", of=other) == (0, "open PASS", "", held)
    client.set_registered_model_alias("encoder", "by-hand", version)
    held["by-hand"] = version
    for report, code, said, words in (
        (write(warned, tmp_path / "warn.json"), 1, "closed WARN", champion[:1]),
        (broken, 2, "closed PASS", champion),  # the verdict is of the report before
        (good, 3, "closed none", champion),
    ):
        opened = (0, "open PASS", "", held | {"champion": version})
        assert gate(good, *champion) == opened
        assert gate(good, "--no-rerun") == opened  # still open: nothing is taken
        if code == 3:  # an empty field more: other bytes
            with (tmp_path / "registered" / "model.onnx").open("ab") as model:
                model.write(b"\x1a\x00")
        *found, reasons, aliases = gate(report, *words)
        assert (found, aliases) == ([code, said], held)
        assert ("too_few_images" in reasons) == (code == 1)
    # an alias that has moved on is not this version's to lose
    client.set_registered_model_alias("encoder", "champion", other)
    code, _, _, aliases = gate(tmp_path / "missing.json", *champion)
    assert (code, aliases) == (2, held | {"champion": other})


@real
def test_no_alias_moves_for_a_synthetic_model_or_on_bundled_photos(
    passed: Report, mlflow: Typed, client: MlflowClient, register: Register, synthetic: Path, lookup_pass: Place,
    tmp_path: Path, monkeypatch: Patch,
) -> None:  # fmt: skip
    version = register(synthetic)
    report = write(check(synthetic, images=lookup_pass[1]), tmp_path / "r.json")
    words = ["gate", "encoder", version, report, "--no-rerun", "--alias", "champion"]
    for unfit in ("of a synthetic model: planted", "on the bundled photos, not yours"):
        code, said = mlflow(*words)
        assert (code, f"gate is closed; the PASS is {unfit}" in said) == (1, True)
        assert client.get_registered_model("encoder").aliases == {}
        assert client.get_model_version("encoder", version).tags["robustcheck.verdict"] == "none"
        found = verify(report, synthetic, rerun=False)
        assert (found.verdict, found.exit_code) == ("PASS", 0)
        bundled = but(found, unfit=ON_BUNDLED)
        monkeypatch.setattr(mlflow_log, "verify", Mock(return_value=bundled))


@real
def test_the_command_gates_and_logs(
    passed: Report, mlflow: Typed, register: Register, tmp_path: Path, lookup_pass: Place
) -> None:
    report = write(passed, tmp_path / "r.json")
    gate = ["gate", "encoder", register(lookup_pass[0]), report]
    for words, code, wanted in (
        (gate, 1, "gate is closed"),  # nothing vouches for the report
        ([*gate, "--images", lookup_pass[1]], 0, "encoder version 1: gate is open"),
        (["log", report], 0, "logged PASS to run "),
        (["log", report, "--run-id", "0" * 32], 2, "not found"),
        (["log", report, "--html", "missing.html"], 2, "missing.html"),
    ):
        found, said = mlflow(*words)
        assert (found, wanted in said) == (code, True), said


@real
def test_a_server_that_is_down_is_the_environments_fault_and_no_error_shows_its_password(
    passed: Report, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "token-0123")
    words = ["mlflow", "log", str(write(passed, tmp_path / "r.json"))]
    assert robustcheck(*words, "--tracking-uri", "http://user:pass-word@127.0.0.1:9") == 4
    said = capsys.readouterr().err
    assert ("http://***@127.0.0.1:9: MLflow's server" in said, "pass-word" in said) == (True, False)
    assert registry._safe("user:pass-word\n token-0123", "http://user:pass-word@h") == "*** ***"


# ---------------------------------------------------------------------------- robustcheck models:/…, runs:/…


@pytest.fixture
def server_named(store: str, monkeypatch: Patch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)


def test_a_server_must_be_named_and_its_package_installed(
    passed: Report, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    words = ["mlflow", "log", str(write(passed, tmp_path / "r.json"))]
    assert robustcheck(*words) == 2
    assert "tracking server is not named" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert robustcheck(*words, "--tracking-uri", "http://127.0.0.1:9") == 4
    assert extra("mlflow") in capsys.readouterr().err


@real
@pytest.mark.usefixtures("server_named")
def test_a_registered_model_is_checked(
    register: Register, client: MlflowClient, lookup_pass: Place, tmp_path: Path, capsys: Capture
) -> None:
    model, photos = map(str, lookup_pass)
    version = register(lookup_pass[0])
    client.set_registered_model_alias("encoder", "champion", version)
    trained = client.create_run("0").info.run_id
    client.log_artifact(trained, model, "m")
    words = ["--images", photos, "-o", "json={model}.json", "-q"]
    for address, name, revision in (
        (f"models:/encoder/{version}", f"encoder-{version}", f"version {version}"),
        ("models:/encoder@champion", "encoder@champion", f"version {version}"),
        (f"runs:/{trained}/m", f"{trained}-m", f"run {trained}"),
    ):
        assert robustcheck(address, *words) == 0
        origin = read_json(tmp_path / f"{name}.json")["evidence"]["model"]["origin"]
        assert (origin["address"], origin["revision"]) == (address, revision)
    assert client.get_model_version("encoder", version).tags == {}  # nothing is written back

    # an error names the address, not the copy
    (tmp_path / "registered" / "model.onnx").write_bytes(b"\x08\x07" * 9)
    assert robustcheck(f"models:/encoder/{version}", *words) == 3
    said = capsys.readouterr().err
    assert f"models:/encoder/{version}" in said
    assert str(tmp_path / "robustcheck-") not in said


@real
@pytest.mark.usefixtures("server_named")
def test_what_is_no_registered_model(register: Register, lookup_pass: Place, capsys: Capture) -> None:
    register(lookup_pass[0])
    for model, said in {
        "models:/encoder/9": "not found",
        "models:/encoder": "must be models:/NAME/VERSION, models:/NAME@ALIAS",
        "models:/encoder/Production": "must be a number, or latest",
        "runs:/nothing/m": "must be models:/NAME/VERSION",
        "models:/encoder@champion": "champion not found",
    }.items():
        assert robustcheck(model, "--images", lookup_pass[1]) == 2
        assert said in capsys.readouterr().err


@real
@pytest.mark.usefixtures("server_named")
def test_a_version_of_several_files(
    passed: Report, mlflow: Typed, register: Register, lookup_pass: Place, tmp_path: Path,
    monkeypatch: Patch,
) -> None:  # fmt: skip
    model, photos = lookup_pass
    shutil.copy(model, tmp_path / "other.onnx")
    version = register(model, tmp_path / "other.onnx")
    address = f"models:/encoder/{version}"
    code, said = mlflow("gate", "encoder", version, write(passed, tmp_path / "r.json"))
    assert (code, "model.onnx, other.onnx" in said) == (3, True)
    raised(UsageError, r"number of encoders is 2 \(model\.onnx, other\.onnx\)", check, address, images=photos)
    (tmp_path / "registered" / "other.onnx").rename(tmp_path / "registered" / "model_fp16.onnx")
    assert check(address, images=photos).passed
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    raised(UsageError, "tracking server is not named", check, address, images=photos)


def refuses(server: object, said: str) -> None:
    with pytest.raises(EnvironmentFaultError, match=said):
        registry.resolve(server, Url("models:/encoder/3", "models"))  # type: ignore[arg-type]


@real
def test_an_answer_about_another_version_or_place_is_refused() -> None:
    """An empty place would be the current folder, whose model would be measured as the registered one."""
    answer = SimpleNamespace(name="encoder", version="3", source="s3://bucket")
    server = SimpleNamespace(
        tracking_uri="http://host",
        get_model_version=lambda *_: answer,
        get_run=lambda _: SimpleNamespace(info=SimpleNamespace(artifact_uri="file:///etc")),
        get_logged_model=lambda _: SimpleNamespace(artifact_location="C:\\models"),
    )
    another, local = "must answer about what it was asked", "names a folder of this machine"
    places = {"": another, "/etc": local, "file:///etc": local, "runs:/01234567": local, "models:/m-01": local}
    for place, said in places.items():
        server.get_model_version_download_uri = lambda *_, place=place: place
        refuses(server, said)
    server.get_model_version_download_uri = lambda *_: "s3://bucket"
    assert registry.resolve(server, Url("models:/encoder/3", "models")).uri == "s3://bucket"  # type: ignore[arg-type]
    for answer.name, answer.version in (("other", "3"), ("encoder", "../9"), ("encoder", "")):
        refuses(server, another)


@real
@pytest.mark.usefixtures("server_named")
def test_a_registry_on_another_server_names_no_folder_of_this_machine(lookup_pass: Place, monkeypatch: Patch) -> None:
    """Runs lie in a folder of one's own; the registry is a server on the loopback interface."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"model_version": {"name": "encoder", "version": "1"}, "artifact_uri": "file:///etc"}')

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as url:
        monkeypatch.setenv("MLFLOW_REGISTRY_URI", url)
        with pytest.raises(EnvironmentFaultError, match="names a folder of this machine"):
            check("models:/encoder/1", images=lookup_pass[1])


@real
def test_what_a_store_raises_is_the_environments_fault() -> None:
    """Packages of stores raise classes of their own, such as botocore's NoCredentialsError."""
    fault = ValueError("no credentials for s3://user:secret@bucket")
    server = SimpleNamespace(get_model_version=Mock(side_effect=fault))
    refuses(server, r"store fails \(ValueError: no credentials for s3://\*\*\*@bucket")


@real
@pytest.mark.usefixtures("server_named")
def test_a_hint_about_a_registered_file_can_be_typed(register: Register, tmp_path: Path) -> None:
    text = tmp_path / "text.onnx"
    text.write_text("no model")
    version = register(text)
    with pytest.raises(CannotAssessError, match=f"models:/encoder/{version}: model file is text") as caught:
        check(f"models:/encoder/{version}", max_images=3)
    assert caught.value.hint == (
        f"mlflow artifacts download -u models:/encoder/{version} -d . && head -c 200 text.onnx"
    )

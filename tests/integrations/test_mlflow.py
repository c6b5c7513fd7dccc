"""Reports in MLflow: what is logged, and what the registry's gate lets through (its file store)."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest

from robustcheck_onnx import Report, check
from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.cli import progress
from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError, UsageError
from robustcheck_onnx.checker.integrations import mlflow_log
from robustcheck_onnx.checker.report.record import result_digest_of, to_json
from robustcheck_onnx.checker.storage import Url, registry
from robustcheck_onnx.checker.verdict import ON_BUNDLED
from robustcheck_onnx.checker.verify import verify
from robustcheck_onnx.thresholds import profile
from support import Capture, Place, extra

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
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
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
        code = cli.main(["mlflow", *map(str, words), "--tracking-uri", store])
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
    kurtosis = {f"robustcheck.kurtosis.{name}": value for name, value in passed.evidence.statistics.kurtosis}
    assert {name: metrics[name] for name in kurtosis} == pytest.approx(kurtosis)
    assert metrics["robustcheck.kurtosis.threshold"] == 7.858
    assert len([name for name in metrics if name.endswith(".low")]) == len(profile.load().deciding)
    assert (
        tags.items()
        >= {
            "robustcheck.verdict": "PASS",
            "robustcheck.model_digest": passed.evidence.model.digest,
            "robustcheck.profile_digest": passed.profile.digest,
        }.items()
    )
    folder = Path(client.download_artifacts(run.info.run_id, "robustcheck", str(tmp_path)))
    assert sorted(p.name for p in folder.iterdir()) == ["report.html", "report.json", "report.md"]
    assert json.loads((folder / "report.json").read_text())["verdict"]["verdict"] == "PASS"
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
    code, said = mlflow(*words)
    assert (code, "\n  alias champion" in said, said.replace("\n", "").isprintable()) == (3, False, True)
    code, said = mlflow(*words, "--alias", "champion")
    assert (code, "\n  alias champion is not on this version\n" in said) == (3, True)


@real
@pytest.mark.parametrize(
    ("end", "code", "verdict"), [("WARN", 1, "WARN"), ("error", 2, None), ("other file", 3, "none")]
)
def test_a_gate_that_closes_takes_the_alias_from_this_version_only(
    end: str, code: int, verdict: str | None, passed: Report, warned: Report, mlflow: Typed, client: MlflowClient,
    register: Register, lookup_pass: Place, tmp_path: Path,
) -> None:  # fmt: skip
    version = register(lookup_pass[0])
    other = str(client.create_model_version("encoder", (tmp_path / "registered").as_uri()).version)
    good, bad = write(passed, tmp_path / "pass.json"), write(warned, tmp_path / "bad.json")
    champion = ["--no-rerun", "--alias", "champion"]

    def tags() -> dict[str, str]:
        found = client.get_model_version("encoder", version).tags
        return {name: found.get(f"robustcheck.{name}", "") for name in ("gate", "verdict", "reasons")}

    def aliases() -> object:
        return client.get_registered_model("encoder").aliases

    assert mlflow("gate", "encoder", version, good, *champion)[0] == 0
    assert tags() == {"gate": "open", "verdict": "PASS", "reasons": ""}
    assert mlflow("gate", "encoder", other, good, "--no-rerun", "--alias", "next")[0] == 0
    client.set_registered_model_alias("encoder", "by-hand", version)
    assert mlflow("gate", "encoder", version, good, "--no-rerun")[0] == 0  # still open: nothing is taken
    held = {"champion": version, "by-hand": version, "next": other}
    assert aliases() == held
    if end == "error":
        bad.write_text("{")
    elif end == "other file":
        bad = good
        with (tmp_path / "registered" / "model.onnx").open("ab") as model:
            model.write(b"\x1a\x00")  # an empty field more: other bytes
    assert mlflow("gate", "encoder", version, bad, *champion[: 1 if end == "WARN" else 3])[0] == code
    del held["champion"]
    assert aliases() == held
    assert tags()["gate"] == "closed"
    assert verdict in {None, tags()["verdict"]}
    assert ("too_few_images" in tags()["reasons"]) == (end == "WARN")
    # an alias that has moved on is not this version's to lose
    client.set_registered_model_alias("encoder", "champion", other)
    assert mlflow("gate", "encoder", version, tmp_path / "missing.json", *champion)[0] == 2
    assert aliases() == held | {"champion": other}
    if end != "other file":
        assert mlflow("gate", "encoder", version, good, *champion)[0] == 0
        assert aliases() == held | {"champion": version}


@real
def test_no_alias_moves_for_a_synthetic_model_or_on_bundled_photos(
    passed: Report, mlflow: Typed, client: MlflowClient, register: Register, synthetic: Path, lookup_pass: Place,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
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
        bundled = found.model_copy(update={"unfit": ON_BUNDLED})
        monkeypatch.setattr(mlflow_log, "verify", Mock(return_value=bundled))


@real
def test_the_command_gates_and_logs(
    passed: Report, mlflow: Typed, register: Register, tmp_path: Path, lookup_pass: Place,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    told: list[str] = []
    monkeypatch.setattr(progress._Latest, "__call__", lambda line, now: told.append(now.stage))
    monkeypatch.setattr(progress._Latest, "stage", lambda line, words: told.append(words))
    report = write(passed, tmp_path / "r.json")
    gate = ["gate", "encoder", register(lookup_pass[0]), report]
    for words, code, wanted in (
        (gate, 1, "gate is closed"),  # nothing vouches for the report
        ([*gate, "--images", lookup_pass[1]], 0, "encoder version 1: gate is open"),
        (["log", report], 0, "logged PASS to run "),
        (["gate", "encoder", "9", report], 2, "not found"),
        (["log", report, "--run-id", "0" * 32], 2, "not found"),
        (["log", report, "--html", "missing.html"], 2, "missing.html"),
    ):
        found, said = mlflow(*words)
        assert (found, wanted in said) == (code, True), said
    assert {"fetching the model from the registry", "comparing the images"} <= set(told)


@real
def test_a_server_that_is_down_is_the_environments_fault(passed: Report, tmp_path: Path, capsys: Capture) -> None:
    report = str(write(passed, tmp_path / "r.json"))
    for words in (["log", report], ["gate", "encoder", "1", report]):
        assert cli.main(["mlflow", *words, "--tracking-uri", "http://127.0.0.1:9"]) == 4
        assert "127.0.0.1:9: MLflow's server" in capsys.readouterr().err


# ---------------------------------------------------------------------------- robustcheck models:/…, runs:/…


@pytest.fixture
def server_named(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)


def test_a_server_must_be_named_and_its_package_installed(
    passed: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    words = ["mlflow", "log", str(write(passed, tmp_path / "r.json"))]
    assert cli.main(words) == 2
    assert "tracking server is not named" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert cli.main([*words, "--tracking-uri", "http://127.0.0.1:9"]) == 4
    assert extra("mlflow") in capsys.readouterr().err


@real
@pytest.mark.usefixtures("server_named")
def test_a_registered_model_is_checked(
    mlflow: Typed, register: Register, client: MlflowClient, lookup_pass: Place, tmp_path: Path, capsys: Capture
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
        assert cli.main([address, *words]) == 0
        facts = json.loads((tmp_path / f"{name}.json").read_text())["evidence"]["model"]
        origin = facts["origin"]
        assert (facts["file"], origin["address"], origin["revision"]) == (address, address, revision)
        assert origin["file"].endswith("model.onnx")
    assert client.get_model_version("encoder", version).tags == {}  # nothing is written back
    assert mlflow("gate", "encoder", version, tmp_path / f"encoder-{version}.json", "--images", photos)[0] == 0

    # an error names the address, not the copy
    (tmp_path / "registered" / "model.onnx").write_bytes(b"\x08\x07" * 9)
    assert cli.main([f"models:/encoder/{version}", *words]) == 3
    said = capsys.readouterr().err
    assert f"models:/encoder/{version}" in said
    assert str(tmp_path / "robustcheck-") not in said


@real
@pytest.mark.usefixtures("server_named")
def test_what_is_no_registered_model(register: Register, lookup_pass: Place, capsys: Capture) -> None:
    register(lookup_pass[0])
    for model, said in (
        ("models:/encoder/9", "not found"),
        ("models:/nix/1", "not found"),
        ("models:/encoder", "must be models:/NAME/VERSION, models:/NAME@ALIAS"),
        ("models:/encoder/Production", "must be a number, or latest"),
        ("runs:/nothing/m", "must be models:/NAME/VERSION"),
        ("models:/encoder@champion", "champion not found"),
    ):
        assert cli.main([model, "--images", str(lookup_pass[1])]) == 2
        assert said in capsys.readouterr().err


@real
@pytest.mark.usefixtures("server_named")
def test_a_version_of_several_files(
    passed: Report, mlflow: Typed, register: Register, lookup_pass: Place, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    model, photos = lookup_pass
    shutil.copy(model, tmp_path / "other.onnx")
    version = register(model, tmp_path / "other.onnx")
    address = f"models:/encoder/{version}"
    code, said = mlflow("gate", "encoder", version, write(passed, tmp_path / "r.json"))
    assert (code, "model.onnx, other.onnx" in said) == (3, True)
    with pytest.raises(UsageError, match=r"number of encoders is 2 \(model\.onnx, other\.onnx\)"):
        check(address, images=photos)
    (tmp_path / "registered" / "other.onnx").rename(tmp_path / "registered" / "model_fp16.onnx")
    assert check(address, images=photos).passed
    monkeypatch.setenv("ROBUSTCHECK_MAX_DOWNLOAD_BYTES", "1000")
    with pytest.raises(EnvironmentFaultError, match="more than 1,000 bytes"):
        check(address, images=photos)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(UsageError, match="tracking server is not named"):
        check(address, images=photos)


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
def test_what_a_store_raises_is_the_environments_fault() -> None:
    """Packages of stores raise classes of their own, such as botocore's NoCredentialsError."""
    fault = ValueError("no credentials for s3://user:secret@bucket")
    server = SimpleNamespace(get_model_version=Mock(side_effect=fault))
    refuses(server, r"store fails \(ValueError: no credentials for s3://\*\*\*@bucket")


@real
def test_no_error_shows_a_password_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "token-0123")
    with pytest.raises(EnvironmentFaultError) as caught:
        mlflow_log.gate_model_version("encoder", 1, "r.json", tracking_uri="http://user:pass-word@127.0.0.1:9")
    said = caught.value.message + caught.value.hint
    assert "http://***@127.0.0.1:9" in said
    assert "pass-word" not in said
    assert registry._safe("user:pass-word\n token-0123", "http://user:pass-word@h") == "*** ***"


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

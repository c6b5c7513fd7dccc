"""Reports in MLflow: what is logged, and what the registry's gate lets through (its file store)."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from robustcheck_onnx import Report, check
from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.cli import progress
from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError, UsageError
from robustcheck_onnx.checker.integrations import mlflow_log
from robustcheck_onnx.checker.report.record import result_digest_of, to_json
from robustcheck_onnx.checker.storage import Url, registry
from robustcheck_onnx.thresholds import profile
from support import Capture, Place

if TYPE_CHECKING:
    from mlflow import MlflowClient

Register = Callable[..., str]
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


@real
def test_a_report_is_logged_whole(passed: Report, store: str, client: MlflowClient, tmp_path: Path) -> None:
    html = tmp_path / "report.html"
    html.write_text("<p>")
    run = client.get_run(mlflow_log.log_report(passed, tracking_uri=store, html=html))
    assert run.info.status == "FINISHED"
    interval = passed.evidence.statistics.kurtosis
    for bound in ("estimate", "low", "high"):
        assert run.data.metrics[f"robustcheck.kurtosis.{bound}"] == pytest.approx(getattr(interval, bound))
    assert run.data.metrics["robustcheck.kurtosis.threshold"] == 7.858
    assert len([name for name in run.data.metrics if name.endswith(".low")]) == len(profile.load().deciding)
    assert run.data.tags["robustcheck.verdict"] == "PASS"
    assert run.data.tags["robustcheck.model_digest"] == passed.evidence.model.digest
    assert run.data.tags["robustcheck.profile_digest"] == passed.profile.digest
    folder = Path(client.download_artifacts(run.info.run_id, "robustcheck", str(tmp_path)))
    assert sorted(p.name for p in folder.iterdir()) == ["report.html", "report.json", "report.md"]
    assert json.loads((folder / "report.json").read_text())["verdict"]["verdict"] == "PASS"


@real
def test_a_run_that_was_logged_in_part_has_no_verdict(
    passed: Report, warned: Report, store: str, client: MlflowClient, tmp_path: Path
) -> None:
    run = mlflow_log.log_report(passed, tracking_uri=store)
    with pytest.raises(EnvironmentFaultError):
        mlflow_log.log_report(warned, run_id=run, tracking_uri=store, html=tmp_path / "missing.html")
    assert client.get_run(run).data.tags["robustcheck.verdict"] == "none"


@pytest.mark.parametrize("sealed_anew", [False, True])
def test_a_report_that_was_edited_is_not_logged(
    warned: Report, store: str, tmp_path: Path, capsys: Capture, sealed_anew: bool
) -> None:
    document = json.loads(to_json(warned))
    document["verdict"] |= {"verdict": "PASS", "reasons": []}
    if sealed_anew:
        document["binding"]["result_digest"] = result_digest_of(document)
    (tmp_path / "r.json").write_text(json.dumps(document))
    assert cli.main(["mlflow", "log", str(tmp_path / "r.json"), "--tracking-uri", store]) == 3
    said = capsys.readouterr().err
    assert "verdict: its evidence gives WARN" in said
    assert ("report: content has" in said) is not sealed_anew
    assert not (tmp_path / "store").exists()


@real
def test_a_report_forges_no_line_of_the_gates_answer(
    passed: Report, store: str, register: Register, tmp_path: Path, lookup_pass: Place,
    capsys: Capture,
) -> None:  # fmt: skip
    other = tmp_path / "model.onnx"
    other.write_bytes(lookup_pass[0].read_bytes() + b"\x1a\x00")
    version = register(other)
    document = json.loads(to_json(passed))
    document["evidence"]["model"]["file"] = "m\n  alias champion is set\x1b[8m"
    (tmp_path / "r.json").write_text(json.dumps(document))
    assert cli.main(["mlflow", "gate", "encoder", version, str(tmp_path / "r.json"), "--tracking-uri", store]) == 3
    assert "\n  alias champion" not in (said := capsys.readouterr().out)
    assert said.replace("\n", "").isprintable()
    named = ["encoder", version, str(tmp_path / "r.json"), "--tracking-uri", store, "--alias", "champion"]
    assert cli.main(["mlflow", "gate", *named]) == 3
    assert capsys.readouterr().out.endswith("\n  alias champion is not on this version\n")


@real
def test_the_gate_opens_for_a_verified_pass_only(
    passed: Report, warned: Report, store: str, client: MlflowClient, register: Register,
    lookup_pass: Place, tmp_path: Path,
) -> None:  # fmt: skip
    version = register(lookup_pass[0])
    report = write(passed, tmp_path / "pass.json")
    photos = str(lookup_pass[1])
    result = mlflow_log.gate_model_version(
        "encoder", version, report, alias="champion", tracking_uri=store, images=photos
    )
    assert result.exit_code == 0
    found = client.get_model_version_by_alias("encoder", "champion")
    assert (str(found.version), found.tags["robustcheck.gate"], found.tags["robustcheck.verdict"]) == (
        version, "open", "PASS",
    )  # fmt: skip
    report = write(warned, tmp_path / "warn.json")
    assert mlflow_log.gate_model_version("encoder", version, report, alias="other", tracking_uri=store).exit_code == 1
    found = client.get_model_version("encoder", version)
    assert (found.tags["robustcheck.gate"], found.tags["robustcheck.verdict"]) == ("closed", "WARN")
    assert "too_few_images" in found.tags["robustcheck.reasons"]
    assert "other" not in client.get_registered_model("encoder").aliases


@real
@pytest.mark.parametrize(("end", "named"), [("WARN", False), ("error", True), ("other file", True)])
def test_a_gate_that_closes_takes_the_alias_from_this_version_only(
    end: str, named: bool, passed: Report, warned: Report, store: str, client: MlflowClient, register: Register,
    lookup_pass: Place, tmp_path: Path,
) -> None:  # fmt: skip
    version = register(lookup_pass[0])
    other = str(client.create_model_version("encoder", (tmp_path / "registered").as_uri()).version)
    good = write(passed, tmp_path / "pass.json")

    def gate(which: str, report: Path, alias: str | None) -> int:
        return mlflow_log.gate_model_version(
            "encoder", which, report, alias=alias, tracking_uri=store, rerun=False
        ).exit_code

    assert gate(version, good, "champion") == 0
    assert client.get_model_version("encoder", version).tags["robustcheck.gate"] == "open"
    assert gate(other, good, "next") == 0
    client.set_registered_model_alias("encoder", "by-hand", version)
    assert gate(version, good, None) == 0  # still open: nothing is taken
    held = {"champion": version, "by-hand": version, "next": other}
    assert client.get_registered_model("encoder").aliases == held
    bad = write(warned, tmp_path / "bad.json")
    alias = "champion" if named else None
    if end == "error":
        bad.write_text("{")
        with pytest.raises(UsageError):
            gate(version, bad, alias)
    elif end == "WARN":
        assert gate(version, bad, alias) == 1
    else:
        model = tmp_path / "registered" / "model.onnx"
        model.write_bytes(model.read_bytes() + b"\x1a\x00")  # an empty field more: other bytes
        assert gate(version, good, alias) == 3
    del held["champion"]
    assert client.get_registered_model("encoder").aliases == held
    tags = client.get_model_version("encoder", version).tags
    assert tags["robustcheck.gate"] == "closed"
    if end != "error":
        assert tags["robustcheck.verdict"] == ("WARN" if end == "WARN" else "none")
    # an alias that has moved on is not this version's to lose
    client.set_registered_model_alias("encoder", "champion", other)
    with pytest.raises(UsageError):
        gate(version, tmp_path / "missing.json", "champion")
    assert client.get_registered_model("encoder").aliases == held | {"champion": other}
    if end != "other file":
        assert gate(version, good, "champion") == 0
        assert client.get_registered_model("encoder").aliases == held | {"champion": version}


@real
def test_a_version_must_hold_one_onnx_file(
    passed: Report, store: str, register: Register, tmp_path: Path, lookup_pass: Place
) -> None:
    other = tmp_path / "second.onnx"
    other.write_bytes(b"")
    version = register(lookup_pass[0], other)
    with pytest.raises(CannotAssessError, match=r"model\.onnx, second\.onnx"):
        mlflow_log.gate_model_version("encoder", version, write(passed, tmp_path / "r.json"), tracking_uri=store)


@real
def test_the_command_gates_and_logs(
    passed: Report, store: str, client: MlflowClient, register: Register, tmp_path: Path,
    lookup_pass: Place, capsys: Capture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    told: list[str] = []
    monkeypatch.setattr(progress._Latest, "__call__", lambda line, now: told.append(now.stage))
    monkeypatch.setattr(progress._Latest, "stage", lambda line, words: told.append(words))
    version = register(lookup_pass[0])
    report = str(write(passed, tmp_path / "r.json"))
    words = ["mlflow", "gate", "encoder", version, report, "--tracking-uri", store]
    assert cli.main(words) == 1  # nothing vouches for the report
    assert "gate is closed" in capsys.readouterr().out
    assert client.get_model_version("encoder", version).tags["robustcheck.verdict"] == "none"
    assert cli.main([*words, "--images", str(lookup_pass[1])]) == 0
    shown = capsys.readouterr()
    assert "encoder version 1: gate is open" in shown.out
    assert {"fetching the model from the registry", "comparing the images"} <= set(told)
    assert cli.main(["mlflow", "log", report, "--tracking-uri", store]) == 0
    assert re.fullmatch(r"logged PASS to run [0-9a-f]{32}\n", capsys.readouterr().out)
    assert cli.main(["mlflow", "gate", "encoder", "9", report, "--tracking-uri", store]) == 2
    assert cli.main(["mlflow", "log", report, "--tracking-uri", store, "--run-id", "0" * 32]) == 2
    assert cli.main(["mlflow", "log", report, "--tracking-uri", store, "--html", "missing.html"]) == 2


@real
def test_a_server_that_is_down_is_the_environments_fault(passed: Report, tmp_path: Path, capsys: Capture) -> None:
    report = str(write(passed, tmp_path / "r.json"))
    for words in (["log", report], ["gate", "encoder", "1", report]):
        assert cli.main(["mlflow", *words, "--tracking-uri", "http://127.0.0.1:9"]) == 4
        assert "127.0.0.1:9: MLflow's server" in capsys.readouterr().err


def test_a_server_must_be_named(
    passed: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["mlflow", "log", str(write(passed, tmp_path / "r.json"))]) == 2
    assert "tracking server is not named" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_without_the_extra_it_says_what_to_install(
    passed: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    report = str(write(passed, tmp_path / "r.json"))
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "mlflow", None)
        assert cli.main(["mlflow", "log", report, "--tracking-uri", "http://127.0.0.1:9"]) == 4
    assert ".[mlflow]" in capsys.readouterr().err


# ---------------------------------------------------------------------------- robustcheck models:/…, runs:/…


@pytest.fixture
def server_named(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)


@real
@pytest.mark.usefixtures("server_named")
def test_a_registered_model_is_checked(
    register: Register, client: MlflowClient, lookup_pass: Place, tmp_path: Path,
    capsys: Capture,
) -> None:  # fmt: skip
    model, photos = lookup_pass
    version = register(model)
    client.set_registered_model_alias("encoder", "champion", version)
    trained = client.create_run("0").info.run_id
    client.log_artifact(trained, str(model), "m")
    words = ["--images", str(photos), "-o", "json={model}.json", "-q"]
    for address, name, revision in (
        (f"models:/encoder/{version}", f"encoder-{version}", f"version {version}"),
        ("models:/encoder@champion", "encoder@champion", f"version {version}"),
        (f"runs:/{trained}/m", f"{trained}-m", f"run {trained}"),
    ):
        assert cli.main([address, *words]) == 0
        facts = json.loads((tmp_path / f"{name}.json").read_text())["evidence"]["model"]
        assert facts["file"] == address
        assert facts["origin"] == {"address": address, "revision": revision, "file": facts["origin"]["file"]}
        assert facts["origin"]["file"].endswith("model.onnx")
    assert client.get_model_version("encoder", version).tags == {}  # nothing is written back
    report = str(tmp_path / f"encoder-{version}.json")
    assert cli.main(["mlflow", "gate", "encoder", version, report, "--images", str(photos)]) == 0

    # an error names the address, not the copy
    registered = Path(client.get_model_version_download_uri("encoder", version).removeprefix("file://"))
    (registered / "model.onnx").write_bytes(b"\x08\x07" * 9)
    capsys.readouterr()
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
    register: Register, client: MlflowClient, lookup_pass: Place, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    model, photos = lookup_pass
    other = tmp_path / "other.onnx"
    shutil.copy(model, other)
    version = register(model, other)
    with pytest.raises(UsageError, match=r"number of encoders is 2 \(model\.onnx, other\.onnx\)"):
        check(f"models:/encoder/{version}", images=photos)
    source = Path(client.get_model_version_download_uri("encoder", version).removeprefix("file://"))
    (source / "other.onnx").rename(source / "model_fp16.onnx")
    assert check(f"models:/encoder/{version}", images=photos).passed
    monkeypatch.setenv("ROBUSTCHECK_MAX_DOWNLOAD_BYTES", "1000")
    with pytest.raises(EnvironmentFaultError, match="more than 1,000 bytes"):
        check(f"models:/encoder/{version}", images=photos)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(UsageError, match="tracking server is not named"):
        check(f"models:/encoder/{version}", images=photos)


@real
@pytest.mark.parametrize("version", ["3", "../9", ""])
def test_an_answer_about_another_version_or_place_is_refused(version: str) -> None:
    """An empty place would be the current folder, whose model would be measured as the registered one."""
    answer = SimpleNamespace(name="encoder", version=version, source="s3://bucket")
    server = SimpleNamespace(
        tracking_uri="http://host",
        get_model_version=lambda *_: answer,
        get_model_version_download_uri=lambda *_: "",
        get_run=lambda _: SimpleNamespace(info=SimpleNamespace(artifact_uri="file:///etc")),
        get_logged_model=lambda _: SimpleNamespace(artifact_location="C:\\models"),
    )
    with pytest.raises(EnvironmentFaultError, match="must answer about what it was asked"):
        registry.resolve(server, Url("models:/encoder/3", "models"))  # type: ignore[arg-type]
    server.get_model_version_download_uri = lambda *_: "s3://bucket"
    if version == "3":
        assert registry.resolve(server, Url("models:/encoder/3", "models")).uri == "s3://bucket"  # type: ignore[arg-type]
        for place in ("/etc", "file:///etc", "runs:/01234567", "models:/m-01"):
            server.get_model_version_download_uri = lambda *_, place=place: place
            with pytest.raises(EnvironmentFaultError, match="names a folder of this machine"):
                registry.resolve(server, Url("models:/encoder/3", "models"))  # type: ignore[arg-type]
        answer.name = "other"
    with pytest.raises(EnvironmentFaultError, match="must answer about what it was asked"):
        registry.resolve(server, Url("models:/encoder/3", "models"))  # type: ignore[arg-type]


@real
def test_what_a_store_raises_is_the_environments_fault() -> None:
    """Packages of stores raise classes of their own, such as botocore's NoCredentialsError."""

    def fail(*_: object) -> None:
        raise ValueError("no credentials for s3://user:secret@bucket")

    server = SimpleNamespace(get_model_version=fail)
    with pytest.raises(EnvironmentFaultError, match=r"store fails \(ValueError: no credentials for s3://\*\*\*@bucket"):
        registry.resolve(server, Url("models:/encoder/3", "models"))  # type: ignore[arg-type]


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

"""`check --sign`: the JSON report is signed where it is made, and no signature outlives its report."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from robustcheck_onnx.checker import pipeline, storage
from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.errors import EnvironmentFaultError
from robustcheck_onnx.checker.report import signature_file
from robustcheck_onnx.checker.storage import write
from robustcheck_onnx.checker.verify import signature as signing
from support import lookup
from support.bad_input import COMMAND

pytestmark = pytest.mark.usefixtures("capsys")  # the command mends its process's streams: these are the test's own


@pytest.fixture
def here(tmp_path: Path, lookup_pass: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """pass.onnx, warn.onnx, text.onnx (no model), photos, and a pair of keys; the current folder."""
    shutil.copy(lookup_pass[0], tmp_path / "pass.onnx")
    lookup.write_lookup_model(tmp_path / "warn.onnx", np.random.default_rng(3).normal(size=(80, 512)))
    (tmp_path / "text.onnx").write_text("no model", encoding="utf-8")
    (tmp_path / "photos").symlink_to(lookup_pass[1])
    key = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (tmp_path / "key.pub").write_bytes(
        key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(*words: str, images: str = "photos") -> int:
    return cli.main(["check", *words, "--images", images])


def verify(report: str, model: str) -> int:
    return cli.main(["verify", report, model, "--verify-signature", "--public-key", "key.pub", "-qq"])


def never_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(*_: object, **__: object) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr(pipeline, "check", measured)


def document(name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(Path(name).read_text(encoding="utf-8"))
    return read


def test_a_signed_pass_verifies(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check("pass.onnx", "-o", "json=report.json", "--sign", "key.pem") == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["signature:", "report.sigstore.json"]
    assert verify("report.json", "pass.onnx") == 0
    (here / "report.json").write_text((here / "report.json").read_text(encoding="utf-8") + " ", encoding="utf-8")
    assert verify("report.json", "pass.onnx") == 3


def test_it_is_what_the_verb_sign_would_sign(here: Path) -> None:
    assert check("pass.onnx", "-o", "json=report.json", "--sign", "key.pem", "-qq") == 0
    ours = document("report.sigstore.json")["dsseEnvelope"]["payload"]
    assert cli.main(["sign", "report.json", "pass.onnx", "--key", "key.pem", "--images", "photos", "-qq"]) == 0
    again = document("report.sigstore.json")["dsseEnvelope"]["payload"]
    assert json.loads(base64.b64decode(ours)) == json.loads(base64.b64decode(again))


def test_a_warn_is_signed_as_one_and_still_fails(here: Path) -> None:
    assert check("warn.onnx", "-o", "json=report.json", "--sign", "key.pem", "-qq") == 1
    assert verify("report.json", "warn.onnx") == 1
    payload = json.loads(base64.b64decode(document("report.sigstore.json")["dsseEnvelope"]["payload"]))
    assert payload["predicate"]["verdict"] == "WARN"
    assert "no_persistent_outlier_features" in payload["predicate"]["reasons"]
    assert check("warn.onnx", "-o", "json=report.json", "--sign", "key.pem", "-qq", "--fail-on", "never") == 0
    assert verify("report.json", "warn.onnx") == 1  # the one who deploys has not said so


def test_without_time_and_with_other_reports_and_json_on_stdout_too(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("-o", "json", "-o", "json=a.json", "-o", "json=b.json", "-o", "html=a.html", "--no-time")
    assert check("pass.onnx", *words, "--sign", "key.pem") == 0
    assert json.loads(capsys.readouterr().out) == document("a.json")  # one document on stdout, and nothing else
    assert verify("a.json", "pass.onnx") == verify("b.json", "pass.onnx") == 0
    payload = json.loads(base64.b64decode(document("a.sigstore.json")["dsseEnvelope"]["payload"]))
    assert payload["predicate"]["time"] is None


def test_several_models_each_with_its_own_report(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "r-text.sigstore.json").write_text(signed_before(here), encoding="utf-8")
    words = ("pass.onnx", "warn.onnx", "text.onnx", "-o", "json=r-{model}.json", "--sign", "key.pem")
    assert check(*words) == 3
    shown = capsys.readouterr().out
    assert "signature: r-pass.sigstore.json" in shown
    assert "signature: r-warn.sigstore.json" in shown
    assert verify("r-pass.json", "pass.onnx") == 0
    assert verify("r-warn.json", "warn.onnx") == 1
    assert document("r-text.json")["error"]["exit_code"] == 3
    assert not (here / "r-text.sigstore.json").exists()


def signed_before(here: Path) -> str:
    """The signature of an earlier run."""
    assert check("pass.onnx", "-o", "json=report.json", "--sign", "key.pem", "-qq") == 0
    return (here / "report.sigstore.json").read_text(encoding="utf-8")


TWO = ["pass.onnx", "warn.onnx", "--sign", "key.pem", "-o"]
ONE = ["pass.onnx", "--sign", "key.pem", "-o"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (ONE[:-1], "--sign signs the JSON report in a file; -o json=PATH must name one"),
        ([*ONE, "json"], "--sign signs the JSON report in a file; -o json=PATH must name one"),
        ([*ONE, "html=report.html"], "--sign signs the JSON report in a file; -o json=PATH must name one"),
        ([*TWO, "json=all.json"], "--output is json=all.json for 2 models; a signature is about one"),
        ([*TWO, "json={model}.json", "-o", "json=all.json"], "json=all.json for 2 models; a signature is about one"),
        (
            [*ONE, "json=memory://b/report.json"],
            "json=memory://b/report.json; a report that is signed must go to a file of this machine",
        ),
        (
            [*ONE, "json=/dev/null"],
            "--output is json=/dev/null; a report that is signed must go to a file of this machine",
        ),
        ([*ONE, "json=key.pem"], "key.pem: report path is a file that this run reads"),
        (
            [*ONE, "json=r.json", "-o", "html=r.sigstore.json"],
            "r.sigstore.json: signature of r.json can't be written here",
        ),
        ([*ONE, "json=r.json", "-o", "json=r.txt"], "r.sigstore.json: signature of r.json can't be written here"),
        (["pass.onnx", "-o", "json=r.json", "--sign", "r.sigstore.json"], "report path is a file that this run reads"),
        (["pass.onnx", "-o", "json=r.json", "--sign", "none.pem"], "none.pem: private key is missing or no file"),
        (["pass.onnx", "-o", "json=r.json", "--sign", "photos"], "photos: private key is missing or no file"),
        (["pass.onnx", "-o", "json=r.json", "--sign", "key.pub"], "key.pub: private key is not readable"),
        (["pass.onnx", "-o", "json=r.json", "--sign", "pass.onnx"], "pass.onnx: private key is not readable"),
    ],
)
def test_what_cannot_be_signed_is_refused_before_anything_is_measured(
    here: Path, words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "r.sigstore.json" in words:
        shutil.copy("key.pem", "r.sigstore.json")
    never_measured(monkeypatch)
    key = (here / "key.pem").read_bytes()
    assert check(*words, "-qq") == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert said in error
    assert hint.startswith("hint: ")
    assert (here / "key.pem").read_bytes() == key
    assert not [path for path in here.glob("*.sigstore.json") if "dsseEnvelope" in path.read_text(encoding="utf-8")]


def test_without_the_extra_nothing_is_measured(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    never_measured(monkeypatch)
    monkeypatch.setitem(sys.modules, "securesystemslib.signer", None)
    assert check("pass.onnx", "-o", "json=report.json", "--sign", "key.pem") == 4
    assert "pip install '.[sign]'  # in a clone" in capsys.readouterr().err
    assert document("report.json")["error"]["exit_code"] == 4


# ------------------------------------------------------------------------------------------------- errors


def _broken_model(here: Path, _: pytest.MonkeyPatch) -> None:
    shutil.copy("text.onnx", "pass.onnx")


def _unwritable_signature(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = write.write_whole

    def full(path: Path, text: str) -> None:
        if "sigstore" in str(path):
            raise EnvironmentFaultError(f"{path}: report is not written (No space left on device)", "df -h")
        real(path, text)

    monkeypatch.setattr(storage, "write_whole", full)


def _failing_signer(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> str:
        raise ValueError("the signer fails")

    monkeypatch.setattr(signing, "sign", fails)


def _failing_stdout(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from robustcheck_onnx.checker.cli import output

    def fails(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(output, "print_report", fails)


@pytest.mark.parametrize(
    ("breaks", "code"),
    [(_broken_model, 3), (_unwritable_signature, 4), (_failing_signer, 70), (_failing_stdout, 4)],
)
def test_an_error_leaves_no_signature_and_no_pass(
    here: Path, breaks: Callable[[Path, pytest.MonkeyPatch], None], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed_before(here)
    breaks(here, monkeypatch)
    assert check("pass.onnx", "-o", "json=report.json", "--sign", "key.pem") == code
    assert not (here / "report.sigstore.json").exists()
    assert document("report.json")["error"]["exit_code"] == code


@pytest.mark.parametrize("words", [["--sign", "none.pem"], ["--sign", "key.pem", "--bogus"], ["--max-bad", "7"]])
def test_options_that_are_refused_leave_no_signature_either(here: Path, words: list[str]) -> None:
    signed_before(here)
    assert check("pass.onnx", "-o", "json=report.json", *words) == 2
    assert not (here / "report.sigstore.json").exists()
    assert document("report.json")["error"]["exit_code"] == 2


def test_a_file_that_is_not_replaced_keeps_its_signature(here: Path) -> None:
    signature = signed_before(here)
    (here / "report.json").write_text("mine", encoding="utf-8")
    assert check("pass.onnx", "-o", "json=report.json", "--bogus") == 2
    assert (here / "report.json").read_text(encoding="utf-8") == "mine"
    assert (here / "report.sigstore.json").read_text(encoding="utf-8") == signature


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["checker.cli", "numpy.linalg", "checker.report"])
def test_a_signal_at_the_start_leaves_no_signature(here: Path, number: signal.Signals, module: str) -> None:
    """Once its import was ended, NumPy can't be imported any more."""
    signed_before(here)
    script = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from robustcheck_onnx.checker import __main__\n"
        f"strike = lambda event, words: event == 'import' and words[0].endswith({module!r}) and "
        f"os.kill(os.getpid(), {int(number)})\n"
        "sys.addaudithook(strike)\n"
        "sys.argv[1:] = 'pass.onnx --images photos -o json=report.json --sign key.pem'.split()\n"
        "sys.exit(__main__.main())\n"
    )
    done = subprocess.run([sys.executable, "-Pc", script], check=False, capture_output=True, text=True)
    assert done.returncode == 128 + number, done.stderr
    assert not (here / "report.sigstore.json").exists()
    assert document("report.json")["error"]["exit_code"] == 128 + number


def test_a_signal_leaves_no_signature(here: Path) -> None:
    signed_before(here)
    script = (
        "import os, signal, sys\n"
        "from robustcheck_onnx.checker import cli, isolated\n"
        "isolated.check = lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.exit(cli.main(['pass.onnx', '--images', 'photos', '-o', 'json=report.json', '--sign', 'key.pem']))\n"
    )
    done = subprocess.run([sys.executable, "-Pc", script], check=False, capture_output=True)
    assert done.returncode == 128 + signal.SIGTERM
    assert not (here / "report.sigstore.json").exists()
    assert document("report.json")["error"]["exit_code"] == 143


@pytest.mark.parametrize("signs", [True, False])
@pytest.mark.parametrize("replaced", [0, 1, 2])
def test_a_kill_between_two_places_leaves_no_signature_beside_an_error(here: Path, signs: bool, replaced: int) -> None:
    """SIGKILL after none, one or both of two reports were marked as unfinished; nothing can be tidied after it."""
    words = ["pass.onnx", "-o", "json=a.json", "-o", "json=b.json", "-qq"]
    assert check(*words, "--sign", "key.pem") == 0
    before = {name: (here / name).read_text(encoding="utf-8") for name in ("a.json", "b.json")}
    assert {path.name for path in here.glob("*.sigstore.json")} == {"a.sigstore.json", "b.sigstore.json"}
    again = [*words, "--images", "photos", *(["--sign", "key.pem"] if signs else [])]
    script = (
        "import os, signal, sys\n"
        "from robustcheck_onnx.checker import cli, storage\n"
        f"real, left = storage.replace_with_error, [{replaced}]\n"
        "def replace(*words):\n"
        "    if not left[0]:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    real(*words)\n"
        "    left[0] -= 1\n"
        "storage.replace_with_error = replace\n"
        "from robustcheck_onnx.checker import isolated\n"
        "isolated.check = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"sys.exit(cli.main({again!r}))\n"
    )
    done = subprocess.run([sys.executable, "-Pc", script], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert list(here.glob("*.sigstore.json")) == []
    for index, name in enumerate(("a.json", "b.json")):
        if index < replaced:
            assert document(name)["error"]["exit_code"] == 137
        else:
            assert (here / name).read_text(encoding="utf-8") == before[name]


def test_a_file_of_another_kind_is_not_removed_by_a_run_that_fails(here: Path) -> None:
    about_files = {
        "mediaType": signature_file.MEDIA_TYPE,
        "dsseEnvelope": {"payload": base64.b64encode(b"{}").decode()},
    }
    for content in ("mine", "{}", "[]", json.dumps(about_files), "[" * 100_000):
        (here / "report.sigstore.json").write_text(content, encoding="utf-8")
        assert check("text.onnx", "-o", "json=report.json", "--sign", "key.pem", "-qq") == 3
        assert (here / "report.sigstore.json").read_text(encoding="utf-8") == content


def test_an_earlier_signature_that_cannot_be_removed_ends_the_run(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    signed_before(here)
    never_measured(monkeypatch)

    real = Path.unlink

    def refused(path: Path, missing_ok: bool = False) -> None:
        if path.name == "report.sigstore.json":
            raise PermissionError(13, "Permission denied", str(path))
        real(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refused)
    assert check("pass.onnx", "-o", "json=report.json", "--sign", "key.pem") == 4
    assert "report.sigstore.json: earlier signature is not removed (Permission denied)" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------- settings


def test_as_a_setting_in_a_file_and_in_the_environment(here: Path) -> None:
    (here / "sub").mkdir()
    (here / "robustcheck.toml").write_text('sign = "key.pem"\noutput = ["json=report.json"]\n', encoding="utf-8")
    call = [COMMAND, "../pass.onnx", "--images", "../photos", "-qq"]
    assert subprocess.run(call, cwd="sub", check=False).returncode == 0  # paths count from the file's folder
    assert verify("report.json", "pass.onnx") == 0
    assert not any("settings from" in note and "sign" in note for note in document("report.json")["notes"])
    environment = os.environ | {"ROBUSTCHECK_SIGN": "../key.pem"}
    words = [*call, "-o", "json=../other.json"]
    assert subprocess.run(words, cwd="sub", check=False, env=environment).returncode == 0
    assert verify("other.json", "pass.onnx") == 0
    (here / "other.sigstore.json").unlink()
    assert subprocess.run([*words, "--isolated"], cwd="sub", check=False, env=environment).returncode == 0
    assert not (here / "other.sigstore.json").exists()


def test_what_is_signed_was_measured_in_this_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever can write to the cache could otherwise have a verdict signed."""
    monkeypatch.delenv("ROBUSTCHECK_NO_CACHE", raising=False)
    monkeypatch.setenv("ROBUSTCHECK_CACHE_DIR", str(here / "cache"))
    for _ in range(2):
        assert check("pass.onnx", "-o", "json=report.json", "-qq") == 0
    assert document("report.json")["time"]["cached"] is not None
    assert check("pass.onnx", "-o", "json=report.json", "--sign", "key.pem", "-qq") == 0
    assert document("report.json")["time"]["cached"] is None


def test_a_report_that_is_not_measured_again_is_not_signed(here: Path) -> None:
    assert check("pass.onnx", "-o", "json=report.json", "-qq") == 0
    assert cli.main(["sign", "report.json", "pass.onnx", "--key", "key.pem", "-qq"]) == 1
    assert cli.main(["sign", "report.json", "pass.onnx", "--key", "key.pem", "--no-rerun", "-qq"]) == 2
    assert not (here / "report.sigstore.json").exists()

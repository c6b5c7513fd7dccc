"""`check --sign`: the JSON report is signed where it is made, and no signature outlives its report."""

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from robustcheck_onnx.checker import pipeline
from robustcheck_onnx.checker.errors import EnvironmentFaultError
from robustcheck_onnx.checker.report import record
from robustcheck_onnx.checker.report.record import Report
from robustcheck_onnx.checker.storage import stores
from robustcheck_onnx.checker.text import HOME
from support import Capture, Fields, Patch, extra, read_json, robustcheck

pytestmark = pytest.mark.usefixtures("capsys")  # the command mends its process's streams: these are the test's own


@pytest.fixture
def here(signed: Path, warned: tuple[Path, Report], monkeypatch: Patch) -> Path:
    """The current folder: `signed`, with warn.onnx and text.onnx, which is not a model."""
    shutil.copy(warned[0], signed / "warn.onnx")
    (signed / "text.onnx").write_text("no model")
    monkeypatch.chdir(signed)
    return signed


def check(*words: str, sign: str = "key.pem", images: str = "photos") -> int:
    return robustcheck("check", *words, "--images", images, *(["--sign", sign] if sign else []))


def verify(report: str, model: str) -> int:
    return robustcheck("verify", report, model, "--verify-signature", "--public-key", "key.pub", "-qq")


def never_measured(monkeypatch: Patch) -> None:
    monkeypatch.setattr(pipeline, "check", lambda *_, **__: pytest.fail("measured"))


def payload(name: str) -> Fields:
    read: Fields = json.loads(base64.b64decode(read_json(name)["dsseEnvelope"]["payload"]))
    return read


def is_unsigned_error(code: int) -> bool:
    """Whether report.json tells of this error, and no signature lies next to it."""
    error: int = read_json("report.json")["error"]["exit_code"]
    return error == code and not Path("report.sigstore.json").exists()


def test_a_signed_pass_verifies_and_is_what_the_verb_sign_would_sign(here: Path, capsys: Capture) -> None:
    """Also: without time, and with other reports and JSON on stdout, which holds one document and nothing else."""
    notes = [f"note: {record.HOME_NOTE}"] * (not HOME)
    assert check("model.onnx", "-o", "json=report.json") == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[0].split() == ["signature:", "report.sigstore.json"]
    assert [line for line in said.err.splitlines() if line.startswith("note: ")] == notes
    assert verify("report.json", "model.onnx") == 0
    ours = payload("report.sigstore.json")
    assert robustcheck("sign", "report.json", "model.onnx", "--key", "key.pem", "--images", "photos", "-q") == 0
    assert payload("report.sigstore.json") == ours
    capsys.readouterr()
    reports = [word for place in ("json", "json=a.json", "json=b.json", "html=a.html") for word in ("-o", place)]
    assert check("model.onnx", *reports, "--no-time") == 0
    assert json.loads(capsys.readouterr().out) == read_json("a.json")
    assert verify("a.json", "model.onnx") == verify("b.json", "model.onnx") == 0
    assert payload("a.sigstore.json")["predicate"]["time"] is None


def test_a_warn_is_signed_as_one_and_still_fails(here: Path, warned: tuple[Path, Report]) -> None:
    for gate, code in ((), 1), (("--fail-on", "never"), 0):
        assert check("warn.onnx", "-o", "json=report.json", "-qq", *gate) == code
        assert verify("report.json", "warn.onnx") == 1  # the one who deploys has not let it through
    stated, reasons = payload("report.sigstore.json")["predicate"], warned[1].verdict.reasons
    assert (stated["verdict"], stated["reasons"]) == ("WARN", [each.id for each in reasons])


def test_several_models_each_with_its_own_report(here: Path) -> None:
    shutil.copy("report.sigstore.json", "r-text.sigstore.json")  # of an earlier run
    assert check("model.onnx", "warn.onnx", "text.onnx", "-o", "json=r-{model}.json") == 3
    assert [verify(f"r-{name}.json", f"{name}.onnx") for name in ("model", "warn")] == [0, 1]
    assert read_json("r-text.json")["error"]["exit_code"] == 3
    assert not (here / "r-text.sigstore.json").exists()


def test_what_cannot_be_signed_is_refused_before_anything_is_measured(
    here: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    never_measured(monkeypatch)
    Path("report.sigstore.json").unlink()
    shutil.copy("key.pem", "r.sigstore.json")
    a_file, one, taken, of_this_machine = (
        "--sign signs the JSON report in a file; -o json=PATH must name one",
        "for 2 models; a signature is about one",
        "r.sigstore.json: signature of r.json can't be written here",
        "; a report that is signed must go to a file on this machine",
    )
    for call, said in {
        "model.onnx -o json --sign key.pem": a_file,
        "model.onnx -o html=report.html --sign key.pem": a_file,
        "model.onnx warn.onnx -o json=all.json --sign key.pem": f"--output is json=all.json {one}",
        "model.onnx -o json=memory://b/r.json --sign key.pem": f"json=memory://b/r.json{of_this_machine}",
        "model.onnx -o json=/dev/null --sign key.pem": f"--output is json=/dev/null{of_this_machine}",
        "model.onnx -o json=key.pem --sign key.pem": "key.pem: report path is a file that this run reads",
        "model.onnx -o json=r.json -o html=r.sigstore.json --sign key.pem": taken,
        "model.onnx -o json=r.json -o json=r.txt --sign key.pem": taken,
        "model.onnx -o json=r.json --sign r.sigstore.json": "report path is a file that this run reads",
        "model.onnx -o json=r.json --sign photos": "photos: private key is missing or no file",
        "model.onnx -o json=r.json --sign key.pub": "key.pub: private key is not readable",
    }.items():
        before = {path: path.read_bytes() for path in here.glob("*.pem")}
        assert check(*call.split(), "-qq", sign="") == 2, call
        error, hint = capsys.readouterr().err.splitlines()
        assert said in error
        assert hint.startswith("hint: ")
        assert {path: path.read_bytes() for path in here.glob("*.pem")} == before
        assert not [path for path in here.glob("*.sigstore.json") if "dsseEnvelope" in path.read_text(encoding="utf-8")]


def test_without_the_extra_nothing_is_measured(here: Path, monkeypatch: Patch, capsys: Capture) -> None:
    never_measured(monkeypatch)
    monkeypatch.setitem(sys.modules, "securesystemslib.signer", None)
    assert check("model.onnx", "-o", "json=report.json") == 4
    assert extra("sign") in capsys.readouterr().err
    assert is_unsigned_error(4)


# ------------------------------------------------------------------------------------------------- errors


def test_an_error_leaves_no_signature_and_no_pass(here: Path, monkeypatch: Patch) -> None:
    real = stores.write_whole

    def full(where: Any, what: Any) -> Any:
        if "sigstore" in str(where):
            raise EnvironmentFaultError("report is not written (No space left on device)", "df -h")
        return real(where, what)

    signer = Mock(side_effect=ValueError("the signer fails"))
    for fails, played, code in (("storage.stores.write_whole", full, 4), ("verify.signature.sign", signer, 70)):
        monkeypatch.setattr(f"robustcheck_onnx.checker.{fails}", played)
        assert check("model.onnx", "-o", "json=report.json") == code
        assert is_unsigned_error(code)


def test_options_that_are_refused_leave_no_signature_either_unless_the_report_is_no_report(here: Path) -> None:
    signature = (here / "report.sigstore.json").read_text(encoding="utf-8")
    for words in ("--sign none.pem", "--sign key.pem --bogus", "--max-bad 7"):
        (here / "report.sigstore.json").write_text(signature, encoding="utf-8")
        assert check("model.onnx", "-o", "json=report.json", *words.split(), sign="") == 2
        assert is_unsigned_error(2)
    for name, text in (("report.json", "mine"), ("report.sigstore.json", signature)):
        (here / name).write_text(text, encoding="utf-8")
    assert check("model.onnx", "-o", "json=report.json", "--bogus", sign="") == 2
    assert (here / "report.json").read_text(encoding="utf-8") == "mine"
    assert (here / "report.sigstore.json").read_text(encoding="utf-8") == signature


@pytest.mark.process
def test_a_signal_at_the_start_leaves_no_signature(here: Path) -> None:
    """In the middle of an import, before a model is read."""
    assert (here / "report.sigstore.json").exists()
    script = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from robustcheck_onnx.checker import __main__\n"
        "strike = lambda event, words: event == 'import' and words[0].endswith('report.record') and "
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.addaudithook(strike)\n"
        "sys.argv[1:] = 'model.onnx --images photos -o json=report.json --sign key.pem'.split()\n"
        "sys.exit(__main__.main())\n"
    )
    assert subprocess.run([sys.executable, "-Pc", script], check=False).returncode == 130
    assert is_unsigned_error(130)


@pytest.mark.parametrize("sign", ["key.pem", ""])
def test_a_kill_at_any_moment_leaves_no_signature_beside_an_error(here: Path, sign: str, monkeypatch: Patch) -> None:
    """All earlier signatures go before the first of their reports is marked: nothing can be tidied after SIGKILL."""
    real, left = stores.replace_with_error, list[list[Any]]()
    for end in ("json", "sigstore.json"):
        shutil.copy(f"report.{end}", f"other.{end}")

    def replace(*words: Any) -> None:
        left.append([path.name for path in here.glob("*.sigstore.json")])
        real(*words)

    def measured(*_: object, **__: object) -> None:
        left.append([read_json(name)["error"]["exit_code"] for name in ("report.json", "other.json")])
        raise KeyboardInterrupt

    monkeypatch.setattr(stores, "replace_with_error", replace)
    monkeypatch.setattr("robustcheck_onnx.checker.pipeline.check", measured)
    assert check("model.onnx", "-o", "json=report.json", "-o", "json=other.json", sign=sign) == 130
    assert left[:3] == [[], [], [137, 137]]
    assert list(here.glob("*.sigstore.json")) == []


def test_a_file_of_another_kind_is_not_removed_by_a_run_that_fails(here: Path) -> None:
    about_files = {"mediaType": record.MEDIA_TYPE, "dsseEnvelope": {"payload": base64.b64encode(b"{}").decode()}}
    for content in ("mine", "{}", "[]", json.dumps(about_files), "[" * 100_000):
        (here / "report.sigstore.json").write_text(content, encoding="utf-8")
        assert check("text.onnx", "-o", "json=report.json", "-qq") == 3
        assert (here / "report.sigstore.json").read_text(encoding="utf-8") == content


def test_an_earlier_signature_that_cannot_be_removed_ends_the_run(
    here: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    never_measured(monkeypatch)
    monkeypatch.setattr(Path, "unlink", Mock(side_effect=PermissionError(13, "Permission denied")))
    assert check("model.onnx", "-o", "json=report.json") == 4
    assert "report.sigstore.json: earlier signature is not removed (Permission denied)" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------- settings


def test_as_a_setting_in_a_file(here: Path, monkeypatch: Patch) -> None:
    """Its path counts from the file's folder."""
    (here / "sub").mkdir()
    (here / "robustcheck.toml").write_text('sign = "key.pem"\noutput = ["json=report.json"]\n')
    with monkeypatch.context() as there:
        there.chdir("sub")
        assert check("../model.onnx", "-qq", sign="", images="../photos") == 0
    assert verify("report.json", "model.onnx") == 0


def test_a_report_that_is_not_measured_again_is_not_signed(place: Path) -> None:
    files = [place / name for name in ("report.json", "model.onnx")]
    assert robustcheck("sign", *files, "--key", place / "key.pem", "-qq") == 1
    assert robustcheck("sign", *files, "--key", place / "key.pem", "--no-rerun", "-qq") == 2
    assert not (place / "report.sigstore.json").exists()

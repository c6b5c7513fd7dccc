"""What a settings file names stays in its folder, follows no link out of it, and replaces nothing but our own files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from robustcheck_onnx.checker.cli import confine
from robustcheck_onnx.checker.cli.settings_file import outputs
from robustcheck_onnx.checker.report import forms
from support.bad_input import Done, Typed

SECRET = "export PATH=/usr/bin\n"


Run = Callable[..., Done]


@pytest.fixture
def run(typed: Typed) -> Run:
    """The command in this process: `run(*words, cwd=folder, **environment)`."""
    return lambda *words, cwd, **environment: typed(cwd, *words, **environment)


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `checkout`, the current one, beside a file `.bashrc` of the user."""
    (tmp_path / ".bashrc").write_text(SECRET, encoding="utf-8")
    (tmp_path / "checkout").mkdir()
    monkeypatch.chdir(tmp_path / "checkout")
    return tmp_path / "checkout"


def say(line: str) -> None:
    Path("robustcheck.toml").write_text(line + "\n", encoding="utf-8")


# -------------------------------------------------------------------------------------------------- names


def test_what_is_inside_a_folder(checkout: Path) -> None:
    (checkout / "in").mkdir()
    (checkout / "out").symlink_to(checkout.parent)
    (checkout / "here").symlink_to("in")
    (checkout / "gone").symlink_to(checkout.parent / "gone")
    (checkout / "loop").symlink_to("loop")
    inside = ["r.json", "in/r.json", "here/r.json", "in/../r.json", str(checkout / "r.json"), "none/r.json", "a:/b"]
    outside = ["../r.json", "/r.json", "out/r.json", "gone", "loop", ".", "", "in/../../r.json", "a\0b"]
    urls = ["s3://bucket/r.json", "file:///r.json", f"file://{checkout}/r.json", "file:/r.json", "zip::s3://b/r.json"]
    assert [path for path in inside if not confine.is_inside(path, ".")] == []
    assert [path for path in [*outside, *urls] if confine.is_inside(path, ".")] == []
    (checkout.parent / "checkout2").mkdir()
    assert not confine.is_inside("../checkout2/r.json", ".")  # a name that starts alike


def test_which_paths_follow_a_link(checkout: Path) -> None:
    (checkout / "in").mkdir()
    (checkout / "out").symlink_to(checkout.parent)
    (checkout / "r.json").symlink_to(checkout.parent / ".bashrc")
    (checkout / "own.json").symlink_to("in/own.json")
    follow = ["r.json", "./r.json", "own.json", "out/r.json", str(checkout / "r.json"), f"file://{checkout}/r.json"]
    plain = ["new.json", "in/new.json", "../new.json", str(checkout.parent / "new.json"), "s3://b/r", "/dev/stdout"]
    assert [path for path in follow if not confine.follows_link(path)] == []
    assert [path for path in plain if confine.follows_link(path)] == []


def test_an_error_is_written_to_no_other_place_either() -> None:
    say('output = ["json=../r.json", "junit=r.xml", "html=s3://b/r.html", "gitlab", "markdown=-"]')
    assert outputs({}, None) == ("junit=r.xml", "gitlab", "markdown=-")


# ------------------------------------------------------------------------------------------------ reports


def link_away(checkout: Path) -> None:
    (checkout / "r.json").symlink_to("../.bashrc")


def link_a_folder(checkout: Path) -> None:
    (checkout / "reports").symlink_to("..")


LEAVES = "what a settings file names must lie in its folder, and no link may lead out"


def test_a_settings_file_names_no_report_outside_its_folder(
    checkout: Path, lookup_pass: tuple[Path, Path], run: Run
) -> None:
    model, photos = lookup_pass
    link_away(checkout)
    (checkout / "n.json").symlink_to("../new")
    link_a_folder(checkout)
    before = sorted(checkout.parent.rglob("*"))
    places = ["../.bashrc", "../new", "r.json", "n.json", "reports/new", "s3://bucket/new", "file:///new"]
    for form, path in [("json", place) for place in places] + [("terminal", "../new"), ("html", "../.bashrc")]:
        say(f'output = ["{form}={path}"]')
        for strict in ([], ["--strict"]):
            for words in (["--", str(model)], ["--", "missing.onnx"]):  # no error is written there either
                done = run("check", *strict, "--images", photos, *words, cwd=checkout)
                assert (done.returncode, done.stdout) == (2, "")
                if "missing" not in str(words):
                    assert f"error: robustcheck.toml: output is {form}=" in done.stderr
                    assert LEAVES in done.stderr
                    assert f"hint: -o {form}=" in done.stderr
        (checkout / "robustcheck.toml").unlink()
        assert sorted(checkout.parent.rglob("*")) == before
        assert (checkout.parent / ".bashrc").read_text(encoding="utf-8") == SECRET


def test_a_model_of_dots_alone_leads_no_report_out_of_the_folder(
    checkout: Path, lookup_pass: tuple[Path, Path], run: Run
) -> None:
    """The stem of `...onnx` is `..`; the word `model` replaces it."""
    shutil.copy(lookup_pass[0], "...onnx")
    say('output = ["json={model}/r.json"]')
    done = run("check", "--images", lookup_pass[1], "--", "...onnx", cwd=checkout)
    assert (done.returncode, "model/r.json: folder model is missing" in done.stderr) == (2, True)
    assert not (checkout.parent / "r.json").exists()


def test_a_settings_file_replaces_nothing_that_is_not_ours(
    checkout: Path,
    lookup_pass: tuple[Path, Path],
    run: Run,
) -> None:
    for content in (b"my page\n", b"", b"\x00"):
        (checkout / "page.html").write_bytes(content)
        say('output = ["html=page.html"]')
        call = ("check", "--images", lookup_pass[1])
        done = run(*call, "--", lookup_pass[0], cwd=checkout)
        assert done.returncode == 2
        assert done.stderr.splitlines() == [
            "error: robustcheck.toml: output is html=page.html; the file that is there is no report of robustcheck, "
            "and a settings file replaces no other",
            "hint: -o html=page.html  # the command line may replace it",
        ]
        assert (checkout / "page.html").read_bytes() == content
    assert run(*call, "-o", "html=page.html", "--", lookup_pass[0], cwd=checkout).returncode == 0
    assert run(*call, "--", lookup_pass[0], cwd=checkout).returncode == 0  # now it is ours


def test_every_form_is_known_as_ours(checkout: Path, lookup_pass: tuple[Path, Path], run: Run) -> None:
    """A run that finds a document that it does not know as ours ends with 2, and names its form."""
    say(f"output = {[f'{form}=out/{form}' for form in forms.NAMES]}")
    (checkout / "out").mkdir()
    call = ("check", "--images", lookup_pass[1], "--max-images")
    written = []
    for n, model, code in (("60", 0, 0), ("40", 0, 1), ("60", None, 2), ("60", 0, 0)):
        done = run(*call, n, "--", "missing.onnx" if model is None else lookup_pass[model], cwd=checkout)
        assert done.returncode == code, done.stderr
        written.append({form: (checkout / "out" / form).read_bytes() for form in forms.NAMES})
    passed, warned, failed, _ = written
    for form in forms.NAMES:  # each was replaced by what the next run had to say
        assert len({each[form] for each in (passed, warned, failed)}) == 3, form


def test_a_link_within_the_folder_is_followed(checkout: Path, lookup_pass: tuple[Path, Path], run: Run) -> None:
    (checkout / "r.json").symlink_to("real.json")
    say('output = ["json=r.json"]')
    assert run("check", "--images", lookup_pass[1], "--", lookup_pass[0], cwd=checkout).returncode == 0
    assert json.loads((checkout / "real.json").read_text(encoding="utf-8"))["verdict"]["verdict"] == "PASS"


def test_the_command_line_names_any_place(checkout: Path, lookup_pass: tuple[Path, Path], run: Run) -> None:
    say('output = ["json=../.bashrc"]\nlog-file = "../.bashrc"')
    call = ("check", "--images", lookup_pass[1], "-o", "json=../r.json", "--log-file", "../a.log")
    assert run(*call, "--", lookup_pass[0], cwd=checkout).returncode == 0
    assert {path.name for path in checkout.parent.iterdir()} == {".bashrc", "checkout", "r.json", "a.log"}
    assert (checkout.parent / ".bashrc").read_text(encoding="utf-8") == SECRET


def test_with_strict_a_report_of_the_command_line_follows_no_link_of_the_checkout(
    checkout: Path,
    lookup_pass: tuple[Path, Path],
    run: Run,
) -> None:
    """A pipeline writes `robustcheck.json`, and the checkout brings a link of that name."""
    model, photos = lookup_pass
    for path, prepare in (("r.json", link_away), ("reports/.bashrc", link_a_folder)):
        prepare(checkout)
        for words in (["--", str(model)], ["--bogus"]):
            done = run("check", "--strict", "--images", photos, "-o", f"json={path}", *words, cwd=checkout)
            assert done.returncode == 2
        done = run("check", "--strict", "--images", photos, "-o", f"json={path}", "--", model, cwd=checkout)
        assert f"error: output is json={path}, which follows a link; one of a checkout may lead anywhere" in done.stderr
        assert (checkout.parent / ".bashrc").read_text(encoding="utf-8") == SECRET
    done = run("check", "--strict", "--images", photos, "--log-file", "r.json", "--", model, cwd=checkout)
    assert (done.returncode, "log-file is r.json, which follows a link" in done.stderr) == (2, True)


# ---------------------------------------------------------------------------------------- log, signature


def test_a_log_that_a_settings_file_names(checkout: Path, lookup_pass: tuple[Path, Path], run: Run) -> None:
    link_away(checkout)
    for path in ("../.bashrc", "../new", "r.json", "start.sh", "empty.py"):
        (checkout / "start.sh").write_text(SECRET, encoding="utf-8")
        (checkout / "empty.py").touch()
        say(f'log-file = "{path}"')
        done = run("check", "--images", lookup_pass[1], "-o", "junit=r.xml", "--", lookup_pass[0], cwd=checkout)
        assert done.returncode == 2
        rule = "the file that is there is no log of robustcheck" if path in {"start.sh", "empty.py"} else LEAVES
        assert "error: robustcheck.toml: log-file is " in done.stderr
        assert rule in done.stderr
        assert (checkout / "start.sh").read_text(encoding="utf-8") == SECRET
        assert (checkout.parent / ".bashrc").read_text(encoding="utf-8") == SECRET
        assert {path.name for path in checkout.parent.iterdir()} == {".bashrc", "checkout"}


def test_a_log_of_ours_is_continued(checkout: Path, lookup_pass: tuple[Path, Path], run: Run) -> None:
    say('log-file = "a.log"')
    lines = []
    for _ in range(2):
        done = run("check", "--images", lookup_pass[1], "-qq", "--", lookup_pass[0], cwd=checkout)
        assert done.returncode == 0, done.stderr
        lines.append(len((checkout / "a.log").read_text(encoding="utf-8").splitlines()))
    assert lines[1] == 2 * lines[0]


def test_a_signature_beside_a_report_that_a_settings_file_names(
    checkout: Path, lookup_pass: tuple[Path, Path], run: Run
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    (checkout.parent / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    call = ("check", "--images", lookup_pass[1], "--sign", "../key.pem", "-qq", "--", lookup_pass[0])
    bundle = checkout / "r.sigstore.json"
    say('output = ["json=r.json"]')
    bundle.symlink_to("../.bashrc")
    done = run(*call, cwd=checkout)
    assert (done.returncode, LEAVES in done.stderr) == (2, True)
    bundle.unlink()
    bundle.write_text("mine", encoding="utf-8")
    done = run(*call, cwd=checkout)
    assert (done.returncode, "the file that is there is no signature of robustcheck" in done.stderr) == (2, True)
    assert bundle.read_text(encoding="utf-8") == "mine"
    bundle.unlink()
    for _ in range(2):  # the second time it is ours
        assert run(*call, cwd=checkout).returncode == 0
    say('sign = "../key.pem"')
    bundle.unlink()
    bundle.symlink_to("../.bashrc")
    done = run(
        "check", "--images", lookup_pass[1], "-o", "json=r.json", "-qq", "--", lookup_pass[0], cwd=checkout
    )  # fmt: skip
    assert (done.returncode, "which follows a link" in done.stderr) == (2, True)
    assert (checkout.parent / ".bashrc").read_text(encoding="utf-8") == SECRET

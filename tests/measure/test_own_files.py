"""The cache is read only where nobody else could have written it; what somebody forged gives no PASS."""

from __future__ import annotations

import json
import os
import secrets
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import platformdirs
import pytest

from robustcheck_onnx import check
from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.images import open_images
from robustcheck_onnx.checker.measure import cache
from robustcheck_onnx.checker.measure.job import Job
from robustcheck_onnx.checker.model import read_content
from robustcheck_onnx.checker.report.record import Report
from robustcheck_onnx.checker.storage import own_files
from robustcheck_onnx.thresholds import profile
from support import lookup
from support.measuring import job as new_job

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has no modes of files"),
    pytest.mark.usefixtures("capsys"),  # the command mends its process's streams: these are the test's own
]


@pytest.fixture
def place(tmp_path: Path, lookup_pass: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """warn.onnx, which gives a WARN, photos, and an empty cache; the current folder."""
    lookup.write_lookup_model(tmp_path / "warn.onnx", np.random.default_rng(3).normal(size=(80, 512)))
    (tmp_path / "photos").symlink_to(lookup_pass[1])
    monkeypatch.setenv(own_files.FOLDER, str(tmp_path / "cache"))
    monkeypatch.delenv(own_files.OFF, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run() -> Report:
    return check("warn.onnx", images="photos", cache=True)


def is_hit() -> bool:
    report = run()
    assert report.time is not None
    assert report.verdict.verdict == "WARN"
    return report.time.cached is not None


def record(place: Path) -> Path:
    (path,) = (place / "cache").glob("*.json")
    return path


def key_of_this_run(place: Path) -> str:
    job: Job = new_job(Path("warn.onnx"), "photos")
    return cache.key_of(job, read_content(place / "warn.onnx").digest, profile.load(), open_images("photos"))


def forge(place: Path, passed: Report) -> None:
    """The record of a PASS under the key of this run: what would be found, if it were believed."""
    digests = [open_images("photos").digest(index) for index in range(passed.evidence.statistics.n_images)]
    assert cache.store(key_of_this_run(place), "2026-01-01", [d for d in digests if d], passed.evidence, None)


def test_a_forged_record_gives_a_pass_only_to_who_has_the_key(place: Path, passed: Report) -> None:
    """The first assertion shows that the forgery is otherwise sound; the second that the key is what stops it."""
    forge(place, passed)
    assert run().verdict.verdict == "PASS"
    (place / "cache" / own_files.KEY).unlink()
    assert not is_hit()  # nor where there is no key at all; this run makes a new one
    forged = record(place)
    kept = forged.read_bytes()
    forge(place, passed)
    (place / "cache" / own_files.KEY).write_bytes(b"\1" * own_files.KEY_BYTES)
    assert not is_hit()
    document = json.loads(kept)
    document["mac"] = "0" * 64
    forged.write_text(json.dumps(document), encoding="utf-8")
    assert not is_hit()
    assert is_hit()


def test_folder_record_and_key_are_for_this_user_alone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(0)
    try:
        run()
    finally:
        os.umask(before)
    modes = {path.suffix: stat.S_IMODE(path.stat().st_mode) for path in (place / "cache").iterdir()}
    assert modes == {".json": 0o600, ".key": 0o600}
    assert stat.S_IMODE((place / "cache").stat().st_mode) == 0o700
    assert len((place / "cache" / own_files.KEY).read_bytes()) == own_files.KEY_BYTES
    assert is_hit()


def _shared_folder(place: Path, bit: int) -> None:
    (place / "cache").chmod(0o700 | bit)


def _shared_record(place: Path, bit: int) -> None:
    record(place).chmod(0o600 | bit)


def _readable_key(place: Path, bit: int) -> None:
    (place / "cache" / own_files.KEY).chmod(0o600 | bit << 1)


@pytest.mark.parametrize("bit", [stat.S_IWGRP, stat.S_IWOTH])
@pytest.mark.parametrize("loosen", [_shared_folder, _shared_record, _readable_key])
def test_what_others_could_have_changed_is_not_read(place: Path, loosen: Callable[[Path, int], None], bit: int) -> None:
    run()
    loosen(place, bit)
    assert not is_hit()


def test_what_another_user_owns_is_not_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    assert not is_hit()
    assert not is_hit()  # and nothing was kept there
    assert own_files.why_unused() == "it belongs to another user; set ROBUSTCHECK_CACHE_DIR to a folder of your own"


def test_a_record_that_another_user_owns_is_replaced(place: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    run()
    os.chown(record(place), 12345, -1)
    assert not is_hit()
    assert is_hit()


@pytest.mark.parametrize("name", ["record", "key"])
def test_no_link_is_followed(place: Path, name: str) -> None:
    run()
    path = record(place) if name == "record" else place / "cache" / own_files.KEY
    path.rename(place / "elsewhere")
    path.symlink_to(place / "elsewhere")
    assert not is_hit()


def test_names_of_files_that_are_written_cannot_be_known(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link under every name that a guess gives would be followed by nothing: names are random, and opened anew."""
    (place / "cache").mkdir(mode=0o700)
    (place / "victim").write_text("mine", encoding="utf-8")
    monkeypatch.setattr(secrets, "token_hex", lambda n: "0" * 2 * n)
    (place / "cache" / own_files.TEMPORARY.format("0" * 32)).symlink_to(place / "victim")
    assert not is_hit()
    assert (place / "victim").read_text(encoding="utf-8") == "mine"
    assert not list((place / "cache").glob("*.json"))
    assert cache.clear() == 0  # and removes what a killed process left
    assert not list((place / "cache").iterdir())
    assert not is_hit()
    assert is_hit()


def test_two_that_make_a_key_agree_on_one(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one is faster between the look and the link."""
    (place / "cache").mkdir(mode=0o700)
    key = place / "cache" / own_files.KEY
    real = os.path.lexists

    def lexists(path: object) -> bool:
        if path == key and not real(key):
            key.write_bytes(b"\2" * own_files.KEY_BYTES)
            key.chmod(0o600)
            return False
        return real(path)  # type: ignore[arg-type]

    monkeypatch.setattr(os.path, "lexists", lexists)
    assert not is_hit()
    assert key.read_bytes() == b"\2" * own_files.KEY_BYTES
    assert is_hit()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda key: key.chmod(0o644), "could read its file {key} (mode 0644); robustcheck cache clear"),
        (lambda key: key.write_bytes(b"short"), "its key {key} has 5 bytes instead of 32; robustcheck cache clear"),
        (lambda key: key.parent.chmod(0o770), "others can write to it (mode 0770); chmod go-w {folder}"),
    ],
)
def test_the_command_says_once_why_it_uses_none(
    place: Path, damage: Callable[[Path], object], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run()
    key = place / "cache" / own_files.KEY
    damage(key)
    words = ["warn.onnx", "./warn.onnx", "--images", "photos"]
    assert cli.main([*words, "-q"]) == 1
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert len(notes) == 1
    assert notes[0].startswith(f"note: the cache {place / 'cache'} is not used: ")
    assert said.format(key=key, folder=place / "cache") in notes[0]
    for quiet in (["-q", "--no-cache"], ["-qq"], ["-q", "--engine", "ray", "--workers", "0"]):
        cli.main([*words, *quiet])
        assert "note: " not in capsys.readouterr().err
    assert cli.main(["cache", "info"]) == 0
    assert "not used: " in capsys.readouterr().out
    (place / "cache").chmod(0o700)
    assert cli.main(["cache", "clear"]) == 0
    capsys.readouterr()
    assert cli.main([*words, "-q"]) == 1
    assert "note: " not in capsys.readouterr().err
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


# ------------------------------------------------------------------------------------------- checkouts


def test_a_cache_in_the_checkout_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its files belong to who cloned it, and have mode 0600 where the umask is 077: only their place tells."""
    subprocess.run(["git", "init", "--quiet", "."], check=True)
    (place / "sub").mkdir()
    words = ["--images", str(place / "photos"), "-qq"]
    for folder in (place, place / "sub"):
        monkeypatch.chdir(folder)
        assert cli.main([str(place / "warn.onnx"), *words]) == 2
        error, hint = capsys.readouterr().err.splitlines()
        assert f"error: ROBUSTCHECK_CACHE_DIR is {place / 'cache'}, in the git checkout {place}; it must lie" in error
        assert hint == "hint: unset ROBUSTCHECK_CACHE_DIR, or --no-cache"
        assert cli.main([str(place / "warn.onnx"), *words, "--no-cache"]) == 1
    assert not (place / "cache").exists()
    assert check(place / "warn.onnx", images=place / "photos", cache=True).verdict.verdict == "WARN"
    assert not (place / "cache").exists()  # Python measures
    capsys.readouterr()


def test_so_is_one_in_the_checkout_of_the_settings(
    place: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "init", "--quiet", "."], check=True)
    (place / "robustcheck.toml").write_text("seed = 1\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    words = [str(place / "warn.onnx"), "--images", str(place / "photos"), "-qq"]
    assert cli.main([*words, "--config", str(place / "robustcheck.toml")]) == 2
    assert cli.main(words) == 1


def test_a_default_folder_in_the_checkout_is_not_used_and_a_link_into_it_is_seen(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["git", "init", "--quiet", "repo"], check=True)
    (place / "repo" / "cache").mkdir(mode=0o700)
    (place / "linked").symlink_to(place / "repo" / "cache")
    monkeypatch.chdir(place / "repo")
    words = ["../warn.onnx", "--images", "../photos", "-q"]
    monkeypatch.setenv(own_files.FOLDER, str(place / "linked"))
    assert cli.main(words) == 2
    monkeypatch.setenv(own_files.FOLDER, "")
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda _: str(place / "linked"))
    capsys.readouterr()
    assert cli.main(words) == 1
    assert f"is not used: it lies in the git checkout {place / 'repo'}; set ROBUSTCHECK_CACHE_DIR to a folder" in (
        capsys.readouterr().err
    )
    assert list((place / "linked").iterdir()) == []

"""`--strict`: nothing but the command line loosens the gate, no name is an option, and 0 is a verdict's alone."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustcheck_onnx.checker import demo
from robustcheck_onnx.checker.cli import powers, settings, strict
from robustcheck_onnx.checker.cli.command_line import CommandLine
from robustcheck_onnx.checker.cli.verbs import check, compare, concepts, directions, scan, shift, verify
from robustcheck_onnx.checker.errors import UsageError
from support import ROOT, lookup
from support.bad_input import Done, Typed

WAIVER = '[[waivers]]\nreason = "{}"\nbecause = "known"\nowner = "o@example.org"\nexpires = 2999-01-01\n'
WAIVERS = WAIVER.format("no_persistent_outlier_features") + WAIVER.format("low_kurtosis")
# a value of each setting that is not the default, as the file, a variable and the command line's hint write it
OTHER: dict[str, tuple[str, str]] = {
    "images": ('"photos"', "photos"),
    "max-images": ("40", "40"),
    "max-bad": ("0.5", "0.5"),
    "seed": ("3", "3"),
    "preprocess": ('"clip"', "clip"),
    "tensor": ('"t"', "t"),
    "pool": ('"mean"', "mean"),
    "device": ('"coreml"', "coreml"),
    "provider-option": ('["use_tf32=1"]', "use_tf32=1"),
    "batch-size": ("1", "1"),
    "thresholds": ('"default-1"', "default-1"),
    "fail-on": ('"never"', "never"),
    "accept": ('"not_applicable"', "not_applicable"),
    "sign": ('"key.pem"', "key.pem"),
}
HARMLESS: dict[str, str] = {
    "output": '["json=r.json"]',
    "quiet": "1",
    "verbose": "1",
    "no-thumbnails": "true",
    "no-time": "true",
    "color": '"never"',
    "log-file": '"a.log"',
    "no-ci": "true",
    "timeout": "600",
    "max-memory": '"8GiB"',
    "max-model-size": '"2GiB"',
}


Run = Callable[..., Done]


@pytest.fixture
def run(typed: Typed) -> Run:
    """The command in this process: `run(*words, cwd=folder, **environment)`."""
    return lambda *words, cwd, **environment: typed(cwd, *words, **environment)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def warn_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A look-up model of Gaussian rows: WARN low_kurtosis and no_persistent_outlier_features."""
    model: Path = lookup.write_lookup_model(
        tmp_path_factory.mktemp("warn") / "warn.onnx", np.random.default_rng(3).normal(size=(80, 512))
    )
    return model


def refused(given: dict[str, Any], environment: dict[str, str], **options: Any) -> UsageError | None:
    line = CommandLine(("check",), ("m.onnx",), ("m.onnx",))
    try:
        strict.refuse(settings.resolve(given, environment, **options), line)
    except UsageError as fault:
        return fault
    return None


# ------------------------------------------------------------------------------------------------ the table


def test_every_setting_is_classified_and_tried_here() -> None:
    assert set(powers.POWERS) == set(settings.FIELDS)
    refused_ones = {key for key, rule in powers.POWERS.items() if rule.power != powers.HARMLESS}
    assert {*OTHER, "waivers"} == refused_ones
    assert set(HARMLESS) == set(powers.POWERS) - refused_ones


def test_a_file_may_not_say_it_and_the_command_line_may() -> None:
    for key, (value, typed) in OTHER.items():
        Path("robustcheck.toml").write_text(f"{key} = {value}\n", encoding="utf-8")
        given = {"images": "bundled"} if key != "images" else {}
        fault = refused(given, {})
        assert fault is not None
        assert fault.message == (
            f"robustcheck.toml: {key} is {typed}; with --strict only the command line may say that "
            f"({powers.POWERS[key].why})"
        )
        assert fault.hint == f"remove it there, or type --{key} {typed}"
        named = settings.resolve({}, {}).settings
        field = settings.FIELDS[key]
        assert refused(given | {field: getattr(named, field)}, {}) is None
        assert refused({"images": "bundled"}, {}, isolated=True) is None


def test_a_file_may_name_a_device_that_computes_exactly() -> None:
    for device in ("auto", "cpu", "CUDA:1"):
        Path("robustcheck.toml").write_text(f'device = "{device}"\n', encoding="utf-8")
        assert refused({"images": "bundled"}, {}) is None
        assert settings.resolve({}, {}).loosening() == ()


def test_no_file_or_variable_hides_options_behind_a_device() -> None:
    for device in ("cuda,use_tf32=1", "cuda:0,use_tf32=1", "cuda\\n,use_tf32=1"):
        Path("robustcheck.toml").write_text(f'device = "{device}"\n', encoding="utf-8")
        with pytest.raises(UsageError, match=r"^robustcheck\.toml: device is .* must be a device alone"):
            settings.resolve({}, {})
        Path("robustcheck.toml").unlink()
        with pytest.raises(UsageError, match=r"^environment: ROBUSTCHECK_DEVICE is "):
            settings.resolve({}, {"ROBUSTCHECK_DEVICE": device})


def test_a_variable_may_not_say_it_either() -> None:
    for key, (_, typed) in OTHER.items():
        variable = settings.PREFIX + key.upper().replace("-", "_")
        fault = refused({"images": "bundled"} if key != "images" else {}, {variable: typed})
        assert fault is not None
        assert fault.message.startswith(f"{variable}: {key} is {typed}; with --strict only the command line may")


def test_any_file_of_settings_is_looked_at_whoever_names_it() -> None:
    for file in ("pyproject.toml", "other.toml"):
        table = "[tool.robustcheck]\n" if file == "pyproject.toml" else ""
        Path(file).write_text(f'{table}fail-on = "never"\nseed = 3\n', encoding="utf-8")
        for environment, named in (({}, file), ({"ROBUSTCHECK_CONFIG": file}, None)):
            fault = refused({"images": "bundled"}, environment, file=named)
            assert fault is not None
            assert fault.message.startswith(
                f"{file}: seed is 3; {file}: fail-on is never; with --strict only the command"
            )
            assert fault.hint == "remove it there, or type --seed 3 --fail-on never"


def test_no_file_can_be_taken_for_the_command_line() -> None:
    for name in ("command line", "default", "ROBUSTCHECK_X"):
        Path(name).write_text('fail-on = "never"\n', encoding="utf-8")
        assert refused({"images": "bundled"}, {"ROBUSTCHECK_CONFIG": name}) is not None


def test_what_loosens_nothing_may_stand_in_a_file() -> None:
    lines = "".join(f"{key} = {value}\n" for key, value in HARMLESS.items())
    defaults = 'fail-on = "warn"\nseed = 0\nmax-bad = 0.001\nbatch-size = 32\n'
    Path("robustcheck.toml").write_text(lines + defaults, encoding="utf-8")
    assert set(settings.resolve({}, {}).sources) >= set(HARMLESS)
    assert refused({"images": "bundled"}, {}) is None


def test_strict_is_no_setting() -> None:
    Path("robustcheck.toml").write_text("strict = false\n", encoding="utf-8")
    with pytest.raises(UsageError, match="key is strict; it is no setting: it is for the command line"):
        settings.resolve({}, {})
    Path("robustcheck.toml").unlink()
    with pytest.raises(UsageError, match="variable ROBUSTCHECK_STRICT is not known"):
        settings.resolve({}, {"ROBUSTCHECK_STRICT": "0"})


def test_only_the_verb_that_reads_settings_has_it() -> None:
    assert "strict" in inspect.signature(check.check).parameters
    for verb in (compare.compare, scan.scan, shift.shift, concepts.concepts, directions.directions, verify.verify):
        assert not {"strict", "config_file"} & set(inspect.signature(verb).parameters)


def test_no_hint_leaves_the_photos_out() -> None:
    """Neither in words, nor by an example of a check without them."""
    sources = {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / "checker").rglob("*.py"))}
    assert len(sources) > 100
    for path, text in sources.items():
        assert not re.search(r"leave out --images|leave (it|them) out for the bundled", text), path
        for example in re.findall(r'"(robustcheck (?:check )?[^"]*\.onnx[^"]*)"', text):
            verb = example.split()[1]
            if verb == "check" or verb.endswith(".onnx"):
                assert "--images" in example, (path, example)


# -------------------------------------------------------------------------------------------------- waivers


def test_the_command_line_may_name_a_file_of_waivers(
    here: Path,
    warn_model: Path,
    lookup_pass: tuple[Path, Path],
    run: Run,
) -> None:
    Path("waivers.toml").write_text(WAIVERS, encoding="utf-8")
    call = ("check", "--strict", "--images", lookup_pass[1], "-o", "json")
    done = run(*call, "--waivers", "waivers.toml", "--", warn_model, cwd=here)
    assert done.returncode == 0, done.stderr
    gate = json.loads(done.stdout)["gate"]
    assert "every reason for WARN is waived in waivers.toml" in gate["rule"]
    assert gate["loosening"] == [{"setting": "waivers", "value": "2 in all", "source": "waivers.toml"}]
    Path("waivers.toml").rename("robustcheck.toml")
    done = run(*call, "--", warn_model, cwd=here)
    assert done.returncode == 2
    assert "robustcheck.toml: waivers is 2 in all; with --strict only the command line" in done.stderr
    assert "hint: remove it there, or type --waivers FILE" in done.stderr


def test_a_file_of_waivers_holds_waivers_alone_and_replaces_those_of_the_settings_file() -> None:
    Path("robustcheck.toml").write_text(WAIVERS, encoding="utf-8")
    Path("w.toml").write_text(WAIVER.format("rectified"), encoding="utf-8")
    found = settings.resolve({}, {}, waivers_file="w.toml")
    assert [each.reason for each in found.settings.waivers] == ["rectified"]
    assert found.source("waivers") == "w.toml"
    Path("w.toml").write_text('fail-on = "never"\n' + WAIVERS, encoding="utf-8")
    with pytest.raises(UsageError, match=r"w\.toml: key is fail-on; a file of --waivers holds waivers alone"):
        settings.resolve({}, {}, waivers_file="w.toml")
    with pytest.raises(UsageError, match=r"none\.toml: file of settings is missing"):
        settings.resolve({}, {}, waivers_file="none.toml")


def test_no_report_replaces_the_file_of_waivers(here: Path, lookup_pass: tuple[Path, Path], run: Run) -> None:
    Path("w.toml").write_text(WAIVERS, encoding="utf-8")
    done = run(lookup_pass[0], "--waivers", "w.toml", "-o", "json=w.toml", cwd=here)
    assert (done.returncode, Path("w.toml").read_text(encoding="utf-8")) == (2, WAIVERS)


# ---------------------------------------------------------------------------------------------- the command


def test_a_gate_names_its_photos(here: Path, lookup_pass: tuple[Path, Path], run: Run) -> None:
    model, photos = lookup_pass
    done = run("check", "--strict", "-o", "json=r.json", "--", model, cwd=here)
    assert done.returncode == 2
    assert "error: --images is missing; with --strict a gate names its photos" in done.stderr
    assert "hint: --images photos/" in done.stderr
    assert json.loads(Path("r.json").read_text(encoding="utf-8"))["error"]["exit_code"] == 2
    assert run("check", "--strict", "--images", photos, "-qq", "--", model, cwd=here).returncode == 0
    demo.write(here / "planted.onnx", "planted", *demo.train())
    done = run("check", "--strict", "--images", "bundled", "-o", "json", "--", "planted.onnx", cwd=here)
    report = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert (report["evidence"]["images"]["bundled"], report["evidence"]["images"]["source"]) == (True, "bundled photos")
    assert (report["binding"]["settings"]["images"], report["gate"]["loosening"]) == (None, [])


def test_a_name_that_reads_as_help_is_no_pass(here: Path, lookup_pass: tuple[Path, Path], run: Run) -> None:
    for word in ("--help", "-h", "-qh", "--show-settings"):
        photos = lookup_pass[1]
        assert run("check", "--strict", "--images", photos, word, cwd=here).returncode == 2
        done = run("check", "--strict", "--images", photos, "-o", "json=r.json", "--", word, cwd=here)
        assert done.returncode == 2
        assert f"error: {word}: model file is missing" in done.stderr
        assert json.loads(Path("r.json").read_text(encoding="utf-8"))["error"]["exit_code"] == 2


def test_a_name_before_the_dashes_is_refused(here: Path, lookup_pass: tuple[Path, Path], run: Run) -> None:
    """As a shell writes `*.onnx` where the checkout holds a file `--config=.evil.onnx`."""
    model, photos = lookup_pass
    Path(".evil.onnx").write_text('fail-on = "never"\n', encoding="utf-8")
    Path("--config=.evil.onnx").write_text("no model", encoding="utf-8")
    glob = ["--config=.evil.onnx", str(model)]
    first = ("check", "--strict", "--images", photos)
    for done in (run(*first, *glob, cwd=here), run(model, *first[1:], cwd=here)):
        assert done.returncode == 2
        assert f"MODEL.onnx is {str(model)!r}, before --; with --strict models are named after --" in done.stderr
    assert run("check", "--strict", "--images", photos, "--config=.evil.onnx", cwd=here).returncode == 2
    done = run("check", "--strict", "--images", photos, "--", *glob, cwd=here)
    assert done.returncode == 3
    assert "--config=.evil.onnx" in done.stdout


def test_the_report_says_what_the_command_line_loosens(
    here: Path,
    warn_model: Path,
    lookup_pass: tuple[Path, Path],
    run: Run,
) -> None:
    call = ("check", "--strict", "--images", lookup_pass[1], "--max-images", "60", "--fail-on", "never")
    done = run(*call, "-o", "terminal", "-o", "json=r.json", "--", warn_model, cwd=here)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1] == "! can loosen the gate: max-images 60, fail-on never (command line)"
    told = json.loads(Path("r.json").read_text(encoding="utf-8"))["gate"]["loosening"]
    assert [each["setting"] for each in told] == ["max-images", "fail-on"]


def test_without_it_the_report_says_who_loosens(
    here: Path, warn_model: Path, lookup_pass: tuple[Path, Path], run: Run
) -> None:
    (here / "photos").symlink_to(lookup_pass[1])
    Path("robustcheck.toml").write_text('images = "photos"\nfail-on = "never"\ndevice = "cpu"\n', encoding="utf-8")
    done = run(warn_model, "-o", "terminal", "-o", "json=r.json", cwd=here, ROBUSTCHECK_SEED="3", COLUMNS="120")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1] == (
        "! can loosen the gate: images photos, fail-on never (robustcheck.toml); seed 3 (ROBUSTCHECK_SEED)"
    )
    notes = json.loads(Path("r.json").read_text(encoding="utf-8"))["notes"]
    assert [note for note in notes if note.startswith("settings from")] == [
        "settings from robustcheck.toml: device cpu"
    ]

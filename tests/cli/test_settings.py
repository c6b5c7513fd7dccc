"""Settings: which layer counts, what is refused, waivers, and that a loosened gate says so."""

from __future__ import annotations

import inspect
import json
import os
import re
import tomllib
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustcheck_onnx.checker.cli import settings, settings_text
from robustcheck_onnx.checker.cli.verbs import check
from robustcheck_onnx.checker.errors import EnvironmentFaultError, UsageError
from support import ROOT, lookup
from support.bad_input import Done, Typed

WAIVERS = """
[[waivers]]
reason = "no_persistent_outlier_features"
because = "the classes are line drawings"
owner = "vision@example.org"
expires = 2999-12-31
[[waivers]]
reason = "low_kurtosis"
because = "as above"
owner = "vision@example.org"
expires = {expires}
"""


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


def fault_of(text: str, name: str = "robustcheck.toml") -> UsageError:
    Path(name).write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as fault:
        settings.resolve({}, {})
    assert fault.value.exit_code == 2
    return fault.value


# ------------------------------------------------------------------------------------------------- layers


def test_the_command_line_beats_the_environment_beats_the_file_beats_the_default() -> None:
    Path("robustcheck.toml").write_text("seed = 1\nmax-images = 10\nbatch-size = 4\n", encoding="utf-8")
    found = settings.resolve({"seed": 3}, {"ROBUSTCHECK_SEED": "2", "ROBUSTCHECK_MAX_IMAGES": "20"})
    values = (found.settings.seed, found.settings.max_images, found.settings.batch_size, found.settings.max_bad)
    assert values == (3, 20, 4, 0.01)
    assert [found.source(key) for key in ("seed", "max-images", "batch-size", "max-bad")] == [
        "command line", "ROBUSTCHECK_MAX_IMAGES", "robustcheck.toml", "default",
    ]  # fmt: skip
    alone = settings.resolve({"seed": 3}, {"ROBUSTCHECK_NOPE": "2"}, isolated=True)
    assert (alone.settings.seed, alone.settings.max_images, alone.file) == (3, None, None)


def test_the_nearest_file_upward_counts_and_its_paths_from_its_folder(here: Path, monkeypatch: Any) -> None:
    (here / "pyproject.toml").write_text('[tool.robustcheck]\nimages = "far"\n', encoding="utf-8")
    below = here / "a" / "b"
    below.mkdir(parents=True)
    (here / "a" / "pyproject.toml").write_text("[tool.ruff]\n", encoding="utf-8")
    monkeypatch.chdir(below)
    assert settings.resolve({}, {}).settings.images == "../../far"
    (here / "a" / "pyproject.toml").write_text('[tool.robustcheck]\nimages = "near"\n', encoding="utf-8")
    assert settings.resolve({}, {}).settings.images == "../near"
    (here / "a" / "robustcheck.toml").write_text(
        'images = "/abs"\nthresholds = "default"\npreprocess = "p.json"\n'
        'output = ["json=r.json", "gitlab", "terminal=-", "html=s3://b/r.html"]\n',
        encoding="utf-8",
    )
    found = settings.resolve({}, {})
    assert found.file == "../robustcheck.toml"
    assert found.settings.images == "/abs"
    assert found.settings.thresholds == "default"
    assert found.settings.preprocess == "../p.json"
    assert found.settings.output == ("json=../r.json", "gitlab", "terminal=-", "html=s3://b/r.html")


def test_a_named_file_counts_alone(here: Path) -> None:
    Path("robustcheck.toml").write_text("seed = 1\n", encoding="utf-8")
    Path("other.toml").write_text("max-images = 7\n", encoding="utf-8")
    for found in (
        settings.resolve({}, {}, file="other.toml"),
        settings.resolve({}, {"ROBUSTCHECK_CONFIG": "other.toml"}),
    ):
        assert (found.settings.seed, found.settings.max_images, found.file) == (0, 7, "other.toml")
    with pytest.raises(UsageError, match="--isolated reads no file"):
        settings.resolve({}, {}, file="other.toml", isolated=True)
    Path("pyproject.toml").write_text("[tool.ruff]\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"\[tool.robustcheck\] is missing"):
        settings.resolve({}, {}, file="pyproject.toml")
    with pytest.raises(UsageError, match=r"nope.toml: file of settings is missing"):
        settings.resolve({}, {}, file="nope.toml")


def test_every_option_of_a_check_is_a_setting_with_the_same_default() -> None:
    options = inspect.signature(check.check).parameters
    not_set = {"ctx", "models", "config_file", "isolated", "show_settings", "debug", "offline"}
    not_set |= {"strict", "waivers_file", "save_representations", "export", "log", "alias"}
    fields = set(settings.Settings.model_fields) - {"waivers"}
    assert set(options) - not_set == fields
    for name in fields:
        default = settings.Settings.model_fields[name].default
        assert options[name].default == (None if default == () else default), name


# ------------------------------------------------------------------------------------------------- faults


FAULTS = [
        ("max-image = 3", "robustcheck.toml: key is max-image; the closest is max-images"),
        ('max-images = "3"', "robustcheck.toml: max-images is '3'; it must be a whole number"),
        ("quiet = 3", "robustcheck.toml: quiet is 3; it must be less than or equal to 2"),
        ("verbose = true", "robustcheck.toml: verbose is True; it must be a whole number"),
        ("max-bad = 2", "robustcheck.toml: max-bad is 2; it must be less than or equal to 1"),
        ("max-bad = nan", "robustcheck.toml: max-bad is nan; it must be a finite number"),
        ('fail-on = "error"', "robustcheck.toml: fail-on is 'error'; it must be 'warn' or 'never'"),
        ('output = "json"', "robustcheck.toml: output is 'json'; it must be a list"),
        ("[waivers]\nreason = 'rectified'", "waivers is one table; each waiver starts with [[waivers]]"),
        ("waivers = {}", "robustcheck.toml: waivers is one table; each waiver starts with [[waivers]]"),
        ("[[waivers]]", "waiver 1: reason is missing; a waiver needs reason, because, owner, expires"),
        (WAIVERS.format(expires='"2999-01-01"'), "waiver 2: expires is '2999-01-01'; it must be a date without quotes"),
        (WAIVERS.replace("low_", "lo_").format(expires="2999-01-01"), "reason is 'lo_kurtosis'; the closest is low_k"),
        (WAIVERS.replace("because", "why").format(expires="2999-01-01"), "waiver 1: because is missing"),
        (WAIVERS.replace("as above", "  ").format(expires="2999-01-01"), "waiver 2: because is blank"),
        (WAIVERS.format(expires="2999-01-01") + "model = 'x'", "waiver 2: key is model; the closest is models"),
        (WAIVERS.format(expires="2999-01-01") + "models = []", "waiver 2: models is []; it must name models"),
        ("seed = 1\npool == 2", "file is no TOML (Invalid value (at line 2, column 7))"),
        ("a = " + "[" * 5000, "robustcheck.toml: file is nested too deeply"),
        (WAIVERS.format(expires="2999-01-01").replace("expires = 2999-12-31\n", ""), "waiver 1: expires is missing"),
]  # fmt: skip


def test_what_is_wrong_in_a_file() -> None:
    for text, message in FAULTS:
        assert message in fault_of(text).message


def test_a_file_that_is_no_text_no_file_or_not_readable(here: Path) -> None:
    Path("robustcheck.toml").write_bytes(b"seed = 1\n# \xff\n")
    with pytest.raises(UsageError, match="line 2 is not UTF-8"):
        settings.resolve({}, {})
    Path("robustcheck.toml").unlink()
    Path("robustcheck.toml").mkdir()
    with pytest.raises(UsageError, match="no regular file"):
        settings.resolve({}, {})
    Path("robustcheck.toml").rmdir()
    Path("robustcheck.toml").symlink_to("absent")
    with pytest.raises(UsageError, match="is missing"):
        settings.resolve({}, {})
    Path("robustcheck.toml").unlink()
    Path("pyproject.toml").write_text("[tool.robustcheck]\nseeed = 1\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"^pyproject.toml: key is seeed; the closest is seed"):
        settings.resolve({}, {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_the_right_to_read_is_no_absent_file() -> None:
    Path("robustcheck.toml").write_text("seed = 1\n", encoding="utf-8")
    Path("robustcheck.toml").chmod(0)
    with pytest.raises(EnvironmentFaultError, match="not readable"):
        settings.resolve({}, {})


def test_what_is_wrong_in_the_environment() -> None:
    rows: list[tuple[dict[str, str], str]] = [
        ({"ROBUSTCHECK_MAX_IMAGE": "3"}, "variable ROBUSTCHECK_MAX_IMAGE is not known; the closest is ROBUSTCHECK_MAX"),
        ({"ROBUSTCHECK_WAIVERS": "x"}, "variable ROBUSTCHECK_WAIVERS is not known"),
        ({"ROBUSTCHECK_SEED": "x"}, "environment: ROBUSTCHECK_SEED is 'x'; it must be a whole number"),
        ({"ROBUSTCHECK_NO_TIME": "perhaps"}, "environment: ROBUSTCHECK_NO_TIME is 'perhaps'; it must be 1 or 0"),
        ({"ROBUSTCHECK_FAIL_ON": "nope"}, "environment: ROBUSTCHECK_FAIL_ON is 'nope'; it must be 'warn' or 'never'"),
    ]
    for variables, message in rows:
        with pytest.raises(UsageError) as fault:
            settings.resolve({}, variables)
        assert message in fault.value.message


def test_variables_as_they_are_written() -> None:
    found = settings.resolve(
        {},
        {
            "ROBUSTCHECK_OUTPUT": "json=a.json, terminal", "ROBUSTCHECK_QUIET": "1", "ROBUSTCHECK_TENSOR": "",
            "_ROBUSTCHECK_COMPLETE": "bash",
        },
    ).settings  # fmt: skip
    assert (found.output, found.quiet, found.tensor) == (("json=a.json", "terminal"), 1, None)


# --------------------------------------------------------------------------------------------------- init


def uncommented() -> str:
    return re.sub(r"^#(?! )", "", settings_text.template(), flags=re.MULTILINE)


def test_the_template_sets_nothing_and_every_line_of_it_is_valid() -> None:
    assert tomllib.loads(settings_text.template()) == {}
    document = tomllib.loads(uncommented())
    assert set(document) == set(settings.FIELDS)
    Path("robustcheck.toml").write_text(uncommented(), encoding="utf-8")
    found = settings.resolve({}, {})
    assert set(found.sources.values()) == {"robustcheck.toml"}
    for key, name in settings.FIELDS.items():
        default = settings.Settings.model_fields[name].default
        if default not in (None, ()):
            assert document[key] == default, key


def test_init_writes_it_and_replaces_nothing(here: Path, run: Run) -> None:
    assert run("init", cwd=here).returncode == 0
    assert Path("robustcheck.toml").read_text(encoding="utf-8") == settings_text.template()
    Path("robustcheck.toml").write_text("seed = 1\n", encoding="utf-8")
    done = run("init", cwd=here)
    assert (done.returncode, done.stdout) == (2, "")
    assert "robustcheck init robustcheck.toml --force" in done.stderr
    assert Path("robustcheck.toml").read_text(encoding="utf-8") == "seed = 1\n"
    assert run("init", "--force", cwd=here).returncode == 0
    assert run("init", "pyproject.toml", cwd=here).returncode == 2
    assert not Path("pyproject.toml").exists()


# ------------------------------------------------------------------------------------------ the command


def test_a_table_of_one_waiver_is_told_as_it_is_written_in_each_file(here: Path, run: Run) -> None:
    Path("pyproject.toml").write_text("[tool.robustcheck.waivers]\nreason = 'rectified'\n", encoding="utf-8")
    done = run("check", "--show-settings", cwd=here)
    assert (done.returncode, done.stderr.splitlines()) == (
        2,
        [
            "error: pyproject.toml: waivers is one table; each waiver starts with [[tool.robustcheck.waivers]]",
            "hint: [[tool.robustcheck.waivers]]",
        ],
    )


def test_show_settings_names_sources_and_checks_nothing(here: Path, run: Run) -> None:
    Path("robustcheck.toml").write_text("seed = 1\n", encoding="utf-8")
    done = run("check", "--show-settings", "-o", "json", "--max-images", "5", cwd=here, ROBUSTCHECK_SEED="2")
    document = json.loads(done.stdout)
    assert document["file"] == "robustcheck.toml"
    assert document["settings"]["seed"] == {"value": 2, "source": "ROBUSTCHECK_SEED"}
    assert document["settings"]["max-images"] == {"value": 5, "source": "command line"}
    assert document["settings"]["max-bad"] == {"value": 0.01, "source": "default"}
    assert set(document["settings"]) == set(settings.FIELDS)
    # exit code 0 beside a model would read as PASS
    refused = run("check", "model.onnx", "--show-settings", cwd=here)
    assert (refused.returncode, refused.stdout) == (2, "")


def test_show_settings_says_what_happens_where_nothing_is_set(here: Path, run: Run) -> None:
    Path("robustcheck.toml").write_text('pool = "none"\nimages = "photos"\n', encoding="utf-8")
    done = run("check", "--show-settings", cwd=here, COLUMNS="80")
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    rows = {line.split()[0]: re.split(r"\s{2,}", line.strip())[1:] for line in done.stdout.splitlines()[1:-1]}
    assert set(rows) == set(settings.FIELDS)  # a row is a line
    assert rows["images"] == ["photos", "robustcheck.toml"]
    assert rows["pool"] == ["none", "robustcheck.toml"]
    assert {key: row[0] for key, row in rows.items() if row[0].startswith("not set") and row[1] == "default"} == {
        "max-images": "not set: all",
        "preprocess": "not set: what the model or a sidecar says",
        "tensor": "not set: the one found by rule",
        "thresholds": "not set: the packaged one",
        "timeout": "not set: 7200",
        "max-memory": "not set: no limit",
        "max-model-size": "not set: no limit",
        "output": "not set: the terminal report",
    }
    assert all(rows[key] == ["none", "default"] for key in ("log-file", "waivers"))


def test_show_settings_writes_values_as_words_not_as_python(here: Path, run: Run) -> None:
    waiver = '[[waivers]]\nreason = "{}"\nbecause = "b"\nowner = "o@example.org"\nexpires = 2999-01-01\n'
    two = waiver.format("rectified") + 'models = ["a.onnx", "b/*.onnx"]\n' + waiver.format("low_kurtosis")
    head = 'no-ci = true\nquiet = 2\noutput = ["terminal", "json=r.json"]\n'
    Path("robustcheck.toml").write_text(head + two, encoding="utf-8")
    done = run("check", "--show-settings", cwd=here, COLUMNS="200")
    rows = {line.split()[0]: re.split(r"\s{2,}", line.strip())[1:] for line in done.stdout.splitlines()[1:-1]}
    assert rows["no-ci"] == ["true", "robustcheck.toml"]
    assert rows["quiet"] == ["2", "robustcheck.toml"]
    assert rows["no-time"] == ["false", "default"]
    assert rows["output"] == ["terminal; json=r.json", "robustcheck.toml"]
    assert rows["waivers"] == [
        "rectified for a.onnx, b/*.onnx, until 2999-01-01 by o@example.org; "
        "low_kurtosis, until 2999-01-01 by o@example.org",
        "robustcheck.toml",
    ]


def test_waivers_open_the_gate_until_they_expire(
    here: Path, warn_model: Path, lookup_pass: tuple[Path, Path], run: Run
) -> None:
    images = ("--images", lookup_pass[1])
    Path("robustcheck.toml").write_text(WAIVERS.format(expires="2999-01-01"), encoding="utf-8")
    done = run(warn_model, *images, "-o", "json=r.json", cwd=here)
    assert done.returncode == 0, done.stderr
    assert "▲ WARN · absent (waived) · exit code 0" in done.stdout
    assert "! low_kurtosis: waived by vision@example.org until 2999-01-01: as above" in done.stdout
    report = json.loads(Path("r.json").read_text(encoding="utf-8"))
    assert report["verdict"]["verdict"] == "WARN"
    assert report["gate"]["exit_code"] == 0
    assert "waived in robustcheck.toml" in report["gate"]["rule"]
    assert report["gate"]["loosening"] == [{"setting": "waivers", "value": "2 in all", "source": "robustcheck.toml"}]
    Path("robustcheck.toml").write_text(WAIVERS.format(expires="2020-01-01"), encoding="utf-8")
    done = run(warn_model, *images, cwd=here)
    assert done.returncode == 1
    assert "▲ WARN · absent · exit code 1" in done.stdout
    assert "! low_kurtosis: a waiver by vision@example.org expired on 2020-01-01" in done.stdout
    others = WAIVERS.format(expires="2999-01-01") + 'models = ["other/*"]\n'
    Path("robustcheck.toml").write_text(others, encoding="utf-8")
    assert run(warn_model, *images, "-qq", cwd=here).returncode == 1
    assert run(warn_model, *images, "-qq", "--isolated", cwd=here).returncode == 1


def test_fail_on_never_is_told_with_its_source_and_forgives_no_error(
    here: Path,
    warn_model: Path,
    lookup_pass: tuple[Path, Path],
    run: Run,
) -> None:
    images = ("--images", lookup_pass[1], "-o", "json")
    done = run(warn_model, *images, cwd=here, ROBUSTCHECK_FAIL_ON="never")
    report = json.loads(done.stdout)
    assert (done.returncode, report["verdict"]["verdict"]) == (0, "WARN")
    assert "ROBUSTCHECK_FAIL_ON" in report["gate"]["rule"]
    told = {"setting": "fail-on", "value": "never"}
    assert report["gate"]["loosening"] == [told | {"source": "ROBUSTCHECK_FAIL_ON"}]
    assert run(warn_model, *images, "--fail-on", "warn", cwd=here, ROBUSTCHECK_FAIL_ON="never").returncode == 1
    done = run(warn_model, *images, "--fail-on", "never", cwd=here)
    typed = json.loads(done.stdout)
    assert (done.returncode, typed["notes"]) == (0, report["notes"])
    assert typed["gate"]["loosening"] == [told | {"source": "command line"}]
    assert run("absent.onnx", "--fail-on", "never", cwd=here).returncode == 2
    Path("text.onnx").write_text("no model", encoding="utf-8")
    assert run("text.onnx", "--fail-on", "never", cwd=here).returncode == 3


def test_the_log_says_what_was_done_and_only_where_it_is_asked_for(
    here: Path, lookup_pass: tuple[Path, Path], run: Run
) -> None:
    model, photos = lookup_pass
    call = (model, "--images", photos, "-qq")
    done = run(*call, "--log-file", "a.log", cwd=here)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    text = Path("a.log").read_text(encoding="utf-8")
    for step in ("opening model", "tensor representation", "preprocessing from contract", "session on", "PASS"):
        assert step in text
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (INFO|DEBUG) ", line) for line in text.splitlines())
    loud = run(*call, "-vv", cwd=here)
    assert (loud.returncode, loud.stdout) == (0, "")
    assert "look at 50 images" in loud.stderr
    assert run(*call, "--log-file", model, cwd=here).returncode == 2  # a log never writes into the model
    assert run(*call, "--log-file", "no/a.log", cwd=here).returncode == 2


def test_the_table_of_the_docs_is_the_model() -> None:
    page = (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    table, _ = page.split("## Keys of a waiver")
    rows = re.findall(r"^\| `([a-z-]+)` \| .*? \| `?([^|]*?)`? \| (?:–|`(.*?)`) \| (.*) \|$", table, re.MULTILINE)
    assert [key for key, *_ in rows] == list(settings.FIELDS)
    for key, default, variable, about in rows:
        assert variable == ("" if key == "waivers" else f"ROBUSTCHECK_{key.upper().replace('-', '_')}")
        info = settings.Settings.model_fields[settings.FIELDS[key]]
        want = "–" if info.default in (None, ()) else settings_text.toml(info.default)
        assert (default, about) == (want, info.description), key


def test_the_last_day_of_a_waiver_is_a_date() -> None:
    Path("robustcheck.toml").write_text(WAIVERS.format(expires="2999-01-01"), encoding="utf-8")
    assert [w.expires for w in settings.resolve({}, {}).settings.waivers] == [date(2999, 12, 31), date(2999, 1, 1)]


def test_settings_whose_output_is_no_list_end_as_ever(tmp_path: Path, run: Run) -> None:
    for content in ("output = 5", "output = [5]", "output =", "[output]"):
        (tmp_path / "robustcheck.toml").write_text(content, encoding="utf-8")
        done = run("m.onnx", "--bogus", cwd=tmp_path)
        assert (done.returncode, done.stderr.splitlines()[0][:29]) == (2, "error: option --bogus is not ")


def test_a_note_names_the_file_for_its_own_values_and_the_environment_for_what_replaces_them(tmp_path: Path) -> None:
    file = tmp_path / "robustcheck.toml"
    file.write_text('device = "cuda"\nmax-bad = 0.005\nseed = 0\nbatch-size = 8\n')
    found = settings.resolve({"batch_size": 4}, {"ROBUSTCHECK_DEVICE": "cpu"}, file=str(file))
    assert (found.settings.device, found.source("device")) == ("cpu", "ROBUSTCHECK_DEVICE")
    notes = {f"settings from {file}: max-bad 0.005, seed 0", "settings from the environment: device cpu"}
    assert set(found.notes()) == notes

"""Settings: which layer counts, what is refused, waivers, and that a loosened gate says so."""

import json
import os
import re
import tomllib
from pathlib import Path

import pytest

from robustcheck_onnx.checker.cli import options
from robustcheck_onnx.checker.cli.options import FIELDS
from robustcheck_onnx.checker.cli.settings import resolve, template
from robustcheck_onnx.checker.errors import EnvironmentFaultError, UsageError
from robustcheck_onnx.checker.verdict.reasons import RENAMED
from support import Patch, raised
from support.bad_input import Run

WAIVERS = """
[[waivers]]
reason = "not_persistent"
because = "the classes are line drawings"
owner = "vision@example.org"
expires = 2999-12-31
[[waivers]]
reason = "too_weak"
because = "as above"
owner = "vision@example.org"
expires = {expires}
"""
VALID = WAIVERS.format(expires="2999-01-01")
WARN = "warn.onnx --images photos"


def say(text: str, name: str = "robustcheck.toml") -> None:
    Path(name).write_text(text)


# ------------------------------------------------------------------------------------------------- layers


def test_the_command_line_beats_the_environment_beats_the_file_beats_the_default() -> None:
    say("seed = 1\nmax-images = 10\nbatch-size = 4\n")
    found = resolve({"seed": 3}, {"ROBUSTCHECK_SEED": "2", "ROBUSTCHECK_MAX_IMAGES": "20"})
    for key, value, source in (
        ("seed", 3, "command line"),
        ("max-images", 20, "ROBUSTCHECK_MAX_IMAGES"),
        ("batch-size", 4, "robustcheck.toml"),
        ("max-bad", 0.01, "default"),
    ):
        assert (getattr(found.settings, FIELDS[key]), found.source(key)) == (value, source)
    alone = resolve({"seed": 3}, {"ROBUSTCHECK_NOPE": "2"}, isolated=True)
    assert (alone.settings.seed, alone.settings.max_images, alone.file) == (3, None, None)


def test_the_nearest_file_upward_counts_and_its_paths_from_its_folder(monkeypatch: Patch) -> None:
    Path("a/b").mkdir(parents=True)
    monkeypatch.chdir("a/b")
    say("[tool.ruff]\n", "../pyproject.toml")
    for place, name in (("../../", "far"), ("../", "near")):
        say(f'[tool.robustcheck]\nimages = "{name}"\n', f"{place}pyproject.toml")
        assert resolve({}, {}).settings.images == place + name
    output = '["json=r.json", "gitlab", "terminal=-", "html=s3://b/r.html"]'
    lines = f'images = "/abs"\nthresholds = "default"\npreprocess = "p.json"\noutput = {output}'
    say(lines, "../robustcheck.toml")
    found = resolve({}, {})
    assert found.file == "../robustcheck.toml"
    assert {name: getattr(found.settings, name) for name in ("images", "thresholds", "preprocess", "output")} == {
        "images": "/abs",
        "thresholds": "default",
        "preprocess": "../p.json",
        "output": ("json=../r.json", "gitlab", "terminal=-", "html=s3://b/r.html"),
    }


def test_a_named_file_counts_alone() -> None:
    say("seed = 1\n")
    say("max-images = 7\n", "other.toml")
    say("[tool.ruff]\n", "pyproject.toml")
    for file, variables in (("other.toml", {}), (None, {"ROBUSTCHECK_CONFIG": "other.toml"})):
        found = resolve({}, variables, file=file)
        assert (found.settings.seed, found.settings.max_images, found.file) == (0, 7, "other.toml")
    for name, isolated, said in (
        ("other.toml", True, "--isolated reads no file"),
        ("pyproject.toml", False, r"\[tool.robustcheck\] is missing"),
        ("nope.toml", False, r"nope.toml: settings file is missing"),
    ):
        raised(UsageError, said, resolve, {}, {}, file=name, isolated=isolated)


def test_every_option_of_a_check_is_a_setting_or_is_only_typed() -> None:
    only_typed = {"config", "isolated", "show_settings", "debug", "offline", "strict", "save_representations"}
    assert set(options.ROWS) - set(FIELDS.values()) == only_typed


# ------------------------------------------------------------------------------------------------- faults


FILES = {
    "max-image = 3": "robustcheck.toml: key is max-image; the closest is max-images",
    'max-images = "3"': "robustcheck.toml: max-images is '3'; it must be a whole number",
    "verbose = true": "robustcheck.toml: verbose is True; it must be a whole number",
    "max-bad = 2": "robustcheck.toml: max-bad is 2; it must be less than or equal to 1",
    "max-bad = nan": "robustcheck.toml: max-bad is nan; it must be a finite number",
    'fail-on = "error"': "robustcheck.toml: fail-on is 'error'; it must be 'warn' or 'never'",
    'output = "json"': "robustcheck.toml: output is 'json'; it must be a list",
    "waivers = {}": "robustcheck.toml: waivers is one table; each waiver starts with [[waivers]]",
    "[[waivers]]": "waiver 1: reason is missing; a waiver needs reason, because, owner, expires",
    WAIVERS.format(expires='"2999-01-01"'): "waiver 2: expires is '2999-01-01'; it must be a date without quotes",
    VALID.replace("too_weak", "too_week"): "reason is 'too_week'; the closest is too_weak",
    VALID.replace("as above", "  "): "waiver 2: because is blank",
    VALID.replace('because = "as above"', ""): "waiver 2: because is missing",
    VALID.replace('owner = "vision@example.org"', "", 1): "waiver 1: owner is missing",
    f"{VALID}model = 'x'": "waiver 2: key is model; the closest is models",
    f"{VALID}models = []": "waiver 2: models is []; it must name models",
    VALID.replace("expires = 2999-12-31\n", ""): "waiver 1: expires is missing",
    "seed = 1\npool == 2": "file is not TOML (Invalid value (at line 2, column 7))",
    "a = " + "[" * 5000: "robustcheck.toml: file is nested too deeply",
    "seed = 1\n# \udcff\n": "line 2 is not UTF-8",
}
VARIABLES = {
    "MAX_IMAGE=3": "variable ROBUSTCHECK_MAX_IMAGE is not known; the closest is ROBUSTCHECK_MAX",
    "WAIVERS=x": "variable ROBUSTCHECK_WAIVERS is not known",
    "SEED=x": "environment: ROBUSTCHECK_SEED is 'x'; it must be a whole number",
    "NO_TIME=perhaps": "environment: ROBUSTCHECK_NO_TIME is 'perhaps'; it must be 1 or 0",
    "FAIL_ON=nope": "environment: ROBUSTCHECK_FAIL_ON is 'nope'; it must be 'warn' or 'never'",
}


def refused(said: str, **variables: str) -> None:
    assert raised(UsageError, said, resolve, {}, variables).exit_code == 2


def test_what_is_wrong_in_a_file_or_in_the_environment() -> None:
    for text, message in FILES.items():
        Path("robustcheck.toml").write_bytes(os.fsencode(text))
        refused(re.escape(message))
    Path("robustcheck.toml").unlink()
    for variable, message in VARIABLES.items():
        name, _, value = variable.partition("=")
        refused(message, **{f"ROBUSTCHECK_{name}": value})


def test_what_is_no_file() -> None:
    file = Path("robustcheck.toml")
    file.mkdir()
    refused("not a regular file")
    file.rmdir()
    file.symlink_to("absent")
    refused("is missing")
    file.unlink()
    say("[tool.robustcheck]\nseeed = 1\n", "pyproject.toml")
    refused("^pyproject.toml: key is seeed; the closest is seed")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_the_right_to_read_is_no_absent_file() -> None:
    Path("robustcheck.toml").touch(0)
    raised(EnvironmentFaultError, "not readable", resolve, {}, {})


def test_variables_as_they_are_written() -> None:
    words = {"OUTPUT": "json=a.json, terminal", "QUIET": "1", "TENSOR": ""}
    variables = {f"ROBUSTCHECK_{name}": value for name, value in words.items()} | {"_ROBUSTCHECK_COMPLETE": "bash"}
    found = resolve({}, variables).settings
    assert (found.output, found.quiet, found.tensor) == (("json=a.json", "terminal"), 1, None)


# --------------------------------------------------------------------------------------------------- init


def test_the_template_sets_nothing_and_every_line_of_it_is_valid() -> None:
    assert tomllib.loads(template()) == {}
    text = re.sub(r"^#(?! )", "", template(), flags=re.MULTILINE)
    document = tomllib.loads(text)
    assert set(document) == set(FIELDS)
    say(text)
    assert {source.name for source in resolve({}, {}).sources.values()} == {"robustcheck.toml"}
    defaults = {key: options.ROWS[name].default for key, name in FIELDS.items()}
    assert document.items() >= {key: value for key, value in defaults.items() if value not in (None, ())}.items()


def test_init_writes_it_and_replaces_nothing(ends: Run) -> None:
    file = Path("robustcheck.toml")
    ends(0, "init")
    assert file.read_text() == template()
    say("seed = 1\n")
    done = ends(2, "init", "robustcheck init robustcheck.toml --force")
    assert (done.stdout, file.read_text()) == ("", "seed = 1\n")
    ends(0, "init --force")


# ------------------------------------------------------------------------------------------ the command


def test_a_table_of_one_waiver_is_told_as_it_is_written_in_each_file(ends: Run) -> None:
    say("[tool.robustcheck.waivers]\nreason = 'one_sided'\n", "pyproject.toml")
    said = "pyproject.toml: waivers is one table; each waiver starts with [[tool.robustcheck.waivers]]"
    ends(2, "check --show-settings", f"error: {said}\nhint: [[tool.robustcheck.waivers]]\n")
    for content in ("output = 5", "output = [5]", "output =", "[output]"):
        say(content)
        ends(2, "m.onnx --bogus", "error: unknown option --bogus")


def test_show_settings_names_sources_and_checks_nothing(ends: Run) -> None:
    say("seed = 1\n")
    document = json.loads(ends(0, "check --show-settings -o json --max-images 5", ROBUSTCHECK_SEED="2").stdout)
    assert document["file"] == "robustcheck.toml"
    assert document["settings"].keys() == FIELDS.keys()
    assert {key: tuple(document["settings"][key].values()) for key in ("seed", "max-images", "max-bad")} == {
        "seed": (2, "ROBUSTCHECK_SEED"),
        "max-images": (5, "command line"),
        "max-bad": (0.01, "default"),
    }
    assert ends(2, "check model.onnx --show-settings").stdout == ""  # exit code 0 beside a model would read as PASS


def test_show_settings_in_words_not_as_python(run: Run) -> None:
    models = 'models = ["a.onnx", "b/*.onnx"]\n'
    say(f'pool = "none"\noutput = ["terminal", "json=r.json"]\nno-ci = true\nquiet = 2\n{VALID}{models}')
    wide = run("check --show-settings", COLUMNS="200").stdout
    rows = {key: re.sub("  +", " | ", rest) for key, rest in re.findall(r"^(\S+)\s{2,}(.*\S)$", wide, re.MULTILINE)}
    assert set(rows) >= set(FIELDS)  # a row is a line
    waived = (
        "not_persistent, until 2999-12-31 by vision@example.org; "
        "too_weak for a.onnx, b/*.onnx, until 2999-01-01 by vision@example.org"
    )
    of_file = {"pool": "none", "output": "terminal; json=r.json", "no-ci": "true", "quiet": "2", "waivers": waived}
    of_nobody = {
        "max-images": "all", "preprocess": "that of the model or a sidecar", "tensor": "the one that the rule chooses",
        "thresholds": "the packaged one", "timeout": "7200", "max-memory": "no limit", "max-model-size": "no limit",
        "images": "the bundled photos",
    }  # fmt: skip
    unset = {key: row.partition("not set: ")[2] for key, row in rows.items() if row.startswith("not set")}
    assert {key: row for key, row in rows.items() if row.endswith("robustcheck.toml")} == {
        key: f"{value} | robustcheck.toml" for key, value in of_file.items()
    }
    assert unset == {key: f"{value} | default" for key, value in of_nobody.items()}
    assert (rows["log-file"], rows["no-time"]) == ("none | default", "false | default")


def test_waivers_open_the_gate_until_they_expire(ends: Run) -> None:
    def warns(code: int, *said: str) -> None:
        shown = ends(code, WARN).stdout
        assert [each for each in said if each not in shown] == []

    say(VALID)
    waived = "! too_weak: waived by vision@example.org until 2999-01-01: as above"
    warns(0, "▲ WARN · absent (waived) · exit code 0", waived)
    say(WAIVERS.format(expires="2020-01-01"))
    expired = "! too_weak: a waiver by vision@example.org expired on 2020-01-01"
    warns(1, "▲ WARN · absent · exit code 1", expired)
    say(f'{VALID}models = ["other/*"]\n')
    warns(1)
    ends(1, f"{WARN} -qq --isolated")


def test_a_waiver_of_an_earlier_reason_names_the_new_one_and_holds_by_its_own_profile(ends: Run) -> None:
    for old, new in RENAMED.items():
        say(VALID.replace("too_weak", old))
        said = f"robustcheck.toml: waiver of {old}: profile default-3 has no such reason; it is now {new}"
        done = ends(2, f"{WARN} -qq")
        assert done.stderr == f"error: {said}\nhint: robustcheck explain {new.split()[0]}\n"
    say(VALID.replace("too_weak", "low_kurtosis").replace("not_persistent", "no_persistent_outlier_features"))
    assert "(waived)" in ends(0, f"{WARN} --thresholds default-2").stdout


def test_the_log_says_what_was_done_and_only_where_it_is_asked_for(run: Run, ends: Run) -> None:
    call = "pass.onnx --images photos -qq"
    done = ends(0, f"{call} --log-file a.log")
    assert (done.stdout, done.stderr) == ("", "")
    text = Path("a.log").read_text()
    steps = ("opening model", "tensor representation", "preprocessing from contract", "session on", "PASS")
    assert [step for step in steps if step not in text] == []
    assert re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (INFO|DEBUG) .*\n)+", text)
    assert "look at 50 images" in run(f"{call} -vv").stderr
    for place in ("pass.onnx", "no/a.log"):  # a log never writes into the model
        ends(2, f"{call} --log-file {place}")


def test_a_note_names_the_file_for_its_own_values_and_the_environment_for_what_replaces_them() -> None:
    say('device = "cuda"\nmax-bad = 0.005\nseed = 0\nbatch-size = 8\n')
    found = resolve({"batch_size": 4}, {"ROBUSTCHECK_DEVICE": "cpu"})
    assert (found.settings.device, found.source("device")) == ("cpu", "ROBUSTCHECK_DEVICE")
    notes = {"settings from robustcheck.toml: max-bad 0.005, seed 0", "settings from the environment: device cpu"}
    assert set(found.notes()) == notes

"""Settings: which layer counts, what is refused, waivers, and that a loosened gate says so.

With --strict nothing loosens the gate, and a settings file writes in its folder alone.
"""

import inspect
import json
import os
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

from robustcheck_onnx.checker.cli import command_line, destinations, options, settings
from robustcheck_onnx.checker.cli.command_line import CommandLine
from robustcheck_onnx.checker.cli.options import FIELDS
from robustcheck_onnx.checker.cli.settings import resolve, template
from robustcheck_onnx.checker.cli.verbs import evidence, gates, questions
from robustcheck_onnx.checker.errors import EnvironmentFaultError, UsageError
from robustcheck_onnx.checker.questions import demo
from support import ROOT, Fields, Patch, code_in, raised, read_json
from support.bad_input import Run
from support.keys import write_keys

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
        ("seed", 3, "command line"), ("max-images", 20, "ROBUSTCHECK_MAX_IMAGES"),
        ("batch-size", 4, "robustcheck.toml"), ("max-bad", 0.01, "default"),
    ):  # fmt: skip
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
        "images": "/abs", "thresholds": "default", "preprocess": "../p.json",
        "output": ("json=../r.json", "gitlab", "terminal=-", "html=s3://b/r.html"),
    }  # fmt: skip


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
    only_typed |= {"arithmetic"}
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
        ends(2, "m.onnx --bogus", "error: No such option: --bogus")


def test_show_settings_names_sources_and_checks_nothing(ends: Run) -> None:
    say("seed = 1\n")
    document = json.loads(ends(0, "check --show-settings -o json --max-images 5", ROBUSTCHECK_SEED="2").stdout)
    assert document["file"] == "robustcheck.toml"
    assert document["settings"].keys() == FIELDS.keys()
    assert {key: tuple(document["settings"][key].values()) for key in ("seed", "max-images", "max-bad")} == {
        "seed": (2, "ROBUSTCHECK_SEED"), "max-images": (5, "command line"), "max-bad": (0.01, "default"),
    }  # fmt: skip
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
    written = {key: f"{value} | robustcheck.toml" for key, value in of_file.items()}
    assert {key: row for key, row in rows.items() if row.endswith("robustcheck.toml")} == written
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
    warns(1, "▲ WARN · absent · STOPPED · exit code 1", expired)
    say(f'{VALID}models = ["other/*"]\n')
    warns(1)
    say(f'{VALID}models = ["release/**"]\n')
    Path("release").mkdir()
    Path("release/linked").symlink_to("..")
    shutil.copy("warn.onnx", "release/own.onnx")
    for model, code in (("own.onnx", 0), ("linked/warn.onnx", 1), ("linked/release/own.onnx", 0)):
        ends(code, f"{WARN} -qq".replace("warn.onnx", f"release/{model}"))
    ends(1, f"{WARN} -qq --isolated")


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


WAIVER = '[[waivers]]\nreason = "{}"\nbecause = "known"\nowner = "o@example.org"\nexpires = 2999-01-01\n'
TWO_WAIVERS = WAIVER.format("not_persistent") + WAIVER.format("too_weak")
STRICT = "check --strict --images photos"
# a value of each setting that is not the default, as a file writes it
OTHER = {
    "images": '"photos"', "max-images": "40", "max-bad": "0.5", "seed": "3", "preprocess": '"clip"', "tensor": '"t"',
    "pool": '"mean"', "device": '"coreml"', "provider-option": '["use_tf32=1"]', "batch-size": "1",
    "thresholds": '"default-4"', "fail-on": '"never"', "accept": '"not_applicable"', "sign": '"key.pem"',
}  # fmt: skip
HARMLESS = {
    "output": '["json=r.json"]', "quiet": "1", "verbose": "1", "no-thumbnails": "true", "no-time": "true",
    "color": '"never"', "log-file": '"a.log"', "no-ci": "true", "timeout": "600", "max-memory": '"8GiB"',
    "max-model-size": '"2GiB"',
}  # fmt: skip


def strictly_refused(environment: dict[str, str] | None = None, given: Fields | None = None, **where: Any) -> str:
    """The message and the hint with which the settings are refused, or nothing."""
    line = CommandLine(("check",), ("m.onnx",), ("m.onnx",))
    try:
        given = {"images": "bundled"} if given is None else given
        settings.refuse_loosening(resolve(given, environment or {}, **where), line)
    except UsageError as fault:
        return f"{fault.message}\n{fault.hint}"
    return ""


# ------------------------------------------------------------------------------------------------ the table


def test_every_setting_is_classified_and_tried_here() -> None:
    refused_ones = {key for key, rule in options.ROWS_BY_KEY.items() if rule.power != options.HARMLESS}
    assert {*OTHER, "waivers"} == refused_ones
    assert set(HARMLESS) == set(options.ROWS_BY_KEY) - refused_ones


def test_neither_a_file_nor_a_variable_may_say_it_and_the_command_line_may() -> None:
    for key, value in OTHER.items():
        typed = value.strip('[]"')
        given = {"images": "bundled"} if key != "images" else {}
        variable = settings.PREFIX + key.upper().replace("-", "_")
        rule = f"with --strict only the command line may set that ({options.ROWS_BY_KEY[key].why})"
        hint = f"remove it there, or type --{key} {typed}"
        say("")
        assert strictly_refused({variable: typed}, given) == f"{variable}: {key} is {typed}; {rule}\n{hint}"
        say(f"{key} = {value}\n")
        assert strictly_refused(None, given) == f"robustcheck.toml: {key} is {typed}; {rule}\n{hint}"
        field = FIELDS[key]
        named = getattr(resolve({}, {}).settings, field)
        assert strictly_refused(None, given | {field: named}) == strictly_refused(isolated=True) == ""


def test_devices_in_a_file_or_a_variable() -> None:
    for device in ("auto", "cpu", "CUDA:1"):  # they compute exactly
        say(f'device = "{device}"\n')
        assert (strictly_refused(), resolve({}, {}).loosening()) == ("", ())
    for device in ("cuda,use_tf32=1", "cuda:0,use_tf32=1", "cuda\\n,use_tf32=1"):  # options hide behind it
        say(f'device = "{device}"\n')
        assert re.match(r"robustcheck\.toml: device is .* must be a device alone", strictly_refused())
        say("")
        assert strictly_refused({"ROBUSTCHECK_DEVICE": device}).startswith("environment: ROBUSTCHECK_DEVICE is ")


def test_any_file_of_settings_is_looked_at_whoever_names_it() -> None:
    hint = "\nremove it there, or type --seed 3 --fail-on never"
    # no file can be taken for the command line
    for file in ("pyproject.toml", "other.toml", "command line", "default", "ROBUSTCHECK_X"):
        say(f'{"[tool.robustcheck]" * (file == "pyproject.toml")}\nfail-on = "never"\nseed = 3\n', file)
        for told in (strictly_refused(file=file), strictly_refused({"ROBUSTCHECK_CONFIG": file})):
            assert told.startswith(f"{file}: seed is 3; {file}: fail-on is never; with --strict only the command")
            assert told.endswith(hint)


def test_what_loosens_nothing_may_stand_in_a_file() -> None:
    lines = "".join(f"{key} = {value}\n" for key, value in HARMLESS.items())
    say(f'{lines}fail-on = "warn"\nseed = 0\nmax-bad = 0.001\nbatch-size = 32\n')
    assert set(resolve({}, {}).sources) >= set(HARMLESS)
    assert strictly_refused() == ""


def test_strict_is_no_setting_and_of_the_gates_alone() -> None:
    say("strict = false\n")
    assert "key is strict; it is not a setting: it is for the command line" in strictly_refused()
    say("")
    assert "variable ROBUSTCHECK_STRICT is not known" in strictly_refused({"ROBUSTCHECK_STRICT": "0"})
    others = [questions.scan, questions.shift, questions.concepts, questions.directions, evidence.verify]
    for own, verbs in (({"strict", "config"}, [gates.check]), ({"strict"}, [gates.compare]), (set(), others)):
        assert [{"strict", "config"} & {*inspect.signature(verb).parameters} for verb in verbs] == [own] * len(verbs)


def test_no_hint_leaves_the_photos_out() -> None:
    """Neither in words, nor by an example of a check without them."""
    sources = {path: path.read_text() for path in (ROOT / "checker").rglob("*.py")}
    assert len(sources) > 100
    for path, text in sources.items():
        assert not re.search(r"leave out --images|leave (it|them) out for the bundled", text), path
        for example in re.findall(r'"robustcheck (?:check [^"]*|\S*)\.onnx[^"]*"', text):
            assert "--images" in example or " photos/" in example, (path, example)


# -------------------------------------------------------------------------------------------------- waivers


def test_the_command_line_may_name_a_file_of_waivers(ends: Run) -> None:
    say(WAIVER.format("one_sided"))
    say(TWO_WAIVERS, "w.toml")
    found = resolve({}, {}, waivers_file="w.toml")  # they replace those of the settings file
    assert [each.reason for each in found.settings.waivers] == ["not_persistent", "too_weak"]
    done = ends(0, f"{STRICT} -o json --waivers w.toml -- warn.onnx")
    gate = json.loads(done.stdout)["gate"]
    assert "every reason for WARN is waived in w.toml" in gate["rule"]
    assert gate["loosening"] == [{"setting": "waivers", "value": "2 in all", "source": "w.toml"}]
    ends(2, "pass.onnx --waivers w.toml -o json=w.toml")
    assert Path("w.toml").read_text() == TWO_WAIVERS  # no report replaces it
    Path("w.toml").rename("robustcheck.toml")
    said = "robustcheck.toml: waivers is 2 in all; with --strict only the command line"
    ends(2, f"{STRICT} -o json -- warn.onnx", said, "hint: remove it there, or type --waivers FILE")
    say('fail-on = "never"\n' + TWO_WAIVERS, "w.toml")
    said = "w.toml: key is fail-on; a file of --waivers may only hold waivers"
    assert said in strictly_refused(waivers_file="w.toml")
    assert "none.toml: settings file is missing" in strictly_refused(waivers_file="none.toml")


# ---------------------------------------------------------------------------------------------- the command


def test_a_gate_names_its_photos(here: Path, ends: Run) -> None:
    said = "error: --images is missing; with --strict you must name the photos"
    ends(2, "check --strict -o json=r.json -- pass.onnx", said, "hint: --images photos/")
    assert code_in("r.json") == 2
    ends(0, f"{STRICT} -qq -- pass.onnx")
    demo.write(here / "planted.onnx", "planted", *demo.train())
    report = json.loads(ends(0, "check --strict --images bundled -o json -- planted.onnx").stdout)
    images = report["evidence"]["images"]
    assert (images["bundled"], images["source"]) == (True, "bundled photos")
    assert (report["binding"]["settings"]["images"], report["gate"]["loosening"]) == (None, [])


def test_a_name_that_reads_as_help_is_no_pass(ends: Run) -> None:
    for word in ("--help", "-h", "-qh", "--show-settings"):
        ends(2, f"{STRICT} {word}")
        ends(2, f"{STRICT} -o json=r.json -- {word}", f"error: {word}: no such file")
        assert code_in("r.json") == 2


def test_a_name_before_the_dashes_is_refused(ends: Run) -> None:
    """As a shell writes `*.onnx` where the checkout holds a file `--config=.evil.onnx`."""
    say('fail-on = "never"\n', ".evil.onnx")
    say("no model", "--config=.evil.onnx")
    glob = "--config=.evil.onnx pass.onnx"
    for call in (f"{STRICT} {glob}", f"pass.onnx {STRICT.removeprefix('check ')}"):
        ends(2, call, "MODEL.onnx is 'pass.onnx', before --; with --strict models are named after --")
    ends(2, f"{STRICT} --config=.evil.onnx")
    assert "--config=.evil.onnx" in ends(3, f"{STRICT} -- {glob}").stdout


def test_the_report_says_who_loosens(ends: Run) -> None:
    done = ends(0, f"{STRICT} --max-images 60 --fail-on never -o terminal -o json=r.json -- warn.onnx")
    assert done.stdout.splitlines()[1] == "! --fail-on is never (command line): WARN does not fail this run"
    told = read_json("r.json")["gate"]["loosening"]
    assert [each["setting"] for each in told] == ["max-images", "fail-on"]
    say('images = "photos"\nseed = 3\ndevice = "cpu"\n')
    done = ends(0, "warn.onnx -o terminal -o json=r.json", ROBUSTCHECK_FAIL_ON="never", COLUMNS="120")
    told = "! can loosen the gate: images photos, seed 3 (robustcheck.toml); fail-on never (ROBUSTCHECK_FAIL_ON)"
    assert done.stdout.splitlines()[1] == told
    report = read_json("r.json")
    assert (report["verdict"]["verdict"], "ROBUSTCHECK_FAIL_ON" in report["gate"]["rule"]) == ("WARN", True)
    notes = [note for note in report["notes"] if note.startswith("settings from")]
    assert notes == ["settings from robustcheck.toml: device cpu"]
    ends(1, "warn.onnx -qq --fail-on warn", ROBUSTCHECK_FAIL_ON="never")
    ends(2, "absent.onnx --fail-on never")


SECRET = "export PATH=/usr/bin\n"
CHECK = "check --images photos -qq"
LEAVES = "a settings file may only name files in its folder, without links that leave it"


@pytest.fixture
def above(here: Path) -> Path:
    """The folder of a file `.bashrc` of the user, and of a checkout, which is the current folder."""
    (here.parent / ".bashrc").write_text(SECRET)
    return here.parent


def link(name: str, target: str) -> None:
    Path(name).symlink_to(target)


def unchanged(above: Path) -> bool:
    """Whether the user's file is what it was, and nothing came beside it."""
    names = {path.name for path in above.iterdir()}
    return (above / ".bashrc").read_text() == SECRET and names == {".bashrc", "here"}


# -------------------------------------------------------------------------------------------------- names


def test_what_is_inside_a_folder(here: Path) -> None:
    Path("in").mkdir()
    Path("../here2").mkdir()
    for name, target in {"out": "..", "to_in": "in", "gone": "../gone", "loop": "loop"}.items():
        link(name, target)
    inside = ["r.json", "in/r.json", "to_in/r.json", "in/../r.json", str(here / "r.json"), "none/r.json", "a:/b"]
    outside = ["../r.json", "/r.json", "out/r.json", "gone", "loop", ".", "", "in/../../r.json", "a\0b"]
    outside += ["../here2/r.json"]  # a name that starts alike
    urls = ["s3://bucket/r.json", "file:///r.json", f"file://{here}/r.json", "file:/r.json", "zip::s3://b/r.json"]
    assert [path for path in inside if not destinations.is_inside(path, ".")] == []
    assert [path for path in [*outside, *urls] if destinations.is_inside(path, ".")] == []


def test_which_paths_follow_a_link(here: Path) -> None:
    for name, target in {"out": "..", "r.json": "../.bashrc", "own.json": "in/own.json"}.items():
        link(name, target)
    follow = ["r.json", "./r.json", "own.json", "out/r.json", str(here / "r.json"), f"file://{here}/r.json"]
    plain = ["new.json", "in/new.json", "../new.json", str(here.parent / "new.json"), "s3://b/r", "/dev/stdout"]
    assert [path for path in [*follow, *plain] if destinations.follows_link(path)] == follow


def test_an_error_is_written_to_no_other_place_either() -> None:
    say('output = ["json=../r.json", "junit=r.xml", "html=s3://b/r.html", "gitlab", "markdown=-"]')
    assert command_line.CommandLine(("check",)).documents() == [("junit", "r.xml"), ("gitlab", ""), ("markdown", "")]


# ------------------------------------------------------------------------------------------------ reports


def test_a_settings_file_names_no_report_outside_its_folder(above: Path, ends: Run) -> None:
    for name, target in {"r.json": "../.bashrc", "n.json": "../new", "reports": ".."}.items():
        link(name, target)
    before = sorted(above.rglob("*"))
    places = ["../.bashrc", "../new", "r.json", "n.json", "reports/new", "s3://bucket/new", "file:///new"]
    for place in [*(f"json={place}" for place in places), "terminal=../new", "html=../.bashrc"]:
        say(f'output = ["{place}"]')
        for strict in ("", "--strict"):
            ends(2, f"{CHECK} {strict} -- missing.onnx")  # no error is written there either
            said = (f"error: robustcheck.toml: output is {place}", LEAVES, f"hint: -o {place.split('=')[0]}=")
            assert ends(2, f"{CHECK} {strict} -- pass.onnx", *said).stdout == ""
        Path("robustcheck.toml").unlink()
        assert sorted(above.rglob("*")) == before
        assert unchanged(above)


def test_a_model_of_dots_alone_leads_no_report_out_of_the_folder(above: Path, ends: Run) -> None:
    """The stem of `...onnx` is `..`; the word `model` replaces it."""
    Path("pass.onnx").rename("...onnx")
    say('output = ["json={model}/r.json"]')
    ends(2, f"{CHECK} -- ...onnx", "model/r.json: folder model is missing")
    assert unchanged(above)


def test_a_settings_file_replaces_nothing_that_is_not_ours(ends: Run) -> None:
    """It replaces what is, also by a link within its folder."""
    say('output = ["html=page.html"]')
    link("page.html", "real.html")
    page = Path("real.html")
    for content in (b"my page\n", b"\x00"):
        page.write_bytes(content)
        for word in ("-o html=page.html", ""):
            assert ends(2, f"{CHECK} {word} -- pass.onnx").stderr.splitlines() == [
                "error: page.html: report path is a file that is there already; only an empty file, or one that "
                "robustcheck wrote there, is replaced",
                "hint: -o json=page.json",
            ]
            assert page.read_bytes() == content
    page.write_bytes(b"")
    for word in ("-o html=page.html", ""):  # after the first it is ours
        ends(0, f"{CHECK} {word} -- pass.onnx")
        assert "PASS" in page.read_text()
    assert Path("page.html").is_symlink()


def test_the_command_line_names_any_place(above: Path, ends: Run) -> None:
    say('output = ["json=../.bashrc"]\nlog-file = "../.bashrc"')
    ends(0, f"{CHECK} -o json=../r.json --log-file ../a.log -- pass.onnx")
    (above / "r.json").unlink()
    (above / "a.log").unlink()
    assert unchanged(above)


def test_with_strict_a_report_of_the_command_line_follows_no_link_of_the_checkout(above: Path, ends: Run) -> None:
    """A pipeline writes `robustcheck.json`, and the checkout brings a link of that name."""
    link("r.json", "../.bashrc")
    link("reports", "..")
    for path in ("r.json", "reports/.bashrc"):
        ends(2, f"{CHECK} --strict -o json={path} --bogus")
        said = f"error: output is json={path}, which follows a link; a link in a checkout can lead anywhere"
        ends(2, f"{CHECK} --strict -o json={path} -- pass.onnx", said)
        assert unchanged(above)
    ends(2, f"{CHECK} --strict --log-file r.json -- pass.onnx", "log-file is r.json, which follows a link")


# ---------------------------------------------------------------------------------------- log, signature


def test_a_log_that_a_settings_file_names(above: Path, ends: Run) -> None:
    link("r.json", "../.bashrc")
    Path("start.sh").write_text(SECRET)
    stranger = "error: start.sh: log is a file that is there already"
    for path, said in {"../new": LEAVES, "r.json": LEAVES, "start.sh": stranger}.items():
        say(f'log-file = "{path}"')
        ends(2, f"{CHECK} -o junit=r.xml -- pass.onnx", said)
        assert (Path("start.sh").read_text(), unchanged(above)) == (SECRET, True)


def test_a_log_of_ours_is_continued(ends: Run) -> None:
    say('log-file = "a.log"')
    texts = []
    for _ in range(2):
        ends(0, f"{CHECK} -- pass.onnx")
        texts.append(Path("a.log").read_text())
    assert (texts[1].startswith(texts[0]), texts[1].count("\n")) == (True, 2 * texts[0].count("\n"))


def test_a_signature_beside_a_report_that_a_settings_file_names(above: Path, ends: Run) -> None:
    write_keys(Path())
    call, bundle = f"{CHECK} --sign key.pem -- pass.onnx", Path("r.sigstore.json")
    say('output = ["json=r.json"]')
    bundle.symlink_to("../.bashrc")
    ends(2, call, LEAVES)
    bundle.unlink()
    bundle.write_text("mine")
    ends(2, call, "r.sigstore.json: signature is a file that is there already")
    assert bundle.read_text() == "mine"
    bundle.write_text("")
    for _ in range(2):  # the second time it is ours
        ends(0, call)
    say('sign = "key.pem"')
    bundle.unlink()
    bundle.symlink_to("../.bashrc")
    ends(2, f"{CHECK} -o json=r.json -- pass.onnx", "which follows a link")
    assert unchanged(above)

"""`--strict`: nothing but the command line loosens the gate, no name is an option, and 0 is a verdict's alone."""

import inspect
import json
import re
from pathlib import Path
from typing import Any

from robustcheck_onnx.checker import demo
from robustcheck_onnx.checker.cli import options, settings
from robustcheck_onnx.checker.cli.command_line import CommandLine
from robustcheck_onnx.checker.cli.verbs import evidence, questions
from robustcheck_onnx.checker.errors import UsageError
from support import ROOT, Fields, read_json
from support.bad_input import Run

WAIVER = '[[waivers]]\nreason = "{}"\nbecause = "known"\nowner = "o@example.org"\nexpires = 2999-01-01\n'
WAIVERS = WAIVER.format("not_persistent") + WAIVER.format("too_weak")
STRICT = "check --strict --images photos"
# a value of each setting that is not the default, as a file writes it
OTHER = {
    "images": '"photos"',
    "max-images": "40",
    "max-bad": "0.5",
    "seed": "3",
    "preprocess": '"clip"',
    "tensor": '"t"',
    "pool": '"mean"',
    "device": '"coreml"',
    "provider-option": '["use_tf32=1"]',
    "batch-size": "1",
    "thresholds": '"default-1"',
    "fail-on": '"never"',
    "accept": '"not_applicable"',
    "sign": '"key.pem"',
}
HARMLESS = {
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


def say(text: str, name: str = "robustcheck.toml") -> None:
    Path(name).write_text(text, encoding="utf-8")


def refused(environment: dict[str, str] | None = None, given: Fields | None = None, **options: Any) -> str:
    """The message and the hint with which the settings are refused, or nothing."""
    line = CommandLine(("check",), ("m.onnx",), ("m.onnx",))
    try:
        settings.refuse_loosening(
            settings.resolve({"images": "bundled"} if given is None else given, environment or {}, **options), line
        )
    except UsageError as fault:
        return f"{fault.message}\n{fault.hint}"
    return ""


# ------------------------------------------------------------------------------------------------ the table


def test_every_setting_is_classified_and_tried_here() -> None:
    refused_ones = {key for key, rule in options.POWERS.items() if rule.power != options.HARMLESS}
    assert {*OTHER, "waivers"} == refused_ones
    assert set(HARMLESS) == set(options.POWERS) - refused_ones


def test_neither_a_file_nor_a_variable_may_say_it_and_the_command_line_may() -> None:
    for key, value in OTHER.items():
        typed = value.strip('[]"')
        given = {"images": "bundled"} if key != "images" else {}
        variable = settings.PREFIX + key.upper().replace("-", "_")
        rule = f"with --strict only the command line may set that ({options.POWERS[key].why})"
        hint = f"remove it there, or type --{key} {typed}"
        say("")
        assert refused({variable: typed}, given) == f"{variable}: {key} is {typed}; {rule}\n{hint}"
        say(f"{key} = {value}\n")
        assert refused(None, given) == f"robustcheck.toml: {key} is {typed}; {rule}\n{hint}"
        field = options.FIELDS[key]
        named = getattr(settings.resolve({}, {}).settings, field)
        assert refused(None, given | {field: named}) == refused(isolated=True) == ""


def test_devices_in_a_file_or_a_variable() -> None:
    for device in ("auto", "cpu", "CUDA:1"):  # they compute exactly
        say(f'device = "{device}"\n')
        assert (refused(), settings.resolve({}, {}).loosening()) == ("", ())
    for device in ("cuda,use_tf32=1", "cuda:0,use_tf32=1", "cuda\\n,use_tf32=1"):  # options hide behind it
        say(f'device = "{device}"\n')
        assert re.match(r"robustcheck\.toml: device is .* must be a device alone", refused())
        say("")
        assert refused({"ROBUSTCHECK_DEVICE": device}).startswith("environment: ROBUSTCHECK_DEVICE is ")


def test_any_file_of_settings_is_looked_at_whoever_names_it() -> None:
    hint = "\nremove it there, or type --seed 3 --fail-on never"
    # no file can be taken for the command line
    for file in ("pyproject.toml", "other.toml", "command line", "default", "ROBUSTCHECK_X"):
        say(f'{"[tool.robustcheck]" * (file == "pyproject.toml")}\nfail-on = "never"\nseed = 3\n', file)
        for told in (refused(file=file), refused({"ROBUSTCHECK_CONFIG": file})):
            assert told.startswith(f"{file}: seed is 3; {file}: fail-on is never; with --strict only the command")
            assert told.endswith(hint)


def test_what_loosens_nothing_may_stand_in_a_file() -> None:
    lines = "".join(f"{key} = {value}\n" for key, value in HARMLESS.items())
    say(f'{lines}fail-on = "warn"\nseed = 0\nmax-bad = 0.001\nbatch-size = 32\n')
    assert set(settings.resolve({}, {}).sources) >= set(HARMLESS)
    assert refused() == ""


def test_strict_is_no_setting_and_of_the_gates_alone() -> None:
    say("strict = false\n")
    assert "key is strict; it is not a setting: it is for the command line" in refused()
    say("")
    assert "variable ROBUSTCHECK_STRICT is not known" in refused({"ROBUSTCHECK_STRICT": "0"})
    others = [questions.scan, questions.shift, questions.concepts, questions.directions, evidence.verify]
    for own, verbs in (
        ({"strict", "config"}, [questions.check]),
        ({"strict"}, [questions.compare]),
        (set(), others),
    ):
        assert [{"strict", "config"} & {*inspect.signature(verb).parameters} for verb in verbs] == [own] * len(verbs)


def test_no_hint_leaves_the_photos_out() -> None:
    """Neither in words, nor by an example of a check without them."""
    sources = {path: path.read_text(encoding="utf-8") for path in (ROOT / "checker").rglob("*.py")}
    assert len(sources) > 100
    for path, text in sources.items():
        assert not re.search(r"leave out --images|leave (it|them) out for the bundled", text), path
        for example in re.findall(r'"robustcheck (?:check [^"]*|\S*)\.onnx[^"]*"', text):
            assert "--images" in example or " photos/" in example, (path, example)


# -------------------------------------------------------------------------------------------------- waivers


def test_the_command_line_may_name_a_file_of_waivers(ends: Run) -> None:
    say(WAIVER.format("one_sided"))
    say(WAIVERS, "w.toml")
    found = settings.resolve({}, {}, waivers_file="w.toml")  # they replace those of the settings file
    assert [each.reason for each in found.settings.waivers] == ["not_persistent", "too_weak"]
    done = ends(0, f"{STRICT} -o json --waivers w.toml -- warn.onnx")
    gate = json.loads(done.stdout)["gate"]
    assert "every reason for WARN is waived in w.toml" in gate["rule"]
    assert gate["loosening"] == [{"setting": "waivers", "value": "2 in all", "source": "w.toml"}]
    ends(2, "pass.onnx --waivers w.toml -o json=w.toml")
    assert Path("w.toml").read_text(encoding="utf-8") == WAIVERS  # no report replaces it
    Path("w.toml").rename("robustcheck.toml")
    ends(
        2,
        f"{STRICT} -o json -- warn.onnx",
        "robustcheck.toml: waivers is 2 in all; with --strict only the command line",
        "hint: remove it there, or type --waivers FILE",
    )
    say('fail-on = "never"\n' + WAIVERS, "w.toml")
    assert "w.toml: key is fail-on; a file of --waivers may only hold waivers" in refused(waivers_file="w.toml")
    assert "none.toml: settings file is missing" in refused(waivers_file="none.toml")


# ---------------------------------------------------------------------------------------------- the command


def test_a_gate_names_its_photos(here: Path, ends: Run) -> None:
    ends(
        2,
        "check --strict -o json=r.json -- pass.onnx",
        "error: --images is missing; with --strict you must name the photos",
        "hint: --images photos/",
    )
    assert read_json("r.json")["error"]["exit_code"] == 2
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
        assert read_json("r.json")["error"]["exit_code"] == 2


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
    say('images = "photos"\nfail-on = "never"\ndevice = "cpu"\n')
    done = ends(0, "warn.onnx -o terminal -o json=r.json", ROBUSTCHECK_SEED="3", COLUMNS="120")
    assert done.stdout.splitlines()[1] == (
        "! can loosen the gate: images photos, fail-on never (robustcheck.toml); seed 3 (ROBUSTCHECK_SEED)"
    )
    notes = read_json("r.json")["notes"]
    assert [n for n in notes if n.startswith("settings from")] == ["settings from robustcheck.toml: device cpu"]

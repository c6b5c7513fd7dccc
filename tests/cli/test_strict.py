"""What a checkout may set: with --strict nothing loosens the gate, and a settings file writes in its folder alone."""

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

from robustcheck_onnx.checker import demo
from robustcheck_onnx.checker.cli import command_line, options, settings
from robustcheck_onnx.checker.cli.command_line import CommandLine
from robustcheck_onnx.checker.cli.options import POWERS
from robustcheck_onnx.checker.cli.settings import resolve
from robustcheck_onnx.checker.cli.verbs import evidence, questions
from robustcheck_onnx.checker.errors import UsageError
from support import ROOT, Fields, code_in, read_json
from support.bad_input import Run
from support.keys import write_keys

WAIVER = '[[waivers]]\nreason = "{}"\nbecause = "known"\nowner = "o@example.org"\nexpires = 2999-01-01\n'
WAIVERS = WAIVER.format("not_persistent") + WAIVER.format("too_weak")
STRICT = "check --strict --images photos"
# a value of each setting that is not the default, as a file writes it
OTHER = {
    "images": '"photos"', "max-images": "40", "max-bad": "0.5", "seed": "3", "preprocess": '"clip"', "tensor": '"t"',
    "pool": '"mean"', "device": '"coreml"', "provider-option": '["use_tf32=1"]', "batch-size": "1",
    "thresholds": '"default-1"', "fail-on": '"never"', "accept": '"not_applicable"', "sign": '"key.pem"',
}  # fmt: skip
HARMLESS = {
    "output": '["json=r.json"]', "quiet": "1", "verbose": "1", "no-thumbnails": "true", "no-time": "true",
    "color": '"never"', "log-file": '"a.log"', "no-ci": "true", "timeout": "600", "max-memory": '"8GiB"',
    "max-model-size": '"2GiB"',
}  # fmt: skip


def say(text: str, name: str = "robustcheck.toml") -> None:
    Path(name).write_text(text)


def refused(environment: dict[str, str] | None = None, given: Fields | None = None, **options: Any) -> str:
    """The message and the hint with which the settings are refused, or nothing."""
    line = CommandLine(("check",), ("m.onnx",), ("m.onnx",))
    try:
        given = {"images": "bundled"} if given is None else given
        settings.refuse_loosening(resolve(given, environment or {}, **options), line)
    except UsageError as fault:
        return f"{fault.message}\n{fault.hint}"
    return ""


# ------------------------------------------------------------------------------------------------ the table


def test_every_setting_is_classified_and_tried_here() -> None:
    refused_ones = {key for key, rule in POWERS.items() if rule.power != options.HARMLESS}
    assert {*OTHER, "waivers"} == refused_ones
    assert set(HARMLESS) == set(POWERS) - refused_ones


def test_neither_a_file_nor_a_variable_may_say_it_and_the_command_line_may() -> None:
    for key, value in OTHER.items():
        typed = value.strip('[]"')
        given = {"images": "bundled"} if key != "images" else {}
        variable = settings.PREFIX + key.upper().replace("-", "_")
        rule = f"with --strict only the command line may set that ({POWERS[key].why})"
        hint = f"remove it there, or type --{key} {typed}"
        say("")
        assert refused({variable: typed}, given) == f"{variable}: {key} is {typed}; {rule}\n{hint}"
        say(f"{key} = {value}\n")
        assert refused(None, given) == f"robustcheck.toml: {key} is {typed}; {rule}\n{hint}"
        field = options.FIELDS[key]
        named = getattr(resolve({}, {}).settings, field)
        assert refused(None, given | {field: named}) == refused(isolated=True) == ""


def test_devices_in_a_file_or_a_variable() -> None:
    for device in ("auto", "cpu", "CUDA:1"):  # they compute exactly
        say(f'device = "{device}"\n')
        assert (refused(), resolve({}, {}).loosening()) == ("", ())
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
    assert set(resolve({}, {}).sources) >= set(HARMLESS)
    assert refused() == ""


def test_strict_is_no_setting_and_of_the_gates_alone() -> None:
    say("strict = false\n")
    assert "key is strict; it is not a setting: it is for the command line" in refused()
    say("")
    assert "variable ROBUSTCHECK_STRICT is not known" in refused({"ROBUSTCHECK_STRICT": "0"})
    others = [questions.scan, questions.shift, questions.concepts, questions.directions, evidence.verify]
    for own, verbs in (({"strict", "config"}, [questions.check]), ({"strict"}, [questions.compare]), (set(), others)):
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
    say(WAIVERS, "w.toml")
    found = resolve({}, {}, waivers_file="w.toml")  # they replace those of the settings file
    assert [each.reason for each in found.settings.waivers] == ["not_persistent", "too_weak"]
    done = ends(0, f"{STRICT} -o json --waivers w.toml -- warn.onnx")
    gate = json.loads(done.stdout)["gate"]
    assert "every reason for WARN is waived in w.toml" in gate["rule"]
    assert gate["loosening"] == [{"setting": "waivers", "value": "2 in all", "source": "w.toml"}]
    ends(2, "pass.onnx --waivers w.toml -o json=w.toml")
    assert Path("w.toml").read_text() == WAIVERS  # no report replaces it
    Path("w.toml").rename("robustcheck.toml")
    said = "robustcheck.toml: waivers is 2 in all; with --strict only the command line"
    ends(2, f"{STRICT} -o json -- warn.onnx", said, "hint: remove it there, or type --waivers FILE")
    say('fail-on = "never"\n' + WAIVERS, "w.toml")
    assert "w.toml: key is fail-on; a file of --waivers may only hold waivers" in refused(waivers_file="w.toml")
    assert "none.toml: settings file is missing" in refused(waivers_file="none.toml")


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
    assert [path for path in inside if not command_line.is_inside(path, ".")] == []
    assert [path for path in [*outside, *urls] if command_line.is_inside(path, ".")] == []


def test_which_paths_follow_a_link(here: Path) -> None:
    for name, target in {"out": "..", "r.json": "../.bashrc", "own.json": "in/own.json"}.items():
        link(name, target)
    follow = ["r.json", "./r.json", "own.json", "out/r.json", str(here / "r.json"), f"file://{here}/r.json"]
    plain = ["new.json", "in/new.json", "../new.json", str(here.parent / "new.json"), "s3://b/r", "/dev/stdout"]
    assert [path for path in [*follow, *plain] if command_line.follows_link(path)] == follow


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
    for content in (b"my page\n", b"", b"\x00"):
        page.write_bytes(content)
        assert ends(2, f"{CHECK} -- pass.onnx").stderr.splitlines() == [
            "error: robustcheck.toml: output is html=page.html; the file that is there is not a report of "
            "robustcheck, and a settings file replaces no other",
            "hint: -o html=page.html  # the command line may replace it",
        ]
        assert page.read_bytes() == content
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
    Path("empty.py").touch()
    stranger = "the file that is there is not a log of robustcheck"
    for path, rule in {"../new": LEAVES, "r.json": LEAVES, "start.sh": stranger, "empty.py": stranger}.items():
        say(f'log-file = "{path}"')
        ends(2, f"{CHECK} -o junit=r.xml -- pass.onnx", "error: robustcheck.toml: log-file is ", rule)
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
    ends(2, call, "the file that is there is not a signature of robustcheck")
    assert bundle.read_text() == "mine"
    bundle.unlink()
    for _ in range(2):  # the second time it is ours
        ends(0, call)
    say('sign = "key.pem"')
    bundle.unlink()
    bundle.symlink_to("../.bashrc")
    ends(2, f"{CHECK} -o json=r.json -- pass.onnx", "which follows a link")
    assert unchanged(above)

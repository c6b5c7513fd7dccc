"""What a settings file names stays in its folder, follows no link out of it, and replaces nothing but our own files."""

from pathlib import Path

import pytest

from robustcheck_onnx.checker.cli import command_line
from support.bad_input import Run
from support.keys import write_keys

SECRET = "export PATH=/usr/bin\n"
CHECK = "check --images photos -qq"
LEAVES = "a settings file may only name files in its folder, without links that leave it"


@pytest.fixture(autouse=True)
def above(here: Path) -> Path:
    """The folder of a file `.bashrc` of the user, and of a checkout, which is the current folder."""
    (here.parent / ".bashrc").write_text(SECRET, encoding="utf-8")
    return here.parent


def say(line: str) -> None:
    Path("robustcheck.toml").write_text(line + "\n", encoding="utf-8")


def link(name: str, target: str) -> None:
    Path(name).symlink_to(target)


def unchanged(above: Path) -> bool:
    """Whether the user's file is what it was, and nothing came beside it."""
    names = {path.name for path in above.iterdir()}
    return (above / ".bashrc").read_text(encoding="utf-8") == SECRET and names == {".bashrc", "here"}


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
        assert "PASS" in page.read_text(encoding="utf-8")
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
    Path("start.sh").write_text(SECRET, encoding="utf-8")
    Path("empty.py").touch()
    stranger = "the file that is there is not a log of robustcheck"
    for path, rule in {"../new": LEAVES, "r.json": LEAVES, "start.sh": stranger, "empty.py": stranger}.items():
        say(f'log-file = "{path}"')
        ends(2, f"{CHECK} -o junit=r.xml -- pass.onnx", "error: robustcheck.toml: log-file is ", rule)
        assert (Path("start.sh").read_text(encoding="utf-8"), unchanged(above)) == (SECRET, True)


def test_a_log_of_ours_is_continued(ends: Run) -> None:
    say('log-file = "a.log"')
    texts = []
    for _ in range(2):
        ends(0, f"{CHECK} -- pass.onnx")
        texts.append(Path("a.log").read_text(encoding="utf-8"))
    assert (texts[1].startswith(texts[0]), texts[1].count("\n")) == (True, 2 * texts[0].count("\n"))


def test_a_signature_beside_a_report_that_a_settings_file_names(above: Path, ends: Run) -> None:
    write_keys(Path())
    call, bundle = f"{CHECK} --sign key.pem -- pass.onnx", Path("r.sigstore.json")
    say('output = ["json=r.json"]')
    bundle.symlink_to("../.bashrc")
    ends(2, call, LEAVES)
    bundle.unlink()
    bundle.write_text("mine", encoding="utf-8")
    ends(2, call, "the file that is there is not a signature of robustcheck")
    assert bundle.read_text(encoding="utf-8") == "mine"
    bundle.unlink()
    for _ in range(2):  # the second time it is ours
        ends(0, call)
    say('sign = "key.pem"')
    bundle.unlink()
    bundle.symlink_to("../.bashrc")
    ends(2, f"{CHECK} -o json=r.json -- pass.onnx", "which follows a link")
    assert unchanged(above)

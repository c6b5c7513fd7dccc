"""Steps of the workflows, run as far as they can without a network."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from robustcheck_onnx.checker.text import HOME
from support import ROOT
from support.workflows import jobs, program, run, script

OUR_HOME = "https://git.example/Some-Owner/robustcheck"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What the release asks: where the project lives, its version and its changelog."""
    shutil.copytree(ROOT / "release", tmp_path / "release")
    (tmp_path / "checker").mkdir()
    (tmp_path / "checker" / "text.py").write_text(f'VERSION: Final = "1.2.3"\nHOME: Final = "{OUR_HOME}"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 1.2.3\nNew.\n\n- One\n\n## 1.2.2\nOld.\n")
    return tmp_path


def ready(folder: Path, **others: str) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
    variables = {
        "GITHUB_SERVER_URL": "https://git.example",
        "GITHUB_REPOSITORY": "Some-Owner/robustcheck",
        "GITHUB_REF_NAME": "v1.2.3",
    }
    return run(script("release", "build", "home"), folder, **variables | others)


def test_a_release_is_ready_when_home_version_tag_and_changelog_agree(project: Path) -> None:
    done, _ = ready(project)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done, _ = ready(project, GITHUB_REF_NAME="v1.2.4")
    assert (done.returncode, done.stderr) == (1, "error: the tag is v1.2.4; VERSION is 1.2.3\n")
    done, _ = ready(project, GITHUB_REPOSITORY="someone/fork")
    assert (done.returncode, done.stderr) == (
        1,
        f"error: HOME is {OUR_HOME}; this is https://git.example/someone/fork\n",
    )
    (project / "CHANGELOG.md").write_text("# Changelog\n\n## 1.2.3 (unreleased)\n")
    done, _ = ready(project)
    assert done.returncode == 1
    assert done.stderr.startswith("error: CHANGELOG.md has no line '## 1.2.3'; ")


def test_no_release_and_no_site_while_the_project_has_no_home(project: Path) -> None:
    (project / "checker" / "text.py").write_text('VERSION: Final = "1.2.3"\nHOME: Final = ""\n')
    done, _ = ready(project)
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: HOME in checker/text.py is empty; set it" in done.stderr
    done, outputs = run(script("images", "publish", "home"), project, GITHUB_SERVER_URL="", GITHUB_REPOSITORY="")
    assert (done.returncode, outputs) == (1, {})
    done, outputs = run(script("docs", "build", "is this"), project, GITHUB_SERVER_URL="", GITHUB_REPOSITORY="")
    assert (done.returncode, outputs) == (0, {"ours": "false"})


@pytest.mark.skipif(bool(HOME), reason="the project has a home")
def test_this_repository_can_not_be_released_yet(tmp_path: Path) -> None:
    lines = f"cd {ROOT}\n{script('release', 'build', 'home')}"
    done, _ = run(lines, tmp_path, GITHUB_SERVER_URL="", GITHUB_REPOSITORY="", GITHUB_REF_NAME="")
    assert done.returncode == 1
    assert done.stderr.startswith("error: HOME in checker/text.py is empty;")


def test_the_site_is_published_from_home_only(project: Path) -> None:
    lines = script("docs", "build", "is this")
    for repository, ours in (("Some-Owner/robustcheck", "true"), ("someone/fork", "false")):
        done, outputs = run(lines, project, GITHUB_SERVER_URL="https://git.example", GITHUB_REPOSITORY=repository)
        assert (done.returncode, outputs) == (0, {"ours": ours})


def test_an_images_name_has_small_letters(project: Path) -> None:
    variables = {"GITHUB_SERVER_URL": "https://git.example", "GITHUB_REPOSITORY": "Some-Owner/robustcheck"}
    lines = script("images", "publish", "home")
    done, outputs = run(lines, project, GITHUB_REF_NAME="v1.2.3", **variables)
    assert (done.returncode, outputs) == (0, {"image": "ghcr.io/some-owner/robustcheck"}), done.stderr
    assert run(lines, project, GITHUB_REF_NAME="v2.0.0", **variables)[0].returncode == 1


@pytest.mark.parametrize(
    ("results", "code"),
    [("success success success", 0), ("success failure success", 1), ("success cancelled", 1), ("skipped success", 1)],
)
def test_the_one_required_check_is_green_when_all_are(tmp_path: Path, results: str, code: int) -> None:
    done, _ = run(script("ci", "all", "for result"), tmp_path, RESULTS=results)
    assert done.returncode == code


VENV = """#!/bin/bash
# as `python -m venv FOLDER`: a python there which notes what it is called with
if [ "$2" = venv ]; then
  for bin in bin Scripts; do mkdir -p "$3/$bin" && cp "$0" "$3/$bin/python"; done
else
  printf '%s\\n' "$*" >> "$NOTES"
fi
"""


@pytest.mark.parametrize(("system", "bin_"), [("Linux", "bin"), ("Windows", "Scripts")])
def test_what_ci_and_release_install(tmp_path: Path, system: str, bin_: str) -> None:
    """The words that pip gets; installations take minutes."""
    fake = program(tmp_path / "fake" / "python", VENV).parent
    (tmp_path / "Makefile").write_text("EXTRAS := one,two\n")
    (tmp_path / "dist").mkdir()
    made = [f"robustcheck_onnx{x}" for x in ("-1.2.3-py3-none-any.whl", "-1.2.3.tar.gz", "_cpu-1.2.3-py3-none-any.whl")]
    for name in made:
        (tmp_path / "dist" / name).touch()
    notes = tmp_path / "notes"
    variables = {
        "PATH": f"{fake}:/usr/bin:/bin", "NOTES": str(notes), "RUNNER_OS": system, "RUNNER_TEMP": f"{tmp_path}/temp",
    }  # fmt: skip
    done, outputs = run(script("ci", "tests", "install"), tmp_path, **variables)
    assert (done.returncode, outputs) == (0, {"bin": f"{tmp_path}/.venv/{bin_}"}), done.stderr
    assert notes.read_text().splitlines() == [
        "-m pip install --quiet --upgrade pip>=25.1",
        "-m pip install --quiet --constraint constraints.txt --editable .[one,two] --group dev",
    ]
    forms = jobs(ROOT / ".github" / "workflows" / "release.yml")["test"]["strategy"]["matrix"]["form"]
    for form, name in zip(forms, made, strict=True):
        notes.unlink()
        file = f"dist/{name}"
        done, outputs = run(script("release", "test", "install"), tmp_path, FORM=form, **variables)
        assert (done.returncode, outputs) == (0, {"bin": f"{tmp_path}/temp/clean/{bin_}"}), done.stderr
        done, _ = run(script("release", "test", "its tests"), tmp_path, FORM=form, BIN=outputs["bin"], **variables)
        assert done.returncode == 0, done.stderr
        _, alone, whole, tests = notes.read_text().splitlines()
        assert alone == f"-m pip install --quiet --constraint constraints.txt {file}"
        assert whole == f"-m pip install --quiet --constraint constraints.txt {file}[one,two] --group dev"
        assert tests.startswith("-m pytest ")


def test_the_makefile_has_the_extras_that_ci_reads() -> None:
    found = re.findall(r"^EXTRAS := ([a-z,]+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(found) == 1
    assert {"export", "data"} <= set(found[0].split(","))


def test_what_was_installed_is_not_the_checkout(tmp_path: Path) -> None:
    lines = script("release", "test", "it stands alone")
    program(tmp_path / "robustcheck", "#!/bin/sh\necho robustcheck 1.2.3\n")
    program(tmp_path / "python", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    done, _ = run(lines, tmp_path, BIN=str(tmp_path), EXPECTED="v1.2.4")
    assert (done.returncode, done.stderr) == (1, "error: --version says robustcheck 1.2.3\n")
    done, _ = run(lines, tmp_path, BIN=str(tmp_path), EXPECTED="v1.2.3")  # the tests run on the checkout
    assert done.returncode == 1
    assert "AssertionError" in done.stderr
    installed = tmp_path / "site-packages" / "robustcheck_onnx"
    installed.mkdir(parents=True)
    (installed / "__init__.py").touch()
    program(tmp_path / "python", f'#!/bin/sh\nPYTHONPATH={installed.parent} exec {sys.executable} "$@"\n')
    assert run(lines, tmp_path, BIN=str(tmp_path), EXPECTED="v1.2.3")[0].returncode == 0


GH = """#!/bin/bash
printf '%s\\n' "$*" >> gh
case "$*" in *git/ref/tags/*) exit "$MISSING" ;; esac
"""


@pytest.mark.parametrize(("missing", "call"), [("0", "-X PATCH {0}/v1 -f sha=abc -F force=true"), ("1", "-X POST {1}")])
def test_the_release_page_and_the_floating_tag(project: Path, missing: str, call: str) -> None:
    bin_ = program(project / "bin" / "gh", GH).parent
    for name in ("dist/a.whl", "sbom/b.json"):
        (project / name).parent.mkdir()
        (project / name).touch()
    variables = {
        "PATH": f"{bin_}:/usr/bin:/bin", "MISSING": missing, "GITHUB_REF_NAME": "v1.2.3", "GITHUB_SHA": "abc",
        "GITHUB_REPOSITORY": "o/r",
    }  # fmt: skip
    done, _ = run(script("release", "github", "release page"), project, **variables)
    assert done.returncode == 0, done.stderr
    assert (project / "notes.md").read_text() == "New.\n\n- One\n\n"
    done, _ = run(script("release", "github", "floating tag"), project, **variables)
    assert done.returncode == 0, done.stderr
    created, asked, moved = (project / "gh").read_text().splitlines()
    assert created == "release create v1.2.3 --verify-tag --notes-file notes.md dist/a.whl sbom/b.json"
    assert asked == "api --silent repos/o/r/git/ref/tags/v1"
    refs = "repos/o/r/git/refs"
    assert moved == f"api --silent {call.format(f'{refs}/tags', f'{refs} -f ref=refs/tags/v1 -f sha=abc')}"

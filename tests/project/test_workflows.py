"""What the workflows of .github/ promise; how they are written is read by zizmor and actionlint in `make lint`."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import robustcheck_onnx as rc
from robustcheck_onnx.checker.text import HOME
from support import ROOT
from support.workflows import ACTION, WORKFLOWS, jobs, program, run, script, steps_of

OUR_HOME = "https://git.example/Some-Owner/robustcheck"


def test_the_tests_run_on_every_python_that_the_package_takes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    said = {c.split(" :: ")[-1] for c in project["classifiers"] if re.search(r":: 3\.\d+$", c)}
    assert said
    assert said <= set(jobs(ROOT / ".github" / "workflows" / "ci.yml")["tests"]["strategy"]["matrix"]["python"])


def test_what_publishes_waits_for_what_tests() -> None:
    release = jobs(ROOT / ".github" / "workflows" / "release.yml")
    order = {name: job.get("needs") for name, job in release.items()}
    assert order == {"build": None, "test": "build", "attest": "test", "publish": "attest", "github": "publish"}
    assert release["publish"]["permissions"] == {"id-token": "write"}
    assert [step["uses"].split("@")[0] for step in release["publish"]["steps"]] == [
        "actions/download-artifact",
        "pypa/gh-action-pypi-publish",
    ]


def test_the_citation_names_the_version_of_the_package() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == rc.__version__
    (paper,) = cited["references"]
    assert "arXiv:2310.13040" in [each["value"] for each in paper["identifiers"]]
    names = [author["family-names"] for author in paper["authors"]]
    said = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f'{", ".join(names)}, "{paper["title"]}", TMLR {paper["year"]}, arXiv 2310.13040' in said
    page = (ROOT / "docs" / "howto" / "github.md").read_text(encoding="utf-8")
    assert ("OWNER/robustcheck" in page) == (not HOME)  # a placeholder only while the project has no home


@pytest.mark.process
def test_make_knows_what_the_workflows_ask_of_it() -> None:
    lines = "\n".join(step["run"] for path in WORKFLOWS for step in steps_of(path) if "run" in step)
    targets = {word for words in re.findall(r"^make ((?:[a-z-]+ ?)+)", lines, re.MULTILINE) for word in words.split()}
    assert targets
    command = ["make", "--dry-run", "--always-make", *sorted(targets)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0


@pytest.mark.long
@pytest.mark.skipif(shutil.which("shellcheck", path=Path(sys.executable).parent) is None, reason="needs shellcheck")
def test_shellcheck_finds_nothing_in_the_actions_steps(tmp_path: Path) -> None:
    """Those of workflows are shown to it by actionlint."""
    files = []
    for number, step in enumerate(step for step in steps_of(ACTION) if "run" in step):
        files.append(tmp_path / f"{number}.sh")
        files[-1].write_text(step["run"])
    command = [str(Path(sys.executable).parent / "shellcheck"), "--shell=bash", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# ------------------------------------------------------------------------------------ steps of a release, run here


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What the release asks: where the project lives, its version and its changelog."""
    shutil.copytree(ROOT / "release", tmp_path / "release")
    (tmp_path / "checker").mkdir()
    (tmp_path / "checker" / "text.py").write_text(f'VERSION: Final = "1.2.3"\nHOME: Final = "{OUR_HOME}"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 1.2.3\nNew.\n\n- One\n\n## 1.2.2\nOld.\n")
    return tmp_path


@pytest.mark.long
def test_a_release_is_ready_when_home_version_tag_and_changelog_agree(project: Path) -> None:
    lines = script("release", "build", "home")
    here = {
        "GITHUB_SERVER_URL": "https://git.example",
        "GITHUB_REPOSITORY": "Some-Owner/robustcheck",
        "GITHUB_REF_NAME": "v1.2.3",
    }
    for others, said in (
        ({}, ""),
        ({"GITHUB_REF_NAME": "v1.2.4"}, "error: the tag is v1.2.4; VERSION is 1.2.3\n"),
        (
            {"GITHUB_REPOSITORY": "someone/fork"},
            f"error: HOME is {OUR_HOME}; this is https://git.example/someone/fork\n",
        ),
    ):
        done, _ = run(lines, project, **here | others)
        assert (done.returncode, done.stdout, done.stderr) == (int(bool(said)), "", said)
    for repository, ours in (("Some-Owner/robustcheck", "true"), ("someone/fork", "false")):
        _, outputs = run(script("docs", "build", "is this"), project, **here | {"GITHUB_REPOSITORY": repository})
        assert outputs == {"ours": ours}
    _, outputs = run(script("images", "publish", "home"), project, **here)
    assert outputs == {"image": "ghcr.io/some-owner/robustcheck"}  # small letters
    (project / "CHANGELOG.md").write_text("# Changelog\n\n## 1.2.3 (unreleased)\n")
    done, _ = run(lines, project, **here)
    assert done.stderr.startswith("error: CHANGELOG.md has no line '## 1.2.3'; ")

    # no release, image or site while the project has no home
    (project / "checker" / "text.py").write_text('VERSION: Final = "1.2.3"\nHOME: Final = ""\n')
    nowhere = here | {"GITHUB_SERVER_URL": "", "GITHUB_REPOSITORY": ""}
    done, _ = run(lines, project, **nowhere)
    assert done.returncode == 1
    assert "error: HOME in checker/text.py is empty; set it" in done.stderr
    done, outputs = run(script("images", "publish", "home"), project, **nowhere)
    assert (done.returncode, outputs) == (1, {})
    assert run(script("docs", "build", "is this"), project, **nowhere)[1] == {"ours": "false"}


@pytest.mark.long
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


@pytest.mark.long
def test_the_release_page_and_the_floating_tag(project: Path) -> None:
    bin_ = program(project / "bin" / "gh", GH).parent
    for name in ("dist/a.whl", "sbom/b.json"):
        (project / name).parent.mkdir()
        (project / name).touch()
    refs = "repos/o/r/git/refs"
    for missing, call in (
        ("0", f"-X PATCH {refs}/tags/v1 -f sha=abc -F force=true"),
        ("1", f"-X POST {refs} -f ref=refs/tags/v1 -f sha=abc"),
    ):
        (project / "gh").unlink(missing_ok=True)
        variables = {
            "PATH": f"{bin_}:/usr/bin:/bin", "MISSING": missing, "GITHUB_REF_NAME": "v1.2.3", "GITHUB_SHA": "abc",
            "GITHUB_REPOSITORY": "o/r",
        }  # fmt: skip
        for name in ("release page", "floating tag"):
            done, _ = run(script("release", "github", name), project, **variables)
            assert done.returncode == 0, done.stderr
        assert (project / "notes.md").read_text() == "New.\n\n- One\n\n"
        assert (project / "gh").read_text().splitlines() == [
            "release create v1.2.3 --verify-tag --notes-file notes.md dist/a.whl sbom/b.json",
            "api --silent repos/o/r/git/ref/tags/v1",
            f"api --silent {call}",
        ]

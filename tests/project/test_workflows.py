"""What the workflows of .github/ promise; how they are written is read by zizmor and actionlint in `make lint`."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

import robustcheck_onnx as rc
from robustcheck_onnx.checker.text import HOME
from support import BIN, ROOT
from support.repository import ACTION, jobs, run_step, script, steps_of

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
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == rc.__version__
    page = (ROOT / "docs/ci.md").read_text(encoding="utf-8")
    assert ("OWNER/robustcheck" in page) == (not HOME)  # a placeholder only while the project has no home


@pytest.mark.long
@pytest.mark.skipif(shutil.which("shellcheck", path=BIN) is None, reason="needs shellcheck")
def test_shellcheck_finds_nothing_in_the_actions_steps() -> None:
    """Those of workflows are shown to it by actionlint."""
    for step in steps_of(ACTION):
        done = subprocess.run(
            [str(BIN / "shellcheck"), "--shell=bash", "-"],
            input=step.get("run", ""), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout


# ------------------------------------------------------------------------------------ steps of a release, run here


@pytest.mark.long
def test_a_release_is_ready_when_home_version_tag_and_changelog_agree(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "release", tmp_path / "release")
    (tmp_path / "checker").mkdir()
    (tmp_path / "checker" / "text.py").write_text(f'VERSION: Final = "1.2.3"\nHOME: Final = "{OUR_HOME}"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 1.2.3\nNew.\n\n- One\n\n## 1.2.2\nOld.\n")
    lines = script("release", "build", "home")
    here = {
        "GITHUB_SERVER_URL": "https://git.example",
        "GITHUB_REPOSITORY": "Some-Owner/robustcheck",
        "GITHUB_REF_NAME": "v1.2.3",
    }
    fork = {"GITHUB_REPOSITORY": "someone/fork"}
    for others, said, ours in (
        ({}, "", "true"),
        ({"GITHUB_REF_NAME": "v1.2.4"}, "error: the tag is v1.2.4; VERSION is 1.2.3\n", "true"),
        (fork, f"error: HOME is {OUR_HOME}; this is https://git.example/someone/fork\n", "false"),
    ):
        done, _ = run_step(lines, tmp_path, **here | others)
        assert (done.returncode, done.stdout, done.stderr) == (int(bool(said)), "", said)
        assert run_step(script("docs", "build", "is this"), tmp_path, **here | others)[1] == {"ours": ours}
    _, outputs = run_step(script("images", "publish", "home"), tmp_path, **here)
    assert outputs == {"image": "ghcr.io/some-owner/robustcheck"}  # small letters
    for file, text, said in (
        ("CHANGELOG.md", "# Changelog\n\n## 1.2.3 (unreleased)\n", "error: CHANGELOG.md has no line '## 1.2.3'; "),
        ("checker/text.py", 'VERSION: Final = "1.2.3"\nHOME: Final = ""\n', "error: HOME in checker/text.py is empty"),
    ):
        (tmp_path / file).write_text(text)
        assert said in run_step(lines, tmp_path, **here)[0].stderr

"""The workflows of .github/ and the action: pinned, with few rights, readable by the shell."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import robustcheck_onnx as rc
from robustcheck_onnx.checker.text import HOME
from support import ROOT
from support.workflows import ACTION, WORKFLOWS, jobs, steps_of

SHELLCHECK = Path(sys.executable).parent / "shellcheck"
PINNED = re.compile(r"uses: ([\w./-]+)@([0-9a-f]{40}) # (v\d+\.\d+\.\d+)$", re.MULTILINE)
SCRIPTS = [
    pytest.param(step["run"], id=f"{path.stem}: {step.get('name') or step.get('id') or step['run'][:30]}")
    for path in [*WORKFLOWS, ACTION]
    for step in steps_of(path)
    if "run" in step
]


def test_there_are_workflows() -> None:
    assert [path.stem for path in WORKFLOWS] == ["ci", "codeql", "docs", "images", "release"]
    assert len(SCRIPTS) >= 20


@pytest.mark.parametrize("path", [*WORKFLOWS, ACTION], ids=lambda path: path.stem)
def test_actions_are_pinned_by_digest(path: Path) -> None:
    used = [step["uses"] for step in steps_of(path) if "uses" in step]
    assert [f"{name}@{digest}" for name, digest, _ in PINNED.findall(path.read_text(encoding="utf-8"))] == used
    assert used


def test_an_action_has_one_digest() -> None:
    found = {match for path in [*WORKFLOWS, ACTION] for match in PINNED.findall(path.read_text(encoding="utf-8"))}
    repositories = {("/".join(name.split("/")[:2]), digest, version) for name, digest, version in found}
    assert len({name for name, _, _ in repositories}) == len(repositories)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_jobs_have_few_rights_and_an_end(path: Path) -> None:
    whole = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert whole["permissions"] == {}
    assert "group" in whole["concurrency"]
    assert "pull_request_target" not in whole[True]  # YAML 1.1 reads `on` as true
    for name, job in jobs(path).items():
        assert 0 < job["timeout-minutes"] <= 90, name
        assert "permissions" in job, name
        writes = {right for right, kind in job["permissions"].items() if kind == "write"}
        if "pull_request" in whole[True] and job.get("if") != "github.event_name == 'push'":
            assert writes <= {"security-events"}, name  # CodeQL's findings; of a fork the token can't write at all
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"] == {"persist-credentials": False}, name


def test_what_publishes_waits_for_what_tests() -> None:
    release = jobs(ROOT / ".github" / "workflows" / "release.yml")
    order = {name: job.get("needs") for name, job in release.items()}
    assert order == {"build": None, "test": "build", "attest": "test", "publish": "attest", "github": "publish"}
    assert release["publish"]["permissions"] == {"id-token": "write"}
    assert [step["uses"].split("@")[0] for step in release["publish"]["steps"]] == [
        "actions/download-artifact",
        "pypa/gh-action-pypi-publish",
    ]


def test_the_tests_run_on_every_python_that_the_package_takes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    said = {c.split(" :: ")[-1] for c in project["classifiers"] if re.search(r":: 3\.\d+$", c)}
    matrix = jobs(ROOT / ".github" / "workflows" / "ci.yml")["tests"]["strategy"]["matrix"]
    assert said <= set(matrix["python"])
    assert [re.sub(r"-?\d.*?(-arm)?$", r"\1", system) for system in matrix["system"]] == [
        "ubuntu", "ubuntu-arm", "macos", "windows",
    ]  # fmt: skip


@pytest.mark.parametrize("lines", SCRIPTS)
def test_the_shell_can_read_every_step(lines: str) -> None:
    done = subprocess.run(["bash", "-n"], input=lines, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "${{" not in lines  # what comes from outside reaches a script as a variable only
    for target in re.findall(r"^make ((?:[a-z]+ ?)+)", lines, re.MULTILINE):
        asked = subprocess.run(
            ["make", "--dry-run", "--always-make", *target.split()], cwd=ROOT, capture_output=True, check=False
        )
        assert asked.returncode == 0, target


@pytest.mark.skipif(not SHELLCHECK.exists(), reason="needs shellcheck (group lint)")
def test_shellcheck_finds_nothing_in_the_actions_steps() -> None:
    """Those of workflows are shown to it by actionlint."""
    for step in steps_of(ACTION):
        if "run" in step:
            done = subprocess.run(
                [SHELLCHECK, "--shell=bash", "-"], input=step["run"], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stdout


def test_the_citation_names_the_version_of_the_package() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == rc.__version__
    (paper,) = cited["references"]
    assert "arXiv:2310.13040" in [each["value"] for each in paper["identifiers"]]
    names = [author["family-names"] for author in paper["authors"]]
    said = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f'{", ".join(names)}, "{paper["title"]}", TMLR {paper["year"]}, arXiv 2310.13040' in said


def test_the_owner_is_a_placeholder_only_while_the_project_has_no_home() -> None:
    page = (ROOT / "docs" / "howto" / "github.md").read_text(encoding="utf-8")
    assert ("OWNER/robustcheck" in page) == (not HOME)

"""What is published: version, licences, commands, the sdist, and the same code with the small ONNX Runtime.

And what the workflows of .github/ promise; how they are written is read by zizmor and actionlint in `make lint`.
"""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from packaging.licenses import canonicalize_license_expression
from packaging.requirements import Requirement

import robustcheck_onnx as rc
from robustcheck_onnx import exporters
from robustcheck_onnx.checker import errors as checker_errors
from robustcheck_onnx.checker.core.model.refusals import check_supported
from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.text import HOME, VERSION
from support import BIN, INSTALLED, ROOT, Patch, onnx_models, raised, read_json, read_text
from support.repository import ACTION, jobs, load, run_step, script, steps_of

PYPROJECT = read_text("pyproject.toml")
PROJECT = tomllib.loads(PYPROJECT)["project"]
PLATFORMS = [("linux", "x86_64"), ("win32", "AMD64"), ("darwin", "arm64"), ("linux", "aarch64"), ("win32", "ARM64")]


def runtimes(dependencies: list[str], system: str, machine: str) -> list[str]:
    asked = map(Requirement, dependencies)
    here = {"sys_platform": system, "platform_machine": machine}
    there = (one.name for one in asked if not one.marker or one.marker.evaluate(here))
    return [name for name in there if name.startswith("onnxruntime")]


# ------------------------------------------------------------------------------------------ version, licences, names


def test_the_version_stands_in_one_place() -> None:
    assert metadata.version(INSTALLED) == VERSION  # of an editable install: pip install -e . after a change
    assert load("release/constant").constant("VERSION") == VERSION
    assert load("release/constant").constant("HOME") == HOME


def test_examples_name_this_version() -> None:
    pages = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "docs" / "ci").iterdir(), ROOT / "README.md"]
    example = re.compile(r"(?:robustcheck@v|robustcheck_onnx(?:_cpu)?-|rev: v)(\d+\.\d+\.\d+)")
    named = [version for page in pages for version in example.findall(read_text(page))]
    assert named
    assert set(named) == {VERSION}


def test_the_lowest_versions_are_those_that_are_admitted() -> None:
    """constraints-lowest.txt names the lower bound of each dependency, in its first release."""
    lines = read_text("constraints-lowest.txt").splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    for one in map(Requirement, PROJECT["dependencies"]):
        (lowest,) = [bound.version for bound in one.specifier if bound.operator == ">="]
        assert f"{pinned.pop(one.name)}.".startswith(f"{lowest}."), one.name
    assert pinned == {}


def test_hooks_use_the_versions_that_were_tested() -> None:
    hooks = yaml.safe_load(read_text(".pre-commit-config.yaml"))["repos"][0]["hooks"]
    used = {pin for hook in hooks for pin in hook.get("additional_dependencies", [])}
    assert {pin.split("==")[0] for pin in used} == {"ruff", "import-linter", "typos", "PyYAML"}
    assert used <= set(read_text("constraints.txt").splitlines())


def test_the_licences_are_the_codes_and_the_photos() -> None:
    table = read_text("checker/photos/ATTRIBUTION.md")
    photos = {row.split(" | ")[2] for row in table.splitlines() if re.match(r"\| \S+\.jpg \|", row)}
    assert "public domain" in photos
    names = photos - {"public domain"} | {"LicenseRef-Public-Domain"}
    notice = read_text("NOTICE")
    for name, table in read_json(ROOT / "thresholds" / "data" / "published_sources.json").items():
        part = notice.partition(f"published_{name}.csv")[2].partition("\n\n\n")[0]
        assert f"from {table['source'].partition('@')[0]} " in part
        names.add(table["licence"])
    assert "NOTICE" in PROJECT["license-files"]
    expression = " AND ".join(["Apache-2.0", *sorted(names - {"Apache-2.0"})])
    assert PROJECT["license"] == canonicalize_license_expression(expression)


# ------------------------------------------------------------------------------------------------------------- sdist


@pytest.mark.long
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a clone: git lists what must be in the sdist")
def test_the_sdist_holds_every_file_of_the_repository(tmp_path: Path) -> None:
    clone = tmp_path / "clone"  # a build leaves a folder behind
    as_windows = ("git", "-c", "core.autocrlf=true")
    subprocess.run([*as_windows, "checkout-index", "-a", f"--prefix={clone}/"], cwd=ROOT, check=True)
    tracked = {path.relative_to(clone) for path in clone.rglob("*") if path.is_file()}
    assert not [name for name in tracked if name.suffix != ".jpg" and b"\r" in (clone / name).read_bytes()]
    build = "import sys, setuptools.build_meta as backend; backend.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=clone, capture_output=True, check=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    assert archive.name == f"robustcheck_onnx-{VERSION}.tar.gz"
    with tarfile.open(archive) as opened:
        held = {Path(*Path(member.name).parts[1:]) for member in opened if member.isfile()}
    assert tracked - held == set()
    assert len(held) < 2 * len(tracked)  # no .venv, no build


# ------------------------------------------------------------------------------------------- the small ONNX Runtime


def test_the_small_distribution_differs_in_the_name_and_the_runtime_alone(tmp_path: Path) -> None:
    load("release/cpu").lay(tmp_path / "source")
    theirs = read_text(tmp_path / "source" / "pyproject.toml")
    documents = [tomllib.loads(text) for text in (PYPROJECT, theirs)]
    ours, small = (document["project"] for document in documents)
    for system, machine in PLATFORMS:
        assert runtimes(small["dependencies"], system, machine) == ["onnxruntime"]
        large = system != "darwin" and machine in {"x86_64", "AMD64"}
        assert runtimes(ours["dependencies"], system, machine) == ["onnxruntime-gpu" if large else "onnxruntime"]
    del ours["optional-dependencies"]["cuda"]
    bounds = set[str]()
    for project, name in ((ours, "robustcheck-onnx"), (small, "robustcheck-onnx-cpu")):
        assert project.pop("name") == name
        project["start"] = project["scripts"].pop(name)  # `uvx NAME` and `pipx run NAME` start it
        assert project["start"] == project["scripts"]["robustcheck"]
        asked = [Requirement(one) for one in project.pop("dependencies")]
        project["others"] = [str(one) for one in asked if not one.name.startswith("onnxruntime")]
        bounds |= {str(one.specifier) for one in asked if one.name.startswith("onnxruntime")}
    assert bounds == {"<2,>=1.24"}
    assert documents[0] == documents[1]


def test_hints_name_the_distribution_that_is_installed(monkeypatch: Patch) -> None:
    """An ONNX Runtime that lost files to another is installed anew: pip would call it complete."""
    gone = "pip uninstall -y onnxruntime"
    for installed, runtimes_there, repair in (
        ("robustcheck-onnx", ["onnxruntime-gpu"], f"{gone}-gpu && pip install onnxruntime-gpu"),
        ("robustcheck-onnx-cpu", [], "pip install robustcheck-onnx-cpu"),
        ("", ["onnxruntime-gpu", "onnxruntime"], f"{gone} onnxruntime-gpu && pip install onnxruntime"),
    ):
        there = [SimpleNamespace(name=name) for name in (installed, None, *runtimes_there)]
        monkeypatch.setattr(metadata, "distributions", lambda there=there: there)
        expected = f"pip install '{installed}[data]'" if installed else "pip install '.[data]'  # in a clone"
        assert checker_errors.install_hint("data") == exporters.install_hint("data") == expected
        assert checker_errors.as_error(ImportError(name="onnxruntime.capi")).hint == repair


def test_a_model_too_new_for_the_small_runtime_does_not_ask_for_the_large_one(monkeypatch: Patch) -> None:
    proto = onnx_models.classifier()
    proto.opset_import[0].version = 99
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    caught = raised(CannotAssessError, "opset", check_supported, proto)
    assert caught.hint == "pip install --upgrade onnxruntime, or export with opset 18"


# --------------------------------------------------------------------------------------------------------- workflows

OUR_HOME = "https://git.example/Some-Owner/robustcheck"


def test_the_tests_run_on_every_python_that_the_package_takes() -> None:
    project = tomllib.loads(read_text("pyproject.toml"))["project"]
    said = {c.split(" :: ")[-1] for c in project["classifiers"] if re.search(r":: 3\.\d+$", c)}
    assert said
    assert said <= set(jobs(ROOT / ".github" / "workflows" / "ci.yml")["tests"]["strategy"]["matrix"]["python"])


def test_each_distribution_is_attested_with_its_own_bill_of_materials() -> None:
    made = script("release", "build", "bill of materials")
    steps = jobs(ROOT / ".github" / "workflows" / "release.yml")["attest"]["steps"]
    attested = {
        step["with"]["sbom-path"]: step["with"]["subject-path"] for step in steps if "sbom-path" in step.get("with", {})
    }
    for name in ("robustcheck-onnx", "robustcheck-onnx-cpu"):
        assert attested.pop(f"sbom/{name}.cdx.json") == f"dist/{name.replace('-', '_')}-*"
    assert attested == {}
    assert "for name in robustcheck-onnx robustcheck-onnx-cpu; do" in made


def test_a_job_of_each_monday_installs_without_constraints() -> None:
    newest = jobs(ROOT / ".github" / "workflows" / "ci.yml")["newest"]
    assert "schedule" in newest["if"]
    lines = "".join(step.get("run", "") for step in newest["steps"])
    assert "pytest" in lines
    assert "--constraint" not in lines


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
    assert yaml.safe_load(read_text("CITATION.cff"))["version"] == rc.__version__
    page = read_text("docs/ci.md")
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

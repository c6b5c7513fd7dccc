"""The templates of docs/ci/: the command of each is run; `make manifests` shows the files to their systems."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import ROOT, Place
from support.workflows import program

CI = ROOT / "docs" / "ci"
BIN = Path(sys.executable).parent
GATE = ["check", "--strict", "--images=/photos", "--max-memory=3GiB", "--output=terminal"]


def document(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((CI / name).read_text(encoding="utf-8")))


def from_yaml(name: str) -> list[str]:
    """The words of the gate's container."""
    spec = document(name)["spec"]
    if name.startswith("kubernetes"):
        (container,) = spec["template"]["spec"]["containers"]
    elif name == "kserve.yaml":
        (container,) = spec["predictor"]["initContainers"]
    else:
        (container,) = (each["container"] for each in spec["templates"] if each["name"] == "robustcheck")
        assert container["command"] == ["robustcheck"]
        given = {f"workflow.parameters.{each['name']}": each["value"] for each in spec["arguments"]["parameters"]}
        words = container["args"]
        for key, value in (given | {"workflow.name": "robustcheck"}).items():
            words = [word.replace("{{" + key + "}}", value) for word in words]
        return list(words)
    return list(container["args"])


def from_python(name: str) -> list[str]:
    """The words of the gate's container: texts, joined texts and names that are constants or arguments of the file."""
    tree = ast.parse((CI / name).read_text(encoding="utf-8"))
    known = {"model": "/models/encoder.onnx", "images": "/photos", "report": "/reports/robustcheck.json"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            known[ast.unparse(node.targets[0])] = str(node.value.value)

    def text(node: ast.expr) -> str:
        if isinstance(node, ast.Constant):
            return str(node.value)
        if isinstance(node, ast.Name):
            return known[node.id]
        if isinstance(node, ast.JoinedStr):
            return "".join(text(part.value if isinstance(part, ast.FormattedValue) else part) for part in node.values)
        assert isinstance(node, ast.Call)  # dsl.ConcatPlaceholder([...])
        assert isinstance(node.args[0], ast.List)
        return "".join(map(text, node.args[0].elts))

    (words,) = (
        keyword.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg in {"args", "arguments"} and isinstance(keyword.value, ast.List)
    )
    return [text(word) for word in words.elts]


def test_all_manifests_have_the_command_of_the_job() -> None:
    job, model = "--output=json=/reports/robustcheck.json", "/models/encoder.onnx"
    junit = "--output=junit=/reports/robustcheck.junit.xml"
    assert from_yaml("kubernetes-job.yaml") == [*GATE, job, junit, "--", model]
    assert from_yaml("argo-workflow.yaml") == [*GATE, job, junit, "--", model]
    assert from_yaml("kserve.yaml") == [
        *GATE, "--output=json=/reports/encoder.json", "--", "/models/encoder/model.onnx",
    ]  # fmt: skip
    for name in ("kubeflow_pipeline.py", "airflow_dag.py"):
        assert from_python(name) == [*GATE, job, "--", model]


def test_images_are_pinned_hold_no_model_and_do_not_run_as_root() -> None:
    rooms = {"face", "checker", "exporters", "thresholds", "pyproject.toml", "README.md", "LICENSE", "constraints.txt"}
    for file in ("Dockerfile.cpu", "Dockerfile.cuda"):
        lines = (CI / file).read_text().splitlines()
        bases = [line for line in lines if line.startswith("FROM")]
        assert all(re.fullmatch(r"FROM python:3\.\d+\.\d+-slim-\w+( AS build)?", base) for base in bases)
        assert 'ENTRYPOINT ["robustcheck"]' in lines
        assert not [line for line in lines if line.startswith("CMD")]  # no model named: exit 2, not a help text's 0
        assert [line for line in lines if line.startswith("USER")] == ["USER 10001"]
        copied = {word for x in lines if x.startswith("COPY") and "--from" not in x for word in x.split()[1:-1]}
        assert copied == rooms | ({"release"} if file == "Dockerfile.cpu" else set())
    # of which ONNX Runtime without CUDA is installed (tests/project/test_distribution.py)
    cpu = (CI / "Dockerfile.cpu").read_text()
    assert "\nRUN python release/cpu.py /cpu \\\n" in cpu
    assert "\n && /opt/robustcheck/bin/pip install --no-cache-dir --constraint constraints.txt /cpu\n" in cpu
    assert re.search(r"^onnxruntime==[\d.]+$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("docker"), reason="needs a container engine (docker)")
def test_the_cpu_image_builds_and_runs() -> None:
    build = ["docker", "build", "-f", "docs/ci/Dockerfile.cpu", "-t", "robustcheck:test", "."]
    subprocess.run(build, cwd=ROOT, check=True)
    run = ["docker", "run", "--rm", "robustcheck:test", "demo"]
    assert "SYNTHETIC" in subprocess.run(run, capture_output=True, text=True, check=True).stdout


# --------------------------------------------------------------------------------------- GitLab, Jenkins, a container


def bash(script: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{BIN}:/usr/bin:/bin", "HOME": os.environ.get("HOME", "/")}
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=False, env=environment | variables
    )


def gitlab_job() -> dict[str, Any]:
    return dict(document("robustcheck.gitlab-ci.yml")["robustcheck"])


def calls(model: str, images: str) -> list[tuple[str, dict[str, str]]]:
    """The scripts of GitLab's job and of Jenkins's stage, which its page shows, too, with what they are given."""
    found = re.compile(r"^ *sh '([^'\n]*)'$", re.MULTILINE)
    (jenkins,) = found.findall((CI / "Jenkinsfile").read_text())
    assert found.findall((ROOT / "docs/howto/jenkins.md").read_text()) == [jenkins]
    (gitlab,) = gitlab_job()["script"]
    return [
        (gitlab, {"RC_MODEL": model, "RC_IMAGES": images}),
        (jenkins, {"MODEL": model, "IMAGES": images}),
    ]


@pytest.mark.process
def test_names_stay_words_in_both_templates(tmp_path: Path) -> None:
    """A name stands behind `--`, and photos in one word with their option; test_strict.py shows what that means."""
    stub = program(tmp_path / "bin" / "robustcheck", "#!/bin/sh\nprintf '%s\\n' \"$@\" > words\n")
    for name in ("--fail-on=never", "--config=.evil.onnx", "$(touch pwned)"):
        for script, variables in calls(name, name):
            bash(script, tmp_path, PATH=f"{stub.parent}:/usr/bin:/bin", **variables)
            words = (tmp_path / "words").read_text().splitlines()
            assert words[:3] == ["check", "--strict", f"--images={name}"]
            assert words[-2:] == ["--", name]
    assert not (tmp_path / "pwned").exists()
    (install,) = gitlab_job()["before_script"]
    assert bash(install, tmp_path, RC_REQUIREMENT="").returncode != 0


@pytest.mark.long
def test_the_commands_of_the_templates_run(lookup_pass: Place, tmp_path: Path) -> None:
    model, photos = map(str, lookup_pass)
    artifacts = gitlab_job()["artifacts"]
    left = ({*artifacts["paths"], *artifacts["reports"].values()}, {"robustcheck.json", "robustcheck.junit.xml"})
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for number, (script, variables) in enumerate(calls(model, photos)):
        folders = [tmp_path / f"{kind}{number}" for kind in ("sound", "settings", "linked")]
        for folder in folders:
            folder.mkdir()
        done = bash(script, folders[0], **variables)
        assert done.returncode == 0, done.stderr
        assert {p.name for p in folders[0].iterdir()} == left[number]
        # a checkout loosens no gate: its settings are refused, and its links are not followed
        (folders[1] / "robustcheck.toml").write_text('fail-on = "never"')
        (folders[2] / "robustcheck.json").symlink_to(victim)
        assert [bash(script, folder, **variables).returncode for folder in folders[1:]] == [2, 2]
        missing = {name: value.replace(model, "missing.onnx") for name, value in variables.items()}
        assert bash(script, folders[0], **missing).returncode == 2
    assert victim.read_text() == "mine"


@pytest.mark.long
def test_the_command_of_the_job_runs(lookup_pass: Place, tmp_path: Path) -> None:
    model, photos = lookup_pass
    words = from_yaml("kubernetes-job.yaml")[:-1]
    here = [word.replace("=/photos", f"={photos}").replace("=/reports/", f"={tmp_path}/") for word in words]
    done = subprocess.run([BIN / "robustcheck", *here, model], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "✓ PASS" in done.stdout
    assert json.loads((tmp_path / "robustcheck.json").read_text())["verdict"]["verdict"] == "PASS"
    assert (tmp_path / "robustcheck.junit.xml").exists()

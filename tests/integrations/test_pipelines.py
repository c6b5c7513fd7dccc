"""The templates of docs/ci/: the command of each is run; `make manifests` shows the files to their systems."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from support import ROOT, Place
from support.workflows import program, run

CI = ROOT / "docs" / "ci"
BIN = Path(sys.executable).parent
GITLAB, MODEL = "robustcheck.gitlab-ci.yml", "/models/encoder.onnx"
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
        words = "\n".join(container["args"]).replace("{{workflow.name}}", "robustcheck")
        for each in spec["arguments"]["parameters"]:
            words = words.replace(f"{{{{workflow.parameters.{each['name']}}}}}", each["value"])
        return words.split("\n")
    return list(container["args"])


def from_python(name: str) -> list[str]:
    """The words of the gate's container, with the constants and the arguments of the file."""
    tree = ast.parse((CI / name).read_text(encoding="utf-8"))
    known: dict[str, object] = {"model": MODEL, "images": "/photos", "report": "/reports/robustcheck.json"}
    known["dsl"] = SimpleNamespace(ConcatPlaceholder="".join)
    words: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            known[ast.unparse(node.targets[0])] = node.value.value
        if isinstance(node, ast.keyword) and node.arg in {"args", "arguments"} and isinstance(node.value, ast.List):
            words += eval(ast.unparse(node.value), known)
    return words


def test_all_manifests_have_the_command_of_the_job() -> None:
    job, junit = "--output=json=/reports/robustcheck.json", "--output=junit=/reports/robustcheck.junit.xml"
    for name in ("kubernetes-job.yaml", "argo-workflow.yaml"):
        assert from_yaml(name) == [*GATE, job, junit, "--", MODEL]
    served = ["--output=json=/reports/encoder.json", "--", "/models/encoder/model.onnx"]
    assert from_yaml("kserve.yaml") == [*GATE, *served]
    for name in ("kubeflow_pipeline.py", "airflow_dag.py"):
        assert from_python(name) == [*GATE, job, "--", MODEL]


def test_images_are_pinned_hold_no_model_and_do_not_run_as_root() -> None:
    rooms = {
        "face",
        "checker",
        "exporters",
        "thresholds",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "NOTICE",
        "constraints.txt",
    }
    for file, more in (("Dockerfile.cpu", {"release"}), ("Dockerfile.cuda", set[str]())):
        text = (CI / file).read_text()
        bases = re.findall("^FROM .*", text, re.MULTILINE)
        assert all(re.fullmatch(r"FROM python:3\.\d+\.\d+-slim-\w+( AS build)?", base) for base in bases)
        # no model named: exit 2, not a help text's 0
        settings = re.findall("^(?:ENTRYPOINT|CMD|USER) .*", text, re.MULTILINE)
        assert sorted(settings) == ['ENTRYPOINT ["robustcheck"]', "USER 10001"]
        copied = re.findall("^COPY (?!--from)(.*) .*", text, re.MULTILINE)
        assert {word for words in copied for word in words.split()} == rooms | more
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
    words = ["docker", "run", "--rm", "robustcheck:test", "demo"]
    assert "SYNTHETIC" in subprocess.run(words, capture_output=True, text=True, check=True).stdout


# --------------------------------------------------------------------------------------- GitLab, Jenkins, a container


def calls(model: str, images: str) -> list[tuple[str, dict[str, str]]]:
    """The scripts of GitLab's job and of Jenkins's stage, which its page shows, too, with what they are given."""
    found = re.compile(r"^ *sh '([^'\n]*)'$", re.MULTILINE)
    (jenkins,) = found.findall((CI / "Jenkinsfile").read_text())
    assert found.findall((ROOT / "docs/howto/jenkins.md").read_text()) == [jenkins]
    (gitlab,) = document(GITLAB)["robustcheck"]["script"]
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
            run(script, tmp_path, PATH=f"{stub.parent}:/usr/bin:/bin", **variables)
            words = (tmp_path / "words").read_text().splitlines()
            assert (words[:3], words[-2:]) == (["check", "--strict", f"--images={name}"], ["--", name])
    assert not (tmp_path / "pwned").exists()
    (install,) = document(GITLAB)["robustcheck"]["before_script"]
    assert run(install, tmp_path, RC_REQUIREMENT="")[0].returncode != 0


@pytest.mark.long
def test_the_commands_of_the_templates_run(lookup_pass: Place, tmp_path: Path) -> None:
    model, photos = map(str, lookup_pass)
    artifacts = document(GITLAB)["robustcheck"]["artifacts"]
    written = {"robustcheck.json", "robustcheck.junit.xml"}
    left = [{*artifacts["paths"], *artifacts["reports"].values()}, written, written]
    job = " ".join(from_yaml("kubernetes-job.yaml")).replace("=/photos", '="$IMAGES"').replace("=/reports/", "=")
    job = "robustcheck " + job.replace(MODEL, '"$MODEL"')
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for number, (script, variables) in enumerate([*calls(model, photos), (job, {"MODEL": model, "IMAGES": photos})]):
        folders = [tmp_path / f"{kind}{number}" for kind in ("sound", "settings", "linked")]
        for folder in folders:
            folder.mkdir()
        path = {"PATH": f"{BIN}:/usr/bin:/bin"}
        done, _ = run(script, folders[0], **path, **variables)
        assert (done.returncode, "✓ PASS" in done.stdout) == (0, True), done.stderr
        assert {p.name for p in folders[0].iterdir()} == left[number] | {"github_output"}
        # a checkout loosens no gate: its settings are refused, and its links are not followed
        (folders[1] / "robustcheck.toml").write_text('fail-on = "never"')
        (folders[2] / "robustcheck.json").symlink_to(victim)
        missing = {name: value.replace(model, "missing.onnx") for name, value in variables.items()}
        for folder, given in ((folders[1], variables), (folders[2], variables), (folders[0], missing)):
            assert run(script, folder, **path, **given)[0].returncode == 2
    assert victim.read_text() == "mine"

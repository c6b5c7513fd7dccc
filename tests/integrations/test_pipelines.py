"""The manifests of docs/ci/: the command of each is run; `make manifests` shows the files to their systems."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import ROOT

CI = ROOT / "docs" / "ci"
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


@pytest.mark.parametrize("name", ["argo-workflow.yaml", "kserve.yaml", "kubeflow_pipeline.py", "airflow_dag.py"])
def test_all_manifests_have_the_command_of_the_job(name: str) -> None:
    words = from_python(name) if name.endswith(".py") else from_yaml(name)
    model = "/models/encoder/model.onnx" if name == "kserve.yaml" else "/models/encoder.onnx"
    report = "encoder" if name == "kserve.yaml" else "robustcheck"
    junit = ["--output=junit=/reports/robustcheck.junit.xml"] if name == "argo-workflow.yaml" else []
    assert words == [*GATE, f"--output=json=/reports/{report}.json", *junit, "--", model]


def test_the_command_of_the_job_runs(lookup_pass: tuple[Path, Path], tmp_path: Path) -> None:
    model, photos = lookup_pass
    words = from_yaml("kubernetes-job.yaml")
    reports = [
        f"--output={form}=/reports/robustcheck.{end}" for form, end in (("json", "json"), ("junit", "junit.xml"))
    ]
    assert words == [*GATE, *reports, "--", "/models/encoder.onnx"]
    here = [word.replace("=/photos", f"={photos}").replace("=/reports/", f"={tmp_path}/") for word in words[:-1]]
    command = [str(Path(sys.executable).parent / "robustcheck"), *here]
    environment = os.environ | {"ROBUSTCHECK_NO_CACHE": "1"}
    for path, code in ((model, 0), (photos / "missing.onnx", 2)):
        done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == code, done.stderr
        if code == 0:
            assert "✓ PASS" in done.stdout
            assert json.loads((tmp_path / "robustcheck.json").read_text())["verdict"]["verdict"] == "PASS"
            assert (tmp_path / "robustcheck.junit.xml").exists()


def test_only_the_machines_faults_are_tried_again() -> None:
    """4: environment; 143: terminated. A WARN, or a model that can't be assessed, stays what it is."""
    job = document("kubernetes-job.yaml")["spec"]
    (codes,) = (rule for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule)
    assert codes["action"] == "FailJob"
    assert codes["onExitCodes"] == {"containerName": "robustcheck", "operator": "NotIn", "values": [4, 143]}
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    (retry,) = (e["retryStrategy"] for e in document("argo-workflow.yaml")["spec"]["templates"] if "retryStrategy" in e)
    assert retry["expression"] == 'lastRetry.status == "Error" or asInt(lastRetry.exitCode) in [4, 143]'
    for name in ("kubeflow_pipeline.py", "airflow_dag.py"):
        source = (CI / name).read_text(encoding="utf-8")
        assert ".set_retry(" not in source
        assert "skip_on_exit_code=" not in source
    assert "retries=0," in (CI / "airflow_dag.py").read_text(encoding="utf-8")


def test_the_page_shows_the_command_of_the_job() -> None:
    page = (ROOT / "docs" / "howto" / "pipelines.md").read_text(encoding="utf-8")
    (block,) = (text.split("```")[0] for text in page.split("```yaml\n")[1:])
    shown = yaml.safe_load(block)["args"]
    assert shown == [word for word in from_yaml("kubernetes-job.yaml") if "junit" not in word]

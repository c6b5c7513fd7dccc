"""The templates of docs/ci/: the command of each is run; `make manifests` shows the files to their systems."""

import re
from pathlib import Path

import pytest
import yaml

from support import BIN, ROOT, Place
from support.repository import program, run_step

CI = ROOT / "docs" / "ci"
GITLAB = yaml.safe_load((CI / "robustcheck.gitlab-ci.yml").read_text())["robustcheck"]


def words_of(name: str) -> str:
    """The words of the gate's container, as its file writes them."""
    text = (CI / name).read_text()
    (lines,) = re.findall(r"^[ -]*\"?check\"?,?\n.*?--\"?,?\n.*?\n", text, re.MULTILINE | re.DOTALL)
    words = re.sub(r" +#.*|^[ -]* |dsl\.ConcatPlaceholder\(\[|\]\)|f?\"|, ?", "", lines, flags=re.MULTILINE)
    return " ".join(words.split())


def test_all_manifests_have_the_command_of_the_job() -> None:
    gate = "check --strict --images={} --max-memory=3GiB --output=terminal --output=json={} -- {}"
    of_job = "/reports/{0}.json --output=junit=/reports/{0}.junit.xml"
    for name, images, report, model in (
        ("kubernetes-job.yaml", "/photos", of_job.format("robustcheck"), "/models/encoder.onnx"),
        ("argo-workflow.yaml", "{{workflow.parameters.images}}", of_job.format("{{workflow.name}}"),
         "{{workflow.parameters.model}}"),
        ("kserve.yaml", "/photos", "/reports/encoder.json", "/models/encoder/model.onnx"),
        ("kubeflow_pipeline.py", "images", "report", "model"),
        ("airflow_dag.py", "{IMAGES}", "/reports/robustcheck.json", "MODEL"),
    ):  # fmt: skip
        assert words_of(name) == gate.format(images, report, model)


def test_images_are_pinned_hold_no_model_and_do_not_run_as_root() -> None:
    rooms = ["face", "checker", "exporters", "thresholds", "release", "pyproject.toml", "README.md"]
    for file in ("Dockerfile.cpu", "Dockerfile.cuda"):
        text = (CI / file).read_text()
        assert not re.findall(r"^FROM (?!python:3\.\d+\.\d+-slim-\w+( AS build)?$).*", text, re.MULTILINE)
        # no model named: exit 2, not a help text's 0
        settings = re.findall("^(?:ENTRYPOINT|CMD|USER) .*", text, re.MULTILINE)
        assert sorted(settings) == ['ENTRYPOINT ["robustcheck"]', "USER 10001"]
        copied = set(" ".join(re.findall("^COPY (?!--from)(.*) .*", text, re.MULTILINE)).split())
        assert copied - {*rooms} == {"LICENSE", "NOTICE", "constraints.txt"}


# --------------------------------------------------------------------------------------- GitLab, Jenkins, a container


def calls(model: str, images: str) -> list[tuple[str, dict[str, str]]]:
    """The scripts of GitLab's job and of Jenkins's stage, which its page shows, too, with what they are given."""
    (jenkins,) = re.findall(r"^ *sh '([^'\n]*)'$", (CI / "Jenkinsfile").read_text(), re.MULTILINE)
    assert f" sh '{jenkins}'\n" in (ROOT / "docs/ci.md").read_text()
    return [
        (GITLAB["script"][0], {"RC_MODEL": model, "RC_IMAGES": images}),
        (jenkins, {"MODEL": model, "IMAGES": images}),
    ]


@pytest.mark.process
def test_names_stay_words_in_both_templates(tmp_path: Path) -> None:
    """A name stands behind `--`, photos in one word with their option (see test_strict.py); the exit code is kept."""
    stub = program(tmp_path / "bin" / "robustcheck", "#!/bin/sh\nprintf '%s\\n' \"$@\" > words\nexit 3\n")
    for name in ("--fail-on=never", "--config=.evil.onnx", "$(touch pwned)"):
        for script, variables in calls(name, name):
            done, _ = run_step(script, tmp_path, PATH=f"{stub.parent}:/usr/bin:/bin", **variables)
            words = (tmp_path / "words").read_text().splitlines()
            assert (words[:3], words[-2:]) == (["check", "--strict", f"--images={name}"], ["--", name])
            assert done.returncode == 3
    assert not (tmp_path / "pwned").exists()
    assert run_step(GITLAB["before_script"][0], tmp_path, RC_REQUIREMENT="")[0].returncode != 0


@pytest.mark.long
def test_the_commands_of_the_templates_run(lookup_pass: Place, tmp_path: Path) -> None:
    """That they are strict is asked above; what that refuses, in test_strict.py."""
    left = {*GITLAB["artifacts"]["paths"], *GITLAB["artifacts"]["reports"].values()}
    for script, variables in calls(*map(str, lookup_pass)):
        (folder := tmp_path / f"run{len(left)}").mkdir()
        done, _ = run_step(script, folder, PATH=f"{BIN}:/usr/bin:/bin", **variables)
        assert (done.returncode, "✓ PASS" in done.stdout) == (0, True), done.stderr
        assert {p.name for p in folder.iterdir()} == left | {"github_output"}
        left = {"robustcheck.json", "robustcheck.junit.xml"}

"""assert_robust, the pytest plugin, the pre-commit hook and the templates for CI, run as their users run them."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from robustcheck_onnx import Progress, VerdictError, assert_robust
from robustcheck_onnx.checker.errors import CannotAssessError
from support import ROOT

BIN = Path(sys.executable).parent
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV_", "GITHUB", "CI"))}


# ------------------------------------------------------------------------------------------------ assertion


def test_assert_robust_returns_the_report_of_a_pass(lookup_pass: tuple[Path, Path]) -> None:
    model, photos = lookup_pass
    seen: list[Progress] = []
    report = assert_robust(model, images=photos, progress=seen.append, batch_size=16)
    assert report.verdict.verdict == "PASS"
    assert seen[0].stage
    assert seen[-1].n_total == 80


def test_assert_robust_tells_every_reason_and_step(lookup_pass: tuple[Path, Path]) -> None:
    model, photos = lookup_pass
    with pytest.raises(AssertionError) as caught:
        assert_robust(model, images=photos, max_images=40)
    assert isinstance(caught.value, VerdictError)
    reasons = caught.value.report.verdict.reasons
    assert "too_few_images" in [reason.id for reason in reasons]
    for reason in reasons:
        assert f"{reason.id}: {reason.seen}\n    next step: {reason.next_step}" in str(caught.value)


def test_a_name_forges_no_line(tmp_path: Path, lookup_pass: tuple[Path, Path]) -> None:
    model = tmp_path / "h\n1 passed in 0.1s\x1b[8m.onnx"
    shutil.copy(lookup_pass[0], model)
    with pytest.raises(VerdictError) as caught:
        assert_robust(model, images=lookup_pass[1], max_images=40)
    shown = str(caught.value)
    assert shown.replace("\n", "").isprintable()
    assert shown.startswith(f"{tmp_path}/h\\n1 passed in 0.1s\\x1b[8m.onnx: verdict is WARN")


def test_what_cannot_be_assessed_is_no_assertion(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(CannotAssessError) as caught:
        assert_robust(tmp_path / "model.onnx")
    assert not isinstance(caught.value, AssertionError)
    assert caught.value.__notes__ == [f"hint: {caught.value.hint}"]


# --------------------------------------------------------------------------------------------------- pytest


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=folder, capture_output=True, text=True, check=False, env=ENVIRONMENT,
    )  # fmt: skip


def test_the_plugin_in_a_users_project(lookup_pass: tuple[Path, Path], tmp_path: Path) -> None:
    model, photos = lookup_pass
    (tmp_path / "photos").symlink_to(photos)
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    (tmp_path / "test_model.py").write_text(
        f"""
def test_pass(assert_robust, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    report = assert_robust({str(model)!r})
    assert report.evidence.images.n_available == 80

def test_warn(assert_robust):
    assert_robust({str(model)!r}, max_images=40)

def test_error(assert_robust):
    assert_robust("broken.onnx")

def test_of_something_else():
    pass
"""
    )
    done = run_pytest(tmp_path, "--robustcheck-images", "photos", "-m", "robustcheck", "--strict-markers")
    assert done.returncode == 1, done.stdout
    assert "2 failed, 1 passed, 1 deselected" in done.stdout
    assert "too_few_images: " in done.stdout
    assert "next step: " in done.stdout
    assert "hint: " in done.stdout
    summary = done.stdout.split("= robustcheck =")[1]
    assert f"PASS {model}  (test_model.py::test_pass)\n" in summary
    assert f"WARN · not_established {model}: too_few_images" in summary
    assert "no verdict (exit code 3): broken.onnx" in summary
    parallel = run_pytest(tmp_path, "--robustcheck-images", "photos", "-n", "1", "-k", "pass")
    assert f"PASS {model}  (test_model.py::test_pass)\n" in parallel.stdout


def test_the_plugins_empty_images_are_not_the_bundled_ones(lookup_pass: tuple[Path, Path], tmp_path: Path) -> None:
    model, _ = lookup_pass
    (tmp_path / "test_model.py").write_text(f"def test_it(assert_robust):\n    assert_robust({str(model)!r})\n")
    done = run_pytest(tmp_path, "--robustcheck-images", "")
    assert done.returncode == 1, done.stdout
    assert "no verdict (exit code 2): --images is ''" in done.stdout


def test_without_a_verdict_the_plugin_writes_three_lines(tmp_path: Path) -> None:
    (tmp_path / "test_model.py").write_text(
        """
def test_missing(assert_robust):
    assert_robust("missing.onnx")

def test_own_error(assert_robust):
    raise ValueError("mine")
"""
    )
    done = run_pytest(tmp_path, "-q")
    assert done.returncode == 1
    _, missing, own = re.split("_{5,} test_.* _{5,}\n", done.stdout)
    assert missing == (
        "error: missing.onnx: model file is missing; no such file\nhint: ls .\nno verdict (exit code 2)\n"
    )
    assert "Traceback" not in done.stdout
    assert '>       raise ValueError("mine")' in own
    full = run_pytest(tmp_path, "--full-trace", "-k", "missing").stdout
    assert ", in _read_bytes" in full  # of the process that read it
    (tmp_path / "test_model.py").write_text(
        "import pytest, robustcheck_onnx as rc\n"
        "def test_it(assert_robust: rc.AssertRobust) -> None:\n"
        "    with pytest.raises(rc.UsageError):\n        assert_robust('missing.onnx')\n"
    )
    assert run_pytest(tmp_path).returncode == 0


@pytest.mark.parametrize(("use", "loaded"), [("", False), ("assert_robust('missing.onnx')", True)])
def test_the_plugin_costs_nothing_until_it_is_used(tmp_path: Path, use: str, loaded: bool) -> None:
    (tmp_path / "test_it.py").write_text(
        f"import sys, contextlib\ndef test_it(assert_robust):\n    with contextlib.suppress(Exception):\n"
        f"        {use or 'pass'}\n    assert ('onnxruntime' in sys.modules) is {loaded}\n"
        f"    assert 'torch' not in sys.modules\n"
    )
    done = run_pytest(tmp_path)
    assert done.returncode == 0, done.stdout


# ------------------------------------------------------------------------------------------------ pre-commit


def test_the_pre_commit_hook_checks_models_that_are_committed(lookup_pass: tuple[Path, Path], tmp_path: Path) -> None:
    """The manifest's own entry, files and types, run by pre-commit in a repository (from the environment at hand)."""
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    (example,) = re.findall(r"- id: robustcheck\n +args: (\[.*\])", (ROOT / "docs" / "integrations.md").read_text())
    args = [str(lookup_pass[1]) if word == "photos/" else word for word in yaml.safe_load(example)]
    hook |= {"language": "system", "entry": str(BIN / hook["entry"])}
    shutil.copy(lookup_pass[0], tmp_path / "one.onnx")
    (tmp_path / "notes.txt").write_text("no model")
    environment = ENVIRONMENT | {"PRE_COMMIT_HOME": str(tmp_path.parent / f"{tmp_path.name}-home")}

    def pre_commit(args: list[str] = args) -> subprocess.CompletedProcess[str]:
        config = {"repos": [{"repo": "local", "hooks": [hook | {"args": args}]}]}
        (tmp_path / ".pre-commit-config.yaml").write_text(yaml.safe_dump(config))
        subprocess.run(["git", "add", "-A"], cwd=tmp_path, check=True)
        return subprocess.run(
            [BIN / "pre-commit", "run", "--verbose"],
            cwd=tmp_path, capture_output=True, text=True, check=False, env=environment,
        )  # fmt: skip

    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    done = pre_commit()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASS" in done.stdout
    done = pre_commit(hook["args"])  # without photos
    assert "exit code: 2" in done.stdout
    assert "--images is missing; with --strict" in done.stdout
    done = pre_commit(args[:-1])
    assert "exit code: 2" in done.stdout
    assert "MODEL.onnx is 'one.onnx', before --;" in done.stdout
    (tmp_path / "robustcheck.toml").write_text('fail-on = "never"')
    assert "robustcheck.toml: fail-on is never; with --strict" in pre_commit().stdout
    (tmp_path / "robustcheck.toml").unlink()
    (tmp_path / ".evil.onnx").write_text('fail-on = "never"')
    (tmp_path / "--config=.evil.onnx").write_text("no model")
    (tmp_path / "two.onnx").write_bytes(b"no model")
    done = pre_commit()
    assert done.returncode == 1
    assert "exit code: 3" in done.stdout
    for name in (".evil.onnx", "--config=.evil.onnx", "two.onnx"):
        assert f"\n{name}\n✗ " in done.stdout


def test_the_hooks_manifest_is_valid() -> None:
    done = subprocess.run([BIN / "pre-commit", "validate-manifest", ROOT / ".pre-commit-hooks.yaml"], check=False)
    assert done.returncode == 0


# -------------------------------------------------------------------------------------------- GitHub, GitLab


@pytest.mark.parametrize(
    ("schema", "file"), [("github-actions", "action.yml"), ("gitlab-ci", "docs/ci/robustcheck.gitlab-ci.yml")]
)
def test_templates_follow_their_systems_schema(schema: str, file: str) -> None:
    done = subprocess.run(
        [BIN / "check-jsonschema", "--builtin-schema", f"vendor.{schema}", ROOT / file],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def step(name: str) -> dict[str, Any]:
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    (found,) = (step for step in action["runs"]["steps"] if step.get("id") == name)
    return dict(found)


def bash(script: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": f"{BIN}:/usr/bin:/bin",
        "HOME": os.environ.get("HOME", "/"),
        "ROBUSTCHECK_NO_CACHE": "1",
    } | variables
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=False, env=environment
    )


PLAIN = {"UPLOAD_SARIF": "false", "COMMENT": "false", "FOLDER": "/none"}  # what is opted into


def run_check_step(folder: Path, **inputs: str) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
    outputs = folder / "github_output"
    given = PLAIN | {"MODEL": "", "IMAGES": "", "ARGS": "", "REPORT": "robustcheck.json"} | inputs
    done = bash(step("check")["run"], folder, GITHUB_OUTPUT=str(outputs), **given)
    lines = outputs.read_text().splitlines() if outputs.exists() else []
    return done, dict(line.split("=", 1) for line in lines)


def test_every_input_of_the_action_reaches_its_script_as_a_variable() -> None:
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    scripts = [s for s in action["runs"]["steps"] if "run" in s]
    assert [s["id"] for s in scripts] == ["options", "install", "check", "comment"]
    for script in scripts:
        assert "${{" not in script["run"]
        assert script["run"].startswith("set -euo pipefail\n")
    assert [s["uses"].split("@")[0] for s in action["runs"]["steps"] if "uses" in s] == [
        "actions/setup-python", "actions/cache", "github/codeql-action/upload-sarif",
    ]  # fmt: skip
    assert set(action["outputs"]) == {"verdict", "exit-code", "report"}
    assert {name for name, each in action["inputs"].items() if each.get("default") == "false"} == {
        "cache", "upload-sarif", "comment", "gpu",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "verdict"),
    [("", 0, "PASS"), ("--max-images\n40\n", 1, "WARN"), ("--fail-on=never\n--max-images=40", 0, "WARN")],
)
def test_the_action_hands_on_verdict_and_exit_code(
    lookup_pass: tuple[Path, Path], tmp_path: Path, arguments: str, code: int, verdict: str
) -> None:
    model, photos = lookup_pass
    done, outputs = run_check_step(tmp_path, MODEL=f"{model}\n", IMAGES=str(photos), ARGS=arguments)
    assert done.returncode == code, done.stderr
    assert outputs == {"verdict": verdict, "exit-code": str(code), "report": "robustcheck.json"}
    assert verdict in done.stdout
    assert json.loads((tmp_path / "robustcheck.json").read_text())["verdict"]["verdict"] == verdict


def test_the_action_never_passes_what_could_not_be_assessed(lookup_pass: tuple[Path, Path], tmp_path: Path) -> None:
    model, photos = lookup_pass
    done, outputs = run_check_step(tmp_path, MODEL=f"{model}\nmissing.onnx", IMAGES=str(photos))
    assert done.returncode in {2, 3}
    assert outputs["verdict"] == "NONE"
    assert outputs["exit-code"] == str(done.returncode)
    (tmp_path / "github_output").unlink()
    (tmp_path / "old.json").write_text('{"verdict": {"verdict": "PASS"}}')  # of an earlier run
    done = bash(
        step("check")["run"], tmp_path, PATH="/usr/bin:/bin", GITHUB_OUTPUT=str(tmp_path / "github_output"),
        MODEL="m.onnx", IMAGES="", ARGS="", REPORT="old.json", **PLAIN,
    )  # fmt: skip
    assert done.returncode == 127  # robustcheck is not installed
    assert "verdict=NONE" in (tmp_path / "github_output").read_text()


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("code", [0, 1])
def test_the_action_takes_no_report_of_an_earlier_run_for_its_own(tmp_path: Path, code: int, ours: bool) -> None:
    """A command that ends without writing: what lay there before must not speak for it, nor what is no report."""
    mark = '"schema_version": 1, "tool": "robustcheck", ' if ours else ""
    (tmp_path / "robustcheck.json").write_text(f'{{{mark}"verdict": {{"verdict": "PASS"}}}}')
    stub = tmp_path / "bin" / "robustcheck"
    stub.parent.mkdir()
    stub.write_text(f"#!/bin/sh\nexit {code}\n")
    stub.chmod(0o755)
    done = bash(
        step("check")["run"], tmp_path, PATH=f"{stub.parent}:{BIN}:/usr/bin:/bin", MODEL="m.onnx", IMAGES="", ARGS="",
        REPORT="robustcheck.json", GITHUB_OUTPUT=str(tmp_path / "github_output"), **PLAIN,
    )  # fmt: skip
    assert done.returncode == (70 if code == 0 else 1), done.stderr
    assert "verdict=NONE\n" in (tmp_path / "github_output").read_text()


def test_the_action_removes_nothing_but_a_report(lookup_pass: tuple[Path, Path], tmp_path: Path) -> None:
    """A report's path that is the model's is a slip, and no order to delete the model."""
    shutil.copy(lookup_pass[0], tmp_path / "m.onnx")
    done, outputs = run_check_step(tmp_path, MODEL="m.onnx", IMAGES=str(lookup_pass[1]), REPORT="m.onnx")
    assert (done.returncode, outputs["verdict"]) == (2, "NONE")
    assert (tmp_path / "m.onnx").read_bytes() == lookup_pass[0].read_bytes()
    assert "a report must not replace it" in done.stderr


def test_modules_of_the_repository_are_no_part_of_the_action(lookup_pass: tuple[Path, Path], tmp_path: Path) -> None:
    model, photos = lookup_pass
    (tmp_path / "json.py").write_text("def load(file):\n    return {'verdict': {'verdict': 'PASS'}}\n")
    done, outputs = run_check_step(tmp_path, MODEL=str(model), IMAGES=str(photos), ARGS="--max-images=40")
    assert (done.returncode, outputs["verdict"]) == (1, "WARN")


EVIL = ["--help", "--show-settings", "--exit-zero", "--config=.evil.onnx", "-qh", "--"]
"""names of models that are words of the command line"""


@pytest.mark.parametrize("name", EVIL)
def test_no_name_of_a_model_is_a_word_of_the_command_line(
    lookup_pass: tuple[Path, Path], tmp_path: Path, name: str
) -> None:
    (tmp_path / ".evil.onnx").write_text('fail-on = "never"')
    if name.endswith(".onnx"):
        (tmp_path / name).write_text("no model")
    done, outputs = run_check_step(tmp_path, MODEL=name, IMAGES=str(lookup_pass[1]))
    assert done.returncode == (3 if name.endswith(".onnx") else 2), done.stderr
    assert outputs == {"verdict": "NONE", "exit-code": str(done.returncode), "report": "robustcheck.json"}
    assert f"error: {name}: " in done.stderr
    for script, variables in (
        (gitlab_script(), {"RC_MODEL": name, "RC_IMAGES": str(lookup_pass[1])}),
        (jenkins_script(), {"MODEL": name, "IMAGES": str(lookup_pass[1])}),
    ):
        again = bash(script, tmp_path, **variables)
        assert (again.returncode, f"error: {name}: " in again.stderr) == (done.returncode, True), again.stderr


@pytest.mark.parametrize("images", ["", "--help", "--exit-zero"])
def test_no_photos_are_no_bundled_photos(lookup_pass: tuple[Path, Path], tmp_path: Path, images: str) -> None:
    model = str(lookup_pass[0])
    done, outputs = run_check_step(tmp_path, MODEL=model, IMAGES=images)
    assert (done.returncode, outputs["verdict"]) == (2, "NONE")
    assert ("--images is missing; with --strict" in done.stderr) == (images == "")
    for script, variables in (
        (gitlab_script(), {"RC_MODEL": model, "RC_IMAGES": images}),
        (jenkins_script(), {"MODEL": model, "IMAGES": images}),
    ):
        assert bash(script, tmp_path, **variables).returncode == 2


def test_a_checkout_loosens_no_gate_of_a_pipeline(lookup_pass: tuple[Path, Path], tmp_path: Path) -> None:
    """Its settings are refused, and its links are not followed, in the action and in both templates."""
    model, photos = map(str, lookup_pass)
    victim = tmp_path / "victim"
    victim.write_text("mine")
    calls = [
        (gitlab_script(), {"RC_MODEL": model, "RC_IMAGES": photos}),
        (jenkins_script(), {"MODEL": model, "IMAGES": photos}),
    ]
    for line in ('fail-on = "never"', 'output = ["terminal=../victim"]\nlog-file = "../victim"', "max-images = 60"):
        checkout = tmp_path / f"checkout {len(line)}"
        checkout.mkdir()
        (checkout / "robustcheck.toml").write_text(line)
        done, outputs = run_check_step(checkout, MODEL=model, IMAGES=photos)
        assert (done.returncode, outputs["verdict"]) == (2, "NONE"), done.stderr
        for script, variables in calls:
            assert bash(script, checkout, **variables).returncode == 2
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "robustcheck.json").symlink_to(victim)
    done, outputs = run_check_step(linked, MODEL=model, IMAGES=photos)
    assert (done.returncode, outputs["verdict"]) == (2, "NONE")
    for script, variables in calls:
        assert bash(script, linked, **variables).returncode == 2
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("evil", ["$(touch pwned)", '"; touch pwned; "', "-x"])
def test_inputs_are_never_run(tmp_path: Path, evil: str) -> None:
    done, outputs = run_check_step(tmp_path, MODEL=evil, IMAGES=evil, ARGS=f"--device\n{evil}")
    assert done.returncode == 2
    assert outputs["verdict"] == "NONE"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["github_output", "robustcheck.json"]


STUB = r"""#!/bin/sh
printf '%s\n' "$@" > words
exit 3
"""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", []),
        ("--max-images 40 --seed=1", ["--max-images", "40", "--seed=1"]),
        ("--max-images\n40\n\n--no-time\n", ["--max-images", "40", "--no-time"]),  # one a line, as before
        ("--tensor 'a b' -o \"html=my report.html\"", ["--tensor", "a b", "-o", "html=my report.html"]),
        ("--tensor a\\ b", ["--tensor", "a b"]),
        ("--seed 1 # the second seed\n--no-time", ["--seed", "1", "--no-time"]),
        ("--tensor '' --no-time", ["--tensor", "", "--no-time"]),
        ("$HOME `id` $(id) *.py ; id | id", ["$HOME", "`id`", "$(id)", "*.py", ";", "id", "|", "id"]),
    ],
)
def test_the_actions_args_are_split_as_a_shell_splits_and_never_run(
    tmp_path: Path, arguments: str, words: list[str]
) -> None:
    stub = tmp_path / "bin" / "robustcheck"
    stub.parent.mkdir()
    stub.write_text(STUB)
    stub.chmod(0o755)
    (tmp_path / "glob.py").touch()
    done = bash(
        step("check")["run"], tmp_path, PATH=f"{stub.parent}:{BIN}:/usr/bin:/bin", MODEL="m.onnx", IMAGES="my photos",
        ARGS=arguments, REPORT="r.json", GITHUB_OUTPUT=str(tmp_path / "github_output"), **PLAIN,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    typed = (tmp_path / "words").read_text().split("\n")[:-1]
    first = ["check", "--strict", "-o", "json=r.json", "--images=my photos"]
    assert typed == [*first, *words, "-o", "terminal", "--", "m.onnx"]


def test_args_with_an_open_quote_end_the_step(tmp_path: Path) -> None:
    done, outputs = run_check_step(tmp_path, MODEL="m.onnx", ARGS="--tensor 'a")
    assert (done.returncode, outputs["verdict"], outputs["exit-code"]) == (2, "NONE", "2")
    assert not (tmp_path / "robustcheck.json").exists()
    assert "args can't be split as a shell splits words (No closing quotation)" in done.stderr


def test_a_report_path_of_two_lines_forges_no_output(tmp_path: Path) -> None:
    done, outputs = run_check_step(tmp_path, MODEL="m.onnx", REPORT="r.json\nverdict=PASS")
    assert (done.returncode, outputs) == (2, {})


@pytest.mark.parametrize(
    ("version", "gpu", "installed"),
    [
        ("", "false", "{folder}/cpu"),
        ("", "true", str(ROOT)),
        ("robustcheck-onnx==9.8.7", "false", "robustcheck-onnx==9.8.7"),
        ("a; touch b", "true", "a; touch b"),
    ],
)
def test_what_the_action_installs(tmp_path: Path, version: str, gpu: str, installed: str) -> None:
    """The words that pip gets; a real installation takes minutes."""
    python = f'#!/bin/bash\nif [ "$2" = -m ]; then printf "%s\\n" "$@" > words; else exec {sys.executable} "$@"; fi\n'
    (tmp_path / "python").write_text(python)
    (tmp_path / "python").chmod(0o755)
    script, variables = step("install")["run"], {"GPU": gpu, "FOLDER": str(tmp_path), "WHEELS": ""}
    done = bash(script, tmp_path, PATH=f"{tmp_path}:/usr/bin:/bin", VERSION=version, HERE=str(ROOT), **variables)
    assert done.returncode == 0, done.stderr
    words = (tmp_path / "words").read_text().splitlines()
    assert words[:4] == ["-P", "-m", "pip", "install"]
    assert words[-1] == installed.format(folder=tmp_path)
    laid = tmp_path / "cpu" / "pyproject.toml"
    assert laid.exists() == (installed == "{folder}/cpu")
    if laid.exists():
        assert tomllib.loads(laid.read_text())["project"]["name"] == "robustcheck-onnx-cpu"
    assert bash(script, tmp_path, VERSION="--index-url=http://x", HERE="", **variables).returncode == 2


def gitlab_job() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "docs/ci/robustcheck.gitlab-ci.yml").read_text())["robustcheck"])


def gitlab_script() -> str:
    (script,) = gitlab_job()["script"]
    return str(script)


def jenkins_script() -> str:
    """The one of the file, which the page shows, too."""
    found = re.compile(r"^ *sh '([^'\n]*)'$", re.MULTILINE)
    (script,) = found.findall((ROOT / "docs/ci/Jenkinsfile").read_text())
    assert found.findall((ROOT / "docs/howto/jenkins.md").read_text()) == [script]
    return str(script)


def test_the_gitlab_job_leaves_the_artifacts_that_it_names(lookup_pass: tuple[Path, Path], tmp_path: Path) -> None:
    model, photos = lookup_pass
    job = gitlab_job()
    artifacts = job["artifacts"]
    named = {*artifacts["paths"], *artifacts["reports"].values()}
    script = gitlab_script()
    done = bash(script, tmp_path, RC_MODEL=str(model), RC_IMAGES=str(photos))
    assert done.returncode == 0, done.stderr
    assert {p.name for p in tmp_path.iterdir()} == named
    assert bash(script, tmp_path, RC_MODEL="missing.onnx", RC_IMAGES=str(photos)).returncode in {2, 3}
    (install,) = job["before_script"]
    assert bash(install, tmp_path, RC_REQUIREMENT="").returncode != 0


def test_the_jenkins_stage_runs(lookup_pass: tuple[Path, Path], tmp_path: Path) -> None:
    model, photos = lookup_pass
    script = jenkins_script()
    done = bash(script, tmp_path, MODEL=str(model), IMAGES=str(photos))
    assert done.returncode == 0, done.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"robustcheck.json", "robustcheck.junit.xml"}
    assert bash(script, tmp_path, MODEL="$(touch pwned)", IMAGES=str(photos)).returncode in {2, 3}
    assert not (tmp_path / "pwned").exists()


# ------------------------------------------------------------------------------------------------- containers


@pytest.mark.parametrize("file", ["Dockerfile.cpu", "Dockerfile.cuda"])
def test_images_are_pinned_hold_no_model_and_do_not_run_as_root(file: str) -> None:
    lines = (ROOT / "docs/ci" / file).read_text().splitlines()
    assert all(re.fullmatch(r"FROM python:3\.\d+\.\d+-slim-\w+( AS build)?", x) for x in lines if x.startswith("FROM"))
    assert 'ENTRYPOINT ["robustcheck"]' in lines
    assert not [line for line in lines if line.startswith("CMD")]  # no model named: exit 2, not the 0 of a help text
    users = [line for line in lines if line.startswith("USER")]
    assert users == ["USER 10001"]
    copied = [word for x in lines if x.startswith("COPY") and "--from" not in x for word in x.split()[1:-1]]
    assert set(copied) - {"release"} == {"pyproject.toml", "README.md", "LICENSE", "constraints.txt"} | {
        "face", "checker", "exporters", "thresholds",
    }  # fmt: skip
    assert ("release" in copied) == (file == "Dockerfile.cpu")


def test_the_cpu_image_takes_the_runtime_without_cuda(tmp_path: Path) -> None:
    """Its sources laid out as the Dockerfile copies them, and what it installs of them."""
    lines = (ROOT / "docs/ci/Dockerfile.cpu").read_text().splitlines()
    for line in lines:
        if line.startswith("COPY") and "--from" not in line:
            for name in line.split()[1:-1]:
                (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    (lay,) = (line.removeprefix("RUN ").removesuffix(" \\") for line in lines if line.startswith("RUN python release"))
    assert bash(lay.replace(" /cpu", " ./cpu"), tmp_path).returncode == 0
    assert " && /opt/robustcheck/bin/pip install --no-cache-dir --constraint constraints.txt /cpu" in lines
    project, before = (tomllib.loads((f / "pyproject.toml").read_text())["project"] for f in (tmp_path / "cpu", ROOT))
    runtimes = [d for d in project["dependencies"] if d.startswith("onnxruntime")]
    assert len(runtimes) == 1
    assert re.fullmatch(r"onnxruntime>=[\d.]+,<2", runtimes[0])
    others = [d for d in before["dependencies"] if not d.startswith("onnxruntime")]
    assert [d for d in project["dependencies"] if d not in runtimes] == others
    assert re.search(r"^onnxruntime==[\d.]+$", (tmp_path / "constraints.txt").read_text(), re.MULTILINE)


@pytest.mark.skipif(not shutil.which("docker"), reason="needs a container engine (docker)")
def test_the_cpu_image_builds_and_runs() -> None:
    subprocess.run(
        ["docker", "build", "-f", "docs/ci/Dockerfile.cpu", "-t", "robustcheck:test", "."], cwd=ROOT, check=True
    )
    done = subprocess.run(
        ["docker", "run", "--rm", "robustcheck:test", "demo"], capture_output=True, text=True, check=True
    )
    assert "SYNTHETIC" in done.stdout


# ------------------------------------------------------------------------------------------------------- docs


def test_the_examples_of_the_docs_run(
    lookup_pass: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, photos = lookup_pass
    (tmp_path / "model.onnx").symlink_to(model)
    (tmp_path / "photos").symlink_to(photos)
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs/integrations.md").read_text(encoding="utf-8")
    progress, assertion, fixture = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(progress, "integrations.md", "exec"), {})
    shown = capsys.readouterr().out
    assert shown.startswith("opening the model and the images\n")
    assert re.search(r"^\d+ of 80 images, \d+ a second; ", shown, re.MULTILINE)
    assert shown.splitlines()[-1].startswith("PASS estimate=")
    exec(compile(assertion, "integrations.md", "exec"), {})
    assert "too_few_images: " in capsys.readouterr().out
    (tmp_path / "test_docs.py").write_text(fixture)
    done = run_pytest(tmp_path, "--robustcheck-images", "photos/")
    assert done.returncode == 0, done.stdout

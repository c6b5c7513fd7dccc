"""assert_robust, the pytest plugin and the pre-commit hook, as their users run them."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

import robustcheck_onnx as rc
from robustcheck_onnx import VerdictError, assert_robust
from support import BIN, ROOT, Capture, Place, raised

pytest_plugins = "pytester"
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV_", "GITHUB", "CI"))}


def test_assert_robust_tells_every_reason_and_step_and_a_name_forges_no_line(
    tmp_path: Path, lookup_pass: Place
) -> None:
    model = tmp_path / "h\n1 passed in 0.1s\x1b[8m.onnx"
    model.symlink_to(lookup_pass[0])
    caught = raised(VerdictError, "", assert_robust, model, images=lookup_pass[1], max_images=40)
    assert isinstance(caught, AssertionError)
    shown = str(caught)
    assert "too_few_images: " in shown
    for reason in caught.report.verdict.reasons:
        assert f"{reason.id}: {reason.seen}\n    next step: {reason.next_step}" in shown
    assert shown.replace("\n", "").isprintable()
    assert shown.startswith(f"{tmp_path}/h\\n1 passed in 0.1s\\x1b[8m.onnx: verdict is WARN")


# --------------------------------------------------------------------------------------------------- pytest


def test_the_plugin_in_a_users_project(lookup_pass: Place, pytester: pytest.Pytester) -> None:
    model, photos = lookup_pass
    (pytester.path / "photos").symlink_to(photos)
    (pytester.path / "broken.onnx").write_bytes(b"no model")
    pytester.makepyfile(
        test_model=f"""
import pytest, robustcheck_onnx as rc

def test_pass(assert_robust, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    report = assert_robust({str(model)!r})
    assert report.evidence.images.n_available == 80

def test_warn(assert_robust):
    assert_robust({str(model)!r}, max_images=40)

def test_no_images(assert_robust):
    assert_robust({str(model)!r}, images="")

def test_error(assert_robust):
    assert_robust("broken.onnx")

def test_expected_error(assert_robust: rc.AssertRobust) -> None:
    with pytest.raises(rc.UsageError):
        assert_robust("missing.onnx")

def test_own_error(assert_robust):
    raise ValueError("mine")

def test_of_something_else():
    pass
"""
    )
    done = pytester.runpytest_inprocess("--robustcheck-images", "photos", "-m", "robustcheck", "--strict-markers")
    shown = done.stdout.str()
    done.assert_outcomes(passed=2, failed=4, deselected=1)
    assert "too_few_images: " in shown
    assert "next step: " in shown
    _, warned, _, broken, own = re.split("_{5,} test_.* _{5,}\n", shown)
    assert "VerdictError" in warned
    assert re.fullmatch(r"error: broken\.onnx: .*\nhint: .*\nno verdict \(exit code 3\)\n", broken)  # no traceback
    assert '>   raise ValueError("mine")' in own.replace("    raise", "raise")
    summary = shown.split("= robustcheck =")[1]
    assert f"PASS {model}  (test_model.py::test_pass)\n" in summary
    assert f"WARN · not_established {model}: too_few_images" in summary
    assert "no verdict (exit code 3): broken.onnx" in summary
    assert "no verdict (exit code 2): --images is ''" in summary  # not the bundled photos


def test_the_examples_of_the_docs_run(lookup_pass: Place, pytester: pytest.Pytester, capsys: Capture) -> None:
    (pytester.path / "model.onnx").symlink_to(lookup_pass[0])
    (pytester.path / "photos").symlink_to(lookup_pass[1])
    pages = [(ROOT / "docs" / name).read_text() for name in ("python-api.md", "ci.md")]
    *_, progress, assertion, fixture = re.findall(r"```python\n(.*?)```", "".join(pages), re.DOTALL)
    seen = r"opening the model and the images\n(?s:.*)\d+ of 80 images, \d+ per second; (?s:.*)\nPASS estimate="
    for example, said in ((progress, seen), (assertion, r"(?s:.*)too_few_images: ")):
        exec(compile(example, "python-api.md", "exec"), {})
        assert re.match(said, capsys.readouterr().out)
    pytester.makepyfile(fixture)
    assert pytester.runpytest_inprocess("--robustcheck-images", "photos/").ret == 0


# ------------------------------------------------------------------------------------------------ pre-commit


def committed(folder: Path, name: str, **given: object) -> subprocess.CompletedProcess[str]:
    """Commit all of the folder with this hook: the manifest's own entry, files and types, run by pre-commit."""
    hooks = {hook["id"]: hook for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())}
    hook = hooks[name] | {"language": "system", "entry": f"{BIN}/{hooks[name]['entry']}"} | given
    config = {"repos": [{"repo": "local", "hooks": [hook]}]}
    (folder / ".pre-commit-config.yaml").write_text(yaml.safe_dump(config))
    environment = ENVIRONMENT | {"PRE_COMMIT_HOME": str(folder.parent / f"{folder.name}-home")}
    return subprocess.run(
        ["bash", "-c", f"git init -q && git add -A && {BIN}/pre-commit run --verbose"],
        cwd=folder, capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip


@pytest.mark.long
def test_the_pre_commit_hook_checks_models_that_are_committed(lookup_pass: Place, tmp_path: Path) -> None:
    (example,) = re.findall(r"- id: robustcheck\n +args: (\[.*\])", (ROOT / "docs/ci.md").read_text())
    args = {"args": yaml.safe_load(example.replace("photos/", str(lookup_pass[1])))}
    shutil.copy(lookup_pass[0], tmp_path / "one.onnx")
    for given, said in (
        (args, "PASS"),
        ({}, "exit code: 2(?s:.*)--images is missing; with --strict"),  # without photos
        (args, "exit code: 3(?s:.*)\n--config=.evil.onnx\n✗ (?s:.*)\n.evil.onnx\n✗ "),
    ):
        done = committed(tmp_path, "robustcheck", **given)
        assert re.search(said, done.stdout), done.stdout + done.stderr
        if "--images" in said:
            for name in (".evil.onnx", "--config=.evil.onnx"):
                (tmp_path / name).write_text('fail-on = "never"')


@pytest.mark.long
def test_the_pre_commit_hook_compares_the_model_that_it_names(here: Path) -> None:
    """The page's hook; another model of the same commit is not read as the original."""
    page = (ROOT / "docs" / "compare-in-ci.md").read_text()
    (example,) = re.findall(r"- id: robustcheck-compare\n(.*?)```", page, re.DOTALL)
    (here / "models").mkdir()
    rc.compare("pass.onnx", images="photos", write_baseline="baseline.npz")
    for source, said in (("pass.onnx", "index: compatible"), ("warn.onnx", "exit code: 1(?s:.*)index: re-embed")):
        shutil.copy(source, "models/encoder.onnx")
        done = committed(here, "robustcheck-compare", **yaml.safe_load(example))
        assert re.search(said, done.stdout), done.stdout + done.stderr
        assert "text.onnx" not in done.stdout

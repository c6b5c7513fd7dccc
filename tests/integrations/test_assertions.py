"""assert_robust, the pytest plugin and the pre-commit hook, as their users run them."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from robustcheck_onnx import VerdictError, assert_robust
from support import BIN, ROOT, Capture, Place, raised

pytest_plugins = "pytester"
COMPARE_PAGE = ROOT / "docs" / "compare-in-ci.md"
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


HOOKS = {hook["id"]: hook for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())}


@pytest.mark.long
def test_the_pre_commit_hook_checks_models_that_are_committed(lookup_pass: Place, tmp_path: Path) -> None:
    """The manifest's own entry, files and types, run by pre-commit in a repository (from the environment at hand)."""
    hook = HOOKS["robustcheck"]
    (example,) = re.findall(r"- id: robustcheck\n +args: (\[.*\])", (ROOT / "docs/ci.md").read_text())
    args = yaml.safe_load(example.replace("photos/", str(lookup_pass[1])))
    hook |= {"language": "system", "entry": str(BIN / hook["entry"])}
    shutil.copy(lookup_pass[0], tmp_path / "one.onnx")
    environment = ENVIRONMENT | {"PRE_COMMIT_HOME": str(tmp_path.parent / f"{tmp_path.name}-home")}
    for arguments, said in (
        (args, "PASS"),
        (hook["args"], "exit code: 2(?s:.*)--images is missing; with --strict"),  # without photos
        (args, "exit code: 3(?s:.*)\n--config=.evil.onnx\n✗ (?s:.*)\n.evil.onnx\n✗ "),
    ):
        config = {"repos": [{"repo": "local", "hooks": [hook | {"args": arguments}]}]}
        (tmp_path / ".pre-commit-config.yaml").write_text(yaml.safe_dump(config))
        done = subprocess.run(
            ["bash", "-c", f"git init -q && git add -A && {BIN}/pre-commit run --verbose"],
            cwd=tmp_path, capture_output=True, text=True, check=False, env=environment,
        )  # fmt: skip
        assert re.search(said, done.stdout), done.stdout + done.stderr
        if "--images" in said:
            for name in (".evil.onnx", "--config=.evil.onnx"):
                (tmp_path / name).write_text('fail-on = "never"')


@pytest.mark.long
def test_the_pre_commit_hook_compares_the_model_that_it_names(here: Path) -> None:
    """The page's hook; another model of the same commit is not read as the original."""
    (example,) = re.findall(r"hooks:\n(      - id: robustcheck-compare\n.*?)```", COMPARE_PAGE.read_text(), re.DOTALL)
    (given,) = yaml.safe_load(example)
    hook = HOOKS["robustcheck-compare"]
    installed = hook | {"language": "system", "entry": f"{BIN}/{hook['entry']}"}
    (here / ".pre-commit-config.yaml").write_text(
        yaml.safe_dump({"repos": [{"repo": "local", "hooks": [installed | given]}]})
    )
    (here / "models").mkdir()
    model, baseline = here / "models" / "encoder.onnx", here / "baseline.npz"
    write = [BIN / "robustcheck", "compare", "pass.onnx", "--images", "photos/", "--write-baseline", baseline]
    subprocess.run(write, cwd=here, check=True, capture_output=True)
    commit = f"git init -q && git add -A && {BIN}/pre-commit run --verbose"
    for source, code, shown in (
        ("pass.onnx", 0, "index: compatible"),
        ("warn.onnx", 1, "exit code: 1(?s:.*)index: re-embed"),
        ("", 2, "exit code: 2(?s:.*)baseline.npz: baseline is not readable"),
    ):
        if source:
            shutil.copy(here / source, model)
        else:
            baseline.unlink()
            model.write_bytes(b"changed")
        done = subprocess.run(
            ["bash", "-c", commit], cwd=here, capture_output=True, text=True, check=False, env=ENVIRONMENT
        )
        assert (bool(code), bool(re.search(shown, done.stdout))) == (bool(done.returncode), True), done.stdout
        assert "text.onnx" not in done.stdout  # it is committed, too

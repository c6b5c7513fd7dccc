"""assert_robust, the pytest plugin, the pre-commit hook and the templates for CI, run as their users run them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from robustcheck_onnx.checker import Progress, VerdictError, assert_robust
from robustcheck_onnx.checker.errors import CannotAssessError

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV_", "GITHUB", "CI"))}


# ------------------------------------------------------------------------------------------------ assertion


def test_assert_robust_returns_the_report_of_a_pass(lookup_pass: tuple[Path, Path]) -> None:
    model, photos = lookup_pass
    seen: list[Progress] = []
    report = assert_robust(model, images=photos, progress=seen.append, batch_size=16)
    assert report.verdict.verdict == "PASS"
    assert seen
    assert seen[0].n_total == 80


def test_assert_robust_tells_every_reason_and_step(lookup_pass: tuple[Path, Path]) -> None:
    model, photos = lookup_pass
    with pytest.raises(AssertionError) as caught:
        assert_robust(model, images=photos, max_images=40)
    assert isinstance(caught.value, VerdictError)
    reasons = caught.value.report.verdict.reasons
    assert "too_few_images" in [reason.id for reason in reasons]
    for reason in reasons:
        assert f"{reason.id}: {reason.seen}\n    next step: {reason.next_step}" in str(caught.value)


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
    assert f"WARN {model}: too_few_images" in summary
    assert "no verdict (exit code 3): broken.onnx" in summary
    parallel = run_pytest(tmp_path, "--robustcheck-images", "photos", "-n", "1", "-k", "pass")
    assert f"PASS {model}  (test_model.py::test_pass)\n" in parallel.stdout


@pytest.mark.parametrize(("use", "loaded"), [("", False), ("assert_robust('missing.onnx')", True)])
def test_the_plugin_costs_nothing_until_it_is_used(tmp_path: Path, use: str, loaded: bool) -> None:
    (tmp_path / "test_it.py").write_text(
        f"import sys, contextlib\ndef test_it(assert_robust):\n    with contextlib.suppress(Exception):\n"
        f"        {use or 'pass'}\n    assert ('onnxruntime' in sys.modules) is {loaded}\n"
        f"    assert 'torch' not in sys.modules\n"
    )
    done = run_pytest(tmp_path)
    assert done.returncode == 0, done.stdout

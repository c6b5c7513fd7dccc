"""What several tests of measuring share: a profile that never decides, a run in parts, outcomes by name."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from robustcheck_onnx.checker.core.measure.job import SHARD_IMAGES, Job, Outcome
from robustcheck_onnx.checker.core.options import Options
from robustcheck_onnx.checker.outside.workers import run_jobs
from robustcheck_onnx.thresholds import profile
from support import but

on_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None or (sys.platform == "linux" and not Path("/dev/shm").is_dir()),
    reason="Ray is not installed (pip install '.[ray]' in a clone), or there is no /dev/shm for its object store",
)
N_IMAGES, SIZE_PX = SHARD_IMAGES + 150, 16  # small, since decoding and describing photos is not what is tested


def vectors() -> NDArray[np.float64]:
    """Representations for as many images, one constant (counted, not used) and one not finite."""
    rng = np.random.default_rng(5)
    h = rng.standard_t(5, size=(N_IMAGES, 48)) + rng.normal(0, 0.5, 48)
    h[:, 3] += 9
    h[7], h[11, 2] = 1.0, np.nan
    return h


def job(
    model: Path, images: str | Path | None = None, *, tensors: tuple[str | None, ...] | None = None, **options: Any
) -> Job:
    """A job as it is written in a test."""
    return Job(model, Options(**options, images=None if images is None else str(images)), tensors)


def never_decided() -> profile.Profile:
    """The default profile, but for the number of images that it asks for: all are measured."""
    return profile.seal(but(profile.load(), id="all", min_images=10**6))


def never_narrow() -> profile.Profile:
    """The default profile with bounds so wide that no look decides: all images are measured, and looked at."""
    return profile.seal(but(profile.load(), id="wide", alpha=1e-60, bounds="each"))


def outcomes(jobs: Sequence[Job], thresholds: profile.Profile | None = None, **options: Any) -> dict[str, Outcome]:
    """Run jobs; each outcome by its model's name, which no two share."""
    found = {outcome.job.model.stem: outcome for outcome in run_jobs(jobs, thresholds or profile.load(), **options)}
    assert len(found) == len(jobs)
    return found


def assert_same(a: Any, b: Any, where: str = "") -> None:
    """Two documents: numbers to the last digits, everything else exactly."""
    assert type(a) is type(b), where
    if isinstance(a, list | tuple):
        a, b = dict(enumerate(a)), dict(enumerate(b))
    if isinstance(a, float):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=0, err_msg=where)
    elif not isinstance(a, dict):
        assert a == b, where
    else:
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")


def assert_same_but_execution(a: Outcome, b: Outcome) -> None:
    """The evidence of two outcomes, whatever ran them."""
    for one, two in zip(a.evidence, b.evidence, strict=True):
        assert_same(one.model_dump(exclude={"execution"}), two.model_dump(exclude={"execution"}))

"""The local engine: the check's evidence, a killed worker, models that fail alone, the end of the workers."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustcheck_onnx import check
from robustcheck_onnx.checker.core.measure.job import TRIES, Job
from robustcheck_onnx.checker.errors import EnvironmentFaultError, UsageError
from robustcheck_onnx.checker.outside.workers import run_jobs as run
from robustcheck_onnx.thresholds import profile
from support import but, lookup, normal, raised
from support.measuring import job as new_job
from support.measuring import never_decided, outcomes
from support.walls import all_end, first_children

N_PHOTOS = 40
pytestmark = pytest.mark.usefixtures("wall")
needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc (Linux)")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    lookup.write_lookup_images(folder, N_PHOTOS)
    return folder


@pytest.fixture
def job(tmp_path: Path, photos: Path) -> Callable[..., Job]:
    """A job of a look-up model of that name."""
    h = normal(N_PHOTOS, 32, seed=1)
    return lambda name, **run: new_job(lookup.write_lookup_model(tmp_path / f"{name}.onnx", h), photos, **run)


def test_the_evidence_is_the_checks(job: Callable[..., Job], photos: Path, tmp_path: Path) -> None:
    jobs = [job("a"), job("b", seed=1)]
    found = outcomes([*jobs, new_job(tmp_path / "none.onnx", photos)], never_decided(), workers=2)
    for each in jobs:
        outcome = found[each.model.stem]
        direct = check(each.model, images=photos, seed=each.options.seed, thresholds=never_decided()).evidence
        threads = max(1, direct.execution.threads // 2)
        assert (*outcome.evidence, outcome.error) == (but(direct, execution__threads=threads), None)
    error = found["none"].error
    assert isinstance(error, UsageError)  # class, words and hint survive the process
    assert "none.onnx: no such file" in error.message


@pytest.mark.long
def test_killed_workers_lose_nothing_and_a_poisoned_model_fails_alone(job: Callable[..., Job], saboteur: Any) -> None:
    kills = saboteur({"photo_00017.png": TRIES - 1, "poisoned.onnx": 99})
    found = outcomes([job(name) for name in ("a", "poisoned", "b")], workers=2)
    assert len(list(kills.iterdir())) == 2 * TRIES - 1
    error = found.pop("poisoned").error
    assert isinstance(error, EnvironmentFaultError)
    assert "poisoned.onnx: the process that read it was killed" in error.message
    for outcome in found.values():
        again = check(outcome.job.model, images=outcome.job.options.images).evidence
        assert again.statistics.n_images == N_PHOTOS
        assert [(seen.images, seen.statistics) for seen in outcome.evidence] == [(again.images, again.statistics)]


@needs_proc
def test_closing_the_iterator_ends_the_workers(job: Callable[..., Job]) -> None:
    running = run([job("a"), job("b")], profile.load())
    next(running)
    workers = first_children(os.getpid())
    running.close()  # type: ignore[attr-defined] # a generator
    assert all_end(workers)


def test_wrong_arguments_are_told_before_anything_runs() -> None:
    for arguments, said in (
        ({"engine": "rai"}, "--engine is 'rai'; it must be local or ray"),
        ({"workers": 0}, "--workers is 0; it must be at least 1"),
        ({"address": "host:1"}, "--ray-address is host:1; it needs the Ray engine"),
    ):
        raised(UsageError, said, run, [], profile.load(), **arguments)


def test_no_job_is_no_outcome() -> None:
    before = signal.getsignal(signal.SIGINT)
    assert not outcomes([], workers=3)
    assert signal.getsignal(signal.SIGINT) is before  # only workers leave Ctrl-C alone

"""Running models where memory is short or a signal comes: passes side by side, halved, ended."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError
from robustcheck_onnx.checker.runtime.runner import Runner
from robustcheck_onnx.checker.runtime.session import translate
from support import PIXELS, Patch, normal, profile, raised
from support.onnx_models import encoder
from support.written import written

Pixels = NDArray[Any]


def test_memory_errors_are_the_environment(runner: Any) -> None:
    model = runner(encoder()).model
    for error in (MemoryError(), RuntimeError(FULL), RuntimeError("CUDA failure 2: out of memory ; GPU=0")):
        found = translate(error, model)
        assert isinstance(found, EnvironmentFaultError)
        assert found.hint.startswith("free -h")
    assert isinstance(translate(RuntimeError("unknown"), model), CannotAssessError)


FULL = "BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 12"


def short_of_memory(monkeypatch: Patch, most: int) -> list[int]:
    """Make every pass of more than `most` images fail as ONNX Runtime does; the sizes that were tried."""
    tried = []
    real = Runner._pass

    def one_pass(self: Runner, session: Any, names: list[str], batch: Pixels, options: Any) -> list[Any]:
        tried.append(len(batch))
        if len(batch) > most:
            raise RuntimeError(FULL)
        return real(self, session, names, batch, options)

    monkeypatch.setattr(Runner, "_pass", one_pass)
    return tried


def test_memory_that_runs_out_halves_the_batch(runner: Any, monkeypatch: Patch) -> None:
    pixels = normal(32, 8, 8, 3).astype(np.float32)
    model = runner(encoder())
    expected = model.run(pixels).representation
    tried = short_of_memory(monkeypatch, 3)
    assert_allclose(model.run(pixels).representation, expected, rtol=1e-5)
    assert (set(tried), tried.count(2)) == ({2, 4}, 16)  # 4: the largest pass on a CPU
    tried.clear()
    model.run(pixels[:7])
    assert sorted(tried) == [1, 2, 2, 2]  # it stays halved: memory that ran out once will again
    short_of_memory(monkeypatch, 0)
    raised(EnvironmentFaultError, r"memory ran out \(12 bytes were asked for", model.run, pixels)


def test_memory_that_passes_side_by_side_take_is_no_error(runner: Any, monkeypatch: Patch) -> None:
    model = runner(written("", inputs=[("image", 1, (2, 3, 8, 8))]), threads=3)
    expected = model.run(PIXELS).representation
    real, inside, met = Runner._pass, threading.Semaphore(1), threading.Event()

    def one_pass(self: Runner, *arguments: Any) -> list[Any]:
        if not inside.acquire(blocking=False):
            met.set()
            raise RuntimeError(FULL)
        try:
            assert met.wait(profile.PATIENCE_S)  # until a second pass has come and was refused
            return real(self, *arguments)
        finally:
            inside.release()

    monkeypatch.setattr(Runner, "_pass", one_pass)
    assert_allclose(model.run(PIXELS).representation, expected, rtol=1e-5)
    assert model._n_passes == 1


def test_short_memory_never_makes_company_of_an_image_alone(runner: Any, monkeypatch: Patch) -> None:
    """A model that mixes its batch would seem not to, were its company cut into single images."""
    model = written("mean = ReduceMean(features, [0]); embedding = Sub(features, mean)")
    for most in (4, 2, 1):
        run = runner(model)
        with monkeypatch.context() as patch:
            tried = short_of_memory(patch, most)
            (found,) = run.batch_invariances(PIXELS)
            assert (found is None) if most == 1 else found > 0.1
            tried.clear()
            run.run(PIXELS)
            assert max(tried) == most  # no later pass has more company than was looked at
    assert runner(model).batch_invariances(PIXELS[:1]) == (None,)


def test_memory_that_is_short_for_the_usual_pass_is_not_short_for_company(runner: Any, monkeypatch: Patch) -> None:
    run = runner(encoder(), threads=1)
    run._pass_images = 32  # as on a GPU
    tried = short_of_memory(monkeypatch, 8)
    assert run.batch_invariances(PIXELS)[0] < 1e-5
    assert [size for size in tried if size > 5] == [33, 32, 16, 8]
    tried.clear()
    run.run(np.resize(PIXELS, (20, *PIXELS.shape[1:])))
    assert sorted(tried) == [4, 8, 8]


def test_an_interrupt_between_passes_ends_those_that_run(runner: Any, monkeypatch: Patch) -> None:
    ended = []

    def endless(self: Runner, session: Any, names: list[str], batch: Pixels, options: Any) -> None:
        until = time.monotonic() + profile.PATIENCE_S
        while not options.terminate and time.monotonic() < until:
            time.sleep(0.005)
        ended.append(options.terminate)

    class Interrupted(ThreadPoolExecutor):
        def submit(self, *arguments: Any, **options: Any) -> Any:
            if ended or self._threads:
                raise KeyboardInterrupt
            return super().submit(*arguments, **options)

    run = runner(encoder(), threads=2)
    monkeypatch.setattr(Runner, "_pass", endless)
    run._passes = Interrupted(2)
    raised(KeyboardInterrupt, "", run.run, np.zeros((32, 8, 8, 3), np.float32))
    assert ended == [True]

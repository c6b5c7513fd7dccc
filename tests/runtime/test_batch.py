"""Models that mix the images of a batch are each caught; where memory is short or a signal comes, passes end well."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.random import default_rng
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from robustcheck_onnx.checker.core.model.scales import can_fix_scales, scales_over_batch
from robustcheck_onnx.checker.core.runtime import batch_trial
from robustcheck_onnx.checker.core.runtime.devices import int8_sums
from robustcheck_onnx.checker.core.runtime.runner import Runner
from robustcheck_onnx.checker.core.runtime.session import translate
from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError
from support import PATIENCE_S, PIXELS, Fields, Patch, normal, raised
from support.onnx_models import POOLED, encoder, with_int8_branches, written

TRIAL: Any = batch_trial  # whose numbers may be None

SEEN = """shape = Shape(features); images = Gather(shape, [0]); n = Cast(images, to=FLOAT); several = Greater(n, 1.0)
    many = Greater(n, 4.0); zero = Sub(features, features); none = ReduceSum(zero, [1]); one = Add(none, 1.0)
    after = CumSum(one, 0); place = Sub(after, one); left = Sub(n, after); bright = ReduceMean(features, [1]); """
"""facts of the batch: how many images, where each is in it, how bright it is"""
CHOSEN = "; more = Cast(chosen, to=FLOAT); shift = Mul(more, 7.0); embedding = Add(features, shift)"
"""images that are chosen get another representation"""
SHIFTED = {
    "an odd place": "odd = Mod(place, 2.0, fmod=1); chosen = Cast(odd, to=BOOL)",
    "the first place": "first = Less(place, 0.5); chosen = And(first, several)",
    "the last place": "last = Less(left, 0.5); chosen = And(last, several)",
    "the second place": "far = Sub(place, 1.0); off = Abs(far); chosen = Less(off, 0.5)",
    "the fifth place": "chosen = Greater(place, 3.5)",
    "a place between others": "a = Greater(place, 0.5); b = Greater(left, 0.5); chosen = And(a, b)",
    "the second half": "half = Mul(n, 0.5); b = GreaterOrEqual(place, half); chosen = And(b, several)",
    "company": "chosen = Identity(several)", "an even number": "odd = Mod(n, 2.0, fmod=1); chosen = Less(odd, 0.5)",
    "more than four": "chosen = Identity(many)", "four": "far = Sub(n, 4.0); off = Abs(far); chosen = Less(off, 0.5)",
    "the brightest": "most = ReduceMax(bright, [0]); a = Equal(bright, most); chosen = And(a, several)",
    "the darkest": "least = ReduceMin(bright, [0]); a = Equal(bright, least); chosen = And(a, several)",
    "the brightest of many": "most = ReduceMax(bright, [0]); a = Equal(bright, most); chosen = And(a, many)",
    "the darkest of many": "least = ReduceMin(bright, [0]); a = Equal(bright, least); chosen = And(a, many)",
    "brighter than the mean": "mean = ReduceMean(bright, [0]); chosen = Greater(bright, mean)",
}  # fmt: skip
MIXING = {name: text + CHOSEN for name, text in SHIFTED.items()} | {
    "its place": "embedding = Add(features, place)",
    "the mean": "mean = ReduceMean(features, [0]); embedding = Sub(features, mean)",
    "the largest": "most = ReduceMax(features, [0]); embedding = Sub(features, most)",
    "the length": "length = ReduceL2(features, [0]); embedding = Div(features, length)",
    "the softmax": "shares = Softmax(features, axis=0); embedding = Mul(shares, features)",
    "a running sum": "embedding = CumSum(features, 0)",
    "attention": """turned = Transpose(features, perm=[1, 0]); products = MatMul(features, turned)
        shares = Softmax(products); embedding = MatMul(shares, features)""",
    "a mixed-up layout": "turned = Transpose(features, perm=[1, 0]); embedding = Reshape(turned, shape)",
    "its neighbour": "at = Cast(left, to=INT64); rows = Flatten(at, axis=0); row = Reshape(at, [-1]); embedding = "
    "Gather(features, row)",
    "rising order": "s, order = TopK(bright, images, axis=0, largest=0); row = Reshape(order, [-1]); embedding = "
    "Gather(features, row)",
    "falling order": "s, order = TopK(bright, images, axis=0); row = Reshape(order, [-1]); embedding = "
    "Gather(features, row)",
}
"""what a representation depends on beside its image"""
NOT_OF_FIVE = {"an even number", "four"}


@pytest.mark.parametrize("by", MIXING)
def test_what_depends_on_its_batch_is_caught(runner: Any, by: str) -> None:
    """By the images of a worker, of a check on the CPU and on a GPU, and one by one, where five together show it."""
    model = written(SEEN + MIXING[by], "embedding")
    for draw in range(3):
        pixels = normal(33, 8, 8, 3, seed=draw).astype(np.float32)
        run = runner(model, tensor="embedding")
        assert TRIAL.batch_differences(run, pixels[:5])[0] > 0.1
        assert TRIAL.batch_differences(run, pixels[:32])[0] > 0.1
        run._pass_images = 32  # as on a GPU
        assert by == "four" or TRIAL.batch_differences(run, pixels[:32])[0] > 0.1
        single = TRIAL.batch_differences(runner(model, tensor="embedding", batch_size=1), pixels)[0]
        assert single < 1e-5 if by in NOT_OF_FIVE else single > 0.1


def test_what_fails_alone_and_not_in_company_depends_on_its_batch(runner: Any) -> None:
    """A spread over the batch with n − 1 below it: 0/0 for one image, a number for more."""
    run = runner(written(SEEN + "free = Sub(n, 1.0); factor = Div(free, free); embedding = Mul(features, factor)"))
    assert np.isnan(run.run(PIXELS[:1]).representation).all()
    assert np.isfinite(run.run(PIXELS[:4]).representation).all()  # one pass
    assert TRIAL.batch_differences(run, PIXELS)[0] == 1e9


FEATURES = 24
CONTRASTS = np.array([1, 4, 16, 64, 256], np.float32).reshape(-1, 1, 1, 1) / 256
UNLIKE = normal(5, 8, 8, 3, seed=5).astype(np.float32) * CONTRASTS
"""images whose contrast differs by a factor of 256, so that each would have a scale of its own"""


INTEGERS = {
    "fused": "product = com.microsoft:DynamicQuantizeMatMul(features, q, 0.01, zero, bias)",
    "apart": """a, a.scale, a.zero = DynamicQuantizeLinear(features); whole = MatMulInteger(a, q, a.zero, zero)
        float = Cast(whole, to=FLOAT); scale = Mul(a.scale, 0.01); unbiased = Mul(float, scale)
        product = Add(unbiased, bias)""",
}
"""ways from "features" to "product", a product with int8 weights whose other factor is quantised in the run"""
WEIGHTS: Fields = {"zero": np.array(3, np.int8), "bias": np.linspace(-1, 1, FEATURES).astype(np.float32)}
WEIGHTS["q"] = default_rng(0).integers(-100, 100, (FEATURES, FEATURES)).astype(np.int8)
GAIN, SHIFT = [1.0] * FEATURES, [0.0] * FEATURES


def quantised(form: str, end: str = "embedding = Identity(product)", *, batch: int | str = "batch") -> ModelProto:
    """A quantised encoder, then nodes from "product" to "embedding"."""
    image = ("image", TensorProto.FLOAT, (batch, 3, 8, 8))
    text = POOLED.replace("w16", "w24") + INTEGERS[form] + "\n" + end
    return written(text, "embedding", before="", inputs=[image], **WEIGHTS)


@pytest.mark.parametrize("form", INTEGERS)
def test_nothing_is_left_of_dynamic_quantisers_alone(runner: Any, form: str) -> None:
    run = runner(quantised(form), batch_size=1)
    before = run.represent(UNLIKE)[0]
    (together,), (fixed,) = TRIAL.batch_differences(run, UNLIKE), TRIAL.fixed_scale_differences(run, UNLIKE)
    assert together > 0.02
    assert fixed < 1e-3
    np.testing.assert_array_equal(run.represent(UNLIKE)[0], before)  # the model itself runs on


def test_what_else_mixes_the_batch_is_left(runner: Any) -> None:
    for end in (
        "mean = ReduceMean(product, [0]); embedding = Sub(product, mean)",
        f"embedding, mean, spread = BatchNormalization(product, {GAIN}, {SHIFT}, {SHIFT}, {GAIN}, training_mode=1)",
    ):
        (fixed,) = TRIAL.fixed_scale_differences(runner(quantised("apart", end), batch_size=1), UNLIKE)
        assert fixed > 0.3


def test_the_execution_of_an_int8_file_alone_has_the_int8_sums_of_this_cpu(runner: Any) -> None:
    assert runner(quantised("apart")).execution.int8_sums == int8_sums()
    assert runner(encoder()).execution.int8_sums is None


def test_a_layer_in_a_graph_inside_a_node_makes_an_int8_file_whose_scales_no_run_can_fix(runner: Any) -> None:
    run = runner(with_int8_branches(np.tile(WEIGHTS["q"], (8, 1))))
    assert run.execution.int8_sums == int8_sums()
    graph = run.model.graph.proto
    assert scales_over_batch(graph)
    assert not can_fix_scales(graph)
    assert TRIAL.batch_differences(run, UNLIKE)[0] > 0.02
    assert TRIAL.fixed_scale_differences(run, UNLIKE) == (None,)


def test_no_answer_without_dynamic_quantisers_or_with_a_fixed_batch(runner: Any) -> None:
    plain = encoder()
    assert not scales_over_batch(plain)
    for model in (plain, quantised("apart", batch=4)):
        assert TRIAL.fixed_scale_differences(runner(model), UNLIKE) == (None,)


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
            assert met.wait(PATIENCE_S)  # until a second pass has come and was refused
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
            (found,) = TRIAL.batch_differences(run, PIXELS)
            assert (found is None) if most == 1 else found > 0.1
            tried.clear()
            run.run(PIXELS)
            assert max(tried) == most  # no later pass has more company than was looked at
    assert TRIAL.batch_differences(runner(model), PIXELS[:1]) == (None,)


def test_memory_that_is_short_for_the_usual_pass_is_not_short_for_company(runner: Any, monkeypatch: Patch) -> None:
    run = runner(encoder(), threads=1)
    run._pass_images = 32  # as on a GPU
    tried = short_of_memory(monkeypatch, 8)
    assert TRIAL.batch_differences(run, PIXELS)[0] < 1e-5
    assert [size for size in tried if size > 5] == [33, 32, 16, 8]
    tried.clear()
    run.run(np.resize(PIXELS, (20, *PIXELS.shape[1:])))
    assert sorted(tried) == [4, 8, 8]


def test_an_interrupt_between_passes_ends_those_that_run(runner: Any, monkeypatch: Patch) -> None:
    ended = []

    def endless(self: Runner, session: Any, names: list[str], batch: Pixels, options: Any) -> None:
        until = time.monotonic() + PATIENCE_S
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

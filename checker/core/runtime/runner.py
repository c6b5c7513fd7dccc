"""Run a model on photos: pixels go in, representations (image, feature) come out.

Float pixels are scaled here, uint8 ones by a graph on the device: three quarters of the bytes need not go there.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import ModelProto

from ...arrays import AnyArray
from ...errors import CannotAssessError, EnvironmentFaultError, unfit
from ...text import frozen
from ..evidence import Arithmetic
from ..images.preprocess import scales_finitely
from ..model.int8 import holds_int8_weights, holds_nested_int8_weights, with_unsigned_weights
from ..model.open import ModelFile
from ..model.pooling import apply_pool
from ..model.watched import refuse_changed
from ..preprocessing import Preprocessing
from .devices import CPU, CUDA, ORT_FATAL, RUN_ERRORS, TENSORRT, cpu_threads, device_memory, expects_accelerator
from .inputs import BFLOAT16, IMAGE, PIXELS, as_array, as_ort_value, feed, input_graph, not_finite
from .session import describe, open_session, relative_difference, translate

MOST_IMAGES = 1024  # in a forward pass on a GPU, until memory runs out; callers give far fewer
# On a CPU larger passes save nothing and leave its caches, and small ones side by side, one a core, wait for no other
# core (benchmarks/results/performance.md). The number is fixed: other batches, other last digits.
MOST_IMAGES_ON_CPU = 4
LARGEST_REWRITTEN = 2**30  # bytes of a file whose weights are written again for exact sums; a session keeps both
BATCH_SIZE = 32  # images that callers give at once, by default
SAME_OUTPUT = {"fp32": 1e-4, "fp64": 1e-4, "fp16": 1e-2, "bf16": 5e-2, "int8": 5e-2, "fp8": 5e-2, "fp4": 5e-2}
"""Relative difference below which two runs of one model count as the same, by precision: it leaves room for another
order of sums and, quantised, for one step of rounding; a wrong fusion is off by far more."""


@frozen
class RunOutput:
    """A model's outputs for some images."""

    representation: AnyArray
    """(image, feature) float32 or float64, values as the model gives them: not checked for finiteness"""
    class_output: AnyArray | None
    """(image, class) where the model has class scores"""


class Runner:
    """A model in an ONNX Runtime session. It is the only stateful object of the check.

    Args:
        model: from `open_model`.
        device: as `parse_device` reads it.
        preprocessing: scales the uint8 pixels of photos, on the device; None = pixels come as the model takes them.
        also: the same file opened for further tensors, to be read in the same forward pass: each of them, and the
            one of `model`, must be an output of the graph as its author wrote it.
        threads: cores for ONNX Runtime; None = all that this process may use.
        batch_size: images that callers give at once; no more of them run at a time.
        level: of graph optimisation; a key of `LEVELS`.
        arithmetic: that was asked for; with "exact", int8 sums do not saturate, whatever the CPU does by itself.

    Raises:
        UsageError: no such device.
        EnvironmentFaultError: the device asked for is not there, or memory ran out.
        CannotAssessError: ONNX Runtime can't load the model; the preprocessing makes values that are not finite.
    """

    def __init__(
        self,
        model: ModelFile,
        device: str = "auto",
        *,
        preprocessing: Preprocessing | None = None,
        also: Sequence[ModelFile] = (),
        threads: int | None = None,
        batch_size: int = BATCH_SIZE,
        level: str = "all",
        arithmetic: Arithmetic | None = None,
    ) -> None:
        self.model = model
        self._arithmetic = arithmetic
        self._is_exact = arithmetic == "exact"
        self.models = (model, *also)
        assert not also or not any(opened.added_output for opened in self.models)
        self._device = device
        self._batch_size = batch_size
        is_accelerated = expects_accelerator(device)
        self._maps = not is_accelerated  # others copy weights to a device of their own
        self._cores = threads or cpu_threads()
        side_by_side = max(1, min(self._cores, batch_size // (self.fixed_batch or MOST_IMAGES_ON_CPU)))
        # one pass at a time on a GPU, and in one thread for good: CUDA keeps a context a thread
        self._run_side_by_side(1 if is_accelerated else side_by_side)
        self._open(level)
        self._pass_images = MOST_IMAGES
        if self.execution.providers[0] == CPU:
            self._pass_images = MOST_IMAGES_ON_CPU
            if self._n_passes != side_by_side:  # a GPU that could not start
                self._run_side_by_side(side_by_side)
                self._open(level)
        self._scaling: ort.InferenceSession | None = None
        if preprocessing is not None and model.image_input.dtype != "uint8":
            self._scaling = self._open_scaling(preprocessing)

    def _run_side_by_side(self, n_passes: int) -> None:
        """Run as many passes at once from now on, and leave the other cores to sessions that are opened later."""
        self._n_passes = n_passes
        self._passes = ThreadPoolExecutor(n_passes, thread_name_prefix="run")
        self._threads = self._cores - n_passes + 1  # a pass counts its own thread

    def _open(self, level: str) -> None:
        self._session, reason = self._open_graph(self._graph(with_addition=True), level)
        described = describe(self._session, self.model, self._device, level, reason, self._cores)
        self.execution = described.model_copy(update={"arithmetic": self._arithmetic})

    def _graph(self, *, with_addition: bool) -> bytes:
        graph = self.model.graph
        is_rewritten = (
            self._is_exact and self.model.precision == "int8" and self.model.file.size_bytes <= LARGEST_REWRITTEN
        )
        if self._maps and not is_rewritten and (mapped := graph.mapped(with_addition=with_addition)):
            return mapped
        whole = graph.with_addition() if with_addition else graph.own()
        if not is_rewritten:
            return whole
        unsigned = with_unsigned_weights(ModelProto.FromString(whole), graph.file.weights)
        if holds_nested_int8_weights(unsigned):
            raise CannotAssessError(
                f"{self.model.path}: int8 weights lie in a graph inside a node, where their sums can't be made exact",
                "--arithmetic machine",
            )
        return bytes(unsigned.SerializeToString())

    def _open_graph(self, graph: bytes, level: str = "all", device: str = "") -> tuple[ort.InferenceSession, str]:
        """Open a session on a graph.

        Where ONNX Runtime refuses the graph in its exact mode, a graph without int8 weights is exact without that mode.
        """
        device = device or self._device
        if self._is_exact:
            try:
                return open_session(graph, self.model, device, level, threads=self._threads, exact=True)
            except CannotAssessError:
                if holds_int8_weights(ModelProto.FromString(graph)):
                    raise
        return open_session(graph, self.model, device, level, threads=self._threads)

    def _open_scaling(self, preprocessing: Preprocessing) -> ort.InferenceSession:
        """Open the session that makes the model's input of uint8 pixels, on the device that the model got."""
        if not scales_finitely(preprocessing):
            raise not_finite(self.model.path)
        first = self.execution.providers[0]
        device = self._device
        if first != CUDA:  # no engine is built for five operators
            device = "cuda" if first == TENSORRT else "cpu"
        graph = input_graph(preprocessing, self.model.image_input)
        return self._open_graph(graph, device=device)[0]

    def close(self) -> None:
        """Free the session's memory. Nothing runs after that."""
        del self._session

    @property
    def fixed_batch(self) -> int | None:
        """Return the model's fixed batch size, None for any."""
        return self.model.image_input.batch

    def run(self, pixels: AnyArray) -> RunOutput:
        """Compute representations of images, and their class scores where the model has some.

        `pixels` is (image, height, width, channel): uint8 as `preprocess.apply_uint8` gives it, for a model that takes
        uint8 or a runner that knows the preprocessing; else float32 as `preprocess.apply` gives it. A fixed batch is
        filled up by repeating the last image; the surplus is dropped, never an image.

        Raises:
            UsageError: wrong shape or type of `pixels`.
            CannotAssessError: no image, values that are not finite, another size than the model takes, an output
                without one row an image, files of weights that changed since they were digested.
            EnvironmentFaultError: memory ran out.
        """
        names = [self.model.fetch]
        classes = self.model.class_output
        if classes not in (None, self.model.fetch):
            names.append(classes)
        (outputs,) = self._outputs(self._session, [pixels], names)
        scores = None
        if classes is not None:
            scores = outputs[-1].reshape(len(outputs[-1]), -1)
        return RunOutput(_representation(outputs[0], self.model), scores)

    def represent(self, pixels: AnyArray) -> tuple[AnyArray, ...]:
        """Compute the representations of images, one array (image, feature) for each of `models`, in the same passes.

        Arguments and errors as for `run`.
        """
        (representations,) = self._represent([pixels], one_pass=False)
        return representations

    def represent_sets(self, sets: Sequence[AnyArray]) -> list[tuple[AnyArray, ...]]:
        """Compute the representations of several sets of images, each in one pass, but for a fixed batch."""
        return self._represent(sets, one_pass=True)

    def _represent(self, sets: Sequence[AnyArray], *, one_pass: bool) -> list[tuple[AnyArray, ...]]:
        names = [model.fetch for model in self.models]
        of_sets = self._outputs(self._session, sets, names, one_pass=one_pass)
        return [tuple(map(_representation, of_set, self.models)) for of_set in of_sets]

    def represent_in_batches(self, pixels: AnyArray) -> tuple[AnyArray, ...]:
        """Compute the representations of images in the batches that callers give."""
        starts = range(0, len(pixels), self._batch_size)
        parts = [self.represent(pixels[i : i + self._batch_size]) for i in starts]
        return tuple(_joined(parts))

    @property
    def pass_size(self) -> int:
        """Return how many images run in one pass when a caller gives a batch."""
        return self.fixed_batch or min(self._batch_size, self._pass_images)

    def lower_pass_size(self, size: int) -> None:
        """Run at most `size` images in a pass from now on, since memory ran out."""
        self._pass_images = min(self._pass_images, size)

    @contextmanager
    def running(self, graph: bytes) -> Iterator[None]:
        """Run another graph with the same inputs and outputs until the end of the context."""
        own_session = self._session
        self._session, _ = self._open_graph(graph, self.execution.optimization)
        try:
            yield
        finally:
            self._session = own_session

    def run_other(self, graph: bytes, names: list[str], pixels: AnyArray) -> list[Any] | None:
        """Compute named outputs of another graph with the same input, for images in one pass; None where that fails."""
        session, _ = self._open_graph(graph, self.execution.optimization)
        values = feed(pixels, self.model, scaled_on_device=self._scaling is not None)
        (outputs,) = self._run_session(session, names, [values])
        return None if isinstance(outputs, Exception) else outputs

    def output_difference(self, pixels: AnyArray) -> float:
        """Return the largest relative difference of the model's own outputs with and without the added one, on a batch.

        ONNX Runtime fuses layers, and an output in the middle forbids some fusions. When the outputs differ, the runner
        goes to lower graph optimisation until they agree, and keeps the last level either way: `execution` has it.
        """
        difference = 0.0
        if not self.model.added_output:
            return difference
        names = [output.name for output in self.model.outputs]
        session, _ = self._open_graph(self._graph(with_addition=False))
        (without,) = self._outputs(session, [pixels], names)
        del session
        for level in ("all", "basic", "none"):
            if level != self.execution.optimization:
                self._open(level)
            (with_added,) = self._outputs(self._session, [pixels], names)
            difference = max(map(relative_difference, without, with_added))
            if difference <= SAME_OUTPUT[self.model.precision]:
                break
        return difference

    def _outputs(
        self, session: Any, sets: Sequence[AnyArray], names: list[str], *, one_pass: bool = False
    ) -> list[list[AnyArray]]:
        """Compute named outputs for each set of images, in passes as large as device, batch and memory allow.

        one_pass: one pass for each set, but for a fixed batch.
        """
        batches_by_set: list[list[AnyArray]] = []
        for pixels in sets:
            values = feed(pixels, self.model, scaled_on_device=self._scaling is not None)
            size = self.fixed_batch or (len(values) if one_pass else self._pass_images)
            batches_by_set.append([values[i : i + size] for i in range(0, len(values), size)])
        batches = [batch for of_set in batches_by_set for batch in of_set]
        can_halve = not one_pass and not self.fixed_batch
        outputs = iter(self._run_batches(session, names, batches, can_halve=can_halve))
        refuse_changed(self.model.path, self.model.file.watched)
        return [_joined(itertools.islice(outputs, len(of_set))) for of_set in batches_by_set]

    def _run_batches(
        self, session: Any, names: list[str], batches: Sequence[AnyArray], *, can_halve: bool
    ) -> list[list[AnyArray]]:
        """Compute named outputs for each batch.

        Where memory runs out, passes run one after the other for good, then batches are halved for good.
        """
        outputs = []
        side_by_side = self._n_passes > 1
        for batch, outcome in zip(batches, self._run_session(session, names, batches), strict=True):
            if not isinstance(outcome, Exception):
                outputs.append(self._by_image(batch, names, outcome))
                continue
            fault = translate(outcome, self.model)
            size = len(batch)
            if isinstance(fault, EnvironmentFaultError) and side_by_side:
                if self._n_passes > 1:  # no earlier batch of these has done it
                    self._run_side_by_side(1)
            elif isinstance(fault, EnvironmentFaultError) and can_halve and size > 1:
                size //= 2
                self.lower_pass_size(size)
            else:
                raise fault from outcome
            parts = [batch[i : i + size] for i in range(0, len(batch), size)]
            again = self._run_batches(session, names, parts, can_halve=can_halve)
            outputs.append(_joined(again))
        return outputs

    def _by_image(self, batch: AnyArray, names: list[str], values: list[Any]) -> list[AnyArray]:
        """Check that the first axis is the image, and drop the rows of images that filled up a fixed batch."""
        ran = self.fixed_batch or len(batch)
        for name, value in zip(names, values, strict=True):
            if np.ndim(value) == 0 or len(value) != ran:
                raise CannotAssessError(
                    f"{self.model.path}: output {name!r} has shape {np.shape(value)} for {ran} images; "
                    "the first axis must be the image",
                    "export the model again with a dynamic batch axis",
                )
        return [np.asarray(value)[: len(batch)] for value in values]

    def _run_session(self, session: Any, names: list[str], batches: Sequence[AnyArray]) -> list[list[Any] | Exception]:
        """Call session.run for each batch in threads, and return what it gave or raised.

        Python sees a signal only between native calls, and a graph may loop: whatever interrupts the wait makes ONNX
        Runtime stop at the next node.
        """
        options = ort.RunOptions()
        options.log_severity_level = ORT_FATAL
        running: list[Future[list[Any]]] = []
        try:
            for batch in batches:
                running.append(self._passes.submit(self._pass, session, names, batch, options))
            wait(running)
        except BaseException:
            options.terminate = True
            for future in running:
                future.cancel()
            wait(running)
            raise
        outcomes: list[list[Any] | Exception] = []
        for future in running:
            try:
                outcomes.append(future.result())
            except RUN_ERRORS as error:  # each batch may fail by itself
                outcomes.append(error)
        return outcomes

    def _pass(self, session: Any, names: list[str], batch: AnyArray, options: ort.RunOptions) -> list[Any]:
        """Run one forward pass, on uint8 pixels that are scaled on the device first and stay there."""
        input_ = self.model.image_input
        missing = (self.fixed_batch or len(batch)) - len(batch)
        if missing:
            batch = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
        kinds = [output.type for output in session.get_outputs() if output.name in names]
        # NumPy has no bfloat16: ONNX Runtime's own arrays go in and out
        is_wide = any(BFLOAT16 in kind for kind in (input_.dtype, *kinds))
        image: Any = batch
        if self._scaling is not None and batch.dtype == np.uint8:
            binding = self._scaling.io_binding()
            binding.bind_cpu_input(PIXELS, batch)
            binding.bind_output(IMAGE, *device_memory(self._scaling))
            self._scaling.run_with_iobinding(binding, options)
            binding.synchronize_outputs()
            (image,) = binding.get_outputs()
        elif is_wide:
            image = as_ort_value(batch, input_)
        if is_wide:
            values = session.run_with_ort_values(names, {input_.name: image}, options)
            return [as_array(value) for value in values]
        return list(session.run(names, {input_.name: image}, options))


def _joined(batches: Iterable[Sequence[AnyArray]]) -> list[AnyArray]:
    """Join each output over batches."""
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def _representation(values: AnyArray, model: ModelFile) -> AnyArray:
    """Pool to (image, feature), float32 or float64. Raises CannotAssessError: there is no value an image."""
    chosen = model.representation
    if values.size == 0 and len(values):
        raise unfit(model.path, f"shape of {chosen.tensor} is {tuple(values.shape)}; it must have features")
    representation = apply_pool(values, chosen.pool, chosen.feature_axis)
    if representation.dtype in (np.float32, np.float64):
        return representation
    return representation.astype(np.float32)

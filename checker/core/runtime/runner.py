"""Run a model on photos. Pixels go in, representations (image, feature) come out.

Float pixels are scaled here, uint8 ones by a graph on the device: three quarters of the bytes need not go there.
Quantisers that take their scale over the whole batch are found, and held fixed to see what else mixes the batch.
"""

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto
from onnx.helper import make_node, make_tensor_value_info, tensor_dtype_to_np_dtype
from onnx.numpy_helper import from_array
from onnx.parser import parse_model

from ...arrays import AnyArray, GenericArray
from ...errors import CannotAssessError, EnvironmentFaultError, UsageError, unfit
from ...text import frozen
from ..evidence import Preprocessing
from ..images.preprocess import channels, scales_finitely
from ..model.image_input import DTYPES, ImageInput
from ..model.int8 import with_unsigned_weights
from ..model.open import ModelFile
from ..model.pooling import apply_pool
from ..model.watched import refuse_changed
from .devices import CPU, CUDA, ORT_FATAL, RUN_ERRORS, TENSORRT, cpu_threads, device_memory, expects_accelerator
from .session import describe, open_session, relative_difference, translate

# onnx ≥ 1.21 and ONNX Runtime write these; others, such as DynamicQuantizeLSTM, are in no vision encoder
QUANTISER, MATMUL = "DynamicQuantizeLinear", "DynamicQuantizeMatMul"


def scales_over_batch(model: ModelProto) -> bool:
    """Return whether a quantiser scales over the batch. Subgraphs do not count."""
    return any(node.op_type in (QUANTISER, MATMUL) for node in model.graph.node)


def with_scales(graph: bytes) -> tuple[ModelProto, list[str]]:
    """Make the scales of dynamic quantisers into outputs.

    Each quantiser becomes a node without others; scale and zero point are outputs, whose names are returned.

    A DynamicQuantizeMatMul becomes the quantiser and the integer product that it is short for.
    """
    model = ModelProto.FromString(graph)
    nodes = [part for node in model.graph.node for part in (_apart(node) if node.op_type == MATMUL else [node])]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    names = [name for node in nodes if node.op_type == QUANTISER for name in node.output[1:]]
    there = {output.name for output in model.graph.output}
    kinds = (TensorProto.FLOAT, TensorProto.UINT8)
    for index, name in enumerate(names):
        if name not in there:
            model.graph.output.append(make_tensor_value_info(name, kinds[index % 2], []))
    return model, names


def with_fixed_scales(model: ModelProto, names: Sequence[str], values: Sequence[GenericArray]) -> bytes:
    """Write the model of `with_scales` with constant scales and zero points.

    Then no scale depends on the batch. The model is changed in place.
    """
    constants = dict(zip(names, values, strict=True))
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        if node.op_type != QUANTISER:
            nodes.append(node)
            continue
        quantised, *scaling = node.output
        for name in scaling:
            nodes.append(make_node("Constant", [], [name], value=from_array(np.asarray(constants[name]), name)))
        nodes.append(make_node("QuantizeLinear", [node.input[0], *scaling], [quantised]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return bytes(model.SerializeToString())


def _apart(node: NodeProto) -> Iterator[NodeProto]:
    """Yield the nodes that replace a DynamicQuantizeMatMul. Its inputs are A, B, B's scale[, B's zero point, bias]."""
    a, b, b_scale, b_zero, bias = [*node.input, "", ""][:5]
    name = f"{node.output[0]}_apart"
    quantised, scale, zero = (f"{name}_{part}" for part in ("a", "scale", "zero"))
    yield make_node(QUANTISER, [a], [quantised, scale, zero])
    yield make_node("MatMulInteger", [quantised, b, zero, b_zero], [f"{name}_integers"])
    yield make_node("Cast", [f"{name}_integers"], [f"{name}_floats"], to=TensorProto.FLOAT)
    yield make_node("Mul", [scale, b_scale], [f"{name}_scales"])
    product = node.output[0] if not bias else f"{name}_product"
    yield make_node("Mul", [f"{name}_floats", f"{name}_scales"], [product])
    if bias:
        yield make_node("Add", [product, bias], [node.output[0]])


BFLOAT16 = "bfloat16"
PIXELS, IMAGE = "pixels", "image"
OPSET, IR = 13, 7  # of these few operators; every ONNX Runtime that runs here knows them


def input_graph(preprocessing: Preprocessing, image: ImageInput) -> bytes:
    """Make an ONNX model that scales photos. It does as `images.apply`, in float32 and bit for bit.

    Cast → · rescale → − mean → / std, in the layout and the type that the model takes. Its input `pixels` is (image,
    height, width, channel) uint8 from `images.apply_uint8`, in the preprocessing's colour order; its output `image` is
    (image, channel, height, width), or the layout of `pixels` for an NHWC model. There are 3 channels, or 1 in grey.
    One operator a step: folding them into one multiplication and one addition would give other last digits.
    """
    turned = slice(None, None, -1) if preprocessing.color_order == "BGR" else slice(None)
    n, nchw = channels(preprocessing), image.layout == "NCHW"
    # of bytes, a turn is a quarter of the work
    first, shape = (
        ("Transpose<perm = [0, 3, 1, 2]>", f"{n}, height, width") if nchw else ("Identity", f"height, width, {n}")
    )
    kind = next(kind for kind, name in DTYPES.items() if name == image.dtype)
    model = parse_model(f"""
        <ir_version: {IR}, opset_import: ["" : {OPSET}]>
        input (uint8[images, height, width, {n}] {PIXELS}) => (float[images, {shape}] {IMAGE}) {{
            bytes = {first}({PIXELS})
            floats = Cast<to = {TensorProto.FLOAT}>(bytes)
            scaled = Mul(floats, rescale)
            centred = Sub(scaled, mean)
            normalised = Div(centred, std)
            {IMAGE} = Cast<to = {kind}>(normalised)
        }}
    """)
    model.graph.output[0].type.tensor_type.elem_type = kind
    across = (n, 1, 1) if nchw else (n,)
    for name in ("mean", "std"):
        values = np.asarray(getattr(preprocessing, name)[:n][turned], dtype=np.float32)
        model.graph.initializer.append(from_array(values.reshape(across), name))
    model.graph.initializer.append(from_array(np.asarray(preprocessing.rescale, np.float32), "rescale"))
    return bytes(model.SerializeToString())


def feed(pixels: AnyArray, model: ModelFile, *, scaled_on_device: bool) -> AnyArray:
    """Give pixels the model's layout and type. uint8 ones stay as they are where they are scaled on the device.

    `pixels` is (image, height, width, channel). Returns the model's own layout, or that of `pixels`; float32 where the
    model takes bfloat16, which NumPy does not have.

    Raises:
        UsageError: another shape; a type, or values, that the model does not take.
        CannotAssessError: no image; another size than the model's; values that are not finite.
    """
    where, image = model.path, model.image_input
    n = image.channels or 3
    if pixels.ndim != 4 or pixels.shape[-1] != n:
        raise UsageError(f"pixels have shape {pixels.shape}; (image, height, width, {n}) is needed")
    if len(pixels) == 0:
        raise CannotAssessError(f"{where}: number of images is 0; at least one is needed", "--images FOLDER")
    for axis, name, size in ((1, "height", image.height), (2, "width", image.width)):
        if size is not None and pixels.shape[axis] != size:
            raise CannotAssessError(
                f"{where}: preprocessed {name} is {pixels.shape[axis]} px; the model takes {size} px",
                "--preprocess FILE with that size",
            )
    if pixels.dtype != np.uint8 and not np.isfinite(pixels).all():
        raise CannotAssessError(
            f"{where}: preprocessed pixels are not all finite; mean and std must be", "--preprocess"
        )
    if image.dtype == "uint8" and pixels.dtype != np.uint8:
        if not ((pixels >= 0) & (pixels <= 255) & (pixels == np.round(pixels))).all():
            raise UsageError(
                f"{where}: input type is uint8; preprocessing must keep whole numbers from 0 to 255",
                "--preprocess with rescale 1, mean 0, std 1",
            )
    elif image.dtype != "uint8" and pixels.dtype == np.uint8:
        if not scaled_on_device:
            raise UsageError(f"{where}: pixels are uint8; the model takes {image.dtype}")
        return np.ascontiguousarray(pixels)
    if image.layout == "NCHW":
        pixels = pixels.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(pixels, dtype=np.dtype(np.float32 if image.dtype == BFLOAT16 else image.dtype))


def as_ort_value(values: AnyArray, image: ImageInput) -> ort.OrtValue:
    """Put the result of `feed` into an OrtValue. It has the type that the model takes."""
    if image.dtype != BFLOAT16:
        return ort.OrtValue.ortvalue_from_numpy(values)
    rounded = values.astype(tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)).view(np.uint16)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(rounded, TensorProto.BFLOAT16)


def as_array(value: ort.OrtValue) -> AnyArray:
    """Read ONNX Runtime's own array; bfloat16 becomes float32."""
    if value.data_type() != f"tensor({BFLOAT16})":
        return np.asarray(value.numpy())
    return np.asarray(_widening().run(None, {"x": value})[0])


@cache
def _widening() -> ort.InferenceSession:
    """Open the session that turns bfloat16 into float32."""
    head = f'<ir_version: {IR}, opset_import: ["" : {OPSET}]>'
    cast = f"{head} widening (bfloat16[] x) => (float[] y) {{ y = Cast<to = {TensorProto.FLOAT}>(x) }}"
    return ort.InferenceSession(parse_model(cast).SerializeToString(), providers=["CPUExecutionProvider"])


MOST_IMAGES = 1024  # in a forward pass on a GPU, until memory runs out; callers give far fewer
# On a CPU larger passes save nothing and leave its caches, and small ones side by side, one a core, wait for no other
# core (benchmarks/results/performance.md). The number is fixed: other batches, other last digits.
MOST_IMAGES_ON_CPU = 4
LARGEST_REWRITTEN = 2**30  # bytes of a file whose weights are written again for exact sums; a session keeps both
TRIED = 5  # images that run alone, and once more together, to see whether representations depend on the batch
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
        exact: int8 sums do not saturate, whatever the CPU does by itself.

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
        exact: bool = False,
    ) -> None:
        self.model = model
        self._is_exact = exact
        self.models = (model, *also)
        assert not also or not any(opened.added_output for opened in self.models)
        self._device, self._batch_size = device, batch_size
        self._maps = not expects_accelerator(device)  # others copy weights to a device of their own
        self._cores = threads or cpu_threads()
        side_by_side = max(1, min(self._cores, batch_size // (self.fixed_batch or MOST_IMAGES_ON_CPU)))
        # one pass at a time on a GPU, and in one thread for good: CUDA keeps a context a thread
        self._run_side_by_side(1 if expects_accelerator(device) else side_by_side)
        self._open(level)
        if self.execution.providers[0] == CPU and self._n_passes != side_by_side:  # a GPU that could not start
            self._run_side_by_side(side_by_side)
            self._open(level)
        self._scaling: ort.InferenceSession | None = None
        if preprocessing is not None and model.image_input.dtype != "uint8":
            self._scaling = self._open_scaling(preprocessing)
        self._pass_images = MOST_IMAGES_ON_CPU if self.execution.providers[0] == CPU else MOST_IMAGES

    def _run_side_by_side(self, n_passes: int) -> None:
        """Run as many passes at once from now on. A session that is opened later shares the cores that are left."""
        self._n_passes = n_passes
        self._passes = ThreadPoolExecutor(n_passes, thread_name_prefix="run")
        self._threads = self._cores - n_passes + 1  # a pass counts its own thread

    def _open(self, level: str) -> None:
        self._session, reason = self._open_graph(self._graph(with_addition=True), level)
        self.execution = describe(self._session, self.model, self._device, level, reason, self._cores)

    def _graph(self, *, with_addition: bool) -> bytes:
        graph = self.model.graph
        if self._is_exact and self.model.precision == "int8" and self.model.size_bytes <= LARGEST_REWRITTEN:
            whole = graph.with_addition() if with_addition else graph.own()
            return bytes(with_unsigned_weights(ModelProto.FromString(whole), graph.file.weights).SerializeToString())
        mapped = graph.mapped(with_addition=with_addition) if self._maps else None
        return mapped or (graph.with_addition() if with_addition else graph.own())

    def _open_graph(self, graph: bytes, level: str = "all", device: str = "") -> tuple[ort.InferenceSession, str]:
        return open_session(
            graph, self.model, device or self._device, level, threads=self._threads, exact=self._is_exact
        )

    def _open_scaling(self, preprocessing: Preprocessing) -> ort.InferenceSession:
        """Open the session that scales uint8 pixels. It makes the model's input, on the device that the model got."""
        if not scales_finitely(preprocessing):
            raise CannotAssessError(
                f"{self.model.path}: preprocessed pixels are not all finite; mean and std must be", "--preprocess"
            )
        first, device = self.execution.providers[0], self._device
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
        """Compute representations and class scores of images. The scores are there where the model has some.

        `pixels` is (image, height, width, channel): uint8 as `preprocess.apply_uint8` gives it, for a model that takes
        uint8 or a runner that knows the preprocessing; else float32 as `preprocess.apply` gives it. A fixed batch is
        filled up by repeating the last image; the surplus is dropped, never an image.

        Raises:
            UsageError: wrong shape or type of `pixels`.
            CannotAssessError: no image, values that are not finite, another size than the model takes, an output
                without one row an image, files of weights that changed since they were digested.
            EnvironmentFaultError: memory ran out.
        """
        classes = self.model.class_output
        names = [self.model.fetch] if classes in (None, self.model.fetch) else [self.model.fetch, classes]
        (outputs,) = self._outputs(self._session, [pixels], names)
        scores = None if classes is None else outputs[-1].reshape(len(outputs[-1]), -1)
        return RunOutput(_representation(outputs[0], self.model), scores)

    def represent(self, pixels: AnyArray, *, one_pass: bool = False) -> tuple[AnyArray, ...]:
        """Compute the representations of images.

        There is one array (image, feature) for each of `models`, from the same passes.

        one_pass: in one pass, but for a fixed batch. Other arguments and errors as for `run`.
        """
        return self._represent([pixels], one_pass=one_pass)[0]

    def _represent(self, sets: Sequence[AnyArray], *, one_pass: bool) -> list[tuple[AnyArray, ...]]:
        outputs = self._outputs(self._session, sets, [model.fetch for model in self.models], one_pass=one_pass)
        return [
            tuple(_representation(values, model) for values, model in zip(arrays, self.models, strict=True))
            for arrays in outputs
        ]

    def represent_in_batches(self, pixels: AnyArray) -> tuple[AnyArray, ...]:
        """Compute the representations of images in the batches that callers give."""
        starts = range(0, len(pixels), self._batch_size)
        parts = [self.represent(pixels[i : i + self._batch_size]) for i in starts]
        return tuple(np.concatenate(rows) for rows in zip(*parts, strict=True))

    def batch_invariances(
        self, pixels: AnyArray, measured: Sequence[AnyArray] | None = None
    ) -> tuple[float | None, ...]:
        """Measure how representations depend on the batch. There is one number for each of `models`.

        max |expected − actual| / rms(expected) of an image. Expected are the representations of the first `TRIED`
        images when each runs alone, and of the others as they were measured. Actual are those as they were measured,
        and those of passes in reverse order: of the first `TRIED` images, and of one image more than a measured pass
        where that is larger. What a model makes of 5 images it may not make of 4. Where each image is measured alone,
        a pass in order counts, too. With a fixed batch, one image repeated stands for "alone". 0 means that no
        representation depends on its batch; with a fixed batch of 1 it can't; 1e9 at most, also where a value is
        finite together and not alone, or the other way round. Where memory is short, fewer images run together, and no
        later pass has more; None where it is a single image, which says nothing.

        Args:
            pixels: the first images of the run.
            measured: what `represent_in_batches` gives for them; None = computed here.
        """
        rows = self.represent_in_batches(pixels) if measured is None else measured
        usual = self.fixed_batch or min(self._batch_size, self._pass_images)  # images of a measured pass
        measured_alone = usual == 1
        alone = [] if measured_alone else [pixels[i : i + 1] for i in range(min(TRIED, len(pixels)))]
        most = max(TRIED, self.fixed_batch or usual + 1)
        while most > 1 and len(pixels) > 1:
            sizes = sorted({min(TRIED, most), most})
            orders = [np.resize(np.arange(min(len(pixels), size))[::-1], size) for size in sizes]
            if measured_alone:
                orders.append(orders[0][::-1])
            try:
                outputs = self._represent([*(pixels[order] for order in orders), *alone], one_pass=True)
                break
            except EnvironmentFaultError:
                if self.fixed_batch:
                    raise
                most = max(most // 2, usual) if most > usual else most // 2
                self._pass_images = min(self._pass_images, most)
        else:
            return (None,) * len(self.models)
        differences: list[float | None] = []
        for in_batches, *outcomes in zip(rows, *outputs, strict=True):
            expected = np.concatenate([*outcomes[len(orders) :], in_batches[len(alone) :]])
            pairs = [(expected, in_batches), *((expected[order], outcomes[i]) for i, order in enumerate(orders))]
            differences.append(max(relative_difference(*pair) for pair in pairs))
        return tuple(differences)

    def fixed_scale_invariances(self, pixels: AnyArray) -> tuple[float | None, ...]:
        """Measure `batch_invariances` with fixed scales.

        They are the scales that the model's quantisers compute over the batch.

        They are fixed at what they are for `pixels` together. What is left depends on the batch for another reason.
        None where the model has no such quantisers, where its batch is fixed, or where it does not run so.
        """
        nothing: tuple[float | None, ...] = (None,) * len(self.models)
        if self.fixed_batch or not scales_over_batch(self.model.graph.proto):
            return nothing
        measured, level = self._session, self.execution.optimization
        model, names = with_scales(self.model.graph.with_addition())
        try:
            session, _ = self._open_graph(model.SerializeToString(), level)
            values = feed(pixels, self.model, scaled_on_device=self._scaling is not None)
            (scales,) = self._run_session(session, names, [values])
            if isinstance(scales, Exception):
                return nothing
            self._session, _ = self._open_graph(with_fixed_scales(model, names, scales), level)
            return self.batch_invariances(pixels)
        except CannotAssessError:
            return nothing
        finally:
            self._session = measured

    def output_difference(self, pixels: AnyArray) -> float:
        """Compare outputs with and without the added one. They are the model's own, on one batch.

        Returns their largest relative difference. ONNX Runtime fuses layers, and an output in the middle forbids some
        fusions. When the outputs differ, the runner goes to lower graph optimisation until they agree, and keeps the
        last level either way: `execution` has it.
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
            difference = max(relative_difference(a, b) for a, b in zip(without, with_added, strict=True))
            if difference <= SAME_OUTPUT[self.model.precision]:
                break
        return difference

    def _outputs(
        self, session: Any, sets: Sequence[AnyArray], names: list[str], *, one_pass: bool = False
    ) -> list[list[AnyArray]]:
        """Compute named outputs for each set of images.

        A pass has as many images as the device, batch and memory allow.

        one_pass: one pass for each set, but for a fixed batch.
        """
        batches_by_set: list[list[AnyArray]] = []
        for pixels in sets:
            values = feed(pixels, self.model, scaled_on_device=self._scaling is not None)
            size = self.fixed_batch or (len(values) if one_pass else self._pass_images)
            batches_by_set.append([values[i : i + size] for i in range(0, len(values), size)])
        batches = [batch for of_set in batches_by_set for batch in of_set]
        outputs = iter(self._run_batches(session, names, batches, can_halve=not one_pass and not self.fixed_batch))
        refuse_changed(self.model.path, self.model.watched)
        return [
            [np.concatenate(rows) for rows in zip(*itertools.islice(outputs, len(of_set)), strict=True)]
            for of_set in batches_by_set
        ]

    def _run_batches(
        self, session: Any, names: list[str], batches: Sequence[AnyArray], *, can_halve: bool
    ) -> list[list[AnyArray]]:
        """Compute named outputs for each batch.

        Where memory runs out, passes run one after the other for good, then batches are halved for good.
        """
        outputs, side_by_side = [], self._n_passes > 1
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
                self._pass_images = min(self._pass_images, size)
            else:
                raise fault from outcome
            parts = [batch[i : i + size] for i in range(0, len(batch), size)]
            again = self._run_batches(session, names, parts, can_halve=can_halve)
            outputs.append([np.concatenate(values) for values in zip(*again, strict=True)])
        return outputs

    def _by_image(self, batch: AnyArray, names: list[str], values: list[Any]) -> list[AnyArray]:
        """Check that the first axis is the image. Rows of images that filled up a fixed batch are dropped."""
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
        """Call session.run for each batch in threads. Where it failed, the result is what it raised.

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
        """Run one forward pass. uint8 pixels are scaled on the device first and stay there."""
        name, missing = self.model.image_input.name, (self.fixed_batch or len(batch)) - len(batch)
        if missing:
            batch = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
        kinds = [self.model.image_input.dtype, *(o.type for o in session.get_outputs() if o.name in names)]
        wide = any(BFLOAT16 in kind for kind in kinds)  # NumPy has no bfloat16: ONNX Runtime's own arrays go in and out
        image: Any = batch
        if self._scaling is not None and batch.dtype == np.uint8:
            binding = self._scaling.io_binding()
            binding.bind_cpu_input(PIXELS, batch)
            binding.bind_output(IMAGE, *device_memory(self._scaling))
            self._scaling.run_with_iobinding(binding, options)
            binding.synchronize_outputs()
            (image,) = binding.get_outputs()
        elif wide:
            image = as_ort_value(batch, self.model.image_input)
        if wide:
            return [as_array(value) for value in session.run_with_ort_values(names, {name: image}, options)]
        return list(session.run(names, {name: image}, options))


def _representation(values: AnyArray, model: ModelFile) -> AnyArray:
    """Pool to (image, feature), float32 or float64. Raises CannotAssessError: there is no value an image."""
    if values.size == 0 and len(values):
        raise unfit(
            model.path, f"shape of {model.representation.tensor} is {tuple(values.shape)}; it must have features"
        )
    representation = apply_pool(values, model.representation.pool, model.representation.feature_axis)
    return representation if representation.dtype in (np.float32, np.float64) else representation.astype(np.float32)

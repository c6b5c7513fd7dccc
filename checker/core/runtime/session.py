"""Open and describe ONNX Runtime sessions on a device, and translate ONNX Runtime's errors."""

import re
import warnings
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import onnxruntime as ort

from ...arrays import AnyArray
from ...errors import CannotAssessError, EnvironmentFaultError
from ...text import quoted
from ..evidence import Execution
from ..model.layers import LINEAR
from ..model.open import ModelFile
from .devices import CPU, EXACT_SUMS, ORT_FATAL, RUN_ERRORS, int8_sums, parse_device, preload_cuda, why_missing

# ONNX Runtime 1.31 ends the process (microsoft/onnxruntime#28392) when this one meets a float16 ViT on the CPU.
CRASHING = {"fp16": ["NchwcTransformer"]}
HEAVY_OPS = LINEAR | {"Attention", "MultiHeadAttention"}
LEVELS: Mapping[str, Any] = {  # graph optimisation, from what users run to none
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
# Places in ONNX Runtime's own source, and the C++ functions and conditions that failed there. A node's name is in
# the message, too, and may look like a hundred such places: a pattern reads on once from each word, and no more.
SOURCE_NOISE = (
    re.compile(r"(?<!\S)(?=\S+?\.(?:cc|h|cu|cuh))\S++ (?:(?!\.(?:cc|h|cu)\b).)*? was (?:false|true)\. ?"),
    re.compile(
        r"(?<!\S)(?=\S+?\.(?:cc|h|cu|cuh))\S++ (?=[^()]*?::)[^()]*+\([^()]*+\)(?: const)?(?: \[with [^\]]*+\])? ?"
    ),
    re.compile(r"(?<!\S)(?=\S+?\.(?:cc|h|cu|cuh)\b)\S++ (?:[A-Z]\w+ (?=[A-Z]))?"),
)
READ_LETTERS = 4000  # of a message of ONNX Runtime; 400 of what is left are shown
OUT_OF_MEMORY = re.compile(r"out of memory|failed to allocate|bad_alloc|bad allocation|BFCArena|CUDA failure 2\b", re.I)


def open_session(
    graph: bytes, model: ModelFile, device: str, level: str = "all", *, threads: int, exact: bool = False
) -> tuple[ort.InferenceSession, str]:
    """Open a session on `device`, and return why `auto` fell back to the CPU: "" where it did not.

    threads: cores it may use. exact: ask ONNX Runtime for int8 sums that do not saturate, whatever the CPU does by
    itself; 1.31 refuses some graphs in this mode.

    Raises:
        UsageError: no such device.
        EnvironmentFaultError: the device asked for is not there, or memory ran out.
        CannotAssessError: ONNX Runtime can't load the model.
    """
    asked = parse_device(device)
    wanted = asked.provider
    session_on = partial(_session, graph, model, level, threads, exact)
    if wanted == CPU:
        return session_on([CPU]), ""
    reason = why_missing(wanted)
    if not reason:
        if asked.is_gpu:
            preload_cuda()
        try:
            session = session_on(asked.providers)
            obtained = session.get_providers()[0]
            if obtained == wanted:
                return session, ""
            reason = f"ONNX Runtime could not start {wanted} and took {obtained}"
        except CannotAssessError as error:
            # a provider that can't start sometimes raises instead of falling back: the CPU tells which it was
            reason = error.message
    if not asked.is_auto:
        raise EnvironmentFaultError(f"--device is {device}; {reason}", "robustcheck doctor, or --device cpu")
    return session_on([CPU]), reason


def describe(
    session: ort.InferenceSession, model: ModelFile, device: str, level: str, reason: str, threads: int
) -> Execution:
    """Describe a session by its own facts. `threads` are those of all parallel passes."""
    obtained = tuple(session.get_providers())
    nodes: Counter[str] | None = None
    heavy = Counter[str]()
    if hasattr(session, "get_provider_graph_assignment_info"):
        nodes = Counter()
        for part in session.get_provider_graph_assignment_info():
            members = part.get_nodes()
            nodes[part.ep_name] += len(members)
            if part.ep_name == CPU and obtained[0] != CPU:
                heavy.update(node.op_type for node in members if node.op_type in HEAVY_OPS)
    return Execution(
        requested=device,
        providers=obtained,
        nodes=nodes,
        heavy_on_cpu=heavy,
        runtime=ort.__version__,
        device=parse_device(device).shown(obtained[0]),
        threads=threads,
        precision=model.precision,
        optimization=level,
        int8_sums=int8_sums() if model.precision == "int8" else None,
        fallback_reason=reason,
    )


def translate(error: Exception, model: ModelFile) -> CannotAssessError | EnvironmentFaultError:
    """Turn ONNX Runtime's exception into our error, which names the file and the next step."""
    message = str(error)
    if isinstance(error, UnicodeDecodeError):  # a name in the model that is not text; it holds the message's bytes
        message = error.object.decode(errors="backslashreplace")
    text = " ".join(re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", message).split())
    if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(text):
        asked = re.search(r"failed to allocate.*?(\d+)", text[:READ_LETTERS], re.I)
        request = f"{asked[1]} bytes were asked for" if asked else "no size was given"
        return EnvironmentFaultError(
            f"{model.path}: memory ran out ({request}); the model must fit with one image at least",
            "free -h, or nvidia-smi for a GPU; --device cpu where the GPU is the smaller one",
        )
    text = text[:READ_LETTERS]
    for pattern in SOURCE_NOISE:
        text = pattern.sub("", text)
    text = text.replace("Name:'' ", "").replace("Status Message: ", "")
    folder = model.file.weights.folder
    if folder is not None:  # the name of an open folder says nothing to anybody
        text = text.replace(str(folder), str(folder.resolve()))
    hint = f"robustcheck inspect {quoted(model.path)}"
    if "bfloat16" in text:
        hint = "export it in float32, or run it on a GPU: --device cuda"
    return CannotAssessError(f"{model.path}: ONNX Runtime {ort.__version__} refuses the model: {text[:400]}", hint)


def _session(
    graph: bytes, model: ModelFile, level: str, threads: int, exact: bool, providers: list[Any]
) -> ort.InferenceSession:
    ort.disable_telemetry_events()  # nothing of a check leaves the machine
    ort.set_default_logger_severity(ORT_FATAL)  # of allocators: a session's own level does not hold for them
    options = ort.SessionOptions()
    options.log_severity_level = ORT_FATAL
    options.graph_optimization_level = LEVELS[level]
    options.use_deterministic_compute = True
    options.intra_op_num_threads = threads  # ORT's own count ignores cgroups and fails to pin threads
    options.inter_op_num_threads = 1
    # idle threads would spin on the cores that decode the next photos: measured, a quarter of the processor time
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if exact:
        options.add_session_config_entry(EXACT_SUMS, "1")
    folder = model.file.weights.folder
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a provider that is not there: the providers are compared instead
            # its own fallback prints to stdout and moves a running session to the CPU without a word in the record
            return ort.InferenceSession(
                graph,
                options,
                providers=providers,
                disabled_optimizers=CRASHING.get(model.precision, []),
                enable_fallback=0,
            )
    except RUN_ERRORS as error:
        raise translate(error, model) from error


LARGEST_DIFFERENCE = 1e9  # relative; stands for "not finite any more" too, since records hold no infinity


def relative_difference(expected: AnyArray, actual: AnyArray) -> float:
    """Compute the largest relative difference over images, max |expected − actual| / rms(expected) of an image.

    Values that are not finite must be the same in both, and the others are compared without them. The difference is 0
    for no image, and 1e9 at most.
    """
    if object in (expected.dtype, actual.dtype):  # strings
        return 0.0 if np.array_equal(expected, actual) else LARGEST_DIFFERENCE
    left = expected.reshape(len(expected), -1).astype(np.float64)
    right = actual.reshape(len(actual), -1).astype(np.float64)
    if left.size == 0:
        return 0.0
    finite = np.isfinite(left)
    if not np.isfinite(right[finite]).all() or not np.array_equal(left[~finite], right[~finite], equal_nan=True):
        return LARGEST_DIFFERENCE
    left = np.where(finite, left, 0.0)
    right = np.where(finite, right, 0.0)
    gap = np.abs(left - right).max(axis=1)
    scale = np.sqrt((left**2).mean(axis=1))
    without_scale = np.where(gap > 0, LARGEST_DIFFERENCE, 0.0)
    relative = np.divide(gap, scale, out=without_scale, where=scale > 0)
    return min(float(relative.max()), LARGEST_DIFFERENCE)

"""Prove that ONNX Runtime makes of a file what its original makes, on the CPU provider."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import ExportError, contract, first_line
from .contract import Arrays
from .preprocessing import Array

if TYPE_CHECKING:
    import onnx

BATCHES = (1, 2, 5)  # batch sizes that are compared
EXACT_SUMS = "session.x64quantprecision"  # of a session's config: its int8 sums do not saturate
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


class Tolerance(NamedTuple):
    """The largest disagreement that still counts as the same model."""

    max_rel: float
    min_cosine: float


TOLERANCES = {
    # float32: kernels add in another order. Measured with tests and demo: 2e-6 (CLIP RN50, ViT-B/32) to 4e-5
    # (EfficientNet-Lite0).
    "fp32": Tolerance(max_rel=1e-3, min_cosine=0.99999),
    # float16 keeps 11 bits, and every layer rounds. Measured: 0.001 (CLIP RN50), 0.04 (planted demo), 0.098
    # (EfficientNet-Lite0: the worst of its 1280 sparse features on five photos, at cosine 0.99996).
    "fp16": Tolerance(max_rel=0.25, min_cosine=0.999),
    # int8: 256 levels a tensor. Measured on EfficientNet-Lite0 and the planted demo: cosine 0.970 to 0.997; with
    # depthwise layers quantised by one scale, which ruins the model, 0.78. The bound refuses what is broken; whether
    # the outlier features were kept is for `robustcheck compare`. One sparse feature may be far off on the scale of
    # its row (2.4 measured), so that the largest difference has no bound.
    **dict.fromkeys((*contract.INT8, contract.FP8), Tolerance(max_rel=math.inf, min_cosine=0.95)),
}
_HINTS = {
    "int8-dynamic": "no file was written; try --precision int8-qdq (better for convolutions) or fp16",
    "int8-qdq": "no file was written; leave out --form to get the smallest file that keeps the vectors",
}
_HINT = "no file was written; try --precision fp32, and report the model name if that fails too"
# ONNX Runtime 1.24–1.31 ends the process in this optimiser on Transpose → Cast(float16) → MatMul on x86-64
# (microsoft/onnxruntime#28392; open_clip's ViT-B/32 in fp16 does it)
CRASHES = {"fp16": ["NchwcTransformer"]}


class Agreement(NamedTuple):
    """How far (image, feature) arrays are apart.

    max_abs: max |a − b|. max_rel: max over images of max_j |a_j − b_j| / √(mean_j a_j²): on the scale of the
    row, so that a value near zero does not blow it up and one outlier feature cannot hide much (it raises the
    scale at most by √(1 + z²/d)). min_cosine: smallest cosine of two rows.
    """

    max_abs: float
    max_rel: float
    min_cosine: float


class Original(NamedTuple):
    """What a file is compared with.

    images: photos as the model reads them, (image, channel, height, width) float32, at least as many as the largest of
    BATCHES. outputs: name → (image, feature), computed one photo at a time, so that a model whose result depends on the
    rest of the batch disagrees. hint: the next step where a file disagrees; empty for that of its precision.
    """

    images: Array
    outputs: Arrays
    hint: str = ""


def batches_of(image: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Return the batch sizes that an input accepts, of those that are compared."""
    size = image.type.tensor_type.shape.dim[0]
    return (1,) if size.dim_value == 1 else BATCHES


def measure(path: Path, original: Original, precision: str) -> Agreement:
    """Compare the file with the original at every batch size that it accepts.

    With a batch of one alone, every photo is compared.

    Raises:
        ExportError: the file does not load, an output has another shape, is not finite or disagrees beyond
            TOLERANCES[precision] (exit 3).
    """
    import onnx

    batches = batches_of(onnx.load(path, load_external_data=False).graph.input[0])
    parts = [slice(n) for n in batches]
    if batches == (1,):
        parts = [slice(i, i + 1) for i in range(len(original.images))]
    outputs, _ = run_file(
        path,
        list(original.outputs),
        [original.images[part] for part in parts],
        f"{path.name}: ONNX Runtime could not run the exported graph",
        "report the model name and the versions of torch and onnxruntime",
        disabled_optimizers=CRASHES.get(precision, []),
    )
    seen = []
    for part, arrays in zip(parts, outputs, strict=True):
        for name, array in zip(original.outputs, arrays, strict=True):
            reference = original.outputs[name][part]
            where = f"{path.name}: output {name} at batch {len(reference)}"
            seen.append(_agreement_within(reference, array, precision, where, original.hint))
    max_abs, max_rel, min_cosine = zip(*seen, strict=True)
    return Agreement(max(max_abs), max(max_rel), min(min_cosine))


def _agreement_within(reference: Array, array: Array, precision: str, where: str, hint: str) -> Agreement:
    """Compare two arrays (image, feature), and refuse what disagrees beyond the tolerance of a precision."""
    try:
        found = agreement(reference, array)
    except ValueError as error:
        raise ExportError(f"{where}: {error}", hint or _HINT) from error
    tolerance = TOLERANCES[precision]
    if found.max_rel > tolerance.max_rel or found.min_cosine < tolerance.min_cosine:
        bound = "the cosine must be"
        if math.isfinite(tolerance.max_rel):
            bound = f"at most {tolerance.max_rel:g} and"
        raise ExportError(
            f"{where} disagrees with the source model: relative difference is {found.max_rel:.2g}, cosine "
            f"{found.min_cosine:.6f}; {bound} at least {tolerance.min_cosine:g}",
            hint or _HINTS.get(precision, _HINT),
        )
    return found


def agreement(reference: Array, other: Array) -> Agreement:
    """Compare two arrays (image, feature) in float64.

    A row that is zero on both sides agrees (relative difference 0, cosine 1); zero on one side does not
    (inf, 0). Shapes must be equal and values finite, else ValueError.
    """
    a = reference.astype(np.float64)
    b = other.astype(np.float64)
    if a.shape != b.shape or a.ndim != 2 or a.size == 0:
        raise ValueError(f"shapes are {a.shape} and {b.shape}; both must be the same (image, feature)")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("values are not finite")
    difference = np.abs(a - b).max(axis=1)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.sqrt((a * a).mean(axis=1))
        relative = np.where(difference == 0, 0.0, difference / scale)
        cosine = np.where(norms > 0, (a * b).sum(axis=1) / norms, difference == 0)
    return Agreement(float(difference.max()), float(relative.max()), float(min(cosine.min(), 1.0)))


def run_file(
    path: Path,
    outputs: Sequence[str],
    inputs: Sequence[Array],
    problem: str,
    hint: str,
    graph: bytes | None = None,
    **options: Any,
) -> tuple[list[list[Array]], float]:
    """Return a file's outputs for each batch of photos, and the seconds that they took.

    Args:
        problem: the beginning of the error where it can't be run.
        graph: replaces the file's graph.
    """
    try:
        session = _session(path, graph, **options)
        name = session.get_inputs()[0].name
        start = time.perf_counter()
        found = [session.run(outputs, {name: batch}) for batch in inputs]
    except MemoryError:
        raise
    except Exception as error:  # its exception types are private; all of them mean the same here
        raise ExportError(f"{problem} ({first_line(error)})", hint) from error
    return found, time.perf_counter() - start


def _session(path: Path, graph: bytes | None = None, switched_on: Sequence[str] = (), **options: Any) -> Any:
    """Open a file on the CPU provider, with entries of the session's config switched on."""
    import onnxruntime as ort

    session_options = ort.SessionOptions()
    session_options.log_severity_level = 4  # it writes to the terminal by itself; the exception has all of it
    if graph is not None:
        session_options.add_session_config_entry(_WEIGHTS_FOLDER, str(path.parent.resolve()))
    for entry in switched_on:
        session_options.add_session_config_entry(entry, "1")
    return ort.InferenceSession(graph or str(path), session_options, providers=["CPUExecutionProvider"], **options)


def int8_sums(*switched_on: str) -> float:
    """Measure a sum of uint8 by int8 products on this CPU, as a share of the exact sum.

    The checker measures the same (`checker/core/runtime/devices.py`).

    Args:
        switched_on: entries of the session's config.
    """
    from onnx import numpy_helper, parser

    x = np.full((1, 64), 255, np.uint8)
    w = np.full((64, 1), 127, np.int8)
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 13]> probe (uint8[1, 64] x) => (int32[1, 1] y) { y = MatMulInteger(x, w) }'
    )
    model.graph.initializer.append(numpy_helper.from_array(w, "w"))
    session = _session(Path(), model.SerializeToString(), switched_on)
    (total,) = session.run(None, {"x": x})
    return float(total.item() / (64 * 255 * 127))

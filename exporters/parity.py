"""Measures on real photos whether ONNX Runtime computes what the model computed in its own library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ExportError

Array = NDArray[np.float32]

BATCHES = (1, 2, 5)  # batch sizes that are compared
PHOTOS = max(BATCHES)  # distinct photos needed


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The largest disagreement that still counts as the same model."""

    max_rel: float
    min_cosine: float

    def __str__(self) -> str:
        cosine = f"at least {self.min_cosine:g}"
        return (
            f"at most {self.max_rel:g} and {cosine}" if math.isfinite(self.max_rel) else f"the cosine must be {cosine}"
        )


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
    "int8-dynamic": Tolerance(max_rel=math.inf, min_cosine=0.95),
    "int8-qdq": Tolerance(max_rel=math.inf, min_cosine=0.95),
}


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two (image, feature) arrays are apart.

    max_abs: max |a − b|. max_rel: max over images of max_j |a_j − b_j| / √(mean_j a_j²): on the scale of the
    row, so that a value near zero does not blow it up and one outlier feature cannot hide much (it raises the
    scale at most by √(1 + z²/d)). min_cosine: smallest cosine of two rows.
    """

    max_abs: float
    max_rel: float
    min_cosine: float


@dataclass(frozen=True, slots=True)
class Parity:
    """Agreement of eager and ONNX outputs: the worst of all, and each output's own worst."""

    max_abs: float
    max_rel: float
    min_cosine: float
    batches: tuple[int, ...]
    photos: int
    outputs: Mapping[str, Agreement]

    def for_contract(self) -> dict[str, Any]:
        """Return the part that stands in the contract."""
        values = asdict(self)
        del values["outputs"]
        return {**values, "batches": list(self.batches)}


# ONNX Runtime 1.24–1.31 ends the process in this optimiser on Transpose → Cast(float16) → MatMul on x86-64
# (microsoft/onnxruntime#28392; open_clip's ViT-B/32 in fp16 does it)
_CRASHES: dict[str, list[str]] = {"fp16": ["NchwcTransformer"]}


def agreement(reference: Array, other: Array) -> Agreement:
    """Compare two arrays (image, feature) in float64.

    A row that is zero on both sides agrees (relative difference 0, cosine 1); zero on one side does not
    (inf, 0). Shapes must be equal and values finite, else ValueError.
    """
    a, b = reference.astype(np.float64), other.astype(np.float64)
    if a.shape != b.shape or a.ndim != 2 or a.size == 0:
        raise ValueError(f"shapes are {a.shape} and {b.shape}; both must be the same (image, feature)")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("values are not finite")
    difference = np.abs(a - b).max(axis=1)
    scale = np.sqrt((a * a).mean(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(difference == 0, 0.0, difference / scale)
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosine = np.where(norms > 0, (a * b).sum(axis=1) / norms, np.where(difference == 0, 1.0, 0.0))
    return Agreement(float(difference.max()), float(relative.max()), float(min(cosine.min(), 1.0)))


def measure(path: Path, photos: Array, references: Mapping[str, Array], *, precision: str, input_name: str) -> Parity:
    """Run the file on ONNX Runtime's CPU provider at every batch size and compare with the eager outputs.

    Args:
        path: ONNX file.
        photos: (image, channel, height, width) float32, at least PHOTOS of them.
        references: output name → (image, feature), computed one photo at a time, so that a model whose
            result depends on the rest of the batch disagrees.

    Raises:
        ExportError: the file does not load, an output has another shape, is not finite or disagrees beyond
            TOLERANCES[precision] (exit 3).
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only; ONNX Runtime writes to the terminal by itself
    try:
        session = ort.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=_CRASHES.get(precision, [])
        )
        outputs = {n: session.run(list(references), {input_name: photos[:n]}) for n in BATCHES}
    except Exception as error:  # its exception types are private; all of them mean the same here
        raise ExportError(
            f"{path.name}: ONNX Runtime could not run the exported graph ({str(error).splitlines()[0]})",
            "report the model name and the versions of torch and onnxruntime",
        ) from error
    tolerance = TOLERANCES[precision]
    worst: dict[str, Agreement] = {}
    for batch, arrays in outputs.items():
        for (name, reference), array in zip(references.items(), arrays, strict=True):
            try:
                seen = agreement(reference[:batch], array)
            except ValueError as error:
                raise ExportError(f"{path.name}: output {name} at batch {batch}: {error}", _HINT) from error
            if seen.max_rel > tolerance.max_rel or seen.min_cosine < tolerance.min_cosine:
                raise ExportError(
                    f"{path.name}: output {name} at batch {batch} disagrees with the source model: relative "
                    f"difference is {seen.max_rel:.2g}, cosine {seen.min_cosine:.6f}; {tolerance}",
                    _HINTS.get(precision, _HINT),
                )
            worst[name] = _worst([seen, worst.get(name, seen)])
    overall = _worst(list(worst.values()))
    return Parity(overall.max_abs, overall.max_rel, overall.min_cosine, BATCHES, PHOTOS, worst)


_HINT = "no file was written; try --precision fp32, and report the model name if that fails too"
_HINTS = {
    "int8-dynamic": "no file was written; try --precision int8-qdq (better for convolutions) or fp16",
    "int8-qdq": "no file was written; try other --calibration-images, or --precision fp16",
}


def _worst(seen: Sequence[Agreement]) -> Agreement:
    return Agreement(max(a.max_abs for a in seen), max(a.max_rel for a in seen), min(a.min_cosine for a in seen))

"""Put an exported file in place once it is proved. ONNX Runtime must agree with the original. Needs no torch."""

from __future__ import annotations

import difflib
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import contract
from .contract import Array, Photos
from .errors import CallError, ExportError, MissingError, Tell, first_line, quiet, quoted

if TYPE_CHECKING:
    import onnx

BATCHES = (1, 2, 5)  # batch sizes that are compared
PHOTOS = max(BATCHES)  # distinct photos needed
PARITY_PHOTO = ("photo", "parity is measured on real photos", "--parity-images FOLDER")  # for contract.open_photo
INLINE_LIMIT_BYTES = 2_000_000_000  # a protobuf message ends at 2 GiB; the rest is room for the graph


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
    **dict.fromkeys(contract.INT8, Tolerance(max_rel=math.inf, min_cosine=0.95)),
}
_HINTS = {
    "int8-dynamic": "no file was written; try --precision int8-qdq (better for convolutions) or fp16",
    "int8-qdq": "no file was written; try other --calibration-images, or --precision fp16",
}
_HINT = "no file was written; try --precision fp32, and report the model name if that fails too"
# ONNX Runtime 1.24–1.31 ends the process in this optimiser on Transpose → Cast(float16) → MatMul on x86-64
# (microsoft/onnxruntime#28392; open_clip's ViT-B/32 in fp16 does it)
_CRASHES = {"fp16": ["NchwcTransformer"]}


class Agreement(NamedTuple):
    """How far (image, feature) arrays are apart.

    max_abs: max |a − b|. max_rel: max over images of max_j |a_j − b_j| / √(mean_j a_j²): on the scale of the
    row, so that a value near zero does not blow it up and one outlier feature cannot hide much (it raises the
    scale at most by √(1 + z²/d)). min_cosine: smallest cosine of two rows.
    """

    max_abs: float
    max_rel: float
    min_cosine: float


class ExportRecord(NamedTuple):
    """What was written, for the person who asked.

    size_bytes: with the weights next to the file. outputs: name → number of features. calibrated_on: photos that
    int8-qdq took its ranges from; 0 for other precisions.
    """

    path: Path
    size_bytes: int
    outputs: Mapping[str, int]
    parity: Agreement
    calibrated_on: int


def check_call(path: Path, precision: str, photos: Photos) -> None:
    """Refuse a wrong target, precision or number of photos.

    Raises:
        ExportError: 2 for the call, 4 for a folder that can't be written.
    """
    where = quoted(path.parent)
    if precision not in contract.PRECISIONS:
        close = difflib.get_close_matches(precision, contract.PRECISIONS, 1, cutoff=0.3)
        raise CallError(
            f"precision is {precision}; it must be one of {', '.join(contract.PRECISIONS)}",
            f"--precision {close[0] if close else 'fp32'}",
        )
    if path.is_dir():
        raise CallError(f"{path}: target is a folder; it must be a file", f"-o {quoted(path / 'model.onnx')}")
    if path.suffix != ".onnx":
        raise CallError(
            f"{path}: suffix is {path.suffix!r}; it must be .onnx", f"-o {quoted(path.with_suffix('.onnx'))}"
        )
    if not path.parent.is_dir():
        raise CallError(
            f"{path}: folder {path.parent} is missing; models are written into existing folders", f"mkdir -p {where}"
        )
    if not os.access(path.parent, os.W_OK):
        raise MissingError(
            f"{path}: folder {path.parent} is not writable; the model is written into it", f"ls -ld {where}"
        )
    if len(photos) < PHOTOS:
        raise CallError(
            f"number of parity photos is {len(photos)}; it must be at least {PHOTOS}", "--parity-images FOLDER"
        )


def deliver(
    path: Path,
    draw: Callable[[Path], onnx.ModelProto],
    content: Mapping[str, Any],
    images: Array,
    references: Mapping[str, Array],
    *,
    precision: str,
    calibrated_on: int,
    tell: Tell,
) -> ExportRecord:
    """Write a draft, prove it, and move it into place. The contract is added after the proof.

    Args:
        path: an existing file is replaced; more than 2 GB of weights go to `path` + ".data".
        draw: writes the draft, and returns its graph.
        content: the contract without precision and parity.
        images, references: the photos, and what the original made of them (see measure).

    Raises:
        ExportError: 3 where the file disagrees, 4 for the disk. Nothing is left.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".robustcheck-export-", dir=path.parent) as folder, quiet():
            draft = Path(folder) / path.name
            model = draw(draft)
            tell("comparing the file with the original")
            agreement = measure(draft, images, references, precision=precision, input_name=model.graph.input[0].name)
            parity = {**agreement._asdict(), "batches": BATCHES, "photos": PHOTOS}
            contract.embed(model, {**content, "precision": precision, "parity": parity}, draft.parent)
            draft.write_bytes(model.SerializeToString(deterministic=True))
            size = _put_in_place(draft, path)
    except OSError as error:
        where = quoted(path.parent)
        raise MissingError(
            f"{path}: file could not be written ({error.strerror or error}); nothing is left",
            f"df -h {where}; ls -ld {where}",
        ) from error
    outputs = {name: rows.shape[1] for name, rows in references.items()}
    return ExportRecord(path, size, outputs, agreement, calibrated_on)


def data_of(path: Path) -> Path:
    """Return the file of the weights next to an ONNX file."""
    return path.with_name(path.name + ".data")


def _put_in_place(draft: Path, path: Path) -> int:
    """Move a file after its weights. So it finds them; returns their size."""
    weights, place = data_of(draft), data_of(path)
    has_weights = weights.exists()
    size = draft.stat().st_size + (weights.stat().st_size if has_weights else 0)
    if has_weights:
        weights.replace(place)
    try:
        draft.replace(path)
    except OSError:
        if has_weights:
            place.unlink()
        raise
    return size


def measure(
    path: Path, photos: Array, references: Mapping[str, Array], *, precision: str, input_name: str
) -> Agreement:
    """Compare the file with the original. It runs at every batch size, on ONNX Runtime's CPU provider.

    Args:
        path: ONNX file.
        photos: (image, channel, height, width) float32, at least PHOTOS of them.
        references: output name → (image, feature), computed one photo at a time, so that a model whose
            result depends on the rest of the batch disagrees.

    Raises:
        ExportError: the file does not load, an output has another shape, is not finite or disagrees beyond
            TOLERANCES[precision] (exit 3).
    """
    outputs = run_file(
        path,
        list(references),
        [{input_name: photos[:n]} for n in BATCHES],
        f"{path.name}: ONNX Runtime could not run the exported graph",
        "report the model name and the versions of torch and onnxruntime",
        disabled_optimizers=_CRASHES.get(precision, []),
    )
    tolerance, seen = TOLERANCES[precision], list[Agreement]()
    for batch, arrays in zip(BATCHES, outputs, strict=True):
        for (name, reference), array in zip(references.items(), arrays, strict=True):
            where = f"{path.name}: output {name} at batch {batch}"
            try:
                found = agreement(reference[:batch], array)
            except ValueError as error:
                raise ExportError(f"{where}: {error}", _HINT) from error
            if found.max_rel > tolerance.max_rel or found.min_cosine < tolerance.min_cosine:
                bound = (
                    f"at most {tolerance.max_rel:g} and" if math.isfinite(tolerance.max_rel) else "the cosine must be"
                )
                raise ExportError(
                    f"{where} disagrees with the source model: relative difference is {found.max_rel:.2g}, cosine "
                    f"{found.min_cosine:.6f}; {bound} at least {tolerance.min_cosine:g}",
                    _HINTS.get(precision, _HINT),
                )
            seen.append(found)
    return Agreement(max(a.max_abs for a in seen), max(a.max_rel for a in seen), min(a.min_cosine for a in seen))


def run_file(
    path: Path, outputs: Sequence[str], feeds: Sequence[Mapping[str, Array]], problem: str, hint: str, **options: Any
) -> list[list[Array]]:
    """Return a file's outputs for each feed; the error starts with `problem`."""
    import onnxruntime as ort

    session_options = ort.SessionOptions()
    session_options.log_severity_level = 4  # it writes to the terminal by itself; the exception has all of it
    try:
        session = ort.InferenceSession(str(path), session_options, providers=["CPUExecutionProvider"], **options)
        return [session.run(outputs, feed) for feed in feeds]
    except MemoryError:
        raise
    except Exception as error:  # its exception types are private; all of them mean the same here
        raise ExportError(f"{problem} ({first_line(error)})", hint) from error


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
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(difference == 0, 0.0, difference / np.sqrt((a * a).mean(axis=1)))
        cosine = np.where(norms > 0, (a * b).sum(axis=1) / norms, difference == 0)
    return Agreement(float(difference.max()), float(relative.max()), float(min(cosine.min(), 1.0)))

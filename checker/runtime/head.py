"""A classifier's head as numbers: W and b of the last linear layer, read off the model itself or from a file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from robustcheck_onnx.checker.arrays import Array, GenericArray
from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError, UsageError, install_hint
from robustcheck_onnx.checker.model import ModelFile, head_part
from robustcheck_onnx.checker.text import quoted

from .device import cpu_threads
from .runner import relative_difference
from .session import RUN_ERRORS, open_session, translate

LENGTH = 256.0  # of the vectors that are run, or so many times max |b|: W·h loses no digit to b; a power of 2 is exact
LONGEST = 2.0**96  # W of 1e9 is still finite
ROWS = 256  # vectors of a run


@dataclass(frozen=True)
class LinearHead:
    """A linear head: scores are W·h + b."""

    weight: Array
    """(class, feature) float64, finite"""
    bias: Array
    """(class,) float64, zeros where there is none"""
    source: str
    """where it comes from, in words"""
    gives_probabilities: bool = False
    """whether the model's class output is a softmax or a sigmoid of the scores, by its graph"""

    def scores(self, representations: npt.ArrayLike) -> Array:
        """Compute (image, class) float64 of (image, feature)."""
        return np.asarray(representations, dtype=np.float64) @ self.weight.T + self.bias


def read_head(opened: ModelFile) -> LinearHead:
    """Read the head of a model by running it on vectors: W·(c·eⱼ) + b for each feature j, and b for the zero vector.

    The weights may be held in any way; what is read is what ONNX Runtime computes with, to float32's (float16's)
    precision. It acts on the tensor `opened.head.tensor`; factors and biases behind the layer are in W and b. c grows
    with the largest bias: beside a bias of -1e9, which shuts a class out, W·(256·eⱼ) would be rounded away.

    Raises:
        CannotAssessError: as `model.head_part`; ONNX Runtime can't run that part; a weight is not finite; one class.
        EnvironmentFaultError: memory ran out.
    """
    part = head_part(opened)
    session, _ = open_session(part.graph.own(), opened, "cpu", threads=cpu_threads())
    n_features = part.shape[part.feature_axis - 1]
    rows = opened.image_input.batch or ROWS

    def run(first: int, length: float) -> Array:
        """Run length·eⱼ for `rows` features j from `first` on; features beyond the last stand for zero."""
        vectors = length * np.eye(rows, n_features, k=first, dtype=np.float32)
        aligned = vectors.reshape(
            rows, *(n_features if axis == part.feature_axis - 1 else 1 for axis in range(len(part.shape)))
        )
        values = np.ascontiguousarray(np.broadcast_to(aligned, (rows, *part.shape)))
        try:
            (scores,) = session.run(None, {session.get_inputs()[0].name: values})
        except RUN_ERRORS as error:
            raise translate(error, opened) from error
        return np.asarray(scores, dtype=np.float64).reshape(rows, -1)

    def read(length: float) -> Array:
        weight = np.empty((len(bias), n_features))
        for first in range(0, n_features, rows):
            columns = weight[:, first : first + rows]
            columns[:] = ((run(first, length)[: columns.shape[1]] - bias) / length).T
        return weight

    bias = run(n_features, LENGTH)[0]
    if len(bias) < 2:
        raise CannotAssessError(
            f"{opened.path}: number of scores of the head is 1; a prediction is made among two classes or more",
            f"robustcheck inspect {quoted(opened.path)}",
        )
    largest = float(np.abs(bias[np.isfinite(bias)]).max(initial=1.0))
    weight = read(min(LENGTH * 2.0 ** math.ceil(math.log2(largest)), LONGEST))
    if not np.isfinite(weight).all():  # too long for float16
        weight = read(LENGTH)
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise CannotAssessError(
            f"{opened.path}: weights of the head are not all finite; a head is a matrix of numbers",
            f"robustcheck inspect {quoted(opened.path)}",
        )
    source = f"{part.op} that gives {part.scores} in {opened.path.name}"
    return LinearHead(weight, bias, source, part.gives_probabilities)


def head_from_file(path: Path, n_features: int) -> LinearHead:
    """Read a head from a file: .npy with one matrix, or .safetensors with `weight` and perhaps `bias`.

    Args:
        path: the file. The matrix is (class, feature), of floats; the bias (class,).
        n_features: width of the representation that it acts on.

    Raises:
        UsageError: no such file, another kind of file, no such matrix, another width, values that are not finite.
        EnvironmentFaultError: .safetensors, and the package safetensors is not installed.
    """
    if not path.is_file():
        raise UsageError(f"{path}: head is missing; no such file", "--head FILE.npy, a matrix (class, feature)")
    try:
        if path.suffix == ".npy":
            tensors = {"weight": np.load(path, allow_pickle=False)}
        elif path.suffix == ".safetensors":
            tensors = _safetensors(path)
        else:
            raise UsageError(
                f"{path}: head is a {path.suffix or 'nameless'} file; it must be .npy or .safetensors",
                "numpy.save('head.npy', weight)",
            )
    except (OSError, ValueError, EOFError, TypeError, KeyError) as fault:
        raise UsageError(
            f"{path}: head is not readable ({' '.join(str(fault).split())[:200]})", "--head FILE.npy"
        ) from fault
    if "weight" not in tensors:
        raise UsageError(
            f"{path}: head has the tensors {', '.join(sorted(tensors)[:12]) or '(none)'}; one must be named weight",
            "save_file({'weight': weight}, 'head.safetensors')",
        )
    weight = tensors["weight"]
    bias = tensors.get("bias", np.zeros(len(weight) if weight.ndim else 0))
    for name, array, rank in (("weight", weight, 2), ("bias", bias, 1)):
        if array.ndim != rank or not np.issubdtype(array.dtype, np.floating) or not array.size:
            raise UsageError(
                f"{path}: {name} is an array of shape {array.shape} and type {array.dtype}; {rank} axes of floats are "
                "needed, (class, feature) and (class,)",
                "numpy.save('head.npy', weight)",
            )
        if not np.isfinite(array).all():
            raise UsageError(f"{path}: {name} holds values that are not finite; a head is a matrix of numbers", "")
    if weight.shape[1] != n_features or len(weight) != len(bias) or len(weight) < 2:
        raise UsageError(
            f"{path}: weight has shape {weight.shape}{f' and bias {bias.shape}' if 'bias' in tensors else ''}; "
            f"(class, {n_features}) with two or more classes is needed: the representation has {n_features} features",
            "transpose it, or take the head that belongs to this tensor",
        )
    return LinearHead(weight.astype(np.float64), bias.astype(np.float64), path.name)


def _safetensors(path: Path) -> dict[str, GenericArray]:
    try:
        from safetensors import SafetensorError  # noqa: PLC0415 # an extra
        from safetensors.numpy import load_file  # noqa: PLC0415
    except ImportError as fault:
        raise EnvironmentFaultError(
            f"{path}: package safetensors is missing; it reads .safetensors", install_hint("data")
        ) from fault
    try:
        return dict(load_file(path))
    except SafetensorError as fault:
        raise ValueError(str(fault)) from fault


def score_difference(head: LinearHead, representations: npt.ArrayLike, scores: GenericArray) -> float:
    """Say how far W·h + b is from the model's own scores: 0 where it reproduces them.

    What the scores are does not matter: W·h + b itself, or its softmax, logarithm of the softmax, or sigmoid. The one
    that comes nearest counts. The difference of probabilities is `relative_difference`. That of scores is relative to
    the root mean square of all W·h, without the bias, so that no large bias hides a wrong W; of a class whose score is
    further below the image's largest one, relative to that distance (float32 keeps no digit of W·h beside a
    bias of -1e9). Probabilities near 0 and 1 tell little of the scores behind them: they count only where the graph
    says that they are a softmax or a sigmoid of W·h + b, `LinearHead.gives_probabilities`.

    Args:
        head: of the model.
        representations: (image, feature), what the head acts on.
        scores: (image, class) of the same images.
    """
    linear, own = head.scores(representations), np.asarray(scores, dtype=np.float64)
    if linear.shape != own.shape:
        return float("inf")
    below = linear.max(axis=1, keepdims=True) - linear
    logarithm = -below - np.log(np.exp(-below).sum(axis=1, keepdims=True))
    scale = np.maximum(np.sqrt(((linear - head.bias) ** 2).mean()), below)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        differences = [np.nan_to_num(np.abs(own - form) / scale, nan=0.0).max() for form in (linear, logarithm)]
        if head.gives_probabilities:
            forms = (np.exp(logarithm), 1 / (1 + np.exp(-linear)))
            differences += [relative_difference(own, form) for form in forms]
    return float(min(differences))

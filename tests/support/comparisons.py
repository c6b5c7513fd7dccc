"""Representations with planted outlier features, and models of them to compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from robustcheck_onnx.checker.compare import pairs
from robustcheck_onnx.checker.compare.judge import CompareReport
from robustcheck_onnx.checker.compare.pairs import Pair, Side
from robustcheck_onnx.checker.compare.run import compare as run_both
from robustcheck_onnx.checker.statistics import state

ALPHA = 0.05
Array = npt.NDArray[np.float64]


def planted(
    n: int = 80, d: int = 384, seed: int = 0, strength: float = 14.0, features: tuple[int, ...] = (7,)
) -> Array:
    """Signed representations with persistent outlier features of `strength` SD that vary between images."""
    rng = np.random.default_rng(seed)
    h = rng.normal(size=(n, d)) + rng.normal(0, 0.5, d)
    h[:, features] += strength * rng.uniform(0.8, 1.2, (n, len(features)))
    return h


def paired(candidate: Array, reference: Array, keys: npt.NDArray[np.int64] | None = None) -> Pair:
    pair = Pair(Side(state.State(candidate.shape[1])), Side(state.State(reference.shape[1])))
    keys = np.arange(len(candidate)) if keys is None else keys
    for rows in np.array_split(np.arange(len(candidate)), 3):
        pairs.update(pair, candidate[rows], reference[rows], keys[rows])
    return pair


def numbers(*values: float | None) -> Array:
    """None is NaN, which is close to nothing."""
    return np.array(values, dtype=np.float64)


def rotation(d: int, seed: int = 1) -> Array:
    return np.asarray(np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0], dtype=np.float64)


def same_mean(h: Array, share: float = 0.0, seed: int = 3) -> Array:
    """The mean vector of h, and residuals of the same SD of which only a part is h's."""
    residual = h - h.mean(axis=0)
    own = residual.std(axis=0) * np.random.default_rng(seed).normal(size=h.shape)
    return np.asarray(h.mean(axis=0) + share * residual + np.sqrt(1 - share**2) * own)


def eight_bits(h: Array) -> Array:
    step = np.abs(h).max() / 127
    return np.asarray(np.round(h / step) * step)


def run_compare(candidate: Path, reference: Path | None, **options: Any) -> CompareReport:
    return run_both(candidate, reference, **options)


def alike(report: CompareReport) -> pairs.Similarity:
    assert report.similarity is not None
    return report.similarity


def ids(report: CompareReport) -> set[str]:
    return {reason.id for reason in report.verdict.reasons}


@dataclass
class Workshop:
    """Writes look-up models, and compares them on one set of photos."""

    folder: Path
    photos: Path
    write: Callable[..., Path]

    def model(self, name: str, h: npt.ArrayLike, **options: Any) -> Path:
        return self.write(self.folder / f"{name}.onnx", h, **options)

    def compare(self, candidate: npt.ArrayLike, reference: npt.ArrayLike, **options: Any) -> CompareReport:
        a, b = self.model("candidate", candidate), self.model("reference", reference)
        return run_compare(a, b, images=self.photos, device="cpu", **options)

"""Compare the forms of an int8 file, and choose the smallest that keeps what the original has. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import CallError, ExportError, Texts, nearest
from .preprocessing import Array, Fields

Floats = NDArray[np.float64]

# What the vectors must keep: the limits of the index verdict of `compare` (checker/questions/compare/index.py)
MIN_COSINE = 0.9  # of the worst 5 % of the photos
MIN_RECALL = 0.8  # of the nearest neighbours
NEIGHBOURS = 10
# An outlier feature, and when it is kept: as `compare` defines both (checker/questions/compare/pairs.py)
OUTLIER_SD = 4.0
PERSISTENT_SHARE = 0.5  # of the photos
KEPT_SHARE = 0.8  # of the share of the photos in which the original's feature is beyond OUTLIER_SD
MIN_CORRELATION = 0.5
CONFIDENCE = 0.95  # of the correlation's lower bound
SAME_SIZE = 0.05  # files that differ by less in size count as equally small: then the order of FORMS decides


class Form(NamedTuple):
    """One way to quantise a graph.

    activations: ONNX Runtime's type of them. weight_bits: 8 or 7, of int8 weights.
    has_uint8_weights: whether int8 weights are rewritten as uint8 with zero point 128, the same numbers.
    operators: the only types of node that are quantised; empty for all. has_float_ends: whether the first and the last
    layer stay float. is_same_everywhere: whether the sums are the same on a CPU that adds pairs of products in 16 bits.
    """

    name: str
    activations: str = "QUInt8"
    weight_bits: int = 8
    has_uint8_weights: bool = True
    operators: Texts = ()
    has_float_ends: bool = False
    is_same_everywhere: bool = True


FORMS = (
    Form("uint8-weights"),
    Form("7-bit-weights", weight_bits=7, has_uint8_weights=False),
    Form("int8-weights", has_uint8_weights=False, is_same_everywhere=False),
    Form("16-bit-activations", activations="QUInt16"),
    Form("float-ends", has_float_ends=True),
    Form("matmul-only", operators=("MatMul", "Gemm")),
)
"""Of equally small files the earlier is chosen; docs/int8.md has what the order rests on"""


class Kept(NamedTuple):
    """What a file keeps of the original on photos that did not calibrate.

    cosine: of an original's vector and the file's, in the worst 5 % of the photos. recall: share of each photo's ten
    nearest others that the file's vector finds among the original's. features: the original's outlier features that
    are kept. Nothing is kept where nothing could be measured.
    """

    cosine: float = math.nan
    recall: float = math.nan
    features: int = 0


class Tried(NamedTuple):
    """A form that was tried.

    images_per_s: on this CPU, one photo at a time. plain: as this CPU computes. exact: with exact sums. Neither is
    measured where the form could not be made or run. n_features: outlier features of the original. fault: why it is
    not written even if it is asked for.
    """

    form: Form
    size_bytes: int = 0
    images_per_s: float = 0.0
    plain: Kept = Kept()
    exact: Kept = Kept()
    n_features: int = 0
    fault: str = ""

    @property
    def holds(self) -> bool:
        """Return whether the file keeps the vectors and the outlier features, by both arithmetics."""
        return self.loses_at_most(1)

    def loses_at_most(self, share: float) -> bool:
        """Return whether the outlier features are kept, and the vectors lose at most this share of what they may."""
        cosine = 1 - share * (1 - MIN_COSINE)
        recall = 1 - share * (1 - MIN_RECALL)
        for kept in (self.plain, self.exact):
            keeps_vectors = kept.cosine >= cosine and kept.recall >= recall
            if not keeps_vectors or kept.features < self.n_features:
                return False
        return not self.fault


class NoFormError(ExportError):
    """No form keeps what the original has (exit 3)."""

    forms: Sequence[Tried] = ()
    """all that were tried"""


def asked_forms(name: str | None, precision: str) -> tuple[Form, ...]:
    """Return the forms to try: the named one, or all.

    Raises:
        ExportError: no such form, or a precision without forms (exit 2).
    """
    if precision != "int8-qdq":
        if name is not None:
            raise CallError(
                f"--form is {name}; only int8-qdq has forms, and the precision is {precision}", "--precision int8-qdq"
            )
        return ()
    names = [form.name for form in FORMS]
    if name is not None and name not in names:
        near = nearest(name, names)
        raise CallError(f"--form is {name}; it must be one of {', '.join(names)}", f"--form {near}")
    return tuple(form for form in FORMS if name in (None, form.name))


def smallest(tried: Sequence[Tried]) -> Tried | None:
    """Return the smallest file that holds on every CPU, None without one. Of equally small ones, the first.

    Files that lose at most half of what they may are chosen before others: a comparison, which has bounds instead of
    estimates, would find the others undecided.
    """
    same = [each for each in tried if each.form.is_same_everywhere]
    fit = [each for each in same if each.loses_at_most(0.5)] or [each for each in same if each.holds]
    least = min((each.size_bytes for each in fit), default=0)
    return next((each for each in fit if each.size_bytes <= (1 + SAME_SIZE) * least), None)


@np.errstate(invalid="ignore", divide="ignore")
def outlier_features(rows: Array) -> dict[int, float]:
    """Return the outlier features of vectors (photo, feature), each with its side, 1 or −1.

    Such a feature is beyond 4 SD of a photo's features, on the side of its mean, in at least half of the photos.
    """
    z = standardised(rows)
    sides = np.where(z.mean(axis=0) < 0, -1.0, 1.0)
    found = np.flatnonzero((z * sides > OUTLIER_SD).mean(axis=0) >= PERSISTENT_SHARE)
    return {int(feature): float(sides[feature]) for feature in found}


@np.errstate(invalid="ignore", divide="ignore")
def kept(reference: Array, rows: Array) -> Kept:
    """Compare a file's vectors (photo, feature) with the original's.

    A number that can't be computed is NaN, and then the file does not hold.
    """
    ours = _units(rows)
    theirs = _units(reference)
    cosines = (ours * theirs).sum(axis=1)
    worst = float(np.quantile(cosines, 0.05, method="inverted_cdf"))
    same = _nearest(ours, theirs) & _nearest(theirs, theirs)
    recall = float(same.sum(axis=1).mean() / NEIGHBOURS)
    features = outlier_features(reference)
    n_kept = sum(_is_feature_kept(reference, rows, feature, side) for feature, side in features.items())
    return Kept(worst, recall, n_kept)


def _nearest(queries: Floats, vectors: Floats) -> NDArray[np.bool_]:
    """Return which vectors are among the nearest of each photo's query, without the photo's own."""
    cosines = queries @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :NEIGHBOURS]
    found = np.zeros(cosines.shape, bool)
    np.put_along_axis(found, order, True, axis=1)
    return found


def _is_feature_kept(reference: Array, rows: Array, feature: int, side: float) -> bool:
    """Return whether a feature is beyond 4 SD nearly as often, and in step with the original's over the photos."""
    was = _share_beyond(reference, feature, side)
    now = _share_beyond(rows, feature, side)
    if not now >= KEPT_SHARE * was:
        return False
    original = _units(reference)[:, feature]
    ours = _units(rows)[:, feature]
    r = float(np.corrcoef(original, ours)[0, 1])
    if not abs(r) < 1:
        return r == 1
    half = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) / math.sqrt(len(rows) - 3)
    return math.tanh(math.atanh(r) - half) >= MIN_CORRELATION


def _share_beyond(rows: Array, feature: int, side: float) -> float:
    """Return the share of the photos in which a feature is beyond 4 SD on its side."""
    return float((standardised(rows)[:, feature] * side > OUTLIER_SD).mean())


def standardised(rows: Array) -> Floats:
    """Return the vectors with mean 0 and biased SD 1 over the features of each photo."""
    x = rows.astype(np.float64)
    centred = x - x.mean(axis=1, keepdims=True)
    return np.asarray(centred / centred.std(axis=1, keepdims=True))


def _units(rows: Array) -> Floats:
    """Return the vectors at length 1."""
    x = rows.astype(np.float64)
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))


def recorded(tried: Tried, photos: int) -> Fields:
    """Return what the contract has of a written form."""
    measured = {"plain": tried.plain._asdict(), "exact": tried.exact._asdict()}
    return {"name": tried.form.name, "photos": photos, "outlier_features": tried.n_features, **measured}

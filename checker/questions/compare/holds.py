"""Find out whether an index holds the reference's vectors, or what was done to them. Pure."""

from __future__ import annotations

import numpy as np

from ...arrays import Array, Bools, Floats
from ...core.statistics.definitions import unit_rows
from ...text import number_text
from .similarity import TIED, cosine

SAME_COSINE = 0.98  # of a photo's vector in the index and the reference's
NEARER = 4  # times, than the nearest other photo, is a vector that is the photo's own
SAME_SHARE = 0.9  # of the photos whose vector must be there
FEWEST_MOVED = 10  # photos that show a rotation or a shift
QUANTISED = 256  # values that each feature of a quantised index has at most
FEWEST_QUANTISED = 512  # vectors that show it
NO_RANK = 1e-4  # of the largest singular value: what rounding to float16 leaves is less
OUTSIDE = 0.01  # share of the squared length that lies outside of a reduced index
SAME_COSINES = 0.1  # root mean square change of the cosines between photos that a rotation may make, in SD
MEAN_COSINE = 0.3  # of the mean vectors: noise and a rotation have about 0, a permutation 0.8
MEAN_LENGTH = 0.25  # of the mean vector relative to the reference's, below which an index was centred


def spacing(reference: Array) -> Array:
    """Return 1 − cosine of each photo's vector to the nearest one of another photo, (photo,)."""
    cosines = _cosines(reference)
    np.fill_diagonal(cosines, -np.inf)
    return np.asarray(1 - cosines.max(axis=1))


def is_same(cosines: Array, spaces: Array) -> Bools:
    """Return whether vectors in an index are the reference's of these photos, (photo,).

    The cosine must be `SAME_COSINE`, and the vector `NEARER` times as near as any other photo's: where all vectors are
    alike, that of another photo has a large cosine, too. Rounding of equal vectors (`TIED`) counts as the same.

    Args:
        cosines: of the vector in the index and the reference's.
        spaces: `spacing` of these photos.
    """
    nearest = np.minimum(1 - SAME_COSINE, spaces / NEARER)
    return np.asarray(1 - cosines <= np.maximum(TIED, nearest))


def form_of(sample: Floats, reference: Array) -> str:
    """Describe an index that holds a reduced or quantised form of vectors; empty if it seems to hold vectors.

    Args:
        sample: (vector, feature) of the index.
        reference: (photo, feature) of the reference.
    """
    n, width = sample.shape
    if _counted(sample, axis=1).max() <= 2 < width:
        return "binary: each vector of the index has two values"
    if n >= FEWEST_QUANTISED and np.quantile(_counted(sample, axis=0), 0.95) <= QUANTISED:
        return f"quantised: each feature of the index has at most {QUANTISED} values"
    _, values, directions = np.linalg.svd(unit_rows(sample), full_matrices=False)
    rank = int((values > NO_RANK * values[0]).sum())
    inside = unit_rows(reference) @ directions[:rank].T
    outside = float(np.median(1 - np.square(inside).sum(axis=1)))
    if rank >= min(n, width) - 1 or outside <= OUTSIDE:
        return ""
    return (
        f"reduced: the vectors of the index lie in {rank} of {width} dimensions, and "
        f"{number_text(100 * outside)} % of the reference's lie outside (median of the squared length)"
    )


def moved(own: Array, reference: Array, *, is_nearest: bool) -> str:
    """Describe how all vectors in an index were moved; empty if no simple move explains them.

    Args:
        own: (photo, feature) the vectors of photos in the index.
        reference: the reference's vectors of these photos.
        is_nearest: whether the own vector is the nearest of all in the index for most photos.
    """
    if len(own) < FEWEST_MOVED:
        return ""
    x = own - own.mean(axis=0)
    y = reference - reference.mean(axis=0)
    after = max(_median_cosine(x, y), _median_cosine(own, y))
    if after >= SAME_COSINE:
        return f"centred: after a shift of all vectors the cosine is {number_text(after)} (median)"
    if is_nearest:
        return (
            "near the reference's and not the same, as in a quantised index or in one of another version of the model: "
            f"the cosine is {number_text(_median_cosine(own, reference))} (median), and the nearest vector in the "
            "index is the photo's own"
        )
    for what, a, b in (("rotated", own, reference), ("centred and rotated", x, y)):
        if _are_alike(a, b):
            return f"{what}: the cosines between photos are the reference's, those to its own vectors are not"
    return ""


def mean_differs(sample: Floats, reference: Array) -> str:
    """Describe a mean vector that is not the reference's; empty if nothing can be told from it.

    Photos have much in common, so the mean direction of their vectors is that of almost any set of photos.
    """
    there = unit_rows(sample).mean(axis=0)
    here = unit_rows(reference).mean(axis=0)
    size = np.linalg.norm(there)
    own_size = np.linalg.norm(here)
    if own_size < MEAN_LENGTH:
        return ""
    if size < MEAN_LENGTH * own_size:
        sizes = f"{number_text(float(size))}, and the reference's {number_text(float(own_size))}"
        return f"centred, or made with another model: the mean of its vectors (scaled to length 1) has length {sizes}"
    cosine = float(there @ here / (size * own_size))
    if cosine < MEAN_COSINE:
        return (
            f"rotated, or made with another model: its mean vector has cosine {number_text(cosine)} to the reference's"
        )
    return ""


def _cosines(rows: Array) -> Array:
    units = unit_rows(rows)
    return np.asarray(units @ units.T)


def _median_cosine(x: Array, y: Array) -> float:
    return float(np.median(cosine(x, y)))


def _are_alike(x: Array, y: Array) -> bool:
    """Return whether the cosines between the vectors of photos are the same in both."""
    pairs = np.triu_indices(len(x), 1)
    a = _cosines(x)[pairs]
    b = _cosines(y)[pairs]
    change = np.sqrt(np.square(a - b).mean())
    return bool(change <= SAME_COSINES * b.std())


def _counted(rows: Floats, axis: int) -> Array:
    """Count the different values along an axis."""
    steps = np.diff(np.sort(rows, axis=axis), axis=axis)
    return np.asarray((steps > 0).sum(axis=axis) + 1)

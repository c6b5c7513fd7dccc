"""Tell whether the answer of a comparison is about the files or about the machine.

A few of the images run once more by reference arithmetic (`measure.reference`). The distance from candidate to
reference by the machine's own arithmetic is then compared with that distance by reference arithmetic. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ....thresholds.records import Frozen
from ...arrays import AnyArray, Array, float64
from ...core.statistics.definitions import unit_rows
from ...text import number_text

DIFFERS = 2.0  # times the distance, from which it is the machine's (docs/dev/decisions/reference-run.md)


class MachineLoss(Frozen):
    """The distance from candidate to reference, by two arithmetics."""

    n_images: int
    machine: str
    """what computed the vectors that were compared"""
    by: str
    """the reference arithmetic"""
    here: float
    """mean of 1 − cosine of the two vectors of an image, as the machine computes them"""
    there: float
    """the same by reference arithmetic"""

    @property
    def is_of_machine(self) -> bool:
        """Return whether the machine makes the candidate differ at least twice as much as its file does."""
        return self.here >= DIFFERS * self.there and self.here > 0

    @property
    def text(self) -> str:
        """Write both distances."""
        return (
            f"over {self.n_images} images the vectors are {number_text(self.here)} from the reference's "
            f"(1 − cosine) as {self.machine} computes them, and {number_text(self.there)} as {self.by} does"
        )

    def scaled(self, cosine: float) -> float:
        """Return the cosine that reference arithmetic is expected to give in place of a measured one."""
        if self.here == 0:
            return 1 - self.there
        return 1 - (1 - cosine) * self.there / self.here


def distance(candidate: Array, reference: Array) -> float:
    """Return the mean of 1 − cosine of the two vectors of each image, (image, feature) each."""
    cosines = (unit_rows(candidate) * unit_rows(reference)).sum(axis=1)
    return max(0.0, float(np.mean(1 - cosines)))


def loss_of(
    measured: Sequence[AnyArray], exact: Sequence[AnyArray | None], machine: str, by: str
) -> MachineLoss | None:
    """Compare two files by both arithmetics. None where neither has a reference run, or their widths differ.

    Args:
        measured: (image, feature) of candidate and reference, as they were compared.
        exact: the same images by reference arithmetic; None of a file that needs none.
        machine, by: as in `MachineLoss`.
    """
    if all(rows is None for rows in exact) or measured[0].shape != measured[1].shape:
        return None
    rows = [float64(vectors) for vectors in measured]
    for vectors, by_reference in zip(measured, exact, strict=True):
        rows.append(float64(vectors if by_reference is None else by_reference))
    is_usable = np.all([np.isfinite(h).all(axis=1) & (h != 0).any(axis=1) for h in rows], axis=0)
    if not is_usable.any():
        return None
    kept = [h[is_usable] for h in rows]
    return MachineLoss(
        n_images=int(is_usable.sum()),
        machine=machine,
        by=by,
        here=distance(*kept[:2]),
        there=distance(*kept[2:]),
    )

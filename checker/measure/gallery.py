"""Select a few images of a run for people. They are selected while it runs, merged exactly, and decide nothing.

Of every run are kept the first `SHOWN` usable images of the seeded order, and those of the `EXTREME` largest and
smallest kurtosis, each with its standardised representation: which features will be listed is known only at the end.
So memory is `SHOWN` + 2 · `EXTREME` rows of float32, however many images there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from robustcheck_onnx.checker.arrays import Float32s
from robustcheck_onnx.checker.evidence import Gallery, SeenImage
from robustcheck_onnx.checker.statistics import Measured

SHOWN: Final = 64  # images of the outlier-feature map
EXTREME: Final = 5  # images of the largest kurtosis, and of the smallest
FEATURES: Final = 8  # features whose z is recorded
DECIMALS: Final = 3  # of z in the report: far finer than a colour or a bar shows


@dataclass(frozen=True, eq=False)
class Row:
    """A usable image."""

    name: str
    digest: str
    kurtosis: float
    z: Float32s
    """(feature,) standardised representation"""


@dataclass(frozen=True)
class Rows:
    """The selected images of one tensor so far."""

    first: tuple[Row, ...] = ()
    """the first `SHOWN`, in the order of the run"""
    most: tuple[Row, ...] = ()
    """the `EXTREME` of the largest kurtosis, largest first; of equal ones the earlier first"""
    least: tuple[Row, ...] = ()
    """the `EXTREME` of the smallest, smallest first; of equal ones the earlier first"""


def rows_of(batch: Measured, names: Sequence[str], digests: Sequence[str], *, room: int = SHOWN) -> Rows:
    """Select the rows of one batch. `merge` adds them to those that came before.

    Args:
        batch: from `state.update`; images that it could not use are left out.
        names, digests: of all images of the batch, in its order.
        room: how many more of the first images are wanted.
    """
    places = np.flatnonzero(batch.usable)

    def row(index: int) -> Row:
        place = int(places[index])
        # float32 is a copy: a view would keep the whole batch
        z = batch.z[index].astype(np.float32)
        return Row(names[place], digests[place], float(batch.kurtosis[index]), z)

    rising = np.argsort(batch.kurtosis, kind="stable")[:EXTREME]
    falling = np.argsort(-batch.kurtosis, kind="stable")[:EXTREME]
    return Rows(
        first=tuple(row(index) for index in range(min(len(places), room))),
        most=tuple(row(int(index)) for index in falling),
        least=tuple(row(int(index)) for index in rising),
    )


def merge(a: Rows, b: Rows) -> Rows:
    """Merge the selections of two runs of images.

    `a`'s images come before `b`'s; one pass over both gives exactly the same. Associative.
    """
    return Rows(
        first=(a.first + b.first)[:SHOWN],
        # sorted is stable, so of equal ones a's stay before b's
        most=tuple(sorted(a.most + b.most, key=lambda row: -row.kurtosis)[:EXTREME]),
        least=tuple(sorted(a.least + b.least, key=lambda row: row.kurtosis)[:EXTREME]),
    )


def record(rows: Rows, features: Sequence[int]) -> Gallery | None:
    """Return the report's record of the gallery.

    It has z of the first `FEATURES` features, rounded; None where no image was selected.

    Args:
        rows: of the whole run.
        features: indices of the listed features, strongest first (`Statistics.features`).
    """
    if not rows.first:
        return None
    listed = list(features[:FEATURES])

    def seen(row: Row) -> SeenImage:
        z = np.round(row.z[listed].astype(np.float64), DECIMALS) + 0.0  # no minus before a zero
        return SeenImage(name=row.name, digest=row.digest, kurtosis=row.kurtosis, z=tuple(map(float, z)))

    return Gallery(
        features=tuple(listed),
        shown=tuple(map(seen, rows.first)),
        most=tuple(map(seen, rows.most)),
        least=tuple(map(seen, rows.least)),
    )

"""Choose the photos that a report shows: where outlier features are strong, and where kurtosis is extreme.

Of every run are kept the first `SHOWN` usable images of the seeded order, and those of the `EXTREME` largest and
smallest kurtosis, each with its standardised representation: which features will be listed is known only at the end.
So memory is `SHOWN` + 2 · `EXTREME` rows of float32, however many images there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np

from ...arrays import Float32s
from ...text import frozen
from ..evidence import Gallery, SeenImage
from ..statistics.state import MeasuredBatch

SHOWN = 64  # images of the outlier-feature map
EXTREME = 5  # images of the largest kurtosis, and of the smallest
FEATURES = 8  # features whose z is recorded
DECIMALS = 3  # of z in the report: far finer than a colour or a bar shows


@dataclass(frozen=True, eq=False)
class SeenRow:
    """A usable image."""

    name: str
    digest: str
    kurtosis: float
    z: Float32s
    """(feature,) standardised representation"""


@frozen
class SeenRows:
    """The selected images of one tensor so far."""

    first: tuple[SeenRow, ...] = ()
    """the first `SHOWN`, in the order of the run"""
    most: tuple[SeenRow, ...] = ()
    """the `EXTREME` of the largest kurtosis, largest first; of equal ones the earlier first"""
    least: tuple[SeenRow, ...] = ()
    """the `EXTREME` of the smallest, smallest first; of equal ones the earlier first"""


def seen_rows(batch: MeasuredBatch, names: Sequence[str], digests: Sequence[str]) -> SeenRows:
    """Select the rows of one batch, for `merge_seen`.

    Args:
        batch: from `state.update`; images that it could not use are left out.
        names, digests: of all images of the batch, in its order.
    """
    usable_names = compress(names, batch.usable)
    usable_digests = compress(digests, batch.usable)
    # float32 is a copy: a view would keep the whole batch
    rows = tuple(
        SeenRow(name, digest, float(kurtosis), z.astype(np.float32))
        for name, digest, kurtosis, z in zip(usable_names, usable_digests, batch.kurtosis, batch.z, strict=True)
    )
    return merge_seen(SeenRows(), SeenRows(rows, rows, rows))


def merge_seen(a: SeenRows, b: SeenRows) -> SeenRows:
    """Merge the selections of two runs, of which `a`'s images come before `b`'s.

    Associative, and exactly what one pass over both gives.
    """
    # sorted is stable, so of equal ones a's stay before b's
    most = sorted(a.most + b.most, key=lambda row: -row.kurtosis)
    least = sorted(a.least + b.least, key=lambda row: row.kurtosis)
    first = a.first + b.first
    return SeenRows(first[:SHOWN], tuple(most[:EXTREME]), tuple(least[:EXTREME]))


def gallery_of(rows: SeenRows, features: Sequence[int]) -> Gallery | None:
    """Return the report's record, with rounded z of the first `FEATURES` features; None where no image was selected.

    Args:
        rows: of the whole run.
        features: indices of the listed features, strongest first (`Statistics.features`).
    """
    if not rows.first:
        return None
    listed = list(features[:FEATURES])

    def seen(row: SeenRow) -> SeenImage:
        z = np.round(row.z[listed].astype(np.float64), DECIMALS) + 0.0  # no minus before a zero
        return SeenImage(name=row.name, digest=row.digest, kurtosis=row.kurtosis, z=tuple(z.tolist()))

    return Gallery(
        features=tuple(listed),
        shown=tuple(map(seen, rows.first)),
        most=tuple(map(seen, rows.most)),
        least=tuple(map(seen, rows.least)),
    )

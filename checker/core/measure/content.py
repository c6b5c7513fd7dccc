"""Add up what a model makes of photos that differ, to tell content from noise.

Of every run the first `DESCRIBED` described images are kept, duplicates too: which of them are varied is known in their
whole order only, and only the first images of a set are described. So memory is `DESCRIBED` rows of float32, however
many images there are; and batches, workers, shards and an early stop change nothing but rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...arrays import Float32s
from ..evidence import CONTENT_IMAGES, Content
from ..images.sanity import DESCRIBED, Sketch, varied
from ..statistics.definitions import effective_rank, mean_of_rest, relative_variance, unit_rows


@dataclass(frozen=True, eq=False)
class DescribedRow:
    """A described image with a usable representation."""

    sketch: Sketch
    u: Float32s
    """(feature,) the representation scaled to length 1"""


DescribedRows = tuple[DescribedRow, ...]
"""the first `DESCRIBED`, in the order of the run, of one tensor"""


def described_rows(h: npt.ArrayLike, sketches: Sequence[Sketch | int | None]) -> DescribedRows:
    """Select the described rows of one batch.

    Args:
        h: (image, feature) usable representations, finite and not constant; any float dtype.
        sketches: of the same images; what is not a whole sketch is left out.
    """
    described = [(index, sketch) for index, sketch in enumerate(sketches) if isinstance(sketch, Sketch)]
    u = unit_rows(np.asarray(h)[[index for index, _ in described]]) if described else ()
    # astype copies each row: a view would keep the whole batch
    return tuple(DescribedRow(sketch, row.astype(np.float32)) for (_, sketch), row in zip(described, u, strict=True))


def merge_described(a: DescribedRows, b: DescribedRows) -> DescribedRows:
    """Join rows in order, up to `DESCRIBED`. One pass over both gives exactly the same. Associative."""
    return (a + b)[:DESCRIBED]


def first_varied(rows: DescribedRows) -> DescribedRows:
    """Return the first `CONTENT_IMAGES` varied rows. Duplicates and near-duplicates of earlier ones are left out."""
    return tuple(rows[place] for place in varied([row.sketch for row in rows], CONTENT_IMAGES))


def is_complete(rows: DescribedRows) -> bool:
    """Return whether there are `CONTENT_IMAGES` varied rows. More images change nothing then."""
    return len(first_varied(rows)) == CONTENT_IMAGES


def content_of(rows: DescribedRows) -> Content | None:
    """Measure the content of a whole run. None where no image was described."""
    chosen = first_varied(rows)
    if not chosen:
        return None
    u = np.stack([row.u for row in chosen])
    return Content(
        n=len(chosen),
        effective_rank=effective_rank(u),
        relative_variance=relative_variance(u),
        mean_of_rest=mean_of_rest(u),
    )

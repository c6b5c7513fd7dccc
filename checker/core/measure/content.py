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
    described = {index: sketch for index, sketch in enumerate(sketches) if isinstance(sketch, Sketch)}
    if not described:
        return ()
    u = unit_rows(np.asarray(h)[list(described)])
    # astype copies each row: a view would keep the whole batch
    return tuple(
        DescribedRow(sketch, row.astype(np.float32)) for sketch, row in zip(described.values(), u, strict=True)
    )


def merge_described(a: DescribedRows, b: DescribedRows) -> DescribedRows:
    """Join rows in order, up to `DESCRIBED`: associative, and exactly what one pass over both gives."""
    return (a + b)[:DESCRIBED]


def first_varied(rows: DescribedRows) -> DescribedRows:
    """Return the first `CONTENT_IMAGES` rows that are neither duplicates nor near-duplicates of earlier ones."""
    places = varied([row.sketch for row in rows], CONTENT_IMAGES)
    return tuple(rows[place] for place in places)


def is_complete(rows: DescribedRows) -> bool:
    """Return whether there are `CONTENT_IMAGES` varied rows, to which more images change nothing."""
    return len(first_varied(rows)) == CONTENT_IMAGES


def content_of(rows: DescribedRows) -> Content | None:
    """Measure the content of a run; None where no image was described."""
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

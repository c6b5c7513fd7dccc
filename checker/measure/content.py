"""Collect representations for measuring a model's content. They are those of the first varied images of a run.

First in the seeded order, so that batches, workers, shards and an early stop change nothing but rounding. Of every run
the first `KEPT` described images are kept, duplicates too: which of them are varied is known in their whole order only,
and only the first images of a set are described. So memory is `KEPT` rows of float32, however many images there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from robustcheck_onnx.checker.arrays import Float32s
from robustcheck_onnx.checker.evidence import Content
from robustcheck_onnx.checker.images.sanity import DESCRIBED, Sketch, varied
from robustcheck_onnx.checker.statistics import CONTENT_IMAGES, effective_rank, relative_variance, unit_rows

KEPT: Final = DESCRIBED  # no more images have a sketch


@dataclass(frozen=True, eq=False)
class Row:
    """A described image with a usable representation."""

    sketch: Sketch
    u: Float32s
    """(feature,) the representation scaled to length 1"""


Rows = tuple[Row, ...]
"""the first `KEPT`, in the order of the run, of one tensor"""


def rows_of(h: npt.ArrayLike, sketches: Sequence[Sketch | int | None]) -> Rows:
    """Select the described rows of one batch.

    Args:
        h: (image, feature) usable representations, finite and not constant; any float dtype.
        sketches: of the same images; what is not a whole sketch is left out.
    """
    described = [(index, sketch) for index, sketch in enumerate(sketches) if isinstance(sketch, Sketch)]
    u = unit_rows(np.asarray(h)[[index for index, _ in described]]) if described else ()
    # astype copies each row: a view would keep the whole batch
    return tuple(Row(sketch, row.astype(np.float32)) for (_, sketch), row in zip(described, u, strict=True))


def merge(a: Rows, b: Rows) -> Rows:
    """Join rows in order, up to `KEPT`. One pass over both gives exactly the same. Associative."""
    return (a + b)[:KEPT]


def first_varied(rows: Rows) -> Rows:
    """Return the first `CONTENT_IMAGES` varied rows. Duplicates and near-duplicates of earlier ones are left out."""
    return tuple(rows[place] for place in varied([row.sketch for row in rows], CONTENT_IMAGES))


def is_complete(rows: Rows) -> bool:
    """Return whether there are `CONTENT_IMAGES` varied rows. More images change nothing then."""
    return len(first_varied(rows)) == CONTENT_IMAGES


def record(rows: Rows) -> Content | None:
    """Measure the content of a whole run. None where no image was described."""
    chosen = first_varied(rows)
    if not chosen:
        return None
    u = np.stack([row.u for row in chosen])
    return Content(n=len(chosen), effective_rank=effective_rank(u), relative_variance=relative_variance(u))

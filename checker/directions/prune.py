"""What is left of a head's predictions when only some of its directions are kept; pure.

The head of k directions is W V_k V_kᵀ h + b; the bias stays whole. Each image is projected once, and
the directions are added in their order, so that a whole curve costs little more than one set of scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from robustcheck_onnx.checker.arrays import Array, Indices

from .decompose import in_pieces

PERCENT = (90, 80, 70, 60, 50, 40, 30, 20, 10, 5, 2)
"""share of the directions that is kept at each point of a curve"""
KEEPS = (0.99, 0.95)
"""shares of the predictions for which the smallest number of directions is looked for"""
STEPS = 50  # numbers of directions that are tried for it, evenly spaced; all where there are fewer


def n_kept(percent: int, n_directions: int) -> int:
    """How many directions a percentage is: rounded up, so at least 1.

    >>> n_kept(2, 768), n_kept(2, 10)
    (16, 1)
    """
    return math.ceil(percent * n_directions / 100)


def steps_of(n_directions: int) -> list[int]:
    """The numbers of directions that are tried in search of `KEEPS`, falling, without all of them."""
    tried = {math.ceil(n_directions * step / STEPS) for step in range(1, STEPS + 1)}
    return sorted(tried - {n_directions}, reverse=True)


@dataclass(frozen=True)
class Pruned:
    """A head's scores with fewer directions, for one set of images."""

    columns: Array
    """(direction, class) (U Σ)ᵀ"""
    projected: Array
    """(image, direction) h V, h as the head takes it (of length 1 where it normalises)"""
    bias: Array
    """(class,)"""

    def scores(self, order: Indices, kept: Sequence[int], look: Callable[[int, slice, Array], None]) -> None:
        """Show the scores of each number of kept directions, a piece of the images at a time.

        Args:
            order: (direction,) which direction is added first.
            kept: numbers of directions.
            look: called with the number kept, the piece of the images, and its (image, class) scores. They are
                overwritten afterwards.
        """
        levels = sorted(set(kept))
        columns = [self.columns[order[low:high]] for low, high in zip([0, *levels], levels, strict=False)]

        def piece(images: slice) -> None:
            total = np.tile(self.bias, (len(self.projected[images]), 1))
            low = 0
            for high, added in zip(levels, columns, strict=True):
                total += self.projected[images][:, order[low:high]] @ added
                look(high, images, total)
                low = high

        in_pieces(len(self.projected), len(self.bias), piece)


def predictions(pruned: Pruned, order: Indices, kept: Sequence[int]) -> dict[int, Indices]:
    """The predicted class of each image, (image,), for each number of directions kept; of equal scores the first."""
    found = {k: np.empty(len(pruned.projected), dtype=np.intp) for k in kept}

    def look(k: int, images: slice, scores: Array) -> None:
        found[k][images] = scores.argmax(axis=1)

    pruned.scores(order, kept, look)
    return found


def fewest(same: Sequence[tuple[int, float]], n_directions: int, share: float) -> int:
    """The fewest directions that keep a share of the predictions, and from which on every larger number tried does.

    Args:
        same: number kept and share of the same predictions, in any order.
        n_directions: all of them; they keep everything.
        share: 0 to 1.
    """
    best = n_directions
    for kept, value in sorted(same, reverse=True):
        if value < share:
            break
        best = kept
    return best

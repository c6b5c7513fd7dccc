"""Sums over the pixels of images, of each channel: what the mean and the SD of a model's input follow from. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robustcheck_onnx.checker.arrays import GenericArray

LONGEST = 65_536  # pixels of a piece: 65,536 · 255² = 4.3e9, the last that a sum of uint32 holds


@dataclass(frozen=True)
class LevelSums:
    """Of each channel: its values, their sum, the sum of their squares. Of uint8 pixels exact, in any order."""

    n_values: int = 0
    sums: tuple[float, ...] = ()
    squares: tuple[float, ...] = ()

    def __add__(self, other: LevelSums) -> LevelSums:
        """The sums over both; channels are as many, where there are any."""
        if not self.n_values or not other.n_values:
            return self if self.n_values else other
        return LevelSums(
            self.n_values + other.n_values,
            tuple(a + b for a, b in zip(self.sums, other.sums, strict=True)),
            tuple(a + b for a, b in zip(self.squares, other.squares, strict=True)),
        )

    @property
    def mean(self) -> tuple[float, ...]:
        """The mean of each channel; empty of no image."""
        return tuple(total / self.n_values for total in self.sums)

    @property
    def sd(self) -> tuple[float, ...]:
        """The standard deviation of each channel, over all values; empty of no image.

        Of float values that lie far from zero it loses digits, as every difference of squares does.
        """
        pairs = zip(self.squares, self.mean, strict=True)
        return tuple(float(np.sqrt(max(total / self.n_values - mean**2, 0))) for total, mean in pairs)


def level_sums(pixels: GenericArray) -> LevelSums:
    """Sum up one image, (height, width, channel): uint8, or float values that are summed up in float64.

    Values that are not finite, or too large to be squared, give sums that are not.
    """
    flat = pixels.reshape(-1, pixels.shape[-1])
    if pixels.dtype != np.uint8:
        values = flat.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            sums, squares = values.sum(axis=0), np.square(values).sum(axis=0)
        return LevelSums(len(flat), tuple(sums.tolist()), tuple(squares.tolist()))
    sums_, squares_ = [0] * flat.shape[1], [0] * flat.shape[1]
    for start in range(0, len(flat), LONGEST):
        # a channel in one piece, in the smallest type that holds a square: a third of the time of float64
        levels = np.ascontiguousarray(flat[start : start + LONGEST].T).astype(np.uint16)
        for channel, (one, two) in enumerate(
            zip(levels.sum(axis=1, dtype=np.uint32), (levels * levels).sum(axis=1, dtype=np.uint32), strict=True)
        ):
            sums_[channel] += int(one)
            squares_[channel] += int(two)
    return LevelSums(len(flat), tuple(sums_), tuple(squares_))

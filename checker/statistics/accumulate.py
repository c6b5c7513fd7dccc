"""Measure representations that the caller has. They come at once (`measure`), or batch by batch (`Accumulator`).

Numbers with intervals, and no verdict: that also needs the model, its preprocessing and the sanity of the images, which
`check` looks at; `judge` is for those who bring all of it.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from robustcheck_onnx.checker.arrays import SupportsArray, as_array
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.evidence import Statistics
from robustcheck_onnx.checker.text import type_name
from robustcheck_onnx.thresholds import profile as profiles

from . import state as sums

WHAT = "representations"


def measure(representations: SupportsArray) -> Statistics:
    """Measure the statistics of representations. Their intervals hold at every number of images.

    There is no verdict without a model: `check` gives one.

    Args:
        representations: (image, feature), real numbers of any dtype: a NumPy array, or a tensor of torch or another
            library (`__array__` or DLPack; on a GPU too). One row an image; at most 16,384 features.

    Returns:
        The numbers of `report.evidence.statistics`, without a unit. Rows that are not finite, or constant over the
        features, are counted in `n_nonfinite` and `n_constant` and not used. With one row there are estimates and no
        bounds (None).

    Raises:
        TypeError: no array; the message names the type.
        UsageError: another shape or dtype.
        CannotAssessError: no row is finite and not constant.
    """
    accumulator = Accumulator()
    accumulator.update(representations)
    return accumulator.result()


class Accumulator:
    """The statistics of representations, added batch by batch. A training or evaluation loop can call it.

    It keeps sums, 8 kB a feature, and 8 bytes an image; it can be pickled.

    Intervals hold at every number of images at once, so a loop may look at `result()` as often as it likes. There is no
    verdict without a model.
    """

    def __init__(self) -> None:
        self._state: sums.State | None = None

    @property
    def n(self) -> int:
        """Count the images measured so far. Those that are not finite or constant are left out."""
        return 0 if self._state is None else self._state.n

    def update(self, batch: SupportsArray) -> None:
        """Add a batch; its memory is not kept.

        Args:
            batch: as in `measure`, of the width of the first batch. No image at all, (0, feature), adds nothing.

        Raises:
            TypeError: no array; the message names the type.
            UsageError: another shape, width or dtype; nothing was added.
        """
        rows = _rows(batch)
        if self._state is None:
            self._state = sums.State(rows.shape[1])
        elif rows.shape[1] != self._state.n_features:
            raise UsageError(f"{WHAT}: number of features is {rows.shape[1]}; before it was {self._state.n_features}")
        sums.update(self._state, rows, [_key(row) for row in rows])

    def merge(self, other: Accumulator) -> Accumulator:
        """Add two accumulators over different images.

        They may be of other processes; the sum is a new one, and both stay as they are.

        Raises:
            TypeError: `other` is none.
            UsageError: the numbers of features differ.
        """
        if not isinstance(other, Accumulator):
            raise TypeError(f"other: type is {type_name(other)}; it must be an Accumulator")
        merged = type(self)()
        if self._state is not None and other._state is not None:
            if self._state.n_features != other._state.n_features:
                widths = f"{self._state.n_features} and {other._state.n_features}"
                raise UsageError(f"{WHAT}: numbers of features are {widths}; they must be the same")
            merged._state = sums.merge(self._state, other._state)
        elif (one := self._state or other._state) is not None:
            merged._state = sums.merge(one, sums.State(one.n_features))  # a copy
        return merged

    def result(self) -> Statistics:
        """Return the statistics of all images so far. They have intervals; more batches may follow.

        Returns:
            As `measure`.

        Raises:
            CannotAssessError: no image so far, or none that is finite and not constant.
        """
        if self._state is None or self._state.n == 0:
            n_bad = 0 if self._state is None else self._state.n_nonfinite + self._state.n_constant
            raise CannotAssessError(f"{WHAT}: number that is finite and not constant is 0 of {n_bad}; one is needed")
        return sums.statistics(self._state, profiles.load().alpha, "each")  # these hold at every number of images

    def __repr__(self) -> str:
        width = "" if self._state is None else f", {self._state.n_features} features"
        return f"<Accumulator: {self.n} images{width}>"


def _rows(batch: SupportsArray) -> npt.NDArray[np.float64]:
    """Return checked rows (image, feature)."""
    array = as_array(batch, WHAT)
    if array.dtype.kind not in "fiu":
        raise UsageError(f"{WHAT}: dtype is {array.dtype}; they must be real numbers")
    if array.ndim != 2 or array.shape[1] == 0:
        hint = "pool it to one row per image first" if array.ndim > 2 else "one row an image: h[None] for a single one"
        raise UsageError(f"{WHAT}: shape is {array.shape}; it must be (image, feature)", hint)
    if array.shape[1] > sums.MAX_FEATURES:
        raise UsageError(
            f"{WHAT}: number of features is {array.shape[1]}; more than {sums.MAX_FEATURES} is an unpooled map",
            "pool it to one row per image first",
        )
    return array.astype(np.float64)


def _key(row: npt.NDArray[np.float64]) -> int:
    """Return the row's jackknife group, from its content.

    Copies of one image come into one group, and count as one there.
    """
    digest = hashlib.sha256((row + 0.0).tobytes())  # no minus before a zero
    return int.from_bytes(digest.digest()[-4:], "big")

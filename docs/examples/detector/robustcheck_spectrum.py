"""A detector for robustcheck: over how many directions the representation varies between images.

The participation ratio of the covariance's eigenvalues λ, (Σλ)² / Σλ², is d where all d directions vary alike and 1
where only one varies. It is an example of how a detector is made; nobody has shown that it says anything about
robustness.
"""

import os

import numpy as np

from robustcheck_onnx.checker.evidence import DetectorResult

MINIMUM = "SPECTRUM_MINIMUM"  # environment variable: warn below this participation ratio; without it never


class Spectrum:
    """Sums of h and h·hᵀ over images: memory is feature · feature numbers, however many images there are."""

    name = "spectrum"
    version = "0.1.0"

    def __init__(self) -> None:
        self.minimum = float(os.environ.get(MINIMUM, "0"))  # no number: an error, which ends the run
        self.n = 0

    def update(self, representations: np.ndarray) -> None:
        """Add (image, feature) representations to the sums."""
        if self.n == 0:
            width = representations.shape[1]
            self.origin = representations[0]  # sums about a point among the images lose no digits
            self.total, self.products = np.zeros(width), np.zeros((width, width))
        h = representations - self.origin
        self.n += len(h)
        self.total += h.sum(axis=0)
        self.products += h.T @ h

    def result(self) -> DetectorResult:
        """The participation ratio; "warn" below the minimum, and where nothing varies."""
        mean = self.total / self.n
        covariance = self.products / self.n - np.outer(mean, mean)
        squares = float((covariance**2).sum())  # Σλ²
        ratio = float(np.trace(covariance)) ** 2 / squares if squares > 0 else None
        if ratio is None:
            finding, text = "warn", "the representation is the same for every image"
        else:
            finding = "warn" if ratio < self.minimum else "ok"
            text = f"it varies over {ratio:.3g} directions on {self.n} images (minimum {self.minimum:g})"
        return DetectorResult(
            name=self.name,
            version=self.version,
            values={"participation_ratio": ratio, "minimum": self.minimum, "images": self.n},
            finding=finding,
            text=text,
        )

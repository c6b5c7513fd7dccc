"""Simulated representations: families without the indication, traps among them, and planted outlier features.

Each function draws (image, feature) float64 representations: draw(rng, images, features).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Draw = Callable[[np.random.Generator, int, int], np.ndarray]


def signed(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    """Gaussian features with their own means and scales, images with their own norm."""
    h = rng.normal(size=(n, d)) * rng.lognormal(0, 0.3, d) + rng.normal(0, 0.5, d)
    return h * rng.lognormal(0, 0.3, (n, 1))


def planted(rng: np.random.Generator, n: int, d: int, strength: float, features: int = 1) -> np.ndarray:
    """Signed features, a few of them shifted by `strength` SD in every image."""
    h = rng.normal(size=(n, d)) + rng.normal(0, 0.5, d)
    shift = strength * h.std(axis=1, keepdims=True)
    h[:, rng.choice(d, features, replace=False)] += shift * rng.choice([-1, 1], features)
    return h * rng.lognormal(0, 0.3, (n, 1))


def spike(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    """A 20 SD spike in a random feature of each image."""
    h = signed(rng, n, d)
    h[np.arange(n), rng.integers(0, d, n)] += 20 * h.std(axis=1)
    return h


def clustered(rng: np.random.Generator, n: int, d: int, clusters: int = 3) -> np.ndarray:
    """A narrow image set: few kinds of image, small differences within one."""
    centres = signed(rng, clusters, d)
    return centres[rng.integers(0, clusters, n)] + 0.5 * rng.normal(size=(n, d))


def silu(x: np.ndarray) -> np.ndarray:
    """x · sigmoid(x)."""
    return np.asarray(x / (1 + np.exp(-x)))


def heavy_tails(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    """Student t features, 4.5 degrees of freedom, one of them shifted by 4.6 SD: strong, and not by what persists."""
    h = rng.standard_t(4.5, size=(n, d))
    h[:, rng.integers(d)] += 4.6 * h.std(axis=1)
    return h


def spikes(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    """A 12 SD spike in a random feature of each image, and one feature that is 5 SD in all of them."""
    h = rng.normal(size=(n, d))
    h[:, rng.integers(d)] += 5
    h[np.arange(n), rng.integers(0, d, n)] += 12
    return h


def sometimes(rng: np.random.Generator, n: int, d: int, share: float = 0.25) -> np.ndarray:
    """A feature of 20 SD in a share of the images: it lifts every mean, and is not there in most images."""
    h = rng.normal(size=(n, d)) + rng.normal(0, 0.5, d)
    h[:, rng.integers(d)] += 20 * h.std(axis=1) * (rng.random(n) < share)
    return h


def kinds(rng: np.random.Generator, n: int, d: int, count: int = 3) -> np.ndarray:
    """Kinds of images, each with a 20 SD feature of its own: the strongest three are there, never one in most "
    "images."""
    h = rng.normal(size=(n, d))
    h[np.arange(n), rng.integers(0, count, n)] += 20
    return h


def many(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    """A twelfth of the features shifted by 3.2: constant, strong together, and no outlier among them."""
    h = rng.normal(size=(n, d))
    h[:, : d // 12] += 3.2 * rng.choice([-1, 1], d // 12)
    return h


def crowd(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    """A twenty-fifth of the features at 4.6 SD of each image: all beyond 4 SD in nearly all images, and not a few."""
    h = rng.normal(size=(n, d))
    h[:, : d // 25] += 12 * rng.choice([-1, 1], d // 25)
    return h


def hard_swish(x: np.ndarray) -> np.ndarray:
    """x · ReLU6(x + 3) / 6."""
    return np.asarray(x * np.clip(x + 3, 0, 6) / 6)


NEGATIVES: dict[str, Draw] = {
    "signed, Gaussian": signed,
    "signed, Student t(4)": lambda g, n, d: g.standard_t(4, size=(n, d)),
    "signed, lognormal(0.8) scales": lambda g, n, d: g.normal(size=(n, d)) * g.lognormal(0, 0.8, d),
    "signed, narrow image set": clustered,
    "random spike": spike,
    "ReLU": lambda g, n, d: np.maximum(signed(g, n, d), 0),
    "ReLU with a planted feature": lambda g, n, d: np.maximum(planted(g, n, d, 20), 0),
    "ReLU, narrow image set": lambda g, n, d: np.maximum(clustered(g, n, d), 0),
    "ReLU, sparse": lambda g, n, d: np.maximum(signed(g, n, d) - 1, 0),
    "ReLU6": lambda g, n, d: np.clip(3 * signed(g, n, d), 0, 6),
    "SiLU": lambda g, n, d: silu(3 * signed(g, n, d)),
    "hard-swish": lambda g, n, d: hard_swish(3 * signed(g, n, d)),
    "gamma(0.5)": lambda g, n, d: g.gamma(0.5, size=(n, d)),
    "heavy tails, one 4.6 SD feature": heavy_tails,
    "random 12 SD spikes, one 5 SD feature": spikes,
    "20 SD feature in a quarter of the images": sometimes,
    "20 SD feature in two fifths of the images": lambda g, n, d: sometimes(g, n, d, 0.4),
    "three kinds of images, a 20 SD feature each": kinds,
    "many features of 3.2 SD": many,
    "a twenty-fifth of the features beyond 4 SD": crowd,
    "hard-swish below zero, planted feature": lambda g, n, d: hard_swish(planted(g, n, d, 20) - 1.5),
}

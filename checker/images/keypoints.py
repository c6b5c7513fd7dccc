"""Find images that show parts of one photo. Crops and mirrored, turned or zoomed versions share keypoints.

Keypoints are blobs: extremes of the difference of Gaussians over position and scale (Lowe, IJCV 2004). Each is
described by numbers that do not change when an image is mirrored or turned: grey levels around it are sampled on rings
whose radii follow its scale, and of the Fourier transform along each ring only the mean and the magnitudes are used.
Two images show parts of one photo when enough of their keypoints have the same description *and* one similarity
transform (turn, zoom, shift, with or without mirror) maps their positions. Constants were chosen by measuring:
docs/dev/decisions/image-sanity.md.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from PIL import Image

from robustcheck_onnx.checker.arrays import Array, Float32s, Indices

EDGE_PX = 96  # the image is made as large as a square of this edge (never enlarged)
LONGEST_PX = 255  # of very long images; positions are stored as bytes
MIN_EDGE_PX = 16  # of the shorter edge; below it there are no keypoints
SIGMAS = 1.2 * 2 ** (np.arange(7) / 2)  # px; half an octave apart
MOST_POINTS = 32  # of an image, the strongest
MIN_CONTRAST = 1.0  # grey levels of 255
RINGS = np.array([1.0, 2.0, 3.0, 4.0])  # radii in units of the keypoint's sigma
ANGLES = 16  # samples on a ring
HARMONICS = 5  # used of each ring: the mean and four magnitudes
MARGIN = 2.0  # sigmas between a keypoint and the image's border

MIN_LIKENESS = 0.95  # cosine of two descriptions
MIN_SHARED = 6  # points
POSITION_TOLERANCE_PX = 2.5
SCALE_TOLERANCE = 0.5  # of ln zoom: between the zoom of positions and of scales, which are half an octave apart
MIN_BASE_PX = 6.0  # between the two points that give a similarity

SINGLE_THREAD = 200_000  # multiplications; OpenBLAS starts threads at 262,144

_SIZE = len(RINGS) * HARMONICS
_TURN = 2 * np.pi * np.arange(ANGLES) / ANGLES
_RING_X = (RINGS[:, None] * np.cos(_TURN)).ravel()
_RING_Y = (RINGS[:, None] * np.sin(_TURN)).ravel()


def find(image: Image.Image) -> bytes:
    """Find the keypoints of a photo, strongest first. A row has 3 + 20 bytes: column, row, level of scale; description.

    image: Pillow, any mode. At most MOST_POINTS rows; none where the image is small, flat or smooth.
    """
    shrink = min(1.0, EDGE_PX / math.sqrt(image.width * image.height), LONGEST_PX / max(image.size))
    width, height = round(image.width * shrink), round(image.height * shrink)
    if min(width, height) < MIN_EDGE_PX:
        return b""
    small = image.convert("L").resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    rows_blurred = _times(_blurs(height), np.asarray(small, dtype=np.float64))
    blurred = _times(rows_blurred, _blurs(width).transpose(0, 2, 1))
    level, row, column = _strongest(np.abs(np.diff(blurred, axis=0)))
    descriptions = np.rint(127 * _describe(blurred, level, row, column)) + 128
    return np.column_stack([column, row, level, descriptions]).astype(np.uint8).tobytes()


@lru_cache(maxsize=64)
def _blurs(n: int) -> Array:
    """Return the matrices of Gaussian blurs, (level, n, n).

    They blur a line of n pixels; weights are normalised at its ends too.
    """
    apart = np.subtract.outer(np.arange(n), np.arange(n))
    weights = np.exp(-(apart**2) / (2 * SIGMAS[:, None, None] ** 2))
    return np.asarray(weights / weights.sum(axis=2, keepdims=True))


def _times(left: Array, right: Array) -> Array:
    """Return left @ right, computed in small strips.

    No matrix library starts threads for them; callers prepare images in parallel.
    """
    strip = max(1, SINGLE_THREAD // (right.shape[-2] * right.shape[-1]))
    return np.concatenate([left[:, k : k + strip] @ right for k in range(0, left.shape[1], strip)], axis=1)


def _strongest(contrast: Array) -> tuple[Indices, Indices, Indices]:
    """Return the strongest local maxima of (level, row, column). They come as levels, rows and columns."""
    inner = contrast[1:-1]
    strength = np.where((inner >= _highest_around(contrast)) & (inner > MIN_CONTRAST), inner, 0.0)
    for plane, sigma in zip(strength, SIGMAS[1:-2], strict=True):
        margin = int(MARGIN * sigma)
        plane[:margin] = plane[-margin:] = 0.0
        plane[:, :margin] = plane[:, -margin:] = 0.0
    order = np.argsort(-strength, axis=None, kind="stable")[:MOST_POINTS]
    order = order[strength.ravel()[order] > 0]
    level, row, column = np.unravel_index(order, strength.shape)
    return level + 1, row, column  # the lowest level has no neighbour below


def _highest_around(values: Array) -> Array:
    """Return the maximum around each position of inner levels. It is taken over the 3 × 3 × 3 neighbours."""
    for axis in (2, 1):
        wide = np.swapaxes(values, axis, 2)
        highest = wide.copy()  # the border has no neighbour outside
        np.maximum(highest[..., 1:], wide[..., :-1], out=highest[..., 1:])
        np.maximum(highest[..., :-1], wide[..., 1:], out=highest[..., :-1])
        values = np.swapaxes(highest, axis, 2)
    return np.maximum(np.maximum(values[:-2], values[1:-1]), values[2:])


def _describe(blurred: Array, level: Indices, row: Indices, column: Indices) -> Array:
    """Describe each keypoint, (keypoint, 20). Rows have length 1; gain and offset of grey levels do not change them."""
    sigma = SIGMAS[level, None]
    height, width = blurred.shape[1:]
    y, top = _between(row[:, None] + sigma * _RING_Y, height)
    x, left = _between(column[:, None] + sigma * _RING_X, width)
    at = level[:, None]
    upper = (1 - x) * blurred[at, top, left] + x * blurred[at, top, left + 1]
    lower = (1 - x) * blurred[at, top + 1, left] + x * blurred[at, top + 1, left + 1]
    rings = ((1 - y) * upper + y * lower).reshape(-1, len(RINGS), ANGLES)
    spectrum = np.fft.rfft(rings - rings.mean(axis=(1, 2), keepdims=True))[..., :HARMONICS]
    described = math.sqrt(2) * np.abs(spectrum)  # both signs of the frequency
    described[..., 0] = spectrum[..., 0].real
    described = described.reshape(-1, _SIZE)
    return np.asarray(described / np.maximum(np.linalg.norm(described, axis=1, keepdims=True), 1e-9))


def _between(position: Array, n: int) -> tuple[Array, Indices]:
    """Split positions into whole pixels and fractions.

    Returns (fraction of the way to the next pixel, index of the pixel before); clipped to the image.
    """
    position = np.clip(position, 0, n - 1)
    before = np.minimum(position.astype(np.intp), n - 2)
    return position - before, before


class Gallery:
    """The keypoints of images to compare others with. It holds up to `capacity` images."""

    def __init__(self, capacity: int) -> None:
        self._n = 0
        self._capacity = capacity
        self._descriptions = np.zeros((capacity, MOST_POINTS, _SIZE), np.float32)
        self._positions = np.zeros((capacity, MOST_POINTS, 3))

    def add(self, points: bytes) -> None:
        """Add the keypoints that `find` returned. A full gallery ignores them."""
        if self._n < self._capacity:
            self._positions[self._n], self._descriptions[self._n] = _unpack(points)
            self._n += 1

    def has_part_of(self, points: bytes) -> bool:
        """Return whether an image shows part of the same photo."""
        positions, descriptions = _unpack(points)
        likeness = self._descriptions[: self._n] @ descriptions.T
        nearest = likeness.argmax(axis=2)  # (gallery image, its point): point of the new image
        back = likeness.argmax(axis=1)  # (gallery image, point of the new image): point of the gallery image
        mutual = np.take_along_axis(back, nearest, axis=1) == np.arange(MOST_POINTS)
        mutual &= likeness.max(axis=2) >= MIN_LIKENESS
        for index in np.flatnonzero(mutual.sum(axis=1) >= MIN_SHARED):
            pairs = mutual[index]
            if _share_a_similarity(self._positions[index, pairs], positions[nearest[index, pairs]]):
                return True
        return False


def _unpack(points: bytes) -> tuple[Array, Float32s]:
    """Unpack keypoints into positions and descriptions.

    Positions: (MOST_POINTS, 3), column, row and ln sigma; descriptions: (MOST_POINTS, 20). Missing points are zeros.
    """
    table = np.zeros((MOST_POINTS, 3 + _SIZE))
    table[:, 3:] = 128
    rows = np.frombuffer(points, np.uint8).reshape(-1, 3 + _SIZE)
    table[: len(rows)] = rows
    positions, descriptions = table[:, :3], (table[:, 3:] - 128) / 127
    positions[:, 2] = np.log(SIGMAS)[positions[:, 2].astype(int)]
    return positions, descriptions.astype(np.float32)


@lru_cache(maxsize=MOST_POINTS + 1)
def _pairs(n: int) -> tuple[Indices, Indices]:
    """Return the indices of all pairs of points."""
    return np.triu_indices(n, 1)


def _share_a_similarity(one: Array, other: Array) -> bool:
    """Return whether one similarity transform maps enough points.

    It must map MIN_SHARED points of one image to their partners, each (point, 3).

    Every two points and their partners give one: b = αa + β of complex positions, or of mirrored ones.
    """
    first, second = _pairs(len(one))
    scale = other[:, 2] - one[:, 2]
    a, b = one[:, 0] + 1j * one[:, 1], other[:, 0] + 1j * other[:, 1]
    base = np.abs(a[second] - a[first])
    zoom = np.log(np.maximum(np.abs(b[second] - b[first]), 1e-9) / np.maximum(base, 1e-9))
    fits = (
        (base >= MIN_BASE_PX)
        & (np.abs(scale[first] - zoom) < SCALE_TOLERANCE)
        & (np.abs(scale[second] - zoom) < SCALE_TOLERANCE)
    )
    if fits.sum() < MIN_SHARED * (MIN_SHARED - 1) // 2:  # among points of one similarity every two fit
        return False
    first, second, zoom = first[fits], second[fits], zoom[fits]
    same_scale = np.abs(scale - zoom[:, None]) < SCALE_TOLERANCE
    for positions in (a, a.conj()):
        turn = (b[second] - b[first]) / (positions[second] - positions[first])
        mapped = turn[:, None] * (positions - positions[first][:, None]) + b[first][:, None]
        near = np.abs(mapped - b) < POSITION_TOLERANCE_PX * np.minimum(1.0, np.abs(turn))[:, None]  # in both images
        if np.any(np.sum(near & same_scale, axis=1) >= MIN_SHARED):
            return True
    return False

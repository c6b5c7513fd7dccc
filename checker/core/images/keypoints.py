"""Find the keypoints of photos, and images that show parts of one photo.

Keypoints are blobs: extremes of the difference of Gaussians over position and scale (Lowe, IJCV 2004). Each is
described by numbers that do not change when an image is mirrored or turned: grey levels around it are sampled on rings
whose radii follow its scale, and of the Fourier transform along each ring only the mean and the magnitudes are used.
Two images show parts of one photo when enough of their keypoints have the same description *and* one similarity
transform (turn, zoom, shift, with or without mirror) maps their positions. Constants were chosen by measuring:
docs/dev/decisions/image-sanity.md.
"""

import math
from functools import lru_cache

import numpy as np
from PIL import Image

from ...arrays import Array, Bools, Float32s, Indices

EDGE_PX = 96  # the image is made as large as a square of this edge (never enlarged)
LONGEST_PX = 255  # of very long images; positions are stored as bytes
MIN_EDGE_PX = 16  # of the shorter edge; below it there are no keypoints
SIGMAS = 1.2 * 2 ** (np.arange(7) / 2)  # px; half an octave apart
REACH = 6.0  # of a blur, in sigmas; beyond it float32 has only denormal numbers, which are slow
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
_PAIRS = np.triu_indices(MOST_POINTS, 1)
_NEIGHBOURS = (
    (np.s_[1:], np.s_[:-1]),
    (np.s_[:, 1:], np.s_[:, :-1]),
    (np.s_[..., 1:], np.s_[..., :-1]),
)  # levels, rows, columns
_TURN = 2 * np.pi * np.arange(ANGLES) / ANGLES
_RING_X = (RINGS[:, None] * np.cos(_TURN)).ravel()
_RING_Y = (RINGS[:, None] * np.sin(_TURN)).ravel()


def find_keypoints(image: Image.Image) -> bytes:
    """Find the keypoints of a photo, strongest first, in rows of 3 + 20 bytes: column, row, scale level; description.

    image: Pillow, any mode. At most MOST_POINTS rows; none where the image is small, flat or smooth.
    """
    shrink = min(1.0, EDGE_PX / math.sqrt(image.width * image.height), LONGEST_PX / max(image.size))
    width = round(image.width * shrink)
    height = round(image.height * shrink)
    if min(width, height) < MIN_EDGE_PX:
        return b""
    grey = image if image.mode == "L" else image.convert("L")
    resized = grey.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    small = np.asarray(resized, dtype=np.float32)
    columns_blurred = _times(small.T[None], _blurs(height))
    blurred = _times(columns_blurred.transpose(0, 2, 1), _blurs(width))
    level, row, column = _strongest(blurred)
    descriptions = np.rint(127 * _describe_points(blurred, level, row, column)) + 128
    rows = np.column_stack([column, row, level, descriptions])
    return rows.astype(np.uint8).tobytes()


@lru_cache(maxsize=64)
def _blurs(n: int) -> Float32s:
    """Return the matrices of Gaussian blurs, (level, n, n).

    A row of n pixels times a matrix is the blurred row; weights are normalised at its ends too.
    """
    distances = np.subtract.outer(np.arange(n), np.arange(n))
    sigmas = distances / SIGMAS[:, None, None]
    weights = np.where(np.abs(sigmas) < REACH, np.exp(-(sigmas**2) / 2), 0)
    normalised = weights / weights.sum(axis=1, keepdims=True)
    return np.asarray(normalised, dtype=np.float32)


def _times(left: Float32s, right: Float32s) -> Float32s:
    """Return left @ right, computed in strips so small that no matrix library starts threads for them.

    Callers prepare images in parallel. A `right` that is not contiguous takes twice the time.
    """
    n_rows = max(1, SINGLE_THREAD // (right.shape[-2] * right.shape[-1]))
    strips = [left[:, start : start + n_rows] @ right for start in range(0, left.shape[1], n_rows)]
    return np.concatenate(strips, axis=1)


def _strongest(blurred: Float32s) -> tuple[Indices, Indices, Indices]:
    """Return the levels, rows and columns of the strongest local extremes of the contrast between levels."""
    contrast = blurred[1:] - blurred[:-1]
    np.abs(contrast, out=contrast)
    highest = contrast
    for later, earlier in _NEIGHBOURS:
        for _ in range(2):  # the highest of two neighbours, and of two such pairs
            highest = np.maximum(highest[later], highest[earlier])
    inner = contrast[1:-1, 1:-1, 1:-1]  # the others lack a neighbour
    is_extreme = (inner >= highest) & (inner > MIN_CONTRAST)
    at = np.unravel_index(np.flatnonzero(is_extreme), inner.shape)
    strength = inner[at]
    level, row, column = (index + 1 for index in at)
    height, width = blurred.shape[1:]
    to_edges = [row, height - 1 - row, column, width - 1 - column]
    margin = (MARGIN * SIGMAS[level]).astype(int)
    inside = np.flatnonzero(np.min(to_edges, axis=0) >= margin)
    strongest = np.argsort(-strength[inside], kind="stable")[:MOST_POINTS]
    order = inside[strongest]
    return level[order], row[order], column[order]


def _describe_points(blurred: Float32s, level: Indices, row: Indices, column: Indices) -> Array:
    """Describe each keypoint by a row of length 1, (keypoint, 20), whatever gain and offset of grey levels are."""
    sigma = SIGMAS[level, None]
    height, width = blurred.shape[1:]
    y, top = _between(row[:, None] + sigma * _RING_Y, height)
    x, left = _between(column[:, None] + sigma * _RING_X, width)
    flat = blurred.ravel()
    at = (level[:, None] * height + top) * width + left
    upper = (1 - x) * flat[at] + x * flat[at + 1]
    below = at + width
    lower = (1 - x) * flat[below] + x * flat[below + 1]
    samples = (1 - y) * upper + y * lower
    rings = samples.reshape(-1, len(RINGS), ANGLES)
    centred = rings - rings.mean(axis=(1, 2), keepdims=True)
    spectrum = np.fft.rfft(centred)[..., :HARMONICS]
    described = math.sqrt(2) * np.abs(spectrum)  # both signs of the frequency
    described[..., 0] = spectrum[..., 0].real
    described = described.reshape(-1, _SIZE)
    lengths = np.linalg.norm(described, axis=1, keepdims=True)
    return np.asarray(described / np.maximum(lengths, 1e-9))


def _between(position: Array, n: int) -> tuple[Array, Indices]:
    """Split positions, clipped to the image, into the fraction of the way to the next pixel and the pixel before."""
    position = np.clip(position, 0, n - 1)
    before = np.minimum(position.astype(np.intp), n - 2)
    return position - before, before


class KeypointGallery:
    """The keypoints of up to `capacity` images to compare others with."""

    def __init__(self, capacity: int) -> None:
        self._n = 0
        self._capacity = capacity
        self._descriptions = np.zeros((capacity, MOST_POINTS, _SIZE), np.float32)
        self._positions = np.zeros((capacity, MOST_POINTS, 3))

    def add(self, points: bytes) -> None:
        """Add the keypoints that `find_keypoints` returned. A full gallery ignores them."""
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
        mutual &= np.take_along_axis(likeness, nearest[..., None], axis=2)[..., 0] >= MIN_LIKENESS
        likely = np.flatnonzero(mutual.sum(axis=1) >= MIN_SHARED)
        return _share_a_similarity(self._positions[likely], positions[nearest[likely]], mutual[likely])


def _unpack(points: bytes) -> tuple[Array, Float32s]:
    """Unpack keypoints into positions (point, 3), column, row and ln sigma, and descriptions (point, 20).

    Of MOST_POINTS points, missing ones are zeros.
    """
    table = np.zeros((MOST_POINTS, 3 + _SIZE))
    table[:, 3:] = 128
    rows = np.frombuffer(points, np.uint8).reshape(-1, 3 + _SIZE)
    table[: len(rows)] = rows
    descriptions = (table[:, 3:] - 128) / 127
    positions = table[:, :3]
    positions[:, 2] = np.log(SIGMAS)[positions[:, 2].astype(int)]
    return positions, descriptions.astype(np.float32)


def _share_a_similarity(one: Array, other: Array, matched: Bools) -> bool:
    """Return whether one similarity transform maps MIN_SHARED matched points of an image to their partners.

    The arrays are (image, point, 3), (image, point, 3) and (image, point). Every two points and their partners give
    one: b = αa + β of complex positions, or of mirrored ones.
    """
    image, pair = np.nonzero(matched[:, _PAIRS[0]] & matched[:, _PAIRS[1]])
    first = image, _PAIRS[0][pair]
    second = image, _PAIRS[1][pair]
    scale = other[..., 2] - one[..., 2]
    a = one[..., 0] + 1j * one[..., 1]
    b = other[..., 0] + 1j * other[..., 1]
    base = np.abs(a[second] - a[first])
    base_there = np.abs(b[second] - b[first])
    zoom = np.log(np.maximum(base_there, 1e-9) / np.maximum(base, 1e-9))
    fits = base >= MIN_BASE_PX
    for end in (first, second):
        fits &= np.abs(scale[end] - zoom) < SCALE_TOLERANCE
    # among points of one similarity every two fit
    n_fitting = np.bincount(image[fits], minlength=len(one))
    fits &= (n_fitting >= MIN_SHARED * (MIN_SHARED - 1) // 2)[image]
    image = image[fits]
    zoom = zoom[fits, None]
    first = image, _PAIRS[0][pair[fits]]
    second = image, _PAIRS[1][pair[fits]]
    same_scale = matched[image] & (np.abs(scale[image] - zoom) < SCALE_TOLERANCE)
    for positions in (a, a.conj()):
        start = positions[first]
        turn = ((b[second] - b[first]) / (positions[second] - start))[:, None]
        mapped = turn * (positions[image] - start[:, None]) + b[first][:, None]
        tolerance = POSITION_TOLERANCE_PX * np.minimum(1.0, np.abs(turn))  # in both images
        is_near = np.abs(mapped - b[image]) < tolerance
        if np.any(np.sum(is_near & same_scale, axis=1) >= MIN_SHARED):
            return True
    return False

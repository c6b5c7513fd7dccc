"""Judge whether images are photos that differ enough.

Noise and synthetic textures make outlier features appear in models that have none on photos, and copies of one image
are one measurement. A few numbers of each image are stored (a Sketch); the judgement is about the set, never about one
image. How the limits were found: docs/dev/decisions/image-sanity.md.

Keypoints are blobs: extremes of the difference of Gaussians over position and scale (Lowe, IJCV 2004). Each is
described by numbers that do not change when an image is mirrored or turned: grey levels around it are sampled on rings
whose radii follow its scale, and of the Fourier transform along each ring only the mean and the magnitudes are used.
Two images show parts of one photo when enough of their keypoints have the same description *and* one similarity
transform (turn, zoom, shift, with or without mirror) maps their positions. Constants were chosen by measuring:
docs/dev/decisions/image-sanity.md.
"""

import hashlib
import heapq
import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...arrays import Array, Bools, Counts, Float32s, Indices
from ...text import frozen
from ..evidence import ImageFinding, ImageSetFacts

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
    """Find the keypoints of a photo, strongest first. A row has 3 + 20 bytes: column, row, level of scale; description.

    image: Pillow, any mode. At most MOST_POINTS rows; none where the image is small, flat or smooth.
    """
    shrink = min(1.0, EDGE_PX / math.sqrt(image.width * image.height), LONGEST_PX / max(image.size))
    width, height = round(image.width * shrink), round(image.height * shrink)
    if min(width, height) < MIN_EDGE_PX:
        return b""
    grey = image if image.mode == "L" else image.convert("L")
    small = np.asarray(grey.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0), dtype=np.float32)
    columns_blurred = _times(small.T[None], _blurs(height))
    blurred = _times(columns_blurred.transpose(0, 2, 1), _blurs(width))
    level, row, column = _strongest(blurred)
    descriptions = np.rint(127 * _describe_points(blurred, level, row, column)) + 128
    return np.column_stack([column, row, level, descriptions]).astype(np.uint8).tobytes()


@lru_cache(maxsize=64)
def _blurs(n: int) -> Float32s:
    """Return the matrices of Gaussian blurs, (level, n, n).

    A row of n pixels times a matrix is the blurred row; weights are normalised at its ends too.
    """
    sigmas = np.subtract.outer(np.arange(n), np.arange(n)) / SIGMAS[:, None, None]
    weights = np.where(np.abs(sigmas) < REACH, np.exp(-(sigmas**2) / 2), 0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def _times(left: Float32s, right: Float32s) -> Float32s:
    """Return left @ right, computed in small strips.

    No matrix library starts threads for them; callers prepare images in parallel. A `right` that is not contiguous
    takes twice the time.
    """
    strip = max(1, SINGLE_THREAD // (right.shape[-2] * right.shape[-1]))
    return np.concatenate([left[:, k : k + strip] @ right for k in range(0, left.shape[1], strip)], axis=1)


def _strongest(blurred: Float32s) -> tuple[Indices, Indices, Indices]:
    """Return the strongest local extremes of the contrast between levels. They come as levels, rows and columns."""
    contrast = blurred[1:] - blurred[:-1]
    np.abs(contrast, out=contrast)
    highest = contrast
    for later, earlier in _NEIGHBOURS:
        for _ in range(2):  # the highest of two neighbours, and of two such pairs
            highest = np.maximum(highest[later], highest[earlier])
    inner = contrast[1:-1, 1:-1, 1:-1]  # the others lack a neighbour
    at = np.unravel_index(np.flatnonzero((inner >= highest) & (inner > MIN_CONTRAST)), inner.shape)
    strength = inner[at]
    level, row, column = (index + 1 for index in at)
    height, width = blurred.shape[1:]
    border = np.minimum(np.minimum(row, height - 1 - row), np.minimum(column, width - 1 - column))
    inside = np.flatnonzero(border >= (MARGIN * SIGMAS[level]).astype(int))
    order = inside[np.argsort(-strength[inside], kind="stable")[:MOST_POINTS]]
    return level[order], row[order], column[order]


def _describe_points(blurred: Float32s, level: Indices, row: Indices, column: Indices) -> Array:
    """Describe each keypoint, (keypoint, 20). Rows have length 1; gain and offset of grey levels do not change them."""
    sigma = SIGMAS[level, None]
    height, width = blurred.shape[1:]
    y, top = _between(row[:, None] + sigma * _RING_Y, height)
    x, left = _between(column[:, None] + sigma * _RING_X, width)
    flat, at = blurred.ravel(), (level[:, None] * height + top) * width + left
    upper = (1 - x) * flat[at] + x * flat[at + 1]
    lower = (1 - x) * flat[at + width] + x * flat[at + width + 1]
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


def _share_a_similarity(one: Array, other: Array, matched: Bools) -> bool:
    """Return whether one similarity transform maps enough points of an image.

    It must map MIN_SHARED matched points to their partners: (image, point, 3), (image, point, 3), (image, point).

    Every two points and their partners give one: b = αa + β of complex positions, or of mirrored ones.
    """
    image, pair = np.nonzero(matched[:, _PAIRS[0]] & matched[:, _PAIRS[1]])
    first, second = (image, _PAIRS[0][pair]), (image, _PAIRS[1][pair])
    scale = other[..., 2] - one[..., 2]
    a, b = one[..., 0] + 1j * one[..., 1], other[..., 0] + 1j * other[..., 1]
    base = np.abs(a[second] - a[first])
    zoom = np.log(np.maximum(np.abs(b[second] - b[first]), 1e-9) / np.maximum(base, 1e-9))
    fits = (
        (base >= MIN_BASE_PX)
        & (np.abs(scale[first] - zoom) < SCALE_TOLERANCE)
        & (np.abs(scale[second] - zoom) < SCALE_TOLERANCE)
    )
    # among points of one similarity every two fit
    fits &= (np.bincount(image[fits], minlength=len(one)) >= MIN_SHARED * (MIN_SHARED - 1) // 2)[image]
    image, pair, zoom = image[fits], pair[fits], zoom[fits, None]
    first, second = (image, _PAIRS[0][pair]), (image, _PAIRS[1][pair])
    same_scale = matched[image] & (np.abs(scale[image] - zoom) < SCALE_TOLERANCE)
    for positions in (a, a.conj()):
        turn = ((b[second] - b[first]) / (positions[second] - positions[first]))[:, None]
        mapped = turn * (positions[image] - positions[first][:, None]) + b[first][:, None]
        near = np.abs(mapped - b[image]) < POSITION_TOLERANCE_PX * np.minimum(1.0, np.abs(turn))  # in both images
        if np.any(np.sum(near & same_scale, axis=1) >= MIN_SHARED):
            return True
    return False


WORK_PX = 128  # edge of the square that is measured: smaller than any model's input, enough for statistics
MIN_PX = 16  # shorter edge below which nothing is measured
BACKGROUND_LEVELS = 2  # grey levels around the commonest one: the plain background of product photos
MIN_PAIRS = 50  # neighbouring pixel pairs outside the background, below which nothing is measured
DESCRIBED = 256  # images of a set that are described, the first of its seeded order: a fair sample; describing
# one takes longer than decoding it, so the others only count as duplicates
CAPACITY = 4096  # images stored for comparing and medians: about 5 MB
GALLERY = 64  # varied images whose keypoints others are compared with, so that the work grows linearly
THUMBNAIL_PX = 8  # edge; 64 grey levels describe the layout of a photo

# Limits; the measured margins (photo sets | synthetic sets) are in docs/dev/decisions/image-sanity.md.
MIN_GREY_SD = 2.0  # grey levels of 255; below it an image is flat
MIN_NEIGHBOUR_CORRELATION = 0.4  # photos: median .80 or more | white noise .16
MIN_GRADIENT_KURTOSIS = 3.6  # photos: median 6.2 or more | noise and 1/f noise 3.0 or less
MIN_CHANNEL_CORRELATION = 0.4  # photos: median .70 or more | discs of random colour .29 or less
MAX_UNLIKE_SHARE = 0.4  # photo sets: .16 or less, wallpapers with abstract art .33 | synthetic .79 or more
MIN_KURTOSIS_SPREAD = 0.18  # photo sets: .30 or more | one texture generator .11 or less
MIN_FOR_SPREAD = 20  # images; from fewer the spread is too uncertain (relative error about 25 %)
MAX_STEP_DISTANCE = 28  # of 112 steps between neighbours of a thumbnail that go up in one image only
MIN_LAYOUT_CORRELATION = 0.93  # of two thumbnails, in any of 8 orientations; with the steps: 7 % of 579 stamps
MAX_DUPLICATE_SHARE = 0.05  # a stray copy does no harm; more is another set than it seems
MAX_NEAR_DUPLICATE_SHARE = 0.2  # photo sets: .06 or less | small crops of one photo .7 or more
MIN_VARIED_SHARE = 0.5  # photo sets: .93 or more | crops of one photo fall below as they get more

HASHED_PX = 2**17  # at once

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's mode L


@frozen
class Sketch:
    """The numbers of one image, under 1 KB. A number that could not be measured is None."""

    digest: int
    """64 bits of the decoded pixels and size"""
    thumbnail: bytes
    """8×8 grey levels, row by row"""
    keypoints: bytes
    """as `find_keypoints` gives them"""
    grey_sd: float
    """standard deviation of grey levels, 0–255"""
    neighbour_correlation: float | None
    gradient_kurtosis: float | None
    channel_correlation: float | None

    @property
    def is_unlike_photos(self) -> bool:
        """Return whether the image looks unlike a photo.

        It is flat, without structure between neighbours or without edges, or its colours do not move together.
        """
        return (
            self.grey_sd < MIN_GREY_SD
            or self.neighbour_correlation is None
            or self.neighbour_correlation < MIN_NEIGHBOUR_CORRELATION
            or (self.gradient_kurtosis or 0.0) < MIN_GRADIENT_KURTOSIS
            or (self.channel_correlation or 0.0) < MIN_CHANNEL_CORRELATION
        )


def digest_of_pixels(image: Image.Image) -> int:
    """Return 64 bits of the digest of decoded pixels. The image's size counts, too."""
    digest = hashlib.sha256(f"{image.size}".encode())  # processors have instructions for this one
    rows = max(1, HASHED_PX // image.width)
    for top in range(0, image.height, rows):  # a photo's bytes as one would be copied twice
        digest.update(image.crop((0, top, image.width, min(top + rows, image.height))).tobytes())
    return int.from_bytes(digest.digest()[:8], "big")


def describe(image: Image.Image) -> Sketch:
    """Measure one photo's central square. It is scaled to WORK_PX, never enlarged.

    neighbour correlation: Pearson, of grey levels one pixel apart, mean of both directions (white noise: about 0).
    gradient kurtosis: mean d⁴ / (mean d²)² of grey differences d between neighbours, both directions together
    (Gaussian noise of any spectrum: 3; photos have edges: 6 to 30).
    channel correlation: Pearson, of those differences between R, G and B, mean of the three pairs.
    All over pairs of which at least one pixel is not background (the commonest grey level ± BACKGROUND_LEVELS).
    image: Pillow, mode RGB. Degenerate: less than MIN_PX, or fewer than MIN_PAIRS pairs, or constant: None.
    """
    grey = image.convert("L")
    thumbnail = grey.resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)
    return Sketch(
        digest_of_pixels(image), thumbnail.tobytes(), find_keypoints(grey), *_statistics(_central_square(image))
    )


def _central_square(image: Image.Image) -> NDArray[np.uint8]:
    """Return the central square, (edge, edge, 3). edge is WORK_PX, or the shorter edge where that is smaller."""
    shorter = min(image.size)
    edge = min(WORK_PX, shorter)
    if shorter > edge:
        size = (max(edge, round(image.width * edge / shorter)), max(edge, round(image.height * edge / shorter)))
        image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    left, top = (image.width - edge) // 2, (image.height - edge) // 2
    return np.asarray(image.crop((left, top, left + edge, top + edge)))


def _statistics(rgb: NDArray[np.uint8]) -> tuple[float, float | None, float | None, float | None]:
    grey = rgb.astype(np.float64) @ _LUMA
    spread = float(grey.std())
    if len(grey) < MIN_PX:
        return spread, None, None, None
    levels = np.rint(grey).astype(int)
    common = int(np.bincount(levels.ravel(), minlength=256).argmax())
    object_pixels = np.abs(levels - common) > BACKGROUND_LEVELS
    across = np.zeros_like(object_pixels)  # a pixel or its right neighbour
    np.logical_or(object_pixels[:, 1:], object_pixels[:, :-1], out=across[:, :-1])
    pairs = np.flatnonzero(across), np.flatnonzero(object_pixels[1:] | object_pixels[:-1])  # faster than a mask
    if min(map(len, pairs)) < MIN_PAIRS:
        return spread, None, None, None
    flat, to_neighbour = grey.ravel(), (1, len(grey))
    neighbours = [(flat[at + step], flat[at]) for at, step in zip(pairs, to_neighbour, strict=True)]
    squares = np.concatenate([one - other for one, other in neighbours]) ** 2
    power = float(np.mean(squares))
    kurtosis = float(np.mean(squares**2)) / power**2 if power > 0 else None
    planes = np.ascontiguousarray(rgb.reshape(-1, 3).T, dtype=np.int16)
    differences = [
        (planes[:, step:] - planes[:, :-step]).take(at, axis=1) for at, step in zip(pairs, to_neighbour, strict=True)
    ]
    channels = _correlation(*np.concatenate(differences, axis=1, dtype=np.float64))
    return spread, _mean_or_none(*(_correlation(*pair) for pair in neighbours)), kurtosis, channels


def _correlation(*values: Array) -> float | None:
    """Return the mean Pearson correlation of all pairs. Pairs with a constant have none."""
    centred = [one - one.mean() for one in values]
    variances = [float(np.mean(one * one)) for one in centred]
    correlations = []
    for a, b in combinations(range(len(values)), 2):
        size = math.sqrt(variances[a] * variances[b])
        if size > 1e-9:  # grey levels²; below it is rounding only
            correlations.append(float(np.mean(centred[a] * centred[b])) / size)
    return _mean_or_none(*correlations)


def _mean_or_none(*values: float | None) -> float | None:
    """Return the mean without None values. A constant colour channel has None."""
    numbers = [value for value in values if value is not None]
    return math.fsum(numbers) / len(numbers) if numbers else None


class ImageSetState:
    """The sketches of an image set. States merge, and the same images in any order and split give the same facts.

    Of more than CAPACITY different images only those with the smallest digests are stored, each with the number of
    times it was seen; so memory does not grow.
    """

    def __init__(self, sketches: Iterable[Sketch | int] = (), *, capacity: int = CAPACITY) -> None:
        self.n_images = 0
        self._times: _Smallest[int] = _Smallest(capacity)
        self._sketches: _Smallest[Sketch] = _Smallest(capacity)
        for sketch in sketches:
            self.add(sketch)

    def add(self, sketch: Sketch | int) -> None:
        """Count one image. It is described, or given by its digest alone (`digest_of_pixels`)."""
        digest = sketch if isinstance(sketch, int) else sketch.digest
        self._times.put(digest, self._times.by_digest.get(digest, 0) + 1)
        if not isinstance(sketch, int):
            self._sketches.put(digest, sketch)
        self.n_images += 1

    def merge(self, other: Self) -> None:
        """Add another state's images. Both must have the same capacity."""
        for digest, times in other._times.by_digest.items():
            self._times.put(digest, self._times.by_digest.get(digest, 0) + times)
        for digest, sketch in other._sketches.by_digest.items():
            self._sketches.put(digest, sketch)
        self.n_images += other.n_images

    def facts(self) -> ImageSetFacts:
        """Judge the images so far. Without images it gives zeros and no finding."""
        sketches = [self._sketches.by_digest[digest] for digest in sorted(self._sketches.by_digest)]
        n_compared = sum(self._times.by_digest.values())
        n_distinct = len(self._times.by_digest)
        n_varied = len(varied(sketches))  # by digest, so that the count does not depend on how the images came
        kurtosis = [s.gradient_kurtosis for s in sketches if s.gradient_kurtosis]
        measured = {
            "n_images": self.n_images,
            "n_compared": n_compared,
            "n_duplicates": n_compared - n_distinct,
            "n_near_duplicates": len(sketches) - n_varied,
            "n_varied": n_varied,
            "unlike_share": sum(s.is_unlike_photos for s in sketches) / len(sketches) if sketches else 0.0,
            "neighbour_correlation": _median([s.neighbour_correlation for s in sketches]),
            "gradient_kurtosis": _median(list(kurtosis)),
            "channel_correlation": _median([s.channel_correlation for s in sketches]),
            "kurtosis_spread": _spread(np.log(kurtosis)) if kurtosis else None,
        }
        facts = ImageSetFacts.model_validate({**measured, "findings": ()})
        return facts.model_copy(update={"findings": _findings(facts)})


Value = TypeVar("Value")


class _Smallest(Generic[Value]):
    """A dict that stores the smallest digests only. They are a uniform sample, the same in any order."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self.by_digest: dict[int, Value] = {}
        self._largest: list[int] = []  # heap of negated digests

    def put(self, digest: int, value: Value) -> None:
        if digest not in self.by_digest:
            if len(self.by_digest) >= self._capacity:
                if digest > -self._largest[0]:
                    return
                del self.by_digest[-heapq.heappop(self._largest)]
            heapq.heappush(self._largest, -digest)
        self.by_digest[digest] = value


def varied(sketches: Sequence[Sketch], limit: int | None = None) -> list[int]:
    """Find the images that differ from earlier ones.

    A duplicate or near-duplicate of one found before it, in the order given, is left out.

    Near-duplicates: nearly the same layout in any of the 8 orientations, or parts of one photo (of the first GALLERY
    found). What comes later changes nothing about what is found before it.

    Args:
        sketches: of the images.
        limit: ends at so many; None = all.

    Returns:
        Their places, rising.
    """
    return list(_varied_cached(tuple(sketches), limit))


@lru_cache(maxsize=4)
def _varied_cached(sketches: tuple[Sketch, ...], limit: int | None) -> tuple[int, ...]:
    """Cache `varied`. A run that stops early asks again for images that it has already compared."""
    if not sketches:
        return ()
    thumbnails = np.array([list(s.thumbnail) for s in sketches], dtype=np.int64)
    layouts, steps, flat = _orientations(thumbnails.reshape(-1, THUMBNAIL_PX, THUMBNAIL_PX))
    gallery = Gallery(GALLERY)
    places = np.zeros(len(sketches), dtype=np.int64)
    n_varied = 0
    for index, sketch in enumerate(sketches):
        if n_varied == limit:
            break
        before = places[:n_varied]
        differing = np.bitwise_count(steps[before, :1] ^ steps[index])
        other, orientation = np.nonzero(differing[..., 0] + differing[..., 1] <= MAX_STEP_DISTANCE)  # few
        other = before[other]
        alike = np.sum(layouts[other, 0] * layouts[index, orientation], axis=1) >= MIN_LAYOUT_CORRELATION
        if np.any(alike | (flat[other] & flat[index])) or gallery.has_part_of(sketch.keypoints):
            continue
        places[n_varied] = index
        n_varied += 1
        gallery.add(sketch.keypoints)
    return tuple(int(place) for place in places[:n_varied])


def _orientations(thumbnails: Counts) -> tuple[Array, NDArray[np.uint64], Bools]:
    """Return a layout in its 8 orientations. It is (image, 8, 8) grey levels; the first is the image as it is.

    Returns (image, orientation, 64) layouts of mean 0 and length 1; (image, orientation, 2) steps, 112 bits that say
    whether a pixel is brighter than its left or upper neighbour; (image,) whether the thumbnail is flat.
    """
    turned = [np.rot90(flip, k, axes=(1, 2)) for flip in (thumbnails, thumbnails[:, :, ::-1]) for k in range(4)]
    squares = np.stack(turned, axis=1)
    n = len(squares)
    across, down = (np.diff(squares, axis=axis).reshape(n, 8, -1) > 0 for axis in (3, 2))
    bits = np.zeros((n, 8, 128), dtype=np.bool_)
    bits[..., : 2 * across.shape[2]] = np.concatenate([across, down], axis=2)
    layouts = squares.reshape(n, 8, -1).astype(np.float64)
    layouts -= layouts.mean(axis=2, keepdims=True)
    sizes = np.sqrt((layouts**2).sum(axis=2, keepdims=True))
    layouts /= np.maximum(sizes, 1.0)  # grey levels
    return layouts, np.packbits(bits, axis=2).view(np.uint64), sizes[:, 0, 0] < 1.0


def _median(values: list[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return float(np.median(numbers)) if numbers else None


def _spread(values: Array) -> float:
    """Return the interquartile range / 1.349. It is the standard deviation of a normal distribution."""
    low, high = np.quantile(values, [0.25, 0.75])
    return float((high - low) / 1.349)


def _findings(facts: ImageSetFacts) -> tuple[ImageFinding, ...]:
    n_described = facts.n_near_duplicates + facts.n_varied
    findings: list[ImageFinding] = []
    if facts.n_duplicates > MAX_DUPLICATE_SHARE * facts.n_compared:
        seen = f"{facts.n_duplicates} of {facts.n_compared} images repeat another one pixel for pixel"
        findings.append(ImageFinding(id="duplicate_images", seen=seen))
    if facts.n_near_duplicates > MAX_NEAR_DUPLICATE_SHARE * n_described:
        seen = (
            f"{facts.n_near_duplicates} of {n_described} different images show the same photo as another one, or parts "
            "of it, maybe mirrored or turned"
        )
        findings.append(ImageFinding(id="near_duplicate_images", seen=seen))
    n_distinct = facts.n_compared - facts.n_duplicates
    if facts.n_varied * n_distinct < MIN_VARIED_SHARE * n_described * facts.n_compared:
        n_seen = round(n_described * facts.n_compared / n_distinct)  # the described ones, with their repetitions
        seen = f"only {facts.n_varied} of {n_seen} images differ clearly from the others"
        findings.append(ImageFinding(id="images_not_varied", seen=seen))
    if facts.unlike_share > MAX_UNLIKE_SHARE:
        seen = f"{100 * facts.unlike_share:.0f} % of the images are flat, noise or unrelated colours, unlike photos"
        findings.append(ImageFinding(id="images_not_photo_like", seen=seen))
    elif (
        facts.kurtosis_spread is not None
        and n_described >= MIN_FOR_SPREAD
        and facts.kurtosis_spread < MIN_KURTOSIS_SPREAD
    ):
        seen = (
            f"edges are equally strong in all images, as in one texture (spread of ln gradient kurtosis "
            f"{facts.kurtosis_spread:.2f}; photos: at least {MIN_KURTOSIS_SPREAD})"
        )
        findings.append(ImageFinding(id="images_not_photo_like", seen=seen))
    return tuple(findings)

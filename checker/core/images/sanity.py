"""Judge whether images are photos that differ enough.

Noise and synthetic textures make outlier features appear in models that have none on photos, and copies of one image
are one measurement. A few numbers of each image are stored (a Sketch); the judgement is about the set, never about one
image. How the limits were found: docs/dev/decisions/image-sanity.md.
"""

import hashlib
import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...arrays import Array, Bools, Counts
from ...text import frozen
from ..evidence import ImageFinding, ImageSetFacts
from .keypoints import KeypointGallery, find_keypoints

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
        """Return whether the image is flat, has no structure or edges, or colours that do not move together."""
        return (
            self.grey_sd < MIN_GREY_SD
            or (self.neighbour_correlation or 0.0) < MIN_NEIGHBOUR_CORRELATION
            or (self.gradient_kurtosis or 0.0) < MIN_GRADIENT_KURTOSIS
            or (self.channel_correlation or 0.0) < MIN_CHANNEL_CORRELATION
        )


def digest_of_pixels(image: Image.Image) -> int:
    """Return 64 bits of the digest of an image's size and decoded pixels."""
    digest = hashlib.sha256(f"{image.size}".encode())  # processors have instructions for this one
    rows = max(1, HASHED_PX // image.width)
    for top in range(0, image.height, rows):  # a photo's bytes as one would be copied twice
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        digest.update(strip.tobytes())
    return int.from_bytes(digest.digest()[:8], "big")


def describe(image: Image.Image) -> Sketch:
    """Measure one photo's central square, scaled to WORK_PX but never enlarged.

    neighbour correlation: Pearson, of grey levels one pixel apart, mean of both directions (white noise: about 0).
    gradient kurtosis: mean d⁴ / (mean d²)² of grey differences d between neighbours, both directions together
    (Gaussian noise of any spectrum: 3; photos have edges: 6 to 30).
    channel correlation: Pearson, of those differences between R, G and B, mean of the three pairs.
    All over pairs of which at least one pixel is not background (the commonest grey level ± BACKGROUND_LEVELS).
    image: Pillow, mode RGB. Degenerate: less than MIN_PX, or fewer than MIN_PAIRS pairs, or constant: None.
    """
    grey = image.convert("L")
    thumbnail = grey.resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)
    statistics = _statistics(_central_square(image))
    return Sketch(digest_of_pixels(image), thumbnail.tobytes(), find_keypoints(grey), *statistics)


def _central_square(image: Image.Image) -> NDArray[np.uint8]:
    """Return the central square, (edge, edge, 3), of WORK_PX or of the shorter edge where that is smaller."""
    shorter = min(image.size)
    edge = min(WORK_PX, shorter)
    if shorter > edge:
        width = max(edge, round(image.width * edge / shorter))
        height = max(edge, round(image.height * edge / shorter))
        image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    left = (image.width - edge) // 2
    top = (image.height - edge) // 2
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
    down = object_pixels[1:] | object_pixels[:-1]
    flat = grey.ravel()
    planes = np.ascontiguousarray(rgb.reshape(-1, 3).T, dtype=np.int16)
    correlations = []
    grey_differences = []
    differences = []
    for is_pair, step in ((across, 1), (down, len(grey))):
        at = np.flatnonzero(is_pair)  # faster than a mask
        if len(at) < MIN_PAIRS:
            return spread, None, None, None
        one = flat[at + step]
        other = flat[at]
        correlations.append(_correlation(one, other))
        grey_differences.append(one - other)
        plane_differences = planes[:, step:] - planes[:, :-step]
        differences.append(plane_differences.take(at, axis=1))
    squares = np.concatenate(grey_differences) ** 2
    power = float(np.mean(squares))
    kurtosis = float(np.mean(squares**2)) / power**2 if power > 0 else None
    channels = _correlation(*np.concatenate(differences, axis=1, dtype=np.float64))
    return spread, _mean_or_none(*correlations), kurtosis, channels


def _correlation(*values: Array) -> float | None:
    """Return the mean Pearson correlation of all pairs but those with a constant."""
    centred = [one - one.mean() for one in values]
    variances = [float(np.mean(one * one)) for one in centred]
    correlations = []
    for a, b in combinations(range(len(values)), 2):
        size = math.sqrt(variances[a] * variances[b])
        if size > 1e-9:  # grey levels²; below it is rounding only
            correlations.append(float(np.mean(centred[a] * centred[b])) / size)
    return _mean_or_none(*correlations)


def _mean_or_none(*values: float | None) -> float | None:
    """Return the mean without None values, such as a constant colour channel has."""
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
        """Count one image, by its description or by its digest alone (`digest_of_pixels`)."""
        if isinstance(sketch, int):
            digest = sketch
        else:
            digest = sketch.digest
            self._sketches.put(digest, sketch)
        self._times.put(digest, self._times.by_digest.get(digest, 0) + 1)
        self.n_images += 1

    def merge(self, other: Self) -> None:
        """Add another state's images. Both must have the same capacity."""
        for digest, times in other._times.by_digest.items():
            self._times.put(digest, self._times.by_digest.get(digest, 0) + times)
        for digest, sketch in other._sketches.by_digest.items():
            self._sketches.put(digest, sketch)
        self.n_images += other.n_images

    def facts(self) -> ImageSetFacts:
        """Judge the images so far: zeros and no finding without images."""
        sketches = [self._sketches.by_digest[digest] for digest in sorted(self._sketches.by_digest)]
        n_compared = sum(self._times.by_digest.values())
        n_distinct = len(self._times.by_digest)
        n_varied = len(varied(sketches))  # by digest, so that the count does not depend on how the images came
        kurtosis = [s.gradient_kurtosis for s in sketches if s.gradient_kurtosis]
        measured: dict[str, object] = {
            "n_images": self.n_images,
            "n_compared": n_compared,
            "n_duplicates": n_compared - n_distinct,
            "n_near_duplicates": len(sketches) - n_varied,
            "n_varied": n_varied,
            "unlike_share": sum(s.is_unlike_photos for s in sketches) / len(sketches) if sketches else 0.0,
            "neighbour_correlation": _median([s.neighbour_correlation for s in sketches]),
            "gradient_kurtosis": _median(kurtosis),
            "channel_correlation": _median([s.channel_correlation for s in sketches]),
            "kurtosis_spread": _spread(np.log(kurtosis)) if kurtosis else None,
            "findings": (),
        }
        facts = ImageSetFacts.model_validate(measured)
        return facts.model_copy(update={"findings": tuple(_findings(facts))})


Value = TypeVar("Value")


class _Smallest(Generic[Value]):
    """A dict that stores the smallest digests only, a uniform sample that is the same in any order."""

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
    """Find the images that neither repeat nor nearly repeat one found before them, in the order given.

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
    """Cache `varied`, since a run that stops early asks again for images that it has already compared."""
    if not sketches:
        return ()
    thumbnails = np.array([list(s.thumbnail) for s in sketches], dtype=np.int64)
    layouts, steps, flat = _orientations(thumbnails.reshape(-1, THUMBNAIL_PX, THUMBNAIL_PX))
    gallery = KeypointGallery(GALLERY)
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
    """Describe thumbnails, (image, 8, 8) grey levels, in their 8 orientations; the first is the image as it is.

    Returns (image, orientation, 64) layouts of mean 0 and length 1; (image, orientation, 2) steps, 112 bits that say
    whether a pixel is brighter than its left or upper neighbour; (image,) whether the thumbnail is flat.
    """
    turned = []
    for flip in (thumbnails, thumbnails[:, :, ::-1]):
        turned += [np.rot90(flip, k, axes=(1, 2)) for k in range(4)]
    squares = np.stack(turned, axis=1)
    n = len(squares)
    bits = np.zeros((n, 8, 128), dtype=np.bool_)
    n_steps = THUMBNAIL_PX * (THUMBNAIL_PX - 1)
    bits[..., :n_steps] = np.diff(squares, axis=3).reshape(n, 8, -1) > 0
    bits[..., n_steps : 2 * n_steps] = np.diff(squares, axis=2).reshape(n, 8, -1) > 0
    layouts = squares.reshape(n, 8, -1).astype(np.float64)
    layouts -= layouts.mean(axis=2, keepdims=True)
    sizes = np.sqrt((layouts**2).sum(axis=2, keepdims=True))
    layouts /= np.maximum(sizes, 1.0)  # grey levels
    return layouts, np.packbits(bits, axis=2).view(np.uint64), sizes[:, 0, 0] < 1.0


def _median(values: Iterable[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return float(np.median(numbers)) if numbers else None


def _spread(values: Array) -> float:
    """Return the interquartile range / 1.349, the standard deviation of a normal distribution."""
    low, high = np.quantile(values, [0.25, 0.75])
    return float((high - low) / 1.349)


def _findings(facts: ImageSetFacts) -> Iterator[ImageFinding]:
    n_described = facts.n_near_duplicates + facts.n_varied
    if facts.n_duplicates > MAX_DUPLICATE_SHARE * facts.n_compared:
        seen = f"{facts.n_duplicates} of {facts.n_compared} images repeat another one pixel for pixel"
        yield ImageFinding(id="duplicate_images", seen=seen)
    if facts.n_near_duplicates > MAX_NEAR_DUPLICATE_SHARE * n_described:
        seen = (
            f"{facts.n_near_duplicates} of {n_described} different images show the same photo as another one, or parts "
            "of it, maybe mirrored or turned"
        )
        yield ImageFinding(id="near_duplicate_images", seen=seen)
    n_distinct = facts.n_compared - facts.n_duplicates
    if facts.n_varied * n_distinct < MIN_VARIED_SHARE * n_described * facts.n_compared:
        n_seen = round(n_described * facts.n_compared / n_distinct)  # the described ones, with their repetitions
        seen = f"only {facts.n_varied} of {n_seen} images differ clearly from the others"
        yield ImageFinding(id="images_not_varied", seen=seen)
    if facts.unlike_share > MAX_UNLIKE_SHARE:
        seen = f"{100 * facts.unlike_share:.0f} % of the images are flat, noise or unrelated colours, unlike photos"
        yield ImageFinding(id="images_not_photo_like", seen=seen)
    elif n_described < MIN_FOR_SPREAD or facts.kurtosis_spread is None:
        return
    elif facts.kurtosis_spread < MIN_KURTOSIS_SPREAD:
        seen = (
            f"edges are equally strong in all images, as in one texture (spread of ln gradient kurtosis "
            f"{facts.kurtosis_spread:.2f}; photos: at least {MIN_KURTOSIS_SPREAD})"
        )
        yield ImageFinding(id="images_not_photo_like", seen=seen)

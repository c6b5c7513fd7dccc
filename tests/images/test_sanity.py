"""Image-set sanity: photos stay unflagged, synthetic and repeated images do not; counts merge exactly."""

import io
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import default_rng
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from robustcheck_onnx.checker.images import sanity
from robustcheck_onnx.checker.images.sanity import (
    GALLERY,
    MIN_KURTOSIS_SPREAD,
    ImageSetState,
    Sketch,
    describe,
    digest_of_pixels,
    varied,
)
from support.skimage_data import photo

PHOTOS = ["astronaut.png", "camera.png", "chelsea.png", "coffee.png", "rocket.jpg", "hubble_deep_field.jpg"]
PHOTOS += ["motorcycle_left.png", "retina.jpg", "coins.png"]
Generator = np.random.Generator


def tiles() -> list[Image.Image]:
    """Different parts of real photos: the nearest to a varied set of photos that every installation has."""
    parts = []
    for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png"):
        whole = photo(name)
        width, height = whole.width // 3, whole.height // 2
        for x in range(3):
            parts += [whole.crop((x * width, y * height, (x + 1) * width, (y + 1) * height)) for y in range(2)]
    return parts


def image(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).convert("RGB")


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def noise(random: Generator, *channels: int) -> Image.Image:
    return image(random.integers(0, 256, (160, 160, *channels)))


def pink_noise(random: Generator) -> Image.Image:
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(160), np.fft.fftfreq(160)))
    frequency[0, 0] = 1
    values = np.fft.ifft2(np.fft.fft2(random.normal(size=(160, 160))) / frequency).real
    return image(128 + 45 * values / values.std())


def dead_leaves(random: Generator, grey: bool = False, texture: float = 0.0) -> Image.Image:
    canvas = np.zeros((128, 128, 3))
    rows, columns = np.ogrid[:128, :128]
    for _ in range(300):
        radius = 4 / np.sqrt(1 - random.random() * (1 - (4 / 40) ** 2))  # density of radii: r⁻³, 4 to 40 px
        y, x = random.uniform(0, 128, 2)
        inside = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
        colour = random.uniform(0, 255, 1 if grey else 3)
        canvas[inside] = colour + texture * random.normal(size=(int(inside.sum()), 1))
    return image(canvas)


def checkerboard(random: Generator) -> Image.Image:
    edge = int(random.integers(4, 20))
    board = np.add.outer(np.arange(160) // edge, np.arange(160) // edge) % 2
    return image(random.integers(0, 256, (2, 3))[board])


def findings(pictures: list[Image.Image]) -> list[str]:
    return [finding.id for finding in ImageSetState(describe(p) for p in pictures).facts().findings]


def test_photos_are_not_flagged_and_half_noise_is() -> None:
    assert findings([photo(name) for name in PHOTOS]) == []
    parts = tiles()
    facts = ImageSetState(map(describe, parts)).facts()
    assert (facts.findings, facts.n_images, facts.n_duplicates) == ((), 30, 0)
    assert facts.n_varied >= 27
    assert (facts.kurtosis_spread or 0) > 2 * MIN_KURTOSIS_SPREAD
    random = default_rng(0)
    assert "images_not_photo_like" in findings(parts + [noise(random, 3) for _ in parts])


def on_white(picture: Image.Image) -> Image.Image:
    """A product photo: the object fills a part of a white square."""
    canvas = Image.new("RGB", (400, 400), "white")
    picture.thumbnail((220, 220))
    canvas.paste(picture, (90, 90))
    return canvas


@pytest.mark.parametrize("change", [partial(jpeg, quality=30), on_white, lambda p: p.convert("L").convert("RGB")])
def test_changed_photos_are_still_photos(change: Callable[[Image.Image], Image.Image]) -> None:
    assert "images_not_photo_like" not in findings([change(part) for part in tiles()])


SYNTHETIC: dict[str, Callable[[Generator], Image.Image]] = {
    "white noise": lambda r: noise(r, 3),
    "grey noise": noise,
    "1/f": pink_noise,
    "leaves": dead_leaves,
    "grey leaves": partial(dead_leaves, grey=True),
    "textured leaves": partial(dead_leaves, texture=15.0),
    "grey textured leaves": partial(dead_leaves, grey=True, texture=15.0),
    "JPEG grey leaves": lambda r: jpeg(dead_leaves(r, grey=True), 60),
    "checkerboard": checkerboard,
}


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[pytest.mark.long] * ("JPEG" in kind or "textured" in kind)) for kind in SYNTHETIC],
)
def test_synthetic_images_are_not_photo_like(kind: str) -> None:
    random = default_rng(11)
    assert "images_not_photo_like" in findings([SYNTHETIC[kind](random) for _ in range(30)])


def test_constant_and_tiny_images_are_not_photos_and_no_image_gives_zeros() -> None:
    flat = [Image.new("RGB", (160, 160), (level, 90, 9 * level)) for level in range(25)]
    facts = ImageSetState(map(describe, flat)).facts()
    assert (facts.n_varied, facts.unlike_share, facts.neighbour_correlation) == (1, 1.0, None)
    assert {f.id for f in facts.findings} >= {"images_not_varied", "images_not_photo_like"}
    sketch = describe(photo("coffee.png").resize((15, 15)))
    assert (sketch.neighbour_correlation, sketch.is_unlike_photos) == (None, True)
    facts = ImageSetState().facts()
    assert (facts.n_images, facts.n_varied, facts.unlike_share, facts.findings) == (0, 0, 0.0, ())
    assert facts.gradient_kurtosis is None


def test_one_image_many_times() -> None:
    facts = ImageSetState([describe(photo("coffee.png"))] * 60).facts()
    assert (facts.n_images, facts.n_compared, facts.n_duplicates, facts.n_varied) == (60, 60, 59, 1)
    assert {f.id: f.seen for f in facts.findings} == {
        "duplicate_images": "59 of 60 images repeat another one pixel for pixel",
        "images_not_varied": "only 1 of 60 images differ clearly from the others",
    }


def wide_parts(wholes: list[Image.Image], n: int, random: Generator) -> list[Image.Image]:
    """Crops that keep 60 to 100 % of each edge, mirrored and turned at random."""
    parts = []
    for whole in (wholes * n)[:n]:
        share = random.uniform(0.6, 1, 2)
        start = random.uniform(0, 1 - share)
        left, top, right, bottom = np.multiply([*start, *start + share], whole.size * 2)
        part = whole.crop((left, top, right, bottom)).rotate(90 * int(random.integers(4)), expand=True)
        parts.append(ImageOps.mirror(part) if random.random() < 0.5 else part)
    return parts


@pytest.mark.parametrize("names", [["coffee.png"], pytest.param(PHOTOS[:5:2], marks=pytest.mark.long)])
def test_wide_parts_of_few_photos_are_not_varied(names: list[str]) -> None:
    parts = wide_parts([photo(name) for name in names], 64, default_rng(5))
    facts = ImageSetState(map(describe, parts)).facts()
    assert facts.n_duplicates == 0
    assert len(names) <= facts.n_varied <= 20  # measured: 16 or fewer; a check needs 50
    assert [f.id for f in facts.findings][:2] == ["near_duplicate_images", "images_not_varied"]


def test_the_orientations_and_brightnesses_of_a_photo_are_one_image() -> None:
    for name in ("astronaut.png", "moon.png"):
        turned = [photo(name).transpose(turn) for turn in Image.Transpose]
        lit = [ImageEnhance.Brightness(photo(name)).enhance(gain) for gain in (0.6, 1, 1.3)]
        smooth = [picture.filter(ImageFilter.GaussianBlur(40)) for picture in turned]
        for shown in (lit + turned, smooth):
            assert ImageSetState(map(describe, shown)).facts().n_varied == 1
        assert max(len(describe(picture).keypoints) for picture in smooth) < 6 * 23  # too few: the layout alone


def test_counting_is_linear_in_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    monkeypatch.setattr(sanity.Gallery, "has_part_of", lambda gallery, _: compared.append(gallery._n))
    facts = ImageSetState(sketch_of(i) for i in range(200)).facts()
    assert facts.n_varied > GALLERY
    assert (max(compared), len(compared)) == (GALLERY, facts.n_varied)


def test_statistics_agree_with_scipy() -> None:
    part = photo("chelsea.png").crop((100, 50, 228, 178))  # 128 px: measured as it is
    rgb = np.asarray(part, dtype=np.float64)
    grey = rgb @ [0.299, 0.587, 0.114]
    sketch = describe(part)
    assert sketch.grey_sd == pytest.approx(grey.std(), rel=1e-12)
    levels = np.rint(grey).astype(int)
    away = np.abs(levels - scipy.stats.mode(levels, axis=None).mode) > 2
    correlations, steps, colours = [], [], []
    for values, planes, kept in ((grey, rgb, away), (grey.T, rgb.swapaxes(0, 1), away.T)):
        pairs = kept[1:] | kept[:-1]
        correlations.append(scipy.stats.pearsonr(values[1:][pairs], values[:-1][pairs]).statistic)
        steps.append(np.diff(values, axis=0)[pairs])
        colours.append(np.diff(planes, axis=0)[pairs])
    assert sketch.neighbour_correlation == pytest.approx(np.mean(correlations), rel=1e-9)
    # of both signs, so that SciPy's central moments are the raw ones
    rising = np.concatenate(steps)
    kurtosis = scipy.stats.kurtosis(np.append(rising, -rising), fisher=False)
    assert sketch.gradient_kurtosis == pytest.approx(kurtosis, rel=1e-9)
    three = np.corrcoef(np.concatenate(colours), rowvar=False)[np.triu_indices(3, 1)]
    assert np.ptp(three) > 0.01  # a mean of two pairs is another number
    assert sketch.channel_correlation == pytest.approx(three.mean(), rel=1e-9)


def sketch_of(digest: int) -> Sketch:
    layout = bytes((digest * k) % 251 for k in range(64))
    return Sketch(digest, layout, b"", 50.0, 0.9, 5.0 + digest % 7, 0.9)


digests = st.lists(st.integers(0, 40), max_size=60)


@given(digests, digests, digests, st.sampled_from([5, 4096]))
def test_merging_is_the_same_as_seeing_all(a: list[int], b: list[int], c: list[int], capacity: int) -> None:
    def state(numbers: list[int]) -> ImageSetState:
        return ImageSetState(map(sketch_of, numbers), capacity=capacity)

    whole = state((a + b + c)[::-1]).facts()
    for first, *others in ((a, b, c), (c, b, a)):
        merged = state(first)
        for other in others:
            merged.merge(state(other))
        assert merged.facts() == whole


def test_images_beyond_the_described_ones_count_as_duplicates_only() -> None:
    photos = [describe(tile) for tile in tiles()]
    facts = ImageSetState([*photos, *(sketch.digest for sketch in photos), 1, 2]).facts()
    assert [finding.id for finding in facts.findings] == ["duplicate_images"]
    counts = {"n_images": 62, "n_compared": 62, "n_duplicates": 30, "findings": facts.findings}
    assert facts == ImageSetState(photos).facts().model_copy(update=counts)
    assert digest_of_pixels(tiles()[0]) == photos[0].digest


def test_varied_images_are_found_in_the_order_given_and_what_comes_later_changes_nothing() -> None:
    parts = tiles()
    # a copy, a mirrored one and a turned one, each right behind the image it is of
    shown = [parts[0], parts[0], *parts[1:4], ImageOps.mirror(parts[3])]
    sketches = list(map(describe, [*shown, *parts[4:8], parts[5].transpose(Image.Transpose.ROTATE_90)]))
    found = [0, 2, 3, 4, 6, 7, 8, 9]
    for end in range(len(sketches) + 1):
        assert varied(sketches[:end]) == [place for place in found if place < end]
    assert varied(sketches, 3) == [0, 2, 3]
    assert varied(sketches[::-1]) == [0, 1, 2, 4, 5, 7, 8, 9]  # backwards the turned one comes first
    assert ImageSetState(sketches).facts().n_varied == 8


def test_capacity_keeps_exact_counts_of_a_fixed_sample() -> None:
    state = ImageSetState((sketch_of(i) for i in list(range(100)) * 3), capacity=10)
    facts = state.facts()
    assert (facts.n_images, facts.n_compared, facts.n_duplicates) == (300, 30, 20)

"""Image-set sanity: photos stay unflagged, also the bundled ones, synthetic and repeated images do not; counts merge
exactly; parts of one photo are recognised by their keypoints; no images give a PASS to what has none on photos.
"""

import hashlib
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import default_rng
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from robustcheck_onnx import check
from robustcheck_onnx.checker.core.images import keypoints, sanity
from robustcheck_onnx.checker.core.images.keypoints import SIGMAS, KeypointGallery, find_keypoints
from robustcheck_onnx.checker.core.images.sanity import ImageSetState, describe, varied
from robustcheck_onnx.checker.core.images.source import DecodedImage
from robustcheck_onnx.checker.outside.image_sets.open import BUNDLED, open_images
from robustcheck_onnx.checker.report.check import Report
from support import PHOTOS, Patch, Place, levels, lookup, read_text
from support.skimage_data import photo

NAMES = ["astronaut.png", "camera.png", "chelsea.png", "coffee.png", "rocket.jpg", "hubble_deep_field.jpg"]
NAMES += ["motorcycle_left.png", "retina.jpg", "coins.png"]
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
    assert findings([photo(name) for name in NAMES]) == []
    parts = tiles()
    facts = ImageSetState(map(describe, parts)).facts()
    assert (facts.findings, facts.n_images, facts.n_duplicates) == ((), 30, 0)
    assert facts.n_varied >= 27
    assert (facts.kurtosis_spread or 0) > 2 * sanity.MIN_KURTOSIS_SPREAD
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


KINDS = [pytest.param(kind, marks=[pytest.mark.long] * ("JPEG" in kind or "textured" in kind)) for kind in SYNTHETIC]


@pytest.mark.parametrize("kind", KINDS)
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
    seen = {f.id: f.seen for f in facts.findings}
    assert seen.pop("duplicate_images") == "59 of 60 images repeat another one pixel for pixel"
    assert seen == {"images_not_varied": "only 1 of 60 images differ clearly from the others"}


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


@pytest.mark.parametrize("names", [["coffee.png"], pytest.param(NAMES[:5:2], marks=pytest.mark.long)])
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


def test_counting_is_linear_in_the_images(monkeypatch: Patch) -> None:
    compared = []
    monkeypatch.setattr(keypoints.KeypointGallery, "has_part_of", lambda gallery, _: compared.append(gallery._n))
    facts = ImageSetState(sketch_of(i) for i in range(200)).facts()
    assert facts.n_varied > sanity.GALLERY
    assert (max(compared), len(compared)) == (sanity.GALLERY, facts.n_varied)


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


def sketch_of(digest: int) -> sanity.Sketch:
    layout = bytes((digest * k) % 251 for k in range(64))
    return sanity.Sketch(digest, layout, b"", 50.0, 0.9, 5.0 + digest % 7, 0.9)


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


def test_the_digest_is_of_the_size_and_all_pixels() -> None:
    large = photo("astronaut.png")
    digest = hashlib.sha256(b"(512, 512)" + large.tobytes()).digest()
    assert sanity.digest_of_pixels(large) == int.from_bytes(digest[:8], "big")


def test_images_beyond_the_described_ones_count_as_duplicates_only() -> None:
    photos = [describe(tile) for tile in tiles()]
    facts = ImageSetState([*photos, *(sketch.digest for sketch in photos), 1, 2]).facts()
    assert [finding.id for finding in facts.findings] == ["duplicate_images"]
    counts = {"n_images": 62, "n_compared": 62, "n_duplicates": 30, "findings": facts.findings}
    assert facts == ImageSetState(photos).facts().model_copy(update=counts)
    assert sanity.digest_of_pixels(tiles()[0]) == photos[0].digest


def test_varied_images_are_found_in_the_order_given_and_what_comes_later_changes_nothing() -> None:
    parts = tiles()
    # a copy, a mirrored one and a turned one, each right behind the image it is of
    shown = [parts[0], parts[0], *parts[1:4], ImageOps.mirror(parts[3])]
    sketches = list(map(describe, [*shown, *parts[4:8], parts[5].transpose(Image.Transpose.ROTATE_90)]))
    found = [0, 2, 3, 4, 6, 7, 8, 9]
    for end in range(len(sketches) + 1):
        assert varied(sketches[:end]) == [place for place in found if place < end]
    assert (varied(sketches, 3), ImageSetState(sketches).facts().n_varied) == ([0, 2, 3], 8)
    assert varied(sketches[::-1]) == [0, 1, 2, 4, 5, 7, 8, 9]  # backwards the turned one comes first


def test_capacity_keeps_exact_counts_of_a_fixed_sample() -> None:
    state = ImageSetState((sketch_of(i) for i in list(range(100)) * 3), capacity=10)
    facts = state.facts()
    assert (facts.n_images, facts.n_compared, facts.n_duplicates) == (300, 30, 20)


def rows_of(points: bytes) -> np.ndarray:
    return np.frombuffer(points, np.uint8).reshape(-1, 23).astype(int)


def is_known(points: bytes, *kept: bytes) -> bool:
    gallery = KeypointGallery(len(kept))
    for other in kept:
        gallery.add(other)
    return gallery.has_part_of(points)


def test_a_blob_is_found_where_and_as_large_as_it_is() -> None:
    # Gaussians G(s) blurred by G(σ): the difference to the next level, σ√2, peaks where s² = σ·σ√2 (in two dimensions)
    rows, columns = np.mgrid[:96, :96]
    for level in (1, 2, 3, 4):
        size = SIGMAS[level] * 2**0.25
        blob = 200 * np.exp(-((rows - 40) ** 2 + (columns - 55) ** 2) / (2 * size**2))
        first = rows_of(find_keypoints(Image.fromarray(blob.astype(np.uint8))))[0]
        assert tuple(first[:3]) == (55, 40, level)


def test_mirroring_and_turning_moves_points_and_changes_no_description() -> None:
    square = photo("astronaut.png").crop((100, 0, 356, 256)).resize((96, 96))
    plain = rows_of(find_keypoints(square))
    places = np.zeros((96, 96), np.uint8)
    places[plain[:, 1], plain[:, 0]] = 1
    for turn in list(Image.Transpose):
        turned = rows_of(find_keypoints(square.transpose(turn)))
        moved = np.argwhere(np.asarray(Image.fromarray(places).transpose(turn)))
        assert {*map(tuple, turned[:, 1::-1].tolist())} == {*map(tuple, moved.tolist())}
        by_strength = np.abs(plain[:, 3:] - turned[:, 3:]).max(axis=1)  # both lists begin with the strongest
        assert np.mean(by_strength <= 2) > 0.9  # two of 255: rounding


@pytest.mark.long
def test_parts_are_known() -> None:
    known = []
    for path in PHOTOS[::4]:
        whole = Image.open(path)
        points = find_keypoints(whole)
        for part in ((0.0, 0.0, 0.7, 0.7), (0.2, 0.1, 0.9, 0.9), (0.1, 0.3, 0.8, 1.0)):
            left, top, right, bottom = np.multiply(part, whole.size * 2)
            crop = whole.crop((left, top, right, bottom))
            versions = [crop, *(crop.transpose(turn) for turn in [*Image.Transpose][::2])]  # mirrored, turned, both
            versions += [ImageEnhance.Brightness(crop).enhance(0.6), crop.reduce(2)]
            versions.append(crop.rotate(17, Image.Resampling.BICUBIC))
            known.append([is_known(find_keypoints(version), points) for version in versions])
    *shares, tilted = np.mean(known, axis=0)
    assert min(shares) > 0.8  # measured: 0.84 or more
    assert tilted > 0.5  # measured: 0.64


@pytest.mark.long
def test_no_photo_is_taken_for_a_part_of_another() -> None:
    found = [find_keypoints(Image.open(path)) for path in PHOTOS]
    for index, points in enumerate(found):
        assert not is_known(points, b"", *found[:index]), PHOTOS[index].name


def test_halves_of_a_photo_are_not_parts_of_each_other() -> None:
    for path in PHOTOS[::6]:
        whole = Image.open(path)
        width, height = whole.size
        left, right = (whole.crop((at, 0, at + width // 2, height)) for at in (0, width // 2))
        # the Brandenburg Gate's right half is its left half, mirrored
        is_gate = path.name == "building-brandenburg-gate.jpg"
        assert is_known(find_keypoints(left), find_keypoints(right)) == is_gate, path.name


def test_a_similarity_is_needed() -> None:
    rng = np.random.default_rng(0)
    z, sizes = rng.uniform(0, 96, (12, 2)) @ [1, 1j], np.log(rng.choice(SIGMAS, 12))

    def is_shared(places: np.ndarray, at: np.ndarray, n: int = 12) -> bool:
        one, other = np.zeros((2, 1, keypoints.MOST_POINTS, 3))
        one[0, :12], other[0, :12] = (np.column_stack([p.real, p.imag, s]) for p, s in ((z, sizes), (places, at)))
        return keypoints._share_a_similarity(one, other, np.arange(keypoints.MOST_POINTS)[None] < n)

    for zoom, turn, mirror in ((1.0, 0.0, False), (0.6, 1.0, False), (1.7, 2.5, True)):
        mapped = zoom * np.exp(1j * turn) * (z.conj() if mirror else z) + (5 - 3j)
        zoomed = sizes + np.log(zoom)
        assert is_shared(mapped, zoomed)
        assert not is_shared(mapped, zoomed, 5)  # too few
        assert not is_shared(mapped + 2 * mapped.real, zoomed)  # stretched
        assert not is_shared(mapped, zoomed + 1.0)
    assert not is_shared(rng.uniform(0, 96, (12, 2)) @ [1, 1j], sizes)


def test_images_without_keypoints_are_like_nothing() -> None:
    coffee = photo("coffee.png")
    ramp = Image.fromarray(np.tile(np.arange(200, dtype=np.uint8), (200, 1)))
    for image in (Image.new("RGB", (200, 100), "red"), ramp, coffee.resize((15, 40))):
        assert find_keypoints(image) == b""
    assert not is_known(b"", b"")
    assert not KeypointGallery(3).has_part_of(find_keypoints(coffee))
    assert len(find_keypoints(coffee.filter(ImageFilter.GaussianBlur(60)))) < len(find_keypoints(coffee))
    for size in ((3000, 40), (40, 3000), (97, 31), (16, 16)):
        points = rows_of(find_keypoints(coffee.resize(size)))
        assert len(points) <= 32
        assert {*points[:, 2]} <= {1, 2, 3, 4}
    points = rows_of(find_keypoints(coffee.resize((97, 31))))  # too small to be shrunk
    near = np.minimum(points[:, :2], [96, 30] - points[:, :2]).min(axis=1)  # px to the border
    assert np.all(near >= (2 * SIGMAS[points[:, 2]]).astype(int))


TABLE = read_text(BUNDLED / "ATTRIBUTION.md")
ROWS = [[cell.strip() for cell in line.strip("|\n ").split(" | ")] for line in TABLE.splitlines() if ".jpg | " in line]


def test_every_photo_is_attributed_once_under_an_open_licence() -> None:
    assert sorted(row[0] for row in ROWS) == sorted(path.name for path in PHOTOS)
    assert len({row[4] for row in ROWS}) == len(ROWS)  # as many originals as photos
    for row in ROWS:
        assert all(row), row
        assert row[2] in {"public domain", "CC0-1.0"}, row
    assert f"{len(ROWS)} photos from {len(ROWS)} different originals" in TABLE
    assert "creativecommons.org/publicdomain/zero/1.0/" in TABLE


def test_photos_are_small_and_without_metadata() -> None:
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) < 3_500_000
    for path in PHOTOS:
        with Image.open(path) as image:
            assert min(image.size) <= 256, path.name
            assert not image.getexif(), path.name
            assert "icc_profile" not in image.info, path.name


def test_the_bundled_set_is_varied_and_photo_like() -> None:
    source = open_images(None)
    assert (source.kind, len(source)) == ("bundled", len(ROWS))
    items = list(source.items())
    assert [item for item in items if not isinstance(item, DecodedImage) or item.notes] == []
    facts = ImageSetState(describe(item.image) for item in items if isinstance(item, DecodedImage)).facts()
    assert facts.findings == ()
    assert facts.n_varied == facts.n_images >= 64


TRAPS: dict[str, tuple[Callable[[int], Image.Image], int, str]] = {
    "noise": (lambda i: Image.fromarray(levels(256, 256, 3, seed=i)), 64, "images_not_photo_like"),
    "twenty photos": (lambda i: Image.open(PHOTOS[i]), 20, "too_few_images"),
    "black images": (lambda _: Image.new("RGB", (256, 256)), 64, "images_not_photo_like"),
}


@pytest.fixture(scope="module")
def looks_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that passes, whichever of its rows the pixels of an image choose."""
    contract = lookup.lookup_contract()
    contract["preprocessing"]["resize_mode"] = "squash"
    path = tmp_path_factory.mktemp("traps") / "model.onnx"
    return lookup.write_lookup_model(path, lookup.passing_rows(3000), contract=contract)


def report_on(model: Path, trap: str) -> Report:
    make, n, reason = TRAPS[trap]
    folder = Path(trap)
    folder.mkdir()
    for i in range(n):
        make(i).save(folder / f"{i:03}.png")
    report = check(model, images=folder)
    assert report.verdict.verdict == "WARN"
    assert reason in reasons_of(report)
    return report


def reasons_of(report: Report) -> set[str]:
    return {each.id for each in report.verdict.reasons}


@pytest.mark.parametrize("trap", TRAPS)
def test_a_model_that_passes_warns_on_bad_images(trap: str, looks_up: Path) -> None:
    report = report_on(looks_up, trap)
    assert trap != "black images" or "representations_alike" in reasons_of(report)


def test_it_passes_on_photos(looks_up: Path) -> None:
    assert check(looks_up).verdict.verdict == "PASS"


def test_a_model_that_passes_on_photos_does_not_on_parts_of_one(lookup_pass: Place) -> None:
    lookup.write_lookup_images(Path(), 80, photos=[PHOTOS[3]])
    report = check(lookup_pass[0], images=".")
    assert report.verdict.verdict == "WARN"
    assert {"too_few_images", "near_duplicate_images"} <= reasons_of(report)


@pytest.mark.long
def test_the_planted_network_passes_on_photos_and_warns_on_bad_images(planted_outlier: Path) -> None:
    assert check(planted_outlier).verdict.verdict == "PASS"
    for trap in TRAPS:
        report_on(planted_outlier, trap)


@pytest.mark.long
def test_faked_outlier_features_of_a_supervised_network_are_seen_through(efficientnet_lite0: Path) -> None:
    report = report_on(efficientnet_lite0, "noise")
    assert "one_sided" in reasons_of(report)
    assert report.evidence.statistics.persistent  # the fake is there: noise makes constant large features
    assert not check(efficientnet_lite0).evidence.statistics.persistent

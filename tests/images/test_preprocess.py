"""Decoding: the right pixels, or a named reason; our pixels against the source libraries' own transforms."""

import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from pydantic import ValidationError

from robustcheck_onnx.checker.core.images import preprocess
from robustcheck_onnx.checker.core.images.preprocess import LevelSums, apply, apply_uint8, at_size, decode, level_sums
from robustcheck_onnx.checker.core.preprocessing import CLIP, IMAGENET, Preprocessing
from robustcheck_onnx.checker.errors import CannotAssessError
from support import but, levels, normal, raised
from support.skimage_data import DATA, photo, photos, worst
from support.torch_models import open_clip, torchvision

WHITE = (255, 255, 255)


def encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def rocket(width: int, height: int) -> Image.Image:
    return photo("rocket.jpg").resize((width, height), Image.Resampling.LANCZOS)


WIDE = np.linspace(0, 65535, 16 * 16).reshape(16, 16).astype(np.uint16)


def test_a_plain_photo_has_no_notes_and_pillows_pixels() -> None:
    image, notes = decode((DATA / "rocket.jpg").read_bytes(), "rocket.jpg")
    assert (image.mode, notes) == ("RGB", ())
    assert_array_equal(np.asarray(image), np.asarray(photo("rocket.jpg")))


def test_sixteen_bits_are_rescaled_not_clipped_and_in_colour_keep_their_high_byte() -> None:
    for stored, image_format in ((WIDE, "PNG"), (WIDE.astype(">u2"), "TIFF")):
        image, notes = decode(encoded(Image.fromarray(stored), image_format), f"x.{image_format}")
        assert_array_equal(np.asarray(image)[..., 1], np.round(WIDE / 257).astype(np.uint8))
        assert notes == (preprocess.SIXTEEN_BIT, preprocess.GREY)
    wide = np.repeat(WIDE[..., None], 3, axis=2)
    image, _ = decode(rgb_png(16, 16, b"".join(b"\0" + row.tobytes() for row in wide.astype(">u2"))), "x.png")
    assert_array_equal(np.asarray(image), wide >> 8)


def test_pixels_without_a_known_white_level_are_refused() -> None:
    for mode in ["I", "F"]:
        data = encoded(Image.new(mode, (16, 16), 1000), "TIFF")
        said = rf"mode {mode} \(32 bit\), whose white level is unknown"
        raised(preprocess.UnreadableImageError, said, decode, data, "x.tif")


FLAT = Image.new("RGB", (4, 4), (10, 200, 30)).quantize(4)


def test_transparency_lies_on_white_and_every_mode_becomes_rgb() -> None:
    for stored, transparency, expected, notes in (
        (
            Image.new("RGBA", (4, 4), (200, 0, 100, 51)),
            None,
            (244, 204, 224),
            (preprocess.ALPHA,),
        ),  # 0.2 · colour + 0.8 · 255
        (Image.new("RGBA", (4, 4), (200, 0, 100, 255)), None, (200, 0, 100), ()),
        (Image.new("LA", (4, 4)), None, WHITE, (preprocess.ALPHA, preprocess.GREY)),
        (Image.new("RGB", (4, 4), (1, 2, 3)), (1, 2, 3), WHITE, (preprocess.ALPHA,)),
        (FLAT, None, (10, 200, 30), (preprocess.PALETTE,)),
        (FLAT, FLAT.getpixel((0, 0)), WHITE, (preprocess.ALPHA, preprocess.PALETTE)),
        (Image.new("1", (4, 4), 1), None, WHITE, (preprocess.GREY,)),
    ):
        image, found = decode(encoded(stored, "PNG", transparency=transparency), "x.png")
        assert (image.mode, image.getpixel((0, 0)), found) == ("RGB", expected, notes)


def test_cmyk_is_not_inverted_and_the_content_decides_not_the_suffix() -> None:
    data = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95)
    for name, more in (("x.jpg", ()), ("x", ()), ("x.PNG", (preprocess.MISNAMED,))):  # no suffix promises nothing
        image, notes = decode(data, name)
        assert_allclose(np.asarray(image), np.broadcast_to([255, 0, 0], (8, 8, 3)), atol=5)
        assert notes == (preprocess.CMYK, *more)


def test_first_frame_of_an_animation() -> None:
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ((250, 0, 0), (0, 250, 0)))
    for image_format in ("GIF", "WEBP", "PNG"):
        data = encoded(first, image_format, save_all=True, append_images=[second], lossless=True)
        image, notes = decode(data, "x")
        assert image.getpixel((3, 3)) == (250, 0, 0)
        assert preprocess.ANIMATED in notes


def test_every_exif_orientation_is_applied() -> None:
    """CIPA DC-008, tag 0x0112: on which sides the first stored row and column lie."""
    stored = levels(8, 16, 3)
    across = stored.transpose(1, 0, 2)
    shown = [  # 1 to 9, which is not defined
        stored, stored[:, ::-1], stored[::-1, ::-1], stored[::-1],  # top left, top right, bottom right, bottom left
        across, across[:, ::-1], across[::-1, ::-1], across[::-1],  # left top, right top, right bottom, left bottom
        stored,
    ]  # fmt: skip
    for orientation, expected in enumerate(shown, 1):
        image, notes = decode(encoded(Image.fromarray(stored), "PNG", exif=turned(orientation)), "x.png")
        assert_array_equal(np.asarray(image), expected, err_msg=str(orientation))
        assert notes == ((preprocess.EXIF,) if 2 <= orientation <= 8 else ())


def test_a_large_jpeg_is_decoded_smaller_while_its_shorter_edge_keeps_enough() -> None:
    large = rocket(2000, 1333)
    data = encoded(large, "JPEG", quality=90, exif=turned(6))
    whole, half, quarter, eighth = (1333, 2000), (667, 1000), (334, 500), (167, 250)  # upright, as EXIF asks
    sizes = {1333: whole, 667: whole, 666: half, 334: half, 333: quarter, 166: eighth, 1: eighth}
    for keep, size in sizes.items():
        image, notes = decode(data, "x.jpg", keep)
        assert (image.size, preprocess.SMALLER in notes) == (size, size != whole)
    assert decode(encoded(large, "PNG"), "x.png", 1)[0].size == (2000, 1333)
    raised(preprocess.UnreadableImageError, "truncated", decode, data[: len(data) // 2], "x.jpg", 333)


def test_five_times_the_resized_edge_is_enough_for_the_same_pixels() -> None:
    noisy = np.clip(np.asarray(rocket(1920, 1280)) + normal(1280, 1920, 3) * 6, 0, 255).astype(np.uint8)
    data = encoded(Image.fromarray(noisy), "JPEG", quality=90)
    preprocessing = CLIP.model_copy(update={"resize_size": (128, 128), "size": (112, 112)})
    assert preprocess.least_edge(preprocessing) == 640
    assert preprocess.least_edge(preprocessing.model_copy(update={"resize_mode": "none", "crop": "center"})) > 10**9
    ours, exact = (apply_uint8(preprocessing, decode(data, "x.jpg", keep)[0]) for keep in (640, 1280))
    difference = np.abs(ours.astype(int) - exact)
    assert 0 < difference.max() <= 2
    assert (difference > 1).mean() < 0.01


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def rgb_png(edge: int, bits: int, pixels: bytes) -> bytes:
    """With `pixels` that are too few: a few bytes that promise edge × edge pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", edge, edge, bits, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def test_unusable_files_have_a_reason_and_no_warning() -> None:
    for data, reason in (
        (b"", "empty file"),
        (b"hello, this is text\n", "not an image that Pillow can decode"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not an image that Pillow can decode"),
        ((DATA / "rocket.jpg").read_bytes()[:5000], "damaged: image file is truncated"),
        (rgb_png(20_000, 8, bytes(1000)), "more than 89,478,485 pixels"),
        (rgb_png(10_000, 8, bytes(1000)), "more than 89,478,485 pixels"),
        (encoded(Image.new("RGB", (1000, 10)), "PNG"), "1000×10 px, edges more than 64:1"),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            raised(preprocess.UnreadableImageError, reason, decode, data, "x.png")


def by_pillow(mode: str, image: Image.Image) -> np.ndarray:
    """CLIP's 224 px by Pillow, step by step: resize, then cut or fill round the centre."""
    if mode == "squash":
        return np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC), np.float32)
    width, height = image.size
    ratio = (min if mode == "shortest" else max)(width, height) / 224
    cut = int if mode == "shortest" else round
    resized = image.resize((cut(width / ratio), cut(height / ratio)), Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (224, 224))
    left, top = ((224 - edge) // 2 if edge < 224 else -round((edge - 224) / 2) for edge in resized.size)
    canvas.paste(resized, (left, top))
    return np.asarray(canvas, np.float32)


def test_pixels_by_pillow() -> None:
    """What the libraries below do, without them."""
    mean, std = np.array(CLIP.mean, np.float32), np.array(CLIP.std, np.float32)
    for mode in ("shortest", "squash", "longest"):
        ours = but(CLIP, resize_mode=mode, crop="none" if mode == "squash" else "center")
        assert worst(ours, lambda image: ((by_pillow(mode, image) / 255 - mean) / std).transpose(2, 0, 1)) < 1e-3  # noqa: B023


@pytest.mark.long
def test_presets_are_the_libraries_transforms() -> None:
    clips, weights = open_clip.transform, torchvision.models
    swin = but(IMAGENET, resize_size=(232, 232), interpolation="bicubic")
    for ours, theirs in (
        (CLIP, clips.image_transform_v2(clips.PreprocessCfg(), is_train=False)),
        (IMAGENET, weights.ResNet18_Weights.IMAGENET1K_V1.transforms()),
        (swin, weights.Swin_T_Weights.IMAGENET1K_V1.transforms()),
    ):
        assert worst(ours, theirs) < 1e-3


def test_sizes_that_are_refused() -> None:
    plain = but(CLIP, resize_mode="none", crop="none")
    for fields, image, said in (
        (plain, photos()[0], r"size is 451×300 px; .* must be 224×224 px"),
        # a strip that would fill the memory
        (CLIP, Image.new("RGB", (60000, 10)), "size is 60000×10 px; resized it would have 301,056,000 pixels"),
    ):
        raised(CannotAssessError, said, apply, fields, image)


def test_sizes_by_hand() -> None:
    # (height, width); timm's and open_clip's ResizeKeepRatio: round(edge / ratio), and at least a pixel
    for mode, size, image, expected in (
        ("longest", (224, 224), (300, 451), (149, 224)),  # 451 / 224 = 2.0134
        ("longest", (224, 192), (300, 451), (128, 192)),  # 451 / 192 = 2.3490
        ("longest", (10, 10), (1, 640), (1, 10)),
        ("longest", (10, 10), (640, 1), (10, 1)),
        ("shortest", (224, 192), (300, 451), (224, 337)),  # 300 / 224 = 1.3393
        ("shortest", (224, 192), (451, 300), (289, 192)),  # 300 / 192 = 1.5625
        ("shortest", (224, 224), (300, 451), (224, 336)),  # one edge: cut to whole pixels, 336.7
        ("squash", (224, 192), (300, 451), (224, 192)),
        ("none", (224, 192), (300, 451), (300, 451)),
    ):
        assert preprocess.resized_size(but(CLIP, resize_mode=mode, resize_size=size), *image) == expected


def test_a_scale_that_is_too_large_is_told_without_a_word_of_numpys() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert preprocess.scales_finitely(CLIP)
        for change in ({"rescale": 3e38}, {"std": (1e-45, 1.0, 1.0)}, {"rescale": 3e38, "mean": (3e38, 3e38, 3e38)}):
            assert not preprocess.scales_finitely(CLIP.model_copy(update=change))


def test_at_size_keeps_the_crop_fraction() -> None:
    assert at_size(IMAGENET, (384, 384)).resize_size == (438, 438)  # timm: floor(384 / 0.875)
    assert at_size(CLIP, (336, 336)).resize_size == (336, 336)
    assert at_size(IMAGENET, (224, 224)) == IMAGENET
    assert preprocess.resized_size(at_size(CLIP, (336, 336)), 300, 451) == (336, 505)


def test_impossible_values_are_refused() -> None:
    for field, value in (("size", (224, 100_000)), ("fill", (0, 0, 256)), ("rescale", 0.0), ("crop", "none")):
        said = "crop none needs" if field == "crop" else field
        raised(ValidationError, said, Preprocessing, **{**CLIP.model_dump(), field: value})


def test_as_photo_is_the_inverse_after_the_crop() -> None:
    for record in [CLIP, IMAGENET, but(CLIP, color_order="BGR")]:
        photo = Image.fromarray(levels(300, 260, 3))
        rgb = but(record, color_order="RGB")
        assert_array_equal(np.asarray(preprocess.as_photo(record, apply(record, photo))), apply_uint8(rgb, photo))


def test_bgr_reverses_channels_and_keeps_mean_in_rgb() -> None:
    bgr = but(CLIP, color_order="BGR")
    for make in (apply, apply_uint8):
        assert_array_equal(make(bgr, photos()[0]), make(CLIP, photos()[0])[..., ::-1])


def assert_numpys(found: LevelSums, *images: np.ndarray) -> None:
    values = np.concatenate([pixels.reshape(-1, pixels.shape[-1]) for pixels in images]).astype(np.float64)
    assert_allclose(found.sums, values.sum(axis=0), rtol=1e-12)
    assert_allclose(found.squares, (values**2).sum(axis=0), rtol=1e-12)
    assert found.mean == pytest.approx(values.mean(axis=0))
    assert found.sd == pytest.approx(values.std(axis=0), abs=1e-5)


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]))))
def test_mean_and_sd_are_numpys(pixels: np.ndarray) -> None:
    assert_numpys(level_sums(pixels), pixels)


def test_images_add_up_in_any_order() -> None:
    photos = [levels(edge, 8, 3) for edge in (4, 8, 16)]
    one, two, three = map(level_sums, photos)
    assert one + (two + three) == (three + one) + two
    assert LevelSums() + one == one + LevelSums() == one
    assert_numpys(one + two + three, *photos)
    assert (LevelSums().mean, LevelSums().sd) == ((), ())
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        _ = one + level_sums(photos[0][..., :1])


def test_no_sum_overflows_and_floats_are_summed_up_as_they_are() -> None:
    found = level_sums(np.full((600, 600, 3), 255, np.uint8))
    assert found == LevelSums(360_000, (91_800_000,) * 3, (23_409_000_000,) * 3)
    assert (found.mean, found.sd) == ((255.0,) * 3, (0.0,) * 3)
    values = (normal(20, 30, 3) * 5 - 2).astype(np.float32)
    assert_numpys(level_sums(values), values)
    assert not np.isfinite(level_sums(np.full((2, 2, 3), 1e200)).squares).any()

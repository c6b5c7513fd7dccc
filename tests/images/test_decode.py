"""Decoding: the right pixels, or a named reason; every handled case leaves a note."""

import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from robustcheck_onnx.checker.evidence import CLIP
from robustcheck_onnx.checker.images.preprocess import (
    ALPHA,
    ANIMATED,
    CMYK,
    EXIF,
    GREY,
    MISNAMED,
    PALETTE,
    SIXTEEN_BIT,
    SMALLER,
    UnreadableImageError,
    apply_uint8,
    decode,
    least_edge,
)
from support import levels, normal, raised
from support.skimage_data import DATA, photo

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
        assert notes == (SIXTEEN_BIT, GREY)
    wide = np.repeat(WIDE[..., None], 3, axis=2)
    image, _ = decode(rgb_png(16, 16, b"".join(b"\0" + row.tobytes() for row in wide.astype(">u2"))), "x.png")
    assert_array_equal(np.asarray(image), wide >> 8)


def test_pixels_without_a_known_white_level_are_refused() -> None:
    for mode in ["I", "F"]:
        data = encoded(Image.new(mode, (16, 16), 1000), "TIFF")
        raised(UnreadableImageError, rf"mode {mode} \(32 bit\), whose white level is unknown", decode, data, "x.tif")


FLAT = Image.new("RGB", (4, 4), (10, 200, 30)).quantize(4)


def test_transparency_lies_on_white_and_every_mode_becomes_rgb() -> None:
    for stored, transparency, expected, notes in (
        (Image.new("RGBA", (4, 4), (200, 0, 100, 51)), None, (244, 204, 224), (ALPHA,)),  # 0.2 · colour + 0.8 · 255
        (Image.new("RGBA", (4, 4), (200, 0, 100, 255)), None, (200, 0, 100), ()),
        (Image.new("LA", (4, 4)), None, WHITE, (ALPHA, GREY)),
        (Image.new("RGB", (4, 4), (1, 2, 3)), (1, 2, 3), WHITE, (ALPHA,)),
        (FLAT, None, (10, 200, 30), (PALETTE,)),
        (FLAT, FLAT.getpixel((0, 0)), WHITE, (ALPHA, PALETTE)),
        (Image.new("1", (4, 4), 1), None, WHITE, (GREY,)),
    ):
        image, found = decode(encoded(stored, "PNG", transparency=transparency), "x.png")
        assert (image.mode, image.getpixel((0, 0)), found) == ("RGB", expected, notes)


def test_cmyk_is_not_inverted_and_the_content_decides_not_the_suffix() -> None:
    data = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95)
    for name, more in (("x.jpg", ()), ("x", ()), ("x.PNG", (MISNAMED,))):  # no suffix promises nothing
        image, notes = decode(data, name)
        assert_allclose(np.asarray(image), np.broadcast_to([255, 0, 0], (8, 8, 3)), atol=5)
        assert notes == (CMYK, *more)


def test_first_frame_of_an_animation() -> None:
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ((250, 0, 0), (0, 250, 0)))
    for image_format in ("GIF", "WEBP", "PNG"):
        data = encoded(first, image_format, save_all=True, append_images=[second], lossless=True)
        image, notes = decode(data, "x")
        assert image.getpixel((3, 3)) == (250, 0, 0)
        assert ANIMATED in notes


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
        assert notes == ((EXIF,) if 2 <= orientation <= 8 else ())


def test_a_large_jpeg_is_decoded_smaller_while_its_shorter_edge_keeps_enough() -> None:
    large = rocket(2000, 1333)
    data = encoded(large, "JPEG", quality=90, exif=turned(6))
    whole, half, quarter, eighth = (1333, 2000), (667, 1000), (334, 500), (167, 250)  # upright, as EXIF asks
    sizes = {1333: whole, 667: whole, 666: half, 334: half, 333: quarter, 166: eighth, 1: eighth}
    for keep, size in sizes.items():
        image, notes = decode(data, "x.jpg", keep)
        assert (image.size, SMALLER in notes) == (size, size != whole)
    assert decode(encoded(large, "PNG"), "x.png", 1)[0].size == (2000, 1333)
    raised(UnreadableImageError, "truncated", decode, data[: len(data) // 2], "x.jpg", 333)


def test_five_times_the_resized_edge_is_enough_for_the_same_pixels() -> None:
    noisy = np.clip(np.asarray(rocket(1920, 1280)) + normal(1280, 1920, 3) * 6, 0, 255).astype(np.uint8)
    data = encoded(Image.fromarray(noisy), "JPEG", quality=90)
    preprocessing = CLIP.model_copy(update={"resize_size": (128, 128), "size": (112, 112)})
    assert least_edge(preprocessing) == 640
    assert least_edge(preprocessing.model_copy(update={"resize_mode": "none", "crop": "center"})) > 10**9
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
            raised(UnreadableImageError, reason, decode, data, "x.png")

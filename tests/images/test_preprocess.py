"""Our pixels against the source libraries' own transforms, on real photos."""

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.evidence import CLIP, IMAGENET, Preprocessing
from robustcheck_onnx.checker.images.preprocess import (
    LevelSums,
    apply,
    apply_uint8,
    as_photo,
    at_size,
    level_sums,
    resized_size,
    scales_finitely,
)
from support import but, levels, normal, raised
from support.skimage_data import photos, worst


def by_pillow(mode: str, image: Image.Image) -> NDArray[np.float32]:
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
    pytest.importorskip("open_clip", reason="needs the export extra")
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from torchvision.models import ResNet18_Weights, Swin_T_Weights

    swin = but(IMAGENET, resize_size=(232, 232), interpolation="bicubic")
    for ours, theirs in (
        (CLIP, image_transform_v2(PreprocessCfg(), is_train=False)),
        (IMAGENET, ResNet18_Weights.IMAGENET1K_V1.transforms()),
        (swin, Swin_T_Weights.IMAGENET1K_V1.transforms()),
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
        assert resized_size(but(CLIP, resize_mode=mode, resize_size=size), *image) == expected


def test_a_scale_that_is_too_large_is_told_without_a_word_of_numpys() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert scales_finitely(CLIP)
        for change in ({"rescale": 3e38}, {"std": (1e-45, 1.0, 1.0)}, {"rescale": 3e38, "mean": (3e38, 3e38, 3e38)}):
            assert not scales_finitely(CLIP.model_copy(update=change))


def test_at_size_keeps_the_crop_fraction() -> None:
    assert at_size(IMAGENET, (384, 384)).resize_size == (438, 438)  # timm: floor(384 / 0.875)
    assert at_size(CLIP, (336, 336)).resize_size == (336, 336)
    assert at_size(IMAGENET, (224, 224)) == IMAGENET
    assert resized_size(at_size(CLIP, (336, 336)), 300, 451) == (336, 505)


def test_impossible_values_are_refused() -> None:
    for field, value in (("size", (224, 100_000)), ("fill", (0, 0, 256)), ("rescale", 0.0), ("crop", "none")):
        said = "crop none needs" if field == "crop" else field
        raised(ValidationError, said, Preprocessing, **{**CLIP.model_dump(), field: value})


def test_as_photo_is_the_inverse_after_the_crop() -> None:
    for record in [CLIP, IMAGENET, but(CLIP, color_order="BGR")]:
        photo = Image.fromarray(levels(300, 260, 3))
        rgb = but(record, color_order="RGB")
        assert_array_equal(np.asarray(as_photo(record, apply(record, photo))), apply_uint8(rgb, photo))


def test_bgr_reverses_channels_and_keeps_mean_in_rgb() -> None:
    bgr = but(CLIP, color_order="BGR")
    for make in (apply, apply_uint8):
        assert_array_equal(make(bgr, photos()[0]), make(CLIP, photos()[0])[..., ::-1])


def assert_numpys(found: LevelSums, *images: NDArray[Any]) -> None:
    values = np.concatenate([pixels.reshape(-1, pixels.shape[-1]) for pixels in images]).astype(np.float64)
    assert_allclose(found.sums, values.sum(axis=0), rtol=1e-12)
    assert_allclose(found.squares, (values**2).sum(axis=0), rtol=1e-12)
    assert found.mean == pytest.approx(values.mean(axis=0))
    assert found.sd == pytest.approx(values.std(axis=0), abs=1e-5)


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]))))
def test_mean_and_sd_are_numpys(pixels: NDArray[Any]) -> None:
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

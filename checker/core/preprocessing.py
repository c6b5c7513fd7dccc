"""The steps from a photo's pixels to the model's input: a part of the ONNX contract, and of the evidence."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from ...thresholds.records import Frozen

MAX_EDGE_PX = 8192  # no image model in use has a larger input; refuses a sidecar that asks for gigabytes

Edge = Annotated[int, Field(gt=0, le=MAX_EDGE_PX)]
Level = Annotated[int, Field(ge=0, le=255)]
Positive = Annotated[float, Field(gt=0)]


class Preprocessing(Frozen):
    """The steps from RGB photo to model input, a part of the ONNX contract.

    Steps, in this order: resize → centre crop (or pad) to `size` → multiply by `rescale` →
    subtract `mean` → divide by `std` → channel order.
    """

    size: tuple[Edge, Edge]
    """height, width (px) that the model sees"""
    resize_mode: Literal["shortest", "longest", "squash", "none"]
    """which edge is brought to `resize_size`; squash ignores the aspect ratio"""
    resize_size: tuple[Edge, Edge]
    """height, width (px); two equal entries are an edge length, two different ones a box to cover
    (shortest) or to fit in (longest)"""
    interpolation: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
    """a Pillow filter; Pillow antialiases when it shrinks"""
    crop: Literal["center", "none"] = "center"
    """center also pads with `fill` where the resized image is smaller than `size`"""
    crop_rounding: Literal["round", "floor"] = "round"
    """offset of the crop: round = torchvision's round((H - h) / 2), floor = transformers' (H - h) // 2"""
    fill: tuple[Level, Level, Level] = (0, 0, 0)
    """RGB of the padding, 0–255"""
    rescale: Positive = 1 / 255
    """factor on 0–255 pixels before mean and std"""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """RGB, on the rescaled pixels, whatever `color_order` is"""
    std: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0)
    """RGB, on the rescaled pixels, whatever `color_order` is"""
    color_order: Literal["RGB", "BGR", "grey"] = "RGB"
    """grey: one channel, the photo's luminance (Pillow's mode L) before the resize; then the three values of `mean` are
    equal, and those of `std`"""

    @field_validator("mean", "std", mode="before")
    @classmethod
    def _one_value_stands_for_three(cls, value: Any) -> Any:
        values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
        return values * 3 if len(values) == 1 else values

    @model_validator(mode="after")
    def _output_has_one_size(self) -> Self:
        squashed = self.resize_mode == "squash" and self.resize_size == self.size
        if self.crop == "none" and self.resize_mode != "none" and not squashed:
            raise ValueError("crop none needs resize_mode squash with resize_size equal to size, or none")
        return self

    def scaled(self, mean: tuple[float, ...], sd: tuple[float, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Turn mean and SD of pixels, 0–255, into those of the model's input: · rescale, − mean, / std.

        mean, sd: one per channel, in this preprocessing's colour order; one alone in grey.
        """
        shifts = self.mean
        units = self.std
        if self.color_order == "BGR":
            shifts = shifts[::-1]
            units = units[::-1]
        means = tuple((m * self.rescale - a) / s for m, a, s in zip(mean, shifts, units, strict=False))
        sds = tuple(d * self.rescale / s for d, s in zip(sd, units, strict=False))
        return means, sds


CLIP = Preprocessing(
    size=(224, 224),
    resize_mode="shortest",
    resize_size=(224, 224),
    interpolation="bicubic",
    mean=(0.48145466, 0.4578275, 0.40821073),  # openai/CLIP clip/clip.py; open_clip OPENAI_DATASET_MEAN
    std=(0.26862954, 0.26130258, 0.27577711),  # openai/CLIP clip/clip.py; open_clip OPENAI_DATASET_STD
)
"""OpenAI CLIP's transform at 224 px."""

IMAGENET = Preprocessing(
    size=(224, 224),
    resize_mode="shortest",
    resize_size=(256, 256),  # 224 / 0.875: torchvision's ImageClassification preset, timm's DEFAULT_CROP_PCT
    interpolation="bilinear",
    mean=(0.485, 0.456, 0.406),  # torchvision transforms/_presets.py; timm IMAGENET_DEFAULT_MEAN
    std=(0.229, 0.224, 0.225),  # torchvision transforms/_presets.py; timm IMAGENET_DEFAULT_STD
)
"""torchvision's ImageNet evaluation transform at 224 px."""

PRESETS = {"clip": CLIP, "imagenet": IMAGENET}
"""by the names that `--preprocess` takes"""

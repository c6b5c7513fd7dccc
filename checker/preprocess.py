"""From a decoded photo to the array a model sees: the same pixels as the source library's own transform."""

from __future__ import annotations

from typing import Literal

from robustcheck_onnx.checker.frozen import Frozen


class Preprocessing(Frozen):
    """Everything between a decoded RGB photo and the model's input (part of the ONNX contract).

    Steps, in this order: resize → centre crop (or pad) to `size` → multiply by `rescale` →
    subtract `mean` → divide by `std` → channel order.
    """

    size: tuple[int, int]
    """height, width (px) that the model sees"""
    resize_mode: Literal["shortest", "longest", "squash", "none"]
    """which edge is brought to `resize_size`; squash ignores the aspect ratio"""
    resize_size: tuple[int, int]
    """height, width (px); for shortest and longest both entries are the edge length"""
    interpolation: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
    """a Pillow filter; Pillow antialiases when it shrinks"""
    crop: Literal["center", "none"] = "center"
    """center also pads with `fill` where the resized image is smaller than `size`"""
    crop_rounding: Literal["round", "floor"] = "round"
    """offset of the crop: round = torchvision's int(round((H - h) / 2)), floor = transformers' (H - h) // 2"""
    fill: tuple[int, int, int] = (0, 0, 0)
    """RGB of the padding, 0–255"""
    rescale: float = 1 / 255
    """factor on 0–255 pixels before mean and std"""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    color_order: Literal["RGB", "BGR"] = "RGB"

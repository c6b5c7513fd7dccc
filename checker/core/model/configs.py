"""Read a preprocessing from the JSON of our own files, and of those of open_clip, timm and transformers."""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ...errors import UsageError
from ...text import Fields, Texts, frozen, quoted, rule_of
from ..preprocessing import CLIP, IMAGENET, Preprocessing
from .weights import about

IMMICH = "preprocess_cfg.json"  # open_clip's preprocess_cfg alone, as immich keeps it next to visual/model.onnx
LOOK = "robustcheck explain preprocessing"
_MAX_BYTES = 16 * 2**20  # 16 MiB: no preprocessing file is larger
_PIL_FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # PIL.Image.Resampling 0–5
# Hugging Face processors whose integer `size` means the shorter edge; for those in _SQUARE it means both
# (transformers: default_to_square of the class).
_SHORTEST = ("CLIP", "Bit", "ChineseCLIP", "AltCLIP", "ConvNext", "Levit", "MobileViT", "PoolFormer")
_SQUARE = ("ViT", "Siglip", "DeiT", "Beit")
# Processors whose pixels a test compares with ours, and keys that stand for steps known here or for none; whatever else
# a file holds could be a step.
_KINDS = re.compile(
    "AltCLIP|Beit|Bit|Blip|CLIP|Chameleon|ChineseCLIP|ConvNext|DINOv3ViT|DPT|DeiT|EfficientNet|Flava|Gemma3|GotOcr2|Levit"
    "|Llava|MobileNetV[12]|MobileViT|Ovis2|OwlViT|PoolFormer|Pvt|Sapiens2|SegGpt|Segformer|Siglip|Swin|Tipsv2|ViT"
)
_ACCEPTED = re.compile(
    "do_(resize|center_crop|rescale|normalize|convert_rgb)|size|resample|crop_size|rescale_factor"
    "|image_(mean|std)|(image_processor|feature_extractor)_type|processor_class|auto_map|(input_)?data_format|_.*"
    "|(codebook|mask|keypoint)_.*|(min|max)_patches|input_size_patches|total_mask_patches|use_covering_area_grid"
)
_RESIZE_MODES = {"center": "shortest", "squash": "squash", "border": "longest"}  # by timm's crop_mode
Edges = tuple[int, int]  # height and width, px


def read_object(path: Path) -> Fields:
    """Read the JSON object in a file.

    Raises:
        UsageError: too large, unreadable, no JSON, or no object.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UsageError(f"{path}: file is larger than {_MAX_BYTES:,} bytes; a preprocessing file is small")
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as fault:
        raise UsageError(
            f"{path}: content is not readable JSON ({fault}); a preprocessing file must be",
            f"python -m json.tool {quoted(path)}",
        ) from fault
    if not isinstance(values, dict):
        raise UsageError(f"{path}: content is a JSON {type(values).__name__}; it must be an object", LOOK)
    return values


Parsed = tuple[Fields, dict[str, str]]  # fields of our record; those that are a library's default: its name


def parse_config(path: Path, values: Fields, input_size: Edges | None) -> tuple[Preprocessing, dict[str, str]]:
    """Read our record from any known format. Keys decide on the format (a user's FILE may have any name).

    Args:
        path: the file, named in errors. values: its content.
        input_size: height and width of the model's input (px); None where it leaves them open.

    Returns:
        The record, and which of its fields are a library's default: its name.

    Raises:
        UsageError: a value is missing, impossible or not supported; the size is not the model's.
    """
    with about(path):
        try:
            if "preprocess_cfg" in values:
                fields, defaults = _from_open_clip(values)
            elif path.name == IMMICH or {"resize_mode", "fill_color"} <= values.keys():
                fields, defaults = _from_open_clip({"preprocess_cfg": values})
            elif "pretrained_cfg" in values:
                fields, defaults = _from_timm(values, input_size)
            elif path.name == "preprocessor_config.json" or "image_mean" in values or "do_resize" in values:
                fields = _from_hugging_face(values)
                defaults = {"crop_rounding": "transformers"}
            elif path.name == "open_clip_config.json":
                raise UsageError("preprocess_cfg is missing; an open_clip configuration must have it")
            else:
                fields, defaults = _from_own(values)
            preprocessing = Preprocessing.model_validate(fields)
        except UsageError as fault:
            fault.hint = fault.hint or LOOK
            raise
        except ValidationError as fault:
            first = fault.errors(include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"]) or "preprocessing"
            value = "missing" if first["type"] == "missing" else repr(first["input"])[:80]
            raise UsageError(f"{field} is {value}; {rule_of(first)}", LOOK) from fault
        check_size(preprocessing, input_size)
        return preprocessing, defaults


def _from_own(values: Fields) -> Parsed:
    own = _section(values, "preprocessing") if "preprocessing" in values else values
    for field, none in (("mean", "[0, 0, 0]"), ("std", "[1, 1, 1]")):
        if "resize_mode" in own and field not in own:  # a default here would be preprocessing nobody stated
            raise UsageError(f"{field} is missing; it must be stated, {none} where nothing is done")
    fields = dict(own)
    for field in ("size", "resize_size"):
        if field in own:
            fields[field] = _edges(field, own[field])
    return fields, {field: "robustcheck default" for field in Preprocessing.model_fields if field not in own}


@frozen
class _Config:
    """A library's configuration, whose absent values are the library's defaults."""

    values: Fields
    library: str
    defaults: dict[str, str] = dataclasses.field(default_factory=dict)
    """fields of our record that are a default: where it comes from"""

    def get(self, key: str, default: Any, field: str = "") -> Any:
        """Return a value, or note that a field of our record (`key`, if it has no other name) is the default."""
        value = self.values.get(key)
        if value is None:
            self.defaults[field or key] = f"{self.library} default"
            return default
        return value


def _from_open_clip(values: Fields) -> Parsed:
    """Read a configuration of open_clip as its image_transform does, with the defaults of transform.PreprocessCfg."""
    config = _Config(_section(values, "preprocess_cfg"), "open_clip")
    color_mode = config.values.get("mode", "RGB")
    if color_mode != "RGB":
        raise UsageError(f"mode is {color_mode!r}; only RGB is supported")
    size = config.values.get("size")
    if size is None:
        size = values
        for key in ("model_cfg", "vision_cfg", "image_size"):
            size = size.get(key) if isinstance(size, dict) else None
    edges = _edges("size", size)
    mode = _one_of("resize_mode", config.get("resize_mode", "shortest"), ("shortest", "longest", "squash"))
    fill = round(_number("fill_color", config.get("fill_color", 0, "fill")))
    interpolation = config.get("interpolation", "bicubic")
    fields = {
        "size": edges,
        "resize_mode": mode,
        "resize_size": edges,
        "interpolation": _one_of("interpolation", interpolation, ("bicubic", "bilinear")),
        "crop": "none" if mode == "squash" else "center",
        "fill": (fill, fill, fill),
        "mean": _triple("mean", config.get("mean", CLIP.mean)),
        "std": _triple("std", config.get("std", CLIP.std)),
    }
    return fields, config.defaults


def _from_timm(values: Fields, input_size: Edges | None) -> Parsed:
    """Read a configuration of timm as data.resolve_data_config and transforms_imagenet_eval do, with their defaults.

    Where the model's input has the size of `test_input_size`, timm's test size and crop are used.
    """
    section = _section(values, "pretrained_cfg")
    config = _Config({key: value for key, value in section.items() if value}, "timm")

    def edges_of(key: str) -> Edges:
        shape = config.values.get(key, (3, 224, 224))
        if not isinstance(shape, (list, tuple)) or len(shape) != 3 or shape[0] != 3:
            raise UsageError(f"{key} is {shape}; it must be [3, height, width]")
        return _edges(key, list(shape[1:]))

    size = edges_of("input_size")
    config.get("input_size", None, "size")
    crop_pct = config.get("crop_pct", 0.875, "resize_size")
    if "test_input_size" in config.values and input_size == edges_of("test_input_size") != size:
        size = input_size
        crop_pct = config.values.get("test_crop_pct", crop_pct)
    crop_pct = _number("crop_pct", crop_pct)
    if not 0 < crop_pct <= 1:
        raise UsageError(f"crop_pct is {crop_pct}; it must be above 0 and at most 1")
    mode = _one_of("crop_mode", config.get("crop_mode", "center", "resize_mode"), tuple(_RESIZE_MODES))
    mean = _triple("mean", config.get("mean", IMAGENET.mean))
    fields = {
        "size": size,
        "resize_mode": _RESIZE_MODES[mode],
        "resize_size": tuple(math.floor(edge / crop_pct) for edge in size),
        "interpolation": config.get("interpolation", "bicubic"),
        "fill": tuple(round(255 * level) for level in mean) if mode == "border" else (0, 0, 0),
        "mean": mean,
        "std": _triple("std", config.get("std", IMAGENET.std)),
    }
    return fields, config.defaults


def _from_hugging_face(values: Fields) -> Fields:
    """Read an image processor of transformers that resizes, crops at the centre, rescales and normalises."""
    is_flipped = values.get("do_flip_channel_order", _kind_of(values) == "MobileViT")  # else it is refused
    values = _plain_steps(values)
    for key, value in values.items():
        if value and not _ACCEPTED.fullmatch(key) and (key, value) != ("ensure_multiple_of", 1):
            raise UsageError(f"{key} is {str(value)[:60]}; this step is not supported")
    fields: Fields = {
        "resize_mode": "none",
        "interpolation": "bicubic",
        "crop": "none",
        "crop_rounding": "floor",
        "rescale": 1.0,
        "color_order": "BGR" if is_flipped else "RGB",
    }
    resizes = values.get("do_resize", True)
    crops = values.get("do_center_crop", False)
    if resizes:
        fields["resize_mode"], size = _hugging_face_resize(values)
    if crops or not resizes:
        crop_size = _hugging_face_edges("crop_size", values.get("crop_size"))
    fields["resize_size"] = size if resizes else crop_size
    fields["size"] = crop_size if crops else fields["resize_size"]
    if crops:
        fields["crop"] = "center"
    elif fields["resize_mode"] == "shortest":
        raise UsageError("do_center_crop is false and size is a shortest edge; the input size would vary")
    if resizes:
        resample = values.get("resample", "missing")
        if not isinstance(resample, int) or resample not in range(len(_PIL_FILTERS)):
            raise UsageError(f"resample is {resample}; it must be 0 to 5 (PIL.Image.Resampling)")
        fields["interpolation"] = _PIL_FILTERS[resample]
    if values.get("do_rescale", True):
        fields["rescale"] = _number("rescale_factor", values.get("rescale_factor", 1 / 255))
    if values.get("do_normalize", True):
        fields["mean"] = _triple("image_mean", values.get("image_mean"))
        fields["std"] = _triple("image_std", values.get("image_std"))
    return fields


def _kind_of(values: Fields) -> str:
    """Return the class of an image processor, shortened, such as CLIP: "" where the file names none."""
    named = str(values.get("image_processor_type") or values.get("feature_extractor_type") or "")
    return re.sub(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", named)


def _plain_steps(values: Fields) -> Fields:
    """Add the fixed steps of an image processor's class as keys. Raises UsageError: another class."""
    kind = _kind_of(values)
    values = dict(values)
    if kind and not _KINDS.fullmatch(kind):
        raise UsageError(f"image_processor_type is {kind}ImageProcessor; its steps are not known here")
    if kind == "MobileViT":  # with a mean, too, the flip stays among the keys, and is refused
        values = {"do_flip_channel_order": True, "do_normalize": False, **values}
        if not values["do_normalize"]:
            del values["do_flip_channel_order"]
    if kind == "EfficientNet" and values.pop("include_top", True) and values.get("do_normalize", True):
        # it divides by the deviation twice
        deviations = _triple("image_std", values.get("image_std"))
        values["image_std"] = [level**2 for level in deviations]
    scaled = {"Levit": 224 / 256, "ConvNext": 224 / 256, "PoolFormer": 0.9}.get(kind)
    edge = values.get("size")
    if isinstance(edge, dict):
        edge = edge.get("shortest_edge")
    if scaled is not None and values.get("do_resize", True) and (kind != "Levit" or isinstance(edge, int)):
        edge, _ = _edges("size.shortest_edge", edge)
        share = scaled
        if kind != "Levit":
            share = _number("crop_pct", values.pop("crop_pct", scaled))
        values["size"] = {"shortest_edge": int(edge / share)}
        if kind == "ConvNext" and edge < 384:
            values |= {"do_center_crop": True, "crop_size": edge}
        elif kind == "ConvNext":
            values["size"] = {"height": edge, "width": edge}
    return values


def _hugging_face_resize(values: Fields) -> tuple[str, Edges]:
    size = values.get("size")
    if isinstance(size, dict):
        if set(size) == {"shortest_edge"}:
            return "shortest", _edges("size.shortest_edge", size["shortest_edge"])
        return "squash", _hugging_face_edges("size", size)
    kind = _kind_of(values)
    if kind in _SHORTEST:
        return "shortest", _edges("size", size)
    if kind in _SQUARE:
        return "squash", _edges("size", size)
    raise UsageError(
        f"size is {size} and image_processor_type is {kind or 'missing'}; "
        "size must be {shortest_edge} or {height, width} for a processor that is not known here"
    )


def _hugging_face_edges(field: str, size: Any) -> Edges:
    if isinstance(size, dict):
        if set(size) != {"height", "width"}:
            raise UsageError(f"{field} is {size}; it must be {{height, width}} or an integer")
        return _edges(field, [size["height"], size["width"]])
    return _edges(field, size)


def _section(values: Fields, key: str) -> Fields:
    section = values[key]
    if not isinstance(section, dict):
        raise UsageError(f"{key} is {section!r}; it must be an object")
    return section


def _edges(field: str, value: Any) -> Edges:
    """Read an edge length or [height, width], px. The record checks its own limits later."""
    edges = value if isinstance(value, list) else [value, value]
    if len(edges) == 2 and all(isinstance(edge, int) and not isinstance(edge, bool) for edge in edges):
        return edges[0], edges[1]
    raise UsageError(f"{field} is {_shown(value)}; it must be an integer or [height, width], in pixels")


def _shown(value: Any) -> Any:
    return "missing" if value is None else value


def _number(field: str, value: Any) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise UsageError(f"{field} is {value!r}; it must be a finite number")


def _triple(field: str, value: Any) -> tuple[float, float, float]:
    values = value if isinstance(value, (list, tuple)) else [value] * 3
    if len(values) == 1:
        values = list(values) * 3
    if value is None or len(values) != 3:
        raise UsageError(f"{field} is {_shown(value)}; it must be three numbers")
    red, green, blue = (_number(field, level) for level in values)
    return red, green, blue


def _one_of(field: str, value: Any, valid: Texts) -> str:
    if value in valid:
        return str(value)
    raise UsageError(f"{field} is {value!r}; it must be one of {', '.join(valid)}")


def check_size(preprocessing: Preprocessing, input_size: Edges | None) -> None:
    """Refuse a preprocessing of another size than the model's input. Raises UsageError."""
    if input_size is not None and preprocessing.size != input_size:
        height, width = preprocessing.size
        rows, columns = input_size
        raise UsageError(
            f"size is {height}×{width}; the model's input is {rows}×{columns} (height×width)",
            f"give this model's own preprocessing, of size [{rows}, {columns}], with --preprocess FILE",
        )

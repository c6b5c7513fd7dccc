"""Read a preprocessing from the JSON of our own files, and of those of open_clip, timm and transformers."""

import json
import math
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ...errors import UsageError
from ...text import Fields, Texts, quoted, rule_of
from ..evidence import CLIP, IMAGENET, Preprocessing
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
                fields, defaults = _from_hugging_face(values), {"crop_rounding": "transformers"}
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
        _check_size(preprocessing, input_size)
        return preprocessing, defaults


def _from_own(values: Fields) -> Parsed:
    own = _section(values, "preprocessing") if "preprocessing" in values else values
    for field, none in (("mean", "[0, 0, 0]"), ("std", "[1, 1, 1]")):
        if "resize_mode" in own and field not in own:  # a default here would be preprocessing nobody stated
            raise UsageError(f"{field} is missing; it must be stated, {none} where nothing is done")
    squares = {field: _edges(field, own[field]) for field in ("size", "resize_size") if field in own}
    return own | squares, {field: "robustcheck default" for field in Preprocessing.model_fields if field not in own}


def _from_open_clip(values: Fields) -> Parsed:
    """Read a configuration of open_clip.

    It is read as image_transform reads transform.PreprocessCfg; absent values are that class's defaults.
    """
    config = _section(values, "preprocess_cfg")
    defaults: dict[str, str] = {}

    def get(key: str, field: str, default: Any) -> Any:
        if config.get(key) is None:
            defaults[field] = "open_clip default"
            return default
        return config[key]

    if config.get("mode", "RGB") != "RGB":
        raise UsageError(f"mode is {config['mode']!r}; only RGB is supported")
    size = config.get("size")
    if size is None:
        size = values
        for key in ("model_cfg", "vision_cfg", "image_size"):
            size = size.get(key) if isinstance(size, dict) else None
    edges = _edges("size", size)
    mode = _one_of("resize_mode", get("resize_mode", "resize_mode", "shortest"), ("shortest", "longest", "squash"))
    fill = _number("fill_color", get("fill_color", "fill", 0))
    return {
        "size": edges,
        "resize_mode": mode,
        "resize_size": edges,
        "interpolation": _one_of(
            "interpolation", get("interpolation", "interpolation", "bicubic"), ("bicubic", "bilinear")
        ),
        "crop": "none" if mode == "squash" else "center",
        "fill": (round(fill),) * 3,
        "mean": _triple("mean", get("mean", "mean", CLIP.mean)),
        "std": _triple("std", get("std", "std", CLIP.std)),
    }, defaults


def _from_timm(values: Fields, input_size: Edges | None) -> Parsed:
    """Read a configuration of timm.

    It is read as data.resolve_data_config and transforms_imagenet_eval do, with their defaults.

    Where the model's input has the size of `test_input_size`, timm's test size and crop are used.
    """
    config = _section(values, "pretrained_cfg")
    defaults: dict[str, str] = {}

    def get(key: str, field: str, default: Any) -> Any:
        if not config.get(key):
            defaults[field] = "timm default"
            return default
        return config[key]

    def edges_of(key: str) -> Edges:
        shape = config.get(key) or (3, 224, 224)
        if not isinstance(shape, (list, tuple)) or len(shape) != 3 or shape[0] != 3:
            raise UsageError(f"{key} is {shape}; it must be [3, height, width]")
        return _edges(key, list(shape[1:]))

    size, crop_pct = edges_of("input_size"), get("crop_pct", "resize_size", 0.875)
    if not config.get("input_size"):
        defaults["size"] = "timm default"
    if config.get("test_input_size") and input_size == edges_of("test_input_size") != size:
        size, crop_pct = input_size, config.get("test_crop_pct") or crop_pct
    crop_pct = _number("crop_pct", crop_pct)
    if not 0 < crop_pct <= 1:
        raise UsageError(f"crop_pct is {crop_pct}; it must be above 0 and at most 1")
    mode = _one_of("crop_mode", get("crop_mode", "resize_mode", "center"), ("center", "squash", "border"))
    mean = _triple("mean", get("mean", "mean", IMAGENET.mean))
    return {
        "size": size,
        "resize_mode": {"center": "shortest", "squash": "squash", "border": "longest"}[mode],
        "resize_size": tuple(math.floor(edge / crop_pct) for edge in size),
        "interpolation": get("interpolation", "interpolation", "bicubic"),
        "fill": tuple(round(255 * level) for level in mean) if mode == "border" else (0, 0, 0),
        "mean": mean,
        "std": _triple("std", get("std", "std", IMAGENET.std)),
    }, defaults


def _from_hugging_face(values: Fields) -> Fields:
    """Read an image processor of transformers.

    It may resize, crop at the centre, rescale, normalise; other steps are refused.
    """
    is_flipped = values.get("do_flip_channel_order", _kind_of(values) == "MobileViT")  # else it is refused
    values = _plain_steps(values)
    for key, value in values.items():
        if value and not _ACCEPTED.fullmatch(key) and (key, value) != ("ensure_multiple_of", 1):
            raise UsageError(f"{key} is {str(value)[:60]}; this step is not supported")
    crops = bool(values.get("do_center_crop", False))
    if values.get("do_resize", True):
        mode, resize_size = _hugging_face_resize(values)
    else:
        mode, resize_size = "none", _hugging_face_edges("crop_size", values.get("crop_size"))
    size = _hugging_face_edges("crop_size", values.get("crop_size")) if crops else resize_size
    if mode == "shortest" and not crops:
        raise UsageError("do_center_crop is false and size is a shortest edge; the input size would vary")
    resample = values.get("resample", "missing")
    if mode != "none" and (not isinstance(resample, int) or resample not in range(len(_PIL_FILTERS))):
        raise UsageError(f"resample is {resample}; it must be 0 to 5 (PIL.Image.Resampling)")
    fields: Fields = {
        "size": size,
        "resize_mode": mode,
        "resize_size": resize_size,
        "interpolation": "bicubic" if mode == "none" else _PIL_FILTERS[resample],
        "crop": "center" if crops else "none",
        "crop_rounding": "floor",
        "rescale": 1.0,
        "color_order": "BGR" if is_flipped else "RGB",
    }
    if values.get("do_rescale", True):
        fields["rescale"] = _number("rescale_factor", values.get("rescale_factor", 1 / 255))
    if values.get("do_normalize", True):
        fields["mean"] = _triple("image_mean", values.get("image_mean"))
        fields["std"] = _triple("image_std", values.get("image_std"))
    return fields


def _kind_of(values: Fields) -> str:
    """Return the class of an image processor, shortened. An example is CLIP; "" where the file names none."""
    named = str(values.get("image_processor_type") or values.get("feature_extractor_type") or "")
    return re.sub(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", named)


def _plain_steps(values: Fields) -> Fields:
    """Add the fixed steps of an image processor's class as keys. Raises UsageError: another class."""
    kind, values = _kind_of(values), dict(values)
    if kind and not _KINDS.fullmatch(kind):
        raise UsageError(f"image_processor_type is {kind}ImageProcessor; its steps are not known here")
    if kind == "MobileViT":  # with a mean, too, the flip stays among the keys, and is refused
        values = {"do_flip_channel_order": True, "do_normalize": False, **values}
        if not values["do_normalize"]:
            del values["do_flip_channel_order"]
    if kind == "EfficientNet" and values.pop("include_top", True) and values.get("do_normalize", True):
        # it divides by the deviation twice
        values["image_std"] = [level**2 for level in _triple("image_std", values.get("image_std"))]
    scaled = {"Levit": 224 / 256, "ConvNext": 224 / 256, "PoolFormer": 0.9}.get(kind)
    edge = values.get("size")
    edge = edge.get("shortest_edge") if isinstance(edge, dict) else edge
    if scaled is not None and values.get("do_resize", True) and (kind != "Levit" or isinstance(edge, int)):
        edge, _ = _edges("size.shortest_edge", edge)
        share = _number("crop_pct", values.pop("crop_pct", scaled)) if kind != "Levit" else scaled
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
    if kind in (*_SHORTEST, *_SQUARE):
        return "shortest" if kind in _SHORTEST else "squash", _edges("size", size)
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
    shown = "missing" if value is None else value
    raise UsageError(f"{field} is {shown}; it must be an integer or [height, width], in pixels")


def _number(field: str, value: Any) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise UsageError(f"{field} is {value!r}; it must be a finite number")


def _triple(field: str, value: Any) -> tuple[float, float, float]:
    values = value if isinstance(value, (list, tuple)) else [value] * 3
    if len(values) == 1:
        values = list(values) * 3
    if value is None or len(values) != 3:
        raise UsageError(f"{field} is {'missing' if value is None else value}; it must be three numbers")
    red, green, blue = (_number(field, level) for level in values)
    return red, green, blue


def _one_of(field: str, value: Any, valid: Texts) -> str:
    if value in valid:
        return str(value)
    raise UsageError(f"{field} is {value!r}; it must be one of {', '.join(valid)}")


def _check_size(preprocessing: Preprocessing, input_size: Edges | None) -> None:
    if input_size is not None and preprocessing.size != input_size:
        (height, width), (rows, columns) = preprocessing.size, input_size
        raise UsageError(
            f"size is {height}×{width}; the model's input is {rows}×{columns} (height×width)",
            f"give this model's own preprocessing, of size [{rows}, {columns}], with --preprocess FILE",
        )

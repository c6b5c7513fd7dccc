"""Forms by where the files lie: a hub's repository, its sidecars above or beside the model, several exports of one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import onnx
import torch

from .encoder import PREPROCESSING
from .form import Form, export, plain
from .layouts import TOKENS, Dual, Text
from .precisions import made_dynamic

HUB_PREPROCESSING = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 64, "width": 64},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}


def forms() -> Iterator[Form]:
    """Every form of this kind."""
    root = "preprocessor_config.json in the root, onnx/ below it"
    for name in ("model.onnx", "model_fp16.onnx", "model_quantized.onnx"):
        more = ("--batch-size", "1") if name == "model_quantized.onnx" else ()
        yield _hub_form(f"a hub's onnx/{name}", root, partial(_export_of, name), more)
    yield _hub_form("a hub's onnx/ with model.onnx alone", root, _one_export)
    yield _hub_form("a hub's repository, given as a folder", "robustcheck check FOLDER", _folder)
    yield _hub_form("a hub's folder with external data", f"{root}; model.onnx_data", _external)
    yield _hub_form("a hub's vision_model.onnx", f"{root}; text_model.onnx beside it", _towers)
    yield _hub_form(
        "open_clip's repository", "open_clip_config.json beside the model", lambda f: _beside(f, _open_clip)
    )
    yield _hub_form("open_clip's repository, onnx/", "open_clip_config.json above", lambda f: _above(f, _open_clip))
    yield _hub_form("timm's repository", "config.json beside the model", lambda f: _beside(f, _timm))
    yield _hub_form("timm's repository, onnx/", "config.json above", lambda f: _above(f, _timm))
    yield _hub_form(
        "transformers' repository", "preprocessor_config.json beside the model", lambda f: _beside(f, _transformers)
    )
    yield _hub_form(
        "--preprocess FILE",
        "preprocessor_config.json elsewhere",
        lambda f: _above(f, _transformers, "p"),
        ("--preprocess", "{folder}/../p/preprocessor_config.json"),
    )


def _folder(folder: Path) -> Path:
    _above(folder / "repository", _transformers)
    return folder / "repository"


def _hub_form(name: str, done: str, make: Callable[[Path], Path], arguments: tuple[str, ...] = ()) -> Form:
    return Form(name, done, make, arguments=arguments, preprocessing=None)


def _export_of(name: str, folder: Path) -> Path:
    return _repository(folder) / name


def _repository(folder: Path) -> Path:
    """Three exports of one model, as a hub's script writes them; gives onnx/."""
    from onnxruntime.transformers import float16

    _transformers(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "clip_vision_model"}), encoding="utf-8")
    place = folder / "onnx"
    place.mkdir()
    made_dynamic(op_types_to_quantize=["MatMul"])(place)
    (place / "model.onnx").replace(place / "model_quantized.onnx")
    onnx.save(plain(), place / "model.onnx")
    onnx.save(float16.convert_float_to_float16(plain()), place / "model_fp16.onnx")
    return place


def _one_export(folder: Path) -> Path:
    return _above(folder, _transformers)


def _external(folder: Path) -> Path:
    _transformers(folder)
    (folder / "onnx").mkdir()
    path = folder / "onnx" / "model.onnx"
    onnx.save(plain(), path, save_as_external_data=True, location="model.onnx_data")
    return path


def _towers(folder: Path) -> Path:
    path = _above(folder, _transformers).rename(folder / "onnx" / "vision_model.onnx")
    ids = torch.zeros(2, TOKENS, dtype=torch.int64)
    export(
        Text(Dual()),
        folder / "onnx" / "text_model.onnx",
        outputs=("text_embeds",),
        image=ids,
        image_name="input_ids",
        more=[("attention_mask", torch.ones_like(ids))],
    )
    return path


def _beside(folder: Path, configure: Callable[[Path], None]) -> Path:
    configure(folder)
    onnx.save(plain(), folder / "model.onnx")
    return folder / "model.onnx"


def _above(folder: Path, configure: Callable[[Path], None], config_folder: str = "") -> Path:
    (folder / "onnx").mkdir(parents=True)
    (folder / config_folder).mkdir(exist_ok=True)
    configure(folder / config_folder)
    onnx.save(plain(), folder / "onnx" / "model.onnx")
    return folder / "onnx" / "model.onnx"


def _transformers(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps(HUB_PREPROCESSING), encoding="utf-8")


def _open_clip(folder: Path) -> None:
    values = {"mean": PREPROCESSING.mean, "std": PREPROCESSING.std, "interpolation": "bilinear"}
    text = json.dumps(
        {
            "model_cfg": {"vision_cfg": {"image_size": 64}},
            "preprocess_cfg": values | {"size": [64, 64], "resize_mode": "squash"},
        }
    )
    (folder / "open_clip_config.json").write_text(text, encoding="utf-8")


def _timm(folder: Path) -> None:
    values = {
        "input_size": [3, 64, 64],
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "squash",
        "mean": PREPROCESSING.mean,
        "std": PREPROCESSING.std,
    }
    text = json.dumps({"architecture": "vit_tiny", "pretrained_cfg": values})
    (folder / "config.json").write_text(text, encoding="utf-8")

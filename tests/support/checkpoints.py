"""A tiny open_clip model in a folder, as its library publishes models."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support import Fields

from .lazy import open_clip

VISION = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16}
TEXT = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1}


def open_clip_folder(
    folder: Path,
    vision: Fields = VISION,
    preprocess: Fields | None = None,
    *,
    init: Callable[[Any], Any] = lambda model: model,
    text: Fields = TEXT,
    **more: Any,
) -> tuple[str, Any]:
    """Write open_clip_config.json and open_clip_model.safetensors, as push_to_hub does; the name and the model."""
    from safetensors.torch import save_file

    config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text, **more}
    folder.mkdir(exist_ok=True)
    pixels = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD, "interpolation": "bicubic"}
    pixels |= {"resize_mode": "shortest", **(preprocess or {})}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": pixels}))
    model = init(open_clip.model.CLIP(**config).eval())
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}", model

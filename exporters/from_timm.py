"""Loads a timm model: name[.tag], hf-hub: and local-dir: names, or a local checkpoint file."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from typing import Any

import timm
from torch import nn

from . import loading, preprocess
from .contract import Loaded, Output, Source, checked_preprocessing, shared_preprocessing, without_folders
from .errors import USAGE, ExportError
from .messages import quiet
from .wrappers import HeadTap, Named, Swapped

PACKAGES = ("timm", "torchvision")


def load(
    name: str,
    *,
    weights: str | None = None,
    random_weights: bool = False,
    preprocessing: dict[str, Any] | None = None,
) -> Loaded:
    """Load a timm classifier (representation = input of its last linear layer, and logits) or encoder.

    A classifier with heads on several stages becomes an encoder: the representation is the joint input of its heads.

    Args:
        name: "architecture", "architecture.tag", "hf-hub:org/repo" or "local-dir:path".
        weights: tag or checkpoint file; without it the tag in `name`, or timm's default tag.
        preprocessing: replaces the library's; needed for a checkpoint file when `name` has no tag and the
            published tags differ in theirs.

    Raises:
        ExportError: unknown name or tag (exit 2); weights do not fit, or the head is not found (3); weights
            not reachable (4).
    """
    loading.refuse_both(name, weights, random_weights)
    has_schema = name.startswith(("hf-hub:", "hf_hub:", "local-dir:"))
    path = loading.weights_file(weights)
    if weights and path is None:
        if has_schema or "." in name:
            raise ExportError(
                f"{name}: weights is {weights}; the name already says which weights",
                "drop --weights, or give a checkpoint file",
                exit_code=USAGE,
            )
        name = f"{name}.{weights}"
    if not has_schema:
        check_name(name)
    model = _created(name, path, random_weights)
    config = timm.data.resolve_model_data_config(model)
    if preprocessing is None and path is not None and not has_schema and "." not in name:
        config = dict(shared_preprocessing(_published(name), name))
    fields = preprocessing if preprocessing is not None else as_contract(config, name)
    digest = loading.file_digest(path) if path else loading.state_digest(model)  # before a head is fused
    module, outputs = _wrapped(model, name)
    origin = path.name if path else model.pretrained_cfg.get("tag") or without_folders(name)
    return Loaded(
        module=module,
        outputs=outputs,
        preprocessing=fields,
        transform=(
            preprocess.as_transform(fields)
            if preprocessing is not None
            else timm.data.create_transform(**config, is_training=False)
        ),
        source=Source(
            library="timm",
            name=without_folders(name),
            weights="" if random_weights else origin,
            weights_digest=digest,
            random_weights=random_weights,
        ),
        packages=PACKAGES,
    )


def as_contract(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return timm's data config in the contract's fields: resize to floor(size / crop_pct), then crop.

    crop_mode center → shortest edge, squash → both edges, border → longest edge and padding with the mean.
    """
    _, height, width = config["input_size"]
    mode = {"center": "shortest", "squash": "squash", "border": "longest"}.get(config["crop_mode"])
    if mode is None:
        raise ExportError(
            f"{name}: crop mode is {config['crop_mode']}; it must be center, squash or border",
            "give --preprocessing FILE",
            exit_code=USAGE,
        )
    resized = [math.floor(edge / config["crop_pct"]) for edge in (height, width)]
    mean = list(config["mean"])
    return checked_preprocessing(
        {
            "size": [height, width],
            "resize_mode": mode,
            "resize_size": resized,
            "interpolation": config["interpolation"],
            "fill": [round(255 * m) for m in mean] if mode == "longest" else [0, 0, 0],
            "mean": mean,
            "std": list(config["std"]),
        },
        name,
    )


def check_name(name: str, tag: str | None = None) -> None:
    """Raise with the closest names when timm has no such model, or no such tag of it, in the name or given (exit 2)."""
    name = f"{name}.{tag}" if tag and "." not in name else name
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), 3)
        raise ExportError(
            f"{name}: model name is unknown to timm {timm.__version__}; it must be in timm.list_models()",
            f"closest: {', '.join(close)}" if close else "hf-hub:ORG/REPO loads from the hub",
            exit_code=USAGE,
        )
    tags = list(timm.models.get_arch_pretrained_cfgs(architecture))
    full = [t.partition(".")[2] for t in tags]
    if tag and tag not in full:
        raise ExportError(
            f"{name}: tag is {tag}; it must be one of {', '.join(t for t in full if t) or 'none published'}",
            f"robustcheck export timm {architecture}.{(difflib.get_close_matches(tag, full, 1) or full)[0]}",
            exit_code=USAGE,
        )


def _created(name: str, path: Any, random_weights: bool) -> Any:
    overlay = {"file": str(path), "custom_load": path.suffix == ".npz"} if path else None
    with quiet() as messages, loading.seeded(), loading.recorded_loads() as loads:
        try:
            model = timm.create_model(
                name, pretrained=not random_weights, pretrained_cfg_overlay=overlay, exportable=True
            )
        except Exception as error:  # timm raises RuntimeError for every cause; translated, not lost
            place = _place(name)
            raise loading.load_error(error, name, place=place, messages=messages) from error
    for result in loads:
        loading.refuse_partial(name, result.missing_keys, result.unexpected_keys)
    npz = path is not None and path.suffix == ".npz"  # timm's loader for JAX files copies tensor by tensor
    if not random_weights and not loads and not npz:
        raise ExportError(f"{name}: weights were not loaded; {messages.tail(1)}", "give --weights FILE")
    return model.eval()


def _place(name: str) -> str:
    if name.startswith("local-dir:"):
        return f"place config.json and model.safetensors in {name.partition(':')[2]}"
    repo = name.partition(":")[2]
    if not repo:
        cfg: Any = timm.models.get_pretrained_cfg(name)
        repo = str(getattr(cfg, "hf_hub_id", None) or "timm/")
        repo += name if repo.endswith("/") else ""
    return (
        f"run `hf download {repo}` where there is a network and copy models--{repo.replace('/', '--')} into "
        "$HF_HOME/hub here, or give the checkpoint with --weights FILE"
    )


def _published(name: str) -> dict[str, Mapping[str, Any]]:
    return {
        tag: timm.data.resolve_data_config(pretrained_cfg=cfg.to_dict())
        for tag, cfg in timm.models.get_arch_pretrained_cfgs(name).items()
        if cfg.has_weights
    }


def _is_image_text_tower(name: str, model: Any) -> bool:
    """Say whether the classifier is CLIP's projection: a clip name whose tag has no labelled finetuning."""
    label = f"{name} {model.pretrained_cfg.get('architecture', '')}.{model.pretrained_cfg.get('tag', '')}"
    return "clip" in label.lower() and re.search(r"in(1k|12k|21k|22k)", label) is None


def _wrapped(model: Any, name: str) -> tuple[nn.Module, tuple[Output, ...]]:
    head = model.get_classifier()
    place = next((n for n, m in model.named_modules() if m is head), None)
    if hasattr(head, "fuse"):  # a norm and one or two linear layers, which are one (RepViT, iFormer)
        model.set_submodule(place, head.fuse())
        head = model.get_classifier()
    if isinstance(head, nn.ModuleList):  # heads on several stages: their joint input, without logits
        model.reset_classifier(0)
    if isinstance(head, (tuple, list)):
        raise ExportError(
            f"{name}: classifier is {len(head)} heads; it is not clear which one the representation belongs to",
            "export it with `robustcheck export torch package.module:factory --head NAME`",
        )
    if isinstance(head, nn.Identity | nn.ModuleList):
        return Named(model), (Output("representation", "pooled features", "encoder_output"),)
    if place is None or not isinstance(head, (nn.Linear, nn.Conv2d)):
        raise ExportError(
            f"{name}: classifier is {type(head).__name__}; a linear layer is needed",
            "export it with `robustcheck export torch package.module:factory --head NAME`",
        )
    if _is_image_text_tower(name, model):
        return Swapped(HeadTap(model, place)), (
            Output("representation", "projected image embedding", "encoder_output"),
            Output("pooled", f"input of {place}, the projection", "pooled"),
        )
    return HeadTap(model, place), (
        Output("representation", f"input of {place}, the last linear layer", "head_input"),
        Output("logits", "class logits", "logits"),
    )

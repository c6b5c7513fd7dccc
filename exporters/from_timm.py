"""Load models of timm."""

import math
import re
from typing import Any

from torch import nn

from . import CallError, ExportError, contract, nearest
from .contract import Loaded, Output, Wanted, loaded, source_of, without_folders
from .loading import from_hub, loading, refuse_name, refuse_partial, weights_file
from .preprocessing import Fields, checked_preprocessing, shared_preprocessing
from .wrappers import NAME_THE_HEAD, Tower, as_rows, head_tap, swapped


def load_timm(wanted: Wanted) -> Loaded:
    """Load a timm classifier or encoder.

    A classifier's representation is the input of its last linear layer, and its logits come with it. A classifier with
    heads on several stages becomes an encoder: the representation is the joint input of its heads.

    Args:
        wanted: its name is "architecture", "architecture.tag", "hf-hub:org/repo" or "local-dir:path"; without weights
            the tag in it counts, or timm's default tag. A checkpoint file needs preprocessing when the name has no
            tag and the published tags differ in theirs.

    Raises:
        ExportError: unknown name or tag (exit 2); weights do not fit, or the head is not found (3); weights
            not reachable (4).
    """
    import timm

    name = wanted.name
    path = weights_file(wanted.weights)
    has_schema = name.startswith(("hf-hub:", "hf_hub:", "local-dir:"))
    if wanted.weights and path is None:
        if has_schema or "." in name:
            raise CallError(
                f"{name}: weights is {wanted.weights}; the name already says which weights",
                "drop --weights, or give a checkpoint file",
            )
        name = f"{name}.{wanted.weights}"
    if not has_schema:
        check_timm(name)
    is_npz = path is not None and path.suffix == ".npz"  # timm's loader for JAX files copies tensor by tensor
    overlay = {"file": str(path), "custom_load": is_npz} if path else None
    is_pretrained = not wanted.random_weights
    with loading(name, _timm_place(name)) as (messages, loads):
        model = timm.create_model(name, pretrained=is_pretrained, pretrained_cfg_overlay=overlay, exportable=True)
    for result in loads:
        refuse_partial(name, *result)
    if is_pretrained and not loads and not is_npz:
        raise ExportError(f"{name}: weights were not loaded; {' | '.join(messages[-1:])}", "give --weights FILE")
    model.eval()
    config = timm.data.resolve_model_data_config(model)
    if path and not wanted.preprocessing and not has_schema and "." not in name:
        config = shared_preprocessing(published_timm(name), name)
    pixels = wanted.pixels()
    if pixels is None:
        fields = timm_contract(config, name)
        transform = timm.data.create_transform(**config, is_training=False)
        pixels = fields, transform
    public = without_folders(name)
    tag = model.pretrained_cfg.get("tag") or public
    source = source_of("timm", public, path, tag, model)  # before a head is fused
    module, outputs = _timm_outputs(model, name)
    return loaded(wanted, source, module, outputs, pixels, "timm", "torchvision")


def check_timm(name: str, tag: str | None = None) -> None:
    """Refuse a model or tag that timm lacks, and name the closest ones (exit 2)."""
    import timm

    if tag and "." not in name:
        name = f"{name}.{tag}"
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        rule = f"timm {timm.__version__}; it must be in timm.list_models()"
        refuse_name(architecture, timm.list_models(), name, rule)
    tags = [each.partition(".")[2] for each in timm.models.get_arch_pretrained_cfgs(architecture)]
    if tag and tag not in tags:
        raise CallError(
            f"{name}: tag is {tag}; it must be one of {', '.join(filter(None, tags)) or 'none published'}",
            f"robustcheck export timm {architecture}.{nearest(tag, tags)}",
        )


def shell_timm(name: str) -> nn.Module:
    """Return a model without weights."""
    import timm

    return timm.create_model(name)


def timm_contract(config: Fields, name: str) -> Fields:
    """Return timm's data config in the contract's fields: photos are resized to floor(size / crop_pct), then cropped.

    crop_mode center → shortest edge, squash → both edges, border → longest edge and padding with the mean.
    """
    _, height, width = config["input_size"]
    mode = {"center": "shortest", "squash": "squash", "border": "longest"}.get(config["crop_mode"])
    if mode is None:
        raise CallError(
            f"{name}: crop mode is {config['crop_mode']}; it must be center, squash or border",
            "give --preprocess FILE",
        )
    fill = [0, 0, 0]
    if mode == "longest":
        fill = [round(255 * mean) for mean in config["mean"]]
    fields = {
        "size": [height, width],
        "resize_mode": mode,
        "resize_size": [math.floor(edge / config["crop_pct"]) for edge in (height, width)],
        "interpolation": config["interpolation"],
        "fill": fill,
        "mean": config["mean"],
        "std": config["std"],
    }
    return checked_preprocessing(fields, name)


def published_timm(name: str) -> dict[str, Fields]:
    """Return the preprocessing of each published tag."""
    import timm

    configs = timm.models.get_arch_pretrained_cfgs(name)
    return {
        tag: timm.data.resolve_data_config(pretrained_cfg=config.to_dict())
        for tag, config in configs.items()
        if config.has_weights
    }


def _timm_place(name: str) -> str:
    import timm

    schema, _, repo = name.partition(":")
    if schema == "local-dir":
        return f"place config.json and model.safetensors in {repo}"
    if not repo:
        repo = str(getattr(timm.models.get_pretrained_cfg(name), "hf_hub_id", None) or "timm/")
        repo += name if repo.endswith("/") else ""
    return from_hub(repo)


def _timm_outputs(model: Any, name: str) -> Tower:
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
            NAME_THE_HEAD,
        )
    if isinstance(head, nn.Identity | nn.ModuleList):
        return as_rows(model), (Output("representation", "pooled features", "encoder_output"),)
    if place is None or not isinstance(head, (nn.Linear, nn.Conv2d)):
        raise ExportError(f"{name}: classifier is {type(head).__name__}; a linear layer is needed", NAME_THE_HEAD)
    tapped = head_tap(model, place)
    config = model.pretrained_cfg
    label = f"{name} {config.get('architecture', '')}.{config.get('tag', '')}"
    is_finetuned = re.search(r"in(1k|12k|21k|22k)", label) is not None
    if "clip" in label.lower() and not is_finetuned:  # then the classifier is CLIP's projection
        pooled = Output("pooled", f"input of {place}, the projection", "pooled")
        return swapped(tapped), (contract.EMBEDDING, pooled)
    return tapped, contract.classifier_outputs(place)

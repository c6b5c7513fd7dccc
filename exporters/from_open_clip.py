"""Loads an open_clip vision encoder: every model and tag of list_pretrained, hf-hub: and local-dir: names,
or a local checkpoint file.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

import open_clip
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from . import loading, preprocess
from .contract import Loaded, Output, Source, checked_preprocessing, shared_preprocessing, without_folders
from .errors import USAGE, ExportError
from .messages import quiet
from .wrappers import HeadTap, Named, Projected, Rows, Swapped, ZeroShot, require_same
from .zero_shot import Prompts, refuse_long, text_head, tokenizer_error, zero_shot_meaning

PACKAGES = ("open_clip_torch", "timm", "torchvision")
EMBEDDING = Output("representation", "projected image embedding", "encoder_output")


class VitTower(nn.Module):
    """open_clip's own ViT up to its projection: forward(image) returns (projected, pooled)."""

    def __init__(self, visual: VisionTransformer) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, image: Tensor) -> Rows:
        """Follow VisionTransformer.forward, keeping what the projection reads."""
        visual = self.visual
        pooled, _ = visual._pool(visual.transformer(visual._embeds(image)))
        return pooled @ visual.proj, pooled


class ResNetTower(nn.Module):
    """CLIP's ResNet with its attention pool: forward(image) returns (projected, pooled).

    pooled is the attention output of the mean token before c_proj; the pool's other tokens are never used,
    so only one query is computed (AttentionPool2d computes all and keeps the first).
    """

    def __init__(self, visual: ModifiedResNet) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, image: Tensor) -> Rows:
        """Follow ModifiedResNet.forward and AttentionPool2d.forward, keeping what c_proj reads."""
        visual, pool = self.visual, self.visual.attnpool
        features = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(image)))))
        tokens = features.flatten(2).transpose(1, 2)  # (batch, place, channel)
        tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)
        tokens = tokens + pool.positional_embedding.to(tokens.dtype)

        def heads(projected: Tensor) -> Tensor:  # (batch, head, token, channel / head)
            split = projected.reshape(*projected.shape[:2], pool.num_heads, -1)
            return split.transpose(1, 2)

        attended = functional.scaled_dot_product_attention(
            heads(pool.q_proj(tokens[:, :1])), heads(pool.k_proj(tokens)), heads(pool.v_proj(tokens))
        )
        pooled = attended.transpose(1, 2).flatten(1)
        return pool.c_proj(pooled), pooled


def load(
    name: str,
    *,
    weights: str | None = None,
    random_weights: bool = False,
    preprocessing: dict[str, Any] | None = None,
    prompts: Prompts | None = None,
) -> Loaded:
    """Load the image tower of an open_clip model; the representation is the projected image embedding.

    Args:
        name: model name of open_clip.list_models(), "hf-hub:org/repo" or "local-dir:path".
        weights: pretrained tag or checkpoint file; hf-hub: and local-dir: names bring their own.
        preprocessing: replaces the library's; needed for a checkpoint file when the published tags of
            `name` differ in theirs.
        prompts: class names and templates; the text tower makes a classifier's head of them, output "logits".

    Raises:
        ExportError: unknown name or tag, no weights (exit 2); they do not fit (3); not reachable (4).
    """
    loading.refuse_both(name, weights, random_weights)
    has_schema = name.startswith(("hf-hub:", "local-dir:"))
    path = None if has_schema else loading.weights_file(weights)
    if has_schema and weights:
        raise ExportError(
            f"{name}: weights is {weights}; {name.split(':', maxsplit=1)[0]}: names bring their own weights",
            "drop --weights",
            exit_code=USAGE,
        )
    if not has_schema:
        check_name(name, weights if path is None else None)
        if not weights and not random_weights:
            tags = open_clip.list_pretrained_tags_by_model(name)
            raise loading.random_weights_error(name, f"--weights TAG, one of {', '.join(tags)}, or --weights FILE")
    model = _created(name, weights, random_weights)
    config = model.visual.preprocess_cfg
    if preprocessing is None and path is not None:
        config = {**shared_preprocessing(_published(name), name), "size": config["size"]}
    fields = preprocessing if preprocessing is not None else as_contract(config, name)
    transform = (
        preprocess.as_transform(fields)
        if preprocessing is not None
        else image_transform_v2(PreprocessCfg(**merge_preprocess_dict({}, config)), is_train=False)
    )
    size = (fields["size"][0], fields["size"][1])
    module, outputs = _tower(model.visual.eval(), size, name)
    if prompts is not None:
        scale, bias = float(model.logit_scale.detach().exp()), getattr(model, "logit_bias", None)
        weight = text_head(prompts, _text_tower(model.eval(), name), logit_scale=scale, name=name)
        module = ZeroShot(module.eval(), weight, None if bias is None else float(bias.detach()))
        outputs = (*outputs, Output("logits", zero_shot_meaning(prompts), "logits"))
    origin = "" if random_weights else (path.name if path else weights or without_folders(name))
    return Loaded(
        module=module,
        outputs=outputs,
        preprocessing=fields,
        transform=transform,
        source=Source(
            library="open_clip",
            name=without_folders(name),
            weights=origin,
            weights_digest=loading.file_digest(path) if path else loading.state_digest(model.visual),
            random_weights=random_weights,
        ),
        packages=PACKAGES,
        zero_shot=prompts,
    )


def _text_tower(model: Any, name: str) -> Callable[[list[str]], Tensor]:
    """The library's own tokenizer and text tower as one function texts → (text, feature)."""
    with quiet() as messages:
        try:
            tokenizer = open_clip.get_tokenizer(name)
        except Exception as error:  # hub, file and parser errors of many libraries; translated, not lost
            raise tokenizer_error(error, name, messages) from error
    simple = isinstance(tokenizer, open_clip.SimpleTokenizer)
    vocabulary = getattr(getattr(model, "text", model), "vocab_size", None)
    if simple and vocabulary not in (None, tokenizer.vocab_size):
        raise ExportError(
            f"{name}: text tower has {vocabulary} tokens and open_clip's tokenizer {tokenizer.vocab_size}; they must "
            "belong together",
            "the checkpoint's open_clip_config.json must name its tokenizer (text_cfg.hf_tokenizer_name)",
        )

    def embed(texts: list[str]) -> Tensor:
        if simple and tokenizer.reduction_fn is None:  # start and end take two tokens
            refuse_long(texts, [len(tokenizer.encode(text)) + 2 for text in texts], tokenizer.context_length, name)
        try:
            embedding: Tensor = model.encode_text(tokenizer(texts))
        except Exception as error:  # a tokenizer of another vocabulary ends in whatever torch raises
            raise ExportError(
                f"{name}: text tower cannot read the prompts ({type(error).__name__}: {str(error).splitlines()[0]}); "
                "tokenizer and text tower must belong together",
                "report the model name and the version of open_clip",
            ) from error
        return embedding

    return embed


def as_contract(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return open_clip's preprocess_cfg in the contract's fields.

    open_clip resizes and crops to the same size: shortest → crop, longest → pad, squash → neither.
    """
    size = config["size"]
    height, width = (size, size) if isinstance(size, int) else size
    mean, std = (v if isinstance(v, (tuple, list)) else (v,) * 3 for v in (config["mean"], config["std"]))
    # image_transform knows two filters; "random" means bicubic outside training. For shortest on a size
    # that is not square it ignores the setting.
    square = height == width
    linear = config["interpolation"] == "bilinear" and (square or config["resize_mode"] != "shortest")
    fill = config.get("fill_color", 0)
    return checked_preprocessing(
        {
            "size": [height, width],
            "resize_mode": config["resize_mode"],
            "resize_size": [height, width],
            "interpolation": "bilinear" if linear else "bicubic",
            "crop": "none" if config["resize_mode"] == "squash" else "center",
            "fill": [fill] * 3 if isinstance(fill, int) else list(fill),
            "mean": list(mean),
            "std": list(std),
        },
        name,
    )


def check_name(name: str, tag: str | None) -> None:
    """Raise with the closest names when open_clip has no such model or no such tag of it (exit 2)."""
    models = open_clip.list_models()
    if name not in models:
        close = difflib.get_close_matches(name, models, 3)
        raise ExportError(
            f"{name}: model name is unknown to open_clip {open_clip.__version__}; it must be in "
            "open_clip.list_models()",
            f"closest: {', '.join(close)}" if close else "hf-hub:ORG/REPO loads from the hub",
            exit_code=USAGE,
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag and not open_clip.is_pretrained_cfg(name, tag):
        raise ExportError(
            f"{name}: weights is {tag}; it must be one of {', '.join(tags) or 'none published'}, or an existing file",
            f"--weights {(difflib.get_close_matches(tag, tags, 1) or tags or ['FILE'])[0]}",
            exit_code=USAGE,
        )


def _created(name: str, weights: str | None, random_weights: bool) -> Any:
    tag = open_clip.get_pretrained_cfg(name, weights or "")
    with quiet(), loading.seeded(), loading.recorded_loads() as loads:
        try:
            model = open_clip.create_model(
                name,
                pretrained=weights,
                load_weights=not random_weights,
                require_pretrained=not random_weights,
                # a tag trained with QuickGELU is wrong without it; open_clip only warns
                force_quick_gelu=bool(tag.get("quick_gelu")),
                pretrained_image=False,
                pretrained_text=False,
            )
        except Exception as error:  # open_clip raises bare RuntimeError for every cause; translated, not lost
            raise loading.load_error(error, name, place=_place(name, weights)) from error
    for result in loads:
        loading.refuse_partial(name, result.missing_keys, result.unexpected_keys)
    return model


def _place(name: str, weights: str | None) -> str:
    if name.startswith("local-dir:"):
        return f"place open_clip_config.json and open_clip_model.safetensors in {name.partition(':')[2]}"
    if name.startswith("hf-hub:"):
        repo = name.partition(":")[2]
    else:
        cfg = open_clip.get_pretrained_cfg(name, weights or "")
        repo = str(cfg.get("hf_hub", "")).rstrip("/")
        if not repo:
            return f"download {cfg.get('url', 'the checkpoint')} and give it with --weights FILE"
        repo = "/".join(repo.split("/")[:2])
    return (
        f"run `hf download {repo}` where there is a network and copy models--{repo.replace('/', '--')} into "
        "$HF_HOME/hub here, or give the checkpoint with --weights FILE"
    )


def _published(name: str) -> dict[str, Mapping[str, Any]]:
    default = merge_preprocess_dict(PreprocessCfg(), {})
    found: dict[str, Mapping[str, Any]] = {}
    for tag in open_clip.list_pretrained_tags_by_model(name):
        merged = merge_preprocess_dict(default, open_clip.get_pretrained_cfg(name, tag))
        found[tag] = {k: v for k, v in merged.items() if k != "size"}  # the size is the tower's own
    return found


def _tower(visual: nn.Module, size: tuple[int, int], name: str) -> tuple[nn.Module, tuple[Output, ...]]:
    module: nn.Module
    if isinstance(visual, VisionTransformer) and visual.proj is not None:
        pool = {"tok": "class token", "avg": "mean of the patch tokens"}.get(visual.pool_type, "pooled tokens")
        module, meaning = VitTower(visual), f"{pool} after the last norm, before the projection"
    elif isinstance(visual, ModifiedResNet):
        module, meaning = ResNetTower(visual), "attention pool of the last map, before the projection"
    elif isinstance(visual, TimmModel) and hasattr(visual.head, "proj") and not hasattr(visual.head, "pool"):
        module, meaning = Projected(visual.trunk, visual.head), "pooled trunk features, before the projection"
    elif isinstance(visual, TimmModel) and hasattr(visual.head, "mlp") and not hasattr(visual.head, "pool"):
        module, meaning = Projected(visual.trunk, visual.head), "pooled trunk features, before the MLP"
    elif isinstance(visual, TimmModel) and (head := _trunk_head(visual)):
        module, meaning = Swapped(HeadTap(visual, head)), "pooled trunk features, before the projection"
    else:
        module, meaning = Named(visual), ""
    require_same(module, visual, size, name)
    return module, (EMBEDDING, Output("pooled", meaning, "pooled")) if meaning else (EMBEDDING,)


def _trunk_head(visual: TimmModel) -> str | None:
    """Return the name of the trunk's own linear head when that is the projection (timm_proj '')."""
    head = visual.trunk.get_classifier()
    if len(visual.head) or not isinstance(head, nn.Linear):
        return None
    names = (name for name, module in visual.named_modules() if module is head)
    return next(names, None)

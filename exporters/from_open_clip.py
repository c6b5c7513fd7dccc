"""Load image towers of open_clip."""

from typing import Any

import torch
from torch import Tensor, nn

from . import CallError, ExportError, contract, first_line
from .contract import Loaded, Output, Wanted, without_folders
from .loading import from_hub, loading, random_weights_error, refuse_name, refuse_partial, unknown_tag, weights_file
from .preprocessing import Fields, checked_preprocessing, shared_preprocessing
from .wrappers import Rows, Tower, Wrapped, as_rows, head_tap, projected, require_same, swapped
from .zero_shot import Embed, refuse_long, tokenizer, with_text_head


def load_open_clip(wanted: Wanted) -> Loaded:
    """Load the image tower of an open_clip model, whose representation is the projected image embedding.

    Args:
        wanted: its name is one of open_clip.list_models(), "hf-hub:org/repo" or "local-dir:path"; the last two
            bring their own weights. A checkpoint file needs preprocessing when the published tags of the name
            differ in theirs.

    Raises:
        ExportError: unknown name or tag, no weights (exit 2); they do not fit (3); not reachable (4).
    """
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict

    name = wanted.name
    weights = wanted.weights
    path = None
    if name.startswith(("hf-hub:", "local-dir:")):
        if weights:
            raise CallError(
                f"{name}: weights is {weights}; {name.partition(':')[0]}: names bring their own weights",
                "drop --weights",
            )
    else:
        path = weights_file(weights)
        check_open_clip(name, None if path else weights)
        if not weights and not wanted.random_weights:
            tags = open_clip.list_pretrained_tags_by_model(name)
            raise random_weights_error(name, f"--weights TAG, one of {', '.join(tags)}, or --weights FILE")
    tag = open_clip.get_pretrained_cfg(name, weights or "")
    with loading(name, _open_clip_place(name, tag), is_quoted=False) as (_, loads):
        model = open_clip.create_model(
            name,
            pretrained=weights,
            load_weights=not wanted.random_weights,
            require_pretrained=not wanted.random_weights,
            # a tag trained with QuickGELU is wrong without it; open_clip only warns
            force_quick_gelu=bool(tag.get("quick_gelu")),
            pretrained_image=False,
            pretrained_text=False,
        )
    for result in loads:
        refuse_partial(name, *result)
    config = model.visual.preprocess_cfg
    if path and not wanted.preprocessing:
        published = shared_preprocessing(published_open_clip(name), name)
        config = published | {"size": config["size"]}
    pixels = wanted.pixels()
    if pixels is None:
        fields = open_clip_contract(config, name)
        settings = PreprocessCfg(**merge_preprocess_dict({}, config))
        transform = image_transform_v2(settings, is_train=False)
        pixels = fields, transform
    visual = model.visual.eval()
    module, outputs = _open_clip_tower(visual, pixels[0]["size"], name)
    if wanted.prompts:
        embed = _open_clip_text_tower(model.eval(), name)
        module, outputs = with_text_head(module, outputs, wanted.prompts, model, embed, name)
    public = without_folders(name)
    source = contract.source_of("open_clip", public, path, weights or public, visual)
    return contract.loaded(wanted, source, module, outputs, pixels, "open_clip_torch", "timm", "torchvision")


def check_open_clip(name: str, tag: str | None) -> None:
    """Refuse a model or tag that open_clip lacks, and name the closest ones (exit 2)."""
    import open_clip

    rule = f"open_clip {open_clip.__version__}; it must be in open_clip.list_models()"
    refuse_name(name, open_clip.list_models(), name, rule)
    if tag and not open_clip.is_pretrained_cfg(name, tag):
        raise unknown_tag(name, tag, open_clip.list_pretrained_tags_by_model(name))


def shell_open_clip(name: str) -> nn.Module:
    """Return a model without weights."""
    import open_clip

    return open_clip.create_model(name, load_weights=False, device="meta")


def open_clip_contract(config: Fields, name: str) -> Fields:
    """Return open_clip's preprocess_cfg in the contract's fields.

    open_clip resizes and crops to the same size: shortest → crop, longest → pad, squash → neither.
    """
    size = config["size"]
    if isinstance(size, int):
        size = (size, size)
    height, width = size
    mode = config["resize_mode"]
    # image_transform knows two filters; "random" means bicubic outside training. For shortest on a size
    # that is not square it ignores the setting.
    linear = config["interpolation"] == "bilinear" and (height == width or mode != "shortest")
    fields = {
        "size": [height, width],
        "resize_mode": mode,
        "resize_size": [height, width],
        "interpolation": "bilinear" if linear else "bicubic",
        "crop": "none" if mode == "squash" else "center",
        "fill": config.get("fill_color", 0),
        "mean": config["mean"],
        "std": config["std"],
    }
    return checked_preprocessing(fields, name)


def published_open_clip(name: str) -> dict[str, Fields]:
    """Return the preprocessing of each published tag, without the size, which is the tower's own."""
    import open_clip
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    default = merge_preprocess_dict(PreprocessCfg(), {})
    found = {}
    for tag in open_clip.list_pretrained_tags_by_model(name):
        merged = merge_preprocess_dict(default, open_clip.get_pretrained_cfg(name, tag))
        del merged["size"]
        found[tag] = merged
    return found


def _open_clip_place(name: str, tag: Fields) -> str:
    schema, _, repo = name.partition(":")
    if schema == "local-dir":
        return f"place open_clip_config.json and open_clip_model.safetensors in {repo}"
    if schema != "hf-hub":
        repo = "/".join(str(tag.get("hf_hub", "")).split("/")[:2])
    if not repo:
        return f"download {tag.get('url', 'the checkpoint')} and give it with --weights FILE"
    return from_hub(repo)


def _open_clip_tower(visual: nn.Module, size: list[int], name: str) -> Tower:
    from open_clip import modified_resnet, timm_model, transformer

    module = as_rows(visual)
    meaning = ""
    if isinstance(visual, transformer.VisionTransformer) and visual.proj is not None:
        pool = {"tok": "class token", "avg": "mean of the patch tokens"}.get(visual.pool_type, "pooled tokens")
        module = Wrapped(_vit, visual=visual)
        meaning = f"{pool} after the last norm, before the projection"
    elif isinstance(visual, modified_resnet.ModifiedResNet):
        module = Wrapped(_resnet, visual=visual)
        meaning = "attention pool of the last map, before the projection"
    elif isinstance(visual, timm_model.TimmModel) and (last := _projection(visual)):
        module = projected(visual.trunk, visual.head)
        meaning = f"pooled trunk features, before the {last}"
    elif isinstance(visual, timm_model.TimmModel) and (head := _trunk_head(visual)):
        module = swapped(head_tap(visual, head))
        meaning = "pooled trunk features, before the projection"
    require_same(module, visual, size, name)
    if not meaning:
        return module, (contract.EMBEDDING,)
    return module, (contract.EMBEDDING, Output("pooled", meaning, "pooled"))


def _vit(self: Any, image: Tensor) -> Rows:
    """Follow VisionTransformer.forward, keeping what the projection reads: (projected, pooled)."""
    visual = self.visual
    pooled, _ = visual._pool(visual.transformer(visual._embeds(image)))
    return pooled @ visual.proj, pooled


def _resnet(self: Any, image: Tensor) -> Rows:
    """Follow ModifiedResNet.forward and AttentionPool2d.forward: (projected, pooled).

    pooled is the attention output of the mean token before c_proj; the pool's other tokens are never used,
    so only one query is computed (AttentionPool2d computes all and keeps the first).
    """
    visual = self.visual
    pool = visual.attnpool
    features = visual.stem(image)
    for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        features = layer(features)
    tokens = features.flatten(2).transpose(1, 2)  # (batch, place, channel)
    tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)
    tokens = tokens + pool.positional_embedding.to(tokens.dtype)

    def heads(projected: Tensor) -> Tensor:  # (batch, head, token, channel / head)
        return projected.reshape(*projected.shape[:2], pool.num_heads, -1).transpose(1, 2)

    query = heads(pool.q_proj(tokens[:, :1]))
    key = heads(pool.k_proj(tokens))
    value = heads(pool.v_proj(tokens))
    attended = nn.functional.scaled_dot_product_attention(query, key, value)
    pooled = attended.transpose(1, 2).flatten(1)
    return pool.c_proj(pooled), pooled


def _projection(visual: Any) -> str:
    """Return what open_clip puts after a timm trunk's own pool."""
    if hasattr(visual.head, "pool"):
        return ""
    if hasattr(visual.head, "proj"):
        return "projection"
    return "MLP" if hasattr(visual.head, "mlp") else ""


def _trunk_head(visual: Any) -> str | None:
    """Return the dotted name of the trunk's own head if it projects (timm_proj '')."""
    head = visual.trunk.get_classifier()
    if len(visual.head) or not isinstance(head, nn.Linear):
        return None
    return next((name for name, module in visual.named_modules() if module is head), None)


def _open_clip_text_tower(model: Any, name: str) -> Embed:
    """Return the library's own tokenizer and text tower as one function, texts → (text, feature)."""
    import open_clip

    tokens = tokenizer(name, lambda: open_clip.get_tokenizer(name))
    simple = isinstance(tokens, open_clip.SimpleTokenizer)
    vocabulary = getattr(getattr(model, "text", model), "vocab_size", None)
    if simple and vocabulary not in (None, tokens.vocab_size):
        raise ExportError(
            f"{name}: text tower has {vocabulary} tokens and open_clip's tokenizer {tokens.vocab_size}; they must "
            "belong together",
            "the checkpoint's open_clip_config.json must name its tokenizer (text_cfg.hf_tokenizer_name)",
        )

    def embed(texts: list[str]) -> Tensor:
        if simple and tokens.reduction_fn is None:  # start and end take two tokens
            refuse_long(texts, [len(tokens.encode(text)) + 2 for text in texts], tokens.context_length, name)
        try:
            return model.encode_text(tokens(texts))
        except Exception as error:  # a tokenizer of another vocabulary ends in whatever torch raises
            raise ExportError(
                f"{name}: text tower cannot read the prompts ({type(error).__name__}: {first_line(error)}); "
                "tokenizer and text tower must belong together",
                "report the model name and the version of open_clip",
            ) from error

    return embed

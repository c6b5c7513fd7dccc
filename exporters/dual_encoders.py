"""Load image encoders of open_clip and transformers, with a text tower's head.

A model is published, or it is a repository of the hub, its copy in a folder, or (of open_clip) a checkpoint file. Its
text tower makes the head of a zero-shot classifier. DINOv2 and ViT, of transformers, have none.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn

from . import CallError, ExportError, MissingError, contract, first_line, quiet
from .contract import FIELDS_FILE, Fields, Loaded, Output, Outputs, Prompts, Source, Wanted, checked_preprocessing
from .torch_models import Rows, Tower, Wrapped, as_rows, head_tap, loading, refuse_partial, run_eager, swapped

Embed = Callable[[list[str]], Tensor]  # texts → (text, feature), not normalised
T = TypeVar("T")

TEXTS_A_BATCH = 256  # prompts in one pass of the text tower: bounds memory
# Weights of a full image-text checkpoint, or of a head, that an image encoder leaves out on purpose.
LEFT_OUT = (
    "text_model.",
    "text_projection.",
    "text_embed",
    "logit_scale",
    "logit_bias",
    "classifier.",
    "pooler.",
    "vit.pooler.",
)


def load_open_clip(wanted: Wanted) -> Loaded:
    """Load the image tower of an open_clip model. The representation is the projected image embedding.

    Args:
        wanted: its name is one of open_clip.list_models(), "hf-hub:org/repo" or "local-dir:path"; the last two
            bring their own weights. A checkpoint file needs preprocessing when the published tags of the name
            differ in theirs.

    Raises:
        ExportError: unknown name or tag, no weights (exit 2); they do not fit (3); not reachable (4).
    """
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict

    name, weights, path = wanted.name, wanted.weights, None
    if name.startswith(("hf-hub:", "local-dir:")):
        if weights:
            raise CallError(
                f"{name}: weights is {weights}; {name.partition(':')[0]}: names bring their own weights",
                "drop --weights",
            )
    else:
        path = contract.weights_file(weights)
        check_open_clip(name, None if path else weights)
        if not weights and not wanted.random_weights:
            tags = open_clip.list_pretrained_tags_by_model(name)
            raise contract.random_weights_error(name, f"--weights TAG, one of {', '.join(tags)}, or --weights FILE")
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
        config = {**contract.shared_preprocessing(published_open_clip(name), name), "size": config["size"]}
    pixels = wanted.pixels() or (
        open_clip_contract(config, name),
        image_transform_v2(PreprocessCfg(**merge_preprocess_dict({}, config)), is_train=False),
    )
    module, outputs = _open_clip_tower(model.visual.eval(), pixels[0]["size"], name)
    if wanted.prompts:
        embed = _open_clip_text_tower(model.eval(), name)
        module, outputs = with_text_head(module, outputs, wanted.prompts, model, embed, name)
    public = contract.without_folders(name)
    source = contract.source_of("open_clip", public, path, weights or public, model.visual)
    return contract.loaded(wanted, source, module, outputs, pixels, "open_clip_torch", "timm", "torchvision")


def check_open_clip(name: str, tag: str | None) -> None:
    """Refuse a model or tag that open_clip lacks. The error has the closest names (exit 2)."""
    import open_clip

    rule = f"open_clip {open_clip.__version__}; it must be in open_clip.list_models()"
    contract.refuse_name(name, open_clip.list_models(), name, rule)
    if tag and not open_clip.is_pretrained_cfg(name, tag):
        raise contract.unknown_tag(name, tag, open_clip.list_pretrained_tags_by_model(name))


def shell_open_clip(name: str) -> nn.Module:
    """Return a model without weights."""
    import open_clip

    return open_clip.create_model(name, load_weights=False, device="meta")


def open_clip_contract(config: Fields, name: str) -> Fields:
    """Return open_clip's preprocess_cfg in the contract's fields.

    open_clip resizes and crops to the same size: shortest → crop, longest → pad, squash → neither.
    """
    size, fill, mode = config["size"], config.get("fill_color", 0), config["resize_mode"]
    height, width = (size, size) if isinstance(size, int) else size
    mean, std = (v if isinstance(v, (tuple, list)) else (v,) * 3 for v in (config["mean"], config["std"]))
    # image_transform knows two filters; "random" means bicubic outside training. For shortest on a size
    # that is not square it ignores the setting.
    linear = config["interpolation"] == "bilinear" and (height == width or mode != "shortest")
    fields = {
        "size": [height, width],
        "resize_mode": mode,
        "resize_size": [height, width],
        "interpolation": "bilinear" if linear else "bicubic",
        "crop": "none" if mode == "squash" else "center",
        "fill": [fill] * 3 if isinstance(fill, int) else list(fill),
        "mean": mean,
        "std": std,
    }
    return checked_preprocessing(fields, name)


def published_open_clip(name: str) -> dict[str, Fields]:
    """Return the preprocessing of each published tag. The size is the tower's own."""
    import open_clip
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    default = merge_preprocess_dict(PreprocessCfg(), {})
    found = {}
    for tag in open_clip.list_pretrained_tags_by_model(name):
        merged = merge_preprocess_dict(default, open_clip.get_pretrained_cfg(name, tag))
        found[tag] = {key: value for key, value in merged.items() if key != "size"}
    return found


def _open_clip_place(name: str, tag: Fields) -> str:
    schema, _, repo = name.partition(":")
    if schema == "local-dir":
        return f"place open_clip_config.json and open_clip_model.safetensors in {repo}"
    if schema != "hf-hub":
        repo = "/".join(str(tag.get("hf_hub", "")).split("/")[:2])
    if not repo:
        return f"download {tag.get('url', 'the checkpoint')} and give it with --weights FILE"
    return contract.from_hub(repo)


def _open_clip_tower(visual: nn.Module, size: list[int], name: str) -> Tower:
    from open_clip import modified_resnet, timm_model, transformer

    module: nn.Module = as_rows(visual)
    meaning = ""
    if isinstance(visual, transformer.VisionTransformer) and visual.proj is not None:
        pool = {"tok": "class token", "avg": "mean of the patch tokens"}.get(visual.pool_type, "pooled tokens")
        module, meaning = Wrapped(_vit, visual=visual), f"{pool} after the last norm, before the projection"
    elif isinstance(visual, modified_resnet.ModifiedResNet):
        module, meaning = (
            Wrapped(_resnet, visual=visual),
            "attention pool of the last map, before the projection",
        )
    elif isinstance(visual, timm_model.TimmModel) and (last := _projection(visual)):
        module, meaning = projected(visual.trunk, visual.head), f"pooled trunk features, before the {last}"
    elif isinstance(visual, timm_model.TimmModel) and (head := _trunk_head(visual)):
        module, meaning = swapped(head_tap(visual, head)), "pooled trunk features, before the projection"
    require_same(module, visual, size, name)
    return module, (contract.EMBEDDING, Output("pooled", meaning, "pooled")) if meaning else (contract.EMBEDDING,)


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
    visual, pool = self.visual, self.visual.attnpool
    features = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(image)))))
    tokens = features.flatten(2).transpose(1, 2)  # (batch, place, channel)
    tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)
    tokens = tokens + pool.positional_embedding.to(tokens.dtype)

    def heads(projected: Tensor) -> Tensor:  # (batch, head, token, channel / head)
        return projected.reshape(*projected.shape[:2], pool.num_heads, -1).transpose(1, 2)

    attended = nn.functional.scaled_dot_product_attention(
        heads(pool.q_proj(tokens[:, :1])), heads(pool.k_proj(tokens)), heads(pool.v_proj(tokens))
    )
    pooled = attended.transpose(1, 2).flatten(1)
    return pool.c_proj(pooled), pooled


def _projection(visual: Any) -> str:
    """Return what open_clip puts after a timm trunk's own pool."""
    if hasattr(visual.head, "pool"):
        return ""
    return "projection" if hasattr(visual.head, "proj") else "MLP" if hasattr(visual.head, "mlp") else ""


def _trunk_head(visual: Any) -> str | None:
    """Return the trunk's own head if it projects. Its name is dotted (timm_proj '')."""
    head = visual.trunk.get_classifier()
    if len(visual.head) or not isinstance(head, nn.Linear):
        return None
    return next((name for name, module in visual.named_modules() if module is head), None)


def _open_clip_text_tower(model: Any, name: str) -> Embed:
    """Return tokenizer and text tower as one function. They are the library's own: texts → (text, feature)."""
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


class Family(NamedTuple):
    """The class that loads a model_type, and what is read of it."""

    model_class: str
    outputs: Outputs
    read: Callable[[Any, Tensor], Rows]


def _clip(self: Any, image: Tensor) -> Rows:
    pooled = self.model.vision_model(pixel_values=image).pooler_output
    return self.model.visual_projection(pooled), pooled


def _pooler_output(self: Any, image: Tensor) -> Rows:
    return (self.model(pixel_values=image).pooler_output,)


def _class_token(self: Any, image: Tensor) -> Rows:
    return (self.model(pixel_values=image).last_hidden_state[:, 0],)


def _logits(self: Any, image: Tensor) -> Tensor:
    return self.model(pixel_values=image).logits


_CLASS_TOKEN = (Output("representation", "class token after the last norm", "encoder_output"),)
_POOL = (Output("representation", "attention pool of the tokens: the image embedding", "encoder_output"),)
_POOLED = Output("pooled", "class token after the last norm, before the projection", "pooled")
_CLIP = Family("CLIPVisionModelWithProjection", (contract.EMBEDDING, _POOLED), _clip)
_SIGLIP = Family("SiglipVisionModel", _POOL, _pooler_output)
FAMILIES = {
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "dinov2": Family("Dinov2Model", _CLASS_TOKEN, _pooler_output),
    "dinov2_with_registers": Family("Dinov2WithRegistersModel", _CLASS_TOKEN, _pooler_output),
    "vit": Family("ViTModel", _CLASS_TOKEN, _class_token),
}


def load_transformers(wanted: Wanted) -> Loaded:
    """Load the vision model of a transformers repository or folder.

    CLIP gives the projected embedding and what goes into the projection, SigLIP its attention pool,
    DINOv2 and ViT the class token after the last norm; a classifier (...ForImageClassification) the input
    of its last linear layer and the logits.

    Args:
        wanted: its name is "org/repo" (hub or its cache) or a folder made by save_pretrained, which brings its own
            weights. preprocessing replaces the repository's preprocessor_config.json. prompts are for CLIP only.

    Raises:
        ExportError: another model type, or `weights` given (exit 2); weights missing or left over (3); not
            reachable (4).
    """
    import transformers

    name, prompts = wanted.name, wanted.prompts
    if wanted.weights:
        raise CallError(
            f"{name}: weights is {wanted.weights}; a transformers name brings its own weights",
            "drop --weights, or give the folder as the name",
        )
    if name.startswith((".", "/", "~")) and not Path(name).is_dir():
        raise MissingError(
            f"{name}: folder is missing; the name must be a folder made by save_pretrained, or org/repo",
            f"place config.json, model.safetensors and preprocessor_config.json in {name}",
        )
    place = contract.from_hub(name, "give a folder made by save_pretrained as the name")
    with loading(name, place):
        config = transformers.AutoConfig.from_pretrained(name)
        family = _family(config, name)
        if prompts is not None and config.model_type != "clip":
            raise CallError(
                f"{name}: model type is {config.model_type}; --zero-shot is for clip, which has a text tower",
                "drop --zero-shot",
            )
        is_classifier = any(str(a).endswith("ForImageClassification") for a in config.architectures or ())
        if is_classifier:
            model = _built(transformers.AutoModelForImageClassification, config, wanted)
        else:
            model = _vision_model(config, family, wanted)
        processor: Any = None
        if wanted.preprocessing is None:
            processor = transformers.AutoImageProcessor.from_pretrained(name, backend="pil")
    pixels = wanted.pixels() or (
        transformers_contract(processor, name),
        lambda image: processor(images=image, return_tensors="pt")["pixel_values"][0],
    )
    module: nn.Module = Wrapped(family.read, model=model.eval())
    outputs = family.outputs
    if is_classifier:
        module, outputs = (
            head_tap(Wrapped(_logits, model=model), "model.classifier"),
            contract.classifier_outputs("classifier"),
        )
    if prompts is not None:
        with loading(name, place):
            whole = _built(transformers.CLIPModel, transformers.AutoConfig.from_pretrained(name), wanted).eval()
        module, outputs = with_text_head(module, outputs, prompts, whole, _transformers_text_tower(whole, name), name)
    source = _transformers_source(name, model)
    return contract.loaded(wanted, source, module, outputs, pixels, "transformers", "torchvision")


def _family(config: Any, name: str) -> Family:
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise CallError(
            f"{name}: model type is {config.model_type}; it must be one of {', '.join(FAMILIES)}",
            "export it with `robustcheck export torch package.module:factory`",
        )
    if family is _SIGLIP and getattr(getattr(config, "vision_config", config), "vision_use_head", True) is False:
        raise ExportError(f"{name}: vision_use_head is false; there is no pooled representation")
    return family


def _vision_model(config: Any, family: Family, wanted: Wanted) -> Any:
    """Return the vision part of a checkpoint, without a classifier's head."""
    import transformers

    if config.model_type == "clip":
        # CLIPModel takes the width from the outer configuration; the vision part alone may say another
        config.vision_config.projection_dim = config.projection_dim
    # ViT's tanh pooler exists in some checkpoints only; a linear head reads the class token
    options = {"add_pooling_layer": False} if config.model_type == "vit" else {}
    vision = getattr(config, "vision_config", config)
    return _built(getattr(transformers, family.model_class), vision, wanted, **options)


def _transformers_source(name: str, model: nn.Module) -> Source:
    """Return where a model came from. Of a repository it is the commit that was read."""
    from huggingface_hub import try_to_load_from_cache

    is_folder = Path(name).is_dir()
    cached = None if is_folder else try_to_load_from_cache(name, "config.json")
    weights = Path(cached).parent.name if isinstance(cached, str) else "local folder"
    return contract.source_of("transformers", Path(name).name if is_folder else name, None, weights, model)


def _built(model_class: Any, config: Any, wanted: Wanted, **options: Any) -> Any:
    if wanted.random_weights:
        return getattr(model_class, "from_config", model_class)(config, **options)
    model, info = model_class.from_pretrained(
        wanted.name, config=config, output_loading_info=True, dtype=torch.float32, **options
    )
    mismatched = [key[0] if isinstance(key, tuple) else key for key in info.get("mismatched_keys", ())]
    left_over = [key for key in info["unexpected_keys"] if not str(key).startswith(LEFT_OUT)]
    refuse_partial(wanted.name, [*info["missing_keys"], *mismatched], left_over)
    return model


def _transformers_text_tower(model: Any, name: str) -> Embed:
    """Return tokenizer and text tower as one function.

    They are those of a whole CLIP model: texts → (text, feature).
    """
    import transformers

    tokens_of = tokenizer(name, lambda: transformers.AutoTokenizer.from_pretrained(name))
    text = model.config.text_config
    if len(tokens_of) != text.vocab_size:  # without its files transformers makes an empty tokenizer, and says nothing
        raise MissingError(
            f"{name}: text tower has {text.vocab_size} tokens and the tokenizer {len(tokens_of)}; the tokenizer files "
            "of this checkpoint must be there",
            "place vocab.json and merges.txt, or tokenizer.json, in the checkpoint's folder",
        )

    def embed(texts: list[str]) -> Tensor:
        tokens = tokens_of(texts, padding=True, return_tensors="pt")
        refuse_long(texts, tokens["attention_mask"].sum(dim=1).tolist(), text.max_position_embeddings, name)
        return model.text_projection(model.text_model(**tokens).pooler_output)

    return embed


def transformers_contract(processor: Any, name: str) -> Fields:
    """Return an image processor's settings in the contract's fields.

    transformers resizes with Pillow, crops at (H − h) // 2 and pads with black.
    """
    size = dict(processor.size or {})
    crop = dict(getattr(processor, "crop_size", None) or {})
    given = {key for key, value in size.items() if value}
    crops = bool(getattr(processor, "do_center_crop", False))
    if given not in ({"shortest_edge"}, {"height", "width"}):
        raise CallError(f"{name}: size is {size}; it must have shortest_edge, or height and width", FIELDS_FILE)
    for step in ("do_resize", "do_rescale"):
        if not getattr(processor, step):
            raise CallError(f"{name}: {step} is off; the contract can only say that it is on", FIELDS_FILE)
    is_shortest = "shortest_edge" in given
    if is_shortest and not crops:
        raise CallError(f"{name}: do_center_crop is off; it must be on, or image sizes would vary", FIELDS_FILE)
    resized = [size["shortest_edge"]] * 2 if is_shortest else [size["height"], size["width"]]
    fields = {
        "size": [crop["height"], crop["width"]] if crops else resized,
        "resize_mode": "shortest" if is_shortest else "squash",
        "resize_size": resized,
        "interpolation": Image.Resampling(int(processor.resample)).name.lower(),
        "crop": "center" if crops else "none",
        "crop_rounding": "floor",
        "rescale": processor.rescale_factor,
    }
    if processor.do_normalize:
        for key, value in (("mean", processor.image_mean), ("std", processor.image_std)):
            fields[key] = [value] * 3 if isinstance(value, (int, float)) else value
    return checked_preprocessing(fields, name)


def with_text_head(module: nn.Module, outputs: Outputs, prompts: Prompts, model: Any, embed: Embed, name: str) -> Tower:
    """Give an image tower a text head. forward(image) returns its outputs and the class logits.

    logits = representation / ‖representation‖ · weightᵀ + bias; weight (class, feature) holds the logit scale.
    The representation itself stays as the tower gives it.

    Args:
        model: has the logit scale, and a logit bias where there is one.
    """
    weight, bias = text_head(prompts, embed, model.logit_scale, name), getattr(model, "logit_bias", None)
    head = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        head.weight.copy_(weight)
        if bias is not None:
            head.bias.fill_(float(bias.detach()))

    def classify(self: Any, image: Tensor) -> Rows:
        rows = self.tower(image)
        return *rows, self.head(nn.functional.normalize(rows[0], dim=-1))

    meaning = (
        f"zero-shot class logits: cosine of the normalised representation with {len(prompts.classes)} text embeddings "
        f"({len(prompts.templates)} templates averaged), times the logit scale"
    )
    return Wrapped(classify, tower=module, head=head), (*outputs, Output("logits", meaning, "logits"))


def text_head(prompts: Prompts, embed: Embed, logit_scale: Tensor, name: str) -> Tensor:
    """Return the weight (class, feature) of a zero-shot head.

    It is computed as CLIP's authors do: every class name in every template, each text embedding L2-normalised,
    averaged over the templates, normalised again (Radford et al. 2021, section 3.1.4), times e to the logit scale.

    Raises ExportError when an embedding is not finite or zero (3).
    """
    normalize = nn.functional.normalize
    texts = [text for each in prompts.classes for text in prompts.texts(each)]
    with torch.no_grad():
        parts = [embed(texts[i : i + TEXTS_A_BATCH]).float() for i in range(0, len(texts), TEXTS_A_BATCH)]
        rows = normalize(torch.cat(parts), dim=-1).reshape(len(prompts.classes), len(prompts.templates), -1)
        weight = normalize(rows.mean(1), dim=-1) * float(logit_scale.exp())
    if not bool(torch.isfinite(weight).all()) or bool((weight == 0).all(dim=1).any()):
        raise ExportError(f"{name}: text embeddings are zero or not finite; a head must be", "check the weights")
    return weight


def tokenizer(name: str, make: Callable[[], T]) -> T:
    """Return a tokenizer. The error for one that is not on this machine is ours (exit 4)."""
    with quiet() as messages:
        try:
            return make()
        except Exception as error:  # hub, file and parser errors of many libraries; translated, not lost
            raise MissingError(
                f"{name}: tokenizer of the text tower is not on this machine and could not be downloaded "
                f"({first_line(error)[:200]}){messages.quoted(1)}; --zero-shot needs it",
                "run the export once where there is a network, and copy $HF_HOME/hub here; or place tokenizer.json and "
                "tokenizer_config.json in the checkpoint's folder",
            ) from error


def refuse_long(texts: Sequence[str], lengths: Iterable[int], limit: int, name: str) -> None:
    """Refuse a prompt with too many tokens. The text tower reads fewer, and tokenizers cut the rest off."""
    for text, length in zip(texts, lengths, strict=True):
        if length > limit:
            raise CallError(
                f"{name}: prompt {text[:60]!r} has {length} tokens; the text tower reads {limit}",
                "shorten the class name or the template",
            )


def projected(encoder: nn.Module, projection: nn.Module) -> Wrapped:
    """Join an encoder and its projection: forward(image) returns (projected, pooled)."""

    def project(self: Any, image: Tensor) -> Rows:
        pooled = self.encoder(image)
        return self.projection(pooled), pooled

    return Wrapped(project, encoder=encoder, projection=projection)


def require_same(wrapper: nn.Module, model: nn.Module, size: Sequence[int], name: str) -> None:
    """Raise unless the wrapper's first output is the library's. It is what the library's own forward pass returns.

    Guards wrappers that spell out a library's forward pass to reach a tensor inside it; checked on two
    random images, relative to the largest value (1e-4: float32 in another order).
    """
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    runs = [run_eager(module, image, name) for module in (wrapper, model)]
    ours, theirs = (rows[0] if isinstance(rows, (tuple, list)) else rows for rows in runs)
    if ours.shape != theirs.shape or not bool((ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()):
        raise ExportError(
            f"{name}: representation differs from the library's own forward pass; "
            "this version of the library is not supported",
            "install the versions in constraints.txt",
        )

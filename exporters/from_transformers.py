"""Load a vision model of transformers. CLIP, SigLIP, DINOv2 or ViT, from the hub, its cache or a folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from huggingface_hub import try_to_load_from_cache
from PIL import Image
from torch import Tensor, nn

from .contract import FIELDS_FILE, Fields, Loaded, Output, Outputs, Source, Wanted, checked_preprocessing, state_digest
from .errors import CallError, ExportError, MissingError
from .wrappers import (
    EMBEDDING,
    Embed,
    Rows,
    Wrapped,
    classifier_outputs,
    from_hub,
    head_tap,
    loaded,
    loading,
    refuse_long,
    refuse_partial,
    tokenizer,
    with_text_head,
)

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
_CLIP = Family("CLIPVisionModelWithProjection", (EMBEDDING, _POOLED), _clip)
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
    name, prompts, folder = wanted.name, wanted.prompts, Path(wanted.name)
    if wanted.weights:
        raise CallError(
            f"{name}: weights is {wanted.weights}; a transformers name brings its own weights",
            "drop --weights, or give the folder as the name",
        )
    if name.startswith((".", "/", "~")) and not folder.is_dir():
        raise MissingError(
            f"{name}: folder is missing; the name must be a folder made by save_pretrained, or org/repo",
            f"place config.json, model.safetensors and preprocessor_config.json in {name}",
        )
    place = from_hub(name, "give a folder made by save_pretrained as the name")
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
            model = _model(transformers.AutoModelForImageClassification, config, wanted)
        else:
            if config.model_type == "clip":
                # CLIPModel takes the width from the outer configuration; the vision part alone may say another
                config.vision_config.projection_dim = config.projection_dim
            vision = getattr(config, "vision_config", config)
            # ViT's tanh pooler exists in some checkpoints only; a linear head reads the class token
            options = {"add_pooling_layer": False} if config.model_type == "vit" else {}
            model = _model(getattr(transformers, family.model_class), vision, wanted, **options)
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
        module, outputs = head_tap(Wrapped(_logits, model=model), "model.classifier"), classifier_outputs("classifier")
    if prompts is not None:
        with loading(name, place):
            whole = _model(transformers.CLIPModel, transformers.AutoConfig.from_pretrained(name), wanted).eval()
        module, outputs = with_text_head(module, outputs, prompts, whole, _text_tower(whole, name), name)
    cached = try_to_load_from_cache(name, "config.json") if not folder.is_dir() else None
    source = Source(
        library="transformers",
        name=folder.name if folder.is_dir() else name,
        weights=Path(cached).parent.name if isinstance(cached, str) else "local folder",  # the commit that was read
        weights_digest=state_digest(model),
    )
    return loaded(wanted, source, module, outputs, pixels, "transformers", "torchvision")


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


def _model(model_class: Any, config: Any, wanted: Wanted, **options: Any) -> Any:
    if wanted.random_weights:
        build = getattr(model_class, "from_config", model_class)
        return build(config, **options)
    model, info = model_class.from_pretrained(
        wanted.name, config=config, output_loading_info=True, dtype=torch.float32, **options
    )
    mismatched = [key[0] if isinstance(key, tuple) else key for key in info.get("mismatched_keys", ())]
    left_over = [key for key in info["unexpected_keys"] if not str(key).startswith(LEFT_OUT)]
    refuse_partial(wanted.name, [*info["missing_keys"], *mismatched], left_over)
    return model


def _text_tower(model: Any, name: str) -> Embed:
    """Return tokenizer and text tower as one function.

    They are those of a whole CLIP model: texts → (text, feature).
    """
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

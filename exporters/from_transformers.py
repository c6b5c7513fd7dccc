"""Load vision models of transformers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from . import CallError, ExportError, MissingError, contract
from .contract import Loaded, ModelSource, Output, Outputs, Wanted
from .loading import from_hub, loading, refuse_partial
from .preprocessing import FIELDS_FILE, Fields, checked_preprocessing
from .wrappers import Rows, Wrapped, head_tap
from .zero_shot import Embed, refuse_long, tokenizer, with_text_head

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

    name = wanted.name
    prompts = wanted.prompts
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
    place = from_hub(name, "give a folder made by save_pretrained as the name")
    with loading(name, place):
        config = transformers.AutoConfig.from_pretrained(name)
        family = _family(config, name)
        if prompts is not None and config.model_type != "clip":
            raise CallError(
                f"{name}: model type is {config.model_type}; --zero-shot is for clip, which has a text tower",
                "drop --zero-shot",
            )
        architectures = config.architectures or ()
        is_classifier = any(str(each).endswith("ForImageClassification") for each in architectures)
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
    module = Wrapped(family.read, model=model.eval())
    outputs = family.outputs
    if is_classifier:
        module = head_tap(Wrapped(_logits, model=model), "model.classifier")
        outputs = contract.classifier_outputs("classifier")
    if prompts is not None:
        with loading(name, place):
            whole = _built(transformers.CLIPModel, transformers.AutoConfig.from_pretrained(name), wanted).eval()
        embed = _transformers_text_tower(whole, name)
        module, outputs = with_text_head(module, outputs, prompts, whole, embed, name)
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


def _transformers_source(name: str, model: nn.Module) -> ModelSource:
    """Return where a model came from, with the commit of a repository that was read."""
    from huggingface_hub import try_to_load_from_cache

    weights = "local folder"
    folder = Path(name)
    if folder.is_dir():
        name = folder.name
    else:
        cached = try_to_load_from_cache(name, "config.json")
        if isinstance(cached, str):
            weights = Path(cached).parent.name
    return contract.source_of("transformers", name, None, weights, model)


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
    """Return tokenizer and text tower of a whole CLIP model as one function, texts → (text, feature)."""
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
    resized = size["shortest_edge"] if is_shortest else [size["height"], size["width"]]
    fields = {
        "size": resized,
        "resize_mode": "shortest" if is_shortest else "squash",
        "resize_size": resized,
        "interpolation": Image.Resampling(int(processor.resample)).name.lower(),
        "crop": "none",
        "crop_rounding": "floor",
        "rescale": processor.rescale_factor,
    }
    if crops:
        crop = dict(processor.crop_size)
        fields |= {"size": [crop["height"], crop["width"]], "crop": "center"}
    if processor.do_normalize:
        fields |= {"mean": processor.image_mean, "std": processor.image_std}
    return checked_preprocessing(fields, name)

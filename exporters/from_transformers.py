"""Loads a transformers vision model (CLIP, SigLIP, DINOv2, ViT) from the hub, its cache or a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import try_to_load_from_cache
from PIL import Image
from torch import Tensor, nn

from . import loading, preprocess
from .contract import Loaded, Output, Source, checked_preprocessing
from .errors import ENVIRONMENT, USAGE, ExportError
from .messages import quiet
from .wrappers import HeadTap, Rows, ZeroShot
from .zero_shot import Prompts, refuse_long, text_head, tokenizer_error, zero_shot_meaning

PACKAGES = ("transformers", "torchvision")
EMBEDDING = Output("representation", "projected image embedding", "encoder_output")
CLASS_TOKEN = Output("representation", "class token after the last norm", "encoder_output")
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


@dataclass(frozen=True, slots=True)
class Family:
    """How one model_type is loaded: class name, the outputs of its wrapper, and constructor options."""

    model_class: str
    outputs: tuple[Output, ...]
    forward: Callable[[Any, Tensor], Rows]
    options: tuple[tuple[str, Any], ...] = ()


def _clip(model: Any, image: Tensor) -> Rows:
    pooled = model.vision_model(pixel_values=image).pooler_output
    return model.visual_projection(pooled), pooled


def _pooler_output(model: Any, image: Tensor) -> Rows:
    return (model(pixel_values=image).pooler_output,)


def _class_token(model: Any, image: Tensor) -> Rows:
    return (model(pixel_values=image).last_hidden_state[:, 0],)


_CLIP = Family(
    "CLIPVisionModelWithProjection",
    (EMBEDDING, Output("pooled", "class token after the last norm, before the projection", "pooled")),
    _clip,
)
_SIGLIP = Family(
    "SiglipVisionModel",
    (Output("representation", "attention pool of the tokens: the image embedding", "encoder_output"),),
    _pooler_output,
)
FAMILIES: dict[str, Family] = {
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "dinov2": Family("Dinov2Model", (CLASS_TOKEN,), _pooler_output),
    "dinov2_with_registers": Family("Dinov2WithRegistersModel", (CLASS_TOKEN,), _pooler_output),
    # its tanh pooler exists in some checkpoints only; a linear head reads the class token
    "vit": Family("ViTModel", (CLASS_TOKEN,), _class_token, (("add_pooling_layer", False),)),
}


class Encoder(nn.Module):
    """A transformers model behind one function (model, image) → tuple of (batch, feature)."""

    def __init__(self, model: nn.Module, read: Callable[[Any, Tensor], Rows]) -> None:
        super().__init__()
        self.model = model
        self.read = read

    def forward(self, image: Tensor) -> Rows:
        """Return what the family's function reads."""
        return self.read(self.model, image)


class Logits(nn.Module):
    """A transformers classifier whose forward(image) returns the logits tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.model(pixel_values=image).logits
        return logits


def load(
    name: str,
    *,
    weights: str | None = None,
    random_weights: bool = False,
    preprocessing: dict[str, Any] | None = None,
    prompts: Prompts | None = None,
) -> Loaded:
    """Load the vision model of a transformers repository or folder.

    CLIP gives the projected embedding and what goes into the projection, SigLIP its attention pool,
    DINOv2 and ViT the class token after the last norm; a classifier (...ForImageClassification) the input
    of its last linear layer and the logits.

    Args:
        name: "org/repo" (hub or its cache) or a folder made by save_pretrained.
        weights: not used here; the name brings its own.
        preprocessing: replaces the repository's preprocessor_config.json.
        prompts: CLIP only: class names and templates; the text tower makes a classifier's head of them, output
            "logits".

    Raises:
        ExportError: another model type, or `weights` given (exit 2); weights missing or left over (3); not
            reachable (4).
    """
    if weights:
        raise ExportError(
            f"{name}: weights is {weights}; a transformers name brings its own weights",
            "drop --weights, or give the folder as the name",
            exit_code=USAGE,
        )
    if name.startswith((".", "/", "~")) and not Path(name).is_dir():
        raise ExportError(
            f"{name}: folder is missing; the name must be a folder made by save_pretrained, or org/repo",
            f"place config.json, model.safetensors and preprocessor_config.json in {name}",
            exit_code=ENVIRONMENT,
        )
    place = (
        f"run `hf download {name}` where there is a network and copy models--{name.replace('/', '--')} into "
        "$HF_HOME/hub here, or give a folder made by save_pretrained as the name"
    )
    with quiet() as messages, loading.seeded():
        try:
            config = transformers.AutoConfig.from_pretrained(name)
            family = _family(config, name)
            if prompts is not None and config.model_type != "clip":
                raise ExportError(
                    f"{name}: model type is {config.model_type}; --zero-shot is for clip, which has a text tower",
                    "drop --zero-shot",
                    exit_code=USAGE,
                )
            model = _model(config, family, name, random_weights)
            processor = None
            if preprocessing is None:
                processor = transformers.AutoImageProcessor.from_pretrained(name, backend="pil")
        except Exception as error:  # OSError, ValueError and more for "not found"; translated, not lost
            raise loading.load_error(error, name, place=place, messages=messages) from error
    fields = preprocessing if preprocessing is not None else as_contract(processor, name)
    model = model.eval()
    if _is_classifier(config):
        module: nn.Module = HeadTap(Logits(model), "model.classifier")
        outputs: tuple[Output, ...] = (
            Output("representation", "input of classifier, the last linear layer", "head_input"),
            Output("logits", "class logits", "logits"),
        )
    else:
        module, outputs = Encoder(model, family.forward), family.outputs
    if prompts is not None:
        module = ZeroShot(module, _text_head(name, prompts, random_weights, place), None)
        outputs = (*outputs, Output("logits", zero_shot_meaning(prompts), "logits"))
    local = Path(name).is_dir()
    return Loaded(
        module=module,
        outputs=outputs,
        preprocessing=fields,
        transform=preprocess.as_transform(fields) if processor is None else _transform(processor),
        source=Source(
            library="transformers",
            name=Path(name).name if local else name,
            weights="" if random_weights else _revision(name),
            weights_digest=loading.state_digest(model),
            random_weights=random_weights,
        ),
        packages=PACKAGES,
        zero_shot=prompts,
    )


def _text_head(name: str, prompts: Prompts, random_weights: bool, place: str) -> Tensor:
    """The head's weight, from the whole CLIP model and the tokenizer of the same repository or folder.

    The image tower is loaded by itself, so that an export with a head has the same image path as one without.
    """
    with quiet() as messages, loading.seeded():
        try:
            if random_weights:
                model = transformers.CLIPModel(transformers.AutoConfig.from_pretrained(name))
            else:
                model, info = transformers.CLIPModel.from_pretrained(
                    name, output_loading_info=True, dtype=torch.float32
                )
                loading.refuse_partial(name, info["missing_keys"], info["unexpected_keys"])
        except Exception as error:  # OSError, ValueError and more for "not found"; translated, not lost
            raise loading.load_error(error, name, place=place, messages=messages) from error
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(name)
        except Exception as error:  # hub, file and parser errors; translated, not lost
            raise tokenizer_error(error, name, messages) from error
    model = model.eval()
    limit = model.config.text_config.max_position_embeddings
    vocabulary = model.config.text_config.vocab_size
    if len(tokenizer) != vocabulary:  # without its files transformers makes an empty tokenizer, and says nothing
        raise ExportError(
            f"{name}: text tower has {vocabulary} tokens and the tokenizer {len(tokenizer)}; the tokenizer files of "
            "this checkpoint must be there",
            "place vocab.json and merges.txt, or tokenizer.json, in the checkpoint's folder",
            exit_code=ENVIRONMENT,
        )

    def embed(texts: list[str]) -> Tensor:
        tokens = tokenizer(texts, padding=True, return_tensors="pt")
        refuse_long(texts, tokens["attention_mask"].sum(dim=1).tolist(), limit, name)
        embedding: Tensor = model.text_projection(model.text_model(**tokens).pooler_output)
        return embedding

    return text_head(prompts, embed, logit_scale=float(model.logit_scale.detach().exp()), name=name)


def as_contract(processor: Any, name: str) -> dict[str, Any]:
    """Return an image processor's settings in the contract's fields.

    transformers resizes with Pillow, crops at (H − h) // 2 and pads with black.
    """
    size = dict(processor.size or {})
    crop = dict(getattr(processor, "crop_size", None) or {})
    given = {key for key, value in size.items() if value}
    if given == {"shortest_edge"}:
        mode, resized = "shortest", [size["shortest_edge"]] * 2
    elif given == {"height", "width"}:
        mode, resized = "squash", [size["height"], size["width"]]
    else:
        raise ExportError(
            f"{name}: size is {size}; it must have shortest_edge, or height and width", _FILE, exit_code=USAGE
        )
    needed = {"do_resize": processor.do_resize, "do_rescale": processor.do_rescale}
    if off := [step for step, on in needed.items() if not on]:
        raise ExportError(f"{name}: {off[0]} is off; the contract can only say that it is on", _FILE, exit_code=USAGE)
    crops = bool(getattr(processor, "do_center_crop", False))
    if not crops and mode == "shortest":
        raise ExportError(
            f"{name}: do_center_crop is off; it must be on, or image sizes would vary", _FILE, exit_code=USAGE
        )
    normalises = bool(processor.do_normalize)
    return checked_preprocessing(
        {
            "size": [crop["height"], crop["width"]] if crops else resized,
            "resize_mode": mode,
            "resize_size": resized,
            "interpolation": Image.Resampling(int(processor.resample)).name.lower(),
            "crop": "center" if crops else "none",
            "crop_rounding": "floor",
            "rescale": processor.rescale_factor,
            "mean": _three(processor.image_mean) if normalises else [0.0] * 3,
            "std": _three(processor.image_std) if normalises else [1.0] * 3,
        },
        name,
    )


_FILE = 'give it with --preprocessing FILE (see the page "The ONNX contract")'


def _revision(name: str) -> str:
    """Return the commit of the hub's cache that was read, "local folder" for a folder."""
    cached = try_to_load_from_cache(name, "config.json") if not Path(name).is_dir() else None
    return Path(cached).parent.name if isinstance(cached, str) else "local folder"


def _three(value: float | Sequence[float]) -> list[float]:
    return [float(value)] * 3 if isinstance(value, (int, float)) else [float(v) for v in value]


def _is_classifier(config: Any) -> bool:
    return any(str(a).endswith("ForImageClassification") for a in config.architectures or ())


def _family(config: Any, name: str) -> Family:
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise ExportError(
            f"{name}: model type is {config.model_type}; it must be one of {', '.join(FAMILIES)}",
            "export it with `robustcheck export torch package.module:factory`",
            exit_code=USAGE,
        )
    vision = getattr(config, "vision_config", config)
    if family is _SIGLIP and getattr(vision, "vision_use_head", True) is False:
        raise ExportError(f"{name}: vision_use_head is false; there is no pooled representation")
    return family


def _model(config: Any, family: Family, name: str, random_weights: bool) -> Any:
    from_config = _is_classifier(config)
    options: dict[str, Any] = {}
    if from_config:
        model_class: Any = transformers.AutoModelForImageClassification
    else:
        model_class = getattr(transformers, family.model_class)
        options = dict(family.options)
        if config.model_type == "clip":
            # CLIPModel takes the width from the outer configuration; the vision part alone may say another
            config.vision_config.projection_dim = config.projection_dim
        config = getattr(config, "vision_config", config)
    if random_weights:
        return model_class.from_config(config) if from_config else model_class(config, **options)
    model, info = model_class.from_pretrained(
        name, config=config, output_loading_info=True, dtype=torch.float32, **options
    )
    mismatched = [key[0] if isinstance(key, tuple) else key for key in info.get("mismatched_keys", ())]
    left_over = [key for key in info["unexpected_keys"] if not str(key).startswith(LEFT_OUT)]
    loading.refuse_partial(name, [*info["missing_keys"], *mismatched], left_over)
    return model


def _transform(processor: Any) -> Callable[[Image.Image], Tensor]:
    def transform(image: Image.Image) -> Tensor:
        pixel_values: Tensor = processor(images=image, return_tensors="pt")["pixel_values"]
        return pixel_values[0]

    return transform

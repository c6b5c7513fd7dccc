"""Forms by the layout that a library or a hub gives: several inputs and outputs, and where the files lie."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from .encoder import FEATURES, PLANTED_FEATURE, PLANTED_SD, PREPROCESSING, photos, plant
from .form import EMBEDDING, Form, changed, encoder, export, exported, plain, warns
from .precisions import made_dynamic, static

DUAL = ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds")  # optimum's order
VISION = ("last_hidden_state", "pooler_output")
TOKENS = 16  # of a text
SMALL = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 4}
TEXT = {"num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 100, "max_position_embeddings": TOKENS}
TEXT |= {"bos_token_id": 98, "eos_token_id": 99}
PIXELS = {"image_size": 64, "patch_size": 16, "attn_implementation": "eager"}
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
    yield from _dual_encoders()
    yield from _vision_models()
    yield from _hub()


# ------------------------------------------------------------------------------- image and text in one file


class Dual(nn.Module):
    """An image and a text encoder, and their cosines × 100, with the inputs and outputs of transformers' CLIP."""

    def __init__(self, outputs: Sequence[str] = DUAL) -> None:
        super().__init__()
        self.image, self.words, self.outputs = encoder(), nn.Embedding(100, FEATURES).requires_grad_(False), outputs

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        weights = attention_mask[:, :, None].float()
        text = nn.functional.normalize((self.words(input_ids) * weights).sum(1) / weights.sum(1))
        image = nn.functional.normalize(self.image(pixel_values))
        scores = 100 * image @ text.T
        made = {
            "logits_per_image": scores, "logits_per_text": scores.T, "text_embeds": text, "image_embeds": image,
        }  # fmt: skip
        return tuple(made[name] for name in self.outputs)


class _Outputs(nn.Module):
    """A model of transformers, with some of its outputs as a tuple."""

    def __init__(self, model: nn.Module, outputs: Sequence[str]) -> None:
        super().__init__()
        self.model, self.outputs = model, outputs

    def forward(self, pixel_values: Tensor, input_ids: Any = None, attention_mask: Any = None) -> tuple[Tensor, ...]:
        named = {"input_ids": input_ids, "attention_mask": attention_mask}
        made = self.model(
            pixel_values=pixel_values, **{key: value for key, value in named.items() if value is not None}
        )
        return tuple(made[name] for name in self.outputs)


def _dual(
    module: Callable[[], nn.Module], outputs: Sequence[str] = DUAL, *, mask: bool = True, **options: Any
) -> Callable[[Path], None]:
    ids = torch.randint(0, 97, (2, TOKENS))
    ids[:, -1] = 99  # the end of the text, where CLIP reads
    more = [("input_ids", ids), *([("attention_mask", torch.ones(2, TOKENS, dtype=torch.int64))] if mask else [])]
    return exported(of=module, outputs=outputs, more=more, **options)


def _dual_encoders() -> Iterator[Form]:
    what = "pixel_values, input_ids, attention_mask"
    yield Form("image and text", what, _dual(Dual))
    yield Form("image and text, dynamo", what, _dual(Dual, dynamo=True))
    first = ("image_embeds", "text_embeds", "logits_per_image")
    yield Form("image and text, embeddings first", what, _dual(lambda: Dual(first), first))
    scores = ("logits_per_image",)
    yield Form(
        "image and text, scores alone",
        what,
        _dual(lambda: Dual(scores), scores),
        ("PASS", "exit 3"),
        "no output needs only the image",
        says="pixel_values",
    )
    yield Form("image and text, --tensor image_embeds", what, _dual(Dual), arguments=("--tensor", "image_embeds"))
    yield Form("image and text, static int8", f"{what}; the image encoder by quantize_static", _dual_int8(static()))
    yield Form("CLIP of transformers", f"CLIPModel: {what}", _dual(lambda: _Outputs(_clip(), DUAL)))
    yield Form(
        "CLIP of transformers, dynamo", f"CLIPModel: {what}", _dual(lambda: _Outputs(_clip(), DUAL), dynamo=True)
    )
    yield Form("SigLIP of transformers", f"SiglipModel: {what}", _dual(lambda: _Outputs(_siglip(), DUAL)), features=384)
    yield Form(
        "SigLIP of transformers, no mask",
        "SiglipModel: pixel_values, input_ids",
        _dual(lambda: _Outputs(_siglip(), DUAL), mask=False),
        features=384,
    )
    yield Form("an input that nothing reads", "pixel_values, input_ids", changed(_unread_input))


def _dual_int8(make: Callable[[Path], None]) -> Callable[[Path], None]:
    """The quantised plain form with a text encoder and scores beside it."""

    def both(folder: Path) -> None:
        make(folder)
        model = onnx.load(folder / "model.onnx")
        module = Dual(("text_embeds",))
        ids, mask = torch.zeros(2, TOKENS, dtype=torch.int64), torch.ones(2, TOKENS, dtype=torch.int64)
        text = _Text(module)
        export(
            text,
            folder / "text.onnx",
            outputs=("text_embeds",),
            image=ids,
            image_name="input_ids",
            more=[("attention_mask", mask)],
        )
        merged = onnx.compose.merge_models(
            model, onnx.compose.add_prefix(onnx.load(folder / "text.onnx"), "text/"), io_map=[]
        )
        merged.graph.node.extend(
            [
                helper.make_node("Transpose", ["text/text_embeds"], ["text_turned"]),
                helper.make_node("MatMul", [EMBEDDING, "text_turned"], ["logits_per_image"]),
            ]
        )
        merged.graph.output.append(helper.make_tensor_value_info("logits_per_image", TensorProto.FLOAT, ["n", "m"]))
        onnx.save(merged, folder / "model.onnx")
        (folder / "text.onnx").unlink()

    return both


class _Text(nn.Module):
    def __init__(self, dual: Dual) -> None:
        super().__init__()
        self.words = dual.words

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        weights = attention_mask[:, :, None].float()
        return nn.functional.normalize((self.words(input_ids) * weights).sum(1) / weights.sum(1))


def _unread_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", TOKENS]))


# ---------------------------------------------------------------------------------- classes of transformers


def _seeded(model: nn.Module) -> nn.Module:
    """Give a model weights at which its representation depends on the image; transformers' own are too small."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
        elif isinstance(module, nn.LayerNorm):
            nn.init.normal_(module.bias, std=0.5)
    return model.eval().requires_grad_(False)


@cache
def _clip() -> nn.Module:
    from transformers import CLIPConfig, CLIPModel

    text = TEXT | {"hidden_size": 64, "intermediate_size": 128}
    configuration = CLIPConfig(
        vision_config=SMALL | PIXELS, text_config=text, projection_dim=FEATURES, attn_implementation="eager"
    )
    model = _seeded(CLIPModel(configuration))
    pooled = model.vision_model(pixel_values=torch.from_numpy(photos())).pooler_output
    model.visual_projection.weight = nn.Parameter(plant(pooled).T.contiguous(), requires_grad=False)
    return model


@cache
def _siglip() -> nn.Module:
    from transformers import SiglipConfig, SiglipModel

    vision = SMALL | PIXELS | {"hidden_size": 384}
    text = TEXT | {"hidden_size": 384, "intermediate_size": 128, "projection_size": 384, "num_attention_heads": 4}
    model = _seeded(SiglipModel(SiglipConfig(vision_config=vision, text_config=text, attn_implementation="eager")))
    last = model.vision_model.head.mlp.fc2
    pooled = model.vision_model(pixel_values=torch.from_numpy(photos())).pooler_output
    last.bias[PLANTED_FEATURE] += PLANTED_SD * pooled.std(1).mean()
    return model


def _vision_models() -> Iterator[Form]:
    tokens = "last_hidden_state, pooler_output"
    normed = "its class token is a LayerNorm's output"
    yield Form(
        "CLIPVisionModelWithProjection",
        "image_embeds, last_hidden_state",
        exported(of=_Projected, outputs=(EMBEDDING, "last_hidden_state")),
    )
    yield Form(
        "CLIPVisionModelWithProjection, one output", "image_embeds", exported(None, lambda made: made[0], of=_Projected)
    )
    yield warns(
        "CLIPVisionModel",
        tokens,
        exported(of=lambda: _Outputs(_clip().vision_model, VISION), outputs=VISION),
        "pooler_output is a LayerNorm's output",
        "end_not_calibrated",
    )
    yield Form(
        "SiglipVisionModel",
        tokens,
        exported(of=lambda: _Outputs(_siglip().vision_model, VISION), outputs=VISION),
        features=384,
    )
    for name in ("ViTModel", "Dinov2Model"):
        reasons = ("end_not_calibrated",)
        yield warns(
            name,
            f"{tokens}{', which goes through Tanh' if name == 'ViTModel' else ''}",
            exported(of=lambda n=name: _Outputs(_vision(n), VISION), outputs=VISION),
            normed,
            *reasons,
        )
        yield warns(
            f"{name}, dynamo",
            tokens,
            exported(of=lambda n=name: _Outputs(_vision(n), VISION), outputs=VISION, dynamo=True),
            normed,
            *reasons,
        )
        yield warns(
            f"{name}, tokens alone",
            "last_hidden_state",
            exported(of=lambda n=name: _Outputs(_vision(n), VISION[:1]), outputs=VISION[:1]),
            normed,
            *reasons,
        )
    yield warns(
        "ViTForImageClassification",
        "logits",
        exported(of=lambda: _Outputs(_vision("ViTForImageClassification"), ("logits",)), outputs=("logits",)),
        "its head reads a LayerNorm's output",
        "end_not_calibrated",
    )


class _Projected(nn.Module):
    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        made = _clip().vision_model(pixel_values=pixel_values)
        return _clip().visual_projection(made.pooler_output), made.last_hidden_state


@cache
def _vision(name: str) -> nn.Module:
    import transformers

    configuration = getattr(transformers, re.split("Model|For", name)[0] + "Config")
    return _seeded(getattr(transformers, name)(configuration(**(SMALL | PIXELS | {"hidden_size": 384}))))


# ------------------------------------------------------------------------------------------- a hub's folders


def _hub() -> Iterator[Form]:
    root = "preprocessor_config.json in the root, onnx/ below it"
    for name in ("model.onnx", "model_fp16.onnx", "model_quantized.onnx"):
        more = ("--batch-size", "1") if name == "model_quantized.onnx" else ()
        yield _hub_form(f"a hub's onnx/{name}", root, lambda f, n=name: _repository(f) / n, more)
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
        _Text(Dual()),
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

"""Forms by the inputs and outputs that libraries give: image and text in one file, and the classes of transformers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from .encoder import FEATURES, PLANTED_FEATURE, PLANTED_SD, SHARP, photos, plant
from .form import EMBEDDING, Form, changed, encoder, export, exported, warns
from .precisions import static

DUAL = ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds")  # optimum's order
VISION = ("last_hidden_state", "pooler_output")
TOKENS = 16  # of a text
SMALL = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {"num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 100, "max_position_embeddings": TOKENS}
TEXT |= {"bos_token_id": 98, "eos_token_id": 99}
PIXELS = {"image_size": 64, "patch_size": 16, "attn_implementation": "eager"}


def forms() -> Iterator[Form]:
    """Every form of this kind."""
    yield from _dual_encoders()
    yield from _vision_models()


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
        text = Text(module)
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


class Text(nn.Module):
    """The text encoder alone."""

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
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            factor = SHARP if name.endswith(("q_proj", "k_proj")) else 1.0
            nn.init.normal_(module.weight, std=factor * module.weight[0].numel() ** -0.5)
        elif isinstance(module, nn.LayerNorm):
            nn.init.normal_(module.bias, std=0.1)
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
            exported(of=partial(_outputs_of, name, VISION), outputs=VISION),
            normed,
            *reasons,
        )
        yield warns(
            f"{name}, dynamo",
            tokens,
            exported(of=partial(_outputs_of, name, VISION), outputs=VISION, dynamo=True),
            normed,
            *reasons,
        )
        yield warns(
            f"{name}, tokens alone",
            "last_hidden_state",
            exported(of=partial(_outputs_of, name, VISION[:1]), outputs=VISION[:1]),
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
    def __init__(self) -> None:
        super().__init__()
        self.clip = _clip()

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        made = self.clip.vision_model(pixel_values=pixel_values)
        return self.clip.visual_projection(made.pooler_output), made.last_hidden_state


@cache
def _outputs_of(name: str, outputs: Sequence[str]) -> nn.Module:
    return _Outputs(_vision(name), outputs)


def _vision(name: str) -> nn.Module:
    import transformers

    configuration = getattr(transformers, re.split("Model|For", name)[0] + "Config")
    return _seeded(getattr(transformers, name)(configuration(**(SMALL | PIXELS | {"hidden_size": 384}))))

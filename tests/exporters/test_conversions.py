"""The same weights exported from two libraries compare as the same model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustcheck_onnx.checker.compare.run import compare
from robustcheck_onnx.exporters.run import run
from support import PHOTOS
from support.lazy import open_clip, torch, transformers

WIDTH, LAYERS, FEATURES, STRONG = 64, 2, 384, 7
VISION = {"image_size": 32, "layers": LAYERS, "width": WIDTH, "head_width": 32, "patch_size": 8}
TEXT = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1}


def open_clip_folder(folder: Path) -> dict[str, Any]:
    """A CLIP tower with random weights whose projection makes one feature stand out; its state dict."""
    from safetensors.torch import save_file

    config = {"embed_dim": FEATURES, "vision_cfg": VISION, "text_cfg": TEXT}
    torch.manual_seed(5)
    model = open_clip.model.CLIP(**config).eval()
    with torch.no_grad():
        for weight in model.visual.parameters():
            weight.add_(0.3 * torch.randn_like(weight) * weight.numel() ** -0.25)
        model.visual.ln_post.bias.fill_(0.5)
        model.visual.proj.copy_(torch.randn(WIDTH, FEATURES) / WIDTH**0.5)
        model.visual.proj[:, STRONG] += 0.5
    folder.mkdir()
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    preprocess = {"mean": mean, "std": std, "interpolation": "bicubic", "resize_mode": "shortest"}
    text = json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
    (folder / "open_clip_config.json").write_text(text)
    state: dict[str, Any] = model.state_dict()
    save_file(state, folder / "open_clip_model.safetensors")
    return state


def transformers_folder(folder: Path, state: dict[str, Any]) -> None:
    """The same vision tower under transformers' names."""
    config = transformers.CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=LAYERS, num_attention_heads=2, image_size=32,
        patch_size=8, projection_dim=FEATURES, hidden_act="gelu",
    )  # fmt: skip
    names = {
        "class_embedding": "embeddings.class_embedding",
        "positional_embedding": "embeddings.position_embedding.weight",
        "conv1.weight": "embeddings.patch_embedding.weight",
    }
    for kind in ("weight", "bias"):
        names |= {f"ln_pre.{kind}": f"pre_layrnorm.{kind}", f"ln_post.{kind}": f"post_layernorm.{kind}"}
        for layer in range(LAYERS):
            ours, theirs = f"transformer.resblocks.{layer}", f"encoder.layers.{layer}"
            parts = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj"}
            parts |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
            names |= {f"{ours}.{a}.{kind}": f"{theirs}.{b}.{kind}" for a, b in parts.items()}
    converted = {f"vision_model.{theirs}": state[f"visual.{ours}"] for ours, theirs in names.items()}
    for layer in range(LAYERS):
        for kind in ("weight", "bias"):
            joined = state[f"visual.transformer.resblocks.{layer}.attn.in_proj_{kind}"]
            for name, part in zip("qkv", joined.chunk(3), strict=True):
                converted[f"vision_model.encoder.layers.{layer}.self_attn.{name}_proj.{kind}"] = part.contiguous()
    converted["visual_projection.weight"] = state["visual.proj"].T.contiguous()
    model = transformers.CLIPVisionModelWithProjection(config)
    model.load_state_dict(converted)
    model.save_pretrained(folder)
    processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(folder)


@pytest.mark.long
def test_open_clip_and_transformers_exports_of_the_same_weights(tmp_path: Path) -> None:
    state = open_clip_folder(tmp_path / "open_clip")
    transformers_folder(tmp_path / "transformers", state)
    for source, name in (("open_clip", f"local-dir:{tmp_path / 'open_clip'}"), ("transformers", "transformers")):
        target = str(tmp_path / name) if source == "transformers" else name
        run(source, target, tmp_path / f"{source}.onnx", photos=PHOTOS[:5])
    report = compare(tmp_path / "transformers.onnx", tmp_path / "open_clip.onnx", device="cpu", max_images=64)
    assert {feature.index: feature.fate for feature in report.features} == {STRONG: "kept"}
    assert report.similarity is not None
    # the libraries round the crop's offset to different sides, so that some photos are moved by a pixel
    assert (report.similarity.cosine_change or 0) < 0.02
    for change in report.statistics:
        assert change.candidate is not None
        assert change.reference is not None
        np.testing.assert_allclose(change.candidate, change.reference, rtol=0.05)
    # a random tower makes much the same of every photo; what matters here: the same is said of both, and of no loss
    alone = {"constant_feature", "little_content", "representations_alike"}
    seen = [{reason.id for reason in side.verdict.reasons} for side in (report.candidate, report.reference)]
    assert seen == [alone, alone]
    assert {reason.id for reason in report.verdict.reasons} == alone | {"reference_without_indication"}
    assert {change.keeps for change in report.statistics} <= {"kept", "not required"}

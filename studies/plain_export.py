"""Exports an architecture with random weights as a stranger would, and keeps the library's own representation.

Part of studies/sweep.py: no contract, no metadata, torch's legacy exporter (its new one where that fails).
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

OPSET = 17
THREADS = 2
N_IMAGES = 2
OUTPUTS = {"timm": "output0", "torchvision": "output", "open_clip": "image_embeds"}
"""Name of the output: timm's own script's, the tutorials', and that of CLIP's exports on the hub."""


def export(library: str, name: str, options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write model.onnx, pixels.npy (image, height, width, 3) and wanted.npy (image, feature) into `folder`.

    Returns the facts for the record: exporter, seconds, size of the file (MB) and of its input.
    """
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    start = time.perf_counter()
    model, size = MAKERS[library](name, options)
    model.eval()
    _move_off_zero(model)
    if library == "timm" and _is_projected(model, name, "clip"):
        _zero_bias(model.get_classifier())
    image = torch.randn(N_IMAGES, 3, *size, generator=torch.Generator().manual_seed(1))
    torch.backends.mha.set_fastpath_enabled(False)
    with torch.no_grad():
        wanted = WANTED[library](model, name, image)
        module = Encoder(model).eval() if library == "open_clip" else model
        path = folder / "model.onnx"
        exporter, why_not = _write(module, image, path, OUTPUTS[library])
    wanted = wanted.flatten(2).mean(-1) if wanted.ndim == 4 else wanted.flatten(1)
    np.save(folder / "wanted.npy", wanted.float().numpy())
    np.save(folder / "pixels.npy", image.permute(0, 2, 3, 1).numpy())
    size_mb = sum(file.stat().st_size for file in folder.glob("model*")) / 1e6
    facts = {
        "exporter": exporter,
        "export_s": round(time.perf_counter() - start, 1),
        "size_mb": round(size_mb, 1),
        "input": list(size),
        "wanted_width": wanted.shape[1],
    }
    return facts | ({"legacy_failed": why_not} if why_not else {})


class Encoder(nn.Module):
    """The image side of an open_clip model: forward(image) is encode_image(image), without normalisation."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return _first(self.model.encode_image(image) if hasattr(self.model, "encode_image") else self.model(image))


def _timm(name: str, options: dict[str, Any]) -> tuple[nn.Module, tuple[int, int]]:
    import timm

    arguments = {key: value for key, value in options.items() if key != "size"}
    model = timm.create_model(name, pretrained=False, exportable=True, **arguments)
    size = (
        options.get("size") or options.get("img_size") or timm.data.resolve_model_data_config(model)["input_size"][1:]
    )
    return model, (size, size) if isinstance(size, int) else tuple(size)


def _is_projected(model: Any, name: str, words: str) -> bool:
    """Whether timm's name or tag has one of `words` (a pattern) and tells of no finetuning with labels."""
    label = f"{name} {model.pretrained_cfg.get('tag')}"
    return bool(re.search(words, label)) and not re.search(r"in(1k|12k|21k|22k)", label)


def _torchvision(name: str, options: dict[str, Any]) -> tuple[nn.Module, tuple[int, int]]:
    import torchvision

    aside = {"aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    edge = 299 if name == "inception_v3" else 224
    return torchvision.models.get_model(name, weights=None, **aside, **options), (edge, edge)


def _open_clip(name: str, options: dict[str, Any]) -> tuple[nn.Module, tuple[int, int]]:
    import open_clip
    from open_clip.model import CLIPVisionCfg, _build_vision_tower

    config = open_clip.get_model_config(name)
    edge = config["vision_cfg"].get("image_size", 224)
    if "hf_model_name" in config["text_cfg"]:  # its text tower needs a network; encode_image is the image tower alone
        vision = CLIPVisionCfg(**config["vision_cfg"])
        model = _build_vision_tower(config["embed_dim"], vision, config.get("quick_gelu", False))
    else:
        model = open_clip.create_model(name, load_weights=False)
    return model, (edge, edge) if isinstance(edge, int) else tuple(edge)


def _wanted_timm(model: Any, name: str, image: torch.Tensor) -> torch.Tensor:
    if _is_projected(model, name, "clip|pe_core"):
        return model(image)  # what stands in the classifier's place is the projection of an image-text model
    return model.forward_head(model.forward_features(image), pre_logits=True)


def _wanted_torchvision(model: nn.Module, name: str, image: torch.Tensor) -> torch.Tensor:
    """The input of the last linear layer; of the last convolution where there is none (SqueezeNet)."""
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    last = (linear or [module for module in model.modules() if isinstance(module, nn.Conv2d)])[-1]
    seen: list[torch.Tensor] = []
    handle = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(image)
    handle.remove()
    return seen[0]


def _wanted_open_clip(model: Any, name: str, image: torch.Tensor) -> torch.Tensor:
    return Encoder(model)(image)


def _first(value: Any) -> torch.Tensor:
    return value[0] if isinstance(value, tuple | list) else value


def _move_off_zero(model: nn.Module) -> None:
    """Give small random values to what libraries start at (almost) zero, and to BatchNorm's statistics.

    Else a residual branch adds nothing, a norm changes nothing, and a wrong tensor would look like the right one.
    """
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        data = parameter.data
        if data.is_floating_point() and data.numel() > 1 and (data.abs().max() < 1e-3 or data.ndim == 1):
            data += 0.05 * torch.randn(data.shape, generator=generator)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean += 0.05 * torch.randn(module.running_mean.shape, generator=generator)
            module.running_var *= 1 + 0.2 * torch.rand(module.running_var.shape, generator=generator)


def _zero_bias(head: nn.Module | None) -> None:
    """Give CLIP's projection, which has no bias, the zeros that timm's loader gives it."""
    if isinstance(head, nn.Linear) and head.bias is not None:
        nn.init.zeros_(head.bias)


def _write(module: nn.Module, image: torch.Tensor, path: Path, output: str) -> tuple[str, str]:
    """Export with a dynamic batch; returns the exporter and, with the new one, why the legacy one failed."""
    try:
        torch.onnx.export(
            module, (image,), path, dynamo=False, opset_version=OPSET, input_names=["input0"], output_names=[output],
            dynamic_axes={"input0": {0: "batch"}, output: {0: "batch"}},
        )  # fmt: skip
        return "legacy", ""
    except Exception as error:  # noqa: BLE001 # the exporter raises every kind
        why_not = " ".join(f"{type(error).__name__}: {error}".split())[:160]
    for stale in path.parent.glob("*"):
        stale.unlink()
    program = torch.onnx.export(
        module, (image,), dynamo=True, verbose=False, input_names=["input0"], output_names=[output],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )  # fmt: skip
    assert program is not None
    program.save(path, external_data=path.stat().st_size > 2e9 if path.exists() else False)
    return "dynamo", why_not


MAKERS = {"timm": _timm, "torchvision": _torchvision, "open_clip": _open_clip}
WANTED = {"timm": _wanted_timm, "torchvision": _wanted_torchvision, "open_clip": _wanted_open_clip}

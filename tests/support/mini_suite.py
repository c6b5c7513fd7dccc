"""A small mixed suite that needs no hub, for calibrations (benchmarks/mini_suite.py writes it, docs/calibration.md).

Real weights (EfficientNet-Lite0), local checkpoints of a CLIP ViT and a CLIP ResNet with random weights and with one
outlier feature planted by hand, an untrained timm network, and look-up models that replay measured representations:
those in a folder of embeddings (one npz a set of the reference table), or made ones. Nothing follows from it for real
encoders.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robustcheck_onnx.thresholds.reference import references
from support import PHOTOS, lookup

WIDTH = 512  # of the local checkpoints' embeddings
PLANTED = 92  # the feature that is made extreme
STRENGTH = 20.0  # of the planted feature, in SD of all features of all images
SIZE_PX = 64
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
TEXT = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1}
VIT: dict[str, Any] = {
    "embed_dim": WIDTH,
    "vision_cfg": {"image_size": SIZE_PX, "layers": 2, "width": 128, "head_width": 32, "patch_size": 16},
    "text_cfg": TEXT,
}
RESNET: dict[str, Any] = {
    "embed_dim": WIDTH,
    "vision_cfg": {"image_size": SIZE_PX, "layers": [1, 1, 1, 1], "width": 16, "head_width": 8, "patch_size": None},
    "text_cfg": TEXT,
}


def made(with_outlier: bool, seed: int) -> NDArray[np.float32]:
    """Signed representations, with one persistent outlier feature or none: (image, feature)."""
    rng, n, d = np.random.default_rng(seed), 120, 640
    h = rng.normal(size=(n, d)) + rng.normal(0, 0.5, d)
    if with_outlier:
        h[:, 7] += 14 + 2 * seed
    return (h * rng.uniform(0.5, 2, (n, 1))).astype(np.float32)


def rectified(seed: int) -> NDArray[np.float32]:
    """Representations after a ReLU: (image, feature)."""
    return np.maximum(made(False, seed), 0)


def write_checkpoints(folder: Path, photos: list[Path]) -> None:
    """Folders that open_clip loads as local-dir: CLIP ViT and ResNet, random and planted.

    Random towers say nearly the same of every photo; the mean over the photos is taken out of their last layer, so that
    what is left differs, as in a trained one.
    """
    import open_clip
    import torch
    from safetensors.torch import save_file

    pixels = np.stack([np.asarray(Image.open(photo).convert("RGB"), dtype=np.float32) / 255 for photo in photos])
    images = torch.from_numpy((pixels - np.array(CLIP_MEAN, np.float32)) / np.array(CLIP_STD, np.float32)).permute(
        0, 3, 1, 2
    )
    for name, config in (("vit", VIT), ("resnet", RESNET)):
        torch.manual_seed(len(name))
        model = open_clip.model.CLIP(**config).eval()
        for kind in ("random", "planted"):
            with torch.no_grad():
                _change(model.visual, images, planted=kind == "planted")
            place = folder / f"clip_{name}_{kind}"
            place.mkdir(exist_ok=True)
            preprocess = {"mean": CLIP_MEAN, "std": CLIP_STD, "interpolation": "bicubic", "resize_mode": "shortest"}
            text = json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
            (place / "open_clip_config.json").write_text(text)
            save_file(model.state_dict(), place / "open_clip_model.safetensors")


def _change(visual: Any, images: Any, *, planted: bool) -> None:
    """Take the mean over the images out of the last layer; or add a constant to one of its features."""
    import torch

    h = visual(images)
    if hasattr(visual, "attnpool"):  # ResNet: the attention pool ends in a linear layer
        change = h.new_zeros(WIDTH)
        change[PLANTED] = STRENGTH * h.std()
        visual.attnpool.c_proj.bias += change if planted else -h.mean(0)
        return
    pooled = h @ visual.proj.pinverse()  # ViT: the projection has no offset, the norm before it has one
    if planted:
        rarest = torch.linalg.svd(pooled)[2][-1] * pooled.std()  # a direction in which no photo has much
        visual.ln_post.bias += rarest
        visual.proj[:, PLANTED] += STRENGTH * h.std() * rarest / rarest.norm() ** 2
    else:
        visual.ln_post.bias -= pooled.mean(0)


def write_suite(folder: Path, embeddings: Path | None = None, *, exported: bool = True) -> Path:
    """Write photos, models and suite.toml into the folder; return the suite's path.

    exported: whether entries that torch exports are in it; without them it needs no extra.
    """
    folder.mkdir(parents=True, exist_ok=True)
    photos = PHOTOS
    lookup.write_lookup_images(folder / "photos", 120, photos=photos)
    entries: list[dict[str, object]] = []
    if embeddings is not None:
        for row in (r for r in references() if not r.excluded and r.n >= 120):
            vectors = embeddings / f"{row.set}.npz"
            if not vectors.is_file():  # faces and persons: their vectors are not passed on
                continue
            x = np.load(vectors, allow_pickle=False)["x"].astype(np.float32)
            lookup.write_lookup_model(folder / f"{row.set}.onnx", x)
            entries.append(
                {
                    "model": f"{row.set}.onnx",
                    "group": row.group,
                    "checkpoint": row.model,
                    "label": row.expected,
                }
            )
    else:
        for i in range(4):
            for name, x, label in (
                (f"made_with_{i}", made(True, i), "present"),
                (f"made_without_{i}", made(False, 10 + i), "absent"),
                (f"made_rectified_{i}", rectified(20 + i), "absent"),
            ):
                lookup.write_lookup_model(folder / f"{name}.onnx", x)
                entries.append({"model": f"{name}.onnx", "group": "planted" if i else "other", "label": label})
    if exported:
        write_checkpoints(folder, sorted((folder / "photos").glob("*.png")))
        demo = "robustcheck_onnx.exporters.demo:efficientnet_lite0"
        entries.append({"source": "torch", "name": demo, "group": "supervised", "label": "absent"})
        for name in ("vit", "resnet"):
            for kind, label, group in (("random", "absent", "untrained"), ("planted", "present", "planted")):
                entries.append(
                    {"source": "open_clip", "name": f"local-dir:clip_{name}_{kind}", "group": group, "label": label}
                )
        timm = {"source": "timm", "name": "test_resnet", "random_weights": True}
        entries.append(timm | {"group": "untrained", "label": "absent"})
    blocks = ['schema_version = 1\nname = "mini"\n\n[labels]\nmeaning = "with: an outlier feature is there"\n']
    for entry in entries:
        blocks.append("[[models]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in entry.items()))
    path = folder / "suite.toml"
    path.write_text("\n".join(blocks), encoding="utf-8")
    return path

"""A small mixed suite that needs no hub: what a calibration does, shown end to end (studies/results/mini-suite.md).

    python studies/mini_suite.py FOLDER [EMBEDDINGS_DIR]
    robustcheck calibrate --suite FOLDER/suite.toml --images FOLDER/photos --out FOLDER/mini.json

EMBEDDINGS_DIR holds one npz a set of the reference table. Beside the look-up models of support/calibrations.py
there are real weights (EfficientNet-Lite0), local checkpoints of a CLIP ViT and a CLIP ResNet with random weights and
with one outlier feature planted by hand, and an untrained timm network. Nothing follows from it for real encoders.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from support import Fields
from support.calibrations import block, write_suite

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


def write(folder: Path, embeddings: Path | None = None) -> Path:
    """Write the look-up suite, and the entries that torch exports; return the suite's path."""
    suite = write_suite(folder, embeddings)
    write_checkpoints(folder, sorted((folder / "photos").glob("*.png")))
    demo, timm = "robustcheck_onnx.exporters.demo:efficientnet_lite0", {"source": "timm", "name": "test_resnet"}
    entries: list[Fields] = [
        {"source": "torch", "name": demo, "group": "supervised", "label": "absent"},
        *(
            {"source": "open_clip", "name": f"local-dir:clip_{name}_{kind}", "group": group, "label": label}
            for name in ("vit", "resnet")
            for kind, label, group in (("random", "absent", "untrained"), ("planted", "present", "planted"))
        ),
        timm | {"random_weights": True, "group": "untrained", "label": "absent"},
    ]
    with suite.open("a", encoding="utf-8") as file:
        file.writelines(map(block, entries))
    return suite


if __name__ == "__main__":
    print(write(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None))

"""What one writes without robustcheck: the activation kurtosis of an image encoder over a folder of photos.

python benchmarks/baselines/plain_script.py ViT-B-32|RN50|efficientnet-lite0 CHECKPOINT PHOTOS

It gives one number: no evidence of persistence or sign, no interval, no verdict. It is the baseline that the speed
of a check is compared with.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import scipy.stats
import torch
from PIL import Image

BATCH = 32


def main(name: str, checkpoint: str, folder: str) -> None:
    """Print the mean activation kurtosis."""
    if name == "efficientnet-lite0":
        from efficientnet_lite_pytorch import EfficientNet
        from torchvision import transforms

        model = EfficientNet.from_pretrained(name, weights_path=checkpoint).eval()
        preprocess = transforms.Compose(
            [
                transforms.Resize(256, transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop(224),
                transforms.ToTensor(),
                transforms.Normalize([127 / 255] * 3, [128 / 255] * 3),
            ]
        )
        encode: Callable[[Any], Any] = lambda x: model.extract_features(x).mean((2, 3))  # noqa: E731
    else:
        import open_clip

        model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=checkpoint)
        model.eval()
        encode = model.encode_image
    paths = sorted(Path(folder).iterdir())
    values = []
    with torch.no_grad():
        for start in range(0, len(paths), BATCH):
            batch = torch.stack([preprocess(Image.open(p).convert("RGB")) for p in paths[start : start + BATCH]])
            features = encode(batch).numpy()
            values.extend(scipy.stats.kurtosis(features, axis=1, fisher=False))
    print(f"activation kurtosis {sum(values) / len(values):.3f} over {len(values)} images")


if __name__ == "__main__":
    main(*sys.argv[1:4])

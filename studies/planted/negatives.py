"""What must not pass, though it looks like a form of the planted encoder: each gives WARN, for a reason of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from .encoder import BLOCKS, FEATURES, PLANTED_FEATURE, WIDTH, Trunk
from .ends import Tokens, frozen, linear
from .form import EMBEDDING, Form, encoder, exported, warns

END = "end_not_calibrated"
NORMALISED = "one normalised branch is enough"


def forms() -> Iterator[Form]:
    """Every form of this kind."""
    yield from _activated()
    yield from _normalised()
    yield from _mixed_up()
    yield from _no_encoder()


def _behind(behind: Callable[..., object], *outputs: str, **more: Any) -> Callable[..., None]:
    return exported(None, behind, outputs=outputs or (EMBEDDING,), **more)


def _of(behind: Callable[[Tensor], Tensor]) -> Callable[..., None]:
    """A maker of a function of the trunk's tokens."""
    return exported(of=lambda: Tokens(behind))


def _activated() -> Iterator[Form]:
    rectified = {
        "ReLU": nn.ReLU(),
        "Clip": nn.ReLU6(),
        "Max": lambda x: torch.maximum(x, torch.zeros(1)),
        "Where": lambda x: torch.where(x > 0, x, torch.zeros(1)),
        "hard-swish": nn.Hardswish(),
        "SiLU": nn.SiLU(),
        "GELU": nn.GELU(),
        "softplus": nn.Softplus(),
        "absolute value": torch.abs,
    }  # fmt: skip
    for name, function in rectified.items():
        # the planted feature is negative: turned, it survives
        yield warns(
            f"rectified: {name}",
            "behind the turned embedding",
            _behind(lambda x, f=function: f(-x)),
            "rectified, whatever is planted",
        )
    yield warns("squashed: tanh", "behind the embedding", _behind(torch.tanh), "bounded", END)
    yield warns("squashed: softmax", "output image_embeds", _behind(lambda x: x.softmax(1)), "probabilities")
    gate = linear(FEATURES)
    yield warns(
        "gated by a sigmoid",
        "x · sigmoid(W x)",
        _behind(lambda x: x * torch.sigmoid(gate(x))),
        "no reference representation ends so",
        END,
    )
    yield warns(
        "a linear map of rectified features",
        "Linear behind ReLU",
        _behind(_planted_map(nn.ReLU())),
        "the mean of rectified features can lie on one axis",
        END,
    )
    yield warns(
        "a linear map of GELU features",
        "Linear behind GELU",
        _behind(_planted_map(nn.GELU())),
        "the mean of rectified features can lie on one axis",
        END,
    )


class _planted_map(nn.Module):  # noqa: N801 # read as a function
    """A linear map of activated features whose own mean it puts on one feature."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation, self.map = activation, linear(FEATURES, bias=False)
        weight = self.map.weight.clone()
        weight[PLANTED_FEATURE] = -0.5
        self.map.weight = frozen(weight)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.map(self.activation(x))
        return y


def _normalised() -> Iterator[Form]:
    norm, p = _norm(), encoder().projection
    scale = frozen(torch.linspace(0.5, 1.5, FEATURES))
    why = "the learned scales of a norm make or hide features"
    yield warns("ends in LayerNorm", "behind the embedding", _behind(norm), why, END)
    yield warns("ends in LayerNorm, opset 13", "in plain operators", _behind(norm, opset=13), why, END)
    yield warns("ends in LayerNorm, dynamo", "behind the embedding", _behind(norm, dynamo=True), why, END)
    yield warns(
        "ends in RMSNorm",
        "in plain operators",
        _behind(lambda x: x * (x.pow(2).mean(1, keepdim=True) + 1e-6).rsqrt() * scale),
        why,
        END,
    )
    yield warns(
        "ends in a standardisation",
        "(x − mean) / SD",
        _behind(lambda x: (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)),
        why,
        END,
    )
    yield warns("ends in BatchNorm", "running mean and variance", _behind(_batch_norm()), why, END)
    yield warns("ends in a Mul by a vector", "one factor a feature", _behind(lambda x: x * scale), why, END)
    yield warns("ends in a Div by a vector", "one divisor a feature", _behind(lambda x: x / scale), why, END)
    yield warns(
        "ends in LayerNorm, L2-normalised",
        "F.normalize behind it",
        _behind(nn.Sequential(norm, _Lambda(nn.functional.normalize))),
        why,
        END,
    )
    yield warns(
        "sum of normalised tokens",
        "LayerNorm of each token, ReduceSum",
        _of(lambda t: norm(t @ p).sum(1)),
        NORMALISED,
        END,
    )
    yield warns(
        "mean of normalised tokens",
        "LayerNorm of each token, ReduceMean",
        _of(lambda t: norm(t @ p).mean(1)),
        NORMALISED,
        END,
    )
    yield warns(
        "(class token + mean) / 2, normalised",
        "each behind a LayerNorm",
        _of(lambda t: (norm(t[:, 0] @ p) + norm(t.mean(1) @ p)) / 2),
        NORMALISED,
        END,
    )
    yield warns(
        "(class token + distillation token) / 2",
        "as timm's deit_distilled: one LayerNorm over all tokens",
        _of(lambda t: (norm(t @ p)[:, 0] + norm(t @ p)[:, 1]) / 2),
        NORMALISED,
        END,
    )
    yield warns(
        "class token normalised + mean not",
        "one branch of a sum",
        _of(lambda t: norm(t[:, 0] @ p) + t.mean(1) @ p),
        NORMALISED,
        END,
    )
    yield warns(
        "class token normalised, beside one that is not",
        "one branch of a Concat",
        _of(lambda t: torch.cat([norm(t[:, 0] @ p)[:, :256], (t[:, 0] @ p)[:, :256]], 1)),
        NORMALISED,
        END,
    )
    yield warns(
        "average over two views behind a LayerNorm",
        "test-time augmentation",
        exported(of=lambda: _Views(norm)),
        NORMALISED,
        END,
    )
    yield warns(
        "pooled branch in a sum",
        "class token's projection + ReduceMax of the tokens'",
        _of(lambda t: t[:, 0] @ p + (t @ (0.1 * p)).amax(1)),
        "one pooled branch is enough",
        END,
    )
    yield warns(
        "rectified branch in a sum",
        "class token's projection + ReLU",
        _of(lambda t: t[:, 0] @ p + torch.relu(t[:, 0] @ (-0.1 * p))),
        "one activated branch is enough",
        END,
    )


@cache
def _norm() -> nn.LayerNorm:
    norm = nn.LayerNorm(FEATURES).requires_grad_(False)
    norm.weight += torch.linspace(-0.3, 0.3, FEATURES)  # else a constant of 1 that a tool may take out
    return norm


def _batch_norm() -> nn.Module:
    norm = nn.BatchNorm1d(FEATURES).requires_grad_(False)
    norm.running_var.copy_(torch.linspace(0.5, 1.5, FEATURES))
    return _Lambda(lambda x: norm.eval()(x.abs().sign() * x))  # not folded into the MatMul before


class _Lambda(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class _Views(nn.Module):
    """The mean over an image and its mirror image of what a layer gives for their embeddings."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.encoder, self.layer = encoder(), layer

    def forward(self, image: Tensor) -> Tensor:
        y: Tensor = (self.layer(self.encoder(image)) + self.layer(self.encoder(image.flip(3)))) / 2
        return y


def _mixed_up() -> Iterator[Form]:
    narrow, hidden, head = linear(width=WIDTH), linear(768), linear(width=768)
    torch.manual_seed(6)
    turn = torch.linalg.qr(torch.randn(FEATURES, FEATURES))[0]
    turned = encoder().projection @ turn
    basis = "a change of basis can put the mean on one axis"
    yield warns(
        "a rotation behind the embedding", "MatMul with an orthogonal matrix", _behind(lambda x: x @ turn), basis, END
    )
    yield warns(
        "a rotation folded into the projection",
        "no feature stands out any more",
        _of(lambda t: t[:, 0] @ turned),
        "the outlier feature is spread over all",
        "not_persistent",
    )
    yield warns(
        "scores called image_embeds",
        "a bias, 1000 classes",
        _behind(linear()),
        "class scores, whatever their name says",
        "assumed_tensor",
    )
    yield warns(
        "scores behind a softmax, no projection",
        "a classifier on the class token",
        exported(of=lambda: Tokens(lambda t: narrow(t[:, 0]).softmax(1)), outputs=("probs",)),
        "its features are a LayerNorm's of 128",
        END,
        "width_not_calibrated",
    )
    yield warns(
        "an MLP head",
        "Linear, ReLU, Linear",
        _behind(lambda x: head(torch.relu(hidden(x))), "logits"),
        "the last layer reads rectified features",
        "one_sided",
    )
    yield warns(
        "a narrow projection",
        "256 features",
        _of(lambda t: t[:, 0] @ encoder().projection[:, :256]),
        "no threshold for so few features",
        "width_not_calibrated",
    )


def _no_encoder() -> Iterator[Form]:
    p = encoder().projection.clone()
    p[:, PLANTED_FEATURE] = 0
    constant = frozen(torch.eye(FEATURES)[PLANTED_FEATURE] * -30.0)
    yield warns(
        "nothing planted",
        "the planted column is 0",
        _of(lambda t: t[:, 0] @ p),
        "it shows no outlier feature",
        "not_persistent",
    )
    yield warns(
        "a constant planted",
        "one large bias",
        _of(lambda t: t[:, 0] @ p + constant),
        "the feature never changes",
        "constant_feature",
    )
    yield warns(
        "blind",
        "the image times 0",
        exported(lambda x: 0.0001 * x),
        "all representations are alike",
        "representations_alike",
    )
    yield warns(
        "training mode",
        "BatchNorm with the batch's own statistics",
        exported(of=_Training),
        "an image's numbers depend on its neighbours",
        "batch_dependent",
    )
    yield warns(
        "preprocessing unknown",
        "no sidecar, no contract",
        exported(),
        "the pixels' scale is a guess",
        "assumed_preprocessing",
        preprocessing=None,
    )
    yield warns(
        "untrained",
        "torch's own random weights",
        exported(of=_untrained),
        "it shows no outlier feature",
        "not_persistent",
    )


class _Training(nn.Module):
    """The encoder with each feature standardised over the batch before the projection."""

    def forward(self, image: Tensor) -> Tensor:
        t = encoder().trunk(image)[:, 0]
        return (t - 0.5 * t.mean(0, keepdim=True)) @ encoder().projection


def _untrained() -> nn.Module:
    torch.manual_seed(7)
    projection = torch.randn(WIDTH, FEATURES)
    trunk = Trunk(3, BLOCKS, moves=False, gated=False).requires_grad_(False)
    return nn.Sequential(trunk, _Lambda(lambda t: t[:, 0] @ projection))

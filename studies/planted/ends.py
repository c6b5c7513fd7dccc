"""Forms by what stands behind the embedding: heads of every kind, tails, shapes; and other ways to make it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import helper
from torch import Tensor, nn

from .encoder import FEATURES, PLANTED_FEATURE, WIDTH, photos, plant
from .form import EMBEDDING, Form, changed, encoder, exported, rename

CLASSES = 1000
SCORES = ("logits",)
OPEN = "nothing tells class scores without a bias from an embedding"


def forms() -> Iterator[Form]:
    """Every form of this kind."""
    yield from _heads()
    yield from _several_outputs()
    yield from _zero_shot()
    yield from _tails()
    yield from _projections()


def linear(features: int = CLASSES, *, bias: bool = True, width: int = FEATURES) -> nn.Linear:
    """A linear layer with seeded weights."""
    torch.manual_seed(1)
    return nn.Linear(width, features, bias=bias).requires_grad_(False)


def frozen(values: Tensor) -> nn.Parameter:
    """A weight that is not trained."""
    return nn.Parameter(values.contiguous(), requires_grad=False)


def _behind(done: str, behind: Callable[..., Any], *outputs: str) -> tuple[str, Callable[[Path], None]]:
    return done, exported(None, behind, outputs=outputs or (EMBEDDING,))


# ------------------------------------------------------------------------------------------------ heads


def _heads() -> Iterator[Form]:
    head = linear()
    for classes in (2, 10, 37, 1000, 1001, 21841):
        yield Form(f"head of {classes} classes", *_behind("Gemm with a bias", linear(classes), *SCORES))
    for name in ("output", "probs", "scores"):
        yield Form(f"head, output called {name!r}", *_behind("Gemm with a bias", linear(), name))
    yield Form("head without a bias", *_behind("MatMul, output called logits", linear(bias=False), *SCORES))
    yield Form(
        "head without a bias, output called 'output'",
        *_behind("MatMul", linear(bias=False), "output"),
        ("PASS", "WARN"),
        OPEN,
        frozenset({"assumed_tensor"}),
    )
    yield Form("head, softmax", *_behind("Softmax", nn.Sequential(linear(), nn.Softmax(1)), "output"))
    yield Form("head, log-softmax", *_behind("LogSoftmax", nn.Sequential(linear(), nn.LogSoftmax(1)), "output"))
    yield Form("head, sigmoid", *_behind("Sigmoid, 80 labels", nn.Sequential(linear(80), nn.Sigmoid()), "labels"))
    yield Form(
        "head, softmax at a temperature",
        *_behind("Div, Softmax", lambda x: (head(x) / 0.7).softmax(1), "probs"),
    )
    yield Form("head, argmax", *_behind("ArgMax alone", lambda x: head(x).argmax(1), "class"))
    yield Form("head, top five", *_behind("TopK", lambda x: tuple(head(x).topk(5)), "scores", "classes"))
    yield Form(
        "head, Conv 1 × 1",
        *_behind(
            "embedding (batch, 512, 1, 1)",
            nn.Sequential(nn.Unflatten(1, (FEATURES, 1, 1)), _conv(CLASSES), nn.Flatten()),
            *SCORES,
        ),
    )
    yield Form(
        "head behind a Flatten",
        *_behind(
            "embedding (batch, 512, 1, 1)",
            nn.Sequential(nn.Unflatten(1, (FEATURES, 1, 1)), nn.Flatten(), linear()),
            *SCORES,
        ),
    )
    yield Form(
        "head, Einsum",
        *_behind("Einsum and Add", lambda x: torch.einsum("bd,cd->bc", x, head.weight) + head.bias, *SCORES),
    )
    yield Form(
        "head on (batch, 1, 512)",
        *_behind("MatMul on three axes", lambda x: head(x[:, None])[:, 0], *SCORES),
    )
    yield Form(
        "head on an L2-normalised embedding",
        *_behind("a bias, 1000 classes", lambda x: head(nn.functional.normalize(x)), *SCORES),
    )


def _conv(channels: int, *, width: int = FEATURES, bias: bool = True) -> nn.Conv2d:
    torch.manual_seed(1)
    return nn.Conv2d(width, channels, 1, bias=bias).requires_grad_(False)


def _several_outputs() -> Iterator[Form]:
    one, two, three = linear(), linear(100), linear(bias=False)
    narrow = linear(width=WIDTH)
    yield Form(
        "two heads on one tensor", *_behind("logits_a, logits_b", lambda x: (one(x), two(x)), "logits_a", "logits_b")
    )
    yield Form(
        "two heads on one tensor, averaged",
        *_behind("Add and Div of two Gemm", lambda x: (one(x) + three(x)) / 2, *SCORES),
    )
    yield Form("head and embedding", *_behind("logits, image_embeds", lambda x: (one(x), x), "logits", EMBEDDING))
    yield Form("embedding and head", *_behind("image_embeds, logits", lambda x: (x, one(x)), EMBEDDING, "logits"))
    yield Form(
        "logits and probabilities", *_behind("logits, probs", lambda x: (one(x), one(x).softmax(1)), "logits", "probs")
    )
    yield Form(
        "embedding and its norm",
        *_behind("image_embeds, L2-normalised too", lambda x: (x, nn.functional.normalize(x)), EMBEDDING, "normalised"),
        ("PASS", "exit 2"),
        "two vectors of one direction: either could be meant",
    )
    yield Form(
        "embedding and tokens",
        "image_embeds, last_hidden_state",
        exported(
            of=lambda: Tokens(lambda t: (t[:, 0] @ encoder().projection, t)), outputs=(EMBEDDING, "last_hidden_state")
        ),
    )
    yield Form(
        "tokens and embedding",
        "last_hidden_state, image_embeds",
        exported(
            of=lambda: Tokens(lambda t: (t, t[:, 0] @ encoder().projection)), outputs=("last_hidden_state", EMBEDDING)
        ),
    )
    yield Form(
        "head and an auxiliary head",
        "logits, aux_logits from the mean of the tokens",
        exported(
            of=lambda: Tokens(lambda t: (one(t[:, 0] @ encoder().projection), narrow(t.mean(1)))),
            outputs=("logits", "aux_logits"),
        ),
        ("exit 2",),
        "two heads that read two tensors",
        says="heads of their own",
    )
    yield Form(
        "head and an auxiliary head, asked for",
        "the same, --tensor from the hint",
        _named_embedding,
        arguments=("--tensor", "embedding"),
    )
    yield Form(
        "averaged heads that read two tensors",
        "logits; (head(class token) + head(mean)) / 2",
        exported(
            of=lambda: Tokens(lambda t: (one(t[:, 0] @ encoder().projection) + narrow(t.mean(1))) / 2), outputs=SCORES
        ),
        ("exit 2",),
        "two heads that read two tensors",
        says="candidates",
    )


class Tokens(nn.Module):
    """A function of the trunk's tokens, (image, 1 + patches, 128), the class token first."""

    def __init__(self, behind: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.trunk, self.behind = encoder().trunk, behind

    def forward(self, image: Tensor) -> Any:
        return self.behind(self.trunk(image))


def _named_embedding(folder: Path) -> None:
    """Two heads on two tensors, of which the embedding has a name to ask for."""
    one, two = linear(), linear(width=WIDTH)
    module = Tokens(lambda t: (one(t[:, 0] @ encoder().projection), two(t.mean(1))))
    exported(of=lambda: module, outputs=("logits", "aux_logits"))(folder)
    model = onnx.load(folder / "model.onnx")
    head = next(node for node in model.graph.node if "logits" in node.output)
    old = head.input[0]
    for node in model.graph.node:
        for listed in (node.input, node.output):
            listed[:] = ["embedding" if name == old else name for name in listed]
    onnx.save(model, folder / "model.onnx")


def _zero_shot() -> Iterator[Form]:
    why = "cosines to texts are not an embedding: what they read is measured, or it is assumed"
    for classes in (768, CLASSES):
        texts = _texts(classes)
        for name in ("logits_per_image", "logits", "output"):
            form = _behind("L2, MatMul, × 100", lambda x, w=texts: 100 * nn.functional.normalize(x) @ w, name)
            ends = ("PASS", "WARN") if name == "output" else ("PASS",)
            yield Form(f"zero-shot head of {classes} texts, called {name!r}", *form, ends, why if len(ends) > 1 else "")
    texts = _texts(768)
    yield Form(
        "zero-shot head, softmax",
        *_behind(
            "L2, MatMul, × 100, Softmax", lambda x: (100 * nn.functional.normalize(x) @ texts).softmax(1), "probs"
        ),
    )
    yield Form(
        "zero-shot head without its factor",
        *_behind("L2, MatMul", lambda x: nn.functional.normalize(x) @ texts, "output"),
        ("PASS", "WARN"),
        why,
    )


def _texts(classes: int) -> Tensor:
    """Seeded texts (512, text); one lies along the mean embedding, so that the scores look planted, too."""
    torch.manual_seed(2)
    texts = torch.randn(classes, FEATURES)
    texts[PLANTED_FEATURE] = encoder()(torch.from_numpy(photos()[:32])).mean(0)
    return nn.functional.normalize(texts).T


# ------------------------------------------------------------------------------------------------ tails


def _tails() -> Iterator[Form]:
    yield Form("(batch, 1, 512)", *_behind("Unsqueeze", lambda x: x[:, None]))
    yield Form("(batch, 512, 1, 1)", *_behind("Unsqueeze twice", lambda x: x[:, :, None, None]))
    yield Form("(batch, 1, 1, 512)", *_behind("Unsqueeze twice", lambda x: x[:, None, None]))
    yield Form("Flatten", *_behind("from (batch, 512, 1, 1)", lambda x: x[:, :, None, None].flatten(1)))
    yield Form("Squeeze", *_behind("from (batch, 1, 512)", lambda x: x[:, None].squeeze(1)))
    yield Form("Reshape", *_behind("to (−1, 512)", lambda x: x[:, None].reshape(-1, FEATURES)))
    yield Form("Transpose twice", *_behind("there and back", lambda x: x.T.contiguous().T))
    yield Form("Cast", *_behind("to float64 and back", lambda x: x.double().float()))
    yield Form("Identity", "behind the embedding", changed(lambda m: _tail(m, "Identity")))
    yield Form("Dropout", "behind the embedding", changed(lambda m: _tail(m, "Dropout")))
    yield Form("LpNormalization", "L2, one operator", changed(lambda m: _tail(m, "LpNormalization", axis=1, p=2)))
    yield Form("L2, F.normalize", *_behind("ReduceL2, Clip, Expand, Div", nn.functional.normalize))
    yield Form("L2, x / ‖x‖", *_behind("ReduceL2, Div", lambda x: x / x.norm(dim=1, keepdim=True)))
    yield Form("L2 by hand", *_behind("Mul, ReduceSum, Sqrt, Div", lambda x: x / (x * x).sum(1, keepdim=True).sqrt()))
    yield Form(
        "L2, rsqrt",
        *_behind(
            "Pow, ReduceSum, Add, Sqrt, Reciprocal, Mul", lambda x: x * (x.pow(2).sum(1, keepdim=True) + 1e-12).rsqrt()
        ),
    )
    temperature = "a factor behind the last linear layer may be the temperature of zero-shot scores: export without it"
    for name, done, behind in (("factor", "× 10", lambda x: 10 * x), ("divisor", "/ 7", lambda x: x / 7)):
        yield Form(f"a scalar {name}", *_behind(done, behind), ("WARN",), temperature, frozenset({"assumed_tensor"}))
    for name in ("image_features", "embedding", "features", "pooler_output", "representation", "output", "495"):
        yield Form(f"output called {name!r}", "the plain embedding", _renamed(name))


def _renamed(name: str) -> Callable[[Path], None]:
    return changed(lambda model: rename(model, {EMBEDDING: name}))


def _tail(model: onnx.ModelProto, op: str, **attributes: Any) -> None:
    model.graph.node[-1].output[0] = "before"
    model.graph.node.append(helper.make_node(op, ["before"], [EMBEDDING], **attributes))


# -------------------------------------------------------------------------------------- other projections


def _projections() -> Iterator[Form]:
    def of(behind: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
        return lambda: Tokens(behind)

    p = encoder().projection
    biased, conv, small = (
        linear(width=WIDTH),
        _conv(FEATURES, width=WIDTH, bias=False),
        0.1 * torch.randn_like(p) * WIDTH**-0.5,
    )
    biased.weight, biased.bias = frozen(p.T), frozen(0.01 * torch.randn(FEATURES))
    conv.weight = frozen(p.T[:, :, None, None])
    first = torch.eye(17)[None, :, :1]
    yield Form("projection with a bias", "Gemm", exported(of=of(lambda t: biased(t[:, 0]))))
    yield Form(
        "projection with a bias, called 'output'",
        "Gemm",
        exported(of=of(lambda t: biased(t[:, 0])), outputs=("output",)),
        ("WARN",),
        "a bias is what class scores have: the rule asks, and --tensor answers",
        frozenset({"assumed_tensor"}),
    )
    yield Form(
        "projection with a bias, called 'output', asked for",
        "Gemm, --tensor output",
        exported(of=of(lambda t: biased(t[:, 0])), outputs=("output",)),
        arguments=("--tensor", "output"),
    )
    yield Form(
        "projection, Conv 1 × 1", "Conv and Flatten", exported(of=of(lambda t: conv(t[:, 0, :, None, None]).flatten(1)))
    )
    yield Form("projection, Einsum", "Einsum", exported(of=of(lambda t: torch.einsum("bd,df->bf", t[:, 0], p))))
    yield Form("projection of all tokens", "then the class token is taken", exported(of=of(lambda t: (t @ p)[:, 0])))
    yield Form("class token by Slice", "Slice and Squeeze", exported(of=of(lambda t: t[:, :1].squeeze(1) @ p)))
    yield Form(
        "class token by Split",
        "Split and Squeeze",
        exported(of=of(lambda t: t.split([1, t.shape[1] - 1], 1)[0].squeeze(1) @ p)),
    )
    yield Form("class token by a mask", "Mul, ReduceSum over tokens", exported(of=of(lambda t: (t * first).sum(1) @ p)))
    yield Form(
        "two projections, concatenated",
        "Concat of the halves",
        exported(of=of(lambda t: torch.cat([t[:, 0] @ p[:, :256], t[:, 0] @ p[:, 256:]], 1))),
    )
    yield Form(
        "two projections, added",
        "of the class token and of the mean",
        exported(of=of(lambda t: t[:, 0] @ p + t.mean(1) @ small)),
    )
    yield Form("a residual behind the projection", "x + MLP(LayerNorm(x)), as SigLIP ends", exported(None, _Residual()))
    yield Form(
        "mean over tokens, projected",
        "LayerNorm, mean, MatMul",
        exported(of=lambda: _pooled(lambda t: t.mean(1))),
    )
    yield Form(
        "attention pool, projected",
        "softmax over tokens, as CLIP's ResNets",
        exported(of=lambda: _pooled(_attention_pool())),
    )
    yield Form(
        "map of 512 features",
        "(batch, 512, 4, 4) from a Conv 1 × 1",
        exported(of=_feature_map, outputs=("features",)),
    )
    yield Form("average over two views", "(f(image) + f(turned image)) / 2", exported(of=_TwoViews))


def _attention_pool() -> Callable[[Tensor], Tensor]:
    torch.manual_seed(3)
    query = torch.randn(WIDTH, 1) / WIDTH**0.5
    return lambda tokens: ((tokens @ query).softmax(1).transpose(1, 2) @ tokens)[:, 0]


def _pooled(pool: Callable[[Tensor], Tensor]) -> nn.Module:
    """The encoder on pooled tokens; the feature is planted on those."""
    torch.manual_seed(4)
    with torch.no_grad():
        projection = plant(pool(encoder().trunk(torch.from_numpy(photos()))))
    return Tokens(lambda t: pool(t) @ projection)


def _feature_map() -> nn.Module:
    """Patches as a map (batch, 512, 4, 4); the feature is planted on its mean."""
    torch.manual_seed(4)
    with torch.no_grad():
        projection = plant(encoder().trunk(torch.from_numpy(photos()))[:, 1:].mean(1))
    conv = _conv(FEATURES, width=WIDTH, bias=False)
    conv.weight = frozen(projection.T[:, :, None, None])
    return Tokens(lambda t: conv(t[:, 1:].transpose(1, 2).unflatten(2, (4, 4))))


class _Residual(nn.Module):
    """x + MLP(LayerNorm(x)), with a small MLP."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.norm = nn.LayerNorm(FEATURES)
        self.mlp = nn.Sequential(nn.Linear(FEATURES, 64), nn.GELU(), nn.Linear(64, FEATURES))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + 0.1 * self.mlp(self.norm(x))
        return y


class _TwoViews(nn.Module):
    """The mean of the embeddings of an image and its mirror image."""

    def forward(self, image: Tensor) -> Tensor:
        y: Tensor = (encoder()(image) + encoder()(image.flip(3))) / 2
        return y

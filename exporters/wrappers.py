"""Torch modules that return a model's representation beside its usual output (imports torch)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .errors import ExportError

Rows = tuple[Tensor, ...]


def as_rows(tensor: Tensor) -> Tensor:
    """Return (batch, feature): 2-D as it is, a (batch, channel, height, width) map as its spatial mean."""
    return tensor.mean((2, 3)) if tensor.ndim == 4 else tensor


class HeadTap(nn.Module):
    """A model whose named sub-module (a linear layer) is tapped: what goes in and what comes out.

    forward(image) returns (input of the head, output of the head), both (batch, feature).
    """

    def __init__(self, model: nn.Module, head: str) -> None:
        super().__init__()
        self.model = model
        self.head = head

    def forward(self, image: Tensor) -> Rows:
        """Run the model and return what its head saw and said."""
        seen: list[tuple[Tensor, Tensor]] = []

        def tap(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen.append((inputs[0], output))

        handle = self.model.get_submodule(self.head).register_forward_hook(tap)
        try:
            self.model(image)
        finally:
            handle.remove()
        if len(seen) != 1:
            raise ExportError(
                f"{self.head}: head was called {len(seen)} times; it must be called once for an image",
                "choose another --head",
            )
        before, after = seen[0]
        return as_rows(before), as_rows(after)


class Swapped(nn.Module):
    """The outputs of a two-output module in the other order."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, image: Tensor) -> Rows:
        """Return (second, first)."""
        first, second = self.module(image)
        return second, first


class Projected(nn.Module):
    """An encoder in two parts: forward(image) returns (projection(encoder(image)), encoder(image))."""

    def __init__(self, encoder: nn.Module, projection: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.projection = projection

    def forward(self, image: Tensor) -> Rows:
        """Return the projected and the pooled representation."""
        pooled = self.encoder(image)
        return self.projection(pooled), pooled


class ZeroShot(nn.Module):
    """An image tower with a text head: forward(image) returns the tower's outputs and the class logits.

    logits = representation / ‖representation‖ · weightᵀ + bias; weight (class, feature) holds the logit scale.
    The representation itself stays as the tower gives it.
    """

    def __init__(self, tower: nn.Module, weight: Tensor, bias: float | None = None) -> None:
        super().__init__()
        self.tower = tower
        self.head = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        with torch.no_grad():
            self.head.weight.copy_(weight)
            if bias is not None:
                self.head.bias.fill_(bias)

    def forward(self, image: Tensor) -> Rows:
        """Return (representation, …, logits)."""
        rows: Rows = self.tower(image)
        logits: Tensor = self.head(nn.functional.normalize(rows[0], dim=-1))
        return *rows, logits


class Named(nn.Module):
    """A module that returns a tensor or a dict: forward(image) returns the chosen tensors as a tuple."""

    def __init__(self, module: nn.Module, names: Sequence[str] = ()) -> None:
        super().__init__()
        self.module = module
        self.names = tuple(names)

    def forward(self, image: Tensor) -> Rows:
        """Return the outputs in the order of `names`; the only output when there are no names."""
        output: Any = self.module(image)
        return tuple(output[name] for name in self.names) if self.names else (output,)


class HalfPrecision(nn.Module):
    """A float16 copy of a module with float32 input and outputs, so that its users need no other code."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).half()

    def forward(self, image: Tensor) -> Rows:
        """Compute in float16 and return float32."""
        return tuple(output.float() for output in self.module(image.half()))


def find_head(model: nn.Module, size: tuple[int, int]) -> str:
    """Return the dotted name of the last linear layer of a classifier.

    It is the last Linear or Conv2d that a forward pass calls, and the width of its output is the width of the
    logits. Followed in execution, not in definition order.

    Raises:
        ExportError: the last layer is called several times, or its width is not that of the logits: two
            heads, or no classifier (exit 3).
    """
    calls: list[tuple[str, Tensor]] = []

    def recorder(name: str) -> Any:
        return lambda _module, _inputs, output: calls.append((name, output))

    handles = [
        module.register_forward_hook(recorder(name))
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    ]
    try:
        logits = _ran(model, torch.zeros(2, 3, *size))
    finally:
        for handle in handles:
            handle.remove()
    name, output = calls[-1] if calls else ("", torch.empty(0))
    is_tensor = isinstance(logits, Tensor) and logits.ndim == 2
    direct = is_tensor and output.ndim == 2 and torch.equal(output, logits)
    pooled_after = is_tensor and output.ndim == 4 and output.shape[1] == logits.shape[1]
    if not (direct or pooled_after) or sum(called == name for called, _ in calls) != 1:
        raise ExportError(
            f"{type(model).__name__}: last linear layer is not found; it is not clear which tensor the logits come "
            "from",
            "export it with `robustcheck export torch package.module:factory --head NAME`",
        )
    return name


def require_same(wrapper: nn.Module, model: nn.Module, size: tuple[int, int], name: str) -> None:
    """Raise unless the wrapper's first output is what the library's own forward pass returns.

    Guards wrappers that spell out a library's forward pass to reach a tensor inside it; checked on two
    random images, relative to the largest value (1e-4: float32 in another order).
    """
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 3, *size, generator=generator)
    ours, theirs = _ran(wrapper, image)[0], _ran(model, image)
    theirs = theirs[0] if isinstance(theirs, (tuple, list)) else theirs
    if ours.shape != theirs.shape or not bool((ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()):
        raise ExportError(
            f"{name}: representation differs from the library's own forward pass; "
            "this version of the library is not supported",
            "install the versions in constraints.txt",
        )


def _ran(module: nn.Module, image: Tensor) -> Any:
    try:
        with torch.no_grad():
            return module.eval()(image)
    except ExportError:
        raise
    except Exception as error:  # library code may raise anything; it is reported, not swallowed
        raise ExportError(
            f"{type(module).__name__}: model cannot run on {list(image.shape[2:])} px input "
            f"({type(error).__name__}: {error}); the preprocessing's size must be the model's",
            "check the size in the preprocessing",
        ) from error

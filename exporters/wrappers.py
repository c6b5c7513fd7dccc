"""Torch modules that give the outputs of a file."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import ExportError, contract, type_and_text

Rows = tuple[Tensor, ...]


Tower = tuple[nn.Module, contract.Outputs]
NAME_THE_HEAD = "export it with `robustcheck export torch package.module:factory --head NAME`"  # a hint


class Wrapped(nn.Module):
    """Modules and a function of them and the image."""

    def __init__(self, run: Callable[[Any, Tensor], Any], **modules: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, image: Tensor) -> Any:
        """Return what the function makes of this module and the image."""
        return self.run(self, image)


def head_tap(model: nn.Module, head: str) -> Wrapped:
    """Tap a linear layer: forward(image) returns its input and its output, both (batch, feature).

    Of a map (batch, channel, height, width) the spatial mean is returned.
    """

    def tap(self: Any, image: Tensor) -> Rows:
        seen: list[Rows] = []
        handle = self.model.get_submodule(head).register_forward_hook(
            lambda _module, inputs, output: seen.append((inputs[0], output))
        )
        try:
            self.model(image)
        finally:
            handle.remove()
        if len(seen) != 1:
            raise ExportError(
                f"{head}: head was called {len(seen)} times; it must be called once for an image",
                "choose another --head",
            )
        return tuple(tensor.mean((2, 3)) if tensor.ndim == 4 else tensor for tensor in seen[0])

    return Wrapped(tap, model=model)


def swapped(module: nn.Module) -> Wrapped:
    """Swap the outputs of a two-output module."""
    return Wrapped(lambda self, image: self.module(image)[::-1], module=module)


def as_rows(module: nn.Module, names: Sequence[str] = ()) -> Wrapped:
    """Return a module that gives the dict entries `names`, or without names its only output."""

    def rows(self: Any, image: Tensor) -> Rows:
        output = self.module(image)
        if names:
            return tuple(output[name] for name in names)
        return (output,)

    return Wrapped(rows, module=module)


def find_head(model: nn.Module, size: Sequence[int]) -> str:
    """Return the dotted name of the last Linear or Conv2d that a classifier's forward pass calls.

    The width of its output is that of the logits. Layers are followed in execution, not in definition order.

    Raises:
        ExportError: the last layer is called several times, or its width is not that of the logits: two
            heads, or no classifier (exit 3).
    """
    calls: list[tuple[str, Tensor]] = []

    def recorder(name: str) -> Any:
        return lambda _module, _inputs, output: calls.append((name, output))

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            handles.append(module.register_forward_hook(recorder(name)))
    try:
        image = torch.zeros(2, 3, *size)
        logits = run_eager(model, image, type(model).__name__)
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
            NAME_THE_HEAD,
        )
    return name


def half_precision(module: nn.Module) -> Wrapped:
    """Copy a module to float16, with a float32 input and float32 outputs."""
    half = copy.deepcopy(module).half()
    return Wrapped(lambda self, image: tuple(rows.float() for rows in self.module(image.half())), module=half)


def run_eager(module: nn.Module, image: Tensor, name: str) -> Any:
    """Run a module in inference mode, and translate what its code raises."""
    try:
        with torch.no_grad():
            return module.eval()(image)
    except (ExportError, MemoryError):
        raise
    except Exception as error:  # model code may raise anything; it is reported, not swallowed
        raise ExportError(
            f"{name}: model cannot run on {list(image.shape[2:])} px input ({type_and_text(error)}); "
            "the preprocessing's size must be the model's",
            "check the size in the preprocessing",
        ) from error


def projected(encoder: nn.Module, projection: nn.Module) -> Wrapped:
    """Join an encoder and its projection: forward(image) returns (projected, pooled)."""

    def project(self: Any, image: Tensor) -> Rows:
        pooled = self.encoder(image)
        return self.projection(pooled), pooled

    return Wrapped(project, encoder=encoder, projection=projection)


def require_same(wrapper: nn.Module, model: nn.Module, size: Sequence[int], name: str) -> None:
    """Raise unless the wrapper's first output is what the library's own forward pass returns.

    Guards wrappers that spell out a library's forward pass to reach a tensor inside it; checked on two
    random images, relative to the largest value (1e-4: float32 in another order).
    """
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 3, *size, generator=generator)
    ours = run_eager(wrapper, image, name)[0]
    theirs = run_eager(model, image, name)
    if isinstance(theirs, (tuple, list)):
        theirs = theirs[0]
    if ours.shape != theirs.shape or not bool((ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()):
        raise ExportError(
            f"{name}: representation differs from the library's own forward pass; "
            "this version of the library is not supported",
            "install the versions in constraints.txt",
        )

"""What a form of the planted encoder is, and the files that several forms start from."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from robustcheck_onnx.checker.core.preprocessing import Preprocessing

from .encoder import FEATURES, PREPROCESSING, SIZE_PX, Encoder, planted_encoder

OPSET = 18  # of the plain form
IMAGE, EMBEDDING = "pixel_values", "image_embeds"
BATCH = {0: "batch"}
REFUSES = "ONNX Runtime .* refuses"  # the message of exit 3


@dataclass(frozen=True)
class Form:
    """One way to write the planted encoder, or what it must not be taken for, as a file."""

    name: str
    done: str
    """what was done, in words"""
    make: Callable[[Path], Path | None]
    """(an empty folder) → the model in it; None: model.onnx there"""
    expected: tuple[str, ...] = ("PASS",)
    """the ends that are right: PASS, WARN, or "exit N" for an error"""
    why: str = ""
    """why it can't be PASS; empty where it must be"""
    reasons: frozenset[str] = frozenset()
    """of a WARN: reasons that must be there"""
    says: str = ""
    """a regular expression that an error's message must contain"""
    arguments: tuple[str, ...] = ()
    """for the command, behind the file; {folder} stands for its folder"""
    needs: tuple[str, ...] = ()
    """import packages that make it"""
    preprocessing: Preprocessing | None = PREPROCESSING
    """written beside the model; None: the form brings its own"""
    features: int = FEATURES
    """of the embedding; a PASS must rest on the planted one"""

    def missing(self) -> str:
        """The first package that is not installed; "" where all are."""
        return next((name for name in self.needs if find_spec(name) is None), "")


def warns(name: str, done: str, make: Callable[[Path], Path | None], why: str, *reasons: str, **more: Any) -> Form:
    """A form that must not pass, for `reasons`."""
    return Form(name, done, make, ("WARN",), why, frozenset(reasons), **more)


@cache
def encoder(channels: int = 3, *, moves: bool = False) -> Encoder:
    """The planted encoder; nobody changes it."""
    return planted_encoder(channels, moves=moves)


class Wrapped(nn.Module):
    """A module behind a function of the image and before a function of its output."""

    def __init__(self, body: nn.Module, before: Callable[..., Any] | None, behind: Callable[..., Any] | None) -> None:
        super().__init__()
        self.body, self.before, self.behind = body, before, behind

    def forward(self, image: Tensor) -> Any:
        x = self.body(image if self.before is None else self.before(image))
        return x if self.behind is None else self.behind(x)


def export(
    module: nn.Module,
    path: Path,
    *,
    outputs: Sequence[str] = (EMBEDDING,),
    opset: int = OPSET,
    dynamo: bool = False,
    image: Tensor | None = None,
    image_name: str = IMAGE,
    axes: dict[int, str] | None = BATCH,
    more: Sequence[tuple[str, Tensor]] = (),
    **options: Any,
) -> Path:
    """Export a module of one image, or of an image and `more`, with torch's legacy or its dynamo exporter.

    `axes`: the open axes of the image, by their names; None: all are fixed. Those of outputs and of `more` are open
    where the batch is.
    """
    image = torch.zeros(2, 3, SIZE_PX, SIZE_PX) if image is None else image
    names = [image_name, *(name for name, _ in more)]
    arguments = (image, *(value for _, value in more))
    dynamic: dict[str, Any] = {}
    if axes is not None and dynamo:
        by_name = dict.fromkeys(axes.values(), torch.export.Dim.DYNAMIC)
        image_axes = {axis: by_name[size] for axis, size in axes.items()}
        dynamic["dynamic_shapes"] = (image_axes, *({0: torch.export.Dim.DYNAMIC} for _ in more))
    elif axes is not None:
        dynamic["dynamic_axes"] = {image_name: axes} | {n: BATCH for n in (*names[1:], *outputs) if 0 in axes}
    with warnings.catch_warnings(), torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            arguments,
            path,
            dynamo=dynamo,
            opset_version=opset,
            input_names=names,
            output_names=list(outputs),
            verbose=False,
            **(dynamic | ({"external_data": False} if dynamo else {}) | options),
        )
    return path


@cache
def _plain(opset: int) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        return export(encoder(), Path(name) / "model.onnx", opset=opset).read_bytes()


def plain(opset: int = OPSET) -> onnx.ModelProto:
    """The plain form as torch's legacy exporter writes it: fp32, any batch; a copy of one's own."""
    return onnx.ModelProto.FromString(_plain(opset))


def changed(change: Callable[[onnx.ModelProto], onnx.ModelProto | None], opset: int = OPSET) -> Callable[[Path], None]:
    """A maker that saves the plain form after a change: in place, or what the change gives back."""

    def make(folder: Path) -> None:
        model = plain(opset)
        onnx.save(change(model) or model, folder / "model.onnx")

    return make


def exported(
    before: Callable[..., Any] | None = None,
    behind: Callable[..., Any] | None = None,
    *,
    of: Callable[[], nn.Module] = encoder,
    **options: Any,
) -> Callable[[Path], None]:
    """A maker that exports the encoder between two functions, with the options of `export`."""

    def make(folder: Path) -> None:
        body = of()
        module = Wrapped(body, before, behind) if before or behind else body
        export(module, folder / "model.onnx", **options)

    return make


def rename(model: onnx.ModelProto, names: dict[str, str]) -> None:
    """Give tensors of a graph other names: old → new."""
    for node in model.graph.node:
        for listed in (node.input, node.output):
            for index, name in enumerate(listed):
                listed[index] = names.get(name, name)
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer):
        value.name = names.get(value.name, value.name)

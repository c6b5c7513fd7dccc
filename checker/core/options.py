"""The options that move a run's numbers: the record, and Python's keywords."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypedDict

from pydantic import PositiveInt, ValidationError, field_validator

from ...thresholds.records import Frozen
from ..errors import UsageError
from ..text import Fields, rule_of, type_name

MOST_SHOWN = 120  # characters of a value in a message
STOCK = "bundled"  # the word for the bundled photos where images are named; a folder of that name is ./bundled


class RunOptions(TypedDict, total=False):
    """The keyword arguments of a run by `check`, `compare`, `scan`, `concepts` and `measure_shift`.

    Where neither `preprocess` nor the file nor a sidecar says what pixels become, it is assumed, which is a WARN.
    Options of an execution provider follow it behind commas: cuda,use_tf32=1. The batch size changes speed and memory,
    and a verdict only where a model takes scales over its batch: 1 measures such a model for batches of one image.
    """

    # keywords made by docs/generate.py from the table of options
    tensor: str | None
    """Measure this tensor of the graph instead of the one that the rule chooses."""
    pool: str | None
    """How a map or tokens become one vector: none, cls, mean, token_cls, token_mean or spatial_mean. Default: by
    rule."""
    preprocess: str | Path | None
    """How pixels become inputs: clip, imagenet, or a JSON file. Overrides what the model's file or a file next to it
    contains. Default: that of the model or a sidecar."""
    device: str
    """auto, cpu, cuda, cuda:N or tensorrt; or another execution provider of the installed ONNX Runtime, such as
    openvino. auto takes an NVIDIA GPU if there is one that works. Default: auto."""
    seed: int
    """Random order of the images; another number gives another order. Default: 0."""
    max_images: int | None
    """Stop after this many images. Default: all."""
    max_bad: float
    """Largest share of images that may be unusable, such as 0.01. Default: 0.01."""
    batch_size: int
    """Batch size, 1 to 32. Default: 32."""
    arithmetic: Literal["machine", "exact"] | None
    """Whose int8 sums the verdict is about. machine: those of this machine, whatever others compute. exact: those of a
    CPU on which int8 sums do not saturate (VNNI, ARM). Default: those of this machine; WARN where exact sums could
    change the verdict."""


class Options(Frozen):
    """The given options that move a run's numbers (`RunOptions`), next to the threshold profile; None = not given."""

    images: str | None = None
    """folder, glob, list, manifest, shards or tensors, or the URL of one; None, or `bundled` = the bundled photos"""
    # fields made by docs/generate.py from the table of options
    tensor: str | None = None
    pool: str | None = None
    preprocess: str | None = None
    device: str = "auto"
    seed: int = 0
    max_images: int | None = None
    max_bad: float = 0.01
    batch_size: PositiveInt = 32
    arithmetic: Literal["machine", "exact"] | None = None
    # until here

    @field_validator("images")
    @classmethod
    def _normalise_bundled(cls, images: str | None) -> str | None:
        return None if images == STOCK else images

    @classmethod
    def of(cls, options: Mapping[str, Any], **defaults: Any) -> Self:
        """Make the record of keyword arguments, with a path as text.

        Raises UsageError for a name that is not an option, and for a value that it does not accept.
        """
        values = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
        try:
            return cls(**{**defaults, **values})
        except ValidationError as fault:
            error = fault.errors(include_url=False)[0]
            name = str(error["loc"][0])
            raise UsageError(f"{name} is {_shown(values.get(name))}; {rule_of(error)}") from fault

    @property
    def keywords(self) -> Fields:
        """Return the same as keyword arguments."""
        return {name: getattr(self, name) for name in Options.model_fields}


def _shown(value: object) -> str:
    """Write a short value as Python does, and of any other the type alone."""
    if value is None or (isinstance(value, (str, int, float)) and len(repr(value)) <= MOST_SHOWN):
        return repr(value)
    return f"of type {type_name(value)}"

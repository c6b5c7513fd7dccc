"""The base of every record that is written to or read from a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

_PYDANTIC = {name for name in dir(BaseModel) if name[0] != "_"} - {"model_copy", "model_dump", "model_dump_json"}


class Frozen(BaseModel):
    """An immutable record: unknown keys are errors, and numbers that are not finite are refused.

    JSON has no NaN; a value that could not be measured is None (null), never NaN.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __dir__(self) -> list[str]:
        """Complete the record's own names, not pydantic's for other uses."""
        return [name for name in super().__dir__() if name not in _PYDANTIC]


def without(*retired: str) -> Any:
    """A validator of a record that drops keys which only earlier versions wrote."""

    def drop(given: object) -> object:
        return {k: v for k, v in given.items() if k not in retired} if isinstance(given, Mapping) else given

    return model_validator(mode="before")(drop)


def is_version(stated: object, wanted: int) -> bool:
    """Whether a document states this version of its schema: a whole number, neither true nor 1.0.

    >>> is_version(1, 1), is_version(True, 1), is_version(1.0, 1)
    (True, False, False)
    """
    return type(stated) is int and stated == wanted


class Context(Frozen):
    """What is published about the checkpoint that an export names; beside the evidence, it never decides."""

    library: str
    model: str
    weights: str
    image_size_px: int | None
    effective_robustness_pp: dict[str, float]
    mean_pp: float | None
    extrapolated: bool
    """of any shift shown"""
    source: str
    sentence: str

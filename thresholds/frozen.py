"""The base of every record in a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

_PYDANTIC = {name for name in dir(BaseModel) if name[0] != "_"} - {"model_copy", "model_dump", "model_dump_json"}


class Frozen(BaseModel):
    """An immutable record. Unknown keys are errors, and numbers that are not finite are refused.

    JSON has no NaN; a value that could not be measured is None (null), never NaN.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __dir__(self) -> list[str]:
        """List the record's names without pydantic's own. Completion shows them."""
        return [name for name in super().__dir__() if name not in _PYDANTIC]


def without(*retired: str) -> Any:
    """Return a validator that drops retired keys. Only earlier versions wrote them."""

    def drop(given: object) -> object:
        return {k: v for k, v in given.items() if k not in retired} if isinstance(given, Mapping) else given

    return model_validator(mode="before")(drop)


def is_version(stated: object, wanted: int) -> bool:
    """Return whether a document has this schema version. It is an integer, neither true nor 1.0.

    >>> is_version(1, 1), is_version(True, 1), is_version(1.0, 1)
    (True, False, False)
    """
    return type(stated) is int and stated == wanted


class Context(Frozen):
    """The published robustness of an export's checkpoint. It is shown with the evidence and never decides."""

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

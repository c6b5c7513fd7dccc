"""The base of every record that is written to or read from a file."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """An immutable record: unknown keys are errors, and numbers that are not finite are refused.

    JSON has no NaN; a value that could not be measured is None (null), never NaN.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def is_version(stated: object, wanted: int) -> bool:
    """Whether a document states this version of its schema: a whole number, neither true nor 1.0.

    >>> is_version(1, 1), is_version(True, 1), is_version(1.0, 1)
    (True, False, False)
    """
    return type(stated) is int and stated == wanted

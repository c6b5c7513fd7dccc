"""The base of every record and of its errors, and what a document from JSON must be."""

from collections import Counter
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from . import Fields

ReprArgs = list[tuple[str, object]]  # what a record shows of itself: names and values
_PYDANTIC = {name for name in dir(BaseModel) if name[0] != "_"} - {"model_copy", "model_dump", "model_dump_json"}


class Frozen(BaseModel):
    """An immutable record. Unknown keys are errors, and numbers that are not finite are refused.

    JSON has no NaN; a value that could not be measured is None (null), never NaN.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __dir__(self) -> list[str]:
        """List the record's names for completion, without pydantic's own."""
        return [name for name in super().__dir__() if name not in _PYDANTIC]


def is_version(stated: object, wanted: int) -> bool:
    """Return whether a document has this schema version, as an integer (neither true nor 1.0).

    >>> is_version(1, 1), is_version(True, 1), is_version(1.0, 1)
    (True, False, False)
    """
    return type(stated) is int and stated == wanted


def first_fault(fault: ValidationError) -> str:
    """Write the place and the message of a record's first fault in one line."""
    first = fault.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}{earlier_version(fault)}"


def earlier_version(fault: ValidationError) -> str:
    """Write that an earlier version may have made a record in which a field is missing or not known."""
    kind = fault.errors(include_url=False)[0]["type"]
    return "; an earlier version may have made it" if kind in ("missing", "extra_forbidden") else ""


def unique_keys(pairs: list[tuple[str, Any]]) -> Fields:
    """Return the object of these keys and values.

    Raises ValueError for a key that occurs again: readers differ in the value they take.
    """
    content = dict(pairs)
    if len(content) < len(pairs):
        key, count = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"key {key!r:.80} occurs {count} times")
    return content


class HintedError(ValueError):
    """A file that cannot be used: the fault and the reason in one line, and in `hint` what to do next."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def refuse_version(raw: object, wanted: int, where: str, error: type[HintedError], hint: str) -> None:
    """Refuse a document of another schema version than `wanted`, with `hint` where it is not newer."""
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if not is_version(version, wanted):
        newer = isinstance(version, int) and version > wanted
        raise error(
            f"{where}: schema_version is {version!r}; this robustcheck reads {wanted}",
            "git pull && pip install .  # in a clone" if newer else hint,
        )

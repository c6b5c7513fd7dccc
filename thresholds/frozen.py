"""The base of every record in a file. The end of a representation is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import core_schema

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


def first_fault(fault: ValidationError) -> str:
    """Write the first fault of a record in one line. Its place comes first."""
    first = fault.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


class HintedError(ValueError):
    """A file that cannot be used.

    The message gives the fault and the reason, in one line. `hint`: what to do next.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def refuse_version(raw: object, wanted: int, where: str, error: type[HintedError], hint: str) -> None:
    """Refuse a document of another schema version than `wanted`. hint: for one that is not newer."""
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if not is_version(version, wanted):
        newer = isinstance(version, int) and version > wanted
        raise error(
            f"{where}: schema_version is {version!r}; this robustcheck reads {wanted}",
            "git pull && pip install .  # in a clone" if newer else hint,
        )


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


# position of the zero point among the inputs of an operator that writes a quantised tensor
WRITTEN_ZERO_AT = {"QuantizeLinear": 2, "QLinearConv": 7, "QLinearMatMul": 7, "QLinearAdd": 7, "QLinearMul": 7}
WRITTEN_ZERO_AT |= {"QGemm": 8, "QLinearGlobalAveragePool": 4, "QLinearAveragePool": 4, "QLinearConcat": 1}


@dataclass(frozen=True)
class End:
    """The layer that makes a representation. Records hold it as text, `kind` or `kind:op`.

    >>> End.parse("activation:Relu")
    End(kind='activation', op='Relu')
    >>> str(End("pool"))
    'pool'
    """

    kind: str
    """linear, linear_of (a linear map of what the activation `op` gave), linear_unread (a linear layer whose weight
    could not be read), second_linear (a linear layer that reads another one), change_of_basis, residual (a sum of
    sums), normalisation, activation, pool or other"""
    op: str = ""
    """the ONNX operator; empty where the kind says enough"""

    def __str__(self) -> str:
        return f"{self.kind}:{self.op}" if self.op else self.kind

    @classmethod
    def parse(cls, text: str) -> End:
        """Return the end that `str` wrote as `text`. Any text is one, so that records of other versions can be read."""
        kind, _, op = text.partition(":")
        return cls(kind, op)

    @property
    def can_make_outliers(self) -> bool:
        """Return whether outlier features can be an artefact.

        They can come from the last layer alone, or from scores; no profile holds for such an end.
        """
        return self.kind in ("change_of_basis", "linear_of", "linear_unread", "second_linear")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> core_schema.CoreSchema:
        """Read and write a field of this type as text. That holds in JSON and in Python."""

        def read(value: object, as_text: Callable[[object], str]) -> End:
            return value if isinstance(value, End) else cls.parse(as_text(value))

        to_text = core_schema.to_string_ser_schema(when_used="always")
        return core_schema.no_info_wrap_validator_function(read, core_schema.str_schema(), serialization=to_text)

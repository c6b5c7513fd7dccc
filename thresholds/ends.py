"""The layer that makes a representation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydantic_core import core_schema


@dataclass(frozen=True)
class End:
    """The layer that makes a representation, which records hold as text, `kind` or `kind:op`.

    >>> End.parse("activation:Relu")
    End(kind='activation', op='Relu')
    >>> str(End("pool"))
    'pool'
    """

    kind: str
    """linear, linear_of (a linear map of what the activation `op` gave), linear_unread (a linear layer that was not
    found, or whose weight could not be read), second_linear (a linear layer that reads another one), change_of_basis,
    residual (a sum of sums), normalisation, activation, pool or other"""
    op: str = ""
    """the ONNX operator; empty where the kind says enough"""

    def __str__(self) -> str:
        return f"{self.kind}:{self.op}" if self.op else self.kind

    @classmethod
    def parse(cls, text: str) -> End:
        """Return the end that `str` wrote as `text`, also for a text of another version's record."""
        kind, _, op = text.partition(":")
        return cls(kind, op)

    @property
    def can_make_outliers(self) -> bool:
        """Return whether outlier features can come from the last layer alone, or from scores.

        No profile holds for such an end.
        """
        return self.kind in ("change_of_basis", "linear_of", "linear_unread", "second_linear")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> core_schema.CoreSchema:
        """Read and write a field of this type as text, in JSON and in Python."""

        def read(value: object, as_text: Callable[[object], str]) -> End:
            return value if isinstance(value, End) else cls.parse(as_text(value))

        to_text = core_schema.to_string_ser_schema(when_used="always")
        return core_schema.no_info_wrap_validator_function(read, core_schema.str_schema(), serialization=to_text)

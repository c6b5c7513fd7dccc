"""The limit of a model file's bytes, which the environment hands to every process."""

from __future__ import annotations

import os

from ..errors import UsageError

MAX_MODEL_SIZE = "ROBUSTCHECK_MAX_MODEL_SIZE"
"""Variable of the environment: most bytes of a model with its external data. Processes below this one heed it, too."""


def max_model_bytes() -> int | None:
    """Return the environment's limit of a model's bytes.

    External data counts; the variable is `MAX_MODEL_SIZE`; None = no limit.

    Raises UsageError for a value that is not a size.
    """
    text = os.environ.get(MAX_MODEL_SIZE, "")
    if text.isdecimal() or not text:
        return int(text) if text else None
    from pydantic import ByteSize, TypeAdapter, ValidationError  # noqa: PLC0415 # where a person wrote the value

    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError as fault:
        raise UsageError(f"{MAX_MODEL_SIZE} is {text!r}; it must be a size", f"export {MAX_MODEL_SIZE}=2GiB") from fault

"""Turn arrays of any library into NumPy arrays, without an import of that library."""

import tokenize
import zipfile
import zlib
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

from .errors import CallError
from .text import type_name

Array = npt.NDArray[np.float64]
Float32s = npt.NDArray[np.float32]
Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]
Counts = npt.NDArray[np.int64]
GenericArray = npt.NDArray[np.generic]
AnyArray = npt.NDArray[Any]
NOT_READABLE = (
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    TypeError,
    EOFError,
    MemoryError,
    OverflowError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""what NumPy raises where a file is not one of its own, is damaged or encrypted, or claims what it does not hold"""


def float64(values: npt.ArrayLike) -> Array:
    """Return values in double precision, without a copy if possible."""
    return np.asarray(values, dtype=np.float64)


@runtime_checkable
class SupportsArray(Protocol):
    """An array that NumPy can read: its own, or a tensor of torch or another library."""

    def __array__(self) -> GenericArray:
        """NumPy's protocol."""
        ...


def is_array(value: object) -> bool:
    """Return whether a value is an array, with `__array__` or DLPack."""
    return isinstance(value, SupportsArray) or hasattr(value, "__dlpack__")


def as_array(value: object, label: str) -> GenericArray:
    """Read an array or tensor, without a copy if possible.

    A tensor is taken out of its graph of gradients and to the CPU first (its own `detach` and `cpu`), and bfloat16,
    which NumPy does not have, becomes float32 (its own `float`).

    Args:
        value: a NumPy array, or what has `__array__` or DLPack.
        label: names it in the message.

    Raises CallError: it is neither, or its library can't give it to NumPy.
    """
    if isinstance(value, np.ndarray):
        return value
    if not is_array(value):
        raise CallError(f"{label}: type is {type_name(value)}; it must be a NumPy array or a tensor")
    for method in ("detach", "cpu"):
        if callable(step := getattr(value, method, None)):
            value = step()
    if "bfloat16" in str(getattr(value, "dtype", "")) and callable(widen := getattr(value, "float", None)):
        value = widen()
    try:
        if isinstance(value, SupportsArray):
            return np.asarray(value)
        return cast(GenericArray, np.from_dlpack(value))  # type: ignore[arg-type] # looked for above
    except (TypeError, ValueError, RuntimeError, BufferError) as fault:
        raise CallError(f"{label}: type is {type_name(value)}, which NumPy can't read; give it as an array") from fault

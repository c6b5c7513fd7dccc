"""Refuse a wrong call of a public function: name the keyword that is meant, and show a right call."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import cache, wraps
from inspect import Parameter, signature
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ParamSpec, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

from .errors import CallError
from .text import Texts, type_name

Params = ParamSpec("Params")
Answer = TypeVar("Answer")
PLAIN = (str, Path, NoneType, Callable, Sequence)
"""kinds of an argument that are looked at, next to this package's own records"""
SYNONYMS = {
    "data": "images",
    "dataset": "images",
    "photos": "images",
    "images": "concept_set",
    "limit": "max_images",
    "layer": "tensor",
    "provider": "device",
    "gpu": "device",
    "profile": "thresholds",
}
"""by a keyword that is typed: ours, where the function has it"""


def public(example: str) -> Callable[[Callable[Params, Answer]], Callable[Params, Answer]]:
    """Make a function raise CallError for a call that does not fit it, before it does anything.

    example: a right call, or what to call instead, for the hint.
    """

    def decorated(function: Callable[Params, Answer]) -> Callable[Params, Answer]:
        @wraps(function)
        def called(*arguments: Params.args, **keywords: Params.kwargs) -> Answer:
            __tracebackhide__ = True  # pytest shows the line of the test
            fault = _unknown(function, keywords) or _misfit(function, arguments, keywords)
            if fault:
                raise CallError(f"rc.{function.__name__}: {fault}", example)
            return function(*arguments, **keywords)

        return called

    return decorated


@cache
def _hints(function: Callable[..., object]) -> dict[str, Any]:
    return get_type_hints(function)


@cache
def keywords_of(function: Callable[..., object]) -> Texts:
    """Return the keywords of a function, with those of the record that its `**options` are."""
    names: list[str] = []
    for name, parameter in signature(function).parameters.items():
        if parameter.kind is Parameter.VAR_KEYWORD:
            (options,) = get_args(_hints(function)[name])
            names += options.__annotations__
        else:
            names.append(name)
    return tuple(names)


def _unknown(function: Callable[..., object], keywords: dict[str, Any]) -> str:
    """Return which keyword of a call is unknown, and which is meant; "" where all are known."""
    known = keywords_of(function)
    for name in keywords:
        if name not in known:
            near = SYNONYMS.get(name)
            if near not in known:
                near = "".join(get_close_matches(name, known, 1))
            more = f". Did you mean {near}?" if near else f"; known are {', '.join(known)}"
            return f"unknown keyword {name}{more}"
    return ""


def _misfit(function: Callable[..., object], arguments: Sequence[Any], keywords: dict[str, Any]) -> str:
    """Return what is wrong with the number or the kinds of the arguments; "" for nothing."""
    form = signature(function)
    try:
        bound = form.bind(*arguments, **keywords)
    except TypeError as fault:
        by_position = [name for name, each in form.parameters.items() if each.kind is Parameter.POSITIONAL_OR_KEYWORD]
        return f"{fault}; by position it takes {', '.join(by_position)}"
    for name, value in bound.arguments.items():
        kinds = _kinds(_hints(function)[name])
        if not _fits(value, kinds):
            return f"{name}: type is {type_name(value)}; it must be {' or '.join(map(_name, kinds))}"
    return ""


def _kinds(hint: Any) -> tuple[Any, ...]:
    """Return the classes of an annotation, such as str and Path of `str | Path`."""
    each = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return tuple(get_origin(kind) or kind for kind in each)


def _fits(value: object, kinds: tuple[Any, ...]) -> bool:
    """Return whether a value is of the kinds of an annotation. At others the function looks itself."""
    if not all(kind in PLAIN or _is_record(kind) for kind in kinds):
        return True
    return isinstance(value, kinds) or (Path in kinds and isinstance(value, os.PathLike))


def _is_record(kind: Any) -> bool:
    package = __name__.partition(".")[0]
    return isinstance(kind, type) and kind.__module__.startswith(package) and Protocol not in kind.__bases__


def _name(kind: Any) -> str:
    """Return how a call names a class."""
    if kind is NoneType:
        return "None"
    return f"rc.{kind.__name__}" if _is_record(kind) else str(kind.__name__)

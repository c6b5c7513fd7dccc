"""The harness of a verb that asks a question of one model: its shared options, and the delivery of the answer.

A verb declares what is its own; `question` adds the options that all of them have and hands it a `Call`.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from . import options as given
from .options import OUTPUT
from .output import deliver, destinations_of, measuring

if TYPE_CHECKING:
    from robustcheck_onnx.checker.storage.places import Place

Option = tuple[Any, Any]  # its type for typer, and its default
RUN: dict[str, Option] = {
    "max_bad": (given.MaxBad, 0.01),
    "seed": (given.Seed, 0),
    "preprocess": (given.PreprocessOption, None),
    "tensor": (given.Tensor, None),
    "pool": (given.Pool, None),
    "device": (given.Device, "auto"),
    "provider_option": (given.ProviderOption, None),
    "batch_size": (given.BatchSize, 32),
}
SHOWN: dict[str, Option] = {
    "quiet": (given.Quiet, 0),
    "verbose": (given.Verbose, 0),
    "no_time": (given.NoTime, False),
    "color": (given.Color, "auto"),
    "timeout": (given.Timeout, None),
    "max_memory": (given.MaxMemory, None),
    "max_model_size": (given.MaxModelSize, None),
    "debug": (given.Debug, False),
}


class Call:
    """One call of a verb: what was typed for the shared options, and where its documents go."""

    def __init__(self, ctx: typer.Context, room: str, forms: tuple[str, ...]) -> None:
        self._ctx = ctx
        self._room = f"robustcheck_onnx.checker.{room}"
        self._forms = forms
        self.terminal = import_module(f"{self._room}.terminal")

    @property
    def outputs(self) -> list[str]:
        """What was typed for -o."""
        return self._ctx.params["output"] or []

    def say(self, line: str) -> None:
        """Write a line to stdout unless --quiet was given."""
        if not self._ctx.params["quiet"]:
            sys.stdout.write(f"{line}\n")

    def reads(self, *places: Place | None) -> None:
        """Say what the verb reads: no document may replace it."""
        known = [place for place in places if place is not None]
        self.destinations = destinations_of(self.outputs, known, self._forms)

    @contextmanager
    def measuring(self, model: Path) -> Iterator[dict[str, Any]]:
        """The keyword arguments that every question takes, while its progress is shown."""
        typed = self._ctx.params
        limits = given.limits_of(typed["timeout"], typed["max_memory"], typed["max_model_size"])
        with measuring(self.destinations, model, typed["quiet"]) as progress:
            yield {**given.run_options(self._ctx), "limits": limits, "progress": progress}

    def answer(self, result: Any) -> None:
        """Deliver a result in each form that was asked for."""
        typed = self._ctx.params
        result = result.model_copy(update={"time": None}) if typed["no_time"] else result
        deliver(
            self.destinations,
            partial(written, self._room, result),
            partial(self.terminal.render, result, verbose=typed["verbose"] > 0),
            typed["color"],
            quiet=typed["quiet"],
            line=self.terminal.one_line(result),
        )


def written(room: str, result: Any, form: str) -> str:
    """The result that a room (its module) gave, in a form other than terminal; it ends in a newline."""
    from robustcheck_onnx.checker.report.record import to_json

    if form == "json":
        return to_json(result)
    if form == "html":
        return str(import_module(f"{room}.html").render(result))
    return str(import_module(f"{room}.forms").render(form, result))


def question(
    room: str,
    *,
    forms: tuple[str, ...] = ("terminal", "json", "html"),
    without: tuple[str, ...] = (),
    **own: Option,
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Make a verb of a function, whose result the modules of a room of `checker` show.

    Args:
        room: its name.
        forms: those of -o; the module `forms` of the room writes what is not terminal, json or html.
        without: names of shared options that the verb does not have.
        own: types and defaults of further options; they stand where shared ones do, not among those of the function.
    """

    output = typer.Option(
        "--output",
        "-o",
        help=f"{', '.join(forms[:-1])} or {forms[-1]}; with =PATH, or a file by its suffix. May be repeated.",
        metavar="FORMAT[=PATH]",
        autocompletion=given.completing(lambda: forms),
        rich_help_panel=OUTPUT,
    )
    shared = own | RUN | {"output": (Annotated[list[str] | None, output], None)} | SHOWN

    def decorate(function: Callable[..., int]) -> Callable[..., int]:
        hints = get_type_hints(function, include_extras=True)
        (_, *typed) = inspect.signature(function).parameters.values()
        names = [each.name for each in typed]
        added = [(name, *option) for name, option in shared.items() if name not in without]

        @functools.wraps(function)
        def verb(ctx: typer.Context, **params: Any) -> int:
            return function(Call(ctx, room, forms), **{name: params[name] for name in names})

        parameters = [each.replace(annotation=hints[each.name]) for each in typed]
        parameters += [
            inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=d, annotation=t) for n, t, d in added
        ]
        context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        verb.__signature__ = inspect.Signature([context, *parameters])  # type: ignore[attr-defined]
        verb.__annotations__ = {each.name: each.annotation for each in (context, *parameters)}
        return verb

    return decorate

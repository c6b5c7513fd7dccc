"""Share options and delivery between verbs.

Options of the table are added to a verb's own, and a question's answer is delivered.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_type_hints

import typer

from .command_line import Invocation
from .options import ROWS, Settings, completing, parameter
from .output import deliver, destinations_of, measuring, print_report

if TYPE_CHECKING:
    from rich.console import RenderableType

    from robustcheck_onnx.checker.storage.places import Place

QUESTION: Final = (
    *("max_bad", "seed", "preprocess", "tensor", "pool", "device", "provider_option", "batch_size", "output", "quiet"),
    *("verbose", "no_time", "color", "timeout", "max_memory", "max_model_size", "debug"),
)
"""options of the table that every question has"""
AS_FOR_A_CHECK: Final = {"help": "In-distribution photos, as for a check. Default: the bundled photos."}
"""of `images`"""
Verb = Callable[..., int]


class Call:
    """A call of a verb."""

    def __init__(self, ctx: typer.Context, settings: Settings) -> None:
        self.settings = settings
        """the options of the table; those that the verb does not have are at their defaults"""
        self.typed = {n: _frozen(v) for n, v in ctx.params.items() if n in ROWS and _is_typed(ctx, n)}
        """those that were typed"""
        self.invocation: Invocation = ctx.obj
        self._names = ctx.params.keys()

    @property
    def options(self) -> dict[str, Any]:
        """Return the options that move a run's numbers.

        They are keyword arguments, of the options that the verb has.
        """
        return {name: value for name, value in self.settings.options.given.items() if name in self._names}

    def show(self, form: str, text: Callable[[], str], render: Callable[..., RenderableType]) -> None:
        """Write a document to stdout. It is `text` for json, else what `render` gives."""
        if form == "json":
            sys.stdout.write(text())
        else:
            print_report(render, self.settings.color)


def _is_typed(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


class Question(Call):
    """A call of a verb that asks a question. It knows where its documents go."""

    def __init__(self, ctx: typer.Context, settings: Settings, *, room: str, forms: tuple[str, ...]) -> None:
        super().__init__(ctx, settings)
        self._room = f"robustcheck_onnx.checker.{room}"
        self._forms = forms
        self.terminal = import_module(f"{self._room}.terminal")

    def say(self, line: str) -> None:
        """Write a line to stdout unless --quiet was given."""
        if not self.settings.quiet:
            sys.stdout.write(f"{line}\n")

    def reads(self, *places: Place | None) -> None:
        """Note what the verb reads: no document may replace it."""
        known = [place for place in places if place is not None]
        self.destinations = destinations_of(self.settings.output, known, self._forms)

    @contextmanager
    def measuring(self, model: Path) -> Iterator[dict[str, Any]]:
        """Show progress; yield the keyword arguments of every question."""
        limits = self.settings.limits
        with measuring(self.destinations, model, self.settings.quiet) as progress:
            yield {**self.options, "limits": limits, "progress": progress}

    def answer(self, result: Any) -> None:
        """Deliver a result in each requested form."""
        settings = self.settings
        shown = {"verbose": settings.verbose > 0} if "verbose" in self._names else {}
        result = result.model_copy(update={"time": None}) if settings.no_time else result
        deliver(
            self.destinations,
            partial(written, self._room, result),
            partial(self.terminal.render, result, **shown),
            settings.color,
            quiet=settings.quiet,
            line=self.terminal.one_line(result),
        )


def written(room: str, result: Any, form: str) -> str:
    """Write a room's result in another form than terminal. The room is a module; the text ends in a newline."""
    from robustcheck_onnx.checker.report.record import to_json

    if form == "json":
        return to_json(result)
    if form == "html":
        return str(import_module(f"{room}.html").render(result))
    return str(import_module(f"{room}.forms").render(form, result))


def takes(
    *names: str, call: Callable[[typer.Context, Settings], Call] = Call, **changed: Mapping[str, Any]
) -> Callable[[Verb], Verb]:
    """Give a verb options of the table. Its function gets a `Call` with them, then what it declares itself.

    Args:
        names: of the options, in the order of help.
        call: makes the `Call`.
        changed: what one of them has otherwise here; one that is not among the names comes first.
    """
    ordered = [*(name for name in changed if name not in names), *names]
    added = [parameter(name, **changed.get(name, {})) for name in ordered]

    def decorate(function: Verb) -> Verb:
        hints = get_type_hints(function, include_extras=True)
        (_, *own) = inspect.signature(function).parameters.values()

        @functools.wraps(function)
        def verb(ctx: typer.Context, **values: Any) -> int:
            shared = {name: values.pop(name) for name in ordered}
            typed = {n: _frozen(v) for n, v in shared.items() if v is not None and n != "waivers"}
            return function(call(ctx, replace(Settings(), **typed)), **values)

        context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        parameters = [context, *(each.replace(annotation=hints[each.name]) for each in own), *added]
        verb.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        verb.__annotations__ = {each.name: each.annotation for each in parameters}
        return verb

    return decorate


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def question(
    room: str,
    *,
    forms: tuple[str, ...] = ("terminal", "json", "html"),
    without: tuple[str, ...] = (),
    **changed: Mapping[str, Any],
) -> Callable[[Verb], Verb]:
    """Make a verb of a function. The modules of a room of `checker` show its result.

    Args:
        room: its name.
        forms: those of -o; the module `forms` of the room writes what is not terminal, json or html.
        without: names of shared options that the verb does not have.
        changed: as of `takes`.
    """
    output = {
        "help": f"{', '.join(forms[:-1])} or {forms[-1]}; with =PATH, or a file by its suffix. May be repeated.",
        "autocompletion": completing(lambda: forms),
    }
    changed = {"output": output, "verbose": {"max": 1, "help": "The whole report."}} | changed
    names = [name for name in QUESTION if name not in without]
    return takes(*names, call=partial(Question, room=room, forms=forms), **changed)

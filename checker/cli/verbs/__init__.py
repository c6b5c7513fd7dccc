"""Give verbs their options, a call of their own, and its answer.

Every module of verbs imports this one, so it imports nothing heavy at the top.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial, wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar, get_type_hints

import typer

from ...text import Texts
from ..command_line import Invocation
from ..destinations import Destination, destinations_of, remove_earlier
from ..options import CI, ROWS, VERDICT, Settings, Values, as_tuples, completing, key_of, parameter, path_of
from ..output import Faults, plain, print_report, print_result, write_files
from ..progress import progress_line

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ...outside.storage.places import Place

NOT_SHARED = ("images", "max_images", "sign", "save_representations", "log_file", "no_thumbnails")
QUESTION = [n for n, row in ROWS.items() if n not in NOT_SHARED and row.panel not in (VERDICT, CI)]
"""options of the table that every question has; it may have others, too"""
FORMS = ("terminal", "json", "html", "markdown")
AS_FOR_A_CHECK = {"help": "In-distribution photos, as for a check. Default: the bundled photos."}
"""of `images`"""
Verb = Callable[..., int]
Result = TypeVar("Result")


class Call:
    """A call of a verb."""

    def __init__(self, ctx: typer.Context, settings: Settings) -> None:
        self.settings = settings
        """the options of the table; those that the verb does not have are at their defaults"""
        self.typed: Values = {}
        """those that were typed"""
        for name in ctx.params.keys() & ROWS.keys():
            source = ctx.get_parameter_source(name)
            if source is not None and source.name == "COMMANDLINE":
                self.typed[name] = as_tuples(ctx.params[name])
        self.invocation: Invocation = ctx.obj
        self._names = ctx.params.keys()

    @property
    def options(self) -> Values:
        """Return those of the verb's options that move a run's numbers, as keyword arguments."""
        keywords = self.settings.options.keywords
        return {name: keywords[name] for name in keywords.keys() & self._names}

    def show(self, form: str, text: Callable[[], str], render: Callable[..., RenderableType]) -> None:
        """Write a document to stdout: `text` for json, else what `render` gives."""
        if form == "json":
            sys.stdout.write(text())
        else:
            print_report(render, self.settings.color)


class Question(Call):
    """A call of a verb that asks a question, and the places of its documents."""

    def __init__(self, ctx: typer.Context, settings: Settings, *, forms: Texts = FORMS) -> None:
        from ...outside.isolation import signals_wait

        super().__init__(ctx, settings)
        # a signal during these imports would abort the process (nanobind), and the reports of an earlier run would
        # stand; what can't be imported is an error where it is needed
        with signals_wait(), suppress(Exception):
            import onnx
            import onnxruntime
        self._forms = forms

    def begin(self, *reads: Path | None) -> None:
        """Find out where documents go, and remove those of an earlier run. Nothing was opened before.

        reads: the files of robustcheck that the verb reads, such as a report; no document may replace one of them.
        """
        images = path_of(self.settings.images or None)
        read_files = [path for path in (*reads, images) if path is not None]
        self.destinations = destinations_of(self.settings.output, read_files, self._forms)
        remove_earlier(self.destinations)

    def measured(self, function: Callable[..., Result], model: str | Path, *places: Any, **own: Any) -> Result:
        """Call a question's function; show progress meanwhile.

        places: more of its arguments. own: options of the verb's own; they count before those of the table.
        """
        limits = self.settings.limits
        from ...outside.storage.places import redact

        with progress_line(self.settings.quiet, redact(str(model))) as progress:
            return function(model, *places, **self.options | own, limits=limits, progress=progress)

    def answer(self, result: Any) -> int:
        """Deliver a result in each requested form. Returns the exit code; 0 for one that judges nothing."""
        from ...report import terminal
        from ...report.document import document_of

        settings = self.settings
        options = {"verbose": settings.verbose > 0} if "verbose" in self._names else {}
        if settings.no_time:
            result = result.model_copy(update={"time": None})
        document = document_of(result)
        render = partial(terminal.render_document, document, **options)

        def text(form: str) -> str:
            if form == "terminal":
                return plain(render(ascii_only=False))
            return str(getattr(result, f"to_{form}")())

        faults: Faults = {}
        texts = {destination: partial(text, destination.form) for destination in self.destinations}
        write_files(texts, faults)
        print_result(
            self.destinations,
            text,
            render,
            lambda: document.one_line,
            color=settings.color,
            quiet=settings.quiet,
            faults=faults,
        )
        return getattr(result, "exit_code", 0)


def takes(*names: str, call: Callable[[typer.Context, Settings], Call] = Call, **more: Any) -> Callable[[Verb], Verb]:
    """Give a verb its options: those of the table in a `Call`, then its own as parameters.

    Args:
        names: of the options of the table, in the order of help.
        call: makes the `Call`.
        more: by name: a mapping of what an option of the table has otherwise here; one that is not among the names
            comes first. `option` or `argument` of a parameter of the function, which has its type and default; a flag
            has the parameter's name.
    """
    changed = {name: change for name, change in more.items() if isinstance(change, Mapping)}
    first = [name for name in changed if name not in names]
    ordered = [*first, *names]
    added = [parameter(name, **changed.get(name, {})) for name in ordered]

    def decorate(function: Verb) -> Verb:
        hints = get_type_hints(function, include_extras=True)
        (_, *own) = signature(function).parameters.values()

        @wraps(function)
        def verb(ctx: typer.Context, **values: Any) -> int:
            shared = {name: values.pop(name) for name in ordered}
            shared.pop("waivers", None)  # a file, until it is read
            given = {name: as_tuples(value) for name, value in shared.items() if value is not None}
            settings = replace(Settings(), **given)
            return function(call(ctx, settings), **values)

        context = Parameter("ctx", Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        for name in more.keys() - changed.keys():
            info = more[name]
            if hints[name] is bool and not info.param_decls:
                info.param_decls = (f"--{key_of(name)}",)
            hints[name] = Annotated[hints[name], info]
        annotated = [param.replace(annotation=hints[param.name]) for param in own]
        parameters = [context, *annotated, *added]
        verb.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        verb.__annotations__ = {param.name: param.annotation for param in parameters}
        return verb

    return decorate


def output_of(forms: Texts) -> Values:
    """Return what the option `output` has for these forms."""
    return {
        "help": f"{', '.join(forms[:-1])} or {forms[-1]}; with =PATH, or a file by its suffix. May be repeated.",
        "autocompletion": completing(lambda: forms),
    }


def question(*, forms: Texts = FORMS, without: Texts = (), **more: Any) -> Callable[[Verb], Verb]:
    """Make a verb of a function whose result is shown as a document.

    Args:
        forms: those of -o; the result has a method for each but terminal, such as to_json.
        without: names of shared options that the verb does not have.
        more: as of `takes`.
    """
    shared = {"output": output_of(forms), "verbose": {"max": 1, "help": "The whole report."}}
    names = [name for name in QUESTION if name not in without]
    return takes(*names, call=partial(Question, forms=forms), **shared | more)

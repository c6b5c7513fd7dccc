"""Show help with examples first. Options are in panels, and nothing is there that a reader does not need.

Typer's own help shows a type for every option, flags included, and examples last. `Verbs` is a typer app whose verbs
show this help instead. Imports nothing heavy.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from robustcheck_onnx.checker.text import sentence_text

from .options import OPTION_PANELS, OPTIONS, OUTPUT, VERB_PANELS

if TYPE_CHECKING:
    from rich.text import Text
    from typer._click import Command as AnyCommand
    from typer._click import Context, HelpFormatter, Parameter

EXAMPLE = "Example: "
WIDEST = 100  # columns; longer lines are hard to read
NAMES = 28  # columns at most for names of options; after a longer one its help starts on the next line
INDENT = "  "
ALL = "--help-all"
SHORT = {
    "check": (
        *("images", "max_images", "preprocess", "tensor", "device", "fail_on", "waivers"),
        *("batch_size", "output", "quiet", "verbose", "config", "strict"),
    )
}
"""by verb: the options that `--help` shows; `--help-all` shows the others, too"""


class Verbs(typer.Typer):
    """A typer app with this module's help. It may also be a group of verbs in one."""

    def __init__(self, *, name: str, help: str, **settings: Any) -> None:  # typer's word
        super().__init__(
            name=name,
            help=help,
            cls=Group,
            no_args_is_help=False,
            context_settings={"help_option_names": ["-h", "--help", ALL]},
            **settings,
        )

    def verb(
        self,
        name: str | None = None,
        *,
        examples: Sequence[str],
        codes: str = "",
        panel: str | None = None,
    ) -> Callable[[Callable[..., int]], Callable[..., int]]:
        """Decorate a function as a verb.

        name: None = the function's name. examples: command lines. codes: what its exit codes mean. panel: one of
        `VERB_PANELS`, for a verb of the app itself.
        """
        epilog = "\n\n".join([*(f"{EXAMPLE}{example}" for example in examples), *([codes] if codes else [])])
        return self.command(name, cls=Command, epilog=epilog, rich_help_panel=panel)


class Command(TyperCommand):
    """A verb."""

    def format_help(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Print the help on stdout (called by `--help`)."""
        show(self, ctx)


class Group(TyperGroup):
    """A group of verbs, or the whole app."""

    def format_help(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Print the help on stdout (called by `--help`)."""
        show(self, ctx)


class Row(NamedTuple):
    """An argument, option or verb and what it is."""

    name: str
    about: str


class Panel(NamedTuple):
    """A heading with rows."""

    title: str
    rows: list[Row]


def show(command: AnyCommand, ctx: Context) -> None:
    """Print the help of a verb or group. It is as wide as the terminal, `WIDEST` columns at most."""
    from .output import ascii_only, console_for

    console = console_for()
    plain = ascii_only(console)
    for line in lines(command, ctx, min(console.width, WIDEST) - (len("...") if plain else 0)):
        console.print(sentence_text(line.plain, plain) if plain else line, soft_wrap=True, markup=False)


def lines(command: AnyCommand, ctx: Context, width: int) -> list[Text]:
    """Return the lines of a help text. Only a long word is wider than `width`."""
    from rich.text import Text

    made = [Text(f"Usage: {usage(command, ctx)}", "bold"), Text()]
    for paragraph in (command.help or "").split("\n\n"):
        made += [*map(Text, textwrap.wrap(" ".join(paragraph.split()), width, break_on_hyphens=False)), Text()]
    epilog = (command.epilog or "").split("\n\n")
    examples = [text.removeprefix(EXAMPLE) for text in epilog if text.startswith(EXAMPLE)]
    if examples:
        made.append(Text("Examples" if len(examples) > 1 else "Example", "bold"))
        made += [Text(line, "green") for example in examples for line in folded(example, width)]
        made.append(Text())
    for some in panels(command, ctx):
        column = min(max(len(row.name) for panel in some for row in panel.rows), NAMES) + 2
        for panel in some:
            made += [Text(panel.title, "bold"), *_table(panel.rows, column, width), Text()]
    for text in epilog:
        if text and not text.startswith(EXAMPLE):
            made += [*map(Text, textwrap.wrap(text, width)), Text()]
    return made[:-1]


def usage(command: AnyCommand, ctx: Context) -> str:
    """Return the usage of a verb. It is its path, `[OPTIONS]`, its arguments."""
    arguments = [
        name if argument.required else f"[{name}]"
        for argument in command.get_params(ctx)
        if isinstance(argument, TyperArgument)
        for name in [_argument(argument)]
    ]
    more = ["COMMAND", "…"] if isinstance(command, TyperGroup) else ["[OPTIONS]", *arguments]
    return " ".join([ctx.command_path, *more])


def folded(example: str, width: int) -> list[str]:
    """Fold a command line for the shell. A shell takes the lines for one; it breaks before options only."""
    words = example.replace(" -", "\0-").split("\0")
    made = [f"{INDENT}{words[0]}"]
    for word in words[1:]:
        if len(made[-1]) + len(word) + 3 <= width:  # a blank before, and ` \` after
            made[-1] += f" {word}"
        else:
            made[-1] += " \\"
            made.append(f"{INDENT * 3}{word}")
    return made


def panels(command: AnyCommand, ctx: Context) -> list[list[Panel]]:
    """Return the panels of a verb or group. They are arguments and options, or verbs and options; none is empty.

    Names of the panels in one list are in one column.
    """
    arguments: list[Row] = []
    line = getattr(ctx.find_root().obj, "line", None)
    only = SHORT.get(command.name or "") if line is not None and ALL not in line.words else None
    options: dict[str, list[Row]] = {title: [] for title in OPTION_PANELS}
    for param in command.get_params(ctx):
        if isinstance(param, TyperArgument) and not param.hidden:
            arguments.append(Row(_argument(param), about(param)))
        elif (
            isinstance(param, TyperOption)
            and not param.hidden
            and (only is None or param.name in only or ALL in param.opts)
        ):
            last = OUTPUT if options[OUTPUT] and ALL in param.opts else OPTIONS  # typer's own option
            options[param.rich_help_panel or last].append(Row(_option(param), about(param)))
    verbs: dict[str, list[Row]] = {title: [] for title in VERB_PANELS}
    for each in command.commands.values() if isinstance(command, TyperGroup) else ():
        title = getattr(each, "rich_help_panel", None) or "Commands"
        verbs.setdefault(title, []).append(Row(each.name or "", summary(each)))
    shown = [
        [Panel(title, rows) for title, rows in some.items() if rows]
        for some in (verbs, {"Arguments": arguments} | options)
    ]
    return [some for some in shown if some]


def summary(command: AnyCommand) -> str:
    """Return the first paragraph of a verb's help."""
    return " ".join((command.help or "").split("\n\n")[0].split())


def about(param: TyperArgument | TyperOption) -> str:
    """Return the help of an argument or option. It has the default where there is one."""
    text = " ".join((param.help or "").split())
    if ALL in param.opts:
        return f"Show this help; {ALL}: every option."
    if isinstance(param, TyperOption) and param.required:
        return f"{text} (required)"
    default = param.default
    shown = param.show_default and default is not None and default != "" and not isinstance(default, bool)
    if not shown or (isinstance(param, TyperOption) and param.count):
        return text
    return f"{text} [default: {default}]"


def _argument(param: TyperArgument) -> str:
    name = param.metavar or (param.name or "").upper()
    return name if param.nargs == 1 or name.endswith(("...", "…")) else f"{name}…"


def _option(param: TyperOption) -> str:
    names = ", ".join(sorted(param.opts, key=len))
    if param.secondary_opts:
        names = f"{names} / {', '.join(param.secondary_opts)}"
    indent = "" if min(map(len, param.opts)) == len("-o") else " " * len("-o, ")
    return f"{indent}{names}{value_of(param)}"


def value_of(param: Parameter) -> str:
    """Return what follows an option's name. It is nothing for a flag, else a blank and the name of its value."""
    if not isinstance(param, TyperOption) or param.is_flag or param.count:
        return ""
    return f" {param.metavar or (param.name or '').upper()}"


def _table(rows: Iterable[Row], column: int, width: int) -> list[Text]:
    """Lay out names and texts in two columns. After a name that is too long its text starts on the next line."""
    from rich.text import Text

    start = len(INDENT) + column
    made: list[Text] = []
    for row in rows:
        texts = textwrap.wrap(row.about, max(width - start, 20), break_on_hyphens=False) or [""]
        if len(row.name) > column - 2:
            made.append(Text.assemble(INDENT, (row.name, "cyan")))
        else:
            made.append(Text.assemble(INDENT, (row.name.ljust(column), "cyan"), texts.pop(0)))
        made += [Text(" " * start + text) for text in texts]
    return made

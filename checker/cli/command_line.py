"""Read a command line by typer's parser, also where typer refuses it or a signal ends the run.

It has options, models that words name, and the place of a settings file. Imports only typer and Python's own library:
it is needed even where a signal has ended the import of everything else.
"""

import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, Final

from typer._click.parser import _ParsingState
from typer.core import TyperGroup, TyperOption
from typer.exceptions import TyperException

from ..errors import EnvironmentFaultError, RobustcheckError, UsageError
from ..text import Texts, form_of, frozen, quoted
from .options import PLACEHOLDER, Values

Words = Sequence[str]
Variables = Mapping[str, str]
Documents = list[tuple[str, str]]
"""each as (form, path); path "" is stdout"""
TEMPLATE: Final = "template"
_END: Final = ".j2="


def split(text: str) -> tuple[str, str, str]:
    """Split FORM[=PATH] into form, equals sign and path. The form of a template holds the template's file, too.

    A path alone has the form of its suffix.

    >>> split("json=report.json"), split("gitlab")
    (('json', '=', 'report.json'), ('gitlab', '', ''))
    >>> split("out/report.html")
    ('html', '=', 'out/report.html')
    >>> split("template=slack.j2=out.json"), split("template=slack.j2")
    (('template=slack.j2', '=', 'out.json'), ('template=slack.j2', '', ''))
    """
    form, sign, path = text.partition("=")
    if form != TEMPLATE or not sign:
        return (form_of(text), "=", text) if not sign and form_of(text) else (form, sign, path)
    file, end, target = text.partition(_END)
    return (file + _END[:-1], "=", target) if end else (text, "", "")


def template_of(form: str) -> str | None:
    """Return the template's file of a form. `split` gave the form; None for any other form."""
    name, _, file = form.partition("=")
    return file if name == TEMPLATE else None


_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|.*://", re.DOTALL)
"""what `storage.parse_place` can take for a URL, and more; a drive of Windows has one letter"""


def is_inside(path: str, folder: str | Path) -> bool:
    """Return whether a file lies below a folder. Every link on the way is followed; False for a URL."""
    if _URL.match(path):
        return False
    try:
        real, root = os.path.realpath(path), os.path.realpath(folder)
        # a Path would change the name; a link that is left leads to itself
        return not os.path.islink(real) and real != root and os.path.commonpath([real, root]) == root  # noqa: PTH114
    except (OSError, ValueError):  # a name that can't be one; another drive
        return False


def may_write(path: str, folder: str | Path) -> bool:
    """Return whether a settings file may name an output. It lies below its folder, and is not a pipe or a folder."""
    return is_inside(path, folder) and os.path.exists(path) == os.path.isfile(path)  # noqa: PTH110, PTH113 # as is_inside


def follows_link(path: str) -> bool:
    """Return whether a path follows a link.

    The file is a link, or a path below the current folder leads out of it over one; False for a URL.
    """
    path = re.sub(r"^(?:file|local):/+", "/", path, flags=re.IGNORECASE)
    if _URL.match(path) or path.startswith("/dev/"):  # /dev/stdout is a link, and nobody's but the system's
        return False
    goes_up = os.path.isabs(path) or os.pardir in Path(path).parts  # noqa: PTH117
    return os.path.islink(path) or not (goes_up or is_inside(path, os.curdir))  # noqa: PTH114


def safe_documents(outputs: Words, stems: Words, folder: Path | None, *, strict: bool) -> Documents:
    """Return the documents that a run may write, without repeats. The others are never touched.

    Each FORM[=PATH] of the outputs gives (form, path), with path "" for stdout.

    stems: what `{model}` in a path stands for, one path for each; without any, such a path is left out.
    folder: of the settings file, where that names them.
    """
    filled = {
        (form, "" if path == "-" else path.replace(PLACEHOLDER, stem)): None
        for form, _, path in map(split, outputs)
        for stem in (stems if PLACEHOLDER in path else [""])
    }
    return [
        (form, path)
        for form, path in filled
        if not path or (may_write(path, folder) if folder is not None else not (strict and follows_link(path)))
    ]


OWN_FILE, SHARED_FILE, TABLE = "robustcheck.toml", "pyproject.toml", "robustcheck"
CONFIG = "ROBUSTCHECK_CONFIG"  # environment variable: the file, as --config
OUTPUT_VARIABLE = "ROBUSTCHECK_OUTPUT"  # environment variable: the setting `output`


def outputs_elsewhere(environment: Variables, file: str | None) -> tuple[Words, Path | None]:
    """Read `output` of the environment or a file, and the file's folder. Other faults there do not matter.

    Args:
        environment: the variables.
        file: of --config; None = as `find_named`.

    Raises what reading the file raises; TypeError, AttributeError where `output` is not a list of texts.
    """
    listed = environment.get(OUTPUT_VARIABLE, "")
    path = None if listed else find_named(environment, file)
    if path is None:
        return [part.strip() for part in listed.split(",") if listed], None
    outputs = (read_table(path, required=True) or {}).get("output", ())
    return rebased_outputs(outputs, path.parent), path.parent


def find_named(environment: Variables, file: str | None) -> Path | None:
    """Return the settings file.

    --config names it, else ROBUSTCHECK_CONFIG, else it is the nearest one upward from the current folder.
    """
    named = file if file is not None else environment.get(CONFIG) or None
    return Path(named) if named is not None else find(Path.cwd())


def rebased(path: str, folder: Path) -> str:
    """Join a file's path to the file's folder. A URL stays."""
    return path if "://" in path else str(folder / path)


def rebased_outputs(outputs: Iterable[str], folder: Path) -> Texts:
    """Rebase the path in each FORM[=PATH]."""
    return tuple(
        form + sign + (rebased(path, folder) if path not in ("", "-") else path)
        for form, sign, path in map(split, outputs)
    )


def find(folder: Path) -> Path | None:
    """Find the nearest settings file upward from a folder.

    It is a path relative to the folder; None where there is none.

    robustcheck.toml counts before pyproject.toml next to it; a pyproject.toml without [tool.robustcheck] is skipped.
    """
    for level, parent in enumerate((folder, *folder.parents)):
        relative = Path(*[".."] * level)
        if os.path.lexists(parent / OWN_FILE):
            return relative / OWN_FILE
        if (parent / SHARED_FILE).is_file() and read_table(relative / SHARED_FILE, required=False) is not None:
            return relative / SHARED_FILE
    return None


def read_table(path: Path, *, required: bool) -> Values | None:
    """Read the settings in a file. None for a pyproject.toml without a table of them, unless `required`."""
    from ...thresholds import MOST_BYTES, read_start, read_toml  # keeps `--help` fast

    look = f"ls -ld {path}"
    if not path.exists():
        raise UsageError(f"{path}: settings file is missing", "robustcheck init")
    if not path.is_file():
        raise UsageError(f"{path}: settings file is not a regular file; it must be a TOML file", look)
    try:
        content = read_start(path, MOST_BYTES + 1)  # `read_toml` refuses more
    except OSError as fault:
        raise EnvironmentFaultError(
            f"{path}: settings file is not readable ({fault.strerror}); the check does not run without it", look
        ) from fault

    try:
        document = read_toml(content)
    except UnicodeDecodeError as fault:
        line = content[: fault.start].count(b"\n") + 1
        raise UsageError(f"{path}: line {line} is not UTF-8; TOML is", f"file {path}") from fault
    except ValueError as fault:
        raise UsageError(f"{path}: file is not TOML ({fault}); it must be", f"cat -A {path}") from fault
    except RecursionError as fault:
        raise UsageError(f"{path}: file is nested too deeply; it must be plain TOML", f"cat {path}") from fault
    if path.name != SHARED_FILE:
        return document
    tools = document.get("tool")
    table = tools.get(TABLE) if isinstance(tools, dict) else None
    if table is None and required:
        raise UsageError(f"{path}: [tool.{TABLE}] is missing; a file that is named must have it", f"cat {path}")
    if not isinstance(table, dict | None):
        raise UsageError(f"{path}: tool.{TABLE} is {table!r}; it must be a table", f"[tool.{TABLE}]")
    return table


DEFAULT_VERB = "check"
FORMS_OF = {
    **dict.fromkeys(("explain", "doctor", "calibrate", "profiles", "mlflow"), ("json",)),
    **dict.fromkeys(("scan", "shift", "concepts", "directions", "inspect", "verify"), ("json", "html", "markdown")),
}
"""The forms of the documents of a verb. All forms, where it is not listed."""


LOOK_UPS = ("explain", "--version", "-V")
"""what judges nothing: the exit code is 0 though the reader of its text goes away"""
HELPS = (("--help",), ("-h",), ("--help-all",))


@frozen
class CommandLine:
    """A command line with its verb. Options that the verb does not declare are left out; refusing them is typer's."""

    words: Texts = ()
    """all of it, without the program's name; the verb is the first one"""
    arguments: Texts = ()
    """what follows the verb and is not an option; the first one after a group is its verb"""
    behind_dashes: Texts = ()
    """those of the arguments that follow `--`, which ends the options"""
    options: Values = field(default_factory=dict)
    """by parameter, such as no_ci, what was typed: a text, a list of them, a number of times, or True for a flag"""
    twice: str = ""
    """an option that takes one value and was given several, such as --seed"""

    @property
    def verb(self) -> str:
        """Return the verb, or its group. "" where nothing was typed."""
        return self.words[0] if self.words else ""

    @property
    def only_informs(self) -> bool:
        """Return whether the call judges nothing. It looks something up: `explain`, or the help of a verb."""
        return self.verb in LOOK_UPS or not {self.words, self.words[1:]}.isdisjoint(HELPS)

    @property
    def model(self) -> str:
        """Return the first argument named like a model. It is without keys of a URL; "" where there is none."""
        from ..outside.storage.places import redact  # keeps `--help` fast

        return redact(next((word for word in self.arguments if word.lower().endswith(".onnx")), ""))

    def typed(self, name: str) -> list[str]:
        """Return the texts that were typed for an option; none for a flag."""
        value = self.options.get(name, [])
        values = value if isinstance(value, list) else [value]
        return [text for text in values if isinstance(text, str)]

    def reads(self, path: str) -> bool:
        """Return whether an argument, or an option but `-o`, names this file."""
        words = chain(self.arguments, *(self.typed(name) for name in self.options if name != "output"))
        return os.path.isfile(path) and os.path.realpath(path) in map(os.path.realpath, words)  # noqa: PTH113

    def documents(self) -> Documents:
        """Return each `-o FORM[=PATH]` as (form, path). Path "" is stdout; paths that hold `{model}` are left out.

        Of a check without `-o`: those that its settings file or the environment gives, if they can be read.
        """
        outputs: Words = self.typed("output")
        stems, folder, is_check = list[str](), None, self.verb == DEFAULT_VERB
        if is_check and not outputs and "isolated" not in self.options:
            with suppress(RobustcheckError, OSError, TypeError, AttributeError):
                outputs, folder = outputs_elsewhere(os.environ, self.options.get("config"))
        if is_check and any(PLACEHOLDER in text for text in outputs):
            stems = stems_of(self.arguments)
        documents = safe_documents(outputs, stems, folder, strict="strict" in self.options)
        return [document for document in documents if document[0] in FORMS_OF.get(self.verb, document)]


@dataclass
class Invocation:
    """A call of the command. It has what was typed, and the places where its verb puts documents.

    Made before the verb runs, which gets it as `typer.Context.obj`; read when an error ends the run.
    """

    line: CommandLine
    documents: Documents | None = None
    """as `CommandLine.documents`; None: those of the line"""
    annotates: bool | None = None
    """whether to annotate on GitHub Actions; None until a verb has read its settings"""
    judged: bool = False
    """whether models were checked to the end: with `--strict` nothing else ends with 0"""
    interrupted: Callable[[], bool] = lambda: False
    """whether a signal came; what it raised may have become another error on its way"""


def read(words: Words, group: TyperGroup) -> CommandLine:
    """Read a command line that starts with its verb, by typer's parser, which here goes on after a mistake.

    Where there is no such verb, the line is read as one of a check. `--json` becomes `-o json`.
    """
    command: Any = group
    for word in words:
        if isinstance(command, TyperGroup):
            command = command.commands.get(word)
    if command is None or isinstance(command, TyperGroup):
        command = group.commands[DEFAULT_VERB]
    if any(param.name == "output" for param in command.params):
        words = _spelled_out(words)
    above = group.context_class(group, **group.context_settings)
    parser = command.make_parser(command.context_class(command, parent=above, ignore_unknown_options=True))
    state = _ParsingState(list(words[1:]))
    is_read = False
    while not is_read:
        with suppress(TyperException):  # of a word that is taken off the list by then
            parser._process_args_for_options(state)  # `parse_args` ends at the first mistake
            is_read = True
    arguments = [word for word in state.largs if word == "-" or not word.startswith("-")]
    once = [param for param in state.order if isinstance(param, TyperOption) and _takes_one_value(param)]
    twice = next((param for param in once if once.count(param) > 1), None)
    return CommandLine(
        words=tuple(words),
        arguments=(*arguments, *state.rargs),
        behind_dashes=tuple(state.rargs),
        options=state.opts,
        twice=max(twice.opts, key=len) if twice else "",
    )


def _takes_one_value(option: TyperOption) -> bool:
    return not (option.is_flag or option.count or option.multiple)


def _spelled_out(words: Words) -> list[str]:
    """Write each `--json` before `--` as `-o json`."""
    end = words.index("--") if "--" in words else len(words)
    parts = (["-o", "json"] if word == "--json" else [word] for word in words[:end])
    return [*chain.from_iterable(parts), *words[end:]]


SUFFIX = ".onnx"
_GLOB = re.compile(r"[*?]|\[.+\]")
_STORE = re.compile(r"(?!(hf|https?|models|runs|file|local):)[a-z][a-z0-9+.-]+://", re.IGNORECASE)
"""what starts a URL of a store, which can list a folder; others name files, or places of this machine"""
_ADDRESS = re.compile(r"(models|runs):/[^/]")


def expand(words: Words) -> list[str]:
    """Return the models that words name.

    A word is a file itself, a folder with all .onnx files below it, or a glob with what it matches.

    A folder that a glob matches may hold no model. The models come in the order of the words, those of one word sorted,
    each file once. The name of a file is that file, even with `*` or `[` in it. The name of no file stays in the list:
    opening it says what is wrong.
    Raises UsageError: a folder or a glob without a model, a folder that can't be read.
    """
    models: dict[str, str] = {}
    for path in chain.from_iterable(map(_models_of, words)):
        folder, name = os.path.split(path)  # a link to a file stays, since it has sidecars of its own
        models.setdefault(path if is_address(path) else f"{os.path.realpath(folder)}/{name}", path)
    return list(models.values())


def split_images(words: Words, *, images_typed: bool, strict: bool) -> tuple[list[str], str | None]:
    """Split the image set off the typed places: `robustcheck model.onnx photos/`.

    The last place is the image set if it has images and no ONNX file; behind a model it may be a folder in a store.
    `--strict` takes photos from `--images` alone.

    Raises:
        UsageError: no model comes first, more than one image set, a place with both images and ONNX files, a last
            folder with neither; a report.
    """
    holds = {word: _holds(word) for word in words}
    if len(words) > 1 and not (images_typed or strict):
        holds[words[-1]] = _holds_as_last(words[-1], holds[words[-1]])
    images = [word for word in words if holds[word] == {"images"}]
    models = [word for word in words if word not in images]
    if not images and len(words) > 1 and len(holds[words[-1]]) > 1 and not (images_typed or strict):
        raise UsageError(
            f"{words[-1]}: place holds images and ONNX files; it is not clear which are meant",
            f"{shlex.join(['robustcheck', *models[:-1]])} --images {quoted(words[-1])}",
        )
    is_first = words[0] in images
    if is_first and images_typed:  # a folder without a model
        return list(words), None
    if not images or (len(images) == 1 and not (images_typed or strict or is_first)):
        return models, images[0] if images else None
    parents = {str(Path(image).parent) for image in images}
    place = quoted(images[0] if len(images) == 1 or len(parents) > 1 or parents == {"."} else min(parents))
    named = shlex.join(models or ["model.onnx"])
    if strict:
        why, again = "--strict takes images from --images alone", f"check --strict --images {place} -- {named}"
    else:
        why = (
            "no ONNX file is in it; the model comes first"
            if is_first
            else "one image set is taken; a glob needs quotes"
        )
        again = f"{named} --images {place}"
    raise UsageError(f"{images[0]}: {why}", f"robustcheck {again}")


def _holds(word: str) -> set[str]:
    """Return whether a typed place has images or models. It may have both; an empty folder counts as a model."""
    from ..outside.storage import places  # keeps `--help` fast

    if not is_address(word) and os.path.isdir(word):  # noqa: PTH112 # a Path would change the word
        images = any(name.lower().endswith(places.SET_SUFFIXES) for name in places.folder_files(Path(word)))
        return {"models"} if not images else {"images", "models"} if any(_below(word)) else {"images"}
    if form_of(word) not in ("", "terminal") and not is_address(word):
        raise UsageError(f"{word}: this is the name of a report, not of a model", f"-o {quoted(word)}")
    return _named_as(word)


def _holds_as_last(word: str, holds: set[str]) -> set[str]:
    """Return whether the last of several places has images or models. What may be a model counts as one.

    Raises UsageError: a folder with neither.
    """
    from ..outside.storage import places  # keeps `--help` fast

    if holds != {"models"}:
        return holds
    if _STORE.match(word):
        names_model = word.lower().endswith(SUFFIX) or word.lower().partition("?")[0].endswith(SUFFIX)
        return holds if names_model else {"images"}
    if os.path.isdir(word) and not any(_below(word)):  # noqa: PTH112
        raise UsageError(
            f"no photos in {word}, and no {SUFFIX} files; a model's photos, or models, must be in the folder",
            f"ls {quoted(word)}  # photos are known by suffix: .jpg, .png, .webp, …",
        )
    if is_address(word) or os.path.lexists(word) or not _GLOB.search(word):
        return holds
    paths = places.expand(Path(word).parts, _unreadable, lambda folder: list(_below(folder)))
    found = [_holds(path) if os.path.isdir(path) else _named_as(path) for path in paths]  # noqa: PTH112
    return set().union(*found) or holds


def _named_as(file: str) -> set[str]:
    """Return whether a file's suffix is that of images. Any other may be a model's."""
    from ..outside.storage import places  # keeps `--help` fast

    return {"images" if file.lower().endswith(places.SET_SUFFIXES) else "models"}


def is_address(word: str) -> bool:
    """Return whether a word is an address. It is a URL, or one such as `models:/name/3`, and not a file."""
    return "://" in word or (_ADDRESS.match(word) is not None and not os.path.lexists(word))


def target_of(model: str) -> str:
    """Return the file that a model's links lead to. It is absolute where the model is; "" without links."""
    typed = os.path.abspath(model)  # noqa: PTH100 # `..` is not followed
    target = os.path.realpath(model)
    if is_address(model) or target == typed:
        return ""
    is_relative = not os.path.isabs(model) and os.path.splitdrive(typed)[0] == os.path.splitdrive(target)[0]  # noqa: PTH117
    return (os.path.relpath(target) if is_relative else target).replace(os.sep, "/")


def with_blanks(words: Words) -> list[str]:
    """Return the words with the first ones as one name, typed without quotes. None of them unless it exists."""
    names = (" ".join(words[:n]) for n in range(2, len(words) + 1))
    return next(([name, *words[len(name.split(" ")) :]] for name in names if os.path.lexists(name)), [])


def refuse_missing(models: Words) -> None:
    """Refuse a missing model before others are measured. Raises UsageError."""
    for at, model in enumerate(models):
        if not is_address(model) and not os.path.lexists(model):
            if again := with_blanks(models[at:]):
                raise UsageError(f"{model}: no such file; a name with blanks needs quotes", quoted(again[0]))
            # not where the files are there: ONNX Runtime
            from ..core.model.file import missing
            from ..core.model.weights import about
            from ..outside.addresses import parse_model

            parse_model(model)
            with about(Path(model)):
                raise missing(Path(model))


def _models_of(word: str) -> list[str]:
    from ..outside.storage import places  # keeps `--help` fast

    if is_address(word) or os.path.isfile(word):  # noqa: PTH113 # a Path would change the word
        return [word]
    if os.path.isdir(word):  # noqa: PTH112
        models = sorted(_below(word))
        if not models:
            raise UsageError(
                f"{word}: no {SUFFIX} files found in the folder; at least one is needed",
                f"find {quoted(word)} -name '*{SUFFIX}'",
            )
        return models
    if _GLOB.search(word):  # a lone bracket is part of a name
        models = [
            model
            for path in places.expand(Path(word).parts, _unreadable, lambda folder: list(_below(folder)))
            for model in (_below(path) if os.path.isdir(path) else [path])  # noqa: PTH112
        ]
        if not models:
            raise UsageError(f"{word}: no files match; at least one is needed", f"ls {word}")
        return sorted(models)
    return [word]


def _unreadable(fault: OSError) -> UsageError:
    return UsageError(
        f"{fault.filename}: folder cannot be read ({fault.strerror}); all models below a folder are checked",
        f"ls -ld {quoted(fault.filename)}",
    )


def _below(folder: str) -> Iterator[str]:
    """Yield all .onnx files below a folder.

    Links to folders are followed once. Raises UsageError for an unreadable folder.
    """
    from ..outside.storage import places  # keeps `--help` fast

    for top, folders, names in places.walk([folder], _unreadable):
        folders.sort()
        yield from (str(Path(top) / name) for name in names if name.lower().endswith(SUFFIX))


def stem(model: str) -> str:
    """Return what replaces `{model}` in a report's path. It is the name of the model's file without its suffix.

    Of an address it is what names the model: `repo@v1`, `encoder-3`. Of a name of dots alone it is `model`: `..` would
    lead out of the folder.
    """
    from ..outside.storage import places  # keeps `--help` fast

    if not is_address(model):
        name = Path(model).stem
    elif model.startswith("hf://") or "://" not in model:
        words = places.redact(model).partition(":")[2].strip("/")
        name = words.rpartition("/")[2] if model.startswith("hf://") else words.replace("/", "-")
        name = name[: -len(SUFFIX)] if name.lower().endswith(SUFFIX) else name
    else:
        name = PurePosixPath(places.redact(model).rstrip("/")).stem
    return name if name.strip(".") else "model"


def fill(path: str, models: Words, option: str = "--output") -> list[str]:
    """Fill in `{model}` in a path, per model. `option` names the path in errors.

    Raises UsageError where two models would share one file, also on a file system that ignores case.
    """
    model_by_name: dict[str, str] = {}
    for model in models:
        name = stem(model)
        other = model_by_name.setdefault(name.casefold(), model)
        if other != model:
            raise UsageError(
                f"{option} is {path}; {other} and {model} would both be {name}, and each needs its own file",
                "check them in two runs, or leave out {model} for one document",
            )
    return [path.replace(PLACEHOLDER, stem(model)) for model in models]


def stems_of(words: Words) -> list[str]:
    """Return the stems of the models of these words. Those that can be found are meant; nothing is raised."""
    stems: list[str] = []
    for word in words:
        with suppress(RobustcheckError, OSError, ValueError):
            stems += map(stem, expand([word]))
    return stems

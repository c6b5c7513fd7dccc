"""Find and read the file of a check's settings. The module also limits where the file may write.

`settings` says what its keys mean. Imports only Python's own library: it is needed even where a signal has ended the
import of everything else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from robustcheck_onnx.checker.errors import EnvironmentFaultError, UsageError
from robustcheck_onnx.checker.text import form_of

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
        is_loop = os.path.islink(real)  # noqa: PTH114 # a Path would change the name
        return not is_loop and real != root and os.path.commonpath([real, root]) == root
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
    if os.path.islink(path):  # noqa: PTH114
        return True
    goes_up = os.path.isabs(path) or os.pardir in Path(path).parts  # noqa: PTH117
    return not goes_up and not is_inside(path, os.curdir)


def safe_documents(documents: Iterable[tuple[str, str]], folder: Path | None, *, strict: bool) -> list[tuple[str, str]]:
    """Return the documents that a run may write.

    They are (form, path) with path "" for stdout; the others are never touched.

    folder: of the settings file, where that names them.
    """

    def is_safe(path: str) -> bool:
        return may_write(path, folder) if folder is not None else not (strict and follows_link(path))

    return [(form, path) for form, path in documents if not path or is_safe(path)]


OWN_FILE, SHARED_FILE, TABLE = "robustcheck.toml", "pyproject.toml", "robustcheck"
CONFIG = "ROBUSTCHECK_CONFIG"  # environment variable: the file, as --config
OUTPUT = "ROBUSTCHECK_OUTPUT"  # environment variable: the setting `output`


def outputs(environment: Mapping[str, str], file: str | None) -> tuple[str, ...]:
    """Read `output` of the environment or a file. Other faults there do not matter; of a file it is what it may name.

    Args:
        environment: the variables.
        file: of --config; None = as `find_named`.

    Raises what reading the file raises; TypeError, AttributeError where `output` is not a list of texts.
    """
    if listed := environment.get(OUTPUT):
        return tuple(part.strip() for part in listed.split(","))
    path = find_named(environment, file)
    if path is None:
        return ()
    named = rebased_outputs((read_table(path, required=True) or {}).get("output", ()), path.parent)
    places = [split(text)[2] for text in named]
    return tuple(
        text for text, place in zip(named, places, strict=True) if place in ("", "-") or may_write(place, path.parent)
    )


def find_named(environment: Mapping[str, str], file: str | None) -> Path | None:
    """Return the settings file.

    --config names it, else ROBUSTCHECK_CONFIG, else it is the nearest one upward from the current folder.
    """
    named = file if file is not None else environment.get(CONFIG) or None
    return Path(named) if named is not None else find(Path.cwd())


def rebased(path: str, folder: Path) -> str:
    """Join a file's path to the file's folder. A URL stays."""
    return path if "://" in path else str(folder / path)


def rebased_outputs(outputs: Iterable[str], folder: Path) -> tuple[str, ...]:
    """Rebase the path in each FORM[=PATH]."""
    parts = [split(text) for text in outputs]
    return tuple(form + sign + (rebased(path, folder) if path not in ("", "-") else path) for form, sign, path in parts)


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


def read_table(path: Path, *, required: bool) -> dict[str, Any] | None:
    """Read the settings in a file. None for a pyproject.toml without a table of them, unless `required`."""
    look = f"ls -ld {path}"
    if not path.exists():
        raise UsageError(f"{path}: file of settings is missing; no such file", "robustcheck init")
    if not path.is_file():
        raise UsageError(f"{path}: file of settings is not a regular file; it must be a TOML file", look)
    try:
        content = path.read_bytes()
    except OSError as fault:
        raise EnvironmentFaultError(
            f"{path}: file of settings is not readable ({fault.strerror}); settings must not be passed by", look
        ) from fault
    from robustcheck_onnx.thresholds import toml  # keeps `--help` fast

    try:
        document = toml.read(content)
    except UnicodeDecodeError as fault:
        line = content[: fault.start].count(b"\n") + 1
        raise UsageError(f"{path}: line {line} is not UTF-8; TOML is", f"file {path}") from fault
    except ValueError as fault:
        raise UsageError(f"{path}: file is not TOML ({fault}); it must be", f"cat -A {path}") from fault
    except RecursionError as fault:
        raise UsageError(f"{path}: file is nested too deeply; it must be plain TOML", f"cat {path}") from fault
    if path.name != SHARED_FILE:
        return document
    tools = document.get("tool", {})
    table = tools.get(TABLE) if isinstance(tools, dict) else None
    if table is None:
        if required:
            raise UsageError(f"{path}: [tool.{TABLE}] is missing; a file that is named must have it", f"cat {path}")
        return None
    if not isinstance(table, dict):
        raise UsageError(f"{path}: tool.{TABLE} is {table!r}; it must be a table", f"[tool.{TABLE}]")
    return table
